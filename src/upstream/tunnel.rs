//! A WebSocket's bytes both ways after an upgrade, counted, until somebody has had enough.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional_with_sizes};
use tokio::time::{Instant, sleep_until, timeout};

use super::websocket::{Close, Frames};

/// Per direction.
const TUNNEL_BUFFER_BYTES: usize = 16 * 1024;
/// How long both ends have to hear a Close. What they send meanwhile is read and thrown away: a connection that is
/// closed over unread bytes is reset, and the Close may be lost with it.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(300);

/// What went through a tunnel and why it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Read from the client.
    pub bytes_up: u64,
    /// Read from the upstream.
    pub bytes_down: u64,
    pub end: TunnelEnd,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunnelEnd {
    /// Both ends closed, one after the other.
    Closed,
    /// By us: credentials ended, policy changed, or the proxy drains.
    Cut,
    /// Nothing moved for the idle timeout.
    Idle,
    /// The client's connection broke; the other one was closed with it.
    ClientBroke(String),
    /// The upstream's did.
    UpstreamBroke(String),
}

/// What came from one side, and how that side is.
#[derive(Default)]
struct Side {
    bytes: Cell<u64>,
    ended: Cell<bool>,
    broke: Cell<bool>,
}

/// Notes what happens on one side.
struct Metered<'a, T> {
    io: T,
    side: &'a Side,
    /// What was written.
    frames: Frames,
    moved_at: &'a Cell<Instant>,
}

impl<T> Metered<'_, T> {
    fn noting<R>(&self, polled: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if let Poll::Ready(Err(_)) = &polled {
            self.side.broke.set(true);
        }
        polled
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Metered<'_, T> {
    /// Says that no more will come, by a Close if no frame is cut in the middle.
    async fn close(&mut self, frame: &[u8]) {
        let closing = async {
            if self.frames.may_follow() {
                self.io.write_all(frame).await?;
            }
            self.io.shutdown().await?;
            let mut unheard = [0; 1024];
            while self.io.read(&mut unheard).await? > 0 {}
            Ok::<_, io::Error>(())
        };
        // An end that is gone or does not listen hears nothing.
        let _ = timeout(CLOSE_TIMEOUT, closing).await;
    }
}

/// Copies until the end, or until `cut` with what both ends are to be told; dropping the future closes both ends.
pub(super) async fn copy<D, U>(
    downstream: D,
    upstream: U,
    idle_timeout: Duration,
    cut: impl Future<Output = Option<Close>>,
) -> Tunnel
where
    D: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let moved_at = Cell::new(Instant::now());
    let (up, down) = (Side::default(), Side::default());
    let frames = Frames::default();
    let mut client = Metered { io: downstream, side: &up, frames: frames.clone(), moved_at: &moved_at };
    let mut server = Metered { io: upstream, side: &down, frames, moved_at: &moved_at };
    let mut told = None;
    let idle = async {
        loop {
            let deadline = moved_at.get() + idle_timeout;
            sleep_until(deadline).await;
            if moved_at.get() + idle_timeout <= Instant::now() {
                break;
            }
        }
    };
    let end = tokio::select! {
        biased;
        close = cut => {
            told = close;
            TunnelEnd::Cut
        }
        copied = copy_bidirectional_with_sizes(
            &mut client,
            &mut server,
            TUNNEL_BUFFER_BYTES,
            TUNNEL_BUFFER_BYTES,
        ) => match copied {
            Ok(_) => TunnelEnd::Closed,
            // Many just go once the other end has closed.
            Err(_) if up.ended.get() || down.ended.get() => TunnelEnd::Closed,
            Err(error) if down.broke.get() => TunnelEnd::UpstreamBroke(error.to_string()),
            Err(error) => TunnelEnd::ClientBroke(error.to_string()),
        },
        () = idle => TunnelEnd::Idle,
    };
    if let Some(close) = told {
        // Nobody chose what it covers, so a key that can be guessed does no harm.
        let mask = fastrand::u32(..).to_be_bytes();
        let (plain, masked) = (close.frame(None), close.frame(Some(mask)));
        tokio::join!(client.close(&plain), server.close(&masked));
    }
    Tunnel { bytes_up: up.bytes.get(), bytes_down: down.bytes.get(), end }
}

impl<T: AsyncRead + Unpin> AsyncRead for Metered<'_, T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        if read > 0 {
            self.side.bytes.set(self.side.bytes.get() + read as u64);
            self.moved_at.set(Instant::now());
        } else if let Poll::Ready(Ok(())) = polled {
            self.side.ended.set(true);
        }
        self.noting(polled)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Metered<'_, T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = &polled {
            self.frames.pass(&bytes[..(*written).min(bytes.len())]);
        }
        self.noting(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.noting(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_shutdown(cx);
        self.noting(polled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};
    use tokio::io::duplex;

    /// Nothing at first, then an error.
    struct Broken {
        soon: bool,
    }

    impl AsyncRead for Broken {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if !std::mem::replace(&mut self.soon, true) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }
    }

    const IDLE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn bytes_are_copied_and_counted_until_both_ends_close() {
        let (mut client, down) = duplex(64);
        let (mut server, up) = duplex(64);
        let ends = async {
            client.write_all(b"hello").await.unwrap();
            let mut five = [0; 5];
            server.read_exact(&mut five).await.unwrap();
            assert_eq!(&five, b"hello");
            server.write_all(b"hi").await.unwrap();
            drop(server);
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).await.unwrap();
            drop(client);
            rest
        };
        let (tunnel, rest) = tokio::join!(copy(down, up, IDLE, pending()), ends);
        assert_eq!(rest, b"hi");
        assert_eq!(tunnel, Tunnel { bytes_up: 5, bytes_down: 2, end: TunnelEnd::Closed });
    }

    #[tokio::test]
    async fn who_broke_is_told_apart_and_nobody_did_after_an_end() {
        let broken = || tokio::io::join(Broken { soon: false }, tokio::io::sink());
        let (_server, up) = duplex(64);
        let tunnel = copy(broken(), up, IDLE, pending()).await;
        assert!(matches!(tunnel.end, TunnelEnd::ClientBroke(_)), "{:?}", tunnel.end);
        let (_client, down) = duplex(64);
        let tunnel = copy(down, broken(), IDLE, pending()).await;
        assert!(matches!(tunnel.end, TunnelEnd::UpstreamBroke(_)), "{:?}", tunnel.end);
        let (server, up) = duplex(64);
        drop(server);
        assert_eq!(copy(broken(), up, IDLE, pending()).await.end, TunnelEnd::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_in_which_nothing_moves_ends() {
        let (mut client, down) = duplex(64);
        let (_server, up) = duplex(64);
        let began = Instant::now();
        client.write_all(b"x").await.unwrap();
        let tunnel = copy(down, up, IDLE, pending()).await;
        assert_eq!((tunnel.bytes_up, tunnel.end), (1, TunnelEnd::Idle));
        assert_eq!(began.elapsed().as_secs(), 60);
    }

    #[tokio::test]
    async fn a_cut_closes_both_ends() {
        let (mut client, down) = duplex(64);
        let (mut server, up) = duplex(64);
        let tunnel = copy(down, up, IDLE, ready(None)).await;
        assert_eq!(tunnel.end, TunnelEnd::Cut);
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
    }

    /// What each end sends, how much of that the other one has when the cut comes, and whether it hears a Close.
    #[tokio::test(start_paused = true)]
    async fn a_close_is_heard_where_it_is_no_part_of_a_frame() {
        let close = Close { code: Close::POLICY_VIOLATION, reason: "token_expired" };
        let text = [&[0x81, 5][..], b"hello"].concat();
        let mut cases = 0;
        for (sent, hears) in [
            (&text[..], true),
            (&text[..3], false),
            (&text[..1], false),
            (&[][..], true),
            (&[0x88, 0][..], false),
        ] {
            let (mut client, down) = duplex(64);
            let (mut server, up) = duplex(64);
            let cut = tokio::sync::Notify::new();
            let ends = async {
                server.write_all(sent).await.unwrap();
                client.write_all(sent).await.unwrap();
                let (mut heard, mut by_server) = (vec![0; sent.len()], vec![0; sent.len()]);
                client.read_exact(&mut heard).await.unwrap();
                server.read_exact(&mut by_server).await.unwrap();
                assert_eq!([&heard, &by_server], [sent; 2]);
                cut.notify_one();
                let (mut heard, mut by_server) = (Vec::new(), Vec::new());
                client.read_to_end(&mut heard).await.unwrap();
                server.read_to_end(&mut by_server).await.unwrap();
                (heard, by_server)
            };
            let cut = async {
                cut.notified().await;
                Some(close)
            };
            let (tunnel, (heard, by_server)) = tokio::join!(copy(down, up, IDLE, cut), ends);
            assert_eq!(tunnel.end, TunnelEnd::Cut);
            let expected = if hears { close.frame(None) } else { Vec::new() };
            assert_eq!(heard, expected, "after {sent:?}");
            assert_eq!(by_server.len(), if hears { expected.len() + 4 } else { 0 }, "after {sent:?}");
            assert!(by_server.get(1).is_none_or(|second| second & 0x80 != 0), "a client masks");
            cases += 1;
        }
        assert_eq!(cases, 5);
    }
}
