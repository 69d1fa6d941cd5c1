//! The other end of what streams: the server that it goes to.

use std::sync::Arc;
use std::time::Duration;

use countersign::cli::mint::{Authority, CaSpec, LeafSpec, Minted, Validity};
use rustls::ServerConfig;
use serde_json::json;
use tonic::Code;

use super::{CONFIGURATION, KINDS, Kind, Streams, open_all, record};
use crate::world::certificates::{PARTNER_DOMAIN, Who, parsed, spiffe_id};
use crate::world::client::{Client, Protocol, get};
use crate::world::proxy::{HOST, Proxy};
use crate::world::sha256;
use crate::world::upstream::Upstream;

const HOUR: Duration = Duration::from_secs(3600);
const ROUTES: &str = r#"
[upstream.backend]
server = "@backend@"
server_spiffe_id = "spiffe://partner.example/ns/prod/sa/backend"

[route.events]
host = "orders.shop.example"
path = "/events"
upstream = "backend"

[revocation]
file = "revoked.toml"
"#;

const EXPECTED: &str = "server_spiffe_id = \"spiffe://partner.example/ns/prod/sa/backend\"";

/// A server of the other trust domain, and streams that go there.
struct Abroad {
    streams: Streams,
    backend: Upstream,
    certificate: Minted,
    /// The upstream knows it by a CA and a DNS name.
    by_name: bool,
}

impl Abroad {
    /// With a certificate that ends in an hour.
    async fn new(alpn: &[&[u8]], by_name: bool) -> Abroad {
        let streams = Streams::new().await;
        let now = streams.clock.now();
        let validity = Validity { from: now.minus(HOUR), to: now.plus(HOUR) };
        let mut workload = LeafSpec::workload(&spiffe_id(PARTNER_DOMAIN, "backend"), validity);
        workload.dns = vec!["localhost".to_owned()];
        let certificate = streams.world.certificates.partner.issue(&workload).unwrap();
        let (chain, key) = parsed(&certificate);
        let mut tls = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        tls.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let backend = Upstream::start_with("127.0.0.1:0".parse().unwrap(), Some(Arc::new(tls))).await;
        streams.world.write("revoked.toml", "version = 1\n");
        Abroad { streams, backend, certificate, by_name }
    }

    fn configuration(&self) -> String {
        let to_backend = |name: &str| format!("upstream = \"{name}\"");
        let routes = CONFIGURATION
            .replace(&to_backend("orders"), &to_backend("backend"))
            .replace(&to_backend("h2c"), &to_backend("backend"))
            .replace("@address@", "127.0.0.1:1");
        let (url, routes) = (&self.backend.url, format!("{routes}{ROUTES}"));
        if self.by_name {
            let url = url.replace("127.0.0.1", "localhost");
            routes.replace(EXPECTED, "ca = \"partner-ca.pem\"").replace("@backend@", &url)
        } else {
            routes.replace("@backend@", url)
        }
    }

    fn in_plain_text(&self) -> String {
        let text = self.configuration().replace("https://", "http://");
        text.replace(EXPECTED, "").replace("ca = \"partner-ca.pem\"", "")
    }

    fn start(&self) -> Proxy<'_> {
        self.streams.world.start(&self.configuration())
    }

    fn token(&self) -> String {
        let exp = self.streams.clock.now().plus(3 * HOUR).unix_seconds();
        self.streams.token(json!({ "exp": exp }))
    }

    fn revoke(&self, entry: &str) {
        self.streams.world.write("revoked.toml", &format!("version = 1\n[[revoked]]\n{entry}\n"));
    }

    fn by_certificate(&self) -> String {
        let leaf = parsed(&self.certificate).0.remove(0);
        format!("certificate = \"sha256:{}\"", sha256(&leaf))
    }

    /// CAs that vouch for others from now on, and for this server too if it `stays`.
    fn replace_ca(&self, proxy: &Proxy<'_>, stays: bool) {
        let certificates = &self.streams.world.certificates;
        let other = Authority::root(&CaSpec::new("another CA", certificates.validity)).unwrap();
        let present = if stays { certificates.partner.pem() } else { String::new() };
        self.streams.world.write("partner-ca.pem", &(present + &other.pem()));
        proxy.reload(&self.configuration()).unwrap();
    }
}

const BY_ID: &str = "spiffe_id = \"spiffe://partner.example/ns/prod/sa/backend\"";

#[tokio::test]
async fn what_streams_ends_with_its_server() {
    let mut cases = 0;
    for (kind, by_name) in KINDS.map(|kind| (kind, false)).into_iter().chain([(Kind::WebSocket, true)]) {
        for (what, told) in [
            ("its CA is removed", "is not verified: "),
            ("its SPIFFE ID is revoked", "the SPIFFE ID is on the revocation list"),
            ("its certificate is revoked", "the certificate is on the revocation list"),
            ("its certificate ends", "is not verified: "),
            ("another server is expected", "which is not expected there"),
            ("it is asked in plain text", "nobody says any more who it should be"),
        ] {
            if by_name && (what.contains("SPIFFE") || what.contains("expected")) {
                continue;
            }
            let abroad = Abroad::new(&[b"h2", b"http/1.1"], by_name).await;
            let proxy = abroad.start();
            let mut opened = open_all(&proxy, kind, &abroad.token()).await;
            abroad.replace_ca(&proxy, true);
            for stream in opened.iter_mut().filter(|_| kind != Kind::Events) {
                stream.goes_on(&abroad.streams.world).await;
            }
            match what {
                "its CA is removed" => abroad.replace_ca(&proxy, false),
                "its SPIFFE ID is revoked" => abroad.revoke(BY_ID),
                "its certificate is revoked" => abroad.revoke(&abroad.by_certificate()),
                "its certificate ends" => abroad.streams.clock.advance(HOUR + Duration::from_secs(1)),
                "another server is expected" => {
                    let other = abroad.configuration().replace("sa/backend", "sa/other");
                    proxy.reload(&other).unwrap();
                }
                _ => proxy.reload(&abroad.in_plain_text()).unwrap(),
            }
            for (at, stream) in opened.iter_mut().enumerate() {
                stream.ends("upstream_identity_mismatch", Code::Unavailable).await;
                let record = record(&proxy, kind.path(), at).await;
                let detail = record["detail"].as_str().unwrap();
                assert!(detail.contains(told), "{kind:?}, {what}: {record}");
                assert_eq!(record["reason"], "upstream_identity_mismatch", "{record}");
                assert!(record["ended_by"].is_string(), "{record}");
            }
            cases += 1;
        }
    }
    assert_eq!(cases, 22);
}

/// Neither over a connection that is open nor over one that is dialled.
#[tokio::test]
async fn a_server_that_is_revoked_gets_no_request() {
    let mut cases = 0;
    for alpn in [&[&b"http/1.1"[..]][..], &[b"h2"]] {
        for by_id in [true, false] {
            let abroad = Abroad::new(alpn, false).await;
            let proxy = abroad.start();
            let bearer = abroad.token();
            // One client's connection is one core's, and so is the pool of its upstreams' connections.
            let config = abroad.streams.world.certificates.client_config(Who::Storefront);
            let client = Client::tls(proxy.address("mesh"), HOST, config, Protocol::H2).await.unwrap();
            let ask = async || {
                let mut request = get("/events?status=200");
                request.headers_mut().insert("authorization", bearer.parse().unwrap());
                client.ask(request).await.unwrap()
            };
            assert_eq!(ask().await.status, 200);
            abroad.revoke(&if by_id { BY_ID.to_owned() } else { abroad.by_certificate() });
            proxy.events("revocation_loaded", 2).await;
            for _ in 0..2 {
                let answer = ask().await;
                assert_eq!(answer.status, 502);
                assert_eq!(answer.json()["reason"], "upstream_identity_mismatch");
                let record = proxy.record_of(&answer).await;
                let detail = record["detail"].as_str().unwrap();
                assert!(detail.ends_with("is on the revocation list"), "{record}");
            }
            assert_eq!(abroad.backend.counts().requests, 1);
            abroad.streams.world.write("revoked.toml", "version = 1\n");
            proxy.events("revocation_loaded", 3).await;
            assert_eq!(ask().await.status, 200);
            cases += 1;
        }
    }
    assert_eq!(cases, 4);
}
