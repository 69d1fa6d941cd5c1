//! The table: who asks for what, and what is judged of it.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::world::client::Protocol;
use crate::world::issuer::Issuer;
use crate::world::proxy::HOST;
use crate::world::sha256_of;
use crate::world::signing::{KEYS, Key, forged};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    pub policy: String,
    pub group: Vec<Group>,
    pub caller: BTreeMap<String, Caller>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// What they have in common.
    pub what: String,
    pub rows: Vec<Row>,
}

/// Who asks for what; verdict, reason and rule; header fields, and the `body`.
#[derive(Deserialize)]
pub struct Row(
    pub String,
    pub String,
    pub String,
    pub String,
    #[serde(default)] pub String,
    #[serde(default)] pub BTreeMap<String, String>,
);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caller {
    #[serde(default)]
    issuer: Option<String>,
    #[serde(default)]
    claims: serde_json::Map<String, Value>,
    #[serde(default)]
    without: Vec<String>,
    /// Claims that are so many seconds ago.
    #[serde(default)]
    ago: BTreeMap<String, i64>,
    /// To whose certificate it is bound: the `storefront`'s, which all requests come by, or `another`.
    #[serde(default)]
    bound: Option<String>,
    /// How, if not as it should be.
    #[serde(default)]
    made: Option<String>,
}

/// A row with what stands for its names.
pub struct Asked<'t> {
    pub host: &'t str,
    pub path: &'t str,
    pub method: &'t str,
    pub token: Option<&'t str>,
    pub fields: Vec<(&'t str, &'t str)>,
    pub body: &'t str,
    pub traceparent: String,
    pub protocol: Protocol,
}

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/modes.toml");

impl Table {
    pub fn read() -> Table {
        toml::from_str(&std::fs::read_to_string(TABLE).unwrap()).unwrap()
    }
}

impl Row {
    pub fn asked<'t>(&'t self, at: usize, token: Option<&'t str>) -> Asked<'t> {
        let Row(_, request, .., fields) = self;
        let (method, target) = request.split_once(' ').unwrap();
        let (host, path) = target.split_at(target.find('/').unwrap());
        let grpc = fields.get("content-type").is_some_and(|it| it.starts_with("application/grpc"));
        let mut fields: Vec<_> = fields.iter().map(|(name, value)| (&**name, &**value)).collect();
        let body = fields.iter().position(|(name, _)| *name == "body").map(|at| fields.swap_remove(at).1);
        Asked {
            host: if host.is_empty() { HOST } else { host },
            path,
            method,
            token,
            fields,
            body: body.unwrap_or_default(),
            traceparent: format!("00-{:032x}-00000000000000ff-01", at + 1),
            protocol: if grpc { Protocol::H2 } else { Protocol::BOTH[at % 2] },
        }
    }
}

impl Caller {
    /// What is sent: by one of the two issuers, and by nobody but the holder of this certificate, if it is bound.
    pub fn token(&self, corp: &Issuer, partner: &Issuer, storefront: &[u8]) -> Option<String> {
        let mut claims = self.claims.clone();
        claims.extend(self.without.iter().map(|name| (name.clone(), Value::Null)));
        let now = corp.clock.now().unix_seconds();
        claims.extend(self.ago.iter().map(|(name, ago)| (name.clone(), (now - ago).into())));
        if let Some(whose) = &self.bound {
            let leaf = if whose == "storefront" { storefront } else { whose.as_bytes() };
            claims.insert("cnf".to_owned(), json!({ "x5t#S256": URL_SAFE_NO_PAD.encode(sha256_of(leaf)) }));
        }
        let claims = Value::Object(claims);
        let issuer = match self.issuer.as_deref() {
            Some("partner") => partner,
            _ => corp,
        };
        let by = |key: &Key| issuer.token_by(key, json!({}), claims.clone());
        let one_of = |algorithm: &str| KEYS.iter().find(|key| key.algorithm == algorithm).unwrap();
        match self.made.as_deref() {
            Some("nothing") => None,
            None => Some(issuer.token(claims)),
            Some("forged") => Some(forged(&issuer.token(claims))),
            Some("unknown key") => Some(by(&Key::new("other", "ES256"))),
            Some("HS256") => Some(by(&Key::confused("RS256", &KEYS[0].public_der()))),
            Some("JWT") => Some(issuer.token_by(&KEYS[0], json!({ "typ": "JWT" }), claims)),
            Some("garbage") => Some("garbage".to_owned()),
            Some("huge") => Some("a".repeat(20_000)),
            Some(algorithm) => Some(by(one_of(algorithm))),
        }
    }
}
