//! The proxy with a real OpenID provider: discovery, its tokens, keys that turn over under load, and
//! the provider's absence.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use countersign::clock::{Clock, Stopwatch};
use countersign::token::UNKNOWN_KEY_REST;
use http::Request;
use serde_json::json;
use tokio::task::JoinSet;

use crate::provider::Provider;
use crate::world::certificates::Who;
use crate::world::client::{Protocol, get, with_token};
use crate::world::proxy::Proxy;
use crate::world::{Body, World, soon};

/// The batch job's certificate is one that the base configuration does not name.
const RULES: &str = r#"
[service.batch]
spiffe_id = "spiffe://shop.example/ns/prod/sa/nobody"
client_id = [{ issuer = "corp", client = "batch*" }]

[role.support]
any_of = [{ issuer = "corp", group = "support" }]

[[allow]]
name = "batches read"
service = "batch"
role = "order-reader"
path = "/orders/**"
method = "GET"

[[allow]]
name = "support reads"
service = "storefront"
role = "support"
path = "/orders/**"
method = "GET"
"#;

const PER_SECOND: u32 = 200;
/// Sent after the rotation.
const REQUESTS: u32 = 1000;
/// By each key.
const TOKENS: usize = 20;

/// A world whose issuer is the provider.
async fn world_of(provider: &Provider, clock: Clock) -> World {
    let mut world = World::at(clock).await;
    world.issuer.url = provider.issuer.clone();
    world
}

fn signed(token: &str) -> Request<Body> {
    with_token(get("/orders/7"), token)
}

/// The answer's status and the record of a request.
async fn ask(proxy: &Proxy<'_>, who: Who, token: &str) -> (u16, serde_json::Value) {
    let client = proxy.client(who, Protocol::H2).await;
    let answer = client.ask(signed(token)).await.unwrap();
    (answer.status.as_u16(), proxy.record_of(&answer).await)
}

async fn tokens(provider: &Provider, kid: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    for _ in 0..TOKENS {
        tokens.push(provider.client_token("batch", "orders:read", Some(kid)).await);
    }
    tokens
}

#[tokio::test]
#[ignore = "needs node and `npm ci` in tests/idp; tests/run runs it"]
async fn tokens_of_clients_and_of_people_are_admitted() {
    let provider = Provider::start().await;
    let world = world_of(&provider, Clock::system()).await;
    let proxy = world.start(RULES);
    for client in ["batch", "batch-es256"] {
        let token = provider.client_token(client, "orders:read", None).await;
        let (status, record) = ask(&proxy, Who::Unnamed, &token).await;
        assert_eq!((status, &record["rule"]), (200, &json!("batches read")), "{record}");
        assert_eq!(
            (&record["caller"]["issuer"], &record["caller"]["client"]),
            (&json!("corp"), &json!(client))
        );
        // the same token in another's hands
        let (status, record) = ask(&proxy, Who::Storefront, &token).await;
        assert_eq!((status, &record["reason"]), (403, &json!("token_not_issued_to_service")), "{record}");
    }
    let alice = provider.person_token("alice", "orders:read").await.unwrap();
    let (status, record) = ask(&proxy, Who::Storefront, &alice).await;
    assert_eq!((status, &record["rule"]), (200, &json!("support reads")), "{record}");
    assert_eq!(
        (&record["caller"]["subject"], &record["caller"]["roles"][0]),
        (&json!("alice"), &json!("order-reader"))
    );
    let bob = provider.person_token("bob", "orders:write").await.unwrap();
    let (status, record) = ask(&proxy, Who::Storefront, &bob).await;
    assert_eq!((status, &record["reason"]), (403, &json!("role_missing")), "{record}");
    assert_eq!(provider.jwks_fetches().await, 3, "one by the proxy, and one by the client of each person");
}

#[tokio::test]
#[ignore = "needs node and `npm ci` in tests/idp; tests/run runs it"]
async fn keys_turn_over_under_load_and_nobody_notices() {
    let provider = Provider::start().await;
    let clock = Clock::manual(Clock::system().now());
    let world = world_of(&provider, clock.clone()).await;
    let proxy = world.start(RULES);
    let first = provider.client_token("batch", "orders:read", None).await;
    assert_eq!(ask(&proxy, Who::Unnamed, &first).await.0, 200);
    assert_eq!(provider.jwks_fetches().await, 1);
    // a provider may not turn its keys over twice in this time
    clock.advance(UNKNOWN_KEY_REST);

    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(Arc::new(proxy.client(Who::Unnamed, Protocol::H2).await));
    }
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / PER_SECOND);
    let mut asking = JoinSet::new();
    let mut sent = 0;
    let mut send = async |tokens: &[String]| {
        ticks.tick().await;
        let (client, request) = (clients[sent % clients.len()].clone(), signed(&tokens[sent % tokens.len()]));
        asking.spawn(async move { client.ask(request).await.map(|answer| answer.status.as_u16()) });
        sent += 1;
    };
    let rotation = async {
        let kids = provider.rotate().await;
        let (new, old) = tokio::join!(tokens(&provider, &kids[0]), tokens(&provider, &kids[1]));
        // one after the other, so that every client has both
        (kids, new.into_iter().zip(old).flat_map(|(new, old)| [new, old]).collect::<Vec<_>>())
    };
    tokio::pin!(rotation);
    let early = [first];
    let (kids, both) = loop {
        tokio::select! {
            biased;
            rotated = &mut rotation => break rotated,
            () = send(&early) => {}
        }
    };
    let loaded = Stopwatch::start();
    for _ in 0..REQUESTS {
        send(&both).await;
    }
    let per_second = f64::from(REQUESTS) / loaded.elapsed().as_secs_f64();
    let mut statuses = BTreeSet::new();
    while let Some(answered) = asking.join_next().await {
        statuses.insert(answered.unwrap().unwrap());
    }
    assert_eq!(statuses, BTreeSet::from([200]));
    let fetches = provider.jwks_fetches().await;
    println!("{sent} requests over a rotation, {REQUESTS} of them by both keys at {per_second:.0} a second:");
    println!("none failed; keys fetched {fetches} times");
    assert_eq!(fetches, 2, "at the start, and when the first unknown key came");
    let rotated = &proxy.events("keys_rotated", 1).await[0];
    assert_eq!((&rotated["issuer"], &rotated["added"]), (&json!("corp"), &json!([kids[0]])));
    assert_eq!(rotated["removed"], json!([]));
}

#[tokio::test]
#[ignore = "needs node and `npm ci` in tests/idp; tests/run runs it"]
async fn without_the_provider_known_keys_go_on_and_missing_ones_refuse_until_it_is_back() {
    let mut provider = Provider::start().await;
    let world = world_of(&provider, Clock::system()).await;
    let warm = world.start(RULES);
    let known = provider.client_token("batch", "orders:read", None).await;
    let fresh = provider.client_token("batch", "orders:read", None).await;
    assert_eq!(ask(&warm, Who::Unnamed, &known).await.0, 200);
    let ready = async { while warm.admin("/readyz").await.status != 200 {} };
    soon("readiness", ready).await;
    provider.stop().await;
    for token in [&known, &fresh] {
        assert_eq!(ask(&warm, Who::Unnamed, token).await.0, 200);
    }
    assert_eq!(warm.admin("/readyz").await.status, 200);
    drop(warm);

    let cold = world.start(RULES);
    let (status, record) = ask(&cold, Who::Unnamed, &known).await;
    assert_eq!((status, &record["reason"]), (503, &json!("issuer_unavailable")), "{record}");
    let unready = async {
        loop {
            let ready = cold.admin("/readyz").await;
            let reason = ready.json()["reasons"][0].as_str().unwrap_or_default().to_owned();
            if reason.starts_with("issuer corp: no keys are known: discovery: ") {
                return ready.status;
            }
        }
    };
    assert_eq!(soon("the reason in /readyz", unready).await, 503);
    provider.start_again().await;
    let recovered = async { while ask(&cold, Who::Unnamed, &known).await.0 != 200 {} };
    soon("recovery", recovered).await;
    let ready = async { while cold.admin("/readyz").await.status != 200 {} };
    soon("readiness", ready).await;
}
