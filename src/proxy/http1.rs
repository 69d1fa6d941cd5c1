//! Serving HTTP/1: hyper reads the heads, under our limits.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::Connection;
use super::limits::Limits;
use super::refusal::Refusal;
use super::serving::{Ended, service, until_ended};
use super::stall::{Stall, Watch, Watched};
use super::worker::Worker;
use crate::audit::{Draft, Protocol, Reason};

/// For how long an HTTP/1.1 connection that is to end waits for one more request, to say so in its answer:
/// closing one under a request that is on its way would lose it.
const LAST_REQUEST_WAIT: Duration = Duration::from_secs(1);

/// Serves one connection until it ends; `start` was read from it before.
pub async fn serve<IO>(worker: &Rc<Worker>, connection: Rc<Connection>, io: IO, start: Bytes, limits: &Limits)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    // hyper's clock for heads runs while a connection rests, too.
    builder
        .header_read_timeout(None)
        .max_headers(limits.header_count_max)
        .max_header_size(limits.header_bytes_max);
    let service = service_fn(service(worker, &connection));
    let io = TokioIo::new(Watched::http1(io, &connection.pulse, start));
    let mut serving = pin!(builder.serve_connection(io, service).with_upgrades());
    let watch = Rc::new(Watch::default());
    let bounds = (&*watch, LAST_REQUEST_WAIT);
    let ended = until_ended(worker, &connection, limits, bounds, serving.as_mut(), |it| {
        it.graceful_shutdown();
    });
    let ended = Rc::clone(&watch).over(ended).await;
    record_unread(worker, &connection, limits, &ended);
}

/// A head that hyper did not hand over has its record all the same.
fn record_unread(worker: &Worker, connection: &Connection, limits: &Limits, ended: &Ended<hyper::Error>) {
    let metrics = &worker.shared.metrics;
    let draft = || worker.shared.audit.begin(connection.arrival(None, Protocol::Http11));
    match ended {
        Ended::Served(Err(error)) if error.is_parse() => {
            if error.is_parse_too_large() {
                // hyper has one word for both.
                let has_its_bytes = connection.pulse.head_bytes() >= limits.header_bytes_max;
                metrics.limit_hit(if has_its_bytes { "header_bytes_max" } else { "header_count_max" });
            }
            // To the other preface it does not answer: this is no HTTP/1 at all.
            let answered = !error.is_parse_version_h2();
            refused(draft(), &Refusal::unread(error), answered);
        }
        Ended::Stalled(Stall::Head) => {
            let refusal = Refusal::of(Reason::LimitExceeded);
            refused(draft(), &refusal.because("the head was not complete within `header_timeout`"), false);
        }
        // In the middle of a head; a connection that rests may end as it likes.
        Ended::Served(Err(_)) if connection.pulse.is_in_head() => drop(draft()),
        Ended::Served(_) | Ended::Stalled(_) | Ended::Cut => {}
    }
}

fn refused(mut draft: Draft, refusal: &Refusal, answered: bool) {
    draft.because(refusal.reason);
    if let Some(detail) = &refusal.detail {
        draft.detail(detail);
    }
    if answered {
        draft.answered(refusal.status());
    }
    draft.finish();
}
