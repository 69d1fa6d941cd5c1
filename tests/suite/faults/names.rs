//! Names that do not resolve: what needs them is refused, and nothing else is.

use serde_json::json;

use super::{ANYTHING, Healthy, outcome};
use crate::world::World;
use crate::world::certificates::Who;
use crate::world::client::{Protocol, get, with_token};
use crate::world::proxy::HOST;

// RFC 6761 §6.4: names under `invalid` never resolve.
const NOWHERE: &str = r#"
[issuer.lost]
url = "https://issuer.invalid"
audience = "https://orders.shop.example"

[upstream.lost]
server = "http://upstream.invalid:8080"
connect_timeout = "2s"

[route.lost]
host = "orders.shop.example"
path = "/lost"
upstream = "lost"
"#;

#[tokio::test]
async fn a_name_that_does_not_resolve_is_refused_and_nothing_else_is() {
    let world = World::new().await;
    let proxy = world.start(&format!("{ANYTHING}{NOWHERE}"));
    let healthy = Healthy::of(&proxy).await;
    healthy
        .beside("names of an issuer and an upstream do not resolve", async |round| {
            let client = proxy.client(Who::Storefront, Protocol::BOTH[round % 2]).await;
            let answer = client.ask(world.signed(get("/lost"))).await.unwrap();
            assert_eq!(outcome(&answer), (502, "upstream_unavailable".to_owned()));
            let foreign = world.issuer.token(json!({"iss": "https://issuer.invalid"}));
            let answer = client.ask(with_token(get("/orders/7"), &foreign)).await.unwrap();
            assert_eq!(outcome(&answer), (503, "issuer_unavailable".to_owned()), "{HOST}");
        })
        .await;
    assert_eq!(proxy.admin("/readyz").await.status, 503);
}
