//! Where requests may go: from "this request is for upstream X" to "here is the response stream".
//!
//! - An [`Upstream`] is shared by all cores: what was configured, the addresses its names resolve to
//!   and the health of each. It is written only when something fails or a name moves.
//! - A [`Pool`] is one core's own: connections and the count of requests in flight. Nothing in it is
//!   locked or shared.
//!
//! Invariants:
//! - A request is tried again only if not one byte of it was sent: the dial failed, or hyper gave it
//!   back. At most `ATTEMPTS_MAX` times, never with a body that began.
//! - A body that breaks on one side breaks on the other: no failure looks like a clean end.
//! - An h1 connection is used again only after request and response both ended; else it is closed.
//! - A connection is used only for as long as its server is who it was when it was dialled, and is not revoked.
//! - Only [`Pool::upgrade`] ever yields a tunnel, and only for the protocol that it asked for.
//! - Interim (1xx) responses are never forwarded; `100 Continue` opens the request body, nothing more.
//! - Answers, 5xx included, are no failures: otherwise whoever can provoke a 503 could eject a server
//!   for everybody.

mod balance;
mod body;
mod connect;
pub mod credential;
mod discovery;
mod early;
mod endpoint;
mod head;
mod pool;
mod refusal;
mod send;
mod served;
mod settings;
mod slot;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests_connections;
#[cfg(test)]
mod tests_streaming;
mod tunnel;
mod websocket;

pub use body::ResponseBody;
pub use discovery::Upstream;
pub use endpoint::{EndpointStatus, UpstreamStatus};
pub use pool::{Pool, Pools};
pub use send::{Switched, Upgrade};
pub use served::{Errand, Served};
pub use settings::{ServerError, ServerSettings, Transport, UpstreamLimits, UpstreamSettings};
pub use tunnel::{Tunnel, TunnelEnd};
pub use websocket::Close;

/// Why there is no response, or no more of it. Details are for logs, never for clients.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// Refused, reset, unresolvable, overloaded, or not speaking HTTP.
    #[error("upstream unavailable: {0}")]
    Unavailable(String),
    #[error("upstream timeout: {0}")]
    Timeout(Wait),
    /// `upstream_pending_max` requests wait for the server already.
    #[error("upstream overloaded: {0}: `upstream_pending_max` requests wait already")]
    Overloaded(String),
    /// Whoever answers is not who it should be.
    #[error("upstream identity mismatch: {0}")]
    IdentityMismatch(String),
    /// The server does not take us for somebody it serves.
    #[error("upstream unavailable: {0}")]
    RefusedUs(String),
    /// The request body broke or stood still on the client's side.
    #[error("client gone: {0}")]
    ClientGone(String),
}

/// What was waited for in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wait {
    /// A free or new connection, TLS and HTTP handshakes included, or the name's first lookup.
    #[error("no connection within `connect_timeout`")]
    Connect,
    /// The head of the response, after the whole request was sent.
    #[error("no response within `first_byte_timeout`")]
    FirstByte,
    /// Any movement of the request's or the response's body.
    #[error("no movement within `idle_timeout`")]
    Idle,
}

/// The message of an error and of all its sources.
fn in_full(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
