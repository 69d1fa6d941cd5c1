//! Whom issuers are asked for, and what is believed on without asking: by other limits, by others, from another core.

use super::opaque::{PATH, TOKEN, said, world};
use super::*;

/// The world's verifier after a reload that changed the limits to these.
fn reloaded(world: &World, limits: TokenLimits) -> Verifier {
    let again = |issuer: &Issuer| Issuer {
        settings: issuer.settings.clone(),
        keys: Arc::clone(&issuer.keys),
        introspection: issuer.introspection.clone(),
    };
    let issuers = world.verifier.issuers().iter().map(again).collect();
    let (metrics, clock) = (world.metrics.clone(), world.clock.clone());
    let verifier =
        Verifier::new(issuers, limits, CACHE, Arc::default(), metrics, clock).expect("distinct issuers");
    verifier.take_over(&world.verifier);
    verifier
}

async fn code_by(verifier: &Verifier, token: &str) -> &'static str {
    let verified = verifier.verify(Credential::Bearer(token), &Shown::on(None)).await;
    verified.map_or_else(|error| error.code(), |_| "ok")
}

#[tokio::test]
async fn a_reload_with_other_limits_asks_nobody_about_what_they_let_pass() {
    const LIMITS: TokenLimits = TokenLimits::FOR_TESTS;
    let mut seen = 0;
    for (limits, expected, questions) in [
        (LIMITS, "ok", 0),
        (TokenLimits { introspection_pending_max: 9000, ..LIMITS }, "ok", 0),
        (TokenLimits { introspection_pending_max: 1, ..LIMITS }, "ok", 0),
        (TokenLimits { dpop_proofs_max: 1, ..LIMITS }, "ok", 0),
        (TokenLimits { token_bytes_max: TOKEN.len(), ..LIMITS }, "ok", 0),
        (TokenLimits { token_bytes_max: TOKEN.len() - 1, ..LIMITS }, "limit_exceeded", 0),
        (TokenLimits { json_depth_max: 3, ..LIMITS }, "ok", 0),
        (TokenLimits { json_depth_max: 2, ..LIMITS }, "issuer_unavailable", 1),
        (TokenLimits { json_values_max: 16, ..LIMITS }, "ok", 0),
        (TokenLimits { json_values_max: 15, ..LIMITS }, "issuer_unavailable", 1),
        (TokenLimits { scope_count_max: 2, ..LIMITS }, "ok", 0),
        (TokenLimits { scope_count_max: 1, ..LIMITS }, "limit_exceeded", 1),
        (TokenLimits { delegation_depth_max: 1, ..LIMITS }, "ok", 0),
        (TokenLimits { delegation_depth_max: 0, ..LIMITS }, "limit_exceeded", 1),
    ] {
        let (world, _folder) = world(|_, _| {}).await;
        let more = json!({ "scope": "a b", "x": [[]], "act": { "sub": "bot", "iss": ISS } });
        world.provider.set(PATH, said(more));
        assert_eq!(world.code(TOKEN).await, "ok");
        let verifier = reloaded(&world, limits);
        assert_eq!(code_by(&verifier, TOKEN).await, expected, "{limits:?}");
        assert_eq!(world.provider.hits(PATH), 1 + questions, "{limits:?}");
        seen += 1;
    }
    assert_eq!(seen, 14);
}

#[tokio::test]
async fn one_client_s_failed_question_keeps_no_other_waiting() {
    let mut seen = 0;
    for away in [401, 429, 502, 503, 504] {
        let (world, _folder) = world(|_, _| {}).await;
        let says = |status| world.provider.set(PATH, Answer { status, ..said(json!({})) });
        let ask = async |from: u8, token: &str| {
            let shown = Shown { address: Some([10, 0, 0, from].into()), ..Shown::on(None) };
            world.caller_shown(token, &shown).await.map_or_else(|error| error.code(), |_| "ok")
        };
        let (refused, second) = ("issuer_unavailable", Duration::from_secs(1));
        for round in 0..3 {
            says(away);
            assert_eq!(ask(1, &format!("odd {round}")).await, refused, "{away}");
            says(200);
            assert_eq!(ask(1, &format!("one's {round}")).await, refused, "{away}: its own rest");
            assert_eq!(ask(2, &format!("other's {round}")).await, "ok", "{away}");
            assert_eq!(world.provider.hits(PATH), 2 * (round + 1), "{away}");
            world.clock.advance(second);
        }
        // What two find is so for all.
        says(away);
        assert_eq!([ask(1, "down").await, ask(2, "down too").await], [refused; 2], "{away}");
        says(200);
        for from in 1..=3 {
            assert_eq!(ask(from, "up").await, refused, "{away}");
        }
        assert_eq!(world.provider.hits(PATH), 8, "{away}");
        world.clock.advance(second);
        assert_eq!(ask(3, "up").await, "ok", "{away}");
        // And what is found of a token that was believed.
        world.clock.advance(Duration::from_secs(30));
        says(away);
        assert_eq!(ask(3, "up").await, refused, "{away}");
        says(200);
        assert_eq!(ask(2, "new").await, refused, "{away}");
        assert_eq!(world.provider.hits(PATH), 10, "{away}");
        seen += 1;
    }
    assert_eq!(seen, 5);
}

#[tokio::test]
async fn what_was_said_last_comes_not_back_once_there_was_another_word() {
    let (world, _folder) = world(|_, _| {}).await;
    world.provider.set(PATH, said(json!({})));
    let (memory, now) = (&world.verifier.memory, world.clock.now());
    let hash = super::super::verifier::sha256(TOKEN);
    assert_eq!(world.code(TOKEN).await, "ok");
    let last = memory.verified(&hash, now).expect("it is remembered");
    let again = |last| memory.remember_again(last, Caller::clone(&last.caller), last.vouched);
    let there = again(&last).expect("it was there");
    assert!(memory.verified(&hash, now).is_some_and(|now| Arc::ptr_eq(&now, &there)));
    let other = again(&last).expect("another stands there");
    assert!(Arc::ptr_eq(&other, &there));
    memory.forget(&hash);
    assert!(again(&there).is_none() && memory.verified(&hash, now).is_none());
    assert_eq!((world.code(TOKEN).await, world.provider.hits(PATH)), ("ok", 2));
}
