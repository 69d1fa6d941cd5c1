//! What an assertion says, in the words of the RFCs where they have one.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::{Asserted, AssertionSettings, Audience};
use crate::clock::Timestamp;
use crate::identity::{ActorKind, Bound, Caller, CertificateHash, Delegate, Hop, Name, Peer, PeerName};
use crate::token::ASSERTED_NOBODY;

/// The names that an assertion gives a meaning of its own; a claim that is passed on cannot have one of these.
pub const NAMES: [&str; 24] = [
    "iss",
    "aud",
    "sub",
    "iat",
    "nbf",
    "exp",
    "jti",
    "act",
    "cnf",
    "client_id",
    "scope",
    "groups",
    "roles",
    "acr",
    "auth_time",
    "actor",
    "on_behalf_of",
    "subject_issuer",
    "caller_exp",
    "bound",
    "peer",
    "via",
    "decision",
    "enforced",
];

/// The claims, good from `now` until `ends`.
pub fn claims(
    settings: &AssertionSettings,
    audience: &Audience,
    asserted: &Asserted<'_>,
    (now, ends): (Timestamp, Timestamp),
) -> Value {
    let Asserted { signatures, evidence, permit, id } = asserted;
    let mut claims = Map::new();
    let mut say = |name: &str, value: Value| drop(claims.insert(name.to_owned(), value));
    say("iss", (*settings.issuer).into());
    say("aud", (*audience.name).into());
    say("iat", now.unix_seconds().into());
    say("exp", ends.unix_seconds().into());
    say("decision", (*id).into());
    if !permit.enforced() {
        say("enforced", false.into());
    }
    if let Some(certificate) = &audience.bound_to {
        say("cnf", json!({ "x5t#S256": thumbprint(certificate) }));
    }
    let caller = signatures.caller.verified();
    match caller {
        Some(caller) => {
            tell_caller(caller, &settings.claims, &mut say);
            say("roles", texts(evidence.roles.iter().map(Name::as_str)));
        }
        None => say("actor", ASSERTED_NOBODY.into()),
    }
    let before = caller.and_then(|caller| caller.via.as_deref()).unwrap_or_default();
    let peer = signatures.peer.verified();
    if let Some(peer) = peer {
        say("peer", told(peer, &evidence.services));
    }
    say("via", texts(before.iter().map(|name| &**name).chain(named(peer, before).as_deref())));
    claims.into()
}

fn tell_caller(caller: &Caller, passed_on: &[Arc<str>], say: &mut impl FnMut(&str, Value)) {
    // First: what is said below wins.
    for name in passed_on {
        if let Some(value) = caller.claims.get(&**name) {
            say(name, value.clone());
        }
    }
    let mut text = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            say(name, value.into());
        }
    };
    text("sub", caller.subject.as_deref());
    text("client_id", caller.client.as_deref());
    text("acr", caller.acr.as_deref());
    text("subject_issuer", subject_issuer(caller));
    text("bound", caller.bound_to().map(Bound::as_str));
    text("actor", Some(caller.actor.as_str()));
    text("on_behalf_of", Some(caller.on_behalf_of.as_str()));
    if let Some(at) = caller.authenticated_at {
        say("auth_time", at.unix_seconds().into());
    }
    say("caller_exp", caller.token_ends().unix_seconds().into());
    // What is more than one word would be more than one scope there (RFC 6749 §3.3).
    let scopes: Vec<&str> =
        caller.scopes.iter().map(|scope| &**scope).filter(|scope| !scope.contains(' ')).collect();
    if !scopes.is_empty() {
        say("scope", scopes.join(" ").into());
    }
    if !caller.groups.is_empty() {
        say("groups", texts(caller.groups.iter().map(|group| &**group)));
    }
    if let Some(act) = act(caller) {
        say("act", act);
    }
}

/// Who said first who the subject is.
fn subject_issuer(caller: &Caller) -> Option<&str> {
    match caller.via {
        Some(_) => caller.subject_issuer(),
        None => caller.claims.get("iss").and_then(Value::as_str),
    }
}

/// Who acts for the subject (RFC 8693 §4.1). Whom the token's own issuer names, this proxy names now; what kind the
/// outermost is stands beside its name.
fn act(caller: &Caller) -> Option<Value> {
    let own = caller.claims.get("iss").and_then(Value::as_str);
    let link = |within: Option<Value>, link: &Delegate| {
        let mut members = Map::new();
        members.insert("sub".to_owned(), (*link.subject).into());
        if let Some(issuer) = link.issuer.as_deref().filter(|issuer| Some(*issuer) != own) {
            members.insert("iss".to_owned(), issuer.into());
        }
        members.extend(within.map(|within| ("act".to_owned(), within)));
        Some(Value::Object(members))
    };
    let mut act = caller.chain.iter().rev().fold(None, link)?;
    if matches!(caller.actor, ActorKind::Human | ActorKind::Service) {
        act["on_behalf_of"] = caller.actor.as_str().into();
    }
    Some(act)
}

/// The service that carries the request.
fn told(peer: &Peer, services: &[Name]) -> Value {
    let mut told = json!({
        "service": texts(services.iter().map(Name::as_str)),
        "x5t#S256": thumbprint(&peer.certificate),
        "hop": peer.hop.as_str(),
    });
    match &peer.name {
        PeerName::Spiffe(id) => told["spiffe_id"] = id.to_string().into(),
        PeerName::Dns { names, trust_domain } => {
            told["dns_names"] = texts(names.iter().map(|name| &**name));
            told["trust_domain"] = trust_domain.as_str().into();
        }
    }
    told
}

/// The service that carries the request, unless it is this proxy's own, which whoever comes next meets itself.
fn named(peer: Option<&Arc<Peer>>, before: &[Arc<str>]) -> Option<String> {
    let peer = peer.filter(|peer| peer.hop != Hop::Local)?;
    let name = peer.name.to_string();
    before.last().is_none_or(|last| **last != *name).then_some(name)
}

fn texts<'a>(texts: impl Iterator<Item = &'a str>) -> Value {
    texts.map(Value::from).collect()
}

fn thumbprint(certificate: &CertificateHash) -> String {
    URL_SAFE_NO_PAD.encode(certificate.0)
}
