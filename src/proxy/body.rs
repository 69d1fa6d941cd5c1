//! Bodies on their way through: metered, bounded, and never cut short quietly.
//!
//! Both directions stream with back-pressure; nothing is collected. A body that breaks ends in an
//! error, which hyper turns into an aborted message: the other side never takes a part for the whole.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use super::headers;
use crate::audit::Reason;
use crate::upstream;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What one exchange carried; shared by its two bodies and its record.
#[derive(Debug, Default)]
pub struct Meter {
    pub request_bytes: Cell<u64>,
    pub response_bytes: Cell<u64>,
    /// The request's body was larger than its route takes.
    pub too_large: Cell<bool>,
}

/// A request's body on its way to an upstream. How long it may stand still is the upstream's to judge.
pub struct RequestBody {
    inner: Incoming,
    meter: Rc<Meter>,
    bytes_max: u64,
}

impl RequestBody {
    /// `bytes_max` bounds the whole body.
    pub fn new(inner: Incoming, meter: Rc<Meter>, bytes_max: u64) -> RequestBody {
        RequestBody { inner, meter, bytes_max }
    }

    /// Whether the head already says that the body is too large.
    pub fn is_too_large(&self) -> bool {
        self.inner.size_hint().lower() > self.bytes_max
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(cx)) else { return Poll::Ready(None) };
        let frame = match frame?.into_data() {
            Ok(data) => {
                let seen = self.meter.request_bytes.get().saturating_add(data.len() as u64);
                self.meter.request_bytes.set(seen);
                if seen > self.bytes_max {
                    self.meter.too_large.set(true);
                    return Poll::Ready(Some(Err("the body is larger than its route takes".into())));
                }
                Frame::data(data)
            }
            Err(frame) => match frame.into_trailers() {
                Ok(mut trailers) => {
                    headers::for_trailers(&mut trailers);
                    Frame::trailers(trailers)
                }
                Err(other) => other,
            },
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// How an answer's body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Complete,
    /// Broken off, by the upstream, by the clock or by the client that did not send its part.
    Failed(Reason),
    /// By hyper: the client is gone.
    Dropped,
}

/// An answer's body on its way to the client. `end` is called exactly once, also when the client goes
/// away in the middle.
pub struct ResponseBody<F: FnOnce(Ending)> {
    inner: upstream::ResponseBody,
    meter: Rc<Meter>,
    deadline: Pin<Box<Sleep>>,
    end: Option<F>,
}

impl<F: FnOnce(Ending)> ResponseBody<F> {
    pub fn new(inner: upstream::ResponseBody, meter: Rc<Meter>, deadline: Instant, end: F) -> ResponseBody<F> {
        ResponseBody { inner, meter, deadline: Box::pin(sleep_until(deadline)), end: Some(end) }
    }

    fn ended(&mut self, how: Ending) {
        if let Some(end) = self.end.take() {
            end(how);
        }
    }

    fn failed(&mut self, reason: Reason, error: BoxError) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.ended(Ending::Failed(reason));
        Poll::Ready(Some(Err(error)))
    }
}

impl<F: FnOnce(Ending) + Unpin> Body for ResponseBody<F> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.deadline.as_mut().poll(cx).is_ready() {
            return self.failed(Reason::UpstreamTimeout, "the time of this exchange is over".into());
        }
        match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            None => {
                self.ended(Ending::Complete);
                Poll::Ready(None)
            }
            Some(Err(error)) if self.meter.too_large.get() => self.failed(Reason::LimitExceeded, error.into()),
            Some(Err(error)) => self.failed(Reason::from(&error), error.into()),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    let seen = self.meter.response_bytes.get().saturating_add(data.len() as u64);
                    self.meter.response_bytes.set(seen);
                }
                Poll::Ready(Some(Ok(frame)))
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

impl<F: FnOnce(Ending)> Drop for ResponseBody<F> {
    fn drop(&mut self) {
        // hyper does not ask a body for its end that already says that it is there.
        let complete = self.inner.is_end_stream();
        self.ended(if complete { Ending::Complete } else { Ending::Dropped });
    }
}
