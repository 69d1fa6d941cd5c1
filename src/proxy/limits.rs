//! What is too much. Everything that a client or a provider can make grow has its limit here; over
//! a limit is refused with `limit_exceeded` and counted. Defaults are the configuration's.

use std::time::Duration;

use crate::token::TokenLimits;

/// The limits of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open client connections.
    pub connections_max: usize,
    /// Open connections of one client address, as trusted hops tell it.
    pub connections_per_peer_max: usize,
    /// TLS handshakes in flight.
    pub handshakes_max: usize,
    /// TLS handshakes in flight of one client address.
    pub handshakes_per_peer_max: usize,
    /// From accept to the end of the handshake.
    pub handshake_timeout: Duration,
    /// All header fields of a request together, names and values.
    pub header_bytes_max: usize,
    /// Header fields of a request.
    pub header_count_max: usize,
    /// From a request's first byte to the end of its head.
    pub header_timeout: Duration,
    /// A request's body, where its route does not say.
    pub body_bytes_max: u64,
    /// Of bearer tokens.
    pub token: TokenLimits,
    /// Requests in flight of one client address, as trusted hops tell it, for each core.
    pub requests_per_client_max: usize,
    /// Requests in flight to one server, for each core.
    pub upstream_in_flight_max: usize,
    /// Requests that wait for one of these, for each core.
    pub upstream_pending_max: usize,
    /// Concurrent HTTP/2 streams of a connection.
    pub streams_per_connection_max: u32,
    /// HTTP/2 streams that a client may reset before they are answered, at once.
    pub resets_per_connection_max: usize,
    /// HTTP/2 frames without a request or body, besides what these allow for, at once.
    pub control_frames_per_connection_max: usize,
    /// A client that asks for nothing, or takes nothing of what it asked for.
    pub idle_timeout: Duration,
    /// A whole request, where its route does not say.
    pub total_timeout: Duration,
    /// The age at which a connection is asked to close.
    pub connection_age_max: Duration,
    /// From SIGTERM until what is still open is cut.
    pub drain_timeout: Duration,
}
