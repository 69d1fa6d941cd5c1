//! The steps by which a request is judged: its head is read, both signatures are verified, the policy
//! decides, and what its upstream is told is made out.
//!
//! [`exchange`](super::exchange) goes them for requests that came; whoever only asks what would become of one
//! goes the same. Nothing here reads a socket or a clock.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use http::request::Parts;

use super::connection::Telling;
use super::generation::Generation;
use super::headers;
use super::hop;
use super::normalize::{Asked, OddNames};
use super::refusal::Refusal;
use crate::audit::{Draft, Reason};
use crate::clock::Timestamp;
use crate::decisions::Judged;
use crate::identity::{Caller, Hop, Peer, Signature};
use crate::metrics::{Limit, Lookup};
use crate::policy::{self, Circumstances, Decision, Host};
use crate::tls::PeerError;
use crate::token::{KnownToken, TokenError, Verifier};

/// Both signatures of a request, verified or absent.
#[derive(Clone, Debug)]
pub struct Signatures {
    pub peer: Signature<Peer>,
    pub caller: Signature<Caller>,
}

/// From where a request comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The other end of the connection, after the PROXY protocol.
    pub peer: Option<IpAddr>,
    /// The client as trusted hops tell it.
    pub client: Option<IpAddr>,
}

/// Reads a head as `generation` wants heads to be; `server_name` is the one that the connection was made for.
pub fn read(generation: &Generation, head: &mut Parts, server_name: Option<&Host>) -> Result<Asked, Refusal> {
    if headers::field_count(&head.headers) > generation.limits.header_count_max {
        return Err(Refusal::over(Limit::HeaderCountMax));
    }
    if generation.odd_names == OddNames::Drop {
        headers::strip_odd_names(&mut head.headers);
    }
    Ok(Asked::read(head, server_name)?)
}

/// Verifies both signatures, also when the first is bad: the record says what became of each. `peer` tells who
/// is there now; `known` is the token that came last.
pub async fn verify(
    generation: &Generation,
    verifier: &Verifier,
    headers: &HeaderMap,
    peer: impl Fn() -> Result<Signature<Peer>, PeerError>,
    known: &mut Option<Arc<KnownToken>>,
    draft: &mut Draft,
) -> Result<Signatures, Refusal> {
    let policy = &generation.policy;
    let before = peer();
    let there = before.as_ref().ok().and_then(Signature::verified);
    let certificate = there.map(|peer| &peer.certificate);
    let caller = verifier.verify_again(headers, certificate, known).await;
    let caller = caller.map_err(|error| Refusal::from(&error));
    let caller = match there {
        Some(peer) if headers.contains_key(headers::ASSERTION) => {
            // Boxed: most requests have none.
            let asserted = Box::pin(asserted(generation, verifier, headers, peer)).await;
            caller.and_then(|caller| one_of(caller, asserted?))
        }
        _ => caller,
    };
    // Keys may have been waited for, and the certificate may have ended meanwhile.
    let peer = before.and_then(|_| peer());
    let peer = peer.map_err(|error| Refusal::from(&error));
    draft.peer(peer.as_ref().map_err(|refusal| refusal.reason));
    draft.caller(caller.as_ref().map_err(|refusal| refusal.reason));
    let refusal = match (peer, caller) {
        (Ok(peer), Ok(caller)) => return Ok(Signatures { peer, caller }),
        (Err(refusal), Ok(_)) => refusal,
        // Nothing is decided, but the record calls the service by its name all the same, or says that it has none.
        (Ok(Signature::Verified(peer)), Err(refusal)) => {
            let services = policy.services_of(&peer);
            draft.named(&services);
            if services.is_empty() { refusal.and(Refusal::of(Reason::PeerUnknown)) } else { refusal }
        }
        (Ok(Signature::Absent), Err(refusal)) => refusal,
        (Err(peer), Err(caller)) => peer.and(caller),
    };
    draft.signers(None, policy);
    Err(refusal)
}

/// Who a hop whose word is taken vouches for.
async fn asserted(
    generation: &Generation,
    verifier: &Verifier,
    headers: &HeaderMap,
    peer: &Peer,
) -> Result<Signature<Caller>, Refusal> {
    let Some(assertion) = hop::assertion(&generation.hops, peer, headers)? else {
        return Ok(Signature::Absent);
    };
    let asserted = verifier.verify_assertion(assertion, Some(&peer.certificate)).await;
    let asserted = asserted.map_err(|error| Refusal::from(&error))?;
    // What one proxy was told another could pass on, were it not bound to whom it was told by.
    let is_loose = asserted.verified().is_some_and(|caller| caller.confirmation.is_none());
    if is_loose && peer.hop == Hop::Direct {
        let detail = "an assertion that is not bound to the certificate of the hop";
        return Err(Refusal::from(&TokenError::NotSenderConstrained(detail.into())));
    }
    Ok(asserted)
}

/// An assertion beside the token that it rests on is of the same subject, or one of the two is not what it seems.
fn one_of(token: Signature<Caller>, asserted: Signature<Caller>) -> Result<Signature<Caller>, Refusal> {
    match (token.verified(), asserted.verified()) {
        (Some(token), Some(asserted)) if !asserted.is_of_subject_of(token) => {
            let detail = "the token is another subject's than the assertion";
            Err(Refusal::from(&TokenError::Malformed(detail.into())))
        }
        (_, Some(_)) => Ok(asserted),
        (_, None) => Ok(token),
    }
}

/// The one decision.
pub fn decide(
    generation: &Generation,
    request: &policy::Request<'_>,
    known: Option<&Arc<Judged<Telling>>>,
) -> (Decision, Arc<Judged<Telling>>, Lookup) {
    let policy::Request { peer, caller, now, .. } = *request;
    let (policy, number) = (&generation.policy, generation.number);
    let (judged, cache) = generation.standings.standing(policy, number, peer, caller, now, known);
    (policy::decide(policy, &judged.standing, request), judged, cache)
}

impl Signatures {
    /// These two asking for `asked` now: what the policy judges.
    pub fn ask<'a>(
        &'a self,
        asked: &'a Asked,
        headers: &'a HeaderMap,
        from: Addresses,
        now: Timestamp,
    ) -> policy::Request<'a> {
        let hop = self.peer.verified().map_or(&Hop::Direct, |peer| &peer.hop);
        let circumstances = Circumstances { hop, peer_ip: from.peer, client_ip: from.client };
        let Signatures { peer, caller } = self;
        policy::Request { peer, caller, action: asked.action(headers), circumstances, now }
    }

    /// What upstreams are told of both.
    pub fn introduce(&self, generation: &Generation, decision: &Decision) -> headers::Identity {
        let Signatures { peer, caller } = self;
        let (peer, caller) = (peer.verified().map(|it| &**it), caller.verified().map(|it| &**it));
        let evidence = &decision.evidence;
        headers::Identity::new(peer, &evidence.services, caller, &evidence.roles, generation.own_id.as_ref())
    }
}
