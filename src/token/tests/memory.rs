//! What is remembered, how much of it, and who can push whom out.

use super::*;

/// Some hundred tokens of [`with_subject`]'s size.
const TOKENS: usize = 400;

fn with_subject(subject: &str, jti: usize) -> String {
    mint(&with(good_claims(), json!({ "sub": subject, "jti": jti.to_string() })))
}

/// How many of these tokens cost a signature check now.
async fn forgotten(world: &World, tokens: &[String]) -> u64 {
    let before = world.metrics.signature_checks.get();
    for token in tokens {
        assert_eq!(world.code(token).await, "ok");
    }
    world.metrics.signature_checks.get() - before
}

/// One subject may have many tokens issued, and present each as often as it likes: most often, which is what a
/// cache goes by. Those who hardly ever ask are remembered all the same.
#[tokio::test]
async fn a_flood_of_one_subject_s_tokens_pushes_nobody_else_out() {
    let world = World::new(|_| {}).await;
    let of_client = |client: &str, jti: usize| {
        mint(&with(good_claims(), json!({ "sub": null, "client_id": client, "jti": jti.to_string() })))
    };
    let mut honest: Vec<String> = (0..TOKENS / 4).map(|at| with_subject(&format!("user-{at}"), at)).collect();
    honest.push(of_client("batch", 0));
    forgotten(&world, &honest).await;
    for at in 0..5 * TOKENS {
        let token = if at % 2 == 0 { with_subject("mallory", at) } else { of_client("mallory", at) };
        for _ in 0..20 {
            assert_eq!(world.code(&token).await, "ok");
        }
    }
    assert_eq!(forgotten(&world, &honest).await, 0);
    // whose own last one is remembered too, and whose first ones are not
    assert_eq!(forgotten(&world, &[with_subject("mallory", 5 * TOKENS)]).await, 1);
    assert_eq!(forgotten(&world, &[with_subject("mallory", 5 * TOKENS)]).await, 1, "signed anew each time");
}

#[tokio::test]
async fn one_subject_has_what_nobody_else_needs() {
    let world = World::new(|_| {}).await;
    let batch: Vec<String> = (0..TOKENS / 5).map(|at| with_subject("batch", at)).collect();
    forgotten(&world, &batch).await;
    assert_eq!(forgotten(&world, &batch).await, 0);
    let crowd: Vec<String> = (0..TOKENS).map(|at| with_subject(&format!("user-{at}"), at)).collect();
    forgotten(&world, &crowd).await;
    // where there is no room left, its next token is one too many, and with it all but its share
    forgotten(&world, &[with_subject("batch", TOKENS)]).await;
    assert!(forgotten(&world, &batch).await > TOKENS as u64 / 8);
}

/// Of many subjects at once those stay that ask again.
#[tokio::test]
async fn a_crowd_that_asks_once_pushes_out_nobody_who_asks_again() {
    let world = World::new(|_| {}).await;
    let honest: Vec<String> = (0..TOKENS / 8).map(|at| with_subject(&format!("user-{at}"), at)).collect();
    let mut lost = 0;
    for round in 0..40 {
        lost += forgotten(&world, &honest).await;
        let crowd: Vec<_> =
            (0..TOKENS / 4).map(|at| with_subject(&format!("crowd-{round}-{at}"), at)).collect();
        forgotten(&world, &crowd).await;
    }
    lost += forgotten(&world, &honest).await;
    println!("of {} lookups {lost} cost a signature check", 41 * honest.len());
    assert!(lost < 3 * honest.len() as u64, "{lost}");
    let (remembered, _) = world.verifier.entries();
    assert!(remembered <= CACHE.bytes_max / 1024, "{remembered} tokens, each of more than a KiB");
}

#[tokio::test]
async fn garbage_pushes_nothing_out_but_garbage() {
    let world = World::new(|_| {}).await;
    let honest: Vec<String> = (0..TOKENS / 8).map(|at| with_subject(&format!("user-{at}"), at)).collect();
    forgotten(&world, &honest).await;
    for at in 0..5 * TOKENS {
        let claims = with(good_claims(), json!({ "jti": at.to_string() })).to_string();
        let forged = mint_with(&OTHER, json!({ "alg": "ES256", "kid": "k1" }), claims);
        assert_eq!(world.code(&forged).await, "token_bad_signature");
    }
    assert_eq!(forgotten(&world, &honest).await, 0);
    let (remembered, refused) = world.verifier.entries();
    assert_eq!(remembered, honest.len() as u64);
    assert!((2..=CACHE.failures_max).contains(&refused), "{refused}");
}

#[tokio::test]
async fn a_clock_that_goes_back_revives_nothing() {
    let world = World::new(|settings| settings.leeway = Duration::ZERO).await;
    let token = mint(&with(good_claims(), json!({ "nbf": NOW })));
    assert_eq!(forgotten(&world, &[token.clone(), token.clone()]).await, 1);
    world.clock.set(Timestamp::from_unix_ms(NOW * 1000 - 1));
    assert_eq!(world.code(&token).await, "token_not_yet_valid", "remembered, but not from then");
    world.clock.set(Timestamp::from_unix_seconds(NOW + 600));
    assert_eq!(world.code(&token).await, "token_expired");
    // forgotten when it was over, so that it is judged anew
    world.clock.set(Timestamp::from_unix_seconds(NOW + 599));
    assert_eq!(forgotten(&world, &[token]).await, 1);
}
