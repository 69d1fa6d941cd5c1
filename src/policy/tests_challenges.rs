//! What one who is refused is told: the challenge, and the near miss of the record.

use std::time::Duration;

use ActorKind::{Service as ServiceKind, Unknown};

use super::fixture::*;
use super::*;
use crate::identity::*;

#[test]
fn the_record_of_a_denial_says_what_came_near_in_words() {
    let policy = compile(sample());
    let caller = Caller { scopes: vec![text("orders:write")], ..alice() };
    let decision = get(OWN).judged(&policy, &peer("storefront"), &signed(caller));
    let near_miss = decision.evidence.near_miss.clone().unwrap();
    assert_eq!(policy.rule(near_miss.rule).name, "people read their own orders through the storefront");
    let failure = &near_miss.failures[0];
    assert_eq!(failure.wanted, "role order-reader: scope orders:read or group support");
    assert_eq!(failure.seen, "the token has scope orders:write");
    assert_eq!(*decision.evidence.services, [name("storefront")]);
    assert_eq!(challenge(&decision), Challenge::Scope(vec![text("orders:read")]));
}

#[test]
fn challenges_name_the_one_thing_that_a_caller_can_mend() {
    let policy = compile(sample());
    let storefront = peer("storefront");
    let answer = |ask: Ask, peer: &Signature<Peer>, caller| challenge(&ask.judged(&policy, peer, &caller));
    assert_eq!(answer(get(OWN), &storefront, ABSENT), Challenge::Credentials);
    assert_eq!(answer(get(OWN), &NO_PEER, ABSENT), Challenge::Forbidden);
    assert_eq!(answer(get(OWN), &NO_PEER, signed(alice())), Challenge::Forbidden);
    let old = Caller { authenticated_at: Some(NOW.minus(Duration::from_secs(901))), ..alice() };
    let step_up =
        Challenge::StepUp { acr_values: vec![text("mfa")], max_age: Some(Duration::from_secs(900)) };
    assert_eq!(answer(post(REFUND), &storefront, signed(old.clone())), step_up);
    let also_no_scope = Caller { scopes: vec![], ..old };
    let scope = Challenge::Scope(vec![text("orders:read")]);
    assert_eq!(answer(post(REFUND), &storefront, signed(also_no_scope)), scope, "the allow comes first");
    let two = Caller { scopes: vec![], actor: ServiceKind, ..alice() };
    assert_eq!(answer(get(OWN), &storefront, signed(two)), Challenge::Forbidden);
    let denied = Caller { actor: Unknown, ..alice() };
    assert_eq!(answer(post(REFUND), &storefront, signed(denied)), Challenge::Forbidden);
}

#[test]
fn a_challenge_is_not_given_where_mending_it_would_not_help() {
    let rules = vec![
        allow("read", vec![ANY_SERVICE, role(&[0])]),
        deny("closed", vec![paths(&["/closed"])]),
        require("one", vec![paths(&["/r"]), Condition::Acr(vec![text("hwk")])]),
        require("two", vec![paths(&["/r"]), service(&[1])]),
    ];
    let policy = compile(with_rules(rules));
    let no_scope = Caller { scopes: vec![], ..alice() };
    let answer = |path: &str, peer: &str, caller: &Caller| {
        challenge(&get(path).judged(&policy, &super::fixture::peer(peer), &signed(caller.clone())))
    };
    let scope = Challenge::Scope(vec![text("orders:read")]);
    assert_eq!(answer("/x", "storefront", &no_scope), scope);
    assert_eq!(answer("/x", "assistant", &no_scope), Challenge::Forbidden, "not this service's token");
    assert_eq!(answer("/closed", "storefront", &no_scope), Challenge::Forbidden, "denied in any case");
    assert_eq!(answer("/x", "nobody", &no_scope), Challenge::Forbidden, "an unnamed peer");
    assert_eq!(answer("/r", "storefront", &alice()), Challenge::Forbidden, "two requires are unmet");
    let decision = get("/r").judged(&policy, &peer("storefront"), &signed(alice()));
    assert_eq!(causes(&decision), [Cause::RequirementUnmet, Cause::StepUpRequired]);
    assert_eq!(rule_name(&policy, &decision), Some("one"));
}

#[test]
fn an_unknown_route_is_told_only_to_who_has_both_signatures() {
    let policy = compile(sample());
    let ask = Ask { host: "other.shop.example", ..get(OWN) };
    let cases = [
        (peer("storefront"), signed(alice()), vec![Cause::NoRoute], Challenge::NotFound),
        (peer("storefront"), ABSENT, vec![Cause::TokenMissing, Cause::NoRoute], Challenge::Credentials),
        (NO_PEER, signed(alice()), vec![Cause::PeerMissing, Cause::NoRoute], Challenge::Forbidden),
        (peer("nobody"), signed(alice()), vec![Cause::PeerUnknown, Cause::NoRoute], Challenge::Forbidden),
        (
            NO_PEER,
            ABSENT,
            vec![Cause::PeerMissing, Cause::TokenMissing, Cause::NoRoute],
            Challenge::Forbidden,
        ),
        (
            peer("assistant"),
            signed(alice()),
            vec![Cause::TokenNotIssuedToService, Cause::NoRoute],
            Challenge::Forbidden,
        ),
    ];
    let mut seen = 0;
    for (peer, caller, expected, answer) in cases {
        let decision = ask.judged(&policy, &peer, &caller);
        assert_eq!(causes(&decision), expected);
        assert_eq!(challenge(&decision), answer);
        seen += 1;
    }
    assert_eq!(seen, 6);
    // where no rule wants a certificate, known routes ask for a token, and so does an unknown one
    let policy = compile(with_rules(vec![allow("people", vec![NO_SERVICE, role(&[0])])]));
    for host in ["orders.shop.example", "other.shop.example"] {
        let ask = Ask { host, ..get(OWN) };
        assert_eq!(challenge(&ask.judged(&policy, &NO_PEER, &ABSENT)), Challenge::Credentials, "{host}");
    }
    let decision = ask.judged(&policy, &NO_PEER, &signed(alice()));
    assert_eq!(challenge(&decision), Challenge::Forbidden, "one signature is not both");
}
