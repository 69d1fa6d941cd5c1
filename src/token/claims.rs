//! The claims of a token whose signature was verified become a [`Caller`], or a refusal.
//!
//! A claim of the wrong type is an error, never an absence: what cannot be read must not look like
//! something that was not said (RFC 8725 §3.1, CVE-2026-25537).

use std::sync::Arc;

use serde_json::{Map, Value};

use super::actor::Actors;
use super::assertion::via;
use super::error::{TokenError, malformed, shown};
use super::issuer::{ClaimMap, IssuerSettings};
use super::issuer_url::speaks_for;
use super::jwt;
use super::limits::TokenLimits;
use super::steps::Step;
use crate::clock::Timestamp;
use crate::identity::{Caller, Confirmation};
use crate::metrics::Limit;
use crate::policy::claim::ClaimPath;

/// The last second of the year 9999: later times are nonsense or an attempt to overflow something.
pub(super) const SECONDS_MAX: u64 = 253_402_300_799;

/// Where tokens say of what kind they are.
const TYPES: [&str; 3] = ["typ", "token_use", "token_type"];
/// What they say, in any case, if they are no access tokens.
const OTHER_TYPES: [&str; 6] = ["id", "id_token", "refresh", "refresh_token", "offline", "logout"];

impl IssuerSettings {
    /// What the verified claims say, if they may be believed now.
    pub(super) fn caller(
        &self,
        claims: Map<String, Value>,
        token_hash: [u8; 32],
        limits: &TokenLimits,
        now: Timestamp,
        step: &mut Step,
    ) -> Result<Caller, TokenError> {
        *step = Step::Kind;
        self.check_type(&claims)?;
        *step = Step::Times;
        let times = Times::read(&claims)?;
        times.check(self, now)?;
        *step = Step::Audience;
        self.check_audience(&claims)?;
        *step = Step::Required;
        self.check_required(&claims)?;
        *step = Step::Only;
        self.check_only(&claims)?;
        *step = Step::Claims;
        check_complete(&self.claims, &claims)?;
        let actors = Actors::read(&self.actors, &claims, limits.delegation_depth_max)?;
        let scopes_max = (limits.scope_count_max, Limit::ScopeCountMax);
        let groups_max = (limits.group_count_max, Limit::GroupCountMax);
        let map = &self.claims;
        let client = match &map.client {
            Some(path) => name(&claims, path)?,
            None => None,
        };
        Ok(Caller {
            issuer: self.name.clone(),
            subject: name(&claims, &map.subject)?,
            client,
            scopes: words(&claims, map.scopes.as_ref(), Words::Spaced, scopes_max)?,
            groups: words(&claims, map.groups.as_ref(), Words::Whole, groups_max)?,
            roles: words(&claims, map.roles.as_ref(), Words::Whole, groups_max)?,
            actor: actors.actor,
            on_behalf_of: actors.on_behalf_of,
            chain: actors.chain,
            expires: times.expires.plus(self.leeway),
            believed_until: None,
            authenticated_at: times.authenticated,
            acr: text(&claims, "acr")?,
            confirmation: confirmation(&claims)?,
            via: self.token_type.is_assertion().then(|| via(&claims)).transpose()?,
            token_id: text(&claims, "jti")?,
            token_hash,
            claims,
        })
    }

    /// Refuses what is no access token (RFC 8725 §3.11, §3.12).
    fn check_type(&self, claims: &Map<String, Value>) -> Result<(), TokenError> {
        let refused = |detail: &'static str| Err(TokenError::TypeRefused(detail.into()));
        let says = |name: &str, value: &str| claims.get(name).and_then(Value::as_str) == Some(value);
        let quirks = &self.quirks;
        if claims.contains_key("events") {
            return refused("a security event or logout token");
        }
        let is_bound = || claims.get("cnf").is_some_and(|cnf| cnf.get("jkt").is_some());
        let says_bound = |name| quirks.bound_mark.is_some_and(|mark| says(name, mark)) && is_bound();
        if let Some((name, value)) = quirks.access_mark
            && !says(name, value)
            && !says_bound(name)
        {
            return refused("it does not have its provider's mark of an access token");
        }
        if !quirks.access_claims.is_empty()
            && !quirks.access_claims.iter().any(|name| claims.contains_key(*name))
        {
            return refused("it lacks what every access token of its provider has");
        }
        if quirks.takes_id_tokens {
            return Ok(());
        }
        let is_other = |kind: &str| OTHER_TYPES.iter().any(|other| kind.eq_ignore_ascii_case(other));
        let other = TYPES.iter().any(|name| claims.get(*name).and_then(Value::as_str).is_some_and(is_other));
        let hashes = claims.contains_key("at_hash") || claims.contains_key("c_hash");
        // some providers copy `nonce` into access tokens, but those mark them
        let nonce = claims.contains_key("nonce") && quirks.access_mark.is_none();
        if other || hashes || nonce {
            return refused("an ID, refresh or logout token is no access token");
        }
        Ok(())
    }

    /// RFC 7519 §4.1.3.
    fn check_audience(&self, claims: &Map<String, Value>) -> Result<(), TokenError> {
        let ours = |audience: &str| self.audience.iter().any(|own| **own == *audience);
        let aud = claims.get("aud");
        let meant = match aud {
            Some(Value::String(audience)) => ours(audience),
            Some(Value::Array(audiences)) => {
                let texts: Option<Vec<&str>> = audiences.iter().map(Value::as_str).collect();
                let texts = texts.ok_or_else(|| malformed("`aud` holds something that is no string"))?;
                texts.into_iter().any(ours)
            }
            Some(_) => return Err(malformed("`aud` is neither a string nor a list")),
            None if self.quirks.client_is_audience => match claims.get("client_id") {
                Some(Value::String(client)) => ours(client),
                Some(_) => return Err(malformed("`client_id` is no string")),
                None => false,
            },
            None => return Err(TokenError::WrongAudience("it has no `aud`".into())),
        };
        if meant {
            return Ok(());
        }
        let detail = match aud {
            Some(aud) => format!("its `aud` is {}, none of the issuer's `audience`", shown(aud)),
            None => "it has no `aud`, and its `client_id` is none of the issuer's `audience`".to_owned(),
        };
        Err(TokenError::WrongAudience(detail.into()))
    }

    fn check_required(&self, claims: &Map<String, Value>) -> Result<(), TokenError> {
        let names =
            || self.token_type.claims().iter().copied().chain(self.requires.iter().map(|name| &**name));
        let missing = |name: &str| Err(malformed(format!("the required claim `{name}` is missing")));
        if let Some(name) = names().find(|name| claims.get(*name).is_none_or(Value::is_null)) {
            return missing(name);
        }
        // Of a word that stands deeper, its whole place is required: an empty object around it says nothing.
        let ClaimMap { subject, client, scopes, groups, roles } = &self.claims;
        for path in [Some(subject), client.as_ref(), scopes.as_ref(), groups.as_ref(), roles.as_ref()] {
            if let Some(path) = path
                && path.0.first().is_some_and(|top| names().any(|name| *name == **top))
                && find(claims, path)?.is_none()
            {
                return missing(&path.0.join("."));
            }
        }
        Ok(())
    }

    fn check_only(&self, claims: &Map<String, Value>) -> Result<(), TokenError> {
        if let Some(failed) = self.only.iter().find(|test| !test.holds(claims)) {
            let path = failed.claim.0.join(".");
            return Err(TokenError::IssuerUnknown(format!("`only` does not take its `{path}`").into()));
        }
        match self.url.trust_domain() {
            Some(domain) if !speaks_for(domain, claims) => {
                Err(TokenError::IssuerUnknown("its subject is of another trust domain".into()))
            }
            _ => Ok(()),
        }
    }
}

/// The times of a token, as RFC 7519 `NumericDate`, whole seconds only.
struct Times {
    expires: Timestamp,
    not_before: Option<Timestamp>,
    issued: Option<Timestamp>,
    authenticated: Option<Timestamp>,
}

impl Times {
    fn read(claims: &Map<String, Value>) -> Result<Times, TokenError> {
        let time = |name: &str| match claims.get(name) {
            None => Ok(None),
            Some(value) => match value.as_u64().filter(|seconds| *seconds <= SECONDS_MAX) {
                Some(seconds) => Ok(i64::try_from(seconds).ok().map(Timestamp::from_unix_seconds)),
                None => Err(malformed(format!("`{name}` is no time in whole seconds"))),
            },
        };
        Ok(Times {
            expires: time("exp")?.ok_or_else(|| malformed("it has no `exp`"))?,
            not_before: time("nbf")?,
            issued: time("iat")?,
            authenticated: time("auth_time")?,
        })
    }

    fn check(&self, issuer: &IssuerSettings, now: Timestamp) -> Result<(), TokenError> {
        let leeway = issuer.leeway;
        // RFC 7519 §4.1.4: from `exp` on, moved by the leeway.
        if now >= self.expires.plus(leeway) {
            return Err(TokenError::Expired);
        }
        if self.not_before.is_some_and(|start| start > now.plus(leeway)) {
            return Err(TokenError::NotYetValid("`nbf` is in the future".into()));
        }
        if self.issued.is_some_and(|issued| issued > now.plus(leeway)) {
            return Err(TokenError::NotYetValid("`iat` is in the future".into()));
        }
        Ok(())
    }
}

/// Refuses tokens that say that a list stands elsewhere (OpenID Connect Core §5.6.2, Entra's overage):
/// "no groups" would be a guess.
fn check_complete(map: &ClaimMap, claims: &Map<String, Value>) -> Result<(), TokenError> {
    let lists = [&map.scopes, &map.groups, &map.roles];
    let mapped =
        |name: &str| lists.into_iter().flatten().any(|path| path.0.first().is_some_and(|top| **top == *name));
    match claims.get("_claim_names") {
        None => {}
        Some(Value::Object(names)) if !names.keys().any(|name| mapped(name)) => {}
        Some(_) => return Err(malformed("a list of it is incomplete (`_claim_names`)")),
    }
    match claims.get("hasgroups") {
        None | Some(Value::Bool(false)) => Ok(()),
        Some(_) if map.groups.is_none() => Ok(()),
        Some(_) => Err(malformed("its list of groups is incomplete (`hasgroups`)")),
    }
}

/// What stands at `path`: `None` only where a member is not there at all.
fn find<'c>(claims: &'c Map<String, Value>, path: &ClaimPath) -> Result<Option<&'c Value>, TokenError> {
    let Some((first, inner)) = path.0.split_first() else { return Ok(None) };
    let mut found = claims.get(&**first);
    for name in inner {
        let Some(value) = found else { return Ok(None) };
        let members = value.as_object().ok_or_else(|| wrong_type(path))?;
        found = members.get(&**name);
    }
    Ok(found)
}

fn wrong_type(path: &ClaimPath) -> TokenError {
    malformed(format!("the claim `{}` has the wrong type", path.0.join(".")))
}

/// A mapped claim that is one non-empty string.
fn name(claims: &Map<String, Value>, path: &ClaimPath) -> Result<Option<Arc<str>>, TokenError> {
    match find(claims, path)? {
        None => Ok(None),
        Some(Value::String(name)) if !name.is_empty() => Ok(Some(name.as_str().into())),
        Some(_) => Err(wrong_type(path)),
    }
}

fn text(claims: &Map<String, Value>, name: &'static str) -> Result<Option<Arc<str>>, TokenError> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str().into())),
        Some(_) => Err(malformed(format!("`{name}` is no string"))),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Words {
    /// A string holds several, with spaces between (RFC 6749 §3.3).
    Spaced,
    /// A string is one, and an object's member names count.
    Whole,
}

fn words(
    claims: &Map<String, Value>,
    path: Option<&ClaimPath>,
    form: Words,
    (count_max, limit): (usize, Limit),
) -> Result<Vec<Arc<str>>, TokenError> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let found: Vec<Arc<str>> = match find(claims, path)? {
        None => Vec::new(),
        Some(Value::String(text)) if form == Words::Spaced => {
            text.split(' ').filter(|word| !word.is_empty()).map(Arc::from).collect()
        }
        Some(Value::String(text)) => vec![text.as_str().into()],
        Some(Value::Object(members)) if form == Words::Whole => {
            members.keys().map(|name| name.as_str().into()).collect()
        }
        Some(Value::Array(list)) => {
            let texts = list.iter().map(|value| value.as_str().map(Arc::from));
            texts.collect::<Option<_>>().ok_or_else(|| wrong_type(path))?
        }
        Some(_) => return Err(wrong_type(path)),
    };
    if found.len() > count_max {
        let detail = format!("the claim `{}` has more than {count_max} values", path.0.join("."));
        return Err(TokenError::LimitExceeded(limit, detail.into()));
    }
    Ok(found)
}

/// RFC 7800 §3.1. More than one method at once is none that can be proven here.
fn confirmation(claims: &Map<String, Value>) -> Result<Option<Confirmation>, TokenError> {
    let Some(cnf) = claims.get("cnf") else { return Ok(None) };
    let members = cnf.as_object().ok_or_else(|| malformed("`cnf` is no object"))?;
    let mut entries = members.iter();
    let (Some((method, value)), None) = (entries.next(), entries.next()) else {
        return Ok(Some(Confirmation::Unsupported));
    };
    let sha256 = || {
        let hash = value.as_str().and_then(jwt::decode).and_then(|bytes| bytes.try_into().ok());
        hash.ok_or_else(|| malformed(format!("`{method}` in `cnf` is no SHA-256")))
    };
    Ok(Some(match method.as_str() {
        "x5t#S256" => Confirmation::Certificate(sha256()?),
        "jkt" => Confirmation::Key(sha256()?),
        _ => Confirmation::Unsupported,
    }))
}
