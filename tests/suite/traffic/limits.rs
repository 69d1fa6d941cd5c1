//! What a client may not do: stand still, come too often, or ask for too much; over plain text, too.

use http::Request;
use http::header::COOKIE;
use serde_json::json;

use super::{Traffic, seen};
use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, Raw, get, next_data};
use crate::world::proxy::{HOST, Proxy};
use crate::world::{Body, full, soon};

/// A listener without TLS, and who may come over it.
pub const PLAIN: &str = "[listener.plain]\naddress = \"127.0.0.1:0\"\nallow_plaintext = true\n\
                     [route.plain]\nhost = \"orders.shop.example\"\npath = \"/plain/**\"\nupstream = \"orders\"\n\
                     [[allow]]\nname = \"no certificate\"\nservice = \"none\"\nrole = \"order-reader\"\n\
                     route = \"plain\"\n";

impl Traffic {
    async fn unencrypted(&self, proxy: &Proxy<'_>, protocol: Protocol) -> Client {
        let mut client = Client::plain(proxy.address("plain"), protocol).await.unwrap();
        client.authority = HOST.parse().unwrap();
        client
    }

    pub async fn connection(&self, proxy: &Proxy<'_>, listener: &str) -> Raw {
        let address = proxy.address(listener);
        if listener == "plain" {
            return Raw::plain(address).await.unwrap();
        }
        Raw::tls(address, HOST, self.world.certificates.client_config(Who::Storefront)).await.unwrap()
    }
}

fn limit_hit(limit: &str) -> String {
    format!("countersign_limits_hit_total{{limit=\"{limit}\"}}")
}

#[tokio::test]
async fn plain_text_carries_a_caller_but_no_service() {
    let traffic = Traffic::new().await;
    let proxy = traffic.start_with(PLAIN);
    for protocol in Protocol::BOTH {
        let client = traffic.unencrypted(&proxy, protocol).await;
        let seen = seen(&client.ask(traffic.signed("", get("/plain/1"))).await.unwrap());
        assert!(seen.header("x-auth-service").is_empty(), "{seen:?}");
        assert_eq!(seen.header("x-forwarded-proto"), ["http"]);
        let refused = client.ask(traffic.signed("", get("/orders/1"))).await.unwrap();
        assert_eq!(refused.status, 403, "{protocol:?}");
        let record = proxy.record_of(&refused).await;
        assert_eq!(
            (&record["reason"], &record["checks"]["peer"]),
            (&json!("peer_missing"), &json!("absent"))
        );
        assert_eq!(client.ask(get("/plain/1")).await.unwrap().status, 401, "{protocol:?}");
    }
}

#[tokio::test]
async fn a_connection_on_which_nothing_is_asked_ends() {
    let traffic = Traffic::new().await;
    let proxy = traffic.start_with(&format!("{PLAIN}[limit]\nidle_timeout = \"200ms\""));
    for listener in ["mesh", "plain"] {
        let silent = traffic.connection(&proxy, listener).await;
        assert_eq!(silent.rest().await, b"", "{listener}");

        let mut used = traffic.connection(&proxy, listener).await;
        used.send(format!("GET /1 HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await.unwrap();
        assert!(used.head().await.unwrap().starts_with("HTTP/1.1 40"), "{listener}");
        used.rest().await;
    }
    for plain in [false, true] {
        // One at a time: the other would rest meanwhile.
        let client = match plain {
            true => traffic.unencrypted(&proxy, Protocol::H2).await,
            false => proxy.client(Who::Storefront, Protocol::H2).await,
        };
        assert!(client.ask(get("/orders/1")).await.unwrap().status.is_client_error());
        soon("the end of the connection", client.closed()).await;
    }
    // A request that takes longer than that is no rest.
    let patient = "[upstream.slow]\nserver = \"@\"\nfirst_byte_timeout = \"700ms\"\n\
                   [route.slow]\nhost = \"orders.shop.example\"\npath = \"/slow\"\nupstream = \"slow\"\n\
                   [limit]\nidle_timeout = \"200ms\"";
    proxy
        .reload(
            &traffic.configuration(&format!("{PLAIN}{}", patient.replace('@', &traffic.world.upstream.url))),
        )
        .unwrap();
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        let answer = client.ask(traffic.signed("", get("/slow?hold"))).await.unwrap();
        assert_eq!(answer.status, 504, "{protocol:?}");
    }
}

#[tokio::test]
async fn a_head_that_does_not_end_ends_its_connection() {
    let traffic = Traffic::new().await;
    let proxy = traffic.start_with(&format!("{PLAIN}[limit]\nheader_timeout = \"200ms\""));
    for listener in ["mesh", "plain"] {
        let mut slow = traffic.connection(&proxy, listener).await;
        slow.send("GET / HTTP/1.1\r\nhost:").await.unwrap();
        assert_eq!(slow.rest().await, b"", "{listener}");
        let mut slow = traffic.connection(&proxy, listener).await;
        slow.send(format!("GET /1 HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await.unwrap();
        assert!(slow.head().await.unwrap().starts_with("HTTP/1.1 40"), "{listener}");
        slow.send("GET / HTTP/1.1\r\nhost:").await.unwrap();
        slow.rest().await;
    }
    let records = proxy.records(6).await;
    let unread = records.iter().filter(|record| record["action"]["method"].is_null());
    let unread: Vec<_> = unread.map(|record| (&record["reason"], &record["status"])).collect();
    assert_eq!(unread, [(&json!("limit_exceeded"), &json!(null)); 4]);
    let metrics = proxy.metrics().await;
    assert!(metrics.contains(&format!("{} 4", limit_hit("header_timeout"))), "{metrics}");
}

#[tokio::test]
async fn an_answer_that_its_client_does_not_take_is_broken_off() {
    let traffic = Traffic::new().await;
    let proxy = traffic.start_with(&format!("{PLAIN}[limit]\nidle_timeout = \"300ms\""));
    let large = 64 << 20;
    let mut records = 0;
    for listener in ["mesh", "plain"] {
        let path = if listener == "plain" { "/plain/1" } else { "/orders/1" };
        let before = traffic.world.upstream.counts().abandoned;
        let mut deaf = traffic.connection(&proxy, listener).await;
        let bearer = traffic.bearer();
        let head = format!("GET {path}?download={large} HTTP/1.1\r\nhost: {HOST}\r\n");
        deaf.send(format!("{head}authorization: {}\r\n\r\n", bearer.to_str().unwrap())).await.unwrap();
        deaf.head().await.unwrap();
        traffic.world.upstream.until(|now| now.abandoned > before).await;
        records += 1;
        let record = &proxy.records(records).await[records - 1];
        assert_eq!(record["reason"], "client_gone", "{listener}: {record}");
        assert!(deaf.rest().await.len() < large, "{listener}");
    }
    proxy.metrics_once(&format!("{} 2", limit_hit("idle_timeout"))).await;
    // On h2 the stream alone: others of the connection go on.
    let client = proxy.client(Who::Storefront, Protocol::H2).await;
    let before = traffic.world.upstream.counts().abandoned;
    let asked = format!("/orders/1?download={large}");
    let deaf = client.send(traffic.signed("", get(&asked))).await.unwrap();
    let other = client.send(traffic.signed("", get("/feed?events=2"))).await.unwrap();
    let mut other = other.into_body();
    next_data(&mut other).await.unwrap().unwrap();
    traffic.world.upstream.until(|now| now.abandoned > before).await;
    traffic.world.upstream.release();
    assert_eq!(next_data(&mut other).await.unwrap().unwrap(), "data: 1\n\n");
    let mut deaf = deaf.into_body();
    let mut taken = 0;
    let ended = loop {
        match next_data(&mut deaf).await {
            Ok(Some(data)) => taken += data.len(),
            ended => break ended,
        }
    };
    assert!(ended.is_err() && taken < large, "{ended:?} after {taken} bytes");
}

#[tokio::test]
async fn heads_have_their_bounds_in_bytes_and_in_fields() {
    let traffic = Traffic::new().await;
    let proxy =
        traffic.start_with(&format!("{PLAIN}[limit]\nheader_bytes_max = \"4KiB\"\nheader_count_max = 20"));
    let with_fields = |count: usize, bytes: usize| {
        let mut request: Request<Body> = get("/plain/1");
        for number in 0..count {
            let name: http::HeaderName = format!("x-field-{number}").parse().unwrap();
            request.headers_mut().insert(name, "v".repeat(bytes).parse().unwrap());
        }
        *request.body_mut() = full("");
        request
    };
    let mut cases = 0;
    for protocol in Protocol::BOTH {
        for plain in [true, false] {
            for (count, bytes, status) in [(10, 10, 401), (30, 10, 431), (3, 4000, 431)] {
                let client = match plain {
                    true => traffic.unencrypted(&proxy, protocol).await,
                    false => proxy.client(Who::Storefront, protocol).await,
                };
                let answer = client.ask(with_fields(count, bytes)).await.unwrap();
                assert_eq!(answer.status, status, "{protocol:?} plain: {plain}, {count} of {bytes} bytes");
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 12);
}

#[tokio::test]
async fn a_browser_s_many_cookies_are_one_field() {
    let traffic = Traffic::new().await;
    let proxy = traffic.start();
    let crumbs: Vec<String> = (0..150).map(|number| format!("crumb-{number}={number}")).collect();
    let mut request = get("/orders/1");
    for crumb in &crumbs {
        request.headers_mut().append(COOKIE, crumb.parse().unwrap());
    }
    let client = proxy.client(Who::Storefront, Protocol::H2).await;
    let answer = client.ask(traffic.signed("", request)).await.unwrap();
    let seen = seen(&answer);
    assert_eq!(
        (seen.version.as_str(), seen.header("cookie")),
        ("HTTP/1.1", vec![crumbs.join("; ").as_str()])
    );
}

#[tokio::test]
async fn connections_have_their_number() {
    for limit in ["connections_max", "connections_per_peer_max"] {
        let traffic = Traffic::new().await;
        let proxy = traffic.start_with(&format!("{PLAIN}[limit]\n{limit} = 1"));
        let first = traffic.unencrypted(&proxy, Protocol::H1).await;
        assert!(first.ask(get("/plain/1")).await.unwrap().status.is_client_error());
        assert_eq!(traffic.connection(&proxy, "plain").await.rest().await, b"", "{limit}");
        assert!(first.ask(get("/plain/1")).await.unwrap().status.is_client_error());
        proxy.metrics_once(&format!("{} 1", limit_hit(limit))).await;
    }
}

#[tokio::test]
async fn an_old_connection_ends_after_what_it_is_at() {
    let traffic = Traffic::new().await;
    let slow = "[upstream.slow]\nserver = \"@\"\nfirst_byte_timeout = \"500ms\"\n\
                [route.slow]\nhost = \"orders.shop.example\"\npath = \"/slow\"\nupstream = \"slow\"\n\
                [limit]\nconnection_age_max = \"200ms\"";
    let proxy = traffic.start_with(&slow.replace('@', &traffic.world.upstream.url));
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        let answer = client.ask(traffic.signed("", get("/slow?hold"))).await.unwrap();
        assert_eq!(answer.status, 504, "{protocol:?}");
        soon("the end of the connection", client.closed()).await;
    }
}

#[tokio::test]
async fn streams_have_their_number() {
    let traffic = Traffic::new().await;
    let proxy = traffic.start_with("[limit]\nstreams_per_connection_max = 2");
    let client = proxy.client(Who::Storefront, Protocol::H2).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut feed = client.send(traffic.signed("", get("/feed?events=2"))).await.unwrap().into_body();
        next_data(&mut feed).await.unwrap().unwrap();
        open.push(feed);
    }
    // A third waits for one of them.
    let third = client.ask(traffic.signed("", get("/third")));
    let ended = async {
        traffic.world.upstream.release();
        traffic.world.upstream.release();
        for feed in &mut open {
            assert_eq!(next_data(feed).await.unwrap().unwrap(), "data: 1\n\n");
            assert_eq!(next_data(feed).await.unwrap(), None);
        }
        traffic.world.upstream.counts().requests
    };
    let (third, _) = tokio::join!(third, ended);
    assert_eq!(third.unwrap().status, 200);
}

/// A frame of HTTP/2 (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn who_resets_what_it_asked_for_again_and_again_is_sent_away() {
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const GO_AWAY: u8 = 7;
    const END_STREAM_AND_HEADERS: u8 = 5;
    let traffic = Traffic::new().await;
    let proxy = traffic.start_with(&format!("{PLAIN}[limit]\nresets_per_connection_max = 10"));
    // GET http / (RFC 7541, appendix A), and the authority without Huffman's code.
    let head = [b"\x82\x86\x84\x41\x13", HOST.as_bytes()].concat();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    for number in 0..100 {
        let stream = 2 * number + 1;
        bytes.extend(frame(HEADERS, END_STREAM_AND_HEADERS, stream, &head));
        bytes.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
    }
    let mut raw = traffic.connection(&proxy, "plain").await;
    raw.send(bytes).await.unwrap();
    let answer = raw.rest().await;
    let mut rest = &answer[..];
    let mut codes = Vec::new();
    while let [a, b, c, kind, _, _, _, _, _, payload @ ..] = rest {
        let (payload, next) = payload.split_at(u32::from_be_bytes([0, *a, *b, *c]) as usize);
        if *kind == GO_AWAY {
            codes.push(payload[4..8].to_vec());
        }
        rest = next;
    }
    // ENHANCE_YOUR_CALM
    assert_eq!(codes, [11u32.to_be_bytes()], "{answer:?}");
    assert_eq!(traffic.world.upstream.counts().requests, 0);
}
