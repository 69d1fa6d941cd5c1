//! What HTTP/1 and HTTP/2 connections have in common: their requests, and their end.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::{Body as _, Incoming};
use hyper::service::Service;
use tokio::time::sleep;

use super::body::Body;
use super::connection::Connection;
use super::exchange::exchange;
use super::generation::Shared;
use super::limits::Limits;
use super::stall::{Held, Stall, Watch};
use super::worker::Worker;
use crate::metrics::Limit;

/// Requests of one connection as hyper hands them over.
#[derive(Clone)]
pub struct Requests {
    worker: Rc<Worker>,
    connection: Rc<Connection>,
}

impl Requests {
    pub fn of(connection: &Rc<Connection>, worker: &Rc<Worker>) -> Requests {
        Requests { worker: Rc::clone(worker), connection: Rc::clone(connection) }
    }
}

impl Service<Request<Incoming>> for Requests {
    type Response = Response<Held<Body>>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        let Requests { worker, connection } = self.clone();
        let busy = connection.busy(!request.body().is_end_stream());
        let is_http1 = request.version() <= Version::HTTP_11;
        let answering = exchange(Rc::clone(&worker), Rc::clone(&connection), request);
        // A combinator: an `async` block would hold the large future twice.
        Box::pin(answering.map(move |mut answer| {
            let is_last = connection.ending.get() || connection.is_outdated(&worker.shared.generation.load());
            // RFC 9112 §9.6: a client that is told sends nothing more that would be lost.
            if is_last && is_http1 && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(answer.map(|body| Held { body, busy }))
        }))
    }
}

pub type Answer = Pin<Box<dyn Future<Output = Result<Response<Held<Body>>, Infallible>>>>;

/// What moves one connection: hyper.
pub trait Serving: Future<Output = hyper::Result<()>> {
    /// Serves what is under way, and no more.
    fn ask_to_end(self: Pin<&mut Self>);

    /// Gives back what is of no use while the client asks for nothing.
    fn rest(self: Pin<&mut Self>);
}

/// How a connection ended.
#[derive(Debug)]
pub enum Ended {
    /// In hyper's words.
    Served(hyper::Result<()>),
    /// Its client stood still.
    Stalled(Stall),
    /// By us: at the drain's deadline, or since nothing vouches for its peer any more.
    Cut,
}

/// For how long what is under way goes on after a reload took away what vouched for its peer: a refusal on its
/// way arrives, a download does not.
const DISOWNED_WAIT: Duration = Duration::from_secs(1);

/// Drives a connection. It is asked to end (GOAWAY, `Connection: close`) when the drain begins, when a
/// reload changes its listener's TLS, at its maximum age, and when its client asks for nothing; it is cut
/// at the drain's deadline, when its client stands still within a request, and after [`DISOWNED_WAIT`].
pub async fn until_ended(
    worker: &Worker,
    connection: &Connection,
    limits: &Limits,
    (watch, last_request_wait): (&Watch, Duration),
    mut serving: Pin<&mut impl Serving>,
) -> Ended {
    let shared = &worker.shared;
    let leaves = Cell::new(false);
    let leaving = async {
        tokio::select! {
            () = shared.draining.cancelled() => {}
            () = outdated(worker, connection) => {}
            () = sleep(limits.connection_age_max) => {}
        }
        connection.ending.set(true);
        sleep(last_request_wait).await;
        leaves.set(true);
        std::future::pending::<()>().await;
    };
    let disowned = async {
        let error = connection.disowned(shared).await;
        sleep(DISOWNED_WAIT).await;
        error
    };
    let cut = async {
        tokio::select! {
            biased;
            () = shared.stopped.cancelled() => shared.audit.cut(),
            error = disowned => connection.cut(&error),
            () = leaving => {}
        }
    };
    // For this alone: it is not polled whenever the client moves, but when it was itself woken.
    let mut cut = FuturesUnordered::from_iter([cut]);
    let mut asked = false;
    loop {
        tokio::select! {
            biased;
            ended = serving.as_mut() => {
                if let Err(error) = &ended {
                    tracing::debug!(%error, "connection ended");
                }
                return Ended::Served(ended);
            }
            _ = cut.next() => return Ended::Cut,
            () = poll_fn(|_| if leaves.take() { Poll::Ready(()) } else { Poll::Pending }) => {}
            stall = connection.pulse.stalls(watch, limits) => match stall {
                Stall::Rest => {
                    serving.as_mut().rest();
                    connection.rest();
                    continue;
                }
                Stall::Idle if !asked => connection.pulse.rest(),
                Stall::Idle | Stall::Head | Stall::Ended => return Ended::Stalled(stall),
                Stall::Answer | Stall::Whole => {
                    untaken(shared, stall);
                    return Ended::Stalled(stall);
                }
            },
        }
        asked = true;
        serving.as_mut().ask_to_end();
    }
}

/// Counts an answer that was not taken in time.
pub fn untaken(shared: &Shared, stall: Stall) {
    match stall {
        Stall::Ended => {}
        Stall::Whole => shared.metrics.limit_hit(Limit::TotalTimeout),
        Stall::Rest | Stall::Idle | Stall::Head | Stall::Answer => {
            shared.metrics.limit_hit(Limit::IdleTimeout);
        }
    }
}

async fn outdated(worker: &Worker, connection: &Connection) {
    let mut reloaded = worker.shared.reloaded.subscribe();
    // Before the first wait too: a reload may have come during the handshake.
    while !connection.is_outdated(&worker.shared.generation.load()) {
        if reloaded.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
