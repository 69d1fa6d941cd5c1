//! Who asked what and what was recorded of it, put side by side as both come in. What agrees is forgotten
//! but for its counts, so this grows with what is under way and not with the length of a run.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};

use countersign::clock::Stopwatch;
use serde::Deserialize;
use tokio::sync::watch;

use super::kinds::{KINDS, Leaves};
use super::report::Latencies;

/// First half of every trace id of ours.
const MARK: u64 = 0x50a4_50a4_50a4_50a4;
/// Requests that perhaps left a record, of which one may still come.
const PERHAPS_MAX: usize = 10_000;
/// All are counted; so many are kept.
const COMPLAINTS_KEPT: usize = 40;

#[derive(Default)]
pub struct Ledger {
    books: RefCell<Books>,
    finished: watch::Sender<u64>,
}

#[derive(Default)]
pub struct Books {
    /// By kind.
    pub tallies: BTreeMap<usize, Tally>,
    /// Records that are no requests', by event.
    pub events: BTreeMap<String, u64>,
    /// Records of handshakes, by reason.
    pub handshakes: BTreeMap<String, u64>,
    /// Records of requests.
    pub requests: u64,
    /// Those of them without a trace, by `verdict reason status`: their heads could not be read.
    pub untraced: BTreeMap<String, u64>,
    /// Requests that crossed the end of their connection.
    pub crossed: u64,
    pub complaints: Vec<String>,
    pub complaints_count: u64,
    next: u64,
    open: HashMap<u64, Entry>,
    perhaps: VecDeque<u64>,
}

/// Of one kind.
#[derive(Default)]
pub struct Tally {
    pub sent: u64,
    pub records: u64,
    /// Without a record, where none needs to be.
    pub unrecorded: u64,
    /// By `verdict reason status`.
    pub outcomes: BTreeMap<String, u64>,
    pub latencies: Latencies,
}

struct Entry {
    kind: usize,
    seen: Option<Seen>,
    recorded: Option<Line>,
}

/// A request under way.
pub struct Asking {
    pub number: u64,
    pub kind: usize,
    since: Stopwatch,
}

/// What the client saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub status: Option<u16>,
    /// The answer came to its end.
    pub whole: bool,
    /// The decision's id, where the answer names it.
    pub decision: Option<String>,
}

/// A line of the audit file, as far as it matters here.
#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "complaints show all of it")]
struct Line {
    event: String,
    #[serde(default)]
    id: String,
    #[serde(default)]
    verdict: String,
    #[serde(default)]
    reason: String,
    status: Option<u16>,
    trace: Option<String>,
    detail: Option<String>,
}

impl Asking {
    /// W3C trace context, by which the record is found.
    pub fn traceparent(&self) -> String {
        format!("00-{MARK:016x}{:016x}-00000000000000ff-01", self.number)
    }
}

impl Line {
    fn outcome(&self) -> String {
        let status = self.status.map_or("null".to_owned(), |status| status.to_string());
        format!("{} {} {status}", self.verdict, self.reason)
    }

    /// The number of the request, if it is one of ours.
    fn number(&self) -> Option<u64> {
        let id = self.trace.as_deref()?.get(3..35)?;
        let marked = id.strip_prefix(&format!("{MARK:016x}"))?;
        u64::from_str_radix(marked, 16).ok()
    }
}

impl Ledger {
    /// A request is about to be sent.
    pub fn open(&self, kind: usize) -> Asking {
        let mut books = self.books.borrow_mut();
        books.next += 1;
        let number = books.next;
        books.tallies.entry(kind).or_default().sent += 1;
        books.open.insert(number, Entry { kind, seen: None, recorded: None });
        Asking { number, kind, since: Stopwatch::start() }
    }

    /// It was not sent after all.
    pub fn unsent(&self, asking: &Asking) {
        let mut books = self.books.borrow_mut();
        books.tallies.entry(asking.kind).or_default().sent -= 1;
        if books.open.remove(&asking.number).is_some_and(|entry| entry.recorded.is_some()) {
            books.complain(format!("{}: a record of what was not sent", KINDS[asking.kind].name));
        }
    }

    /// The connection was closed when it was on its way: it may not have arrived (RFC 9112 §9.5).
    pub fn crossed(&self, asking: &Asking) {
        let mut books = self.books.borrow_mut();
        books.crossed += 1;
        books.perhaps.push_back(asking.number);
        drop(books);
        self.close(asking, Seen::default());
    }

    /// The client is done with it.
    pub fn close(&self, asking: &Asking, seen: Seen) {
        let mut books = self.books.borrow_mut();
        if seen.whole {
            let tally = books.tallies.entry(asking.kind).or_default();
            tally.latencies.observe(asking.since.elapsed());
        }
        if let Some(entry) = books.open.get_mut(&asking.number) {
            entry.seen = Some(seen);
        }
        if matches!(KINDS[asking.kind].leaves, Leaves::AtMostOne(_)) {
            books.perhaps.push_back(asking.number);
            while books.perhaps.len() > PERHAPS_MAX {
                books.give_up_on_oldest();
            }
        }
        books.compare(asking.number);
        drop(books);
        self.finished.send_modify(|finished| *finished += 1);
    }

    /// What leaves no record of a request has happened.
    pub fn happened(&self, kind: usize) {
        self.books.borrow_mut().tallies.entry(kind).or_default().sent += 1;
        self.finished.send_modify(|finished| *finished += 1);
    }

    /// A line of the audit file.
    pub fn recorded(&self, line: &str) {
        let mut books = self.books.borrow_mut();
        let line: Line = match serde_json::from_str(line) {
            Ok(line) => line,
            Err(error) => return books.complain(format!("no record: {error}: {line}")),
        };
        match line.event.as_str() {
            "request" => books.requests += 1,
            "handshake" => return *books.handshakes.entry(line.reason).or_default() += 1,
            _ => return *books.events.entry(line.event).or_default() += 1,
        }
        let Some(number) = line.number() else {
            return *books.untraced.entry(line.outcome()).or_default() += 1;
        };
        match books.open.get_mut(&number) {
            None => books.complain(format!("a second record: {line:?}")),
            Some(Entry { recorded: Some(_), .. }) => books.complain(format!("a second record: {line:?}")),
            Some(entry) => entry.recorded = Some(line),
        }
        books.compare(number);
    }

    pub fn complain(&self, what: String) {
        self.books.borrow_mut().complain(what);
    }

    /// Waits until so many more things were done.
    pub async fn more(&self, count: u64) {
        let mut finished = self.finished.subscribe();
        let until = *finished.borrow() + count;
        finished.wait_for(|finished| *finished >= until).await.unwrap();
    }

    /// Requests closed by their clients whose records have not come yet.
    pub fn missing(&self) -> usize {
        let books = self.books.borrow();
        books.open.keys().filter(|number| !books.perhaps.contains(number)).count()
    }

    /// No more records will come.
    pub fn end(self) -> Books {
        let mut books = self.books.into_inner();
        while !books.perhaps.is_empty() {
            books.give_up_on_oldest();
        }
        for entry in std::mem::take(&mut books.open).into_values() {
            let name = KINDS[entry.kind].name;
            books.complain(format!("{name}: no record, and the client saw {:?}", entry.seen));
        }
        books
    }

    /// Lines of the audit file so far.
    pub fn lines(&self) -> u64 {
        let books = self.books.borrow();
        books.requests + books.handshakes.values().sum::<u64>() + books.events.values().sum::<u64>()
    }

    pub fn requests(&self) -> u64 {
        self.books.borrow().requests
    }

    pub fn sent(&self, kind: usize) -> u64 {
        self.books.borrow().tallies.get(&kind).map_or(0, |tally| tally.sent)
    }

    pub fn events(&self, event: &str) -> u64 {
        self.books.borrow().events.get(event).copied().unwrap_or(0)
    }
}

impl Books {
    /// Requests, and those of them that have no record and need none.
    pub fn sent(&self) -> (u64, u64) {
        let of_requests =
            |kind: &usize| !matches!(KINDS[*kind].leaves, Leaves::Handshake(_) | Leaves::Nothing);
        let tallies = self.tallies.iter().filter(|(kind, _)| of_requests(kind));
        tallies.fold((0, 0), |(sent, unrecorded), (_, it)| (sent + it.sent, unrecorded + it.unrecorded))
    }

    pub fn complain(&mut self, what: String) {
        self.complaints_count += 1;
        if self.complaints.len() < COMPLAINTS_KEPT {
            eprintln!("! {what}");
            self.complaints.push(what);
        }
    }

    fn give_up_on_oldest(&mut self) {
        let Some(number) = self.perhaps.pop_front() else { return };
        if let Some(entry) = self.open.remove(&number) {
            self.tallies.entry(entry.kind).or_default().unrecorded += 1;
        }
    }

    /// Puts the two sides of a request beside each other, once both are there.
    fn compare(&mut self, number: u64) {
        let both = |entry: &Entry| entry.seen.is_some() && entry.recorded.is_some();
        if !self.open.get(&number).is_some_and(both) {
            return;
        }
        let Some(Entry { kind, seen: Some(seen), recorded: Some(line) }) = self.open.remove(&number) else {
            return;
        };
        let (name, outcome) = (KINDS[kind].name, line.outcome());
        if let Leaves::One(outcomes) | Leaves::AtMostOne(outcomes) = KINDS[kind].leaves
            && !outcomes.contains(&outcome.as_str())
        {
            self.complain(format!("{name}: {line:?}, and the client saw {seen:?}"));
        }
        let differs = seen.status.is_some() && seen.status != line.status
            || seen.decision.is_some_and(|decision| decision != line.id)
            || seen.whole && line.reason == "client_gone";
        if differs {
            self.complain(format!("{name}: recorded as {line:?}, but the client saw {:?}", seen.status));
        }
        let tally = self.tallies.entry(kind).or_default();
        tally.records += 1;
        *tally.outcomes.entry(outcome).or_default() += 1;
    }
}
