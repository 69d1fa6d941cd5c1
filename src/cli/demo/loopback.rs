//! The small HTTP servers around the demo's proxy. They trust whoever reaches them, so they open
//! nothing but loopback.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// Any free port of this machine's own address.
pub const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Serves until it is dropped.
#[derive(Debug)]
pub struct Listening {
    pub address: SocketAddr,
    _connections: AbortOnDropHandle<()>,
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum LoopbackError {
    #[error("`{0}` can be reached from other machines; what the demo opens listens on loopback only")]
    NotLoopback(SocketAddr),
    #[error("`{0}` cannot be listened on: {1}")]
    Bind(SocketAddr, io::Error),
}

/// Opens a port that only this machine reaches.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, LoopbackError> {
    if !address.ip().is_loopback() {
        return Err(LoopbackError::NotLoopback(address));
    }
    TcpListener::bind(address).await.map_err(|error| LoopbackError::Bind(address, error))
}

/// Answers every request with what `handler` says.
pub fn serve<H, F>(listener: TcpListener, handler: H) -> io::Result<Listening>
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let address = listener.local_addr()?;
    let connections = tokio::spawn(accept(listener, handler));
    Ok(Listening { address, _connections: AbortOnDropHandle::new(connections) })
}

async fn accept<H, F>(listener: TcpListener, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    // Aborted with the task that holds it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let handler = handler.clone();
                    let answer = service_fn(move |request| {
                        let answer = handler(request);
                        async move { Ok::<_, Infallible>(answer.await) }
                    });
                    let http = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), answer);
                    connections.spawn(http);
                }
                Err(error) => {
                    tracing::error!(%error, "the demo cannot accept connections any more");
                    return;
                }
            }
        }
    }
}

pub fn json(status: StatusCode, value: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{value:#}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_but_loopback_is_opened() {
        let mut seen = 0;
        for (address, opened) in [
            ("127.0.0.1:0", true),
            ("[::1]:0", true),
            ("0.0.0.0:0", false),
            ("[::]:0", false),
            ("192.0.2.1:0", false),
        ] {
            match bind(address.parse().unwrap()).await {
                Ok(listener) => {
                    assert!(opened && listener.local_addr().unwrap().ip().is_loopback(), "{address}")
                }
                Err(LoopbackError::NotLoopback(_)) => assert!(!opened, "{address}"),
                // A machine without IPv6.
                Err(LoopbackError::Bind(..)) => assert!(opened, "{address}"),
            }
            seen += 1;
        }
        assert_eq!(seen, 5);
    }
}
