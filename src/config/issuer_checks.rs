//! Issuers as typed: what may be fetched from where, and what would let an agent hide.

use std::sync::Arc;

use url::{Host, Url};

use super::error::Diagnostics;
use super::file::File;
use super::file_policy::{ActorEntry, DeclaredKind, Issuer};
use super::names::{entries, items};
use super::source::{At, Span};
use crate::identity::Name;
use crate::token::{INTROSPECTION_TIME_MAX, LEEWAY_MAX, PROOF_AGE_MAX, Preset, ROTATION_GRACE_MAX};

/// What stands for the name of a key, at the end of an address under which each stands by itself.
pub const EACH_KEY: &str = "{kid}";

/// What stands for the tenant in an issuer's URL that is a template.
const TENANT: &str = "{tid}";

pub fn check(file: &File, found: &mut Diagnostics) {
    let mut asked =
        entries(&file.issuer).iter().filter_map(|(_, issuer)| issuer.value.introspection.as_ref());
    if let (Some(first), Some(second)) = (asked.next(), asked.next()) {
        let message = "an opaque token does not say whose it is, so one issuer is asked about them";
        let remedy = "keep `introspection` at one issuer";
        found.conflict("contradiction", (second.span, first.span), message.to_owned(), remedy);
    }
    for (name, issuer) in entries(&file.issuer) {
        check_urls(name, &issuer.value, found);
        for entry in items(&issuer.value.actor) {
            check_actor(entry, found);
        }
    }
}

fn check_urls(name: &At<Name>, issuer: &Issuer, found: &mut Diagnostics) {
    let preset = issuer.preset.map(|preset| preset.value);
    if !issuer.gives("url") {
        let message = format!("issuer `{}` has no `url`", name.value);
        found.error(
            "missing_key",
            name.span,
            message,
            "add `url = \"https://…\"`, the exact `iss` of its tokens",
        );
    }
    let urls = items(&issuer.url);
    let several = matches!(preset, Some(Preset::Entra | Preset::Google));
    if let [_, second, ..] = urls
        && !several
    {
        let remedy = "write one issuer for each; only the presets `entra` and `google` have several urls";
        found.error("contradiction", second.span, "an issuer is one `iss`", remedy);
    }
    for url in urls {
        if url.value.contains(TENANT) && preset != Some(Preset::Entra) {
            let message = format!("`{TENANT}` stands for a tenant, which only the preset `entra` has");
            found.error("bad_value", url.span, message, "write the exact `iss`");
        } else if !issuer.gives("jwks") && !url.value.starts_with("spiffe://") && preset != Some(Preset::Alb)
        {
            check_fetch(&url.value.replace(TENANT, "tenant"), url.span, issuer, found);
        }
    }
    if let Some(jwks) = &issuer.jwks
        && jwks.value.contains("://")
    {
        check_fetch(jwks.value.strip_suffix(EACH_KEY).unwrap_or(&jwks.value), jwks.span, issuer, found);
    }
    if let Some(asked) = &issuer.introspection {
        if let Some(endpoint) = &asked.value.endpoint {
            check_fetch(&endpoint.value, endpoint.span, issuer, found);
        }
        if let Some(time) = &asked.value.time_max
            && time.value.0 > INTROSPECTION_TIME_MAX
        {
            let message = "a token that was revoked would be taken for more than 1m";
            found.error("bad_value", time.span, message, "write at most `\"1m\"`; `\"30s\"` is the default");
        }
    }
    if let Some(leeway) = &issuer.leeway
        && leeway.value > LEEWAY_MAX
    {
        let message = "a leeway of more than 5m lets tokens outlive their expiry";
        found.error("bad_value", leeway.span, message, "write at most `\"5m\"`; `\"1m\"` is the default");
    }
    if let Some(grace) = &issuer.rotation_grace
        && grace.value > ROTATION_GRACE_MAX
    {
        let message = "a grace of more than 1h lets tokens serve without the key that they are bound to";
        found.error("bad_value", grace.span, message, "write at most `\"1h\"`; `\"5m\"` is the default");
    }
    if let Some(age) = &issuer.dpop_proof_age_max
        && age.value.0 > PROOF_AGE_MAX
    {
        let message = "a proof of more than 5m is one that can be stored up and sent by another";
        found.error("bad_value", age.span, message, "write at most `\"5m\"`; `\"1m\"` is the default");
    }
}

/// What is fetched over a network is fetched over https, or from this very machine.
fn check_fetch(text: &str, span: Span, issuer: &Issuer, found: &mut Diagnostics) {
    // Google's tokens may have this `iss`, which is no URL; nothing is fetched from it.
    if text == "accounts.google.com" && issuer.preset.is_some_and(|preset| preset.value == Preset::Google) {
        return;
    }
    let url = match Url::parse(text) {
        Ok(url) if url.has_host() && url.username().is_empty() && url.password().is_none() => url,
        Ok(_) => {
            let remedy = "write it as the provider does, without user or password";
            found.error("bad_value", span, "this is no url of a provider", remedy);
            return;
        }
        Err(error) => {
            found.error("bad_value", span, format!("this is no url: {error}"), "write `https://…`");
            return;
        }
    };
    match url.scheme() {
        "https" => {}
        "http" if !is_loopback(&url) => {
            let remedy = "write `https://…`; plain http is for loopback only, with `allow_http = true`";
            found.error("insecure_fetch", span, "what is fetched over plain http can be anybody's", remedy);
        }
        "http" if !issuer.allow_http.as_ref().is_some_and(|allow| allow.value) => {
            let message = "plain http, also from loopback, is said aloud";
            found.error("insecure_fetch", span, message, "add `allow_http = true` to this issuer");
        }
        "http" => {}
        scheme => {
            found.error(
                "bad_value",
                span,
                format!("nothing is fetched over `{scheme}`"),
                "write `https://…`",
            );
        }
    }
}

/// Whether a URL leads to this very machine.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(domain)) => domain == "localhost",
        None => false,
    }
}

/// An entry that is true of no token, or of more than it seems.
fn check_actor(entry: &At<ActorEntry>, found: &mut Diagnostics) {
    let typed = &entry.value;
    if entries(&typed.claim).is_empty() && typed.same.is_none() && typed.is_read() {
        let message = "this entry does not say by what its kind of actor is known";
        found.error("missing_key", entry.span, message, "add `claim = { … = \"…\" }`");
    }
    match &typed.same {
        Some(same) if !matches!(&same.value[..], [one, other] if one.value != other.value) => {
            let remedy = "write two, as `same = [\"sub\", \"client_id\"]`";
            found.error("bad_value", same.span, "`same` compares two claims", remedy);
        }
        _ => {}
    }
}

/// An agent that could leave the claim away by which it is known would be taken for something else.
pub fn check_agents(issuer: &Issuer, required: &[Arc<str>], found: &mut Diagnostics) {
    let is_agent = |kind: &At<DeclaredKind>| kind.value == DeclaredKind::Agent;
    for entry in items(&issuer.actor).iter().filter(|entry| entry.value.kind.as_ref().is_some_and(is_agent)) {
        let tested = entries(&entry.value.claim).iter().map(|(claim, _)| claim);
        for claim in tested.chain(items(&entry.value.same)) {
            if !required.iter().any(|required| **required == *claim.value) {
                let message =
                    format!("an agent is known by `{}`, which a token of this issuer may lack", claim.value);
                let remedy = format!("add `\"{}\"` to the issuer's `requires`", claim.value);
                found.error("agent_evadable", claim.span, message, remedy);
            }
        }
    }
}
