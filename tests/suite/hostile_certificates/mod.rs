//! Certificates that must not open a connection, and odd ones that must: each is shown to a running proxy
//! over TLS 1.2 and 1.3, h1 and h2, where a certificate is required and where it is optional.
//!
//! Whoever is refused gets the alert that says most and no byte of HTTP; the record has the reason, and what
//! the certificate claims, escaped and marked as not verified; the upstream hears nothing.

mod chains;
mod forms;
mod names;
mod openssl;

use std::cell::RefCell;
use std::sync::Arc;

use countersign::audit::line::is_misleading;
use countersign::cli::mint::{Authority, CaSpec, LeafSpec, Minted};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{AlertDescription, ClientConfig, SupportedProtocolVersion};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::world::certificates::{Certificates, TRUST_DOMAIN, spiffe_id, store};
use crate::world::client::{Protocol, alert};
use crate::world::forge::{Open, chain_of, forged};
use crate::world::proxy::{HOST, Proxy};
use crate::world::{Error, World, sha256, soon};

/// Whoever has a certificate that names the storefront may do anything; and a listener that lets others in.
const CONFIGURATION: &str = r#"
[listener.open]
address = "127.0.0.1:0"
client_certificate = "optional"

[[allow]]
name = "the storefront"
service = "storefront"
role = "none"
route = "orders"
"#;

/// A certificate chain, leaf first, and the key that the client signs with; fitting or not.
struct Shown {
    chain: Vec<Vec<u8>>,
    key: String,
}

/// One certificate and what becomes of who shows it.
struct Case {
    what: &'static str,
    shown: Shown,
    alert: AlertDescription,
    reason: &'static str,
    /// A part of the record's `detail`.
    says: &'static str,
    /// The SPIFFE ID in the record.
    claims: Option<String>,
}

/// Of what is recorded of a claim.
const CLAIM_CHARS_MAX: usize = 2048;

const MALFORMED: (AlertDescription, &str) = (AlertDescription::BadCertificate, "peer_malformed");
const UNSUPPORTED: (AlertDescription, &str) = (AlertDescription::UnsupportedCertificate, "peer_malformed");
const UNTRUSTED: (AlertDescription, &str) = (AlertDescription::UnknownCA, "peer_untrusted");
const UNSIGNED: (AlertDescription, &str) = (AlertDescription::DecryptError, "peer_untrusted");
const EXPIRED: (AlertDescription, &str) = (AlertDescription::CertificateExpired, "peer_expired");
const FOREIGN: (AlertDescription, &str) = (AlertDescription::AccessDenied, "peer_wrong_trust_domain");
const REVOKED: (AlertDescription, &str) = (AlertDescription::CertificateRevoked, "peer_revoked");

/// A refused certificate that claims to be the storefront.
fn case(
    what: &'static str,
    shown: Shown,
    (alert, reason): (AlertDescription, &'static str),
    says: &'static str,
) -> Case {
    Case { what, shown, alert, reason, says, claims: Some(storefront()) }
}

impl Case {
    /// Claims this in place of the storefront's ID, or nothing.
    fn claims(mut self, uri: Option<&str>) -> Case {
        self.claims = uri.map(|uri| uri.escape_default().to_string());
        self
    }
}

fn storefront() -> String {
    spiffe_id(TRUST_DOMAIN, "storefront")
}

/// Where the certificates are made; and the revocation lists of the CAs below the shop's.
struct Bench<'w> {
    certificates: &'w Certificates,
    lists: RefCell<String>,
}

impl Bench<'_> {
    fn new(world: &World) -> Bench<'_> {
        Bench { certificates: &world.certificates, lists: RefCell::new(world.certificates.crl()) }
    }

    /// The storefront's certificate, changed before the shop's CA signs it.
    fn issued(&self, change: impl FnOnce(&mut LeafSpec)) -> Shown {
        self.issued_by(&self.certificates.shop, change)
    }

    fn issued_by(&self, ca: &Authority, change: impl FnOnce(&mut LeafSpec)) -> Shown {
        let mut spec = self.certificates.workload(TRUST_DOMAIN, "storefront");
        change(&mut spec);
        Shown::from(&ca.issue(&spec).unwrap())
    }

    /// The same, changed byte by byte and signed again.
    fn forged(&self, change: impl FnOnce(&mut Open)) -> Shown {
        let mut shown = self.issued(|_| {});
        shown.chain[0] = forged(&shown.chain[0], &self.certificates.shop_key, change);
        shown
    }

    /// A CA below the shop's, with a revocation list of its own.
    fn below(&self, spec: &CaSpec) -> Authority {
        let ca = self.certificates.shop.intermediate(spec).unwrap();
        *self.lists.borrow_mut() += &ca.crl(&[], self.certificates.validity).unwrap();
        ca
    }

    fn ca_spec(&self, name: &str) -> CaSpec {
        CaSpec::new(name, self.certificates.validity)
    }
}

impl From<&Minted> for Shown {
    fn from(minted: &Minted) -> Shown {
        Shown { chain: chain_of(minted), key: minted.key.clone() }
    }
}

impl Shown {
    fn then(mut self, more: impl IntoIterator<Item = Vec<u8>>) -> Shown {
        self.chain.extend(more);
        self
    }

    /// Another leaf in front of the same chain.
    fn with_leaf(mut self, leaf: Vec<u8>) -> Shown {
        self.chain[0] = leaf;
        self
    }

    fn client(
        &self,
        world: &World,
        version: &'static SupportedProtocolVersion,
        protocol: Protocol,
    ) -> ClientConfig {
        let chain = self.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        let key = aws_lc_rs::default_provider().key_provider.load_private_key(key).unwrap();
        let mut config = ClientConfig::builder_with_protocol_versions(&[version])
            .with_root_certificates(store(&[&world.certificates.shop]))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key))));
        config.alpn_protocols = vec![protocol.alpn()];
        config
    }
}

/// Asks as soon as the client's part of the handshake is done; the first byte that comes back.
async fn asked(proxy: &Proxy<'_>, listener: &str, config: ClientConfig) -> Result<u8, Error> {
    let is_http2 = config.alpn_protocols[0] == b"h2";
    let stream = TcpStream::connect(proxy.address(listener)).await?;
    let name = ServerName::try_from(HOST)?;
    let ask = async {
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let request = match is_http2 {
            true => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
            false => format!("GET /orders/7 HTTP/1.1\r\nhost: {HOST}\r\n\r\n").into_bytes(),
        };
        // The alert may be there first.
        _ = stream.write_all(&request).await;
        Ok(stream.read_u8().await?)
    };
    soon("an answer or an alert", ask).await
}

/// Each listener with each version and protocol; `optional` takes no worse certificate than `required`.
fn ways() -> impl Iterator<Item = (&'static str, &'static SupportedProtocolVersion, Protocol)> {
    let both = rustls::ALL_VERSIONS.iter().flat_map(|version| Protocol::BOTH.map(|it| (*version, it)));
    both.flat_map(|(version, protocol)| ["mesh", "open"].map(|listener| (listener, version, protocol)))
}

async fn all_are_refused(world: &World, bench: &Bench<'_>, cases: Vec<Case>) {
    world.write("shop.crl", &bench.lists.borrow());
    let proxy = world.start(CONFIGURATION);
    let mut failures = Vec::new();
    let mut refused = 0;
    for case in &cases {
        for (listener, version, protocol) in ways() {
            let told = match asked(&proxy, listener, case.shown.client(world, version, protocol)).await {
                Ok(byte) => panic!("{}: let in, and answered with {byte:#x}", case.what),
                Err(error) => alert(&*error),
            };
            if told != Some(case.alert) {
                failures.push(format!("{} ({listener}, {:?}): {told:?}", case.what, version.version));
            }
            refused += 1;
        }
        for record in last(&proxy, refused, ways().count()).await {
            failures.extend(case.is_not_told_by(&record));
        }
    }
    failures.dedup();
    assert!(failures.is_empty(), "{failures:#?}");
    assert_eq!(world.upstream.counts().requests, 0);
    let metrics = proxy.metrics().await;
    let asked = metrics.lines().filter(|line| line.starts_with("countersign_requests_total{"));
    assert_eq!(asked.filter(|line| !line.ends_with(" 0")).count(), 0, "no request was seen");
}

/// The last `n` of `count` records of refused handshakes; there are none of requests.
async fn last(proxy: &Proxy<'_>, count: usize, n: usize) -> Vec<Value> {
    let handshakes = |all: &[Value]| {
        assert!(all.iter().all(|record| record["event"] != "request"));
        let found: Vec<_> = all.iter().filter(|record| record["event"] == "handshake").collect();
        (found.len() >= count).then(|| found[count - n..count].iter().map(|&record| record.clone()).collect())
    };
    proxy.records.until(handshakes).await
}

impl Case {
    /// What is wrong with the record, if anything is.
    fn is_not_told_by(&self, record: &Value) -> Option<String> {
        let claimed = self.claims.as_ref().map(|claims| &claims[..claims.len().min(CLAIM_CHARS_MAX)]);
        let certificate = format!("sha256:{}", sha256(&self.shown.chain[0]));
        let peer = json!({"verified": false, "spiffe_id": claimed, "certificate": certificate});
        let (detail, story) = (record["detail"].as_str()?, record["story"].as_str()?);
        let sound = record["verdict"] == "deny"
            && record["reason"] == self.reason
            && record["peer"] == peer
            && detail.contains(self.says)
            && story.contains("was refused in the TLS handshake")
            && [detail, story].iter().all(|text| !text.contains(is_misleading));
        (!sound).then(|| format!("{}: {}: {detail}, {peer} wanted", self.what, record["peer"]))
    }
}

async fn all_are_let_in(world: &World, bench: &Bench<'_>, cases: Vec<(&'static str, Shown)>) {
    world.write("shop.crl", &bench.lists.borrow());
    let proxy = world.start(CONFIGURATION);
    for (what, shown) in &cases {
        for (listener, version, protocol) in ways() {
            let what = format!("{what} ({listener}, {:?}, {protocol:?})", version.version);
            let config = shown.client(world, version, protocol);
            // `H` of an answer by h1, the length of the first frame by h2
            let first =
                asked(&proxy, listener, config).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(first, if protocol == Protocol::H1 { b'H' } else { 0 }, "{what}");
        }
    }
    let by_http1 = cases.len() * ways().count() / 2;
    assert_eq!(world.upstream.counts().requests, by_http1 as u64);
    for record in proxy.records(by_http1).await {
        assert_eq!((&record["status"], &record["peer"]["service"]), (&json!(200), &json!("storefront")));
    }
}
