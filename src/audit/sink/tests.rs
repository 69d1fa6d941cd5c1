//! Where records go, and what becomes of them when the output does not take them.

use super::*;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use rustix::fs::{CWD, Mode, mkfifoat};

const SOON: Duration = Duration::from_secs(20);

impl Record for String {
    fn write(&self, to: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        to.extend_from_slice(self.as_bytes());
        Ok(())
    }
}

fn line(text: &str) -> Box<dyn Record> {
    Box::new(text.to_owned())
}

/// A record that gets no further than this.
#[derive(Debug)]
enum Unwritable {
    Fails,
    Panics,
}

impl Record for Unwritable {
    fn write(&self, to: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        to.extend_from_slice(b"half of");
        match self {
            Unwritable::Fails => Err(serde::ser::Error::custom("no words")),
            Unwritable::Panics => std::panic::resume_unwind(Box::new(())),
        }
    }
}

fn start(path: &Path, required: bool, queue_records_max: usize) -> Sink {
    let output = Output::File(path.to_owned());
    let settings = SinkSettings { output, required, queue_records_max, wait_max: SOON };
    Sink::start(settings, Arc::new(Metrics::new())).unwrap()
}

fn wait(sink: &Sink, until: impl Fn(&Queue) -> bool) {
    let waited = sink.0.progress.wait_timeout_while(sink.0.lock(), SOON, |queue| !until(queue));
    assert!(!waited.unwrap().1.timed_out());
}

fn wait_until_written(sink: &Sink) {
    wait(sink, |queue| queue.lines.is_empty() && queue.in_hand == 0);
}

fn dropped(sink: &Sink) -> u64 {
    sink.0.metrics.audit_dropped.get()
}

#[test]
fn every_line_is_written_once_whole_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    fs::write(&path, "cut sho").unwrap();
    let sink = start(&path, false, 100_000);
    let mut expected = "cut sho\n".to_owned();
    for number in 0..10_000 {
        sink.slot().send(line(&number.to_string()));
        expected.push_str(&format!("{number}\n"));
    }
    assert_eq!(sink.close(SOON), Ok(()));
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);
    assert_eq!((sink.0.metrics.audit_written.get(), dropped(&sink)), (10_000, 0));
    sink.slot().send(line("late"));
    assert_eq!(dropped(&sink), 1);
}

#[test]
fn a_record_that_cannot_be_put_into_words_is_counted_and_costs_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let sink = start(&path, true, 5);
    let slots: Vec<_> = (0..5).map(|_| sink.reserve().unwrap()).collect();
    let records: [Box<dyn Record>; 5] = [
        line("first"),
        Box::new(Unwritable::Fails),
        line("second"),
        Box::new(Unwritable::Panics),
        line("third"),
    ];
    slots.into_iter().zip(records).for_each(|(slot, record)| slot.send(record));
    wait_until_written(&sink);
    assert_eq!((sink.0.metrics.audit_written.get(), dropped(&sink)), (3, 2));
    assert_eq!(sink.0.forwarded.available_permits(), 5);
    sink.slot().send(line("fourth"));
    assert_eq!(sink.close(SOON), Ok(()));
    assert_eq!(fs::read_to_string(&path).unwrap(), "first\nsecond\nthird\nfourth\n");
}

#[test]
fn a_moved_file_is_opened_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (path, moved) = (dir.path().join("audit.jsonl"), dir.path().join("audit.jsonl.1"));
    let sink = start(&path, false, 10);
    sink.slot().send(line("old"));
    wait_until_written(&sink);
    fs::rename(&path, &moved).unwrap();
    sink.reopen();
    wait(&sink, |queue| !queue.reopen);
    sink.slot().send(line("new"));
    assert_eq!(sink.close(SOON), Ok(()));
    assert_eq!(fs::read_to_string(&moved).unwrap(), "old\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
}

/// A sink whose disk is full, once it noticed; `mend` then gives it another.
fn full_disk(dir: &Path, required: bool, records_max: usize) -> Sink {
    let path = dir.join("audit.jsonl");
    symlink("/dev/full", &path).unwrap();
    let sink = start(&path, required, records_max);
    sink.slot().send(line("first"));
    wait(&sink, |queue| queue.failing);
    sink
}

fn mend(dir: &Path, sink: &Sink) {
    let path = dir.join("audit.jsonl");
    fs::remove_file(&path).unwrap();
    sink.reopen();
    wait(sink, |queue| !queue.failing);
}

#[test]
fn a_full_disk_loses_only_what_the_queue_cannot_hold_and_counts_it() {
    let dir = tempfile::tempdir().unwrap();
    let sink = full_disk(dir.path(), false, 3);
    for text in ["second", "third", "lost", "lost"] {
        sink.reserve().unwrap().send(line(text));
    }
    assert_eq!((dropped(&sink), sink.0.metrics.audit_failing.get()), (2, 1));
    mend(dir.path(), &sink);
    assert_eq!(sink.close(SOON), Ok(()));
    let written = fs::read_to_string(dir.path().join("audit.jsonl")).unwrap();
    assert_eq!(written, "first\nsecond\nthird\n");
    assert_eq!((dropped(&sink), sink.0.metrics.audit_failing.get()), (2, 0));
}

#[test]
fn required_refuses_while_the_output_fails_and_when_the_queue_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let sink = full_disk(dir.path(), true, 2);
    assert_eq!(sink.reserve().err(), Some(AuditUnavailable));
    mend(dir.path(), &sink);
    wait_until_written(&sink);
    let (first, second) = (sink.reserve().unwrap(), sink.reserve().unwrap());
    assert_eq!(sink.reserve().err(), Some(AuditUnavailable));
    sink.slot().send(line("no place"));
    assert_eq!(dropped(&sink), 1);
    drop(second);
    let third = sink.reserve().unwrap();
    first.send(line("promised"));
    third.send(line("kept"));
    assert_eq!(sink.close(SOON), Ok(()));
    let written = fs::read_to_string(dir.path().join("audit.jsonl")).unwrap();
    assert_eq!(written, "first\npromised\nkept\n");
}

/// A sink whose disk takes no more, as a pipe that nobody reads.
fn slow_disk(dir: &Path, required: bool, records_max: usize) -> (Sink, File) {
    let path = dir.join("audit.jsonl");
    mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
    let sink = start(&path, required, records_max);
    let pipe = File::open(&path).unwrap();
    sink.slot().send(line(&".".repeat(PIPE_BYTES - 1)));
    wait_until_in_hand(&sink);
    (sink, pipe)
}

/// More than a pipe holds.
const PIPE_BYTES: usize = 128 * 1024;

fn wait_until_in_hand(sink: &Sink) {
    while sink.0.lock().in_hand == 0 {
        thread::yield_now();
    }
}

#[tokio::test]
async fn a_flood_of_refusals_waits_for_its_own_records_and_takes_nobody_s_place() {
    let dir = tempfile::tempdir().unwrap();
    let (sink, mut pipe) = slow_disk(dir.path(), true, 4);
    let mut flood = FuturesUnordered::new();
    for _ in 0..100 {
        flood.push(async { sink.await_refusal().await.send(line("refused")) });
    }
    let mut answered = 0;
    while let Some(Some(())) = flood.next().now_or_never() {
        answered += 1;
    }
    assert_eq!(answered, 4);
    // One of the four places of the other kind is in the writer's hand.
    let forwarded: Vec<_> = (0..4).filter_map(|_| sink.reserve().ok()).collect();
    assert_eq!(forwarded.len(), 3);
    forwarded.into_iter().for_each(|slot| slot.send(line("forwarded")));
    let reading = thread::spawn(move || {
        let mut written = vec![0; PIPE_BYTES + 100 * "refused\n".len() + 3 * "forwarded\n".len()];
        pipe.read_exact(&mut written).map(|()| written)
    });
    while flood.next().await.is_some() {}
    let written = String::from_utf8(reading.join().unwrap().unwrap()).unwrap();
    let count = |line: &str| written[PIPE_BYTES..].lines().filter(|other| *other == line).count();
    assert_eq!((count("refused"), count("forwarded"), dropped(&sink)), (100, 3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_waits_for_no_longer_than_it_may_and_not_at_all_where_none_is_required() {
    for required in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (sink, _pipe) = slow_disk(dir.path(), required, 1);
        sink.await_refusal().await.send(line("first"));
        let began = tokio::time::Instant::now();
        sink.await_refusal().await.send(line("second"));
        assert_eq!(began.elapsed(), if required { SOON } else { Duration::ZERO });
        assert_eq!(dropped(&sink), 1);
    }
    let dir = tempfile::tempdir().unwrap();
    let sink = full_disk(dir.path(), true, 1);
    sink.refusal().send(line("first"));
    let began = tokio::time::Instant::now();
    sink.await_refusal().await.send(line("second"));
    assert_eq!((began.elapsed(), dropped(&sink)), (Duration::ZERO, 1));
}

#[test]
fn closing_gives_up_at_its_deadline_and_says_how_much_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    symlink("/dev/full", path.as_path()).unwrap();
    let sink = start(&path, true, 10);
    let (second, unfinished) = (sink.reserve().unwrap(), sink.reserve().unwrap());
    sink.slot().send(line("first"));
    wait(&sink, |queue| queue.failing);
    second.send(line("second"));
    assert_eq!(sink.close(Duration::ZERO), Err(Unwritten { records: 2 }));
    assert_eq!(dropped(&sink), 2);
    unfinished.send(line("late"));
    assert_eq!(dropped(&sink), 3);
    // All but those that are still held, of which the writer gives one back when it ends.
    assert!(sink.0.forwarded.available_permits() >= 8);
}

#[test]
fn an_output_that_cannot_be_opened_is_named() {
    let output = Output::File("/nowhere/audit.jsonl".into());
    let settings = SinkSettings { output, required: false, queue_records_max: 1, wait_max: SOON };
    let error = Sink::start(settings, Arc::new(Metrics::new())).unwrap_err().to_string();
    assert!(error.starts_with("the audit output `/nowhere/audit.jsonl` cannot be opened: "), "{error}");
}
