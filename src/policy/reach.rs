//! What a rule can reach at all: routes, paths, methods, issuers. Checks and lints ask here; no
//! request does.

use std::sync::Arc;

use fixedbitset::FixedBitSet;

use super::compiled::PolicyParts;
use super::condition::{Condition, RoleTerm, ServiceTerm};
use super::pattern::{MethodSet, PathPattern};
use super::role::{PeerPattern, Service};
use super::route::hosts_overlap;
use super::rule::{Rule, stated};
use super::{RoleId, RouteId, ServiceId};
use crate::identity::{Direction, Hop, SpiffeId, SpiffePattern};

/// The requests that a rule's `route host method path grpc` can hold for.
#[derive(Debug)]
pub(super) struct Region<'p> {
    rule: &'p Rule,
    /// Those of which some request can be reached.
    pub routes: Vec<RouteId>,
    methods: Option<MethodSet>,
    /// A path must match one of each list.
    paths: Vec<Vec<PathPattern>>,
}

impl<'p> Region<'p> {
    pub(super) fn of(rule: &'p Rule, parts: &PolicyParts) -> Region<'p> {
        let paths: Vec<_> = rule.paths().cloned().into_iter().chain(rule.grpc_paths()).collect();
        let named = |id: RouteId| rule.routes().is_none_or(|routes| routes.contains(&id));
        let fits = |id: RouteId| {
            let route = &parts.routes[id.index()];
            comes_by(rule, route.direction)
                && hosts_overlap(rule.hosts(), &route.host)
                && paths.iter().all(|list| list.iter().any(|path| path.overlaps(&route.path)))
        };
        let ids = (0..).map(RouteId).take(parts.routes.len());
        Region {
            rule,
            routes: ids.filter(|id| named(*id) && fits(*id)).collect(),
            methods: rule.methods(),
            paths,
        }
    }

    /// Whether no request at all is reached.
    pub(super) fn is_empty(&self) -> bool {
        self.routes.is_empty()
            || self.methods.as_ref().is_some_and(|methods| methods.0.is_empty())
            || !self.paths.iter().all(|list| self.paths.iter().all(|other| any_overlap(list, other)))
    }

    /// Whether a request can be reached by both; said too often rather than too seldom.
    pub(super) fn overlaps(&self, other: &Region<'_>) -> bool {
        self.overlaps_but_for_hosts(other) && hosts_overlap(self.rule.hosts(), other.rule.hosts())
    }

    /// The same, whatever hosts the two name.
    pub(super) fn overlaps_but_for_hosts(&self, other: &Region<'_>) -> bool {
        let methods = match (&self.methods, &other.methods) {
            (Some(own), Some(others)) => own.overlaps(others),
            _ => true,
        };
        methods
            && self.routes.iter().any(|route| other.routes.contains(route))
            && self.paths.iter().all(|list| other.paths.iter().all(|others| any_overlap(list, others)))
    }
}

impl PolicyParts {
    /// Whether some request of this route can have the rule's `route host method path grpc` and `hop`; said too
    /// often rather than too seldom.
    pub fn may_reach(&self, rule: &Rule, route: RouteId) -> bool {
        let region = Region::of(rule, self);
        !region.is_empty() && region.routes.contains(&route)
    }
}

/// Whether requests of that direction can have the rule's `hop`.
pub(super) fn comes_by(rule: &Rule, direction: Direction) -> bool {
    let local = |hop: &Arc<str>| **hop == *Hop::Local.as_str();
    stated!(rule, Hop)
        .is_none_or(|hops| hops.iter().any(|hop| local(hop) == (direction == Hop::Local.direction())))
}

fn any_overlap(one: &[PathPattern], other: &[PathPattern]) -> bool {
    one.iter().any(|path| other.iter().any(|other| path.overlaps(other)))
}

/// The issuers of whose tokens the rule's `issuer` and `role` can hold.
pub(super) fn issuers(rule: &Rule, parts: &PolicyParts) -> FixedBitSet {
    let all = parts.issuers.len();
    let mut found = FixedBitSet::with_capacity(all);
    found.insert_range(..);
    if let Some(named) = stated!(rule, Issuer) {
        let named: FixedBitSet = named.iter().map(|id| id.index()).collect();
        found.intersect_with(&named);
    }
    let of_role = |id: &RoleId| parts.roles[id.index()].issuers(all);
    match rule.role() {
        Some(RoleTerm::AnyOf(roles)) => {
            let mut any = FixedBitSet::with_capacity(all);
            roles.iter().for_each(|role| any.union_with(&of_role(role)));
            found.intersect_with(&any);
        }
        Some(RoleTerm::AllOf(roles)) => roles.iter().for_each(|role| found.intersect_with(&of_role(role))),
        Some(RoleTerm::Any | RoleTerm::None) | None => {}
    }
    found
}

/// The services whose peers can fulfil the rule's `service`, every one if it says `"any"`.
pub(super) fn services(rule: &Rule, parts: &PolicyParts) -> Vec<ServiceId> {
    match rule.service() {
        Some(ServiceTerm::Named(ids)) => ids.clone(),
        Some(ServiceTerm::Any) => (0..).map(ServiceId).take(parts.services.len()).collect(),
        Some(ServiceTerm::None) | None => Vec::new(),
    }
}

/// Whether the rule cannot hold for who presents no token.
pub(super) fn reads_caller(rule: &Rule) -> bool {
    rule.conditions.iter().any(Condition::reads_caller)
}

/// Whether the rule cannot hold for who presents no certificate.
pub(super) fn reads_peer(rule: &Rule) -> bool {
    matches!(rule.service(), Some(ServiceTerm::Any | ServiceTerm::Named(_)))
}

/// Whether one peer can fulfil the `service` of both; said too often rather than too seldom.
pub(super) fn can_share_a_peer(one: &Rule, other: &Rule, parts: &PolicyParts) -> bool {
    let (Some(ServiceTerm::Named(ours)), Some(ServiceTerm::Named(theirs))) = (one.service(), other.service())
    else {
        return true;
    };
    let service = |id: &ServiceId| &parts.services[id.index()];
    ours.iter().any(|a| theirs.iter().any(|b| a == b || can_name_one_peer(service(a), service(b))))
}

fn can_name_one_peer(one: &Service, other: &Service) -> bool {
    one.identities.iter().any(|a| other.identities.iter().any(|b| identities_overlap(a, b)))
}

fn identities_overlap(one: &PeerPattern, other: &PeerPattern) -> bool {
    let exact = |pattern: &SpiffePattern| pattern.to_string().parse::<SpiffeId>().ok();
    match (one, other) {
        (PeerPattern::Spiffe(a), PeerPattern::Spiffe(b)) => match (exact(a), exact(b)) {
            (Some(id), _) => b.matches(&id),
            (None, Some(id)) => a.matches(&id),
            (None, None) => a.trust_domain() == b.trust_domain(),
        },
        // one certificate can carry many names
        (PeerPattern::Dns { trust_domain: a, .. }, PeerPattern::Dns { trust_domain: b, .. }) => a == b,
        (PeerPattern::Spiffe(_), PeerPattern::Dns { .. })
        | (PeerPattern::Dns { .. }, PeerPattern::Spiffe(_)) => false,
    }
}
