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
