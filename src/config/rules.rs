//! Rules as typed become rules of the policy.

use std::sync::Arc;

use ipnet::IpNet;

use super::error::Diagnostics;
use super::file::File;
use super::file_policy::{self as typed, RoleNames, RuleMode};
use super::names::{Names, claim_tests, items, stands_alone, texts};
use super::ranges::range;
use super::read::{Keyed, List};
use super::source::At;
use crate::clock::Timestamp;
use crate::identity::Name;
use crate::policy::claim::{ClaimPath, MatchClaim};
use crate::policy::condition::{Condition, RoleTerm, RouteTerm, ServiceTerm};
use crate::policy::pattern::MethodSet;
use crate::policy::rule::{Effect, Mode, Rule};
use crate::policy::{IssuerId, RoleId, RouteId, ServiceId};

/// What names in routes and rules can stand for.
pub struct Vocabulary {
    pub issuers: Names,
    pub services: Names,
    pub roles: Names,
    pub upstreams: Names,
}

/// A rule's effect and where it was typed.
pub type TypedRule<'f> = (Effect, &'f At<typed::Rule>);

/// All rules by name; two of one name are an error.
pub fn typed_rules<'f>(file: &'f File, found: &mut Diagnostics) -> Vec<TypedRule<'f>> {
    let effects =
        [(Effect::Allow, &file.allow), (Effect::Deny, &file.deny), (Effect::Require, &file.require)];
    let mut rules: Vec<TypedRule<'f>> = effects
        .into_iter()
        .flat_map(|(effect, list)| items(list).iter().map(move |rule| (effect, rule)))
        .collect();
    let name = |rule: &TypedRule<'f>| rule.1.value.name.as_ref().map(|name| (name.value.as_str(), name.span));
    rules.sort_by_key(name);
    rules.dedup_by(|later, earlier| {
        let (Some((name, second)), Some((other, first))) = (name(later), name(earlier)) else { return false };
        if name == other {
            let message = format!("a rule is called `{name}` already");
            let remedy = "give each rule its own name: records and denials cite it";
            found.conflict("duplicate_rule", (second, first), message, remedy);
        }
        name == other
    });
    rules
}

/// `None` if something in it is an error: half a rule is wider than the rule.
pub fn rule(
    (effect, typed): TypedRule<'_>,
    known: &Vocabulary,
    routes: &Names,
    found: &mut Diagnostics,
) -> Option<Rule> {
    let rule = &typed.value;
    let conditions = conditions(rule, known, routes, found);
    if !rule.is_read() {
        return None;
    }
    Some(Rule {
        name: rule.name.as_ref()?.value.clone(),
        effect,
        conditions: conditions?,
        mode: match rule.mode.as_ref().map(|mode| mode.value) {
            Some(RuleMode::Shadow) => Mode::Shadow,
            Some(RuleMode::Enforce) | None => Mode::Enforce,
        },
        not_before: rule.not_before.as_ref().map_or(Timestamp::MIN, |day| day.value.start()),
        expires: rule.expires.as_ref().map_or(Timestamp::MAX, |day| day.value.end()),
        owner: rule.owner.as_ref().map(|owner| owner.value.clone()),
        ticket: rule.ticket.as_ref().map(|ticket| ticket.value.clone()),
    })
}

fn conditions(
    rule: &typed::Rule,
    known: &Vocabulary,
    routes: &Names,
    found: &mut Diagnostics,
) -> Option<Vec<Condition>> {
    let list = |list: &Option<At<List<_>>>| -> Vec<_> { items(list).iter().map(|item| item.value).collect() };
    let mut all = vec![
        rule.service.as_ref().map(|names| service_term(names, known, found).map(Condition::Service)),
        rule.issuer
            .as_ref()
            .map(|names| known.issuers.find_all(&names.value, IssuerId, found).map(Condition::Issuer)),
        rule.role.as_ref().map(|names| role_term(names, known, found).map(Condition::Role)),
        rule.actor.as_ref().map(|_| Some(Condition::Actor(list(&rule.actor)))),
        rule.on_behalf_of.as_ref().map(|_| Some(Condition::OnBehalfOf(list(&rule.on_behalf_of)))),
        rule.claim.as_ref().map(|_| Some(Condition::Claim(claim_tests(&rule.claim)))),
        rule.acr.as_ref().map(|_| Some(Condition::Acr(texts(&rule.acr)))),
        rule.max_age.as_ref().map(|age| Some(Condition::MaxAge(age.value.0))),
        rule.route.as_ref().map(|names| route_term(names, routes, found).map(Condition::Route)),
        rule.host.as_ref().map(|list| Some(Condition::Host(values(list)))),
        rule.method.as_ref().map(|list| methods(list, found).map(Condition::Method)),
        rule.path.as_ref().map(|list| Some(Condition::Path(values(list)))),
        rule.match_claim.as_ref().map(|pairs| Some(Condition::MatchClaim(match_claims(pairs)))),
        rule.grpc.as_ref().map(|list| Some(Condition::Grpc(values(list)))),
    ];
    all.push(rule.hop.as_ref().map(|list| hops(list, found).map(Condition::Hop)));
    all.push(rule.peer_ip.as_ref().map(|list| addresses(list, found).map(Condition::PeerIp)));
    all.push(rule.client_ip.as_ref().map(|list| addresses(list, found).map(Condition::ClientIp)));
    all.push(rule.sender_constrained.as_ref().map(|wanted| sender_constrained(wanted, found)));
    all.into_iter().flatten().collect()
}

/// Conditions are positive: what is not bound to a key can be left open, and not be asked for.
fn sender_constrained(wanted: &At<bool>, found: &mut Diagnostics) -> Option<Condition> {
    if !wanted.value {
        let remedy = "leave it out: then bound tokens are taken, and others too";
        found.error("bad_value", wanted.span, "a rule cannot ask that a token be bound to no key", remedy);
    }
    wanted.value.then_some(Condition::SenderConstrained)
}

fn values<T: Clone>(list: &At<List<T>>) -> Vec<T> {
    list.value.iter().map(|item| item.value.clone()).collect()
}

/// `any` or `none` where a list of names is that word alone.
fn word<'n>(names: &'n List<Name>, found: &mut Diagnostics) -> Result<Option<&'n str>, ()> {
    match names.as_slice() {
        [only] if only.value.is_reserved() => Ok(Some(only.value.as_str())),
        names => match names.iter().find(|name| name.value.is_reserved()) {
            Some(word) => {
                stands_alone(word.value.as_str(), word.span, found);
                Err(())
            }
            None => Ok(None),
        },
    }
}

fn service_term(names: &At<List<Name>>, known: &Vocabulary, found: &mut Diagnostics) -> Option<ServiceTerm> {
    match word(&names.value, found).ok()? {
        Some("any") => Some(ServiceTerm::Any),
        Some(_) => Some(ServiceTerm::None),
        None => known.services.find_all(&names.value, ServiceId, found).map(ServiceTerm::Named),
    }
}

fn role_term(names: &At<RoleNames>, known: &Vocabulary, found: &mut Diagnostics) -> Option<RoleTerm> {
    match &names.value {
        RoleNames::Any(names) => match word(names, found).ok()? {
            Some("any") => Some(RoleTerm::Any),
            Some(_) => Some(RoleTerm::None),
            None => known.roles.find_all(names, RoleId, found).map(RoleTerm::AnyOf),
        },
        RoleNames::All(names) => known.roles.find_all(names, RoleId, found).map(RoleTerm::AllOf),
    }
}

fn route_term(names: &At<List<Name>>, routes: &Names, found: &mut Diagnostics) -> Option<RouteTerm> {
    match word(&names.value, found).ok()? {
        Some("any") => Some(RouteTerm::Any),
        Some(word) => {
            let message = format!("`{word}` is no route");
            found.error("unknown_route", names.span, message, "name a route, or write `route = \"any\"`");
            None
        }
        None => routes.find_all(&names.value, RouteId, found).map(RouteTerm::Named),
    }
}

fn methods(list: &At<List<String>>, found: &mut Diagnostics) -> Option<MethodSet> {
    let mut good = true;
    for method in &list.value {
        if let Err(error) = MethodSet::new([method.value.as_str()]) {
            let message = format!("`{}` is no method for a rule: {error}", method.value);
            found.error("bad_value", method.span, message, "write methods in upper case, as `\"GET\"`");
            good = false;
        }
    }
    let methods = list.value.iter().map(|method| method.value.as_str());
    if good { MethodSet::new(methods).ok() } else { None }
}

fn match_claims(pairs: &At<Keyed<String, ClaimPath>>) -> Vec<MatchClaim> {
    let pair = |(segment, claim): &(At<String>, At<_>)| MatchClaim {
        segment: segment.value.as_str().into(),
        claim: Clone::clone(&claim.value),
    };
    pairs.value.iter().map(pair).collect()
}

fn hops(list: &At<List<String>>, found: &mut Diagnostics) -> Option<Vec<Arc<str>>> {
    let mut hops = Vec::new();
    for hop in &list.value {
        if matches!(hop.value.as_str(), "direct" | "local") {
            hops.push(Some(hop.value.as_str().into()));
        } else {
            let message = format!("no peer is learned from a hop that is called `{}`", hop.value);
            found.error("unknown_hop", hop.span, message, "write `\"direct\"` or `\"local\"`");
            hops.push(None);
        }
    }
    hops.into_iter().collect()
}

fn addresses(list: &At<List<IpNet>>, found: &mut Diagnostics) -> Option<Vec<IpNet>> {
    let ranges: Vec<_> = list.value.iter().map(|address| range(address, found)).collect();
    ranges.into_iter().collect()
}
