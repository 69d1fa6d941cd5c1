//! Findings that take one rule to see: when it ends, whom it lets in, by what it knows them.

use std::time::Duration;

use super::{Code, Item, Report};
use crate::clock::Timestamp;
use crate::identity::ActorKind;
use crate::policy::compiled::PolicyParts;
use crate::policy::condition::{Condition, Kind, RoleTerm, ServiceTerm};
use crate::policy::pattern::{HostPattern, PathPattern};
use crate::policy::reach::{self, Region};
use crate::policy::rule::{Effect, Mode, Rule, stated};
use crate::policy::{RouteId, RuleId};

const EXPIRY_WARNING_DAYS: u64 = 14;

pub(super) fn look(parts: &PolicyParts, regions: &[Region<'_>], today: Timestamp, report: &mut Report) {
    agents_unseen(parts, report);
    for ((rule, id), region) in parts.rules.iter().zip((0..).map(RuleId)).zip(regions) {
        if rule.mode == Mode::Shadow {
            let message = format!("`{}` has no effect: it is in shadow", rule.name);
            let remedy = "take out `mode` once its records look right";
            report.add(Code::RuleInShadow, Item::Rule(id).at("mode"), message, remedy);
        }
        elsewhere(rule, id, region, parts, report);
        match rule.effect {
            Effect::Allow => {
                expiry(rule, id, today, report);
                who(rule, id, report);
                agents_as_people(rule, id, report);
            }
            Effect::Deny | Effect::Require => by_host(rule, id, region, parts, regions, report),
        }
    }
}

fn expiry(rule: &Rule, id: RuleId, today: Timestamp, report: &mut Report) {
    let soon = today.plus(Duration::from_secs(EXPIRY_WARNING_DAYS * 86_400));
    let (code, message) = if rule.expires <= today {
        (Code::RuleExpired, format!("`{}` has expired", rule.name))
    } else if rule.expires <= soon {
        (Code::RuleExpiresSoon, format!("`{}` ends within {EXPIRY_WARNING_DAYS} days", rule.name))
    } else {
        return;
    };
    report.add(code, Item::Rule(id).at("expires"), message, "give it a later day, or remove it");
}

/// An allow that knows nobody, or everybody.
fn who(rule: &Rule, id: RuleId, report: &mut Report) {
    let item = Item::Rule(id);
    let open = (rule.waives_peer(), rule.waives_caller());
    if open == (true, true) {
        let is_address = |c: &&Condition| matches!(c, Condition::PeerIp(_) | Condition::ClientIp(_));
        if let Some(condition) = rule.conditions.iter().find(is_address) {
            let message = format!("`{}` knows who asks by an address alone", rule.name);
            let remedy = "name a service or a role: an address is no identity";
            return report.add(Code::AddressOnly, item.at(condition.key()), message, remedy);
        }
        if is_everywhere(rule) && !rule.hosts().is_empty() {
            let message = format!("`{}` lets in whoever names a host", rule.name);
            let remedy =
                "name a service or a role, or the paths that are public: a host is what a client writes";
            return report.add(Code::HostOnly, item.at("host"), message, remedy);
        }
        if is_everywhere(rule) {
            let message = format!("`{}` lets everybody do everything", rule.name);
            let remedy = "name a service or a role, or the paths that are public";
            return report.add(Code::OpenToAll, item.at("role"), message, remedy);
        }
    }
    let says_who =
        rule.conditions.iter().any(|c| matches!(c, Condition::Claim(_) | Condition::MatchClaim(_)));
    if rule.service() == Some(&ServiceTerm::Any) && rule.role() == Some(&RoleTerm::Any) && !says_who {
        let message = format!("`{}` is for any service and any caller", rule.name);
        let remedy =
            "name a service or a role; what is meant for all of today's is open to all of tomorrow's, too";
        return report.add(Code::OpenToAll, item.at("role"), message, remedy);
    }
    let waived = [(open.0, "service", "certificate"), (open.1, "role", "token")];
    for (_, key, credential) in waived.into_iter().filter(|(waived, ..)| *waived) {
        let message = format!("`{}` takes requests without a {credential}", rule.name);
        let remedy = format!("nothing, if that is meant; else name who may in `{key}`");
        report.add(Code::SignatureWaived, item.at(key), message, remedy);
    }
}

/// Whether no path keeps the rule from anything below a route's root.
fn is_everywhere(rule: &Rule) -> bool {
    let broad = |paths: &Vec<_>| paths.iter().any(PathPattern::is_everything);
    stated!(rule, Grpc).is_none() && rule.paths().is_none_or(broad)
}

fn agents_as_people(rule: &Rule, id: RuleId, report: &mut Report) {
    let Some(kinds) = stated!(rule, Actor) else { return };
    if kinds.contains(&ActorKind::Agent) && kinds.contains(&ActorKind::Human) {
        let message = format!("`{}` lets an agent do all that a person may", rule.name);
        let remedy = "nothing, if that is meant; else give agents a rule of their own, with `on_behalf_of`";
        report.add(Code::AgentsAsPeople, Item::Rule(id).at("actor"), message, remedy);
    }
}

/// Denies of agents where none can be told, once for the same issuers: agents look like people there.
fn agents_unseen(parts: &PolicyParts, report: &mut Report) {
    let mut told_already = Vec::new();
    for (rule, id) in parts.rules.iter().zip((0..).map(RuleId)) {
        let names_agents = stated!(rule, Actor).is_some_and(|kinds| kinds.contains(&ActorKind::Agent));
        if rule.effect != Effect::Deny || !names_agents {
            continue;
        }
        let issuers = reach::issuers(rule, parts);
        let told = |kind: ActorKind| issuers.ones().any(|at| parts.issuers[at].actors.contains(&kind));
        let others = told(ActorKind::Human) || told(ActorKind::Service);
        if others && !told(ActorKind::Agent) && !told_already.contains(&issuers) {
            let message = format!("`{}` denies agents, and no issuer says who is one", rule.name);
            let remedy = "add `[[issuer.NAME.actor]]` with `kind = \"agent\"`: until then an agent passes as a person or a \
                          service";
            report.add(Code::ActorUntold, Item::Rule(id).at("actor"), message, remedy);
            told_already.push(issuers);
        }
    }
}

/// A path on a route from which a narrower one takes it.
fn elsewhere(rule: &Rule, id: RuleId, region: &Region<'_>, parts: &PolicyParts, report: &mut Report) {
    let (Some(named), Some(paths)) = (rule.routes(), rule.paths()) else { return };
    let others = || parts.routes.iter().zip((0..).map(RouteId)).filter(|(_, id)| !named.contains(id));
    for path in paths {
        let taker = |id: &RouteId| {
            let route = &parts.routes[id.index()];
            others().map(|(other, _)| other).find(|other| {
                other.header.is_empty()
                    && other.host == route.host
                    && path.is_within(&other.path)
                    && other.path.is_within(&route.path)
            })
        };
        let mut reached = region.routes.iter().filter(|id| path.overlaps(&parts.routes[id.index()].path));
        let Some(first) = reached.next() else { continue };
        if let Some(other) = taker(first).filter(|_| reached.all(|route| taker(route).is_some())) {
            let route = &parts.routes[first.index()].name;
            let message = format!(
                "`{}` never sees `{path}`: the route `{}` takes it from `{route}`",
                rule.name, other.name
            );
            let remedy =
                format!("write `route = [\"{route}\", \"{}\"]`, or `host` in place of `route`", other.name);
            report.add(Code::PathElsewhere, Item::Rule(id).at("path"), message, remedy);
        }
    }
}

/// A guard that asks for one host where a client can write another and get to the same place.
fn by_host(
    rule: &Rule,
    id: RuleId,
    region: &Region<'_>,
    parts: &PolicyParts,
    regions: &[Region<'_>],
    report: &mut Report,
) {
    if rule.hosts().is_empty() {
        return;
    }
    let named = |host: &HostPattern| rule.hosts().iter().any(|own| host.is_within(own));
    let another = |hosts: &[HostPattern]| {
        hosts.is_empty() || hosts.iter().any(|host| matches!(host, HostPattern::Wildcard(_)) && !named(host))
    };
    let open = |route: &&RouteId| {
        another(&parts.routes[route.index()].host)
            && parts.rules.iter().zip(regions).any(|(allow, reached)| {
                allow.effect == Effect::Allow
                    && reached.routes.contains(route)
                    && another(allow.hosts())
                    && region.overlaps_but_for_hosts(reached)
            })
    };
    if let Some(route) = region.routes.iter().find(open) {
        let route = &parts.routes[route.index()].name;
        let message =
            format!("`{}` can be got round by another host: `{route}` takes more than its own", rule.name);
        let remedy = format!(
            "give `[route.{route}]` its hosts, or write `route = \"{route}\"` in place of `host`: a client chooses the host it names"
        );
        report.add(Code::DenyByHost, Item::Rule(id).at("host"), message, remedy);
    }
}

/// Whether the rule says of whom it speaks.
pub(super) fn says_who(rule: &Rule) -> bool {
    rule.conditions.iter().any(|condition| match condition {
        Condition::Service(ServiceTerm::Any) | Condition::Role(RoleTerm::Any) => false,
        condition => condition.kind() != Kind::Action,
    })
}
