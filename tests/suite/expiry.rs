//! What ends while a connection lives is refused on that connection: no cache, and no handshake that is long
//! past, keeps a credential alive.

use std::time::Duration;

use countersign::clock::Clock;
use http::header::AUTHORIZATION;
use serde_json::{Value, json};

use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, alert_after, get};
use crate::world::issuer::Answering;
use crate::world::proxy::HOST;
use crate::world::{World, soon};

const ALLOW: &str = r#"
[[allow]]
name = "readers"
service = "storefront"
role = "order-reader"
path = "/orders/**"

[[allow]]
name = "the freshly logged in"
service = "storefront"
role = "order-reader"
path = "/fresh"
max_age = "2m"
"#;

async fn ask(client: &Client, path: &str, token: &str) -> (u16, Value) {
    let mut request = get(path);
    request.headers_mut().insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    let answer = client.ask(request).await.unwrap();
    (answer.status.as_u16(), answer.json()["reason"].clone())
}

#[tokio::test]
async fn a_credential_that_ends_is_refused_on_the_connection_that_it_opened() {
    for protocol in Protocol::BOTH {
        let clock = Clock::manual(Clock::system().now());
        let world = World::at(clock.clone()).await;
        let proxy = world.start(ALLOW);
        let client = proxy.client(Who::Storefront, protocol).await;
        let token = world.issuer.token(json!({"auth_time": clock.now().unix_seconds()}));
        for path in ["/orders/7", "/fresh"] {
            assert_eq!(ask(&client, path, &token).await, (200, Value::Null), "{path}");
        }

        clock.advance(Duration::from_secs(121));
        assert_eq!(ask(&client, "/orders/7", &token).await, (200, Value::Null));
        assert_eq!(ask(&client, "/fresh", &token).await, (401, json!("step_up_required")));

        // five minutes, and the leeway that the issuer's clock is given
        clock.advance(Duration::from_secs(300));
        assert_eq!(ask(&client, "/orders/7", &token).await, (401, json!("token_expired")));
        assert_eq!(ask(&client, "/orders/7", &world.issuer.token(json!({}))).await, (200, Value::Null));

        clock.advance(Duration::from_secs(24 * 3600));
        let reason = json!("peer_expired");
        assert_eq!(ask(&client, "/orders/7", &world.issuer.token(json!({}))).await, (403, reason));
        let config = world.certificates.client_config(Who::Storefront);
        assert!(alert_after(proxy.address("mesh"), HOST, config, protocol).await.is_some());
        assert_eq!(world.upstream.counts().requests, 4);
    }
}

#[tokio::test]
async fn a_certificate_that_ends_while_keys_are_waited_for_is_refused() {
    let clock = Clock::manual(Clock::system().now());
    let world = World::at(clock.clone()).await;
    world.issuer.jwks_answers(Answering::Held);
    let proxy = world.start(ALLOW);
    let client = proxy.client(Who::Storefront, Protocol::H1).await;
    let in_two_days = clock.now().plus(Duration::from_secs(48 * 3600)).unix_seconds();
    let token = world.issuer.token(json!({"exp": in_two_days}));
    let asking = tokio::spawn(async move { ask(&client, "/orders/7", &token).await });
    // the peer was seen before the token was
    proxy.metrics_once("countersign_cache_lookups_total{cache=\"tokens\",result=\"miss\"} 1").await;
    clock.advance(Duration::from_secs(24 * 3600 + 300));
    world.issuer.release();
    let answer = soon("the answer", asking).await.unwrap();
    assert_eq!(answer, (403, json!("peer_expired")));
    assert_eq!(world.upstream.counts().requests, 0);
}
