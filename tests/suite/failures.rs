//! What fails behind the proxy, its issuer or its upstream, is told by its status, and no more of it is.

use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use serde_json::json;

use crate::refusals::assert_says_no_more;
use crate::world::World;
use crate::world::certificates::Who;
use crate::world::client::{Protocol, bearer, get};
use crate::world::issuer::Answering;

#[tokio::test]
async fn what_fails_behind_the_proxy_is_told_by_its_status_alone() {
    const BEHIND: &str = r#"
[upstream.hasty]
server = ["@upstream@"]
first_byte_timeout = "100ms"
[upstream.nobody]
server = ["http://127.0.0.1:1"]

[route.hasty]
host = "orders.shop.example"
path = "/hasty"
upstream = "hasty"
[route.nobody]
host = "orders.shop.example"
path = "/nobody"
upstream = "nobody"

[[allow]]
name = "secret name: all"
service = "storefront"
role = "any"
route = "any"
"#;
    let world = World::new().await;
    let proxy = world.start(&BEHIND.replace("@upstream@", &world.upstream.url));
    let bearer = bearer(&world.issuer.token(json!({})));
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        let mut seen = 0;
        for (path, status, reason) in [
            ("/orders?hangup", 502, "upstream_unavailable"),
            ("/nobody", 502, "upstream_unavailable"),
            ("/hasty?hold", 504, "upstream_timeout"),
        ] {
            let mut request = get(path);
            request.headers_mut().insert(AUTHORIZATION, bearer.clone());
            let answer = client.ask(request).await.unwrap();
            assert_says_no_more(&proxy, &answer, path).await;
            assert_eq!(
                (answer.status.as_u16(), &answer.json()["reason"]),
                (status, &json!(reason)),
                "{path}"
            );
            assert!(!answer.headers.contains_key(WWW_AUTHENTICATE), "{path}");
            seen += 1;
        }
        assert_eq!(seen, 3);
    }
}

#[tokio::test]
async fn without_its_issuer_s_keys_nobody_is_known_and_what_needs_no_token_goes_on() {
    let world = World::new().await;
    world.issuer.jwks_answers(Answering::HangUp);
    let waived = "[[allow]]\nname = \"public\"\nservice = \"any\"\nrole = \"none\"\npath = \"/public\"\n";
    let proxy = world.start(waived);
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        assert_eq!(client.ask(get("/public")).await.unwrap().status, 200);
        for path in ["/public", "/orders/7"] {
            let request = world.signed(get(path));
            let answer = client.ask(request).await.unwrap();
            assert_says_no_more(&proxy, &answer, path).await;
            assert_eq!(
                (answer.status.as_u16(), &answer.json()["reason"]),
                (503, &json!("issuer_unavailable"))
            );
        }
    }
    assert_eq!(world.upstream.counts().requests, 2);
}
