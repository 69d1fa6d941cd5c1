//! Whether one allow permits all that another does. Certain where it says yes; a no may be wrong.

use super::condition::{Condition, RoleTerm, RouteTerm, ServiceTerm};
use super::rule::{Rule, stated};
use crate::identity::ActorKind;

/// Whether every request that `rule` allows is allowed by `wider` too.
pub(super) fn is_within(rule: &Rule, wider: &Rule) -> bool {
    wider.not_before <= rule.not_before
        && rule.expires <= wider.expires
        && wider.conditions.iter().all(|condition| is_implied(condition, wider, rule))
        && unspoken_is_implied(rule, wider)
}

/// What an allow asks of actors without saying so.
fn unspoken_is_implied(rule: &Rule, wider: &Rule) -> bool {
    if wider.waives_caller() {
        return true;
    }
    let takes_act = rule.waives_caller() || stated!(rule, OnBehalfOf).is_some();
    let takes_agents = match stated!(rule, Actor) {
        Some(kinds) => kinds.contains(&ActorKind::Agent),
        None => rule.waives_caller(),
    };
    match (stated!(wider, Actor), stated!(wider, OnBehalfOf)) {
        (None, _) => !takes_act && !takes_agents,
        (Some(_), None) => !takes_act,
        (Some(_), Some(_)) => true,
    }
}

fn is_implied(wanted: &Condition, wider: &Rule, rule: &Rule) -> bool {
    match wanted {
        Condition::Service(term) => match (term, rule.service()) {
            (ServiceTerm::None, _) => true,
            (ServiceTerm::Any, Some(ServiceTerm::Any | ServiceTerm::Named(_))) => true,
            (ServiceTerm::Named(all), Some(ServiceTerm::Named(some))) => are_among(some, all),
            _ => false,
        },
        Condition::Role(term) => match (term, rule.role()) {
            (RoleTerm::None, _) => true,
            (_, None | Some(RoleTerm::None)) => false,
            (RoleTerm::Any, Some(_)) => true,
            (RoleTerm::AnyOf(all), Some(RoleTerm::AnyOf(some))) => are_among(some, all),
            (RoleTerm::AnyOf(all), Some(RoleTerm::AllOf(some))) => some.iter().any(|role| all.contains(role)),
            (RoleTerm::AllOf(all), Some(RoleTerm::AllOf(some))) => are_among(all, some),
            (RoleTerm::AllOf(all), Some(RoleTerm::AnyOf(some))) => {
                all.iter().all(|role| some.iter().all(|other| other == role))
            }
            (RoleTerm::AnyOf(_) | RoleTerm::AllOf(_), Some(RoleTerm::Any)) => false,
        },
        Condition::Actor(kinds) => match stated!(rule, Actor) {
            Some(some) => are_among(some, kinds),
            None => {
                let unspoken = ActorKind::ALL.iter().filter(|kind| **kind != ActorKind::Agent);
                !rule.waives_caller() && unspoken.into_iter().all(|kind| kinds.contains(kind))
            }
        },
        Condition::Issuer(all) => stated!(rule, Issuer).is_some_and(|some| are_among(some, all)),
        Condition::OnBehalfOf(all) => stated!(rule, OnBehalfOf).is_some_and(|some| are_among(some, all)),
        Condition::Claim(tests) => {
            stated!(rule, Claim).is_some_and(|own| tests.iter().all(|test| own.contains(test)))
        }
        Condition::Acr(all) => stated!(rule, Acr).is_some_and(|some| are_among(some, all)),
        Condition::MaxAge(age) => stated!(rule, MaxAge).is_some_and(|own| own <= age),
        Condition::Route(RouteTerm::Any) => true,
        Condition::Route(RouteTerm::Named(all)) => rule.routes().is_some_and(|some| are_among(some, all)),
        Condition::Host(all) => {
            let some = rule.hosts();
            !some.is_empty() && some.iter().all(|host| all.iter().any(|other| host.is_within(other)))
        }
        Condition::Method(all) => rule.methods().is_some_and(|some| some.is_within(all)),
        Condition::Path(all) => rule
            .paths()
            .is_some_and(|some| some.iter().all(|path| all.iter().any(|other| path.is_within(other)))),
        // the segments that are compared stand where the paths say
        Condition::MatchClaim(tests) => {
            stated!(wider, Path) == stated!(rule, Path) && are_among(tests, rule.match_claims())
        }
        Condition::Grpc(all) => stated!(rule, Grpc).is_some_and(|some| are_among(some, all)),
        Condition::Hop(all) => stated!(rule, Hop).is_some_and(|some| are_among(some, all)),
        Condition::PeerIp(all) => stated!(rule, PeerIp)
            .is_some_and(|some| some.iter().all(|net| all.iter().any(|other| other.contains(net)))),
        Condition::ClientIp(all) => stated!(rule, ClientIp)
            .is_some_and(|some| some.iter().all(|net| all.iter().any(|other| other.contains(net)))),
    }
}

fn are_among<T: PartialEq>(some: &[T], all: &[T]) -> bool {
    some.iter().all(|one| all.contains(one))
}
