//! Hops in front of this proxy whose word on somebody else is taken: who they are is told by their own verified
//! certificate, never by what they say.

use http::{HeaderMap, HeaderValue};

use super::headers::ASSERTION;
use super::refusal::Refusal;
use crate::audit::Reason;
use crate::identity::{Hop, Name, Peer, PeerName, SpiffePattern};

/// `[trusted_hop.NAME]`, unless it speaks the PROXY protocol.
#[derive(Clone, Debug, PartialEq)]
pub struct TrustedHop {
    pub name: Name,
    pub kind: HopKind,
    /// Any of these; never empty.
    pub spiffe_ids: Vec<SpiffePattern>,
}

/// How a hop tells of whom it speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HopKind {
    /// Another Countersign, by an assertion.
    Countersign,
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

/// Whether a peer's word on a caller is taken.
pub fn is_believed(hops: &[TrustedHop], peer: &Peer) -> bool {
    let is_countersign = |hop: &TrustedHop| hop.kind == HopKind::Countersign && hop.is_hop(peer);
    peer.hop == Hop::Local || hops.iter().any(is_countersign)
}

impl TrustedHop {
    fn is_hop(&self, peer: &Peer) -> bool {
        match &peer.name {
            PeerName::Spiffe(id) if peer.hop == Hop::Direct => {
                self.spiffe_ids.iter().any(|pattern| pattern.matches(id))
            }
            PeerName::Spiffe(_) | PeerName::Dns { .. } => false,
        }
    }
}
