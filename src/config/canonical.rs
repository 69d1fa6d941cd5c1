//! One text for every policy that decides alike, and its hash.
//!
//! Formatting, comments, the order of files, tables and lists leave no trace in it; names and all
//! that is judged do. Every text in it is quoted, so no two policies share one.

use aws_lc_rs::digest::{SHA256, digest};

use crate::identity::{Direction, Name};
use crate::policy::claim::{ClaimPath, ClaimTest};
use crate::policy::condition::{Condition, RoleTerm, RouteTerm, ServiceTerm};
use crate::policy::role::{CarriedClients, PeerPattern, Role, RoleEntries, RoleEntry, Service};
use crate::policy::route::Route;
use crate::policy::rule::Rule;
use crate::policy::{PolicyHash, PolicyParts, RoleId, ServiceId, UpstreamId};
use crate::token::{ActorEntry, IssuerSettings};

/// SHA-256 of the canonical text.
pub fn hash(parts: &PolicyParts, issuers: &[IssuerSettings]) -> PolicyHash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, text(parts, issuers).as_bytes()).as_ref());
    PolicyHash(hash)
}

fn text(parts: &PolicyParts, issuers: &[IssuerSettings]) -> String {
    let mut lines: Vec<String> = Vec::new();
    lines.extend(issuers.iter().map(issuer));
    lines.extend(parts.services.iter().map(|one| service(one, parts)));
    lines.extend(parts.roles.iter().map(|one| role(one, parts)));
    lines.extend(parts.routes.iter().map(|one| route(one, parts)));
    lines.extend(parts.upstreams.iter().map(|name| format!("upstream {:?}", name.as_str())));
    lines.extend(parts.rules.iter().map(|one| rule(one, parts)));
    lines.sort_unstable();
    lines.join("\n")
}

/// Texts in quotes, in one order.
fn set<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let mut items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    items.sort_unstable();
    items.dedup();
    format!("{items:?}")
}

/// The names of what ids stand for.
fn named<'p, Id: Copy + 'p, T: 'p>(
    ids: &'p [Id],
    index: impl Fn(Id) -> usize,
    table: &'p [T],
    name: impl Fn(&T) -> &Name,
) -> String {
    set(ids.iter().filter_map(|id| table.get(index(*id))).map(name))
}

/// Whose tokens are taken and how they are read; not where the keys come from.
fn issuer(issuer: &IssuerSettings) -> String {
    let IssuerSettings {
        name,
        url,
        keys: _,
        audience,
        algorithms,
        token_type,
        leeway,
        requires,
        only,
        claims,
        actors,
        quirks,
        possession,
        introspection,
    } = issuer;
    let actors = actors.iter().map(|entry| {
        let ActorEntry { kind, claim, same } = entry;
        format!("{kind} {} {same:?}", set(claim.iter().map(claim_test)))
    });
    format!(
        "issuer {:?} {url:?} {} {} {token_type:?} {leeway:?} {} {} {claims:?} {} {quirks:?} {possession:?} {:?}",
        name.as_str(),
        set(audience),
        set(algorithms),
        set(requires),
        set(only.iter().map(claim_test)),
        set(actors),
        introspection.as_ref().map(|asked| asked.time_max)
    )
}

fn service(service: &Service, parts: &PolicyParts) -> String {
    let Service { name, identities, clients } = service;
    let identities = set(identities.iter().map(|identity| match identity {
        PeerPattern::Spiffe(pattern) => pattern.to_string(),
        PeerPattern::Dns { name, trust_domain } => format!("dns {name} {trust_domain}"),
    }));
    let clients = match clients {
        CarriedClients::Unstated => "unstated".to_owned(),
        CarriedClients::Any => "any".to_owned(),
        CarriedClients::Listed(clients) => set(clients.iter().map(|client| {
            let issuer = parts.issuers.get(client.issuer.index()).map(|issuer| issuer.name.as_str());
            format!("{issuer:?} {:?}", client.client.to_string())
        })),
    };
    format!("service {:?} {identities} {clients}", name.as_str())
}

fn role(role: &Role, parts: &PolicyParts) -> String {
    let (word, entries) = match &role.entries {
        RoleEntries::AnyOf(entries) => ("any_of", entries),
        RoleEntries::AllOf(entries) => ("all_of", entries),
    };
    format!("role {:?} {word} {}", role.name.as_str(), set(entries.iter().map(|one| entry(one, parts))))
}

fn entry(entry: &RoleEntry, parts: &PolicyParts) -> String {
    let RoleEntry { issuer, subject, client, scope, group, role, claim, actor_subject } = entry;
    format!(
        "{:?} {} {} {} {} {} {} {}",
        parts.issuers.get(issuer.index()).map(|issuer| issuer.name.as_str()),
        set(subject),
        set(client),
        set(scope),
        set(group),
        set(role),
        set(claim.iter().map(claim_test)),
        set(actor_subject)
    )
}

fn claim_path(path: &ClaimPath) -> String {
    format!("{:?}", path.0)
}

fn claim_test(test: &ClaimTest) -> String {
    format!("{} {}", claim_path(&test.claim), set(test.values.iter().map(|value| format!("{value:?}"))))
}

fn route(route: &Route, parts: &PolicyParts) -> String {
    let Route { name, direction, host, path, header, upstream, variants, shadow_until } = route;
    // Said only where it is said: most policies have none.
    let side = if *direction == Direction::Outbound { " outbound" } else { "" };
    let upstream_name = |id: UpstreamId| parts.upstreams.get(id.index()).map(|name| name.as_str());
    // The first variant whose role holds wins, so their order counts.
    let variants: Vec<_> = variants
        .iter()
        .map(|one| {
            (parts.roles.get(one.role.index()).map(|role| role.name.as_str()), upstream_name(one.upstream))
        })
        .collect();
    format!(
        "route{side} {:?} {} {:?} {} {:?} {variants:?} {:?}",
        name.as_str(),
        set(host),
        path.to_string(),
        set(header.iter().map(|header| format!("{header:?}"))),
        upstream_name(*upstream),
        shadow_until.map(|until| until.unix_ms()),
    )
}

fn rule(rule: &Rule, parts: &PolicyParts) -> String {
    let Rule { name, effect, conditions, mode, not_before, expires, owner, ticket } = rule;
    let times = (not_before.unix_ms(), expires.unix_ms());
    format!(
        "rule {name:?} {} {mode:?} {times:?} {owner:?} {ticket:?} {}",
        effect.as_str(),
        set(conditions.iter().map(|one| condition(one, parts)))
    )
}

fn condition(condition: &Condition, parts: &PolicyParts) -> String {
    let services = |ids| named(ids, ServiceId::index, &parts.services, |service| &service.name);
    let roles = |ids| named(ids, RoleId::index, &parts.roles, |role| &role.name);
    let value = match condition {
        Condition::Service(ServiceTerm::Any) | Condition::Role(RoleTerm::Any) => "any".to_owned(),
        Condition::Service(ServiceTerm::None) | Condition::Role(RoleTerm::None) => "none".to_owned(),
        Condition::Service(ServiceTerm::Named(ids)) => services(ids),
        Condition::Role(RoleTerm::AnyOf(ids)) => roles(ids),
        Condition::Role(RoleTerm::AllOf(ids)) => format!("all {}", roles(ids)),
        Condition::Issuer(ids) => named(ids, |id| id.index(), &parts.issuers, |issuer| &issuer.name),
        Condition::Actor(kinds) | Condition::OnBehalfOf(kinds) => set(kinds),
        Condition::Claim(tests) => set(tests.iter().map(claim_test)),
        Condition::Acr(values) | Condition::Hop(values) => set(values),
        Condition::MaxAge(age) => format!("{} ms", age.as_millis()),
        Condition::Route(RouteTerm::Any) => "any".to_owned(),
        Condition::Route(RouteTerm::Named(ids)) => {
            named(ids, |id| id.index(), &parts.routes, |route| &route.name)
        }
        Condition::Host(hosts) => set(hosts),
        Condition::Method(methods) => set(methods.to_string().split(", ")),
        Condition::Path(paths) => set(paths),
        Condition::MatchClaim(pairs) => {
            set(pairs.iter().map(|pair| format!("{:?} {}", pair.segment, claim_path(&pair.claim))))
        }
        Condition::Grpc(methods) => set(methods),
        Condition::PeerIp(ranges) | Condition::ClientIp(ranges) => set(ranges),
        Condition::SenderConstrained => "true".to_owned(),
    };
    format!("{} {value}", condition.key())
}
