//! Bytes both ways after an upgrade, counted, until somebody has had enough.

use std::cell::Cell;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Per direction.
const TUNNEL_BUFFER_BYTES: usize = 16 * 1024;

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
    /// The token was cancelled: credentials ended, policy changed, or the proxy drains.
    Cut,
    /// Nothing moved for the idle timeout.
    Idle,
    /// A connection broke; the other one was closed with it.
    Broken(String),
}

/// What moved, and when last.
struct Traffic {
    up: Cell<u64>,
    down: Cell<u64>,
    moved_at: Cell<Instant>,
}

/// Counts what is read.
struct Metered<'a, T> {
    io: T,
    count: &'a Cell<u64>,
    moved_at: &'a Cell<Instant>,
}

/// Copies until the end; dropping the future closes both ends.
pub(super) async fn copy<D, U>(
    downstream: D,
    upstream: U,
    idle_timeout: Duration,
    cut: &CancellationToken,
) -> Tunnel
where
    D: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let traffic = Traffic { up: Cell::new(0), down: Cell::new(0), moved_at: Cell::new(Instant::now()) };
    let mut client = Metered { io: downstream, count: &traffic.up, moved_at: &traffic.moved_at };
    let mut server = Metered { io: upstream, count: &traffic.down, moved_at: &traffic.moved_at };
    let idle = async {
        loop {
            let deadline = traffic.moved_at.get() + idle_timeout;
            sleep_until(deadline).await;
            if traffic.moved_at.get() + idle_timeout <= Instant::now() {
                break;
            }
        }
    };
    let copied =
        copy_bidirectional_with_sizes(&mut client, &mut server, TUNNEL_BUFFER_BYTES, TUNNEL_BUFFER_BYTES);
    let end = tokio::select! {
        biased;
        () = cut.cancelled() => TunnelEnd::Cut,
        copied = pin!(copied) => match copied {
            Ok(_) => TunnelEnd::Closed,
            Err(error) => TunnelEnd::Broken(error.to_string()),
        },
        () = idle => TunnelEnd::Idle,
    };
    Tunnel { bytes_up: traffic.up.get(), bytes_down: traffic.down.get(), end }
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
            self.count.set(self.count.get() + read as u64);
            self.moved_at.set(Instant::now());
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Metered<'_, T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
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
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const IDLE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn bytes_are_copied_and_counted_until_both_ends_close() {
        let (mut client, down) = duplex(64);
        let (mut server, up) = duplex(64);
        let cut = CancellationToken::new();
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
        let (tunnel, rest) = tokio::join!(copy(down, up, IDLE, &cut), ends);
        assert_eq!(rest, b"hi");
        assert_eq!(tunnel, Tunnel { bytes_up: 5, bytes_down: 2, end: TunnelEnd::Closed });
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_in_which_nothing_moves_ends() {
        let (mut client, down) = duplex(64);
        let (_server, up) = duplex(64);
        let began = Instant::now();
        client.write_all(b"x").await.unwrap();
        let tunnel = copy(down, up, IDLE, &CancellationToken::new()).await;
        assert_eq!((tunnel.bytes_up, tunnel.end), (1, TunnelEnd::Idle));
        assert_eq!(began.elapsed().as_secs(), 60);
    }

    #[tokio::test]
    async fn cancelling_cuts_both_ends() {
        let (mut client, down) = duplex(64);
        let (mut server, up) = duplex(64);
        let cut = CancellationToken::new();
        let tunnel = tokio::join!(copy(down, up, IDLE, &cut), async { cut.cancel() }).0;
        assert_eq!(tunnel.end, TunnelEnd::Cut);
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
    }
}
