//! Floods, each with a healthy client beside it and the proxy in a process of its own, whose memory is seen.
//!
//! As a part of the tests they are small. `tests/floods` runs the same code against a release build, each
//! flood for as long as `COUNTERSIGN_FLOOD_SECONDS` says, and prints a table.

mod frames;
mod standstill;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use http::HeaderValue;
use http::header::AUTHORIZATION;
use rustls::ClientConfig;
use serde_json::json;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::world::World;
use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, bearer, get};
use crate::world::frames::h2_config;
use crate::world::process::Process;
use crate::world::proxy::HOST;

const POLICY: &str =
    "[[allow]]\nname = \"anything\"\nservice = \"storefront\"\nrole = \"none\"\nroute = \"any\"\n[limit]";
/// At least so much is asked beside a flood.
const HEALTHY_REQUESTS_MIN: usize = 30;
const HEALTHY_PAUSE: Duration = Duration::from_millis(2);
/// What a flood may cost in memory at its worst, where it is small; a release is looked at.
const GROWTH_KIB_MAX: u64 = 32 << 10;

/// For how long each flood goes on, where it is not counted.
fn duration() -> Option<Duration> {
    let seconds = std::env::var("COUNTERSIGN_FLOOD_SECONDS").ok()?;
    Some(Duration::from_secs(seconds.parse().unwrap()))
}

/// One or the other, by whether this is the small form.
fn small_or_full<T>(small: T, full: T) -> T {
    if duration().is_some() { full } else { small }
}

/// A proxy to be flooded.
struct Arena<'w> {
    process: Process<'w>,
    bearer: HeaderValue,
}

/// What one flood did, in the words of a table.
struct Flooded {
    sent: String,
    outcome: String,
}

impl<'w> Arena<'w> {
    async fn new(world: &'w World, limits: &str) -> Arena<'w> {
        let process = world.serve(&format!("{POLICY}\n{limits}")).await;
        let bearer = bearer(&world.issuer.token(json!({})));
        let arena = Arena { process, bearer };
        arena.healthy().ended().await; // keys, caches and allocators are warm
        arena
    }

    async fn hits(&self, limit: &str) -> u64 {
        self.process.metric(&format!("countersign_limits_hit_total{{limit=\"{limit}\"}}")).await as u64
    }

    /// Lets a flood come while a healthy client asks, and says what became of both.
    async fn flooded(&self, name: &str, limit: &str, flood: impl Future<Output = Flooded> + Send + 'static) {
        let alone = self.healthy();
        if let Some(duration) = duration() {
            let mut time = interval(duration / 2);
            time.tick().await;
            time.tick().await;
        }
        let alone = alone.ended().await;
        let binary = &self.process.binary;
        let (before, hits) = (binary.memory_kib("VmRSS"), self.hits(limit).await);
        binary.forget_peak();
        let beside = self.healthy();
        let Flooded { sent, outcome } = joined(elsewhere(flood)).await;
        let beside = beside.ended().await;
        let (peak, after) = (binary.memory_kib("VmHWM"), binary.memory_kib("VmRSS"));
        let hits = self.hits(limit).await - hits;
        println!(
            "| {name} | {sent} | {outcome}; `{limit}` {hits} times | {} | {} | {} | {} | {} |",
            mib(before),
            mib(peak),
            mib(after),
            alone.text(),
            beside.text()
        );
        assert!(hits > 0, "{name}: `{limit}` is counted");
        let growth = peak.saturating_sub(before);
        assert!(duration().is_some() || growth < GROWTH_KIB_MAX, "{name}: {growth} KiB more");
    }

    fn healthy(&self) -> Healthy {
        let config = self.process.world.certificates.client_config(Who::Storefront);
        let (address, bearer) = (self.process.address, self.bearer.clone());
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let ask = async move {
            let client = Client::tls(address, HOST, config, Protocol::H2).await.unwrap();
            let mut times = Vec::new();
            let mut pause = interval(HEALTHY_PAUSE);
            pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !stopped.is_cancelled() || times.len() < HEALTHY_REQUESTS_MIN {
                pause.tick().await;
                let mut request = get("/orders/1");
                request.headers_mut().insert(AUTHORIZATION, bearer.clone());
                let began = Instant::now();
                let answer = client.ask(request).await.unwrap();
                assert_eq!(answer.status, 200, "{answer:?}");
                times.push(began.elapsed());
            }
            times
        };
        Healthy { stop, thread: elsewhere(ask) }
    }

    fn target(&self, who: Who) -> Target {
        let config = h2_config(&self.process.world.certificates, who);
        Target { address: self.process.address, config, bearer: self.bearer.clone() }
    }
}

/// What a flood needs to know.
struct Target {
    address: SocketAddr,
    config: Arc<ClientConfig>,
    bearer: HeaderValue,
}

/// On a thread of its own: it is the proxy that may be slow, not who floods, who asks or who answers.
fn elsewhere<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    std::thread::spawn(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    })
}

async fn joined<T: Send + 'static>(thread: JoinHandle<T>) -> T {
    tokio::task::spawn_blocking(|| thread.join()).await.unwrap().unwrap()
}

/// A client whose every request must be answered.
struct Healthy {
    stop: CancellationToken,
    thread: JoinHandle<Vec<Duration>>,
}

struct Times(Vec<Duration>);

impl Healthy {
    async fn ended(self) -> Times {
        self.stop.cancel();
        let mut times = joined(self.thread).await;
        times.sort_unstable();
        Times(times)
    }
}

impl Times {
    /// p50 / p99 in milliseconds.
    fn text(&self) -> String {
        let ms = |share: usize| self.0[(self.0.len() - 1) * share / 100].as_secs_f64() * 1000.0;
        format!("{:.1} / {:.1}", ms(50), ms(99))
    }
}

fn mib(kib: u64) -> String {
    format!("{:.1}", kib as f64 / 1024.0)
}

/// A connection from the `number`-th of many clients, no more than 250 from each address.
async fn from_many(number: usize, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let from = format!("127.0.1.{}:0", 1 + number / 250);
    socket.bind(from.parse().unwrap()).unwrap();
    socket.connect(to).await.unwrap()
}
