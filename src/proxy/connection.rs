//! One client connection: from an accepted socket to the end of its last request.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::Method;
use rustls::pki_types::CertificateDer;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;

use super::admission::Admitted;
use super::generation::{Generation, ListenerState, Shared};
use super::limits::Limits;
use super::proxy_protocol::{self, ProxyHeaderError};
use super::stall::{Busy, Pulse};
use super::worker::Worker;
use super::{headers, http1, http2};
use crate::audit::{Arrival, Claimed, Cut, Protocol, Reason, RefusedHandshake, Signers};
use crate::clock::Timestamp;
use crate::decisions::Judged;
use crate::identity::{Direction, Name, Peer, Signature};
use crate::metrics::Limit;
use crate::policy::Host;
use crate::tls::{Accepted, Alpn, HandshakeFailure, ListenerTls, PeerError};
use crate::token::KnownToken;

const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What every request of one connection has in common.
pub struct Connection {
    /// Position among the listeners of every generation.
    listener: usize,
    pub listener_name: Name,
    pub direction: Direction,
    /// `None` on a plain-text listener.
    tls: Option<TlsPeer>,
    /// The name the client asked for in its handshake.
    pub server_name: Option<Host>,
    /// The other end, after the PROXY protocol; an IPv4-mapped address is IPv4 here.
    pub peer_ip: IpAddr,
    /// No request after the present ones is wanted: on HTTP/1 the next answer says so.
    pub ending: Cell<bool>,
    /// What upstreams are told of the client's address.
    pub origin: headers::Origin,
    pub pulse: Arc<Pulse>,
    known: RefCell<(u64, Known)>,
    cut: Arc<Cut>,
}

/// What the last request of a connection rested on: most often the next one brings the same token.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub token: Option<Arc<KnownToken>>,
    pub judged: Option<Arc<Judged<Telling>>>,
}

/// How upstreams and records are told of a peer and a caller. What both are called depends on their standing, which
/// is made for one peer and one caller under one policy; so it is kept with that.
#[derive(Clone, Debug)]
pub struct Telling {
    pub headers: Arc<headers::Identity>,
    pub signers: Signers,
}

/// What is told of one standing is kept up to here: it is beside the memory that tokens were given, and may be
/// several times what it is made from.
const TELLING_BYTES_MAX: usize = 2048;

impl Telling {
    /// Whether it may be kept.
    pub fn is_small(&self) -> bool {
        let caller = self.signers.caller.as_ref().map_or(0, |caller| caller.bytes());
        self.headers.bytes() + caller <= TELLING_BYTES_MAX
    }
}

/// Who is at the other end, and under which configuration that was verified.
struct TlsPeer {
    made_under: Arc<ListenerTls>,
    chain: Vec<CertificateDer<'static>>,
    verified: RefCell<(Arc<ListenerTls>, Signature<Peer>)>,
}

impl Connection {
    /// One more request, until the outcome is dropped.
    pub fn busy(&self, has_body: bool) -> Busy {
        self.pulse.busy(has_body)
    }

    /// What is known of a request that came here; `method` if its head could be read.
    pub fn arrival<'a>(&'a self, method: Option<&'a Method>, protocol: Protocol) -> Arrival<'a> {
        let peer_ip = Some(self.peer_ip);
        Arrival {
            method,
            listener: &self.listener_name,
            protocol,
            peer_ip,
            client_ip: peer_ip,
            cut: &self.cut,
        }
    }

    /// The peer as of now. Its certificate may have expired since the handshake, or the list by which it was
    /// not revoked; and where a reload has changed CAs, CRLs or the mode, what is in force now counts. In
    /// each case its chain is verified again.
    pub fn peer(&self, generation: &Generation, now: Timestamp) -> Result<Signature<Peer>, PeerError> {
        if self.is_turned(generation) {
            return Err(PeerError::Missing);
        }
        let (tls, current) = match (&self.tls, self.current_tls(generation)) {
            (Some(tls), Some(current)) => (tls, current),
            (None, None) if self.direction == Direction::Outbound => return generation.ourselves(now),
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

    /// The next request may be long in coming.
    pub fn rest(&self) {
        self.known.take();
    }

    /// Waits until the peer would be refused: a reload took away what vouched for it, or its chain or
    /// revocation list ended.
    pub async fn refused(&self, shared: &Shared) -> PeerError {
        let mut reloaded = shared.reloaded.subscribe();
        loop {
            let generation = shared.generation.load_full();
            let now = shared.clock.now();
            let until = match (self.peer(&generation, now), self.current_tls(&generation)) {
                (Err(error), _) => return error,
                (Ok(Signature::Verified(peer)), Some(tls)) => tls.vouched_until(&peer),
                (Ok(Signature::Verified(peer)), None) => peer.not_after,
                (Ok(_), _) => Timestamp::MAX,
            };
            drop(generation);
            tokio::select! {
                () = sleep(until.since(now)) => {}
                changed = reloaded.changed() => if changed.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Waits until a reload takes away what vouched for the peer.
    pub async fn disowned(&self, shared: &Shared) -> PeerError {
        let mut reloaded = shared.reloaded.subscribe();
        loop {
            let generation = shared.generation.load_full();
            if self.is_outdated(&generation)
                && let Err(error) = self.peer(&generation, shared.clock.now())
            {
                return error;
            }
            drop(generation);
            if reloaded.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// What is under way ends by this and not by its client.
    pub fn cut(&self, error: &PeerError) {
        // A connection is cut once.
        let _ = self.cut.set((Reason::from(error), error.to_string()));
    }

    /// What is known under this generation.
    pub fn known(&self, generation: &Generation) -> Known {
        let known = self.known.borrow();
        if known.0 == generation.number { known.1.clone() } else { Known::default() }
    }

    pub fn keep(&self, generation: &Generation, known: Known) {
        *self.known.borrow_mut() = (generation.number, known);
    }

    fn current_tls<'g>(&self, generation: &'g Generation) -> Option<&'g Arc<ListenerTls>> {
        generation.listeners.get(self.listener)?.tls.as_ref()
    }

    /// Whether the listener is for the other direction by now.
    fn is_turned(&self, generation: &Generation) -> bool {
        generation.listeners.get(self.listener).is_none_or(|listener| listener.direction != self.direction)
    }

    /// Whether new connections are made under another TLS configuration by now.
    pub fn is_outdated(&self, generation: &Generation) -> bool {
        self.is_turned(generation) || match (&self.tls, self.current_tls(generation)) {
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
    if let Err(limit) = admitted.from_address(peer_ip, limits.connections_per_peer_max) {
        return worker.shared.metrics.limit_hit(limit);
    }
    let listener_name = listener.name.clone();
    let connection = |tls: Option<TlsPeer>, server_name| {
        let (ending, pulse, cut) = (Cell::new(false), Pulse::new(), Arc::default());
        Rc::new(Connection {
            listener: position,
            listener_name,
            direction: listener.direction,
            origin: headers::Origin::new(Some(peer_ip), tls.is_some()),
            tls,
            server_name,
            peer_ip,
            ending,
            pulse,
            known: RefCell::default(),
            cut,
        })
    };
    // Boxed: a connection that rests does not keep the room of what it went through.
    let Some(tls) = &listener.tls else {
        return Box::pin(serve_plain(&worker, connection(None, None), stream, limits)).await;
    };
    let secured = Box::pin(secure(&worker, &listener, tls, stream, limits, peer_ip)).await;
    let Some(Secured { peer, server_name, alpn, io }) = secured else { return };
    let connection = connection(Some(peer), server_name);
    match alpn {
        Alpn::Http1 => http1::serve(&worker, connection, io, Bytes::new(), limits).await,
        Alpn::Http2 => Box::pin(http2::serve(&worker, connection, io, Bytes::new(), limits)).await,
    }
}

/// What a handshake comes to.
struct Secured {
    peer: TlsPeer,
    server_name: Option<Host>,
    alpn: Alpn,
    io: Box<TlsStream<TcpStream>>,
}

async fn secure(
    worker: &Worker,
    listener: &ListenerState,
    tls: &Arc<ListenerTls>,
    stream: TcpStream,
    limits: &Limits,
    peer_ip: IpAddr,
) -> Option<Secured> {
    let accepted = handshake(worker, listener, tls, stream, limits, peer_ip).await?;
    let server_name = match accepted.server_name.as_str().map(str::parse::<Host>) {
        None => None,
        Some(Ok(name)) => Some(name),
        // No host can agree with a name that is none.
        Some(Err(_)) => {
            let refused = RefusedHandshake {
                listener: listener.name.clone(),
                peer_ip: Some(peer_ip),
                client_ip: Some(peer_ip),
                reason: Reason::RequestMalformed,
                detail: "the server name that the client asked for is no host".to_owned(),
                claimed: None,
            };
            worker.shared.audit.handshake_refused(&refused).await;
            return None;
        }
    };
    let chain = accepted.stream.get_ref().1.peer_certificates().unwrap_or_default();
    let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
    let verified = RefCell::new((Arc::clone(tls), accepted.peer));
    let peer = TlsPeer { made_under: Arc::clone(tls), chain, verified };
    Some(Secured { peer, server_name, alpn: accepted.alpn, io: Box::new(accepted.stream) })
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
    match timeout(limits.handshake_timeout, header).await {
        Ok(Ok(address)) => return Some(address),
        Ok(Err(ProxyHeaderError::Probe)) => {
            worker.shared.metrics.probes.inc();
        }
        Ok(Err(error)) => {
            worker.shared.metrics.proxy_headers_refused.inc();
            if let Some(left_out) = worker.refused_headers.due() {
                tracing::warn!(listener = %listener.name, %from, %error, left_out, "connection refused");
            }
        }
        Err(_) => worker.shared.metrics.limit_hit(Limit::HandshakeTimeout),
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
    let admission = &shared.admission;
    let guard = match admission.handshake(peer_ip, limits.handshakes_max, limits.handshakes_per_peer_max) {
        Ok(guard) => guard,
        Err(limit) => {
            shared.metrics.limit_hit(limit);
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
            if matches!(failure, HandshakeFailure::TimedOut(_)) {
                shared.metrics.limit_hit(Limit::HandshakeTimeout);
            }
            let refused = RefusedHandshake {
                listener: listener.name.clone(),
                peer_ip: Some(peer_ip),
                client_ip: Some(peer_ip),
                reason: Reason::from(&failure),
                claimed: claimed(&failure),
                detail: failure.to_string(),
            };
            shared.audit.handshake_refused(&refused).await;
            None
        }
    }
}

/// What the refused certificate says of itself.
fn claimed(failure: &HandshakeFailure) -> Option<Claimed> {
    let HandshakeFailure::Peer { claimed: Some(unverified), .. } = failure else { return None };
    Some(Claimed { spiffe_id: unverified.uri.clone(), certificate: unverified.certificate })
}

/// Plain text has no ALPN: HTTP/2 is told by its preface (RFC 9113 §3.4).
async fn serve_plain(worker: &Rc<Worker>, connection: Rc<Connection>, mut io: TcpStream, limits: &Limits) {
    let start = match timeout(limits.idle_timeout, first_bytes(&mut io)).await {
        Ok(Ok(start)) => start,
        Ok(Err(error)) => return tracing::debug!(%error, "connection ended"),
        Err(_) => return,
    };
    if start.is_empty() {
        worker.shared.metrics.probes.inc();
    } else if start == HTTP2_PREFACE {
        http2::serve(worker, connection, io, start, limits).await;
    } else {
        http1::serve(worker, connection, io, start, limits).await;
    }
}

/// As many as it takes to tell HTTP/2 from what is not; none if the other end closes first.
async fn first_bytes(io: &mut TcpStream) -> io::Result<Bytes> {
    let mut start = BytesMut::with_capacity(HTTP2_PREFACE.len());
    while start.len() < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(&start) {
        let room = HTTP2_PREFACE.len() - start.len();
        if io.take(room as u64).read_buf(&mut start).await? == 0 {
            break;
        }
    }
    Ok(start.freeze())
}
