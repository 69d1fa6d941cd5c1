//! What changes with time and with the mode of a rule: shadow, standings, permits.

use std::time::Duration;

use super::fixture::*;
use super::rule::Mode;
use super::*;
use crate::identity::*;

#[test]
fn shadow_rules_say_what_they_would_do_and_do_nothing() {
    let shadow = |rule: super::rule::Rule| super::rule::Rule { mode: Mode::Shadow, ..rule };
    let mut parts = sample();
    parts.rules.push(shadow(allow("later", vec![ANY_SERVICE, ANY_ROLE, paths(&["/later"])])));
    parts.rules.push(shadow(deny("soon", vec![service(&[0]), paths(&[ORDERS])])));
    let policy = compile(parts);
    let (front, caller) = (peer("storefront"), signed(alice()));
    let decision = get(OWN).judged(&policy, &front, &caller);
    assert!(permits(&decision));
    assert_eq!(decision.evidence.shadow, [ShadowVerdict::WouldDeny(RuleId(6))]);
    let decision = get("/later").judged(&policy, &front, &caller);
    assert_eq!(causes(&decision), [Cause::NoRule]);
    assert_eq!(decision.evidence.shadow, [ShadowVerdict::WouldAllow(RuleId(5))]);

    let mut parts = sample();
    parts.rules.push(shadow(require("stronger", vec![paths(&[ORDERS]), acr("hwk")])));
    let policy = compile(parts);
    for (acr, shadow) in [("mfa", vec![ShadowVerdict::WouldDeny(RuleId(5))]), ("hwk", vec![])] {
        let caller = signed(Caller { acr: Some(text(acr)), ..alice() });
        let decision = get(OWN).judged(&policy, &front, &caller);
        assert!(permits(&decision));
        assert_eq!(decision.evidence.shadow, shadow);
    }
}

fn acr(value: &str) -> condition::Condition {
    condition::Condition::Acr(vec![text(value)])
}

#[test]
fn what_a_require_demands_is_not_met_by_nobody() {
    let policy = compile(with_rules(vec![
        allow("health", vec![NO_SERVICE, NO_ROLE, paths(&["/health"])]),
        require("strong", vec![paths(&["/health"]), acr("hwk")]),
    ]));
    for (peer, caller, expected) in [
        (NO_PEER, ABSENT, vec![Cause::TokenMissing, Cause::RequirementUnmet]),
        (NO_PEER, signed(alice()), vec![Cause::StepUpRequired]),
        (NO_PEER, signed(Caller { acr: Some(text("hwk")), ..alice() }), vec![]),
    ] {
        assert_eq!(causes(&get("/health").judged(&policy, &peer, &caller)), expected);
    }
}

#[test]
fn a_route_in_shadow_waives_the_allow_and_nothing_else() {
    let mut parts = sample();
    parts.routes[0].shadow_until = Some(NOW.plus(Duration::from_secs(60)));
    let policy = compile(parts);
    let unenforced = |ask: Ask, peer: Signature<Peer>, caller: Signature<Caller>| {
        let decision = ask.judged(&policy, &peer, &caller);
        match &decision.verdict {
            Verdict::Permit(permit) => {
                assert!(!permit.enforced());
                let ShadowVerdict::Unenforced(causes) = decision.evidence.shadow[0].clone() else { panic!() };
                Some(causes)
            }
            Verdict::Denial(_) => None,
        }
    };
    let front = || peer("storefront");
    assert_eq!(unenforced(get("/x"), front(), signed(alice())), Some(vec![Cause::NoRule]));
    assert_eq!(unenforced(get(OWN), front(), ABSENT), Some(vec![Cause::TokenMissing]));
    assert_eq!(unenforced(get(OWN), NO_PEER, signed(alice())), Some(vec![Cause::PeerMissing]));
    assert_eq!(unenforced(get(OWN), peer("nobody"), signed(alice())), Some(vec![Cause::PeerUnknown]));
    assert_eq!(unenforced(get(OWN), peer("assistant"), signed(alice())), None, "token mapping");
    assert_eq!(unenforced(post("/x"), peer("assistant"), signed(assistant())), None, "deny");
    assert_eq!(unenforced(post(REFUND), front(), ABSENT), None, "require");
    let trace = Ask { method: "TRACE", ..get("/x") };
    assert_eq!(unenforced(trace, front(), signed(alice())), None);
    let over = Ask { now: NOW.plus(Duration::from_secs(60)), ..get("/x") };
    assert_eq!(unenforced(over, front(), signed(alice())), None);
    let decision = get(OWN).judged(&policy, &front(), &signed(alice()));
    assert!(matches!(&decision.verdict, Verdict::Permit(permit) if permit.enforced()));
}

#[test]
fn identity_decides_where_and_the_permit_ends_with_what_it_rests_on() {
    let policy = compile(sample());
    let permit = |caller: Caller| match get(OWN).judged(&policy, &peer("storefront"), &signed(caller)).verdict
    {
        Verdict::Permit(permit) => permit,
        Verdict::Denial(denial) => panic!("{denial:?}"),
    };
    assert_eq!(permit(alice()).upstream(), UpstreamId(0));
    assert_eq!(permit(Caller { groups: vec![text("beta")], ..alice() }).upstream(), UpstreamId(1));
    assert_eq!(permit(alice()).deadline(), alice().expires);
    assert_eq!(permit(alice()).policy(), HASH);

    let after = |seconds| NOW.plus(Duration::from_secs(seconds));
    let cases = [
        // token, rule, shadow: the first of them that counts
        (3_600, 60, None, 60),
        (30, 60, None, 30),
        (9_999, 9_999, None, 7_200), // the certificate
        (30, 60, Some(20), 30),      // enforced: the rule permits
        (3_600, 0, Some(60), 60),
        (30, 0, Some(60), 30),
    ];
    let mut seen = 0;
    for (token, rule, shadow, expected) in cases {
        let mut parts = tables();
        let mut read = allow("read", vec![ANY_SERVICE, ANY_ROLE]);
        read.expires = after(rule);
        parts.rules = vec![read];
        parts.routes[0].shadow_until = shadow.map(after);
        let policy = compile(parts);
        let caller = signed(Caller { expires: after(token), ..alice() });
        match get(OWN).judged(&policy, &peer("storefront"), &caller).verdict {
            Verdict::Permit(permit) => assert_eq!(permit.deadline(), after(expected)),
            Verdict::Denial(denial) => panic!("{denial:?}"),
        }
        seen += 1;
    }
    assert_eq!(seen, 6);
}

#[test]
fn a_standing_ends_at_the_first_moment_that_could_change_it() {
    let mut parts = sample();
    let later = NOW.plus(Duration::from_secs(30));
    let mut rule = allow("from tomorrow", vec![ANY_SERVICE, ANY_ROLE, paths(&["/x"])]);
    (rule.not_before, rule.expires) = (later, later.plus(Duration::from_secs(10)));
    parts.rules.push(rule);
    let policy = compile(parts);
    let (front, caller) = (peer("storefront"), signed(alice()));
    let ends = |at| policy.standing(&front, &caller, at).valid_until();
    assert_eq!(ends(NOW), later);
    assert_eq!(ends(later), later.plus(Duration::from_secs(10)));
    let login_ages = NOW.plus(Duration::from_secs(840)).plus(Duration::from_millis(1));
    assert_eq!(ends(later.plus(Duration::from_secs(10))), login_ages);
    assert_eq!(ends(login_ages), alice().expires);
    for (seconds, expected) in [(29, false), (30, true), (39, true), (40, false)] {
        let ask = Ask { now: NOW.plus(Duration::from_secs(seconds)), ..get("/x") };
        assert_eq!(permits(&ask.judged(&policy, &front, &caller)), expected, "{seconds}");
    }
    for (age, expected) in [(900, true), (901, false), (-1, false)] {
        let at = crate::clock::Timestamp::from_unix_seconds(NOW.unix_seconds() - age);
        let caller = Caller { authenticated_at: Some(at), ..alice() };
        assert_eq!(permits(&post(REFUND).judged(&policy, &front, &signed(caller))), expected, "{age}");
    }
}

#[test]
fn a_login_that_lies_ahead_counts_from_its_moment() {
    let policy = compile(sample());
    let soon = NOW.plus(Duration::from_secs(5));
    let caller = signed(Caller { authenticated_at: Some(soon), ..alice() });
    assert_eq!(policy.standing(&peer("storefront"), &caller, NOW).valid_until(), soon);
    for (now, expected) in [(NOW, false), (soon, true)] {
        let ask = Ask { now, ..post(REFUND) };
        assert_eq!(permits(&ask.judged(&policy, &peer("storefront"), &caller)), expected);
    }
}

#[test]
fn a_standing_of_another_policy_is_not_believed() {
    let strict = compile(with_rules(vec![allow("read", vec![ANY_SERVICE, role(&[1])])]));
    let open = with_rules(vec![allow("read", vec![ANY_SERVICE, ANY_ROLE])]);
    let (open, _) = Policy::compile(open, PolicyHash([9; 32]), NOW).unwrap();
    let (front, caller) = (peer("storefront"), signed(alice()));
    let stale = open.standing(&front, &caller, NOW);
    let decision = get("/x").asked(&front, &caller, |request| decide(&strict, &stale, request));
    assert_eq!(causes(&decision), [Cause::RoleMissing]);
}
