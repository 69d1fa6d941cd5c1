//! Where a region in words is wider than the difference: what of it the other policy permits too, and what is
//! refused all the same.

use std::collections::BTreeSet;

use super::cells::{CallerCell, PeerCell};
use super::regions::alike;
use super::search::Comparison;
use super::tables::{Barrier, Entry, Table};
use super::{Change, Flip, Outcome, Vouched};
use crate::policy::cells::{CallerDemand, Demand, Kinds, PeerDemand, Side, SideDemand};

/// All requests that the words of one flip speak of.
pub(super) struct Told<'f> {
    flip: &'f Flip,
    demand: Demand,
    /// Whether the path stands for all lengths that no exact path has.
    other_lengths: bool,
    other_methods: bool,
    /// Whether anybody's certificate will do, and being without one.
    any_peer: bool,
    any_certificate: bool,
}

impl Told<'_> {
    /// What of it fulfils a demand, too.
    fn join(&self, way: &Demand) -> Option<Demand> {
        let method = way.methods.is_none() || !self.other_methods;
        let length = way.path.rest || !self.other_lengths;
        let peer = match self.flip.cell.peer {
            PeerCell::Unknown if self.any_certificate => way.peer != PeerDemand::Absent,
            PeerCell::Unknown => way.peer == PeerDemand::Free,
            _ => true,
        };
        if method && length && peer { self.demand.join(way) } else { None }
    }

    fn overlaps(&self, ways: &[Demand]) -> bool {
        ways.iter().any(|way| self.join(way).is_some())
    }

    /// Whether some of it is in `ways` and not as what is asked for there.
    fn falls_short(&self, barrier: &Barrier) -> bool {
        barrier.ways.iter().filter_map(|way| self.join(way)).any(|within| {
            let is_met = |met: &Demand| within.join(met).as_ref() == Some(&within);
            !barrier.met.iter().any(is_met)
        })
    }
}

impl Comparison<'_> {
    pub(super) fn told<'f>(&self, flip: &'f Flip, vouched: &[Vouched], kinds: &[Vec<Kinds>; 2]) -> Told<'f> {
        let Flip { cell, witness, .. } = flip;
        let domains = &self.domains;
        let mut demand = flip.demand.clone();
        let other_methods = cell.alike.is_empty();
        if !other_methods {
            demand.methods = Some(vec![cell.method.clone()]);
        }
        let other_lengths = domains.is_least(&demand.path, cell.length);
        if !other_lengths {
            demand.path = demand.path.of_length(cell.length);
        }
        demand.time = (cell.at.max(demand.time.0), domains.until(cell.at).min(demand.time.1));
        if domains.reads_hop() {
            demand.hops = Some(vec![cell.hop.clone()]);
        }
        if demand.peer == PeerDemand::Free {
            demand.peer = match &cell.peer {
                PeerCell::Absent if domains.tells_absence() => PeerDemand::Absent,
                PeerCell::Absent | PeerCell::Unknown => PeerDemand::Free,
                PeerCell::Spiffe { trust_domain, path } => {
                    PeerDemand::Spiffe { trust_domain: trust_domain.clone(), path: path.clone() }
                }
                PeerCell::Dns { trust_domain, names } => {
                    PeerDemand::Dns { trust_domain: trust_domain.clone(), names: names.clone() }
                }
            };
        }
        if let CallerCell::Present { vouched: at, .. } = cell.caller {
            demand.caller = CallerDemand::Present;
            for side in [0, 1] {
                demand.sides[side].issuers = vouched[at].ids[side].map(|id| vec![id]);
            }
            if vouched[at].alike {
                // one says what the other does
                let [old, new] = demand.sides.each_ref().map(words_of);
                if let Some(both) = old.join(&new) {
                    demand.sides.iter_mut().for_each(|side| with_words_of(side, &both));
                }
            }
        }
        for side in [0, 1] {
            let Some(caller) = witness.caller(side) else { continue };
            demand.act = Some(!caller.chain.is_empty());
            let asked = &mut demand.sides[side];
            asked.actor = Kinds::of(&alike(caller.actor, asked.actor, &kinds[side]));
            asked.on_behalf_of = Kinds::of(&alike(caller.on_behalf_of, asked.on_behalf_of, &kinds[side]));
        }
        let any_peer = demand.peer == PeerDemand::Free && cell.peer == PeerCell::Absent;
        let any_certificate = domains.is_any_certificate(cell);
        Told { flip, demand, other_lengths, other_methods, any_peer, any_certificate }
    }

    /// Rules of the policy that does not permit it all, by which it permits some of it nevertheless.
    pub(super) fn allowed_too(&self, told: &[Told<'_>], change: Change) -> BTreeSet<String> {
        let table = &self.tables[1 - change.permitting()];
        let grants = table.grants.iter().filter(|grant| told.iter().any(|told| told.overlaps(&grant.ways)));
        let name = |rule: Option<_>| match rule {
            Some(rule) => table.policy.rule(rule).name.clone(),
            None => UNENFORCED.to_owned(),
        };
        if change == Change::Elsewhere {
            return BTreeSet::new();
        }
        grants.map(|grant| name(grant.rule)).collect()
    }

    /// What of it is refused, or goes elsewhere, whatever permits it.
    pub(super) fn refused_too(&self, told: &[Told<'_>], change: Change) -> BTreeSet<String> {
        let permitting: &[Side] = match change {
            Change::Allowed => &[1],
            Change::Denied => &[0],
            Change::Elsewhere => &[0, 1],
        };
        let mut found = BTreeSet::new();
        for told in told {
            for side in permitting {
                found.extend(barriers(told, &self.tables[*side]));
                let is_enforced =
                    matches!(told.flip.outcomes[*side], Outcome::Permitted { rule: Some(_), .. });
                if told.any_peer && is_enforced {
                    found.insert("where no service names the certificate".to_owned());
                }
            }
            for side in [0, 1] {
                found.extend(better_routes(told, &self.tables[side], side));
                if change == Change::Elsewhere {
                    found.extend(other_variants(told, &self.tables[side], side));
                }
            }
        }
        found
    }
}

/// What is demanded of the texts in a token.
fn words_of(side: &SideDemand) -> SideDemand {
    let mut words = SideDemand::default();
    with_words_of(&mut words, side);
    words
}

fn with_words_of(side: &mut SideDemand, words: &SideDemand) {
    let SideDemand { subject, client, scopes, groups, roles, .. } = words.clone();
    *side = SideDemand { subject, client, scopes, groups, roles, ..side.clone() };
}

/// In place of the name of an allow.
pub const UNENFORCED: &str = "a route that is not enforced yet";

fn barriers<'t>(told: &'t Told<'_>, table: &'t Table<'_>) -> impl Iterator<Item = String> + 't {
    let denies = table.denies.iter().filter(|deny| told.overlaps(&deny.ways));
    let requires = table.requires.iter().filter(|require| told.falls_short(require));
    let with_token = told.demand.caller != CallerDemand::Absent;
    let carriers = table.carriers.iter().filter(move |carrier| with_token && told.falls_short(carrier));
    denies
        .map(|deny| format!("where deny `{}` holds", deny.name))
        .chain(requires.map(|require| format!("where require `{}` is not met", require.name)))
        .chain(carriers.map(|carrier| format!("tokens that `{}` may not carry (client_id)", carrier.name)))
}

/// The entry by which its requests are routed, if that is told.
fn own_entry<'t>(told: &Told<'_>, table: &'t Table<'_>, side: Side) -> Option<&'t Entry> {
    let demand = &told.flip.demand;
    demand.sides[side].routes.as_ref()?;
    table.entries.iter().find(|entry| demand.join(&entry.way).as_ref() == Some(demand))
}

/// Entries come in the order in which they are tried.
fn better_routes(told: &Told<'_>, table: &Table<'_>, side: Side) -> Vec<String> {
    let Some(own) = own_entry(told, table, side) else { return Vec::new() };
    let better = table.entries.iter().take_while(|entry| !std::ptr::eq(*entry, own));
    let takes_some = |entry: &&Entry| {
        let mut way = entry.way.clone();
        way.sides[side].routes = None;
        entry.route != own.route && told.overlaps(&[way])
    };
    better.filter(takes_some).map(|entry| format!("what route `{}` takes", entry.route)).collect()
}

fn other_variants(told: &Told<'_>, table: &Table<'_>, side: Side) -> Option<String> {
    let own = own_entry(told, table, side)?;
    let Outcome::Permitted { upstream, .. } = told.flip.outcomes[side] else { return None };
    let taken = &table.policy.parts().upstreams[upstream.index()];
    let last = own.targets.iter().rposition(|target| target.upstream == *taken)?;
    let others = own.targets[..last].iter().filter(|target| target.upstream != *taken);
    let some = others.into_iter().any(|target| told.overlaps(&target.ways.0));
    some.then(|| format!("whom another variant of route `{}` takes", own.route))
}
