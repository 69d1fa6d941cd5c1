//! A request that is refused, or answered, before its body was sent: the body is never asked for.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;

use super::Traffic;
use crate::world::Body;
use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, Raw, post};
use crate::world::proxy::HOST;
use crate::world::upstream::pattern;

/// Frames that never come.
fn never() -> Body {
    StreamBody::new(stream::pending()).boxed_unsync()
}

#[tokio::test]
async fn who_expects_a_hundred_and_is_refused_never_sends() {
    let traffic = Traffic::new().await;
    let proxy = traffic.start();
    let raw = || async {
        let config = traffic.world.certificates.client_config(Who::Storefront);
        Raw::tls(proxy.address("mesh"), HOST, config).await.unwrap()
    };
    let head = format!("POST /up HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 4\r\nexpect: 100-continue\r\n");
    let mut refused = raw().await;
    refused.send(format!("{head}\r\n")).await.unwrap();
    let answer = refused.head().await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert_eq!(traffic.world.upstream.counts().requests, 0);

    let mut taken = raw().await;
    let bearer = traffic.bearer();
    taken.send(format!("{head}authorization: {}\r\n\r\n", bearer.to_str().unwrap())).await.unwrap();
    assert_eq!(taken.head().await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    taken.send("body").await.unwrap();
    let answer = taken.head().await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");

    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        let request = Request::post("/up").header("expect", "100-continue").body(never()).unwrap();
        let refused = client.ask(request).await.unwrap();
        assert_eq!(refused.status, 401, "{protocol:?}");
        assert_eq!(proxy.record_of(&refused).await["request_bytes"], 0, "{protocol:?}");
    }
    assert_eq!(traffic.world.upstream.counts().requests, 1);
}

#[tokio::test]
async fn a_large_body_that_nobody_wants_does_not_keep_its_sender_from_the_answer() {
    let traffic = Traffic::new().await;
    let proxy = traffic.start();
    let large = pattern(8 << 20);
    for protocol in Protocol::BOTH {
        for times in 0..5 {
            let client = proxy.client(Who::Storefront, protocol).await;
            let refused = client.ask(post("/up", large.clone())).await.unwrap();
            assert_eq!(refused.status, 401, "{protocol:?}, {times}");
        }
    }
    // All of it at once and only then a look at what came back, as simple clients do.
    let config = traffic.world.certificates.client_config(Who::Storefront);
    let mut raw = Raw::tls(proxy.address("mesh"), HOST, config).await.unwrap();
    let head = format!("POST /up HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {}\r\n\r\n", large.len());
    raw.send(head).await.unwrap();
    for part in large.chunks(64 * 1024) {
        if raw.send(part).await.is_err() {
            break;
        }
    }
    let answer = raw.head().await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer:?}");
    assert_eq!(traffic.world.upstream.counts().requests, 0);
}

#[tokio::test]
async fn an_upstream_s_early_answer_reaches_a_client_that_is_still_sending() {
    let traffic = Traffic::new().await;
    let proxy = traffic.start();
    for protocol in Protocol::BOTH {
        let client: Client = proxy.client(Who::Storefront, protocol).await;
        let start = stream::iter([Ok(Frame::data(Bytes::from("start")))]);
        let body = StreamBody::new(start.chain(stream::pending())).boxed_unsync();
        let request = Request::post("/up?early").body(body).unwrap();
        let answer = client.ask(traffic.signed("", request)).await.unwrap();
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"early"[..]), "{protocol:?}");
    }
    let records = proxy.records(2).await;
    assert!(records.iter().all(|record| record["reason"] == "allowed"), "{records:?}");
}
