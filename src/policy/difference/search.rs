//! Builds each request that could be judged differently, and has it judged.

use std::cell::{Cell as Counter, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::alike::{Case, Heard, Memory, Voice};
use super::approach::unknown;
use super::barriers::Barriers;
use super::build::in_cell;
use super::cells::{CallerCell, Domains, Pinned};
use super::grid::{Grid, Place};
use super::tables::{Grant, Table};
use super::{Approach, Change, Differences, Flip, Outcome, Realm, Vouched, Witness};
use crate::clock::Timestamp;
use crate::identity::{Name, PeerName};
use crate::policy::cells::{self, Built, Demand, Fresh, Gap, Kinds, Side, Unbuilt};
use crate::policy::claim::ClaimPath;
use crate::policy::pattern::Glob;
use crate::policy::rule::Effect;
use crate::policy::{Cause, Policy, RuleId, ServiceId, UpstreamId};

/// Two policies, written out.
pub struct Comparison<'a> {
    pub(super) tables: [Table<'a>; 2],
    pub(super) domains: Domains,
    pub(super) approaches: [&'a Approach; 2],
}

impl<'a> Comparison<'a> {
    /// From `now` on.
    pub fn new(
        policies: [&'a Policy; 2],
        vouched: &[Vouched],
        approaches: [&'a Approach; 2],
        now: Timestamp,
    ) -> Comparison<'a> {
        let tables = [0, 1].map(|side| Table::new(policies[side], side, vouched));
        let domains = Domains::new(&tables, vouched, approaches, now);
        Comparison { tables, domains, approaches }
    }

    /// Every text with which the policies compare one.
    pub fn globs(&self) -> Vec<Glob> {
        self.tables.iter().flat_map(Table::demands).flat_map(Demand::globs).collect()
    }

    /// Every claim that the policies compare with values, or with the path.
    pub fn places(&self) -> BTreeSet<ClaimPath> {
        let demands = self.tables.iter().flat_map(Table::demands);
        let of = |demand: &Demand| {
            let matched = demand.matches.iter().map(|(_, claim)| claim.clone());
            demand.claims.iter().map(|(claim, _)| claim.clone()).chain(matched).collect::<Vec<_>>()
        };
        demands.flat_map(of).collect()
    }

    /// Every set of kinds of actors that each policy asks for.
    pub fn kinds(&self) -> [Vec<Kinds>; 2] {
        [0, 1].map(|side: Side| {
            let asked = self.tables[side].demands().map(|demand| &demand.sides[side]);
            let kinds: BTreeSet<Kinds> = asked.flat_map(|asked| [asked.actor, asked.on_behalf_of]).collect();
            kinds.into_iter().collect()
        })
    }

    /// What an upstream is called.
    pub fn upstream(&self, side: Side, id: UpstreamId) -> &Name {
        &self.tables[side].policy.parts().upstreams[id.index()]
    }

    pub(super) fn search<'r>(&'r self, realm: Realm<'r>, fresh: &'r Fresh) -> Search<'r> {
        let Comparison { tables, domains, approaches } = self;
        let unknown = unknown(*approaches, [tables[0].policy, tables[1].policy], fresh);
        let (judged, gaps) = (Counter::new(0), RefCell::default());
        let memory = RefCell::default();
        Search { tables, domains, approaches: *approaches, unknown, realm, fresh, judged, gaps, memory }
    }

    /// Every difference.
    pub fn differences(&self, realm: Realm<'_>, fresh: &Fresh) -> Differences {
        let search = self.search(realm, fresh);
        let mut flips = search.flips(Change::Allowed);
        flips.extend(search.flips(Change::Denied));
        flips.extend(search.elsewhere());
        let mut gaps = search.gaps.into_inner();
        realm.gaps.iter().for_each(|gap| *gaps.entry(*gap).or_default() += 1);
        Differences { flips, judged: search.judged.get(), gaps }
    }
}

pub(super) struct Search<'a> {
    pub tables: &'a [Table<'a>; 2],
    pub domains: &'a Domains,
    pub approaches: [&'a Approach; 2],
    /// Of whom no service speaks.
    pub unknown: Built<PeerName>,
    pub realm: Realm<'a>,
    pub fresh: &'a Fresh,
    pub judged: Counter<u64>,
    pub gaps: RefCell<BTreeMap<Gap, u64>>,
    memory: RefCell<Memory>,
}

/// What has been joined to a demand since its cell was chosen.
#[derive(Clone, Default)]
pub(super) struct Met {
    requires: Vec<(Side, RuleId)>,
    carriers: Vec<(Side, ServiceId)>,
    /// Whether the permitting policy has been asked to know the peer.
    known: Vec<Side>,
}

/// Requests that were judged, and those of them that flip as they are.
#[derive(Clone, Copy, Default)]
pub(super) struct Tally {
    requests: usize,
    flipped: usize,
}

impl<'a> Search<'a> {
    /// What may be missing for it is told in the end.
    fn leave_open(&self, gap: Gap) {
        *self.gaps.borrow_mut().entry(gap).or_default() += 1;
    }

    /// All that the one policy permits and the other does not.
    fn flips(&self, change: Change) -> Vec<Flip> {
        let side = change.permitting();
        let [ours, theirs] = [&self.tables[side], &self.tables[1 - side]];
        let same_routes = ours.routes_meaning() == theirs.routes_meaning();
        let same_services = ours.known_meaning == theirs.known_meaning;
        let same_approach = self.approaches[0].lets_in_as(self.approaches[1]);
        let their_grants = theirs.grant_meanings();
        let barriers = Barriers::new(ours, theirs);
        let mut found = Vec::new();
        for grant in &ours.grants {
            let known = their_grants.contains(&*grant.meaning)
                && same_approach
                && (same_services || !grant.waives_peer);
            for (way, same_route) in self.routed(grant, side, same_routes) {
                let mut alone = Vec::new();
                if !(known && same_route) {
                    let tally = self.explore(&way, None, change, &Met::default(), &mut alone);
                    found.append(&mut alone);
                    if tally.flipped == tally.requests {
                        continue;
                    }
                }
                for barrier in barriers.that_matter(same_route) {
                    for joined in barrier.ways.iter().filter_map(|other| way.join(other)) {
                        self.explore(&joined, None, change, &Met::default(), &mut found);
                    }
                }
            }
        }
        found
    }

    /// The ways of a grant with each choice of a route in both policies, and whether that is the same route.
    pub(super) fn routed(&self, grant: &Grant, side: Side, same_routes: bool) -> Vec<(Demand, bool)> {
        let [ours, theirs] = [&self.tables[side], &self.tables[1 - side]];
        let mut found = Vec::new();
        for way in &grant.ways {
            for entry in &ours.entries {
                let Some(here) = way.join(&entry.way) else { continue };
                for other in &theirs.entries {
                    if same_routes && other.meaning != entry.meaning {
                        continue;
                    }
                    if let Some(both) = here.join(&other.way) {
                        found.push((both, other.route == entry.route));
                    }
                }
                if !same_routes {
                    found.push((here, false));
                }
            }
        }
        found
    }

    /// Judges a demand in each of its cells.
    pub(super) fn explore(
        &self,
        demand: &Demand,
        pinned: Option<&Pinned<'_>>,
        change: Change,
        met: &Met,
        found: &mut Vec<Flip>,
    ) -> Tally {
        let mut tally = Tally::default();
        let Some(addressed) = self.built(self.addressed(demand)) else { return tally };
        let grid = self.grid(demand, pinned);
        for place in grid.places() {
            for Voice { spoken, callers } in self.voices(demand, &grid, place) {
                let (heard, least) = &*spoken;
                for cell in grid.cells_at(place, callers[0]) {
                    let Some(witness) = self.built(in_cell(least, &addressed, &cell)) else { continue };
                    let case = Case { demand, cell, witness, heard, callers: &callers };
                    tally.requests += 1;
                    if self.judge_one(case, change, met, found) {
                        tally.flipped += 1;
                    }
                }
            }
        }
        tally
    }

    /// Whether it flips as it is.
    pub(super) fn judge_one(&self, case: Case<'_>, change: Change, met: &Met, found: &mut Vec<Flip>) -> bool {
        let first = change.permitting();
        let mut outcomes = Vec::new();
        for side in [first, 1 - first] {
            let wanted = side == first || change == Change::Elsewhere;
            let outcome = self.judge(side, &case);
            match (&outcome, wanted) {
                (Outcome::Permitted { .. }, true) => {}
                (_, true) => {
                    let Case { demand, cell, callers, .. } = &case;
                    let pinned = Pinned { demand, cell, callers };
                    for (more, met) in self.what_stops(side, &outcome, &case, met) {
                        for joined in more.iter().filter_map(|more| demand.join(more)) {
                            self.explore(&joined, Some(&pinned), change, &met, found);
                        }
                    }
                    return false;
                }
                (Outcome::Permitted { .. }, false) => return false,
                (_, false) => {}
            }
            outcomes.push(outcome);
        }
        let [one, other] = &outcomes[..] else { return false };
        let outcomes = if first == 0 { [one.clone(), other.clone()] } else { [other.clone(), one.clone()] };
        if change == Change::Elsewhere && self.upstream(0, &outcomes[0]) == self.upstream(1, &outcomes[1]) {
            return false;
        }
        let Case { demand, cell, witness, .. } = case;
        found.push(Flip { change, demand: demand.clone(), cell, witness, outcomes });
        true
    }

    fn upstream(&self, side: Side, outcome: &Outcome) -> Option<&str> {
        match outcome {
            Outcome::Permitted { upstream, .. } => {
                Some(self.tables[side].policy.parts().upstreams[upstream.index()].as_str())
            }
            _ => None,
        }
    }

    /// What the permitting policy still wants of a request that it denies: ways to have it, by each thing that
    /// would do.
    fn what_stops(
        &self,
        side: Side,
        outcome: &Outcome,
        case: &Case<'_>,
        met: &Met,
    ) -> Vec<(Vec<Demand>, Met)> {
        let parts = self.tables[side].policy.parts();
        // what has been joined and still is not so was not built as it should be
        let unmet = || {
            self.leave_open(Gap::Unmet);
            Vec::new()
        };
        // without a certificate: no listener takes it, or the token is bound to one
        let is_bare = matches!(outcome, Outcome::Refused(_)) && case.witness.peer.verified().is_none();
        let is_unknown = matches!(outcome, Outcome::Denied { cause: Cause::PeerUnknown, .. });
        let required = || match outcome {
            Outcome::Denied { rule: Some(rule), .. } => self.required(side, *rule, met),
            _ => None,
        };
        if is_bare || is_unknown {
            let mut found = Vec::new();
            if !met.known.contains(&side) {
                let mut met = met.clone();
                met.known.push(side);
                found.push((parts.services.iter().flat_map(cells::peers).collect(), met));
            }
            if is_unknown && self.takes_anybody(side, case.demand) {
                found.extend(required());
            }
            return if found.is_empty() && !is_bare { unmet() } else { found };
        }
        let Outcome::Denied { cause, rule } = outcome else { return Vec::new() };
        if *cause == Cause::TokenNotIssuedToService {
            let Some(id) = case.heard.uncarried[side].first().copied() else { return Vec::new() };
            if met.carriers.contains(&(side, id)) {
                return unmet();
            }
            let mut met = met.clone();
            met.carriers.push((side, id));
            // one that carries no token has no way
            let carried = cells::carried(&parts.services[id.index()], side);
            return carried.map(|more| (more, met)).into_iter().collect();
        }
        match required() {
            Some(required) => vec![required],
            None if rule.is_some_and(|rule| met.requires.contains(&(side, rule))) => unmet(),
            None => Vec::new(),
        }
    }

    /// The ways in which a require is met, unless they have been joined.
    fn required(&self, side: Side, id: RuleId, met: &Met) -> Option<(Vec<Demand>, Met)> {
        let policy = self.tables[side].policy;
        let rule = policy.rule(id);
        if rule.effect != Effect::Require || met.requires.contains(&(side, id)) {
            return None;
        }
        let mut met = met.clone();
        met.requires.push((side, id));
        Some((cells::met(rule, policy.parts(), side), met))
    }

    /// Whether a route that is not enforced yet may take these requests, whoever's certificate they come with.
    fn takes_anybody(&self, side: Side, demand: &Demand) -> bool {
        let unenforced = self.tables[side].grants.iter().filter(|grant| grant.rule.is_none());
        unenforced.flat_map(|grant| &grant.ways).any(|way| way.join(demand).is_some())
    }

    pub(super) fn grid(&self, demand: &Demand, pinned: Option<&Pinned<'_>>) -> Grid<'_> {
        self.domains.of(demand, pinned, &|demand| self.acting(demand))
    }

    /// Who can ask in this place, by what the policies make of them.
    fn voices(&self, demand: &Demand, grid: &Grid<'_>, place: Place<'_>) -> Vec<Voice> {
        let mut found: Vec<Voice> = Vec::new();
        let mut memory = self.memory.borrow_mut();
        let known = memory.of(demand, place);
        for caller in &grid.callers {
            let Some(cell) = grid.cells_at(place, *caller).next() else { continue };
            let spoken = known.entry(*caller).or_insert_with(|| {
                let least = self.least(demand, &cell)?;
                Ok(Rc::new((self.heard(&least), least)))
            });
            let Some(spoken) = self.built(spoken.clone()) else { continue };
            match found.iter_mut().find(|voice| voice.spoken.0.is_like(&spoken.0)) {
                Some(same) => same.callers.push(*caller),
                None => found.push(Voice { callers: vec![*caller], spoken }),
            }
        }
        found
    }

    /// Of what could not be built, what may be missing is told in the end.
    fn built<T>(&self, built: Built<T>) -> Option<T> {
        match built {
            Ok(built) => Some(built),
            Err(Unbuilt::Impossible) => None,
            Err(Unbuilt::Open(gap)) => {
                self.leave_open(gap);
                None
            }
        }
    }

    pub(super) fn heard(&self, witness: &Witness) -> Heard {
        Heard::of(witness, self.tables, self.approaches, self.domains)
    }

    fn acting(&self, demand: &Demand) -> Vec<CallerCell> {
        let mut found = Vec::new();
        for (vouched, pair) in self.realm.vouched.iter().enumerate() {
            let taken = [0, 1].into_iter().all(|side: Side| {
                let wanted = demand.sides[side].issuers.as_ref();
                wanted.is_none_or(|wanted| pair.ids[side].is_some_and(|id| wanted.contains(&id)))
            });
            if taken {
                let acting = (self.realm.acting)(vouched, demand);
                found.extend(acting.into_iter().map(|acting| CallerCell::Present { vouched, acting }));
            }
        }
        found
    }

    pub(super) fn judge(&self, side: Side, case: &Case<'_>) -> Outcome {
        self.judged.set(self.judged.get() + 1);
        let standing = case.heard.standings[side].as_ref();
        self.approaches[side].judged_as(&case.witness, self.tables[side].policy, side, standing)
    }
}
