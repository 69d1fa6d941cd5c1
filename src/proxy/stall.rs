//! Clients that stand still: that ask for nothing, do not end a head, or do not take the answer asked for.
//!
//! hyper looks at no clock while it waits for a client, and asks a body for more only after the client took
//! what there was. So the bounds are kept beside it: [`Watched`](super::watched::Watched) sees a connection's bytes, [`Busy`] its
//! requests, and [`Watch`] what one task of hyper has handed to the client.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::limits::Limits;

/// How soon a connection that asks for nothing gives its buffers back. Those in steady use keep them.
const REST_AFTER: Duration = Duration::from_secs(1);

/// What a client did not do in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stall {
    /// It asked for nothing for a moment, which is no fault. Told once after each request.
    Rest,
    /// It asked for nothing: `idle_timeout`.
    Idle,
    /// It did not end a head: `header_timeout`.
    Head,
    /// It took nothing of an answer: `idle_timeout`.
    Answer,
    /// It had not taken all of an answer: `total_timeout`.
    Whole,
    /// It took nothing of an answer that is permitted no longer.
    Ended,
}

/// What one connection waits for. One core's alone, but `Send`, since it lies under upgrades.
#[derive(Debug)]
pub struct Pulse {
    pub(super) requests: AtomicUsize,
    /// How many there were so far.
    request_count: AtomicUsize,
    /// The one whose body has not been seen to end, counted from 1, or 0.
    pub(super) uploading: AtomicUsize,
    /// Nobody has looked yet whether it rests.
    tires: AtomicBool,
    /// No more is read but what nobody wants.
    pub(super) closing: AtomicBool,
    /// When the last request ended, or the connection began.
    rested: Moment,
    /// When the first byte of a head came.
    pub(super) began: Moment,
    /// Of the head under way; what came together with the request before it is not counted.
    head_bytes: AtomicUsize,
    /// Since when bytes wait to be taken.
    pub(super) blocked: Moment,
}

/// A point in time, or none.
#[derive(Debug)]
pub(super) struct Moment {
    base: Instant,
    /// Milliseconds after `base`, plus one; 0 is none.
    ms: AtomicU64,
}

impl Moment {
    fn none(base: Instant) -> Moment {
        Moment { base, ms: AtomicU64::new(0) }
    }

    fn set(&self) {
        let ms = u64::try_from(self.base.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.ms.store(ms + 1, Ordering::Relaxed);
    }

    pub(super) fn set_first(&self) {
        if self.ms.load(Ordering::Relaxed) == 0 {
            self.set();
        }
    }

    pub(super) fn clear(&self) {
        self.ms.store(0, Ordering::Relaxed);
    }

    fn get(&self) -> Option<Instant> {
        let ms = self.ms.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.base + Duration::from_millis(ms))
    }
}

impl Pulse {
    pub fn new() -> Arc<Pulse> {
        let base = Instant::now();
        let pulse = Pulse {
            requests: AtomicUsize::new(0),
            request_count: AtomicUsize::new(0),
            uploading: AtomicUsize::new(0),
            tires: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            rested: Moment::none(base),
            began: Moment::none(base),
            head_bytes: AtomicUsize::new(0),
            blocked: Moment::none(base),
        };
        pulse.rested.set();
        Arc::new(pulse)
    }

    /// A request, until the outcome is dropped.
    pub fn busy(self: &Arc<Pulse>, has_body: bool) -> Busy {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let request = self.request_count.fetch_add(1, Ordering::Relaxed) + 1;
        self.uploading.store(if has_body { request } else { 0 }, Ordering::Relaxed);
        self.began.clear();
        self.head_bytes.store(0, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// The body of the request that came last.
    pub fn upload(self: &Arc<Pulse>) -> Upload {
        Upload { pulse: Arc::clone(self), request: self.request_count.load(Ordering::Relaxed) }
    }

    /// From now on the connection rests, if it does.
    pub fn rest(&self) {
        self.rested.set();
    }

    /// Whether nothing at all of a request is under way, so that hyper holds nothing of it either.
    fn is_between_requests(&self) -> bool {
        let [uploading, requests] = [&self.uploading, &self.requests].map(|it| it.load(Ordering::Relaxed));
        let is_still = self.began.get().is_none() && self.blocked.get().is_none();
        uploading == 0 && requests == 0 && is_still && !self.closing.load(Ordering::Relaxed)
    }

    /// Whether a head was begun and not ended.
    pub fn is_in_head(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0 && self.began.get().is_some()
    }

    /// How much came of the head under way.
    pub fn head_bytes(&self) -> usize {
        self.head_bytes.load(Ordering::Relaxed)
    }

    /// Bytes came while no request was under way.
    pub(super) fn reading_head(&self, bytes: &[u8]) {
        self.head_bytes.fetch_add(bytes.len(), Ordering::Relaxed);
        // RFC 9112 §2.2: some clients end a body with an empty line that belongs to nothing.
        if bytes.iter().any(|byte| !b"\r\n".contains(byte)) {
            self.began.set_first();
        }
    }

    /// What the client will not have done if it goes on doing nothing, and when.
    fn due(&self, limits: &Limits) -> Option<(Instant, Stall)> {
        let blocked = self.blocked.get().map(|since| (since + limits.idle_timeout, Stall::Answer));
        let resting = match (self.requests.load(Ordering::Relaxed), self.began.get()) {
            (0, Some(began)) => Some((began + limits.header_timeout, Stall::Head)),
            (0, None) => self.rested.get().map(|since| {
                let rests = self.tires.load(Ordering::Relaxed) && self.is_between_requests();
                match rests && REST_AFTER < limits.idle_timeout {
                    true => (since + REST_AFTER, Stall::Rest),
                    false => (since + limits.idle_timeout, Stall::Idle),
                }
            }),
            _ => None,
        };
        blocked.into_iter().chain(resting).min_by_key(|(at, _)| *at)
    }

    /// Ends when the client has stood still for too long. To be polled after whatever moves the
    /// connection, in the same task.
    pub async fn stalls(&self, watch: &Watch, limits: &Limits) -> Stall {
        let due = || self.due(limits).into_iter().chain(watch.due.get()).min_by_key(|(at, _)| *at);
        let stall = ringing(due).await;
        if stall == Stall::Rest {
            self.tires.store(false, Ordering::Relaxed);
        }
        stall
    }
}

/// A request under way.
#[derive(Debug)]
pub struct Busy(Arc<Pulse>);

impl Drop for Busy {
    fn drop(&mut self) {
        if self.0.requests.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.rested.set();
            self.0.tires.store(true, Ordering::Relaxed);
        }
    }
}

/// A request's body on its way from the client.
#[derive(Debug)]
pub struct Upload {
    pulse: Arc<Pulse>,
    request: usize,
}

impl Upload {
    /// hyper has read all of it.
    pub fn ended(&self) {
        let uploading = &self.pulse.uploading;
        // Else it is another's by now.
        let _ = uploading.compare_exchange(self.request, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// An answer's body, whose request is under way until it is dropped.
pub struct Held<B> {
    pub body: B,
    pub busy: Busy,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Held<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

tokio::task_local! {
    static WATCH: Rc<Watch>;
}

/// What one task of hyper has handed to its client: an h1 connection, or one stream of an h2 connection.
#[derive(Debug, Default)]
pub struct Watch {
    due: Cell<Option<(Instant, Stall)>>,
    /// hyper has a frame that the client may not have taken yet.
    has_handed: Cell<bool>,
    /// For a stream: how long the client may leave its window shut. On h1 the bytes below tell better.
    untaken_timeout: Option<Duration>,
}

impl Watch {
    /// Runs `task` under a watch of its own.
    pub async fn over<F: Future>(self: Rc<Watch>, task: F) -> F::Output {
        WATCH.scope(self, task).await
    }

    /// hyper asks for more, or the body is gone.
    pub fn asked() {
        Watch::set(false, |_| None);
    }

    /// hyper has a frame and will ask again when the client has taken it; `deadline` is the whole exchange's.
    pub fn handed(deadline: Option<Instant>) {
        Watch::set(true, |watch| {
            let untaken = watch.untaken_timeout.map(|timeout| (Instant::now() + timeout, Stall::Answer));
            deadline.map(|at| (at, Stall::Whole)).into_iter().chain(untaken).min_by_key(|(at, _)| *at)
        });
    }

    /// The one that this task runs under.
    pub fn current() -> Option<Rc<Watch>> {
        WATCH.try_with(Rc::clone).ok()
    }

    /// What was handed over is not waited for: unless hyper asks for more when it is next woken, its task ends.
    pub fn end(&self) {
        if self.has_handed.get() {
            self.due.set(Some((Instant::now(), Stall::Ended)));
        }
    }

    fn set(handed: bool, due: impl FnOnce(&Watch) -> Option<(Instant, Stall)>) {
        // Outside of a connection, as in unit tests, nobody watches.
        let _ = WATCH.try_with(|watch| {
            watch.has_handed.set(handed);
            watch.due.set(due(watch));
        });
    }
}

/// Runs hyper's task for one h2 stream; the stream is reset if its client does not take its answer.
pub async fn stream<F: Future<Output = ()>>(task: F, untaken_timeout: Duration) -> Result<(), Stall> {
    let watch = Rc::new(Watch { untaken_timeout: Some(untaken_timeout), ..Watch::default() });
    tokio::select! {
        biased;
        () = Rc::clone(&watch).over(task) => Ok(()),
        stall = ringing(|| watch.due.get()) => Err(stall),
    }
}

/// Ends when what is due is over. `due` is asked anew at each poll.
async fn ringing(due: impl Fn() -> Option<(Instant, Stall)>) -> Stall {
    let mut alarm: Option<Pin<Box<Sleep>>> = None;
    std::future::poll_fn(|cx| {
        loop {
            let Some((at, stall)) = due() else { return Poll::Pending };
            let alarm = alarm.get_or_insert_with(|| Box::pin(sleep_until(at)));
            // One that rings too early is moved when it does: timers cost more than looking twice.
            if at < alarm.deadline() {
                alarm.as_mut().reset(at);
            }
            ready!(alarm.as_mut().poll(cx));
            if at <= Instant::now() {
                return Poll::Ready(stall);
            }
            alarm.as_mut().reset(at);
        }
    })
    .await
}
