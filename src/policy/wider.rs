//! Whether one rule covers all that another speaks of, or contradicts it. Certain where it says yes; a no
//! may be wrong.

use std::borrow::Cow;

use super::compiled::PolicyParts;
use super::condition::{Condition, Kind, RoleTerm, RouteTerm, ServiceTerm};
use super::reach;
use super::rule::{Effect, Rule, stated};
use crate::identity::ActorKind;

/// Whether every request that `rule` allows is allowed by `wider` too.
pub(super) fn is_within(rule: &Rule, wider: &Rule) -> bool {
    wider.not_before <= rule.not_before
        && rule.expires <= wider.expires
        && wider.conditions.iter().all(|condition| is_implied(condition, wider, rule))
        && unspoken_is_implied(rule, wider)
}

/// Whether every request that `rule`, an allow or a deny, holds for is denied by `deny`.
pub(super) fn is_denied_whole(rule: &Rule, deny: &Rule) -> bool {
    deny.conditions.iter().all(|condition| is_implied(condition, deny, rule))
}

/// Whether `require` reaches all that `rule` does, and demands all that it demands.
pub(super) fn is_demanded_by(rule: &Rule, require: &Rule) -> bool {
    reaches_all(require, rule)
        && rule.conditions.iter().filter(|c| c.kind() != Kind::Action).all(|c| is_implied(c, rule, require))
}

fn reaches_all(require: &Rule, rule: &Rule) -> bool {
    require.conditions.iter().filter(|c| c.kind() == Kind::Action).all(|c| is_implied(c, require, rule))
}

/// The key of `allow`, and why, if `require` reaches all that it allows and demands what none of it has.
pub(super) fn contradiction(
    allow: &Rule,
    require: &Rule,
    parts: &PolicyParts,
) -> Option<(&'static str, &'static str)> {
    if !reaches_all(require, allow) {
        return None;
    }
    if allow.waives_peer() && reach::reads_peer(require) {
        return Some(("service", "the certificate that it waives is demanded"));
    }
    if allow.waives_caller() && reach::reads_caller(require) {
        return Some(("role", "the token that it waives is demanded"));
    }
    if !reach::can_share_a_peer(allow, require, parts) {
        return Some(("service", "another service is demanded"));
    }
    if reach::reads_caller(require)
        && reach::issuers(allow, parts).is_disjoint(&reach::issuers(require, parts))
    {
        return Some(("role", "a token of another issuer is demanded"));
    }
    let unspoken = [ActorKind::Human, ActorKind::Service, ActorKind::Unknown];
    let own = stated!(allow, Actor).map_or(&unspoken[..], |kinds| kinds);
    if stated!(require, Actor).is_some_and(|kinds| !kinds.iter().any(|kind| own.contains(kind))) {
        return Some(("actor", "another kind of actor is demanded"));
    }
    let apart = |one: Option<&Vec<_>>, other: Option<&Vec<_>>| {
        one.zip(other).is_some_and(|(one, other)| !one.iter().any(|value| other.contains(value)))
    };
    if apart(stated!(allow, Acr), stated!(require, Acr)) {
        return Some(("acr", "another login is demanded"));
    }
    apart(stated!(allow, Hop), stated!(require, Hop)).then_some(("hop", "another hop is demanded"))
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

/// The kinds that an `actor` is fulfilled by: who is `unknown` may be an agent, and fulfils every deny of one.
fn kinds<'r>(rule: &Rule, stated: &'r [ActorKind]) -> Cow<'r, [ActorKind]> {
    if rule.effect == Effect::Deny && stated.contains(&ActorKind::Agent) {
        return [stated, &[ActorKind::Unknown]].concat().into();
    }
    stated.into()
}

/// Whether `wanted`, a condition of `wider`, holds wherever `rule` does.
fn is_implied(wanted: &Condition, wider: &Rule, rule: &Rule) -> bool {
    match wanted {
        // an allow that says so takes requests with and without the credential; a deny, those without
        Condition::Service(ServiceTerm::None) if wider.effect != Effect::Allow => {
            rule.effect == Effect::Deny && rule.service() == Some(&ServiceTerm::None)
        }
        Condition::Role(RoleTerm::None) if wider.effect != Effect::Allow => {
            rule.effect == Effect::Deny && rule.role() == Some(&RoleTerm::None)
        }
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
        Condition::Actor(all) => match stated!(rule, Actor) {
            Some(some) => are_among(&kinds(rule, some), &kinds(wider, all)),
            None => {
                let unspoken = ActorKind::ALL.iter().filter(|kind| **kind != ActorKind::Agent);
                let speaks_of_tokens = rule.effect == Effect::Allow && !rule.waives_caller();
                speaks_of_tokens && unspoken.into_iter().all(|kind| kinds(wider, all).contains(kind))
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
        Condition::SenderConstrained => rule.conditions.contains(wanted),
    }
}

fn are_among<T: PartialEq>(some: &[T], all: &[T]) -> bool {
    some.iter().all(|one| all.contains(one))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ActorKind::{Agent, Human, Service, Unknown};

    use super::*;
    use crate::policy::fixture::*;
    use crate::policy::{IssuerId, RoleId};

    /// Of any role, where nothing is said of it.
    fn rule(mut conditions: Vec<Condition>) -> Rule {
        if !conditions.iter().any(|condition| matches!(condition, Condition::Role(_))) {
            conditions.push(ANY_ROLE);
        }
        allow("a", conditions)
    }

    #[test]
    fn an_allow_is_within_another_where_each_of_its_conditions_follows() {
        let issuer = |ids: &[u32]| vec![Condition::Issuer(ids.iter().map(|id| IssuerId(*id)).collect())];
        let all_of =
            |ids: &[u32]| vec![Condition::Role(RoleTerm::AllOf(ids.iter().map(|id| RoleId(*id)).collect()))];
        let words = |words: &[&str]| words.iter().map(|word| text(word)).collect::<Vec<_>>();
        let acr = |values: &[&str]| vec![Condition::Acr(words(values))];
        let hop = |names: &[&str]| vec![Condition::Hop(words(names))];
        let nets = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect::<Vec<_>>();
        let peer_ip = |texts: &[&str]| vec![Condition::PeerIp(nets(texts))];
        let client_ip = |texts: &[&str]| vec![Condition::ClientIp(nets(texts))];
        let claims =
            |names: &[&str]| vec![Condition::Claim(names.iter().map(|name| claim(name, "x")).collect())];
        let segments = |path: &str, of: &[&str]| {
            let tests = of.iter().flat_map(|segment| match match_claim(segment, "sub") {
                Condition::MatchClaim(tests) => tests,
                _ => unreachable!(),
            });
            vec![paths(&[path]), Condition::MatchClaim(tests.collect())]
        };
        let agent = |more: Vec<Condition>| [vec![actor(&[Agent])], more].concat();
        // what the wider one asks, what the other asks, whether all of the other is within
        let cases = [
            (vec![NO_SERVICE], vec![service(&[0])], true),
            (vec![NO_SERVICE], vec![NO_SERVICE], true),
            (vec![ANY_SERVICE], vec![ANY_SERVICE], true),
            (vec![ANY_SERVICE], vec![service(&[0])], true),
            (vec![ANY_SERVICE], vec![NO_SERVICE], false),
            (vec![service(&[0])], vec![ANY_SERVICE], false),
            (vec![service(&[0, 1])], vec![service(&[1])], true),
            (vec![service(&[0])], vec![service(&[0, 1])], false),
            (vec![NO_ROLE], vec![NO_ROLE], true),
            (vec![NO_ROLE], agent(vec![]), true),
            (vec![ANY_ROLE], vec![NO_ROLE], false),
            (vec![ANY_ROLE], vec![role(&[0])], true),
            (vec![role(&[0])], vec![ANY_ROLE], false),
            (vec![role(&[0, 1])], vec![role(&[1])], true),
            (vec![role(&[0])], vec![role(&[0, 1])], false),
            (vec![role(&[0])], all_of(&[0, 1]), true),
            (vec![role(&[0])], all_of(&[1]), false),
            (all_of(&[0]), all_of(&[0, 1]), true),
            (all_of(&[0, 1]), all_of(&[0]), false),
            (all_of(&[0]), vec![role(&[0])], true),
            (all_of(&[0]), vec![role(&[0, 1])], false),
            (all_of(&[0, 1]), vec![role(&[0])], false),
            (all_of(&[0]), vec![ANY_ROLE], false),
            (vec![], vec![actor(&[Human])], true),
            (vec![], agent(vec![]), false),
            (vec![], vec![actor(&[Human]), on_behalf_of(&[Human])], false),
            (vec![actor(&[Human, Agent])], vec![actor(&[Human])], true),
            (vec![actor(&[Human])], vec![actor(&[Human, Agent])], false),
            (vec![actor(&[Human, Service, Unknown])], vec![], true),
            (vec![actor(&[Human, Service])], vec![], false),
            (agent(vec![]), agent(vec![]), true),
            (agent(vec![]), agent(vec![on_behalf_of(&[Human])]), false),
            (agent(vec![on_behalf_of(&[Human])]), agent(vec![]), false),
            (agent(vec![on_behalf_of(&[Human, Service])]), agent(vec![on_behalf_of(&[Human])]), true),
            (agent(vec![on_behalf_of(&[Human])]), agent(vec![on_behalf_of(&[Human, Service])]), false),
            (issuer(&[0, 1]), issuer(&[1]), true),
            (issuer(&[0]), issuer(&[0, 1]), false),
            (issuer(&[0]), vec![], false),
            (claims(&["a"]), claims(&["a", "b"]), true),
            (claims(&["a", "b"]), claims(&["a"]), false),
            (claims(&["a"]), vec![], false),
            (acr(&["a", "b"]), acr(&["a"]), true),
            (acr(&["a"]), acr(&["a", "b"]), false),
            (acr(&["a"]), vec![], false),
            (vec![max_age(60)], vec![max_age(60)], true),
            (vec![max_age(60)], vec![max_age(61)], false),
            (vec![max_age(60)], vec![], false),
            (vec![Condition::Route(RouteTerm::Any)], vec![], true),
            (vec![route(&[0, 1])], vec![route(&[0])], true),
            (vec![route(&[0])], vec![route(&[0, 1])], false),
            (vec![route(&[0])], vec![], false),
            (vec![hosts(&["b.example", "*.c.example"])], vec![hosts(&["a.c.example"])], true),
            (vec![hosts(&["b.example"])], vec![hosts(&["b.example", "a.example"])], false),
            (vec![hosts(&["b.example"])], vec![], false),
            (vec![methods(&["GET", "POST"])], vec![methods(&["GET"])], true),
            (vec![methods(&["GET"])], vec![methods(&["GET", "POST"])], false),
            (vec![methods(&["GET"])], vec![], false),
            (vec![paths(&["/b", "/a/**"])], vec![paths(&["/a/x"])], true),
            (vec![paths(&["/a"])], vec![paths(&["/a", "/b"])], false),
            (vec![paths(&["/a"])], vec![], false),
            (segments("/{c}/{d}", &["c"]), segments("/{c}/{d}", &["c", "d"]), true),
            (segments("/{c}/{d}", &["c", "d"]), segments("/{c}/{d}", &["c"]), false),
            (segments("/{c}/{d}", &["c"]), segments("/{d}/{c}", &["c"]), false),
            (vec![grpc(&["a.B/C", "a.B/D"])], vec![grpc(&["a.B/C"])], true),
            (vec![grpc(&["a.B/C"])], vec![grpc(&["a.B/C", "a.B/D"])], false),
            (vec![grpc(&["a.B/C"])], vec![], false),
            (hop(&["a", "b"]), hop(&["a"]), true),
            (hop(&["a"]), hop(&["a", "b"]), false),
            (hop(&["a"]), vec![], false),
            (peer_ip(&["10.0.0.0/8", "11.0.0.0/8"]), peer_ip(&["10.1.0.0/16"]), true),
            (peer_ip(&["10.0.0.0/8"]), peer_ip(&["10.1.0.0/16", "11.0.0.0/8"]), false),
            (peer_ip(&["10.0.0.0/8"]), vec![], false),
            (client_ip(&["10.0.0.0/8", "11.0.0.0/8"]), client_ip(&["10.1.0.0/16"]), true),
            (client_ip(&["10.0.0.0/8"]), client_ip(&["10.1.0.0/16", "11.0.0.0/8"]), false),
            (client_ip(&["10.0.0.0/8"]), vec![], false),
        ];
        let mut seen = 0;
        for (wider, narrower, expected) in cases {
            let (wider, narrower) = (rule(wider), rule(narrower));
            assert_eq!(is_within(&narrower, &wider), expected, "{narrower:?}\nin {wider:?}");
            seen += 1;
        }
        assert_eq!(seen, 75);
    }

    #[test]
    fn a_rule_is_denied_whole_where_each_condition_of_the_deny_follows() {
        let all = || vec![actor(&[Human, Service, Unknown])];
        let mut seen = 0;
        for (conditions, narrower, expected) in [
            (all(), rule(vec![]), true),
            (all(), rule(vec![NO_ROLE]), false),
            (all(), deny("b", vec![]), false),
            (all(), deny("b", vec![actor(&[Human])]), true),
            (vec![actor(&[Agent])], rule(vec![actor(&[Agent, Unknown])]), true),
            (vec![actor(&[Agent])], rule(vec![actor(&[Agent, Human])]), false),
            (vec![actor(&[Unknown])], deny("b", vec![actor(&[Agent])]), false),
            (vec![NO_SERVICE], rule(vec![NO_SERVICE]), false),
            (vec![NO_SERVICE], deny("b", vec![NO_SERVICE]), true),
            (vec![NO_ROLE], rule(vec![NO_ROLE]), false),
            (vec![NO_ROLE], deny("b", vec![NO_ROLE]), true),
            (vec![], rule(vec![NO_ROLE]), true),
        ] {
            let deny = deny("d", conditions);
            assert_eq!(is_denied_whole(&narrower, &deny), expected, "{narrower:?}\nby {deny:?}");
            seen += 1;
        }
        assert_eq!(seen, 12);
    }

    #[test]
    fn a_require_contradicts_what_it_reaches_whole() {
        let mut parts = tables();
        parts.issuers.push(issuer("partner"));
        let of = |id| Condition::Issuer(vec![IssuerId(id)]);
        let hop = |name| Condition::Hop(vec![text(name)]);
        let mut seen = 0;
        for (demanded, stated, key) in [
            (of(0), of(1), Some("role")),
            (of(0), of(0), None),
            (role(&[0]), of(1), Some("role")),
            (hop("direct"), hop("local"), Some("hop")),
            (hop("direct"), hop("direct"), None),
            (hop("direct"), ANY_ROLE, None),
        ] {
            for (path, reaches) in [("/a/**", true), ("/a/b/c", false)] {
                let require = require("r", vec![paths(&[path]), demanded.clone()]);
                let conditions = vec![ANY_SERVICE, paths(&["/a/*"]), stated.clone()];
                let found = contradiction(&rule(conditions), &require, &parts).map(|(key, _)| key);
                assert_eq!(found, key.filter(|_| reaches), "{require:?}");
                seen += 1;
            }
        }
        assert_eq!(seen, 12);
    }

    #[test]
    fn an_allow_is_within_another_only_for_as_long() {
        let day = Duration::from_secs(86_400);
        let until = |not_before, expires| Rule { not_before, expires, ..rule(vec![]) };
        let wider = until(NOW, NOW.plus(day));
        assert!(is_within(&until(NOW, NOW.plus(day)), &wider));
        assert!(!is_within(&until(NOW.minus(day), NOW.plus(day)), &wider));
        assert!(!is_within(&until(NOW, NOW.plus(2 * day)), &wider));
    }
}
