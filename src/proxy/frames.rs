//! HTTP/2 frames, counted by their heads on the way to hyper and from it (RFC 9113 §4.1).
//!
//! hyper and h2 read, answer and refuse them. What they bound is what they must remember: streams, header
//! blocks, data that waits. This adds what they do not: the frames that they may be made to read for
//! nothing, and the resets that make work worthless after it was done (RFC 9113 §10.5). And it counts what
//! they refuse by themselves, of which no request and so no record comes to be.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::frame::{Cutter, DATA, Frame, GOAWAY, HEADERS, RST_STREAM};
use super::generation::Shared;
use super::http2_error::{Ended, ErrorCode};
use super::limits::Limits;
use crate::metrics::Limit;

const PREFACE_BYTES: usize = 24;
const ENHANCE_YOUR_CALM: u32 = 11;

/// An allowance that was used up is whole again after this long.
const RENEWAL: Duration = Duration::from_secs(10);
/// What a frame with content allows besides it: a WINDOW_UPDATE for its stream and for its connection, and
/// a PING that measures.
const EARNED_BY_FRAME: usize = 3;
/// Some clients open their windows again for each 4 KiB that they took, so this leaves room twice over.
const BYTES_THAT_EARN: usize = 1024;

/// So many at once, and as many again within [`RENEWAL`], besides what is earned.
#[derive(Debug)]
struct Allowance {
    limit: Limit,
    max: usize,
    left: usize,
    renewed: Instant,
}

impl Allowance {
    fn new(limit: Limit, max: usize) -> Allowance {
        Allowance { limit, max, left: max, renewed: Instant::now() }
    }

    fn earn(&mut self, count: usize) {
        self.left = self.left.saturating_add(count).min(self.max);
    }

    fn spend(&mut self) -> Result<(), Limit> {
        // The clock is read only where there is need.
        if self.left == 0 {
            let since = self.renewed.elapsed().min(RENEWAL);
            self.earn(self.max * since.as_millis() as usize / RENEWAL.as_millis() as usize);
            if self.left > 0 {
                self.renewed = Instant::now();
            }
        }
        self.left = self.left.checked_sub(1).ok_or(self.limit)?;
        Ok(())
    }
}

/// What one connection's frames come to.
struct Tally {
    /// Frames that carry neither a request nor a body.
    control: Allowance,
    resets: Allowance,
    /// Streams whose answer has begun and not ended.
    answering: Vec<u32>,
    /// The highest that the client opened.
    last_stream: u32,
    shared: Arc<Shared>,
}

impl Tally {
    fn received(&mut self, frame: &Frame<'_>) -> Result<(), Limit> {
        match frame.kind {
            HEADERS => {
                self.last_stream = self.last_stream.max(frame.stream);
                self.control.earn(EARNED_BY_FRAME);
            }
            DATA if frame.content_bytes() > 0 => self.carried(frame),
            DATA if frame.ends_stream() => {}
            RST_STREAM => {
                self.answering.retain(|stream| *stream != frame.stream);
                self.resets.spend()?;
            }
            _ => self.control.spend()?,
        }
        Ok(())
    }

    fn carried(&mut self, frame: &Frame<'_>) {
        self.control.earn(EARNED_BY_FRAME + frame.length / BYTES_THAT_EARN);
    }

    fn sent(&mut self, frame: &Frame<'_>) {
        match frame.kind {
            HEADERS if self.answering.contains(&frame.stream) => {} // trailers
            HEADERS => {
                self.resets.earn(1);
                if frame.ends_stream() && is_status_alone(frame) {
                    self.shared.metrics.limit_hit(Limit::HeaderBytesMax);
                } else if !frame.ends_stream() {
                    self.answering.push(frame.stream);
                }
            }
            DATA => self.carried(frame),
            RST_STREAM => {
                if let Some(code) = frame.code(0) {
                    self.shared.http2_errors.inc((Ended::Stream, code));
                    if code == ErrorCode::RefusedStream {
                        self.shared.metrics.limit_hit(Limit::StreamsPerConnectionMax);
                    }
                }
            }
            GOAWAY => {
                if let Some(code) = frame.code(4) {
                    self.shared.http2_errors.inc((Ended::Connection, code));
                    if let Some(limit) = limit_of(code, frame.shown.get(8..).unwrap_or_default()) {
                        self.shared.metrics.limit_hit(limit);
                    }
                }
            }
            _ => {}
        }
        if frame.kind == RST_STREAM || matches!(frame.kind, HEADERS | DATA) && frame.ends_stream() {
            self.answering.retain(|stream| *stream != frame.stream);
        }
    }
}

/// Whether a head has `:status` and nothing else: hyper dates all of its own, so it is h2's 431, of a request
/// that is over `header_bytes_max`. Either an index (RFC 7541 §6.1) or a literal by the index of `:status`.
fn is_status_alone(frame: &Frame<'_>) -> bool {
    match frame.shown {
        [_] => true,
        [0x48, length, ..] => frame.length == 2 + usize::from(length & 0x7f),
        _ => false,
    }
}

/// The limit of ours that h2 held a connection to, by the words that it says goodbye with.
fn limit_of(code: ErrorCode, words: &[u8]) -> Option<Limit> {
    match (code, words) {
        (ErrorCode::EnhanceYourCalm, b"too_many_resets" | b"too_many_internal_resets") => {
            Some(Limit::ResetsPerConnectionMax)
        }
        (ErrorCode::EnhanceYourCalm, b"too_many_continuations" | b"header_list_way_too_large")
        | (ErrorCode::CompressionError, _) => Some(Limit::HeaderBytesMax),
        (ErrorCode::EnhanceYourCalm, b"too_many_data_frames") => Some(Limit::ControlFramesPerConnectionMax),
        _ => None,
    }
}

/// A connection whose frames are counted. Over a limit it ends.
pub struct Counted<IO> {
    io: IO,
    received: Cutter,
    sent: Cutter,
    tally: Tally,
}

impl<IO> Counted<IO> {
    pub fn new(io: IO, limits: &Limits, shared: Arc<Shared>) -> Counted<IO> {
        Counted {
            io,
            received: Cutter::after(PREFACE_BYTES),
            sent: Cutter::after(0),
            tally: Tally {
                control: Allowance::new(
                    Limit::ControlFramesPerConnectionMax,
                    limits.control_frames_per_connection_max,
                ),
                resets: Allowance::new(Limit::ResetsPerConnectionMax, limits.resets_per_connection_max),
                answering: Vec::new(),
                last_stream: 0,
                shared,
            },
        }
    }

    fn written(&mut self, bytes: &[u8]) {
        let Counted { sent, tally, .. } = self;
        let _ = sent.cut(bytes, |frame| {
            tally.sent(frame);
            Ok::<_, Limit>(())
        });
    }
}

impl<IO: AsyncWrite + Unpin> Counted<IO> {
    /// Says why, if that can be said at once, and that nothing more will be heard (RFC 9113 §6.8).
    fn leave(&mut self, cx: &mut Context<'_>, limit: Limit) -> io::Error {
        self.tally.shared.metrics.limit_hit(limit);
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

#[cfg(test)]
mod tests {
    use super::super::frame::END_STREAM;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_allowance_comes_back_with_time_and_with_what_is_carried() {
        let mut allowance = Allowance::new(Limit::ResetsPerConnectionMax, 100);
        let spend = |allowance: &mut Allowance| (0..1000).take_while(|_| allowance.spend().is_ok()).count();
        assert_eq!(spend(&mut allowance), 100);
        tokio::time::advance(RENEWAL / 4).await;
        assert_eq!(spend(&mut allowance), 25);
        tokio::time::advance(RENEWAL * 9).await;
        assert_eq!(spend(&mut allowance), 100);
        allowance.earn(7);
        assert_eq!(spend(&mut allowance), 7);
        allowance.earn(1000);
        assert_eq!(spend(&mut allowance), 100);
    }

    #[test]
    fn a_status_alone_is_h2_s() {
        let alone = |length, shown| {
            is_status_alone(&Frame { kind: HEADERS, flags: END_STREAM, stream: 1, length, shown })
        };
        assert!(alone(5, &[0x48, 0x83, 1, 2, 3]));
        assert!(alone(1, &[0xbe]));
        assert!(!alone(2, &[0x88, 0xbe]));
        assert!(!alone(6, &[0x48, 0x83, 1, 2, 3, 0xbe]));
    }
}
