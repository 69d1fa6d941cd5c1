//! All ways in which a token can speak of a kind of actor, told apart as far as rules do.

use std::sync::Arc;

use super::draft::Draft;
use crate::identity::ActorKind;
use crate::policy::cells::{Built, join_globs};
use crate::policy::claim::{ClaimPath, ClaimValue};
use crate::policy::pattern::Glob;
use crate::token::ActorEntry;

/// Which entries of its issuer a token is made to match, and whether somebody acts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Acting {
    pub(super) root: Vec<Way>,
    pub(super) act: Option<Act>,
    /// Whose tokens are taken at all.
    pub(super) only: Vec<Way>,
    pub(super) issued: Issued,
}

/// What a token says of who issued it.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Issued {
    /// Nothing: its subject tells.
    #[default]
    Unsaid,
    /// This `iss`, and in a token of some tenant its `tid`.
    By(Arc<str>, Option<Arc<str>>),
    /// An `iss` that is these two with any tenant's `tid` between them.
    ByTenant([Arc<str>; 2]),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Act {
    /// Another issuer names who acts.
    pub foreign: bool,
    pub ways: Vec<Way>,
}

/// One way to match an entry: each test with one of its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Way {
    pub claims: Vec<(ClaimPath, ClaimValue)>,
    pub same: Option<[ClaimPath; 2]>,
    kind: ActorKind,
}

/// Two can contradict each other beside an agent; more can only say the same again.
const ENTRIES_MAX: usize = 3;

impl Way {
    pub fn all(entry: &ActorEntry) -> Vec<Way> {
        let start = Way { claims: Vec::new(), same: entry.same.clone(), kind: entry.kind };
        entry.claim.iter().fold(vec![start], |found, test| {
            let with = |way: &Way, value: &ClaimValue| {
                let mut way = way.clone();
                way.claims.push((test.claim.clone(), value.clone()));
                way
            };
            found.iter().flat_map(|way| test.values.iter().map(|value| with(way, value))).collect()
        })
    }

    /// Of the ways with texts that none of these globs reads, one: they are all the same to everybody.
    pub fn plain(ways: Vec<Way>, globs: &[Glob]) -> Vec<Way> {
        let read = |glob: &Glob| globs.iter().any(|other| join_globs(glob, other).is_some());
        let is_plain = |way: &Way| {
            way.same.is_none()
                && way.claims.iter().all(|(_, value)| matches!(value, ClaimValue::Text(glob) if !read(glob)))
        };
        let mut seen = false;
        let mut found = ways.clone();
        found.retain(|way| !is_plain(way) || !std::mem::replace(&mut seen, true));
        found
    }

    /// Puts it into claims, which stand at the top or in `act`.
    pub fn put(&self, draft: &mut Draft<'_>, within: Option<&Arc<str>>) -> Built {
        let place = |path: &ClaimPath| ClaimPath(within.into_iter().chain(&path.0).cloned().collect());
        for (path, value) in &self.claims {
            draft.value(&place(path), value);
        }
        if let Some([one, other]) = &self.same {
            draft.are_same(&[place(one), place(other)])?;
        }
        Ok(())
    }
}

impl Acting {
    pub fn acts(&self) -> bool {
        self.act.is_some()
    }

    /// Whether two kinds are claimed of the token itself, which makes it of neither. With what is demanded one of
    /// them may stand there anyway.
    pub fn contradicts(&self) -> bool {
        let claims = |kind: ActorKind| self.root.iter().any(|way| way.kind == kind);
        claims(ActorKind::Human) && claims(ActorKind::Service)
    }

    /// Whether all that this needs, `other` needs too.
    pub fn is_less_than(&self, other: &Acting) -> bool {
        let within = |some: &[Way], all: &[Way]| some.iter().all(|way| all.contains(way));
        let acts = match (&self.act, &other.act) {
            (None, None) => true,
            (Some(a), Some(b)) => a.foreign == b.foreign && within(&a.ways, &b.ways),
            _ => false,
        };
        acts && self.only == other.only && self.issued == other.issued && within(&self.root, &other.root)
    }

    /// Every choice of entries that could matter. `several` where two issuers' entries are in the pool.
    pub fn all(pool: &[Way], only: &[Vec<Way>], issued: &[Issued], several: bool) -> Vec<Acting> {
        let most = if several { ENTRIES_MAX + 1 } else { ENTRIES_MAX };
        let roots = subsets(pool, most);
        let acting = subsets(pool, if several { 2 } else { 1 });
        let own = acting.into_iter().map(|ways| Some(Act { foreign: false, ways }));
        let foreign = Some(Act { foreign: true, ways: Vec::new() });
        let acts: Vec<_> = [None, foreign].into_iter().chain(own).collect();
        let mut found = Vec::new();
        for only in only {
            for issued in issued {
                for root in &roots {
                    let one = |act: &Option<Act>| Acting {
                        root: root.clone(),
                        act: act.clone(),
                        only: only.clone(),
                        issued: issued.clone(),
                    };
                    found.extend(acts.iter().map(one));
                }
            }
        }
        found
    }
}

/// Small ones first.
fn subsets(pool: &[Way], most: usize) -> Vec<Vec<Way>> {
    let mut found: Vec<Vec<usize>> = vec![Vec::new()];
    let mut from = 0;
    for _ in 0..most {
        let to = found.len();
        for at in from..to {
            let next = found[at].last().map_or(0, |last| last + 1);
            for index in next..pool.len() {
                let mut longer = found[at].clone();
                longer.push(index);
                found.push(longer);
            }
        }
        from = to;
    }
    let ways = |indexes: Vec<usize>| indexes.into_iter().map(|at| pool[at].clone()).collect();
    found.into_iter().map(ways).collect()
}
