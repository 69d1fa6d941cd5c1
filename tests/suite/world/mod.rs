//! The one fixture: everything around a proxy, and with [`World::start`] the proxy itself.
//!
//! What stands outside the process (a client, an upstream, an issuer) is real: real sockets on port
//! 0, real TLS, real tokens. Doubles are steered by what a request asks of them or by their handle,
//! never by waiting for some time to pass; whatever waits gives up after [`PATIENCE`] and fails.
//! All of it ends when its handle is dropped.

pub mod binary;
pub mod broken;
pub mod certificates;
pub mod client;
pub mod court;
pub mod forge;
pub mod frames;
pub mod grpc;
pub mod issuer;
pub mod listen;
pub mod presented;
pub mod process;
pub mod program;
pub mod proxy;
pub mod seen;
pub mod signing;
pub mod tls;
pub mod upstream;
pub mod workload_api;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use countersign::clock::Clock;
use countersign::config::Config;
use http::Request;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use serde_json::json;
use tempfile::TempDir;

use certificates::Certificates;
use issuer::Issuer;
use upstream::Upstream;

pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// The body of every request and answer that the fixture makes.
pub type Body = UnsyncBoxBody<Bytes, Error>;

/// What a proxy under test is surrounded by.
pub struct World {
    /// Of the proxy, the issuer and the certificates; clients look at the machine's.
    pub clock: Clock,
    pub certificates: Certificates,
    pub issuer: Issuer,
    pub upstream: Upstream,
    /// Configuration, certificates and keys, and what the proxy itself writes.
    pub folder: TempDir,
    /// What stands in the base configuration where it has `[identity]` and the trust domains.
    pub identity: Option<String>,
}

/// The configuration that all tests start from.
const BASE: &str = include_str!("base.toml");

impl World {
    pub async fn new() -> World {
        World::at(Clock::system()).await
    }

    /// A world whose time a test may move.
    pub async fn at(clock: Clock) -> World {
        let world = World {
            certificates: Certificates::new(&clock),
            issuer: Issuer::start(clock.clone()).await,
            upstream: Upstream::start().await,
            folder: tempfile::tempdir().unwrap(),
            identity: None,
            clock,
        };
        let identity = world.certificates.server("orders");
        world.write("orders.pem", &identity.chain);
        world.write("orders-key.pem", &identity.key);
        world.write("shop-ca.pem", &world.certificates.shop.pem());
        world.write("shop.crl", &world.certificates.crl());
        world.write("partner-ca.pem", &world.certificates.partner.pem());
        world
    }

    /// Writes the base configuration and `more` below it; a proxy is started from this file.
    pub fn configuration(&self, more: &str) -> PathBuf {
        let mut text = format!("{BASE}\n{more}");
        if let Some(identity) = &self.identity {
            let place = text.find("[identity]").unwrap()..text.find("[listener.mesh]").unwrap();
            text.replace_range(place, &format!("{identity}\n"));
        }
        let text = text.replace("@upstream@", &self.upstream.url).replace("@issuer@", &self.issuer.url);
        self.write("countersign.toml", &text)
    }

    /// A sample configuration, with this world's certificates where the sample says that its own are.
    pub fn load_sample(&self, text: &str) -> Config {
        fs::create_dir_all(self.folder.path().join("certs")).unwrap();
        for name in ["orders.pem", "orders-key.pem", "shop-ca.pem", "shop.crl"] {
            let pem = fs::read_to_string(self.folder.path().join(name)).unwrap();
            self.write(&format!("certs/{name}"), &pem);
        }
        self.write("countersign.toml", text);
        self.load()
    }

    /// The request as a caller with a sound token sends it.
    pub fn signed(&self, request: Request<Body>) -> Request<Body> {
        client::with_token(request, &self.issuer.token(json!({})))
    }

    /// Replaces a file whole, as a deployment does: nobody ever reads half of one.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        let fresh = path.with_extension("fresh");
        fs::write(&fresh, text).unwrap();
        fs::rename(&fresh, &path).unwrap();
        path
    }
}

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
    hex(sha256_of(bytes))
}

pub fn sha256_of(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    digest::digest(&digest::SHA256, bytes.as_ref()).as_ref().to_vec()
}

pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_configuration_names_the_world_around_it() {
        let world = World::new().await;
        let path = world.configuration("[route.more]\npath = \"/more\"\nupstream = \"orders\"");
        let text = fs::read_to_string(&path).unwrap();
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["issuer"]["corp"]["url"].as_str(), Some(world.issuer.url.as_str()));
        assert_eq!(table["upstream"]["orders"]["server"][0].as_str(), Some(world.upstream.url.as_str()));
        assert_eq!(world.try_load().err(), None);
    }
}
