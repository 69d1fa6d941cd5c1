//! Every error and finding of a policy, each with a policy that has it and one beside it that has not.

use std::time::Duration;

use ActorKind::{Agent, Human, Service as ServiceKind, Unknown};

use super::claim::{ClaimPath, ClaimTest, ClaimValue, MatchClaim};
use super::fixture::*;
use super::role::{CarriedClients, IssuerFacts, Role, RoleEntries, RoleEntry};
use super::rule::{Mode, Rule};
use super::*;
use crate::clock::Timestamp;
use crate::identity::ActorKind;

fn errors_of(rules: Vec<Rule>) -> Vec<&'static str> {
    error_codes(with_rules(rules))
}

fn days(days: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(days * 86_400))
}

fn two_issuers(mut parts: PolicyParts) -> PolicyParts {
    parts.issuers.push(issuer("partner"));
    parts
}

#[test]
fn the_sample_has_no_errors_and_no_findings() {
    assert_eq!(finding_codes(sample()), []);
}

#[test]
fn errors_of_a_single_rule() {
    let timed = |rule: Rule| Rule { expires: days(1), ..rule };
    let from = |nets: &[&str]| Condition::ClientIp(nets.iter().map(|net| net.parse().unwrap()).collect());
    let cases: Vec<(&str, Rule, &[&str])> = vec![
        ("no service", allow("a", vec![ANY_ROLE]), &["allow_without_service"]),
        ("no role", allow("a", vec![ANY_SERVICE]), &["allow_without_role"]),
        ("neither", allow("a", vec![]), &["allow_without_service", "allow_without_role"]),
        ("no name", allow(" ", vec![ANY_SERVICE, ANY_ROLE]), &["rule_unnamed"]),
        ("empty path", open(vec![Condition::Path(vec![])]), &["empty_list"]),
        (
            "a claim without values beside one with some",
            open(vec![Condition::Claim(vec![
                claim("tier", "gold"),
                claim::ClaimTest { claim: ClaimPath::top_level("tier"), values: vec![] },
            ])]),
            &["empty_list"],
        ),
        ("empty service", allow("a", vec![service(&[]), ANY_ROLE]), &["empty_list"]),
        (
            "empty claim values",
            open(vec![Condition::Claim(vec![ClaimTest {
                claim: ClaimPath::top_level("tier"),
                values: vec![],
            }])]),
            &["empty_list"],
        ),
        ("deny ends", timed(deny("d", vec![])), &["rule_time"]),
        ("deny begins", Rule { not_before: days(1), ..deny("d", vec![]) }, &["rule_time"]),
        ("require ends", timed(require("r", vec![ANY_ROLE])), &["rule_time"]),
        ("allow ends", timed(open(vec![])), &[]),
        ("demands nothing", require("r", vec![paths(&["/x"])]), &["require_demands_nothing"]),
        ("demands absence", require("r", vec![NO_ROLE]), &["require_none"]),
        ("demands no peer", require("r", vec![NO_SERVICE, ANY_ROLE]), &["require_none"]),
        ("waived actor", allow("a", vec![ANY_SERVICE, NO_ROLE, actor(&[Human])]), &["waived_but_read"]),
        (
            "waived claim",
            allow("a", vec![ANY_SERVICE, NO_ROLE, Condition::Claim(vec![claim("tier", "x")])]),
            &["waived_but_read"],
        ),
        (
            "waived acr",
            allow("a", vec![ANY_SERVICE, NO_ROLE, Condition::Acr(vec![text("mfa")])]),
            &["waived_but_read"],
        ),
        ("waived", allow("a", vec![ANY_SERVICE, NO_ROLE]), &[]),
        ("segment nowhere", open(vec![match_claim("customer", "sub")]), &["match_claim_segment"]),
        (
            "segment in one path",
            open(vec![paths(&["/a/{c}", "/b/*"]), match_claim("c", "sub")]),
            &["match_claim_segment"],
        ),
        ("segment in each path", open(vec![paths(&["/a/{c}", "/b/{c}"]), match_claim("c", "sub")]), &[]),
        (
            "ends before it begins",
            Rule { not_before: days(2), expires: days(1), ..open(vec![]) },
            &["never_holds"],
        ),
        ("host of no route", open(vec![hosts(&["other.example"])]), &["never_holds"]),
        ("wildcard host", open(vec![hosts(&["*.shop.example"])]), &[]),
        ("no such kind", open(vec![actor(&[ServiceKind])]), &["never_holds"]),
        ("unknown is always possible", open(vec![actor(&[Unknown])]), &[]),
        ("on behalf of an agent", open(vec![actor(&[Agent]), on_behalf_of(&[Agent])]), &["never_holds"]),
        ("grpc by GET", open(vec![grpc(&["a.B/C"]), methods(&["GET"])]), &["never_holds"]),
        ("grpc elsewhere", open(vec![grpc(&["a.B/C"]), paths(&["/x"])]), &["never_holds"]),
        ("grpc", open(vec![grpc(&["a.B/*"])]), &[]),
        ("deny of nobody's token", deny("d", vec![NO_ROLE, actor(&[Agent])]), &["never_holds"]),
        ("no login is that fresh", open(vec![max_age(0)]), &["never_holds"]),
        ("mapped address", open(vec![from(&["::ffff:10.0.0.0/104"])]), &["never_holds"]),
        ("mapped, and beyond", open(vec![from(&["::ffff:0:0/80"])]), &[]),
        ("IPv6", open(vec![from(&["2001:db8::/104"])]), &[]),
        ("mapped, or IPv4", open(vec![from(&["::ffff:10.0.0.0/104", "10.0.0.0/8"])]), &[]),
        ("one kind of two", open(vec![actor(&[Human, ServiceKind])]), &[]),
        ("on behalf of one of two", open(vec![actor(&[Agent]), on_behalf_of(&[Human, Agent])]), &[]),
        ("deny by agent", deny("d", vec![actor(&[Agent])]), &[]),
    ];
    let mut seen = 0;
    for (what, rule, expected) in cases {
        assert_eq!(errors_of(vec![rule]), expected, "{what}");
        seen += 1;
    }
    assert_eq!(seen, 40);
}

#[test]
fn a_missing_signature_is_answered_with_the_three_ways_to_say_it() {
    let errors = Policy::compile(with_rules(vec![allow("a", vec![])]), HASH, NOW).unwrap_err();
    assert_eq!(errors.len(), 2);
    for error in errors {
        for offered in ["NAME", "any", "none"] {
            assert!(error.remedy.contains(&format!("\"{offered}\"")), "{}", error.remedy);
        }
    }
}

#[test]
fn errors_come_all_at_once_each_at_its_place() {
    let rules = vec![open(vec![]), open(vec![hosts(&["x.example"])]), allow("b", vec![ANY_ROLE])];
    let errors = Policy::compile(with_rules(rules), HASH, NOW).unwrap_err();
    let places: Vec<_> = errors.iter().map(|error| (error.code, error.place.item)).collect();
    let rule = |at| Item::Rule(RuleId(at));
    assert_eq!(
        places,
        [("duplicate_rule", rule(1)), ("never_holds", rule(1)), ("allow_without_service", rule(2)),]
    );
}

#[test]
fn a_deny_that_less_would_evade_is_an_error() {
    let role_of = |entry: RoleEntry| {
        let mut parts = tables();
        parts.issuers[0].roles = Some(text("roles"));
        parts.roles[0].entries = RoleEntries::AnyOf(vec![entry]);
        parts.rules = vec![deny("d", vec![role(&[0])])];
        error_codes(parts)
    };
    assert_eq!(role_of(RoleEntry { scope: vec![text("s")], ..entry(0) }), ["deny_evadable"]);
    assert_eq!(role_of(RoleEntry { group: vec![text("g")], ..entry(0) }), ["deny_evadable"]);
    assert_eq!(role_of(RoleEntry { claim: vec![claim("tier", "x")], ..entry(0) }), ["deny_evadable"]);
    assert_eq!(role_of(RoleEntry { actor_subject: globs(&["x"]), ..entry(0) }), ["deny_evadable"]);
    assert_eq!(role_of(RoleEntry { role: vec![text("r")], ..entry(0) }), ["deny_evadable"]);
    assert!(role_of(RoleEntry { subject: globs(&["x"]), client: globs(&["y"]), ..entry(0) }).is_empty());
    let by = |condition| errors_of(vec![deny("d", vec![condition])]);
    assert_eq!(by(Condition::Claim(vec![claim("tier", "x")])), ["deny_evadable"]);
    assert_eq!(by(Condition::Acr(vec![text("pwd")])), ["deny_evadable"]);
    assert_eq!(by(max_age(5)), ["deny_evadable"]);
    assert_eq!(by(actor(&[Human])), ["deny_evadable"], "without `uid` a person is unknown");
    assert_eq!(by(on_behalf_of(&[Human])), ["deny_evadable"]);
    let own = |claim: &[&str]| {
        let claim = ClaimPath(claim.iter().map(|name| text(name)).collect());
        let test = Condition::MatchClaim(vec![MatchClaim { segment: text("c"), claim }]);
        errors_of(vec![deny("d", vec![paths(&["/{c}"]), test])])
    };
    assert!(own(&["sub"]).is_empty());
    assert_eq!(own(&["tier"]), ["deny_evadable"]);
    assert_eq!(own(&["sub", "id"]), ["deny_evadable"], "the claim may be there without the member");
    assert!(by(actor(&[Human, Unknown])).is_empty() && by(on_behalf_of(&[Human, Unknown])).is_empty());
    assert!(by(Condition::Claim(vec![claim("cid", "x")])).is_empty());
    let nested = |names: &[&str]| claim::ClaimTest {
        claim: ClaimPath(names.iter().map(|name| text(name)).collect()),
        ..claim("cid", "x")
    };
    assert_eq!(by(Condition::Claim(vec![nested(&["tier", "cid"])])), ["deny_evadable"]);
    assert_eq!(role_of(RoleEntry { claim: vec![nested(&["tier", "cid"])], ..entry(0) }), ["deny_evadable"]);
    assert!(by(ANY_ROLE).is_empty() && by(service(&[0])).is_empty());
    let requiring = |claims: &[&str], rule: Rule, entry: RoleEntry| {
        let mut parts = with_rules(vec![rule]);
        parts.roles[0].entries = RoleEntries::AnyOf(vec![entry]);
        let requires = claims.iter().map(|claim| text(claim)).collect();
        parts.issuers[0] = IssuerFacts { requires, ..issuer("corp") };
        error_codes(parts)
    };
    let by_role = || deny("d", vec![role(&[0])]);
    let subject = || RoleEntry { subject: globs(&["x"]), ..entry(0) };
    let client = || RoleEntry { client: globs(&["y"]), ..entry(0) };
    assert!(requiring(&["uid"], deny("d", vec![actor(&[Human])]), subject()).is_empty());
    assert_eq!(requiring(&["cid"], by_role(), subject()), ["deny_evadable"]);
    assert_eq!(requiring(&["sub"], by_role(), client()), ["deny_evadable"]);
}

#[test]
fn a_deny_on_a_credential_that_an_overlapping_allow_waives_is_an_error() {
    let no_token = || allow("health", vec![ANY_SERVICE, NO_ROLE, methods(&["GET"]), paths(&["/health"])]);
    let no_peer = || allow("public", vec![NO_SERVICE, ANY_ROLE]);
    let cases = [
        (no_token(), deny("d", vec![actor(&[Agent])]), true),
        (no_token(), deny("d", vec![actor(&[Agent]), methods(&["POST"])]), false),
        (no_token(), deny("d", vec![actor(&[Agent]), paths(&["/orders/**"])]), false),
        (no_token(), deny("d", vec![ANY_ROLE, paths(&["/*"])]), true),
        (no_token(), deny("d", vec![NO_ROLE]), false),
        (no_token(), deny("d", vec![service(&[0])]), false),
        (no_peer(), deny("d", vec![service(&[0])]), true),
        (no_peer(), deny("d", vec![actor(&[Agent])]), false),
        (no_peer(), deny("d", vec![NO_SERVICE]), false),
        (allow("h", vec![service(&[0]), NO_ROLE]), deny("d", vec![service(&[1]), actor(&[Agent])]), false),
        (allow("h", vec![service(&[0]), NO_ROLE]), deny("d", vec![service(&[0]), actor(&[Agent])]), true),
    ];
    let mut seen = 0;
    for (allow, deny, evadable) in cases {
        let expected: &[&str] = if evadable { &["deny_evadable"] } else { &[] };
        assert_eq!(errors_of(vec![allow, deny]), expected, "case {seen}");
        seen += 1;
    }
    assert_eq!(seen, 11);
    // two services whose patterns can name one peer are not apart
    let mut seen = 0;
    for (first, second, evadable) in [
        ("/ns/prod/sa/a", "/ns/prod/**", true),
        ("/ns/prod/**", "/ns/prod/sa/a", true),
        ("/ns/*/sa/a", "/ns/prod/**", true),
        ("/ns/test/sa/a", "/ns/prod/**", false),
    ] {
        let mut parts = with_rules(vec![
            allow("h", vec![service(&[0]), NO_ROLE]),
            deny("d", vec![service(&[1]), actor(&[Agent])]),
        ]);
        for (at, path) in [first, second].into_iter().enumerate() {
            let pattern = format!("spiffe://shop.example{path}").parse().unwrap();
            parts.services[at].identities = vec![role::PeerPattern::Spiffe(pattern)];
        }
        let expected: &[&str] = if evadable { &["deny_evadable"] } else { &[] };
        assert_eq!(error_codes(parts), expected, "{first} {second}");
        seen += 1;
    }
    assert_eq!(seen, 4);
}

#[test]
fn a_claim_is_read_of_one_issuer_only() {
    let test = || Condition::Claim(vec![claim("tier", "gold")]);
    let code = |rule: Rule| error_codes(two_issuers(with_rules(vec![rule])));
    assert_eq!(code(open(vec![test()])), ["claim_without_issuer"]);
    assert_eq!(code(open(vec![paths(&["/{c}"]), match_claim("c", "sub")])), ["claim_without_issuer"]);
    assert!(code(open(vec![test(), Condition::Issuer(vec![IssuerId(0)])])).is_empty());
    assert!(code(allow("a", vec![ANY_SERVICE, role(&[0]), test()])).is_empty());
    assert!(errors_of(vec![open(vec![test()])]).is_empty(), "there is but one");
    let both = Condition::Issuer(vec![IssuerId(0), IssuerId(1)]);
    assert_eq!(code(open(vec![test(), both])), ["claim_without_issuer"]);
}

#[test]
fn roles_and_issuers_must_go_together() {
    let code = |conditions: Vec<Condition>| {
        let mut parts = two_issuers(tables());
        let there = RoleEntry { group: vec![text("g")], ..entry(1) };
        parts.roles.push(Role { name: name("partner"), entries: RoleEntries::AnyOf(vec![there]) });
        parts.services[1].clients = CarriedClients::Any;
        parts.rules = vec![allow("a", conditions)];
        error_codes(parts)
    };
    let issuer = |id| Condition::Issuer(vec![IssuerId(id)]);
    let all =
        |ids: &[u32]| Condition::Role(condition::RoleTerm::AllOf(ids.iter().map(|id| RoleId(*id)).collect()));
    assert_eq!(code(vec![ANY_SERVICE, role(&[0]), issuer(1)]), ["never_holds"]);
    assert_eq!(code(vec![ANY_SERVICE, all(&[0, 2])]), ["never_holds"]);
    assert!(code(vec![ANY_SERVICE, all(&[0, 1])]).is_empty());
    assert_eq!(code(vec![service(&[0]), role(&[2])]), ["never_holds"], "it carries tokens of corp only");
    assert!(code(vec![service(&[1]), role(&[2])]).is_empty());
    assert!(code(vec![service(&[0, 1]), role(&[2])]).is_empty(), "one of them may");
    let mut parts = two_issuers(with_rules(vec![allow("a", vec![service(&[0]), ANY_ROLE, issuer(1)])]));
    assert_eq!(error_codes(parts.clone()), ["never_holds"]);
    let CarriedClients::Listed(clients) = &mut parts.services[0].clients else { panic!() };
    clients.push(role::ClientPattern { issuer: IssuerId(1), ..clients[0].clone() });
    assert!(error_codes(parts).is_empty(), "one of its clients is of that issuer");
}

#[test]
fn a_rule_for_what_the_file_does_not_have_never_holds() {
    let mut alone = with_rules(vec![open(vec![])]);
    alone.services.clear();
    assert_eq!(error_codes(alone), ["never_holds"]);
    let mut alone = with_rules(vec![allow("a", vec![NO_SERVICE, ANY_ROLE])]);
    alone.services.clear();
    assert!(error_codes(alone).is_empty());
    // An issuer without agents: an allow for them never holds, and a deny of them stands for the day it has some.
    let mut seen = 0;
    for (rule, expected) in [
        (allow("a", vec![ANY_SERVICE, ANY_ROLE, actor(&[Agent])]), &["never_holds"][..]),
        (deny("d", vec![actor(&[Agent])]), &[]),
        (deny("d", vec![actor(&[ServiceKind, Unknown])]), &[]),
        (deny("d", vec![actor(&[ServiceKind])]), &["never_holds", "deny_evadable"]),
    ] {
        let mut parts = with_rules(vec![rule]);
        parts.issuers[0].actors = vec![Human];
        assert_eq!(error_codes(parts), expected, "case {seen}");
        seen += 1;
    }
    assert_eq!(seen, 4);
    let foreign = deny("d", vec![service(&[0]), ANY_ROLE, Condition::Issuer(vec![IssuerId(1)])]);
    assert!(error_codes(two_issuers(with_rules(vec![foreign]))).is_empty(), "whatever its service may carry");
}

#[test]
fn a_service_whose_tokens_are_not_stated_takes_none() {
    let code = |conditions| {
        let mut parts = with_rules(vec![allow("a", conditions)]);
        parts.services[0].clients = CarriedClients::Unstated;
        error_codes(parts)
    };
    assert_eq!(code(vec![service(&[0]), ANY_ROLE]), ["service_without_client_id"]);
    assert_eq!(code(vec![ANY_SERVICE, ANY_ROLE]), ["service_without_client_id"]);
    assert!(code(vec![service(&[1]), ANY_ROLE]).is_empty());
    assert!(code(vec![service(&[0]), NO_ROLE]).is_empty());
}

#[test]
fn roles_and_services_that_say_nothing() {
    let role_code = |entries| {
        let mut parts = tables();
        parts.issuers.push(issuer("partner"));
        parts.roles[0].entries = entries;
        error_codes(parts)
    };
    let group = |issuer| RoleEntry { group: vec![text("g")], ..entry(issuer) };
    assert_eq!(role_code(RoleEntries::AnyOf(vec![])), ["empty_list"]);
    assert_eq!(role_code(RoleEntries::AnyOf(vec![entry(0)])), ["role_entry_empty"]);
    assert_eq!(role_code(RoleEntries::AllOf(vec![group(0), group(1)])), ["never_holds"]);
    assert_eq!(role_code(RoleEntries::AllOf(vec![group(0), group(0), group(1)])), ["never_holds"]);
    assert!(role_code(RoleEntries::AnyOf(vec![group(0), group(1)])).is_empty());
    let mut parts = tables();
    parts.services[0].identities.clear();
    parts.services[1].clients = CarriedClients::Listed(vec![]);
    assert_eq!(error_codes(parts), ["empty_list", "empty_list"]);
}

/// Every finding and what lies beside it is told in `tests/lint/`; here, to the second.
#[test]
fn the_end_of_an_allow_is_told_two_weeks_ahead() {
    let second = Duration::from_secs(1);
    let mut seen = 0;
    for (ends, expected) in [
        (days(14).plus(second), None),
        (days(14), Some("rule_expires_soon")),
        (NOW.plus(second), Some("rule_expires_soon")),
        (NOW, Some("rule_expired")),
    ] {
        let found = finding_codes(with_rules(vec![Rule { expires: ends, ..open(vec![]) }]));
        let told = found.iter().map(|(code, _)| *code).find(|code| code.starts_with("rule_expire"));
        assert_eq!(told, expected, "{ends}");
        seen += 1;
    }
    assert_eq!(seen, 4);
    let mut parts = sample();
    parts.routes[0].shadow_until = Some(NOW);
    assert_eq!(finding_codes(parts), [("shadow_over", Severity::Finding)]);
}

#[test]
fn an_allow_within_another_never_matters() {
    let base = || vec![service(&[0]), role(&[0]), methods(&["GET"]), paths(&["/a/**"])];
    let narrower = |more: Vec<Condition>| {
        let mut conditions = base();
        conditions.retain(|c| !more.iter().any(|m| m.key() == c.key()));
        conditions.extend(more);
        allow("b", conditions)
    };
    let value = |value| {
        Condition::Claim(vec![ClaimTest {
            claim: ClaimPath::top_level("tier"),
            values: vec![ClaimValue::Integer(value)],
        }])
    };
    let cases = [
        (narrower(vec![]), true),
        (narrower(vec![paths(&["/a/b"])]), true),
        (narrower(vec![paths(&["/b"])]), false),
        (narrower(vec![methods(&["HEAD"])]), true),
        (narrower(vec![methods(&["POST"])]), false),
        (narrower(vec![service(&[0, 1])]), false),
        (narrower(vec![role(&[0, 1])]), false),
        (narrower(vec![value(1)]), true),
        (narrower(vec![actor(&[Human])]), true),
        (narrower(vec![actor(&[Agent])]), false),
        (narrower(vec![actor(&[Human]), on_behalf_of(&[Human])]), false),
        (Rule { mode: Mode::Shadow, ..narrower(vec![]) }, false),
        (Rule { expires: days(100), ..narrower(vec![]) }, true),
    ];
    let mut seen = 0;
    for (rule, redundant) in cases {
        let (_, found) = Policy::compile(with_rules(vec![allow("a", base()), rule]), HASH, NOW).unwrap();
        let place = Place { item: Item::Rule(RuleId(1)), key: None };
        let named: Vec<_> = found.iter().filter(|found| found.code == "allow_redundant").collect();
        assert_eq!(named.iter().any(|found| found.place == place), redundant, "case {seen}");
        assert!(named.len() <= 1, "of two equal rules one is named: {found:?}");
        seen += 1;
    }
    assert_eq!(seen, 13);
}
