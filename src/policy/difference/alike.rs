//! Callers that no rule tells apart: one of them is asked about for all.

use std::collections::HashMap;
use std::rc::Rc;

use super::cells::{CallerCell, Cell, Domains};
use super::grid::Place;
use super::tables::Table;
use super::{Approach, Witness};
use crate::identity::ActorKind;
use crate::policy::cells::{Built, Demand, Side};
use crate::policy::claim::MatchClaim;
use crate::policy::{ServiceId, Standing};

/// Callers that the policies judge alike in one place.
pub struct Voice {
    pub spoken: Rc<Spoken>,
    pub callers: Vec<CallerCell>,
}

/// What the policies make of who asks, and the least request of the first.
pub type Spoken = (Heard, Witness);

/// Requests that were built, by all that a caller's credentials and path depend on.
#[derive(Default)]
pub struct Memory(HashMap<String, HashMap<CallerCell, Built<Rc<Spoken>>>>);

/// What is asked for again is asked for soon: nobody needs more.
const REMEMBERED_MAX: usize = 64;

impl Memory {
    pub fn of(&mut self, demand: &Demand, place: Place<'_>) -> &mut HashMap<CallerCell, Built<Rc<Spoken>>> {
        let nothing = Demand::nothing();
        // what no token, and no path, is made of
        let Demand { methods, host, headers, grpc, hops, peer_ip, client_ip, time, .. } = nothing;
        let peer = nothing.peer;
        let mut asked =
            Demand { peer, methods, host, headers, grpc, hops, peer_ip, client_ip, time, ..demand.clone() };
        asked.sides.iter_mut().for_each(|side| side.routes = None);
        let key = format!("{asked:?} {place:?}");
        if self.0.len() >= REMEMBERED_MAX && !self.0.contains_key(&key) {
            self.0.clear();
        }
        self.0.entry(key).or_default()
    }
}

/// A request that fulfils a demand in a cell, and who else could send it.
pub struct Case<'c> {
    pub demand: &'c Demand,
    pub cell: Cell,
    pub witness: Witness,
    pub heard: &'c Heard,
    pub callers: &'c [CallerCell],
}

/// All that the policies make of who asks, whatever is asked at that path.
pub struct Heard {
    /// The code of a refusal where the token is refused before any rule.
    pub standings: [Result<Standing, &'static str>; 2],
    /// The place of the token's issuers.
    vouched: Option<usize>,
    kinds: [Option<Kind>; 2],
    /// Services of the peer that may not carry the token.
    pub uncarried: [Vec<ServiceId>; 2],
    /// Which claims stand in the path where rules look for them.
    matches: Vec<bool>,
}

/// What a difference says of who acts.
#[derive(PartialEq)]
struct Kind {
    actor: ActorKind,
    on_behalf_of: ActorKind,
    acts: bool,
    is_named: bool,
}

impl Heard {
    pub fn of(
        witness: &Witness,
        tables: &[Table<'_>; 2],
        approaches: [&Approach; 2],
        domains: &Domains,
    ) -> Heard {
        let kind = |side: Side| {
            let caller = witness.caller(side)?;
            let (acts, is_named) = (!caller.chain.is_empty(), caller.acting().is_some());
            Some(Kind { actor: caller.actor, on_behalf_of: caller.on_behalf_of, acts, is_named })
        };
        let segments: Vec<_> = witness.path.segments().collect();
        // claims are as issued, whoever reads them
        let claims = witness.token.as_ref().map(|(_, token)| &token.claims);
        let is_there = |(at, claim): &(usize, _)| {
            let test = MatchClaim { segment: "".into(), claim: Clone::clone(claim) };
            segments.get(*at).zip(claims).is_some_and(|(segment, claims)| test.holds(segment, claims))
        };
        Heard {
            standings: [0, 1]
                .map(|side: Side| approaches[side].seen_as(witness).standing(tables[side].policy, side)),
            vouched: witness.token.as_ref().map(|(at, _)| *at),
            kinds: [0, 1].map(kind),
            uncarried: [0, 1].map(|side: Side| {
                approaches[side].seen_as(witness).uncarried(tables[side].policy, side).collect()
            }),
            matches: domains.matches.iter().map(is_there).collect(),
        }
    }

    pub fn is_like(&self, other: &Heard) -> bool {
        let same_standings = self.standings.iter().zip(&other.standings).all(|pair| match pair {
            (Ok(one), Ok(other)) => one.is_like(other),
            (one, other) => one.as_ref().err() == other.as_ref().err(),
        });
        same_standings
            && self.vouched == other.vouched
            && self.kinds == other.kinds
            && self.uncarried == other.uncarried
            && self.matches == other.matches
    }
}
