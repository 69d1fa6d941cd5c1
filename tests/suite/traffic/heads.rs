//! HTTP's small print, as real clients rely on it: connections used again, pipelining, HTTP/1.0, and
//! answers without a body.

use http::header::{CONTENT_LENGTH, ETAG};
use http::{HeaderValue, Method};

use super::{Traffic, everywhere, seen};
use crate::world::certificates::Who;
use crate::world::client::{Protocol, Raw, get, post};
use crate::world::proxy::HOST;

impl Traffic {
    async fn raw(&self, proxy: &crate::world::proxy::Proxy<'_>) -> Raw {
        let config = self.world.certificates.client_config(Who::Storefront);
        Raw::tls(proxy.address("mesh"), HOST, config).await.unwrap()
    }

    /// A head of HTTP/1 with a good token, without its last line.
    fn head(&self, request_line: &str) -> String {
        let bearer = self.bearer();
        format!("{request_line}\r\nhost: {HOST}\r\nauthorization: {}\r\n", bearer.to_str().unwrap())
    }
}

#[tokio::test]
async fn connections_are_used_again_on_both_sides() {
    let traffic = Traffic::new().await;
    let proxy = traffic.start();
    let mut asked = 0;
    for (way, client, kind) in everywhere(&proxy).await {
        for number in 0..10 {
            let answer = client.ask(traffic.signed(kind, get(&format!("/{number}")))).await.unwrap();
            assert_eq!(answer.status, 200, "{way}");
            asked += 1;
        }
    }
    let open = traffic.world.upstream.connections() + traffic.tls.connections();
    assert_eq!(asked, 60);
    // Two cores with a pool each, two clients of each kind; h1 may not be idle again in time once.
    assert!(open <= 8, "{open} connections for {asked} requests one after the other");
}

#[tokio::test]
async fn answers_without_a_body_have_none_and_end() {
    let traffic = Traffic::new().await;
    let proxy = traffic.start();
    for (way, client, kind) in everywhere(&proxy).await {
        let mut head = get("/down?download=1000");
        *head.method_mut() = Method::HEAD;
        let answer = client.ask(traffic.signed(kind, head)).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0), "{way}");
        assert_eq!(answer.headers[CONTENT_LENGTH], "1000", "{way}");
        for status in [204, 304] {
            let asked = get(&format!("/?status={status}&header=etag:%22x%22"));
            let answer = client.ask(traffic.signed(kind, asked)).await.unwrap();
            assert_eq!((answer.status.as_u16(), answer.body.len()), (status, 0), "{way}");
            assert_eq!(answer.headers[ETAG], "\"x\"", "{way}");
        }
        // The connection is in step afterwards.
        seen(&client.ask(traffic.signed(kind, post("/", "after"))).await.unwrap());
    }
    let records = proxy.records(24).await;
    assert!(records.iter().all(|record| record["reason"] == "allowed"), "{records:?}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_and_judged_one_by_one() {
    let traffic = Traffic::new().await;
    let proxy = traffic.start();
    let mut raw = traffic.raw(&proxy).await;
    let first = traffic.head("POST /1 HTTP/1.1");
    let unsigned = format!("GET /2 HTTP/1.1\r\nhost: {HOST}\r\n");
    let last = traffic.head("GET /3 HTTP/1.1");
    let bytes = format!("{first}content-length: 4\r\n\r\nbody{unsigned}\r\n{last}connection: close\r\n\r\n");
    raw.send(bytes).await.unwrap();
    let answers = String::from_utf8(raw.rest().await).unwrap();
    let statuses: Vec<_> =
        answers.match_indices("HTTP/1.1 ").map(|(at, _)| &answers[at + 9..at + 12]).collect();
    assert_eq!(statuses[..], ["200", "401", "200"], "{answers}");
    let place = |path: &str| answers.find(&format!("\"uri\":\"{path}\"")).unwrap();
    assert!(place("/1") < answers.find("token_missing").unwrap(), "{answers}");
    assert!(answers.find("token_missing").unwrap() < place("/3"), "{answers}");
    assert_eq!(proxy.records(3).await.len(), 3);
    assert_eq!(traffic.world.upstream.counts().requests, 2);
}

#[tokio::test]
async fn http_1_0_is_served_and_its_connection_closed() {
    let traffic = Traffic::new().await;
    let proxy = traffic.start();
    let mut raw = traffic.raw(&proxy).await;
    raw.send(format!("{}\r\n", traffic.head("GET /old HTTP/1.0"))).await.unwrap();
    let head = raw.head().await.unwrap();
    assert!(head.starts_with("HTTP/1.0 200 "), "{head}");
    assert!(!head.contains("transfer-encoding"), "{head}");
    let body = raw.rest().await;
    let seen: crate::world::seen::Seen = serde_json::from_slice(&body).unwrap();
    assert_eq!((seen.uri.as_str(), seen.version.as_str()), ("/old", "HTTP/1.1"));

    // A body without a length ends with the connection.
    let mut raw = traffic.raw(&proxy).await;
    raw.send(format!("{}\r\n", traffic.head("GET /old?trailers HTTP/1.0"))).await.unwrap();
    raw.head().await.unwrap();
    assert_eq!(raw.rest().await, b"body");
}

#[tokio::test]
async fn what_belongs_to_one_connection_stays_there() {
    let traffic = Traffic::new().await;
    let proxy = traffic.start();
    let client = proxy.client(Who::Storefront, Protocol::H1).await;
    let mut request = get("/?header=connection:x-hop,close");
    let headers = request.headers_mut();
    headers.insert("connection", HeaderValue::from_static("keep-alive, x-hop"));
    headers.insert("keep-alive", HeaderValue::from_static("timeout=5"));
    headers.insert("x-hop", HeaderValue::from_static("1"));
    headers.insert("proxy-authorization", HeaderValue::from_static("Basic eDp5"));
    headers.insert("te", HeaderValue::from_static("gzip, trailers"));
    let answer = client.ask(traffic.signed("", request)).await.unwrap();
    assert!(!answer.headers.contains_key("connection"), "{:?}", answer.headers);
    let seen = seen(&answer);
    for gone in ["connection", "keep-alive", "x-hop", "proxy-authorization"] {
        assert!(seen.header(gone).is_empty(), "{gone}: {:?}", seen.headers);
    }
    assert_eq!(seen.header("te"), ["trailers"]);
}
