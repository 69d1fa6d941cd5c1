//! Rules become conjunctions: each any-of list is written out, so that what is left joins.

use http::Method;

use super::demand::{CallerDemand, Demand, Kinds, PeerDemand, Side};
use super::shape::Shape;
use crate::identity::{ActorKind, Direction, Hop};
use crate::policy::condition::{Condition, Kind, RoleTerm, RouteTerm, ServiceTerm};
use crate::policy::path_pattern::PathPattern;
use crate::policy::pattern::{Glob, MethodSet};
use crate::policy::role::{CarriedClients, PeerPattern, RoleEntries, RoleEntry, Service};
use crate::policy::route::Route;
use crate::policy::rule::{Effect, Rule, stated};
use crate::policy::{PolicyParts, RoleId, RouteId};

/// All ways in which an allow or a deny holds, what an allow leaves unspoken included.
pub fn ways(rule: &Rule, parts: &PolicyParts, side: Side) -> Vec<Demand> {
    let all = joined(unspoken(rule, side), rule, parts, side, |_| true);
    if rule.effect == Effect::Allow { all } else { all.into_iter().map(without_time).collect() }
}

/// All ways in which a require reaches a request.
pub fn reach(rule: &Rule, parts: &PolicyParts, side: Side) -> Vec<Demand> {
    joined(Demand::nothing(), rule, parts, side, |condition| condition.kind() == Kind::Action)
}

/// All ways in which what a require demands is met, by a request that it reaches.
pub fn met(rule: &Rule, parts: &PolicyParts, side: Side) -> Vec<Demand> {
    joined(Demand::nothing(), rule, parts, side, |condition| condition.kind() != Kind::Action)
}

/// All ways in which this service names a peer.
pub fn peers(service: &Service) -> impl Iterator<Item = Demand> + '_ {
    service.identities.iter().map(|identity| Demand { peer: peer(identity), ..Demand::nothing() })
}

/// All ways in which this service may carry a token; `None` where it says nothing about tokens.
pub fn carried(service: &Service, side: Side) -> Option<Vec<Demand>> {
    let CarriedClients::Listed(clients) = &service.clients else { return None };
    let one = |client: &crate::policy::role::ClientPattern| {
        let mut demand = Demand { caller: CallerDemand::Present, ..Demand::nothing() };
        demand.sides[side].issuers = Some(vec![client.issuer]);
        demand.sides[side].client = Some(client.client.clone());
        demand
    };
    Some(clients.iter().map(one).collect())
}

/// All ways in which a route fits; that it is chosen says also that no other fits better.
pub fn entries(route: &Route, id: RouteId, side: Side) -> Vec<Demand> {
    let hosts: Vec<_> = match route.host.is_empty() {
        true => vec![None],
        false => route.host.iter().cloned().map(Some).collect(),
    };
    let inbound = route.direction == Direction::Inbound;
    let one = |host| {
        let (path, headers) = (Shape::of(&route.path), route.header.clone());
        let hops = (!inbound).then(|| vec![Hop::Local.as_str().into()]);
        let mut demand = Demand { host, path, headers, hops, inbound, ..Demand::nothing() };
        demand.sides[side].routes = Some(vec![id]);
        demand
    };
    hosts.into_iter().map(one).collect()
}

/// All ways in which a caller has the role.
pub fn role(id: RoleId, parts: &PolicyParts, side: Side) -> Vec<Demand> {
    match &parts.roles[id.index()].entries {
        RoleEntries::AnyOf(entries) => entries.iter().flat_map(|one| entry(one, side)).collect(),
        RoleEntries::AllOf(entries) if entries.is_empty() => Vec::new(),
        RoleEntries::AllOf(entries) => {
            let nothing = vec![Demand::nothing()];
            entries.iter().fold(nothing, |found, one| product(&found, &entry(one, side)))
        }
    }
}

/// Each of the first with each of the second.
pub fn product(found: &[Demand], alternatives: &[Demand]) -> Vec<Demand> {
    found.iter().flat_map(|one| alternatives.iter().filter_map(|other| one.join(other))).collect()
}

fn without_time(demand: Demand) -> Demand {
    Demand { time: Demand::nothing().time, ..demand }
}

/// What an allow wants without saying so, its times among it.
fn unspoken(rule: &Rule, side: Side) -> Demand {
    let mut demand = Demand { time: (rule.not_before, rule.expires), ..Demand::nothing() };
    if rule.effect == Effect::Allow && !rule.waives_caller() {
        if stated!(rule, Actor).is_none() {
            demand.act = Some(false);
            demand.sides[side].actor = Kinds::of(&[ActorKind::Human, ActorKind::Service, ActorKind::Unknown]);
        } else if stated!(rule, OnBehalfOf).is_none() {
            demand.act = Some(false);
        }
    }
    demand
}

fn joined(
    start: Demand,
    rule: &Rule,
    parts: &PolicyParts,
    side: Side,
    of: impl Fn(&Condition) -> bool,
) -> Vec<Demand> {
    let conditions = rule.conditions.iter().filter(|condition| of(condition));
    conditions.fold(vec![start], |found, condition| match alternatives(rule, condition, parts, side) {
        Some(alternatives) => product(&found, &alternatives),
        None => found,
    })
}

/// `None` where the condition is none.
fn alternatives(rule: &Rule, condition: &Condition, parts: &PolicyParts, side: Side) -> Option<Vec<Demand>> {
    let caller = || Demand { caller: CallerDemand::Present, ..Demand::nothing() };
    Some(match condition {
        Condition::Service(ServiceTerm::Any) => parts.services.iter().flat_map(peers).collect(),
        Condition::Service(ServiceTerm::Named(ids)) => {
            ids.iter().flat_map(|id| peers(&parts.services[id.index()])).collect()
        }
        Condition::Service(ServiceTerm::None) if rule.effect == Effect::Allow => return None,
        Condition::Service(ServiceTerm::None) => {
            vec![Demand { peer: PeerDemand::Absent, ..Demand::nothing() }]
        }
        Condition::Role(RoleTerm::Any) => vec![caller()],
        Condition::Role(RoleTerm::AnyOf(ids)) => ids.iter().flat_map(|id| role(*id, parts, side)).collect(),
        Condition::Role(RoleTerm::AllOf(ids)) if ids.is_empty() => Vec::new(),
        Condition::Role(RoleTerm::AllOf(ids)) => {
            let nothing = vec![Demand::nothing()];
            ids.iter().fold(nothing, |found, id| product(&found, &role(*id, parts, side)))
        }
        Condition::Role(RoleTerm::None) if rule.effect == Effect::Allow => return None,
        Condition::Role(RoleTerm::None) => {
            vec![Demand { caller: CallerDemand::Absent, ..Demand::nothing() }]
        }
        Condition::Issuer(ids) => {
            let mut demand = caller();
            demand.sides[side].issuers = Some(ids.clone());
            vec![demand]
        }
        Condition::Actor(kinds) => {
            let mut kinds = kinds.clone();
            if rule.effect == Effect::Deny && kinds.contains(&ActorKind::Agent) {
                kinds.push(ActorKind::Unknown);
            }
            let mut demand = caller();
            demand.sides[side].actor = Kinds::of(&kinds);
            vec![demand]
        }
        Condition::OnBehalfOf(kinds) => {
            let mut demand = caller();
            demand.sides[side].on_behalf_of = Kinds::of(kinds);
            vec![demand]
        }
        Condition::Claim(tests) => tests.iter().fold(vec![caller()], |found, test| {
            let claims = test.values.iter().map(|value| vec![(test.claim.clone(), value.clone())]);
            let each: Vec<_> = claims.map(|claims| Demand { claims, ..caller() }).collect();
            product(&found, &each)
        }),
        Condition::Acr(values) => {
            values.iter().map(|acr| Demand { acr: Some(acr.clone()), ..caller() }).collect()
        }
        Condition::MaxAge(age) => vec![Demand { max_age: Some(*age), ..caller() }],
        Condition::Route(RouteTerm::Any) => return None,
        Condition::Route(RouteTerm::Named(ids)) => {
            let mut demand = Demand::nothing();
            demand.sides[side].routes = Some(ids.clone());
            vec![demand]
        }
        Condition::Host(hosts) => {
            hosts.iter().map(|host| Demand { host: Some(host.clone()), ..Demand::nothing() }).collect()
        }
        Condition::Method(methods) => {
            vec![Demand { methods: Some(one_by_one(methods)), ..Demand::nothing() }]
        }
        Condition::Path(patterns) => patterns.iter().map(at_path).collect(),
        // a segment that no path names is never there
        Condition::MatchClaim(_) => {
            rule.paths().into_iter().flatten().filter_map(|pattern| matching(rule, pattern)).collect()
        }
        Condition::Grpc(patterns) => {
            let call = |pattern: PathPattern| Demand {
                methods: Some(vec![Method::POST]),
                grpc: rule.effect == Effect::Allow,
                ..at_path(&pattern)
            };
            patterns.iter().map(|pattern| call(pattern.path())).collect()
        }
        Condition::SenderConstrained => vec![Demand { bound: true, ..caller() }],
        Condition::Hop(hops) => vec![Demand { hops: Some(hops.clone()), ..Demand::nothing() }],
        Condition::PeerIp(nets) => {
            nets.iter().map(|net| Demand { peer_ip: Some(*net), ..Demand::nothing() }).collect()
        }
        Condition::ClientIp(nets) => {
            nets.iter().map(|net| Demand { client_ip: Some(*net), ..Demand::nothing() }).collect()
        }
    })
}

fn at_path(pattern: &PathPattern) -> Demand {
    Demand { path: Shape::of(pattern), ..Demand::nothing() }
}

/// The segments of one of a rule's paths that must equal a claim.
fn matching(rule: &Rule, pattern: &PathPattern) -> Option<Demand> {
    let pair = |test: &crate::policy::claim::MatchClaim| {
        pattern.position(&test.segment).map(|at| (at, test.claim.clone()))
    };
    let matches = rule.match_claims().iter().map(pair).collect::<Option<_>>()?;
    Some(Demand { caller: CallerDemand::Present, matches, ..at_path(pattern) })
}

/// All that it takes, `HEAD` too where it takes `GET`.
fn one_by_one(methods: &MethodSet) -> Vec<Method> {
    let mut all = methods.0.clone();
    if methods.contains(&Method::HEAD) && !all.contains(&Method::HEAD) {
        all.push(Method::HEAD);
    }
    all
}

fn peer(identity: &PeerPattern) -> PeerDemand {
    match identity {
        PeerPattern::Spiffe(pattern) => PeerDemand::Spiffe {
            trust_domain: pattern.trust_domain().clone(),
            path: Shape::of_spiffe(pattern),
        },
        PeerPattern::Dns { name, trust_domain } => {
            PeerDemand::Dns { trust_domain: trust_domain.clone(), names: vec![name.clone()] }
        }
    }
}

/// All ways in which an entry of a role holds.
fn entry(entry: &RoleEntry, side: Side) -> Vec<Demand> {
    if entry.is_empty() {
        return Vec::new();
    }
    let mut start = Demand { caller: CallerDemand::Present, ..Demand::nothing() };
    start.sides[side].issuers = Some(vec![entry.issuer]);
    let mut found = vec![start];
    let mut each = |demands: Vec<Demand>| {
        if !demands.is_empty() {
            found = product(&found, &demands);
        }
    };
    let of_side = |set: &dyn Fn(&mut super::demand::SideDemand)| {
        let mut demand = Demand::nothing();
        set(&mut demand.sides[side]);
        demand
    };
    each(entry.subject.iter().map(|glob| of_side(&|s| s.subject = Some(glob.clone()))).collect());
    each(entry.client.iter().map(|glob| of_side(&|s| s.client = Some(glob.clone()))).collect());
    each(entry.scope.iter().map(|word| of_side(&|s| s.scopes = vec![word.clone()])).collect());
    each(entry.group.iter().map(|word| of_side(&|s| s.groups = vec![word.clone()])).collect());
    each(entry.role.iter().map(|word| of_side(&|s| s.roles = vec![word.clone()])).collect());
    for test in &entry.claim {
        let claims = test.values.iter().map(|value| vec![(test.claim.clone(), value.clone())]);
        each(claims.map(|claims| Demand { claims, ..Demand::nothing() }).collect());
    }
    let acting =
        |glob: &Glob| Demand { act: Some(true), actor_subject: Some(glob.clone()), ..Demand::nothing() };
    each(entry.actor_subject.iter().map(acting).collect());
    found
}
