//! The upstream: as small an HTTP/1 server as there is, on a thread of its own, which publishes the issuer's
//! keys too.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::LocalSet;

const ANSWER_BYTES: usize = 1024;
pub const LARGE_BYTES: usize = 10 << 20;

struct Answers {
    jwks: Bytes,
    small: Bytes,
    large: Bytes,
}

/// Serves until the process ends.
pub fn start(jwks: String) -> SocketAddr {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    let answers = Arc::new(Answers {
        jwks: jwks.into(),
        small: vec![b'x'; ANSWER_BYTES].into(),
        large: vec![b'y'; LARGE_BYTES].into(),
    });
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, serve(socket, answers));
    });
    address
}

async fn serve(socket: std::net::TcpListener, answers: Arc<Answers>) {
    let socket = TcpListener::from_std(socket).unwrap();
    loop {
        let (stream, _) = socket.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let answers = Arc::clone(&answers);
        tokio::task::spawn_local(async move {
            let service = service_fn(|request| answer(request, &answers));
            // how a connection ends is the proxy's business
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    answers: &Answers,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = match request.uri().path() {
        "/jwks" => &answers.jwks,
        path if path.ends_with("/large") => &answers.large,
        _ => &answers.small,
    };
    let mut asked = request.into_body();
    while let Some(frame) = asked.frame().await {
        frame?;
    }
    let mut response = Response::new(Full::new(body.clone()));
    response.headers_mut().insert(CONTENT_TYPE, "application/json".parse().unwrap());
    Ok(response)
}
