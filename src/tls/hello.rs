//! A socket before rustls has it, and after rustls has refused it.

use std::io;
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::server::HandshakeFailure;

/// A refused connection is read on for so long and so far, since closing a socket with unread bytes
/// resets it, and a reset may overtake the alert.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 64 * 1024;

const READ_BYTES: usize = 4096;

/// Reads a whole ClientHello, in however many pieces it comes, and answers what is none with an
/// alert.
pub(super) async fn read_hello<IO>(io: &mut IO) -> Result<rustls::server::Accepted, HandshakeFailure>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut acceptor = Acceptor::default();
    let mut buffer = [0; READ_BYTES];
    let mut first = None;
    loop {
        let read = match (io.read(&mut buffer).await, first) {
            (Ok(read @ 1..), _) => read,
            // Probes end in a reset as often as not.
            (Ok(_) | Err(_), None) => return Err(HandshakeFailure::Probe),
            (Ok(_), Some(_)) => {
                return Err(HandshakeFailure::Io(io::ErrorKind::UnexpectedEof.into()));
            }
            (Err(error), Some(_)) => return Err(HandshakeFailure::Io(error)),
        };
        let first = *first.get_or_insert(buffer[0]);
        let mut unread = &buffer[..read];
        while !unread.is_empty() {
            acceptor.read_tls(&mut unread).map_err(HandshakeFailure::Io)?;
        }
        match acceptor.accept() {
            Ok(Some(hello)) => return Ok(hello),
            Ok(None) => {}
            Err((error, mut alert)) => {
                let mut bytes = Vec::new();
                if alert.write_all(&mut bytes).is_ok() {
                    _ = io.write_all(&bytes).await;
                }
                // A TLS record starts with 22; a request line with a letter.
                let plain = first.is_ascii_uppercase();
                return Err(if plain { HandshakeFailure::PlainHttp } else { HandshakeFailure::Tls(error) });
            }
        }
    }
}

/// Ends a refused connection so that its alert arrives.
pub(super) async fn linger<IO>(io: IO)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    _ = tokio::time::timeout(LINGER, read_on(io)).await;
}

async fn read_on<IO>(mut io: IO)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut buffer = [0; READ_BYTES];
    let mut left = LINGER_BYTES_MAX;
    if io.shutdown().await.is_err() {
        return;
    }
    while let Ok(read @ 1..) = io.read(&mut buffer).await {
        left = left.saturating_sub(read);
        if left == 0 {
            return;
        }
    }
}
