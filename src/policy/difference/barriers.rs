//! What keeps requests from being permitted, as far as the two policies differ in it.

use std::collections::HashSet;

use super::tables::{Barrier, Table, meanings};
use crate::policy::cells::{CallerDemand, Demand, product};

/// What keeps requests from being permitted by the one policy that the other might permit.
pub struct Barriers<'t> {
    all: Vec<&'t Barrier>,
    carriers: Vec<Barrier>,
    /// Those of `all` that say something else than any of the other policy.
    changed: Vec<&'t Barrier>,
}

impl<'t> Barriers<'t> {
    pub fn new(ours: &'t Table<'_>, theirs: &'t Table<'_>) -> Barriers<'t> {
        let (denies, requires) = (meanings(&ours.denies), meanings(&ours.requires));
        let is_new = |known: &HashSet<&str>, barrier: &&Barrier| !known.contains(&*barrier.meaning);
        let changed_denies = theirs.denies.iter().filter(|barrier| is_new(&denies, barrier));
        let changed_requires = theirs.requires.iter().filter(|barrier| is_new(&requires, barrier));
        let carrying = meanings(&ours.carriers);
        let present = Demand { caller: CallerDemand::Present, ..Demand::nothing() };
        let carriers = theirs.carriers.iter().filter(|barrier| is_new(&carrying, barrier));
        let carriers: Vec<Barrier> = carriers
            .map(|barrier| Barrier {
                name: barrier.name.clone(),
                meaning: barrier.meaning.clone(),
                ways: product(&barrier.ways, std::slice::from_ref(&present)),
                met: Vec::new(),
            })
            .collect();
        Barriers {
            all: theirs.denies.iter().chain(&theirs.requires).collect(),
            changed: changed_denies.chain(changed_requires).collect(),
            carriers,
        }
    }

    pub fn that_matter(&self, same_route: bool) -> impl Iterator<Item = &Barrier> {
        let rules = if same_route { &self.changed } else { &self.all };
        rules.iter().copied().chain(&self.carriers)
    }
}
