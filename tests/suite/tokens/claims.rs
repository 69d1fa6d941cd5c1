//! What a soundly signed token may not say.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::ClientConfig;
use serde_json::json;

use super::{ALLOW, Case, Forge, ask, b64, case};
use crate::world::World;
use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol};
use crate::world::proxy::HOST;
use crate::world::signing::KEYS;

const MALFORMED: &str = "token_malformed";
/// What an issuer's clock may be off by, where the configuration does not say.
const LEEWAY: Duration = Duration::from_secs(60);

pub fn cases(forge: &Forge<'_>) -> Vec<Case> {
    [times(forge), moments(forge), names(forge), kinds(forge), bindings(forge)]
        .into_iter()
        .flatten()
        .collect()
}

/// CVE-2026-25537: a time of the wrong type is no time that is absent.
fn times(forge: &Forge<'_>) -> Vec<Case> {
    let mut cases = Vec::new();
    for name in ["exp", "nbf", "iat", "auth_time"] {
        for wrong in [
            r#""1900000000""#,
            "null",
            "true",
            "[1900000000]",
            "{}",
            "1900000000.0",
            "1.9e9",
            "-1",
            "9223372036854775808",
            "18446744073709551616",
            "253402300800",
            "1e400",
        ] {
            let claims = forge.claims_and(name, &format!(r#""{name}":{wrong}"#));
            cases.push(case(format!("{name} {wrong}"), forge.over(claims), MALFORMED));
        }
    }
    cases.push(case("no exp", forge.issuer.token(json!({"exp": null})), MALFORMED));
    cases
}

/// Times that are over or have not come, to the second.
fn moments(forge: &Forge<'_>) -> Vec<Case> {
    let now = forge.issuer.clock.now();
    let before = now.minus(LEEWAY).unix_seconds();
    let after = now.plus(LEEWAY).unix_seconds();
    let token = |claims| forge.issuer.token(claims);
    vec![
        case("at its end and the leeway", token(json!({"exp": before})), "token_expired"),
        case("a second past it", token(json!({"exp": before - 1})), "token_expired"),
        case("long past", token(json!({"exp": 1})), "token_expired"),
        case("at the beginning of time", token(json!({"exp": 0})), "token_expired"),
        case("a second early", token(json!({"nbf": after + 1})), "token_not_yet_valid"),
        case("issued in the future", token(json!({"iat": after + 1})), "token_not_yet_valid"),
        case("issued in the year 9999", token(json!({"iat": 253_402_300_799_i64})), "token_not_yet_valid"),
    ]
}

/// Whose token it is, and for whom: compared exactly (RFC 8725 §3.8, §3.9).
fn names(forge: &Forge<'_>) -> Vec<Case> {
    let url = &forge.issuer.url;
    let mut cases = Vec::new();
    for (iss, reason) in [
        (json!(format!("{url}/")), "token_issuer_unknown"),
        (json!(url.replace("http", "HTTP")), "token_issuer_unknown"),
        (json!(url.replace("http://", "http://x@")), "token_issuer_unknown"),
        (json!(format!("{url}#")), "token_issuer_unknown"),
        (json!(format!("{url}\0")), "token_issuer_unknown"),
        (json!(format!(" {url}")), "token_issuer_unknown"),
        (json!(&url[..url.len() - 1]), "token_issuer_unknown"),
        (json!(""), "token_issuer_unknown"),
        (json!("corp"), "token_issuer_unknown"),
        (json!(forge.trap), "token_issuer_unknown"),
        (json!([url]), MALFORMED),
        (json!({"url": url}), MALFORMED),
        (json!(1), MALFORMED),
        (json!(true), MALFORMED),
    ] {
        cases.push(case(format!("iss {iss}"), forge.issuer.token(json!({"iss": iss})), reason));
    }
    cases.push(case("iss null", forge.over(forge.claims_and("iss", r#""iss":null"#)), MALFORMED));
    cases.push(case("no iss", forge.issuer.token(json!({"iss": null})), "token_issuer_unknown"));
    let ours = "https://orders.shop.example";
    for (aud, reason) in [
        (json!([]), "token_wrong_audience"),
        (json!(["x"]), "token_wrong_audience"),
        (json!(""), "token_wrong_audience"),
        (json!("*"), "token_wrong_audience"),
        (json!("https://*.shop.example"), "token_wrong_audience"),
        (json!("https://orders.shop.exampl"), "token_wrong_audience"),
        (json!("https://orders.shop.example.evil.example"), "token_wrong_audience"),
        (json!(format!("{ours}/")), "token_wrong_audience"),
        (json!(ours.to_uppercase()), "token_wrong_audience"),
        (json!(format!("x {ours}")), "token_wrong_audience"),
        (json!(format!("{ours}\0")), "token_wrong_audience"),
        (json!(1), MALFORMED),
        (json!(true), MALFORMED),
        (json!({ ours: true }), MALFORMED),
        (json!([ours, 1]), MALFORMED),
        (json!([[ours]]), MALFORMED),
    ] {
        cases.push(case(format!("aud {aud}"), forge.issuer.token(json!({"aud": aud})), reason));
    }
    cases.push(case("aud null", forge.over(forge.claims_and("aud", r#""aud":null"#)), MALFORMED));
    cases.push(case("no aud", forge.issuer.token(json!({"aud": null})), "token_wrong_audience"));
    cases
}

/// RFC 8725 §3.12: the issuer's other tokens; and claims whose type is not theirs.
fn kinds(forge: &Forge<'_>) -> Vec<Case> {
    let mut cases = Vec::new();
    for more in [
        json!({"nonce": "n"}),
        json!({"at_hash": "h"}),
        json!({"c_hash": "h"}),
        json!({"token_use": "id"}),
        json!({"typ": "ID"}),
        json!({"typ": "Refresh"}),
        json!({"typ": "Offline"}),
        json!({"typ": "Logout"}),
        json!({"events": {"http://schemas.openid.net/event/backchannel-logout": {}}}),
        json!({"events": null, "nonce": "n"}),
    ] {
        cases.push(case(&more, forge.issuer.token(more.clone()), "token_type_refused"));
    }
    for (name, wrong) in [
        ("sub", "7"),
        ("sub", "null"),
        ("sub", r#""""#),
        ("sub", r#"["alice"]"#),
        ("client_id", "null"),
        ("client_id", r#"["storefront-web"]"#),
        ("client_id", r#""""#),
        ("scope", "7"),
        ("scope", r#"{"orders:read":true}"#),
        ("scope", r#"["orders:read",7]"#),
        ("groups", "true"),
        ("groups", r#"[["a"]]"#),
        ("acr", "1"),
        ("jti", "{}"),
        ("act", r#""x""#),
        ("act", "{}"),
        ("act", r#"{"sub":7}"#),
        ("act", r#"{"sub":"a","act":null}"#),
        ("_claim_names", r#"{"groups":"src1"}"#),
        ("_claim_names", r#""groups""#),
        ("hasgroups", "true"),
        ("cnf", r#""x""#),
    ] {
        let claims = forge.claims_and(name, &format!(r#""{name}":{wrong}"#));
        cases.push(case(format!("{name} {wrong}"), forge.over(claims), MALFORMED));
    }
    for name in ["sub", "client_id"] {
        cases.push(case(format!("no {name}"), forge.issuer.token(json!({name: null})), MALFORMED));
    }
    cases
}

/// RFC 8705 §3, RFC 9449 §7.1: a bound token without its proof is worth nothing.
fn bindings(forge: &Forge<'_>) -> Vec<Case> {
    let mut cases = Vec::new();
    for (cnf, reason) in [
        (json!({"x5t#S256": b64([7; 32])}), "token_not_sender_constrained"),
        (json!({"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}), "token_not_sender_constrained"),
        (json!({"jwk": KEYS[2].jwk()}), "token_not_sender_constrained"),
        (json!({"kid": "k"}), "token_not_sender_constrained"),
        (json!({}), "token_not_sender_constrained"),
        (json!({"x5t#S256": b64([7; 31])}), MALFORMED),
        (json!({"x5t#S256": 7}), MALFORMED),
        (json!({"jkt": 7}), MALFORMED),
    ] {
        cases.push(case(format!("cnf {cnf}"), forge.issuer.token(json!({"cnf": cnf})), reason));
    }
    cases
}

/// What stands next to the hostile ones and must go on working.
pub fn sound(forge: &Forge<'_>) -> Vec<Case> {
    let now = forge.issuer.clock.now();
    let before = now.minus(LEEWAY).unix_seconds();
    let after = now.plus(LEEWAY).unix_seconds();
    let mut cases = Vec::new();
    for claims in [
        json!({}),
        json!({"exp": before + 1}),
        json!({"exp": 253_402_300_799_i64}),
        json!({"nbf": after}),
        json!({"iat": after}),
        json!({"iat": null}),
        json!({"aud": ["x", "https://orders.shop.example"]}),
        json!({"scope": "a  b"}),
        json!({"scope": ["a", "b"]}),
        json!({"groups": {"a": {}}}),
        json!({"act": null, "events": null}),
        json!({"x": "\u{1f600}\u{0}\u{2028}", "y": [[[[1.5]]]]}),
    ] {
        cases.push(case(&claims, forge.issuer.token(claims.clone()), "allowed"));
    }
    for key in &KEYS[1..3] {
        cases.push(case(key.algorithm, forge.issuer.token_by(key, json!({}), json!({})), "allowed"));
    }
    for typ in [json!(null), json!("JWT"), json!("application/AT+JWT")] {
        cases.push(case(
            format!("typ {typ}"),
            forge.issuer.token_by(&KEYS[0], json!({"typ": typ}), json!({})),
            "allowed",
        ));
    }
    cases
}

/// RFC 8705 §3.1, with two certificates of the one service that may carry the token, and another's.
#[tokio::test]
async fn a_token_bound_to_a_certificate_is_taken_over_its_connections_alone() {
    let world = World::new().await;
    let proxy = world.start(&format!(
        "{ALLOW}
[service.partner]
spiffe_id = \"spiffe://partner.example/ns/prod/sa/storefront\"
client_id = \"any\"
[[allow]]
name = \"the partner\"
service = \"partner\"
role = \"any\""
    ));
    let minted = world.certificates.client(Who::Storefront).unwrap();
    let own = world.certificates.client_config_with(Some(&minted));
    let [earlier, partner] = [Who::Storefront, Who::Partner].map(|who| world.certificates.client_config(who));
    let digest = digest(&SHA256, &minted.der);
    let allowed = (200, json!("allowed"));
    let refused = (401, json!("token_not_sender_constrained"));
    let mut requests = 0;
    for protocol in Protocol::BOTH {
        let open = async |config: &ClientConfig| {
            Client::tls(proxy.address("mesh"), HOST, config.clone(), protocol).await.unwrap()
        };
        // a certificate that was there before does not stand for the one after
        let (earlier, own, partner) = (open(&earlier).await, open(&own).await, open(&partner).await);
        let bound = json!({"cnf": {"x5t#S256": b64(digest.as_ref())}, "jti": format!("{protocol:?}")});
        let bound = world.issuer.token(bound);
        // before the token is known and after it is
        for (client, expected) in [
            (&partner, &refused),
            (&earlier, &refused),
            (&own, &allowed),
            (&own, &allowed),
            (&partner, &refused),
            (&earlier, &refused),
            (&own, &allowed),
        ] {
            let answer = ask(client, &bound).await;
            let record = proxy.record_of(&answer).await;
            let outcome = (answer.status.as_u16(), record["reason"].clone());
            assert_eq!(outcome, *expected, "{protocol:?}: {record}");
            requests += u64::from(*expected == allowed);
            assert_eq!(world.upstream.counts().requests, requests, "{protocol:?}");
        }
        // who carries it is not what they are refused for
        for client in [&partner, &earlier] {
            assert_eq!(ask(client, &world.issuer.token(json!({}))).await.status, 200, "{protocol:?}");
            requests += 1;
        }
    }
    assert_eq!(requests, 10);
}
