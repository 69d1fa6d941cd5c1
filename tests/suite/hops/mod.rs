//! Trusted hops that tell the certificate of their own client: an ALB, Envoy, and whoever speaks RFC 9440.

mod asked;
pub mod balancer;
mod beside;
mod browsers;
mod cases;
mod lives;
mod log_in;
mod log_in_asked;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign::cli::mint::Minted;
use http::{HeaderName, HeaderValue, Request};
use serde_json::Value;

use crate::world::certificates::{Who, parsed};
use crate::world::client::{Answer, Client, Protocol, get};
use crate::world::forge::chain_of;
use crate::world::proxy::{HOST, Proxy};
use crate::world::seen::Seen;
use crate::world::{Body, World, sha256};

/// The ways in which a certificate is told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    AlbChain,
    AlbLeaf,
    Envoy,
    Rfc9440,
}

pub type Fields = Vec<(&'static str, String)>;

impl Form {
    pub const ALL: [Form; 4] = [Form::AlbChain, Form::AlbLeaf, Form::Envoy, Form::Rfc9440];

    /// What `[trusted_hop]` says of it.
    pub fn keys(self) -> &'static str {
        match self {
            Form::AlbChain => "kind = \"alb\"",
            Form::AlbLeaf => "kind = \"alb\"\nmutual_authentication = \"verify\"",
            Form::Envoy => "kind = \"envoy\"",
            Form::Rfc9440 => "kind = \"rfc9440\"",
        }
    }

    /// As the hop tells a chain.
    fn tell(self, chain: &[Vec<u8>]) -> Fields {
        let pem = |ders: &[Vec<u8>]| ders.iter().map(|der| crate::world::forge::pem(der)).collect::<String>();
        let escaped = |pem: String| pem.replace('\n', "%0A").replace(' ', "%20");
        let whole = |pem: String| escaped(pem).replace('+', "%2B").replace('=', "%3D").replace('/', "%2F");
        let sequence = |der: &Vec<u8>| format!(":{}:", STANDARD.encode(der));
        match self {
            Form::AlbChain => vec![("x-amzn-mtls-clientcert", escaped(pem(chain)))],
            Form::AlbLeaf => vec![
                ("x-amzn-mtls-clientcert-leaf", escaped(pem(&chain[..1]))),
                ("x-amzn-mtls-clientcert-subject", "CN=anybody".into()),
                ("x-amzn-mtls-clientcert-serial-number", "01".into()),
            ],
            Form::Envoy => {
                let (hash, chain) = (sha256(&chain[0]), whole(pem(chain)));
                let element =
                    format!("By=spiffe://shop.example/edge;Hash={hash};Chain=\"{chain}\";Subject=\"\"");
                vec![("x-forwarded-client-cert", element)]
            }
            Form::Rfc9440 => {
                let others: Vec<_> = chain[1..].iter().map(sequence).collect();
                let mut fields = vec![("client-cert", sequence(&chain[0]))];
                if !others.is_empty() {
                    fields.push(("client-cert-chain", others.join(", ")));
                }
                fields
            }
        }
    }

    pub fn of(self, minted: &Minted) -> Fields {
        self.tell(&chain_of(minted))
    }
}

const RULES: &str = r#"
[listener.behind]
address = "127.0.0.1:0"
allow_plaintext = true

[[allow]]
name = "the storefront, through the edge"
service = "storefront"
role = "none"
route = "orders"
hop = "edge"
path = "/told/**"

[[allow]]
name = "readers, through the edge"
service = "storefront"
role = "order-reader"
route = "orders"
hop = "edge"
path = "/orders/**"

[[allow]]
name = "the storefront itself"
service = "storefront"
role = "none"
route = "orders"
hop = "direct"
path = "/direct/**"

[[allow]]
name = "the edge itself"
service = "assistant"
role = "none"
route = "orders"
path = "/edge/**"

[[allow]]
name = "anybody"
service = "none"
role = "none"
route = "orders"
path = "/public/**"

[[allow]]
name = "anybody in the office"
service = "none"
role = "none"
route = "orders"
path = "/office/**"
client_ip = "203.0.113.0/24"
"#;

/// A hop of this form, known by `by`.
fn edge(form: Form, by: &str) -> String {
    format!("{RULES}\n[trusted_hop.edge]\n{}\n{by}\n", form.keys())
}

const HERE: &str = "address = \"127.0.0.1/32\"";
const BY_ID: &str = "spiffe_id = \"spiffe://shop.example/ns/prod/sa/assistant\"";

fn with(mut request: Request<Body>, fields: &Fields) -> Request<Body> {
    for (name, value) in fields {
        let (name, value) = (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        request.headers_mut().append(name, value);
    }
    request
}

impl Proxy<'_> {
    async fn behind(&self, protocol: Protocol) -> Client {
        Client::plain(self.address("behind"), protocol).await.unwrap()
    }
}

/// As a hop passes it on.
fn passed(path: &str, fields: &Fields) -> Request<Body> {
    with(get(&format!("http://{HOST}{path}")), fields)
}

fn seen(answer: &Answer) -> Seen {
    assert_eq!(answer.status, 200, "{:?}", answer.json());
    serde_json::from_slice(&answer.body).unwrap()
}

/// Status and reason of a refusal.
fn refusal(answer: &Answer) -> (u16, String) {
    let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    (answer.status.as_u16(), problem["reason"].as_str().unwrap_or_default().to_owned())
}

fn expect(status: u16, reason: &str) -> (u16, String) {
    (status, reason.to_owned())
}

fn hash_of(minted: &Minted) -> String {
    sha256(&parsed(minted).0[0])
}

fn client(world: &World, who: Who) -> Minted {
    world.certificates.client(who).unwrap()
}

fn hop_of(record: &Value) -> &Value {
    &record["connection"]["hop"]
}
