//! Differences in words: flips that differ in one thing alone become one region, with one request that shows it.

use std::collections::{BTreeMap, BTreeSet};

use super::cells::{CallerCell, Domains, PeerCell};
use super::search::Comparison;
use super::tables::Table;
use super::{Change, Flip, Outcome, Vouched, Witness};
use crate::clock::Timestamp;
use crate::identity::{ActorKind, Caller};
use crate::policy::cells::{CallerDemand, Kinds, PeerDemand, Shape, Side, SideDemand, join_nets};
use crate::policy::claim::ClaimValue;
use crate::policy::pattern::Glob;
use crate::policy::words::duration;
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
    /// What else is in it by its words alone: no policy makes a difference there.
    pub refused_too: BTreeSet<String>,
    pub witness: Witness,
    /// Places of the flips that it is made of.
    of: Vec<usize>,
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
        for (at, flip) in flips.iter().enumerate() {
            let key = format!("{:?} {:?}", flip.change, flip.outcomes);
            let region = Region { of: vec![at], ..self.region(flip, vouched, &kinds) };
            groups.entry(key).or_default().push(region);
        }
        let mut found: Vec<Region> = groups.into_values().flat_map(merged).collect();
        let by = |region: &Region| {
            let side = region.change.permitting();
            let name = self.rule_name(side, &region.outcomes[side]).unwrap_or_default();
            (region.change, name)
        };
        found.sort_by_key(by);
        for region in &mut found {
            let told = region.of.iter().map(|at| self.told(&flips[*at], vouched, &kinds));
            let told: Vec<_> = told.collect();
            region.allowed_too = self.allowed_too(&told, region.change);
            region.refused_too = self.refused_too(&told, region.change);
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
            (Part::Service, BTreeSet::from([Word::alone(service(flip, &self.tables, domains))])),
            (Part::Caller, BTreeSet::from([Word::alone(caller(flip, vouched, side, parts))])),
            (Part::Actor, BTreeSet::from([actor(flip, side, vouched, kinds)])),
            (Part::Circumstances, BTreeSet::from([Word::alone(self.circumstances(flip))])),
            (Part::Time, BTreeSet::from([time])),
        ]);
        Region {
            change: *change,
            outcomes: outcomes.clone(),
            parts: said,
            allowed_too: BTreeSet::new(),
            refused_too: BTreeSet::new(),
            witness: witness.clone(),
            of: Vec::new(),
        }
    }

    fn path(&self, flip: &Flip) -> Word {
        let Flip { demand, cell, .. } = flip;
        let lengths = self.domains.lengths(&demand.path);
        let named = |shape: &Shape| {
            let mut named = shape.clone();
            let free = named.segments.iter_mut().enumerate().filter(|(_, segment)| segment.is_none());
            for (at, segment) in free {
                let claims = demand.matches.iter().filter(|(of, _)| *of == at).map(|(_, claim)| claim);
                let claims = joined(claims, " and ");
                *segment = (!claims.is_empty()).then(|| format!("{{{claims}}}").into());
            }
            named.to_string()
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
                        known.of.extend(region.of);
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

fn service(flip: &Flip, tables: &[Table<'_>; 2], domains: &Domains) -> String {
    let names = |side: Side| {
        let peer = flip.witness.peer.verified();
        let services = &tables[side].policy.parts().services;
        let naming = services.iter().filter(|service| peer.is_some_and(|peer| service.names(peer)));
        joined(naming.map(|service| &service.name), " and ")
    };
    let side = flip.change.permitting();
    match (&flip.demand.peer, &flip.cell.peer) {
        (PeerDemand::Free, PeerCell::Absent) if domains.tells_absence() => "without a certificate".to_owned(),
        (PeerDemand::Free, PeerCell::Absent) => "with a certificate or without".to_owned(),
        (PeerDemand::Free, PeerCell::Unknown) if domains.is_any_certificate(&flip.cell) => {
            "with a certificate".to_owned()
        }
        (PeerDemand::Free, PeerCell::Unknown) => "with a certificate that no service names".to_owned(),
        (PeerDemand::Absent, _) => "without a certificate".to_owned(),
        _ if names(side).is_empty() => {
            let other = ["old", "new"][1 - side];
            format!("with a certificate that the {other} policy names as {}", names(1 - side))
        }
        _ => format!("through {}", names(side)),
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
    // a segment that another rule names is what the claim must be
    for (at, claim) in &demand.matches {
        if let Some(Some(literal)) = demand.path.segments.get(*at) {
            say(format!("claim {claim} {}", ClaimValue::Text(Glob::Exact(literal.clone()))));
        }
    }
    demand.acr.iter().for_each(|acr| say(format!("acr {acr}")));
    demand.max_age.iter().for_each(|age| say(format!("a login at most {} old", duration(*age))));
    if demand.bound {
        say("bound to its holder's key".to_owned());
    }
    let told = if said.is_empty() { "any token".to_owned() } else { said.join(", ") };
    format!("{told} of {issuer}")
}

/// All kinds among these that no rule tells from this one.
pub(super) fn alike(kind: ActorKind, asked: Kinds, told_apart: &[Kinds]) -> Vec<ActorKind> {
    let is_alike = |other: &ActorKind| {
        asked.contains(*other) && told_apart.iter().all(|set| set.contains(*other) == set.contains(kind))
    };
    ActorKind::ALL.into_iter().filter(is_alike).collect()
}

/// Who acts, for whom if that is asked or said, and whether the token says so in `act`.
fn actor(flip: &Flip, side: Side, vouched: &[Vouched], kinds: &[Vec<Kinds>; 2]) -> Word {
    let Some(caller) = flip.witness.caller(side) else { return Word::alone("") };
    let asked = &flip.demand.sides[side];
    // where both read a token alike, what either tells apart is
    let both = matches!(flip.cell.caller, CallerCell::Present { vouched: at, .. } if vouched[at].alike);
    let other = if both { flip.witness.caller(1 - side) } else { None };
    let alike = |kind: fn(&Caller) -> ActorKind, asked: fn(&SideDemand) -> Kinds| {
        let of =
            |side: Side, caller: &Caller| alike(kind(caller), asked(&flip.demand.sides[side]), &kinds[side]);
        let mut found = of(side, caller);
        if let Some(other) = other {
            let others = of(1 - side, other);
            found.retain(|kind| others.contains(kind));
        }
        found
    };
    let words = |kinds: &[ActorKind]| match kinds.len() == ActorKind::ALL.len() {
        true => "anybody".to_owned(),
        false => joined(kinds, " or "),
    };
    let who = alike(|caller| caller.actor, |asked| asked.actor);
    let whom = alike(|caller| caller.on_behalf_of, |asked| asked.on_behalf_of);
    let acts = !caller.chain.is_empty();
    // who acts without `act` acts for itself, but for agents, whose tokens say for whom
    let for_itself = !who.contains(&ActorKind::Agent) || whom.len() == ActorKind::ALL.len();
    if !acts && asked.on_behalf_of == Kinds::ANY && for_itself {
        return Word::alone(words(&who));
    }
    let whole = format!("{} for {}", words(&who), words(&whom));
    let how = if acts { "with" } else { "without" };
    Word { text: format!("{whole}, {how} act"), whole, of: 2 }
}

fn joined<T: ToString>(items: impl IntoIterator<Item = T>, between: &str) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(between)
}
