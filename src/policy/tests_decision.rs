//! What rules mean, sentence by sentence of the rule language.

use std::sync::Arc;

use ActorKind::{Agent, Human, Unknown};

use super::fixture::*;
use super::role::{PeerPattern, RoleEntries, RoleEntry};
use super::*;
use crate::identity::*;

#[test]
fn the_sample_policy_needs_both_signatures_and_the_right_ones() {
    let policy = compile(sample());
    let other_issuer = Caller { issuer: name("elsewhere"), ..alice() };
    let no_scope = Caller { scopes: vec![text("orders:write")], ..alice() };
    let unknown = Caller { actor: Unknown, on_behalf_of: Unknown, ..alice() };
    let agent_via_storefront = Caller { client: Some(text("storefront-web")), ..assistant() };
    let undelegated_agent = Caller { actor: Agent, ..alice() };
    let cases = [
        (peer("storefront"), signed(alice()), get(OWN), vec![]),
        (peer("assistant"), signed(assistant()), get(OWN), vec![]),
        (peer("storefront"), signed(alice()), post(REFUND), vec![]),
        (NO_PEER, ABSENT, get(OWN), vec![Cause::PeerMissing, Cause::TokenMissing]),
        (NO_PEER, signed(alice()), get(OWN), vec![Cause::PeerMissing]),
        (peer("storefront"), ABSENT, get(OWN), vec![Cause::TokenMissing]),
        (peer("nobody"), signed(alice()), get(OWN), vec![Cause::PeerUnknown]),
        (
            peer("assistant"),
            signed(alice()),
            get(OWN),
            vec![Cause::TokenNotIssuedToService, Cause::ActorNotAllowed],
        ),
        (
            peer("storefront"),
            signed(other_issuer),
            get(OWN),
            vec![Cause::TokenNotIssuedToService, Cause::RoleMissing],
        ),
        (peer("storefront"), signed(no_scope), get(OWN), vec![Cause::ScopeMissing]),
        (peer("storefront"), signed(unknown.clone()), get(OWN), vec![Cause::ActorNotAllowed]),
        // two rules lack one thing each: the first by name is the one for assistants
        (peer("storefront"), signed(undelegated_agent), get(OWN), vec![Cause::ServiceNotAllowed]),
        (peer("storefront"), signed(agent_via_storefront), get(OWN), vec![Cause::ServiceNotAllowed]),
        (peer("storefront"), signed(alice()), get("/customers/bob/orders/7"), vec![Cause::ClaimMismatch]),
        (peer("storefront"), signed(alice()), get("/elsewhere"), vec![Cause::NoRule]),
        (peer("storefront"), signed(alice()), Ask { method: "DELETE", ..get(OWN) }, vec![Cause::NoRule]),
        (
            peer("assistant"),
            signed(assistant()),
            post(REFUND),
            vec![Cause::DeniedByRule, Cause::ServiceNotAllowed, Cause::ActorNotAllowed],
        ),
        (
            peer("storefront"),
            signed(unknown),
            post(REFUND),
            vec![Cause::DeniedByRule, Cause::ActorNotAllowed],
        ),
        (
            peer("storefront"),
            signed(Caller { acr: None, ..alice() }),
            post(REFUND),
            vec![Cause::StepUpRequired],
        ),
        (
            peer("storefront"),
            signed(Caller { authenticated_at: None, ..alice() }),
            post(REFUND),
            vec![Cause::StepUpRequired],
        ),
    ];
    let mut seen = 0;
    for (at, (peer, caller, ask, expected)) in cases.iter().enumerate() {
        let decision = ask.judged(&policy, peer, caller);
        assert_eq!(causes(&decision), expected, "case {at}");
        assert_eq!(permits(&decision), expected.is_empty(), "case {at}");
        seen += 1;
    }
    assert_eq!(seen, 20);
}

#[test]
fn the_same_name_from_another_issuer_is_another_name() {
    let mut parts = sample();
    parts.issuers.push(issuer("partner"));
    parts.services[0].clients = role::CarriedClients::Any;
    let policy = compile(parts);
    let ask = get(OWN);
    assert!(permits(&ask.judged(&policy, &peer("storefront"), &signed(alice()))));
    let other = Caller { issuer: name("partner"), ..alice() };
    let decision = ask.judged(&policy, &peer("storefront"), &signed(other));
    assert_eq!(causes(&decision), [Cause::RoleMissing]);
    let failure = &decision.evidence.near_miss.unwrap().failures[0];
    assert_eq!(failure.seen, "the token is from partner");
}

#[test]
fn an_agent_needs_a_rule_that_names_agents_and_whom_they_act_for() {
    let reads = |more: Vec<Condition>| {
        let mut conditions = vec![ANY_SERVICE, role(&[0]), methods(&["GET"])];
        conditions.extend(more);
        compile(with_rules(vec![allow("read", conditions)]))
    };
    let undelegated = Caller { chain: vec![], ..assistant() };
    let acting_human = Caller { actor: Human, ..assistant() };
    let direct = Caller { client: Some(text("assistant-1")), ..alice() };
    let cases = [
        (vec![], [false, false, false, true]),
        (vec![actor(&[Agent])], [false, true, false, false]),
        (vec![actor(&[Agent]), on_behalf_of(&[Human])], [true, true, false, false]),
        (vec![actor(&[Human])], [false, false, false, true]),
        (vec![actor(&[Human]), on_behalf_of(&[Human])], [false, false, true, true]),
        (vec![on_behalf_of(&[Human])], [false, false, false, true]),
        (vec![actor(&[Agent]), on_behalf_of(&[Unknown])], [false; 4]),
    ];
    let callers = [assistant(), undelegated, acting_human, direct];
    let mut seen = 0;
    for (more, expected) in cases {
        let policy = reads(more.clone());
        for (caller, expected) in callers.iter().zip(expected) {
            let decision = get(OWN).judged(&policy, &peer("assistant"), &signed(caller.clone()));
            assert_eq!(permits(&decision), expected, "{more:?} {:?}", caller.chain);
            seen += 1;
        }
    }
    assert_eq!(seen, 28);
}

#[test]
fn what_is_waived_may_be_there_and_is_still_judged() {
    let health = allow("health", vec![NO_SERVICE, NO_ROLE, paths(&["/health"])]);
    let policy = compile(with_rules(vec![health]));
    let ask = get("/health");
    assert!(permits(&ask.judged(&policy, &NO_PEER, &ABSENT)));
    assert!(permits(&ask.judged(&policy, &peer("assistant"), &signed(assistant()))), "no actor is asked for");
    let unnamed = ask.judged(&policy, &peer("nobody"), &ABSENT);
    assert_eq!(causes(&unnamed), [Cause::PeerUnknown]);
    let unmapped = ask.judged(&policy, &peer("assistant"), &signed(alice()));
    assert_eq!(causes(&unmapped), [Cause::TokenNotIssuedToService]);
}

#[test]
fn in_a_deny_what_is_left_out_is_anyone_and_none_is_nobody() {
    let open = allow("open", vec![NO_SERVICE, NO_ROLE]);
    let deny_all = compile(with_rules(vec![open.clone(), deny("stop", vec![paths(&["/stop/**"])])]));
    for (peer, caller) in [(NO_PEER, ABSENT), (peer("storefront"), signed(alice()))] {
        assert_eq!(causes(&get("/stop").judged(&deny_all, &peer, &caller)), [Cause::DeniedByRule]);
        assert!(permits(&get("/go").judged(&deny_all, &peer, &caller)));
    }
    let none = compile(with_rules(vec![open, deny("a token is needed", vec![NO_ROLE])]));
    assert_eq!(causes(&get("/").judged(&none, &NO_PEER, &ABSENT)), [Cause::DeniedByRule]);
    let decision = get("/").judged(&none, &NO_PEER, &signed(alice()));
    assert!(permits(&decision));
    assert_eq!(rule_name(&none, &decision), Some("open"));
    let open = allow("open", vec![NO_SERVICE, NO_ROLE]);
    let none = compile(with_rules(vec![open, deny("a certificate is needed", vec![NO_SERVICE])]));
    assert_eq!(causes(&get("/").judged(&none, &NO_PEER, &ABSENT)), [Cause::DeniedByRule]);
    assert!(permits(&get("/").judged(&none, &peer("storefront"), &ABSENT)));
}

#[test]
fn every_service_of_a_peer_that_lists_clients_must_list_the_tokens() {
    let mut parts = sample();
    let mut twin = workload("storefront", carries(&["another-client"]));
    twin.name = name("twin");
    parts.services.push(twin);
    let decision = get(OWN).judged(&compile(parts.clone()), &peer("storefront"), &signed(alice()));
    assert_eq!(causes(&decision), [Cause::TokenNotIssuedToService]);
    parts.services[2].clients = role::CarriedClients::Any;
    assert!(permits(&get(OWN).judged(&compile(parts), &peer("storefront"), &signed(alice()))));
    let policy = compile(sample());
    for client in [None, Some(text("storefront-web-2"))] {
        let caller = Caller { client, ..alice() };
        let decision = get(OWN).judged(&policy, &peer("storefront"), &signed(caller));
        assert_eq!(causes(&decision), [Cause::TokenNotIssuedToService]);
    }
}

#[test]
fn a_segment_is_compared_decoded_exactly_once() {
    let policy = compile(sample());
    let mut caller = alice();
    caller.claims.insert("sub".into(), "auth0|alice".into());
    let caller = signed(caller);
    let permitted = |path: &str| permits(&get(path).judged(&policy, &peer("storefront"), &caller));
    assert!(permitted("/customers/auth0%7Calice/orders/7"));
    assert!(permitted("/customers/auth0%7calice/orders"));
    assert!(!permitted("/customers/auth0%257Calice/orders/7"));
    assert!(!permitted("/customers/alice/orders/7"));
}

#[test]
fn get_includes_head_and_a_trailing_slash_makes_no_difference() {
    let admin = allow("admin", vec![ANY_SERVICE, ANY_ROLE, methods(&["GET"]), paths(&["/admin/**"])]);
    let policy = compile(with_rules(vec![admin]));
    let permitted = |method, path: &str| {
        let ask = Ask { method, ..get(path) };
        permits(&ask.judged(&policy, &peer("storefront"), &signed(alice())))
    };
    assert!(permitted("GET", "/admin") && permitted("HEAD", "/admin/") && permitted("HEAD", "/admin/x"));
    assert!(
        !permitted("POST", "/admin") && !permitted("get", "/admin") && !permitted("GET", "/administrator")
    );
    let any = compile(with_rules(vec![allow("any", vec![ANY_SERVICE, ANY_ROLE])]));
    for (method, permitted) in [("PURGE", true), ("CONNECT", false), ("TRACE", false)] {
        let ask = Ask { method, ..get("/x") };
        assert_eq!(permits(&ask.judged(&any, &peer("storefront"), &signed(alice()))), permitted, "{method}");
    }
}

#[test]
fn grpc_is_path_and_post_and_in_an_allow_the_content_type() {
    let calls = |rule: fn(&str, Vec<Condition>) -> Rule, more: Vec<Condition>| {
        let mut conditions = vec![grpc(&["shop.Orders/Get"])];
        conditions.extend(more);
        rule("calls", conditions)
    };
    use super::rule::Rule;
    let policy = compile(with_rules(vec![calls(allow, vec![ANY_SERVICE, ANY_ROLE])]));
    let ask = || post("/shop.Orders/Get");
    let twice = |one, other| ask().with_header("content-type", one).with_header("content-type", other);
    let cases = [
        (ask().with_header("content-type", "application/grpc"), true),
        (ask().with_header("content-type", "application/grpc+proto"), true),
        (ask().with_header("content-type", "application/grpc-web"), false),
        (twice("application/grpc", "text/plain"), false),
        (twice("text/plain", "application/grpc"), false),
        (ask(), false),
        (get("/shop.Orders/Get").with_header("content-type", "application/grpc"), false),
        (post("/shop.Orders/List").with_header("content-type", "application/grpc"), false),
    ];
    let mut seen = 0;
    for (ask, expected) in cases {
        assert_eq!(permits(&ask.judged(&policy, &peer("storefront"), &signed(alice()))), expected, "{seen}");
        seen += 1;
    }
    assert_eq!(seen, 8);
    let open = allow("open", vec![ANY_SERVICE, ANY_ROLE]);
    let denied = compile(with_rules(vec![open, calls(deny, vec![])]));
    let decision = ask().judged(&denied, &peer("storefront"), &signed(alice()));
    assert_eq!(causes(&decision), [Cause::DeniedByRule], "whatever its content type");
}

#[test]
fn a_role_may_ask_for_several_things_and_scopes_are_asked_for_sparingly() {
    let mut parts = tables();
    let scopes = |scopes: &[&str]| RoleEntry { scope: scopes.iter().map(|s| text(s)).collect(), ..entry(0) };
    parts.roles[0].entries = RoleEntries::AllOf(vec![scopes(&["b", "a"]), scopes(&["c"])]);
    parts.roles[1].entries = RoleEntries::AnyOf(vec![RoleEntry {
        actor_subject: globs(&["assistant-*"]),
        claim: vec![claim("tier", "gold")],
        ..entry(0)
    }]);
    parts.rules = vec![
        allow("scoped", vec![ANY_SERVICE, role(&[0]), paths(&["/s"])]),
        allow(
            "by actor",
            vec![ANY_SERVICE, role(&[1]), actor(&[Agent]), on_behalf_of(&[Human]), paths(&["/a"])],
        ),
    ];
    let policy = compile(parts);
    let with = |scopes: &[&str]| Caller { scopes: scopes.iter().map(|s| text(s)).collect(), ..alice() };
    let asked = |caller| challenge(&get("/s").judged(&policy, &peer("storefront"), &signed(caller)));
    assert_eq!(asked(with(&[])), Challenge::Scope(vec![text("a"), text("c")]));
    assert_eq!(asked(with(&["b"])), Challenge::Scope(vec![text("c")]));
    assert!(permits(&get("/s").judged(&policy, &peer("storefront"), &signed(with(&["a", "c"])))));
    assert!(permits(&get("/a").judged(&policy, &peer("assistant"), &signed(assistant()))));
    let mut other = assistant();
    other.chain[0].subject = text("someone");
    assert_eq!(causes(&get("/a").judged(&policy, &peer("assistant"), &signed(other))), [Cause::RoleMissing]);
}

#[test]
fn circumstances_are_judged_on_each_request() {
    let nets = vec!["10.0.0.0/8".parse().unwrap()];
    let inside = allow("inside", vec![ANY_SERVICE, ANY_ROLE, Condition::ClientIp(nets)]);
    let policy = compile(with_rules(vec![inside]));
    let mut seen = 0;
    for (ip, expected) in [("10.1.2.3", true), ("::ffff:10.1.2.3", true), ("11.0.0.1", false), ("::1", false)]
    {
        let ask = Ask { client_ip: Some(ip.parse().unwrap()), ..get("/") };
        let decision = ask.judged(&policy, &peer("storefront"), &signed(alice()));
        assert_eq!(permits(&decision), expected, "{ip}");
        seen += 1;
    }
    assert_eq!(seen, 4);
    let decision = get("/").judged(&policy, &peer("storefront"), &signed(alice()));
    assert_eq!(causes(&decision), [Cause::ServiceNotAllowed]);
    for (hop, expected) in [("front-lb", vec![Cause::ServiceNotAllowed]), ("direct", vec![])] {
        let hop = Condition::Hop(vec![text(hop)]);
        let policy = compile(with_rules(vec![allow("by hop", vec![ANY_SERVICE, ANY_ROLE, hop])]));
        let decision = get("/").judged(&policy, &peer("storefront"), &signed(alice()));
        assert_eq!(causes(&decision), expected);
    }
}

#[test]
fn a_dns_name_counts_only_under_its_own_trust_domain() {
    let mut parts = sample();
    let td = |text: &str| text.parse::<TrustDomain>().unwrap();
    parts.services[0].identities =
        vec![PeerPattern::Dns { name: "*.shop.example".parse().unwrap(), trust_domain: td("shop.example") }];
    let policy = compile(parts);
    let mut seen = 0;
    for (dns, domain, expected) in [
        ("web.shop.example", "shop.example", true),
        ("a.web.shop.example", "shop.example", false),
        ("*.shop.example", "shop.example", true),
        ("web.shop.example", "other.example", false),
    ] {
        let name = PeerName::Dns { names: vec![text(dns)], trust_domain: td(domain) };
        let Signature::Verified(model) = peer("x") else { panic!() };
        let peer = Signature::Verified(Arc::new(Peer { name, ..(*model).clone() }));
        assert_eq!(permits(&get(OWN).judged(&policy, &peer, &signed(alice()))), expected, "{dns} {domain}");
        seen += 1;
    }
    assert_eq!(seen, 4);
}

#[test]
fn of_a_thousand_rules_only_those_that_reach_a_request_are_looked_at() {
    let rules = (0..1000).map(|at| {
        let path = format!("/things/{at}/**");
        allow(&format!("thing {at}"), vec![ANY_SERVICE, ANY_ROLE, paths(&[path.as_str()])])
    });
    let policy = compile(with_rules(rules.collect()));
    let ask = get("/things/517/x");
    ask.asked(&peer("storefront"), &signed(alice()), |request| {
        let path: Vec<_> = request.action.path.segments().collect();
        let reached = policy.reached(&judge::Asked { request, path: &path }, RouteId(0));
        assert_eq!(reached.count_ones(..), 1);
    });
    let decision = ask.judged(&policy, &peer("storefront"), &signed(alice()));
    assert_eq!(rule_name(&policy, &decision), Some("thing 517"));
}
