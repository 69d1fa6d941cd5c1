//! Each client's share of the requests in flight, behind a load balancer and without one.

use std::fs;
use std::net::IpAddr;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::Value;

use crate::world::client::{Client, Protocol, get, next_data};
use crate::world::proxy::{HOST, Proxy};
use crate::world::{Body, World, full};

const RULES: &str = r#"
[listener.behind]
address = "127.0.0.1:0"
allow_plaintext = true

[trusted_hop.alb]
kind = "alb"
address = "127.0.0.1/32"
mutual_authentication = "off"

[route.socket]
host = "orders.shop.example"
path = "/the-end-of-a-socket/**"
upstream = "orders"
upgrade = "websocket"

[[allow]]
name = "anybody"
service = "none"
role = "none"
route = "any"

[[deny]]
name = "not all"
route = "any"
path = "/a-deny/**"
"#;
const ALB: [u8; 4] = [127, 0, 0, 1];
const ONE: &str = "203.0.113.7";

/// One core, so that all connections are counted together.
fn start<'w>(world: &'w World, limit: usize) -> Proxy<'w> {
    let file = world.configuration(&format!("{RULES}\n[limit]\nrequests_per_client_max = {limit}\n"));
    let text = fs::read_to_string(file).unwrap();
    world.start_from("one.toml", &text.replace("workers = 2", "workers = 1"), "audit.jsonl")
}

impl Proxy<'_> {
    async fn from(&self, address: [u8; 4], protocol: Protocol) -> Client {
        let from = IpAddr::from(address);
        Client::plain_from(from, self.address("behind"), protocol).await.unwrap()
    }

    async fn of_path(&self, path: &str) -> Value {
        let is_it = |record: &&Value| record["action"]["path"] == path;
        self.records.until(|all| all.iter().find(is_it).cloned()).await
    }
}

/// As a load balancer passes it on that was asked by `client`, or whatever somebody writes there.
fn told(mut request: Request<Body>, client: Option<&str>) -> Request<Body> {
    let path = request.uri().path_and_query().unwrap().to_string();
    *request.uri_mut() = format!("http://{HOST}{path}").parse().unwrap();
    if let Some(client) = client {
        request.headers_mut().insert("x-forwarded-for", client.parse().unwrap());
    }
    request
}

/// Refused, and nothing of it reached the upstream.
async fn is_full(world: &World, client: &Client, request: Request<Body>) {
    let before = world.upstream.counts().requests;
    let answer = client.ask(request).await.unwrap();
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.json()["reason"], "limit_exceeded");
    assert_eq!(world.upstream.counts().requests, before);
}

#[tokio::test]
async fn behind_a_balancer_each_client_has_its_own_number_of_requests() {
    let world = World::new().await;
    let proxy = start(&world, 2);
    let alb = proxy.from(ALB, Protocol::H2).await;
    let direct = proxy.from([127, 0, 0, 2], Protocol::H2).await;
    let mut refused = 0;
    for (by, client, same, others) in [
        // What stands left of the address that the load balancer saw is its client's own word.
        (
            &alb,
            Some(ONE),
            [Some(ONE), Some("8.8.8.8, 203.0.113.7"), Some("::ffff:203.0.113.7")],
            [Some("203.0.113.8"), Some("203.0.113.7, 8.8.8.8"), None],
        ),
        // No hop: what it says of others is not read.
        (&direct, None, [None, Some(ONE), Some("8.8.8.8")], [None; 3]),
    ] {
        let before = world.upstream.counts().requests;
        let held = join_all((0..2).map(|_| by.ask(told(get("/held?hold"), client))));
        let meanwhile = async {
            world.upstream.until(|counts| counts.requests == before + 2).await;
            for same in same {
                is_full(&world, by, told(get("/over"), same)).await;
                refused += 1;
            }
            for other in others {
                assert_eq!(alb.ask(told(get("/other"), other)).await.unwrap().status, 200, "{other:?}");
            }
            world.upstream.release();
            world.upstream.release();
        };
        let (held, ()) = tokio::join!(held, meanwhile);
        assert!(held.into_iter().all(|answer| answer.unwrap().status == 200));
        assert_eq!(by.ask(told(get("/again"), client)).await.unwrap().status, 200);
    }
    assert_eq!(refused, 6);
    // Of whom it does not tell nobody knows whose part it would be.
    let before = world.upstream.counts().requests;
    let held = join_all((0..4).map(|_| alb.ask(told(get("/nobody-s?hold"), None))));
    let meanwhile = async {
        world.upstream.until(|counts| counts.requests == before + 4).await;
        (0..4).for_each(|_| world.upstream.release());
    };
    assert!(tokio::join!(held, meanwhile).0.into_iter().all(|answer| answer.unwrap().status == 200));
    let record = proxy.of_path("/over").await;
    assert_eq!((&record["verdict"], &record["reason"]), (&"deny".into(), &"limit_exceeded".into()));
    assert_eq!(record["detail"], "over `requests_per_client_max`");
    assert_eq!(
        (&record["connection"]["client_ip"], &record["connection"]["hop"]["name"]),
        (&ONE.into(), &"alb".into())
    );
    let hits = format!("countersign_limits_hit_total{{limit=\"requests_per_client_max\"}} {refused}");
    proxy.metrics_once(&hits).await;
}

/// A body that begins and never goes on.
fn stuck() -> Body {
    let start = stream::iter([Ok(Frame::data(Bytes::from("start")))]);
    StreamBody::new(start.chain(stream::pending())).boxed_unsync()
}

#[tokio::test]
async fn what_a_request_took_is_given_back_whatever_ends_it() {
    let world = World::new().await;
    let proxy = start(&world, 1);
    let mut seen = 0;
    for protocol in Protocol::BOTH {
        let witness = proxy.from(ALB, protocol).await;
        let full_now = || is_full(&world, &witness, told(get("/over"), Some(ONE)));
        for ended_by in [
            "an answer",
            "a deny",
            "a bad token",
            "a body too large",
            "an upstream that hangs up",
            "its last event",
            "a client that waits",
            "a client that sends",
            "a client that reads",
            "the end of a socket",
        ] {
            let client = proxy.from(ALB, protocol).await;
            let path = format!("/{}/{}", ended_by.replace(' ', "-"), format!("{protocol:?}").to_lowercase());
            let ask = |query: &str| told(get(&format!("{path}{query}")), Some(ONE));
            let post = |body| told(Request::post(&path).body(body).unwrap(), Some(ONE));
            let before = world.upstream.counts();
            let reached = world.upstream.until(|now| now.requests > before.requests);
            match ended_by {
                "an answer" => assert_eq!(client.ask(ask("")).await.unwrap().status, 200),
                "a deny" => {
                    assert_eq!(client.ask(ask("")).await.unwrap().status, 403);
                }
                "a bad token" => {
                    let mut bad = ask("");
                    bad.headers_mut().insert("authorization", "Bearer x".parse().unwrap());
                    assert_eq!(client.ask(bad).await.unwrap().status, 401);
                }
                "a body too large" => {
                    let large = full(vec![0; 11 * 1024 * 1024]);
                    let answer = client.ask(post(large)).await;
                    assert!(answer.is_err() || answer.unwrap().status == 413);
                }
                "an upstream that hangs up" => {
                    assert_eq!(client.ask(ask("?hangup")).await.unwrap().status, 502);
                }
                "its last event" | "a client that reads" => {
                    let mut feed = client.send(ask("?events=2")).await.unwrap().into_body();
                    next_data(&mut feed).await.unwrap().unwrap();
                    full_now().await;
                    if ended_by == "its last event" {
                        world.upstream.release();
                        while next_data(&mut feed).await.unwrap().is_some() {}
                    }
                }
                "a client that waits" | "a client that sends" => {
                    let request = if ended_by.ends_with("waits") { ask("?hold") } else { post(stuck()) };
                    tokio::select! {
                        answer = client.send(request) => panic!("{ended_by}: {answer:?}"),
                        () = async { reached.await; full_now().await } => {}
                    }
                }
                "the end of a socket" => {
                    let mut socket = client.websocket(ask("")).await.unwrap();
                    full_now().await;
                    socket.close(None).await.unwrap();
                    while let Some(Ok(_)) = socket.next().await {}
                }
                _ => unreachable!(),
            }
            drop(client);
            if ended_by.starts_with("a client") {
                world.upstream.until(|now| now.abandoned > before.abandoned).await;
            }
            proxy.of_path(&path).await;
            let again = told(get("/again"), Some(ONE));
            assert_eq!(witness.ask(again).await.unwrap().status, 200, "{protocol:?}, {ended_by}");
            seen += 1;
        }
    }
    assert_eq!(seen, 20);
}
