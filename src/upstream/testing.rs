//! Doubles of upstreams for this folder's tests: hyper servers that count, and raw sockets.

use std::cell::Cell;
use std::io;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::PrivateKeyDer;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio_rustls::TlsAcceptor;

use super::UpstreamError;
use super::body::ResponseBody;
use super::discovery::Upstream;
use super::endpoint::EndpointStatus;
use super::pool::Pool;
use super::send::Upgrade;
use super::served::Errand;
use super::settings::{ServerSettings, UpstreamLimits, UpstreamSettings};
use crate::clock::Clock;
use crate::revocation::Revocations;
use crate::tls::Roots;
use crate::tls::client::ExpectedServer;
use crate::tls::servers::ServerTls;

pub type TestBody = UnsyncBoxBody<Bytes, io::Error>;

/// What a double speaks.
#[derive(Clone)]
pub enum Speaks {
    H1,
    H2,
    Tls(Arc<ServerConfig>),
}

/// A hyper server that counts what comes.
pub struct Double {
    pub port: u16,
    pub connections: Rc<Cell<usize>>,
    pub requests: Rc<Cell<usize>>,
}

impl Double {
    pub async fn start<F>(speaks: Speaks, answer: F) -> Double
    where
        F: AsyncFn(Request<Incoming>) -> Response<TestBody> + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let double = Double { port, connections: Rc::default(), requests: Rc::default() };
        let (connections, requests) = (Rc::clone(&double.connections), Rc::clone(&double.requests));
        let answer = Rc::new(answer);
        spawn_local(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                connections.set(connections.get() + 1);
                let (requests, answer, speaks) = (Rc::clone(&requests), Rc::clone(&answer), speaks.clone());
                spawn_local(async move {
                    match speaks {
                        Speaks::H1 => serve(tcp, false, requests, answer).await,
                        Speaks::H2 => serve(tcp, true, requests, answer).await,
                        Speaks::Tls(config) => {
                            let Ok(tls) = TlsAcceptor::from(config).accept(tcp).await else { return };
                            let h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
                            serve(tls, h2, requests, answer).await;
                        }
                    }
                });
            }
        });
        double
    }

    pub fn uri(&self, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{}", self.port)
    }
}

async fn serve<T, F>(io: T, h2: bool, requests: Rc<Cell<usize>>, answer: Rc<F>)
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
    F: AsyncFn(Request<Incoming>) -> Response<TestBody> + 'static,
{
    let service = service_fn(move |request| {
        let (requests, answer) = (Rc::clone(&requests), Rc::clone(&answer));
        async move {
            requests.set(requests.get() + 1);
            Ok::<_, io::Error>(answer(request).await)
        }
    });
    // How a connection ends is what the tests look at from the other side.
    if h2 {
        let _ = http2::Builder::new(Local).serve_connection(TokioIo::new(io), service).await;
    } else {
        let _ = http1::Builder::new().serve_connection(TokioIo::new(io), service).await;
    }
}

#[derive(Clone)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

/// A body that a test feeds. Dropping the sender ends it well.
pub struct Fed(mpsc::Receiver<Result<Frame<Bytes>, io::Error>>);

pub fn fed() -> (mpsc::Sender<Result<Frame<Bytes>, io::Error>>, Fed) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, Fed(receiver))
}

impl Body for Fed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(cx)
    }
}

/// A body without end that counts the bytes it gave.
#[derive(Clone, Default)]
pub struct Endless(Arc<AtomicUsize>);

impl Endless {
    pub fn given(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Body for Endless {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.fetch_add(16384, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[7; 16384])))))
    }
}

pub fn data(bytes: &'static [u8]) -> Result<Frame<Bytes>, io::Error> {
    Ok(Frame::data(Bytes::from_static(bytes)))
}

pub fn full(text: &'static str) -> TestBody {
    Full::new(Bytes::from_static(text.as_bytes())).map_err(|never| match never {}).boxed_unsync()
}

pub fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(path).header("host", "orders.shop.example").body(Empty::new()).unwrap()
}

pub fn post<B>(body: B) -> Request<B> {
    Request::post("/").header("host", "orders.shop.example").body(body).unwrap()
}

/// A request as it stands on the wire up to the end of its head.
pub async fn read_head(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// A raw upstream: its listener and where it is.
pub async fn raw() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    (listener, uri)
}

/// A raw upstream that answers each connection with `answer` once a head has come, and keeps it open.
pub async fn raw_answering(answer: &'static [u8]) -> (Rc<Cell<usize>>, String) {
    let (listener, uri) = raw().await;
    let connections = Rc::new(Cell::new(0));
    let counted = Rc::clone(&connections);
    spawn_local(async move {
        let mut open = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            counted.set(counted.get() + 1);
            read_head(&mut socket).await;
            socket.write_all(answer).await.unwrap();
            open.push(socket);
        }
    });
    (connections, uri)
}

pub async fn closed_port() -> String {
    let (_listener, uri) = raw().await;
    uri
}

/// Lets all tasks of this core run until they have nothing to do but wait, loopback included.
pub async fn settle() {
    for _ in 0..2000 {
        tokio::task::yield_now().await;
    }
}

pub fn settings(servers: &[&str], tls: &Arc<ServerTls>) -> UpstreamSettings {
    let parse = |uri: &&str| ServerSettings::parse(uri, NonZeroU32::MIN, Some(tls)).unwrap();
    UpstreamSettings {
        name: "orders".to_owned(),
        servers: servers.iter().map(parse).collect(),
        connect_timeout: Duration::from_secs(5),
        first_byte_timeout: Duration::from_secs(15),
        idle_timeout: Duration::from_secs(60),
        eject_after_failures: 5,
        limits: UpstreamLimits::default(),
    }
}

pub fn pool(servers: &[&str]) -> Rc<Pool> {
    Pool::new(Upstream::start(settings(servers, &trusting_nobody()), None))
}

pub fn status(pool: &Pool) -> Vec<EndpointStatus> {
    pool.upstream.status().endpoints
}

pub fn trusting_nobody() -> Arc<ServerTls> {
    trusting(Roots::none())
}

fn trusting(roots: Roots) -> Arc<ServerTls> {
    ServerTls::new(&ExpectedServer::Named(Some(roots)), None, &[], &Clock::system()).unwrap()
}

impl Pool {
    /// Sends it while nobody is revoked.
    pub async fn ask<B>(&self, request: Request<B>) -> Result<Response<ResponseBody>, UpstreamError>
    where
        B: Body<Data = Bytes> + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let nobody = Revocations::default();
        self.send(request, &Errand { revocations: (1, &nobody), reached: &|_| {} }).await
    }

    pub async fn ask_to_upgrade(
        &self,
        request: Request<()>,
        protocol: &'static str,
    ) -> Result<Upgrade, UpstreamError> {
        let nobody = Revocations::default();
        self.upgrade(request, protocol, &Errand { revocations: (1, &nobody), reached: &|_| {} }).await
    }
}

/// A server that stands for `name` and speaks `alpn`, and a client that trusts its certificate.
pub fn tls_pair(name: &str, alpn: &[&[u8]]) -> (Arc<ServerConfig>, Arc<ServerTls>) {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let trusting = trusting(Roots::new(&[ca.der().clone()]).unwrap());
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    let (certificate, key) =
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut server = server.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    server.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    (Arc::new(server), trusting)
}

/// The same server, but it wants a client certificate.
pub fn demanding(server: &ServerConfig) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let made = rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_client_cert_verifier(verifier.build().unwrap());
    let mut config = config.with_cert_resolver(server.cert_resolver.clone());
    config.alpn_protocols.clone_from(&server.alpn_protocols);
    Arc::new(config)
}

pub async fn text<B>(response: Response<B>) -> String
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}
