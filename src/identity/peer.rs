//! The service that carries a request: the workload at the other end of the TLS connection.

use std::fmt;
use std::sync::Arc;

use super::{Name, SpiffeId, TrustDomain, write_sha256};
use crate::clock::Timestamp;

/// A workload whose certificate was verified, parsed once a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub name: PeerName,
    /// Of the leaf certificate's DER: `x5t#S256` of RFC 8705.
    pub certificate: CertificateHash,
    /// The earliest not-after of the verified chain; from then on the peer is expired.
    pub not_after: Timestamp,
    /// How the certificate reached us.
    pub hop: Hop,
}

/// What a certificate calls its holder, under the trust domain whose CA says so.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PeerName {
    Spiffe(SpiffeId),
    /// Only where a `[service]` asks for a `dns_name`: for CAs that issue no SPIFFE IDs.
    /// All DNS SANs of the leaf, lower-case, in the certificate's order.
    Dns {
        names: Vec<Arc<str>>,
        trust_domain: TrustDomain,
    },
}

/// SHA-256 of a certificate's DER encoding.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CertificateHash(pub [u8; 32]);

/// The hop a peer's certificate was learned from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Hop {
    /// This TLS connection's own handshake.
    Direct,
    /// A `[trusted_hop]` that ended the peer's TLS connection and passed its certificate on.
    Trusted(Name),
    /// This proxy itself, for requests that its own application sends.
    Local,
}

/// Which way requests go: to the application that this proxy stands before, or from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Direction {
    #[default]
    Inbound,
    Outbound,
}

impl PeerName {
    pub fn trust_domain(&self) -> &TrustDomain {
        match self {
            PeerName::Spiffe(id) => id.trust_domain(),
            PeerName::Dns { trust_domain, .. } => trust_domain,
        }
    }
}

impl Hop {
    /// Which way its requests go.
    pub fn direction(&self) -> Direction {
        match self {
            Hop::Direct | Hop::Trusted(_) => Direction::Inbound,
            Hop::Local => Direction::Outbound,
        }
    }

    /// As it stands in rules (`hop = "direct"`) and records.
    pub fn as_str(&self) -> &str {
        match self {
            Hop::Direct => "direct",
            Hop::Trusted(name) => name.as_str(),
            Hop::Local => "local",
        }
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerName::Spiffe(id) => id.fmt(f),
            PeerName::Dns { names, .. } => f.write_str(&names.join(", ")),
        }
    }
}

/// As `sha256:` and lower-case hex.
impl fmt::Display for CertificateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_sha256(f, &self.0)
    }
}

impl fmt::Debug for CertificateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
