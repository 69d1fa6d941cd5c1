//! One record per request, for allow and deny alike, and a record for whatever changes how requests
//! are judged.
//!
//! [`Audit::begin`] opens a [`Draft`], which cannot be lost: it is written when it is finished or
//! dropped. A record goes to the [`Sink`] as one line of JSON that no recorded text can break.

pub mod draft;
pub mod event;
pub mod line;
pub mod reason;
pub mod record;
pub mod sink;
pub mod story;
mod writer;

pub use draft::{Arrival, Draft};
pub use event::{Claimed, Event, RefusedHandshake};
pub use reason::Reason;
pub use record::{Protocol, Verdict};
pub use sink::{AuditUnavailable, Output, Sink, SinkSettings};

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use ulid::Ulid;

use crate::clock::Clock;
use crate::identity::Name;
use crate::metrics::{CounterBy, Metrics};
use event::{EventRecord, HandshakeRecord, Head};

/// Writes records, and counts what they say. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Audit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    proxy: Arc<str>,
    clock: Clock,
    sink: Sink,
    metrics: Arc<Metrics>,
    requests: CounterBy<(Verdict, Reason)>,
    handshakes_refused: CounterBy<Reason>,
}

impl Audit {
    /// `proxy` is this instance's name in every record.
    pub fn new(proxy: &Name, clock: Clock, sink: Sink, metrics: Arc<Metrics>) -> Audit {
        let requests = metrics.counter_by("requests", "Requests by verdict and reason");
        let handshakes_refused =
            metrics.counter_by("tls_handshakes_refused", "TLS handshakes refused by reason");
        let proxy = proxy.as_str().into();
        Audit(Arc::new(Inner { proxy, clock, sink, metrics, requests, handshakes_refused }))
    }

    /// Opens the record of a request whose head is complete.
    pub fn begin(&self, arrival: Arrival<'_>) -> Draft {
        Draft::new(self.clone(), arrival)
    }

    /// Records something that happened to the proxy.
    pub fn event(&self, event: &Event) {
        self.send(&EventRecord::new(self.head(), event));
    }

    /// Records and counts a TLS handshake that was refused.
    pub fn handshake_refused(&self, refused: &RefusedHandshake) {
        self.0.handshakes_refused.inc(refused.reason);
        self.send(&HandshakeRecord::new(self.head(), refused));
    }

    /// The output of all records, for reopening and closing it.
    pub fn sink(&self) -> &Sink {
        &self.0.sink
    }

    fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    fn head(&self) -> Head {
        let time = self.0.clock.now();
        let ms = u64::try_from(time.unix_ms()).unwrap_or(0);
        let id = Ulid::from_parts(ms, Ulid::from_datetime(UNIX_EPOCH).random());
        Head { time, id, proxy: Arc::clone(&self.0.proxy) }
    }

    fn request_finished(&self, verdict: Verdict, reason: Reason, total: Duration) {
        self.0.requests.inc((verdict, reason));
        self.0.metrics.request_finished(total);
    }

    fn send(&self, record: &impl Serialize) {
        match line::line(record) {
            Ok(line) => self.0.sink.slot().send(line),
            Err(error) => self.unwritable(&error),
        }
    }

    fn unwritable(&self, error: &serde_json::Error) {
        self.0.metrics.audit_dropped.inc();
        tracing::error!(%error, "an audit record could not be put into words");
    }
}
