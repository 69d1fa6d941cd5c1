//! What an attacker tries who has sound credentials, or had them: to have one thing judged and another
//! forwarded, to outlive what vouched for him, to be written down as something else.

use std::time::Duration;

use countersign::cli::mint::Validity;
use countersign::clock::Clock;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, Raw, get, post};
use crate::world::proxy::{HOST, Proxy};
use crate::world::{World, soon};

const POLICY: &str = r#"
[route.small]
host = "orders.shop.example"
path = "/small/**"
upstream = "orders"
body_bytes_max = "1KiB"

[route.moved]
host = "orders.shop.example"
path = "/{version}/moved"
upstream = "orders"
strip_prefix = "/v1"

[[allow]]
name = "anything of ours"
service = "storefront"
role = "none"
route = ["small", "moved"]

[[allow]]
name = "calls"
service = "storefront"
role = "none"
grpc = "shop.v1.Orders/*"
route = "orders"

[[allow]]
name = "reads"
service = "storefront"
role = "any"
method = "GET"
path = "/orders/**"
route = "orders"
"#;

impl Proxy<'_> {
    async fn raw(&self, who: Who) -> Raw {
        let config = self.world.certificates.client_config(who);
        Raw::tls(self.address("mesh"), HOST, config).await.unwrap()
    }
}

#[tokio::test]
async fn what_is_permitted_and_then_not_forwarded_is_no_allow() {
    let world = World::new().await;
    let proxy = world.start(POLICY);
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        let refusal = |answer: Result<_, _>| match answer {
            Ok(_) => panic!("{protocol:?}: a WebSocket on a route without `upgrade`"),
            Err(refusal) => Result::unwrap(refusal),
        };
        let mut cases = 0;
        for (answer, status, reason) in [
            (client.ask(post("/small/1", vec![0; 2048])).await.unwrap(), 413, "limit_exceeded"),
            (client.ask(get("/v2/moved")).await.unwrap(), 400, "request_malformed"),
            (refusal(client.websocket(world.signed(get("/orders/1"))).await), 403, "no_route"),
        ] {
            assert_eq!(answer.status, status, "{answer:?}");
            let record = proxy.record_of(&answer).await;
            assert_eq!((&record["verdict"], &record["reason"]), (&json!("deny"), &json!(reason)), "{record}");
            cases += 1;
        }
        assert_eq!(cases, 3);
        assert_eq!(client.ask(get("/v1/moved")).await.unwrap().status, 200);
    }
    assert_eq!(world.upstream.counts().requests, 2);
}

#[tokio::test]
async fn a_connection_header_takes_away_nothing_that_was_judged() {
    let world = World::new().await;
    let proxy = world.start(POLICY);
    let token = world.issuer.token(json!({}));
    let call = "POST /shop.v1.Orders/Get HTTP/1.1\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n";
    let read = format!("GET /orders/7 HTTP/1.1\r\nauthorization: Bearer {token}\r\n");
    let mut cases = 0;
    for (start, connection) in [
        (call, "Content-Type"),
        (call, "keep-alive, content-type"),
        (call, "content-length"),
        (&read, "authorization"),
        (&read, "close, HOST"),
    ] {
        let mut raw = proxy.raw(Who::Storefront).await;
        raw.send(format!("{start}host: {HOST}\r\nconnection: {connection}\r\n\r\n")).await.unwrap();
        let head = raw.head().await.unwrap();
        let refused = head.starts_with("HTTP/1.1 400 ") || head.contains("grpc-status: 3");
        assert!(refused, "{connection}: {head}");
        cases += 1;
    }
    assert_eq!(cases, 5);
    assert_eq!(world.upstream.counts().requests, 0);
    let mut raw = proxy.raw(Who::Storefront).await;
    raw.send(format!("{read}host: {HOST}\r\nconnection: x-other, te, Keep-Alive\r\n\r\n")).await.unwrap();
    assert!(raw.head().await.unwrap().starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn trailers_have_no_aliases_of_reserved_names() {
    let world = World::new().await;
    let proxy = world.start(POLICY);
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        let names = ["x-sum", "x_auth_subject", "x.auth.subject", "x_forwarded_for"];
        let trailers = names.map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1")));
        let frames = [Ok(Frame::data("body".into())), Ok(Frame::trailers(HeaderMap::from_iter(trailers)))];
        let body = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
        let request = Request::post("/small/1").header("trailer", names.join(", ")).body(body).unwrap();
        let answer = client.ask(request).await.unwrap();
        assert_eq!(answer.json()["trailers"], json!([["x-sum", "1"]]), "{protocol:?}");
    }
}

#[tokio::test]
async fn a_connection_ends_with_the_list_that_vouched_that_it_is_not_revoked() {
    let clock = Clock::manual(Clock::system().now());
    let world = World::at(clock.clone()).await;
    let hour = Duration::from_secs(3600);
    let validity = Validity { from: clock.now().minus(hour), to: clock.now().plus(hour) };
    world.write("shop.crl", &world.certificates.shop.crl(&[], validity).unwrap());
    let proxy = world.start(POLICY);
    let mut clients = Vec::new();
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        assert_eq!(client.ask(get("/v1/moved")).await.unwrap().status, 200);
        clients.push(client);
    }
    clock.advance(2 * hour);
    for client in clients {
        let answer = client.ask(get("/v1/moved")).await.unwrap();
        let outcome = (answer.status.as_u16(), &answer.json()["reason"]);
        assert_eq!(outcome, (403, &json!("peer_revoked")), "{answer:?}");
    }
    assert_eq!(world.upstream.counts().requests, 2);
}

#[tokio::test]
async fn a_connection_in_the_clear_ends_with_the_listener_that_took_it() {
    let world = World::new().await;
    let listener = |mode: &str| {
        format!(
            "{POLICY}
[listener.open]
address = \"127.0.0.1:0\"
{mode}
[[allow]]
name = \"anybody\"
service = \"none\"
role = \"none\"
route = \"orders\"
path = \"/open\""
        )
    };
    let proxy = world.start(&listener("allow_plaintext = true"));
    let mut raw = Raw::plain(proxy.address("open")).await.unwrap();
    raw.send(format!("GET /open HTTP/1.1\r\nhost: {HOST}\r\n")).await.unwrap();
    let accepted = async {
        while !proxy.metrics().await.contains("countersign_connections_open 1") {
            tokio::task::yield_now().await;
        }
    };
    soon("the connection", accepted).await;
    proxy.reload(&listener("client_certificate = \"required\"")).unwrap();
    raw.send("\r\n").await.unwrap();
    assert!(raw.head().await.unwrap().starts_with("HTTP/1.1 403 "));
    assert_eq!(proxy.records(1).await[0]["reason"], "peer_missing");
    assert_eq!(world.upstream.counts().requests, 0);
}

#[tokio::test]
async fn an_upstream_that_does_not_switch_opens_no_tunnel() {
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let upstream = tokio::spawn(async move {
        for _ in Protocol::BOTH {
            let (mut stream, _) = socket.accept().await.unwrap();
            _ = stream.read(&mut [0; 4096]).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nno socket here").await.unwrap();
        }
    });
    let world = World::new().await;
    let proxy = world.start(&format!(
        "{POLICY}
[upstream.deaf]
server = \"{url}\"
[route.socket]
host = \"orders.shop.example\"
path = \"/socket\"
upstream = \"deaf\"
upgrade = \"websocket\"
[[allow]]
name = \"sockets\"
service = \"storefront\"
role = \"none\"
route = \"socket\""
    ));
    let client = proxy.client(Who::Storefront, Protocol::H2).await;
    let Err(answer) = client.websocket(get("/socket")).await else { panic!("a tunnel to nowhere") };
    let answer = answer.unwrap();
    let outcome = (answer.status.as_u16(), &answer.json()["reason"]);
    assert_eq!(outcome, (502, &json!("upstream_unavailable")), "{answer:?}");
    let mut raw = proxy.raw(Who::Storefront).await;
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let upgrade = format!(
        "GET /socket HTTP/1.1\r\nhost: {HOST}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n\r\n"
    );
    raw.send(upgrade).await.unwrap();
    assert!(raw.head().await.unwrap().starts_with("HTTP/1.1 200 "), "over h1 it is an answer like any other");
    soon("the upstream", upstream).await.unwrap();
    let records = proxy.records(2).await;
    let statuses: Vec<&Value> = records.iter().map(|record| &record["status"]).collect();
    assert_eq!(statuses, [&json!(502), &json!(200)]);
}

#[tokio::test]
async fn a_small_limit_for_heads_is_no_panic_on_plain_text() {
    let world = World::new().await;
    let proxy = world.start(&format!(
        "{POLICY}
[limit]
header_bytes_max = \"4KiB\"
[listener.open]
address = \"127.0.0.1:0\"
allow_plaintext = true"
    ));
    for protocol in Protocol::BOTH {
        let client = Client::plain(proxy.address("open"), protocol).await.unwrap();
        assert_eq!(client.ask(get("/orders/7")).await.unwrap().status, 403, "{protocol:?}");
    }
}
