//! Where records go: a bounded queue and a thread of its own that writes it, in batches, to
//! standard output or a file.
//!
//! - Nobody waits for the output. A record that finds the queue full is lost, and counted.
//! - With `required`, a place in the queue is taken before a request is forwarded, so its record
//!   cannot be lost that way; without a place, or while the output fails, nothing is forwarded.
//! - A batch that cannot be written is kept and tried again; a line is never written twice, and one
//!   that was cut short is written whole into the file that is opened next.

use std::io;
use std::mem;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::writer::Writer;
use crate::metrics::Metrics;

/// `[audit]`, as far as it is about the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkSettings {
    pub output: Output,
    /// Forward nothing whose record could be lost.
    pub required: bool,
    /// Records waiting to be written, and with `required` also requests in flight.
    pub queue_records_max: usize,
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
    /// Whether a place in the queue is held for it.
    reserved: bool,
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
    records_max: usize,
    pub(super) metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) lines: Vec<Vec<u8>>,
    /// Places taken: reserved, queued, or in the writer's hand.
    pub(super) taken: usize,
    /// Of those, held by slots that were not used yet.
    reserved: usize,
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
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            progress: Condvar::new(),
            required: settings.required,
            records_max: settings.queue_records_max,
            metrics,
        });
        let writer = Writer::open(Arc::clone(&shared), settings.output)?;
        let thread = thread::Builder::new().name("audit".to_owned());
        thread.spawn(move || writer.run()).map_err(SinkError::Thread)?;
        Ok(Sink(shared))
    }

    /// A slot whose record finds a place when it is sent, or is counted as lost.
    pub fn slot(&self) -> Slot {
        Slot { sink: self.clone(), reserved: false }
    }

    /// To be asked before a request is forwarded. With `required`, the slot holds its place in the
    /// queue; otherwise it is as good as [`Sink::slot`] and never refused.
    pub fn reserve(&self) -> Result<Slot, AuditUnavailable> {
        let mut slot = self.slot();
        if self.0.required {
            let mut queue = self.0.lock();
            if queue.failing || !queue.take_place(self.0.records_max) {
                return Err(AuditUnavailable);
            }
            queue.reserved += 1;
            slot.reserved = true;
        }
        Ok(slot)
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
        let records = queue.taken - queue.reserved;
        self.0.metrics.audit_dropped.inc_by(records as u64);
        Err(Unwritten { records })
    }
}

impl Slot {
    /// Hands over one record, a whole line. Never waits for the output.
    pub fn send(mut self, line: Vec<u8>) {
        let shared = &self.sink.0;
        let mut queue = shared.lock();
        if queue.closed || !(self.reserved || queue.take_place(shared.records_max)) {
            shared.metrics.audit_dropped.inc();
            return;
        }
        if queue.lines.is_empty() {
            shared.work.notify_one();
        }
        queue.lines.push(line);
        queue.reserved -= usize::from(mem::take(&mut self.reserved));
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.reserved {
            let mut queue = self.sink.0.lock();
            queue.taken -= 1;
            queue.reserved -= 1;
        }
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn take_place(&mut self, records_max: usize) -> bool {
        let free = self.taken < records_max;
        self.taken += usize::from(free);
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    const SOON: Duration = Duration::from_secs(20);

    fn start(path: &Path, required: bool, queue_records_max: usize) -> Sink {
        let output = Output::File(path.to_owned());
        Sink::start(SinkSettings { output, required, queue_records_max }, Arc::new(Metrics::new())).unwrap()
    }

    fn wait(sink: &Sink, until: impl Fn(&Queue) -> bool) {
        let waited = sink.0.progress.wait_timeout_while(sink.0.lock(), SOON, |queue| !until(queue));
        assert!(!waited.unwrap().1.timed_out());
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
        wait(&sink, |queue| queue.taken == 0);
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
        wait(&sink, |queue| queue.taken == 0);
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
        assert_eq!((dropped(&sink), sink.0.lock().reserved), (3, 0));
    }

    #[test]
    fn an_output_that_cannot_be_opened_is_named() {
        let output = Output::File("/nowhere/audit.jsonl".into());
        let settings = SinkSettings { output, required: false, queue_records_max: 1 };
        let error = Sink::start(settings, Arc::new(Metrics::new())).unwrap_err().to_string();
        assert!(error.starts_with("the audit output `/nowhere/audit.jsonl` cannot be opened: "), "{error}");
    }
}
