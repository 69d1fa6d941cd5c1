//! The way back: from what rules demand of a caller to claims with which an issuer's token fulfils it, and
//! nothing else that rules read.
//!
//! Two issuers at once, since two policies may read one token in two ways. Whether the claims do what they were
//! made for is never taken for granted: [`Issuers::callers`] has them read as any token's are.

mod acting;
mod draft;
mod issued;
mod realm;
mod slot;
#[cfg(test)]
mod tests_difference;
#[cfg(test)]
mod tests_large;
#[cfg(test)]
mod tests_requests;
#[cfg(test)]
pub mod tests_universe;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

pub use acting::Acting;
use acting::Way;
use draft::Draft;
pub use realm::{Mint, vouched};
use slot::{Form, Time};

use super::claims::SECONDS_MAX;
use super::error::TokenError;
use super::issuer::IssuerSettings;
use super::limits::TokenLimits;
use super::steps::Step;
use crate::clock::Timestamp;
use crate::identity::{Bound, Caller};
use crate::policy::cells::{Built, Demand, Fresh, Side, Unbuilt};
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
    /// Claims that rules compare with values, or with the path.
    pub places: &'a BTreeSet<ClaimPath>,
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
/// More than any chain has: `delegation_depth_max` is less.
const LINKS_MAX: usize = 64;
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
        let carried = self.carried(&audiences, globs);
        let audiences = audiences.into_iter().map(|all| Way::of_audiences("aud", all, globs));
        let all = |lists: Vec<Vec<Way>>| {
            lists.into_iter().fold(vec![Vec::new()], |found, ways| {
                found.iter().flat_map(|found: &Vec<Way>| with_each(found, &ways)).collect()
            })
        };
        let tests = ways.split_off(entries.len());
        let mut only = all(tests.iter().cloned().chain(audiences).collect());
        if !carried.is_empty() {
            only.extend(all(tests.into_iter().chain([carried]).collect()));
        }
        let several = matches!(self.sides, [Some(a), Some(b)] if a.actors != b.actors);
        Acting::all(&ways.concat(), &only, &self.issued(globs), several)
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

    /// Every claim that their settings compare with values.
    pub fn places(&self) -> impl Iterator<Item = ClaimPath> + '_ {
        let tests = self
            .known()
            .flat_map(|(_, issuer)| issuer.actors.iter().flat_map(|entry| &entry.claim).chain(&issuer.only));
        tests.map(|test| test.claim.clone())
    }

    /// The ways to be meant for us without an `aud`, where all take that and some text tells it apart.
    fn carried(&self, audiences: &[&[Arc<str>]], globs: &[Glob]) -> Vec<Way> {
        let told = audiences.iter().any(|all| all.iter().any(|text| globs.iter().any(|g| g.matches(text))));
        if !told || !self.known().all(|(_, issuer)| issuer.quirks.client_is_audience) {
            return Vec::new();
        }
        let Some((first, others)) = audiences.split_first() else { return Vec::new() };
        let both = first.iter().filter(|text| others.iter().all(|other| other.contains(text)));
        Way::of_audiences("client_id", &both.cloned().collect::<Vec<_>>(), globs)
    }

    /// The claims of a token that has what is wanted, and else only what each token of these issuers must have.
    pub fn draft(&self, wanted: &Wanted<'_>) -> Built<Drafted> {
        let Wanted { demand, path, acting, fresh, places, now } = *wanted;
        let mut draft = Draft::new(path, places);
        for (side, issuer) in self.known() {
            let (asked, map) = (&demand.sides[side], &issuer.claims);
            draft.scopes_max = draft.scopes_max.min(self.limits[side].scope_count_max);
            draft
                .as_same
                .extend(issuer.actors.iter().flat_map(|entry| &entry.same).flatten().map(|p| p.0.clone()));
            if asked.subject.is_some() {
                draft.text(&map.subject, asked.subject.as_ref())?;
            }
            // an issuer that never says it has no such token
            if let Some(glob) = &asked.client {
                draft.text(map.client.as_ref().ok_or(Unbuilt::Impossible)?, Some(glob))?;
            }
            for (words, place, form) in [
                (&asked.scopes, &map.scopes, Form::Spaced),
                (&asked.groups, &map.groups, Form::Names),
                (&asked.roles, &map.roles, Form::Names),
            ] {
                if !words.is_empty() {
                    draft.words(place.as_ref().ok_or(Unbuilt::Impossible)?, words, form);
                }
            }
        }
        for (place, value) in &demand.claims {
            draft.value(place, value);
        }
        if let Some(acr) = &demand.acr {
            draft.text(&ClaimPath::top_level("acr"), Some(&Glob::Exact(Arc::clone(acr))))?;
        }
        if demand.max_age.is_some() {
            draft.anything(&ClaimPath::top_level("auth_time"));
        }
        if demand.bound {
            self.bind(&mut draft)?;
        }
        for (segment, place) in &demand.matches {
            draft.segment_is(*segment, place);
        }
        acting.root.iter().chain(&acting.only).try_for_each(|way| way.put(&mut draft, None))?;
        acting.issued.put(&mut draft)?;
        self.put_act(&mut draft, wanted)?;
        self.put_always(&mut draft, places)?;
        self.put_required(&mut draft)?;
        self.read_types(&mut draft)?;
        self.read_times(&mut draft, demand, now)?;
        draft.filled(fresh, TENANT)
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

    fn put_act(&self, draft: &mut Draft<'_>, wanted: &Wanted<'_>) -> Built {
        let act: Arc<str> = "act".into();
        let place = |depth: usize, name: &str| {
            let around = std::iter::repeat_n(Arc::clone(&act), depth);
            ClaimPath(around.chain([name.into()]).collect())
        };
        let Wanted { demand, acting, .. } = *wanted;
        let Some(acts) = &acting.act else {
            // who is demanded to act, or to be spoken of there, is in another cell
            let acts = demand.actor_subject.is_some() || demand.act == Some(true);
            let given = draft.is_given(std::slice::from_ref(&act));
            return if acts || given { Err(Unbuilt::Impossible) } else { Ok(()) };
        };
        if demand.act == Some(false) || (acts.foreign && demand.actor_subject.is_some()) {
            return Err(Unbuilt::Impossible);
        }
        let issuer = place(1, "iss");
        if acts.foreign {
            draft.text(&issuer, None)?;
        } else if draft.is_given(&issuer.0) {
            draft.are_same(&[issuer, ClaimPath::top_level("iss")])?;
        }
        draft.text(&place(1, "sub"), demand.actor_subject.as_ref())?;
        // whoever is spoken of further in has a name too
        for depth in (2..).take_while(|depth| *depth < LINKS_MAX) {
            if draft.is_given(&vec![Arc::clone(&act); depth]) {
                draft.text(&place(depth, "sub"), None)?;
                draft.is_text(&place(depth, "iss"));
            }
        }
        acts.ways.iter().try_for_each(|way| way.put(draft, Some(&act)))
    }

    /// What every token of these issuers says, whoever it is about.
    fn put_always(&self, draft: &mut Draft<'_>, places: &BTreeSet<ClaimPath>) -> Built {
        for (_, issuer) in self.known() {
            if let Some((name, value)) = issuer.quirks.access_mark {
                draft.text(&ClaimPath::top_level(name), Some(&Glob::Exact(value.into())))?;
            }
            if let Some(domain) = issuer.url.trust_domain() {
                let start = format!("spiffe://{}/", domain.as_str());
                draft.text(&ClaimPath::top_level("sub"), Some(&Glob::Prefix(start.into())))?;
            }
            let access = issuer.quirks.access_claims;
            if let Some(first) = access.first()
                && !access.iter().any(|name| draft.is_given(&ClaimPath::top_level(name).0))
            {
                draft.text(&ClaimPath::top_level(first), None)?;
            }
        }
        draft.anything(&ClaimPath::top_level("exp"));
        // which a token may lack, so one does where that counts
        let issued = ClaimPath::top_level("iat");
        if !places.contains(&issued) {
            draft.anything(&issued);
        }
        Ok(())
    }

    /// What `requires` asks for and nothing gave yet.
    fn put_required(&self, draft: &mut Draft<'_>) -> Built {
        for (_, issuer) in self.known() {
            let facts = issuer.facts();
            let map = &issuer.claims;
            for name in facts.requires.iter().filter(|name| !name.is_empty()) {
                let top = ClaimPath::top_level(name);
                // of what is read deeper, its whole place is required
                let reads = |path: &&ClaimPath| path.0.first() == Some(name);
                let lists =
                    [(&map.scopes, Form::Spaced), (&map.groups, Form::Names), (&map.roles, Form::Names)];
                for (path, form) in lists {
                    let missing = path.as_ref().filter(reads).filter(|path| !draft.is_given(&path.0));
                    missing.into_iter().for_each(|path| draft.words(path, &[], form));
                }
                for path in [Some(&map.subject), map.client.as_ref()].into_iter().flatten().filter(reads) {
                    if !draft.is_given(&path.0) {
                        draft.text(path, None)?;
                    }
                }
                if draft.is_given(&top.0) {
                    continue;
                }
                match &**name {
                    "auth_time" | "nbf" | "iat" => draft.anything(&top),
                    // one without an act is not of these issuers
                    "act" => return Err(Unbuilt::Impossible),
                    "cnf" => self.bind(draft)?,
                    _ => draft.text(&top, None)?,
                }
            }
        }
        Ok(())
    }

    /// To a key: which one is for whoever has it to say.
    fn bind(&self, draft: &mut Draft) -> Built {
        if self.known().any(|(_, issuer)| issuer.token_type.is_assertion()) {
            let key = Glob::Exact(Bound::Key.as_str().into());
            draft.text(&ClaimPath::top_level("bound"), Some(&key))?;
        }
        let thumbprint = Glob::Exact(URL_SAFE_NO_PAD.encode([0; 32]).into());
        draft.text(&ClaimPath(vec!["cnf".into(), "jkt".into()]), Some(&thumbprint))
    }

    /// What is read as one text, or as words, is that, whoever asked for it.
    fn read_types(&self, draft: &mut Draft<'_>) -> Built {
        let top = ClaimPath::top_level;
        for (_, issuer) in self.known() {
            let map = &issuer.claims;
            draft.is_text(&map.subject);
            map.client.iter().for_each(|path| draft.is_text(path));
            map.scopes.iter().for_each(|path| draft.is_words(path, Form::Spaced));
            let names = map.groups.iter().chain(&map.roles);
            names.for_each(|path| draft.is_words(path, Form::Names));
            if issuer.quirks.client_is_audience && !draft.is_given(&top("aud").0) {
                draft.is_text(&top("client_id"));
            }
        }
        // a verifier takes none of these as a list, and no other list of whom a token is for
        ["iss", "acr", "jti"].iter().for_each(|name| draft.is_text(&top(name)));
        draft.is_words(&top("aud"), Form::Texts);
        draft.is_text(&ClaimPath(vec!["act".into(), "sub".into()]));
        draft.is_text(&ClaimPath(vec!["act".into(), "iss".into()]));
        ["act", "cnf"].iter().for_each(|name| draft.is_object(&top(name)));
        Ok(())
    }

    /// Times are numbers, and not any.
    fn read_times(&self, draft: &mut Draft<'_>, demand: &Demand, now: Timestamp) -> Built {
        let leeway = self.known().map(|(_, issuer)| issuer.leeway).min().unwrap_or_default();
        let most = i64::try_from(SECONDS_MAX).unwrap_or(i64::MAX);
        let (seconds, begun) = (now.unix_seconds(), now.plus(leeway).unix_seconds());
        let expires = Time {
            from: now.minus(leeway).unix_seconds() + 1,
            until: most,
            usual: now.plus(LIFETIME).unix_seconds(),
        };
        let start = Time { from: 0, until: begun, usual: seconds };
        let login = match demand.max_age {
            // whole seconds, and not one millisecond too old
            Some(age) => {
                let from = now.minus(age).plus(Duration::from_millis(999)).unix_seconds().max(0);
                Time { from, until: seconds, usual: from }
            }
            None => Time { from: 0, until: most, usual: now.minus(LONG_AGO).unix_seconds() },
        };
        for (name, time) in [("exp", expires), ("iat", start), ("nbf", start), ("auth_time", login)] {
            draft.is_time(&ClaimPath::top_level(name), time)?;
        }
        Ok(())
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
    fn of_audiences(claim: &str, audiences: &[Arc<str>], globs: &[Glob]) -> Vec<Way> {
        let read = |text: &str| globs.iter().map(|glob| glob.matches(text)).collect::<Vec<_>>();
        let mut seen = Vec::new();
        let apart = audiences.iter().filter(|text| {
            let read = read(text);
            let is_new = !seen.contains(&read);
            seen.extend(is_new.then_some(read));
            is_new
        });
        let values = apart.map(|text| ClaimValue::Text(Glob::Exact(Arc::clone(text)))).collect();
        Way::of_test(&ClaimTest { claim: ClaimPath::top_level(claim), values })
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
