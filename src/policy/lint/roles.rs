//! Findings about who can have a role, what tokens say at all, and whose of them a service carries.

use super::{Code, Item, Report};
use crate::identity::ActorKind;
use crate::policy::claim::{ClaimTest, ClaimValue};
use crate::policy::compiled::PolicyParts;
use crate::policy::condition::{Condition, RoleTerm};
use crate::policy::pattern::Glob;
use crate::policy::reach;
use crate::policy::role::{
    CarriedClients, ClientPattern, IssuerFacts, PeerPattern, Role, RoleEntries, RoleEntry,
};
use crate::policy::rule::{Effect, Rule, stated};
use crate::policy::{RoleId, ServiceId};

pub(super) fn look(parts: &PolicyParts, report: &mut Report) {
    for (role, id) in parts.roles.iter().zip((0..).map(RoleId)) {
        entries(role, id, parts, report);
    }
    for id in (0..).map(ServiceId).take(parts.services.len()) {
        workload(id, parts, report);
        carried(id, parts, report);
        shared(id, parts, report);
    }
}

fn entries(role: &Role, id: RoleId, parts: &PolicyParts, report: &mut Report) {
    let key = match &role.entries {
        RoleEntries::AnyOf(_) => "any_of",
        RoleEntries::AllOf(_) => "all_of",
    };
    let place = Item::Role(id).at(key);
    let named: Vec<&Rule> = parts.rules.iter().filter(|rule| names(rule, id)).collect();
    let chooses = parts.routes.iter().flat_map(|route| &route.variants).any(|variant| variant.role == id);
    for (at, entry) in role.entries().iter().enumerate() {
        let issuer = &parts.issuers[entry.issuer.index()];
        if let Some((words, table)) = not_given(entry, issuer) {
            let message =
                format!("role `{}` asks for {words}, and tokens of `{}` say none", role.name, issuer.name);
            let remedy =
                format!("map the claim that says it, as `[issuer.{}.claims] {table} = \"…\"`", issuer.name);
            report.add(Code::ClaimNotGiven, place, message, remedy);
            continue;
        }
        if is_everybody(entry, issuer) {
            let message = format!("every token of `{}` has the role `{}`", issuer.name, role.name);
            let remedy =
                "ask for a scope, a group or a claim; for any verified caller a rule says `role = \"any\"`";
            report.add(Code::RoleWide, place, message, remedy);
        }
        if !named.is_empty() && !chooses && !named.iter().any(|rule| takes(rule, entry, parts)) {
            let message = format!(
                "no rule that asks for the role `{}` can take the tokens of its entry {}, of `{}`",
                role.name,
                at + 1,
                issuer.name
            );
            let remedy = "look at `issuer`, `actor` and the `client_id` of the services of these rules, or remove the entry";
            report.add(Code::RoleEntryDead, place, message, remedy);
        }
        let others = role.entries().iter().enumerate().filter(|(other, _)| *other != at);
        let any_of = key == "any_of";
        let within = |(other_at, other): (usize, &RoleEntry)| {
            let (one, wider) = if any_of { (entry, other) } else { (other, entry) };
            one.is_within(wider) && (other_at < at || !wider.is_within(one))
        };
        if let Some((other, _)) = others.into_iter().find(|it| within(*it)) {
            let message =
                format!("entry {} of role `{}` never matters beside entry {}", at + 1, role.name, other + 1);
            let remedy = "remove it, or ask for something else in it";
            report.add(Code::RoleEntryRedundant, place, message, remedy);
        }
    }
}

/// What the entry reads of its tokens that no claim is mapped to, and the key that would map one.
fn not_given(entry: &RoleEntry, issuer: &IssuerFacts) -> Option<(&'static str, &'static str)> {
    let read = [
        (!entry.client.is_empty() && issuer.client.is_none(), ("a client", "client")),
        (!entry.scope.is_empty() && issuer.scopes.is_none(), ("a scope", "scopes")),
        (!entry.group.is_empty() && issuer.groups.is_none(), ("a group", "groups")),
        (!entry.role.is_empty() && issuer.roles.is_none(), ("a role", "roles")),
    ];
    read.into_iter().find(|(missing, _)| *missing).map(|(_, words)| words)
}

/// Whether no token of the issuer can lack what the entry asks for.
fn is_everybody(entry: &RoleEntry, issuer: &IssuerFacts) -> bool {
    let any = |globs: &[Glob]| globs.is_empty() || globs.iter().any(Glob::is_everything);
    let always = |test: &ClaimTest| {
        let any = |value: &ClaimValue| matches!(value, ClaimValue::Text(glob) if glob.is_everything());
        let required = |claim| issuer.requires.contains(claim);
        matches!(&test.claim.0[..], [claim] if required(claim)) && test.values.iter().any(any)
    };
    entry.scope.is_empty()
        && entry.group.is_empty()
        && entry.role.is_empty()
        && entry.actor_subject.is_empty()
        && any(&entry.subject)
        && any(&entry.client)
        && entry.claim.iter().all(always)
}

fn names(rule: &Rule, role: RoleId) -> bool {
    matches!(rule.role(), Some(RoleTerm::AnyOf(roles) | RoleTerm::AllOf(roles)) if roles.contains(&role))
}

/// Whether a token that fulfils the entry can fulfil the rule.
fn takes(rule: &Rule, entry: &RoleEntry, parts: &PolicyParts) -> bool {
    let told = &parts.issuers[entry.issuer.index()].actors;
    // an issuer that tells no kinds at all is a finding of its own
    let tells = told.iter().any(|kind| *kind != ActorKind::Unknown);
    let possible = |kind: &ActorKind| {
        *kind == ActorKind::Unknown
            || !tells
            || told.contains(kind)
            || (rule.effect == Effect::Deny && *kind == ActorKind::Agent)
    };
    let can_be = |kinds: Option<&Vec<ActorKind>>| kinds.is_none_or(|kinds| kinds.iter().any(possible));
    reach::issuers(rule, parts).contains(entry.issuer.index())
        && can_be(stated!(rule, Actor))
        && can_be(stated!(rule, OnBehalfOf))
        && (rule.effect != Effect::Allow
            || rule.waives_peer()
            || reach::services(rule, parts).iter().any(|id| may_carry(*id, entry, parts)))
}

fn may_carry(service: ServiceId, entry: &RoleEntry, parts: &PolicyParts) -> bool {
    let fits = |carried: &ClientPattern| {
        carried.issuer == entry.issuer
            && (entry.client.is_empty() || entry.client.iter().any(|client| client.overlaps(&carried.client)))
    };
    match &parts.services[service.index()].clients {
        CarriedClients::Any | CarriedClients::Unstated => true,
        CarriedClients::Listed(clients) => clients.iter().any(fits),
    }
}

fn workload(id: ServiceId, parts: &PolicyParts, report: &mut Report) {
    let service = &parts.services[id.index()];
    let everything = service.identities.iter().find_map(|identity| match identity {
        PeerPattern::Spiffe(pattern) if pattern.is_everything() => Some(pattern),
        _ => None,
    });
    if let Some(pattern) = everything {
        let domain = pattern.trust_domain();
        let message = format!("`{}` is whatever workload `{domain}` has", service.name);
        let remedy = "write the segments that tell this service from the others";
        report.add(Code::ServiceWide, Item::Service(id).at("spiffe_id"), message, remedy);
    }
}

fn carried(id: ServiceId, parts: &PolicyParts, report: &mut Report) {
    let service = &parts.services[id.index()];
    let place = Item::Service(id).at("client_id");
    let remedy = "list the OAuth clients it carries tokens of: a stolen token is then useless to it";
    let clients = match &service.clients {
        CarriedClients::Any => {
            let message = format!("`{}` may carry the token of any client", service.name);
            return report.add(Code::ClientIdAny, place, message, remedy);
        }
        CarriedClients::Unstated => return,
        CarriedClients::Listed(clients) => clients,
    };
    for carried in clients {
        let issuer = &parts.issuers[carried.issuer.index()];
        if issuer.client.is_none() {
            let message =
                format!("`{}` carries no token of `{}`: they name no client", service.name, issuer.name);
            let remedy = format!(
                "map the claim that names it, as `[issuer.{}.claims] client = \"…\"`, or write `client_id = \"any\"`",
                issuer.name
            );
            report.add(Code::ClaimNotGiven, place, message, remedy);
        } else if carried.client.is_everything() {
            let message =
                format!("`{}` may carry the token of any client of `{}`", service.name, issuer.name);
            report.add(Code::ClientIdAny, place, message, remedy);
        }
    }
}

/// Two services that may carry the tokens of one client: what is stolen from one is of use to the other.
fn shared(id: ServiceId, parts: &PolicyParts, report: &mut Report) {
    let listed = |id: ServiceId| match &parts.services[id.index()].clients {
        CarriedClients::Listed(clients) => &clients[..],
        CarriedClients::Any | CarriedClients::Unstated => &[],
    };
    let same = |one: &ClientPattern, other: &ClientPattern| {
        let told_already = one.client.is_everything() || other.client.is_everything();
        one.issuer == other.issuer && !told_already && one.client.overlaps(&other.client)
    };
    for earlier in (0..id.0).map(ServiceId) {
        let both = listed(id).iter().find(|own| listed(earlier).iter().any(|other| same(own, other)));
        if let Some(client) = both {
            let (service, other) = (&parts.services[id.index()].name, &parts.services[earlier.index()].name);
            let message =
                format!("`{service}` and `{other}` may both carry the tokens of `{}`", client.client);
            let remedy = "nothing, if one hands them on to the other; else keep each client with one service";
            report.add(Code::ClientShared, Item::Service(id).at("client_id"), message, remedy);
        }
    }
}
