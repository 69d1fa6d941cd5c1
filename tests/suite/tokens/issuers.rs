//! Whose keys count for whose tokens, and which of a published key set are keys at all.

use countersign::clock::Clock;
use serde_json::{Value, json};

use super::{ALLOW, Case, algorithms, ask, assert_refused, b64, case};
use crate::world::World;
use crate::world::certificates::Who;
use crate::world::client::Protocol;
use crate::world::issuer::{Answering, Issuer};
use crate::world::proxy::Proxy;
use crate::world::signing::{KEYS, Key};

/// Another issuer, whose tokens the partner may carry.
fn second(issuer: &Issuer, more: &str) -> String {
    format!(
        r#"
[issuer.second]
url = "{}"
audience = "https://orders.shop.example"
allow_http = true
{more}

[service.partner]
spiffe_id = "spiffe://partner.example/ns/prod/sa/storefront"
client_id = {{ issuer = "second", client = "*" }}

[[allow]]
name = "partners"
service = "partner"
role = "any"
"#,
        issuer.url
    )
}

/// Every one of `cases` is refused, and a sound token is not.
async fn assert_all_refused(proxy: &Proxy<'_>, who: Who, cases: &[Case], sound: &[String]) {
    for protocol in Protocol::BOTH {
        let client = proxy.client(who, protocol).await;
        for case in cases {
            assert_refused(proxy, &ask(&client, &case.token).await, case.reason, &case.what).await;
        }
    }
    let client = proxy.client(who, Protocol::H2).await;
    for token in sound {
        assert_eq!(ask(&client, token).await.status, 200);
    }
    assert_eq!(proxy.world.upstream.counts().requests, sound.len() as u64);
}

/// RFC 8725 §3.8: two issuers whose keys have the same names.
#[tokio::test]
async fn a_token_is_checked_with_the_keys_of_the_issuer_that_it_names() {
    let world = World::new().await;
    let other = Issuer::start(Clock::system()).await;
    let theirs = Key::new("RS256", "RS256");
    other.publish(std::slice::from_ref(&theirs));
    let stranger = Issuer::start(Clock::system()).await;
    let proxy = world.start(&format!("{ALLOW}{}", second(&other, "")));
    let (iss, kid) = (|issuer: &Issuer| json!({"iss": issuer.url}), json!({"kid": "RS256"}));
    let bad = "token_bad_signature";
    let cases = [
        case("ours, signed by theirs", world.issuer.token_by(&theirs, kid.clone(), json!({})), bad),
        case("theirs, signed by ours", other.token_by(&KEYS[0], kid.clone(), json!({})), bad),
        case("their keys, our name", other.token_by(&theirs, json!({}), iss(&world.issuer)), bad),
        case("our keys, their name", world.issuer.token(iss(&other)), bad),
        case("nobody's", stranger.token(json!({})), "token_issuer_unknown"),
        case(
            "both names",
            world.issuer.token(json!({"iss": [world.issuer.url, other.url]})),
            "token_malformed",
        ),
    ];
    assert_all_refused(&proxy, Who::Storefront, &cases, &[world.issuer.token(json!({}))]).await;
    assert_eq!(stranger.fetches().discovery, 0, "an issuer that nobody configured is never asked");
    assert_eq!((world.issuer.fetches().jwks, other.fetches().jwks), (1, 1));
}

/// RFC 9068 §2.1, §2.2 and §4.
#[tokio::test]
async fn the_strict_profile_takes_nothing_but_access_tokens() {
    let world = World::new().await;
    let other = Issuer::start(Clock::system()).await;
    let proxy = world.start(&format!("{ALLOW}{}", second(&other, "token_type = \"at+jwt\"")));
    let token = |header, claims| other.token_by(&KEYS[0], header, claims);
    let mut cases = Vec::new();
    for typ in [json!(null), json!("JWT"), json!("at"), json!("at+jwt "), json!("application/jwt")] {
        cases.push(case(&typ, token(json!({"typ": typ}), json!({})), "token_type_refused"));
    }
    for name in ["exp", "aud", "sub", "client_id", "iat", "jti"] {
        let reason = if name == "aud" { "token_wrong_audience" } else { "token_malformed" };
        cases.push(case(format!("no {name}"), token(json!({}), json!({name: null})), reason));
    }
    assert_eq!(cases.len(), 11);
    let sound = ["at+jwt", "AT+JWT", "application/at+jwt"].map(|typ| token(json!({"typ": typ}), json!({})));
    assert_all_refused(&proxy, Who::Partner, &cases, &sound).await;
}

/// A key that somebody could break, or that was published for something else, verifies nothing; the good
/// ones beside it do.
#[tokio::test]
async fn a_published_key_that_may_not_sign_tokens_signs_none() {
    let world = World::new().await;
    let [rsa, ec] = [&KEYS[0], &KEYS[2]];
    let with = |key: &Key, more: Value| {
        let mut jwk = key.jwk();
        jwk.as_object_mut().unwrap().remove("alg");
        jwk.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        jwk
    };
    let keys = [
        with(rsa, json!({"kid": "exponent 1", "e": "AQ"})),
        with(rsa, json!({"kid": "exponent 3", "e": "Aw"})),
        with(rsa, json!({"kid": "even exponent", "e": "AQAA"})),
        with(rsa, json!({"kid": "1024 bits", "n": b64([0xc1; 128])})),
        with(rsa, json!({"kid": "even modulus", "n": b64([0xc0; 256])})),
        with(rsa, json!({"kid": "enc", "use": "enc"})),
        with(rsa, json!({"kid": "ops", "key_ops": ["sign", "wrapKey"]})),
        with(rsa, json!({"kid": "oaep", "alg": "RSA-OAEP"})),
        with(rsa, json!({"kid": "pss", "alg": "PS256"})),
        with(rsa, json!({"kid": "hmac", "alg": "HS256"})),
        with(rsa, json!({"kid": "none", "alg": "none"})),
        with(rsa, json!({"kid": "private", "d": "AAAA"})),
        with(rsa, json!({"kid": "typed", "kty": "oct", "k": rsa.jwk()["n"]})),
        with(ec, json!({"kid": "curve", "crv": "P-384"})),
        with(ec, json!({"kid": "off", "y": b64([1; 32])})),
        with(ec, json!({"kid": "svid", "use": "jwt-svid"})),
        with(rsa, json!({"kid": "good", "x5c": ["AA"], "x5u": "http://127.0.0.1:1/"})),
    ];
    let body = json!({ "keys": keys }).to_string();
    world.issuer.jwks_answers(Answering::Text { content_type: "application/json", body });
    let proxy = world.start(ALLOW);
    let token = |key: &Key, kid: &Value| world.issuer.token_by(key, json!({"kid": kid}), json!({}));
    let mut cases = Vec::new();
    for jwk in &keys[..16] {
        let key = if jwk["kty"] == "EC" { ec } else { rsa };
        cases.push(case(&jwk["kid"], token(key, &jwk["kid"]), "token_key_unknown"));
    }
    // to the power of 1, any signature is the padded hash itself
    let signed = token(rsa, &json!("exponent 1"));
    let message = signed.rsplit_once('.').unwrap().0;
    let padded = b64(algorithms::pkcs1(message.as_bytes(), 256));
    cases.push(case("forged for exponent 1", format!("{message}.{padded}"), "token_key_unknown"));
    let mac = Key::confused("typed", rsa.jwk()["n"].as_str().unwrap().as_bytes());
    let mac = world.issuer.token_by(&mac, json!({}), json!({}));
    cases.push(case("with the published secret", mac, "token_algorithm_refused"));
    assert_eq!(cases.len(), 18);
    assert_all_refused(&proxy, Who::Storefront, &cases, &[token(rsa, &json!("good"))]).await;
}
