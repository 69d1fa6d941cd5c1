//! What HTTP/1 and HTTP/2 connections have in common: their requests, and their end.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::{Body as _, Incoming};
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
pub fn service(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
) -> impl Fn(Request<Incoming>) -> Answer + use<> {
    let worker = Rc::clone(worker);
    let connection = Rc::clone(connection);
    move |request| {
        let (worker, connection) = (Rc::clone(&worker), Rc::clone(&connection));
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

/// How a connection ended.
#[derive(Debug)]
pub enum Ended<E> {
    /// In hyper's words.
    Served(Result<(), E>),
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
pub async fn until_ended<C, E>(
    worker: &Worker,
    connection: &Connection,
    limits: &Limits,
    (watch, last_request_wait): (&Watch, Duration),
    mut serving: Pin<&mut C>,
    ask_to_end: fn(Pin<&mut C>),
) -> Ended<E>
where
    C: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let shared = &worker.shared;
    let mut due = pin!(async {
        tokio::select! {
            () = shared.draining.cancelled() => {}
            () = outdated(worker, connection) => {}
            () = sleep(limits.connection_age_max) => {}
        }
        connection.ending.set(true);
        sleep(last_request_wait).await;
    });
    let mut disowned = pin!(async {
        let error = connection.disowned(shared).await;
        sleep(DISOWNED_WAIT).await;
        error
    });
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
            () = shared.stopped.cancelled() => {
                shared.audit.cut();
                return Ended::Cut;
            }
            error = disowned.as_mut() => {
                connection.cut(&error);
                return Ended::Cut;
            }
            () = due.as_mut(), if !asked => {}
            stall = connection.pulse.stalls(watch, limits) => match stall {
                Stall::Idle if !asked => connection.pulse.rest(),
                Stall::Idle | Stall::Head => return Ended::Stalled(stall),
                Stall::Answer | Stall::Whole => {
                    untaken(shared, stall);
                    return Ended::Stalled(stall);
                }
            },
        }
        asked = true;
        ask_to_end(serving.as_mut());
    }
}

/// Counts an answer that was not taken in time.
pub fn untaken(shared: &Shared, stall: Stall) {
    let is_whole = stall == Stall::Whole;
    shared.metrics.limit_hit(if is_whole { Limit::TotalTimeout } else { Limit::IdleTimeout });
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
