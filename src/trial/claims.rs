//! Claims by hand become the token that their issuer would have signed: what it puts into all of its tokens
//! is added, and nothing that says who the caller is.

use std::time::Duration;

use serde_json::{Map, Value};

use super::question::Claims;
use crate::clock::Timestamp;
use crate::policy::claim::{ClaimPath, ClaimValue};
use crate::policy::pattern::Glob;
use crate::token::{Algorithm, IssuerSettings};

/// For how long tokens are good that do not say.
const LIFETIME: Duration = Duration::from_secs(300);
/// Of a token that names none, where the issuer takes any.
const TENANT: &str = "00000000-0000-0000-0000-000000000000";
/// Quick ones first.
const PREFERRED: [Algorithm; 9] = [
    Algorithm::Es256,
    Algorithm::EdDsa,
    Algorithm::Es384,
    Algorithm::Rs256,
    Algorithm::Ps256,
    Algorithm::Rs384,
    Algorithm::Ps384,
    Algorithm::Rs512,
    Algorithm::Ps512,
];

/// What to sign an issuer's tokens with.
pub fn algorithm(issuer: &IssuerSettings) -> Option<Algorithm> {
    PREFERRED.into_iter().find(|algorithm| issuer.algorithms.contains(algorithm))
}

/// All that the token says: `iss aud iat exp jti`, the marks of the provider's access tokens, what `only` asks
/// for, and over them what is given by hand.
pub fn completed(issuer: &IssuerSettings, given: &Claims, now: Timestamp) -> Value {
    let mut claims = Map::new();
    let mut put = |name: &str, value: Value| claims.insert(name.to_owned(), value);
    for test in &issuer.only {
        if let (ClaimPath(path), Some(value)) = (&test.claim, test.values.iter().find_map(exact))
            && let [name] = &path[..]
        {
            put(name, value);
        }
    }
    if let Some((name, value)) = issuer.quirks.access_mark {
        put(name, value.into());
    }
    put("iat", now.unix_seconds().into());
    put("exp", now.plus(LIFETIME).unix_seconds().into());
    put("jti", "trial".into());
    if let Some(audience) = issuer.audience.first() {
        let name = if issuer.quirks.client_is_audience { "client_id" } else { "aud" };
        put(name, (**audience).into());
    }
    claims.extend(given.claims.clone());
    let mut tenant = None;
    let issued = issuer.url.issued(|| {
        let named = claims.get("tid").and_then(Value::as_str).unwrap_or(TENANT).to_owned();
        tenant.insert(named).clone()
    });
    for (name, value) in [("iss", issued), ("tid", tenant)] {
        if let Some(value) = value {
            claims.entry(name).or_insert(value.into());
        }
    }
    for name in &given.without {
        claims.remove(name);
    }
    Value::Object(claims)
}

fn exact(value: &ClaimValue) -> Option<Value> {
    match value {
        ClaimValue::Text(Glob::Exact(text)) => Some((**text).into()),
        ClaimValue::Text(Glob::Prefix(_)) => None,
        ClaimValue::Integer(number) => Some((*number).into()),
        ClaimValue::Boolean(value) => Some((*value).into()),
    }
}
