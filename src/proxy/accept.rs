//! How a connection begins: from an accepted socket to the protocol that is spoken on it, past the PROXY protocol
//! and the handshake.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::admission::Admitted;
use super::connection::{Connection, TlsPeer};
use super::generation::{ListenerState, Security};
use super::limits::Limits;
use super::proxy_protocol::{self, ProxyHeaderError};
use super::worker::Worker;
use super::{http1, http2};
use crate::audit::{Claimed, Reason, RefusedHandshake};
use crate::metrics::Limit;
use crate::policy::Host;
use crate::tls::{Accepted, Alpn, HandshakeFailure, ListenerTls};

const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

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
    let address = (peer_ip, listener.proxy_hops.is_none());
    let connection =
        |tls, server_name| Rc::new(Connection::new((position, &listener), address, tls, server_name));
    // Boxed: a connection that rests does not keep the room of what it went through.
    let tls = match &listener.security {
        Security::Plain => {
            return Box::pin(serve_plain(&worker, connection(None, None), stream, limits)).await;
        }
        Security::Awaited => {
            worker.shared.metrics.connections_before_certificate.inc();
            return;
        }
        Security::Tls(tls) => tls,
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
    worker.shared.leaves.saw(&accepted.peer, chain, worker.shared.clock.now());
    let peer = TlsPeer::new(tls, chain, accepted.peer);
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
