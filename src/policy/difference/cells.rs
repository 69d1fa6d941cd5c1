//! What is not demanded must be something: the cells that a demand falls into, and the least of each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use http::Method;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Vouched;
use super::tables::Table;
use crate::clock::Timestamp;
use crate::identity::TrustDomain;
use crate::policy::cells::{CallerDemand, Demand, PeerDemand, Shape};
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
    pub address: Option<IpAddr>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerCell {
    Absent,
    /// Of the issuers at this place, and acting in this way.
    Present {
        vouched: usize,
        acting: usize,
    },
}

/// All that the two policies tell apart.
pub struct Domains {
    methods: Vec<Vec<Method>>,
    other: Method,
    exact_paths: Vec<Shape>,
    exact_ids: BTreeMap<TrustDomain, Vec<Shape>>,
    hops: Vec<Arc<str>>,
    nets: Nets,
    /// After now, in order.
    boundaries: Vec<Timestamp>,
    pub now: Timestamp,
    known: Vec<Demand>,
    unknown_matter: bool,
    absence_matters: bool,
    takes_nobody: bool,
    issuers_differ: bool,
}

impl Domains {
    pub fn new(tables: &[Table<'_>; 2], vouched: &[Vouched], takes_nobody: bool, now: Timestamp) -> Domains {
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
        if !hops.is_empty() {
            hops.insert("local".into());
        }
        hops.insert("direct".into());
        let boundaries = demands().flat_map(|demand| [demand.time.0, demand.time.1]);
        let boundaries: BTreeSet<Timestamp> =
            boundaries.filter(|at| *at > now && *at != Timestamp::MAX).collect();
        let (methods, other) = methods(demands());
        let [old, new] = tables;
        let same_services = old.known_meaning == new.known_meaning;
        let absence_matters = tables.iter().any(|table| table.denies_absence);
        let known = match (absence_matters || !takes_nobody, same_services) {
            (false, true) => Vec::new(),
            _ => old.known.iter().chain(&new.known).cloned().collect(),
        };
        Domains {
            methods,
            other,
            exact_paths: paths.into_iter().cloned().collect(),
            exact_ids: ids,
            hops: hops.into_iter().collect(),
            nets: Nets::new(demands().filter_map(|demand| demand.address)),
            boundaries: boundaries.into_iter().collect(),
            now,
            known,
            unknown_matter: tables.iter().flat_map(|table| &table.grants).any(|grant| grant.rule.is_none()),
            absence_matters,
            takes_nobody,
            issuers_differ: vouched.iter().any(|pair| pair.ids.contains(&None)),
        }
    }

    /// All cells of a demand; `acting` gives the ways to act that it takes, by issuers.
    pub fn of(&self, demand: &Demand, acting: &dyn Fn(&Demand) -> Vec<CallerCell>) -> Vec<Cell> {
        let mut found = Vec::new();
        let peers = self.peers(demand);
        let callers = self.callers(demand, acting);
        let addresses = self.nets.least(demand.address);
        let lengths = self.lengths(&demand.path);
        let times = self.times(demand);
        let hops = self.hops.iter().filter(|hop| demand.takes_hop(hop));
        let hops: Vec<_> = hops.collect();
        for (method, alike) in self.methods_of(demand) {
            for &length in &lengths {
                for peer in &peers {
                    for caller in &callers {
                        for hop in &hops {
                            for &address in &addresses {
                                for &at in &times {
                                    let (peer, caller, hop) = (peer.clone(), *caller, Arc::clone(hop));
                                    let (method, alike) = (method.clone(), alike.clone());
                                    found.push(Cell {
                                        peer,
                                        caller,
                                        method,
                                        alike,
                                        length,
                                        hop,
                                        address,
                                        at,
                                    });
                                }
                            }
                        }
                    }
                }
            }
        }
        found
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

    /// Whether a cell of a demand that was joined with more lies in the cell `pinned` of the `wider` demand, as
    /// far as that told: a range of addresses, and what stood for many, can only have narrowed.
    pub fn refines(&self, cell: &Cell, pinned: &Cell, wider: &Demand) -> bool {
        let Cell { peer, caller, method, alike: _, length, hop, address: _, at } = cell;
        *method == pinned.method
            && stands_for(&wider.path, &self.exact_paths, pinned.length, *length)
            && (pinned.caller == CallerCell::Absent || *caller == pinned.caller)
            && *hop == pinned.hop
            && *at == pinned.at
            && self.peer_refines(peer, &pinned.peer, &wider.peer)
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

    /// Whether some rule reads the hop.
    pub fn reads_hop(&self) -> bool {
        self.hops.len() > 1
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
                let mut found: Vec<PeerCell> =
                    self.takes_nobody.then_some(PeerCell::Absent).into_iter().collect();
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
            PeerDemand::Absent => self.takes_nobody.then_some(PeerCell::Absent).into_iter().collect(),
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
    let other = common.into_iter().chain(rare).find(|method| !named.contains(method.as_str()));
    (classes.into_values().collect(), other.unwrap_or(Method::OPTIONS))
}

/// RFC 5737, RFC 3849: nobody's.
const EXAMPLES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// Ranges of addresses, as trees.
struct Nets(Vec<IpNet>);

impl Nets {
    fn new(nets: impl Iterator<Item = IpNet>) -> Nets {
        let nets: BTreeSet<IpNet> = nets.map(|net| net.trunc()).collect();
        Nets(nets.into_iter().collect())
    }

    /// Addresses of the range, or of any, that are in as few other ranges as can be.
    fn least(&self, within: Option<IpNet>) -> Vec<Option<IpAddr>> {
        if self.0.is_empty() {
            return vec![None];
        }
        let Some(net) = within else {
            let families: [IpNet; 2] = [Ipv4Net::default().into(), Ipv6Net::default().into()];
            let free = families.iter().filter(|all| !self.0.contains(all));
            // an address in no range stands for all others
            return match free.filter_map(|all| self.outside_children(all)).next() {
                Some(address) => vec![Some(address)],
                None => families.iter().flat_map(|all| self.least(Some(*all))).collect(),
            };
        };
        let net = net.trunc();
        match self.outside_children(&net) {
            Some(address) => vec![Some(address)],
            None => self.children(&net).into_iter().flat_map(|child| self.least(Some(child))).collect(),
        }
    }

    /// The widest ranges within this one.
    fn children(&self, of: &IpNet) -> Vec<IpNet> {
        let inside: Vec<&IpNet> = self.0.iter().filter(|net| of.contains(*net) && *net != of).collect();
        let widest =
            inside.iter().filter(|net| !inside.iter().any(|other| other != *net && other.contains(**net)));
        widest.map(|net| **net).collect()
    }

    /// An address of this range in none of those within it.
    fn outside_children(&self, of: &IpNet) -> Option<IpAddr> {
        let children = self.children(of);
        let known =
            EXAMPLES.iter().find(|ip| of.contains(*ip) && !children.iter().any(|net| net.contains(*ip)));
        if let Some(example) = known {
            return Some(*example);
        }
        let mut open = vec![*of];
        while let Some(net) = open.pop() {
            if !children.iter().any(|child| net.contains(child) || child.contains(&net)) {
                // the second of a range looks more like somebody's than the first
                return Some(
                    net.hosts()
                        .nth(if net.prefix_len() == net.max_prefix_len() { 0 } else { 1 })
                        .unwrap_or(net.addr()),
                );
            }
            if !children.iter().any(|child| child.contains(&net))
                && let Ok(halves) = net.subnets(net.prefix_len() + 1)
            {
                open.extend(halves);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_as_few_ranges_as_can_be() {
        let nets = |texts: &[&str]| Nets::new(texts.iter().map(|text| text.parse().unwrap()));
        let inside = |nets: &Nets, net: Option<&str>| {
            let found = nets.least(net.map(|net| net.parse().unwrap()));
            let counts =
                found.iter().flatten().map(|ip| nets.0.iter().filter(|net| net.contains(ip)).count());
            counts.collect::<Vec<_>>()
        };
        let some = nets(&["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "2001:db8::/32"]);
        assert_eq!(inside(&some, None), [0]);
        assert_eq!(inside(&some, Some("10.0.0.0/8")), [1]);
        assert_eq!(inside(&some, Some("10.1.2.3/32")), [3]);
        let halves = nets(&["10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9"]);
        assert_eq!(inside(&halves, Some("10.0.0.0/8")), [2, 2]);
        let all = nets(&["0.0.0.0/0", "::/0", "10.0.0.0/8"]);
        assert_eq!(inside(&all, None), [1, 1]);
    }
}
