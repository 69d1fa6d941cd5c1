//! What is asked, in normal form, and the circumstances of asking.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method};

use super::NormalPath;
use crate::identity::Hop;

/// What is asked: the values that are judged are the very values that are forwarded.
#[derive(Clone, Copy, Debug)]
pub struct Action<'a> {
    /// For a WebSocket handshake over HTTP/2 (extended CONNECT) already `GET`.
    pub method: &'a Method,
    pub host: &'a Host,
    pub path: &'a NormalPath,
    /// For the choice of a route and the gRPC content type; no rule reads any other header.
    pub headers: &'a HeaderMap,
}

/// How the request reached us. Addresses are never an identity; IPv4-mapped ones are IPv4 here.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    pub hop: &'a Hop,
    /// The other end of the connection, after the PROXY protocol.
    pub peer_ip: Option<IpAddr>,
    /// The client as trusted hops tell it; the same as `peer_ip` where there is none.
    pub client_ip: Option<IpAddr>,
}

/// A host in normal form: lower-case, without port and last dot. IPv6 literals keep their brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host(Arc<str>);

/// RFC 1035 §2.3.4, without the last dot.
const HOST_BYTES_MAX: usize = 253;

/// Why an authority is no [`Host`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    #[error("the host is empty")]
    Empty,
    #[error("the host has a character that no host name has")]
    Character,
    #[error("the port is not a number from 1 to 65535")]
    Port,
    #[error("the host has more than 253 bytes")]
    TooLong,
}

/// The content types of gRPC over HTTP/2: every value of the header must be one.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter().peekable();
    types.peek().is_some()
        && types.all(|value| {
            let rest = value.as_bytes().strip_prefix(b"application/grpc");
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+"))
        })
}

impl Host {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads `host[:port]` as it stands in a `Host` header or an authority (RFC 9110 §7.2), without
    /// userinfo.
    pub fn with_port(authority: &str) -> Result<(Host, Option<u16>), HostError> {
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (inside, after) = rest.split_once(']').ok_or(HostError::Character)?;
                let address: Ipv6Addr = inside.parse().map_err(|_| HostError::Character)?;
                let port = match after {
                    "" => None,
                    _ => Some(after.strip_prefix(':').ok_or(HostError::Character)?),
                };
                // one address is one host, however it is spelled
                (format!("[{address}]"), port)
            }
            None => {
                let (name, port) = match authority.split_once(':') {
                    Some((name, port)) => (name, Some(port)),
                    None => (authority, None),
                };
                (host_name(name)?, port)
            }
        };
        let port = port.map(port_number).transpose()?;
        Ok((Host(host.into()), port))
    }
}

/// In lower case, without a last dot.
fn host_name(text: &str) -> Result<String, HostError> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_empty() {
        return Err(HostError::Empty);
    }
    if name.len() > HOST_BYTES_MAX {
        return Err(HostError::TooLong);
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if !name.bytes().all(plain) || name.split('.').any(str::is_empty) {
        return Err(HostError::Character);
    }
    Ok(name.to_ascii_lowercase())
}

fn port_number(text: &str) -> Result<u16, HostError> {
    // `parse` alone would take `+443`.
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port @ 1..) if digits => Ok(port),
        _ => Err(HostError::Port),
    }
}

impl FromStr for Host {
    type Err = HostError;

    /// As [`Host::with_port`], forgetting the port.
    fn from_str(authority: &str) -> Result<Host, HostError> {
        Host::with_port(authority).map(|(host, _)| host)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_into_one_form() {
        for (text, host) in [
            ("Orders.Shop.example", "orders.shop.example"),
            ("orders.shop.example:8443", "orders.shop.example"),
            ("orders.shop.example.", "orders.shop.example"),
            ("orders.shop.example.:443", "orders.shop.example"),
            ("[::1]:443", "[::1]"),
            ("[::1]", "[::1]"),
            ("[0:0::0:1]:443", "[::1]"),
            ("[2001:DB8::A]", "[2001:db8::a]"),
            ("127.0.0.1", "127.0.0.1"),
        ] {
            assert_eq!(text.parse::<Host>().unwrap().as_str(), host);
        }
        for bad in [
            "", ".", ":80", "a:0", "a:70000", "a:+80", "a:", "a@b", "a,b", "a/b", "a b", "a..b", "[::1", "[",
            "[a", "[a.b", "[ a", "[]", "[x]", "[::1]x", "é",
        ] {
            assert!(bad.parse::<Host>().is_err(), "{bad}");
        }
        for (length, fits) in [(HOST_BYTES_MAX, true), (HOST_BYTES_MAX + 1, false)] {
            let outcome = "a".repeat(length).parse::<Host>().err();
            assert_eq!(outcome, (!fits).then_some(HostError::TooLong), "{length}");
        }
    }
}
