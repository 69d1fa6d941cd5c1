//! One client connection: from an accepted socket to the end of its last request.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::admission::{Admitted, Full};
use super::body::Body;
use super::exchange::exchange;
use super::generation::{Generation, ListenerState};
use super::limits::Limits;
use super::proxy_protocol::{self, ProxyHeaderError};
use super::worker::Worker;
use crate::audit::{Claimed, Reason, RefusedHandshake};
use crate::clock::Timestamp;
use crate::identity::{Name, Peer, Signature};
use crate::policy::Host;
use crate::tls::{Accepted, Alpn, HandshakeFailure, ListenerTls, PeerError};

/// hyper panics when it is given less to read heads into.
const BUFFER_BYTES_MIN: usize = 8192;

/// What every request of one connection has in common.
pub struct Connection {
    /// Position among the listeners of every generation.
    listener: usize,
    pub listener_name: Name,
    /// `None` on a plain-text listener.
    tls: Option<TlsPeer>,
    /// The name the client asked for in its handshake.
    pub server_name: Option<Host>,
    /// The other end, after the PROXY protocol; an IPv4-mapped address is IPv4 here.
    pub peer_ip: IpAddr,
    /// No request after the present ones is wanted.
    ending: Cell<bool>,
}

/// Who is at the other end, and under which configuration that was verified.
struct TlsPeer {
    made_under: Arc<ListenerTls>,
    chain: Vec<CertificateDer<'static>>,
    verified: RefCell<(Arc<ListenerTls>, Signature<Peer>)>,
}

impl Connection {
    pub fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// The peer as of now. Its certificate may have expired since the handshake, or the list by which it was
    /// not revoked; and where a reload has changed CAs, CRLs or the mode, what is in force now counts. In
    /// each case its chain is verified again.
    pub fn peer(&self, generation: &Generation, now: Timestamp) -> Result<Signature<Peer>, PeerError> {
        let (tls, current) = match (&self.tls, self.current_tls(generation)) {
            (Some(tls), Some(current)) => (tls, current),
            (None, None) => return Ok(Signature::Absent),
            // Plain text where there is TLS now, or the other way round.
            _ => return Err(PeerError::Missing),
        };
        let mut verified = tls.verified.borrow_mut();
        let has_ended =
            |peer: &Signature<Peer>| peer.verified().is_some_and(|peer| current.vouched_until(peer) <= now);
        if !Arc::ptr_eq(&verified.0, current) || has_ended(&verified.1) {
            *verified = (Arc::clone(current), current.verify(&tls.chain)?);
        }
        Ok(verified.1.clone())
    }

    fn current_tls<'g>(&self, generation: &'g Generation) -> Option<&'g Arc<ListenerTls>> {
        generation.listeners.get(self.listener)?.tls.as_ref()
    }

    /// Whether new connections are made under another TLS configuration by now.
    fn is_outdated(&self, generation: &Generation) -> bool {
        match (&self.tls, self.current_tls(generation)) {
            (Some(mine), Some(current)) => !Arc::ptr_eq(&mine.made_under, current),
            (None, None) => false,
            _ => true,
        }
    }
}

/// Serves one connection until it ends.
pub async fn serve(
    worker: Rc<Worker>,
    position: usize,
    mut stream: TcpStream,
    from: SocketAddr,
    mut admitted: Admitted,
) {
    let generation = worker.shared.generation.load_full();
    let Some(listener) = generation.listeners.get(position).cloned() else { return };
    let limits = &generation.limits.clone();
    // A connection outlives the configuration that it was made under.
    drop(generation);
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY cannot be set");
    }
    let peer_ip = match client_address(&worker, &listener, limits, &mut stream, from).await {
        Some(address) => address.ip().to_canonical(),
        None => return,
    };
    if let Err(full) = admitted.from_address(peer_ip, limits.connections_per_peer_max) {
        return worker.shared.metrics.limit_hit(full.as_str());
    }
    let listener_name = listener.name.clone();
    let connection = |tls, server_name| {
        let ending = Cell::new(false);
        Rc::new(Connection { listener: position, listener_name, tls, server_name, peer_ip, ending })
    };
    match &listener.tls {
        None => serve_plain(&worker, connection(None, None), stream, limits).await,
        Some(tls) => {
            let Some(accepted) = handshake(&worker, &listener, tls, stream, limits, peer_ip).await else {
                return;
            };
            let server_name = match accepted.server_name.as_str().map(str::parse::<Host>) {
                None => None,
                Some(Ok(name)) => Some(name),
                // No host can agree with a name that is none.
                Some(Err(_)) => return,
            };
            let chain = accepted.stream.get_ref().1.peer_certificates().unwrap_or_default();
            let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
            let verified = RefCell::new((Arc::clone(tls), accepted.peer));
            let peer = TlsPeer { made_under: Arc::clone(tls), chain, verified };
            let connection = connection(Some(peer), server_name);
            match accepted.alpn {
                Alpn::Http1 => serve_http1(&worker, connection, accepted.stream, limits).await,
                Alpn::Http2 => serve_http2(&worker, connection, accepted.stream, limits).await,
            }
        }
    }
}

/// The client's address, told by the PROXY protocol where the listener has it.
async fn client_address(
    worker: &Worker,
    listener: &ListenerState,
    limits: &Limits,
    stream: &mut TcpStream,
    from: SocketAddr,
) -> Option<SocketAddr> {
    let Some(hops) = &listener.proxy_hops else { return Some(from) };
    let header = proxy_protocol::read(stream, from, hops);
    match tokio::time::timeout(limits.handshake_timeout, header).await {
        Ok(Ok(address)) => return Some(address),
        Ok(Err(ProxyHeaderError::Probe)) => {
            worker.shared.metrics.probes.inc();
        }
        Ok(Err(error)) => tracing::warn!(listener = %listener.name, %from, %error, "connection refused"),
        Err(_) => worker.shared.metrics.limit_hit("handshake_timeout"),
    }
    None
}

async fn handshake(
    worker: &Worker,
    listener: &ListenerState,
    tls: &Arc<ListenerTls>,
    stream: TcpStream,
    limits: &Limits,
    peer_ip: IpAddr,
) -> Option<Accepted<TcpStream>> {
    let shared = &worker.shared;
    let guard = match shared.admission.handshake(limits.handshakes_max) {
        Ok(guard) => guard,
        Err(full) => {
            shared.metrics.limit_hit(Full::as_str(full));
            return None;
        }
    };
    let outcome = tls.accept(stream, limits.handshake_timeout).await;
    drop(guard);
    match outcome {
        Ok(accepted) => {
            shared.metrics.handshakes_completed.inc();
            if accepted.resumed {
                shared.metrics.handshakes_resumed.inc();
            }
            Some(accepted)
        }
        Err(HandshakeFailure::Probe) => {
            shared.metrics.probes.inc();
            None
        }
        Err(failure) => {
            shared.audit.handshake_refused(&RefusedHandshake {
                listener: listener.name.clone(),
                peer_ip: Some(peer_ip),
                client_ip: Some(peer_ip),
                reason: Reason::from(&failure),
                claimed: claimed(&failure),
                detail: failure.to_string(),
            });
            None
        }
    }
}

/// What the refused certificate says of itself.
fn claimed(failure: &HandshakeFailure) -> Option<Claimed> {
    let HandshakeFailure::Peer { claimed: Some(unverified), .. } = failure else { return None };
    Some(Claimed { spiffe_id: unverified.uri.clone(), certificate: unverified.certificate })
}

async fn serve_http1<IO>(worker: &Rc<Worker>, connection: Rc<Connection>, io: IO, limits: &Limits)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    http1_limits(&mut builder, limits);
    let service = service_fn(service(worker, &connection));
    let serving = builder.serve_connection(TokioIo::new(io), service).with_upgrades();
    until_ended(worker, &connection, limits, LAST_REQUEST_WAIT, serving, |serving| {
        serving.graceful_shutdown()
    })
    .await;
}

async fn serve_http2<IO>(worker: &Rc<Worker>, connection: Rc<Connection>, io: IO, limits: &Limits)
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(limits.streams_per_connection_max)
        .max_header_list_size(header_list_bytes(limits))
        .max_pending_accept_reset_streams(limits.resets_per_connection_max)
        .max_local_error_reset_streams(limits.resets_per_connection_max)
        .keep_alive_interval(limits.idle_timeout)
        .keep_alive_timeout(limits.handshake_timeout);
    let service = service_fn(service(worker, &connection));
    let serving = builder.serve_connection(TokioIo::new(io), service);
    until_ended(worker, &connection, limits, Duration::ZERO, serving, |serving| serving.graceful_shutdown())
        .await;
}

/// Plain text has no ALPN: HTTP/2 is told by its preface.
async fn serve_plain(worker: &Rc<Worker>, connection: Rc<Connection>, io: TcpStream, limits: &Limits) {
    let mut builder = auto::Builder::new(LocalExecutor);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(limits.header_count_max)
        .max_buf_size(limits.header_bytes_max.max(BUFFER_BYTES_MIN));
    builder
        .http2()
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(limits.streams_per_connection_max)
        .max_header_list_size(header_list_bytes(limits));
    let service = service_fn(service(worker, &connection));
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
    until_ended(worker, &connection, limits, LAST_REQUEST_WAIT, serving, |serving| {
        serving.graceful_shutdown()
    })
    .await;
}

fn header_list_bytes(limits: &Limits) -> u32 {
    u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX)
}

fn http1_limits(builder: &mut http1::Builder, limits: &Limits) {
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(limits.header_count_max)
        .max_header_size(limits.header_bytes_max);
}

/// Requests of one connection as hyper hands them over.
fn service(worker: &Rc<Worker>, connection: &Rc<Connection>) -> impl Fn(Request<Incoming>) -> Answer + use<> {
    let worker = Rc::clone(worker);
    let connection = Rc::clone(connection);
    move |request| {
        let (worker, connection) = (Rc::clone(&worker), Rc::clone(&connection));
        Box::pin(async move {
            let is_http1 = request.version() <= Version::HTTP_11;
            let mut answer = exchange(Rc::clone(&worker), Rc::clone(&connection), request).await;
            let is_last = connection.ending.get() || connection.is_outdated(&worker.shared.generation.load());
            // RFC 9112 §9.6: a client that is told sends nothing more that would be lost.
            if is_last && is_http1 && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(answer)
        })
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>>>>;

/// For how long an HTTP/1.1 connection that is to end waits for one more request, to say so in its answer:
/// closing one under a request that is on its way would lose it.
const LAST_REQUEST_WAIT: Duration = Duration::from_secs(1);

/// Drives a connection. It is asked to end (GOAWAY, `Connection: close`) when the drain begins, when a
/// reload changes its listener's TLS, or at its maximum age; and it is cut at the drain's deadline.
async fn until_ended<C, E>(
    worker: &Worker,
    connection: &Connection,
    limits: &Limits,
    last_request_wait: Duration,
    serving: C,
    ask_to_end: fn(Pin<&mut C>),
) where
    C: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let shared = &worker.shared;
    let mut serving = pin!(serving);
    tokio::select! {
        ended = serving.as_mut() => return report(ended),
        () = shared.draining.cancelled() => {}
        () = outdated(worker, connection) => {}
        () = tokio::time::sleep(limits.connection_age_max) => {}
        () = shared.stopped.cancelled() => return,
    }
    connection.ending.set(true);
    tokio::select! {
        ended = serving.as_mut() => return report(ended),
        () = tokio::time::sleep(last_request_wait) => {}
        () = shared.stopped.cancelled() => return,
    }
    ask_to_end(serving.as_mut());
    tokio::select! {
        ended = serving => report(ended),
        () = shared.stopped.cancelled() => {}
    }
}

async fn outdated(worker: &Worker, connection: &Connection) {
    let mut reloaded = worker.shared.reloaded.subscribe();
    // Before the first wait too: a reload may have come during the handshake.
    while !connection.is_outdated(&worker.shared.generation.load()) {
        if reloaded.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// How a connection ended is no news: its requests have their records.
fn report<E: std::fmt::Display>(ended: Result<(), E>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// Runs hyper's tasks on this core.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}
