//! Differences in words: flips that differ in one thing alone become one region, with one request that shows it.

use std::collections::{BTreeMap, BTreeSet};

use super::cells::{CallerCell, PeerCell};
use super::search::Comparison;
use super::{Change, Flip, Outcome, Vouched, Witness};
use crate::clock::Timestamp;
use crate::identity::{ActorKind, Caller};
use crate::policy::cells::{CallerDemand, Demand, Kinds, PeerDemand, Shape, Side, join_nets};
use crate::policy::{PolicyParts, RuleId};

/// A set of requests in words: in each part, any of the words; all parts together.
#[derive(Clone, Debug)]
pub struct Region {
    pub change: Change,
    /// What the old policy makes of the request that shows it, and the new.
    pub outcomes: [Outcome; 2],
    pub parts: BTreeMap<Part, BTreeSet<Word>>,
    /// Rules of the policy that does not permit it all, by which it permits some of it nevertheless.
    pub allowed_too: BTreeSet<String>,
    pub witness: Witness,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    Method,
    Host,
    Path,
    Service,
    Caller,
    Actor,
    Circumstances,
    Time,
}

/// One of `of` that together are all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Word {
    pub text: String,
    /// What it is one of, once all are there.
    whole: String,
    of: usize,
}

impl Word {
    fn alone(text: impl Into<String>) -> Word {
        let text = text.into();
        Word { whole: text.clone(), text, of: 1 }
    }
}

/// A part in words, where all of something is said as such; none where it may be anything.
pub fn said(words: &BTreeSet<Word>) -> Vec<String> {
    let mut found = Vec::new();
    for word in words {
        let all = words.iter().filter(|other| other.whole == word.whole).count() == word.of;
        let text = if all { &word.whole } else { &word.text };
        if !found.contains(text) {
            found.push(text.clone());
        }
    }
    if found.iter().any(String::is_empty) { Vec::new() } else { found }
}

impl Comparison<'_> {
    /// The flips as regions, the largest first among those by one rule.
    pub fn regions(&self, flips: &[Flip], vouched: &[Vouched]) -> Vec<Region> {
        let kinds = self.kinds();
        let mut groups: BTreeMap<String, Vec<Region>> = BTreeMap::new();
        for flip in flips {
            let key = format!("{:?} {:?}", flip.change, flip.outcomes);
            groups.entry(key).or_default().push(self.region(flip, vouched, &kinds));
        }
        let mut found: Vec<Region> = groups.into_values().flat_map(merged).collect();
        let by = |region: &Region| {
            let side = region.change.permitting();
            let name = self.rule_name(side, &region.outcomes[side]).unwrap_or_default();
            (region.change, name)
        };
        found.sort_by_key(by);
        for region in &mut found {
            region.allowed_too = self.allowed_too(region, flips);
        }
        found
    }

    /// The rule that an outcome cites.
    pub fn rule_name(&self, side: Side, outcome: &Outcome) -> Option<String> {
        let rule: RuleId = match outcome {
            Outcome::Permitted { rule, .. } | Outcome::Denied { rule, .. } => (*rule)?,
            Outcome::Refused(_) => return None,
        };
        Some(self.tables[side].policy.rule(rule).name.clone())
    }

    fn allowed_too(&self, region: &Region, flips: &[Flip]) -> BTreeSet<String> {
        let side = 1 - region.change.permitting();
        if region.change == Change::Elsewhere {
            return BTreeSet::new();
        }
        let of_region =
            flips.iter().filter(|flip| flip.outcomes == region.outcomes && flip.change == region.change);
        let table = &self.tables[side];
        let mut names = BTreeSet::new();
        let mut demands: Vec<(Demand, bool)> = Vec::new();
        for flip in of_region {
            let methods = Some(vec![flip.cell.method.clone()]).filter(|_| !flip.cell.alike.is_empty());
            let stands_for_more = self.domains.is_least(&flip.demand.path, flip.cell.length);
            let path = match stands_for_more {
                true => flip.demand.path.clone(),
                false => flip.demand.path.of_length(flip.cell.length),
            };
            let methods = methods.or_else(|| flip.demand.methods.clone());
            let pinned = (Demand { methods, path, ..flip.demand.clone() }, stands_for_more);
            if !demands.contains(&pinned) {
                demands.push(pinned);
            }
        }
        for grant in &table.grants {
            // an exact path has a length that is told apart from all others
            let overlaps = |way: &Demand| {
                demands.iter().any(|(demand, more)| (way.path.rest || !more) && way.join(demand).is_some())
            };
            if let Some(rule) = grant.rule
                && grant.ways.iter().any(overlaps)
            {
                names.insert(table.policy.rule(rule).name.clone());
            }
        }
        names
    }

    fn region(&self, flip: &Flip, vouched: &[Vouched], kinds: &[Vec<Kinds>; 2]) -> Region {
        let Flip { change, demand, cell, witness, outcomes } = flip;
        let side = change.permitting();
        let parts = self.tables[side].policy.parts();
        let domains = &self.domains;
        let methods = match cell.alike.is_empty() {
            true => vec!["any other method".to_owned()],
            false => cell.alike.iter().map(ToString::to_string).collect(),
        };
        let all_methods = match &demand.methods {
            Some(methods) => methods.len(),
            None => domains.all_methods(),
        };
        let whole = if demand.methods.is_none() { "any method" } else { "" };
        let method = |text: String| match whole.is_empty() {
            true => Word::alone(text),
            false => Word { text, whole: whole.to_owned(), of: all_methods },
        };
        let host = demand.host.as_ref().map_or("any host".to_owned(), ToString::to_string);
        let time = self.time(flip);
        let said = BTreeMap::from([
            (Part::Method, methods.into_iter().map(method).collect()),
            (Part::Host, BTreeSet::from([Word::alone(host)])),
            (Part::Path, BTreeSet::from([self.path(flip)])),
            (Part::Service, BTreeSet::from([Word::alone(service(demand, &cell.peer, witness, parts))])),
            (Part::Caller, BTreeSet::from([Word::alone(caller(flip, vouched, side, parts))])),
            (Part::Actor, BTreeSet::from([Word::alone(actor(demand, side, witness.caller(side), kinds))])),
            (Part::Circumstances, BTreeSet::from([Word::alone(self.circumstances(flip))])),
            (Part::Time, BTreeSet::from([time])),
        ]);
        Region {
            change: *change,
            outcomes: outcomes.clone(),
            parts: said,
            allowed_too: BTreeSet::new(),
            witness: witness.clone(),
        }
    }

    fn path(&self, flip: &Flip) -> Word {
        let Flip { demand, cell, .. } = flip;
        let lengths = self.domains.lengths(&demand.path);
        let named = |shape: &Shape| {
            let mut shape = shape.clone();
            for (at, claim) in &demand.matches {
                if let Some(segment @ None) = shape.segments.get_mut(*at) {
                    *segment = Some(format!("{{{claim}}}").into());
                }
            }
            shape.to_string()
        };
        let whole = named(&demand.path);
        let text = match self.domains.is_least(&demand.path, cell.length) && lengths.len() > 1 {
            true => format!(
                "{whole} (not of {} segments)",
                joined(lengths.iter().filter(|l| **l != cell.length), " or ")
            ),
            false => named(&demand.path.of_length(cell.length)),
        };
        Word { text, whole, of: lengths.len() }
    }

    fn time(&self, flip: &Flip) -> Word {
        let times = self.domains.times(&flip.demand);
        let until = self.domains.until(flip.cell.at);
        let from = if flip.cell.at == self.domains.now { "now".to_owned() } else { flip.cell.at.to_string() };
        let text = match until {
            Timestamp::MAX => format!("from {from} on"),
            until => format!("from {from} until {until}"),
        };
        let begins = flip.demand.time.0 > self.domains.now;
        let whole = match (begins, flip.demand.time.1) {
            (false, Timestamp::MAX) => String::new(),
            (false, until) => format!("until {until}"),
            (true, Timestamp::MAX) => format!("from {} on", flip.demand.time.0),
            (true, until) => format!("from {} until {until}", flip.demand.time.0),
        };
        Word { text, whole, of: times.len() }
    }

    fn circumstances(&self, flip: &Flip) -> String {
        let Flip { demand, cell, .. } = flip;
        let mut said = Vec::new();
        said.extend(self.domains.reads_hop().then(|| format!("hop {}", cell.hop)));
        match (demand.peer_ip, demand.client_ip) {
            (None, None) => {}
            (peer, client) if self.domains.tells_client() => {
                said.extend(peer.map(|net| format!("from {net}")));
                said.extend(client.map(|net| format!("of a client at {net}")));
            }
            (Some(one), Some(other)) => {
                said.extend(join_nets(&one, &other).map(|net| format!("from {net}")));
            }
            (peer, client) => said.extend(peer.or(client).map(|net| format!("from {net}"))),
        }
        said.extend(demand.grpc.then(|| "gRPC".to_owned()));
        said.extend(
            demand.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or("…"))),
        );
        said.join(", ")
    }
}

/// Regions that differ in one part alone are one.
fn merged(mut regions: Vec<Region>) -> Vec<Region> {
    let parts = [
        Part::Method,
        Part::Path,
        Part::Actor,
        Part::Caller,
        Part::Service,
        Part::Host,
        Part::Circumstances,
        Part::Time,
    ];
    loop {
        let before = regions.len();
        for part in parts {
            let mut groups: BTreeMap<Vec<(Part, BTreeSet<Word>)>, Region> = BTreeMap::new();
            for region in regions {
                let others = region.parts.iter().filter(|(other, _)| **other != part);
                let key = others.map(|(part, words)| (*part, words.clone())).collect();
                match groups.get_mut(&key) {
                    Some(known) => {
                        let words = region.parts.get(&part).cloned().unwrap_or_default();
                        known.parts.entry(part).or_default().extend(words);
                    }
                    None => drop(groups.insert(key, region)),
                }
            }
            regions = groups.into_values().collect();
        }
        if regions.len() == before {
            return regions;
        }
    }
}

fn service(demand: &Demand, cell: &PeerCell, witness: &Witness, parts: &PolicyParts) -> String {
    let names = || {
        let peer = witness.peer.verified();
        let naming = parts.services.iter().filter(|service| peer.is_some_and(|peer| service.names(peer)));
        joined(naming.map(|service| &service.name), " and ")
    };
    match (&demand.peer, cell) {
        (PeerDemand::Free, PeerCell::Absent) => "with a certificate or without".to_owned(),
        (PeerDemand::Free, PeerCell::Unknown) => "with a certificate that no service names".to_owned(),
        (PeerDemand::Absent, _) => "without a certificate".to_owned(),
        _ => format!("through {}", names()),
    }
}

fn caller(flip: &Flip, vouched: &[Vouched], side: Side, parts: &PolicyParts) -> String {
    let Flip { demand, cell, .. } = flip;
    let CallerCell::Present { vouched: at, .. } = cell.caller else {
        return match demand.caller {
            CallerDemand::Absent => "without a token".to_owned(),
            _ => "with a token or without".to_owned(),
        };
    };
    let issuer = vouched[at].ids[side].map_or("another issuer", |id| parts.issuers[id.index()].name.as_str());
    let mut said = Vec::new();
    let mut say = |text: String| {
        if !said.contains(&text) {
            said.push(text);
        }
    };
    for asked in &demand.sides {
        asked.subject.iter().for_each(|glob| say(format!("subject {glob}")));
        asked.client.iter().for_each(|glob| say(format!("client {glob}")));
        asked.scopes.iter().for_each(|word| say(format!("scope {word}")));
        asked.groups.iter().for_each(|word| say(format!("group {word}")));
        asked.roles.iter().for_each(|word| say(format!("token role {word}")));
    }
    demand.actor_subject.iter().for_each(|glob| say(format!("actor subject {glob}")));
    demand.claims.iter().for_each(|(claim, value)| say(format!("claim {claim} {value}")));
    demand.acr.iter().for_each(|acr| say(format!("acr {acr}")));
    demand.max_age.iter().for_each(|age| say(format!("a login at most {}s old", age.as_secs())));
    let told = if said.is_empty() { "any token".to_owned() } else { said.join(", ") };
    format!("{told} of {issuer}")
}

/// All kinds that no rule tells from this one.
fn actor(demand: &Demand, side: Side, caller: Option<&Caller>, kinds: &[Vec<Kinds>; 2]) -> String {
    let Some(caller) = caller else { return String::new() };
    let alike = |kind: ActorKind, asked: Kinds| {
        let all = ActorKind::ALL.into_iter().filter(|other| {
            asked.contains(*other) && kinds[side].iter().all(|set| set.contains(*other) == set.contains(kind))
        });
        all.collect::<Vec<_>>()
    };
    let asked = &demand.sides[side];
    let who = alike(caller.actor, asked.actor);
    let mut said = match who.len() {
        4 => "any actor".to_owned(),
        _ => format!("actor {}", joined(&who, " or ")),
    };
    if !caller.chain.is_empty() {
        said.push_str(" acting for ");
        let whom = alike(caller.on_behalf_of, asked.on_behalf_of);
        said.push_str(&if whom.len() == 4 { "anybody".to_owned() } else { joined(&whom, " or ") });
    } else if asked.on_behalf_of != Kinds::ANY {
        said.push_str(&format!(
            " on behalf of {}",
            joined(alike(caller.on_behalf_of, asked.on_behalf_of), " or ")
        ));
    }
    said
}

fn joined<T: ToString>(items: impl IntoIterator<Item = T>, between: &str) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(between)
}
