//! Serving HTTP/2: hyper reads the frames, under our limits.

use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::Connection;
use super::frames::Counted;
use super::generation::Shared;
use super::limits::Limits;
use super::serving::{Ended, Requests, Serving, untaken, until_ended};
use super::stall::{self, Stall, Watch};
use super::watched::Watched;
use super::worker::Worker;
use crate::metrics::Limit;

/// Serves one connection until it ends; `start` was read from it before.
pub async fn serve<IO>(worker: &Rc<Worker>, connection: Rc<Connection>, io: IO, start: Bytes, limits: &Limits)
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let shared = Arc::clone(&worker.shared);
    let mut builder = http2::Builder::new(StreamExecutor { untaken_timeout: limits.idle_timeout, shared });
    builder
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(limits.streams_per_connection_max)
        .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(limits.resets_per_connection_max)
        .max_local_error_reset_streams(limits.resets_per_connection_max)
        .keep_alive_interval(limits.idle_timeout)
        .keep_alive_timeout(limits.handshake_timeout);
    let io = Watched::http2(io, &connection.pulse, start);
    let io = TokioIo::new(Counted::new(io, limits, Arc::clone(&worker.shared)));
    let serving = pin!(builder.serve_connection(io, Requests::of(&connection, worker)));
    // Each stream has its own.
    let watch = Watch::default();
    let bounds = (&watch, Duration::ZERO);
    let ended = until_ended(worker, &connection, limits, bounds, serving).await;
    // Else how it ended is no news: its requests have their records.
    if let Ended::Stalled(Stall::Head) = ended {
        worker.shared.metrics.limit_hit(Limit::HeaderTimeout);
    }
}

type Http2<IO> = http2::Connection<TokioIo<Counted<Watched<IO>>>, Requests, StreamExecutor>;

impl<IO: AsyncRead + AsyncWrite + Unpin + 'static> Serving for Http2<IO> {
    fn ask_to_end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }

    /// h2 holds streams in its room, and what both ends know of each other's headers.
    fn rest(self: Pin<&mut Self>) {}
}

/// Runs hyper's tasks, one for each h2 stream, on this core.
#[derive(Clone)]
struct StreamExecutor {
    untaken_timeout: Duration,
    shared: Arc<Shared>,
}

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, task: F) {
        let StreamExecutor { untaken_timeout, shared } = self.clone();
        tokio::task::spawn_local(async move {
            if let Err(stall) = stall::stream(task, untaken_timeout).await {
                untaken(&shared, stall);
            }
        });
    }
}
