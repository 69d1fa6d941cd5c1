//! Upstreams that answer in no way a server should, or not at all.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;

use super::{ANYTHING, Healthy, outcome};
use crate::world::broken::{Broken, Then};
use crate::world::certificates::Who;
use crate::world::client::{Protocol, Raw, get, post};
use crate::world::proxy::{HOST, Proxy};
use crate::world::{Body, World, soon};

/// What is to become of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Passed on, with this body.
    Passed(u16, &'static str),
    /// Refused with this status and reason.
    Refused(u16, &'static str),
    /// Begun and broken off, with this reason in the record.
    BrokenOff(&'static str),
}

use Outcome::{BrokenOff, Passed, Refused};

const UNAVAILABLE: Outcome = Refused(502, "upstream_unavailable");
const CUT: Outcome = BrokenOff("upstream_unavailable");
const LATE: Outcome = Refused(504, "upstream_timeout");

/// What the upstream writes, what it does then, and what becomes of it.
const CASES: &[(&str, &str, Then, Outcome)] = &[
    ("fine", "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine", Then::Next, Passed(200, "fine")),
    ("bare-cr", "HTTP/1.1 200 OK\r\nx: a\rb\r\ncontent-length: 4\r\n\r\nfine", Then::Next, UNAVAILABLE),
    // resets and ends
    ("reset-at-once", "", Then::Reset, UNAVAILABLE),
    ("close-at-once", "", Then::Close, UNAVAILABLE),
    ("reset-in-head", "HTTP/1.1 200 OK\r\ncontent-len", Then::Reset, UNAVAILABLE),
    ("close-in-head", "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n", Then::Close, UNAVAILABLE),
    ("reset-in-body", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfin", Then::Reset, CUT),
    ("close-in-body", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfin", Then::Close, CUT),
    ("close-in-chunk", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\nfin", Then::Close, CUT),
    (
        "close-between-chunks",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nfin\r\n",
        Then::Close,
        CUT,
    ),
    // standing still
    ("stall-at-once", "", Then::Stall, LATE),
    ("stall-in-head", "HTTP/1.1 200 OK\r\ncontent-len", Then::Stall, LATE),
    (
        "stall-in-body",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfin",
        Then::Stall,
        BrokenOff("upstream_timeout"),
    ),
    ("interim-for-ever", "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n", Then::Again, UNAVAILABLE),
    // no status line
    ("garbage", "garbage\r\n\r\n", Then::Next, UNAVAILABLE),
    ("http-0.9", "<html>hello</html>\r\n\r\n", Then::Close, UNAVAILABLE),
    ("http-2", "HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n", Then::Next, UNAVAILABLE),
    ("status-of-two-digits", "HTTP/1.1 99 Low\r\ncontent-length: 0\r\n\r\n", Then::Next, UNAVAILABLE),
    ("status-of-four-digits", "HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n", Then::Next, UNAVAILABLE),
    (
        "switched-unasked",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        Then::Next,
        UNAVAILABLE,
    ),
    // two framings, or none that is one
    (
        "two-lengths",
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 6\r\n\r\nfine!!",
        Then::Next,
        UNAVAILABLE,
    ),
    ("list-of-lengths", "HTTP/1.1 200 OK\r\ncontent-length: 4, 6\r\n\r\nfine!!", Then::Next, UNAVAILABLE),
    (
        "equal-lengths-in-a-list",
        "HTTP/1.1 200 OK\r\ncontent-length: 4, 4\r\n\r\nfine",
        Then::Next,
        UNAVAILABLE,
    ),
    ("length-in-octal", "HTTP/1.1 200 OK\r\ncontent-length: 04\r\n\r\nfine", Then::Next, Passed(200, "fine")),
    ("negative-length", "HTTP/1.1 200 OK\r\ncontent-length: -4\r\n\r\nfine", Then::Next, UNAVAILABLE),
    ("signed-length", "HTTP/1.1 200 OK\r\ncontent-length: +4\r\n\r\nfine", Then::Next, UNAVAILABLE),
    ("length-of-words", "HTTP/1.1 200 OK\r\ncontent-length: four\r\n\r\nfine", Then::Next, UNAVAILABLE),
    (
        "endless-length",
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\nfine",
        Then::Next,
        UNAVAILABLE,
    ),
    (
        "other-coding",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n",
        Then::Next,
        UNAVAILABLE,
    ),
    (
        "two-codings",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n",
        Then::Next,
        UNAVAILABLE,
    ),
    (
        "length-and-chunks",
        "HTTP/1.1 200 OK\r\ncontent-length: 90\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n",
        Then::Next,
        UNAVAILABLE,
    ),
    (
        "chunk-size-of-words",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nfine\r\n0\r\n\r\n",
        Then::Next,
        CUT,
    ),
    (
        "chunk-too-short",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nfine\r\n0\r\n\r\n",
        Then::Next,
        CUT,
    ),
    (
        "chunk-size-too-large",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nfine\r\n0\r\n\r\n",
        Then::Next,
        CUT,
    ),
    // no head
    ("space-before-colon", "HTTP/1.1 200 OK\r\ncontent-length : 4\r\n\r\nfine", Then::Next, UNAVAILABLE),
    ("nul-in-value", "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 4\r\n\r\nfine", Then::Next, UNAVAILABLE),
    ("folded", "HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 4\r\n\r\nfine", Then::Next, UNAVAILABLE),
    (
        "name-with-space",
        "HTTP/1.1 200 OK\r\nx y: a\r\ncontent-length: 4\r\n\r\nfine",
        Then::Next,
        UNAVAILABLE,
    ),
    // more than one answer
    (
        "second-answer",
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfineHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison",
        Then::Next,
        Passed(200, "fine"),
    ),
    (
        "body-of-none",
        "HTTP/1.1 204 No Content\r\ncontent-length: 6\r\n\r\npoison",
        Then::Next,
        Passed(204, ""),
    ),
    (
        "body-of-unchanged",
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 6\r\n\r\npoison",
        Then::Next,
        Passed(304, ""),
    ),
    (
        "interim-and-answer",
        "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine",
        Then::Next,
        Passed(200, "fine"),
    ),
    (
        "closes-after-use",
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine",
        Then::Close,
        Passed(200, "fine"),
    ),
];

/// Those that are too long to be written down.
fn long(name: &str) -> Option<(Vec<u8>, Then, Outcome)> {
    let head =
        |fields: String| format!("HTTP/1.1 200 OK\r\n{fields}content-length: 4\r\n\r\nfine").into_bytes();
    match name {
        "huge-head" => Some((head(format!("x: {}\r\n", "y".repeat(100 << 10))), Then::Next, UNAVAILABLE)),
        "many-fields" => Some((head("x: y\r\n".repeat(200)), Then::Next, UNAVAILABLE)),
        "endless-head" => Some((b"x".repeat(1 << 16), Then::Again, UNAVAILABLE)),
        _ => None,
    }
}
const LONG: [&str; 3] = ["huge-head", "many-fields", "endless-head"];

fn script(target: &str) -> (Vec<u8>, Then) {
    let name = target.trim_start_matches("/broken/");
    if let Some((bytes, then, _)) = long(name) {
        return (bytes, then);
    }
    let case = CASES.iter().find(|case| case.0 == name).unwrap_or(&CASES[0]);
    (case.1.into(), case.2)
}

fn start<'w>(world: &'w World, broken: &Broken) -> Proxy<'w> {
    world.start(&format!(
        "{ANYTHING}[upstream.broken]\nserver = \"http://{}\"\nfirst_byte_timeout = \"150ms\"\n\
         idle_timeout = \"150ms\"\n[route.broken]\nhost = \"{HOST}\"\npath = \"/broken/**\"\nupstream = \"broken\"\n",
        broken.address
    ))
}

#[tokio::test]
async fn a_broken_answer_is_refused_or_cut_and_never_meets_another_request() {
    let world = World::new().await;
    let broken = Broken::start(script).await;
    let proxy = start(&world, &broken);
    let healthy = Healthy::of(&proxy).await;
    let cases: Vec<(&str, Outcome)> = CASES
        .iter()
        .map(|case| (case.0, case.3))
        .chain(LONG.map(|name| (name, long(name).unwrap().2)))
        .collect();
    assert_eq!(cases.len(), 46);
    healthy
        .beside("upstream: resets, stalls, broken framing (46 ways)", async |round| {
            let protocol = Protocol::BOTH[round % 2];
            for (name, wanted) in &cases {
                let client = proxy.client(Who::Storefront, protocol).await;
                let path = format!("/broken/{name}");
                let answer = client.ask(world.signed(get(&path))).await;
                let fits = match (wanted, &answer) {
                    (Passed(status, body), Ok(answer)) => answer.status == *status && answer.body == *body,
                    (Refused(status, reason), Ok(answer)) => {
                        outcome(answer) == (*status, (*reason).to_owned())
                    }
                    (BrokenOff(_), Err(_)) => true,
                    _ => false,
                };
                assert!(fits, "{protocol:?} {name}: {answer:?}");
                // Whatever it left behind is nobody else's answer.
                let client = proxy.client(Who::Storefront, protocol).await;
                let next = client.ask(world.signed(get("/broken/fine"))).await.unwrap();
                assert_eq!((next.status.as_u16(), &next.body[..]), (200, &b"fine"[..]), "after {name}");
            }
        })
        .await;
    // The last may not be written yet.
    let records = soon("the records", async {
        loop {
            let records = proxy.records(1).await;
            let is_told = |name: &str| {
                let path = format!("/broken/{name}");
                records.iter().any(|record| record["action"]["path"] == *path)
            };
            if cases.iter().all(|(name, _)| is_told(name)) {
                break records;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut reasons: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for record in &records {
        let path = record["action"]["path"].as_str().unwrap();
        reasons.entry(path).or_default().insert(record["reason"].as_str().unwrap());
    }
    for (name, wanted) in &cases {
        let wanted = match wanted {
            Passed(..) => "allowed",
            Refused(_, reason) | BrokenOff(reason) => reason,
        };
        let seen = &reasons[format!("/broken/{name}").as_str()];
        assert_eq!(*seen, BTreeSet::from([wanted]), "{name}");
    }
}

#[tokio::test]
async fn the_length_of_an_answer_is_one_number_also_where_there_is_no_body() {
    let world = World::new().await;
    let broken = Broken::start(script).await;
    let proxy = start(&world, &broken);
    let mut cases = 0;
    for protocol in Protocol::BOTH {
        for (name, length) in [
            ("fine", Some("4")),
            ("length-in-octal", Some("4")),
            ("two-lengths", None),
            ("list-of-lengths", None),
            ("equal-lengths-in-a-list", None),
            ("negative-length", None),
            ("signed-length", None),
            ("length-of-words", None),
            ("endless-length", None),
        ] {
            let client = proxy.client(Who::Storefront, protocol).await;
            let request = Request::head(format!("/broken/{name}")).body(crate::world::full("")).unwrap();
            let answer = client.ask(world.signed(request)).await.unwrap();
            let told: Vec<_> = answer
                .headers
                .get_all("content-length")
                .iter()
                .map(|length| length.to_str().unwrap())
                .collect();
            match length {
                Some(length) => {
                    assert_eq!((answer.status.as_u16(), &told[..]), (200, &[length][..]), "{name}")
                }
                None => assert_eq!(answer.status, 502, "{protocol:?} {name}: {answer:?}"),
            }
            let record = proxy.records(cases + 1).await.swap_remove(cases);
            assert_eq!(record["status"], answer.status.as_u16(), "{protocol:?} {name}");
            cases += 1;
        }
    }
    assert_eq!(cases, 18);
}

#[tokio::test]
async fn trailers_of_an_answer_carry_no_framing_and_no_identity() {
    const TRAILED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum, content-length, x-auth-subject, connection\r\n\r\n\
                           4\r\nfine\r\n0\r\nx-sum: 42\r\ncontent-length: 99\r\ntransfer-encoding: gzip\r\nconnection: x-sum\r\n\
                           x-auth-subject: root\r\nhost: evil\r\nset_cookie: a=b\r\n\r\n";
    let world = World::new().await;
    let broken = Broken::start(|_: &str| (TRAILED.into(), Then::Next)).await;
    let proxy = start(&world, &broken);
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        let mut request = world.signed(get("/broken/trailed"));
        request.headers_mut().insert("te", "trailers".parse().unwrap());
        let answer = client.ask(request).await.unwrap();
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"fine"[..]), "{protocol:?}");
        for name in answer.trailers.keys() {
            assert_eq!(name, "x-sum", "{protocol:?}: {:?}", answer.trailers);
        }
    }
}

/// A body that begins and never goes on.
fn stuck() -> Body {
    let start = stream::iter([Ok(Frame::data(Bytes::from("start")))]);
    StreamBody::new(start.chain(stream::pending())).boxed_unsync()
}

#[tokio::test]
async fn what_is_left_unread_of_a_request_is_never_taken_for_the_next_one() {
    const SMUGGLED: &str = "GET /broken/smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    let world = World::new().await;
    // Answers before it has read the body, and goes on reading as if there were none.
    let broken = Broken::start(script).await;
    let proxy = start(&world, &broken);
    let healthy = Healthy::of(&proxy).await;
    healthy
        .beside("upstream: early answer, body unread", async |_| {
            for protocol in Protocol::BOTH {
                let client = proxy.client(Who::Storefront, protocol).await;
                let request = Request::post("/broken/fine").body(stuck()).unwrap();
                let answer = client.ask(world.signed(request)).await.unwrap();
                assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"fine"[..]), "{protocol:?}");
                // A whole request in the body: the next one still gets its own answer.
                let client = proxy.client(Who::Storefront, protocol).await;
                let answer = client.ask(world.signed(post("/broken/fine", SMUGGLED))).await.unwrap();
                assert_eq!(&answer.body[..], b"fine", "{protocol:?}");
                let next = client.ask(world.signed(get("/broken/closes-after-use"))).await;
                assert!(next.is_ok_and(|next| next.body == "fine"), "{protocol:?}");
            }
        })
        .await;
    // On the client's side: what follows an answered head on its connection is that request's body.
    let config = world.certificates.client_config(Who::Storefront);
    let mut raw = Raw::tls(proxy.address("mesh"), HOST, config).await.unwrap();
    let before = proxy.records(0).await.len();
    let head =
        format!("POST /orders/1 HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {}\r\n\r\n", SMUGGLED.len());
    raw.send(head).await.unwrap();
    assert!(raw.head().await.unwrap().starts_with("HTTP/1.1 401 "));
    raw.send(SMUGGLED).await.unwrap();
    let rest = String::from_utf8(soon("the end", raw.rest()).await).unwrap();
    assert!(!rest.contains("HTTP/1.1"), "{rest}");
    let records = proxy.records(before + 1).await;
    assert!(records.iter().all(|record| record["action"]["path"] != "/broken/smuggled"), "{records:?}");
}

#[tokio::test]
async fn an_answer_that_came_before_the_upstream_closed_is_passed_on() {
    const EARLY: &str = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 5\r\n\r\nlarge";
    let world = World::new().await;
    let broken = Broken::start(|_: &str| (EARLY.into(), Then::Close)).await;
    let proxy = start(&world, &broken);
    let upload = Bytes::from(vec![b'x'; 1 << 20]);
    for protocol in Protocol::BOTH {
        for round in 0..50 {
            let client = proxy.client(Who::Storefront, protocol).await;
            let answer = client.ask(world.signed(post("/broken/upload", upload.clone()))).await.unwrap();
            let status = answer.status.as_u16();
            assert_eq!((status, &answer.body[..]), (413, &b"large"[..]), "{protocol:?} {round}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_client_that_stops_within_its_body_is_told_and_the_upstream_let_go() {
    let world = World::new().await;
    let hasty = format!(
        "{ANYTHING}[upstream.hasty]\nserver = \"{}\"\nidle_timeout = \"200ms\"\n\
         [route.hasty]\nhost = \"{HOST}\"\npath = \"/hasty\"\nupstream = \"hasty\"\n",
        world.upstream.url
    );
    let proxy = world.start(&hasty);
    for protocol in Protocol::BOTH {
        let before = world.upstream.counts().abandoned;
        let client = proxy.client(Who::Storefront, protocol).await;
        let request = Request::post("/hasty").header("content-length", 1000).body(stuck()).unwrap();
        let answer = client.ask(world.signed(request)).await.unwrap();
        assert_eq!(outcome(&answer), (408, "client_gone".to_owned()), "{protocol:?}");
        world.upstream.until(|counts| counts.abandoned > before).await;
    }
}

#[tokio::test]
async fn an_upstream_that_never_ends_its_handshake_is_given_up() {
    let world = World::new().await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = world.start(&format!(
        "{ANYTHING}[upstream.silent]\nserver = \"https://{}\"\nca = \"shop-ca.pem\"\nconnect_timeout = \"200ms\"\n\
         [route.silent]\nhost = \"{HOST}\"\npath = \"/silent\"\nupstream = \"silent\"\n",
        silent.local_addr().unwrap()
    ));
    let healthy = Healthy::of(&proxy).await;
    healthy
        .beside("upstream: no TLS handshake", async |round| {
            let client = proxy.client(Who::Storefront, Protocol::BOTH[round % 2]).await;
            let answer = client.ask(world.signed(get("/silent"))).await.unwrap();
            assert_eq!(outcome(&answer), (504, "upstream_timeout".to_owned()));
            let detail = proxy.record_of(&answer).await["detail"].clone();
            assert!(detail.as_str().unwrap().contains("connect_timeout"), "{detail}");
        })
        .await;
}
