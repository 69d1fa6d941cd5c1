//! Remembered tokens: for how long, and what makes them forgotten.

use futures_util::future::join_all;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};

use super::*;

#[tokio::test]
async fn a_token_is_verified_once_and_forgotten_when_it_expires() {
    let world = World::new(|settings| settings.leeway = Duration::ZERO).await;
    let token = mint(&good_claims());
    for _ in 0..5 {
        assert_eq!(world.code(&token).await, "ok");
    }
    let TokenMetrics { cache, failures, signature_checks } = &world.metrics;
    assert_eq!((signature_checks.get(), cache.hits.get(), cache.misses.get()), (1, 4, 1));
    assert_eq!((failures.hits.get(), failures.misses.get()), (0, 1));
    world.clock.set(Timestamp::from_unix_ms(NOW * 1000 + 599_999));
    assert_eq!(world.code(&token).await, "ok");
    world.clock.set(Timestamp::from_unix_seconds(NOW + 600));
    assert_eq!(world.code(&token).await, "token_expired");
    assert_eq!(signature_checks.get(), 1);
}

/// What rests on a caller, as a standing or a permit, ends with the token and not before it.
#[tokio::test]
async fn a_caller_expires_when_its_token_is_refused() {
    let world = World::new(|settings| settings.leeway = Duration::from_secs(60)).await;
    let token = mint(&good_claims());
    let expires = world.caller(&token).await.map(|caller| caller.expires);
    assert_eq!(expires, Ok(Timestamp::from_unix_seconds(NOW + 660)));
    for (at_ms, code) in [((NOW + 660) * 1000 - 1, "ok"), ((NOW + 660) * 1000, "token_expired")] {
        world.clock.set(Timestamp::from_unix_ms(at_ms));
        assert_eq!(world.code(&token).await, code);
    }
}

#[tokio::test]
async fn a_bad_token_costs_one_check_for_a_while() {
    let world = World::new(|_| {}).await;
    let token = token_of(&OTHER, "k1", 1);
    for _ in 0..5 {
        assert_eq!(world.code(&token).await, "token_bad_signature");
    }
    let TokenMetrics { failures, signature_checks, .. } = &world.metrics;
    assert_eq!((signature_checks.get(), failures.hits.get()), (1, 4));
    world.clock.advance(Duration::from_secs(11));
    assert_eq!(world.code(&token).await, "token_bad_signature");
    assert_eq!(signature_checks.get(), 2);
    // the same `kid` with another key: the failure was the old key's
    world.provider.set(JWKS, key_set(&[OTHER.jwk("k1")]));
    world.keys().refresh().await.expect("new keys");
    assert_eq!(world.code(&token).await, "ok");
    assert_eq!(world.code(&token_of(&P256, "k1", 2)).await, "token_bad_signature");
}

#[tokio::test]
async fn not_yet_valid_is_not_remembered() {
    let world = World::new(|_| {}).await;
    let token = mint(&with(good_claims(), json!({ "nbf": NOW + 61 })));
    assert_eq!(world.code(&token).await, "token_not_yet_valid");
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(world.code(&token).await, "ok");
}

#[tokio::test]
async fn a_new_key_is_fetched_once_and_a_removed_one_drops_its_tokens() {
    let world = World::new(|_| {}).await;
    let old = token_of(&P256, "k1", 1);
    assert_eq!(world.code(&old).await, "ok");
    world.clock.advance(UNKNOWN_KEY_REST);
    world.provider.set(JWKS, key_set(&[P256.jwk("k1"), OTHER.jwk("k2")]));
    let new: Vec<String> = (0..50).map(|jti| token_of(&OTHER, "k2", jti)).collect();
    let codes = join_all(new.iter().map(|token| world.code(token))).await;
    assert!(codes.iter().all(|code| *code == "ok"), "{codes:?}");
    assert_eq!(world.provider.hits(JWKS), 2);
    assert_eq!(world.code(&old).await, "ok");

    world.provider.set(JWKS, key_set(&[OTHER.jwk("k2")]));
    world.keys().refresh().await.expect("new keys");
    assert_eq!(world.code(&new[0]).await, "ok");
    assert_eq!(world.code(&old).await, "token_key_unknown", "remembered, but its key has left");
}

/// What is kept of the last token saves finding it, and nothing else: with it and without it the same is said.
#[tokio::test]
async fn a_token_that_is_kept_at_hand_is_asked_the_same_each_time() {
    let world = World::new(|settings| settings.leeway = Duration::ZERO).await;
    let mut known = None;
    let mut said = async |token: &str| {
        let field = HeaderValue::try_from(format!("Bearer {token}")).expect("a field");
        let headers = HeaderMap::from_iter([(AUTHORIZATION, field)]);
        let kept = match world.verifier.verify_again(&headers, &Shown::on(None), &mut known).await {
            Ok(_) => "ok",
            Err(CredentialError::Token(error)) => error.code(),
            Err(CredentialError::Several) => "request_malformed",
        };
        assert_eq!(world.code(token).await, kept);
        kept
    };
    let (one, other) = (token_of(&P256, "k1", 1), token_of(&P256, "k1", 2));
    let of_no_key = token_of(&OTHER, "k1", 1);
    for token in [&one, &one, &other, &one] {
        assert_eq!(said(token).await, "ok");
    }
    assert_eq!(said(&of_no_key).await, "token_bad_signature");
    assert_eq!(said(&one[..one.len() - 1]).await, "token_malformed");
    assert_eq!(said(&one).await, "ok");
    // a clock that goes back: it was judged in what is the future now
    world.clock.set(Timestamp::from_unix_seconds(NOW - 1));
    assert_eq!(said(&one).await, "token_not_yet_valid");
    world.clock.set(Timestamp::from_unix_seconds(NOW + 600));
    assert_eq!(said(&one).await, "token_expired");
    world.clock.set(Timestamp::from_unix_seconds(NOW));
    assert_eq!(said(&one).await, "ok");
    world.provider.set(JWKS, key_set(&[OTHER.jwk("k2")]));
    world.keys().refresh().await.expect("new keys");
    assert_eq!(said(&one).await, "token_key_unknown");
}

#[tokio::test]
async fn a_key_that_may_no_longer_sign_so_drops_its_tokens_too() {
    let world = World::new(|_| {}).await;
    let key_for = |alg: &str| key_set(&[with(RSA.jwk("k1"), json!({ "alg": alg }))]);
    world.provider.set(JWKS, key_for("RS256"));
    world.keys().refresh().await.expect("keys");
    let header = json!({ "alg": "RS256", "kid": "k1" });
    let token = mint_with(&RSA, header, good_claims().to_string());
    assert_eq!(world.code(&token).await, "ok");
    world.provider.set(JWKS, key_for("PS256"));
    world.keys().refresh().await.expect("keys");
    assert_eq!(world.code(&token).await, "token_key_unknown");
}

#[tokio::test]
async fn no_token_is_no_fetch_and_keys_are_kept_fresh_anywhere() {
    let world = World::new(|_| {}).await;
    fn spawned<T: Send>(_: T) {}
    spawned(Arc::clone(world.keys()).keep_fresh());
    let absent = world.verifier.verify(Credential::Absent, &Shown::on(None)).await;
    assert!(matches!(absent, Ok(Signature::Absent)));
    assert_eq!(world.provider.hits(JWKS), 0);
}
