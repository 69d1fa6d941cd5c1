//! Issuers as typed: whose tokens are believed, and what may not be left open about them.

use std::sync::Arc;
use std::time::Duration;

use url::{Host, Url};

use super::error::Diagnostics;
use super::file::File;
use super::file_policy::{DeclaredKind, Issuer, Preset};
use super::names::{Names, entries, items, refuse_reserved, texts};
use super::source::{At, Span};
use crate::identity::{ActorKind, Name};
use crate::policy::condition::ClaimPath;
use crate::policy::role::IssuerFacts;

/// A provider's clock may not be further off than this: tokens would outlive their expiry by it.
const LEEWAY_MAX: Duration = Duration::from_secs(300);

/// What stands for the tenant in an issuer's URL that is a template.
const TENANT: &str = "{tid}";

/// What the policy must know of each issuer.
pub fn issuers(file: &File, found: &mut Diagnostics) -> (Names, Vec<IssuerFacts>) {
    refuse_reserved("issuer", &file.issuer, found);
    for (name, issuer) in entries(&file.issuer) {
        check_urls(name, &issuer.value, found);
        check_openness(&issuer.value, found);
        check_agents(&issuer.value, found);
    }
    check_unique(file, found);
    let facts = entries(&file.issuer)
        .iter()
        .map(|(name, issuer)| (name.value.to_string(), Some(facts(&name.value, &issuer.value))));
    Names::number("issuer", "unknown_issuer", facts)
}

fn facts(name: &Name, issuer: &Issuer) -> IssuerFacts {
    let claims = issuer.claims.as_ref().map(|claims| &claims.value);
    let top = |claim: Option<&At<ClaimPath>>| claim.and_then(|claim| claim.value.0.first().cloned());
    let mut actors = vec![ActorKind::Unknown];
    let mut actor_claims: Vec<Arc<str>> = Vec::new();
    for entry in items(&issuer.actor) {
        actors.extend(entry.value.kind.map(|kind| kind.value.actor()));
        actor_claims.extend(entries(&entry.value.claim).iter().map(|(claim, _)| claim.value.as_str().into()));
    }
    actors.sort_unstable();
    actors.dedup();
    actor_claims.sort_unstable();
    actor_claims.dedup();
    IssuerFacts {
        name: name.clone(),
        requires: texts(&issuer.requires),
        subject: top(claims.and_then(|claims| claims.subject.as_ref())).or_else(|| Some("sub".into())),
        client: top(claims.and_then(|claims| claims.client.as_ref())),
        groups: top(claims.and_then(|claims| claims.groups.as_ref())),
        roles: top(claims.and_then(|claims| claims.roles.as_ref())),
        actors,
        actor_claims,
    }
}

fn check_urls(name: &At<Name>, issuer: &Issuer, found: &mut Diagnostics) {
    let preset = issuer.preset.map(|preset| preset.value);
    if !issuer.gives("url") && preset != Some(Preset::Spiffe) {
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
        } else {
            check_fetch(&url.value.replace(TENANT, "tenant"), url.span, issuer, found);
        }
    }
    if let Some(jwks) = &issuer.jwks
        && jwks.value.contains("://")
    {
        check_fetch(&jwks.value, jwks.span, issuer, found);
    }
    if let Some(leeway) = &issuer.leeway
        && leeway.value > LEEWAY_MAX
    {
        let message = "a leeway of more than 5m lets tokens outlive their expiry";
        found.error("bad_value", leeway.span, message, "write at most `\"5m\"`; `\"30s\"` is the default");
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
    let loopback = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(domain)) => domain == "localhost",
        None => false,
    };
    match url.scheme() {
        "https" => {}
        "http" if !loopback => {
            let remedy = "write `https://…`; plain http is for loopback only, with `allow_http = true`";
            found.error("insecure_fetch", span, "keys fetched over plain http can be anybody's", remedy);
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

/// Where anybody can get a token, it must say whose are taken.
fn check_openness(issuer: &Issuer, found: &mut Diagnostics) {
    let Some(preset) = &issuer.preset else { return };
    let tenants = items(&issuer.url);
    let open = match preset.value {
        Preset::GitHub | Preset::Google => true,
        Preset::Entra => tenants.len() > 1 || tenants.iter().any(|url| url.value.contains(TENANT)),
        _ => false,
    };
    if open && !issuer.gives("only") {
        let remedy = match preset.value {
            Preset::GitHub => "add `only = { repository_owner_id = \"…\" }`",
            Preset::Google => "add `only = { hd = \"shop.example\" }`",
            _ => "add `only = { tid = [\"…\"] }`",
        };
        found.error("open_issuer", preset.span, "the whole world can get a token of this issuer", remedy);
    }
}

/// An agent that could leave the claim away by which it is known would be taken for something else.
fn check_agents(issuer: &Issuer, found: &mut Diagnostics) {
    let required = texts(&issuer.requires);
    let is_agent = |kind: &At<DeclaredKind>| kind.value == DeclaredKind::Agent;
    for entry in items(&issuer.actor).iter().filter(|entry| entry.value.kind.as_ref().is_some_and(is_agent)) {
        for (claim, _) in entries(&entry.value.claim) {
            if !required.iter().any(|required| **required == *claim.value) {
                let message =
                    format!("an agent is known by `{}`, which a token of this issuer may lack", claim.value);
                let remedy = format!("add `\"{}\"` to the issuer's `requires`", claim.value);
                found.error("agent_evadable", claim.span, message, remedy);
            }
        }
    }
}

fn check_unique(file: &File, found: &mut Diagnostics) {
    let mut seen: Vec<&At<String>> = Vec::new();
    for url in entries(&file.issuer).iter().flat_map(|(_, issuer)| items(&issuer.value.url)) {
        match seen.iter().find(|earlier| earlier.value == url.value) {
            Some(earlier) => {
                let message = format!("`{}` is another issuer's `iss` already", url.value);
                let places = (url.span.max(earlier.span), url.span.min(earlier.span));
                found.conflict(
                    "duplicate_issuer",
                    places,
                    message,
                    "keep one issuer for it, with both audiences",
                );
            }
            None => seen.push(url),
        }
    }
}
