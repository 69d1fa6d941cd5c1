//! One configuration, live: everything that a request is judged and carried by.
//!
//! A request loads a [`Generation`] once and is judged wholly by it; a reload puts a new one in its place.

use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::admission::Admission;
use super::assertion::Assertions;
use super::connection::Telling;
use super::hop::TrustedHop;
use super::http2_error::{Ended, ErrorCode};
use super::leaves::Leaves;
use super::limits::Limits;
use super::normalize::OddNames;
use super::route::RouteSettings;
use crate::audit::Audit;
use crate::clock::{Clock, Timestamp};
use crate::decisions::Decisions;
use crate::identity::{CertificateHash, Direction, Name, Peer, Signature, SpiffeId};
use crate::metrics::{CounterBy, Metrics};
use crate::policy::{Policy, UpstreamId};
use crate::revocation::Revocations;
use crate::tls::peer::OutOfDate;
use crate::tls::{ListenerTls, PeerError, Trust};
use crate::token::Verifier;
use crate::upstream::Upstream;
use crate::upstream::credential::UpstreamCredential;

/// One load of the configuration, with what has changed by itself since. All that is large is shared with the
/// generations before and after, as far as it did not change.
#[derive(Clone)]
pub struct Generation {
    /// Counts the loads and changes taken since the start, from 1.
    pub number: u64,
    pub policy: Arc<Policy>,
    pub verifier: Arc<Verifier>,
    pub standings: Arc<Decisions<Telling>>,
    pub revocations: Arc<Revocations>,
    /// By `RouteId`.
    pub routes: Arc<[RouteSettings]>,
    /// By `UpstreamId`.
    pub upstreams: Vec<Arc<Upstream>>,
    /// What each is shown, by `UpstreamId`.
    pub credentials: Vec<UpstreamCredential>,
    /// Whether each is told who asks, by `UpstreamId`.
    pub told: Arc<[bool]>,
    /// In the order in which their sockets were opened at the start.
    pub listeners: Vec<ListenerState>,
    /// Our own SPIFFE ID, where our certificate has one.
    pub own_id: Option<SpiffeId>,
    /// Ourselves as a peer: that of all requests that the local application sends.
    pub own_peer: Option<Arc<Peer>>,
    /// What our own certificate took the place of, if it took one's.
    pub own_former: Option<Former>,
    /// Whose word on somebody else is taken.
    pub hops: Arc<[TrustedHop]>,
    /// Who vouches for the certificates that they tell.
    pub trust: Option<Arc<Trust>>,
    /// With `[assertion]`.
    pub assertions: Option<Arc<Assertions>>,
    pub limits: Limits,
    pub odd_names: OddNames,
}

/// A certificate of ours that we have another in place of.
#[derive(Clone, Copy, Debug)]
pub struct Former {
    certificate: CertificateHash,
    not_after: Timestamp,
    replaced: Timestamp,
}

/// `[listener.NAME]` without its socket.
#[derive(Clone)]
pub struct ListenerState {
    pub name: Name,
    pub direction: Direction,
    pub security: Security,
    /// With `proxy_protocol`: the hops that speak it, and must.
    pub proxy_hops: Option<Vec<IpNet>>,
}

impl Generation {
    /// Whether this upstream is told who asks.
    pub fn tells(&self, upstream: UpstreamId) -> bool {
        self.told.get(upstream.index()).is_some_and(|told| *told)
    }

    /// The peer of what the local application sends, while our certificate is good.
    pub fn ourselves(&self, now: Timestamp) -> Result<Signature<Peer>, PeerError> {
        match &self.own_peer {
            Some(own) if own.not_after <= now => Err(PeerError::Expired(OutOfDate::Expired(own.not_after))),
            Some(own) => Ok(Signature::Verified(Arc::clone(own))),
            None => Err(PeerError::Awaited),
        }
    }

    /// What our own certificate has taken the place of, where from now on it is that of `own`.
    pub fn former(&self, own: Option<&Peer>, now: Timestamp) -> Option<Former> {
        let (own, before) = (own?, self.own_peer.as_ref()?);
        if own.certificate == before.certificate {
            return self.own_former;
        }
        let Peer { certificate, not_after, .. } = **before;
        (own.name == before.name).then_some(Former { certificate, not_after, replaced: now })
    }

    /// Since when we have our present certificate, if it took the place of the one `before`, and that is good still.
    pub fn replaced(&self, before: &CertificateHash, now: Timestamp) -> Option<Timestamp> {
        let former = self.own_former.filter(|former| former.certificate == *before);
        former.filter(|former| now < former.not_after).map(|former| former.replaced)
    }
}

/// How connections of a listener are secured.
#[derive(Clone)]
pub enum Security {
    /// Not at all: `allow_plaintext`, and where requests are the local application's.
    Plain,
    /// By a certificate of ours that has not come yet: connections are closed.
    Awaited,
    /// The same `Arc` as in the last generation unless a certificate, CA, CRL or mode changed; a connection made
    /// under another one is asked to end.
    Tls(Arc<ListenerTls>),
}

/// What all cores share.
pub struct Shared {
    pub generation: ArcSwap<Generation>,
    /// Marked after each new generation, for those who wait rather than ask.
    pub reloaded: watch::Sender<()>,
    pub clock: Clock,
    pub audit: Audit,
    pub metrics: Arc<Metrics>,
    pub http2_errors: CounterBy<(Ended, ErrorCode)>,
    pub admission: Arc<Admission>,
    pub leaves: Leaves,
    /// No new connections; those that are open end after what they are at.
    pub draining: CancellationToken,
    /// The drain's deadline: what is still open is cut.
    pub stopped: CancellationToken,
}
