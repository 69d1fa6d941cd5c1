//! What both policies permit and pass to different upstreams.

use super::search::{Met, Search};
use super::tables::Target;
use super::{Change, Flip};
use crate::policy::cells::{Demand, Side};

impl Search<'_> {
    /// A request that both permit is permitted by an allow of each; one that says the same in both is enough, if
    /// both choose one route.
    pub(super) fn elsewhere(&self) -> Vec<Flip> {
        let change = Change::Elsewhere;
        let side: Side = change.permitting();
        let [ours, theirs] = [&self.tables[side], &self.tables[1 - side]];
        let same_routes = ours.routes_meaning() == theirs.routes_meaning();
        let mut found = Vec::new();
        for entry in &ours.entries {
            for other in &theirs.entries {
                let unlike = entry.targets != other.targets;
                if !unlike || (same_routes && entry.meaning != other.meaning) {
                    continue;
                }
                let Some(routed) = entry.way.join(&other.way) else { continue };
                for target in apart(&entry.targets, &other.targets, &routed) {
                    for grant in &ours.grants {
                        let same = theirs.grants.iter().find(|their| their.meaning == grant.meaning);
                        for way in grant.ways.iter().filter_map(|way| way.join(&target)) {
                            if same.is_some() && entry.route == other.route {
                                self.explore(&way, None, change, &Met::default(), &mut found);
                                continue;
                            }
                            let theirs = theirs.grants.iter().flat_map(|grant| &grant.ways);
                            for both in theirs.filter_map(|their| their.join(&way)) {
                                self.explore(&both, None, change, &Met::default(), &mut found);
                            }
                        }
                    }
                }
            }
        }
        found
    }
}

/// The ways in which two routes pass a request to different upstreams.
fn apart(ours: &[Target], theirs: &[Target], routed: &Demand) -> Vec<Demand> {
    let mut found = Vec::new();
    for our in ours {
        for their in theirs.iter().filter(|their| their.upstream != our.upstream) {
            for way in our.ways.0.iter().filter_map(|way| way.join(routed)) {
                found.extend(their.ways.0.iter().filter_map(|their| their.join(&way)));
            }
        }
    }
    found
}
