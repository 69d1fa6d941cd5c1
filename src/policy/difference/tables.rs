//! One of the two policies, written out: what can permit, what can keep from it, and what each comes to in
//! words that mean the same in both.

use std::collections::HashSet;
use std::fmt::Write as _;

use super::Vouched;
use crate::clock::Timestamp;
use crate::identity::Name;
use crate::policy::cells::{self, Demand, Side};
use crate::policy::condition::{Condition, RoleTerm, RouteTerm, ServiceTerm};
use crate::policy::role::{CarriedClients, RoleEntries, RoleEntry};
use crate::policy::route::Route;
use crate::policy::rule::{Effect, Mode, Rule};
use crate::policy::{IssuerId, Policy, PolicyParts, RoleId, RouteId, RuleId, ServiceId, UpstreamId, reach};

pub struct Table<'p> {
    pub policy: &'p Policy,
    pub grants: Vec<Grant>,
    pub denies: Vec<Barrier>,
    pub requires: Vec<Barrier>,
    /// Services that list the clients whose tokens they carry: a token of another is refused.
    pub carriers: Vec<Barrier>,
    pub entries: Vec<Entry>,
    /// What requires, carriers and variants of routes ask for, of requests that get as far.
    asked: Vec<Demand>,
    /// Who is known at all.
    pub known: Vec<Demand>,
    pub known_meaning: String,
    /// Whether being without a certificate, or without a token, is ever held against somebody.
    pub denies_absence: bool,
}

/// What permits: an allow, or a route that is not enforced yet.
pub struct Grant {
    pub rule: Option<RuleId>,
    pub meaning: String,
    pub ways: Vec<Demand>,
    pub waives_peer: bool,
}

/// What keeps requests from being permitted that are in one of `ways`.
pub struct Barrier {
    /// Of the rule, or of the service.
    pub name: String,
    pub meaning: String,
    pub ways: Vec<Demand>,
    /// Ways in which it keeps from nothing after all.
    pub met: Vec<Demand>,
}

/// One route under one of its hosts.
pub struct Entry {
    pub route: Name,
    pub meaning: String,
    pub way: Demand,
    /// In the order in which they are tried; the last is for everybody.
    pub targets: Vec<Target>,
}

/// Where a route passes requests to.
#[derive(PartialEq)]
pub struct Target {
    pub upstream: Name,
    /// Whose: `None` for everybody's.
    role: Option<String>,
    /// Not compared: it speaks of one policy alone.
    pub ways: Same<Vec<Demand>>,
}

/// What takes no part in a comparison.
pub struct Same<T>(pub T);

impl<T> PartialEq for Same<T> {
    fn eq(&self, _: &Same<T>) -> bool {
        true
    }
}

impl<'p> Table<'p> {
    pub fn new(policy: &'p Policy, side: Side, vouched: &[Vouched]) -> Table<'p> {
        let parts = policy.parts();
        let meaning = |rule: &Rule| meaning(rule, parts, side, vouched);
        let enforced = |effect: Effect| {
            let rules = parts.rules.iter().zip((0..).map(RuleId));
            rules.filter(move |(rule, _)| rule.effect == effect && rule.mode == Mode::Enforce)
        };
        let barrier = |(rule, _): (&Rule, RuleId)| {
            let (ways, met) = if rule.effect == Effect::Require {
                (cells::reach(rule, parts, side), cells::met(rule, parts, side))
            } else {
                (cells::ways(rule, parts, side), Vec::new())
            };
            Barrier { name: rule.name.clone(), meaning: meaning(rule), ways, met }
        };
        let allows = enforced(Effect::Allow).map(|(rule, id)| Grant {
            rule: Some(id),
            meaning: meaning(rule),
            ways: cells::ways(rule, parts, side),
            waives_peer: rule.waives_peer(),
        });
        let ids = (0..).map(RouteId);
        let unenforced = parts.routes.iter().zip(ids).filter_map(|(route, id)| {
            let until = route.shadow_until?;
            let time = (Timestamp::MIN, until);
            let mut way = Demand { time, ..Demand::nothing() };
            way.sides[side].routes = Some(vec![id]);
            let meaning = format!("shadow {} {}", route.name, until.unix_ms());
            Some(Grant { rule: None, meaning, ways: vec![way], waives_peer: true })
        });
        let listed =
            parts.services.iter().filter(|service| matches!(service.clients, CarriedClients::Listed(_)));
        let carriers = listed.map(|service| {
            let carried = cells::carried(service, side).unwrap_or_default();
            let clients = sorted(carried.iter().map(|way| {
                let asked = &way.sides[side];
                let issuers = asked.issuers.iter().flatten().map(|id| issuer(*id, parts, side, vouched));
                format!("{} {:?}", sorted(issuers), asked.client)
            }));
            let ways: Vec<_> = cells::peers(service).collect();
            Barrier {
                name: service.name.to_string(),
                meaning: format!("{} carries {clients}", peers_meaning(&ways)),
                ways,
                met: carried,
            }
        });
        let mut asked: Vec<Demand> =
            enforced(Effect::Require).flat_map(|(rule, _)| cells::met(rule, parts, side)).collect();
        asked.extend(parts.services.iter().filter_map(|service| cells::carried(service, side)).flatten());
        let variants = parts.routes.iter().flat_map(|route| &route.variants);
        asked.extend(variants.flat_map(|variant| cells::role(variant.role, parts, side)));
        let known: Vec<Demand> = parts.services.iter().flat_map(cells::peers).collect();
        let denies: Vec<_> = enforced(Effect::Deny).map(barrier).collect();
        Table {
            policy,
            grants: allows.chain(unenforced).collect(),
            denies_absence: denies.iter().flat_map(|deny| &deny.ways).any(|way| {
                way.peer == cells::PeerDemand::Absent || way.caller == cells::CallerDemand::Absent
            }),
            denies,
            asked,
            requires: enforced(Effect::Require).map(barrier).collect(),
            carriers: carriers.collect(),
            entries: entries(policy, side, vouched),
            known_meaning: peers_meaning(&known),
            known,
        }
    }

    /// Every demand in it, for what must be told apart.
    pub fn demands(&self) -> impl Iterator<Item = &Demand> {
        let barriers = self.denies.iter().chain(&self.requires).chain(&self.carriers);
        let grants = self.grants.iter().flat_map(|grant| &grant.ways);
        let entries = self.entries.iter().map(|entry| &entry.way);
        grants
            .chain(barriers.flat_map(|barrier| &barrier.ways))
            .chain(entries)
            .chain(&self.known)
            .chain(&self.asked)
    }

    pub fn routes_meaning(&self) -> String {
        sorted(self.entries.iter().map(|entry| entry.meaning.clone()))
    }

    pub fn grant_meanings(&self) -> HashSet<&str> {
        self.grants.iter().map(|grant| &*grant.meaning).collect()
    }
}

pub fn meanings(barriers: &[Barrier]) -> HashSet<&str> {
    barriers.iter().map(|barrier| &*barrier.meaning).collect()
}

/// In the order in which they are tried.
fn entries(policy: &Policy, side: Side, vouched: &[Vouched]) -> Vec<Entry> {
    let parts = policy.parts();
    let upstream = |id: UpstreamId| parts.upstreams[id.index()].clone();
    let targets = |route: &Route| {
        let variants = route.variants.iter().map(|variant| Target {
            upstream: upstream(variant.upstream),
            role: Some(role_meaning(variant.role, parts, side, vouched)),
            ways: Same(cells::role(variant.role, parts, side)),
        });
        let everybody =
            Target { upstream: upstream(route.upstream), role: None, ways: Same(vec![Demand::nothing()]) };
        variants.chain([everybody]).collect()
    };
    let each = policy.route_order().flat_map(|(id, host)| {
        let route = policy.route(id);
        let ways = cells::entries(route, id, side).into_iter().filter(move |way| way.host.as_ref() == host);
        ways.map(move |way| {
            let Demand { host, path, headers, .. } = &way;
            let direction = route.direction;
            let meaning = format!("{} {direction:?} {host:?} {path} {headers:?}", route.name);
            Entry { route: route.name.clone(), meaning, way, targets: targets(route) }
        })
    });
    each.collect()
}

fn sorted(items: impl IntoIterator<Item = String>) -> String {
    let mut items: Vec<String> = items.into_iter().collect();
    items.sort_unstable();
    items.dedup();
    format!("{items:?}")
}

fn peers_meaning(ways: &[Demand]) -> String {
    sorted(ways.iter().map(|way| format!("{:?}", way.peer)))
}

/// An issuer as far as tokens are read: one text on both sides only where both read them alike.
fn issuer(id: IssuerId, parts: &PolicyParts, side: Side, vouched: &[Vouched]) -> String {
    let name = &parts.issuers[id.index()].name;
    let pair = vouched.iter().enumerate().find(|(_, pair)| pair.ids[side] == Some(id));
    match pair {
        Some((at, pair)) if pair.alike => format!("issuer {at}"),
        _ => format!("issuer {name} of {side}"),
    }
}

fn role_meaning(id: RoleId, parts: &PolicyParts, side: Side, vouched: &[Vouched]) -> String {
    let role = &parts.roles[id.index()];
    let together = matches!(role.entries, RoleEntries::AllOf(_));
    let entries = role.entries().iter().map(|entry| {
        let RoleEntry { issuer: of, subject, client, scope, group, role, claim, actor_subject } = entry;
        format!(
            "{} {subject:?} {client:?} {scope:?} {group:?} {role:?} {claim:?} {actor_subject:?}",
            issuer(*of, parts, side, vouched)
        )
    });
    format!("{together} {}", sorted(entries))
}

/// What a rule says, names looked up: equal texts hold of the same requests of equally named routes.
fn meaning(rule: &Rule, parts: &PolicyParts, side: Side, vouched: &[Vouched]) -> String {
    let services = |ids: &[ServiceId]| {
        let ways = ids.iter().flat_map(|id| cells::peers(&parts.services[id.index()]));
        peers_meaning(&ways.collect::<Vec<_>>())
    };
    let issuer = |id: IssuerId| issuer(id, parts, side, vouched);
    let mut said: Vec<String> = rule
        .conditions
        .iter()
        .map(|condition| match condition {
            Condition::Service(ServiceTerm::Named(ids)) => format!("service {}", services(ids)),
            Condition::Service(ServiceTerm::Any) => {
                let all: Vec<_> = (0..).map(ServiceId).take(parts.services.len()).collect();
                format!("service {}", services(&all))
            }
            Condition::Role(RoleTerm::AnyOf(ids) | RoleTerm::AllOf(ids)) => {
                let all = matches!(condition, Condition::Role(RoleTerm::AllOf(_)));
                let roles = ids.iter().map(|id| role_meaning(*id, parts, side, vouched));
                format!("role {all} {}", sorted(roles))
            }
            Condition::Issuer(ids) => format!("issuer {}", sorted(ids.iter().map(|id| issuer(*id)))),
            Condition::Route(RouteTerm::Named(ids)) => {
                format!("route {}", sorted(ids.iter().map(|id| parts.routes[id.index()].name.to_string())))
            }
            Condition::Route(RouteTerm::Any) => String::new(),
            other => format!("{other:?}"),
        })
        .collect();
    said.retain(|text| !text.is_empty());
    said.sort_unstable();
    let mut text = format!("{:?} {:?} {:?} {said:?}", rule.effect, rule.not_before, rule.expires);
    if reach::reads_caller(rule) {
        let issuers = reach::issuers(rule, parts);
        let issuers = issuers.ones().filter_map(|at| u32::try_from(at).ok()).map(IssuerId);
        let _ = write!(text, " of {}", sorted(issuers.map(issuer)));
    }
    text
}
