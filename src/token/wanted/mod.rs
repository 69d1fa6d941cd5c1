//! The way back: from what rules demand of a caller to claims with which an issuer's token fulfils it, and
//! nothing else that rules read.
//!
//! Two issuers at once, since two policies may read one token in two ways. Whether the claims do what they were
//! made for is never taken for granted: [`Issuers::callers`] has them read as any token's are.

mod acting;
mod draft;
mod realm;
#[cfg(test)]
mod tests_difference;
#[cfg(test)]
mod tests_large;
#[cfg(test)]
mod tests_requests;
#[cfg(test)]
pub mod tests_universe;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

pub use acting::Acting;
use acting::Way;
use draft::Draft;
pub use realm::{Mint, vouched};

use super::error::TokenError;
use super::issuer::IssuerSettings;
use super::limits::TokenLimits;
use super::steps::Step;
use crate::clock::Timestamp;
use crate::identity::Caller;
use crate::policy::cells::{Demand, Fresh, Side};
use crate::policy::claim::{ClaimPath, ClaimTest, ClaimValue};
use crate::policy::pattern::Glob;

/// Who can have signed a token, under each of two policies.
#[derive(Clone, Copy, Debug)]
pub struct Issuers<'a> {
    pub sides: [Option<&'a IssuerSettings>; 2],
    pub limits: [&'a TokenLimits; 2],
}

/// What a token is to be like.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub demand: &'a Demand,
    /// The path's segments, as far as they are known.
    pub path: &'a [Option<Arc<str>>],
    pub acting: &'a Acting,
    pub fresh: &'a Fresh,
    pub now: Timestamp,
}

/// Claims, and the path that goes with them.
#[derive(Clone, Debug, PartialEq)]
pub struct Drafted {
    pub claims: Map<String, Value>,
    pub path: Vec<Arc<str>>,
}

const LIFETIME: Duration = Duration::from_secs(300);
/// Of a login that is not asked to be young: older than any that is.
const LONG_AGO: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Who acts, where another issuer says so.
const FOREIGN: &str = "https://another-issuer.example";
const TENANT: &str = "00000000-0000-0000-0000-000000000000";

impl<'a> Issuers<'a> {
    fn known(&self) -> impl Iterator<Item = (Side, &'a IssuerSettings)> {
        self.sides.into_iter().enumerate().filter_map(|(side, issuer)| Some((side, issuer?)))
    }

    /// All ways in which their tokens can speak of who acts. `globs` are what policies compare texts with.
    pub fn acting(&self, globs: &[Glob]) -> Vec<Acting> {
        let mut tests: Vec<(Vec<&ClaimTest>, Vec<Way>)> = Vec::new();
        let (mut entries, mut only) = (Vec::new(), Vec::new());
        for (_, issuer) in self.known() {
            entries.extend(issuer.actors.iter().filter(|entry| !entries.contains(entry)).collect::<Vec<_>>());
            only.extend(issuer.only.iter().filter(|test| !only.contains(test)).collect::<Vec<_>>());
        }
        tests.extend(entries.iter().map(|entry| (entry.claim.iter().collect(), Way::all(entry))));
        tests.extend(only.iter().map(|test| (vec![*test], Way::of_test(test))));
        let ways = tests.iter().enumerate().map(|(at, (_, ways))| {
            let others = tests.iter().enumerate().filter(|(other, _)| *other != at);
            let read = others.flat_map(|(_, (tests, _))| tests).flat_map(|test| globs_of(test));
            Way::plain(ways.clone(), &globs.iter().cloned().chain(read).collect::<Vec<_>>())
        });
        let mut ways: Vec<Vec<Way>> = ways.collect();
        let mut audiences: Vec<&[Arc<str>]> = self.known().map(|(_, issuer)| &*issuer.audience).collect();
        audiences.dedup();
        let audiences = audiences.into_iter().map(|all| Way::of_audiences(all, globs));
        let only = ways
            .split_off(entries.len())
            .into_iter()
            .chain(audiences)
            .fold(vec![Vec::new()], |found, ways| {
                found.iter().flat_map(|found: &Vec<Way>| with_each(found, &ways)).collect()
            });
        let several = matches!(self.sides, [Some(a), Some(b)] if a.actors != b.actors);
        Acting::all(&ways.concat(), &only, several)
    }

    /// Every text and glob with which their settings compare one.
    pub fn globs(&self) -> Vec<Glob> {
        let mut globs = Vec::new();
        for (_, issuer) in self.known() {
            let tests = issuer.actors.iter().flat_map(|entry| &entry.claim).chain(&issuer.only);
            globs.extend(tests.flat_map(globs_of));
        }
        globs
    }

    /// The claims of a token that has what is wanted, and else only what each token of these issuers must have.
    /// `None` where there is no such token.
    pub fn draft(&self, wanted: &Wanted<'_>) -> Option<Drafted> {
        let Wanted { demand, path, acting, fresh, now } = *wanted;
        let mut draft = Draft::new(path);
        for (side, issuer) in self.known() {
            let (asked, map) = (&demand.sides[side], &issuer.claims);
            if asked.subject.is_some() {
                draft.text(&map.subject, asked.subject.as_ref())?;
            }
            if let Some(glob) = &asked.client {
                draft.text(map.client.as_ref()?, Some(glob))?;
            }
            for (words, place, spaced) in [
                (&asked.scopes, &map.scopes, true),
                (&asked.groups, &map.groups, false),
                (&asked.roles, &map.roles, false),
            ] {
                if !words.is_empty() {
                    draft.words(place.as_ref()?, words, spaced);
                }
            }
        }
        for (place, value) in &demand.claims {
            draft.value(place, value);
        }
        if let Some(acr) = &demand.acr {
            draft.text(&ClaimPath::top_level("acr"), Some(&Glob::Exact(Arc::clone(acr))))?;
        }
        if let Some(age) = demand.max_age {
            // whole seconds, and not one millisecond too old
            let login = now.minus(age).plus(Duration::from_millis(999));
            fix(&mut draft, "auth_time", login.unix_seconds().into());
        }
        if demand.bound && !draft.is_given("cnf") {
            bind(&mut draft);
        }
        for (segment, place) in &demand.matches {
            draft.segment_is(*segment, place);
        }
        acting.root.iter().chain(&acting.only).try_for_each(|way| way.put(&mut draft, None))?;
        self.put_act(&mut draft, wanted)?;
        self.put_always(&mut draft, now)?;
        self.put_required(&mut draft, now)?;
        self.read_as_text(&mut draft);
        draft.filled(fresh)
    }

    /// How each side reads the claims: as it reads those of every token.
    pub fn callers(&self, claims: &Map<String, Value>, now: Timestamp) -> [Result<Caller, TokenError>; 2] {
        [0, 1].map(|side: Side| {
            let unknown = || TokenError::IssuerUnknown("no issuer is known by this `iss`".into());
            let issuer = self.sides[side].ok_or_else(unknown)?;
            if issuer.url.accepts(claims) != Some(true) {
                return Err(unknown());
            }
            issuer.caller(claims.clone(), [0; 32], self.limits[side], now, &mut Step::Kind)
        })
    }

    fn put_act(&self, draft: &mut Draft, wanted: &Wanted<'_>) -> Option<()> {
        let act: Arc<str> = "act".into();
        let place = |name: &str| ClaimPath(vec![Arc::clone(&act), name.into()]);
        match &wanted.acting.act {
            None => (wanted.demand.actor_subject.is_none() && wanted.demand.act != Some(true)).then_some(()),
            Some(_) if wanted.demand.act == Some(false) => None,
            Some(acts) => {
                if acts.foreign {
                    draft.fixed(&place("iss"), FOREIGN.into());
                }
                draft.text(&place("sub"), wanted.demand.actor_subject.as_ref())?;
                acts.ways.iter().try_for_each(|way| way.put(draft, Some(&act)))?;
                (!acts.foreign || wanted.demand.actor_subject.is_none()).then_some(())
            }
        }
    }

    /// What every token of these issuers says, whoever it is about.
    fn put_always(&self, draft: &mut Draft, now: Timestamp) -> Option<()> {
        for (_, issuer) in self.known() {
            if let Some((name, value)) = issuer.quirks.access_mark {
                draft.value(&ClaimPath::top_level(name), &ClaimValue::Text(Glob::Exact(value.into())));
            }
            if let Some(domain) = issuer.url.trust_domain() {
                let start = format!("spiffe://{}/", domain.as_str());
                draft.text(&issuer.claims.subject, Some(&Glob::Prefix(start.into())))?;
            }
            let access = issuer.quirks.access_claims;
            if let Some(first) = access.first()
                && !access.iter().any(|name| draft.is_given(name))
            {
                draft.text(&ClaimPath::top_level(first), None)?;
            }
        }
        fix(draft, "iat", now.unix_seconds().into());
        fix(draft, "exp", now.plus(LIFETIME).unix_seconds().into());
        self.put_issuer(draft);
        Some(())
    }

    /// The `iss` that both take, if one is.
    fn put_issuer(&self, draft: &mut Draft) {
        let named_tenant = draft.known_text(&ClaimPath::top_level("tid"));
        let tenant_id = named_tenant.as_deref().unwrap_or(TENANT);
        let tenant = || tenant_id.to_owned();
        let named = self.known().filter_map(|(_, issuer)| issuer.url.issued(tenant));
        let accepted = |iss: &String| {
            let claims = Map::from_iter([
                ("iss".to_owned(), iss.as_str().into()),
                ("tid".to_owned(), tenant_id.into()),
            ]);
            self.known().filter(|(_, issuer)| issuer.url.accepts(&claims) == Some(true)).count()
        };
        let Some(iss) = named.max_by_key(accepted) else { return };
        if iss.contains(TENANT) && !draft.is_given("tid") {
            fix(draft, "tid", TENANT.into());
        }
        fix(draft, "iss", iss.into());
    }

    /// What `requires` asks for and nothing gave yet.
    fn put_required(&self, draft: &mut Draft, now: Timestamp) -> Option<()> {
        for (_, issuer) in self.known() {
            let facts = issuer.facts();
            let map = &issuer.claims;
            for name in facts.requires.iter().filter(|name| !name.is_empty()) {
                if draft.is_given(name) {
                    continue;
                }
                let top = ClaimPath::top_level(name);
                let reads = |path: &&ClaimPath| path.0.first() == Some(name);
                let lists = [&map.groups, &map.roles];
                match &**name {
                    "auth_time" => fix(draft, name, now.minus(LONG_AGO).unix_seconds().into()),
                    "nbf" => fix(draft, name, now.unix_seconds().into()),
                    "act" => {
                        let subject = ClaimPath(vec!["act".into(), "sub".into()]);
                        draft.text(&subject, None)?;
                    }
                    "cnf" => bind(draft),
                    _ => match map.scopes.as_ref().filter(reads) {
                        Some(path) => draft.words(path, &[], true),
                        None => match lists.into_iter().flatten().find(reads) {
                            Some(path) => draft.words(path, &[], false),
                            None => {
                                let texts = [Some(&map.subject), map.client.as_ref()];
                                let text = texts.into_iter().flatten().find(reads);
                                draft.text(text.unwrap_or(&top), None)?;
                            }
                        },
                    },
                }
            }
        }
        Some(())
    }

    /// What a caller's name, or how somebody logged in, is read from, is one string.
    fn read_as_text(&self, draft: &mut Draft) {
        for (_, issuer) in self.known() {
            draft.is_text(&issuer.claims.subject);
            issuer.claims.client.iter().for_each(|path| draft.is_text(path));
            let by_client = issuer.quirks.client_is_audience.then_some("client_id");
            let by_tenant = issuer.url.has_tenants().then_some("tid");
            let read = by_client.into_iter().chain(by_tenant);
            read.for_each(|name| draft.is_text(&ClaimPath::top_level(name)));
        }
        for name in ["acr", "jti"] {
            draft.is_text(&ClaimPath::top_level(name));
        }
        draft.is_text(&ClaimPath(vec!["act".into(), "sub".into()]));
    }
}

impl Way {
    fn of_test(test: &ClaimTest) -> Vec<Way> {
        let entry = super::ActorEntry {
            kind: crate::identity::ActorKind::Unknown,
            claim: vec![test.clone()],
            same: None,
        };
        Way::all(&entry)
    }

    /// One of those whom an issuer's tokens are meant for, of all that no text tells apart.
    fn of_audiences(audiences: &[Arc<str>], globs: &[Glob]) -> Vec<Way> {
        let read = |text: &str| globs.iter().map(|glob| glob.matches(text)).collect::<Vec<_>>();
        let mut seen = Vec::new();
        let apart = audiences.iter().filter(|text| {
            let read = read(text);
            let is_new = !seen.contains(&read);
            seen.extend(is_new.then_some(read));
            is_new
        });
        let values = apart.map(|text| ClaimValue::Text(Glob::Exact(Arc::clone(text)))).collect();
        Way::of_test(&ClaimTest { claim: ClaimPath::top_level("aud"), values })
    }
}

fn globs_of(test: &ClaimTest) -> Vec<Glob> {
    let text = |value: &ClaimValue| match value {
        ClaimValue::Text(glob) => glob.clone(),
        other => Glob::Exact(other.to_string().into()),
    };
    test.values.iter().map(text).collect()
}

fn with_each(found: &[Way], ways: &[Way]) -> Vec<Vec<Way>> {
    let with = |way: &Way| found.iter().chain([way]).cloned().collect();
    ways.iter().map(with).collect()
}

/// To a key: which one is for whoever has it to say.
fn bind(draft: &mut Draft) {
    let thumbprint = URL_SAFE_NO_PAD.encode([0; 32]);
    fix(draft, "cnf", Map::from_iter([("jkt".to_owned(), thumbprint.into())]).into());
}

fn fix(draft: &mut Draft, name: &str, value: Value) {
    draft.fixed(&ClaimPath::top_level(name), value);
}
