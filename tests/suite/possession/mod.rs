//! Tokens that are bound to a key, over a running proxy: taken from their holder, and from nobody else.

mod certificates;
mod proofs;
mod provider;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign::clock::Clock;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request};
use serde_json::{Map, Value, json};

use crate::world::client::get;
use crate::world::issuer::Issuer;
use crate::world::proxy::{HOST, Proxy};
use crate::world::signing::Key;
use crate::world::{Body, World, sha256_of};

/// Any sound token of the storefront's client opens everything.
pub const ALLOW: &str = r#"
[[allow]]
name = "all"
service = "storefront"
role = "any"
"#;

/// With `keys` in the issuer's own table.
fn start_with_issuer<'w>(world: &'w World, keys: &str, more: &str) -> Proxy<'w> {
    let path = world.configuration(more);
    let text = std::fs::read_to_string(path).unwrap();
    let changed = text.replace("allow_http = true\n", &format!("allow_http = true\n{keys}\n"));
    assert_ne!(changed, text);
    world.write("countersign.toml", &changed);
    world.start_written()
}

/// Whoever has a key that tokens are bound to.
pub struct Holder {
    pub key: Key,
    clock: Clock,
}

impl Holder {
    pub fn new(algorithm: &'static str, clock: &Clock) -> Holder {
        Holder { key: Key::new("holder", algorithm), clock: clock.clone() }
    }

    /// The public key, without what is none of its own (RFC 7517 §4).
    pub fn jwk(&self) -> Map<String, Value> {
        let mut jwk = self.key.jwk().as_object().unwrap().clone();
        jwk.retain(|name, _| !["kid", "alg", "use"].contains(&name.as_str()));
        jwk
    }

    /// RFC 7638 §3: serde_json writes members in the order of their names.
    pub fn thumbprint(&self) -> String {
        URL_SAFE_NO_PAD.encode(sha256_of(Value::from(self.jwk()).to_string()))
    }

    /// A sound token of the issuer's that is bound to the key.
    pub fn token(&self, issuer: &Issuer) -> String {
        issuer.token(json!({"cnf": {"jkt": self.thumbprint()}}))
    }

    /// A sound proof for `GET /orders/7` with this token, with members laid over header and claims.
    pub fn proof(&self, token: &str, header: Value, claims: Value) -> String {
        self.key.token(self.header(header).to_string(), self.claims(token, claims).to_string())
    }

    pub fn header(&self, over: Value) -> Value {
        laid_over(json!({"typ": "dpop+jwt", "alg": self.key.algorithm, "jwk": self.jwk()}), over)
    }

    pub fn claims(&self, token: &str, over: Value) -> Value {
        let sound = json!({
            "htm": "GET",
            "htu": format!("https://{HOST}/orders/7"),
            "iat": self.clock.now().unix_seconds(),
            "jti": format!("{:032x}", fastrand::u128(..)),
            "ath": URL_SAFE_NO_PAD.encode(sha256_of(token)),
        });
        laid_over(sound, over)
    }

    /// A request with this token and a sound proof.
    pub fn request(&self, token: &str) -> Request<Body> {
        with_proof(token, &self.proof(token, json!({}), json!({})))
    }
}

fn laid_over(mut base: Value, over: Value) -> Value {
    let members = base.as_object_mut().unwrap();
    for (name, value) in over.as_object().unwrap() {
        match value {
            Value::Null => members.remove(name),
            _ => members.insert(name.clone(), value.clone()),
        };
    }
    base
}

pub fn with_proof(token: &str, proof: &str) -> Request<Body> {
    let mut request = presenting("DPoP", token);
    request.headers_mut().insert("dpop", proof.parse().unwrap());
    request
}

pub fn presenting(scheme: &str, token: &str) -> Request<Body> {
    let mut request = get("/orders/7");
    request.headers_mut().insert(AUTHORIZATION, format!("{scheme} {token}").parse().unwrap());
    request
}

fn challenge(headers: &HeaderMap) -> Option<&str> {
    headers.get(http::header::WWW_AUTHENTICATE).map(|value| value.to_str().unwrap())
}
