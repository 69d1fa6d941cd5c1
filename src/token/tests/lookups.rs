//! Keys that stand one by one, as load balancers' do: who fetches one, how often, and for how long it serves.

use aws_lc_rs::encoding::AsDer;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use futures_util::future::join_all;
use http::HeaderValue;

use super::*;

const SIGNER: &str = "arn:aws:elasticloadbalancing:eu-central-1:1:loadbalancer/app/front/1";

fn kid(at: usize) -> String {
    format!("00000000-0000-4000-8000-{at:012x}")
}

fn place(at: usize) -> String {
    format!("/keys/{}", kid(at))
}

fn pem(pair: &Pair) -> Answer {
    let (Pair::P256(pair) | Pair::P384(pair)) = pair else { panic!("no such keys") };
    let der: aws_lc_rs::encoding::PublicKeyX509Der<'_> = pair.public_key().as_der().expect("a key");
    let text = STANDARD.encode(der.as_ref());
    Answer::json(format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n"))
}

fn header(at: usize) -> Value {
    json!({ "alg": "ES256", "kid": kid(at), "iss": ISS, "client": AUD, "signer": SIGNER, "exp": NOW + 90_000 })
}

fn said(pair: &Pair, at: usize, name: usize) -> String {
    signed(pair, header(at), json!({ "sub": "alice", "name": name.to_string() }))
}

fn signed(pair: &Pair, header: Value, claims: Value) -> String {
    let message = format!("{}.{}", URL_SAFE.encode(header.to_string()), URL_SAFE.encode(claims.to_string()));
    format!("{message}.{}", URL_SAFE.encode(pair.sign("ES256", &message)))
}

impl World {
    async fn balanced() -> World {
        let provider = Provider::start(None).await;
        let keys = keys_at(KeySource::Each(provider.url("/keys/")));
        let mut settings = settings(Preset::Alb, ISS, keys);
        settings.token_type = TokenType::Alb { signers: vec![SIGNER.into()] };
        World::of(provider, vec![settings])
    }

    async fn says(&self, said: &str) -> &'static str {
        let said = HeaderValue::from_str(said).expect("a value");
        self.verifier.verify_user_claims(&said).await.map_or_else(|error| error.code(), |_| "ok")
    }

    async fn waits_for(&self, path: &str, hits: usize) {
        while self.provider.hits(path) < hits {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_key_is_fetched_once_for_all_who_ask_for_it() {
    let world = World::balanced().await;
    world.provider.set(&place(1), pem(&P256));
    world.provider.gate.forget_permits(usize::MAX);
    let texts: Vec<String> = (0..50).map(|name| said(&P256, 1, name)).collect();
    let open = async {
        world.waits_for(&place(1), 1).await;
        world.provider.gate.add_permits(1000);
    };
    // One that gives up does not take it along.
    let mut first = Box::pin(world.says(&texts[0]));
    assert!(futures_util::poll!(&mut first).is_pending());
    drop(first);
    let (codes, ()) = tokio::join!(join_all(texts.iter().map(|text| world.says(text))), open);
    assert_eq!(codes, ["ok"; 50]);
    assert_eq!(world.provider.hits(&place(1)), 1);
    assert_eq!(world.keys().status().keys, 1);
    // A second one, beside it; who is in between is told.
    world.provider.set(&place(2), pem(&OTHER));
    assert_eq!(world.says(&said(&OTHER, 2, 0)).await, "ok");
    assert_eq!(world.says(&said(&P256, 1, 50)).await, "ok");
    assert_eq!(world.says(&said(&OTHER, 1, 0)).await, "token_bad_signature");
    let added: Vec<_> = world.keys().take_rotations().into_iter().flat_map(|it| it.added).collect();
    assert_eq!(added, [kid(1).into(), kid(2).into()] as [Arc<str>; 2]);
}

#[tokio::test]
async fn a_storm_of_names_that_nobody_has_is_bounded() {
    let world = World::balanced().await;
    world.provider.set(&place(1), pem(&P256));
    assert_eq!(world.says(&said(&P256, 1, 0)).await, "ok");
    let asked = |world: &World| (2..402).map(|at| world.provider.hits(&place(at))).sum::<usize>();
    let storm: Vec<String> = (2..402).map(|at| said(&OTHER, at, 0)).collect();
    for round in 1..=3 {
        let codes = join_all(storm.iter().map(|text| world.says(text))).await;
        assert!(codes.iter().all(|code| *code == "token_key_unknown"), "{codes:?}");
        // of sixteen in ten seconds the first one was for a key that is there
        assert_eq!(asked(&world), round * 15);
        assert_eq!(world.says(&said(&P256, 1, round)).await, "ok");
        world.clock.advance(UNKNOWN_KEY_REST);
        world.provider.set(&place(1000 + round), pem(&OTHER));
        assert_eq!(world.says(&said(&OTHER, 1000 + round, 0)).await, "ok");
    }
    assert_eq!(world.keys().status().last_error, None, "nothing is wrong with the issuer");
    // A clock that was set back does not hold off the next one for ever.
    join_all(storm.iter().map(|text| world.says(text))).await;
    world.clock.set(Timestamp::from_unix_seconds(NOW - 100_000));
    world.provider.set(&place(2000), pem(&OTHER));
    assert_eq!(world.says(&said(&OTHER, 2000, 0)).await, "ok");
}

#[tokio::test]
async fn a_key_that_could_not_be_had_is_asked_for_again_soon() {
    let world = World::balanced().await;
    for (at, broken) in [
        Answer { status: 500, ..Answer::json("") },
        Answer { status: 302, ..pem(&P256) }.with("location", "/elsewhere"),
        pem(&P384),
        Answer::json("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"),
        Answer::json(json!({ "keys": [P256.jwk(&kid(1))] })),
        Answer { body: [pem(&P256).body, pem(&OTHER).body].concat().into(), ..pem(&P256) },
    ]
    .into_iter()
    .enumerate()
    {
        world.provider.set(&place(at), broken);
        assert_eq!(world.says(&said(&P256, at, 0)).await, "issuer_unavailable", "{at}");
        assert_eq!(world.says(&said(&P256, at, 1)).await, "issuer_unavailable", "{at}: resting");
        assert_eq!(world.provider.hits(&place(at)), 1);
        assert!(world.keys().status().last_error.is_some());
        world.provider.set(&place(at), pem(&P256));
        world.clock.advance(Duration::from_secs(1));
        assert_eq!(world.says(&said(&P256, at, 0)).await, "ok", "{at}");
        assert_eq!(world.keys().status().last_error, None);
    }
    assert_eq!(world.provider.hits("/elsewhere"), 0);
}

#[tokio::test]
async fn a_key_is_fetched_anew_and_goes_when_it_is_gone() {
    let world = World::balanced().await;
    for at in 1..=2 {
        world.provider.set(&place(at), pem(&P256));
        assert_eq!(world.says(&said(&P256, at, 0)).await, "ok");
    }
    world.keys().refresh().await.expect("both");
    assert_eq!([1, 2].map(|at| world.provider.hits(&place(at))), [2, 2]);
    // The provider fails: what there is serves, but not for ever.
    world.provider.set(&place(2), Answer { status: 503, ..Answer::json("") });
    assert!(world.keys().refresh().await.is_err());
    assert_eq!(world.says(&said(&P256, 2, 0)).await, "ok");
    world.clock.advance(Duration::from_secs(24 * 3600));
    assert_eq!(world.says(&said(&P256, 1, 0)).await, "issuer_unavailable");
    world.clock.advance(Duration::from_secs(1));
    // Revoked there, and so here, for those too who were known.
    world.provider.set(&place(2), Answer { status: 404, ..Answer::json("") });
    assert_eq!(world.says(&said(&P256, 1, 0)).await, "ok");
    assert_eq!(world.says(&said(&P256, 2, 0)).await, "token_key_unknown");
    assert_eq!(world.keys().status().keys, 1);
}

#[tokio::test]
async fn a_new_key_does_not_make_the_others_younger() {
    let world = World::balanced().await;
    for at in 1..=2 {
        world.provider.set(&place(at), pem(&P256));
    }
    assert_eq!(world.says(&said(&P256, 1, 0)).await, "ok");
    let of_first = world.keys().status();
    world.clock.advance(Duration::from_secs(300));
    assert_eq!(world.says(&said(&P256, 2, 0)).await, "ok");
    let status = world.keys().status();
    assert_eq!(
        (status.keys, status.fetched, status.fresh_until),
        (2, of_first.fetched, of_first.fresh_until)
    );
}

/// Whatever claim is read as the client's name.
#[tokio::test]
async fn a_load_balancer_asks_as_one_client() {
    let provider = Provider::start(None).await;
    provider.set(&place(1), pem(&P256));
    let mut settings = settings(Preset::Alb, ISS, keys_at(KeySource::Each(provider.url("/keys/"))));
    settings.token_type = TokenType::Alb { signers: vec![SIGNER.into()] };
    settings.claims.client = None;
    let world = World::of(provider, vec![settings]);
    assert_eq!(world.says(&said(&P256, 1, 0)).await, "ok");
    let several =
        signed(&P256, with(header(1), json!({ "client": [AUD, "other"] })), json!({ "sub": "alice" }));
    assert_eq!(world.says(&several).await, "token_malformed");
}

#[tokio::test]
async fn only_so_many_are_held() {
    let world = World::balanced().await;
    for at in 0..20 {
        world.provider.set(&place(at), pem(&P256));
        assert_eq!(world.says(&said(&P256, at, 0)).await, "ok");
        world.clock.advance(UNKNOWN_KEY_REST);
    }
    assert_eq!(world.keys().status().keys, 16);
    assert_eq!(world.says(&said(&P256, 19, 1)).await, "ok");
    assert_eq!(world.provider.hits(&place(19)), 1);
    assert_eq!(world.says(&said(&P256, 0, 1)).await, "ok");
    assert_eq!(world.provider.hits(&place(0)), 2);
}

#[tokio::test]
async fn nobody_is_asked_for_a_proof_of_a_log_in() {
    let world = World::balanced().await;
    world.provider.set(&place(1), pem(&P256));
    let bound = signed(&P256, header(1), json!({ "sub": "alice", "cnf": { "jkt": b64([7; 32]) } }));
    let bound = HeaderValue::from_str(&bound).expect("a value");
    let refused = world.verifier.verify_user_claims(&bound).await;
    assert!(matches!(refused, Err(TokenError::NotSenderConstrained(_))), "{refused:?}");
}
