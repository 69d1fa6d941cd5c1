//! What an upstream is told of identity comes from the proxy alone: forged headers never reach it, on no kind
//! of route, and what is set is right.

use std::time::Duration;

use futures_util::StreamExt;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};

use crate::heads::forged::NAMES;
use crate::world::certificates::Who;
use crate::world::client::{Answer, Protocol, bearer, get};
use crate::world::proxy::{Proxy, decision_of};
use crate::world::seen::Seen;
use crate::world::{Body, World, soon};

/// Routes of every kind, for heads with each name twice; `@day@` is the last day of `trial`'s shadow.
const POLICY: &str = r#"
[limit]
header_count_max = 200

[route.closed]
host = "orders.shop.example"
path = "/closed/**"
upstream = "orders"

[route.public]
host = "orders.shop.example"
path = "/public/**"
upstream = "orders"

[route.trial]
host = "orders.shop.example"
path = "/trial/**"
upstream = "orders"
shadow_until = @day@

[route.socket]
host = "orders.shop.example"
path = "/socket/**"
upstream = "orders"
upgrade = ["websocket"]

[route.with-token]
host = "orders.shop.example"
path = "/with-token/**"
upstream = "orders"
forward_authorization = true

[[allow]]
name = "readers"
service = "storefront"
role = "order-reader"
route = ["orders", "socket", "with-token"]

[[allow]]
name = "anyone of ours"
service = "any"
role = "none"
route = "public"
"#;

impl World {
    fn start_with_routes(&self) -> Proxy<'_> {
        let day = self.clock.now().plus(Duration::from_secs(30 * 24 * 3600)).to_string();
        self.start(&POLICY.replace("@day@", &day[..10]))
    }

    fn bearer(&self, claims: Value) -> HeaderValue {
        bearer(&self.issuer.token(claims))
    }
}

/// With every one of [`NAMES`], and on h1 a `Connection` that would have what is set taken away.
fn forging(path: &str, protocol: Protocol) -> Request<Body> {
    let mut request = get(path);
    for name in NAMES {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        request.headers_mut().append(name.clone(), HeaderValue::from_static("forged"));
        request.headers_mut().append(name, HeaderValue::from_static("also forged"));
    }
    request.headers_mut().insert("x-harmless", HeaderValue::from_static("kept"));
    request.headers_mut().insert("tracestate", HeaderValue::from_static("vendor=forged"));
    request.headers_mut().insert("traceparent", HeaderValue::from_static("00-forged-01"));
    if protocol == Protocol::H1 {
        let tokens = "keep-alive, X-Auth-Subject, x-auth-decision,x-forwarded-client-cert, forwarded";
        request.headers_mut().insert("connection", HeaderValue::from_static(tokens));
    }
    request
}

/// No forged value in it, and exactly what the proxy says of this request.
fn assert_introduced(seen: &Seen, expected: &[(&str, &str)], case: &str) {
    for (name, value) in &seen.headers {
        assert!(!value.contains("forged"), "{case}: {name}: {value}");
    }
    assert_eq!(seen.header("x-harmless"), ["kept"], "{case}");
    let told: Vec<_> = seen
        .headers
        .iter()
        .filter(|(name, _)| name.starts_with("x-auth-") && name != "x-auth-decision")
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(told.len(), expected.len(), "{case}: {told:?}");
    for pair in expected {
        assert!(told.contains(pair), "{case}: {pair:?} in {told:?}");
    }
    let [id] = seen.header("x-auth-decision")[..] else { panic!("{case}: {:?}", seen.headers) };
    assert_eq!(seen.header("x-request-id"), [id], "{case}");
    assert_eq!(seen.header("x-forwarded-for"), ["127.0.0.1"], "{case}");
    assert_eq!(
        seen.header("forwarded"),
        ["for=127.0.0.1;host=\"orders.shop.example\";proto=https"],
        "{case}"
    );
    assert_eq!(seen.header("traceparent").len(), 1, "{case}");
}

fn seen(answer: &Answer) -> Seen {
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_slice(&answer.body).unwrap()
}

#[tokio::test]
async fn no_forged_header_reaches_an_upstream_whatever_the_route() {
    let world = World::new().await;
    let proxy = world.start_with_routes();
    let with_token = [
        ("x-auth-service", "storefront"),
        ("x-auth-issuer", "corp"),
        ("x-auth-subject", "alice"),
        ("x-auth-client", "storefront-web"),
        ("x-auth-actor", "unknown"),
        ("x-auth-roles", "order-reader"),
        ("x-auth-scopes", "orders:read"),
    ];
    let service_alone = [("x-auth-service", "storefront")];
    let unenforced = [("x-auth-service", "storefront"), ("x-auth-enforced", "false")];
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        let mut cases = 0;
        for (path, has_token, expected) in [
            ("/orders/7", true, &with_token[..]),
            ("/with-token/7", true, &with_token),
            ("/public/7", true, &with_token),
            ("/public/7", false, &service_alone),
            ("/trial/7", false, &unenforced),
        ] {
            let case = format!("{protocol:?} {path} {has_token}");
            let mut request = forging(path, protocol);
            if has_token {
                request.headers_mut().insert(AUTHORIZATION, world.bearer(json!({})));
            }
            let seen = seen(&client.ask(request).await.unwrap());
            assert_introduced(&seen, expected, &case);
            let forwarded = usize::from(path == "/with-token/7");
            assert_eq!(seen.header("authorization").len(), forwarded, "{case}");
            cases += 1;
        }
        assert_eq!(cases, 5);

        let mut request = forging("/socket/7?seen", protocol);
        request.headers_mut().insert(AUTHORIZATION, world.bearer(json!({})));
        let mut socket = client.websocket(request).await.unwrap();
        let first = soon("what the upstream saw", socket.next()).await.unwrap().unwrap();
        let seen: Seen = serde_json::from_str(first.to_text().unwrap()).unwrap();
        assert_introduced(&seen, &with_token, &format!("{protocol:?} upgrade"));
        assert_eq!(seen.header("authorization").len(), 0);
    }

    let asked = world.upstream.counts().requests;
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        for path in ["/closed/7", "/orders/7", "/nowhere/../7"] {
            let answer = client.ask(forging(path, protocol)).await.unwrap();
            assert!(answer.status.is_client_error(), "{answer:?}");
            let record = proxy.record_of(&answer).await;
            assert!(!record.to_string().contains("forged"), "{record}");
        }
    }
    assert_eq!(world.upstream.counts().requests, asked);
}

#[tokio::test]
async fn names_that_an_upstream_might_take_for_ours_are_refused() {
    let world = World::new().await;
    let proxy = world.start_with_routes();
    let mut cases = 0;
    for protocol in Protocol::BOTH {
        for name in
            ["x_auth_subject", "x.auth.subject", "x-auth_subject", "x-forwarded_for", "x-auth-subject~"]
        {
            let client = proxy.client(Who::Storefront, protocol).await;
            let mut request = get("/public/7");
            request.headers_mut().insert(name, HeaderValue::from_static("forged"));
            let answer = client.ask(request).await.unwrap();
            assert_eq!(
                (answer.status.as_u16(), &answer.json()["reason"]),
                (400, &json!("request_malformed"))
            );
            cases += 1;
        }
    }
    assert_eq!(cases, 10);
    assert_eq!(world.upstream.counts().requests, 0);
}

#[tokio::test]
async fn trailers_carry_no_identity_either() {
    let world = World::new().await;
    let proxy = world.start_with_routes();
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        let names = ["x-sum", "x-auth-subject", "authorization", "x-forwarded-for", "cookie"];
        let trailers = names.map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1")));
        let frames = [Ok(Frame::data("body".into())), Ok(Frame::trailers(HeaderMap::from_iter(trailers)))];
        let body = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
        let request = Request::post("/public/7").header("trailer", names.join(", ")).body(body).unwrap();
        let seen = seen(&client.ask(request).await.unwrap());
        assert_eq!(seen.body.as_deref(), Some("body"));
        assert_eq!(seen.trailers, [("x-sum".to_owned(), "1".to_owned())], "{protocol:?}");
    }
}

/// Whoever asked before, on the same connection or the same one to the upstream: each is introduced as himself.
#[tokio::test]
async fn callers_and_services_that_take_turns_are_never_mixed() {
    let world = World::new().await;
    let proxy = world.start_with_routes();
    let people = ["alice", "bob", "alice", "carol", "bob"];
    for protocol in Protocol::BOTH {
        for who in [Who::Storefront, Who::Assistant, Who::Storefront] {
            let client = proxy.client(who, protocol).await;
            let is_assistant = matches!(who, Who::Assistant);
            let issued_to = if is_assistant { "assistant-7" } else { "storefront-web" };
            let ask = async |subject: &str| {
                let mut request = get("/public/7");
                let bearer = world.bearer(json!({"sub": subject, "uid": "1", "client_id": issued_to}));
                request.headers_mut().insert(AUTHORIZATION, bearer);
                let answer = client.ask(request).await.unwrap();
                let record = proxy.record(&decision_of(&answer)).await;
                let seen = seen(&answer);
                assert_eq!(seen.header("x-auth-subject"), [subject]);
                assert_eq!(record["caller"]["subject"], subject);
                let service = record["peer"]["service"].as_str().unwrap();
                assert_eq!(seen.header("x-auth-service"), [service]);
                let uri = record["peer"]["spiffe_id"].as_str().unwrap();
                assert!(seen.header("x-forwarded-client-cert")[0].ends_with(&format!(";URI={uri}")), "{uri}");
                assert!(uri.ends_with(service), "{uri} {service}");
                service.to_owned()
            };
            let services = match protocol {
                Protocol::H1 => {
                    let mut services = Vec::new();
                    for subject in people {
                        services.push(ask(subject).await);
                    }
                    services
                }
                Protocol::H2 => futures_util::future::join_all(people.map(ask)).await,
            };
            let expected = if is_assistant { "assistant" } else { "storefront" };
            assert_eq!(services, [expected; 5]);
        }
    }
}

#[tokio::test]
async fn what_is_set_is_what_was_verified() {
    let world = World::new().await;
    let proxy = world.start_with_routes();
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        let mut request = get("/with-token/7?a=b");
        let bearer = world.bearer(json!({
            "sub": "auth0|älice,\r\nx-auth-roles: admin",
            "uid": "1",
            "scope": "orders:read a,b",
        }));
        request.headers_mut().insert(AUTHORIZATION, bearer.clone());
        let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        request.headers_mut().insert("traceparent", HeaderValue::from_static(traceparent));
        request.headers_mut().insert("tracestate", HeaderValue::from_static("vendor=1"));
        let answer = client.ask(request).await.unwrap();
        let seen = seen(&answer);
        let record = proxy.record(&decision_of(&answer)).await;
        assert_eq!(seen.header("x-auth-subject"), ["auth0|%C3%A4lice%2C%0D%0Ax-auth-roles:%20admin"]);
        assert_eq!(seen.header("x-auth-actor"), ["human"]);
        assert_eq!(seen.header("x-auth-scopes"), ["orders:read a%2Cb"]);
        assert_eq!(seen.header("authorization"), [bearer.to_str().unwrap()]);
        assert_eq!(seen.header("traceparent"), [traceparent]);
        assert_eq!(seen.header("tracestate"), ["vendor=1"]);
        assert_eq!(record["trace"], traceparent);
        assert_eq!(seen.header("x-forwarded-proto"), ["https"]);
        assert_eq!(seen.header("x-forwarded-host"), ["orders.shop.example"]);
        assert_eq!(seen.header("host"), ["orders.shop.example"]);
        let certificate = record["peer"]["certificate"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let peer = "spiffe://shop.example/ns/prod/sa/storefront";
        let xfcc = format!("By=spiffe://shop.example/ns/prod/sa/orders;Hash={certificate};URI={peer}");
        assert_eq!(seen.header("x-forwarded-client-cert"), [xfcc]);
    }

    let client = proxy.client(Who::Storefront, Protocol::H2).await;
    let mut request = get("/public/7");
    request.headers_mut().insert("traceparent", HeaderValue::from_static("00-0-0-01"));
    request.headers_mut().insert("tracestate", HeaderValue::from_static("vendor=1"));
    let answer = client.ask(request).await.unwrap();
    let fresh = seen(&answer);
    assert_eq!(fresh.header("traceparent").len(), 1);
    assert_eq!(fresh.header("traceparent")[0].len(), 55);
    let id = fresh.header("x-auth-decision")[0].parse::<ulid::Ulid>().unwrap();
    assert_eq!(fresh.header("traceparent")[0][3..35], format!("{:032x}", id.0), "the record's id");
    assert_eq!(fresh.header("tracestate").len(), 0, "it belongs to another trace");
    assert_eq!(proxy.record_of(&answer).await["trace"], fresh.header("traceparent")[0]);

    let mut refused = get("/nowhere-allowed");
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    refused.headers_mut().insert("traceparent", HeaderValue::from_static(traceparent));
    let record = proxy.record_of(&client.ask(refused).await.unwrap()).await;
    assert_eq!((&record["verdict"], &record["trace"]), (&json!("deny"), &json!(traceparent)));
}
