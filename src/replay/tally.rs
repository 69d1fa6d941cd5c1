//! What a replay comes to: what is decided alike, what flips and by which rule, what cannot be told.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};

use super::log::Place;
use super::{Judged, Outcome, Past, Replay, Why};
use crate::audit::Reason;
use crate::clock::Timestamp;
use crate::policy::{Policy, RuleId, ShadowVerdict};

/// Counts over all records of a log.
#[derive(Debug, Default)]
pub struct Tally {
    /// Of requests, within the time that was asked for.
    pub requests: u64,
    pub first: Option<Timestamp>,
    pub last: Option<Timestamp>,
    /// The policies that decided then, by hash.
    pub policies: BTreeMap<String, u64>,
    pub alike: BTreeMap<Outcome, u64>,
    /// Not decided by any policy, by reason.
    pub undecided: BTreeMap<String, u64>,
    pub flips: BTreeMap<Group, Seen>,
    /// What rules in shadow would change if they were enforced.
    pub trials: BTreeMap<(Trial, String), Seen>,
    pub failures: BTreeMap<Why, Failed>,
}

/// How an outcome changes, those that let more through last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flip {
    /// Allowed then, denied now.
    Denied,
    /// Let through by `shadow_until` then, denied now.
    Enforced,
    /// Allowed then, let through by `shadow_until` alone now.
    Unruled,
    /// Let through by `shadow_until` then, allowed by a rule now.
    Ruled,
    /// Denied then, let through by `shadow_until` now.
    LetThrough,
    /// Denied then, allowed now.
    Allowed,
}

/// Flips of one kind that rest on the same rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    pub flip: Flip,
    /// The rule and the reason then.
    pub rule_then: Option<String>,
    pub reason_then: String,
    /// The rule and the reason now, and where no rule speaks the one that comes nearest.
    pub rule_now: Option<String>,
    pub nearest_now: Option<String>,
    pub reason_now: String,
}

/// What a rule in shadow would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trial {
    WouldDeny,
    WouldAllow,
}

/// Requests of one group.
#[derive(Debug, Default)]
pub struct Seen {
    pub requests: u64,
    pub first: Option<Timestamp>,
    pub last: Option<Timestamp>,
    signers: HashSet<u64>,
    pub samples: Vec<Sample>,
}

#[derive(Debug)]
pub struct Sample {
    /// As `audit.jsonl:17`.
    pub place: String,
    pub id: String,
    /// Who asked for what.
    pub what: String,
}

/// Lines that cannot be replayed for one reason.
#[derive(Debug)]
pub struct Failed {
    pub lines: u64,
    pub first: String,
}

/// Which records count, and how much is told of them.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub since: Timestamp,
    /// The first moment that no longer counts.
    pub until: Timestamp,
    /// Of each group.
    pub samples_max: usize,
}

impl Tally {
    /// Judges one line and counts what that comes to.
    pub fn add(
        &mut self,
        replay: &mut Replay<'_>,
        place: Place<'_>,
        line: Result<&[u8], Why>,
        asked: &Asked,
    ) {
        let is_asked = |time: Timestamp| asked.since <= time && time < asked.until;
        match line.and_then(super::Line::read) {
            Ok(super::Line::Undecided(undecided)) if is_asked(undecided.time) => {
                self.met(undecided.time);
                count(&mut self.undecided, &undecided.reason);
            }
            Ok(super::Line::Decided(past)) if is_asked(past.time) => {
                self.met(past.time);
                count(&mut self.policies, &past.policy);
                match replay.judge(&past) {
                    Ok(judged) => self.compare(replay.policy(), &past, &judged, place, asked),
                    Err(why) => self.failed(why, place),
                }
            }
            Ok(_) => {}
            Err(why) => self.failed(why, place),
        }
    }

    fn met(&mut self, time: Timestamp) {
        self.requests += 1;
        self.first = Some(self.first.map_or(time, |first| first.min(time)));
        self.last = Some(self.last.map_or(time, |last| last.max(time)));
    }

    fn failed(&mut self, why: Why, place: Place<'_>) {
        let failed =
            self.failures.entry(why).or_insert_with(|| Failed { lines: 0, first: place.to_string() });
        failed.lines += 1;
    }

    fn compare(
        &mut self,
        policy: &Policy,
        past: &Past<'_>,
        judged: &Judged,
        place: Place<'_>,
        asked: &Asked,
    ) {
        let name = |rule: RuleId| policy.rule(rule).name.clone();
        for verdict in &judged.decision.evidence.shadow {
            let (trial, rule) = match verdict {
                ShadowVerdict::WouldAllow(rule) if judged.outcome == Outcome::Denied => {
                    (Trial::WouldAllow, *rule)
                }
                ShadowVerdict::WouldDeny(rule) if judged.outcome != Outcome::Denied => {
                    (Trial::WouldDeny, *rule)
                }
                _ => continue,
            };
            self.trials.entry((trial, name(rule))).or_default().add(past, place, asked);
        }
        let Some(flip) = Flip::of(past.outcome, judged.outcome) else {
            *self.alike.entry(past.outcome).or_default() += 1;
            return;
        };
        let evidence = &judged.decision.evidence;
        let nearest = evidence.near_miss.as_ref().filter(|_| evidence.rule.is_none());
        let allowed = if judged.outcome == Outcome::Allowed { Reason::Allowed } else { Reason::Unenforced };
        let group = Group {
            flip,
            rule_then: past.rule.as_deref().map(str::to_owned),
            reason_then: past.decided_because().to_owned(),
            rule_now: evidence.rule.map(name),
            nearest_now: nearest.map(|near| name(near.rule)),
            reason_now: judged
                .causes()
                .first()
                .map_or(allowed, |cause| Reason::from(*cause))
                .as_str()
                .to_owned(),
        };
        self.flips.entry(group).or_default().add(past, place, asked);
    }

    /// Requests that flip in one of these ways.
    pub fn flipped(&self, flips: &[Flip]) -> u64 {
        let these = self.flips.iter().filter(|(group, _)| flips.contains(&group.flip));
        these.map(|(_, seen)| seen.requests).sum()
    }

    /// Groups of flips, and within a kind the largest first.
    pub fn groups(&self) -> Vec<(&Group, &Seen)> {
        let mut groups: Vec<_> = self.flips.iter().collect();
        groups.sort_by_key(|(group, seen)| (group.flip, std::cmp::Reverse(seen.requests)));
        groups
    }
}

impl Flip {
    pub const ALL: [Flip; 6] =
        [Flip::Denied, Flip::Enforced, Flip::Unruled, Flip::Ruled, Flip::LetThrough, Flip::Allowed];
    /// What passes no more.
    pub const NARROWER: [Flip; 2] = [Flip::Denied, Flip::Enforced];
    /// What passes now.
    pub const WIDER: [Flip; 2] = [Flip::LetThrough, Flip::Allowed];

    fn of(then: Outcome, now: Outcome) -> Option<Flip> {
        match (then, now) {
            (Outcome::Allowed, Outcome::Denied) => Some(Flip::Denied),
            (Outcome::Unenforced, Outcome::Denied) => Some(Flip::Enforced),
            (Outcome::Allowed, Outcome::Unenforced) => Some(Flip::Unruled),
            (Outcome::Unenforced, Outcome::Allowed) => Some(Flip::Ruled),
            (Outcome::Denied, Outcome::Unenforced) => Some(Flip::LetThrough),
            (Outcome::Denied, Outcome::Allowed) => Some(Flip::Allowed),
            (Outcome::Allowed, Outcome::Allowed)
            | (Outcome::Unenforced, Outcome::Unenforced)
            | (Outcome::Denied, Outcome::Denied) => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Flip::Denied => "newly_denied",
            Flip::Enforced => "shadow_to_denied",
            Flip::Unruled => "allowed_to_shadow",
            Flip::Ruled => "shadow_to_allowed",
            Flip::LetThrough => "denied_to_shadow",
            Flip::Allowed => "newly_allowed",
        }
    }

    /// What becomes of these requests.
    pub fn words(self) -> &'static str {
        match self {
            Flip::Denied => "newly denied",
            Flip::Enforced => "let through by shadow_until then, denied now",
            Flip::Unruled => "allowed by a rule then, let through by shadow_until alone now",
            Flip::Ruled => "let through by shadow_until then, allowed by a rule now",
            Flip::LetThrough => "denied then, let through by shadow_until now",
            Flip::Allowed => "newly allowed",
        }
    }
}

impl Trial {
    pub fn as_str(self) -> &'static str {
        match self {
            Trial::WouldDeny => "would_deny",
            Trial::WouldAllow => "would_allow",
        }
    }
}

impl Seen {
    fn add(&mut self, past: &Past<'_>, place: Place<'_>, asked: &Asked) {
        self.requests += 1;
        self.first = Some(self.first.map_or(past.time, |first| first.min(past.time)));
        self.last = Some(self.last.map_or(past.time, |last| last.max(past.time)));
        let mut hasher = DefaultHasher::new();
        (past.peer.as_ref().map(|peer| peer.name()), past.caller.as_ref().map(|caller| caller.name()))
            .hash(&mut hasher);
        self.signers.insert(hasher.finish());
        if self.samples.len() < asked.samples_max {
            self.samples.push(Sample {
                place: place.to_string(),
                id: past.id.to_string(),
                what: past.to_string(),
            });
        }
    }

    /// How many different pairs of service and caller these are.
    pub fn signers(&self) -> usize {
        self.signers.len()
    }
}

fn count(counts: &mut BTreeMap<String, u64>, key: &str) {
    match counts.get_mut(key) {
        Some(count) => *count += 1,
        None => _ = counts.insert(key.to_owned(), 1),
    }
}
