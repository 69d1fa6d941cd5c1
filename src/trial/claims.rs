//! Claims by hand become the token that their issuer would have signed: what it puts into all of its tokens
//! is added, and nothing that says more of the caller than they do.

use std::time::Duration;

use serde_json::{Map, Value};

use super::question::Claims;
use crate::clock::Timestamp;
use crate::identity::ActorKind;
use crate::policy::claim::{ClaimPath, ClaimValue};
use crate::policy::pattern::Glob;
use crate::proxy::assertion;
use crate::token::{ASSERTED_NOBODY, Algorithm, IssuerSettings, TokenType};

/// For how long tokens are good that do not say.
const LIFETIME: Duration = Duration::from_secs(300);
/// The same of log-ins at an AWS load balancer.
const ALB_LIFETIME: Duration = Duration::from_secs(120);
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
/// for, and over them what is given by hand. An assertion has no `jti`, and says who acts; what a load balancer says has
/// neither that nor `iat`, and names the load balancer (`signer`) and its client (`client_id`).
pub fn completed(issuer: &IssuerSettings, given: &Claims, now: Timestamp) -> Value {
    let mut claims = Map::new();
    let mut put = |name: &str, value: Value| _ = claims.insert(name.to_owned(), value);
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
    let is_alb = issuer.token_type.is_alb();
    let lifetime = match &issuer.token_type {
        TokenType::Assertion => {
            kinds(&given.claims).into_iter().for_each(|(name, kind)| put(name, kind.into()));
            assertion::LIFETIME
        }
        TokenType::Alb { signers } => {
            signers.iter().take(1).for_each(|signer| put("signer", (**signer).into()));
            ALB_LIFETIME
        }
        TokenType::AccessToken | TokenType::Provider(_) => {
            put("jti", "trial".into());
            LIFETIME
        }
    };
    put("exp", now.plus(lifetime).unix_seconds().into());
    if !is_alb {
        put("iat", now.unix_seconds().into());
    }
    if let Some(audience) = issuer.audience.first() {
        let name = if is_alb || issuer.quirks.client_is_audience { "client_id" } else { "aud" };
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

/// Who acts and for whom, as an assertion has it: for himself, where the one is said and nobody acts for him.
fn kinds(given: &Map<String, Value>) -> Vec<(&'static str, &str)> {
    let said = |name: &str| given.get(name).and_then(Value::as_str);
    let unknown = ActorKind::Unknown.as_str();
    let is_alone = !given.contains_key("act");
    let himself = |kind: &&str| {
        is_alone && [ActorKind::Human, ActorKind::Service].map(ActorKind::as_str).contains(kind)
    };
    let (actor, behind) = (said("actor"), said("on_behalf_of"));
    let mut kinds = vec![("actor", behind.filter(himself).unwrap_or(unknown))];
    if actor != Some(ASSERTED_NOBODY) {
        kinds.push(("on_behalf_of", actor.filter(himself).unwrap_or(unknown)));
    }
    kinds
}

fn exact(value: &ClaimValue) -> Option<Value> {
    match value {
        ClaimValue::Text(Glob::Exact(text)) => Some((**text).into()),
        ClaimValue::Text(Glob::Prefix(_)) => None,
        ClaimValue::Integer(number) => Some((*number).into()),
        ClaimValue::Boolean(value) => Some((*value).into()),
    }
}
