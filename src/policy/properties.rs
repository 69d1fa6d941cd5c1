//! What holds for every policy: the indexes agree with a plain reading of the rules, order never
//! matters, taking an allow away never permits more, and leaving a credential away never helps.

use proptest::prelude::*;

use ActorKind::{Agent, Human, Unknown};

use super::condition::{RoleTerm, ServiceTerm};
use super::fixture::*;
use super::rule::{Effect, Mode, Rule};
use super::*;
use crate::clock::Timestamp;
use crate::identity::*;

/// One choice for each condition; `None` leaves it out.
fn conditions() -> impl Strategy<Value = Vec<Condition>> {
    let path = prop::sample::select(vec!["/a", "/a/**", "/{c}/b", "/*", "/**", "/a/{c}/**"]);
    let method = prop::sample::select(vec!["GET", "POST", "HEAD", "PURGE"]);
    let kinds = prop::sample::select(vec![vec![Human], vec![Agent], vec![Agent, Unknown], vec![Unknown]]);
    let host = prop::sample::select(vec!["a.example", "b.example", "*.example"]);
    let choices = (
        prop::option::of(prop::collection::vec(path, 1..3)),
        prop::option::of(prop::collection::vec(method, 1..3)),
        prop::option::of(kinds.clone()),
        prop::option::of(kinds),
        prop::option::of(prop::collection::vec(host, 1..3)),
        prop::option::of(Just("tier")),
        prop::option::of(Just(600)),
        prop::option::weighted(0.2, Just("shop.Orders/*")),
    );
    choices.prop_map(|(path, method, kinds, behalf, host, tier, age, rpc)| {
        let mut found = Vec::new();
        found.extend(path.map(|path| paths(&path)));
        found.extend(method.map(|method| methods(&method)));
        found.extend(kinds.map(|kinds| actor(&kinds)));
        found.extend(behalf.map(|kinds| on_behalf_of(&kinds)));
        found.extend(host.map(|host| hosts(&host)));
        found.extend(tier.map(|tier| Condition::Claim(vec![claim(tier, "gold")])));
        found.extend(age.map(max_age));
        found.extend(rpc.map(|rpc| grpc(&[rpc])));
        found
    })
}

pub(super) fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let service = prop::sample::select(vec![ANY_SERVICE, NO_SERVICE, service(&[0]), service(&[0, 1])]);
    let role = prop::sample::select(vec![ANY_ROLE, NO_ROLE, role(&[0]), role(&[0, 1])]);
    let effect = prop::sample::select(vec![
        Effect::Allow,
        Effect::Allow,
        Effect::Allow,
        Effect::Deny,
        Effect::Require,
    ]);
    let one = (effect, service, role, conditions(), prop::bool::weighted(0.1), 0..4_i64).prop_map(
        |(effect, service, role, mut conditions, shadow, ends)| {
            conditions.extend([service, role]);
            let mut rule = rule(effect, "", conditions);
            rule.mode = if shadow { Mode::Shadow } else { Mode::Enforce };
            if effect == Effect::Allow && ends == 0 {
                rule.expires = NOW;
            }
            rule
        },
    );
    prop::collection::vec(one, 0..12).prop_map(|mut rules| {
        rules.iter_mut().enumerate().for_each(|(at, rule)| rule.name = format!("rule {at:02}"));
        rules
    })
}

pub(super) fn request() -> impl Strategy<Value = (Signature<Peer>, Signature<Caller>, Ask)> {
    let peers = prop::sample::select(vec![
        Signature::Absent,
        peer("storefront"),
        peer("storefront"),
        peer("assistant"),
        peer("nobody"),
    ]);
    let direct = Caller { client: Some(text("assistant-1")), ..alice() };
    let callers = prop::sample::select(vec![
        Signature::Absent,
        signed(alice()),
        signed(assistant()),
        signed(direct),
        signed(Caller { actor: Unknown, ..alice() }),
        signed(Caller { scopes: vec![], groups: vec![text("beta")], ..alice() }),
        signed(Caller { authenticated_at: None, claims: Default::default(), ..alice() }),
    ]);
    let path = prop::sample::select(vec!["/", "/a", "/a/", "/a/b", "/x/b", "/a/x/y", "/shop.Orders/Get"]);
    let method = prop::sample::select(vec!["GET", "HEAD", "POST", "PURGE", "TRACE"]);
    let host = prop::sample::select(vec!["a.example", "b.example", "c.example"]);
    (peers, callers, path, method, host, any::<bool>()).prop_map(|(peer, caller, path, method, host, rpc)| {
        let ask = Ask { method, host, ..get(path) };
        let ask = if rpc { ask.with_header("content-type", "application/grpc") } else { ask };
        (peer, caller, ask)
    })
}

/// Without the checks: what a policy means does not hang on whether it is a sensible one.
pub(super) fn unchecked(rules: Vec<Rule>) -> Policy {
    let mut parts = with_rules(rules);
    parts.routes[0].host = vec![];
    Policy::compile_unchecked(parts, HASH)
}

fn permitted(policy: &Policy, peer: &Signature<Peer>, caller: &Signature<Caller>, ask: &Ask) -> bool {
    matches!(ask.judged(policy, peer, caller).verdict, Verdict::Permit(_))
}

/// The rule language, read off the documentation and evaluated rule by rule, condition by condition.
fn plainly_permitted(parts: &PolicyParts, ask: &Ask, peer: Option<&Peer>, caller: Option<&Caller>) -> bool {
    let services: Vec<usize> = match peer {
        Some(peer) => (0..parts.services.len()).filter(|at| parts.services[*at].names(peer)).collect(),
        None => vec![],
    };
    if peer.is_some() && services.is_empty() {
        return false;
    }
    let issuer = Some(IssuerId(0));
    if caller.is_some_and(|caller| services.iter().any(|at| !parts.services[*at].carries(issuer, caller))) {
        return false;
    }
    if ask.method == "TRACE" || ask.method == "CONNECT" {
        return false;
    }
    let path = NormalPath::parse(&ask.path).unwrap();
    let segments: Vec<_> = path.segments().collect();
    let is_grpc = ask.headers.contains_key("content-type");
    let method = http::Method::from_bytes(ask.method.as_bytes()).unwrap();
    let reach = |effect: Effect, condition: &Condition| match condition {
        Condition::Host(hosts) => hosts.iter().any(|host| host.matches(&ask.host.parse().unwrap())),
        Condition::Method(set) => set.contains(&method),
        Condition::Path(patterns) => patterns.iter().any(|pattern| pattern.matches(&segments)),
        Condition::Grpc(calls) => {
            ask.method == "POST"
                && (effect != Effect::Allow || is_grpc)
                && calls.iter().any(|call| call.path().matches(&segments))
        }
        _ => true,
    };
    let identity = |effect: Effect, condition: &Condition| match condition {
        Condition::Service(ServiceTerm::Any) => !services.is_empty(),
        Condition::Service(ServiceTerm::None) => effect == Effect::Allow || peer.is_none(),
        Condition::Service(ServiceTerm::Named(ids)) => ids.iter().any(|id| services.contains(&id.index())),
        Condition::Role(RoleTerm::None) => effect == Effect::Allow || caller.is_none(),
        Condition::Role(RoleTerm::Any) => caller.is_some(),
        Condition::Role(RoleTerm::AnyOf(ids)) => {
            caller.is_some_and(|c| ids.iter().any(|id| parts.roles[id.index()].holds(IssuerId(0), c)))
        }
        Condition::Actor(kinds) => caller.is_some_and(|c| {
            kinds.contains(&c.actor)
                || (effect == Effect::Deny && c.actor == Unknown && kinds.contains(&Agent))
        }),
        Condition::OnBehalfOf(kinds) => caller.is_some_and(|c| kinds.contains(&c.on_behalf_of)),
        Condition::Claim(_) => caller.is_some_and(|c| c.claims.get("tier") == Some(&"gold".into())),
        Condition::MaxAge(age) => {
            caller.and_then(|c| c.authenticated_at).is_some_and(|at| NOW.since(at) <= *age)
        }
        _ => true,
    };
    let all = |rule: &Rule, test: &dyn Fn(Effect, &Condition) -> bool| {
        rule.conditions.iter().all(|condition| test(rule.effect, condition))
    };
    let names_agents = |rule: &Rule| {
        let states = |key: &str| rule.conditions.iter().any(|condition| condition.key() == key);
        let waived = rule.role() == Some(&RoleTerm::None);
        caller.is_none_or(|c| {
            let acts = !c.chain.is_empty();
            waived
                || if states("actor") { !acts || states("on_behalf_of") } else { !acts && c.actor != Agent }
        })
    };
    let enforced = |effect: Effect| {
        parts.rules.iter().filter(move |rule| rule.effect == effect && rule.mode == Mode::Enforce)
    };
    let denied = enforced(Effect::Deny).any(|rule| all(rule, &reach) && all(rule, &identity));
    let unmet = enforced(Effect::Require).any(|rule| all(rule, &reach) && !all(rule, &identity));
    let allowed = enforced(Effect::Allow)
        .any(|rule| all(rule, &reach) && all(rule, &identity) && names_agents(rule) && NOW < rule.expires);
    allowed && !denied && !unmet
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_indexes_agree_with_a_plain_reading(rules in rules(), (peer, caller, ask) in request()) {
        let policy = unchecked(rules);
        let plainly = plainly_permitted(
            policy.parts(), &ask, peer.verified().map(|p| &**p), caller.verified().map(|c| &**c),
        );
        prop_assert_eq!(permitted(&policy, &peer, &caller, &ask), plainly);
    }

    #[test]
    fn the_order_of_rules_never_matters(rules in rules(), (peer, caller, ask) in request()) {
        let mut turned = rules.clone();
        turned.reverse();
        let (one, other) = (unchecked(rules), unchecked(turned));
        let (a, b) = (ask.judged(&one, &peer, &caller), ask.judged(&other, &peer, &caller));
        prop_assert_eq!(causes(&a), causes(&b));
        let named = |policy: &Policy, decision: &Decision| {
            let near = decision.evidence.near_miss.as_ref().map(|near| near.rule);
            [decision.evidence.rule, near].map(|id| id.map(|id| policy.rule(id).name.clone()))
        };
        prop_assert_eq!(named(&one, &a), named(&other, &b));
    }

    #[test]
    fn taking_an_allow_away_never_permits_more(
        rules in rules(), which in any::<prop::sample::Index>(), (peer, caller, ask) in request(),
    ) {
        let mut fewer = rules.clone();
        if !fewer.is_empty() {
            let at = which.index(fewer.len());
            if fewer[at].effect == Effect::Allow {
                fewer.remove(at);
            }
        }
        prop_assert!(
            !permitted(&unchecked(fewer), &peer, &caller, &ask)
                || permitted(&unchecked(rules), &peer, &caller, &ask)
        );
    }

    #[test]
    fn a_deny_or_a_require_more_never_permits_more(
        rules in rules(), more in rules(), (peer, caller, ask) in request(),
    ) {
        let mut stricter = rules.clone();
        let more = more.into_iter().filter(|rule| rule.effect != Effect::Allow);
        stricter.extend(more.map(|rule| Rule { name: format!("more {}", rule.name), ..rule }));
        prop_assert!(
            !permitted(&unchecked(stricter), &peer, &caller, &ask)
                || permitted(&unchecked(rules), &peer, &caller, &ask)
        );
    }

    /// Of a policy that passes its checks, and credentials that are not refused themselves.
    #[test]
    fn leaving_a_credential_away_never_helps(rules in rules(), (peer, caller, ask) in request()) {
        let mut parts = with_rules(vec![]);
        parts.routes[0].host = vec![];
        for rule in rules {
            parts.rules.push(rule);
            if Policy::compile(parts.clone(), HASH, NOW).is_err() {
                parts.rules.pop();
            }
        }
        let policy = compile(parts);
        let with = ask.judged(&policy, &peer, &caller);
        let refused = [Cause::PeerUnknown, Cause::TokenNotIssuedToService];
        if !causes(&with).is_empty() && !causes(&with).iter().any(|cause| refused.contains(cause)) {
            for (peer, caller) in [(&Signature::Absent, &caller), (&peer, &Signature::Absent)] {
                prop_assert!(!permitted(&policy, peer, caller, &ask));
            }
        }
    }

    #[test]
    fn a_denial_always_says_why(rules in rules(), (peer, caller, ask) in request()) {
        let policy = unchecked(rules);
        let decision = ask.judged(&policy, &peer, &caller);
        if let Verdict::Denial(denial) = &decision.verdict {
            prop_assert!(!denial.causes.is_empty());
            prop_assert!(denial.causes.is_sorted());
            if let Some(near) = &decision.evidence.near_miss {
                prop_assert!(!near.failures.is_empty());
                prop_assert!(near.failures.iter().all(|f| !f.wanted.is_empty() && !f.seen.is_empty()));
            }
        }
    }

    #[test]
    fn until_its_end_a_standing_says_what_a_fresh_one_says(
        rules in rules(), (peer, caller, ask) in request(), later in 0..4000_i64,
    ) {
        let policy = unchecked(rules);
        let standing = policy.standing(&peer, &caller, NOW);
        let then = Timestamp::from_unix_seconds(NOW.unix_seconds() + later);
        if then < standing.valid_until() {
            prop_assert_eq!(policy.standing(&peer, &caller, then).rules, standing.rules);
        }
        let _ = ask;
    }
}
