//! The one fixture: everything around a proxy, and in time the proxy itself.
//!
//! What stands outside the process (a client, an upstream, an issuer) is real: real sockets on port
//! 0, real TLS, real tokens. Doubles are steered by what a request asks of them or by their handle,
//! never by waiting for some time to pass; whatever waits gives up after [`PATIENCE`] and fails.
//! All of it ends when its handle is dropped.

pub mod certificates;
pub mod client;
pub mod grpc;
pub mod issuer;
pub mod listen;
pub mod program;
pub mod seen;
pub mod signing;
pub mod upstream;

use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};

pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// The body of every request and answer that the fixture makes.
pub type Body = UnsyncBoxBody<Bytes, Error>;

/// How long the fixture waits for anything before the test has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// What `future` gives, unless it takes longer than [`PATIENCE`].
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// SHA-256 in lower-case hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes))
}

pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
