//! The keys of another Countersign, fetched from a listener that asks for certificates: each shows its own.

use serde_json::{Value, json};

use super::ask;
use super::next::{Chain, told};
use crate::world::World;
use crate::world::certificates::Who;
use crate::world::client::Protocol;
use crate::world::proxy::Proxy;
use crate::world::soon;

const FRONT: &str = "spiffe://shop.example/ns/prod/sa/orders";

fn fetched(more: &str) -> String {
    format!(
        "jwks = \"https://@front@/.well-known/countersign/jwks.json\"\nallow_private_addresses = true\n{more}"
    )
}

/// Why the issuer has no keys, once it was tried.
async fn failure(proxy: &Proxy<'_>) -> String {
    let reasons = async {
        loop {
            let reasons = proxy.admin("/readyz").await.json()["reasons"].to_string();
            if reasons.contains("issuer front") && !reasons.contains("not fetched yet") {
                return reasons;
            }
        }
    };
    soon("a failure", reasons).await
}

#[tokio::test]
async fn keys_are_fetched_from_a_listener_that_asks_for_certificates() {
    let world = World::new().await;
    for vouched in ["", "ca = \"shop-ca.pem\"\n"] {
        let keys = fetched(&format!("server_spiffe_id = \"{FRONT}\"\n{vouched}"));
        let Chain { front, next, .. } = world.chain_with(&keys, "").await;
        let client = front.client(Who::Storefront, Protocol::H1).await;
        let answer = client.ask(ask(&world, "/next/7", json!({ "uid": "1" }))).await.unwrap();
        assert_eq!(told(&answer).header("x-auth-subject"), ["alice"]);
        let fetches = |records: &[Value]| {
            let of_keys = |record: &&Value| {
                record["action"]["path"].as_str().is_some_and(|path| path.ends_with("jwks.json"))
            };
            records.iter().filter(of_keys).count()
        };
        let before = front.records.until(|all| Some(fetches(all)).filter(|count| *count > 0)).await;
        // A certificate of ours that is replaced is shown from then on, and no key is lost by it.
        let minted = world.certificates.server("next");
        world.write("next.pem", &minted.chain);
        world.write("next-key.pem", &minted.key);
        let path = world.folder.path().join("next.toml");
        let config = countersign::config::load(&[path], &|_| None, world.clock.now());
        next.server.reload(config.unwrap_or_else(|report| panic!("{}", report.to_text(false)))).unwrap();
        front.records.until(|all| (fetches(all) > before).then_some(())).await;
        let answer = client.ask(ask(&world, "/next/8", json!({ "uid": "1" }))).await.unwrap();
        assert_eq!(told(&answer).header("x-auth-subject"), ["alice"]);
        for file in ["audit.jsonl", "next.jsonl"] {
            std::fs::remove_file(world.folder.path().join(file)).unwrap();
        }
    }
}

#[tokio::test]
async fn keys_of_any_other_server_are_not_taken() {
    let world = World::new().await;
    for (keys, why) in [
        (
            "server_spiffe_id = \"spiffe://shop.example/ns/prod/sa/other\"",
            "the server is `spiffe://shop.example/ns/prod/sa/orders`, which is not expected there",
        ),
        (
            "server_spiffe_id = \"spiffe://shop.example/ns/prod/sa/orders\"\nca = \"partner-ca.pem\"",
            "the server is not verified",
        ),
        // By name, and without a certificate of ours.
        ("ca = \"shop-ca.pem\"", "ertificate"),
    ] {
        let Chain { front, next, .. } = world.chain_with(&fetched(keys), "").await;
        let found = failure(&next).await;
        assert!(found.contains(why), "{keys}: {found}");
        let before = world.upstream.counts().requests;
        let client = front.client(Who::Storefront, Protocol::H1).await;
        let answer = client.ask(ask(&world, "/next/7", json!({ "uid": "1" }))).await.unwrap();
        assert_eq!(answer.status, 503, "{keys}");
        assert_eq!(next.records(1).await[0]["reason"], "issuer_unavailable");
        assert_eq!(world.upstream.counts().requests, before);
        for file in ["audit.jsonl", "next.jsonl"] {
            std::fs::remove_file(world.folder.path().join(file)).unwrap();
        }
    }
}
