//! What is permitted and goes on ends with what it was permitted upon: each kind of stream, for each reason.

pub mod asserted;
mod beside;
mod ends;
mod kinds;
mod many;
mod moved;
mod servers;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use countersign::clock::{Clock, Stopwatch};
use futures_util::stream::{self, BoxStream, StreamExt};
use http::header::{AUTHORIZATION, HeaderMap, HeaderName};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tonic::metadata::MetadataMap;
use tonic::{Code, Streaming};

use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, WebSocket, get, next_data};
use crate::world::grpc::{Words, chat, words};
use crate::world::proxy::Proxy;
use crate::world::{World, soon};

/// The end of credentials comes after so long, and the leeway that the issuer's clock is given.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(360);

pub const CONFIGURATION: &str = r#"
[upstream.h2c]
server = "h2c://@address@"

[route.calls]
host = "orders.shop.example"
path = "/echo.Echo/*"
upstream = "h2c"

[route.socket]
host = "orders.shop.example"
path = "/socket/**"
upstream = "orders"
upgrade = "websocket"

[[allow]]
name = "readers"
service = "storefront"
role = "order-reader"
route = "any"
"#;

/// Under it nobody reads any more.
pub const FORBIDDEN: &str = r#"
[[deny]]
name = "closed today"
route = "any"
service = "storefront"
"#;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    WebSocket,
    Events,
    Grpc,
}

pub const KINDS: [Kind; 3] = [Kind::WebSocket, Kind::Events, Kind::Grpc];

/// One open stream, through which something has gone already.
pub enum Stream {
    WebSocket(Box<WebSocket>),
    Events { body: Incoming, gate: String },
    Grpc(Streaming<Words>, mpsc::Sender<Words>),
}

pub struct Streams {
    pub world: World,
    pub clock: Clock,
}

impl Streams {
    pub async fn new() -> Streams {
        let clock = Clock::manual(Clock::system().now());
        Streams { world: World::at(clock.clone()).await, clock }
    }

    pub fn configuration(&self, more: &str) -> String {
        let address = self.world.upstream.address().to_string();
        format!("{CONFIGURATION}{more}").replace("@address@", &address)
    }

    pub fn start(&self, more: &str) -> Proxy<'_> {
        self.world.start(&self.configuration(more))
    }

    pub fn token(&self, claims: Value) -> String {
        format!("Bearer {}", self.world.issuer.token(claims))
    }
}

impl Kind {
    pub fn path(self) -> &'static str {
        match self {
            Kind::WebSocket => "/socket/1",
            Kind::Events => "/events?events=1000",
            Kind::Grpc => "/echo.Echo/Chat",
        }
    }

    pub fn protocols(self) -> &'static [Protocol] {
        match self {
            Kind::Grpc => &[Protocol::H2],
            Kind::WebSocket | Kind::Events => &Protocol::BOTH,
        }
    }

    pub async fn open(self, client: &Arc<Client>, bearer: &str) -> Stream {
        self.open_with(client, AUTHORIZATION.as_str(), bearer).await
    }

    /// With what is presented in this header.
    pub async fn open_with(self, client: &Arc<Client>, name: &'static str, value: &str) -> Stream {
        self.open_presenting(client, &[(name, value)]).await
    }

    pub async fn open_presenting(self, client: &Arc<Client>, fields: &[(&'static str, &str)]) -> Stream {
        let fields: HeaderMap = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        match self {
            Kind::WebSocket => {
                let mut request = get(self.path());
                request.headers_mut().extend(fields);
                let mut socket = Box::new(client.websocket(request).await.unwrap());
                futures_util::SinkExt::send(&mut socket, Message::text("hello")).await.unwrap();
                let heard = soon("an echo", socket.next()).await.unwrap().unwrap();
                assert_eq!(heard, Message::text("hello"));
                Stream::WebSocket(socket)
            }
            Kind::Events => {
                // a gate of its own, or what another stream left behind takes the events that are let go for it
                static GATES: AtomicUsize = AtomicUsize::new(0);
                let gate = format!("events-{}", GATES.fetch_add(1, Ordering::Relaxed));
                let mut request = get(&format!("{}&gate={gate}", self.path()));
                request.headers_mut().extend(fields);
                let mut body = client.send(request).await.unwrap().into_body();
                assert_eq!(next_data(&mut body).await.unwrap().unwrap(), "data: 0\n\n");
                Stream::Events { body, gate }
            }
            Kind::Grpc => {
                let (to, messages) = mpsc::channel::<Words>(1);
                let messages: BoxStream<Words> = stream::unfold(messages, |mut messages| async {
                    Some((messages.recv().await?, messages))
                })
                .boxed();
                to.send(words("hello")).await.unwrap();
                let mut request = tonic::Request::new(messages);
                *request.metadata_mut() = MetadataMap::from_headers(fields);
                let mut answers = soon("a stream", chat(client, request)).await.unwrap();
                let heard = soon("an answer", answers.message()).await.unwrap();
                assert_eq!(heard, Some(words("hello")));
                Stream::Grpc(answers, to)
            }
        }
    }
}

impl Stream {
    /// How the client is told that it ends for `reason`.
    pub async fn ends(&mut self, reason: &str, code: Code) {
        match self {
            Stream::WebSocket(socket) => {
                let heard = soon("a close", socket.next()).await.unwrap().unwrap();
                let Message::Close(Some(close)) = heard else { panic!("{heard:?}") };
                assert_eq!((u16::from(close.code), close.reason.as_str()), (1008, reason));
                assert!(!matches!(soon("the end", socket.next()).await, Some(Ok(_))));
            }
            Stream::Events { body, .. } => {
                let ended = soon("the end", next_data(body)).await;
                assert!(ended.is_err(), "no clean end: {ended:?}");
            }
            Stream::Grpc(answers, _) => {
                let ended = soon("the end", answers.message()).await.unwrap_err();
                assert_eq!(ended.code(), code, "{ended:?}");
                assert!(ended.message().starts_with(reason), "{ended:?}");
            }
        }
    }

    /// That it still goes on.
    pub async fn goes_on(&mut self, world: &World) {
        match self {
            Stream::WebSocket(socket) => {
                futures_util::SinkExt::send(socket, Message::text("still")).await.unwrap();
                let heard = soon("an echo", socket.next()).await.unwrap().unwrap();
                assert_eq!(heard, Message::text("still"));
            }
            Stream::Events { body, gate } => {
                world.upstream.release_at(gate);
                assert!(soon("an event", next_data(body)).await.unwrap().is_some());
            }
            Stream::Grpc(answers, to) => {
                to.send(words("still")).await.unwrap();
                let heard = soon("an answer", answers.message()).await.unwrap();
                assert_eq!(heard, Some(words("still")));
            }
        }
    }
}

/// The record of what ended on this path.
pub async fn record(proxy: &Proxy<'_>, path: &str, nth: usize) -> Value {
    let path = path.split('?').next().unwrap();
    let ours = |all: &[Value]| {
        let mut of_path = all.iter().filter(|record| record["action"]["path"] == json!(path));
        of_path.nth(nth).cloned()
    };
    proxy.records.until(ours).await
}

/// Waits until every stream of `kind` has ended as told for `reason`, and checks its record.
pub async fn all_end(
    (kind, proxy): (Kind, &Proxy<'_>),
    streams: Vec<Stream>,
    (reason, code): (&str, Code),
    happened: Stopwatch,
) {
    for (at, mut stream) in streams.into_iter().enumerate() {
        stream.ends(reason, code).await;
        println!("{kind:?} {at}: ended for {reason} after {:?}", happened.elapsed());
        let record = record(proxy, kind.path(), at).await;
        assert_eq!((&record["verdict"], &record["reason"]), (&json!("allow"), &json!(reason)), "{record}");
        assert_eq!(record["rule"], "readers", "{record}");
        let detail = record["detail"].as_str().unwrap();
        assert!(detail.starts_with("ended while it streamed: "), "{record}");
        assert!(record["ended_by"].as_str().unwrap().starts_with("sha256:"), "{record}");
        let story = record["story"].as_str().unwrap();
        assert!(story.contains(&format!("allowed by \"readers\", but {detail}")), "{record}");
        assert!(record["response_bytes"].as_u64().unwrap() > 0, "{record}");
    }
}

/// A stream of the kind over each protocol that it has, opened with `bearer`.
pub async fn open_all(proxy: &Proxy<'_>, kind: Kind, bearer: &str) -> Vec<Stream> {
    let mut streams = Vec::new();
    for protocol in kind.protocols() {
        let client = Arc::new(proxy.client(Who::Storefront, *protocol).await);
        streams.push(kind.open(&client, bearer).await);
    }
    streams
}
