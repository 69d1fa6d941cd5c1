//! What breaks around the proxy, each time with a healthy client beside it, all of whose requests must
//! succeed.
//!
//! `tests/faults` runs the same with more requests, and prints what the healthy client saw of it.

mod clocks;
mod descriptors;
mod ends;
mod names;
mod panics;
mod providers;
mod records;
mod upstreams;

use std::cell::Cell;
use std::time::Duration;

use countersign::clock::Stopwatch;
use http::HeaderValue;
use http::header::AUTHORIZATION;
use serde_json::{Value, json};

use crate::world::World;
use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, bearer, get};
use crate::world::process::Process;
use crate::world::proxy::Proxy;

/// Whoever has both signatures may do anything, on every route.
pub const ANYTHING: &str =
    "[[allow]]\nname = \"anything\"\nservice = \"storefront\"\nrole = \"order-reader\"\nroute = \"any\"\n";
/// How many requests the healthy client makes before a fault, and at least during it.
const REQUESTS: &str = "FAULTS_REQUESTS";
const REQUESTS_DEFAULT: usize = 20;

/// A client that does everything right, over one connection of each protocol.
pub struct Healthy {
    clients: [Client; 2],
    answered: Cell<usize>,
    token: HeaderValue,
}

impl Healthy {
    pub async fn of(proxy: &Proxy<'_>) -> Healthy {
        let [h1, h2] = Protocol::BOTH.map(|protocol| proxy.client(Who::Storefront, protocol));
        Healthy { clients: [h1.await, h2.await], answered: Cell::new(0), token: lasting(proxy.world) }
    }

    pub async fn of_process(process: &Process<'_>) -> Healthy {
        let [h1, h2] = Protocol::BOTH.map(|protocol| process.client(Who::Storefront, protocol));
        Healthy { clients: [h1.await, h2.await], answered: Cell::new(0), token: lasting(process.world) }
    }

    /// Breaks something again and again while the healthy client asks; `broken` is told the round.
    pub async fn beside(&self, fault: &str, broken: impl AsyncFn(usize)) {
        let wanted = std::env::var(REQUESTS).map(|requests| requests.parse().unwrap());
        let requests = wanted.as_ref().copied().unwrap_or(REQUESTS_DEFAULT);
        let mut before = Vec::new();
        for at in 0..requests {
            before.push(self.ask(at).await);
        }
        let (asked, ended) = (self.answered.get(), Cell::new(None));
        let breaking = async {
            let mut rounds = 0;
            while rounds == 0 || self.answered.get() - asked < requests {
                broken(rounds).await;
                rounds += 1;
            }
            ended.set(Some(rounds));
        };
        let asking = async {
            let mut during = Vec::new();
            while ended.get().is_none() || during.len() < requests {
                during.push(self.ask(during.len()).await);
            }
            during
        };
        let ((), during) = tokio::join!(breaking, asking);
        if wanted.is_ok() {
            let [b50, b99, d50, d99] = [(&before, 50), (&before, 99), (&during, 50), (&during, 99)]
                .map(|(took, percent)| percentile(took, percent).as_secs_f64() * 1e3);
            let (rounds, during) = (ended.get().unwrap_or_default(), during.len());
            println!("| {fault} | {rounds} | {during} | 0 | {b50:.2} | {b99:.2} | {d50:.2} | {d99:.2} |");
        }
    }

    /// One request, which must succeed, and how long it took.
    pub async fn ask(&self, at: usize) -> Duration {
        let mut request = get("/orders/healthy");
        request.headers_mut().insert(AUTHORIZATION, self.token.clone());
        let watch = Stopwatch::start();
        let answer = self.clients[at % 2].ask(request).await;
        let took = watch.elapsed();
        let answer = answer.unwrap_or_else(|error| panic!("the healthy client: {error}"));
        assert_eq!(answer.status, 200, "the healthy client: {answer:?}");
        self.answered.set(self.answered.get() + 1);
        took
    }

    /// Waits until it was answered so many times more, by what it asks beside.
    pub async fn goes_on(&self, times: usize) {
        let until = self.answered.get() + times;
        while self.answered.get() < until {
            tokio::task::yield_now().await;
        }
    }
}

fn percentile(took: &[Duration], percent: usize) -> Duration {
    let mut sorted = took.to_vec();
    sorted.sort_unstable();
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// A token for half a day, as bearer.
fn lasting(world: &World) -> HeaderValue {
    let until = world.clock.now().plus(Duration::from_secs(12 * 3600));
    bearer(&world.issuer.token(json!({"exp": until.unix_seconds()})))
}

/// The status and the reason of an answer.
pub fn outcome(answer: &crate::world::client::Answer) -> (u16, String) {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    (answer.status.as_u16(), body["reason"].as_str().unwrap_or_default().to_owned())
}
