//! Serving HTTP/1: hyper reads the heads, under our limits.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::Connection;
use super::limits::Limits;
use super::serving::{service, until_ended};
use super::stall::{Watch, Watched};
use super::worker::Worker;

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
    let serving = builder.serve_connection(io, service).with_upgrades();
    let watch = Rc::new(Watch::default());
    let serving = until_ended(worker, &connection, limits, (&watch, LAST_REQUEST_WAIT), serving, |it| {
        it.graceful_shutdown();
    });
    Rc::clone(&watch).over(serving).await;
}
