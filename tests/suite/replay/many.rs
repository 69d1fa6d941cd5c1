//! A long log: real records of a live proxy, varied.
//!
//! `COUNTERSIGN_REPLAY_LOG=log.jsonl COUNTERSIGN_REPLAY_RECORDS=1000000` keeps the log, and beside it the configuration, for
//! whoever wants to measure.

use std::env;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use countersign::clock::Timestamp;
use serde_json::Value;

use super::traffic::{Traffic, policy};
use super::{own_log, replay};
use crate::world::World;

const RECORDS: usize = 5_000;
/// Different people of each name.
const PEOPLE: usize = 10_000;
/// Between two records.
const STEP_MS: i64 = 40;

#[tokio::test]
async fn a_long_log_is_replayed_record_by_record() {
    let world = World::new().await;
    let proxy = world.start(&policy(&world.clock));
    let mut traffic = Traffic::of(&proxy, 31).await;
    for _ in 0..300 {
        traffic.ask().await;
    }
    proxy.records(300).await;
    let text = fs::read_to_string(own_log(&world)).unwrap();
    let models: Vec<&str> = text.lines().filter(|line| line.contains(r#""event":"request""#)).collect();
    let count = env::var("COUNTERSIGN_REPLAY_RECORDS").map_or(RECORDS, |count| count.parse().unwrap());
    let kept = env::var_os("COUNTERSIGN_REPLAY_LOG").map(PathBuf::from);
    let log = kept.clone().unwrap_or_else(|| world.folder.path().join("long.jsonl"));
    write(&log, &models, count);
    if kept.is_some() {
        return drop(world.folder.keep());
    }
    let tally = replay(&world.load(), &log);
    assert_eq!((tally.requests, tally.flips.len()), (count as u64, 0), "{:#?}", tally.flips);
    assert!(tally.failures.is_empty(), "{:#?}", tally.failures);
}

/// The same requests by other people at other times.
fn write(log: &Path, models: &[&str], count: usize) {
    let mut to = BufWriter::new(File::create(log).unwrap());
    let start: Timestamp = time_of(models[0]);
    for number in 0..count {
        let model = models[number % models.len()];
        let person = number / models.len() % PEOPLE;
        // logins were at the time of the request, or an hour before
        let shift = number as i64 * STEP_MS;
        let line = moved(model, start, shift);
        let line = line.replace("bob", &format!("bob-{person}")).replace("carol", &format!("carol-{person}"));
        writeln!(to, "{line}").unwrap();
    }
    to.flush().unwrap();
}

fn time_of(line: &str) -> Timestamp {
    let record: Value = serde_json::from_str(line).unwrap();
    record["time"].as_str().unwrap().parse().unwrap()
}

/// All times of a record, later by `shift` milliseconds than when the log begins.
fn moved(line: &str, start: Timestamp, shift: i64) -> String {
    let mut line = line.to_owned();
    let from = time_of(&line);
    for key in [r#""time":""#, r#""auth_time":""#] {
        let Some(at) = line.find(key).map(|at| at + key.len()) else { continue };
        let time: Timestamp = line[at..at + 24].parse().unwrap();
        let moved = start.unix_ms() + shift + time.unix_ms() - from.unix_ms();
        line.replace_range(at..at + 24, &Timestamp::from_unix_ms(moved).to_string());
    }
    line
}
