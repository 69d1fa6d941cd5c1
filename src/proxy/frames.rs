//! HTTP/2 frames, counted by their heads on the way to hyper and from it (RFC 9113 §4.1).
//!
//! hyper and h2 read, answer and refuse them. What they bound is what they must remember: streams, header
//! blocks, data that waits. This adds what they do not: the frames that they may be made to read for
//! nothing, and the resets that make work worthless after it was done (RFC 9113 §10.5). And it counts what
//! they refuse by themselves, of which no request and so no record comes to be.

mod tally;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tally::Tally;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame::{Cutter, GOAWAY};
use super::generation::Shared;
use super::limits::Limits;
use crate::metrics::Limit;

const PREFACE_BYTES: usize = 24;
const ENHANCE_YOUR_CALM: u32 = 11;

/// A connection whose frames are counted. Over a limit it ends.
pub struct Counted<IO> {
    io: IO,
    received: Cutter,
    sent: Cutter,
    tally: Tally,
    shared: Arc<Shared>,
}

impl<IO> Counted<IO> {
    pub fn new(io: IO, limits: &Limits, shared: Arc<Shared>) -> Counted<IO> {
        Counted {
            io,
            received: Cutter::after(PREFACE_BYTES),
            sent: Cutter::after(0),
            tally: Tally::new(limits.control_frames_per_connection_max, limits.resets_per_connection_max),
            shared,
        }
    }

    fn written(&mut self, bytes: &[u8]) {
        let Counted { sent, tally, shared, .. } = self;
        let _ = sent.cut(bytes, |frame| {
            let (error, limit) = tally.sent(frame);
            error.into_iter().for_each(|error| shared.http2_errors.inc(error));
            limit.into_iter().for_each(|limit| shared.metrics.limit_hit(limit));
            Ok::<_, Limit>(())
        });
    }
}

impl<IO: AsyncWrite + Unpin> Counted<IO> {
    /// Says why, if that can be said at once, and that nothing more will be heard (RFC 9113 §6.8).
    fn leave(&mut self, cx: &mut Context<'_>, limit: Limit) -> io::Error {
        self.shared.metrics.limit_hit(limit);
        if self.sent.is_between_frames() {
            let mut goaway = [0, 0, 8, GOAWAY, 0, 0, 0, 0, 0].to_vec();
            goaway.extend(self.tally.last_stream.to_be_bytes());
            goaway.extend(ENHANCE_YOUR_CALM.to_be_bytes());
            let mut this = Pin::new(self);
            let _ = this.as_mut().poll_write(cx, &goaway);
            let _ = this.as_mut().poll_flush(cx);
        }
        io::Error::other(format!("over `{limit}`"))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Counted<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let Counted { received, tally, .. } = &mut *self;
        let bytes = buf.filled().get(before..).unwrap_or_default();
        let counted = received.cut(bytes, |frame| tally.received(frame));
        Poll::Ready(counted.map_err(|limit| self.leave(cx, limit)))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Counted<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let taken = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.written(bytes.get(..taken).unwrap_or_default());
        Poll::Ready(Ok(taken))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let taken = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices))?;
        let mut left = taken;
        for slice in slices {
            let part = slice.get(..left.min(slice.len())).unwrap_or_default();
            self.written(part);
            left -= part.len();
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
