//! Where a request goes: by host, path and header, by who asks, and under which path.

use http::{HeaderValue, Method};
use serde_json::json;

use super::seen;
use crate::world::World;
use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, get};
use crate::world::upstream::Upstream;

const ROUTES: &str = r#"
[upstream.next]
server = "@next@"

[role.beta-tester]
any_of = [{ issuer = "corp", scope = "beta" }]

[route.other-host]
host = "localhost"
path = "/**"
upstream = "next"

[route.deeper]
host = "orders.shop.example"
path = "/deep/er/**"
upstream = "next"

[route.by-header]
host = "orders.shop.example"
path = "/**"
header = { x-version = "2" }
upstream = "next"

[route.varied]
host = "orders.shop.example"
path = "/varied/**"
upstream = "orders"
[[route.varied.variant]]
role = "beta-tester"
upstream = "next"

[route.stripped]
host = "orders.shop.example"
path = "/api/**"
strip_prefix = "/api"
upstream = "orders"

[route.app]
host = "orders.shop.example"
path = "/app/**"
upstream = "orders"
cors = { origins = ["https://app.example"] }

[[allow]]
name = "all but the secret"
service = "storefront"
role = "order-reader"
route = "any"

[[deny]]
name = "as it is asked"
route = "stripped"
path = "/api/secret/**"

[[deny]]
name = "not as it is forwarded"
route = ["orders", "by-header"]
path = "/open/**"
"#;

struct Crossing {
    world: World,
    next: Upstream,
}

impl Crossing {
    async fn new() -> Crossing {
        Crossing { world: World::new().await, next: Upstream::start().await }
    }

    fn configuration(&self) -> String {
        ROUTES.replace("@next@", &self.next.url)
    }

    /// The status, and which of the two upstreams it came from.
    async fn ask(
        &self,
        client: &Client,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> (u16, &'static str) {
        let mut request = self.world.signed(get(path));
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let before = (self.world.upstream.counts().requests, self.next.counts().requests);
        let answer = client.ask(request).await.unwrap();
        let after = (self.world.upstream.counts().requests, self.next.counts().requests);
        let by = match (after.0 - before.0, after.1 - before.1) {
            (1, 0) => "orders",
            (0, 1) => "next",
            (0, 0) => "proxy",
            other => panic!("{other:?}"),
        };
        (answer.status.as_u16(), by)
    }
}

#[tokio::test]
async fn a_route_is_chosen_by_host_path_header_and_who_asks() {
    let crossing = Crossing::new().await;
    let proxy = crossing.world.start(&crossing.configuration());
    let beta = format!("Bearer {}", crossing.world.issuer.token(json!({"scope": "orders:read beta"})));
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        let mut cases = 0;
        for (path, headers, by) in [
            ("/orders/1", &[][..], "orders"),
            ("/deep/1", &[], "orders"),
            ("/deep/er/1", &[], "next"),
            ("/orders/1", &[("x-version", "2")], "next"),
            ("/orders/1", &[("x-version", "3")], "orders"),
            ("/varied/1", &[], "orders"),
            ("/varied/1", &[("authorization", &beta)], "next"),
            ("/orders/1", &[("authorization", &beta)], "orders"),
        ] {
            let headers: &[(&'static str, &str)] = headers;
            let outcome = crossing.ask(&client, path, headers).await;
            assert_eq!(outcome, (200, by), "{protocol:?} {path} {headers:?}");
            cases += 1;
        }
        assert_eq!(cases, 8);
        let config = crossing.world.certificates.client_config(Who::Storefront);
        let client = Client::tls(proxy.address("mesh"), "localhost", config, protocol).await.unwrap();
        assert_eq!(crossing.ask(&client, "/orders/1", &[]).await, (200, "next"), "{protocol:?} by host");
    }
}

#[tokio::test]
async fn a_prefix_is_taken_off_what_was_judged() {
    let crossing = Crossing::new().await;
    let proxy = crossing.world.start(&crossing.configuration());
    let traffic = |path: &str| crossing.world.signed(get(path));
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        let mut cases = 0;
        for (asked, forwarded) in [
            ("/api/orders/7?x=/api", "/orders/7?x=/api"),
            ("/api/open/1", "/open/1"),
            ("/api/a%2Db", "/a-b"),
            ("/api", "/"),
            ("/api/api/1", "/api/1"),
        ] {
            let answer = client.ask(traffic(asked)).await.unwrap();
            assert_eq!(seen(&answer).uri, forwarded, "{protocol:?} {asked}");
            cases += 1;
        }
        for (asked, status) in [
            ("/api/secret/1", 403),
            ("/api/%73ecret/1", 403),
            ("/api/x/../secret/1", 400),
            ("/api//secret/1", 400),
        ] {
            // A connection ends with what is malformed.
            let client = proxy.client(Who::Storefront, protocol).await;
            assert_eq!(client.ask(traffic(asked)).await.unwrap().status, status, "{protocol:?} {asked}");
            cases += 1;
        }
        assert_eq!(cases, 9);
    }
}

#[tokio::test]
async fn a_preflight_is_answered_here_and_a_refusal_can_be_read_by_the_page() {
    let crossing = Crossing::new().await;
    let proxy = crossing.world.start(&crossing.configuration());
    let origin = HeaderValue::from_static("https://app.example");
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        let preflight = |origin: HeaderValue| {
            let mut request = get("/app/1");
            *request.method_mut() = Method::OPTIONS;
            request.headers_mut().insert("origin", origin);
            request.headers_mut().insert("access-control-request-method", HeaderValue::from_static("PUT"));
            request
        };
        let answer = client.ask(preflight(origin.clone())).await.unwrap();
        assert_eq!(answer.status, 204, "{protocol:?}");
        assert_eq!(answer.headers["access-control-allow-origin"], origin);
        let stranger = client.ask(preflight(HeaderValue::from_static("https://evil.example"))).await.unwrap();
        assert_eq!(stranger.status, 401, "{protocol:?}");
        assert!(!stranger.headers.contains_key("access-control-allow-origin"), "{stranger:?}");

        let mut unsigned = get("/app/1");
        unsigned.headers_mut().insert("origin", origin.clone());
        let refused = client.ask(unsigned).await.unwrap();
        assert_eq!(refused.status, 401, "{protocol:?}");
        assert_eq!(refused.headers["access-control-allow-origin"], origin);
        assert_eq!(proxy.record_of(&refused).await["reason"], "token_missing");
    }
    assert_eq!(crossing.world.upstream.counts().requests, 0);
    let preflights = proxy.records(6).await;
    assert_eq!(preflights.iter().filter(|record| record["reason"] == "preflight").count(), 2);
}
