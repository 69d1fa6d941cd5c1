//! Bodies: both ways, to their end or to a failure that shows on both sides; upgrades.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::testing::*;
use super::{Tunnel, TunnelEnd, Upgrade, UpstreamError, Wait};

const BOTH: [(Speaks, &str); 2] = [(Speaks::H1, "http"), (Speaks::H2, "h2c")];

async fn echo() -> impl AsyncFn(Request<hyper::body::Incoming>) -> Response<TestBody> {
    async |request| {
        Response::builder()
            .header("trailer", "checksum")
            .body(request.into_body().map_err(io::Error::other).boxed_unsync())
            .unwrap()
    }
}

#[tokio::test(flavor = "local")]
async fn ten_mebibytes_go_up_and_down_unchanged_with_their_trailers() {
    for (speaks, scheme) in BOTH {
        let double = Double::start(speaks, echo().await).await;
        let pool = pool(&[&double.uri(scheme)]);
        let trailers = HeaderMap::from_iter([("checksum".parse().unwrap(), HeaderValue::from_static("abc"))]);
        let last = trailers.clone();
        let chunks = (0..640u32).map(|n| Ok::<_, io::Error>(Frame::data(vec![n as u8; 16384].into())));
        let frames = chunks.chain([Ok(Frame::trailers(last))]);
        let mut request = post(StreamBody::new(futures_util::stream::iter(frames)));
        request.headers_mut().insert("trailer", HeaderValue::from_static("checksum"));
        request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        let body = pool.ask(request).await.unwrap().into_body().collect().await.unwrap();
        assert_eq!(body.trailers(), Some(&trailers), "{scheme}");
        let bytes = body.to_bytes();
        assert_eq!(bytes.len(), 640 * 16384);
        assert!(bytes.chunks(16384).enumerate().all(|(n, chunk)| chunk.iter().all(|&byte| byte == n as u8)));
        text(pool.ask(get("/")).await.unwrap()).await;
        assert_eq!(double.connections.get(), 1, "{scheme}: the connection goes on after trailers");
    }
}

#[tokio::test(flavor = "local")]
async fn whoever_does_not_read_stops_the_other_side() {
    // Kernel buffers on loopback are what h1 has beside hyper's own.
    for ((speaks, scheme), bytes_max) in BOTH.into_iter().zip([16 << 20, 2 << 20]) {
        let produced = Endless::default();
        let down = produced.clone();
        let double =
            Double::start(speaks.clone(), async move |_| Response::new(down.clone().boxed_unsync())).await;
        let pool = pool(&[&double.uri(scheme)]);
        let response = pool.ask(get("/")).await.unwrap();
        settle().await;
        assert!((1..bytes_max).contains(&produced.given()), "{scheme} down: {}", produced.given());
        drop(response);

        let (_keep, body) = fed();
        let body = RefCell::new(Some(body));
        let unread = Rc::new(RefCell::new(Vec::new()));
        let double = Double::start(speaks, async move |request: Request<hyper::body::Incoming>| {
            unread.borrow_mut().push(request.into_body());
            Response::new(body.take().unwrap().boxed_unsync())
        })
        .await;
        let pool = self::pool(&[&double.uri(scheme)]);
        let produced = Endless::default();
        let _response = pool.ask(post(produced.clone())).await.unwrap();
        settle().await;
        assert!((1..bytes_max).contains(&produced.given()), "{scheme} up: {}", produced.given());
    }
}

#[tokio::test(flavor = "local")]
async fn an_early_answer_ends_the_request_and_its_connection_serves_no_other() {
    let (connections, uri) = raw_answering(b"HTTP/1.1 413 Too Big\r\ncontent-length: 3\r\n\r\nbig").await;
    let pool = pool(&[&uri]);
    for round in 1..=2 {
        let (sender, body) = fed();
        sender.send(data(b"beginning")).await.unwrap();
        let response = pool.ask(post(body)).await.unwrap();
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(text(response).await, "big");
        sender.closed().await;
        assert_eq!(connections.get(), round);
    }
    settle().await;
    assert_eq!((status(&pool)[0].connections_open, status(&pool)[0].failures), (0, 0));
}

#[tokio::test(flavor = "local")]
async fn on_h2_an_early_answer_ends_the_stream_alone() {
    let unread = RefCell::new(Vec::new());
    let double = Double::start(Speaks::H2, async move |request| {
        unread.borrow_mut().push(request);
        Response::new(full("early"))
    })
    .await;
    let pool = pool(&[&double.uri("h2c")]);
    for _ in 0..2 {
        let (sender, body) = fed();
        let mut answer = pool.ask(post(body)).await.unwrap().into_body();
        while answer.frame().await.transpose().unwrap().is_some() {}
        sender.closed().await;
        assert!(answer.is_end_stream());
    }
    assert_eq!(double.connections.get(), 1);
}

#[tokio::test(flavor = "local")]
async fn an_upstream_that_dies_half_way_is_no_end_of_the_body() {
    let mut seen = 0;
    for answer in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"[..],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffff\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\nhalf",
    ] {
        let (listener, uri) = raw().await;
        let pool = pool(&[&uri]);
        let upstream = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            read_head(&mut socket).await;
            socket.write_all(answer).await.unwrap();
        };
        let (response, ()) = tokio::join!(pool.ask(get("/")), upstream);
        let mut body = response.unwrap().into_body();
        let error = loop {
            match body.frame().await {
                Some(Ok(_)) => assert!(!body.is_end_stream()),
                Some(Err(error)) => break error,
                None => panic!("a clean end"),
            }
        };
        assert!(matches!(error, UpstreamError::Unavailable(_)), "{error}");
        assert!(!body.is_end_stream() && body.frame().await.is_some_and(|again| again.is_err()));
        seen += 1;
    }
    assert_eq!(seen, 4);
}

#[tokio::test(flavor = "local")]
async fn a_client_that_dies_half_way_aborts_the_request() {
    for (speaks, scheme) in BOTH {
        let seen = Rc::new(RefCell::new(None));
        let end = Rc::clone(&seen);
        let double = Double::start(speaks, async move |request: Request<hyper::body::Incoming>| {
            let outcome = request.into_body().collect().await.map(|body| body.to_bytes());
            end.replace(Some(outcome.is_ok()));
            Response::new(full("never"))
        })
        .await;
        let pool = pool(&[&double.uri(scheme)]);
        let (sender, body) = fed();
        let client = async {
            sender.send(data(b"half")).await.unwrap();
            sender.send(Err(io::Error::other("reset by the client"))).await.unwrap();
        };
        let (answer, ()) = tokio::join!(pool.ask(post(body)), client);
        let error = answer.err().unwrap();
        assert!(matches!(error, UpstreamError::ClientGone(_)), "{scheme}: {error}");
        settle().await;
        assert_ne!(*seen.borrow(), Some(true), "{scheme}: the upstream saw a clean end");
        assert_eq!(status(&pool)[0].failures, 0, "not the upstream's fault");
    }
}

#[tokio::test(flavor = "local")]
async fn a_client_that_dies_while_the_answer_streams_aborts_both() {
    for (speaks, scheme) in BOTH {
        let double = Double::start(speaks, echo().await).await;
        let pool = pool(&[&double.uri(scheme)]);
        let (sender, body) = fed();
        sender.send(data(b"half")).await.unwrap();
        let mut answer = pool.ask(post(body)).await.unwrap().into_body();
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
        sender.send(Err(io::Error::other("reset by the client"))).await.unwrap();
        let error = answer.frame().await.unwrap().unwrap_err();
        assert!(matches!(error, UpstreamError::ClientGone(_)), "{scheme}: {error}");
    }
}

#[tokio::test(flavor = "local")]
async fn dropping_the_response_aborts_the_upstream() {
    for (speaks, scheme) in BOTH {
        let (sender, body) = fed();
        let body = RefCell::new(Some(body));
        let double =
            Double::start(speaks, async move |_| Response::new(body.take().unwrap().boxed_unsync())).await;
        let pool = pool(&[&double.uri(scheme)]);
        sender.send(data(b"half")).await.unwrap();
        let mut answer = pool.ask(get("/")).await.unwrap().into_body();
        answer.frame().await.unwrap().unwrap();
        drop(answer);
        sender.closed().await;
        assert_eq!(status(&pool)[0].in_flight, 0, "{scheme}");
    }
}

#[tokio::test(flavor = "local")]
async fn a_body_that_stands_still_ends_in_a_timeout_with_its_culprit() {
    let (_connections, uri) = raw_answering(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
    let pool = pool(&[&uri]);
    let mut body = pool.ask(get("/")).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    assert_eq!(body.frame().await.unwrap().unwrap_err(), UpstreamError::Timeout(Wait::Idle));
    assert_eq!(began.elapsed().as_secs(), 60);
    tokio::time::resume();

    let (listener, uri) = raw().await;
    let pool = self::pool(&[&uri]);
    let (sender, body) = fed();
    sender.send(data(b"half")).await.unwrap();
    let mut waiting = Box::pin(pool.ask(post(body)));
    let accepting = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        read_head(&mut socket).await;
        settle().await;
        socket
    };
    let _socket = tokio::select! {
        biased;
        _ = &mut waiting => panic!("answered"),
        socket = accepting => socket,
    };
    tokio::time::pause();
    let error = waiting.await.err().unwrap();
    assert!(matches!(error, UpstreamError::ClientGone(_)), "{error}");
    assert_eq!(status(&pool)[0].failures, 0);
}

#[tokio::test(flavor = "local")]
async fn interim_responses_are_not_answers_and_protocols_are_not_switched_unasked() {
    let (_c, uri) = raw_answering(
        b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    )
    .await;
    let answer = pool(&[&uri]).ask(get("/")).await.unwrap();
    assert_eq!((answer.status(), answer.headers().contains_key("link")), (StatusCode::OK, false));
    let (_c, uri) = raw_answering(
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    )
    .await;
    let pool = pool(&[&uri]);
    assert!(matches!(pool.ask(get("/")).await.err().unwrap(), UpstreamError::Unavailable(_)));
    settle().await;
    assert_eq!(status(&pool)[0].connections_open, 0);
}

#[tokio::test(flavor = "local")]
async fn a_body_is_asked_for_only_after_the_upstreams_continue() {
    let polled = |answer: &'static [u8]| async move {
        let (_connections, uri) = raw_answering(answer).await;
        let asked = Endless::default();
        let mut request = post(asked.clone());
        request.headers_mut().insert("expect", HeaderValue::from_static("100-continue"));
        let response = pool(&[&uri]).ask(request).await.unwrap();
        (response.status().as_u16(), asked.given() > 0)
    };
    let refusing = b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(polled(refusing).await, (417, false));
    // The answer after the 100 stays away until the body was asked for.
    let (listener, uri) = raw().await;
    let upstream = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        assert!(read_head(&mut socket).await.contains("expect: 100-continue"));
        socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        let mut body = [0; 4];
        socket.read_exact(&mut body).await.unwrap();
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        body
    };
    let mut request = post(Full::new(Bytes::from_static(b"body")));
    request.headers_mut().insert("expect", HeaderValue::from_static("100-continue"));
    let pool = pool(&[&uri]);
    let (answer, body) = tokio::join!(pool.ask(request), upstream);
    assert_eq!((answer.unwrap().status(), &body), (StatusCode::OK, b"body"));
}

fn handshake() -> Request<()> {
    Request::get("/chat").header("host", "orders").header("content-length", "5").body(()).unwrap()
}

#[tokio::test(flavor = "local")]
async fn a_websocket_becomes_a_tunnel_after_the_upstreams_101() {
    let (listener, uri) = raw().await;
    let pool = pool(&[&uri]);
    let upstream = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let head = read_head(&mut socket).await;
        assert!(head.contains("upgrade: websocket") && !head.contains("content-length"), "{head}");
        let answer =
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: WebSocket\r\n\r\nfirst";
        socket.write_all(answer.as_bytes()).await.unwrap();
        let mut ping = [0; 4];
        socket.read_exact(&mut ping).await.unwrap();
        socket.write_all(&ping).await.unwrap();
    };
    let (mut client, downstream) = duplex(1024);
    let client = async move {
        client.write_all(b"ping").await.unwrap();
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"firstping");
    };
    let proxy = async {
        let Upgrade::Switched(switched) = pool.ask_to_upgrade(handshake(), "websocket").await.unwrap() else {
            panic!("not switched");
        };
        assert_eq!(switched.response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(status(&pool)[0].in_flight, 1);
        switched.tunnel(downstream, std::future::pending()).await
    };
    let (tunnel, (), ()) = tokio::join!(proxy, upstream, client);
    assert_eq!(tunnel, Tunnel { bytes_up: 4, bytes_down: 9, end: TunnelEnd::Closed });
    assert_eq!(status(&pool)[0].in_flight, 0);
}

#[tokio::test(flavor = "local")]
async fn a_refused_upgrade_is_an_answer_and_its_connection_is_not_kept() {
    let (connections, uri) = raw_answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno").await;
    let pool = pool(&[&uri]);
    for round in 1..=2 {
        let Upgrade::Answered(answer) = pool.ask_to_upgrade(handshake(), "websocket").await.unwrap() else {
            panic!("switched");
        };
        assert_eq!(text(answer).await, "no");
        settle().await;
        assert_eq!((connections.get(), status(&pool)[0].connections_open), (round, 0));
    }
    let (_c, uri) =
        raw_answering(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")
            .await;
    let other = self::pool(&[&uri]).ask_to_upgrade(handshake(), "websocket").await;
    assert!(matches!(other.err().unwrap(), UpstreamError::Unavailable(_)));
}

/// hyper on both sides, as in the proxy: what the client is told depends on what the upstream wants.
#[tokio::test(flavor = "local")]
async fn a_client_is_told_to_continue_only_if_the_upstream_wants_its_body() {
    let refusing = b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n";
    let wanting = b"HTTP/1.1 100 Continue\r\n\r\n";
    let mut seen = 0;
    for (answer, told) in [(&refusing[..], "HTTP/1.1 417 "), (wanting, "HTTP/1.1 100 Continue\r\n")] {
        let (_connections, uri) = raw_answering(answer).await;
        let pool = pool(&[&uri]);
        let (mut client, listener) = duplex(4096);
        let service = hyper::service::service_fn(move |request| {
            let pool = Rc::clone(&pool);
            async move { pool.ask(request).await }
        });
        let io = hyper_util::rt::TokioIo::new(listener);
        let front = hyper::server::conn::http1::Builder::new().serve_connection(io, service).with_upgrades();
        tokio::task::spawn_local(front);
        let head = "POST / HTTP/1.1\r\nhost: orders\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        let mut first = vec![0; told.len()];
        client.read_exact(&mut first).await.unwrap();
        assert_eq!(String::from_utf8(first).unwrap(), told);
        seen += 1;
    }
    assert_eq!(seen, 2);
}
