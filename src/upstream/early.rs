//! Upstreams that answer before they have read a request, and close: what is still written to them fails, while
//! the answer lies there to be read (RFC 9112 §9.5). hyper gives an exchange up at its first failure, whichever
//! side that is on.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream of which a write that fails is told by the next read that brings nothing. Until then, what is
/// written goes nowhere.
pub(super) struct Early<T> {
    io: T,
    failed: Option<io::Error>,
}

impl<T> Early<T> {
    pub fn new(io: T) -> Early<T> {
        Early { io, failed: None }
    }

    fn or_nowhere<R>(&mut self, written: io::Result<R>, all: R) -> Poll<io::Result<R>> {
        Poll::Ready(Ok(written.unwrap_or_else(|error| {
            self.failed = Some(error);
            all
        })))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Early<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        match self.failed.take_if(|_| buf.filled().len() == before) {
            Some(error) => Poll::Ready(Err(error)),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Early<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.failed.is_some() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes));
        self.or_nowhere(written, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = slices.iter().map(|slice| slice.len()).sum();
        if self.failed.is_some() {
            return Poll::Ready(Ok(all));
        }
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices));
        self.or_nowhere(written, all)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.failed.is_some() {
            return Poll::Ready(Ok(()));
        }
        let flushed = ready!(Pin::new(&mut self.io).poll_flush(cx));
        self.or_nowhere(flushed, ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use bytes::Bytes;
    use http::Request;
    use http_body_util::{BodyExt, Full};
    use hyper::client::conn::http1;
    use hyper_util::rt::TokioIo;

    use super::*;

    /// Takes the head of a request and fails at its body; what there is to read is there from then on.
    #[derive(Default)]
    struct Closed {
        answer: &'static [u8],
        heads: usize,
        failed: bool,
        reader: Option<Waker>,
    }

    impl AsyncRead for Closed {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if !self.failed {
                self.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            buf.put_slice(std::mem::take(&mut self.answer));
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Closed {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            if self.heads == 0 {
                self.heads = 1;
                return Poll::Ready(Ok(bytes.len().min(16)));
            }
            self.failed = true;
            self.reader.take().into_iter().for_each(Waker::wake);
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    async fn ask(answer: &'static [u8]) -> Result<(u16, Bytes), hyper::Error> {
        let io = TokioIo::new(Early::new(Closed { answer, ..Closed::default() }));
        let (mut sender, connection) = http1::handshake(io).await?;
        let asked = async {
            let body = Full::<Bytes>::from("a body");
            let answer = sender.send_request(Request::post("/").body(body).unwrap()).await?;
            Ok((answer.status().as_u16(), answer.into_body().collect().await?.to_bytes()))
        };
        tokio::join!(asked, connection).0
    }

    #[tokio::test]
    async fn an_answer_that_is_there_counts_although_the_request_could_not_be_written() {
        let whole = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 5\r\n\r\nlarge";
        assert_eq!(ask(whole).await.unwrap(), (413, "large".into()));
        // No answer, a part of one, and one that only an end would have ended: a failure.
        let (part, endless) = (&whole[..20], b"HTTP/1.1 413 Content Too Large\r\n\r\nlarge");
        for answer in [&b""[..], part, endless] {
            let error = ask(answer).await.unwrap_err();
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            assert!(cause.contains("broken pipe"), "{error:?}");
        }
    }
}
