//! A loopback HTTP server for the doubles: h1 and h2, with or without TLS, gone when dropped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::{Body, Error};

/// Closes its socket and all its connections when dropped.
pub struct Listening {
    pub address: SocketAddr,
    connections: Arc<AtomicU64>,
    task: AbortHandle,
}

impl Listening {
    /// How many connections were ever accepted.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves `answer` at `address` (port 0: any free one). An `Err` from it ends the connection (h1) or
/// the stream (h2) without an answer.
pub async fn listen<F, A>(address: SocketAddr, tls: Option<Arc<ServerConfig>>, answer: F) -> Listening
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Result<Response<Body>, Error>> + Send + 'static,
{
    let socket = TcpListener::bind(address).await.unwrap();
    let address = socket.local_addr().unwrap();
    let connections = Arc::new(AtomicU64::new(0));
    let accepted = connections.clone();
    let tls = tls.map(TlsAcceptor::from);
    let accept = async move {
        let mut open = JoinSet::new(); // dropped with this task, and with it every connection
        while let Ok((stream, _)) = socket.accept().await {
            accepted.fetch_add(1, Ordering::SeqCst);
            // else each small answer waits for an acknowledgement that is delayed by 40 ms
            let _ = stream.set_nodelay(true);
            while open.try_join_next().is_some() {}
            let (tls, answer) = (tls.clone(), answer.clone());
            open.spawn(async move {
                match tls {
                    Some(tls) => match tls.accept(stream).into_fallible().await {
                        Ok(stream) => serve(stream, answer).await,
                        Err((_, mut stream)) => {
                            // a close with bytes unread is a reset, which may overtake the alert
                            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                        }
                    },
                    None => serve(stream, answer).await,
                }
            });
        }
    };
    Listening { address, connections, task: tokio::spawn(accept).abort_handle() }
}

async fn serve<S, F, A>(stream: S, answer: F)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> A,
    A: Future<Output = Result<Response<Body>, Error>> + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http2().enable_connect_protocol();
    // how a connection ends is what the test looks at from the other side
    let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service_fn(answer)).await;
}
