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
use super::exchange::note;
use super::limits::Limits;
use super::refusal::Refusal;
use super::serving::{Ended, service, until_ended};
use super::stall::{Stall, Watch, Watched};
use super::worker::Worker;
use crate::audit::Protocol;
use crate::metrics::Limit;

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
    record_unread(worker, &connection, limits, &ended).await;
}

/// A head that hyper did not hand over has its record all the same.
async fn record_unread(
    worker: &Worker,
    connection: &Connection,
    limits: &Limits,
    ended: &Ended<hyper::Error>,
) {
    let (refusal, answered) = match ended {
        Ended::Served(Err(error)) if error.is_parse() => {
            let is_too_long = connection.pulse.head_bytes() >= limits.header_bytes_max;
            // To the preface of HTTP/2 it does not answer: that is no HTTP/1 at all.
            (Some(Refusal::unread(error, is_too_long)), !error.is_parse_version_h2())
        }
        Ended::Stalled(Stall::Head) => (Some(Refusal::over(Limit::HeaderTimeout)), false),
        // In the middle of a head; a connection that rests may end as it likes.
        Ended::Served(Err(_)) if connection.pulse.is_in_head() => (None, false),
        Ended::Served(_) | Ended::Stalled(_) | Ended::Cut => return,
    };
    let mut draft = worker.shared.audit.begin(connection.arrival(None, Protocol::Http11));
    // Without one it says, when it is dropped, that the client went away.
    let Some(refusal) = refusal else { return drop(draft) };
    note(&mut draft, &refusal);
    draft.room().await;
    if answered {
        draft.answered(refusal.status());
    }
    draft.finish();
}
