//! Connections: reuse, single flight, retry, ejection, limits, identity.

use std::io::{Read, Write};
use std::time::Duration;

use futures_util::future::join_all;
use http::{Response, StatusCode, Version};
use tokio::io::AsyncWriteExt;

use super::testing::*;
use super::{Pool, Pools, Upstream, UpstreamError, Wait};

#[tokio::test(flavor = "local")]
async fn an_h1_connection_is_kept_and_used_again() {
    let double = Double::start(Speaks::H1, async |request| {
        assert_eq!(request.headers()["host"], "orders.shop.example");
        let status = if request.uri() == "/none" { StatusCode::NO_CONTENT } else { StatusCode::OK };
        let body = if status == StatusCode::OK { full("hello") } else { full("") };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        response
    })
    .await;
    let pool = pool(&[&double.uri("http")]);
    for _ in 0..5 {
        let response = pool.ask(get("/x?y=z")).await.unwrap();
        assert_eq!(response.version(), Version::HTTP_11);
        assert_eq!(text(response).await, "hello");
        let mut head = get("/");
        *head.method_mut() = http::Method::HEAD;
        assert_eq!(text(pool.ask(head).await.unwrap()).await, "", "HEAD has no body");
        assert_eq!(text(pool.ask(get("/none")).await.unwrap()).await, "");
    }
    assert_eq!((double.connections.get(), double.requests.get()), (1, 15));
    let status = &status(&pool)[0];
    assert_eq!((status.connects, status.requests, status.connections_open), (1, 15, 1));
    assert_eq!((status.in_flight, status.failures), (0, 0));
}

#[tokio::test(flavor = "local")]
async fn as_many_h1_connections_are_opened_as_requests_are_in_flight() {
    let double = Double::start(Speaks::H1, async |_| Response::new(full("hello"))).await;
    let pool = pool(&[&double.uri("http")]);
    let worker = || async {
        for _ in 0..100 {
            assert_eq!(text(pool.ask(post(full("hello"))).await.unwrap()).await, "hello");
        }
    };
    join_all((0..8).map(|_| worker())).await;
    assert_eq!((double.requests.get(), status(&pool)[0].failures), (800, 0));
    assert!(double.connections.get() <= 9, "{}", double.connections.get());
}

#[tokio::test(flavor = "local")]
async fn sixteen_cold_requests_open_one_h2_connection() {
    let (server, client) = tls_pair("127.0.0.1", &[b"h2", b"http/1.1"]);
    for (speaks, scheme) in [(Speaks::H2, "h2c"), (Speaks::Tls(server), "https")] {
        let double = Double::start(speaks, async |request| {
            assert_eq!(request.version(), Version::HTTP_2);
            assert_eq!(request.uri().authority().unwrap(), "orders.shop.example");
            assert!(!request.headers().contains_key("host"));
            Response::new(full("hello"))
        })
        .await;
        let pool = Pool::new(Upstream::start(settings(&[&double.uri(scheme)], &client), None));
        let answers =
            join_all((0..16).map(|_| async { text(pool.ask(get("/")).await.unwrap()).await })).await;
        assert!(answers.iter().all(|answer| answer == "hello"));
        assert_eq!((double.connections.get(), double.requests.get()), (1, 16), "{scheme}");
    }
}

#[tokio::test(flavor = "local")]
async fn streams_over_the_limit_open_another_connection() {
    let double = Double::start(Speaks::H2, async |_| Response::new(full("hello"))).await;
    let mut settings = settings(&[&double.uri("h2c")], &trusting_nobody());
    settings.limits.streams_per_connection_max = 4;
    let pool = Pool::new(Upstream::start(settings, None));
    // Bodies that are not read keep their streams.
    let held = join_all((0..16).map(|_| async { pool.ask(get("/")).await.unwrap() })).await;
    assert_eq!((double.connections.get(), held.len()), (4, 16));
}

#[tokio::test(flavor = "local")]
async fn a_server_that_knows_no_h2_is_spoken_to_in_h1() {
    let (server, client) = tls_pair("127.0.0.1", &[b"http/1.1"]);
    let double = Double::start(Speaks::Tls(server), async |request| {
        assert_eq!(request.version(), Version::HTTP_11);
        Response::new(full("hello"))
    })
    .await;
    let pool = Pool::new(Upstream::start(settings(&[&double.uri("https")], &client), None));
    let answers = join_all((0..8).map(|_| async { text(pool.ask(get("/")).await.unwrap()).await })).await;
    assert_eq!(answers.len(), 8);
    assert!(double.connections.get() <= 8);
}

#[tokio::test(flavor = "local")]
async fn another_identity_is_no_network_error_and_is_not_got_around() {
    let (wrong_name, trusting_it) = tls_pair("payments.shop.example", &[b"h2"]);
    let (_, trusting_another) = tls_pair("127.0.0.1", &[b"h2"]);
    let mut seen = 0;
    for client in [trusting_it, trusting_another] {
        let double = Double::start(Speaks::Tls(wrong_name.clone()), async |_| panic!("reached")).await;
        let uri = double.uri("https");
        let pool = Pool::new(Upstream::start(settings(&[&uri, &uri], &client), None));
        let refusal = pool.ask(get("/")).await.err().unwrap();
        assert!(matches!(refusal, UpstreamError::IdentityMismatch(_)), "{refusal}");
        assert_eq!((double.connections.get(), double.requests.get()), (1, 0));
        assert_eq!(status(&pool).iter().map(|endpoint| endpoint.failures).sum::<u64>(), 1);
        seen += 1;
    }
    assert_eq!(seen, 2);
}

#[tokio::test(flavor = "local")]
async fn an_upstream_that_refuses_our_certificate_is_nobody_else_and_says_so() {
    let mut seen = 0;
    for alpn in [b"h2".as_slice(), b"http/1.1"] {
        let (server, client) = tls_pair("127.0.0.1", &[alpn]);
        let double = Double::start(Speaks::Tls(demanding(&server)), async |_| panic!("reached")).await;
        let uri = double.uri("https");
        let pool = Pool::new(Upstream::start(settings(&[&uri, &uri], &client), None));
        for _ in 0..3 {
            let refusal = pool.ask(get("/")).await.err().unwrap();
            assert!(matches!(refusal, UpstreamError::RefusedUs(_)), "{refusal}");
            seen += 1;
        }
        assert_eq!((double.connections.get(), double.requests.get()), (3, 0));
    }
    assert_eq!(seen, 6);
}

#[tokio::test(flavor = "local")]
async fn an_upstream_that_closes_every_connection_at_once_is_not_dialed_for_ever() {
    let (listener, uri) = raw().await;
    let closing = async {
        while let Ok((socket, _)) = listener.accept().await {
            drop(socket)
        }
    };
    let pool = pool(&[&uri.replace("http:", "h2c:")]);
    let answer = tokio::select! { answer = pool.ask(get("/")) => answer, () = closing => unreachable!() };
    assert!(matches!(answer.err().unwrap(), UpstreamError::Unavailable(_)));
    assert!((1..=3).contains(&status(&pool)[0].connects), "{}", status(&pool)[0].connects);
}

/// An upstream on a thread of its own that closes its first connection when told. This core blocks until
/// it did, so hyper sees the close and the next request in the same turn.
#[tokio::test(flavor = "local")]
async fn a_request_that_meets_a_closed_idle_connection_is_sent_on_another() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let (close, told) = std::sync::mpsc::channel::<()>();
    let (done, closed) = std::sync::mpsc::channel::<()>();
    let server = std::thread::spawn(move || {
        let answer = |socket: &mut std::net::TcpStream| {
            let mut buffer = [0; 4096];
            let read = socket.read(&mut buffer).unwrap();
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
            String::from_utf8_lossy(&buffer[..read]).into_owned()
        };
        let (mut first, _) = listener.accept().unwrap();
        answer(&mut first);
        told.recv().unwrap();
        drop(first);
        done.send(()).unwrap();
        let (mut second, _) = listener.accept().unwrap();
        answer(&mut second)
    });
    let pool = pool(&[&uri]);
    assert_eq!(text(pool.ask(get("/")).await.unwrap()).await, "ok");
    settle().await;
    close.send(()).unwrap();
    closed.recv().unwrap();
    tokio::task::yield_now().await;
    let again = pool.ask(post(full("with a body"))).await.unwrap();
    assert_eq!(text(again).await, "ok");
    assert!(server.join().unwrap().starts_with("POST / "));
    assert_eq!((status(&pool)[0].connects, status(&pool)[0].failures), (2, 0));
}

#[tokio::test(flavor = "local")]
async fn what_was_sent_is_never_sent_again() {
    let (listener, uri) = raw().await;
    let pool = pool(&[&uri, &uri]);
    let upstream = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        assert!(read_head(&mut socket).await.starts_with("GET /once "));
        drop(socket);
        settle().await;
        tokio::select! { biased; _ = listener.accept() => panic!("sent twice"), () = settle() => () }
    };
    let (answer, ()) = tokio::join!(pool.ask(get("/once")), upstream);
    assert!(matches!(answer.err().unwrap(), UpstreamError::Unavailable(_)));
    assert_eq!(status(&pool).iter().map(|endpoint| endpoint.failures).sum::<u64>(), 1);
}

#[tokio::test(flavor = "local")]
async fn a_refused_server_is_passed_over_then_ejected_then_tried_again() {
    let double = Double::start(Speaks::H1, async |_| Response::new(full("hello"))).await;
    let mut settings = settings(&[&closed_port().await, &double.uri("http")], &trusting_nobody());
    settings.eject_after_failures = 3;
    let pool = Pool::new(Upstream::start(settings, None));
    for _ in 0..50 {
        assert_eq!(text(pool.ask(get("/")).await.unwrap()).await, "hello");
    }
    let dead = &status(&pool)[0];
    assert_eq!((dead.ejected, dead.failures, dead.connects), (true, 3, 3), "no dial after the third failure");
    assert!(status(&pool).iter().any(|endpoint| !endpoint.ejected));
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(6)).await;
    tokio::time::resume();
    for _ in 0..50 {
        assert_eq!(text(pool.ask(get("/")).await.unwrap()).await, "hello");
    }
    let dead = &status(&pool)[0];
    assert_eq!((dead.ejected, dead.failures), (true, 4), "one trial, and out again");
}

#[tokio::test(flavor = "local")]
async fn where_all_are_ejected_all_are_used() {
    let mut settings = settings(&[&closed_port().await, &closed_port().await], &trusting_nobody());
    settings.eject_after_failures = 1;
    let pool = Pool::new(Upstream::start(settings, None));
    for _ in 0..3 {
        assert!(matches!(pool.ask(get("/")).await.err().unwrap(), UpstreamError::Unavailable(_)));
    }
    let dials: Vec<u64> = status(&pool).iter().map(|endpoint| endpoint.connects).collect();
    assert_eq!(dials, [3, 3], "each request tries each address once");
    assert!(status(&pool).iter().all(|endpoint| endpoint.ejected));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_handshake_that_never_ends_is_a_connect_timeout() {
    let (_listener, uri) = raw().await;
    let pool =
        Pool::new(Upstream::start(settings(&[&uri.replace("http:", "https:")], &trusting_nobody()), None));
    let answers = join_all((0..3).map(|_| pool.ask(get("/")))).await;
    for answer in answers {
        assert_eq!(answer.err().unwrap(), UpstreamError::Timeout(Wait::Connect));
    }
    assert_eq!(status(&pool)[0].connects, 1, "one dial, whose failure all share");
}

#[tokio::test(flavor = "local")]
async fn a_response_that_does_not_come_is_a_first_byte_timeout_and_a_failure() {
    let (listener, uri) = raw().await;
    let pool = pool(&[&uri]);
    let mut waiting = Box::pin(pool.ask(get("/")));
    let mut socket = tokio::select! {
        biased;
        _ = &mut waiting => panic!("answered"),
        accepted = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            read_head(&mut socket).await;
            socket
        } => accepted,
    };
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    assert_eq!(waiting.await.err().unwrap(), UpstreamError::Timeout(Wait::FirstByte));
    assert!((14..=15).contains(&began.elapsed().as_secs()));
    assert_eq!((status(&pool)[0].failures, status(&pool)[0].in_flight), (1, 0));
    settle().await;
    // The connection is closed, not kept for the late answer.
    assert_eq!(status(&pool)[0].connections_open, 0);
    let _ = socket.shutdown().await;
}

#[tokio::test(flavor = "local")]
async fn requests_over_the_limit_wait_and_those_over_the_queue_are_refused() {
    let double = Double::start(Speaks::H1, async |_| Response::new(full("hello"))).await;
    let mut settings = settings(&[&double.uri("http")], &trusting_nobody());
    (settings.limits.in_flight_max, settings.limits.pending_max) = (1, 1);
    let pool = Pool::new(Upstream::start(settings, None));
    let first = pool.ask(get("/")).await.unwrap();
    let mut second = Box::pin(pool.ask(get("/")));
    tokio::select! { biased; _ = &mut second => panic!("over the limit"), () = settle() => () }
    assert!(matches!(pool.ask(get("/")).await.err().unwrap(), UpstreamError::Overloaded(_)));
    assert_eq!(text(first).await, "hello");
    assert_eq!(text(second.await.unwrap()).await, "hello");
    assert_eq!((double.connections.get(), status(&pool)[0].failures), (1, 0));
}

#[tokio::test(flavor = "local")]
async fn unused_connections_are_closed_after_a_while() {
    let h1 = Double::start(Speaks::H1, async |_| Response::new(full("hello"))).await;
    let h2 = Double::start(Speaks::H2, async |_| Response::new(full("hello"))).await;
    let pools = [pool(&[&h1.uri("http")]), pool(&[&h2.uri("h2c")])];
    for pool in &pools {
        text(pool.ask(get("/")).await.unwrap()).await;
        assert_eq!(status(pool)[0].connections_open, 1);
    }
    settle().await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    settle().await;
    for pool in &pools {
        assert_eq!(status(pool)[0].connections_open, 0);
    }
}

#[tokio::test(flavor = "local")]
async fn a_core_keeps_its_pool_while_the_upstream_stays() {
    let pools = Pools::default();
    let stays = Upstream::start(settings(&["http://127.0.0.1:1"], &trusting_nobody()), None);
    let goes = Upstream::start(settings(&["http://127.0.0.1:1"], &trusting_nobody()), None);
    let (one, other) = (pools.of(&stays), pools.of(&goes));
    assert!(!std::rc::Rc::ptr_eq(&one, &other));
    pools.retain(std::slice::from_ref(&stays));
    assert!(std::rc::Rc::ptr_eq(&one, &pools.of(&stays)));
    assert!(!std::rc::Rc::ptr_eq(&other, &pools.of(&goes)));
}
