//! What must hold at the end of a soak and cannot be seen of one request alone.

use std::collections::BTreeMap;

use serde_json::Value;

use super::GAUGES;
use super::kinds::{KINDS, Leaves};
use super::ledger::Books;
use super::report::{Sample, quarter};
use super::weather::Weather;

/// One figure of a sample.
type Figure = fn(&Sample) -> f64;

/// Memory may grow by so much between the second quarter of a run and the last.
const RESIDENT_GROWTH_MAX: f64 = 1.15;
const RESIDENT_ROOM_KIB: f64 = 8.0 * 1024.0;
/// The same of descriptors, threads, connections and tasks, which a flood at the moment of a sample raises.
const COUNT_GROWTH_MAX: f64 = 1.5;
const COUNT_ROOM: f64 = 20.0;
/// Requests that cross the end of an HTTP/1.1 connection: it waits for one more before it closes, so there are
/// few.
const CROSSED_PER_THOUSAND_MAX: u64 = 1;
const CROSSED_MAX: u64 = 2;
/// A run with fewer samples says nothing about growth.
pub const SAMPLES_MIN: usize = 40;

/// No line of the log is an error, but for those of what was broken on purpose; and, wherever it stands, none
/// tells of a panic, or is no log at all.
pub fn log(books: &mut Books, log: &[String], weather: &Weather) {
    for (at, line) in log.iter().enumerate() {
        let is_fault = match serde_json::from_str::<Value>(line) {
            Ok(event) => {
                // The other CA has signed nothing, and comes without a list of what it revoked.
                let is_meant =
                    weather.broke_on_purpose(at) || line.contains("CA `CN=other CA` has no revocation list");
                event["level"] == "ERROR" && (line.contains("panic") || !is_meant)
            }
            Err(_) => true,
        };
        if is_fault {
            books.complain(format!("in the log: {line}"));
        }
    }
}

/// As many records as there were requests and refused handshakes, one of the end, and nothing left untried.
pub fn records(books: &mut Books) {
    let (mut handshakes, mut untraced) = (BTreeMap::new(), BTreeMap::new());
    for (&kind, tally) in &books.tallies {
        match KINDS[kind].leaves {
            Leaves::Handshake(reason) => *handshakes.entry(reason.to_owned()).or_insert(0) += tally.sent,
            Leaves::Untraced(outcome) => *untraced.entry(outcome.to_owned()).or_insert(0) += tally.sent,
            Leaves::One(_) | Leaves::AtMostOne(_) | Leaves::Nothing => {}
        }
    }
    if books.handshakes != handshakes {
        books.complain(format!("handshakes refused: {handshakes:?}, recorded: {:?}", books.handshakes));
    }
    if books.untraced != untraced {
        books.complain(format!("heads not read: {untraced:?}, recorded: {:?}", books.untraced));
    }
    let (sent, unrecorded) = books.sent();
    if books.requests != sent - unrecorded {
        books.complain(format!("{sent} requests less {unrecorded}, and {} records", books.requests));
    }
    if books.crossed > CROSSED_MAX + sent / 1000 * CROSSED_PER_THOUSAND_MAX {
        books.complain(format!("{} requests crossed the end of their connection", books.crossed));
    }
    if books.events.get("stopped") != Some(&1) {
        books.complain("its end is not recorded".to_owned());
    }
    for (at, kind) in KINDS.iter().enumerate() {
        if !books.tallies.contains_key(&at) {
            books.complain(format!("{}: never tried", kind.name));
        }
    }
}

/// What the process holds in the last quarter of a long run is what it held in the second.
pub fn growth(books: &mut Books, samples: &[Sample]) {
    if samples.len() < SAMPLES_MIN {
        return;
    }
    let resident = |at| quarter(samples, at, |sample| sample.resident_kib as f64);
    if resident(3) > resident(1) * RESIDENT_GROWTH_MAX + RESIDENT_ROOM_KIB {
        books.complain(format!("memory grew from {} to {} KiB", resident(1), resident(3)));
    }
    let counts: [(&str, Figure); 4] = [
        ("descriptors", |sample| sample.descriptors as f64),
        ("threads", |sample| sample.threads as f64),
        (GAUGES[0], |sample| sample.gauges[0].1),
        (GAUGES[1], |sample| sample.gauges[1].1),
    ];
    for (name, value) in counts {
        let (before, after) = (quarter(samples, 1, value), quarter(samples, 3, value));
        if after > before * COUNT_GROWTH_MAX + COUNT_ROOM {
            books.complain(format!("{name} grew from {before} to {after}"));
        }
    }
}
