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

use std::fmt;
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

/// What is written as one line: put into words by the sink's own thread, so that no request waits for it.
pub trait Record: fmt::Debug + Send {
    /// Appends the line, without its line feed.
    fn write(&self, to: &mut Vec<u8>) -> Result<(), serde_json::Error>;
}

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
    /// As many are written at once without waiting for more.
    pub(super) batch_records: usize,
    forwarded: Arc<Semaphore>,
    refused: Arc<Semaphore>,
    pub(super) metrics: Arc<Metrics>,
}

/// One record, and the place that it takes until it is written.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) record: Box<dyn Record>,
    pub(super) place: OwnedSemaphorePermit,
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
        let shared = Shared::new(settings.queue_records_max, settings.required, settings.wait_max, metrics);
        let writer = Writer::open(Arc::clone(&shared), settings.output)?;
        let thread = thread::Builder::new().name("audit".to_owned());
        thread.spawn(move || writer.run()).map_err(SinkError::Thread)?;
        Ok(Sink(shared))
    }

    /// One without an output, which has no place for any record: for records that are made to be looked at.
    pub fn none(metrics: Arc<Metrics>) -> Sink {
        Sink(Shared::new(0, false, Duration::ZERO, metrics))
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

    /// Hands over one record. Never waits for the output.
    pub fn send(mut self, record: Box<dyn Record>) {
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
        queue.lines.push(Line { record, place });
        // The first wakes the writer, which then lets more gather; these it need not wait for.
        if queue.lines.len() == 1 || queue.lines.len() == shared.batch_records {
            shared.work.notify_one();
        }
    }
}

impl Shared {
    fn new(places: usize, required: bool, wait_max: Duration, metrics: Arc<Metrics>) -> Arc<Shared> {
        let places = places.min(Semaphore::MAX_PERMITS);
        Arc::new(Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            progress: Condvar::new(),
            required,
            wait_max,
            // Far from a full queue, so that nothing is lost, or waits, because records gather.
            batch_records: places / 4,
            forwarded: Arc::new(Semaphore::new(places)),
            refused: Arc::new(Semaphore::new(places)),
            metrics,
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One of the records in the writer's hand will never be written.
    pub(super) fn unwritable(&self, why: &dyn fmt::Display) {
        tracing::error!(error = %why, "an audit record could not be put into words");
        let mut queue = self.lock();
        queue.in_hand -= 1;
        // Else it was counted with all that was not written.
        if !queue.closed {
            self.metrics.audit_dropped.inc();
        }
    }
}

#[cfg(test)]
mod tests;
