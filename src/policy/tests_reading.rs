//! What a reading says is what the decision rests on.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::condition::Kind;
use super::fixture::*;
use super::properties::{request, rules, unchecked};
use super::reading::{Carries, EntryReading, Reading, RoleReading, RuleReading, ServiceReading};
use super::role::{CarriedClients, PeerPattern};
use super::rule::{Effect, Mode, Rule};
use super::*;
use crate::identity::*;

/// What `then` makes of the reading of a request.
fn reading<T>(
    policy: &Policy,
    ask: &Ask,
    peer: &Signature<Peer>,
    caller: &Signature<Caller>,
    then: impl FnOnce(&Reading<'_>) -> T,
) -> T {
    let standing = policy.standing(peer, caller, ask.now);
    ask.asked(peer, caller, |request| then(&Reading::new(policy, &standing, request)))
}

/// As `key: wanted | seen`, with `not` before what does not hold and brackets around what is unspoken.
fn told(reading: &Reading<'_>, rule: &str) -> Vec<String> {
    let rule = reading.rules().find(|read| read.rule.name == rule).unwrap();
    let tell = |condition: &super::reading::ConditionReading<'_>| {
        let words = reading.words(&rule, condition);
        let not = if condition.holds { "" } else { "not " };
        let key = condition.key();
        let key = if condition.is_unspoken() { format!("({key})") } else { key.to_owned() };
        format!("{not}{key}: {} | {}", words.wanted, words.seen)
    };
    rule.conditions.iter().map(tell).collect()
}

/// The verdict that the readings of all rules come to.
fn comes_to(reading: &Reading<'_>, peer: &Signature<Peer>) -> bool {
    let rules: Vec<_> = reading.rules().filter(|read| read.rule.mode == Mode::Enforce).collect();
    let of = |effect: Effect| rules.iter().filter(move |read| read.rule.effect == effect);
    let named = peer.verified().is_none() || !reading.services().is_empty();
    of(Effect::Allow).any(RuleReading::holds)
        && !of(Effect::Deny).any(RuleReading::holds)
        && of(Effect::Require).all(|read| !read.reaches() || read.is_fulfilled())
        && reading.token_mapped()
        && named
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_readings_of_all_rules_come_to_the_decision(rules in rules(), (peer, caller, ask) in request()) {
        let policy = unchecked(rules);
        let decision = ask.judged(&policy, &peer, &caller);
        let permitted = matches!(decision.verdict, Verdict::Permit(_));
        reading(&policy, &ask, &peer, &caller, |reading| {
            prop_assert_eq!(comes_to(reading, &peer), permitted);
            prop_assert_eq!(reading.route(), decision.evidence.route);
            if permitted {
                let mut allows = reading.rules().filter(|read| {
                    read.rule.effect == Effect::Allow && read.rule.mode == Mode::Enforce && read.holds()
                });
                prop_assert_eq!(allows.next().map(|read| read.id), decision.evidence.rule);
            }
            let services: Vec<_> = reading.services().iter()
                .map(|read| policy.parts().services[read.service.index()].name.clone()).collect();
            prop_assert_eq!(&services[..], &*decision.evidence.services);
            let roles: Vec<_> = reading.roles().iter().filter(|read| read.holds)
                .map(|read| policy.parts().roles[read.role.index()].name.clone()).collect();
            prop_assert_eq!(&roles[..], &*decision.evidence.roles);
            Ok(())
        })?;
    }

    /// Exactly what the near miss lacks does not hold, in the same words.
    #[test]
    fn the_nearest_rule_reads_as_the_near_miss(rules in rules(), (peer, caller, ask) in request()) {
        let policy = unchecked(rules);
        let decision = ask.judged(&policy, &peer, &caller);
        let Some(near) = decision.evidence.near_miss else { return Ok(()) };
        reading(&policy, &ask, &peer, &caller, |reading| {
            let rule = reading.rules().find(|read| read.id == near.rule).unwrap();
            prop_assert!(rule.reaches());
            let failing: Vec<_> = rule.conditions.iter().filter(|condition| !condition.holds).collect();
            prop_assert!(failing.iter().all(|condition| condition.kind() != Kind::Action));
            let absent = caller.verified().is_none();
            let of_caller = |key: &str| {
                ["role", "issuer", "actor", "on_behalf_of", "claim", "acr", "max_age", "match_claim"].contains(&key)
            };
            let keys: BTreeSet<_> = failing.iter().map(|condition| match condition.key() {
                key if absent && of_caller(key) => "role",
                key => key,
            }).collect();
            prop_assert_eq!(keys, near.failures.iter().map(|failure| failure.condition).collect());
            for failure in near.failures.iter().filter(|failure| !absent || !of_caller(failure.condition)) {
                let condition = failing.iter().find(|condition| condition.key() == failure.condition).unwrap();
                let words = reading.words(&rule, condition);
                prop_assert_eq!((&words.wanted, &words.seen), (&failure.wanted, &failure.seen));
            }
            Ok(())
        })?;
    }

    #[test]
    fn every_condition_has_words(rules in rules(), (peer, caller, ask) in request()) {
        let policy = unchecked(rules);
        reading(&policy, &ask, &peer, &caller, |reading| {
            for rule in reading.rules() {
                for condition in &rule.conditions {
                    let words = reading.words(&rule, condition);
                    prop_assert!(!words.wanted.is_empty() && !words.seen.is_empty(), "{words:?}");
                }
            }
            Ok(())
        })?;
    }
}

#[test]
fn a_rule_that_holds_says_all_that_it_saw() {
    let policy = compile(sample());
    let lines = reading(
        &policy,
        &get("/customers/alice/orders/7"),
        &peer("storefront"),
        &signed(alice()),
        |reading| told(reading, "people read their own orders through the storefront"),
    );
    assert_eq!(
        lines,
        [
            "service: service storefront | the service is storefront",
            "role: role order-reader: scope orders:read or group support | the token has scope orders:read",
            "actor: actor human | the actor is human",
            "method: method GET | the method is GET",
            "path: path /customers/{customer}/orders/** | the path is /customers/alice/orders/7",
            "match_claim: {customer} equal to claim sub | {customer} is alice and sub is alice",
            "(on_behalf_of): a caller that acts for nobody | the actor is human",
        ]
    );
}

#[test]
fn a_rule_out_of_reach_says_what_of_the_action_it_misses() {
    let policy = compile(sample());
    let storefront = peer("storefront");
    let told = |ask: &Ask, rule: &str| {
        reading(&policy, ask, &storefront, &signed(assistant()), |reading| told(reading, rule))
    };
    assert_eq!(
        told(&post("/customers/alice/orders/7/refund"), "assistants read orders for their person"),
        [
            "not service: service assistant | the service is storefront",
            "role: role order-reader: scope orders:read or group support | the token has scope orders:read",
            "actor: actor agent | the actor is agent acting for another",
            "on_behalf_of: a token on behalf of human | the token is on behalf of human",
            "not method: method GET | the method is POST",
            "path: path /customers/{customer}/orders/** | the path is /customers/alice/orders/7/refund",
            "match_claim: {customer} equal to claim sub | {customer} is alice and sub is alice",
        ]
    );
    assert_eq!(
        told(&post("/orders"), "agents never write"),
        [
            "actor: actor agent, or one of no known kind | the actor is agent acting for another",
            "method: method POST or PUT or PATCH or DELETE | the method is POST",
        ]
    );
    let nowhere = Ask { host: "other.example", ..post("/orders") };
    assert_eq!(
        told(&nowhere, "agents never write").last().unwrap(),
        "not (route): any route | no route takes this host and path"
    );
    assert_eq!(
        told(&Ask { method: "TRACE", ..get("/customers/a/orders/7/refund") }, "refunds need step-up"),
        [
            "path: path /customers/*/orders/*/refund | the path is /customers/a/orders/7/refund",
            "acr: acr mfa | the token has acr mfa",
            "max_age: a login at most 15m old | the login is 1m old",
            "not (method): a method other than CONNECT and TRACE | the method is TRACE",
        ]
    );
}

#[test]
fn what_an_allow_wants_without_saying_so_is_said() {
    let ends = NOW.plus(Duration::from_secs(60));
    let timed = Rule { name: "timed".to_owned(), not_before: ends, expires: NOW, ..open(vec![]) };
    let calls = allow("calls", vec![ANY_SERVICE, ANY_ROLE, grpc(&["shop.Orders/Get"])]);
    let waives = allow("waives", vec![NO_SERVICE, NO_ROLE]);
    let policy = unchecked(vec![timed, calls, waives]);
    let told = |ask: &Ask, caller: &Signature<Caller>, rule: &str| {
        reading(&policy, ask, &peer("assistant"), caller, |reading| told(reading, rule))
    };
    assert_eq!(
        told(&get("/a"), &signed(assistant()), "timed")[2..],
        [
            format!("not not_before: a time from {ends} | it is {NOW}"),
            format!("not expires: a time before {NOW} | it is {NOW}"),
            "not (actor): an actor that is no agent and acts for nobody | the actor is agent acting for another"
                .to_owned(),
        ]
    );
    assert_eq!(
        told(
            &post("/shop.Orders/Get").with_header("content-type", "text/plain"),
            &Signature::Absent,
            "calls"
        ),
        [
            "service: any service that the policy names | the service is assistant",
            "not role: any verified caller | no token was presented",
            "grpc: a POST to gRPC method shop.Orders/Get | the method is POST and the path /shop.Orders/Get",
            "not (grpc): content type application/grpc | the content type is text/plain",
        ]
    );
    assert_eq!(
        told(&get("/shop.Orders/Get"), &Signature::Absent, "calls")[2..],
        [
            "not grpc: a POST to gRPC method shop.Orders/Get | the method is GET and the path /shop.Orders/Get",
            "not (grpc): content type application/grpc | there is no content type",
        ]
    );
    assert_eq!(
        told(&get("/a"), &signed(assistant()), "waives"),
        [
            "service: a certificate or none | the service is assistant",
            "role: a token or none | a token was presented",
        ]
    );
}

#[test]
fn services_and_roles_say_how_they_came_about() {
    let mut parts = sample();
    let mut twice = workload("storefront", CarriedClients::Any);
    twice.name = name("anything");
    twice.identities = vec![PeerPattern::Spiffe("spiffe://shop.example/ns/prod/**".parse().unwrap())];
    parts.services.push(twice);
    let policy = compile(parts);
    let of = |caller: &Signature<Caller>| {
        reading(&policy, &get("/a"), &peer("storefront"), caller, |r| {
            (r.services(), r.roles(), r.token_mapped())
        })
    };
    let service = |id, named_by: &str, carries| ServiceReading {
        service: ServiceId(id),
        named_by: named_by.to_owned(),
        carries,
    };
    let by_id = "spiffe://shop.example/ns/prod/sa/storefront";
    let by_pattern = "spiffe://shop.example/ns/prod/**";
    let (services, roles, mapped) = of(&signed(alice()));
    assert_eq!(
        services,
        [
            service(0, by_id, Carries::Listed("storefront-web of corp".to_owned())),
            service(2, by_pattern, Carries::Any)
        ]
    );
    assert!(mapped);
    let entry = |holds, wanted: &str| EntryReading { holds, issuer: name("corp"), wanted: wanted.to_owned() };
    let reader = RoleReading {
        role: RoleId(0),
        holds: true,
        all: false,
        entries: vec![entry(true, "scope orders:read"), entry(false, "group support")],
        seen: "the token has scope orders:read".to_owned(),
    };
    let beta = RoleReading {
        role: RoleId(1),
        holds: false,
        all: false,
        entries: vec![entry(false, "group beta")],
        seen: "the token has no group".to_owned(),
    };
    assert_eq!(roles, [reader, beta]);

    let (services, _, mapped) = of(&signed(assistant()));
    let listed = vec!["storefront-web of corp".to_owned()];
    assert_eq!(
        services,
        [service(0, by_id, Carries::Other { listed }), service(2, by_pattern, Carries::Any)]
    );
    assert!(!mapped);
    let (services, roles, mapped) = of(&Signature::Absent);
    assert!(services.iter().all(|service| service.carries == Carries::Nothing) && mapped);
    assert!(roles.iter().all(|role| !role.holds && role.seen == "no token was presented"));
}
