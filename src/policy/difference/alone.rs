//! One policy by itself: what it permits is what it newly allows where nothing was allowed before.

use http::Method;

use super::alike::Case;
use super::cells::Cell;
use super::search::{Comparison, Met, Search};
use super::{Change, Flip, Outcome, Realm};
use crate::policy::RuleId;
use crate::policy::cells::{Demand, Fresh, Gap, Side, Unbuilt};

/// Asks the newer of two policies, the older of which permits nothing and has the same tables.
pub struct Alone<'a>(Search<'a>);

/// All ways in which an allow, or a route that is not enforced yet (`None`), takes requests of some route.
#[derive(Clone, Debug)]
pub struct Ways {
    pub rule: Option<RuleId>,
    pub demands: Vec<Demand>,
}

/// What became of one way.
#[derive(Debug, Default)]
pub struct Tried {
    pub open: Vec<Flip>,
    pub closed: Vec<Closed>,
}

/// Why nobody comes in who has no more than what is demanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// No issuer's token can speak of such an actor.
    NoToken,
    /// What is demanded of the token contradicts itself, or its issuer never says it.
    NoClaims,
    /// There may be somebody: no request was built.
    Open(Gap),
    /// Judged, and denied; what would help, if there is anything, did not.
    Denied(Outcome),
}

impl Comparison<'_> {
    pub fn alone<'r>(&'r self, realm: Realm<'r>, fresh: &'r Fresh) -> Alone<'r> {
        Alone(self.search(realm, fresh))
    }

    /// The methods that some rule names, those together that no rule tells apart.
    pub fn method_classes(&self) -> &[Vec<Method>] {
        self.domains.named_methods()
    }
}

impl Alone<'_> {
    /// The side of [`Demand::sides`] that speaks of this policy.
    pub const SIDE: Side = 1;
    const CHANGE: Change = Change::Allowed;

    pub fn ways(&self) -> Vec<Ways> {
        let grants = &self.0.tables[Self::SIDE].grants;
        let ways = |grant| self.0.routed(grant, Self::SIDE, true).into_iter().map(|(demand, _)| demand);
        grants.iter().map(|grant| Ways { rule: grant.rule, demands: ways(grant).collect() }).collect()
    }

    /// Requests that are permitted and fulfil the demand: one of each cell, and of each way in which the
    /// requires that reach it are met.
    pub fn each(&self, demand: &Demand, is_asked: impl Fn(&Cell) -> bool) -> Tried {
        let mut tried = Tried::default();
        let cells: Vec<Cell> = self.0.grid(demand, None).cells().collect();
        if cells.is_empty() {
            tried.closed.push(Closed::NoToken);
        }
        for cell in cells.into_iter().filter(is_asked) {
            match self.0.witness(demand, &cell) {
                Err(Unbuilt::Impossible) => tried.closed.push(Closed::NoClaims),
                Err(Unbuilt::Open(gap)) => tried.closed.push(Closed::Open(gap)),
                Ok(witness) => {
                    let (heard, callers) = (self.0.heard(&witness), [cell.caller]);
                    let case = Case { demand, cell, witness, heard: &heard, callers: &callers };
                    let (before, outcome) = (tried.open.len(), self.0.judge(Self::SIDE, &case));
                    self.0.judge_one(case, Self::CHANGE, &Met::default(), &mut tried.open);
                    if tried.open.len() == before {
                        tried.closed.push(Closed::Denied(outcome));
                    }
                }
            }
        }
        tried
    }

    /// The first of them that is as it should be.
    pub fn first(
        &self,
        demand: &Demand,
        is_asked: impl Fn(&Cell) -> bool,
        is_wanted: impl Fn(&Flip) -> bool,
    ) -> Option<Flip> {
        let mut found = Vec::new();
        for cell in self.0.grid(demand, None).cells().filter(is_asked) {
            let Ok(witness) = self.0.witness(demand, &cell) else { continue };
            let (heard, callers) = (self.0.heard(&witness), [cell.caller]);
            let case = Case { demand, cell, witness, heard: &heard, callers: &callers };
            self.0.judge_one(case, Self::CHANGE, &Met::default(), &mut found);
            if let Some(at) = found.iter().position(&is_wanted) {
                return Some(found.swap_remove(at));
            }
            found.clear();
        }
        None
    }
}
