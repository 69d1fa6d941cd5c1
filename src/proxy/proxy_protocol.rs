//! The PROXY protocol, version 2: a load balancer says in front of the first byte who its client is.
//!
//! Believed only from the addresses of a `[trusted_hop]` of kind `proxy`, and then demanded; a header
//! from anybody else, or none from such a hop, closes the connection.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version, family and length.
const FIXED_BYTES: usize = 16;
/// Addresses take at most 36 bytes here; the rest is room for TLVs.
const REST_BYTES_MAX: usize = 4096;

/// Why a connection is closed for its PROXY header.
#[derive(Debug, thiserror::Error)]
pub enum ProxyHeaderError {
    #[error("`{0}` is no trusted hop of kind `proxy`")]
    UntrustedHop(IpAddr),
    #[error("there is no PROXY protocol header of version 2")]
    NotOne,
    #[error("its header is longer than {REST_BYTES_MAX} bytes")]
    TooLong,
    /// Before its first byte: a probe.
    #[error("the connection was closed before it said anything")]
    Probe,
    #[error("the connection ended within its header: {0}")]
    Io(#[from] std::io::Error),
}

/// Reads the header off `io`, and not one byte more. `hop` is the connection's other end. The outcome is
/// the client's address; the hop's own for its health checks (the `LOCAL` command).
pub async fn read<IO: AsyncRead + Unpin>(
    io: &mut IO,
    hop: SocketAddr,
    trusted: &[IpNet],
) -> Result<SocketAddr, ProxyHeaderError> {
    let from = hop.ip().to_canonical();
    if !trusted.iter().any(|net| net.contains(&from)) {
        return Err(ProxyHeaderError::UntrustedHop(from));
    }
    let mut bytes = vec![0; FIXED_BYTES];
    if io.read(&mut bytes[..1]).await? == 0 {
        return Err(ProxyHeaderError::Probe);
    }
    io.read_exact(&mut bytes[1..]).await?;
    if !bytes.starts_with(SIGNATURE) {
        return Err(ProxyHeaderError::NotOne);
    }
    let rest = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if rest > REST_BYTES_MAX {
        return Err(ProxyHeaderError::TooLong);
    }
    bytes.resize(FIXED_BYTES + rest, 0);
    io.read_exact(&mut bytes[FIXED_BYTES..]).await?;
    let config = ParseConfig { include_tlvs: false, allow_v1: false, allow_v2: true };
    let (header, _) = ProxyHeader::parse(&bytes, config).map_err(|_| ProxyHeaderError::NotOne)?;
    Ok(header.proxied_address().map_or(hop, |proxied| proxied.source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy_header::ProxiedAddress;

    fn addresses() -> (SocketAddr, [IpNet; 2]) {
        let trusted = ["10.0.0.0/8", "127.0.0.0/8"].map(|net| net.parse().unwrap());
        ("127.0.0.1:9".parse().unwrap(), trusted)
    }

    fn header(source: &str) -> Vec<u8> {
        let (hop, _) = addresses();
        let mut bytes = Vec::new();
        let proxied = ProxiedAddress::stream(source.parse().unwrap(), hop);
        ProxyHeader::with_address(proxied).encode_v2(&mut bytes).unwrap();
        bytes
    }

    #[tokio::test]
    async fn the_header_is_read_and_not_one_byte_more() {
        let (hop, trusted) = addresses();
        let mut bytes = header("203.0.113.7:1234");
        bytes.extend(b"GET");
        let mut io = &bytes[..];
        assert_eq!(read(&mut io, hop, &trusted).await.unwrap().to_string(), "203.0.113.7:1234");
        assert_eq!(io, b"GET");
    }

    #[tokio::test]
    async fn only_a_trusted_hop_speaks_and_it_must() {
        let (hop, trusted) = addresses();
        let stranger = "192.0.2.1:9".parse().unwrap();
        let outcome = read(&mut &header("203.0.113.7:1")[..], stranger, &trusted).await;
        assert!(matches!(outcome, Err(ProxyHeaderError::UntrustedHop(_))));
        let http = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        // At once: what its bytes would say of a length is not waited for.
        assert!(matches!(read(&mut &http[..16], hop, &trusted).await, Err(ProxyHeaderError::NotOne)));
        let version_1 = b"PROXY TCP4 203.0.113.7 127.0.0.1 1 2\r\n";
        assert!(read(&mut &version_1[..], hop, &trusted).await.is_err());
        assert!(matches!(read(&mut &b""[..], hop, &trusted).await, Err(ProxyHeaderError::Probe)));
        let mapped = "[::ffff:127.0.0.1]:9".parse().unwrap();
        assert!(read(&mut &header("203.0.113.7:1")[..], mapped, &trusted).await.is_ok());
    }

    #[tokio::test]
    async fn a_header_has_its_bound_and_ends_where_it_says() {
        let (hop, trusted) = addresses();
        let of = |rest: usize| {
            let mut bytes = header("203.0.113.7:1");
            bytes[14..16].copy_from_slice(&u16::try_from(rest).unwrap().to_be_bytes());
            bytes.resize(FIXED_BYTES + rest, 0);
            bytes
        };
        let largest = of(REST_BYTES_MAX);
        assert!(read(&mut &largest[..], hop, &trusted).await.is_ok());
        let larger = read(&mut &of(REST_BYTES_MAX + 1)[..], hop, &trusted).await;
        assert!(matches!(larger, Err(ProxyHeaderError::TooLong)));
        let cut = read(&mut &largest[..largest.len() - 1], hop, &trusted).await;
        assert!(matches!(cut, Err(ProxyHeaderError::Io(_))));
    }
}
