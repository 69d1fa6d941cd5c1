//! Bytes ↔ verified peer.
//!
//! Each CA is believed for its own trust domain only ([`trust`]); what a leaf certificate says is
//! read by us, strictly ([`peer`]), since webpki looks at neither URI SANs nor a leaf's key usage.
//! There is no way to skip a verification, and none is planned.

pub mod client;
mod domain;
mod encrypted;
mod fingerprint;
mod hello;
mod lists;
pub mod own;
pub mod peer;
pub mod pem;
pub mod reload;
mod roots;
pub mod server;
pub mod servers;
pub mod source;
mod standing;
#[cfg(test)]
mod testing;
mod tickets;
pub mod trust;
mod verifier;
mod vouched;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

pub use domain::{BadBundle, BadCa, Cas, NoCas};
pub use encrypted::EncryptedKeyError;
pub use own::{CertificateSettings, Own, OwnCertificate, OwnCertificateError, Unusable};
pub use peer::{MalformedCertificate, PeerError, Unverified, dns_peer};
pub use pem::{PemError, PemSource};
pub use roots::Roots;
pub use server::{Accepted, ClientCertificates, HandshakeFailure, ListenerTls};
pub use standing::{Idle, Standing, Why};
pub use trust::{Bundles, Trust, TrustDomainSettings, TrustError};

use crate::clock::{Clock, Timestamp};
use fingerprint::Fingerprint;

/// The HTTP version agreed on by ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// `http/1.1`, also where the other end offers no ALPN at all.
    Http1,
    /// `h2`.
    Http2,
}

impl Alpn {
    pub fn as_bytes(self) -> &'static [u8] {
        match self {
            Alpn::Http1 => b"http/1.1",
            Alpn::Http2 => b"h2",
        }
    }

    fn from_agreed(protocol: Option<&[u8]>) -> Alpn {
        if protocol == Some(Alpn::Http2.as_bytes()) { Alpn::Http2 } else { Alpn::Http1 }
    }
}

/// aws-lc-rs with X25519MLKEM768 first; TLS 1.3 and the ECDHE-AEAD suites of 1.2 are all it has.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Lets rustls judge certificates by our clock.
#[derive(Debug)]
struct ClockTime(Clock);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(self.0.now()))
    }
}

fn unix_time(at: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(at.since(Timestamp::from_unix_seconds(0)))
}

fn timestamp(at: UnixTime) -> Timestamp {
    Timestamp::from_unix_seconds(i64::try_from(at.as_secs()).unwrap_or(i64::MAX))
}
