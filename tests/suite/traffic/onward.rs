//! Upstreams that are slow, gone, or somebody else.

use http_body_util::BodyExt;
use serde_json::json;

use super::{Traffic, seen};
use crate::world::certificates::{Certificates, Who};
use crate::world::client::{Protocol, get, next_data};
use crate::world::soon;
use crate::world::upstream::Upstream;

/// A route `/NAME/**` to an upstream of its own.
fn route(name: &str, upstream: &str, route: &str) -> String {
    format!(
        "[upstream.{name}]\n{upstream}\n[route.{name}]\nhost = \"orders.shop.example\"\n\
         path = \"/{name}/**\"\nupstream = \"{name}\"\n{route}\n"
    )
}

async fn nobody_there() -> String {
    let gone = Upstream::start().await;
    gone.url.clone()
}

#[tokio::test]
async fn each_wait_has_its_end_and_each_failure_its_reason() {
    let traffic = Traffic::new().await;
    let here = format!("server = \"{}\"", traffic.world.upstream.url);
    let gone = format!("server = \"{}\"", nobody_there().await);
    let configuration = [
        route("total", &here, "total_timeout = \"100ms\""),
        route("first-byte", &format!("{here}\nfirst_byte_timeout = \"100ms\""), ""),
        route("idle", &format!("{here}\nidle_timeout = \"100ms\""), ""),
        route("gone", &gone, ""),
    ];
    let proxy = traffic.start_with(&configuration.concat());
    let mut cases = 0;
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        for (path, status, reason) in [
            ("/total/?hold", 504, "upstream_timeout"),
            ("/first-byte/?hold", 504, "upstream_timeout"),
            ("/gone/", 502, "upstream_unavailable"),
        ] {
            let answer = client.ask(traffic.signed("", get(path))).await.unwrap();
            assert_eq!(answer.status, status, "{protocol:?} {path}");
            let record = proxy.record_of(&answer).await;
            assert_eq!((&record["reason"], &record["verdict"]), (&json!(reason), &json!("allow")), "{path}");
            cases += 1;
        }
        // The head was there in time; the body breaks off.
        for path in ["/total/?events=2&plain", "/idle/?events=2"] {
            let client = proxy.client(Who::Storefront, protocol).await;
            let answer = client.send(traffic.signed("", get(path))).await.unwrap();
            assert_eq!(answer.status(), 200, "{path}");
            let mut body = answer.into_body();
            next_data(&mut body).await.unwrap();
            assert!(soon("the break", body.collect()).await.is_err(), "{protocol:?} {path}");
            cases += 1;
            let record = &proxy.records(cases).await[cases - 1];
            assert_eq!(record["reason"], "upstream_timeout", "{protocol:?} {path}: {record}");
        }
    }
    assert_eq!(cases, 10);
}

#[tokio::test]
async fn only_the_upstream_that_was_meant_gets_the_request_and_it_sees_who_we_are() {
    let traffic = Traffic::new().await;
    let other = Certificates::new(&traffic.world.clock);
    let impostor = other.mutual_server_config("backend");
    let impostor = Upstream::start_with("127.0.0.1:0".parse().unwrap(), Some(impostor)).await;
    let to = |upstream: &Upstream| format!("server = \"{}\"", upstream.url);
    let id = |name: &str| format!("server_spiffe_id = \"spiffe://shop.example/ns/prod/sa/{name}\"");
    let configuration = [
        route("right", &format!("{}\n{}", to(&traffic.tls), id("backend")), ""),
        route("other-id", &format!("{}\n{}", to(&traffic.tls), id("frontend")), ""),
        route("other-ca", &format!("{}\n{}", to(&impostor), id("backend")), ""),
        // Believed by name, but we show it no certificate.
        route("nobody", &format!("{}\nca = \"partner-ca.pem\"", to(&traffic.tls)), ""),
    ];
    let proxy = traffic.start_with(&configuration.concat());
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        let seen = seen(&client.ask(traffic.signed("", get("/right/1"))).await.unwrap());
        assert_eq!(seen.uri.split_once("/right").map(|(_, rest)| rest), Some("/1"), "{seen:?}");
        let mut cases = 0;
        for path in ["/other-id/1", "/other-ca/1", "/nobody/1"] {
            let answer = client.ask(traffic.signed("", get(path))).await.unwrap();
            assert_eq!(answer.status, 502, "{path}");
            assert_eq!(answer.json()["reason"], "upstream_identity_mismatch", "{path}");
            let record = proxy.record_of(&answer).await;
            assert!(record["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{record}");
            cases += 1;
        }
        assert_eq!(cases, 3);
    }
    assert_eq!((traffic.tls.counts().requests, impostor.counts().requests), (2, 0));
}

#[tokio::test]
async fn a_dead_server_among_several_fails_no_request() {
    let traffic = Traffic::new().await;
    let second = Upstream::start().await;
    let servers = [&traffic.world.upstream.url, &nobody_there().await, &second.url];
    let upstream = format!("server = {servers:?}\nweight = [3, 3, 1]");
    let proxy = traffic.start_with(&route("three", &upstream, ""));
    let mut answered = 0;
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        for number in 0..100 {
            let answer = client.ask(traffic.signed("", get(&format!("/three/{number}")))).await.unwrap();
            assert_eq!(answer.status, 200, "{protocol:?} {number}");
            answered += 1;
        }
    }
    let (first, second) = (traffic.world.upstream.counts().requests, second.counts().requests);
    assert_eq!((first + second, answered), (200, 200));
    assert!(second > 10 && first > second, "{first} to {second}, by weight 3 to 1");
}
