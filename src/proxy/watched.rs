//! A client's connection, whose bytes are seen on their way to hyper and back.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::stall::Pulse;

/// How long a client that still sends what nobody wants is listened to after the last answer: a close with
/// bytes unread is a reset, which may overtake that answer (RFC 9112 §9.6).
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
const LINGER_BUFFER_BYTES: usize = 8 * 1024;

/// Room for what a client sends after a rest, taken when it does.
const START_BYTES: usize = 4 * 1024;

/// A client's connection.
pub struct Watched<IO> {
    io: IO,
    pulse: Arc<Pulse>,
    /// What was read before, to tell the protocol or after a rest.
    start: Bytes,
    /// What came instead of more. It is told once.
    failed: Option<io::Error>,
    /// On h2 bytes are no sign of a head.
    heads: bool,
    linger: Option<Pin<Box<Sleep>>>,
}

impl<IO> Watched<IO> {
    pub fn http1(io: IO, pulse: &Arc<Pulse>, start: Bytes) -> Watched<IO> {
        if !start.is_empty() {
            pulse.reading_head(&start);
        }
        Watched { io, pulse: Arc::clone(pulse), start, failed: None, heads: true, linger: None }
    }

    pub fn http2(io: IO, pulse: &Arc<Pulse>, start: Bytes) -> Watched<IO> {
        Watched { heads: false, ..Watched::http1(io, pulse, start) }
    }

    fn wrote<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &polled {
            Poll::Pending => self.pulse.blocked.set_first(),
            Poll::Ready(_) => self.pulse.blocked.clear(),
        }
        polled
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Watched<IO> {
    /// Takes back what was read and not used.
    pub fn put_back(&mut self, unread: &[u8]) {
        if !unread.is_empty() {
            self.pulse.reading_head(unread);
            self.start = [unread, &self.start].concat().into();
        }
    }

    /// Waits until there is something to be read, without room for it until then.
    pub fn poll_start(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.start.is_empty() {
            let mut room = [MaybeUninit::uninit(); START_BYTES];
            let mut room = ReadBuf::uninit(&mut room);
            let polled = Pin::new(&mut *self).poll_read(cx, &mut room);
            if polled.is_pending() {
                // TLS may have something to say by itself, as that it does not shake hands again. Whether it could
                // is for whoever reads or writes next.
                let _ = Pin::new(&mut self.io).poll_flush(cx);
            }
            // Whoever reads next is told of an error; of the end, the connection will tell again.
            self.failed = ready!(polled).err();
            self.start = Bytes::copy_from_slice(room.filled());
        }
        Poll::Ready(())
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.start.is_empty() {
            let length = self.start.len().min(buf.remaining());
            buf.put_slice(&self.start.split_to(length));
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let came = buf.filled().get(before..).unwrap_or_default();
        if self.heads && !came.is_empty() && self.pulse.requests.load(Ordering::Relaxed) == 0 {
            self.pulse.reading_head(came);
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.wrote(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.wrote(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.pulse.closing.store(true, Ordering::Relaxed);
        if this.linger.is_none() {
            let polled = Pin::new(&mut this.io).poll_shutdown(cx);
            ready!(this.wrote(polled))?;
            if !this.heads || !this.pulse.is_in_head() && this.pulse.uploading.load(Ordering::Relaxed) == 0 {
                return Poll::Ready(Ok(()));
            }
            // Whatever it was the beginning of has its answer.
            this.pulse.began.clear();
        }
        let linger =
            this.linger.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + LINGER_TIMEOUT)));
        let mut unwanted = [0; LINGER_BUFFER_BYTES];
        while linger.as_mut().poll(cx).is_pending() {
            let mut unwanted = ReadBuf::new(&mut unwanted);
            match ready!(Pin::new(&mut this.io).poll_read(cx, &mut unwanted)) {
                Ok(()) if !unwanted.filled().is_empty() => {}
                // Its end, clean or not.
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
