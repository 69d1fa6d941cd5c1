//! Rules that can never hold: each reason is an error, since its author meant something else.

use std::time::Duration;

use ipnet::IpNet;

use super::compiled::PolicyParts;
use super::condition::{Condition, RoleTerm, ServiceTerm};
use super::reach::{self, Region};
use super::role::CarriedClients;
use super::rule::{Effect, Rule, stated};
use crate::identity::ActorKind;

pub(super) struct Impossible {
    pub key: Option<&'static str>,
    pub why: String,
    pub remedy: String,
}

fn because(key: &'static str, why: &str, remedy: &str) -> Impossible {
    Impossible { key: Some(key), why: why.to_owned(), remedy: remedy.to_owned() }
}

pub(super) fn reasons(rule: &Rule, region: &Region<'_>, parts: &PolicyParts) -> Vec<Impossible> {
    let mut found = Vec::new();
    if rule.effect == Effect::Allow && rule.not_before >= rule.expires {
        found.push(because("expires", "it ends before it begins", "give an `expires` after `not_before`"));
    }
    found.extend(action(rule, region, parts));
    found.extend(identity(rule, parts));
    found.extend(rule.conditions.iter().filter_map(circumstance));
    found
}

fn action(rule: &Rule, region: &Region<'_>, parts: &PolicyParts) -> Option<Impossible> {
    let named = |route: usize| rule.routes().is_none_or(|routes| routes.iter().any(|id| id.index() == route));
    let mut routes = parts.routes.iter().enumerate().filter(|(at, _)| named(*at)).peekable();
    if routes.peek().is_some() && !routes.any(|(_, route)| reach::comes_by(rule, route.direction)) {
        let why = "no route of its requests takes those that come by its `hop`";
        let remedy =
            "requests of the local application go by routes with `mode = \"outbound\"`, all others never";
        return Some(because("hop", why, remedy));
    }
    if region.routes.is_empty() {
        let key =
            rule.conditions.iter().map(Condition::key).find(|key| ["path", "host", "grpc"].contains(key));
        return Some(Impossible {
            key,
            why: "no route has requests with its `route`, `host` and `path`".to_owned(),
            remedy: "write them as the routes of this file have them, or add the route".to_owned(),
        });
    }
    if !region.is_empty() {
        return None;
    }
    Some(because(
        "grpc",
        "its `grpc` does not go with its `method` or `path`",
        "a gRPC call is `POST /package.Service/Method`: leave out `method` and `path`",
    ))
}

fn identity(rule: &Rule, parts: &PolicyParts) -> Vec<Impossible> {
    let mut found = Vec::new();
    if rule.service() == Some(&ServiceTerm::Any) && parts.services.is_empty() {
        found.push(because("service", "no `[service]` is named in this file", "add a `[service.NAME]`"));
    }
    if !reach::reads_caller(rule) {
        return found;
    }
    if rule.role() == Some(&RoleTerm::None) {
        // in an allow, and in a require, `"none"` is an error of its own
        if rule.effect == Effect::Deny {
            found.push(because("role", "it speaks of the token of those who have none", "take out `role`"));
        }
        return found;
    }
    let issuers = reach::issuers(rule, parts);
    if issuers.is_clear() {
        let (key, why) = match (stated!(rule, Issuer), parts.issuers.is_empty()) {
            (_, true) => ("role", "no `[issuer]` vouches for callers"),
            (Some(_), false) => ("issuer", "none of its roles is of its `issuer`"),
            (None, false) => ("role", "no token can have all of its roles"),
        };
        found.push(because(key, why, "name roles and issuers that go together"));
        return found;
    }
    let kinds: Vec<ActorKind> = issuers.ones().flat_map(|at| &parts.issuers[at].actors).copied().collect();
    let possible = |kind: ActorKind| {
        kind == ActorKind::Unknown
            || kinds.contains(&kind)
            || (kind == ActorKind::Agent && rule.effect == Effect::Deny)
    };
    if let Some(wanted) = stated!(rule, Actor)
        && !wanted.iter().any(|kind| possible(*kind))
    {
        found.push(because(
            "actor",
            "none of its issuers has a token of that kind",
            "add an `[[issuer.NAME.actor]]` entry that tells the kind",
        ));
    }
    if let Some(wanted) = stated!(rule, OnBehalfOf)
        && !wanted.iter().any(|kind| *kind != ActorKind::Agent && possible(*kind))
    {
        found.push(because(
            "on_behalf_of",
            "no token is on behalf of that kind",
            "name `human` or `service`, as the issuer's actor entries tell it; an agent is the `actor`",
        ));
    }
    if rule.effect == Effect::Allow {
        let carried = |id: &super::ServiceId| match &parts.services[id.index()].clients {
            CarriedClients::Listed(clients) => clients.iter().any(|c| issuers.contains(c.issuer.index())),
            CarriedClients::Any | CarriedClients::Unstated => true,
        };
        let services = reach::services(rule, parts);
        if !services.is_empty() && !services.iter().any(carried) {
            found.push(because(
                "service",
                "its service may not carry tokens of the issuers of its role",
                "add a client of that issuer to the service's `client_id`",
            ));
        }
    }
    found
}

fn circumstance(condition: &Condition) -> Option<Impossible> {
    let mapped = |net: &IpNet| match net {
        IpNet::V6(net) => net.prefix_len() >= 96 && net.addr().to_ipv4_mapped().is_some(),
        IpNet::V4(_) => false,
    };
    match condition {
        Condition::MaxAge(age) if *age == Duration::ZERO => Some(because(
            "max_age",
            "no login is that fresh",
            "give the longest time since the login, as `\"15m\"`",
        )),
        Condition::PeerIp(nets) | Condition::ClientIp(nets)
            if !nets.is_empty() && nets.iter().all(mapped) =>
        {
            Some(because(condition.key(), "an IPv4-mapped address is IPv4 here", "write the network as IPv4"))
        }
        _ => None,
    }
}
