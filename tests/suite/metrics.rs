//! What `/metrics` says of a proxy that serves: each figure moves with the thing that it counts.

use countersign::clock::{Clock, Timestamp};
use countersign::token::UNKNOWN_KEY_REST;
use serde_json::{Value, json};

use crate::world::World;
use crate::world::certificates::Who;
use crate::world::client::{Protocol, get, with_token};
use crate::world::program::run;
use crate::world::signing::KEYS;
use crate::world::soon;

const READ: &str = r#"
[[allow]]
name = "read"
service = "storefront"
role = "order-reader"
method = "GET"
"#;

#[tokio::test]
async fn every_figure_moves_with_what_it_counts() {
    let clock = Clock::manual(Clock::system().now());
    let world = World::at(clock.clone()).await;
    world.issuer.publish(&KEYS[..2]);
    let proxy = world.start(READ);
    let client = proxy.client(Who::Storefront, Protocol::H1).await;
    let ask =
        async |token: &str| client.ask(with_token(get("/orders/7"), token)).await.unwrap().status.as_u16();
    let good = world.issuer.token(json!({}));
    let bad = format!("{}AAAA", good.rsplit_once('.').unwrap().0.to_owned() + ".");
    let outsider = world.issuer.token(json!({"scope": "other"}));
    let statuses = [&good, &good, &good, &outsider, &bad, &bad].map(|token| ask(token));
    let mut seen = Vec::new();
    for status in statuses {
        seen.push(status.await);
    }
    assert_eq!(seen, [200, 200, 200, 403, 401, 401]);
    proxy.records(6).await;

    // another key: one fetch, one event, once the first keys were reported
    let reported = async { while proxy.admin("/status").await.json()["issuers"][0]["keys"] != 2 {} };
    soon("the first keys in /status", reported).await;
    clock.advance(UNKNOWN_KEY_REST);
    world.issuer.publish(&KEYS[1..3]);
    let by_new = world.issuer.token_by(&KEYS[2], json!({}), json!({}));
    assert_eq!(ask(&by_new).await, 200);
    let fetched = clock.now().unix_seconds();
    let rotated = &proxy.events("keys_rotated", 1).await[0];
    assert_eq!((&rotated["added"], &rotated["removed"]), (&json!([KEYS[2].kid]), &json!([KEYS[0].kid])));

    let expected = [
        r#"requests_total{verdict="allow",reason="allowed"} 4"#.to_owned(),
        r#"requests_total{verdict="deny",reason="scope_missing"} 1"#.to_owned(),
        r#"requests_total{verdict="deny",reason="token_bad_signature"} 2"#.to_owned(),
        "decision_duration_seconds_count 5".to_owned(),
        "request_duration_seconds_count 7".to_owned(),
        r#"cache_lookups_total{cache="tokens",result="hit"} 2"#.to_owned(),
        r#"cache_lookups_total{cache="tokens",result="miss"} 5"#.to_owned(),
        r#"cache_lookups_total{cache="refused_tokens",result="hit"} 1"#.to_owned(),
        r#"cache_lookups_total{cache="decisions",result="hit"} 2"#.to_owned(),
        r#"cache_lookups_total{cache="decisions",result="miss"} 3"#.to_owned(),
        "token_signature_checks_total 4".to_owned(),
        r#"issuer_fetches_total{issuer="corp"} 2"#.to_owned(),
        r#"issuer_fetch_failures_total{issuer="corp"} 0"#.to_owned(),
        format!(r#"issuer_keys_fetched_timestamp_seconds{{issuer="corp"}} {fetched}"#),
        r#"upstream_servers{upstream="orders"} 1"#.to_owned(),
        r#"upstream_servers_ejected{upstream="orders"} 0"#.to_owned(),
        "tls_handshakes_completed_total 1".to_owned(),
        "connections_open 1".to_owned(),
        r#"cache_entries{cache="tokens"} 3"#.to_owned(),
        r#"cache_entries{cache="refused_tokens"} 1"#.to_owned(),
        r#"cache_entries{cache="decisions"} 3"#.to_owned(),
        "policy_generation 1".to_owned(),
        "config_last_reload_success 1".to_owned(),
        "audit_records_dropped_total 0".to_owned(),
    ];
    let all = async {
        loop {
            let metrics = proxy.metrics().await;
            let missing: Vec<_> = expected
                .iter()
                .filter(|line| {
                    !metrics.lines().any(|printed| printed.strip_prefix("countersign_") == Some(line))
                })
                .collect();
            if missing.is_empty() {
                return metrics;
            }
            eprintln!("not yet: {missing:?}");
        }
    };
    let metrics = soon("the figures", all).await;
    let expiry = metrics.lines().find_map(|line| {
        line.strip_prefix(r#"countersign_certificate_expiry_timestamp_seconds{certificate="identity"} "#)
    });
    let expiry = Timestamp::from_unix_seconds(expiry.unwrap().parse().unwrap());
    assert!(expiry > clock.now(), "{expiry}");
}

#[tokio::test]
async fn what_a_reload_takes_away_has_no_series_left() {
    let world = World::new().await;
    let key = world.write("jwks.json", &json!({"keys": [KEYS[0].jwk()]}).to_string());
    let more = format!(
        r#"
[issuer.passing]
url = "https://passing.example"
jwks = "{}"
audience = ["https://orders.shop.example"]

[upstream.passing]
server = "http://127.0.0.1:1"
"#,
        key.display()
    );
    let proxy = world.start(&format!("{READ}{more}"));
    proxy.metrics_once(r#"countersign_upstream_servers{upstream="passing"} 1"#).await;
    let metrics = proxy.metrics_once(r#"countersign_issuer_fetches_total{issuer="passing"} 1"#).await;
    assert_eq!(metrics.matches("=\"passing\"").count(), 5, "{metrics}");
    proxy.reload(READ).unwrap();
    let metrics = proxy.metrics().await;
    assert_eq!(metrics.matches("=\"passing\"").count(), 0, "{metrics}");
    assert!(metrics.contains(r#"countersign_upstream_servers{upstream="orders"} 1"#), "{metrics}");
}

/// A replica that runs another policy shows in a metric, in its status and in its records; `check` says which
/// one a file is.
#[tokio::test]
async fn one_hash_tells_which_policy_is_served() {
    let world = World::new().await;
    let proxy = world.start(READ);
    let client = proxy.client(Who::Storefront, Protocol::H1).await;
    let write = READ.replace("GET", "POST");
    let mut hashes = Vec::new();
    for (loads, policy) in [(1, READ), (2, &write), (3, READ)] {
        let file = world.configuration(policy);
        if loads > 1 {
            proxy.reload(policy).unwrap();
        }
        let metrics = proxy.metrics_once(&format!("countersign_policy_generation {loads}")).await;
        let series: Vec<_> =
            metrics.lines().filter(|line| line.starts_with("countersign_policy_info")).collect();
        let [series] = series[..] else { panic!("{series:?}") };
        let hash =
            series.strip_prefix("countersign_policy_info{hash=\"").and_then(|it| it.strip_suffix("\"} 1"));
        let hash = hash.unwrap_or_else(|| panic!("{series}")).to_owned();
        assert!(hash.starts_with("sha256:") && hash.len() == "sha256:".len() + 64);
        assert_eq!(proxy.record_of(&client.ask(get("/orders/7")).await.unwrap()).await["policy"], hash);
        let served =
            async { while !String::from_utf8_lossy(&proxy.admin("/status").await.body).contains(&hash) {} };
        soon("the status", served).await;
        let check = ["check", "--format", "json", "-c", file.to_str().unwrap()];
        let checked = run(env!("CARGO_BIN_EXE_countersign"), &check, "").await;
        let checked: Value = serde_json::from_str(&checked.stdout).unwrap();
        assert_eq!(checked["policy"], hash);
        hashes.push(hash);
    }
    assert!(hashes[0] != hashes[1] && hashes[0] == hashes[2], "{hashes:?}");
}

#[tokio::test]
async fn tasks_end_with_those_whom_they_serve() {
    let world = World::new().await;
    let proxy = world.start(READ);
    let tasks = async || {
        let metrics = proxy.metrics().await;
        let value = metrics.lines().find_map(|line| line.strip_prefix("countersign_tasks "));
        value.unwrap().parse::<u64>().unwrap()
    };
    let mut clients = Vec::new();
    for protocol in Protocol::BOTH {
        for _ in 0..5 {
            let client = proxy.client(Who::Storefront, protocol).await;
            assert_eq!(client.ask(get("/orders/7")).await.unwrap().status, 401);
            clients.push(client);
        }
    }
    // What keeps house may start after the first request, so it is no part of the sum.
    let served = tasks().await;
    drop(clients);
    let ended = async { while tasks().await + 10 > served {} };
    soon("the tasks of clients that are gone", ended).await;
}
