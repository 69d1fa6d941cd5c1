//! Where a rule or a table lists several things, any one of them is enough, or all are wanted: each kind of
//! list with a request that has one of the two.

use super::condition::RoleTerm;
use super::fixture::*;
use super::role::{CarriedClients, PeerPattern, RoleEntries, RoleEntry};
use super::*;
use crate::identity::{Caller, Delegate, Hop, PeerName};

fn permits(parts: PolicyParts, ask: &Ask, caller: Caller) -> bool {
    let policy = compile(parts);
    let decision = ask.judged(&policy, &peer("storefront"), &signed(caller));
    matches!(decision.verdict, Verdict::Permit(_))
}

#[test]
fn one_of_what_a_condition_lists_is_enough_but_of_claims_and_all_roles() {
    let words = |words: &[&str]| words.iter().map(|word| text(word)).collect::<Vec<_>>();
    let nets = || vec!["192.0.2.0/24".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
    let hop = |names: &[&str]| Condition::Hop(words(names));
    let all_of = |ids: &[u32]| Condition::Role(RoleTerm::AllOf(ids.iter().map(|id| RoleId(*id)).collect()));
    let own = |segments: &[&str]| {
        let tests = segments.iter().flat_map(|segment| match match_claim(segment, "sub") {
            Condition::MatchClaim(tests) => tests,
            _ => unreachable!(),
        });
        Condition::MatchClaim(tests.collect())
    };
    // each in a rule for any service and any role, where it says nothing of these
    let cases = [
        (vec![service(&[1, 0])], true),
        (vec![service(&[1])], false),
        (vec![role(&[1, 0])], true),
        (vec![role(&[1])], false),
        (vec![all_of(&[0])], true),
        (vec![all_of(&[1, 0])], false),
        (vec![Condition::Claim(vec![claim("tier", "gold"), claim("sub", "alice")])], true),
        (vec![Condition::Claim(vec![claim("tier", "gold"), claim("sub", "bob")])], false),
        (vec![Condition::Acr(words(&["pwd", "mfa"]))], true),
        (vec![Condition::Acr(words(&["pwd"]))], false),
        (vec![paths(&["/{c}", "/x/{c}"]), own(&["c"])], true),
        (vec![paths(&["/{c}/{d}"]), own(&["d"])], true),
        (vec![paths(&["/{c}/{d}"]), own(&["d", "c"])], false),
        (vec![hop(&["front", "direct"])], true),
        (vec![hop(&["front"])], false),
        (vec![Condition::PeerIp(nets())], true),
        (vec![Condition::ClientIp(nets())], true),
        (vec![Condition::ClientIp(nets()[..1].to_vec())], false),
    ];
    let mut seen = 0;
    for (mut conditions, expected) in cases {
        for (key, any) in [("service", ANY_SERVICE), ("role", ANY_ROLE)] {
            if !conditions.iter().any(|condition| condition.key() == key) {
                conditions.push(any);
            }
        }
        let ask = Ask { client_ip: Some("10.1.2.3".parse().unwrap()), ..get("/x/alice") };
        let parts = with_rules(vec![allow("a", conditions.clone())]);
        assert_eq!(permits(parts, &ask, alice()), expected, "{conditions:?}");
        seen += 1;
    }
    assert_eq!(seen, 18);
    for (named, expected) in [(&[1, 0][..], true), (&[1], false)] {
        let mut parts = with_rules(vec![allow("a", vec![ANY_SERVICE, ANY_ROLE, route(named)])]);
        parts.routes.push(route::Route { path: "/other/**".parse().unwrap(), ..parts.routes[0].clone() });
        assert_eq!(permits(parts, &get("/x"), alice()), expected, "{named:?}");
    }
}

#[test]
fn one_of_what_a_role_lists_is_enough_and_what_the_caller_lacks_is_none() {
    let bare = || Caller { subject: None, client: None, scopes: vec![], ..alice() };
    let grouped = || Caller { groups: vec![text("a"), text("b")], ..alice() };
    let acted = |chain: &[(&str, Option<&str>)]| {
        let chain = chain
            .iter()
            .map(|(subject, issuer)| Delegate { subject: text(subject), issuer: issuer.map(text) });
        let mut caller = Caller { chain: chain.collect(), ..alice() };
        caller.claims.insert("iss".into(), "corp".into());
        caller
    };
    let cases = [
        (RoleEntry { subject: globs(&["bob", "alice"]), ..entry(0) }, alice(), true),
        (RoleEntry { subject: globs(&["bob"]), ..entry(0) }, alice(), false),
        (RoleEntry { subject: globs(&["alice"]), ..entry(0) }, bare(), false),
        (RoleEntry { group: vec![text("x"), text("b")], ..entry(0) }, grouped(), true),
        (RoleEntry { group: vec![text("x")], ..entry(0) }, grouped(), false),
        (RoleEntry { actor_subject: globs(&["x", "bot"]), ..entry(0) }, acted(&[("bot", None)]), true),
        (RoleEntry { actor_subject: globs(&["bot"]), ..entry(0) }, acted(&[("bot", Some("corp"))]), true),
        (RoleEntry { actor_subject: globs(&["bot"]), ..entry(0) }, acted(&[("bot", Some("else"))]), false),
        (
            RoleEntry { actor_subject: globs(&["bot"]), ..entry(0) },
            acted(&[("x", None), ("bot", None)]),
            false,
        ),
        (
            RoleEntry { actor_subject: globs(&["bot"]), ..entry(0) },
            acted(&[("bot", None), ("x", None)]),
            true,
        ),
        (RoleEntry { scope: vec![text("x"), text("orders:read")], ..entry(0) }, alice(), true),
        (RoleEntry { claim: vec![claim("tier", "gold"), claim("sub", "alice")], ..entry(0) }, alice(), true),
        (RoleEntry { claim: vec![claim("tier", "gold"), claim("sub", "bob")], ..entry(0) }, alice(), false),
    ];
    let mut seen = 0;
    for (entry, caller, expected) in cases {
        let kinds = [crate::identity::ActorKind::Human];
        let acts = vec![ANY_SERVICE, role(&[0]), actor(&kinds), on_behalf_of(&kinds)];
        let mut parts = with_rules(vec![allow("a", acts)]);
        parts.services[0].clients = CarriedClients::Any;
        parts.roles[0].entries = RoleEntries::AnyOf(vec![entry.clone()]);
        assert_eq!(permits(parts, &get("/"), caller), expected, "{entry:?}");
        seen += 1;
    }
    assert_eq!(seen, 13);
}

#[test]
fn one_of_what_a_service_lists_is_enough() {
    let open = || with_rules(vec![allow("a", vec![service(&[0]), ANY_ROLE])]);
    let mut parts = open();
    let other = "spiffe://shop.example/ns/prod/sa/other".parse().unwrap();
    parts.services[0].identities.insert(0, PeerPattern::Spiffe(other));
    parts.services[0].clients = carries(&["another", "storefront-web"]);
    assert!(permits(parts, &get("/"), alice()));

    let mut parts = open();
    let trust_domain: crate::identity::TrustDomain = "shop.example".parse().unwrap();
    let name = "web.shop.example".parse().unwrap();
    parts.services[0].identities = vec![PeerPattern::Dns { name, trust_domain: trust_domain.clone() }];
    let names = vec![text("mail.shop.example"), text("web.shop.example")];
    let peer = crate::identity::Peer {
        name: PeerName::Dns { names, trust_domain },
        certificate: crate::identity::CertificateHash([1; 32]),
        not_after: NOW.plus(std::time::Duration::from_secs(60)),
        hop: Hop::Direct,
    };
    let peer = crate::identity::Signature::Verified(std::sync::Arc::new(peer));
    let decision = get("/").judged(&compile(parts), &peer, &signed(alice()));
    assert!(matches!(decision.verdict, Verdict::Permit(_)));
}

/// What waives a token opens a way around a deny that reads one, wherever both can hold.
#[test]
fn two_lists_meet_where_any_of_their_members_do() {
    let trust_domain = |name: &str| -> crate::identity::TrustDomain { name.parse().unwrap() };
    let workload = |of: &str| PeerPattern::Spiffe(format!("spiffe://{of}").parse().unwrap());
    let dns = |domain: &str| PeerPattern::Dns {
        name: "web.shop.example".parse().unwrap(),
        trust_domain: trust_domain(domain),
    };
    let named = |one: Vec<PeerPattern>, other: Vec<PeerPattern>| (service(&[0]), service(&[1]), one, other);
    let of = |one: Condition, other: Condition| (one, other, vec![workload("a/x")], vec![workload("a/y")]);
    let cases = [
        (of(hosts(&["a.example", "b.example"]), hosts(&["c.example", "b.example"])), true),
        (of(hosts(&["a.example", "b.example"]), hosts(&["c.example", "d.example"])), false),
        (of(methods(&["GET", "PUT"]), methods(&["POST", "PUT"])), true),
        (of(methods(&["GET", "PUT"]), methods(&["POST", "PATCH"])), false),
        (of(paths(&["/a", "/b"]), paths(&["/c", "/b"])), true),
        (of(paths(&["/a", "/b"]), paths(&["/c", "/d"])), false),
        (of(route(&[0, 1]), route(&[2, 1])), true),
        (of(route(&[0]), route(&[2, 1])), false),
        (of(service(&[0, 1]), service(&[1])), true),
        (of(service(&[1]), service(&[0, 1])), true),
        (of(service(&[0]), service(&[1])), false),
        (named(vec![workload("a/x"), workload("a/y")], vec![workload("a/z"), workload("a/y")]), true),
        (named(vec![workload("a/x"), workload("a/y")], vec![workload("a/z")]), false),
        (named(vec![workload("a/*/x")], vec![workload("a/y/*")]), true),
        (named(vec![workload("a/*/x")], vec![workload("b/*/x")]), false),
        (named(vec![dns("a")], vec![dns("a")]), true),
        (named(vec![dns("a")], vec![dns("b")]), false),
        (named(vec![dns("a")], vec![workload("a/**")]), false),
        (named(vec![workload("a/**")], vec![dns("a")]), false),
    ];
    let mut seen = 0;
    for ((one, other, ours, theirs), expected) in cases {
        let waives: &[Condition] = if one.key() == "service" { &[] } else { &[NO_SERVICE] };
        let open = allow("open", [&[NO_ROLE, one.clone()], waives].concat());
        let stop = deny("stop", vec![actor(&[crate::identity::ActorKind::Agent]), other.clone()]);
        let mut parts = with_rules(vec![open, stop]);
        parts.services[0].identities = ours;
        parts.services[1].identities = theirs;
        parts.routes[0].host.clear();
        for path in if one.key() == "route" { &["/r1/**", "/r2/**"][..] } else { &[] } {
            parts.routes.push(route::Route { path: path.parse().unwrap(), ..parts.routes[0].clone() });
        }
        let evadable: &[&str] = if expected { &["deny_evadable"] } else { &[] };
        assert_eq!(error_codes(parts), evadable, "{one:?} {other:?} {seen}");
        seen += 1;
    }
    assert_eq!(seen, 19);
}

/// A challenge names what would be enough, so nothing else may be missing.
#[test]
fn a_better_login_is_asked_for_only_where_all_else_is_there() {
    let asked = |conditions: Vec<Condition>| {
        let policy = compile(with_rules(vec![allow("a", conditions)]));
        challenge(&get("/").judged(&policy, &peer("storefront"), &signed(alice())))
    };
    let acr = || Condition::Acr(vec![text("hardware")]);
    assert!(matches!(asked(vec![ANY_SERVICE, ANY_ROLE, acr()]), Challenge::StepUp { .. }));
    assert!(matches!(asked(vec![ANY_SERVICE, ANY_ROLE, acr(), max_age(5)]), Challenge::StepUp { .. }));
    assert_eq!(asked(vec![ANY_SERVICE, role(&[1]), acr()]), Challenge::Forbidden);

    let scope = || RoleEntry { scope: vec![text("a")], ..entry(0) };
    let mut parts = with_rules(vec![allow("a", vec![ANY_SERVICE, role(&[0])])]);
    parts.roles[0].entries = RoleEntries::AllOf(vec![scope(), scope()]);
    let decision = get("/").judged(&compile(parts), &peer("storefront"), &signed(alice()));
    assert_eq!(challenge(&decision), Challenge::Scope(vec![text("a")]));
}

/// What an unknown route asks of a stranger is what any of the allows wants.
#[test]
fn one_allow_that_wants_a_certificate_is_enough_to_ask_for_it() {
    let waives = allow("health", vec![NO_SERVICE, NO_ROLE, paths(&["/health"])]);
    let policy = compile(with_rules(vec![waives, allow("a", vec![ANY_SERVICE, ANY_ROLE])]));
    let ask = Ask { host: "other.shop.example", ..get("/") };
    let absent = (crate::identity::Signature::Absent, crate::identity::Signature::Absent);
    let decision = ask.judged(&policy, &absent.0, &absent.1);
    assert_eq!(causes(&decision), [Cause::PeerMissing, Cause::TokenMissing, Cause::NoRoute]);
}

#[test]
fn a_rule_is_for_what_any_of_its_paths_and_hosts_reach() {
    let orders = |conditions: Vec<Condition>| {
        let mut parts = with_rules(vec![allow("a", [vec![ANY_SERVICE, ANY_ROLE], conditions].concat())]);
        parts.routes[0].path = "/orders/**".parse().unwrap();
        error_codes(parts)
    };
    assert!(orders(vec![paths(&["/x", "/orders/7"])]).is_empty());
    assert_eq!(orders(vec![paths(&["/x", "/y"])]), ["never_holds"]);
    assert!(orders(vec![hosts(&["x.example", "orders.shop.example"])]).is_empty());
    assert_eq!(orders(vec![hosts(&["x.example", "y.example"])]), ["never_holds"]);
}
