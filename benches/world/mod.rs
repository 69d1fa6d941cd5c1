//! What stands around a proxy that is measured: certificates, an issuer, an upstream, a configuration.
//!
//! All of it is made anew in a folder of its own and gone with it; nothing is fetched from anywhere.

pub mod client;
pub mod policy;
pub mod signing;
pub mod upstream;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign::cli::mint::{Authority, CaSpec, LeafSpec, Validity};
use countersign::clock::Clock;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

use policy::Shape;
use signing::Issuer;

/// The name that the proxy's certificate has and that requests ask for.
pub const HOST: &str = "orders.shop.example";
/// The workload that carries every request.
pub const SPIFFE_ID: &str = "spiffe://shop.example/ns/prod/sa/storefront";

pub struct World {
    pub folder: TempDir,
    pub issuer: Arc<Issuer>,
    pub upstream: SocketAddr,
    /// Of the storefront; without a memory of sessions.
    pub tls: ClientConfig,
}

impl World {
    pub fn new() -> World {
        let now = Clock::system().now();
        let day = Duration::from_secs(24 * 3600);
        let validity = Validity { from: now.minus(day), to: now.plus(day) };
        let ca = Authority::root(&CaSpec::new("shop CA", validity)).unwrap();
        let mut server = LeafSpec::workload("spiffe://shop.example/ns/prod/sa/orders", validity);
        server.dns = vec![HOST.to_owned()];
        let server = ca.issue(&server).unwrap();
        let client = ca.issue(&LeafSpec::workload(SPIFFE_ID, validity)).unwrap();

        let mut trusted = RootCertStore::empty();
        trusted.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap()).unwrap();
        let chain = CertificateDer::pem_slice_iter(client.chain.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(client.key.as_bytes()).unwrap();
        let tls = ClientConfig::builder().with_root_certificates(trusted);
        let mut tls = tls.with_client_auth_cert(chain, key).unwrap();
        tls.resumption = rustls::client::Resumption::disabled();

        let issuer = Arc::new(Issuer::new());
        let upstream = upstream::start(issuer.jwks());
        let world = World { folder: tempfile::tempdir().unwrap(), issuer, upstream, tls };
        world.write("orders.pem", &server.chain);
        world.write("orders-key.pem", &server.key);
        world.write("shop-ca.pem", &ca.pem());
        world
    }

    /// Writes a configuration of this shape, for a proxy to be started from.
    pub fn configuration(&self, shape: &Shape) -> PathBuf {
        self.write("countersign.toml", &shape.configuration(self.upstream))
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }
}
