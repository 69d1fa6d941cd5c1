//! Serving HTTP/1: hyper reads the heads, under our limits.

use std::future::Future;
use std::mem;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::Connection;
use super::exchange::note;
use super::limits::Limits;
use super::refusal::Refusal;
use super::serving::{Ended, Requests, Serving, until_ended};
use super::stall::{Stall, Watch};
use super::watched::Watched;
use super::worker::Worker;
use crate::audit::{Protocol, Reason};
use crate::identity::Direction;
use crate::metrics::Limit;

/// For how long an HTTP/1.1 connection that is to end waits for one more request, to say so in its answer:
/// closing one under a request that is on its way would lose it.
const LAST_REQUEST_WAIT: Duration = Duration::from_secs(1);

/// The first byte of a TLS connection: its record is one of the handshake (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 22;

/// Serves one connection until it ends; `start` was read from it before.
pub async fn serve<IO>(worker: &Rc<Worker>, connection: Rc<Connection>, io: IO, start: Bytes, limits: &Limits)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let is_tls = start.first() == Some(&TLS_HANDSHAKE);
    let mut builder = http1::Builder::new();
    // hyper's clock for heads runs while a connection rests, too.
    builder
        .header_read_timeout(None)
        .max_headers(limits.header_count_max)
        .max_header_size(limits.header_bytes_max);
    let io = Watched::http1(io, &connection.pulse, start);
    let http1 = Http1 { builder, requests: Requests::of(&connection, worker), state: State::Resting(io) };
    let mut serving = pin!(http1);
    let watch = Rc::new(Watch::default());
    let bounds = (&*watch, LAST_REQUEST_WAIT);
    let ended = until_ended(worker, &connection, limits, bounds, serving.as_mut());
    let ended = Rc::clone(&watch).over(ended).await;
    record_unread(worker, &connection, limits, &ended, is_tls).await;
}

/// A connection that hyper serves while there is something to serve. Between requests all that hyper has is
/// room: it begins anew with the next one.
struct Http1<IO> {
    builder: http1::Builder,
    requests: Requests,
    state: State<IO>,
}

enum State<IO> {
    Serving(Box<Hyper<IO>>),
    Resting(Watched<IO>),
    /// Another protocol has it now.
    Upgraded,
}

type Hyper<IO> = http1::UpgradeableConnection<TokioIo<Watched<IO>>, Requests>;

impl<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static> Http1<IO> {
    fn wake(&mut self) {
        self.state = match mem::replace(&mut self.state, State::Upgraded) {
            State::Resting(io) => {
                let hyper = self.builder.serve_connection(TokioIo::new(io), self.requests.clone());
                State::Serving(Box::new(hyper.with_upgrades()))
            }
            other => other,
        };
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static> Future for Http1<IO> {
    type Output = hyper::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        if let State::Resting(io) = &mut self.state {
            ready!(io.poll_start(cx));
            self.wake();
        }
        match &mut self.state {
            State::Serving(hyper) => Pin::new(hyper).poll(cx),
            State::Resting(_) | State::Upgraded => Poll::Ready(Ok(())),
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static> Serving for Http1<IO> {
    fn ask_to_end(mut self: Pin<&mut Self>) {
        self.wake();
        if let State::Serving(hyper) = &mut self.state {
            Pin::new(&mut **hyper).graceful_shutdown();
        }
    }

    fn rest(mut self: Pin<&mut Self>) {
        self.state = match mem::replace(&mut self.state, State::Upgraded) {
            State::Serving(hyper) => hyper.into_parts().map_or(State::Upgraded, |parts| {
                let mut io = parts.io.into_inner();
                io.put_back(&parts.read_buf);
                State::Resting(io)
            }),
            other => other,
        };
    }
}

/// A head that hyper did not hand over has its record all the same.
async fn record_unread(
    worker: &Worker,
    connection: &Connection,
    limits: &Limits,
    ended: &Ended,
    is_tls: bool,
) {
    let (refusal, answered) = match ended {
        Ended::Served(Err(error)) if error.is_parse() && is_tls => {
            let detail = match connection.direction {
                Direction::Outbound => {
                    "the client speaks TLS to a plain-text port: call `http://…`, an outbound listener makes the TLS \
                     connection itself"
                }
                Direction::Inbound => {
                    "the client speaks TLS to a plain-text port: the `[listener]` has no certificate"
                }
            };
            (Some(Refusal::of(Reason::RequestMalformed).because(detail)), true)
        }
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
