//! The two bodies of an exchange and what ties them: neither outlives the other's failure.
//!
//! - The client's body breaks: the upstream request is aborted and the response fails with
//!   [`UpstreamError::ClientGone`].
//! - The response ends, breaks or is dropped: the request body is cut, so an upstream that answers early
//!   is not fed any further.
//! - A connection goes back to its pool only if both ended well.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::refusal::refused;
use super::settings::UpstreamSettings;
use super::slot::Lease;
use super::{UpstreamError, Wait, in_full};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long a client that expects `100 Continue` waits for the upstream's before its body is asked for
/// all the same (RFC 9110 §10.1.1).
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

/// What both bodies and the wait for the response know of each other. All on one core.
pub(super) struct Exchange {
    sent: Cell<bool>,
    cut: Cell<bool>,
    /// hyper asked for more and the client had none.
    starved: Cell<bool>,
    moved_at: Cell<Instant>,
    client_error: RefCell<Option<String>>,
    waker: Cell<Option<Waker>>,
}

impl Exchange {
    pub fn begin() -> Rc<Exchange> {
        Rc::new(Exchange {
            sent: Cell::new(false),
            cut: Cell::new(false),
            starved: Cell::new(false),
            moved_at: Cell::new(Instant::now()),
            client_error: RefCell::default(),
            waker: Cell::default(),
        })
    }

    /// A new attempt; nothing of the body was touched before it.
    pub fn restart(&self) {
        self.moved_at.set(Instant::now());
    }

    pub fn is_sent(&self) -> bool {
        self.sent.get()
    }

    /// From now on the request body fails instead of going on; nothing happens to one that was sent.
    pub fn cut(&self) {
        if self.sent.get() {
            return;
        }
        self.cut.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The client's failure, if that is what broke the exchange.
    pub fn client_gone(&self) -> Option<UpstreamError> {
        self.client_error.borrow().clone().map(UpstreamError::ClientGone)
    }

    /// Until when the response may keep us waiting as things stand, and whose fault it is then.
    pub fn patience(&self, settings: &UpstreamSettings) -> (Instant, UpstreamError) {
        let moved = self.moved_at.get();
        if self.sent.get() {
            (moved + settings.first_byte_timeout, UpstreamError::Timeout(Wait::FirstByte))
        } else if self.starved.get() {
            let stalled = "the request body stood still for `idle_timeout`".to_owned();
            (moved + settings.idle_timeout, UpstreamError::ClientGone(stalled))
        } else {
            (moved + settings.idle_timeout, UpstreamError::Timeout(Wait::Idle))
        }
    }
}

/// The client's body on its way to an upstream.
pub(super) struct RequestBody {
    inner: Pin<Box<dyn Body<Data = Bytes, Error = BoxError>>>,
    exchange: Rc<Exchange>,
    go_ahead: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

/// Why hyper gets no more of the request body.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestBodyError {
    #[error("the client's body broke")]
    Client(#[source] BoxError),
    #[error("the response ended before the request")]
    Cut,
}

impl RequestBody {
    pub fn new<B>(body: B, exchange: Rc<Exchange>) -> RequestBody
    where
        B: Body<Data = Bytes> + 'static,
        B::Error: Into<BoxError>,
    {
        let inner = Box::pin(http_body_util::BodyExt::map_err(body, Into::into));
        exchange.sent.set(inner.is_end_stream());
        RequestBody { inner, exchange, go_ahead: None }
    }

    /// Holds the body back until `continued` is notified, for [`CONTINUE_TIMEOUT`] at most. Not asking
    /// for the body is what keeps the listener from sending the client its `100 Continue`.
    pub fn wait_for(&mut self, continued: Arc<Notify>) {
        self.go_ahead = Some(Box::pin(async move {
            // Either way the body is due now.
            let _ = timeout(CONTINUE_TIMEOUT, continued.notified()).await;
        }));
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let this = &mut *self;
        let exchange = &this.exchange;
        if exchange.cut.get() {
            return Poll::Ready(Some(Err(RequestBodyError::Cut)));
        }
        exchange.waker.set(Some(cx.waker().clone()));
        if let Some(go_ahead) = &mut this.go_ahead {
            std::task::ready!(go_ahead.as_mut().poll(cx));
            this.go_ahead = None;
            exchange.moved_at.set(Instant::now());
        }
        let polled = this.inner.as_mut().poll_frame(cx);
        exchange.starved.set(polled.is_pending());
        let frame = std::task::ready!(polled);
        exchange.moved_at.set(Instant::now());
        match frame {
            Some(Ok(frame)) => {
                exchange.sent.set(frame.is_trailers() || this.inner.is_end_stream());
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                exchange.client_error.replace(Some(in_full(&*error)));
                Poll::Ready(Some(Err(RequestBodyError::Client(error))))
            }
            None => {
                exchange.sent.set(true);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The upstream's body on its way to the client. Dropping it before its end aborts the request.
pub struct ResponseBody {
    incoming: Incoming,
    exchange: Rc<Exchange>,
    /// The connection; gone after the end or a failure.
    lease: Option<Lease>,
    failed: Option<UpstreamError>,
    idle_timeout: Duration,
    waiting_since: Option<Instant>,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl ResponseBody {
    pub(super) fn new(
        incoming: Incoming,
        exchange: Rc<Exchange>,
        lease: Lease,
        idle_timeout: Duration,
    ) -> ResponseBody {
        let mut body = ResponseBody {
            incoming,
            exchange,
            lease: Some(lease),
            failed: None,
            idle_timeout,
            waiting_since: None,
            alarm: None,
        };
        if body.incoming.is_end_stream() {
            body.end();
        }
        body
    }

    fn end(&mut self) {
        self.alarm = None;
        if let Some(lease) = self.lease.take() {
            lease.end(&self.exchange);
        }
    }

    fn fail(&mut self, error: UpstreamError) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        self.alarm = None;
        self.exchange.cut();
        self.lease = None;
        self.failed = Some(error.clone());
        Poll::Ready(Some(Err(error)))
    }

    /// Ready when neither body has moved for the idle timeout while the client waited for more.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        loop {
            let deadline = since.max(self.exchange.moved_at.get()) + self.idle_timeout;
            // An alarm set earlier rings too early, never too late: it is moved only when it rings.
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
            std::task::ready!(alarm.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(deadline);
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.exchange.cut();
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        let this = &mut *self;
        if let Some(error) = &this.failed {
            return Poll::Ready(Some(Err(error.clone())));
        }
        // Cutting the request may reset the stream: what comes from it after its end means nothing.
        if this.lease.is_none() {
            return Poll::Ready(None);
        }
        match Pin::new(&mut this.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.waiting_since = None;
                // A body of known length is not asked for its end.
                if frame.is_trailers() || this.incoming.is_end_stream() {
                    this.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                let blame = this.exchange.client_gone();
                let blame = blame.or_else(|| this.lease.as_ref().and_then(Lease::refusal));
                let blame = blame.unwrap_or_else(|| refused(&error, "its body"));
                this.fail(blame)
            }
            Poll::Ready(None) => {
                this.end();
                Poll::Ready(None)
            }
            Poll::Pending => match this.poll_idle(cx) {
                Poll::Ready(()) => this.fail(UpstreamError::Timeout(Wait::Idle)),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.failed.is_none() && self.lease.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
