//! An upstream double: it says back what it saw and counts, so that a test can tell what was
//! forwarded and that nothing was.
//!
//! What it does is asked for in the query, which no rule ever reads, so every path can have it:
//!
//! | query | does |
//! | --- | --- |
//! | (none) | `200` with [`Seen`] as JSON, after the whole request body was read |
//! | `status=N`, `header=name:value` | the same with this status, with this header |
//! | `download=N` | N bytes of [`pattern`] |
//! | `events=N` | N server-sent events, each after the first on one [`Upstream::release`] |
//! | `events=N&plain` | the same as plain text |
//! | `events=N&gate=name` | the same, each after the first on one [`Upstream::release_at`] of this name |
//! | `hold` | nothing before one [`Upstream::release`] |
//! | `early` | `200` without having read the request body |
//! | `trailers` | a body and the trailer `x-checksum` |
//! | `reset` | the start of a body, then an error |
//! | `hangup` | no answer at all |
//!
//! A WebSocket handshake gets an echo, with `seen` after [`Seen`] as the first message; a gRPC request
//! the service of `grpc.rs`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream};
use http::header::{CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::sync::{Semaphore, watch};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::listen::{Listening, listen};
use super::seen::Seen;
use super::{Body, Error, full, grpc, soon};

const FRAME_BYTES: usize = 64 * 1024;

pub struct Upstream {
    pub url: String,
    listening: Listening,
    floor: Arc<Floor>,
}

struct Floor {
    counts: watch::Sender<Counts>,
    gate: Arc<Semaphore>,
    named: Mutex<HashMap<String, Arc<Semaphore>>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub requests: u64,
    /// Requests whose client went away before the answer was complete.
    pub abandoned: u64,
}

/// Counts its request as abandoned when dropped before [`Unanswered::done`].
struct Unanswered(Option<Arc<Floor>>);

impl Upstream {
    pub async fn start() -> Upstream {
        Upstream::start_with("127.0.0.1:0".parse().unwrap(), None).await
    }

    pub async fn start_with(address: SocketAddr, tls: Option<Arc<ServerConfig>>) -> Upstream {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let floor = Arc::new(Floor {
            counts: watch::Sender::default(),
            gate: Arc::new(Semaphore::new(0)),
            named: Mutex::default(),
        });
        let shared = floor.clone();
        let listening = listen(address, tls, move |request| answer(shared.clone(), request)).await;
        Upstream { url: format!("{scheme}://{}", listening.address), listening, floor }
    }

    pub fn address(&self) -> SocketAddr {
        self.listening.address
    }

    pub fn connections(&self) -> u64 {
        self.listening.connections()
    }

    pub fn counts(&self) -> Counts {
        *self.floor.counts.borrow()
    }

    /// Waits until the counts are as `reached` wants them.
    pub async fn until(&self, reached: impl Fn(Counts) -> bool) {
        let mut counts = self.floor.counts.subscribe();
        soon("the upstream's counts", counts.wait_for(|counts| reached(*counts))).await.unwrap();
    }

    /// Lets one held answer, or one event, go.
    pub fn release(&self) {
        self.floor.gate.add_permits(1);
    }

    /// Lets one event of the streams at this gate go.
    pub fn release_at(&self, gate: &str) {
        self.floor.gate(Some(gate)).add_permits(1);
    }
}

impl Unanswered {
    fn done(&mut self) {
        self.0 = None;
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(floor) = &self.0 {
            floor.counts.send_modify(|counts| counts.abandoned += 1);
        }
    }
}

impl Floor {
    async fn released(&self) -> Result<(), Error> {
        self.gate.acquire().await?.forget();
        Ok(())
    }

    fn gate(&self, name: Option<&str>) -> Arc<Semaphore> {
        let closed = || Arc::new(Semaphore::new(0));
        match name {
            Some(name) => self.named.lock().unwrap().entry(name.to_owned()).or_insert_with(closed).clone(),
            None => self.gate.clone(),
        }
    }
}

/// The `n` bytes that `download=n` sends.
pub fn pattern(n: usize) -> Bytes {
    (0..n).map(|at| (at % 251) as u8).collect()
}

async fn answer(floor: Arc<Floor>, request: Request<Incoming>) -> Result<Response<Body>, Error> {
    floor.counts.send_modify(|counts| counts.requests += 1);
    let mut unanswered = Unanswered(Some(floor.clone()));
    if is_websocket(&request) {
        unanswered.done();
        return websocket(request);
    }
    let is_grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
    if request.headers().get(CONTENT_TYPE).is_some_and(is_grpc) {
        let answer = grpc::serve(request).await;
        unanswered.done();
        return Ok(answer);
    }
    let query = request.uri().query().unwrap_or_default();
    let wanted: HashMap<String, String> =
        url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let number = |name: &str| wanted.get(name).map(|value| value.parse::<usize>()).transpose();
    if wanted.contains_key("hold") {
        floor.released().await?;
    }
    if wanted.contains_key("hangup") {
        return Err("hang up".into());
    }
    if wanted.contains_key("early") {
        unanswered.done();
        return Ok(Response::new(full("early")));
    }
    if wanted.contains_key("reset") {
        let start = stream::iter([Ok(Frame::data(pattern(FRAME_BYTES)))]);
        let error = stream::once(async {
            tokio::task::yield_now().await; // hyper sends what it has when a body has to be waited for
            Err("reset".into())
        });
        return Ok(Response::new(StreamBody::new(start.chain(error)).boxed_unsync()));
    }
    if let Some(bytes) = number("download")? {
        if request.method() == Method::HEAD {
            unanswered.done();
            return Ok(Response::builder().header("content-length", bytes).body(full(""))?);
        }
        return Ok(Response::builder().header("content-length", bytes).body(download(bytes, unanswered))?);
    }
    if let Some(count) = number("events")? {
        let media_type = if wanted.contains_key("plain") { "text/plain" } else { "text/event-stream" };
        let gate = floor.gate(wanted.get("gate").map(String::as_str));
        return Ok(Response::builder()
            .header(CONTENT_TYPE, media_type)
            .body(events(count, gate, unanswered))?);
    }
    if wanted.contains_key("trailers") {
        unanswered.done();
        let trailers = HeaderMap::from_iter([(HeaderName::from_static("x-checksum"), "abc".parse()?)]);
        let frames = [Ok(Frame::data(Bytes::from("body"))), Ok(Frame::trailers(trailers))];
        let body = StreamBody::new(stream::iter(frames)).boxed_unsync();
        return Ok(Response::builder().header("trailer", "x-checksum").body(body)?);
    }
    let status = StatusCode::from_u16(number("status")?.unwrap_or(200).try_into()?)?;
    let mut response = Response::builder().status(status).header(CONTENT_TYPE, "application/json");
    if let Some((name, value)) = wanted.get("header").and_then(|header| header.split_once(':')) {
        response = response.header(name, value);
    }
    // Over h2 hyper sends what it is given, also in answer to a HEAD.
    let is_head = request.method() == Method::HEAD;
    let seen = serde_json::to_vec(&Seen::read(request).await?)?;
    unanswered.done();
    let bodiless = is_head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    Ok(response.body(full(if bodiless { Vec::new() } else { seen }))?)
}

fn download(bytes: usize, unanswered: Unanswered) -> Body {
    // a multiple of the pattern's period, so that every frame can be cut from one
    let block = pattern(FRAME_BYTES / 251 * 251);
    let frames = stream::unfold((bytes, unanswered), move |(left, mut unanswered)| {
        let frame = block.slice(..left.min(block.len()));
        let left = left - frame.len();
        if left == 0 {
            unanswered.done();
        }
        std::future::ready((!frame.is_empty()).then_some((Ok(Frame::data(frame)), (left, unanswered))))
    });
    StreamBody::new(frames).boxed_unsync()
}

fn events(count: usize, gate: Arc<Semaphore>, unanswered: Unanswered) -> Body {
    let frames = stream::unfold((0, unanswered), move |(at, mut unanswered)| {
        let gate = gate.clone();
        async move {
            if at == count {
                return None;
            }
            if at > 0 {
                match gate.acquire().await {
                    Ok(permit) => permit.forget(),
                    Err(closed) => return Some((Err(closed.into()), (count, unanswered))),
                }
            }
            if at + 1 == count {
                unanswered.done();
            }
            Some((Ok(Frame::data(format!("data: {at}\n\n").into())), (at + 1, unanswered)))
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

fn is_websocket(request: &Request<Incoming>) -> bool {
    let upgrade = request.headers().get(UPGRADE).is_some_and(|value| value == "websocket");
    let protocol = request.extensions().get::<hyper::ext::Protocol>();
    upgrade
        || (request.method() == Method::CONNECT && protocol.is_some_and(|name| name.as_str() == "websocket"))
}

/// Says every message back until the client closes.
fn websocket(request: Request<Incoming>) -> Result<Response<Body>, Error> {
    let (head, body) = request.into_parts();
    let seen = (head.uri.query() == Some("seen")).then(|| Seen::head(&head));
    let mut request = Request::from_parts(head, body);
    let response = match request.headers().get(SEC_WEBSOCKET_KEY) {
        Some(key) => Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes())),
        None => Response::builder(), // RFC 8441 §5.1: no key over h2
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let stream = TokioIo::new(upgraded.await?);
        let (mut write, read) = WebSocketStream::from_raw_socket(stream, Role::Server, None).await.split();
        if let Some(seen) = seen {
            write.send(Message::text(serde_json::to_string(&seen)?)).await?;
        }
        let said =
            read.take_while(|message| std::future::ready(message.as_ref().is_ok_and(|m| !m.is_close())));
        said.forward(write).await?;
        Ok::<_, Error>(())
    });
    Ok(response.body(full(Bytes::new()))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::client::{Answer, Client, Protocol, Raw, get, next_data, post};
    use crate::world::sha256;

    async fn ask(upstream: &Upstream, protocol: Protocol, request: Request<Body>) -> Result<Answer, Error> {
        Client::plain(upstream.address(), protocol).await?.ask(request).await
    }

    #[tokio::test]
    async fn it_says_what_it_saw() {
        let upstream = Upstream::start().await;
        for (protocol, version) in [(Protocol::H1, "HTTP/1.1"), (Protocol::H2, "HTTP/2.0")] {
            let mut request = post("/a%2Fb?status=202&header=x-auth-subject:root", "hello");
            request.headers_mut().insert("x-one", "1".parse().unwrap());
            request.headers_mut().append("x-one", "2".parse().unwrap());
            let answer = ask(&upstream, protocol, request).await.unwrap();
            assert_eq!(answer.status, 202);
            assert_eq!(answer.headers["x-auth-subject"], "root");
            let seen: Seen = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!((seen.method.as_str(), seen.version.as_str()), ("POST", version));
            assert!(seen.uri.contains("/a%2Fb?status=202"), "{}", seen.uri);
            assert_eq!(seen.header("x-one"), ["1", "2"]);
            assert_eq!((seen.body.as_deref(), seen.body_bytes), (Some("hello"), 5));
            assert_eq!(seen.body_sha256, sha256(b"hello"));
        }
        assert_eq!(upstream.counts(), Counts { requests: 2, abandoned: 0 });
        assert_eq!(upstream.connections(), 2);
    }

    #[tokio::test]
    async fn bodies_stream_both_ways() {
        let upstream = Upstream::start().await;
        let size = 10 << 20;
        for protocol in Protocol::BOTH {
            let down = ask(&upstream, protocol, get(&format!("/?download={size}"))).await.unwrap();
            assert_eq!((down.body.len(), sha256(&down.body)), (size, sha256(&pattern(size))));
            let up = ask(&upstream, protocol, post("/", pattern(size))).await.unwrap();
            let seen: Seen = serde_json::from_slice(&up.body).unwrap();
            assert_eq!((seen.body_bytes, seen.body), (size as u64, None));
            assert_eq!(seen.body_sha256, sha256(&pattern(size)));
            let frames = [
                Ok(Frame::data(Bytes::from("x"))),
                Ok(Frame::trailers(HeaderMap::from_iter([(
                    HeaderName::from_static("x-sum"),
                    "1".parse().unwrap(),
                )]))),
            ];
            let body = StreamBody::new(stream::iter(frames)).boxed_unsync();
            let request = Request::post("/").header("trailer", "x-sum").body(body).unwrap();
            let seen: Seen =
                serde_json::from_slice(&ask(&upstream, protocol, request).await.unwrap().body).unwrap();
            assert_eq!(seen.trailers, [("x-sum".to_owned(), "1".to_owned())]);
            let mut request = get("/?trailers");
            request.headers_mut().insert("te", "trailers".parse().unwrap());
            let trailed = ask(&upstream, protocol, request).await.unwrap();
            assert_eq!(
                (&trailed.body[..], &trailed.trailers["x-checksum"]),
                (&b"body"[..], &"abc".parse().unwrap())
            );
        }
        assert_eq!(upstream.counts().abandoned, 0);
    }

    #[tokio::test]
    async fn it_fails_and_waits_as_told() {
        let upstream = Upstream::start().await;
        for protocol in Protocol::BOTH {
            assert!(ask(&upstream, protocol, get("/?hangup")).await.is_err());
            let client = Client::plain(upstream.address(), protocol).await.unwrap();
            let cut = client.send(get("/?reset")).await.unwrap();
            assert_eq!(cut.status(), 200);
            assert!(cut.into_body().collect().await.is_err());
            assert_eq!(ask(&upstream, protocol, post("/?early", "never read")).await.unwrap().body, "early");

            let before = upstream.counts();
            let (answer, ()) = tokio::join!(ask(&upstream, protocol, get("/?hold")), async {
                upstream.until(|counts| counts.requests == before.requests + 1).await;
                upstream.release();
            });
            assert_eq!(answer.unwrap().status, 200);
            let client = Client::plain(upstream.address(), protocol).await.unwrap();
            let gone = tokio::spawn(async move { client.send(get("/?hold")).await.map(drop) });
            upstream.until(|counts| counts.requests == before.requests + 2).await;
            gone.abort();
            upstream.until(|counts| counts.abandoned == before.abandoned + 1).await;
        }
    }

    #[tokio::test]
    async fn events_come_one_by_one() {
        let upstream = Upstream::start().await;
        for protocol in Protocol::BOTH {
            let client = Client::plain(upstream.address(), protocol).await.unwrap();
            let response = client.send(get("/?events=3")).await.unwrap();
            assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
            let mut body = response.into_body();
            for at in 0..3 {
                assert_eq!(next_data(&mut body).await.unwrap(), Some(format!("data: {at}\n\n").into()));
                upstream.release();
            }
            assert_eq!(next_data(&mut body).await.unwrap(), None);
            upstream.floor.gate.forget_permits(1);
        }
    }

    #[tokio::test]
    async fn websockets_echo_over_both_protocols() {
        let upstream = Upstream::start().await;
        for protocol in Protocol::BOTH {
            let client = Client::plain(upstream.address(), protocol).await.unwrap();
            let mut socket = client.websocket(get("/chat")).await.unwrap();
            socket.send(Message::text("hello")).await.unwrap();
            assert_eq!(soon("an echo", socket.next()).await.unwrap().unwrap(), Message::text("hello"));
            socket.close(None).await.unwrap();
        }
        assert_eq!(upstream.counts().requests, 2);
    }

    #[tokio::test]
    async fn raw_bytes_reach_it_and_their_answers_come_back() {
        let upstream = Upstream::start().await;
        let mut raw = Raw::plain(upstream.address()).await.unwrap();
        raw.send("GET /?early HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        assert!(raw.head().await.unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
        raw.send("GET / HTTP/1.1\r\nhost: a\r\nhost : b\r\n\r\n").await.unwrap();
        let rest = String::from_utf8(raw.rest().await).unwrap();
        assert!(rest.starts_with("earlyHTTP/1.1 400"), "{rest}");
        assert_eq!(upstream.counts().requests, 1);
    }
}
