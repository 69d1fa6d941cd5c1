//! A provider for tests: an HTTP server on a loopback port that answers what it was told and counts.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use url::Url;

#[derive(Clone)]
pub(crate) struct Provider {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    /// Each answer takes one permit; there are very many unless a test takes them away.
    pub gate: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    answers: HashMap<String, Answer>,
    seen: Vec<Seen>,
}

#[derive(Clone)]
pub(crate) struct Seen {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

#[derive(Clone)]
pub(crate) struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
}

impl Answer {
    pub fn json(body: impl ToString) -> Answer {
        Answer { status: 200, headers: Vec::new(), body: body.to_string().into() }
    }

    pub fn with(mut self, name: &'static str, value: &str) -> Answer {
        self.headers.push((name, value.to_owned()));
        self
    }
}

impl Provider {
    /// Serves on the runtime of the test until that ends.
    pub async fn start(tls: Option<Arc<rustls::ServerConfig>>) -> Provider {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let address = listener.local_addr().expect("its address");
        let gate = Arc::new(Semaphore::new(1_000_000));
        let provider = Provider { address, state: Arc::default(), gate };
        let serving = provider.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (provider, tls) = (serving.clone(), tls.clone());
                tokio::spawn(async move {
                    let service = service_fn(|request| provider.answer(request));
                    let http = hyper::server::conn::http1::Builder::new();
                    match tls {
                        None => drop(http.serve_connection(TokioIo::new(stream), service).await),
                        Some(tls) => {
                            if let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await {
                                drop(http.serve_connection(TokioIo::new(stream), service).await);
                            }
                        }
                    }
                });
            }
        });
        provider
    }

    pub fn url(&self, path: &str) -> Url {
        format!("http://{}{path}", self.address).parse().expect("a url")
    }

    pub fn set(&self, path: &str, answer: Answer) {
        self.state.lock().expect("the state").answers.insert(path.to_owned(), answer);
    }

    /// Requests for `path` so far.
    pub fn hits(&self, path: &str) -> usize {
        self.state.lock().expect("the state").seen.iter().filter(|seen| seen.path == path).count()
    }

    /// The header fields of the last request for `path`.
    pub fn last(&self, path: &str) -> HeaderMap {
        self.last_request(path).map(|seen| seen.headers).unwrap_or_default()
    }

    /// The last request for `path`.
    pub fn last_request(&self, path: &str) -> Option<Seen> {
        let state = self.state.lock().expect("the state");
        state.seen.iter().rev().find(|seen| seen.path == path).cloned()
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, http::Error> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let path = head.uri.path().to_owned();
        let answer = {
            let mut state = self.state.lock().expect("the state");
            let seen = Seen { method: head.method, path: path.clone(), headers: head.headers, body };
            state.seen.push(seen);
            state.answers.get(&path).cloned()
        };
        self.gate.acquire().await.expect("an open gate").forget();
        let answer = answer.unwrap_or(Answer { status: 404, headers: Vec::new(), body: Bytes::new() });
        let mut response = Response::builder().status(StatusCode::from_u16(answer.status)?);
        for (name, value) in answer.headers {
            response = response.header(name, value);
        }
        response.body(Full::new(answer.body))
    }
}
