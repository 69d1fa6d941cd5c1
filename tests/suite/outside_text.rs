//! Text from outside: it stays on its line, makes no series of its own, and opens no page of the operator's.

use std::sync::Arc;

use http::header::{AUTHORIZATION, HOST as HOST_FIELD};
use http::{HeaderValue, Method, Request};
use serde_json::json;

use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, Raw, bearer, get};
use crate::world::proxy::HOST;
use crate::world::signing::forged;
use crate::world::tls::hello;
use crate::world::{Body, World};

const CONFIGURATION: &str = r#"
[listener.plain]
address = "127.0.0.1:0"
allow_plaintext = true

[[allow]]
name = "whoever has a certificate"
service = "storefront"
role = "none"
path = "/open"

[[allow]]
name = "readers"
service = "storefront"
role = "order-reader"
path = "/orders/**"
"#;

/// What ends lines, moves cursors, turns text, and closes a field of JSON.
const HOSTILE: &str =
    "a\r\n{\"event\":\"request\",\"verdict\":\"allow\"}\u{1b}[2J\u{9b}31m\u{2028}\u{202e}\u{0}\",\"x\":\"";

/// [`HOST`] to who reads names as DNS does (RFC 4343).
const CAPITALS: &str = "ORDERS.Shop.EXAMPLE";

fn misleads(text: &str) -> bool {
    text.contains(|c| c != '\n' && countersign::audit::line::is_misleading(c))
}

#[tokio::test]
async fn no_text_from_outside_leaves_its_line_or_makes_a_series() {
    let world = World::new().await;
    let proxy = world.start(CONFIGURATION);
    let series = |metrics: String| -> Vec<String> {
        let mut names: Vec<_> = metrics
            .lines()
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(name, _)| name.to_owned())
            .collect();
        names.sort();
        names
    };
    let mut asked = 0;
    let mut first = Vec::new();
    for round in 0..20 {
        for protocol in Protocol::BOTH {
            let method: Method = format!("ODD-{round}").parse().unwrap();
            let claims = [
                json!({"sub": HOSTILE, "client_id": "storefront-web"}),
                json!({"client_id": HOSTILE}),
                json!({"scope": HOSTILE}),
                json!({"iss": format!("https://{round}.example/{HOSTILE}")}),
                json!({"jti": HOSTILE, "aud": HOSTILE}),
            ];
            for claims in claims {
                let mut request: Request<Body> = get(&format!("/orders/{round}%0d%0a%1b%5b2J%e2%80%ae"));
                if round % 2 == 0 {
                    request = get(&format!("/orders/{round}%e2%80%ae%c2%9b31m"));
                }
                request.headers_mut().insert(AUTHORIZATION, bearer(&world.issuer.token(claims)));
                let agent = HeaderValue::from_bytes(b"\xff\x9b[2J \"}{ \xe2\x80\xae").unwrap();
                request.headers_mut().insert("user-agent", agent);
                *request.method_mut() = if asked % 2 == 0 { Method::GET } else { method.clone() };
                // A malformed path ends its connection.
                proxy.client(Who::Storefront, protocol).await.ask(request).await.unwrap();
                asked += 1;
            }
            let mut elsewhere: Request<Body> = get("/orders/1");
            elsewhere.headers_mut().insert(HOST_FIELD, format!("{round}.example").parse().unwrap());
            let client = proxy.client(Who::Storefront, protocol).await;
            assert!(client.ask(elsewhere).await.unwrap().status.is_client_error());
            asked += 1;
        }
        proxy.records(asked).await;
        if round == 1 {
            first = series(proxy.metrics().await);
        }
    }
    assert_eq!(asked, 240);
    assert_eq!(series(proxy.metrics().await), first, "as many series as after the first rounds");
    let mut said = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).unwrap();
    let lines = said.lines().count();
    assert!(
        lines >= asked && said.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok())
    );
    for page in ["/metrics", "/status", "/readyz", "/livez"] {
        said += std::str::from_utf8(&proxy.admin(page).await.body).unwrap();
    }
    assert!(!misleads(&said));
}

#[tokio::test]
async fn no_page_of_the_operators_is_on_a_data_port_and_no_agent_opens_one() {
    let world = World::new().await;
    let proxy = world.start(CONFIGURATION);
    let mut cases = 0;
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        for path in ["/livez", "/readyz", "/metrics", "/status", "/healthz", "/ping"] {
            for agent in ["ELB-HealthChecker/2.0", "kube-probe/1.30", "GoogleHC/1.0", "Prometheus/3.0"] {
                let mut request: Request<Body> = get(path);
                request.headers_mut().insert("user-agent", HeaderValue::from_static(agent));
                let answer = client.ask(request).await.unwrap();
                assert_eq!(answer.status, 403, "{protocol:?} {path} {agent}");
                cases += 1;
            }
        }
    }
    assert_eq!((cases, world.upstream.counts().requests), (48, 0));
}

#[tokio::test]
async fn who_speaks_the_other_language_on_a_port_is_refused_and_recorded() {
    let world = World::new().await;
    let proxy = world.start(CONFIGURATION);
    let mut raw = Raw::plain(proxy.address("mesh")).await.unwrap();
    raw.send(format!("GET /orders/1 HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await.unwrap();
    // an alert, and no HTTP
    assert_eq!(raw.rest().await[0], 21);
    let record = &proxy.events("handshake", 1).await[0];
    assert_eq!(record["detail"], "the client sent plain HTTP to a TLS port");

    let config = world.certificates.client_config(Who::Storefront);
    assert!(Client::tls(proxy.address("plain"), HOST, config, Protocol::H1).await.is_err());
    let record = &proxy.records(1).await[0];
    assert_eq!((&record["reason"], &record["verdict"]), (&json!("request_malformed"), &json!("deny")));
    assert_eq!(world.upstream.counts().requests, 0);
}

#[tokio::test]
async fn a_bad_token_is_refused_where_none_is_needed() {
    let world = World::new().await;
    let proxy = world.start(CONFIGURATION);
    let good = world.issuer.token(json!({}));
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        let mut cases = 0;
        for (token, status) in [
            (None, 200),
            (Some(good.clone()), 200),
            (Some("garbage".to_owned()), 401),
            (Some(forged(&good)), 401),
            (Some(world.issuer.token(json!({"exp": 1}))), 401),
            (Some(world.issuer.token(json!({"iss": "https://else.example"}))), 401),
        ] {
            let mut request: Request<Body> = get("/open");
            if let Some(token) = token {
                request.headers_mut().insert(AUTHORIZATION, bearer(&token));
            }
            assert_eq!(client.ask(request).await.unwrap().status, status, "{protocol:?}");
            cases += 1;
        }
        assert_eq!(cases, 6);
    }
    assert_eq!(world.upstream.counts().requests, 4);
}

/// The name of the handshake and that of the request: one, or 421.
#[tokio::test]
async fn the_host_is_the_name_that_the_handshake_was_for() {
    let world = World::new().await;
    let proxy = world.start(CONFIGURATION);
    let good = format!("Bearer {}", world.issuer.token(json!({})));
    let mut cases = 0;
    for protocol in Protocol::BOTH {
        for (name, host, status) in [
            (Some(HOST), "orders.shop.example", 200),
            (Some(HOST), "ORDERS.Shop.Example", 200),
            (Some(HOST), "orders.shop.example.", 200),
            (Some(HOST), "orders.shop.example:8443", 200),
            (Some(CAPITALS), "orders.shop.example", 200),
            (Some(CAPITALS), "ORDERS.Shop.Example.", 200),
            (Some(CAPITALS), "localhost", 421),
            (Some(HOST), "localhost", 421),
            (Some(HOST), "x.orders.shop.example", 421),
            (Some(HOST), "shop.example", 421),
            (Some(HOST), "127.0.0.1", 421),
            (Some(HOST), "[::1]", 421),
            (Some("localhost"), "orders.shop.example", 421),
            (Some("localhost"), "orders.shop.example.", 421),
            (Some("localhost"), "ORDERS.SHOP.EXAMPLE", 421),
            // Without a name the certificate was asked for all the same: the mode is the listener's.
            (None, "orders.shop.example", 200),
        ] {
            let mut config = world.certificates.client_config(Who::Storefront);
            config.enable_sni = name.is_some();
            let dialled = name.unwrap_or(HOST);
            let sent = hello(&Arc::new(config.clone()), dialled);
            let is_there = |name: &str| sent.windows(name.len()).any(|bytes| bytes == name.as_bytes());
            assert_eq!(is_there(dialled), name.is_some(), "as it is written");
            let client = Client::tls(proxy.address("mesh"), dialled, config, protocol).await.unwrap();
            let mut request: Request<Body> = get(&format!("https://{host}/orders/1"));
            request.headers_mut().insert(AUTHORIZATION, good.parse().unwrap());
            let answer = client.ask(request).await.unwrap();
            assert_eq!(answer.status, status, "{protocol:?} {name:?} {host}");
            cases += 1;
        }
    }
    assert_eq!((cases, world.upstream.counts().requests), (32, 14));
}
