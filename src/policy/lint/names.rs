//! Findings about names: what is named and never used, what is never reached, who is told by nothing.

use super::{Code, Item, Report};
use crate::clock::Timestamp;
use crate::identity::{ActorKind, Name};
use crate::policy::compiled::PolicyParts;
use crate::policy::condition::{Condition, RoleTerm, ServiceTerm};
use crate::policy::reach::{self, Region};
use crate::policy::role::CarriedClients;
use crate::policy::rule::{Effect, Rule, stated};
use crate::policy::{IssuerId, RoleId, RouteId, ServiceId, UpstreamId};

pub(super) fn look(parts: &PolicyParts, regions: &[Region<'_>], today: Timestamp, report: &mut Report) {
    for (service, id) in parts.services.iter().zip((0..).map(ServiceId)) {
        if !parts.rules.iter().any(|rule| uses_service(rule, id)) {
            let why = "no rule lets it do anything";
            unused(Item::Service(id), "service", &service.name, why, report);
        }
    }
    for (role, id) in parts.roles.iter().zip((0..).map(RoleId)) {
        let variants = parts.routes.iter().flat_map(|route| &route.variants);
        if !parts.rules.iter().any(|rule| uses_role(rule, id))
            && !variants.into_iter().any(|it| it.role == id)
        {
            let why = "no rule and no variant of a route asks for it";
            unused(Item::Role(id), "role", &role.name, why, report);
        }
    }
    for (issuer, id) in parts.issuers.iter().zip((0..).map(IssuerId)) {
        // A token beside an assertion is verified, and a revocation holds behind one by its issuer's name.
        let stands_beside = || parts.issuers.iter().any(|other| other.asserts.is_some());
        if parts.rules.iter().any(|rule| takes_tokens_of(rule, id, parts)) {
            untold(id, parts, report);
        } else if issuer.asserts.is_some() || !stands_beside() {
            unused(Item::Issuer(id), "issuer", &issuer.name, "no allow can take its tokens", report);
        }
    }
    for (upstream, id) in parts.upstreams.iter().zip((0..).map(UpstreamId)) {
        let goes_there = |route: &crate::policy::route::Route| {
            route.upstream == id || route.variants.iter().any(|variant| variant.upstream == id)
        };
        if !parts.routes.iter().any(goes_there) {
            unused(Item::Upstream(id), "upstream", upstream, "no route leads there", report);
        }
    }
    routes(parts, regions, today, report);
}

fn unused(item: Item, kind: &str, name: &Name, why: &str, report: &mut Report) {
    let message = format!("{kind} `{name}` is never used: {why}");
    report.add(Code::NameUnused, item.whole(), message, "remove it, or write the rule that was meant");
}

/// Also where a rule waives the certificate: one that is presented must be of a service that is named.
fn uses_service(rule: &Rule, service: ServiceId) -> bool {
    match rule.service() {
        Some(ServiceTerm::Named(services)) => services.contains(&service),
        Some(ServiceTerm::Any | ServiceTerm::None) => rule.effect == Effect::Allow,
        None => false,
    }
}

fn uses_role(rule: &Rule, role: RoleId) -> bool {
    matches!(rule.role(), Some(RoleTerm::AnyOf(roles) | RoleTerm::AllOf(roles)) if roles.contains(&role))
}

fn takes_tokens_of(rule: &Rule, issuer: IssuerId, parts: &PolicyParts) -> bool {
    let carries = |id: &ServiceId| match &parts.services[id.index()].clients {
        CarriedClients::Listed(clients) => clients.iter().any(|client| client.issuer == issuer),
        CarriedClients::Any | CarriedClients::Unstated => true,
    };
    rule.effect == Effect::Allow
        && reach::issuers(rule, parts).contains(issuer.index())
        && (rule.waives_peer() || reach::services(rule, parts).iter().any(carries))
}

/// An issuer whose tokens are all `unknown` where a rule asks for a kind: that rule never takes one of them,
/// or always, if it denies agents.
fn untold(id: IssuerId, parts: &PolicyParts, report: &mut Report) {
    let issuer = &parts.issuers[id.index()];
    if issuer.actors.iter().any(|kind| *kind != ActorKind::Unknown) {
        return;
    }
    let named = |rule: &Rule| {
        stated!(rule, Issuer).is_some()
            || matches!(rule.role(), Some(RoleTerm::AnyOf(_) | RoleTerm::AllOf(_)))
    };
    let asks = |rule: &&Rule| {
        let kinds = stated!(rule, Actor).or(stated!(rule, OnBehalfOf));
        kinds.is_some_and(|kinds| !kinds.contains(&ActorKind::Unknown))
            && reach::issuers(rule, parts).contains(id.index())
            && (rule.effect != Effect::Allow || named(rule))
    };
    if let Some(rule) = parts.rules.iter().find(asks) {
        let does = match rule.effect {
            Effect::Allow => "takes none of them",
            Effect::Deny => "takes them all for agents",
            Effect::Require => "refuses them all",
        };
        let message = format!(
            "nothing tells what kind of actor the tokens of `{}` speak of, so `{}` {does}",
            issuer.name, rule.name
        );
        let remedy = format!(
            "add `[[issuer.{}.actor]]` entries for `human`, `service` and `agent`, or a `preset`",
            issuer.name
        );
        report.add(Code::ActorUntold, Item::Issuer(id).whole(), message, remedy);
    }
}

fn routes(parts: &PolicyParts, regions: &[Region<'_>], today: Timestamp, report: &mut Report) {
    for (route, id) in parts.routes.iter().zip((0..).map(RouteId)) {
        let in_shadow = route.shadow_until.is_some_and(|until| until > today);
        if route.shadow_until.is_some() && !in_shadow {
            let message = format!("`shadow_until` of `{}` is over, its rules are enforced", route.name);
            report.add(Code::ShadowOver, Item::Route(id).at("shadow_until"), message, "take it out");
        }
        let allowed = parts.rules.iter().zip(regions).any(|(rule, region)| {
            rule.effect == Effect::Allow && !region.is_empty() && region.routes.contains(&id)
        });
        if !allowed && !in_shadow {
            let message =
                format!("no allow reaches the route `{}`: all that it takes is refused", route.name);
            let remedy = format!("write an allow with `route = \"{}\"`, or remove the route", route.name);
            report.add(Code::RouteUnreached, Item::Route(id).whole(), message, remedy);
        }
    }
}
