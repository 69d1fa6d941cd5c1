//! What is not demanded must be something: the cells that a demand falls into, and the least of each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Method;

use super::addresses::Addresses;
use super::grid::Grid;
use super::moments::moments;
use super::tables::Table;
use super::{Approach, Vouched};
use crate::clock::Timestamp;
use crate::identity::{Hop, TrustDomain};
use crate::policy::cells::{CallerDemand, Demand, PeerDemand, Shape};
use crate::policy::claim::ClaimPath;
use crate::policy::pattern::HostPattern;

/// One choice of all that has only so many values.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    pub peer: PeerCell,
    pub caller: CallerCell,
    pub method: Method,
    /// All methods that are judged like this one by both policies; empty for all that nobody names.
    pub alike: Vec<Method>,
    /// Segments of the path.
    pub length: usize,
    pub hop: Arc<str>,
    pub peer_ip: Option<IpAddr>,
    pub client_ip: Option<IpAddr>,
    pub at: Timestamp,
}

#[derive(Clone, Debug, PartialEq)]
pub enum PeerCell {
    Absent,
    /// With a certificate that no service of either policy names.
    Unknown,
    Spiffe {
        trust_domain: TrustDomain,
        path: Shape,
    },
    Dns {
        trust_domain: TrustDomain,
        names: Vec<HostPattern>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallerCell {
    Absent,
    /// Of the issuers at this place, and acting in this way.
    Present {
        vouched: usize,
        acting: usize,
    },
}

/// Where a wider demand was found to lie: in this cell, with any of these callers.
pub struct Pinned<'p> {
    pub demand: &'p Demand,
    pub cell: &'p Cell,
    pub callers: &'p [CallerCell],
}

/// All that the two policies tell apart.
pub struct Domains {
    methods: Vec<Vec<Method>>,
    other: Method,
    exact_paths: Vec<Shape>,
    exact_ids: BTreeMap<TrustDomain, Vec<Shape>>,
    hops: Vec<Arc<str>>,
    /// Those of them by which requests come without a certificate, and those by which they come with one.
    bare: Vec<Arc<str>>,
    certified: Vec<Arc<str>>,
    /// Whether listeners let one in who comes by this hop and another who comes by that.
    pub(super) tells_hops_apart: bool,
    addresses: Addresses,
    /// After now, in order.
    boundaries: Vec<Timestamp>,
    pub now: Timestamp,
    known: Vec<Demand>,
    unknown_matter: bool,
    /// Whether those without a certificate stand for them.
    unknown_are_as_none: bool,
    absence_matters: bool,
    issuers_differ: bool,
    /// Segments of paths, and the claims with which rules compare them.
    pub matches: BTreeSet<(usize, ClaimPath)>,
}

impl Domains {
    pub fn new(
        tables: &[Table<'_>; 2],
        vouched: &[Vouched],
        approaches: [&Approach; 2],
        now: Timestamp,
    ) -> Domains {
        let demands = || tables.iter().flat_map(Table::demands);
        let paths: BTreeSet<&Shape> =
            demands().map(|demand| &demand.path).filter(|path| !path.rest).collect();
        let mut ids: BTreeMap<TrustDomain, Vec<Shape>> = BTreeMap::new();
        for demand in tables.iter().flat_map(|table| &table.known) {
            if let PeerDemand::Spiffe { trust_domain, path } = &demand.peer
                && !path.rest
            {
                ids.entry(trust_domain.clone()).or_default().push(path.clone());
            }
        }
        let mut hops: BTreeSet<Arc<str>> =
            demands().flat_map(|demand| demand.hops.iter().flatten().cloned()).collect();
        let has_local = hops.contains(Hop::Local.as_str());
        let tells_hops_apart = approaches.iter().any(|approach| approach.tells_hops_apart(has_local));
        if !hops.is_empty() || tells_hops_apart {
            hops.insert("local".into());
            let told = approaches.iter().flat_map(|approach| &approach.hops);
            hops.extend(told.map(|hop| Arc::from(hop.as_str())));
        }
        hops.insert("direct".into());
        let reads_hop = hops.len() > 1;
        let boundaries = demands().flat_map(|demand| [demand.time.0, demand.time.1]);
        let leeways: Vec<Duration> = vouched.iter().flat_map(|pair| pair.leeways).collect();
        let boundaries: BTreeSet<Timestamp> = boundaries
            .chain(moments(&demands().collect::<Vec<_>>(), &leeways))
            .filter(|at| *at > now && *at != Timestamp::MAX)
            .collect();
        let (methods, other) = methods(demands());
        let [old, new] = tables;
        let takes_nobody = approaches.iter().any(|approach| approach.takes_nobody);
        let same_services = old.known_meaning == new.known_meaning;
        let [before, after] = approaches;
        let absence_matters = !before.lets_in_as(after) || tables.iter().any(|table| table.denies_absence);
        let unenforced = tables.iter().flat_map(|table| &table.grants).any(|grant| grant.rule.is_none());
        // nobody local is without a certificate, and where nothing is enforced whom no service names comes in
        // too, by no rule
        let none_stand_for_all =
            !absence_matters && takes_nobody && !(reads_hop && unenforced) && same_services;
        let by = |takes: fn(&Approach, &str) -> bool| {
            hops.iter()
                .filter(|hop| approaches.iter().any(|approach| takes(approach, hop)))
                .cloned()
                .collect()
        };
        let known = match none_stand_for_all {
            true => Vec::new(),
            false => old.known.iter().chain(&new.known).cloned().collect(),
        };
        Domains {
            methods,
            other,
            exact_paths: paths.into_iter().cloned().collect(),
            exact_ids: ids,
            bare: by(Approach::takes_nobody_by),
            certified: by(Approach::takes_peers_by),
            hops: hops.into_iter().collect(),
            tells_hops_apart,
            addresses: Addresses::new(
                &demands().collect::<Vec<_>>(),
                approaches.iter().any(|approach| !approach.hops.is_empty()),
            ),
            boundaries: boundaries.into_iter().collect(),
            now,
            known,
            // whoever is local has a certificate
            unknown_matter: reads_hop || unenforced,
            unknown_are_as_none: none_stand_for_all && !unenforced,
            absence_matters,
            issuers_differ: vouched.iter().any(|pair| pair.ids.contains(&None)),
            matches: demands().flat_map(|demand| &demand.matches).cloned().collect(),
        }
    }

    /// The cells of a demand, those within `pinned` where a wider demand was found to lie there; `acting` gives the
    /// ways to act that it takes, by issuers.
    pub fn of(
        &self,
        demand: &Demand,
        pinned: Option<&Pinned<'_>>,
        acting: &dyn Fn(&Demand) -> Vec<CallerCell>,
    ) -> Grid<'_> {
        let mut hops = self.hops.clone();
        hops.retain(|hop| demand.takes_hop(hop));
        let mut grid = Grid {
            methods: self.methods_of(demand),
            lengths: self.lengths(&demand.path),
            peers: self.peers(demand),
            callers: self.callers(demand, acting),
            hops,
            addresses: self.addresses.least(demand),
            times: self.times(demand),
            domains: self,
        };
        // a range of addresses, and what stood for many, can only have narrowed
        if let Some(Pinned { demand: wider, cell, callers }) = pinned {
            grid.methods.retain(|(method, _)| *method == cell.method);
            grid.lengths.retain(|length| stands_for(&wider.path, &self.exact_paths, cell.length, *length));
            grid.peers.retain(|peer| self.peer_refines(peer, &cell.peer, &wider.peer));
            grid.callers.retain(|caller| cell.caller == CallerCell::Absent || callers.contains(caller));
            grid.hops.retain(|hop| *hop == cell.hop);
            grid.times.retain(|at| *at == cell.at);
        }
        grid
    }

    fn methods_of(&self, demand: &Demand) -> Vec<(Method, Vec<Method>)> {
        let classes = self.methods.iter().filter_map(|class| {
            let taken = |method: &&Method| demand.methods.as_ref().is_none_or(|all| all.contains(method));
            let alike: Vec<Method> = class.iter().filter(taken).cloned().collect();
            Some((alike.first()?.clone(), alike))
        });
        let other = demand.methods.is_none().then(|| (self.other.clone(), Vec::new()));
        classes.chain(other).collect()
    }

    /// The lengths of paths in this shape that are told apart.
    pub fn lengths(&self, shape: &Shape) -> Vec<usize> {
        shape.lengths(&self.exact_paths)
    }

    /// Whether this length stands for all that are told apart from none.
    pub fn is_least(&self, shape: &Shape, length: usize) -> bool {
        let exact = self.exact_paths.iter().filter(|exact| exact.overlaps(shape));
        shape.rest && !exact.map(|exact| exact.segments.len()).any(|exact| exact == length)
    }

    /// The methods that some rule names, those together that no rule tells apart.
    pub fn named_methods(&self) -> &[Vec<Method>] {
        &self.methods
    }

    /// Being without one stands for all whom nothing was demanded of.
    fn peer_refines(&self, peer: &PeerCell, pinned: &PeerCell, wider: &PeerDemand) -> bool {
        match (peer, pinned) {
            (_, PeerCell::Absent | PeerCell::Unknown) => true,
            (
                PeerCell::Spiffe { trust_domain: a, path },
                PeerCell::Spiffe { trust_domain: b, path: known },
            ) if a == b => match wider {
                PeerDemand::Spiffe { path: wider, .. } => {
                    let exact = self.exact_ids.get(a).into_iter().flatten();
                    stands_for(wider, exact, known.segments.len(), path.segments.len())
                }
                _ => path.is_within(known),
            },
            (PeerCell::Dns { trust_domain: a, .. }, PeerCell::Dns { trust_domain: b, .. }) => a == b,
            _ => false,
        }
    }

    /// Whether some rule names the method.
    #[cfg(test)]
    pub fn names(&self, method: &Method) -> bool {
        self.methods.iter().flatten().any(|named| named == method)
    }

    /// Whether the client can be another than the other end.
    pub fn tells_client(&self) -> bool {
        self.addresses.are_apart()
    }

    /// Whether some rule reads the hop.
    pub fn reads_hop(&self) -> bool {
        self.hops.len() > 1
    }

    /// Whether being without a certificate stands for nothing else.
    pub fn tells_absence(&self) -> bool {
        !self.known.is_empty()
    }

    /// Whether one that no service names stands for all: whoever is local has one.
    pub fn is_any_certificate(&self, cell: &Cell) -> bool {
        cell.peer == PeerCell::Unknown && !self.tells_absence() && !self.bare.contains(&cell.hop)
    }

    /// Whether somebody like this is to be asked about who comes by this hop.
    pub(super) fn brings(&self, hop: &Arc<str>, peer: &PeerCell) -> bool {
        match peer {
            PeerCell::Absent => self.bare.contains(hop),
            PeerCell::Unknown if self.unknown_are_as_none && self.bare.contains(hop) => false,
            PeerCell::Unknown | PeerCell::Spiffe { .. } | PeerCell::Dns { .. } => {
                self.certified.contains(hop)
            }
        }
    }

    /// How many methods rules name, and one for all others.
    pub fn all_methods(&self) -> usize {
        self.methods.iter().map(Vec::len).sum::<usize>() + 1
    }

    /// When the times begin that are told apart.
    pub fn times(&self, demand: &Demand) -> Vec<Timestamp> {
        let (from, until) = demand.time;
        let first = from.max(self.now);
        let later = self.boundaries.iter().copied().filter(|at| *at > first && *at < until);
        (first < until).then_some(first).into_iter().chain(later).collect()
    }

    /// The end of the time that begins here.
    pub fn until(&self, at: Timestamp) -> Timestamp {
        let next = self.boundaries.partition_point(|boundary| *boundary <= at);
        self.boundaries.get(next).copied().unwrap_or(Timestamp::MAX)
    }

    fn peers(&self, demand: &Demand) -> Vec<PeerCell> {
        match &demand.peer {
            PeerDemand::Free => {
                let mut found = vec![PeerCell::Absent];
                found.extend(self.unknown_matter.then_some(PeerCell::Unknown));
                for known in &self.known {
                    found.extend(
                        self.peers(known)
                            .into_iter()
                            .filter(|cell| !found.contains(cell))
                            .collect::<Vec<_>>(),
                    );
                }
                found
            }
            PeerDemand::Absent => vec![PeerCell::Absent],
            PeerDemand::Spiffe { trust_domain, path } => {
                let exact = self.exact_ids.get(trust_domain).into_iter().flatten();
                let lengths = path.lengths(exact);
                let cell = |length| PeerCell::Spiffe {
                    trust_domain: trust_domain.clone(),
                    path: path.of_length(length),
                };
                lengths.into_iter().map(cell).collect()
            }
            PeerDemand::Dns { trust_domain, names } => {
                vec![PeerCell::Dns { trust_domain: trust_domain.clone(), names: names.clone() }]
            }
        }
    }

    fn callers(&self, demand: &Demand, acting: &dyn Fn(&Demand) -> Vec<CallerCell>) -> Vec<CallerCell> {
        let present = || {
            let present = Demand { caller: CallerDemand::Present, ..demand.clone() };
            acting(&present)
        };
        match demand.caller {
            CallerDemand::Absent => vec![CallerCell::Absent],
            CallerDemand::Free if !demand.reads_caller() => {
                let mut found = vec![CallerCell::Absent];
                if self.absence_matters || self.issuers_differ {
                    found.extend(present());
                }
                found
            }
            CallerDemand::Free | CallerDemand::Present => present(),
        }
    }
}

/// Whether paths of the second length are among those that the first stands for, in this shape.
fn stands_for<'s>(
    shape: &Shape,
    exact: impl IntoIterator<Item = &'s Shape>,
    least: usize,
    length: usize,
) -> bool {
    let lengths: Vec<usize> = exact
        .into_iter()
        .filter(|exact| !exact.rest && exact.overlaps(shape))
        .map(|exact| exact.segments.len())
        .collect();
    length == least || (shape.rest && !lengths.contains(&least) && !lengths.contains(&length))
}

/// Methods that no rule tells apart, together; and one that nobody names.
fn methods<'d>(demands: impl Iterator<Item = &'d Demand>) -> (Vec<Vec<Method>>, Method) {
    let sets: BTreeSet<Vec<&str>> = demands
        .filter_map(|demand| demand.methods.as_ref())
        .map(|methods| {
            let mut names: Vec<&str> = methods.iter().map(Method::as_str).collect();
            names.sort_unstable();
            names
        })
        .collect();
    let named: BTreeSet<&str> = sets.iter().flatten().copied().collect();
    let mut classes: BTreeMap<Vec<bool>, Vec<Method>> = BTreeMap::new();
    for name in &named {
        let Ok(method) = Method::from_bytes(name.as_bytes()) else { continue };
        classes.entry(sets.iter().map(|set| set.contains(name)).collect()).or_default().push(method);
    }
    // what is shown stands first
    let order = |method: &Method| (*method != Method::GET, method.as_str().to_owned());
    classes.values_mut().for_each(|class| class.sort_by_key(order));
    let common = [Method::DELETE, Method::PATCH, Method::PUT, Method::POST, Method::GET];
    let rare = ["REPORT", "SEARCH", "LINK", "UNLINK", "MERGE", "LOCK"];
    let rare = rare.iter().filter_map(|name| Method::from_bytes(name.as_bytes()).ok());
    let made_up = (0..).filter_map(|number: u32| Method::from_bytes(format!("M{number}").as_bytes()).ok());
    let other = common.into_iter().chain(rare).chain(made_up).find(|method| !named.contains(method.as_str()));
    (classes.into_values().collect(), other.unwrap_or_default())
}
