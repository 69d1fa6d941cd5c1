//! Issuers: what was typed, added to what the preset knows.

use std::sync::Arc;

use url::Url;

use super::error::Diagnostics;
use super::file::File;
use super::file_policy::{Issuer, TokenType as TypedTokenType};
use super::issuer_alb::{check_alb, each_key};
use super::issuer_checks::{check, check_agents};
use super::material::Material;
use super::names::{Names, claim_tests, entries, items, refuse_reserved, texts};
use super::settings::{key_document_bytes_max, seconds};
use super::source::{At, Sources};
use crate::identity::Name;
use crate::policy::claim::ClaimPath;
use crate::token::{
    ActorEntry, IntrospectionSettings, IssuerSettings, IssuerUrl, KeySettings, KeySource, Location, Preset,
    TokenType,
};

const MAX_STALE_DEFAULT_S: u64 = 24 * 60 * 60;
const INTROSPECTION_TIME_DEFAULT_S: u64 = 30;

/// All issuers whose settings could be made out, in the order of their names; an error keeps the rest
/// from being loaded.
pub fn issuers(
    file: &File,
    sources: &Sources,
    material: &mut Material<'_>,
    found: &mut Diagnostics,
) -> (Names, Vec<IssuerSettings>) {
    refuse_reserved("issuer", &file.issuer, found);
    check(file, found);
    let document_bytes_max = key_document_bytes_max(file);
    let settings: Vec<_> = entries(&file.issuer)
        .iter()
        .map(|(name, typed)| {
            let settings = settings((file, name, &typed.value), document_bytes_max, sources, material, found);
            if let Some(settings) = &settings {
                check_agents(&typed.value, &settings.facts().requires, found);
            }
            (name.value.to_string(), settings)
        })
        .collect();
    refuse_overlaps(file, &settings, found);
    Names::number("issuer", "unknown_issuer", settings)
}

fn settings(
    (file, name, typed): (&File, &At<Name>, &Issuer),
    document_bytes_max: usize,
    sources: &Sources,
    material: &mut Material<'_>,
    found: &mut Diagnostics,
) -> Option<IssuerSettings> {
    let preset = typed.preset.map_or(Preset::Generic, |preset| preset.value);
    let mut urls: Vec<&str> = items(&typed.url).iter().map(|url| url.value.as_str()).collect();
    urls.extend(
        preset.also_issuer().iter().filter(|also| !items(&typed.url).iter().any(|url| url.value == **also)),
    );
    let url = match IssuerUrl::parse(&urls) {
        Ok(url) => url,
        Err(error) => {
            if let Some(place) = &typed.url {
                found.error(
                    "bad_value",
                    place.span,
                    error.to_string(),
                    "write the exact `iss` of its tokens",
                );
            }
            return None;
        }
    };
    check_only(name, typed, preset, &url, found);
    check_alb((file, name, typed), preset, found);
    let keys = KeySettings {
        source: key_source((file, name, typed), preset, &url, sources, material, found)?,
        key_use: preset.key_use(),
        ca: typed.ca.as_ref().and_then(|ca| material.server_ca(ca, found)),
        server_spiffe_ids: items(&typed.server_spiffe_id).iter().map(|id| id.value.clone()).collect(),
        credential: typed.jwks_credential.as_ref().map(|secret| material.secret(secret, found)),
        allow_http: typed.allow_http.is_some_and(|allow| allow.value),
        allow_private_addresses: typed.allow_private_addresses.is_some_and(|allow| allow.value),
        max_stale: seconds(&typed.max_stale, MAX_STALE_DEFAULT_S),
        document_bytes_max,
    };
    let introspection = introspection(name, typed, &keys, &url, material, found);
    let mut settings = preset.fill(name.value.clone(), url, texts(&typed.audience), keys);
    by_hand(&mut settings, typed);
    settings.introspection = introspection;
    Some(settings)
}

fn introspection(
    name: &At<Name>,
    typed: &Issuer,
    keys: &KeySettings,
    url: &IssuerUrl,
    material: &mut Material<'_>,
    found: &mut Diagnostics,
) -> Option<IntrospectionSettings> {
    let asked = typed.introspection.as_ref()?;
    let mut missing = |key: &str, remedy: &str| {
        let message = format!("issuer `{}` is asked about tokens, and there is no `{key}`", name.value);
        found.error("missing_key", asked.span, message, remedy);
    };
    if !typed.gives("client_id") {
        missing("client_id", "add `client_id = \"…\"`, as the provider knows this proxy");
    }
    if !typed.gives("client_secret") {
        missing("client_secret", "add `client_secret = { env = \"…\" }` or `{ file = \"…\" }`");
    }
    let endpoint = match (&asked.value.endpoint, &keys.source) {
        // `check` tells what is wrong with it
        (Some(endpoint), _) => Url::parse(&endpoint.value).ok().map(Location::Url),
        (None, KeySource::Discovery { document, issuer }) => {
            Some(Location::Discovery { document: document.clone(), issuer: Arc::clone(issuer) })
        }
        (None, KeySource::Url(_) | KeySource::Each(_) | KeySource::File(_) | KeySource::Own) => match url
            .discovery()
        {
            Ok(KeySource::Discovery { document, issuer }) => Some(Location::Discovery { document, issuer }),
            _ => {
                missing("endpoint", "add `introspection = { endpoint = \"https://…\" }`");
                None
            }
        },
    };
    Some(IntrospectionSettings {
        endpoint: endpoint?,
        client_id: typed.client_id.as_ref()?.value.as_str().into(),
        client_secret: material.secret(typed.client_secret.as_ref()?, found),
        time_max: seconds(&asked.value.time_max, INTROSPECTION_TIME_DEFAULT_S),
    })
}

/// Keys given by hand win over the preset's; actors add to them.
fn by_hand(settings: &mut IssuerSettings, typed: &Issuer) {
    if let Some(algorithms) = &typed.algorithms {
        settings.algorithms = algorithms.value.iter().map(|algorithm| algorithm.value).collect();
    }
    match typed.token_type.map(|token_type| token_type.value) {
        Some(TypedTokenType::AccessToken) => settings.token_type = TokenType::AccessToken,
        Some(TypedTokenType::Plain) => settings.token_type = TokenType::PLAIN,
        None => {}
    }
    if let TokenType::Alb { signers } = &mut settings.token_type {
        *signers = texts(&typed.signer);
    }
    if let Some(leeway) = &typed.leeway {
        settings.leeway = leeway.value;
    }
    let possession = &mut settings.possession;
    if let Some(grace) = &typed.rotation_grace {
        possession.rotation_grace = grace.value;
    }
    if let Some(age) = &typed.dpop_proof_age_max {
        possession.proof_age_max = age.value.0;
    }
    possession.proof_nonce = typed.dpop_nonce.is_some_and(|nonce| nonce.value);
    settings.requires = texts(&typed.requires);
    settings.only = claim_tests(&typed.only);
    if let Some(claims) = &typed.claims {
        let claims = &claims.value;
        let map = &mut settings.claims;
        if let Some(subject) = &claims.subject {
            map.subject = subject.value.clone();
        }
        for (given, place) in [
            (&claims.client, &mut map.client),
            (&claims.scopes, &mut map.scopes),
            (&claims.groups, &mut map.groups),
            (&claims.roles, &mut map.roles),
        ] {
            if let Some(given) = given {
                *place = Some(given.value.clone());
            }
        }
    }
    for entry in items(&typed.actor) {
        let claim = claim_tests(&entry.value.claim);
        let same = match items(&entry.value.same) {
            [one, other] => Some([one, other].map(|name| ClaimPath::top_level(&name.value))),
            _ => None,
        };
        let kind = entry.value.kind.map(|kind| kind.value.actor());
        let added = kind.map(|kind| ActorEntry { kind, claim, same });
        settings.actors.extend(added.filter(|added| !settings.actors.contains(added)));
    }
}

/// Where anybody can get a token, it must say whose are taken.
fn check_only(name: &At<Name>, typed: &Issuer, preset: Preset, url: &IssuerUrl, found: &mut Diagnostics) {
    let tenants = preset == Preset::Entra && items(&typed.url).len() > 1;
    let why = match preset.needs_only(url) {
        None if tenants => {
            Some("it has several tenants, so `only` must say which, as `only = { tid = [\"…\"] }`")
        }
        why => why,
    };
    let template_refused =
        preset != Preset::Entra && items(&typed.url).iter().any(|url| url.value.contains('{'));
    if let Some(why) = why
        && !typed.gives("only")
        && !template_refused
    {
        let span = typed.preset.map_or(name.span, |preset| preset.span);
        let message = format!("issuer `{}` does not say whose tokens it takes", name.value);
        found.error("open_issuer", span, message, why);
    }
}

fn key_source(
    (file, name, typed): (&File, &At<Name>, &Issuer),
    preset: Preset,
    url: &IssuerUrl,
    sources: &Sources,
    material: &mut Material<'_>,
    found: &mut Diagnostics,
) -> Option<KeySource> {
    if preset == Preset::Alb {
        return each_key(name, typed, found).map(KeySource::Each);
    }
    let Some(jwks) = &typed.jwks else {
        if typed.gives("jwks") {
            return None;
        }
        let asserts = file.assertion.as_ref().and_then(|assertion| assertion.value.issuer.as_ref());
        if preset == Preset::Countersign && asserts.is_some_and(|own| url.is(&own.value)) {
            return Some(KeySource::Own);
        }
        return match preset.keys(url) {
            Ok(source) => Some(source),
            Err(error) => {
                let span = typed.url.as_ref().map_or(name.span, |url| url.span);
                if !found.has_error_in(span) {
                    found.error(
                        "bad_value",
                        span,
                        error.to_string(),
                        "write `https://…`, or add `jwks = \"…\"`",
                    );
                }
                None
            }
        };
    };
    if jwks.value.contains("://") {
        // `check` has told what is wrong with it
        return Url::parse(&jwks.value).ok().map(KeySource::Url);
    }
    let path = sources.folder(jwks.span.file).join(&jwks.value);
    material.key_file(&path, preset.key_use(), jwks.span, found);
    Some(KeySource::File(path))
}

/// Two issuers whose tokens could be taken for one another's.
fn refuse_overlaps(file: &File, settings: &[(String, Option<IssuerSettings>)], found: &mut Diagnostics) {
    let place = |name: &str| {
        let issuer = entries(&file.issuer).iter().find(|(typed, _)| typed.value.as_str() == name);
        issuer.map(|(name, issuer)| issuer.value.url.as_ref().map_or(name.span, |url| url.span))
    };
    for (at, (name, one)) in settings.iter().enumerate() {
        for (other_name, other) in &settings[at + 1..] {
            let (Some(one), Some(other)) = (one, other) else { continue };
            if one.overlaps(other)
                && let (Some(one), Some(other)) = (place(name), place(other_name))
            {
                let message = format!("a token could be of issuer `{name}` and of `{other_name}`");
                let remedy = "keep one issuer for each `iss`, with both audiences";
                found.conflict("duplicate_issuer", (one.max(other), one.min(other)), message, remedy);
            }
        }
    }
}
