//! Every key of `[limit]` is hit by a test, and is counted where something is over it.

use std::collections::BTreeSet;
use std::path::Path;

use bytes::Bytes;
use countersign::clock::Clock;
use countersign::config;
use countersign::metrics::Limit;
use countersign::token::UNKNOWN_KEY_REST;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::tidy::source::rust_files;
use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, Raw, get, next_data, with_token};
use crate::world::issuer::Answering;
use crate::world::proxy::{HOST, Proxy};
use crate::world::signing::KEYS;
use crate::world::{World, soon};

/// The key, the test that hits it, and whether `limits_hit` counts it.
const HITS: [(&str, &str, bool); 30] = [
    ("audit_queue_max", "a_flood_of_refusals_waits_for_its_own_records_and_takes_nobody_s_place", true),
    (
        "audit_wait_timeout",
        "a_refusal_waits_for_no_longer_than_it_may_and_not_at_all_where_none_is_required",
        false,
    ),
    ("body_bytes_max", "a_body_over_its_limit_is_refused_whether_or_not_its_length_is_told", true),
    // A close at an age is asked for, and refuses nobody.
    ("connection_age_max", "an_old_connection_ends_after_what_it_is_at", false),
    ("connections_max", "connections_have_their_number", true),
    ("connections_per_peer_max", "connections_have_their_number", true),
    ("control_frames_per_connection_max", "each_flood_of_frames_is_ended_and_counted", true),
    ("delegation_depth_max", "tokens_have_their_bounds", true),
    ("dpop_proofs_max", "proofs_have_their_number_and_one_holder_its_part", true),
    // The process that would tell of it has ended.
    ("drain_timeout", "what_the_drain_cuts_is_seen_as_cut_and_has_its_record", false),
    ("group_count_max", "tokens_have_their_bounds", true),
    ("handshake_timeout", "a_handshake_has_its_time_however_its_bytes_come", true),
    ("handshakes_max", "handshakes_under_way_have_their_number", true),
    ("handshakes_per_peer_max", "handshakes_that_one_client_leaves_standing_keep_nobody_else_out", true),
    ("header_bytes_max", "heads_have_their_bounds_in_bytes_and_in_fields", true),
    ("header_count_max", "heads_have_their_bounds_in_bytes_and_in_fields", true),
    ("header_timeout", "a_head_that_does_not_end_ends_its_connection", true),
    ("idle_timeout", "an_answer_that_its_client_does_not_take_is_broken_off", true),
    ("introspection_pending_max", "sound_tokens_do_not_wait_for_what_is_asked_about_made_up_ones", true),
    ("json_depth_max", "tokens_have_their_bounds", true),
    ("json_values_max", "tokens_have_their_bounds", true),
    ("key_document_bytes_max", "a_key_set_that_is_too_long_is_counted_and_the_last_one_serves_on", true),
    ("requests_per_client_max", "behind_a_balancer_each_client_has_its_own_number_of_requests", true),
    ("resets_per_connection_max", "each_flood_of_frames_is_ended_and_counted", true),
    ("scope_count_max", "tokens_have_their_bounds", true),
    ("streams_per_connection_max", "each_flood_of_frames_is_ended_and_counted", true),
    ("token_bytes_max", "tokens_have_their_bounds", true),
    ("total_timeout", "a_whole_request_has_its_time_whatever_moves", true),
    // Over this one a request waits.
    ("upstream_in_flight_max", "requests_over_what_an_upstream_may_have_wait_and_then_are_refused", false),
    ("upstream_pending_max", "requests_over_what_an_upstream_may_have_wait_and_then_are_refused", true),
];

const READ: &str = "[[allow]]\nname = \"read\"\nservice = \"storefront\"\nrole = \"order-reader\"\n";

/// How often the limit was hit so far.
async fn hits(proxy: &Proxy<'_>, limit: &str) -> u64 {
    let line = format!("countersign_limits_hit_total{{limit=\"{limit}\"}} ");
    let metrics = proxy.metrics().await;
    let hits = metrics.lines().find_map(|other| other.strip_prefix(&line));
    hits.unwrap_or_else(|| panic!("no {line} in {metrics}")).parse().unwrap()
}

#[test]
fn every_limit_there_is_has_its_test() {
    let schema = config::schema();
    let keys: BTreeSet<&str> =
        schema["$defs"]["Limit"]["properties"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, HITS.iter().map(|(key, ..)| *key).collect());
    let counted: BTreeSet<&str> = Limit::ALL.iter().map(|limit| limit.as_str()).collect();
    assert_eq!(counted, HITS.iter().filter(|hit| hit.2).map(|hit| hit.0).collect());
    let sources = rust_files(Path::new(env!("CARGO_MANIFEST_DIR")), &["src", "tests"]);
    for (key, test, _) in HITS {
        let head = format!("fn {test}()");
        assert!(sources.iter().any(|file| file.text.contains(&head)), "{key}: there is no test `{test}`");
    }
}

#[tokio::test]
async fn tokens_have_their_bounds() {
    let world = World::new().await;
    let proxy = world.start(&format!(
        "{READ}[limit]\ntoken_bytes_max = \"2KiB\"\njson_depth_max = 4\njson_values_max = 30\n\
         scope_count_max = 3\ngroup_count_max = 3\ndelegation_depth_max = 2"
    ));
    let nested = |depth| (0..depth).fold(json!(1), |inner, _| json!([inner]));
    let act = |depth| (1..depth).fold(json!({"sub": "robot"}), |act, _| json!({"sub": "robot", "act": act}));
    let client = proxy.client(Who::Storefront, Protocol::H2).await;
    let mut seen = 0;
    for (limit, fits, over) in [
        ("token_bytes_max", json!({"x": "y".repeat(500)}), json!({"x": "y".repeat(2000)})),
        ("json_depth_max", json!({"x": nested(3)}), json!({"x": nested(4)})),
        ("json_values_max", json!({"x": vec![1; 10]}), json!({"x": vec![1; 30]})),
        ("scope_count_max", json!({"scope": "orders:read b c"}), json!({"scope": "orders:read b c d"})),
        ("group_count_max", json!({"groups": ["a", "b", "c"]}), json!({"groups": ["a", "b", "c", "d"]})),
        ("group_count_max", json!({"roles": ["a", "b", "c"]}), json!({"roles": ["a", "b", "c", "d"]})),
        ("delegation_depth_max", json!({"act": act(2)}), json!({"act": act(3)})),
    ] {
        let ask = async |claims: &Value| {
            let token = world.issuer.token(claims.clone());
            client.ask(with_token(get("/orders/1"), &token)).await.unwrap()
        };
        let (before, asked) = (hits(&proxy, limit).await, world.upstream.counts().requests);
        // With `act` it is an agent's, whom no rule names: judged all the same.
        assert_ne!(ask(&fits).await.status, 431, "{limit}: {fits}");
        let forwarded = world.upstream.counts().requests - asked;
        let refused = ask(&over).await;
        assert_eq!(
            (refused.status.as_u16(), &refused.json()["reason"]),
            (431, &json!("limit_exceeded")),
            "{over}"
        );
        assert_eq!(hits(&proxy, limit).await, before + 1, "{limit}");
        assert_eq!(world.upstream.counts().requests, asked + forwarded, "{limit}");
        let record = proxy.record_of(&refused).await;
        assert!(record["detail"].as_str().unwrap().contains(&format!("`{limit}`")), "{record}");
        seen += 1;
    }
    assert_eq!(seen, 7);
}

/// The first bytes of a ClientHello that is to be 512 bytes long.
const HELLO_START: [u8; 9] = [22, 3, 1, 2, 0, 1, 0, 1, 252];

#[tokio::test]
async fn a_handshake_has_its_time_however_its_bytes_come() {
    let world = World::new().await;
    let balanced = "[listener.balanced]\naddress = \"127.0.0.1:0\"\nclient_certificate = \"required\"\n\
                    proxy_protocol = \"v2\"\n[trusted_hop.balancer]\nkind = \"proxy\"\naddress = \"127.0.0.1/32\"\n";
    let proxy = world.start(&format!("{READ}{balanced}[limit]\nhandshake_timeout = \"300ms\""));
    let healthy = proxy.client(Who::Storefront, Protocol::H2).await;
    // Silent, stalled in the ClientHello, stalled in the PROXY header.
    for (listener, start) in [("mesh", &[][..]), ("mesh", &HELLO_START), ("balanced", b"\r\n\r\n\0")] {
        let mut stalled = Raw::plain(proxy.address(listener)).await.unwrap();
        stalled.send(start).await.unwrap();
        assert_eq!(stalled.rest().await, b"", "{listener} after {start:?}");
    }
    // One byte after the other, as slow as requests of somebody else: no byte gains it time.
    let mut trickle = TcpStream::connect(proxy.address("mesh")).await.unwrap();
    let hello = [&HELLO_START[..], &[0; 500]].concat();
    let mut bytes = hello[..hello.len() - 1].iter();
    let cut = async {
        loop {
            assert_eq!(healthy.ask(world.signed(get("/orders/1"))).await.unwrap().status, 200);
            let written = match bytes.next() {
                Some(byte) => trickle.write_all(&[*byte]).await,
                None => Ok(()),
            };
            if written.is_err() || trickle.try_read(&mut [0; 16]).is_ok() {
                break;
            }
        }
    };
    soon("the end of the trickle", cut).await;
    assert_eq!(hits(&proxy, "handshake_timeout").await, 4);
    assert_eq!(
        proxy.events("handshake", 3).await.iter().filter(|it| it["reason"] == "limit_exceeded").count(),
        3
    );
}

#[tokio::test]
async fn handshakes_under_way_have_their_number() {
    let world = World::new().await;
    let proxy = world.start(&format!("{READ}[limit]\nhandshakes_max = 2"));
    let healthy = proxy.client(Who::Storefront, Protocol::H2).await;
    let mut stalled = Vec::new();
    for _ in 0..2 {
        let mut raw = Raw::plain(proxy.address("mesh")).await.unwrap();
        raw.send(&HELLO_START).await.unwrap();
        stalled.push(raw);
    }
    // Which of them came first is the kernel's affair; one more is closed without a byte.
    let over = async {
        loop {
            let mut raw = TcpStream::connect(proxy.address("mesh")).await.unwrap();
            raw.write_all(&HELLO_START).await.unwrap();
            if hits(&proxy, "handshakes_max").await > 0 {
                return raw.read(&mut [0; 16]).await;
            }
        }
    };
    let closed = soon("a handshake too many", over).await;
    assert!(!matches!(closed, Ok(1..)), "{closed:?}");
    assert_eq!(healthy.ask(world.signed(get("/orders/1"))).await.unwrap().status, 200);
    drop(stalled);
    let again = async {
        let config = || world.certificates.client_config(Who::Storefront);
        loop {
            if let Ok(client) = Client::tls(proxy.address("mesh"), HOST, config(), Protocol::H1).await
                && client.ask(world.signed(get("/orders/1"))).await.is_ok_and(|answer| answer.status == 200)
            {
                return;
            }
        }
    };
    soon("handshakes again", again).await;
}

#[tokio::test]
async fn a_key_set_that_is_too_long_is_counted_and_the_last_one_serves_on() {
    let clock = Clock::manual(Clock::system().now());
    let world = World::at(clock.clone()).await;
    let limit = "[limit]\nkey_document_bytes_max = \"16KiB\"";
    let proxy = world.start(&format!("{READ}{limit}"));
    let client = proxy.client(Who::Storefront, Protocol::H2).await;
    assert_eq!(client.ask(world.signed(get("/orders/1"))).await.unwrap().status, 200);
    world.issuer.jwks_answers(Answering::Huge { bytes: 64 << 20 });
    let unknown = world.issuer.token_by(&KEYS[0], json!({"kid": "never-seen"}), json!({}));
    let request = with_token(get("/orders/1"), &unknown);
    clock.advance(UNKNOWN_KEY_REST);
    assert_eq!(client.ask(request).await.unwrap().status, 401);
    assert_eq!(hits(&proxy, "key_document_bytes_max").await, 1);
    assert_eq!(client.ask(world.signed(get("/orders/1"))).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_whole_request_has_its_time_whatever_moves() {
    let world = World::new().await;
    let proxy = world.start(&format!(
        "{READ}[route.hasty]\nhost = \"{HOST}\"\npath = \"/hasty/**\"\nupstream = \"orders\"\ntotal_timeout = \"400ms\"\n"
    ).replace("role = \"order-reader\"\n", "role = \"order-reader\"\nroute = \"any\"\n"));
    for protocol in Protocol::BOTH {
        let healthy = proxy.client(Who::Storefront, protocol).await;
        let client = proxy.client(Who::Storefront, protocol).await;
        let (before, mut recorded) = (hits(&proxy, "total_timeout").await, proxy.records(0).await.len());
        // An upstream that does not answer.
        let answer = client.ask(world.signed(get("/hasty/1?hold"))).await.unwrap();
        assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (504, &json!("upstream_timeout")));
        // A client that sends on and on, a little at a time.
        let drip = stream::repeat(()).then(async |()| {
            tokio::task::yield_now().await;
            Ok(Frame::data(Bytes::from_static(b"drip")))
        });
        let request = Request::post("/hasty/1").body(StreamBody::new(drip).boxed_unsync()).unwrap();
        let answer = client.ask(world.signed(request)).await;
        assert!(answer.as_ref().map_or(true, |answer| answer.status == 504), "{answer:?}");
        // A client that takes an endless answer, a little at a time, and an upstream that ends none.
        for path in ["/hasty/1?download=10000000000", "/hasty/1?events=2&plain"] {
            let client = proxy.client(Who::Storefront, protocol).await;
            let mut body = client.send(world.signed(get(path))).await.unwrap().into_body();
            let ended = async {
                while let Ok(Some(_)) = next_data(&mut body).await {
                    assert_eq!(healthy.ask(world.signed(get("/orders/1"))).await.unwrap().status, 200);
                }
            };
            soon(path, ended).await;
        }
        recorded += 1;
        let records = proxy.records(recorded).await;
        let over = records
            .iter()
            .filter(|record| record["detail"].as_str().is_some_and(|it| it.contains("total_timeout")));
        assert!(over.count() > 0, "{records:?}");
        assert!(hits(&proxy, "total_timeout").await >= before + 3, "{protocol:?}");
    }
}

#[tokio::test]
async fn requests_over_what_an_upstream_may_have_wait_and_then_are_refused() {
    let world = World::new().await;
    let limits = "[limit]\nupstream_in_flight_max = 1\nupstream_pending_max = 1";
    let proxy = world.start(&format!("{READ}{limits}"));
    let client = proxy.client(Who::Storefront, Protocol::H2).await;
    let ask = || async { client.ask(world.signed(get("/orders/1?hold"))).await.unwrap() };
    // One on its way, one that waits for it, and the others are too many. All come over one connection, so
    // to one worker.
    let asking = join_all((0..5).map(|_| ask()));
    let release = async {
        let four = async { while hits(&proxy, "upstream_pending_max").await < 3 {} };
        soon("refusals", four).await;
        world.upstream.until(|counts| counts.requests == 1).await;
        world.upstream.release();
        world.upstream.release();
    };
    let (answers, ()) = tokio::join!(asking, release);
    let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 429, 429, 429]);
    let refused = answers.iter().find(|answer| answer.status == 429).unwrap();
    assert_eq!(refused.json()["reason"], "limit_exceeded");
    assert_eq!(world.upstream.counts().requests, 2);
    assert_eq!(hits(&proxy, "upstream_pending_max").await, 3);
}
