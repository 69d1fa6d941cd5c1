//! One side goes away in the middle: the other one is told, and the record says who it was.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{ONWARD, Traffic, everywhere};
use crate::world::certificates::Who;
use crate::world::client::{Protocol, get, next_data};
use crate::world::proxy::{HOST, Proxy};
use crate::world::{Body, soon};

/// A body that begins and never goes on.
fn stuck() -> Body {
    let start = stream::iter([Ok(Frame::data(Bytes::from("start")))]);
    StreamBody::new(start.chain(stream::pending())).boxed_unsync()
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_along() {
    let traffic = Traffic::new().await;
    let proxy = traffic.start();
    let mut seen = 0;
    for protocol in Protocol::BOTH {
        for (kind, _) in ONWARD {
            for halfway_up in [true, false] {
                let way = format!("{protocol:?} to `{kind}`, halfway up: {halfway_up}");
                let before = traffic.upstream(kind).counts();
                let client = proxy.client(Who::Storefront, protocol).await;
                if halfway_up {
                    let request = Request::post("/up").body(stuck()).unwrap();
                    let request = traffic.signed(kind, request);
                    let sending = client.send(request);
                    tokio::select! {
                        answer = sending => panic!("{way}: {answer:?}"),
                        () = traffic.upstream(kind).until(|now| now.requests > before.requests) => {}
                    }
                } else {
                    let answer = client.send(traffic.signed(kind, get("/feed?events=2"))).await.unwrap();
                    let mut body = answer.into_body();
                    assert_eq!(next_data(&mut body).await.unwrap().unwrap(), "data: 0\n\n", "{way}");
                }
                drop(client);
                traffic.upstream(kind).until(|now| now.abandoned > before.abandoned).await;
                seen += 1;
                let record = &proxy.records(seen).await[seen - 1];
                assert_eq!(record["reason"], "client_gone", "{way}: {record}");
                assert_eq!(record["verdict"], "allow", "{way}");
                // Nobody was there to hear the 408.
                let unanswered = [json!(null), json!(408)].contains(&record["status"]);
                assert_eq!(unanswered, halfway_up, "{way}: {record}");
            }
        }
    }
    assert_eq!(seen, 12);
    // Beside this one, and unlike at the start, there is none.
    let _witness = proxy.client(Who::Storefront, Protocol::H2).await;
    let metrics = proxy.metrics_once("countersign_connections_open 1").await;
    assert!(metrics.contains(r#"countersign_requests_total{verdict="allow",reason="client_gone"} 12"#));
}

#[tokio::test]
async fn an_upstream_that_dies_is_never_taken_for_one_that_is_done() {
    let traffic = Traffic::new().await;
    let proxy = traffic.start();
    let mut seen = 0;
    for (way, client, kind) in everywhere(&proxy).await {
        let answer = client.ask(traffic.signed(kind, get("/?hangup"))).await.unwrap();
        assert_eq!(answer.status, 502, "{way}");
        assert_eq!(answer.json()["reason"], "upstream_unavailable", "{way}");
        let answer = client.ask(traffic.signed(kind, get("/?reset"))).await;
        assert!(answer.is_err(), "{way}: {answer:?}");
        seen += 2;
        let records = proxy.records(seen).await;
        for (record, status) in records[seen - 2..].iter().zip([502, 200]) {
            assert_eq!(record["reason"], "upstream_unavailable", "{way}: {record}");
            assert_eq!(record["status"], json!(status), "{way}: {record}");
            let told = match status {
                200 => format!("it broke its answer off after {} bytes: ", record["response_bytes"]),
                _ => "upstream unavailable: ".to_owned(),
            };
            assert!(record["detail"].as_str().unwrap().starts_with(&told), "{way}: {record}");
            let story = record["story"].as_str().unwrap();
            assert!(story.contains(&format!(" failed ({told}")), "{way}: {record}");
        }
    }
    assert_eq!(seen, 12);
}

#[tokio::test]
async fn what_the_drain_cuts_is_seen_as_cut_and_has_its_record() {
    for protocol in Protocol::BOTH {
        let traffic = Traffic::new().await;
        let proxy = traffic.start_with("[limit]\ndrain_timeout = \"300ms\"");
        let client = proxy.client(Who::Storefront, protocol).await;
        let mut feed = client.send(traffic.signed("", get("/feed?events=2"))).await.unwrap().into_body();
        next_data(&mut feed).await.unwrap().unwrap();
        let Proxy { server, records, .. } = proxy;
        let drained = tokio::task::spawn_blocking(move || server.drain());
        assert!(next_data(&mut feed).await.is_err(), "{protocol:?}");
        soon("the drain", drained).await.unwrap();
        let record = records.until(|all| all.iter().find(|one| one["event"] == "request").cloned()).await;
        assert_eq!((&record["verdict"], &record["status"]), (&json!("allow"), &json!(200)), "{record}");
        assert_eq!(record["reason"], "limit_exceeded", "the client has not gone away: {record}");
        assert_eq!(record["detail"], "cut when the drain was over", "{record}");
        traffic.world.upstream.until(|now| now.abandoned == 1).await;
    }
}

#[tokio::test]
async fn a_head_that_comes_with_the_connection_s_end_has_its_record() {
    let traffic = Traffic::new().await;
    let proxy = traffic.start();
    let mut config = traffic.world.certificates.client_config(Who::Storefront);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(proxy.address("mesh")).await.unwrap();
    let name = ServerName::try_from(HOST).unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let (socket, session) = stream.get_mut();
    let token = traffic.bearer();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let head = format!(
        "GET /orders/7 HTTP/1.1\r\nhost: {HOST}\r\nauthorization: {}\r\ntraceparent: {trace}\r\n\r\n",
        token.to_str().unwrap()
    );
    session.writer().write_all(head.as_bytes()).unwrap();
    session.send_close_notify();
    let mut bytes = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut bytes).unwrap();
    }
    socket.write_all(&bytes).await.unwrap();
    let record = &proxy.records(1).await[0];
    assert_eq!((&record["verdict"], &record["reason"]), (&json!("deny"), &json!("client_gone")), "{record}");
    assert_eq!((&record["status"], &record["trace"]), (&json!(null), &json!(trace)), "{record}");
    assert_eq!(traffic.world.upstream.counts().requests, 0);
}
