//! Where a token may stand (RFC 6750 §2), and what stands in a challenge (§3).

use http::HeaderName;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use serde_json::{Value, json};

use super::{ALLOW, DPOP_CHALLENGE, ask, b64};
use crate::world::World;
use crate::world::certificates::Who;
use crate::world::client::{Protocol, Raw, get, with_token};
use crate::world::proxy::{HOST, Proxy};
use crate::world::signing::{KEYS, forged};

const NOTHING_SENT: (u16, &str, Option<&str>) = (401, "token_missing", Some("Bearer"));
const INVALID: (u16, &str, Option<&str>) = (401, "token_malformed", Some(r#"Bearer error="invalid_token""#));
const UNBOUND: (u16, &str, Option<&str>) = (401, "token_not_sender_constrained", Some(DPOP_CHALLENGE));
const SEVERAL: (u16, &str, Option<&str>) =
    (400, "request_malformed", Some(r#"Bearer error="invalid_request""#));

/// Sends `head` and `body` as they are: status and challenge.
async fn answer(proxy: &Proxy<'_>, head: &str, body: &str) -> (u16, Option<String>) {
    let config = proxy.world.certificates.client_config(Who::Storefront);
    let mut raw = Raw::tls(proxy.address("mesh"), HOST, config).await.unwrap();
    raw.send(format!("{head}host: {HOST}\r\nconnection: close\r\n\r\n{body}")).await.unwrap();
    let head = raw.head().await.unwrap();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let challenge = head.lines().find_map(|line| line.strip_prefix("www-authenticate: "));
    (status.unwrap_or_else(|| panic!("{head:?}")), challenge.map(str::to_owned))
}

#[tokio::test]
async fn a_token_stands_in_one_place_and_in_one_form() {
    let world = World::new().await;
    let proxy = world.start(ALLOW);
    let good = world.issuer.token(json!({}));
    let bad = forged(&good);
    let mut seen = 0;
    for (fields, expected) in [
        ("", NOTHING_SENT),
        ("authorization:", INVALID),
        ("authorization: Bearer", INVALID),
        ("authorization: $T", INVALID),
        ("authorization: Bearer$T", INVALID),
        ("authorization: Bearer\t$T", INVALID),
        ("authorization: Bearer  $T", INVALID),
        ("authorization: Bearer=$T", INVALID),
        ("authorization: Bearer: $T", INVALID),
        ("authorization: Bearer \"$T\"", INVALID),
        ("authorization: Bearer $T $T", INVALID),
        ("authorization: Bearer $T;", INVALID),
        ("authorization: Bearer token=$T", INVALID),
        ("authorization: \"Bearer\" $T", INVALID),
        ("authorization: B\u{435}arer $T", INVALID), // with a Cyrillic letter
        ("authorization: Token $T", INVALID),
        ("authorization: JWT $T", INVALID),
        ("authorization: Basic $T", INVALID),
        ("authorization: Negotiate $T", INVALID),
        ("authorization: DPoP $T", UNBOUND),
        ("authorization: Bearer $T,", SEVERAL),
        ("authorization: ,Bearer $T", SEVERAL),
        ("authorization: Bearer $T, Bearer $T", SEVERAL),
        ("authorization: Basic YTpi, Bearer $T", SEVERAL),
        ("authorization: Bearer $T\r\nauthorization: Bearer $T", SEVERAL),
        ("authorization: Bearer $T\r\nAUTHORIZATION: Bearer $X", SEVERAL),
        ("authorization: Bearer $X\r\nauthorization: Bearer $T", SEVERAL),
        ("authorization: Basic YTpi\r\nauthorization: Bearer $T", SEVERAL),
        ("authorization:\r\nauthorization: Bearer $T", SEVERAL),
        ("proxy-authorization: Bearer $T", NOTHING_SENT),
        ("x-authorization: Bearer $T", NOTHING_SENT),
        ("x-original-authorization: Bearer $T", NOTHING_SENT),
        ("x-forwarded-access-token: $T", NOTHING_SENT),
        ("x-amzn-oidc-accesstoken: $T", NOTHING_SENT),
        ("x-goog-iap-jwt-assertion: $T", NOTHING_SENT),
        ("x-access-token: $T", NOTHING_SENT),
        ("dpop: $T", NOTHING_SENT),
        ("cookie: access_token=$T; Authorization=Bearer $T", NOTHING_SENT),
        ("sec-websocket-protocol: bearer, $T", NOTHING_SENT),
    ] {
        let end = if fields.is_empty() { "" } else { "\r\n" };
        let fields = fields.replace("$T", &good).replace("$X", &bad) + end;
        let answer = answer(&proxy, &format!("GET /orders/7 HTTP/1.1\r\n{fields}"), "").await;
        seen += 1;
        let record = &proxy.records(seen).await[seen - 1];
        let said = (answer.0, record["reason"].as_str().unwrap(), answer.1.as_deref());
        assert_eq!(said, expected, "{fields}");
    }
    assert_eq!(seen, 39);

    // a form and a trailer are no place either (RFC 6750 §2.2, RFC 9110 §6.5.1)
    let form = format!("access_token={good}");
    let head = format!(
        "POST /orders/7 HTTP/1.1\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n",
        form.len()
    );
    assert_eq!(answer(&proxy, &head, &form).await, (401, Some("Bearer".to_owned())));
    let trailer = format!("0\r\nauthorization: Bearer {good}\r\n\r\n");
    let head = "POST /orders/7 HTTP/1.1\r\ntrailer: authorization\r\ntransfer-encoding: chunked\r\n";
    assert_eq!(answer(&proxy, head, &trailer).await, (401, Some("Bearer".to_owned())));
    // what is no field at all is not even recorded
    for line in ["authorization : Bearer $T", "authorization: Bearer\r\n $T", "authorization: Bearer \0$T"] {
        let line = line.replace("$T", &good);
        assert_eq!(answer(&proxy, &format!("GET /orders/7 HTTP/1.1\r\n{line}\r\n"), "").await, (400, None));
    }
    assert_eq!(world.upstream.counts().requests, 0);

    for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
        let head = format!("GET /orders/7 HTTP/1.1\r\nauthorization: {scheme} {good}\r\n");
        assert_eq!(answer(&proxy, &head, "").await, (200, None));
    }
    assert_eq!(world.upstream.counts().requests, 4);
}

/// Over h2 a field may come in other ways, and none of them is another place.
#[tokio::test]
async fn over_h2_a_token_stands_in_the_same_place() {
    let world = World::new().await;
    let proxy = world.start(ALLOW);
    let client = proxy.client(Who::Storefront, Protocol::H2).await;
    let good = world.issuer.token(json!({}));
    let bearer = format!("Bearer {good}");
    let mut seen = 0;
    for (fields, (status, reason, challenge)) in [
        (&[][..], NOTHING_SENT),
        (&[("authorization", "")], INVALID),
        (&[("authorization", good.as_str())], INVALID),
        (&[("authorization", "Basic YTpi")], INVALID),
        (&[("authorization", &bearer), ("authorization", &bearer)], SEVERAL),
        (&[("authorization", "Basic YTpi"), ("authorization", &bearer)], SEVERAL),
        (&[("proxy-authorization", &bearer)], NOTHING_SENT),
        (&[("cookie", &format!("access_token={good}"))], NOTHING_SENT),
        (&[("x-access-token", &good)], NOTHING_SENT),
    ] {
        let mut request = get("/orders/7");
        for (name, value) in fields {
            request.headers_mut().append(HeaderName::from_static(name), value.parse().unwrap());
        }
        let answer = client.ask(request).await.unwrap();
        let said = answer.headers.get(WWW_AUTHENTICATE).map(|value| value.to_str().unwrap());
        assert_eq!((answer.status.as_u16(), said), (status, challenge), "{fields:?}");
        assert_eq!(proxy.record_of(&answer).await["reason"], reason, "{fields:?}");
        seen += 1;
    }
    assert_eq!(seen, 9);
    assert_eq!(world.upstream.counts().requests, 0);
}

#[tokio::test]
async fn no_answer_says_back_what_a_token_said() {
    const CANARY: &str = "canary7f3a";
    let world = World::new().await;
    let proxy = world.start(ALLOW);
    let token = |claims: Value| format!("Bearer {}", world.issuer.token(claims));
    let headed = |header: Value| format!("Bearer {}", world.issuer.token_by(&KEYS[0], header, json!({})));
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        let mut seen = 0;
        for value in [
            format!("{CANARY} x"),
            format!("Bearer {CANARY}"),
            format!("Bearer {CANARY}.{CANARY}.{CANARY}"),
            format!("Bearer {}.{}.AA", b64(CANARY), b64(CANARY)),
            token(json!({"iss": CANARY})),
            token(json!({"aud": CANARY})),
            token(json!({"exp": CANARY})),
            token(json!({"sub": [CANARY]})),
            token(json!({"scope": {CANARY: 1}})),
            token(json!({"act": {"sub": [CANARY]}})),
            token(json!({"cnf": {CANARY: CANARY}})),
            token(json!({"client_id": CANARY})),
            token(json!({"_claim_names": {"groups": CANARY}})),
            headed(json!({"alg": CANARY})),
            headed(json!({"kid": CANARY})),
            headed(json!({"typ": CANARY})),
            headed(json!({"jku": CANARY})),
            headed(json!({CANARY: 1})),
        ] {
            for page in ["application/json", "text/html"] {
                let mut request = get("/orders/7");
                request.headers_mut().insert(AUTHORIZATION, value.parse().unwrap());
                request.headers_mut().insert("accept", page.parse().unwrap());
                let answer = client.ask(request).await.unwrap();
                let all = format!("{:?} {:?}", answer.headers, answer.body);
                assert!(matches!(answer.status.as_u16(), 401 | 403), "{all}");
                assert!(!all.contains(CANARY) && !all.contains("corp"), "{all}");
                seen += 1;
            }
        }
        assert_eq!(seen, 36);
        assert_eq!(ask(&client, &world.issuer.token(json!({}))).await.status, 200);
    }
    assert_eq!(world.upstream.counts().requests, 2);
}

/// More than any head may hold, token or not.
#[tokio::test]
async fn a_token_of_a_megabyte_is_too_much_of_a_head() {
    let world = World::new().await;
    let proxy = world.start(ALLOW);
    let kid = "k".repeat(1 << 20);
    let token = world.issuer.token_by(&KEYS[0], json!({"kid": kid}), json!({}));
    let nested = KEYS[0].token(json!({"alg": "RS256", "kid": "RS256"}).to_string(), "[".repeat(100_000));
    for protocol in Protocol::BOTH {
        for token in [&token, &nested] {
            let client = proxy.client(Who::Storefront, protocol).await;
            let request = with_token(get("/orders/7"), token);
            // a connection that ends before all was read may end without an answer
            let status = client.ask(request).await.map(|answer| answer.status.as_u16());
            assert!(matches!(status, Err(_) | Ok(431)), "{protocol:?} {status:?}");
        }
    }
    let client = proxy.client(Who::Storefront, Protocol::H2).await;
    assert_eq!(ask(&client, &world.issuer.token(json!({}))).await.status, 200);
    assert_eq!(world.upstream.counts().requests, 1);
}
