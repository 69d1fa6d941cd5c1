//! Where requests go: the choice of a route, and of an upstream by identity.

use std::borrow::Cow;
use std::cmp::Reverse;

use fixedbitset::FixedBitSet;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::index::{HostIndex, PathIndex};
use super::pattern::{HostPattern, PathPattern};
use super::{Host, RoleId, RouteId, UpstreamId};
use crate::clock::Timestamp;
use crate::identity::{Direction, Name};

/// `[route.NAME]`, as far as it is judged.
#[derive(Clone, Debug)]
pub struct Route {
    pub name: Name,
    /// Whose requests it takes; who asks from the other side is answered as if there were no route.
    pub direction: Direction,
    /// Empty: any host.
    pub host: Vec<HostPattern>,
    pub path: PathPattern,
    /// All must be present with exactly this value; chooses only between routes that are judged by
    /// the same rules.
    pub header: Vec<(HeaderName, HeaderValue)>,
    pub upstream: UpstreamId,
    /// Tried in the order given; the first whose role the caller has wins over `upstream`.
    pub variants: Vec<Variant>,
    /// Until then, what no allow permits is forwarded and recorded as `would_deny`.
    pub shadow_until: Option<Timestamp>,
}

/// `[[route.NAME.variant]]`.
#[derive(Clone, Debug)]
pub struct Variant {
    pub role: RoleId,
    pub upstream: UpstreamId,
}

/// The choice of a route among those of a direction: exact host, then wildcard, then none; then the longest literal start, then
/// the longest pattern, then the most headers. Entries stand in that order, so the first that fits
/// is the choice.
#[derive(Debug)]
pub(super) struct RouteTable {
    entries: Vec<Entry>,
    hosts: HostIndex,
    paths: PathIndex,
}

/// One route under one of its hosts.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub route: RouteId,
    direction: Direction,
    /// Empty: any host. Never more than one.
    host: Vec<HostPattern>,
    path: PathPattern,
    header: Vec<(HeaderName, HeaderValue)>,
}

/// Smaller is chosen first.
type Precedence = (u8, Reverse<usize>, Reverse<usize>, bool, Reverse<usize>);

impl RouteTable {
    pub(super) fn new(routes: &[Route]) -> RouteTable {
        let mut entries = Vec::new();
        for (route, id) in routes.iter().zip(0..) {
            let hosts = route.host.iter().map(|host| vec![host.clone()]);
            for host in hosts.chain(route.host.is_empty().then(Vec::new)) {
                entries.push(Entry {
                    route: RouteId(id),
                    direction: route.direction,
                    host,
                    path: route.path.clone(),
                    header: route.header.clone(),
                });
            }
        }
        entries.sort_by_key(|entry| (entry.precedence(), entry.route));
        let hosts = HostIndex::new(entries.iter().map(|entry| entry.host.as_slice()));
        let paths =
            PathIndex::new(entries.iter().map(|e| Some(Cow::from(std::slice::from_ref(&e.path)))).collect());
        RouteTable { entries, hosts, paths }
    }

    pub(super) fn choose(
        &self,
        direction: Direction,
        host: &Host,
        path: &[Cow<'_, str>],
        headers: &HeaderMap,
    ) -> Option<RouteId> {
        let mut fitting = self.paths.matching(path);
        self.hosts.narrow(host, &mut fitting);
        let mut fitting = fitting.ones().map(|at| &self.entries[at]);
        let chosen = fitting.find(|entry| entry.direction == direction && entry.has_headers(headers));
        chosen.map(|entry| entry.route)
    }

    /// Routes under their hosts, in the order in which they are tried.
    pub(super) fn order(&self) -> impl Iterator<Item = (RouteId, Option<&HostPattern>)> {
        self.entries.iter().map(|entry| (entry.route, entry.host.first()))
    }

    /// Pairs of routes between which only their order in the file could choose.
    pub(super) fn ties(&self) -> impl Iterator<Item = (RouteId, RouteId)> {
        self.pairs().filter_map(|(first, second)| {
            let tied = first.precedence() == second.precedence()
                && first.overlaps(second)
                && !first.excludes_by_header(second);
            tied.then_some((first.route, second.route))
        })
    }

    /// Pairs of routes between which a client can choose by a header: the one that the header asks
    /// for, and one that the same request can get without it.
    pub(super) fn chosen_by_header(&self) -> Vec<(RouteId, RouteId)> {
        let mut pairs = Vec::new();
        for (at, first) in self.entries.iter().enumerate().filter(|(_, entry)| !entry.header.is_empty()) {
            for second in self.entries[at + 1..].iter().filter(|second| first.overlaps(second)) {
                if second.route != first.route {
                    pairs.push((first.route, second.route));
                }
                if second.header.is_empty() && first.is_within(second) {
                    break;
                }
            }
        }
        pairs
    }

    fn pairs(&self) -> impl Iterator<Item = (&Entry, &Entry)> {
        self.entries.iter().enumerate().flat_map(|(at, first)| {
            // entries are sorted: those of the same precedence stand together
            let same = self.entries[at + 1..].iter().take_while(|e| e.precedence() == first.precedence());
            same.filter(|second| second.route != first.route).map(move |second| (first, second))
        })
    }
}

impl Entry {
    fn precedence(&self) -> Precedence {
        let host = match self.host.first() {
            Some(HostPattern::Exact(_)) => 0,
            Some(HostPattern::Wildcard(_)) => 1,
            None => 2,
        };
        // of two patterns of one length, the exact one is the narrower
        let (start, length) = (self.path.literal_start(), self.path.segments.len());
        (host, Reverse(start), Reverse(length), self.path.rest, Reverse(self.header.len()))
    }

    fn has_headers(&self, headers: &HeaderMap) -> bool {
        self.header.iter().all(|(name, wanted)| {
            let mut seen = headers.get_all(name).iter().peekable();
            seen.peek().is_some() && seen.all(|value| value == wanted)
        })
    }

    fn overlaps(&self, other: &Entry) -> bool {
        self.direction == other.direction
            && hosts_overlap(&self.host, &other.host)
            && self.path.overlaps(&other.path)
    }

    fn is_within(&self, other: &Entry) -> bool {
        let host = match (self.host.first(), other.host.first()) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(own), Some(others)) => own.is_within(others),
        };
        host && self.path.is_within(&other.path)
    }

    /// Whether no request can have the headers of both.
    fn excludes_by_header(&self, other: &Entry) -> bool {
        let mut own = self.header.iter();
        own.any(|(name, value)| other.header.iter().any(|(n, v)| n == name && v != value))
    }
}

/// Whether any host is in both lists, where an empty one is any host.
pub(super) fn hosts_overlap(one: &[HostPattern], other: &[HostPattern]) -> bool {
    one.is_empty()
        || other.is_empty()
        || one.iter().any(|host| other.iter().any(|other| host.overlaps(other)))
}

impl Route {
    /// Where requests of a caller with these roles go.
    pub(super) fn upstream_for(&self, roles: &FixedBitSet) -> UpstreamId {
        let variant = self.variants.iter().find(|variant| roles.contains(variant.role.index()));
        variant.map_or(self.upstream, |variant| variant.upstream)
    }

    /// Whether `shadow_until` still lets pass what no allow permits.
    pub(super) fn is_in_shadow(&self, now: Timestamp) -> bool {
        self.shadow_until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::NormalPath;

    fn route(host: &str, path: &str, header: &[(&'static str, &'static str)]) -> Route {
        Route {
            name: "r".parse().unwrap(),
            direction: Direction::Inbound,
            host: host.split_whitespace().map(|host| host.parse().unwrap()).collect(),
            path: path.parse().unwrap(),
            header: header
                .iter()
                .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)))
                .collect(),
            upstream: UpstreamId(0),
            variants: vec![],
            shadow_until: None,
        }
    }

    fn choose(routes: &[Route], host: &str, path: &str, headers: &HeaderMap) -> Option<u32> {
        let path = NormalPath::parse(path).unwrap();
        let segments: Vec<_> = path.segments().collect();
        let table = RouteTable::new(routes);
        table.choose(Direction::Inbound, &host.parse().unwrap(), &segments, headers).map(|id| id.0)
    }

    #[test]
    fn what_goes_out_has_routes_of_its_own() {
        let narrow = Route { direction: Direction::Outbound, ..route("a.example", "/a/x", &[]) };
        let routes = [route("", "/**", &[]), narrow];
        let headers = HeaderMap::new();
        assert_eq!(choose(&routes, "a.example", "/a/x", &headers), Some(0));
        let path = NormalPath::parse("/a/x").unwrap();
        let (table, segments): (_, Vec<_>) = (RouteTable::new(&routes), path.segments().collect());
        let goes_out = |host: &str| {
            let host = host.parse().unwrap();
            table.choose(Direction::Outbound, &host, &segments, &headers)
        };
        assert_eq!((goes_out("a.example"), goes_out("b.example")), (Some(RouteId(1)), None));
    }

    #[test]
    fn host_then_literal_start_then_length() {
        let routes = [
            route("", "/**", &[]),
            route("*.example.com", "/a/**", &[]),
            route("x.example.com", "/**", &[]),
            route("x.example.com y.example.com", "/a/**", &[]),
            route("x.example.com", "/a/{id}/b", &[]),
            route("x.example.com", "/a", &[]),
            route("x.example.com", "/p/q/**", &[]),
            route("x.example.com", "/p/*/r/s", &[]),
        ];
        let cases = [
            ("x.example.com", "/a/1/b", Some(4)),
            ("x.example.com", "/a/1/c", Some(3)),
            ("x.example.com", "/a", Some(5)),
            ("x.example.com", "/a/", Some(5)),
            ("x.example.com", "/p/q/r/s", Some(6)),
            ("x.example.com", "/p/o/r/s", Some(7)),
            ("x.example.com", "/z", Some(2)),
            ("y.example.com", "/a/1/b", Some(3)),
            ("y.example.com", "/z", Some(0)),
            ("z.example.com", "/a", Some(1)),
            ("other.org", "/a", Some(0)),
        ];
        let mut seen = 0;
        for (host, path, expected) in cases {
            assert_eq!(choose(&routes, host, path, &HeaderMap::new()), expected, "{host}{path}");
            seen += 1;
        }
        assert_eq!(seen, 11);
        assert_eq!(RouteTable::new(&routes).ties().count(), 0);
        assert_eq!(choose(&routes[1..], "other.org", "/a", &HeaderMap::new()), None);
    }

    #[test]
    fn a_header_must_be_there_in_every_value() {
        let routes = [route("", "/**", &[]), route("", "/**", &[("x-next", "yes")])];
        let mut headers = HeaderMap::new();
        assert_eq!(choose(&routes, "h", "/", &headers), Some(0));
        headers.append("x-next", HeaderValue::from_static("yes"));
        assert_eq!(choose(&routes, "h", "/", &headers), Some(1));
        headers.append("x-next", HeaderValue::from_static("no"));
        assert_eq!(choose(&routes, "h", "/", &headers), Some(0));
        headers.insert("x-next", HeaderValue::from_static("no"));
        headers.append("x-next", HeaderValue::from_static("yes"));
        assert_eq!(choose(&routes, "h", "/", &headers), Some(0));
        let table = RouteTable::new(&routes);
        assert_eq!(table.chosen_by_header(), [(RouteId(1), RouteId(0))]);
    }

    #[test]
    fn what_only_the_order_of_the_file_could_settle_is_a_tie() {
        let tie = |a: Route, b: Route| RouteTable::new(&[a, b]).ties().count();
        assert_eq!(tie(route("", "/a/*", &[]), route("", "/a/{x}", &[])), 1);
        assert_eq!(tie(route("", "/*/a", &[]), route("", "/*/*", &[])), 1);
        assert_eq!(tie(route("h", "/a", &[]), route("h g", "/a", &[])), 1);
        assert_eq!(tie(route("h", "/a", &[]), route("g", "/a", &[])), 0);
        assert_eq!(tie(route("", "/a/**", &[]), route("", "/a", &[])), 0);
        assert_eq!(tie(route("", "/a", &[("x", "1")]), route("", "/a", &[("x", "2")])), 0);
        assert_eq!(tie(route("", "/a", &[("x", "1")]), route("", "/a", &[("y", "1")])), 1);
    }
}
