//! An ALB where people log in: what it says of them, and where its keys stand.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::engine::general_purpose::URL_SAFE;
use http::{Response, StatusCode};
use serde_json::json;

use super::*;
use crate::world::full;
use crate::world::listen::{Listening, listen};
use crate::world::signing::Key;

pub const SAID: &str = "x-amzn-oidc-data";
pub const SIGNER: &str =
    "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/front/50dc6c495c0c9188";
pub const KID: &str = "c2f80c8b-c05c-4068-af14-17299f7896b1";

/// Where AWS keeps the public keys of a region's load balancers.
pub struct Keys {
    pub key: Key,
    listening: Listening,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Keys {
    pub async fn start() -> Keys {
        let key = Key::new(KID, "ES256");
        let pem = pem(&key);
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&asked);
        let listening = listen("127.0.0.1:0".parse().unwrap(), None, move |request| {
            let path = request.uri().path().to_owned();
            seen.lock().unwrap().push(path.clone());
            let (status, body) = match path.strip_prefix("/keys/") {
                Some(KID) => (StatusCode::OK, pem.clone()),
                Some("00000000-0000-0000-0000-00000000dead") => {
                    (StatusCode::SERVICE_UNAVAILABLE, String::new())
                }
                Some("00000000-0000-0000-0000-000000000302") => (StatusCode::FOUND, String::new()),
                Some("00000000-0000-0000-0000-0000000000aa") => (StatusCode::OK, pem.replace("MFkw", "MFkx")),
                _ => (StatusCode::FORBIDDEN, String::new()),
            };
            let to = format!("/keys/{KID}");
            async move { Ok(Response::builder().status(status).header("location", to).body(full(body))?) }
        })
        .await;
        Keys { key, listening, asked }
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// As `jwks` says it.
    pub fn jwks(&self) -> String {
        format!("http://{}/keys/{{kid}}", self.listening.address)
    }

    fn configuration(&self) -> String {
        format!(
            r#"
[listener.behind]
address = "127.0.0.1:0"
allow_plaintext = true

[issuer.people]
preset = "alb"
url = "@issuer@"
signer = "{SIGNER}"
audience = ["web"]
jwks = "{0}"
allow_http = true

[issuer.partners]
preset = "alb"
url = "https://login.partner.example"
signer = "{SIGNER}"
audience = ["web"]
jwks = "{0}"
allow_http = true

[role.person]
any_of = [
  {{ issuer = "people", client = "web" }},
  {{ issuer = "partners", client = "web" }},
  {{ issuer = "corp", client = "storefront-web" }},
]

[route.socket]
host = "orders.shop.example"
path = "/socket"
upstream = "orders"
upgrade = "websocket"

[[allow]]
name = "people"
service = "none"
role = "person"
actor = ["human", "unknown"]
route = ["orders", "socket"]
"#,
            self.jwks()
        )
    }

    pub fn by_address(&self, address: &str) -> String {
        let hop = format!("kind = \"alb\"\nmutual_authentication = \"off\"\naddress = \"{address}\"");
        format!("{}\n[trusted_hop.edge]\n{hop}\n", self.configuration())
    }

    /// As an ALB says it, with members laid over its header and its claims; `null` takes one away.
    pub fn said(&self, world: &World, header: Value, claims: Value) -> String {
        said_by(&self.key, world, header, claims)
    }
}

/// As AWS publishes it.
pub fn pem(key: &Key) -> String {
    crate::world::forge::pem(&key.public_der()).replace("CERTIFICATE", "PUBLIC KEY")
}

fn laid_over(mut base: Value, over: Value) -> String {
    for (name, value) in over.as_object().unwrap() {
        base[name] = value.clone();
    }
    base.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    base.to_string()
}

pub fn said_by(key: &Key, world: &World, header: Value, claims: Value) -> String {
    let (iss, exp) = (&world.issuer.url, world.clock.now().plus(Duration::from_secs(120)).unix_seconds());
    let own = json!({ "typ": "JWT", "kid": KID, "alg": "ES256", "iss": iss, "client": "web", "signer": SIGNER, "exp": exp });
    let people = json!({ "sub": "alice", "email": "alice@shop.example", "exp": exp, "iss": iss });
    signed(key, &laid_over(own, header), &laid_over(people, claims))
}

pub fn signed(key: &Key, header: &str, claims: &str) -> String {
    let message = format!("{}.{}", URL_SAFE.encode(header), URL_SAFE.encode(claims));
    format!("{message}.{}", URL_SAFE.encode(key.sign(message.as_bytes())))
}
