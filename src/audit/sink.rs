//! Where records go: a bounded queue and a thread of its own that writes it, in batches, to
//! standard output or a file.
//!
//! - Requests that are forwarded and requests that are refused have as many places each, so that a
//!   flood of one kind never takes those of the other.
//! - A record that finds no place is lost, and counted. Without `required` nobody waits for one.
//! - With `required`, a place is taken before a request is forwarded, so its record cannot be lost that
//!   way; without a place, or while the output fails, nothing is forwarded. A refusal waits for its place
//!   before it is answered: a flood of them is slowed by its own records.
//! - A batch that cannot be written is kept and tried again; a line is never written twice, and one
//!   that was cut short is written whole into the file that is opened next.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::writer::Writer;
use crate::metrics::{Limit, Metrics};

/// `[audit]`, as far as it is about the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkSettings {
    pub output: Output,
    /// Forward nothing whose record could be lost.
    pub required: bool,
    /// Records waiting to be written: of refusals, and as many of what was forwarded, with `required`
    /// what is in flight included.
    pub queue_records_max: usize,
    /// How long a refusal waits for a place, with `required`.
    pub wait_max: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    Stdout,
    /// Appended to, and made if missing.
    File(PathBuf),
}

#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    #[error("the audit output `{}` cannot be opened: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("standard output cannot be written to: {0}")]
    Stdout(io::Error),
    #[error("the thread that writes the audit records could not be started: {0}")]
    Thread(io::Error),
}

/// No place in the queue, or no output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit record cannot be promised")]
pub struct AuditUnavailable;

/// The end came before everything was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{records} audit records were not written")]
pub struct Unwritten {
    pub records: usize,
}

/// Takes records. Clones share one queue and one output.
#[derive(Clone, Debug)]
pub struct Sink(Arc<Shared>);

/// The right to send one record.
#[derive(Debug)]
pub struct Slot {
    sink: Sink,
    kind: Kind,
    /// The place that is held for it, if one is.
    place: Option<OwnedSemaphorePermit>,
}

/// Whose places a record takes.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A request that was forwarded, or an event.
    Forwarded,
    /// A request or handshake that was refused.
    Refused,
}

/// What a sink and its writer share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) queue: Mutex<Queue>,
    /// Something to do for the writer.
    pub(super) work: Condvar,
    /// The writer wrote, failed or ended.
    pub(super) progress: Condvar,
    required: bool,
    wait_max: Duration,
    forwarded: Arc<Semaphore>,
    refused: Arc<Semaphore>,
    pub(super) metrics: Arc<Metrics>,
}

/// One record, and the place that it takes until it is written.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) bytes: Vec<u8>,
    _place: OwnedSemaphorePermit,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) lines: Vec<Line>,
    /// Records in the writer's hand.
    pub(super) in_hand: usize,
    pub(super) failing: bool,
    pub(super) reopen: bool,
    pub(super) closing: bool,
    /// The deadline of closing is over.
    pub(super) abandoned: bool,
    pub(super) closed: bool,
}

impl Sink {
    /// Opens the output and starts the thread that writes to it.
    pub fn start(settings: SinkSettings, metrics: Arc<Metrics>) -> Result<Sink, SinkError> {
        let places = settings.queue_records_max.min(Semaphore::MAX_PERMITS);
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            progress: Condvar::new(),
            required: settings.required,
            wait_max: settings.wait_max,
            forwarded: Arc::new(Semaphore::new(places)),
            refused: Arc::new(Semaphore::new(places)),
            metrics,
        });
        let writer = Writer::open(Arc::clone(&shared), settings.output)?;
        let thread = thread::Builder::new().name("audit".to_owned());
        thread.spawn(move || writer.run()).map_err(SinkError::Thread)?;
        Ok(Sink(shared))
    }

    /// For an event: its record finds a place when it is sent, or is counted as lost.
    pub fn slot(&self) -> Slot {
        self.without_place(Kind::Forwarded)
    }

    /// The same for a refusal that nobody waits for, as one whose client is gone.
    pub fn refusal(&self) -> Slot {
        self.without_place(Kind::Refused)
    }

    /// To be asked before a request is forwarded. With `required`, the slot holds its place in the
    /// queue; otherwise it is as good as [`Sink::slot`] and never refused.
    pub fn reserve(&self) -> Result<Slot, AuditUnavailable> {
        let mut slot = self.slot();
        if self.0.required {
            if self.0.lock().failing {
                return Err(AuditUnavailable);
            }
            slot.place = slot.take_place();
            if slot.place.is_none() {
                self.0.metrics.limit_hit(Limit::AuditQueueMax);
                return Err(AuditUnavailable);
            }
        }
        Ok(slot)
    }

    /// To be asked before a refusal is answered. With `required`, waits for a place, for at most
    /// `wait_max`; those who came first are served first.
    pub async fn await_refusal(&self) -> Slot {
        let mut slot = self.refusal();
        if self.0.required && !self.0.lock().failing {
            let place = timeout(self.0.wait_max, Arc::clone(&self.0.refused).acquire_owned()).await;
            slot.place = place.ok().and_then(Result::ok);
        }
        slot
    }

    fn without_place(&self, kind: Kind) -> Slot {
        Slot { sink: self.clone(), kind, place: None }
    }

    /// Opens the file anew, after it was moved away. One that cannot be opened leaves the old in use.
    pub fn reopen(&self) {
        self.0.lock().reopen = true;
        self.0.work.notify_one();
    }

    /// Writes what waits, for at most `timeout`; blocks meanwhile. What is sent later is lost.
    pub fn close(&self, timeout: Duration) -> Result<(), Unwritten> {
        let mut queue = self.0.lock();
        queue.closing = true;
        self.0.work.notify_one();
        let waited = self.0.progress.wait_timeout_while(queue, timeout, |queue| !queue.closed);
        let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if queue.closed {
            return Ok(());
        }
        queue.abandoned = true;
        queue.closed = true;
        self.0.work.notify_one();
        let records = queue.lines.len() + queue.in_hand;
        self.0.metrics.audit_dropped.inc_by(records as u64);
        Err(Unwritten { records })
    }
}

impl Slot {
    fn take_place(&self) -> Option<OwnedSemaphorePermit> {
        let places = match self.kind {
            Kind::Forwarded => &self.sink.0.forwarded,
            Kind::Refused => &self.sink.0.refused,
        };
        Arc::clone(places).try_acquire_owned().ok()
    }

    /// Hands over one record, a whole line. Never waits for the output.
    pub fn send(mut self, line: Vec<u8>) {
        let shared = &self.sink.0;
        let Some(place) = self.place.take().or_else(|| self.take_place()) else {
            shared.metrics.audit_dropped.inc();
            return shared.metrics.limit_hit(Limit::AuditQueueMax);
        };
        let mut queue = shared.lock();
        if queue.closed {
            shared.metrics.audit_dropped.inc();
            return;
        }
        if queue.lines.is_empty() {
            shared.work.notify_one();
        }
        queue.lines.push(Line { bytes: line, _place: place });
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::io::Read;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use futures_util::stream::FuturesUnordered;
    use futures_util::{FutureExt, StreamExt};
    use rustix::fs::{CWD, Mode, mkfifoat};

    const SOON: Duration = Duration::from_secs(20);

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
            sink.slot().send(format!("{number}\n").into_bytes());
            expected.push_str(&format!("{number}\n"));
        }
        assert_eq!(sink.close(SOON), Ok(()));
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        assert_eq!((sink.0.metrics.audit_written.get(), dropped(&sink)), (10_000, 0));
        sink.slot().send(b"late\n".to_vec());
        assert_eq!(dropped(&sink), 1);
    }

    #[test]
    fn a_moved_file_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("audit.jsonl"), dir.path().join("audit.jsonl.1"));
        let sink = start(&path, false, 10);
        sink.slot().send(b"old\n".to_vec());
        wait_until_written(&sink);
        fs::rename(&path, &moved).unwrap();
        sink.reopen();
        wait(&sink, |queue| !queue.reopen);
        sink.slot().send(b"new\n".to_vec());
        assert_eq!(sink.close(SOON), Ok(()));
        assert_eq!(fs::read_to_string(&moved).unwrap(), "old\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
    }

    /// A sink whose disk is full, once it noticed; `mend` then gives it another.
    fn full_disk(dir: &Path, required: bool, records_max: usize) -> Sink {
        let path = dir.join("audit.jsonl");
        symlink("/dev/full", &path).unwrap();
        let sink = start(&path, required, records_max);
        sink.slot().send(b"first\n".to_vec());
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
        for line in ["second\n", "third\n", "lost\n", "lost\n"] {
            sink.reserve().unwrap().send(line.as_bytes().to_vec());
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
        sink.slot().send(b"no place\n".to_vec());
        assert_eq!(dropped(&sink), 1);
        drop(second);
        let third = sink.reserve().unwrap();
        first.send(b"promised\n".to_vec());
        third.send(b"kept\n".to_vec());
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
        sink.slot().send(vec![b'.'; PIPE_BYTES]);
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
            flood.push(async { sink.await_refusal().await.send(b"refused\n".to_vec()) });
        }
        let mut answered = 0;
        while let Some(Some(())) = flood.next().now_or_never() {
            answered += 1;
        }
        assert_eq!(answered, 4);
        // One of the four places of the other kind is in the writer's hand.
        let forwarded: Vec<_> = (0..4).filter_map(|_| sink.reserve().ok()).collect();
        assert_eq!(forwarded.len(), 3);
        forwarded.into_iter().for_each(|slot| slot.send(b"forwarded\n".to_vec()));
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
            sink.await_refusal().await.send(b"first\n".to_vec());
            let began = tokio::time::Instant::now();
            sink.await_refusal().await.send(b"second\n".to_vec());
            assert_eq!(began.elapsed(), if required { SOON } else { Duration::ZERO });
            assert_eq!(dropped(&sink), 1);
        }
        let dir = tempfile::tempdir().unwrap();
        let sink = full_disk(dir.path(), true, 1);
        sink.refusal().send(b"first\n".to_vec());
        let began = tokio::time::Instant::now();
        sink.await_refusal().await.send(b"second\n".to_vec());
        assert_eq!((began.elapsed(), dropped(&sink)), (Duration::ZERO, 1));
    }

    #[test]
    fn closing_gives_up_at_its_deadline_and_says_how_much_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        symlink("/dev/full", path.as_path()).unwrap();
        let sink = start(&path, true, 10);
        let (second, unfinished) = (sink.reserve().unwrap(), sink.reserve().unwrap());
        sink.slot().send(b"first\n".to_vec());
        wait(&sink, |queue| queue.failing);
        second.send(b"second\n".to_vec());
        assert_eq!(sink.close(Duration::ZERO), Err(Unwritten { records: 2 }));
        assert_eq!(dropped(&sink), 2);
        unfinished.send(b"late\n".to_vec());
        assert_eq!((dropped(&sink), sink.0.forwarded.available_permits()), (3, 8));
    }

    #[test]
    fn an_output_that_cannot_be_opened_is_named() {
        let output = Output::File("/nowhere/audit.jsonl".into());
        let settings = SinkSettings { output, required: false, queue_records_max: 1, wait_max: SOON };
        let error = Sink::start(settings, Arc::new(Metrics::new())).unwrap_err().to_string();
        assert!(error.starts_with("the audit output `/nowhere/audit.jsonl` cannot be opened: "), "{error}");
    }
}
