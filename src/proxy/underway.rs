//! What was permitted and goes on. A body that still streams, in either direction, and a tunnel are judged again
//! whenever that may come out otherwise, and end when it does.
//!
//! Invariants:
//! - Each core keeps a list of its own; what is over soon costs a place in it, and nothing for each frame.
//! - One task a core judges again: after each reload whatever was judged by an earlier generation, and every
//!   [`PERIOD`] what has come to the end of what it was permitted upon. The steps are those of a new request.
//! - A request that was sent whole and waits for its answer is left to it: it was one action, permitted when it
//!   was asked for, and who is refused in the middle of it asks for it twice.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use slab::Slab;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::basis::{Basis, judge_again};
use super::body::Fault;
use super::connection::Connection;
use super::generation::Generation;
use super::in_flight::Share;
use super::normalize::Asked;
use super::refusal::Refusal;
use super::stall::Watch;
use super::worker::Worker;
use crate::audit::{Draft, Reason};
use crate::clock::Timestamp;
use crate::policy::Decision;
use crate::token::ASK_TIMEOUT;
use crate::upstream::Served;

/// How often it is looked whether a time has come.
const PERIOD: Duration = Duration::from_millis(250);
/// For how long a stream goes on while what judges it is waited for, as keys that are fetched: who asked anew
/// would not be let in meanwhile.
const JUDGING_TIMEOUT: Duration = Duration::from_millis(500);
/// The same where its issuer is asked: whoever asked anew would wait for that, too.
const OPAQUE_TIMEOUT: Duration = ASK_TIMEOUT.saturating_add(JUDGING_TIMEOUT);
/// How many are judged before others have their turn: a reload may find thousands.
const AT_ONCE: usize = 16;

/// One exchange that was permitted and is not over: what it carried and what it rests on. Its two bodies, or its
/// tunnel, share it.
pub struct Underway {
    pub request_bytes: Cell<u64>,
    pub response_bytes: Cell<u64>,
    /// The request's body had trailers.
    pub trailers: Cell<bool>,
    /// What broke the request's body, if it was no one's going away.
    pub fault: Cell<Option<Fault>>,
    uploading: Cell<bool>,
    answering: Cell<bool>,
    connection: Rc<Connection>,
    basis: Basis,
    /// Where it goes, if who that is had to be shown.
    server: RefCell<Option<Rc<Served>>>,
    /// The generation that judged it last, and for how long that holds.
    judged: Cell<(u64, Timestamp)>,
    is_being_judged: Cell<bool>,
    ending: OnceCell<Ending>,
    /// Of hyper's task that it moves in.
    waker: RefCell<Option<Waker>>,
    watch: OnceCell<Option<Rc<Watch>>>,
    place: (Rc<Roll>, Cell<Option<usize>>),
    /// Of what its client may have, until it is over.
    _share: Option<Share>,
}

/// Why what was permitted goes on no longer.
pub struct Ending {
    pub refusal: Refusal,
    /// What decided so, if it came to a decision.
    pub decision: Option<Decision>,
    /// The generation that judged it.
    pub generation: Arc<Generation>,
}

/// All of one core.
#[derive(Default)]
pub struct Roll {
    entries: RefCell<Slab<Weak<Underway>>>,
    /// Nobody looks, since there was nothing.
    rests: Cell<bool>,
    entered: Notify,
}

impl Underway {
    /// It rests on `basis`, was judged by the generation with this number, and that holds up to a moment.
    pub fn new(
        worker: &Worker,
        connection: &Rc<Connection>,
        basis: Basis,
        judged: (u64, Timestamp),
        share: Option<Share>,
    ) -> Rc<Underway> {
        Rc::new(Underway {
            request_bytes: Cell::new(0),
            response_bytes: Cell::new(0),
            trailers: Cell::new(false),
            fault: Cell::new(None),
            uploading: Cell::new(false),
            answering: Cell::new(false),
            connection: Rc::clone(connection),
            basis,
            server: RefCell::default(),
            judged: Cell::new(judged),
            is_being_judged: Cell::new(false),
            ending: OnceCell::new(),
            waker: RefCell::new(None),
            watch: OnceCell::new(),
            place: (Rc::clone(&worker.roll), Cell::new(None)),
            _share: share,
        })
    }

    /// It goes to this server, which is none that `generation` knows to be revoked.
    pub fn reached(&self, server: Option<&Rc<Served>>, generation: u64) {
        let (_, until) = self.judged.get();
        self.judged.set((generation, server.map_or(until, |server| until.min(server.until()))));
        self.server.replace(server.map(Rc::clone));
    }

    /// The request's body streams from now on.
    pub fn uploads(self: &Rc<Underway>) {
        self.uploading.set(true);
        self.enter();
    }

    /// All of it was read.
    pub fn uploaded(&self) {
        self.uploading.set(false);
    }

    /// The answer streams from now on, or the tunnel stands.
    pub fn answers(self: &Rc<Underway>) {
        self.answering.set(true);
        self.enter();
    }

    fn enter(self: &Rc<Underway>) {
        let (roll, place) = &self.place;
        if place.get().is_none() {
            place.set(Some(roll.entries.borrow_mut().insert(Rc::downgrade(self))));
            if roll.rests.take() {
                roll.entered.notify_one();
            }
        }
    }

    /// What is asked, as it was judged.
    pub fn asked(&self) -> &Asked {
        &self.basis.asked
    }

    /// Why it is to end, if it is. Else `cx` is woken when it is.
    pub fn ending(&self, cx: &Context<'_>) -> Option<&Ending> {
        let ending = self.ending.get();
        if ending.is_none() {
            let mut waker = self.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
        }
        ending
    }

    /// Why it ended, if it did not end by itself.
    pub fn ended(&self) -> Option<&Ending> {
        self.ending.get()
    }

    /// Waits until it is to end.
    pub async fn ends(&self) -> &Ending {
        poll_fn(|cx| self.ending(cx).map_or(Poll::Pending, Poll::Ready)).await
    }

    /// Waits until it is to end within the request's body.
    pub async fn ends_uploading(&self) -> &Ending {
        poll_fn(|cx| match self.ending(cx) {
            Some(ending) if self.uploading.get() => Poll::Ready(ending),
            _ => Poll::Pending,
        })
        .await
    }

    /// A frame goes to hyper, which asks for no other before the client took this one.
    pub fn handed(&self) {
        self.watch.get_or_init(Watch::current);
    }

    fn is_due(&self, generation: u64, now: Timestamp) -> bool {
        let (judged, until) = self.judged.get();
        let streams = self.uploading.get() || self.answering.get();
        streams
            && (judged != generation || until <= now)
            && self.ending.get().is_none()
            && !self.is_being_judged.replace(true)
    }

    async fn judge(self: Rc<Underway>, worker: Rc<Worker>, generation: Arc<Generation>) {
        let clock = &worker.shared.clock;
        let (leaves, basis) = (&worker.shared.leaves, &self.basis);
        let judging = judge_again(&generation, &self.connection, basis, leaves, clock);
        let (limit, detail) = match basis.known_by.is_asked_about() {
            true => (OPAQUE_TIMEOUT, "its issuer is waited for"),
            false => (JUDGING_TIMEOUT, "its keys are waited for"),
        };
        // A panic ends this one alone, and not all that its core serves.
        let outcome = match AssertUnwindSafe(timeout(limit, judging)).catch_unwind().await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err((Refusal::of(Reason::IssuerUnavailable).because(detail), None)),
            Err(_) => Err((Refusal::of(Reason::Internal), None)),
        };
        self.is_being_judged.set(false);
        // Only now: it may go elsewhere since.
        let server = self.server.borrow().as_ref().map(Rc::clone);
        let outcome = match (outcome, server) {
            (Ok(until), Some(server)) => {
                let server = server.again(&generation.upstreams, &generation.revocations);
                server.map(|server| until.min(server)).map_err(|error| (Refusal::from(&error), None))
            }
            (outcome, _) => outcome,
        };
        match outcome {
            Ok(until) => self.judged.set((generation.number, until)),
            Err((refusal, decision)) => self.end(Ending { refusal, decision, generation }),
        }
    }

    fn end(&self, ending: Ending) {
        // It ends once.
        let _ = self.ending.set(ending);
        if let Some(Some(watch)) = self.watch.get() {
            watch.end();
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let (roll, place) = &self.place;
        if let Some(place) = place.get() {
            roll.entries.borrow_mut().try_remove(place);
        }
    }
}

impl Ending {
    /// Says in the record why it ended.
    pub fn note(&self, draft: &mut Draft) {
        if let Some(limit) = self.refusal.limit {
            draft.over(limit);
        }
        let (detail, policy) = (self.refusal.detail.as_deref(), &self.generation.policy);
        draft.ended(self.refusal.reason, detail, policy, self.decision.as_ref());
    }
}

impl Roll {
    /// Those that are to be judged again.
    fn due(&self, generation: u64, now: Timestamp) -> Vec<Rc<Underway>> {
        let entries = self.entries.borrow();
        let all = entries.iter().filter_map(|(_, entry)| entry.upgrade());
        all.filter(|underway| underway.is_due(generation, now)).collect()
    }

    async fn occupied(&self) {
        while self.entries.borrow().is_empty() {
            self.rests.set(true);
            self.entered.notified().await;
        }
    }
}

/// Judges again for as long as the core serves.
pub async fn keep_judging(worker: Rc<Worker>) {
    let shared = &worker.shared;
    let mut reloaded = shared.reloaded.subscribe();
    loop {
        worker.roll.occupied().await;
        tokio::select! {
            () = sleep(PERIOD) => {}
            // Only together with all else that ends.
            _ = reloaded.changed() => {}
        }
        let generation = shared.generation.load_full();
        let due = worker.roll.due(generation.number, shared.clock.now());
        for some in due.chunks(AT_ONCE) {
            for underway in some {
                let judging = Rc::clone(underway).judge(Rc::clone(&worker), Arc::clone(&generation));
                let mut judging = Box::pin(judging);
                // Most often nothing has to be waited for.
                if futures_util::poll!(judging.as_mut()).is_pending() {
                    worker.tasks.spawn_local(judging);
                }
            }
            tokio::task::yield_now().await;
        }
    }
}
