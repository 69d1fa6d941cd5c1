//! Orders of a reload and of the requests around it: each request is judged by one policy, and none by
//! an older one than the reload before it brought.

use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, get};
use crate::world::issuer::Answering;
use crate::world::proxy::Proxy;
use crate::world::{World, soon};

const OPEN: &str = r#"
[[allow]]
name = "readers read"
service = "storefront"
role = "order-reader"
method = "GET"
"#;
const CLOSED: &str = r#"
[[allow]]
name = "assistants read"
service = "assistant"
role = "order-reader"
actor = "agent"
method = "GET"
"#;

/// The status, and the policy that the record names.
async fn judged(proxy: &Proxy<'_>, client: &Client) -> (u16, String) {
    let answer = client.ask(proxy.world.signed(get("/orders/7"))).await.unwrap();
    let record = proxy.record_of(&answer).await;
    (answer.status.as_u16(), record["policy"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_request_that_waits_across_a_reload_is_judged_by_one_policy() {
    let world = World::new().await;
    world.issuer.jwks_answers(Answering::Held);
    let proxy = world.start(OPEN);
    let old = world.load().policy.hash().to_string();
    let client = proxy.client(Who::Storefront, Protocol::H2).await;
    let waiting = client.ask(world.signed(get("/orders/7")));
    let reloaded = async {
        proxy.metrics_once("countersign_cache_lookups_total{cache=\"tokens\",result=\"miss\"} 1").await;
        proxy.reload(CLOSED).unwrap();
        world.issuer.jwks_answers(Answering::Well);
        world.issuer.release();
    };
    let (answer, ()) = soon("an answer", async { tokio::join!(waiting, reloaded) }).await;
    let answer = answer.unwrap();
    let record = proxy.record_of(&answer).await;
    assert_eq!((answer.status.as_u16(), record["policy"].as_str()), (200, Some(&*old)), "{record}");
    assert_eq!(record["rule"], "readers read");
    let (status, new) = judged(&proxy, &client).await;
    assert_eq!((status, new != old), (403, true));
    assert_eq!(new, world.load().policy.hash().to_string());
    assert_eq!(world.upstream.counts().requests, 1);
}

#[tokio::test]
async fn after_a_reload_nothing_is_judged_by_what_was_before() {
    let world = World::new().await;
    let proxy = world.start(OPEN);
    let mut client = proxy.client(Who::Storefront, Protocol::H1).await;
    let mut cases = 0;
    for round in 0..40 {
        let (policy, status) = if round % 2 == 0 { (CLOSED, 403) } else { (OPEN, 200) };
        proxy.reload(policy).unwrap();
        let hash = world.load().policy.hash().to_string();
        assert_eq!(judged(&proxy, &client).await, (status, hash.clone()), "round {round}");
        // on another core perhaps
        client = proxy.client(Who::Storefront, Protocol::H1).await;
        assert_eq!(judged(&proxy, &client).await, (status, hash), "round {round}");
        cases += 1;
    }
    assert_eq!(cases, 40);
}
