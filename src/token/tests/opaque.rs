//! Opaque tokens: what the issuer says of them decides, and for no longer than it may.

use std::time::Duration;

use futures_util::future::join_all;
use http::header::AUTHORIZATION;
use serde_json::{Value, json};

use super::*;
use crate::fetch::SecretSource;

pub(super) const PATH: &str = "/introspect";
pub(super) const TOKEN: &str = "2YotnFZFEjr1zCsicMWpAA";

/// The world's issuer, asked at [`PATH`] as `proxy us`.
pub(super) async fn world(change: impl FnOnce(&mut IssuerSettings, &Provider)) -> (World, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("secret"), "s:cret/7\n").expect("a file");
    let provider = Provider::start(None).await;
    provider.set("/jwks", key_set(&[P256.jwk("k1")]));
    let keys = keys_at(KeySource::Url(provider.url("/jwks")));
    let mut settings = settings(Preset::Generic, ISS, keys);
    settings.introspection = Some(IntrospectionSettings {
        endpoint: Location::Url(provider.url(PATH)),
        client_id: "proxy us".into(),
        client_secret: SecretSource::File(folder.path().join("secret")),
        time_max: Duration::from_secs(30),
    });
    change(&mut settings, &provider);
    (World::of(provider, vec![settings]), folder)
}

pub(super) fn said(changes: Value) -> Answer {
    Answer::json(with(with(good_claims(), json!({ "active": true, "token_type": "Bearer" })), changes))
}

#[tokio::test]
async fn an_opaque_token_is_what_its_issuer_says() {
    let (world, _folder) = world(|_, _| {}).await;
    world.provider.set(PATH, said(json!({})));
    let caller = world.caller(TOKEN).await.expect("a caller");
    assert_eq!((caller.subject.as_deref(), caller.client.as_deref()), (Some("alice"), Some("web")));
    let asked = world.provider.last_request(PATH).expect("a question");
    assert_eq!(asked.method, "POST");
    assert_eq!(asked.body, format!("token={TOKEN}&token_type_hint=access_token"));
    // `proxy+us:s%3Acret%2F7`
    assert_eq!(asked.headers[AUTHORIZATION], "Basic cHJveHkrdXM6cyUzQWNyZXQlMkY3");
    assert_eq!(world.code(TOKEN).await, "ok");
    assert_eq!(world.provider.hits(PATH), 1, "remembered");
    for token_use in ["access_token", "Access", "ACCESS_TOKEN"] {
        world.provider.set(PATH, said(json!({ "token_use": token_use, "token_type": "bearer" })));
        assert_eq!(world.code(&format!("{TOKEN}.{token_use}")).await, "ok");
    }
    assert_eq!(world.provider.hits(PATH), 4);
    let looked_up = world.metrics.cache.hits.get() + world.metrics.cache.misses.get();
    assert_eq!((looked_up, world.metrics.cache.misses.get()), (5, 4), "each once");
}

#[tokio::test]
async fn a_jwt_is_nobody_s_to_be_asked_about() {
    let (world, _folder) = world(|_, _| {}).await;
    world.provider.set(PATH, said(json!({})));
    assert_eq!(world.code(&mint(&good_claims())).await, "ok");
    let claims = b64(with(good_claims(), json!({ "iss": "https://other.example" })).to_string());
    let mut seen = 0;
    for header in [
        r#"{"alg":"ES256"}"#,
        r#"{ "alg": "ES256"}"#,
        "{\n\"alg\":\"ES256\"}",
        "{\r\n  \"alg\":\"ES256\"\r\n}\r\n",
        " \t{\"alg\":\"ES256\"}",
        r#"{"alg":"ES256","crit":["x"]}"#,
        r#"{"alg":"ES256""#,
        r#"{"alg":"dir","enc":"A256GCM"}"#,
    ] {
        for token in [format!("{}.{claims}.AAAA", b64(header)), format!("{}.{claims}.A.A.A", b64(header))] {
            assert_ne!(world.code(&token).await, "ok", "{header}");
            seen += 1;
        }
    }
    assert_eq!(world.code("eyJhbGciOiJub25lIn0").await, "token_malformed");
    assert_eq!((seen, world.provider.hits(PATH)), (16, 0));
    // what happens to begin like one
    for token in [b64("{\"") + "opaque", b64("{ opaque") + ".a.b", b64("[1]") + ".a.b"] {
        assert_eq!(world.code(&token).await, "ok", "{token}");
    }
    assert_eq!(world.provider.hits(PATH), 3);
}

#[tokio::test]
async fn an_issuer_that_leaves_its_name_out_is_meant_by_it_all_the_same() {
    let (world, _folder) = world(|_, _| {}).await;
    world.provider.set(PATH, said(json!({ "iss": null, "act": { "sub": "bot", "iss": ISS } })));
    let caller = world.caller(TOKEN).await.expect("a caller");
    assert_eq!(caller.acting(), Some("bot"));
    assert_eq!(caller.claims["iss"], ISS);
    world
        .provider
        .set(PATH, said(json!({ "iss": null, "act": { "sub": "bot", "iss": "https://x.example" } })));
    let caller = world.caller("other").await.expect("a caller");
    assert_eq!(caller.acting(), None);
}

#[tokio::test]
async fn what_is_not_said_to_be_active_is_refused() {
    let mut seen = 0;
    for (answer, expected) in [
        (Answer::json(json!({ "active": false })), "token_revoked"),
        (said(json!({ "active": null })), "token_revoked"),
        (said(json!({ "active": "true" })), "token_revoked"),
        (said(json!({ "active": 1 })), "token_revoked"),
        (said(json!({ "active": [true] })), "token_revoked"),
        (Answer::json(json!({})), "token_revoked"),
        // judged as a JWT's claims are
        (said(json!({ "iss": "https://other.example" })), "token_issuer_unknown"),
        (said(json!({ "iss": 7 })), "token_issuer_unknown"),
        (said(json!({ "aud": "https://other.example" })), "token_wrong_audience"),
        (said(json!({ "aud": null })), "token_wrong_audience"),
        (said(json!({ "exp": NOW - 61 })), "token_expired"),
        (said(json!({ "exp": null })), "token_malformed"),
        (said(json!({ "exp": "soon" })), "token_malformed"),
        (said(json!({ "nbf": NOW + 61 })), "token_not_yet_valid"),
        (said(json!({ "scope": 7 })), "token_malformed"),
        (said(json!({ "sub": ["alice"] })), "token_malformed"),
        (said(json!({ "typ": "Refresh" })), "token_type_refused"),
        (said(json!({ "token_use": "refresh_token" })), "token_type_refused"),
        (said(json!({ "token_use": "Refresh_Token" })), "token_type_refused"),
        (said(json!({ "token_use": "device_code" })), "token_type_refused"),
        (said(json!({ "token_use": ["access_token"] })), "token_type_refused"),
        (said(json!({ "token_type": "refresh_token" })), "token_type_refused"),
        (said(json!({ "typ": "id_token" })), "token_type_refused"),
        (said(json!({ "cnf": { "jkt": b64([7; 32]) } })), "token_not_sender_constrained"),
        (said(json!({ "cnf": { "x5t#S256": b64([7; 32]) } })), "token_not_sender_constrained"),
        // nobody knows
        (Answer { status: 500, ..said(json!({})) }, "issuer_unavailable"),
        (Answer { status: 401, ..said(json!({})) }, "issuer_unavailable"),
        (Answer { status: 302, ..said(json!({})) }.with("location", "/other"), "issuer_unavailable"),
        (Answer::json("<html>"), "issuer_unavailable"),
        (Answer::json(""), "issuer_unavailable"),
        (Answer::json("[true]"), "issuer_unavailable"),
        (Answer::json("{\"active\":false,\"active\":true}"), "issuer_unavailable"),
        (said(json!({ "x": "y".repeat(300_000) })), "issuer_unavailable"),
        (said(json!({})).with("content-encoding", "gzip"), "issuer_unavailable"),
    ] {
        let (world, _folder) = world(|_, _| {}).await;
        let shown = String::from_utf8_lossy(&answer.body[..answer.body.len().min(200)]).into_owned();
        world.provider.set(PATH, answer);
        assert_eq!(world.code(TOKEN).await, expected, "{shown}");
        seen += 1;
    }
    assert_eq!(seen, 34);
}

#[tokio::test]
async fn an_answer_is_believed_for_no_longer_than_it_may() {
    let (world, _folder) = world(|settings, _| settings.leeway = Duration::ZERO).await;
    world.provider.set(PATH, said(json!({})));
    assert_eq!(world.code(TOKEN).await, "ok");
    world.provider.set(PATH, Answer::json(json!({ "active": false })));
    world.clock.advance(Duration::from_millis(22_499));
    assert_eq!(world.code(TOKEN).await, "ok");
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(world.code(TOKEN).await, "token_revoked", "asked again before its time is over");
    assert_eq!((world.code(TOKEN).await, world.provider.hits(PATH)), ("token_revoked", 2), "remembered");
    // a clock that goes back revives nothing
    world.clock.set(Timestamp::from_unix_seconds(NOW - 1));
    world.provider.set(PATH, Answer::json(json!({ "active": false })));
    assert_eq!(world.code(TOKEN).await, "token_revoked");
    world.clock.set(Timestamp::from_unix_seconds(NOW + 100));
    world.provider.set(PATH, said(json!({ "exp": NOW + 110 })));
    assert_eq!(world.code(TOKEN).await, "ok");
    world.clock.advance(Duration::from_secs(10));
    assert_eq!(world.code(TOKEN).await, "token_expired", "its own end comes first");
}

#[tokio::test]
async fn one_question_for_all_who_wait_and_a_rest_after_a_failure() {
    let (world, _folder) = world(|_, _| {}).await;
    world.provider.set(PATH, said(json!({})));
    let codes = join_all((0..20).map(|_| world.code(TOKEN))).await;
    assert!(codes.iter().all(|code| *code == "ok"), "{codes:?}");
    assert_eq!(world.provider.hits(PATH), 1);

    world.provider.set(PATH, Answer { status: 503, ..Answer::json("") });
    assert_eq!(world.code("other").await, "issuer_unavailable");
    for other in ["a", "b", "other"] {
        assert_eq!(world.code(other).await, "issuer_unavailable");
    }
    assert_eq!(world.provider.hits(PATH), 2, "nobody is asked for a moment");
    world.provider.set(PATH, said(json!({})));
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(world.code("other").await, "ok");
}

/// Waits for the `nth` question, which has no answer, and lets the time pass that it may take.
async fn unanswered(world: &World, nth: usize) {
    while world.provider.hits(PATH) < nth {
        tokio::task::yield_now().await;
    }
    world.clock.advance(Duration::from_secs(4));
    tokio::time::pause();
}

#[tokio::test]
async fn an_issuer_that_hangs_is_waited_for_once_and_has_its_rest() {
    let (world, _folder) = world(|_, _| {}).await;
    world.provider.set(PATH, said(json!({})));
    let gate = world.provider.gate.forget_permits(usize::MAX);
    let asked = join_all((0..20).map(|_| world.code(TOKEN)));
    let (codes, ()) = tokio::join!(asked, unanswered(&world, 1));
    assert!(codes.iter().all(|code| *code == "issuer_unavailable"), "{codes:?}");
    assert_eq!(world.code("other").await, "issuer_unavailable");
    assert_eq!(world.provider.hits(PATH), 1);
    tokio::time::resume();
    world.provider.gate.add_permits(gate);
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(world.code("other").await, "ok");
}

#[tokio::test]
async fn who_waits_for_others_in_vain_does_not_find_that_the_issuer_is_away() {
    let (world, _folder) = world(|_, _| {}).await;
    world.provider.set(PATH, said(json!({})));
    let asked = world.verifier.issuers()[0].introspection.as_ref().expect("it is asked");
    let others = asked.turn(super::super::verifier::sha256(TOKEN)).await;
    tokio::time::pause();
    let code = tokio::time::timeout(2 * ASK_TIMEOUT, world.code(TOKEN)).await;
    assert_eq!(code, Ok("issuer_unavailable"));
    tokio::time::resume();
    assert_eq!(world.provider.hits(PATH), 0);
    assert_eq!(world.code("other").await, "ok");
    drop(others);
    assert_eq!(world.code(TOKEN).await, "ok");
}

#[tokio::test]
async fn who_stops_waiting_leaves_nothing_behind() {
    let (world, _folder) = world(|_, _| {}).await;
    world.provider.set(PATH, said(json!({})));
    world.provider.gate.forget_permits(usize::MAX);
    let asked = world.verifier.issuers()[0].introspection.as_ref().expect("it is asked");
    for waiting in 1..=3 {
        let mut all = Box::pin(join_all((0..waiting).map(|_| world.code(TOKEN))));
        assert!(futures_util::poll!(&mut all).is_pending());
        assert_eq!(asked.turns(), 1);
        drop(all);
        assert_eq!(asked.turns(), 0, "{waiting}");
    }
}

#[tokio::test]
async fn an_odd_answer_to_one_token_keeps_nobody_else_waiting() {
    let status = |status| Answer { status, ..said(json!({})) };
    let mut seen = 0;
    for odd in [
        status(400),
        status(403),
        status(404),
        status(413),
        status(500),
        status(302),
        Answer::json("<html>"),
        said(json!({ "x": "y".repeat(300_000) })),
        said(json!({ "x": vec![0; 5000] })),
        said(json!({})).with("content-encoding", "gzip"),
    ] {
        let (world, _folder) = world(|_, _| {}).await;
        let shown = odd.status;
        world.provider.set(PATH, odd);
        assert_eq!(world.code("odd").await, "issuer_unavailable", "{shown}");
        world.provider.set(PATH, said(json!({})));
        assert_eq!(world.code(TOKEN).await, "ok", "{shown}");
        assert_eq!(world.code("odd").await, "issuer_unavailable", "{shown}");
        assert_eq!(world.provider.hits(PATH), 2, "remembered, {shown}");
        world.clock.advance(Duration::from_secs(1));
        assert_eq!(world.code("odd").await, "ok", "{shown}");
        seen += 1;
    }
    for away in [401, 429, 502, 503, 504] {
        let (world, _folder) = world(|_, _| {}).await;
        world.provider.set(PATH, status(away));
        assert_eq!(world.code("one").await, "issuer_unavailable");
        assert_eq!(world.code("other").await, "issuer_unavailable");
        assert_eq!(world.provider.hits(PATH), 1, "{away}");
        seen += 1;
    }
    assert_eq!(seen, 15);
}

#[tokio::test]
async fn what_an_issuer_said_last_stands_for_its_time_while_it_says_nothing() {
    let (status, second) = (|status| Answer { status, ..said(json!({})) }, Duration::from_secs(1));
    let mut seen = 0;
    for nothing in
        [status(500), status(408), status(302), status(401), status(429), status(503), Answer::json("{")]
    {
        let (world, _folder) = world(|_, _| {}).await;
        let shown = nothing.status;
        world.provider.set(PATH, said(json!({})));
        assert_eq!(world.code(TOKEN).await, "ok");
        world.clock.advance(Duration::from_millis(22_500));
        world.provider.set(PATH, nothing.clone());
        for asked in [2, 3] {
            assert_eq!([world.code(TOKEN).await, world.code(TOKEN).await], ["ok"; 2], "{shown}");
            assert_eq!(world.provider.hits(PATH), asked, "{shown}: once in a moment");
            world.clock.advance(second);
        }
        world.provider.set(PATH, said(json!({ "sub": "bob" })));
        let caller = world.caller(TOKEN).await.expect("a caller");
        assert_eq!(caller.subject.as_deref(), Some("bob"), "{shown}: it is asked again meanwhile");
        world.provider.set(PATH, nothing);
        world.clock.advance(Duration::from_millis(29_999));
        assert_eq!(world.code(TOKEN).await, "ok", "{shown}");
        world.clock.advance(Duration::from_millis(1));
        assert_eq!(world.code(TOKEN).await, "issuer_unavailable", "{shown}: no longer than it may");
        world.provider.set(PATH, said(json!({})));
        world.clock.advance(second);
        assert_eq!(world.code(TOKEN).await, "ok", "{shown}");
        seen += 1;
    }
    assert_eq!(seen, 7);
}

#[tokio::test]
async fn who_asks_again_keeps_nobody_waiting_while_its_token_is_believed() {
    let (world, _folder) = world(|_, _| {}).await;
    world.provider.set(PATH, said(json!({})));
    assert_eq!(world.code(TOKEN).await, "ok");
    world.clock.advance(Duration::from_millis(22_500));
    world.provider.set(PATH, Answer::json(json!({ "active": false })));
    let gate = world.provider.gate.forget_permits(usize::MAX);
    let mut first = Box::pin(world.code(TOKEN));
    assert!(futures_util::poll!(&mut first).is_pending());
    assert_eq!([world.code(TOKEN).await, world.code(TOKEN).await], ["ok"; 2]);
    world.provider.gate.add_permits(gate);
    assert_eq!(first.await, "token_revoked");
    assert_eq!((world.code(TOKEN).await, world.provider.hits(PATH)), ("token_revoked", 2));
}

#[tokio::test]
async fn what_made_up_tokens_bring_about_keeps_none_from_being_asked_about_that_was_believed() {
    let mut seen = 0;
    for away in [401, 429, 502, 503, 504] {
        let (world, _folder) = world(|_, _| {}).await;
        let says = |status| world.provider.set(PATH, Answer { status, ..said(json!({})) });
        says(200);
        assert_eq!([world.code(TOKEN).await, world.code("other").await], ["ok"; 2]);
        world.clock.advance(Duration::from_secs(30));
        says(away);
        assert_eq!(world.code("made up").await, "issuer_unavailable", "{away}");
        says(200);
        assert_eq!(world.code("never seen").await, "issuer_unavailable", "{away}");
        assert_eq!(world.code(TOKEN).await, "ok", "{away}");
        assert_eq!(world.provider.hits(PATH), 4, "{away}");
        world.clock.advance(Duration::from_secs(30));
        says(away);
        assert_eq!(world.code(TOKEN).await, "issuer_unavailable");
        says(200);
        // Enough is what was asked about made-up ones.
        let others = if away == 429 { "ok" } else { "issuer_unavailable" };
        assert_eq!([world.code("other").await, world.code("new").await], [others, "issuer_unavailable"]);
        seen += 1;
    }
    assert_eq!(seen, 5);
}

#[tokio::test]
async fn an_endpoint_that_has_moved_is_found_again() {
    const DOCUMENT: &str = "/.well-known/openid-configuration";
    let mut seen = 0;
    for status in [404, 410, 503] {
        let (world, _folder) = world(|settings, provider| {
            let asked = settings.introspection.as_mut().expect("it is asked");
            asked.endpoint = Location::Discovery { document: provider.url(DOCUMENT), issuer: ISS.into() };
        })
        .await;
        let named = |path| {
            let endpoint = world.provider.url(path);
            let document = json!({ "issuer": ISS, "introspection_endpoint": endpoint });
            world.provider.set(DOCUMENT, Answer::json(document));
        };
        named(PATH);
        world.provider.set(PATH, said(json!({})));
        assert_eq!([world.code("a").await, world.code("b").await], ["ok"; 2]);
        assert_eq!(world.provider.hits(DOCUMENT), 1);
        named("/moved");
        world.provider.set("/moved", said(json!({})));
        world.provider.set(PATH, Answer { status, ..Answer::json("") });
        assert_eq!(world.code("c").await, "issuer_unavailable");
        world.clock.advance(Duration::from_secs(1));
        assert_eq!([world.code("d").await, world.code("e").await], ["ok"; 2]);
        assert_eq!((world.provider.hits(DOCUMENT), world.provider.hits("/moved")), (2, 2));
        seen += 1;
    }
    assert_eq!(seen, 3);
}

#[tokio::test]
async fn our_credentials_go_to_the_issuer_and_to_nobody_else() {
    const DOCUMENT: &str = "/.well-known/openid-configuration";
    let discovered = |settings: &mut IssuerSettings, provider: &Provider| {
        let asked = settings.introspection.as_mut().expect("it is asked");
        asked.endpoint = Location::Discovery { document: provider.url(DOCUMENT), issuer: ISS.into() };
    };
    let elsewhere = Provider::start(None).await;
    elsewhere.set(PATH, said(json!({})));
    let mut seen = 0;
    for (issuer, own, expected) in [
        (ISS, true, "ok"),
        (ISS, false, "issuer_unavailable"),
        ("https://other.example", true, "issuer_unavailable"),
    ] {
        let (world, _folder) = world(discovered).await;
        world.provider.set(PATH, said(json!({})));
        let endpoint = if own { world.provider.url(PATH) } else { elsewhere.url(PATH) };
        let document = json!({ "issuer": issuer, "jwks_uri": ISS, "introspection_endpoint": endpoint });
        world.provider.set(DOCUMENT, Answer::json(document));
        assert_eq!(world.code(TOKEN).await, expected);
        seen += 1;
    }
    assert_eq!(seen, 3);
    assert_eq!(elsewhere.hits(PATH), 0);
}
