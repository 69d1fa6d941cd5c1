//! Bodies on their way through: metered, bounded, and never cut short quietly.
//!
//! Both directions stream with back-pressure; nothing is collected. A body that breaks ends in an
//! error, which hyper turns into an aborted message: the other side never takes a part for the whole.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use super::exchange::note;
use super::headers;
use super::refusal::Refusal;
use super::stall::{Upload, Watch};
use super::underway::Underway;
use crate::audit::Draft;
use crate::metrics::Limit;
use crate::upstream::{self, UpstreamError};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What is wrong with a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is larger than its route takes.
    TooLarge,
    /// Its chunks or trailers are none (RFC 9112 §7.1).
    Malformed,
}

/// A request's body on its way to an upstream. How long it may stand still is the upstream's to judge.
pub struct RequestBody {
    inner: Incoming,
    underway: Rc<Underway>,
    bytes_max: u64,
    upload: Upload,
}

impl RequestBody {
    /// `bytes_max` bounds the whole body.
    pub fn new(inner: Incoming, underway: &Rc<Underway>, bytes_max: u64, upload: Upload) -> RequestBody {
        if !inner.is_end_stream() {
            underway.uploads();
        }
        RequestBody { inner, underway: Rc::clone(underway), bytes_max, upload }
    }
}

/// Whether the head already says that the body is too large.
pub fn is_too_large(body: &Incoming, bytes_max: u64) -> bool {
    body.size_hint().lower() > bytes_max
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if self.inner.is_end_stream() || frame.is_none() {
            self.upload.ended();
            self.underway.uploaded();
        }
        let Some(frame) = frame else { return Poll::Ready(None) };
        let frame = frame.inspect_err(|error| {
            if is_malformed(error) {
                self.underway.fault.set(Some(Fault::Malformed));
            }
        })?;
        let frame = match frame.into_data() {
            Ok(data) => {
                let seen = self.underway.request_bytes.get().saturating_add(data.len() as u64);
                self.underway.request_bytes.set(seen);
                if seen > self.bytes_max {
                    self.underway.fault.set(Some(Fault::TooLarge));
                    return Poll::Ready(Some(Err("the body is larger than its route takes".into())));
                }
                Frame::data(data)
            }
            Err(frame) => match frame.into_trailers() {
                Ok(mut trailers) => {
                    self.underway.trailers.set(true);
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

/// Whether hyper read something that is no body; else its client went away.
fn is_malformed(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
    cause
        .is_some_and(|cause| matches!(cause.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData))
}

/// The body of every answer.
pub enum Body {
    /// Ours.
    Fixed(Full<Bytes>),
    /// The upstream's.
    Streamed(Box<ResponseBody>),
}

/// An upstream's body on its way to the client. It finishes the record of its request, also when it is
/// dropped in the middle.
pub struct ResponseBody {
    inner: upstream::ResponseBody,
    underway: Rc<Underway>,
    /// What is a stream by its kind has none.
    deadline: Option<Instant>,
    farewell: Farewell,
    /// Rings at the deadline, once something had to be waited for.
    alarm: Option<Pin<Box<Sleep>>>,
    /// The length that was told, if it was: hyper does not ask for the end of a body of known length.
    bytes_told: Option<u64>,
    /// Taken at the end.
    draft: Option<Draft>,
}

/// How a client is told that what it was permitted goes on no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// Its answer is broken off, so that nobody takes a part for the whole.
    Abort,
    /// By `grpc-status`, in the trailers that every such answer ends with.
    Grpc,
}

impl ResponseBody {
    /// At `deadline` the answer is broken off; and when what it rests on has ended, as `farewell` says.
    pub fn new(
        inner: upstream::ResponseBody,
        underway: Rc<Underway>,
        deadline: Option<Instant>,
        farewell: Farewell,
        draft: Draft,
    ) -> ResponseBody {
        let bytes_told = inner.size_hint().exact();
        if !inner.is_end_stream() {
            underway.answers();
        }
        ResponseBody { inner, underway, deadline, farewell, alarm: None, bytes_told, draft: Some(draft) }
    }

    /// Whether all of it was passed on.
    fn is_complete(&self) -> bool {
        self.inner.is_end_stream() || self.bytes_told == Some(self.underway.response_bytes.get())
    }

    /// Whether the deadline is over; if `waits`, `cx` is woken when it is.
    fn is_over(&mut self, waits: bool, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = self.deadline else { return false };
        if !waits {
            return deadline <= Instant::now();
        }
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        alarm.as_mut().poll(cx).is_ready()
    }

    fn finish(&mut self, failed: Option<Refusal>) {
        if let Some(mut draft) = self.take_draft() {
            failed.iter().for_each(|refusal| note(&mut draft, refusal));
            draft.finish();
        }
    }

    /// Why an answer that began has no end.
    fn broken(&self, error: &UpstreamError) -> Refusal {
        match (self.underway.fault.get(), error) {
            (Some(fault), _) => fault.into(),
            (None, UpstreamError::Unavailable(why)) => {
                let bytes = self.underway.response_bytes.get();
                let told = format!("it broke its answer off after {bytes} bytes: {why}");
                Refusal::from(error).because(told)
            }
            (None, error) => error.into(),
        }
    }

    /// Finishes the record of an answer that is permitted no longer, and says so to the client.
    fn end(&mut self) -> Option<Result<Frame<Bytes>, BoxError>> {
        let mut draft = self.take_draft()?;
        let ending = self.underway.ended()?;
        let farewell = match self.farewell {
            Farewell::Abort => Err(format!("permitted no longer: {}", ending.refusal.reason).into()),
            Farewell::Grpc => Ok(Frame::trailers(ending.refusal.trailers(&draft.id().to_string()))),
        };
        ending.note(&mut draft);
        draft.finish();
        Some(farewell)
    }

    fn take_draft(&mut self) -> Option<Draft> {
        let mut draft = self.draft.take()?;
        draft.moved(self.underway.request_bytes.get(), self.underway.response_bytes.get());
        Some(draft)
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Watch::asked();
        if self.underway.ending(cx).is_some() {
            return Poll::Ready(self.end());
        }
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if self.is_over(polled.is_pending(), cx) {
            self.finish(Some(Refusal::over(Limit::TotalTimeout)));
            return Poll::Ready(Some(Err("the time of this exchange is over".into())));
        }
        let mut frame = ready!(polled);
        match &mut frame {
            None => self.finish(None),
            Some(Err(error)) => {
                let refusal = self.broken(error);
                self.finish(Some(refusal));
            }
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    headers::for_trailers(trailers);
                }
                let seen = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.underway.response_bytes.set(self.underway.response_bytes.get().saturating_add(seen));
                Watch::handed(self.deadline);
                self.underway.handed();
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        Watch::asked();
        if self.is_complete() {
            self.finish(None);
        } else if self.underway.ended().is_some() {
            self.end();
        } else {
            drop(self.take_draft());
        }
    }
}

impl Default for Body {
    fn default() -> Body {
        Body::Fixed(Full::default())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Body::Fixed(body) => {
                Watch::handed(None);
                Pin::new(body).poll_frame(cx).map_err(|never| match never {})
            }
            Body::Streamed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Fixed(body) => body.is_end_stream(),
            Body::Streamed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Fixed(body) => body.size_hint(),
            Body::Streamed(body) => body.size_hint(),
        }
    }
}
