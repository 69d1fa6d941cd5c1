//! The soak: the program as a process under mixed traffic, sound and hostile, while its configuration,
//! certificates, keys, provider and audit file change.
//!
//! Every request carries a trace id of its own, and its record must come: exactly one, and it must say what
//! the client saw. What the process holds (memory, descriptors, threads, tasks) must stay flat. Without
//! `COUNTERSIGN_SOAK_MINUTES` this is one short round, bounded by counts; `tests/soak` runs it at length.

mod abandon;
mod check;
mod kinds;
mod lane;
mod ledger;
mod report;
mod tail;
mod tokens;
mod weather;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::env;
use std::time::Duration;

use countersign::clock::Stopwatch;
use futures_util::future::join_all;
use http::header::AUTHORIZATION;
use rustix::process::Signal;
use rustls::ClientConfig;
use tokio::time::{MissedTickBehavior, interval, timeout};

use self::kinds::named;
use self::lane::Lane;
use self::ledger::{Ledger, Seen};
use self::report::Sample;
use self::tail::Tail;
use self::tokens::Tokens;
use crate::world::certificates::Who;
use crate::world::client::{Protocol, get};
use crate::world::process::Process;
use crate::world::upstream::Upstream;
use crate::world::{PATIENCE, World, soon};

/// How long, how much at once, and how fast.
struct Plan {
    /// `None`: one round.
    minutes: Option<u64>,
    /// Things done a second, at most.
    rate: u64,
    /// Things done between two changes of the weather.
    calm: u64,
}

/// What all parts of a soak share; they run as one task.
struct Soak<'w> {
    world: &'w World,
    process: &'w Process<'w>,
    /// The upstream of requests whose clients go away.
    held: &'w Upstream,
    /// Of requests to `held` there is one at a time, so that its counts can be told.
    turn: tokio::sync::Mutex<()>,
    ledger: Ledger,
    tail: RefCell<Tail>,
    tokens: RefCell<Tokens>,
    /// With a session store each: connections of one sort resume.
    configs: HashMap<Who, ClientConfig>,
    weather: weather::Weather,
    samples: RefCell<Vec<Sample>>,
    since: Stopwatch,
    is_over: Cell<bool>,
}

const LANES: usize = 8;
/// Gauges that are taken with each sample.
const GAUGES: [&str; 5] = [
    "countersign_connections_open",
    "countersign_tasks",
    "countersign_cache_entries{cache=\"tokens\"}",
    "countersign_cache_entries{cache=\"refused_tokens\"}",
    "countersign_cache_entries{cache=\"decisions\"}",
];
/// What may stay open when all clients are gone: connections kept to upstreams and the issuer.
const DESCRIPTORS_ROOM: u64 = 8;

impl Plan {
    fn from_environment() -> Plan {
        let number = |name| env::var(name).ok().map(|text| text.parse().unwrap());
        let minutes = number("COUNTERSIGN_SOAK_MINUTES");
        let rate = number("COUNTERSIGN_SOAK_RATE").unwrap_or(160);
        let calm = if minutes.is_some() { 2 * rate } else { 40 };
        Plan { minutes, rate: if minutes.is_some() { rate } else { 2000 }, calm }
    }

    fn is_over(&self, since: Stopwatch) -> bool {
        self.minutes.is_none_or(|minutes| since.elapsed() >= Duration::from_secs(60 * minutes))
    }
}

#[tokio::test]
async fn every_request_has_its_record_and_nothing_grows() {
    let plan = Plan::from_environment();
    let world = World::new().await;
    let held = Upstream::start().await;
    let tokens = Tokens::new(&world.issuer);
    let process = world.serve(&weather::configuration(&world, &held, 0)).await;
    let descriptors = process.binary.descriptors();
    let soak = Soak::new(&world, &process, &held, tokens);
    let traffic = async {
        let pace = Duration::from_secs(LANES as u64) / u32::try_from(plan.rate).unwrap();
        let lanes = (0..LANES).map(|number| Lane::new(&soak, number).run(pace));
        tokio::join!(join_all(lanes), soak.changes(&plan));
        // which of them did not come, the ledger says
        let _ = timeout(PATIENCE, soak.settled()).await;
        soak.rests(descriptors, &plan).await;
    };
    tokio::select! {
        () = traffic => {}
        () = soak.reads() => {}
    }
    let log = process.binary.log();
    soak.drains().await;
    let Soak { weather, ledger, tail, samples, since, .. } = soak;
    let status = process.binary.ended().await;
    if !status.success() {
        ledger.complain(format!("it ended with {status}"));
    }
    tail.into_inner().read(&ledger);
    let mut books = ledger.end();
    check::log(&mut books, &log.borrow(), &weather);
    check::records(&mut books);
    check::growth(&mut books, &samples.borrow());
    let minutes = since.elapsed().as_secs_f64() / 60.0;
    println!("{}", report::markdown(&books, minutes, weather.facts(), &samples.borrow()));
    assert_eq!(books.complaints, Vec::<String>::new());
}

impl<'w> Soak<'w> {
    fn new(world: &'w World, process: &'w Process<'w>, held: &'w Upstream, tokens: Tokens) -> Soak<'w> {
        let configs = Who::ALL.map(|who| (who, world.certificates.client_config(who)));
        Soak {
            world,
            process,
            held,
            turn: tokio::sync::Mutex::new(()),
            ledger: Ledger::default(),
            tail: RefCell::new(Tail::of(world.folder.path().join("audit.jsonl"))),
            tokens: RefCell::new(tokens),
            configs: configs.into(),
            weather: weather::Weather::default(),
            samples: RefCell::default(),
            since: Stopwatch::start(),
            is_over: Cell::new(false),
        }
    }

    /// Brings the weather until the plan is done.
    async fn changes(&self, plan: &Plan) {
        loop {
            for change in weather::CHANGES {
                self.ledger.more(plan.calm).await;
                self.brings(*change).await;
                self.tokens.borrow_mut().renew(&self.world.issuer);
                self.sample().await;
            }
            if plan.is_over(self.since) {
                return self.is_over.set(true);
            }
        }
    }

    /// Reads the audit file until dropped.
    async fn reads(&self) {
        let mut tick = interval(Duration::from_millis(20));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.tail.borrow_mut().read(&self.ledger);
            tick.tick().await;
        }
    }

    /// Waits until every request has its record.
    async fn settled(&self) {
        let mut tick = interval(Duration::from_millis(20));
        while self.ledger.missing() > 0 {
            tick.tick().await;
        }
    }

    async fn sample(&self) {
        let binary = &self.process.binary;
        let descriptors = binary.descriptors();
        let metrics = self.process.metrics().await;
        let gauges = GAUGES.map(|name| (name.to_owned(), metrics.value(name).unwrap_or(f64::NAN)));
        self.samples.borrow_mut().push(Sample {
            at: self.since.elapsed(),
            resident_kib: binary.memory_kib("VmRSS"),
            descriptors,
            threads: binary.memory_kib("Threads"),
            gauges: gauges.into(),
        });
    }

    /// All clients are gone: so is what was held for them, and the proxy's own count is that of the lines.
    async fn rests(&self, descriptors: u64, plan: &Plan) {
        let mut tick = interval(Duration::from_millis(100));
        let idle = async {
            while self.process.metrics().await.value("countersign_connections_open") != Some(0.0) {
                tick.tick().await;
            }
        };
        soon("all connections to be closed", idle).await;
        let metrics = self.process.metrics().await;
        let lines = {
            self.tail.borrow_mut().read(&self.ledger);
            self.ledger.lines()
        };
        for (name, wanted) in [
            ("countersign_audit_records_written_total", lines),
            ("countersign_audit_records_dropped_total", 0),
            ("countersign_probes_total", self.ledger.sent(named("probe"))),
        ] {
            if metrics.value(name) != Some(wanted as f64) {
                self.ledger.complain(format!("{name} is {:?} and not {wanted}", metrics.value(name)));
            }
        }
        let (counted, requests) = (metrics.sum("countersign_requests_total"), self.ledger.requests());
        if counted != requests as f64 {
            self.ledger.complain(format!("{counted} requests are counted and {requests} recorded"));
        }
        if plan.minutes.is_some() {
            // unused connections to upstreams are closed after half a minute
            let mut tick = interval(Duration::from_secs(1));
            for _ in 0..60 {
                tick.tick().await;
            }
            let now = self.process.binary.descriptors();
            if now > descriptors + DESCRIPTORS_ROOM {
                self.ledger.complain(format!("{descriptors} descriptors at the start, {now} at the end"));
            }
            self.sample().await;
        }
    }

    /// Told to end with requests under way, which are answered.
    async fn drains(&self) {
        let kind = named("held over the end");
        let mut asking = Vec::new();
        for protocol in Protocol::BOTH {
            let before = self.held.counts().requests;
            let client = self.process.client(Who::Storefront, protocol).await;
            let asked = self.ledger.open(kind);
            let mut request = get("/held/7?hold");
            request.headers_mut().insert("traceparent", asked.traceparent().parse().unwrap());
            request.headers_mut().insert(AUTHORIZATION, self.tokens.borrow().bearer(kinds::Bearer::Good));
            asking.push((asked, tokio::spawn(async move { client.ask(request).await })));
            self.held.until(|counts| counts.requests > before).await;
        }
        self.process.binary.signal(Signal::TERM);
        self.process.log_says(0, "draining").await;
        for (asked, answer) in asking {
            self.held.release();
            let answer = answer.await.unwrap().map(|answer| answer.status.as_u16());
            let seen = Seen { status: answer.ok(), whole: true, decision: None };
            self.ledger.close(&asked, seen);
        }
    }
}
