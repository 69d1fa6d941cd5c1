//! The whole requests that are measured, and how they are asked for.

use std::cell::Cell;
use std::time::Duration;

use futures_util::future::join_all;
use http::{Method, StatusCode};
use rustls::ClientConfig;
use rustls::client::Resumption;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::proxy::Proxy;
use crate::world::World;
use crate::world::client::{Ask, Client, Protocol};
use crate::world::policy::{FORBIDDEN, LARGE, PATH};
use crate::world::signing::Algorithm;
use crate::world::upstream::LARGE_BYTES;

/// A sort of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The connection's last token again.
    Hot(Protocol),
    /// Each token for the first time.
    FirstSight(Algorithm),
    /// Each token was seen, though not last on its connection.
    SecondPass(Algorithm),
    /// No rule allows it.
    Forbidden,
    /// Each token is new, and its signature is another's.
    Forged,
    /// Each on a new connection.
    Handshake {
        resumed: bool,
    },
    Download,
    Upload,
}

/// Clients that are connected and warm, and what they are going to ask.
pub struct Load<'w> {
    proxy: &'w Proxy,
    kind: Kind,
    ask: Ask,
    expected: StatusCode,
    /// What each client takes its turn of.
    tokens: Vec<String>,
    next: Cell<usize>,
    clients: Vec<Client>,
    /// For new connections, one for each that is made at the same time.
    tls: Vec<ClientConfig>,
}

/// How many clients ask at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Clients {
    pub connections: usize,
    /// At the same time on one connection, if it can.
    pub streams: usize,
}

impl Clients {
    /// Few enough for valgrind, and enough for the proxy to be busy all the time.
    pub fn few(kind: Kind) -> Clients {
        match kind {
            Kind::Hot(Protocol::H2) => Clients { connections: 2, streams: 4 },
            _ => Clients { connections: 8, streams: 1 },
        }
    }

    /// As many requests at the same time over either protocol.
    pub fn many(kind: Kind) -> Clients {
        match kind {
            Kind::Hot(Protocol::H2) => Clients { connections: 8, streams: 8 },
            Kind::Download | Kind::Upload => Clients { connections: 4, streams: 1 },
            Kind::Handshake { .. } => Clients { connections: 8, streams: 1 },
            _ => Clients { connections: 64, streams: 1 },
        }
    }
}

const WARM_UP_REQUESTS: usize = 20;

impl<'w> Load<'w> {
    /// Ready for up to `requests` requests.
    pub async fn prepare(
        world: &World,
        proxy: &'w Proxy,
        kind: Kind,
        clients: Clients,
        requests: usize,
    ) -> Load<'w> {
        let mut load = Load::connect(world, proxy, kind, clients).await;
        match kind {
            Kind::FirstSight(algorithm) => load.turn_to(world.issuer.tokens(algorithm, 1..1 + requests)),
            Kind::SecondPass(algorithm) => {
                load.turn_to(world.issuer.tokens(algorithm, 1..1 + requests));
                load.go(requests).await;
            }
            Kind::Forged => {
                let forged = (0..requests).map(|at| world.issuer.forged(Algorithm::Rs256, 2 * at));
                load.turn_to(forged.collect());
            }
            _ => load.go(clients.connections * clients.streams).await,
        }
        load
    }

    /// Connects, and asks for what is allowed until nothing is new any more.
    pub async fn connect(world: &World, proxy: &'w Proxy, kind: Kind, clients: Clients) -> Load<'w> {
        let hot = world.issuer.token(Algorithm::Rs256, 0);
        let large = Ask { method: Method::POST, body: vec![0; LARGE_BYTES].into(), ..Ask::get(PATH) };
        let (ask, expected) = match kind {
            Kind::Forbidden => (Ask::get(FORBIDDEN), StatusCode::FORBIDDEN),
            Kind::Forged => (Ask::get(PATH), StatusCode::UNAUTHORIZED),
            Kind::Download => (Ask::get(LARGE), StatusCode::OK),
            Kind::Upload => (large, StatusCode::OK),
            _ => (Ask::get(PATH), StatusCode::OK),
        };
        let protocol = if let Kind::Hot(protocol) = kind { protocol } else { Protocol::H1 };
        let (mut connected, mut configurations) = (Vec::new(), Vec::new());
        for _ in 0..clients.connections {
            let mut tls = world.tls.clone();
            if kind == (Kind::Handshake { resumed: true }) {
                tls.resumption = Resumption::in_memory_sessions(64);
            }
            let mut client = Client::connect(proxy.address, &tls, protocol).await;
            for _ in 0..WARM_UP_REQUESTS {
                assert_eq!(client.ask(&Ask::get(PATH), &hot).await, StatusCode::OK);
            }
            connected.extend((1..clients.streams).map_while(|_| client.beside()));
            connected.push(client);
            configurations.push(tls);
        }
        let (tokens, next, clients, tls) = (vec![hot], Cell::new(0), connected, configurations);
        Load { proxy, kind, ask, expected, tokens, next, clients, tls }
    }

    /// Asks with these from now on, one after the other and then from the start.
    pub fn turn_to(&mut self, tokens: Vec<String>) {
        self.next.set(0);
        self.tokens = tokens;
    }

    /// Asks for so many, as fast as the answers come.
    pub async fn go(&mut self, requests: usize) {
        let mut clients = std::mem::take(&mut self.clients);
        let load = &*self;
        let left = Cell::new(requests);
        let takes_one = || left.get() > 0 && left.replace(left.get() - 1) > 0;
        if matches!(self.kind, Kind::Handshake { .. }) {
            join_all(load.tls.iter().map(async |tls| {
                while takes_one() {
                    load.handshake(tls).await
                }
            }))
            .await;
        } else {
            join_all(clients.iter_mut().map(async |client| {
                while takes_one() {
                    load.ask(client).await
                }
            }))
            .await;
        }
        self.clients = clients;
    }

    /// Asks for so many, evenly spread over `time`.
    pub async fn spread(&mut self, requests: usize, time: Duration) {
        let mut clients = std::mem::take(&mut self.clients);
        let load = &*self;
        let count = u32::try_from(clients.len()).unwrap();
        let each = requests / clients.len();
        let pause = time / u32::try_from(each).unwrap();
        let start = Instant::now();
        join_all(clients.iter_mut().zip(0..).map(async |(client, at)| {
            let mut ticks = interval_at(start + pause * at / count, pause);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            for _ in 0..each {
                ticks.tick().await;
                load.ask(client).await;
            }
        }))
        .await;
        self.clients = clients;
    }

    async fn ask(&self, client: &mut Client) {
        let at = self.next.replace(self.next.get() + 1);
        let status = client.ask(&self.ask, &self.tokens[at % self.tokens.len()]).await;
        assert_eq!(status, self.expected, "{:?}", self.kind);
    }

    async fn handshake(&self, tls: &ClientConfig) {
        let mut client = Client::connect(self.proxy.address, tls, Protocol::H1).await;
        assert_eq!(Kind::Handshake { resumed: client.resumed }, self.kind);
        self.ask(&mut client).await;
    }
}
