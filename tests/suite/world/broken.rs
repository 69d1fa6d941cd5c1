//! An upstream that writes whatever a test wants on the wire.

use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// What follows the bytes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The next head on the same connection.
    Next,
    Close,
    Reset,
    /// Nothing, for ever; the rest of the request is not read either.
    Stall,
    /// The same bytes again, for ever.
    Again,
}

/// Gone when dropped, with all its connections.
pub struct Broken {
    pub address: SocketAddr,
    task: AbortHandle,
}

impl Broken {
    /// `answers` is asked with the target of each request.
    pub async fn start<A>(answers: A) -> Broken
    where
        A: Fn(&str) -> (Vec<u8>, Then) + Clone + Send + Sync + 'static,
    {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let accept = async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = socket.accept().await {
                while open.try_join_next().is_some() {}
                open.spawn(answer(stream, answers.clone()));
            }
        };
        Broken { address, task: tokio::spawn(accept).abort_handle() }
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer<A>(mut stream: TcpStream, answers: A)
where
    A: Fn(&str) -> (Vec<u8>, Then),
{
    let mut read = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if !matches!(stream.read_buf(&mut read).await, Ok(1..)) {
                return;
            }
        };
        let head = String::from_utf8_lossy(&read[..end]).into_owned();
        read.drain(..end);
        let (bytes, then) = answers(head.split(' ').nth(1).unwrap_or_default());
        loop {
            if stream.write_all(&bytes).await.is_err() {
                return;
            }
            if then != Then::Again {
                break;
            }
        }
        match then {
            Then::Next | Then::Again => {}
            Then::Close => return,
            Then::Reset => {
                SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                return;
            }
            Then::Stall => std::future::pending().await,
        }
    }
}
