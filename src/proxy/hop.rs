//! Hops in front of this proxy whose word on somebody else is taken: who they are is told by their own verified
//! certificate, or by the address they come from, never by what they say.
//!
//! Invariants:
//! - A hop that tells certificates ended somebody's TLS connection, and is not who asks: without a certificate in its
//!   header a request has no peer, whatever the hop's own certificate is.
//! - What it tells is a chain, and it is verified here as in a handshake. Hashes, subjects and other text are not read.
//! - A hop makes its connections for a server, not for a host: over one come requests for whatever hosts it passes on.
//! - An address tells of a hop only as the other end of the TCP connection itself, and only where that end shows no
//!   certificate of its own: whoever has one is that workload, wherever it runs.

mod certificate;
mod client;
mod structured;
mod xfcc;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use http::header::ORIGIN;
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

pub use certificate::CertificateHeader;
pub use client::spoke_tls;

use certificate::only;
use client::{FORWARDED_FOR, FORWARDED_PROTO, client_address};

use super::headers::{ASSERTION, USER_CLAIMS};
use super::refusal::Refusal;
use super::route::SEC_FETCH_SITE;
use crate::audit::record::HopRecord;
use crate::audit::{Draft, Reason};
use crate::clock::Timestamp;
use crate::identity::{CertificateHash, Hop, Name, Peer, PeerName, Signature, SpiffePattern};
use crate::tls::{PeerError, Trust};

/// `[trusted_hop.NAME]`, unless it speaks the PROXY protocol.
#[derive(Clone, Debug, PartialEq)]
pub struct TrustedHop {
    pub name: Name,
    pub kind: HopKind,
    pub known_by: KnownBy,
}

/// How a hop tells of whom it speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HopKind {
    /// Another Countersign, by an assertion.
    Countersign,
    /// Whoever ended a TLS connection, by the certificate that was shown there.
    Certificate(CertificateHeader),
}

/// What tells a hop from others; never empty.
#[derive(Clone, Debug, PartialEq)]
pub enum KnownBy {
    Address(Vec<IpNet>),
    SpiffeId(Vec<SpiffePattern>),
}

/// A hop that a request came through.
pub struct Through<'h> {
    pub hop: &'h TrustedHop,
    /// The client's address, as the hop tells it; `None` if it does not.
    pub client: Result<Option<IpAddr>, Refusal>,
}

/// The peers that the last requests of a connection told, the latest first, by the bytes that told them: a hop brings
/// many on one connection.
#[derive(Debug, Default)]
pub struct Learned(Vec<LearnedPeer>);

/// So many peers of a connection are remembered.
const LEARNED_MAX: usize = 8;

#[derive(Debug)]
struct LearnedPeer {
    told: Vec<Box<[u8]>>,
    trust: Arc<Trust>,
    hop: Name,
    peer: Arc<Peer>,
    /// From when to when it is believed without being verified again; the end is out.
    since: Timestamp,
    until: Timestamp,
}

/// The assertion that a peer passes on, if its word is taken: that of another Countersign, or of our own application,
/// which was told it by us. Anybody else's is not read, and goes nowhere.
pub fn assertion<'h>(
    hops: &[TrustedHop],
    peer: &Peer,
    headers: &'h HeaderMap,
) -> Result<Option<&'h HeaderValue>, Refusal> {
    let mut assertions = headers.get_all(ASSERTION).iter();
    let Some(assertion) = assertions.next() else { return Ok(None) };
    match assertions.next() {
        _ if !is_believed(hops, peer) => Ok(None),
        Some(_) => Err(Refusal::of(Reason::RequestMalformed).because("more than one assertion")),
        None => Ok(Some(assertion)),
    }
}

/// What the load balancer at the other end, if there is one, says of who logged in there. Anybody else's is not read, and
/// goes nowhere.
pub fn user_claims<'h>(
    hop: Option<&TrustedHop>,
    headers: &'h HeaderMap,
) -> Result<Option<&'h HeaderValue>, Refusal> {
    if hop.is_some_and(TrustedHop::is_alb) { only(headers, USER_CLAIMS.as_str()) } else { Ok(None) }
}

/// Whether a peer's word on a caller is taken.
pub fn is_believed(hops: &[TrustedHop], peer: &Peer) -> bool {
    let is_countersign =
        |hop: &TrustedHop| hop.kind == HopKind::Countersign && hop.is_at_the_end(None, Some(peer));
    peer.hop == Hop::Local || hops.iter().any(is_countersign)
}

/// The hop at the other end of a connection, if it is one that tells certificates. `address` is that of the other
/// end itself, `None` where somebody else told it.
pub fn telling_certificates<'h>(
    hops: &'h [TrustedHop],
    address: Option<IpAddr>,
    end: &Signature<Peer>,
) -> Option<(&'h TrustedHop, CertificateHeader)> {
    let end = end.verified().map(|peer| &**peer);
    hops.iter().find_map(|hop| match hop.kind {
        HopKind::Certificate(header) if hop.is_at_the_end(address, end) => Some((hop, header)),
        HopKind::Certificate(_) | HopKind::Countersign => None,
    })
}

/// The Countersign at the other end of a connection that tells of others, if it is one.
pub fn telling_assertions<'h>(hops: &'h [TrustedHop], end: &Signature<Peer>) -> Option<&'h TrustedHop> {
    let end = end.verified()?;
    hops.iter().find(|hop| hop.kind == HopKind::Countersign && hop.is_at_the_end(None, Some(end)))
}

/// The hop at the other end of a connection that tells of others, if it is one; `telling` is the one that tells
/// certificates.
pub fn through<'h>(
    hops: &'h [TrustedHop],
    telling: Option<&'h TrustedHop>,
    end: &Signature<Peer>,
    headers: &HeaderMap,
) -> Option<Through<'h>> {
    let hop = telling.or_else(|| telling_assertions(hops, end))?;
    Some(Through { hop, client: client_address(hops, headers).map(|client| hop.tells(client)) })
}

/// Whether the other end of a connection is a hop of any kind. `address` as in [`telling_certificates`].
pub fn is_any(hops: &[TrustedHop], address: Option<IpAddr>, end: &Signature<Peer>) -> bool {
    let end = end.verified().map(|peer| &**peer);
    hops.iter().any(|hop| hop.is_at_the_end(address, end))
}

/// What of these headers may tell whose request it is, from where, and by which page: for judging it again.
pub fn fields(hops: &[TrustedHop], headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    let of_hop = |hop: &TrustedHop| match hop.kind {
        HopKind::Certificate(header) => header.names(),
        HopKind::Countersign => &[],
    };
    let mut names: BTreeSet<&str> = hops.iter().flat_map(of_hop).copied().collect();
    if !hops.is_empty() {
        names.extend([FORWARDED_FOR, FORWARDED_PROTO, ORIGIN.as_str(), SEC_FETCH_SITE]);
    }
    let values =
        |name| headers.get_all(name).iter().map(move |value| (HeaderName::from_static(name), value.clone()));
    names.into_iter().flat_map(values).collect()
}

impl Through<'_> {
    /// What the record says of it; `certificate` is its own.
    pub fn note(&self, certificate: Option<CertificateHash>, draft: &mut Draft) {
        match (self.hop.kind, &self.client) {
            (HopKind::Certificate(_), client) => {
                let record = HopRecord { name: self.hop.name.clone(), certificate };
                draft.came_through(record, client.as_ref().ok().copied().flatten());
            }
            (HopKind::Countersign, Ok(client)) => draft.client(*client),
            (HopKind::Countersign, Err(_)) => {}
        }
    }

    /// As rules call it. Another Countersign is a peer like others, whose word on a caller is taken.
    pub fn named(&self) -> Hop {
        match self.hop.kind {
            HopKind::Certificate(_) => Hop::Trusted(self.hop.name.clone()),
            HopKind::Countersign => Hop::Direct,
        }
    }
}

impl TrustedHop {
    /// What it tells by a client's address: another Countersign may itself be asked from its own machine, whose loopback
    /// addresses say nothing here.
    pub fn tells(&self, client: Option<IpAddr>) -> Option<IpAddr> {
        client.filter(|client| self.kind != HopKind::Countersign || !client.is_loopback())
    }

    pub fn is_alb(&self) -> bool {
        matches!(self.kind, HopKind::Certificate(header) if header.is_alb())
    }

    /// Whether it is the other end of a connection from `address`, with this verified certificate.
    pub fn is_at_the_end(&self, address: Option<IpAddr>, peer: Option<&Peer>) -> bool {
        match (&self.known_by, peer) {
            (KnownBy::Address(ranges), None) => {
                address.is_some_and(|address| ranges.iter().any(|range| range.contains(&address)))
            }
            (
                KnownBy::SpiffeId(patterns),
                Some(Peer { name: PeerName::Spiffe(id), hop: Hop::Direct, .. }),
            ) => patterns.iter().any(|pattern| pattern.matches(id)),
            (KnownBy::Address(_) | KnownBy::SpiffeId(_), _) => false,
        }
    }
}

impl Learned {
    /// The peer that `hop` tells by `header`, verified as of now; absent if it tells none.
    pub fn peer(
        &mut self,
        (hop, header): (&TrustedHop, CertificateHeader),
        trust: Option<&Arc<Trust>>,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Result<Signature<Peer>, Refusal> {
        let told = header.values(headers)?;
        if told.iter().all(Option::is_none) {
            return Ok(Signature::Absent);
        }
        let trust = trust.ok_or_else(|| Refusal::of(Reason::Internal))?;
        let bytes = || told.iter().map(|value| value.map_or(&[][..], HeaderValue::as_bytes));
        let is_same = |known: &LearnedPeer| {
            known.told.iter().map(|told| &**told).eq(bytes())
                && Arc::ptr_eq(&known.trust, trust)
                && known.hop == hop.name
                && known.since <= now
                && now < known.until
        };
        if let Some(at) = self.0.iter().position(is_same) {
            self.0[..=at].rotate_right(1);
            return Ok(Signature::Verified(Arc::clone(&self.0[0].peer)));
        }
        let chain = header.chain(&told).map_err(|what| {
            let detail = format!("what hop `{}` says of a certificate: {what}", hop.name);
            Refusal::of(Reason::PeerMalformed).because(detail)
        })?;
        let peer = vouched(trust, &chain, &hop.name, now).map_err(|error| Refusal::from(&error))?;
        self.0.truncate(LEARNED_MAX - 1);
        let learned = LearnedPeer {
            told: bytes().map(Box::from).collect(),
            trust: Arc::clone(trust),
            hop: hop.name.clone(),
            peer: Arc::clone(&peer),
            since: now,
            until: trust.vouched_until(&peer),
        };
        self.0.insert(0, learned);
        Ok(Signature::Verified(peer))
    }
}

/// Verifies the chain that a hop tells as if it were a client's of ours.
pub fn vouched(
    trust: &Trust,
    chain: &[rustls::pki_types::CertificateDer<'_>],
    hop: &Name,
    now: Timestamp,
) -> Result<Arc<Peer>, PeerError> {
    let peer = trust.verify_client(chain, now)?;
    Ok(Arc::new(Peer { hop: Hop::Trusted(hop.clone()), ..Peer::clone(&peer) }))
}

#[cfg(test)]
mod tests;
