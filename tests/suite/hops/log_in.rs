//! People who log in at an ALB: what it says of them in `x-amzn-oidc-data`, from it and from others.

use base64::engine::general_purpose::{STANDARD as PLAIN, URL_SAFE, URL_SAFE_NO_PAD};
use countersign::clock::Clock;
use futures_util::StreamExt;
use serde_json::json;
use std::time::Duration;
use tokio_tungstenite::tungstenite::Message;

use super::balancer::{KID, Keys, SAID, SIGNER, said_by, signed};
use super::*;
use crate::world::client::with_token;
use crate::world::signing::Key;
use crate::world::soon;

fn part(token: &str, at: usize) -> &str {
    token.split('.').nth(at).unwrap()
}

fn brought(said: &str) -> Request<Body> {
    passed("/orders/7", &vec![(SAID, said.to_owned())])
}

#[tokio::test]
async fn who_logged_in_at_the_load_balancer_is_the_caller() {
    let world = World::new().await;
    let keys = Keys::start().await;
    let proxy = world.start(&keys.by_address("127.0.0.1/32"));
    // No key is awaited before somebody logs in.
    soon("ready", async { while proxy.admin("/readyz").await.status != 200 {} }).await;
    let behind = proxy.behind(Protocol::H1).await;
    let said = keys.said(&world, json!({}), json!({}));
    assert!(said.ends_with("=="), "as AWS writes it");
    for _ in 0..2 {
        let answer = behind.ask(brought(&said)).await.unwrap();
        let seen = seen(&answer);
        assert_eq!(seen.header("x-auth-subject"), ["alice"]);
        assert_eq!(seen.header("x-auth-issuer"), ["people"]);
        assert_eq!(seen.header("x-auth-client"), ["web"]);
        assert_eq!(seen.header("x-auth-actor"), ["human"]);
        assert!(seen.header(SAID).is_empty(), "it stays here");
        let record = proxy.record_of(&answer).await;
        assert_eq!((&record["rule"], &record["checks"]["peer"]), (&json!("people"), &json!("absent")));
        assert_eq!(hop_of(&record)["name"], "edge");
    }
    // It asks for no certificate, so what a client says of one is not read.
    let fields = vec![(SAID, said.clone()), ("x-amzn-mtls-clientcert", "none at all".to_owned())];
    assert_eq!(behind.ask(passed("/orders/7", &fields)).await.unwrap().status, 200);
    // The same person's token of the same provider beside it, and another's.
    let beside = |sub: &str| {
        with_token(
            brought(&said),
            &world.issuer.token(json!({ "sub": sub, "aud": "https://orders.shop.example" })),
        )
    };
    let answer = behind.ask(beside("alice")).await.unwrap();
    assert_eq!(seen(&answer).header("x-auth-issuer"), ["people"]);
    let before = world.upstream.counts().requests;
    let answer = behind.ask(beside("bob")).await.unwrap();
    assert_eq!(refusal(&answer), expect(401, "token_malformed"));
    assert_eq!(world.upstream.counts().requests, before);
    assert_eq!(keys.asked(), [format!("/keys/{KID}")]);
    // Somebody of that name at another provider is somebody else.
    let theirs = json!({ "iss": "https://login.partner.example" });
    let theirs = keys.said(&world, theirs.clone(), theirs);
    assert_eq!(seen(&behind.ask(brought(&theirs)).await.unwrap()).header("x-auth-issuer"), ["partners"]);
    let before = world.upstream.counts().requests;
    let answer = behind.ask(with_token(brought(&theirs), &world.issuer.token(json!({})))).await.unwrap();
    assert_eq!(refusal(&answer), expect(401, "token_malformed"));
    assert_eq!(world.upstream.counts().requests, before);
    // Without it nobody logged in, and a token is a token.
    let answer = behind.ask(passed("/orders/7", &Vec::new())).await.unwrap();
    assert_eq!(refusal(&answer), expect(401, "token_missing"));
    let token = world.issuer.token(json!({}));
    let answer = behind.ask(with_token(passed("/orders/7", &Vec::new()), &token)).await.unwrap();
    assert_eq!(seen(&answer).header("x-auth-issuer"), ["corp"]);
}

#[tokio::test]
async fn what_is_not_the_load_balancer_s_own_word_is_refused() {
    // For as long as it takes to ask for a key, no time goes by.
    let world = World::at(Clock::manual(Clock::system().now())).await;
    let keys = Keys::start().await;
    let proxy = world.start(&keys.by_address("127.0.0.1/32"));
    let behind = proxy.behind(Protocol::H1).await;
    let say = |header: Value, claims: Value| keys.said(&world, header, claims);
    let good = say(json!({}), json!({}));
    let past = world.clock.now().unix_seconds() - 61;
    let [header, claims, signature] = [0, 1, 2].map(|at| part(&good, at).to_owned());
    let of_bob = part(&say(json!({}), json!({ "sub": "bob" })), 1).to_owned();
    let other = said_by(&Key::new(KID, "ES256"), &world, json!({}), json!({}));
    let stripped = |text: &str| text.trim_end_matches('=').to_owned();
    // Everything without padding, signature included, as RFC 7515 has it.
    let unpadded = {
        let message = format!("{}.{}", stripped(&header), stripped(&claims));
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(keys.key.sign(message.as_bytes())))
    };
    let in_plain_base64 = {
        let text = |part: &str| PLAIN.encode(URL_SAFE.decode(part).unwrap());
        let message = format!("{}.{}", text(&header), text(&of_odd_bytes(&keys, &world)));
        format!("{message}.{}", PLAIN.encode(keys.key.sign(message.as_bytes())))
    };
    let twice = signed(
        &keys.key,
        &String::from_utf8(URL_SAFE.decode(&header).unwrap()).unwrap().replacen('{', "{\"signer\":\"x\",", 1),
        "{\"sub\":\"alice\"}",
    );
    let under = |kid: &str| say(json!({ "kid": kid }), json!({}));
    let by = |key: &Key| said_by(key, &world, json!({ "alg": key.algorithm }), json!({}));
    let corp = &crate::world::signing::KEYS;
    assert_eq!(behind.ask(brought(&good)).await.unwrap().status, 200);
    let before = (world.upstream.counts().requests, keys.asked().len());
    let cases = [
        (
            "another load balancer",
            say(json!({ "signer": SIGNER.replace("front", "theirs") }), json!({})),
            "token_issuer_unknown",
        ),
        (
            "the same under another account",
            say(json!({ "signer": SIGNER.replace("123456789012", "210987654321") }), json!({})),
            "token_issuer_unknown",
        ),
        (
            "one of which ours is the start",
            say(json!({ "signer": format!("{SIGNER}0") }), json!({})),
            "token_issuer_unknown",
        ),
        ("no signer", say(json!({ "signer": null }), json!({})), "token_malformed"),
        ("several signers", say(json!({ "signer": [SIGNER] }), json!({})), "token_malformed"),
        ("a signer twice", twice, "token_malformed"),
        (
            "another provider",
            say(json!({ "iss": "https://login.example" }), json!({ "iss": "https://login.example" })),
            "token_issuer_unknown",
        ),
        ("no provider", say(json!({ "iss": null }), json!({})), "token_malformed"),
        (
            "the provider's word for the signer's",
            say(json!({ "iss": "https://login.example" }), json!({})),
            "token_malformed",
        ),
        ("another client", say(json!({ "client": "mobile" }), json!({})), "token_wrong_audience"),
        (
            "another client, for whom the provider says otherwise",
            say(json!({ "client": "mobile" }), json!({ "aud": "web" })),
            "token_malformed",
        ),
        (
            "a client that the provider names",
            say(json!({}), json!({ "client_id": "mobile" })),
            "token_malformed",
        ),
        ("several clients", say(json!({ "client": ["web"] }), json!({})), "token_malformed"),
        ("no client", say(json!({ "client": null }), json!({})), "token_malformed"),
        ("over", say(json!({ "exp": past }), json!({ "exp": past })), "token_expired"),
        ("over, but not by its claims", say(json!({ "exp": past }), json!({})), "token_malformed"),
        ("without an end", say(json!({ "exp": null }), json!({})), "token_malformed"),
        ("an end in words", say(json!({ "exp": "4000000000" }), json!({ "exp": null })), "token_malformed"),
        ("nobody", say(json!({}), json!({ "sub": null })), "token_malformed"),
        (
            "a key that a browser has shown nobody",
            say(json!({}), json!({ "cnf": { "jkt": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" } })),
            "token_not_sender_constrained",
        ),
        (
            "a certificate that nobody has shown",
            say(json!({}), json!({ "cnf": { "x5t#S256": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" } })),
            "token_not_sender_constrained",
        ),
        (
            "HS256 with the public key",
            by(&Key::confused(KID, &keys.key.public_der())),
            "token_algorithm_refused",
        ),
        ("none", say(json!({ "alg": "none" }), json!({})), "token_algorithm_refused"),
        ("ES384", by(&corp[3]), "token_algorithm_refused"),
        ("RS256", by(&corp[0]), "token_algorithm_refused"),
        ("no algorithm", say(json!({ "alg": null }), json!({})), "token_malformed"),
        ("another type", say(json!({ "typ": "at+jwt" }), json!({})), "token_type_refused"),
        ("an extension", say(json!({ "crit": ["exp"] }), json!({})), "token_malformed"),
        ("a key of its own", say(json!({ "jwk": keys.key.jwk() }), json!({})), "token_malformed"),
        ("an address of a key", say(json!({ "jku": "https://evil.example" }), json!({})), "token_malformed"),
        ("a path for a key", under("../admin"), "token_malformed"),
        ("a path of the right length", under("../../../../../../../../../etc/passwd"), "token_malformed"),
        ("a slash in a UUID", under("c2f80c8b-c05c-4068-af14-17299f78/6b1"), "token_malformed"),
        ("a dot in a UUID", under("c2f80c8b-c05c-4068-af14-17299f78.6b1"), "token_malformed"),
        ("an escape in a UUID", under("c2f80c8b-c05c-4068-af14-17299f%2f6b1"), "token_malformed"),
        ("another host's key", under("//evil.example/c2f80c8b-c05c-4068-af"), "token_malformed"),
        ("a query", under("?c2f80c8b-c05c-4068-af14-17299f7896b"), "token_malformed"),
        ("no key", say(json!({ "kid": null }), json!({})), "token_malformed"),
        ("another's key under the same name", other.clone(), "token_bad_signature"),
        ("other claims", format!("{header}.{of_bob}.{signature}"), "token_bad_signature"),
        ("another's signature", format!("{header}.{claims}.{}", part(&other, 2)), "token_bad_signature"),
        ("no signature", format!("{header}.{claims}."), "token_bad_signature"),
        ("without padding", unpadded, "token_malformed"),
        (
            "without padding behind the signature",
            format!("{header}.{claims}.{}", stripped(&signature)),
            "token_malformed",
        ),
        ("with more padding", format!("{header}.{claims}.{signature}="), "token_malformed"),
        ("in another alphabet", in_plain_base64, "token_malformed"),
        ("two parts", format!("{header}.{claims}"), "token_malformed"),
        ("four parts", format!("{good}.{signature}"), "token_malformed"),
        ("a provider's token", world.issuer.token(json!({})), "token_malformed"),
        ("nothing", String::new(), "token_malformed"),
        ("too much", "a".repeat(17 * 1024), "limit_exceeded"),
    ];
    let mut seen = 0;
    for (what, said, reason) in cases {
        let answer = behind.ask(brought(&said)).await.unwrap();
        let status = if reason == "limit_exceeded" { 431 } else { 401 };
        assert_eq!(refusal(&answer), expect(status, reason), "{what}: {}", proxy.record_of(&answer).await);
        // And once more, from memory.
        assert_eq!(refusal(&behind.ask(brought(&said)).await.unwrap()).1, reason, "{what}");
        seen += 1;
    }
    assert_eq!(seen, 51);
    let two = passed("/orders/7", &vec![(SAID, good.clone()), (SAID, good.clone())]);
    assert_eq!(refusal(&behind.ask(two).await.unwrap()), expect(400, "request_malformed"));
    // Nobody was asked for a key on account of any of these.
    assert_eq!((world.upstream.counts().requests, keys.asked().len()), before);

    let keyless = [
        ("00000000-0000-0000-0000-000000000403", 401, "token_key_unknown"),
        ("00000000-0000-0000-0000-00000000dead", 503, "issuer_unavailable"),
        ("00000000-0000-0000-0000-000000000302", 503, "issuer_unavailable"),
        ("00000000-0000-0000-0000-0000000000aa", 503, "issuer_unavailable"),
    ];
    for (at, (kid, status, reason)) in keyless.into_iter().enumerate() {
        for _ in 0..2 {
            let answer = behind.ask(brought(&under(kid))).await.unwrap();
            assert_eq!(refusal(&answer), expect(status, reason), "{kid}");
        }
        assert_eq!(keys.asked()[before.1 + at..], [format!("/keys/{kid}")], "once, and no redirect");
    }
    assert_eq!(world.upstream.counts().requests, before.0);
    assert_eq!(behind.ask(brought(&good)).await.unwrap().status, 200);
}

/// Claims whose encoding has `-` or `_` in it.
fn of_odd_bytes(keys: &Keys, world: &World) -> String {
    let said = keys.said(world, json!({}), json!({ "name": "??>>??>>~~~" }));
    let claims = part(&said, 1).to_owned();
    assert!(claims.contains(['-', '_']), "{claims}");
    claims
}

#[tokio::test]
async fn nobody_else_is_believed() {
    let world = World::new().await;
    let keys = Keys::start().await;
    let said = keys.said(&world, json!({}), json!({}));
    for (what, configuration) in [
        ("another address", keys.by_address("10.0.0.0/24")),
        ("another kind of hop", {
            let hop = "[trusted_hop.edge]\nkind = \"rfc9440\"\naddress = \"127.0.0.1/32\"\n";
            let far = keys.by_address("10.0.0.0/24").replace("[trusted_hop.edge]", "[trusted_hop.far]");
            format!("{far}{hop}")
        }),
    ] {
        let proxy = world.start(&configuration);
        let behind = proxy.behind(Protocol::H1).await;
        let answer = behind.ask(brought(&said)).await.unwrap();
        assert_eq!(refusal(&answer), expect(401, "token_missing"), "{what}");
        std::fs::remove_file(world.folder.path().join("audit.jsonl")).unwrap();
    }
    // Whoever shows a certificate of its own is that workload, wherever it runs; and it is no bearer token of anybody.
    let proxy = world.start(&keys.by_address("127.0.0.1/32"));
    let behind = proxy.behind(Protocol::H1).await;
    let storefront = proxy.client(Who::Storefront, Protocol::H1).await;
    let known = by_whole_groups(&keys, &world, "al");
    for said in [&said, &known] {
        let before = world.upstream.counts().requests;
        let answer = storefront.ask(brought(said)).await.unwrap();
        assert_eq!(refusal(&answer), expect(401, "token_missing"));
        assert_eq!(world.upstream.counts().requests, before);
        assert_eq!(behind.ask(brought(said)).await.unwrap().status, 200);
    }
    let before = world.upstream.counts().requests;
    let answer = behind.ask(with_token(passed("/orders/7", &Vec::new()), &known)).await.unwrap();
    assert_eq!(refusal(&answer), expect(401, "token_type_refused"), "remembered, but not as such");
    let fresh = by_whole_groups(&keys, &world, "ally");
    let answer = storefront.ask(with_token(get("/orders/7"), &fresh)).await.unwrap();
    assert_eq!(refusal(&answer), expect(401, "token_malformed"));
    assert_eq!(world.upstream.counts().requests, before);
}

/// What needs no padding but at its very end, so that it could stand in `Authorization`.
fn by_whole_groups(keys: &Keys, world: &World, nickname: &str) -> String {
    let fill = |text: String| format!("{text}{}", " ".repeat((3 - text.len() % 3) % 3));
    let said = keys.said(world, json!({}), json!({ "nickname": nickname }));
    let text = |at| fill(String::from_utf8(URL_SAFE.decode(part(&said, at)).unwrap()).unwrap());
    signed(&keys.key, &text(0), &text(1))
}

#[tokio::test]
async fn a_stream_ends_with_what_the_load_balancer_said() {
    for ends_by in ["time", "reload"] {
        let world = World::at(Clock::manual(Clock::system().now())).await;
        let keys = Keys::start().await;
        let configuration = keys.by_address("127.0.0.1/32");
        let proxy = world.start(&configuration);
        let behind = proxy.behind(Protocol::H1).await;
        let said = keys.said(&world, json!({}), json!({}));
        let mut socket = behind.websocket(passed("/socket", &vec![(SAID, said)])).await.unwrap();
        let reason = match ends_by {
            "time" => {
                world.clock.advance(Duration::from_secs(181));
                "token_expired"
            }
            _ => {
                let far = keys.by_address("10.0.0.0/24");
                proxy.reload(&far).unwrap();
                "token_missing"
            }
        };
        let cut = soon("the cut", socket.next()).await;
        assert!(matches!(cut, Some(Ok(Message::Close(_)))), "{cut:?}");
        let of_socket =
            |all: &[Value]| all.iter().find(|record| record["action"]["path"] == "/socket").cloned();
        assert_eq!(proxy.records.until(of_socket).await["reason"], reason);
    }
}
