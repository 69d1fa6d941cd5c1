//! The soak: the program as a process under mixed traffic, sound and hostile, while its configuration,
//! certificates, keys, provider and audit file change.
//!
//! Every request carries a trace id of its own, and its record must come: exactly one, and it must say what
//! the client saw. What the process holds (memory, descriptors, threads, tasks) must stay flat. Without
//! `COUNTERSIGN_SOAK_MINUTES` this is one short round, bounded by counts; `tests/soak` runs it at length.

mod abandon;
mod kinds;
mod lane;
mod ledger;
mod report;
mod tail;
mod tokens;
mod weather;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::env;
use std::ops::Range;
use std::time::Duration;

use countersign::clock::Stopwatch;
use futures_util::future::join_all;
use http::header::AUTHORIZATION;
use rustix::process::Signal;
use rustls::ClientConfig;
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval, timeout};

use self::kinds::{KINDS, Leaves, named};
use self::lane::Lane;
use self::ledger::{Ledger, Seen};
use self::report::{Sample, growth_per_hour, markdown, quarter};
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

const LANES: u64 = 8;
/// Gauges that are taken with each sample.
const GAUGES: [&str; 5] = [
    "countersign_connections_open",
    "countersign_tasks",
    "countersign_cache_entries{cache=\"tokens\"}",
    "countersign_cache_entries{cache=\"refused_tokens\"}",
    "countersign_cache_entries{cache=\"decisions\"}",
];
/// Memory may grow by so much between the second quarter of a run and the last.
const RESIDENT_GROWTH_MAX: f64 = 1.15;
const RESIDENT_ROOM_KIB: f64 = 8.0 * 1024.0;
/// Samples below which a run says nothing about growth.
const SAMPLES_MIN: usize = 40;
/// What may stay open when all clients are gone: connections kept to upstreams and the issuer.
const DESCRIPTORS_ROOM: u64 = 8;

impl Plan {
    fn from_environment() -> Plan {
        let number = |name| env::var(name).ok().map(|text| text.parse().unwrap());
        let minutes = number("COUNTERSIGN_SOAK_MINUTES");
        let rate = number("COUNTERSIGN_SOAK_RATE").unwrap_or(160);
        let calm = if minutes.is_some() { 2 * rate } else { 60 };
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
        let pace = Duration::from_secs(LANES) / u32::try_from(plan.rate).unwrap();
        let lanes = (0..LANES).map(|seed| Lane::new(&soak, seed).run(pace));
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
    weather.check_log(&log.borrow(), &ledger);
    check(&ledger, &samples.borrow());
    let mut facts = vec![("minutes", format!("{:.1}", since.elapsed().as_secs_f64() / 60.0))];
    facts.extend(weather.facts());
    let books = ledger.end();
    let sent = books
        .tallies
        .iter()
        .filter(|(kind, _)| !matches!(KINDS[**kind].leaves, Leaves::Handshake(_) | Leaves::Nothing));
    let (sent, unrecorded) = sent.fold((0, 0), |(a, b), (_, it)| (a + it.sent, b + it.unrecorded));
    facts.push(("requests sent", sent.to_string()));
    facts.push(("of them reset before their head was read", unrecorded.to_string()));
    facts.push(("records of requests", books.requests.to_string()));
    facts.push(("complaints", books.complaints_count.to_string()));
    let samples = samples.borrow();
    if samples.len() >= SAMPLES_MIN {
        let kib = growth_per_hour(&samples, |sample| sample.resident_kib as f64);
        facts.push(("resident MiB an hour, second half", format!("{:.2}", kib / 1024.0)));
    }
    println!("{}", markdown(&books, &samples, &facts));
    assert_eq!(books.complaints, Vec::<String>::new());
    assert_eq!(books.requests, sent - unrecorded);
}

/// What must hold at the end and cannot be seen of one request alone.
fn check(ledger: &Ledger, samples: &[Sample]) {
    {
        let books = ledger.end();
        let (mut wanted, mut unread) = (BTreeMap::new(), 0);
        for (&kind, tally) in &books.tallies {
            if let Leaves::Handshake(reason) = KINDS[kind].leaves {
                *wanted.entry(reason.to_owned()).or_insert(0) += tally.sent;
            }
            if let Leaves::Unread = KINDS[kind].leaves {
                unread += tally.sent;
            }
        }
        let (seen, untraced) = (books.handshakes.clone(), books.untraced);
        let never: Vec<_> = KINDS.iter().map(|kind| kind.name).enumerate().collect();
        let never: Vec<_> = never.into_iter().filter(|(kind, _)| !books.tallies.contains_key(kind)).collect();
        drop(books);
        if wanted != seen {
            ledger.complain(format!("handshakes refused: {wanted:?}, recorded: {seen:?}"));
        }
        if untraced != unread {
            let complaint =
                format!("{unread} heads that could not be read, {untraced} records without a trace");
            ledger.complain(complaint);
        }
        if !never.is_empty() {
            ledger.complain(format!("never tried: {never:?}"));
        }
    }
    if ledger.events("stopped") != 1 {
        ledger.complain("its end is not recorded".to_owned());
    }
    if samples.len() >= SAMPLES_MIN {
        let resident = |at| quarter(samples, at, |sample| sample.resident_kib as f64);
        if resident(3) > resident(1) * RESIDENT_GROWTH_MAX + RESIDENT_ROOM_KIB {
            ledger.complain(format!("memory grew from {} to {} KiB", resident(1), resident(3)));
        }
        let descriptors = |at| quarter(samples, at, |sample| sample.descriptors as f64);
        if descriptors(3) > descriptors(1) * 1.5 + 20.0 {
            ledger.complain(format!("descriptors grew from {} to {}", descriptors(1), descriptors(3)));
        }
        let threads = |at: usize| samples[at].threads;
        if threads(samples.len() - 1) > threads(samples.len() / 4) {
            ledger.complain(format!("threads grew to {}", threads(samples.len() - 1)));
        }
    }
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

/// Lines of the log that are errors, and those that are no log at all, as of a panic.
fn errors(log: &[String], expected: &[Range<usize>]) -> Vec<String> {
    let is_expected = |at: &usize| expected.iter().any(|range| range.contains(at));
    let is_error = |line: &str| match serde_json::from_str::<Value>(line) {
        Ok(event) => event["level"] == "ERROR",
        Err(_) => true,
    };
    let lines = log.iter().enumerate().filter(|(at, line)| is_error(line) && !is_expected(at));
    lines.map(|(_, line)| line.clone()).collect()
}
