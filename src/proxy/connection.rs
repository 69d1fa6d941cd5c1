//! What all requests of one client connection have in common, from its first to its last.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::{HeaderMap, Method};
use rustls::pki_types::CertificateDer;

use super::assertion::Signed;
use super::generation::{Generation, ListenerState, Security, Shared};
use super::headers;
use super::hop::{self, CertificateHeader, Learned, TrustedHop};
use super::leaves::Leaves;
use super::refusal::Refusal;
use super::stall::{Busy, Pulse};
use crate::audit::{Arrival, Cut, Protocol, Reason, Signers};
use crate::clock::Timestamp;
use crate::decisions::Judged;
use crate::identity::{CertificateHash, Direction, Hop, Name, Peer, Signature};
use crate::policy::Host;
use crate::tls::{ListenerTls, PeerError};
use crate::token::KnownToken;

/// What every request of one connection has in common.
pub struct Connection {
    /// Position among the listeners of every generation.
    listener: usize,
    pub listener_name: Name,
    pub direction: Direction,
    /// `None` on a plain-text listener.
    tls: Option<TlsPeer>,
    /// The name the client asked for in its handshake.
    server_name: Option<Host>,
    /// The other end, after the PROXY protocol; an IPv4-mapped address is IPv4 here.
    pub peer_ip: IpAddr,
    /// Whether that is the address of the other end itself: with the PROXY protocol it is what somebody says.
    address_is_seen: bool,
    /// No request after the present ones is wanted: on HTTP/1 the next answer says so.
    pub ending: Cell<bool>,
    /// What upstreams are told of the client's address.
    pub origin: headers::Origin,
    pub pulse: Arc<Pulse>,
    known: RefCell<(u64, Known)>,
    learned: RefCell<Learned>,
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
    /// The last one that was signed, and may be sent again.
    pub assertion: Arc<ArcSwapOption<Signed>>,
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
pub struct TlsPeer {
    made_under: Arc<ListenerTls>,
    chain: Vec<CertificateDer<'static>>,
    verified: RefCell<(Arc<ListenerTls>, Signature<Peer>)>,
}

impl TlsPeer {
    /// `chain` is the one in which `peer` was verified.
    pub fn new(
        made_under: &Arc<ListenerTls>,
        chain: &[CertificateDer<'_>],
        peer: Signature<Peer>,
    ) -> TlsPeer {
        let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let verified = RefCell::new((Arc::clone(made_under), peer));
        TlsPeer { made_under: Arc::clone(made_under), chain, verified }
    }
}

impl Connection {
    /// A new one to the listener at this position; without `tls` in plain text.
    pub fn new(
        (listener, state): (usize, &ListenerState),
        (peer_ip, address_is_seen): (IpAddr, bool),
        tls: Option<TlsPeer>,
        server_name: Option<Host>,
    ) -> Connection {
        let (ending, pulse, cut) = (Cell::new(false), Pulse::new(), Arc::default());
        Connection {
            listener,
            listener_name: state.name.clone(),
            direction: state.direction,
            origin: headers::Origin::new(Some(peer_ip), tls.is_some()),
            tls,
            server_name,
            peer_ip,
            address_is_seen,
            ending,
            pulse,
            known: RefCell::default(),
            learned: RefCell::default(),
            cut,
        }
    }

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
        let (tls, current) = match (&self.tls, self.security(generation)) {
            (Some(tls), Some(Security::Tls(current))) => (tls, current),
            (None, Some(Security::Plain)) => {
                return match self.direction {
                    Direction::Inbound => Ok(Signature::Absent),
                    Direction::Outbound => generation.ourselves(now),
                };
            }
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

    /// The host that requests must be for, if the connection was made for one. A trusted hop makes its connections
    /// for a server, and sends what its own clients ask for, of whichever host.
    pub fn made_for(&self, generation: &Generation, now: Timestamp) -> Option<&Host> {
        let name = self.server_name.as_ref()?;
        let is_of_a_hop = !generation.hops.is_empty()
            && self
                .peer(generation, now)
                .is_ok_and(|end| hop::is_any(&generation.hops, self.address(), &end));
        (!is_of_a_hop).then_some(name)
    }

    /// That of the other end itself, unless somebody else told it.
    fn address(&self) -> Option<IpAddr> {
        self.address_is_seen.then_some(self.peer_ip)
    }

    /// The hop that `end`, the other end, is, where that is one that tells certificates.
    pub fn hop<'g>(
        &self,
        generation: &'g Generation,
        end: &Signature<Peer>,
    ) -> Option<(&'g TrustedHop, CertificateHeader)> {
        hop::telling_certificates(&generation.hops, self.address(), end)
    }

    /// The hop that `end`, the other end, is, where that tells of others, and what it tells of the client.
    pub fn through<'g>(
        &self,
        generation: &'g Generation,
        end: &Signature<Peer>,
        headers: &HeaderMap,
    ) -> Option<hop::Through<'g>> {
        let telling = self.hop(generation, end).map(|(hop, _)| hop);
        hop::through(&generation.hops, telling, end, headers)
    }

    /// Whose request these headers are of, as of now: the peer's, or whose a trusted hop tells.
    pub fn requester(
        &self,
        generation: &Generation,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Result<Signature<Peer>, Refusal> {
        let end = self.peer(generation, now).map_err(|error| Refusal::from(&error))?;
        match self.hop(generation, &end) {
            None => Ok(end),
            Some(hop) => {
                let revoked = end.verified().and_then(|end| generation.revocations.peer(end, now));
                if let Some(revoked) = revoked {
                    let detail = format!("hop `{}`: {revoked}", hop.0.name);
                    return Err(Refusal::of(Reason::PeerRevoked).because(detail));
                }
                self.learned.borrow_mut().peer(hop, generation.trust.as_ref(), headers, now)
            }
        }
    }

    /// Since when the peer has its present certificate, if it had the one `before` earlier and that is good still.
    /// Of whom a hop tells nobody knows; of ourselves we do.
    pub fn replaced(
        &self,
        leaves: &Leaves,
        generation: &Generation,
        before: &CertificateHash,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let tls = match (self.security(generation)?, self.direction) {
            (Security::Tls(tls), _) => tls,
            (Security::Plain, Direction::Outbound) => return generation.replaced(before, now),
            (Security::Plain | Security::Awaited, _) => return None,
        };
        let end = self.peer(generation, now).ok()?;
        if self.hop(generation, &end).is_some() {
            return None;
        }
        leaves.replaced(end.verified()?, before, tls, now)
    }

    /// The next request may be long in coming.
    pub fn rest(&self) {
        self.known.take();
        self.learned.take();
    }

    /// Until when nobody needs to be asked again about the other end and about `requester`: a chain ends, or a list by
    /// which somebody was not revoked.
    pub fn vouched_until(&self, generation: &Generation, requester: &Signature<Peer>) -> Timestamp {
        let own = generation.own_peer.as_ref().filter(|_| self.direction == Direction::Outbound);
        let end = match (&self.tls, self.security(generation)) {
            (Some(tls), Some(Security::Tls(current))) => {
                let end = tls.verified.borrow();
                end.1.verified().map_or(Timestamp::MAX, |peer| current.vouched_until(peer))
            }
            _ => own.map_or(Timestamp::MAX, |own| own.not_after),
        };
        match (requester.verified(), &generation.trust) {
            (Some(peer), Some(trust)) if matches!(peer.hop, Hop::Trusted(_)) => {
                trust.vouched_until(peer).min(end)
            }
            _ => end,
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

    fn security<'g>(&self, generation: &'g Generation) -> Option<&'g Security> {
        generation.listeners.get(self.listener).map(|listener| &listener.security)
    }

    /// Whether the listener is for the other direction by now.
    fn is_turned(&self, generation: &Generation) -> bool {
        generation.listeners.get(self.listener).is_none_or(|listener| listener.direction != self.direction)
    }

    /// Whether new connections are made under another TLS configuration by now.
    pub fn is_outdated(&self, generation: &Generation) -> bool {
        self.is_turned(generation)
            || match (&self.tls, self.security(generation)) {
                (Some(mine), Some(Security::Tls(current))) => !Arc::ptr_eq(&mine.made_under, current),
                (None, Some(Security::Plain)) => false,
                _ => true,
            }
    }
}
