//! From requests that no rule allowed to rules that would have: for people to review, never applied.
//!
//! What was let through in shadow is gathered, put together by who asked for what, and written down as the narrowest rules
//! that can still be read. Then the configuration is loaded with them beside it, and the same requests are judged again.

mod doubt;
mod rule;
mod shape;
mod text;
mod wish;

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash, Hasher};

use super::tally::Asked;
use super::{Line, Outcome, Past, Replay, Why};
use crate::config::Config;
use crate::policy::RouteId;
use wish::{Names, Wish};

pub use rule::Rule;
pub use text::{Proposal, RuleAbout, write};

/// What is to be allowed, as it is gathered from records.
pub struct Wishes<'c> {
    config: Option<&'c Config>,
    replay: Option<Replay<'c>>,
    all_allowed: bool,
    found: Vec<Wish>,
    /// Places in `found`, by what a rule could read.
    known: HashMap<u64, usize>,
    /// Requests that the configuration allows as it is.
    pub allowed_already: u64,
    /// Requests beyond those that are kept apart.
    pub left_out: u64,
    pub failures: BTreeMap<Why, u64>,
}

/// Different requests that are kept apart.
const WISHES_MAX: usize = 50_000;

impl<'c> Wishes<'c> {
    /// `all_allowed` wants rules for what was allowed too, not only for what no rule allowed.
    pub fn new(config: Option<&'c Config>, all_allowed: bool) -> Wishes<'c> {
        Wishes {
            config,
            replay: config.map(Replay::new),
            all_allowed,
            found: Vec::new(),
            known: HashMap::new(),
            allowed_already: 0,
            left_out: 0,
            failures: BTreeMap::new(),
        }
    }

    /// Looks at one line.
    pub fn add(&mut self, line: Result<&[u8], Why>, asked: &Asked) {
        match line.and_then(Line::read) {
            Ok(Line::Decided(past)) if asked.since <= past.time && past.time < asked.until => {
                let wanted = match past.outcome {
                    Outcome::Unenforced => true,
                    Outcome::Allowed => self.all_allowed,
                    Outcome::Denied => false,
                };
                if wanted && let Err(why) = self.want(*past) {
                    *self.failures.entry(why).or_default() += 1;
                }
            }
            Ok(_) => {}
            Err(why) if why.is_other_event() => {}
            Err(why) => *self.failures.entry(why).or_default() += 1,
        }
    }

    fn want(&mut self, past: Past<'_>) -> Result<(), Why> {
        let key = key_of(&past);
        let same = self.known.get(&key).and_then(|at| self.found.get_mut(*at));
        if let Some(wish) = same.filter(|wish| wish.is_like(&past)) {
            wish.again(past.time);
            return Ok(());
        }
        let (services, roles) = match &mut self.replay {
            Some(replay) => {
                let judged = replay.judge(&past)?;
                if judged.outcome == Outcome::Allowed && !self.all_allowed {
                    self.allowed_already += 1;
                    return Ok(());
                }
                let evidence = &judged.decision.evidence;
                let text = |name: &crate::identity::Name| name.to_string();
                (evidence.services.iter().map(text).collect(), evidence.roles.iter().map(text).collect())
            }
            None => as_recorded(&past),
        };
        if self.found.len() >= WISHES_MAX {
            self.left_out += 1;
            return Ok(());
        }
        let (routes, subject_claim) = (self.routes(&past), self.subject_claim(&past));
        let names = Names { routes, services, roles, subject_claim };
        self.known.insert(key, self.found.len());
        self.found.push(Wish::new(past.into_owned(), names));
        Ok(())
    }

    /// The route that was taken, with those that another header field would have chosen: a rule is for all of them.
    fn routes(&self, past: &Past<'_>) -> Vec<String> {
        let Some(taken) = past.route.as_deref() else { return Vec::new() };
        let Some(policy) = self.config.map(|config| &config.policy) else { return vec![taken.to_owned()] };
        let name = |id: RouteId| policy.route(id).name.to_string();
        let mut names = BTreeSet::from([taken.to_owned()]);
        let pairs = policy.routes_chosen_by_header();
        // each round reaches those beside what was reached
        for _ in &pairs {
            let (met, pairs) = (names.clone(), pairs.iter().map(|(a, b)| [name(*a), name(*b)]));
            names.extend(pairs.filter(|pair| pair.iter().any(|name| met.contains(name))).flatten());
        }
        names.into_iter().collect()
    }

    /// Where the caller's issuer says who it is about.
    fn subject_claim(&self, past: &Past<'_>) -> Vec<String> {
        let issuer = past.caller.as_ref().and_then(|caller| {
            let issuers = self.config.map_or(&[][..], |config| &config.issuers);
            issuers.iter().find(|issuer| issuer.name.as_str() == caller.issuer)
        });
        let path = issuer.map(|issuer| issuer.claims.subject.0.iter().map(|name| name.to_string()).collect());
        path.unwrap_or_else(|| vec!["sub".to_owned()])
    }

    /// The rules that would allow all that was gathered.
    pub fn rules(&self) -> Vec<Rule<'_>> {
        rule::rules(&self.found)
    }

    /// How many requests were gathered.
    pub fn requests(&self) -> u64 {
        self.found.iter().map(|wish| wish.requests).sum()
    }

    /// What a configuration does not allow of these: why, how many requests, and one of them.
    pub fn still_denied(&self, config: &Config) -> BTreeMap<String, (u64, String)> {
        let mut replay = Replay::new(config);
        let mut denied: BTreeMap<String, (u64, String)> = BTreeMap::new();
        for wish in &self.found {
            let why = match replay.judge(&wish.past) {
                Ok(judged) if judged.outcome == Outcome::Allowed => continue,
                Ok(judged) => {
                    let causes =
                        judged.causes().iter().map(|cause| crate::audit::Reason::from(*cause).as_str());
                    let rule =
                        judged.decision.evidence.rule.map(|rule| config.policy.rule(rule).name.as_str());
                    let causes = causes.collect::<Vec<_>>().join(", ");
                    rule.map_or(causes.clone(), |rule| format!("{causes}, by \"{rule}\""))
                }
                Err(why) => why.to_string(),
            };
            denied.entry(why).or_insert_with(|| (0, wish.past.to_string())).0 += wish.requests;
        }
        denied
    }
}

/// The same for requests that no rule could tell apart, and hardly ever for others.
fn key_of(past: &Past<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&past.peer, &past.caller, &past.method, &past.host, &past.path, past.grpc, &past.route)
        .hash(&mut hasher);
    hasher.finish()
}

/// What they were called then.
fn as_recorded(past: &Past<'_>) -> (Vec<String>, BTreeSet<String>) {
    let services = past.peer.as_ref().and_then(|peer| peer.service.as_deref());
    let services = services.map_or_else(Vec::new, |names| names.split(',').map(str::to_owned).collect());
    let roles = past.caller.iter().flat_map(|caller| caller.roles.iter().cloned()).collect();
    (services, roles)
}
