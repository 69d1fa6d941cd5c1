//! The limits that are counted when they are reached, by the name of their key in `[limit]`.

use std::fmt;

use super::Label;

macro_rules! limits {
    ($($name:ident = $key:literal,)+) => {
        /// A limit that something was over.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Limit {
            $(#[doc = concat!("`", $key, "`")] $name,)+
        }

        impl Limit {
            pub const ALL: &'static [Limit] = &[$(Limit::$name),+];

            /// The key, as `header_bytes_max`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Limit::$name => $key),+ }
            }
        }
    };
}

limits! {
    AuditQueueMax = "audit_queue_max",
    BodyBytesMax = "body_bytes_max",
    ConnectionsMax = "connections_max",
    ConnectionsPerPeerMax = "connections_per_peer_max",
    ControlFramesPerConnectionMax = "control_frames_per_connection_max",
    DelegationDepthMax = "delegation_depth_max",
    DpopProofsMax = "dpop_proofs_max",
    GroupCountMax = "group_count_max",
    HandshakeTimeout = "handshake_timeout",
    HandshakesMax = "handshakes_max",
    HandshakesPerPeerMax = "handshakes_per_peer_max",
    HeaderBytesMax = "header_bytes_max",
    HeaderCountMax = "header_count_max",
    HeaderTimeout = "header_timeout",
    IdleTimeout = "idle_timeout",
    IntrospectionPendingMax = "introspection_pending_max",
    JsonDepthMax = "json_depth_max",
    JsonValuesMax = "json_values_max",
    KeyDocumentBytesMax = "key_document_bytes_max",
    RequestsPerClientMax = "requests_per_client_max",
    ResetsPerConnectionMax = "resets_per_connection_max",
    ScopeCountMax = "scope_count_max",
    StreamsPerConnectionMax = "streams_per_connection_max",
    TokenBytesMax = "token_bytes_max",
    TotalTimeout = "total_timeout",
    UpstreamPendingMax = "upstream_pending_max",
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Label for Limit {
    const COUNT: usize = Limit::ALL.len();

    fn all() -> Vec<Limit> {
        Limit::ALL.to_vec()
    }

    fn labels(self) -> Vec<(&'static str, &'static str)> {
        vec![("limit", self.as_str())]
    }

    fn position(self) -> usize {
        self as usize
    }
}
