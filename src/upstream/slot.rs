//! One core's connections to one address of an upstream.
//!
//! - h1: a connection serves one request at a time; the one used last is used next, so that the others
//!   can age and be closed.
//! - h2: one dial at a time and address, whoever waits for it shares its outcome; streams are counted
//!   here, since hyper queues what is over the peer's limit instead of saying so.
//! - Each request holds a permit of its address until its response ended: this bounds connections too,
//!   as h1 dials only when no connection is idle, and h2 only when all are full.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Shared;
use hyper::client::conn::{http1, http2};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::body::{Exchange, RequestBody};
use super::connect::{Connected, Offer, Sender, connect};
use super::discovery::Upstream;
use super::endpoint::{Counted, Counters, Endpoint};
use super::head::HeadBudget;
use super::refusal::Refusal;
use super::served::{Errand, Served};
use super::{UpstreamError, Wait};

/// An endpoint as this core sees it.
pub(super) struct Slot {
    pub endpoint: Arc<Endpoint>,
    pub counters: Arc<Counters>,
    upstream: Arc<Upstream>,
    permits: Arc<Semaphore>,
    pending: Cell<usize>,
    idle: RefCell<Vec<H1>>,
    h2: RefCell<Vec<Rc<H2>>>,
    /// The server chose h1 when offered both.
    prefers_h1: Cell<bool>,
    dialing: RefCell<Option<Dialing>>,
}

/// A dial that several requests wait for; its connection is in the slot when it ends.
type Dialing = Shared<oneshot::Receiver<Result<(), UpstreamError>>>;

/// A connection for one request, with its place among those in flight.
pub(super) struct Lease {
    pub link: Link,
    /// Whether the connection may serve another request after this one.
    pub reusable: bool,
    slot: Rc<Slot>,
    _permit: OwnedSemaphorePermit,
    _in_flight: Counted,
}

pub(super) enum Link {
    H1(H1),
    H2(Stream),
}

/// Dropping it closes the connection.
pub(super) struct H1 {
    pub sender: http1::SendRequest<RequestBody>,
    pub budget: HeadBudget,
    served: Option<Rc<Served>>,
    refusal: Refusal,
    idle_since: Instant,
    _driver: AbortOnDropHandle<()>,
    _open: Counted,
}

/// hyper closes the connection after the last sender and stream are gone.
struct H2 {
    sender: http2::SendRequest<RequestBody>,
    served: Option<Rc<Served>>,
    refusal: Refusal,
    streams: Cell<usize>,
    idle_since: Cell<Instant>,
    _open: Counted,
}

/// One stream of an h2 connection, counted.
pub(super) struct Stream(Rc<H2>);

/// Why there is no connection.
pub(super) enum NoLease {
    /// Too many requests are there already; no fault of the address.
    Full(UpstreamError),
    Dial(UpstreamError),
}

impl Slot {
    pub fn new(endpoint: &Arc<Endpoint>, upstream: &Arc<Upstream>) -> Rc<Slot> {
        Rc::new(Slot {
            endpoint: Arc::clone(endpoint),
            counters: endpoint.counters_of_a_core(),
            upstream: Arc::clone(upstream),
            permits: Arc::new(Semaphore::new(upstream.settings().limits.in_flight_max)),
            pending: Cell::new(0),
            idle: RefCell::default(),
            h2: RefCell::default(),
            prefers_h1: Cell::new(false),
            dialing: RefCell::default(),
        })
    }

    pub fn load(&self) -> u64 {
        self.counters.in_flight.load(Ordering::Relaxed)
    }

    /// Closes connections that nobody used for so long, and lets go of closed ones.
    pub fn sweep(&self, unused_max: Duration) {
        self.idle.borrow_mut().retain(|h1| !h1.sender.is_closed() && h1.idle_since.elapsed() < unused_max);
        self.h2.borrow_mut().retain(|h2| {
            let unused = h2.streams.get() == 0 && h2.idle_since.get().elapsed() >= unused_max;
            !h2.sender.is_closed() && !unused
        });
    }

    pub fn failed(&self) {
        self.counters.add(|core| &core.failures);
        self.endpoint.failed(self.upstream.settings());
    }

    /// A connection for one request; `fresh` asks for one that never idled (h1).
    pub async fn lease(
        self: &Rc<Slot>,
        offer: Offer,
        fresh: bool,
        errand: &Errand<'_>,
    ) -> Result<Lease, NoLease> {
        let permit = match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => Box::pin(self.wait_for_permit()).await.map_err(NoLease::Full)?,
        };
        let in_flight = Counted::new(&self.counters, |core| &core.in_flight);
        let link = match self.pooled(offer, fresh, errand) {
            Some(link) => link,
            // Boxed: a dial is rare and large, and would make every request's future so.
            None => Box::pin(self.dialed(offer, fresh, errand)).await.map_err(NoLease::Dial)?,
        };
        self.counters.add(|core| &core.requests);
        (errand.reached)(link.served());
        Ok(Lease { link, reusable: true, slot: Rc::clone(self), _permit: permit, _in_flight: in_flight })
    }

    async fn wait_for_permit(&self) -> Result<OwnedSemaphorePermit, UpstreamError> {
        let settings = self.upstream.settings();
        let full = || UpstreamError::Overloaded(self.endpoint.server.settings.to_string());
        if self.pending.get() >= settings.limits.pending_max {
            return Err(full());
        }
        let _waiting = Waiting::new(&self.pending);
        match timeout(settings.connect_timeout, Arc::clone(&self.permits).acquire_owned()).await {
            Ok(permit) => permit.map_err(|_| full()),
            Err(_) => Err(UpstreamError::Timeout(Wait::Connect)),
        }
    }

    /// What is there already.
    fn pooled(&self, offer: Offer, fresh: bool, errand: &Errand<'_>) -> Option<Link> {
        let stream = (offer == Offer::Any).then(|| self.stream(errand)).flatten().map(Link::H2);
        stream.or_else(|| (!fresh).then(|| self.idle_h1(errand)).flatten().map(Link::H1))
    }

    async fn dialed(
        self: &Rc<Slot>,
        offer: Offer,
        fresh: bool,
        errand: &Errand<'_>,
    ) -> Result<Link, UpstreamError> {
        let link = timeout(self.upstream.settings().connect_timeout, self.link(offer, fresh, errand)).await;
        link.unwrap_or(Err(UpstreamError::Timeout(Wait::Connect)))
    }

    async fn link(
        self: &Rc<Slot>,
        offer: Offer,
        fresh: bool,
        errand: &Errand<'_>,
    ) -> Result<Link, UpstreamError> {
        loop {
            if let Some(link) = self.pooled(offer, fresh, errand) {
                return Ok(link);
            }
            if offer == Offer::H1 || self.prefers_h1.get() || !self.endpoint.server.may_speak_h2() {
                let dialed = self.dial(Offer::H1).await?;
                admits(dialed.served.as_ref(), errand)?;
                return Ok(match self.opened(dialed) {
                    Opened::H1(h1) => Link::H1(h1),
                    Opened::H2(h2) => Link::H2(Stream::of(h2)),
                });
            }
            self.shared_dial().await?;
            self.stillborn(errand)?;
        }
    }

    /// An error if the dialed connections died before they served anybody, or must not: dialing on would not end.
    fn stillborn(&self, errand: &Errand<'_>) -> Result<(), UpstreamError> {
        let connections = self.h2.borrow();
        match connections.last() {
            Some(last) if connections.iter().all(|h2| !h2.is_there_for(errand)) => {
                admits(last.served.as_ref(), errand)?;
                let closed = || UpstreamError::Unavailable("the connection was closed at once".to_owned());
                Err(last.refusal.get().cloned().unwrap_or_else(closed))
            }
            _ => Ok(()),
        }
    }

    async fn dial(&self, offer: Offer) -> Result<Connected, UpstreamError> {
        self.counters.add(|core| &core.connects);
        connect(&self.endpoint, offer, &self.upstream).await
    }

    /// Dials unless somebody does; its own task, so that it ends even if nobody waits any more.
    async fn shared_dial(self: &Rc<Slot>) -> Result<(), UpstreamError> {
        let running = self.dialing.borrow().clone();
        let dialing = running.unwrap_or_else(|| {
            let (done, outcome) = oneshot::channel();
            let slot: Weak<Slot> = Rc::downgrade(self);
            spawn_local(async move {
                let Some(slot) = slot.upgrade() else { return };
                let within = slot.upstream.settings().connect_timeout;
                let dialed = timeout(within, slot.dial(Offer::Any)).await;
                let dialed = dialed.unwrap_or(Err(UpstreamError::Timeout(Wait::Connect)));
                let outcome = dialed.map(|dialed| match slot.opened(dialed) {
                    Opened::H1(h1) => {
                        slot.prefers_h1.set(true);
                        slot.idle.borrow_mut().push(h1);
                    }
                    Opened::H2(_) => {}
                });
                slot.dialing.replace(None);
                // Nobody may be waiting any more.
                let _ = done.send(outcome);
            });
            let dialing = outcome.shared();
            self.dialing.replace(Some(dialing.clone()));
            dialing
        });
        dialing.await.unwrap_or_else(|_| Err(UpstreamError::Unavailable("the dial was given up".to_owned())))
    }

    /// A stream on a connection that has room for it.
    fn stream(&self, errand: &Errand<'_>) -> Option<Stream> {
        let mut connections = self.h2.borrow_mut();
        connections.retain(|h2| h2.is_there_for(errand));
        let streams_max = self.upstream.settings().limits.streams_per_connection_max;
        let free = connections.iter().find(|h2| h2.streams.get() < streams_max)?;
        Some(Stream::of(Rc::clone(free)))
    }

    /// The connection used last, if hyper is done with its last exchange. Others that are not ready are
    /// still flushing, or wait for an upstream that never read its request; sweeping ends them.
    fn idle_h1(&self, errand: &Errand<'_>) -> Option<H1> {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|h1| !h1.sender.is_closed() && admits(h1.served.as_ref(), errand).is_ok());
        let at = idle.iter().rposition(|h1| h1.sender.is_ready())?;
        Some(idle.remove(at))
    }

    fn opened(&self, Connected { sender, served, refusal }: Connected) -> Opened {
        let open = Counted::new(&self.counters, |core| &core.connections_open);
        match sender {
            Sender::H1 { sender, driver, budget } => Opened::H1(H1 {
                sender,
                budget,
                served,
                refusal,
                idle_since: Instant::now(),
                _driver: AbortOnDropHandle::new(driver),
                _open: open,
            }),
            Sender::H2 { sender } => {
                let h2 = Rc::new(H2 {
                    sender,
                    served,
                    refusal,
                    streams: Cell::new(0),
                    idle_since: Cell::new(Instant::now()),
                    _open: open,
                });
                self.h2.borrow_mut().push(Rc::clone(&h2));
                Opened::H2(h2)
            }
        }
    }
}

/// A connection that was dialled; one that has streams is in the slot already.
enum Opened {
    H1(H1),
    H2(Rc<H2>),
}

/// Whether a request may go where the connection goes.
fn admits(served: Option<&Rc<Served>>, errand: &Errand<'_>) -> Result<(), UpstreamError> {
    served.map_or(Ok(()), |served| served.admits(errand))
}

impl H2 {
    fn is_there_for(&self, errand: &Errand<'_>) -> bool {
        !self.sender.is_closed() && admits(self.served.as_ref(), errand).is_ok()
    }
}

impl Link {
    fn served(&self) -> Option<&Rc<Served>> {
        match self {
            Link::H1(h1) => h1.served.as_ref(),
            Link::H2(stream) => stream.0.served.as_ref(),
        }
    }
}

impl Lease {
    /// What TLS said about identities on this connection.
    pub fn refusal(&self) -> Option<UpstreamError> {
        let refusal = match &self.link {
            Link::H1(h1) => &h1.refusal,
            Link::H2(stream) => &stream.0.refusal,
        };
        refusal.get().cloned()
    }

    /// The response ended well. If the request did too, the connection is there for the next one.
    pub fn end(self, exchange: &Exchange) {
        if !exchange.is_sent() {
            exchange.cut();
        } else if self.reusable
            && let Link::H1(mut h1) = self.link
        {
            h1.idle_since = Instant::now();
            self.slot.idle.borrow_mut().push(h1);
        }
    }
}

impl Stream {
    fn of(connection: Rc<H2>) -> Stream {
        connection.streams.set(connection.streams.get() + 1);
        Stream(connection)
    }

    pub fn sender(&self) -> http2::SendRequest<RequestBody> {
        self.0.sender.clone()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
        self.0.idle_since.set(Instant::now());
    }
}

/// One more that waits, for as long as it lives.
struct Waiting<'a>(&'a Cell<usize>);

impl Waiting<'_> {
    fn new(count: &Cell<usize>) -> Waiting<'_> {
        count.set(count.get() + 1);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}
