//! Bodies stream both ways, unchanged, with their trailers and their limits.

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::json;

use super::{Traffic, everywhere, seen};
use crate::world::client::{get, next_data, post};
use crate::world::upstream::pattern;
use crate::world::{Body, sha256};

const MIB: usize = 1024 * 1024;

/// A body whose length is not told, in frames of 64 KiB.
fn chunked(bytes: &Bytes) -> Body {
    let frames: Vec<_> = bytes.chunks(64 * 1024).map(|part| Ok(Frame::data(bytes.slice_ref(part)))).collect();
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}

#[tokio::test]
async fn ten_mebibytes_arrive_unchanged_in_both_directions() {
    let traffic = Traffic::new().await;
    let proxy = traffic.start();
    let ten = pattern(10 * MIB);
    let hash = sha256(&ten);
    for (way, client, kind) in everywhere(&proxy).await {
        for body in [post("/up", ten.clone()), Request::post("/up").body(chunked(&ten)).unwrap()] {
            let up = client.ask(traffic.signed(kind, body)).await.unwrap();
            let record = proxy.record_of(&up).await;
            let up = seen(&up);
            assert_eq!((up.body_bytes, &up.body_sha256), (10 << 20, &hash), "{way}");
            assert_eq!(record["request_bytes"], 10 << 20, "{way}");
        }
        let asked = get(&format!("/down?download={}", 10 * MIB));
        let down = client.ask(traffic.signed(kind, asked)).await.unwrap();
        assert_eq!((down.status.as_u16(), down.body.len()), (200, 10 * MIB), "{way}");
        assert_eq!(sha256(&down.body), hash, "{way}");
    }
    let records = proxy.records(18).await;
    let downloads = records.iter().filter(|record| record["response_bytes"] == 10 * MIB);
    assert_eq!(downloads.count(), 6);
    assert!(records.iter().all(|record| record["reason"] == "allowed"), "{records:?}");
}

#[tokio::test]
async fn events_arrive_one_by_one() {
    let traffic = Traffic::new().await;
    let proxy = traffic.start();
    for (way, client, kind) in everywhere(&proxy).await {
        let response = client.send(traffic.signed(kind, get("/feed?events=3"))).await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream", "{way}");
        let mut body = response.into_body();
        // Each is waited for before the next one is let go.
        for number in 0..3 {
            if number > 0 {
                traffic.upstream(kind).release();
            }
            let event = next_data(&mut body).await.unwrap().unwrap();
            assert_eq!(event, format!("data: {number}\n\n"), "{way}");
        }
        assert_eq!(next_data(&mut body).await.unwrap(), None, "{way}");
    }
}

#[tokio::test]
async fn trailers_pass_both_ways_and_te_tells_of_them() {
    let traffic = Traffic::new().await;
    let proxy = traffic.start();
    for (way, client, kind) in everywhere(&proxy).await {
        let mut request = get("/down?trailers");
        request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        let down = client.ask(traffic.signed(kind, request)).await.unwrap();
        assert_eq!(&down.body[..], b"body", "{way}");
        assert_eq!(down.trailers["x-checksum"], "abc", "{way}");

        // On HTTP/1 the connection ends with them.
        let trailers = [(HeaderName::from_static("x-sum"), HeaderValue::from_static("42"))];
        let frames =
            [Ok(Frame::data(Bytes::from("body"))), Ok(Frame::trailers(HeaderMap::from_iter(trailers)))];
        let body = StreamBody::new(stream::iter(frames)).boxed_unsync();
        let request = Request::post("/up").header("trailer", "x-sum").header("te", "trailers").body(body);
        let up = seen(&client.ask(traffic.signed(kind, request.unwrap())).await.unwrap());
        assert_eq!(up.trailers, [("x-sum".to_owned(), "42".to_owned())], "{way}");
        assert_eq!(up.header("te"), ["trailers"], "{way}");
    }
}

#[tokio::test]
async fn a_body_over_its_limit_is_refused_whether_or_not_its_length_is_told() {
    let traffic = Traffic::new().await;
    let proxy = traffic.start_with(
        "[route.small]\nhost = \"orders.shop.example\"\npath = \"/small\"\nupstream = \"orders\"\n\
         body_bytes_max = \"64KiB\"",
    );
    let fits = pattern(64 * 1024);
    let over = pattern(64 * 1024 + 1);
    let mut cases = 0;
    for protocol in crate::world::client::Protocol::BOTH {
        for (body, told, status) in
            [(&fits, true, 200), (&fits, false, 200), (&over, true, 413), (&over, false, 413)]
        {
            let client = proxy.client(crate::world::certificates::Who::Storefront, protocol).await;
            let asked = traffic.world.upstream.counts().requests;
            let request = match told {
                true => post("/small", body.clone()),
                false => Request::post("/small").body(chunked(body)).unwrap(),
            };
            let answer = client.ask(traffic.signed("", request)).await.unwrap();
            let case = format!("{protocol:?}, {} bytes, told: {told}", body.len());
            assert_eq!(answer.status, status, "{case}");
            let record = proxy.record_of(&answer).await;
            match status {
                200 => assert_eq!(record["reason"], "allowed", "{case}"),
                _ => assert_eq!(
                    (&record["reason"], &record["status"]),
                    (&json!("limit_exceeded"), &json!(413))
                ),
            }
            if status == 413 && told {
                assert_eq!(traffic.world.upstream.counts().requests, asked, "{case}");
            }
            cases += 1;
        }
    }
    assert_eq!(cases, 8);
    proxy.metrics_once("countersign_limits_hit_total{limit=\"body_bytes_max\"} 4").await;
}
