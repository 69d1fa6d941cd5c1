//! How much an upstream may send before the head of its answer: hyper reads interim responses (1xx) for as
//! long as they come, and looks at nothing else meanwhile.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is left of it on one h1 connection. (`Send`, since it lies under upgrades.)
#[derive(Clone, Debug)]
pub(super) struct HeadBudget(Arc<AtomicUsize>);

const NO_BOUND: usize = usize::MAX;

impl HeadBudget {
    pub fn new() -> HeadBudget {
        HeadBudget(Arc::new(AtomicUsize::new(NO_BOUND)))
    }

    /// A request is on its way: so many bytes may come until the head of its answer is complete.
    pub fn begin(&self, bytes_max: usize) {
        self.0.store(bytes_max, Ordering::Relaxed);
    }

    /// The head is there; a body has bounds of its own.
    pub fn end(&self) {
        self.0.store(NO_BOUND, Ordering::Relaxed);
    }
}

/// A stream whose bytes are counted against a budget.
pub(super) struct Metered<T> {
    pub io: T,
    pub budget: HeadBudget,
}

impl<T: AsyncRead + Unpin> AsyncRead for Metered<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.budget.0.load(Ordering::Relaxed);
        if left == 0 {
            return Poll::Ready(Err(io::Error::other("interim responses without end")));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if left != NO_BOUND {
            // What came with the end of the head is counted, too: more than that is looked at first.
            let came = buf.filled().len() - before;
            self.budget.0.store(left.saturating_sub(came), Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Metered<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
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
