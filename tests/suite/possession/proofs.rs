//! DPoP proofs (RFC 9449 §4.3): whatever is wrong with one refuses its request.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign::clock::{Clock, Timestamp};
use http::Method;
use http::header::AUTHORIZATION;
use serde_json::{Value, json};

use super::{ALLOW, Holder, challenge, presenting, start_with_issuer, with_proof};
use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol};
use crate::world::proxy::{HOST, Proxy};
use crate::world::seen::Seen;
use crate::world::signing::{Key, forged};
use crate::world::{World, sha256_of};

const ALGORITHMS: &str = r#"algs="RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 EdDSA""#;

fn whole_second() -> Clock {
    Clock::manual(Timestamp::from_unix_seconds(Clock::system().now().unix_seconds()))
}

/// One proof that is no good, and why.
struct Case {
    what: &'static str,
    proof: String,
}

fn cases(holder: &Holder, token: &str, world: &World) -> Vec<Case> {
    let now = world.clock.now().unix_seconds();
    let header = |over: Value| holder.proof(token, over, json!({}));
    let claims = |over: Value| holder.proof(token, json!({}), over);
    let text = |header: &str, claims: &str| holder.key.token(header, claims);
    let sound = [holder.header(json!({})), holder.claims(token, json!({}))].map(|part| part.to_string());
    let other = Holder::new("ES256", &world.clock);
    let stranger = other.proof(token, json!({}), json!({}));
    let mut private = holder.jwk();
    private.insert("d".into(), URL_SAFE_NO_PAD.encode([7; 32]).into());
    let member = |name: &str, value: Value| {
        let mut jwk = holder.jwk();
        jwk.insert(name.into(), value);
        json!({"jwk": jwk})
    };
    let hmac = Key::confused("holder", &holder.key.public_der());
    let hash = |text: &str| URL_SAFE_NO_PAD.encode(sha256_of(text));
    let unsigned = format!(
        "{}.",
        header(json!({"alg": "none"})).rsplit_once('.').map(|(message, _)| message.to_owned()).unwrap()
    );
    let case = |what, proof| Case { what, proof };
    vec![
        case("empty", String::new()),
        case("no jwt", "proof".into()),
        case("the token itself", token.into()),
        case("two in one field", format!("{0}, {0}", claims(json!({})))),
        case("and junk", format!("{} x", claims(json!({})))),
        case("padded", format!("{}=", claims(json!({})))),
        case("four parts", format!("{}.AA", claims(json!({})))),
        case("longer than a token may be", claims(json!({"x": "y".repeat(20_000)}))),
        case("nested", claims(json!({"x": (0..40).fold(json!(1), |inner, _| json!([inner]))}))),
        case(
            "a member twice in its header",
            text(&sound[0].replacen('{', "{\"typ\":\"JWT\",", 1), &sound[1]),
        ),
        case(
            "a member twice in its claims",
            text(&sound[0], &sound[1].replacen('{', "{\"htm\":\"GET\",", 1)),
        ),
        case("no typ", header(json!({"typ": null}))),
        case("the typ of a token", header(json!({"typ": "at+jwt"}))),
        case("typ JWT", header(json!({"typ": "JWT"}))),
        case("typ in other letters", header(json!({"typ": "DPOP+JWT"}))),
        case("no alg", header(json!({"alg": null}))),
        case("alg none", header(json!({"alg": "none"}))),
        case("alg none and no signature", unsigned),
        case(
            "HMAC with the public key",
            hmac.token(holder.header(json!({"alg": "HS256"})).to_string(), &sound[1]),
        ),
        case("another algorithm of another key", header(json!({"alg": "RS256"}))),
        case("another algorithm of this kind of key", header(json!({"alg": "ES384"}))),
        case("crit", header(json!({"crit": ["exp"]}))),
        case("b64", header(json!({"b64": false}))),
        case("kid", header(json!({"kid": "holder"}))),
        case("jku", header(json!({"jku": "https://e.example"}))),
        case("x5c", header(json!({"x5c": []}))),
        case("no jwk", header(json!({"jwk": null}))),
        case("a jwk that is text", header(json!({"jwk": "key"}))),
        case("a private jwk", header(json!({"jwk": private}))),
        case("a symmetric jwk", header(json!({"jwk": {"kty": "oct", "k": "AAAA"}}))),
        case("a jwk for encryption", header(member("use", "enc".into()))),
        case("a jwk that may not verify", header(member("key_ops", json!(["sign"])))),
        case("a jwk for another algorithm", header(member("alg", "ES384".into()))),
        case("a jwk on no curve", header(member("x", URL_SAFE_NO_PAD.encode([1; 32]).into()))),
        case("another's key", stranger),
        case("another's key under this signature", header(json!({"jwk": other.jwk()}))),
        case("this key under another's signature", other.key.token(&sound[0], &sound[1])),
        case("a signature with one bit turned", forged(&claims(json!({})))),
        case("no htm", claims(json!({"htm": null}))),
        case("another method", claims(json!({"htm": "POST"}))),
        case("the method in other letters", claims(json!({"htm": "get"}))),
        case("htm of another type", claims(json!({"htm": ["GET"]}))),
        case("no htu", claims(json!({"htu": null}))),
        case("another path", claims(json!({"htu": format!("https://{HOST}/orders/8")}))),
        case("a path above", claims(json!({"htu": format!("https://{HOST}/orders")}))),
        case("a slash more", claims(json!({"htu": format!("https://{HOST}/orders/7/")}))),
        case("another host", claims(json!({"htu": "https://other.shop.example/orders/7"}))),
        case("another port", claims(json!({"htu": format!("https://{HOST}:8443/orders/7")}))),
        case("plain http", claims(json!({"htu": format!("http://{HOST}/orders/7")}))),
        case("a path alone", claims(json!({"htu": "/orders/7"}))),
        case("no jti", claims(json!({"jti": null}))),
        case("an empty jti", claims(json!({"jti": ""}))),
        case("a jti of a number", claims(json!({"jti": 7}))),
        case("a jti that is long", claims(json!({"jti": "7".repeat(129)}))),
        case("no iat", claims(json!({"iat": null}))),
        case("an iat of text", claims(json!({"iat": now.to_string()}))),
        case("an iat with a fraction", claims(json!({"iat": now as f64 + 0.5}))),
        case("a negative iat", claims(json!({"iat": -now}))),
        case("too old", claims(json!({"iat": now - 60}))),
        case("of the future", claims(json!({"iat": now + 61}))),
        case("of a far future", claims(json!({"iat": u64::MAX}))),
        case("no ath", claims(json!({"ath": null}))),
        case("another token's ath", claims(json!({"ath": hash("token")}))),
        case("a shorter ath", claims(json!({"ath": URL_SAFE_NO_PAD.encode(&sha256_of(token)[..31])}))),
        case("the token as its ath", claims(json!({"ath": token}))),
    ]
}

async fn asked(client: &Client, proxy: &Proxy<'_>, request: http::Request<crate::world::Body>) -> Said {
    let answer = client.ask(request).await.unwrap();
    let record = proxy.record_of(&answer).await;
    let said = (answer.status.as_u16(), record["reason"].as_str().unwrap().to_owned());
    Said { status: said.0, reason: said.1, challenge: challenge(&answer.headers).map(str::to_owned) }
}

#[derive(Debug, PartialEq)]
struct Said {
    status: u16,
    reason: String,
    challenge: Option<String>,
}

fn refused(scheme_and_error: &str) -> Said {
    let algorithms =
        if scheme_and_error.starts_with("DPoP") { format!(", {ALGORITHMS}") } else { String::new() };
    Said {
        status: 401,
        reason: "token_not_sender_constrained".into(),
        challenge: Some(format!("{scheme_and_error}{algorithms}")),
    }
}

#[tokio::test]
async fn no_hostile_proof_reaches_the_upstream() {
    let world = World::at(whole_second()).await;
    let proxy = world.start(ALLOW);
    let holder = Holder::new("ES256", &world.clock);
    let token = holder.token(&world.issuer);
    let bad = refused("DPoP error=\"invalid_dpop_proof\"");
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        let mut seen = 0;
        for Case { what, proof } in cases(&holder, &token, &world) {
            let mut request = presenting("DPoP", &token);
            request.headers_mut().insert("dpop", proof.parse().unwrap());
            let said = asked(&client, &proxy, request).await;
            match what {
                "longer than a token may be" | "nested" => {
                    assert_eq!((said.status, said.reason.as_str()), (431, "limit_exceeded"), "{what}");
                }
                _ => assert_eq!(said, bad, "{protocol:?}: {what}"),
            }
            seen += 1;
        }
        assert_eq!(seen, 65);

        let mut two = presenting("DPoP", &token);
        for _ in 0..2 {
            let proof = holder.proof(&token, json!({}), json!({})).parse().unwrap();
            two.headers_mut().append("dpop", proof);
        }
        assert_eq!(asked(&client, &proxy, two).await, bad, "two of them");
        assert_eq!(asked(&client, &proxy, presenting("DPoP", &token)).await, bad, "none");
        let own = world.issuer.token(json!({}));
        let plain = holder.request(&own);
        assert_eq!(
            asked(&client, &proxy, plain).await,
            refused("DPoP error=\"invalid_token\""),
            "bound to no key"
        );
        // RFC 9449 §7.2: a proof beside it does not make it a `DPoP`
        let mut bearer = holder.request(&token);
        bearer.headers_mut().insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        assert_eq!(asked(&client, &proxy, bearer).await, refused("DPoP error=\"invalid_token\""));
        let expired = world.issuer.token(json!({"exp": 1, "cnf": {"jkt": holder.thumbprint()}}));
        let said = asked(&client, &proxy, holder.request(&expired)).await;
        assert_eq!((said.status, said.reason.as_str()), (401, "token_expired"));
        assert_eq!(said.challenge, refused("DPoP error=\"invalid_token\"").challenge);
    }
    assert_eq!(world.upstream.counts().requests, 0);
}

#[tokio::test]
async fn a_sound_proof_by_each_kind_of_key_is_taken_once() {
    let world = World::at(whole_second()).await;
    let proxy = world.start(ALLOW);
    let (mut seen, now) = (0, world.clock.now().unix_seconds());
    for algorithm in ["RS256", "PS256", "ES256", "ES384", "EdDSA"] {
        let holder = Holder::new(algorithm, &world.clock);
        let token = holder.token(&world.issuer);
        for protocol in Protocol::BOTH {
            let client = proxy.client(Who::Storefront, protocol).await;
            for (header, claims) in [
                (json!({}), json!({})),
                (json!({}), json!({"iat": now - 59})),
                (json!({}), json!({"iat": now + 60})),
                (json!({}), json!({"htu": format!("https://{HOST}:443/%6frders/7?any#thing")})),
                (json!({}), json!({"more": {"of": "it"}, "exp": 1, "nonce": "unasked"})),
            ] {
                let proof = holder.proof(&token, header, claims);
                assert_eq!(client.ask(with_proof(&token, &proof)).await.unwrap().status, 200, "{algorithm}");
                let again = asked(&client, &proxy, with_proof(&token, &proof)).await;
                assert_eq!(again, refused("DPoP error=\"invalid_dpop_proof\""), "used before");
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 50);
    assert_eq!(world.upstream.counts().requests, 50);
}

/// Wherever it comes in the second time, and whatever was loaded between.
#[tokio::test]
async fn a_proof_that_was_used_is_known_to_every_core_and_after_a_reload() {
    let world = World::at(whole_second()).await;
    let proxy = world.start(ALLOW);
    let holder = Holder::new("ES256", &world.clock);
    let token = holder.token(&world.issuer);
    let proof = holder.proof(&token, json!({}), json!({}));
    let ask = async || {
        let client = proxy.client(Who::Storefront, Protocol::H2).await;
        client.ask(with_proof(&token, &proof)).await.unwrap().status.as_u16()
    };
    assert_eq!(ask().await, 200);
    for _ in 0..8 {
        assert_eq!(ask().await, 401);
    }
    proxy.reload(&format!("{ALLOW}\n[limit]\ntoken_bytes_max = \"8KiB\"")).unwrap();
    assert_eq!(ask().await, 401);
    // when it could be forgotten it is too old
    world.clock.advance(Duration::from_secs(60));
    assert_eq!(ask().await, 401);
    assert_eq!(world.upstream.counts().requests, 1);
}

/// A token that is remembered, on this connection too, wants a proof with each request.
#[tokio::test]
async fn what_is_known_of_a_token_does_not_prove_who_holds_it() {
    let world = World::new().await;
    let proxy = world.start(ALLOW);
    let holder = Holder::new("ES256", &world.clock);
    let token = holder.token(&world.issuer);
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        for _ in 0..3 {
            assert_eq!(client.ask(holder.request(&token)).await.unwrap().status, 200);
            assert_eq!(client.ask(presenting("DPoP", &token)).await.unwrap().status, 401);
            assert_eq!(client.ask(presenting("Bearer", &token)).await.unwrap().status, 401);
        }
    }
    assert_eq!(world.upstream.counts().requests, 6);
}

#[tokio::test]
async fn a_proof_is_for_the_method_and_url_that_are_judged() {
    let world = World::new().await;
    let proxy = world.start(ALLOW);
    let holder = Holder::new("EdDSA", &world.clock);
    let token = holder.token(&world.issuer);
    let client = proxy.client(Who::Storefront, Protocol::H1).await;
    let (mut seen, mut taken) = (0, 0);
    for (method, target, htm, htu, status) in [
        (Method::DELETE, "/orders/7", "DELETE", "/orders/7", 200),
        (Method::DELETE, "/orders/7", "GET", "/orders/7", 401),
        (Method::HEAD, "/orders/7", "HEAD", "/orders/7", 200),
        (Method::HEAD, "/orders/7", "GET", "/orders/7", 401),
        (Method::GET, "/orders/7?x=1", "GET", "/orders/7", 200),
        (Method::GET, "/orders/%37", "GET", "/orders/7", 200),
        (Method::GET, "/orders/7", "GET", "/orders/%37", 200),
        (Method::GET, "/orders/a%7cb", "GET", "/orders/a%7Cb", 200),
        (Method::GET, "/orders/a%257Cb", "GET", "/orders/a%7Cb", 401),
        (Method::GET, "/orders/7/", "GET", "/orders/7", 401),
        (Method::GET, "/", "GET", "", 200),
    ] {
        let claims = json!({"htm": htm, "htu": format!("https://{HOST}{htu}")});
        let mut request = with_proof(&token, &holder.proof(&token, json!({}), claims));
        (*request.method_mut(), *request.uri_mut()) = (method, target.parse().unwrap());
        let answered = client.ask(request).await.unwrap().status;
        assert_eq!(answered, status, "{target} {htm} {htu}");
        (seen, taken) = (seen + 1, taken + u64::from(status == 200));
    }
    assert_eq!(seen, 11);
    assert_eq!(world.upstream.counts().requests, taken);
}

#[tokio::test]
async fn where_a_nonce_is_wanted_it_is_given_and_has_its_time() {
    let world = World::at(whole_second()).await;
    let proxy = start_with_issuer(&world, "dpop_nonce = true", ALLOW);
    let holder = Holder::new("ES256", &world.clock);
    let token = holder.token(&world.issuer);
    let client = proxy.client(Who::Storefront, Protocol::H2).await;
    let wanted = refused("DPoP error=\"use_dpop_nonce\"");
    let ask = async |nonce: Value| {
        let proof = holder.proof(&token, json!({}), json!({"nonce": nonce}));
        let answer = client.ask(with_proof(&token, &proof)).await.unwrap();
        let given = answer.headers.get("dpop-nonce").map(|nonce| nonce.to_str().unwrap().to_owned());
        assert_eq!(given.is_some(), answer.status == 401);
        if answer.status == 401 {
            assert_eq!(challenge(&answer.headers), wanted.challenge.as_deref());
        }
        (answer.status.as_u16(), given)
    };
    let (status, given) = ask(Value::Null).await;
    assert_eq!(status, 401);
    let nonce = json!(given.unwrap());
    assert_eq!(ask(nonce.clone()).await.0, 200);
    assert_eq!(ask(nonce.clone()).await.0, 200, "for as many proofs as its time has");
    for bad in [json!(""), json!("nonce"), json!(7), json!(format!("{}A", nonce.as_str().unwrap()))] {
        assert_eq!(ask(bad).await.0, 401);
    }
    world.clock.advance(Duration::from_secs(299));
    let token = holder.token(&world.issuer);
    let late = async |nonce: &Value| {
        let proof = holder.proof(&token, json!({}), json!({"nonce": nonce}));
        client.ask(with_proof(&token, &proof)).await.unwrap().status.as_u16()
    };
    assert_eq!(late(&nonce).await, 200);
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(late(&nonce).await, 401);
    assert_eq!(world.upstream.counts().requests, 3);
}

#[tokio::test]
async fn proofs_have_their_number_and_one_holder_its_part() {
    let world = World::new().await;
    let proxy = world.start(&format!("{ALLOW}\n[limit]\ndpop_proofs_max = 16"));
    let (holder, other) = (Holder::new("ES256", &world.clock), Holder::new("ES256", &world.clock));
    let [token, same] = [&holder, &other].map(|holder| holder.token(&world.issuer));
    let others = world.issuer.token(json!({"sub": "bob", "cnf": {"jkt": other.thumbprint()}}));
    let client = proxy.client(Who::Storefront, Protocol::H2).await;
    for _ in 0..4 {
        assert_eq!(client.ask(holder.request(&token)).await.unwrap().status, 200);
    }
    let over = client.ask(holder.request(&token)).await.unwrap();
    assert_eq!((over.status.as_u16(), &over.json()["reason"]), (429, &json!("limit_exceeded")));
    proxy.metrics_once("countersign_limits_hit_total{limit=\"dpop_proofs_max\"} 1").await;
    assert_eq!(client.ask(other.request(&same)).await.unwrap().status, 429, "by another key of the same");
    assert_eq!(client.ask(other.request(&others)).await.unwrap().status, 200, "another's");
    assert_eq!(world.upstream.counts().requests, 5);
}

#[tokio::test]
async fn a_proof_goes_to_nobody_else() {
    let world = World::new().await;
    let proxy = world.start(&format!(
        "{ALLOW}route = \"any\"\n[route.with-token]\nhost = \"{HOST}\"\npath = \"/with-token/**\"\nupstream = \"orders\"\n\
         forward_authorization = true"
    ));
    let holder = Holder::new("ES256", &world.clock);
    let token = holder.token(&world.issuer);
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        for (path, authorization) in [("/orders/7", None), ("/with-token/7", Some(format!("DPoP {token}")))] {
            let proof = holder.proof(&token, json!({}), json!({"htu": format!("https://{HOST}{path}")}));
            let mut request = with_proof(&token, &proof);
            *request.uri_mut() = path.parse().unwrap();
            let answer = client.ask(request).await.unwrap();
            assert_eq!(answer.status, 200);
            let seen: Seen = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(seen.header("dpop"), Vec::<&str>::new());
            assert_eq!(
                seen.header("authorization"),
                authorization.as_deref().into_iter().collect::<Vec<_>>()
            );
            let record = proxy.record_of(&answer).await;
            assert_eq!(record["caller"]["bound"], "key");
            let part = proof.split('.').nth(1).unwrap();
            assert!(!record.to_string().contains(part));
        }
    }
}
