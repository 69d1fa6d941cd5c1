//! What upstreams are shown: `[upstream.NAME.credential]`, and that it and its routes say one thing.

use std::sync::Arc;

use url::Url;

use super::error::Diagnostics;
use super::file::{File, Upstream};
use super::file_credential::{ActorToken, ClientAuthentication, Credential};
use super::issuer_checks::is_loopback;
use super::material::Material;
use super::names::{Names, entries, items};
use super::read::List;
use super::source::{At, Span};
use crate::tls::Own;
use crate::token::{IssuerSettings, KeySource, Location};
use crate::upstream::credential::{
    Authentication, CredentialKind, CredentialSettings, EndpointSettings, ExchangeSettings, OwnSettings,
    Wanted,
};

const ENTRIES_MAX_DEFAULT: u64 = 10_000;
/// The keys that only a kind with a token endpoint has.
const OF_ENDPOINTS: [&str; 13] = [
    "issuer",
    "token_endpoint",
    "ca",
    "allow_http",
    "allow_private_addresses",
    "client_id",
    "client_authentication",
    "client_secret",
    "private_key",
    "key_id",
    "scope",
    "audience",
    "resource",
];
const OF_EXCHANGES: [&str; 2] = ["actor_token", "entries_max"];
/// What an `issuer` says already.
const OF_ISSUERS: [&str; 4] = ["token_endpoint", "ca", "allow_http", "allow_private_addresses"];

/// What an upstream is shown; `None` after an error.
pub fn credential(
    upstream: &Upstream,
    own: Option<&Own>,
    issuers: (&Names, &[IssuerSettings]),
    material: &mut Material<'_>,
    found: &mut Diagnostics,
) -> Option<CredentialSettings> {
    let Some(typed) = &upstream.credential else {
        return (!upstream.gives("credential")).then_some(CredentialSettings::ByRoute);
    };
    let (span, typed) = (typed.span, &typed.value);
    let kind = typed.kind?.value;
    let others: &[&[&str]] = match kind {
        CredentialKind::ClientCredentials => &[&OF_EXCHANGES],
        CredentialKind::Exchange => &[],
        CredentialKind::ByRoute | CredentialKind::None | CredentialKind::Forward => {
            &[&OF_ENDPOINTS, &OF_EXCHANGES]
        }
    };
    for key in others.iter().copied().flatten() {
        if let Some(at) = typed.span_of(key) {
            let kind = kind.as_str().unwrap_or_default();
            let message = format!("`{key}` says nothing of the kind `{kind}`");
            found.error("contradiction", at, message, "take it out, or write the kind that was meant");
        }
    }
    let wanted = Wanted {
        scope: texts(&typed.scope),
        audience: texts(&typed.audience),
        resource: texts(&typed.resource),
    };
    check_wanted(typed, found);
    match kind {
        CredentialKind::ByRoute => None,
        CredentialKind::None => Some(CredentialSettings::None),
        CredentialKind::Forward => Some(CredentialSettings::Forward),
        CredentialKind::ClientCredentials => {
            let endpoint = endpoint(typed, span, own, issuers, material, found)?;
            let whole = typed.is_read();
            whole.then_some(CredentialSettings::ClientCredentials(OwnSettings { endpoint, wanted }))
        }
        CredentialKind::Exchange => {
            let endpoint = endpoint(typed, span, own, issuers, material, found)?;
            let with_actor = typed.actor_token.is_some_and(|of| of.value == ActorToken::ClientCredentials);
            let entries_max = typed.entries_max.map_or(ENTRIES_MAX_DEFAULT, |max| u64::from(max.value));
            let settings = ExchangeSettings { endpoint, wanted, with_actor, entries_max };
            typed.is_read().then_some(CredentialSettings::Exchange(settings))
        }
    }
}

fn texts(list: &Option<At<List<String>>>) -> Vec<String> {
    items(list).iter().map(|item| item.value.clone()).collect()
}

/// A scope is one word of a list with spaces (RFC 6749 §3.3), a resource an absolute URI (RFC 8707 §2).
fn check_wanted(typed: &Credential, found: &mut Diagnostics) {
    for scope in items(&typed.scope) {
        if !scope.value.bytes().all(|b| (0x21..=0x7e).contains(&b) && b != b'"' && b != b'\\') {
            let message = format!("`{}` is no scope", scope.value);
            found.error(
                "bad_value",
                scope.span,
                message,
                "write each by itself, as `[\"orders:read\", \"openid\"]`",
            );
        }
    }
    for resource in items(&typed.resource) {
        if !Url::parse(&resource.value).is_ok_and(|url| url.fragment().is_none()) {
            let message = format!("`{}` is no absolute URI without a fragment", resource.value);
            found.error("bad_value", resource.span, message, "write one, as `\"https://payments.example\"`");
        }
    }
}

fn endpoint(
    typed: &Credential,
    span: Span,
    own: Option<&Own>,
    issuers: (&Names, &[IssuerSettings]),
    material: &mut Material<'_>,
    found: &mut Diagnostics,
) -> Option<EndpointSettings> {
    let issuer = match &typed.issuer {
        Some(name) => {
            let id = issuers.0.find(name.value.as_str(), name.span, found)?;
            Some((name.span, issuers.1.get(usize::try_from(id).ok()?)?))
        }
        None => None,
    };
    let location = location(typed, span, issuer, found);
    let authentication = authentication(typed, span, own, material, found);
    if typed.client_id.is_none() && !typed.gives("client_id") {
        let remedy = "add `client_id = \"…\"`: as whom this proxy is registered there";
        found.error("missing_key", span, "the token endpoint is not told who asks", remedy);
    }
    let given_ca = typed.ca.as_ref().and_then(|ca| material.server_ca(ca, found));
    let issuer = issuer.map(|(_, issuer)| &issuer.keys);
    let says =
        |typed: Option<At<bool>>, issuer: Option<bool>| typed.map(|it| it.value).or(issuer).unwrap_or(false);
    let (location, authentication) = (location?, authentication?);
    Some(EndpointSettings {
        own: own.filter(|_| authentication == Authentication::Tls).cloned(),
        location,
        ca: given_ca.or_else(|| issuer.and_then(|keys| keys.ca.clone())),
        allow_http: says(typed.allow_http, issuer.map(|keys| keys.allow_http)),
        allow_private_addresses: says(
            typed.allow_private_addresses,
            issuer.map(|keys| keys.allow_private_addresses),
        ),
        client_id: typed.client_id.as_ref()?.value.as_str().into(),
        authentication,
    })
}

fn location(
    typed: &Credential,
    span: Span,
    issuer: Option<(Span, &IssuerSettings)>,
    found: &mut Diagnostics,
) -> Option<Location> {
    let Some((span, issuer)) = issuer else {
        let Some(endpoint) = &typed.token_endpoint else {
            if !typed.gives("token_endpoint") && !typed.gives("issuer") {
                let remedy = "add `issuer = \"NAME\"`, or `token_endpoint = \"https://…\"`";
                found.error("missing_key", span, "nobody is named to get a token from", remedy);
            }
            return None;
        };
        return fixed(endpoint, typed, found).map(Location::Url);
    };
    for key in OF_ISSUERS {
        if let Some(at) = typed.span_of(key) {
            let message = format!("`{key}` beside `issuer`, which says it already");
            found.error("contradiction", at.max(span), message, "take one of the two out");
        }
    }
    match issuer.url.discovery() {
        Ok(KeySource::Discovery { document, issuer }) if !issuer.contains('{') => {
            Some(Location::Discovery { document, issuer })
        }
        _ => {
            let message = format!("issuer `{}` has no discovery document of its own", issuer.name);
            found.error("bad_value", span, message, "write `token_endpoint = \"https://…\"` instead");
            None
        }
    }
}

fn fixed(endpoint: &At<String>, typed: &Credential, found: &mut Diagnostics) -> Option<Url> {
    let url = Url::parse(&endpoint.value).ok().filter(|url| {
        url.has_host() && url.username().is_empty() && url.password().is_none() && url.fragment().is_none()
    });
    let Some(url) = url else {
        let message = format!("`{}` is no URL of a token endpoint", endpoint.value);
        found.error("bad_value", endpoint.span, message, "write one, as `\"https://login.example/token\"`");
        return None;
    };
    let allowed = typed.allow_http.is_some_and(|allow| allow.value) && is_loopback(&url);
    if url.scheme() != "https" && !(url.scheme() == "http" && allowed) {
        let message = format!("`{}` would carry our credentials in the clear", endpoint.value);
        let remedy = "write `https://`; `allow_http = true` is for loopback alone";
        found.error("insecure_fetch", endpoint.span, message, remedy);
        return None;
    }
    Some(url)
}

fn authentication(
    typed: &Credential,
    span: Span,
    own: Option<&Own>,
    material: &mut Material<'_>,
    found: &mut Diagnostics,
) -> Option<Authentication> {
    use ClientAuthentication::{ClientSecretBasic, ClientSecretPost, PrivateKeyJwt, TlsClientAuth};
    let method = match (typed.client_authentication, &typed.client_secret, &typed.private_key) {
        (Some(method), ..) => method.value,
        (None, Some(_), _) => ClientSecretBasic,
        (None, None, Some(_)) => PrivateKeyJwt,
        (None, None, None) => {
            if !["client_authentication", "client_secret", "private_key"].iter().any(|key| typed.gives(key)) {
                let remedy =
                    "add `client_secret`, or `private_key`, or `client_authentication = \"tls_client_auth\"`";
                found.error("missing_key", span, "the token endpoint cannot know that it is us", remedy);
            }
            return None;
        }
    };
    let needed: &[&str] = match method {
        ClientSecretBasic | ClientSecretPost => &["client_secret"],
        PrivateKeyJwt => &["private_key", "key_id", "passphrase"],
        TlsClientAuth => &[],
    };
    for key in ["client_secret", "private_key", "key_id", "passphrase"] {
        match typed.span_of(key) {
            Some(at) if !needed.contains(&key) => {
                let message = format!("`{key}` is not what this proxy is known by there");
                found.error(
                    "contradiction",
                    at,
                    message,
                    "take it out, or name another `client_authentication`",
                );
            }
            None if needed.first() == Some(&key) && !typed.gives(key) => {
                let message = format!("`client_authentication` without its `{key}`");
                found.error("missing_key", span, message, format!("add `{key}`"));
            }
            _ => {}
        }
    }
    match method {
        ClientSecretBasic | ClientSecretPost => {
            let secret = material.secret(typed.client_secret.as_ref()?, found);
            Some(match method {
                ClientSecretBasic => Authentication::SecretBasic(secret),
                _ => Authentication::SecretPost(secret),
            })
        }
        PrivateKeyJwt => {
            let id = typed.key_id.as_ref().map(|id| id.value.clone());
            let (key, passphrase) = (typed.private_key.as_ref()?, typed.passphrase.as_ref());
            let key = material.signing_key(key, passphrase, id, found)?;
            Some(Authentication::PrivateKeyJwt(Arc::new(key)))
        }
        TlsClientAuth => {
            if own.is_none() {
                let remedy = "add `[identity]`: its certificate is presented there";
                found.error("missing_key", span, "there is no certificate of ours to be known by", remedy);
            }
            Some(Authentication::Tls)
        }
    }
}

/// Two places that speak of one header are one too many: where an upstream says it, its routes do not.
pub fn check_routes(file: &File, found: &mut Diagnostics) {
    for (name, route) in entries(&file.route) {
        let Some(forwards) = route.value.forward_authorization.as_ref().filter(|it| it.value) else {
            continue;
        };
        let variants =
            items(&route.value.variant).iter().filter_map(|variant| variant.value.upstream.as_ref());
        for upstream in route.value.upstream.iter().chain(variants) {
            let mut upstreams = entries(&file.upstream).iter();
            let typed =
                upstreams.find(|(name, _)| name.value == upstream.value).map(|(_, typed)| &typed.value);
            if let Some(credential) = typed.and_then(|typed| typed.credential.as_ref()) {
                let message = format!(
                    "route `{}` and the `credential` of upstream `{}` both say what stands in `Authorization`",
                    name.value, upstream.value
                );
                let places = (forwards.span.max(credential.span), forwards.span.min(credential.span));
                let remedy =
                    "take `forward_authorization` out: what an upstream is shown, it is shown by all routes";
                found.conflict("contradiction", places, message, remedy);
            }
        }
    }
}
