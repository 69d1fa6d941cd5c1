//! One client after the other: picks what to do, does it, and says what it saw.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt};
use http::header::AUTHORIZATION;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval};
use tokio_tungstenite::tungstenite::Message;
use tonic::Code;

use super::kinds::{Asked, Bearer, Ending, KINDS, Leaves, Over, Way};
use super::ledger::{Asking, Seen};
use super::{LANES, Soak};
use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, Raw, alert_after};
use crate::world::proxy::HOST;
use crate::world::upstream::pattern;
use crate::world::{Body, full, grpc, soon};

pub struct Lane<'s, 'w> {
    soak: &'s Soak<'w>,
    random: fastrand::Rng,
    /// What it does first: together the lanes try each kind once, however short the soak is.
    first: Vec<usize>,
    kept: [Option<Arc<Client>>; 2],
}

impl<'s, 'w> Lane<'s, 'w> {
    pub fn new(soak: &'s Soak<'w>, number: usize) -> Lane<'s, 'w> {
        let random = fastrand::Rng::with_seed(number as u64);
        let first = (number..KINDS.len()).step_by(LANES).collect();
        Lane { soak, random, first, kept: [None, None] }
    }

    /// Goes on until the soak is over, with one thing at a time and no faster than `pace`.
    pub async fn run(mut self, pace: Duration) {
        let mut tick = interval(pace);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.soak.is_over.get() {
            tick.tick().await;
            let kind = self.first.pop().unwrap_or_else(|| self.pick());
            self.does(kind).await;
        }
    }

    fn pick(&mut self) -> usize {
        let all: u32 = KINDS.iter().map(|kind| kind.share).sum();
        let mut left = self.random.u32(..all);
        let picked = KINDS.iter().position(|kind| {
            let is_it = left < kind.share;
            left = left.saturating_sub(kind.share);
            is_it
        });
        picked.unwrap()
    }

    async fn does(&mut self, kind: usize) {
        let soak = self.soak;
        match KINDS[kind].way {
            Way::Ask(Over::Kept(protocol), asked) => self.asks(kind, protocol, asked).await,
            Way::Ask(Over::Fresh(protocol), asked) => {
                let who = if asked.bearer == Bearer::Agent { Who::Assistant } else { Who::Storefront };
                let Some(client) = soak.client(who, protocol).await else { return };
                soak.asks(kind, &client, &asked).await;
            }
            Way::Burst(count, asked) => {
                let Some(client) = soak.client(Who::Storefront, Protocol::H2).await else { return };
                join_all((0..count).map(|_| soak.asks(kind, &client, &asked))).await;
            }
            Way::Call(text) => soak.calls(kind, text).await,
            Way::Socket(protocol, ending) => soak.talks(kind, protocol, ending).await,
            Way::Abandon(protocol, when) => soak.abandons(kind, protocol, when).await,
            Way::Bytes(bytes, ending) => soak.says(kind, bytes, ending).await,
            Way::Knock(who) => {
                let config = soak.configs[&who].clone();
                alert_after(soak.process.address, HOST, config, Protocol::H1).await;
                soak.ledger.happened(kind);
            }
            Way::Probe => {
                drop(TcpStream::connect(soak.process.address).await);
                soak.ledger.happened(kind);
            }
            Way::Silence => {
                let mut stream = TcpStream::connect(soak.process.address).await.unwrap();
                let _ = soon("to be shown out", stream.read_u8()).await;
                soak.ledger.happened(kind);
            }
            Way::Nobody => {}
        }
    }

    /// One request on the connection that is kept, or on the next one if that was asked to close.
    async fn asks(&mut self, kind: usize, protocol: Protocol, asked: Asked) {
        let at = protocol as usize;
        for _ in 0..3 {
            if self.kept[at].is_none() {
                self.kept[at] = self.soak.client(Who::Storefront, protocol).await;
            }
            let Some(client) = &self.kept[at] else { return };
            if self.soak.asks(kind, client, &asked).await {
                return;
            }
            self.kept[at] = None;
        }
        self.soak.ledger.complain(format!("{}: closed three times", KINDS[kind].name));
    }
}

impl Soak<'_> {
    pub async fn client(&self, who: Who, protocol: Protocol) -> Option<Arc<Client>> {
        let client = Client::tls(self.process.address, HOST, self.configs[&who].clone(), protocol).await;
        if let Err(error) = &client {
            self.ledger.complain(format!("{who:?} cannot connect: {error}"));
        }
        client.ok().map(Arc::new)
    }

    pub fn request(&self, asking: &Asking, asked: &Asked) -> Request<Body> {
        let mut request = Request::builder().method(asked.method).uri(asked.target);
        request = request.header("traceparent", asking.traceparent());
        if asked.bearer != Bearer::Absent {
            request = request.header(AUTHORIZATION, self.tokens.borrow().bearer(asked.bearer));
        }
        request.body(full(pattern(asked.body_bytes))).unwrap()
    }

    /// False if the connection was closed before the request was sent.
    pub async fn asks(&self, kind: usize, client: &Client, asked: &Asked) -> bool {
        let asking = self.ledger.open(kind);
        let request = self.request(&asking, asked);
        match client.send(request).await {
            Ok(response) => self.ledger.close(&asking, read(response).await),
            Err(error) if error.is_canceled() => {
                self.ledger.unsent(&asking);
                return false;
            }
            Err(_) if KINDS[kind].is_http1() => self.ledger.crossed(&asking),
            Err(error) => {
                if !KINDS[kind].may_break_off() {
                    self.ledger.complain(format!("{}: {error:?}", KINDS[kind].name));
                }
                self.ledger.close(&asking, Seen::default());
            }
        }
        true
    }

    async fn calls(&self, kind: usize, text: &str) {
        let Some(client) = self.client(Who::Storefront, Protocol::H2).await else { return };
        let asking = self.ledger.open(kind);
        let mut request = tonic::Request::new(grpc::words(text));
        let bearer = self.tokens.borrow().bearer(Bearer::Good);
        for (name, value) in
            [("traceparent", asking.traceparent()), ("authorization", bearer.to_str().unwrap().to_owned())]
        {
            request.metadata_mut().insert(name, value.parse().unwrap());
        }
        let answer = grpc::say(&client, request).await.map(tonic::Response::into_inner);
        if answer.as_ref().is_err_and(|status| was_unsent(status)) {
            return self.ledger.unsent(&asking);
        }
        let is_as_said = match &answer {
            Ok(words) => words.text == text,
            Err(status) => text == "fail" && status.code() == Code::InvalidArgument,
        };
        if !is_as_said {
            self.ledger.complain(format!("{}: {answer:?}", KINDS[kind].name));
        }
        self.ledger.close(&asking, Seen { status: Some(200), whole: true, decision: None });
    }

    async fn talks(&self, kind: usize, protocol: Protocol, ending: Ending) {
        let Some(client) = self.client(Who::Storefront, protocol).await else { return };
        let asking = self.ledger.open(kind);
        let asked = Asked { method: "GET", target: "/socket/7", bearer: Bearer::Good, body_bytes: 0 };
        let mut socket = match client.websocket(self.request(&asking, &asked)).await {
            Ok(socket) => socket,
            Err(Err(error)) if was_unsent(&*error) => return self.ledger.unsent(&asking),
            Err(refused) => {
                self.ledger.complain(format!("{}: {refused:?}", KINDS[kind].name));
                return self.ledger.close(&asking, Seen::default());
            }
        };
        for said in ["hello", "goodbye"] {
            let _ = socket.send(Message::text(said)).await;
            let heard = soon("an echo", socket.next()).await;
            if !matches!(&heard, Some(Ok(message)) if *message == Message::text(said)) {
                self.ledger.complain(format!("{}: heard {heard:?}", KINDS[kind].name));
            }
        }
        if ending == Ending::Closed {
            let _ = socket.close(None).await;
            while let Some(Ok(_)) = soon("the end", socket.next()).await {}
        }
        let status = if protocol == Protocol::H1 { 101 } else { 200 };
        self.ledger.close(&asking, Seen { status: Some(status), ..Seen::default() });
    }

    /// These bytes on a connection of their own.
    async fn says(&self, kind: usize, bytes: &str, ending: Ending) {
        let config = self.configs[&Who::Storefront].clone();
        let mut raw = Raw::tls(self.process.address, HOST, config).await.unwrap();
        let asking = self.ledger.open(kind);
        let bearer = self.tokens.borrow().bearer(Bearer::Good);
        let (bearer, traceparent) = (bearer.to_str().unwrap(), asking.traceparent());
        let head = format!(
            "host: {HOST}\r\nauthorization: {bearer}\r\ntraceparent: {traceparent}\r\nconnection: close\r\n"
        );
        let _ = raw.send(bytes.replace('@', &head)).await;
        if ending == Ending::Dropped {
            return self.ledger.close(&asking, Seen::default());
        }
        let head = raw.head().await.unwrap_or_default();
        let body = raw.rest().await;
        if let Leaves::Untraced(_) = KINDS[kind].leaves {
            self.ledger.unsent(&asking);
            return self.ledger.happened(kind);
        }
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        self.ledger.close(&asking, Seen { status, whole: status.is_some(), decision: decision(&body) });
    }
}

/// Whether the connection was closed before it took the request.
fn was_unsent(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| cause.downcast_ref().is_some_and(hyper::Error::is_canceled))
}

/// An answer to its end.
async fn read(response: Response<Incoming>) -> Seen {
    let status = Some(response.status().as_u16());
    match soon("an answer's body", response.into_body().collect()).await {
        Ok(body) => Seen { status, whole: true, decision: decision(&body.to_bytes()) },
        Err(_) => Seen { status, ..Seen::default() },
    }
}

/// The decision's id, as a refusal names it or as the upstream was told.
fn decision(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let told = || {
        let headers = body["headers"].as_array()?;
        headers.iter().find(|header| header[0] == "x-auth-decision")?[1].as_str()
    };
    body["decision"].as_str().or_else(told).map(str::to_owned)
}
