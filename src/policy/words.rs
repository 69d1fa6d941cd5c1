//! What a rule wants and what was seen, in the words of records and stories. Never a whole token:
//! of claims, only those that the rule reads, and cut short.

use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use serde_json::Value;

use super::Policy;
use super::claim::{ClaimTest, MatchClaim};
use super::condition::{Condition, RoleTerm, RouteTerm, ServiceTerm};
use super::judge::{Asked, Lack, Who};
use super::near_miss::Failure;
use super::role::{IssuerFacts, RoleEntries, RoleEntry};
use super::rule::{Effect, Rule, stated};
use crate::identity::{ActorKind, Bound, Caller};

/// How much of one claim a record quotes.
const QUOTED_CHARS_MAX: usize = 64;
/// In place of what `[audit] redact` hides.
const REDACTED: &str = "(redacted)";

pub(super) fn failure(
    policy: &Policy,
    rule: &Rule,
    lack: &Lack<'_>,
    who: &Who<'_>,
    asked: &Asked<'_>,
) -> Failure {
    match lack {
        Lack::Stated(condition) => Failure {
            condition: condition.key(),
            wanted: wanted(policy, rule, condition),
            seen: seen(policy, rule, condition, who, asked),
        },
        Lack::NoCaller => Failure {
            condition: "role",
            wanted: rule.role().map_or_else(|| "a token".to_owned(), |term| role_term(policy, term)),
            seen: "no token was presented".to_owned(),
        },
        Lack::ActorLeftOut => Failure {
            condition: "actor",
            wanted: ACTOR_LEFT_OUT.to_owned(),
            seen: who.caller.map_or_else(String::new, actor_seen),
        },
        Lack::OnBehalfOfLeftOut => Failure {
            condition: "on_behalf_of",
            wanted: ON_BEHALF_OF_LEFT_OUT.to_owned(),
            seen: who.caller.map_or_else(String::new, actor_seen),
        },
    }
}

impl Policy {
    /// What a condition of one of its rules wants.
    pub fn wanted(&self, rule: &Rule, condition: &Condition) -> String {
        wanted(self, rule, condition)
    }
}

impl RoleEntry {
    /// As `scope orders:read`, without its issuer.
    pub fn in_words(&self) -> String {
        entry(self)
    }
}

/// What an allow wants that says nothing of the one or the other.
pub(super) const ACTOR_LEFT_OUT: &str = "an actor that is no agent and acts for nobody";
pub(super) const ON_BEHALF_OF_LEFT_OUT: &str = "a caller that acts for nobody";

pub(super) fn wanted(policy: &Policy, rule: &Rule, condition: &Condition) -> String {
    let tables = policy.parts();
    let waives = rule.effect == Effect::Allow;
    match condition {
        Condition::Service(ServiceTerm::None) if waives => "a certificate or none".to_owned(),
        Condition::Role(RoleTerm::None) if waives => "a token or none".to_owned(),
        Condition::Service(ServiceTerm::Named(ids)) => {
            format!("service {}", or(ids.iter().map(|id| &tables.services[id.index()].name)))
        }
        Condition::Service(ServiceTerm::Any) => "any service that the policy names".to_owned(),
        Condition::Service(ServiceTerm::None) => "no certificate".to_owned(),
        Condition::Role(term) => role_term(policy, term),
        Condition::Issuer(ids) => {
            format!("issuer {}", or(ids.iter().map(|id| &tables.issuers[id.index()].name)))
        }
        Condition::Actor(kinds) if rule.effect == Effect::Deny && kinds.contains(&ActorKind::Agent) => {
            format!("actor {}, or one of no known kind", or(kinds))
        }
        Condition::Actor(kinds) => format!("actor {}", or(kinds)),
        Condition::OnBehalfOf(kinds) => format!("a token on behalf of {}", or(kinds)),
        Condition::Claim(tests) => join(tests, " and "),
        Condition::Acr(values) => format!("acr {}", or(values)),
        Condition::MaxAge(age) => format!("a login at most {} old", duration(*age)),
        Condition::MatchClaim(tests) => {
            let one = |test: &MatchClaim| format!("{{{}}} equal to claim {}", test.segment, test.claim);
            join(tests.iter().map(one), " and ")
        }
        Condition::Hop(names) => format!("hop {}", or(names)),
        Condition::PeerIp(nets) => format!("peer address in {}", or(nets)),
        Condition::ClientIp(nets) => format!("client address in {}", or(nets)),
        Condition::SenderConstrained => "a token that is bound to its holder's key".to_owned(),
        Condition::Route(RouteTerm::Named(ids)) => {
            format!("route {}", or(ids.iter().map(|id| &tables.routes[id.index()].name)))
        }
        Condition::Route(RouteTerm::Any) => "any route".to_owned(),
        Condition::Host(hosts) => format!("host {}", or(hosts)),
        Condition::Method(methods) => format!("method {}", or(&methods.0)),
        Condition::Path(paths) => format!("path {}", or(paths)),
        Condition::Grpc(methods) => format!("a POST to gRPC method {}", or(methods)),
    }
}

pub(super) fn seen(
    policy: &Policy,
    rule: &Rule,
    condition: &Condition,
    who: &Who<'_>,
    asked: &Asked<'_>,
) -> String {
    let of_caller = |words: &dyn Fn(&Caller) -> String| {
        who.caller.map_or_else(|| "no token was presented".to_owned(), words)
    };
    let circumstances = &asked.request.circumstances;
    let address = |ip: Option<std::net::IpAddr>| match ip {
        Some(ip) => format!("the address is {}", ip.to_canonical()),
        None => "the address is not known".to_owned(),
    };
    match condition {
        Condition::Service(_) => service_seen(policy, who),
        Condition::Role(term) => role_seen(policy, term, who.caller),
        Condition::Issuer(_) => of_caller(&|caller| format!("the token is from {}", caller.issuer)),
        Condition::Actor(_) => of_caller(&actor_seen),
        Condition::OnBehalfOf(_) => {
            of_caller(&|caller| format!("the token is on behalf of {}", caller.on_behalf_of))
        }
        Condition::Claim(tests) => of_caller(&|caller| {
            let failing: Vec<_> = tests.iter().filter(|test| !test.holds(&caller.claims)).collect();
            let told = if failing.is_empty() { tests.iter().collect() } else { failing };
            let told = told.iter().map(|test| claim_seen(policy, test, caller));
            format!("the token has {}", join(told, " and "))
        }),
        Condition::Acr(_) => of_caller(&|caller| match &caller.acr {
            Some(_) if policy.parts().redacts(Some(&"acr".into())) => format!("the token has acr {REDACTED}"),
            Some(acr) => format!("the token has acr {}", quoted(acr)),
            None => "the token has no acr".to_owned(),
        }),
        Condition::MaxAge(_) => of_caller(&|caller| match caller.authenticated_at {
            Some(at) if at > who.now => "the login lies in the future".to_owned(),
            Some(at) => format!("the login is {} old", duration(who.now.since(at))),
            None => "the token has no auth_time".to_owned(),
        }),
        Condition::MatchClaim(_) => of_caller(&|caller| match_claim_seen(policy, rule, caller, asked)),
        Condition::Hop(_) => format!("the hop is {}", circumstances.hop.as_str()),
        Condition::PeerIp(_) => address(circumstances.peer_ip),
        Condition::ClientIp(_) => address(circumstances.client_ip),
        Condition::SenderConstrained => of_caller(&|caller| match caller.bound_to() {
            Some(Bound::Certificate) => "the token is bound to the client's certificate".to_owned(),
            Some(Bound::Key) => "the token is bound to a key that the request proved".to_owned(),
            None => "the token is bound to no key".to_owned(),
        }),
        Condition::Route(_) => route_seen(policy, asked),
        Condition::Host(_) => format!("the host is {}", asked.request.action.host),
        Condition::Method(_) => method_seen(asked),
        Condition::Path(_) => format!("the path is {}", quoted(asked.request.action.path.as_str())),
        Condition::Grpc(_) => {
            let path = quoted(asked.request.action.path.as_str());
            format!("{} and the path {path}", method_seen(asked))
        }
    }
}

pub(super) fn route_seen(policy: &Policy, asked: &Asked<'_>) -> String {
    match policy.choose_route(asked) {
        Some(route) => format!("the route is {}", policy.route(route).name),
        None => "no route takes this host and path".to_owned(),
    }
}

pub(super) fn method_seen(asked: &Asked<'_>) -> String {
    format!("the method is {}", asked.request.action.method)
}

pub(super) fn content_type_seen(asked: &Asked<'_>) -> String {
    match asked.request.action.headers.get(CONTENT_TYPE) {
        Some(value) => format!("the content type is {}", quoted(&String::from_utf8_lossy(value.as_bytes()))),
        None => "there is no content type".to_owned(),
    }
}

fn service_seen(policy: &Policy, who: &Who<'_>) -> String {
    match who.peer {
        None => "no certificate was presented".to_owned(),
        Some(peer) if who.services.is_clear() => {
            format!("no service names {}", quoted(&peer.name.to_string()))
        }
        Some(_) => {
            let names = who.services.ones().map(|at| &policy.parts().services[at].name);
            format!("the service is {}", join(names, " and "))
        }
    }
}

pub(super) fn actor_seen(caller: &Caller) -> String {
    let acting = if caller.chain.is_empty() { "" } else { " acting for another" };
    match caller.actor {
        ActorKind::Unknown => format!("the actor is of no known kind{acting}"),
        kind => format!("the actor is {kind}{acting}"),
    }
}

fn role_term(policy: &Policy, term: &RoleTerm) -> String {
    let role = |id: &super::RoleId| {
        let role = &policy.parts().roles[id.index()];
        let between = match role.entries {
            RoleEntries::AnyOf(_) => " or ",
            RoleEntries::AllOf(_) => " and ",
        };
        format!("role {}: {}", role.name, join(role.entries().iter().map(entry), between))
    };
    match term {
        RoleTerm::Any => "any verified caller".to_owned(),
        RoleTerm::None => "no token".to_owned(),
        RoleTerm::AnyOf(ids) => join(ids.iter().map(role), "; or "),
        RoleTerm::AllOf(ids) => join(ids.iter().map(role), "; and "),
    }
}

/// As `scope orders:read` or `client a or b and group support`.
pub(super) fn entry(entry: &RoleEntry) -> String {
    let mut parts = Vec::new();
    let mut part = |word: &str, values: String| {
        if !values.is_empty() {
            parts.push(format!("{word} {values}"));
        }
    };
    part("subject", or(&entry.subject));
    part("client", or(&entry.client));
    part("scope", or(&entry.scope));
    part("group", or(&entry.group));
    part("token role", or(&entry.role));
    for test in &entry.claim {
        part("claim", format!("{} {}", test.claim, or(&test.values)));
    }
    part("actor subject", or(&entry.actor_subject));
    parts.join(" and ")
}

/// What the token has of the kinds of things that the roles ask for.
pub(super) fn role_seen(policy: &Policy, term: &RoleTerm, caller: Option<&Caller>) -> String {
    let Some(caller) = caller else { return "no token was presented".to_owned() };
    let (RoleTerm::AnyOf(ids) | RoleTerm::AllOf(ids)) = term else {
        return "a token was presented".to_owned();
    };
    let tables = policy.parts();
    let entries: Vec<_> = ids.iter().flat_map(|id| tables.roles[id.index()].entries()).collect();
    if entries.iter().all(|entry| tables.issuers[entry.issuer.index()].name != caller.issuer) {
        return format!("the token is from {}", caller.issuer);
    }
    let (mut has, mut lacks) = (Vec::new(), Vec::new());
    let facts = tables.issuers.iter().find(|issuer| issuer.name == caller.issuer);
    let mut look =
        |asked_for: bool, word: &'static str, values: String, redacted: bool| match values.is_empty() {
            _ if !asked_for => {}
            true => lacks.push(word),
            false if redacted => has.push(format!("{word} {REDACTED}")),
            false => has.push(format!("{word} {}", quoted(&values))),
        };
    let from = |claim: fn(&IssuerFacts) -> Option<&Arc<str>>| tables.redacts(facts.and_then(claim));
    let any = |test: &dyn Fn(&RoleEntry) -> bool| entries.iter().any(|entry| test(entry));
    let word = |word: &Option<Arc<str>>| word.as_deref().unwrap_or("").to_owned();
    look(any(&|e| !e.scope.is_empty()), "scope", caller.scopes.join(" "), false);
    look(any(&|e| !e.group.is_empty()), "group", caller.groups.join(" "), from(|f| f.groups.as_ref()));
    look(any(&|e| !e.role.is_empty()), "role", caller.roles.join(" "), from(|f| f.roles.as_ref()));
    look(any(&|e| !e.client.is_empty()), "client", word(&caller.client), from(|f| f.client.as_ref()));
    look(any(&|e| !e.subject.is_empty()), "subject", word(&caller.subject), from(|f| f.subject.as_ref()));
    let actor = caller.chain.first().map_or("", |actor| &*actor.subject).to_owned();
    let redacted = tables.redacts(Some(&"act".into()));
    look(any(&|e| !e.actor_subject.is_empty()), "actor subject", actor, redacted);
    for test in entries.iter().flat_map(|entry| &entry.claim) {
        has.push(claim_seen(policy, test, caller));
    }
    match has.is_empty() {
        true => format!("the token has no {}", lacks.join(" and no ")),
        false => format!("the token has {}", has.join(" and ")),
    }
}

fn claim_seen(policy: &Policy, test: &ClaimTest, caller: &Caller) -> String {
    match test.claim.look_up(&caller.claims) {
        Some(_) if policy.parts().redacts(test.claim.0.first()) => format!("claim {} {REDACTED}", test.claim),
        Some(value) => format!("claim {} {}", test.claim, claim(value)),
        None => format!("no claim {}", test.claim),
    }
}

fn match_claim_seen(policy: &Policy, rule: &Rule, caller: &Caller, asked: &Asked<'_>) -> String {
    let pattern = rule.paths().into_iter().flatten().find(|pattern| pattern.matches(asked.path));
    let tests = stated!(rule, MatchClaim).into_iter().flatten();
    let one = |test: &MatchClaim| {
        let segment = pattern.and_then(|p| p.position(&test.segment)).and_then(|at| asked.path.get(at));
        let segment = segment.map_or("", |segment| segment);
        match test.claim.look_up(&caller.claims) {
            Some(_) if policy.parts().redacts(test.claim.0.first()) => {
                format!("{{{}}} is {} and {} is {REDACTED}", test.segment, quoted(segment), test.claim)
            }
            Some(value) => {
                format!("{{{}}} is {} and {} is {}", test.segment, quoted(segment), test.claim, claim(value))
            }
            None => format!("the token has no claim {}", test.claim),
        }
    };
    join(tests.map(one), ", ")
}

fn claim(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        other => quoted(&other.to_string()),
    }
}

fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// In the largest unit that gives a whole number, as durations are written in rules.
pub(super) fn duration(length: Duration) -> String {
    let seconds = length.as_secs();
    [(86_400, "d"), (3_600, "h"), (60, "m")]
        .iter()
        .find(|(unit, _)| seconds >= *unit && seconds.is_multiple_of(*unit))
        .map_or_else(|| format!("{seconds}s"), |(unit, name)| format!("{}{name}", seconds / unit))
}

fn or<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    join(values, " or ")
}

fn join<T: ToString>(values: impl IntoIterator<Item = T>, between: &str) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(between)
}
