//! What an upstream is made of. Filled by the configuration, which owns the defaults of its keys;
//! the limits that no key sets have theirs here.
//!
//! Settings compare equal exactly if an upstream may be kept, with its connections, over a reload.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;

use crate::tls::servers::ServerTls;

/// One `[upstream.x]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSettings {
    pub name: String,
    /// At least one, or every request is refused.
    pub servers: Vec<ServerSettings>,
    /// For a free or new connection, TLS and HTTP handshakes included; per attempt.
    pub connect_timeout: Duration,
    /// From the last byte of the request to the head of the response.
    pub first_byte_timeout: Duration,
    /// For any movement of a body, in either direction.
    pub idle_timeout: Duration,
    /// Consecutive failures (refused, reset, timed out before the response) that take an address out
    /// for a while; 0 never does.
    pub eject_after_failures: u32,
    pub limits: UpstreamLimits,
}

/// Limits without a key of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamLimits {
    /// Per address and core; on h1 each request in flight has a connection of its own.
    pub in_flight_max: usize,
    /// Requests that may wait for one of these, per address and core.
    pub pending_max: usize,
    /// Streams on one h2 connection; the next request opens another connection.
    pub streams_per_connection_max: usize,
    /// How long an unused connection is kept.
    pub pooled_idle_timeout: Duration,
    /// How often names are looked up again.
    pub resolve_period: Duration,
    /// The same after a lookup failed.
    pub resolve_retry_period: Duration,
    /// How long the first ejection lasts; each one in a row doubles it.
    pub ejection_min: Duration,
    pub ejection_max: Duration,
}

impl Default for UpstreamLimits {
    fn default() -> UpstreamLimits {
        UpstreamLimits {
            in_flight_max: 1024,
            pending_max: 1024,
            streams_per_connection_max: 100,
            pooled_idle_timeout: Duration::from_secs(30),
            resolve_period: Duration::from_secs(10),
            resolve_retry_period: Duration::from_secs(1),
            ejection_min: Duration::from_secs(5),
            ejection_max: Duration::from_secs(300),
        }
    }
}

/// One entry of `server`: `http://host:port`, `h2c://host:port` or `https://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    pub transport: Transport,
    /// A name, or an address as it stands in a URL but without brackets.
    pub host: String,
    pub port: u16,
    /// Its share of the requests, divided among the addresses of its name.
    pub weight: NonZeroU32,
}

/// How the bytes travel.
#[derive(Clone, Debug)]
pub enum Transport {
    /// HTTP/1.1 in the clear.
    Http,
    /// HTTP/2 in the clear, with prior knowledge (RFC 9113 §3.3).
    H2c,
    /// HTTP/2 or HTTP/1.1 over TLS, as ALPN says (what `tls` offers by ALPN is replaced).
    Https { tls: Arc<ServerTls>, server_name: ServerName<'static> },
    /// The same, with a certificate of ours that has not come yet: nothing is dialled.
    Awaited,
}

/// Why an entry of `server` cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerError {
    #[error("`{0}` is not a URL of the form `http://host:port`")]
    Malformed(String),
    #[error("`{0}`: the scheme must be `http`, `https` or `h2c`")]
    Scheme(String),
    #[error("`{0}`: a server has neither path nor query nor user; routes decide on paths")]
    MoreThanOrigin(String),
    #[error("`{0}`: TLS cannot verify this host name")]
    HostName(String),
}

impl ServerSettings {
    /// Reads one entry of `server`. Without a port the scheme's own is meant (80, for https 443).
    /// Only https needs `tls`; without it, it is awaited.
    pub fn parse(
        uri: &str,
        weight: NonZeroU32,
        tls: Option<&Arc<ServerTls>>,
    ) -> Result<ServerSettings, ServerError> {
        let typed = || uri.to_owned();
        // `url` knows ports and IPv6 for http alone, so h2c is read as http and told apart here.
        let (h2c, readable) = match uri.strip_prefix("h2c://") {
            Some(rest) => (true, format!("http://{rest}")),
            None => (false, typed()),
        };
        let url = url::Url::parse(&readable).map_err(|_| ServerError::Malformed(typed()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(ServerError::Scheme(typed()));
        }
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if !bare || !url.username().is_empty() || url.password().is_some() {
            return Err(ServerError::MoreThanOrigin(typed()));
        }
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err(ServerError::Malformed(typed()));
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let transport = match (h2c, url.scheme()) {
            (true, _) => Transport::H2c,
            (false, "https") => {
                let server_name = ServerName::try_from(host.clone());
                let server_name = server_name.map_err(|_| ServerError::HostName(typed()))?;
                match tls {
                    Some(tls) => Transport::Https { tls: Arc::clone(tls), server_name },
                    None => Transport::Awaited,
                }
            }
            (false, _) => Transport::Http,
        };
        Ok(ServerSettings { transport, host, port, weight })
    }
}

/// As in a URL, without the scheme.
impl fmt::Display for ServerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Two TLS configurations are the same if they are one: every reload of certificates makes a new one.
impl PartialEq for Transport {
    fn eq(&self, other: &Transport) -> bool {
        match (self, other) {
            (Transport::Http, Transport::Http)
            | (Transport::H2c, Transport::H2c)
            | (Transport::Awaited, Transport::Awaited) => true,
            (
                Transport::Https { tls, server_name },
                Transport::Https { tls: other_tls, server_name: other_name },
            ) => Arc::ptr_eq(tls, other_tls) && server_name == other_name,
            _ => false,
        }
    }
}

impl Eq for Transport {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::testing::trusting_nobody;

    fn parse(uri: &str) -> Result<ServerSettings, ServerError> {
        ServerSettings::parse(uri, NonZeroU32::MIN, Some(&trusting_nobody()))
    }

    #[test]
    fn servers_are_read_from_urls() {
        let cases = [
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("http://orders", "orders:80"),
            ("https://orders.example", "orders.example:443"),
            ("h2c://orders:50051/", "orders:50051"),
            ("h2c://[::1]", "[::1]:80"),
            ("https://[2001:db8::1]:8443", "[2001:db8::1]:8443"),
        ];
        for (uri, shown) in cases {
            assert_eq!(parse(uri).map(|server| server.to_string()), Ok(shown.to_owned()), "{uri}");
        }
        assert!(matches!(parse("h2c://orders").unwrap().transport, Transport::H2c));
        assert!(matches!(parse("http://orders").unwrap().transport, Transport::Http));
        assert!(matches!(parse("https://orders").unwrap().transport, Transport::Https { .. }));
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        let mut seen = 0;
        for uri in [
            "",
            "orders:8080",
            "//orders",
            "ftp://orders",
            "ws://orders",
            "unix:/run/x",
            "http://",
            "http://orders/path",
            "http://orders?x=1",
            "http://orders#x",
            "http://user@orders",
            "http://:secret@orders",
            "http://orders:99999",
            "h2c://https://orders",
        ] {
            assert!(parse(uri).is_err(), "{uri}");
            seen += 1;
        }
        assert_eq!(seen, 14);
    }

    #[test]
    fn https_without_a_tls_configuration_is_awaited() {
        let transport = |uri| ServerSettings::parse(uri, NonZeroU32::MIN, None).unwrap().transport;
        assert_eq!(transport("https://orders"), Transport::Awaited);
        assert_eq!(
            [transport("http://orders"), transport("h2c://orders")],
            [Transport::Http, Transport::H2c]
        );
    }

    #[test]
    fn a_new_tls_configuration_makes_other_settings() {
        let tls = trusting_nobody();
        let one = ServerSettings::parse("https://orders", NonZeroU32::MIN, Some(&tls)).unwrap();
        assert_eq!(ServerSettings::parse("https://orders", NonZeroU32::MIN, Some(&tls)).unwrap(), one);
        assert_ne!(parse("https://orders").unwrap(), one);
        assert_ne!(parse("http://orders").unwrap(), one);
    }
}
