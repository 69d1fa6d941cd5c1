//! The steps by which a request is judged: its head is read, both signatures are verified, the policy
//! decides, and what its upstream is told is made out.
//!
//! [`exchange`](super::exchange) goes them for requests that came; whoever only asks what would become of one
//! goes the same. Nothing here reads a socket or a clock.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::request::Parts;

use super::connection::{Connection, Telling};
use super::generation::Generation;
use super::headers;
use super::normalize::{Asked, OddNames};
use super::refusal::Refusal;
use crate::audit::{Draft, Reason};
use crate::clock::{Clock, Timestamp};
use crate::decisions::Judged;
use crate::identity::{Caller, CertificateHash, Hop, Peer, Signature};
use crate::metrics::{Limit, Lookup};
use crate::policy::{self, Circumstances, Decision, Host, Permit, Verdict};
use crate::revocation::{Revocations, Revoked};
use crate::tls::PeerError;
use crate::token::{CredentialError, KnownToken, TokenError, TokenField, Verifier};

/// Both signatures of a request, verified or absent.
#[derive(Clone, Debug)]
pub struct Signatures {
    pub peer: Signature<Peer>,
    pub caller: Signature<Caller>,
}

/// What a permit rests on, for judging it again: a request without what nobody judges.
pub struct Basis {
    pub asked: Asked,
    /// Those by which its route was chosen.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether its content type is gRPC's.
    pub grpc: bool,
    pub from: Addresses,
    /// Absent if none was presented.
    pub token: Option<TokenField>,
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
    verifier: &Verifier,
    generation: &Generation,
    headers: &HeaderMap,
    peer: impl Fn() -> Result<Signature<Peer>, PeerError>,
    now: impl Fn() -> Timestamp,
    known: &mut Option<Arc<KnownToken>>,
    draft: &mut Draft,
) -> Result<Signatures, Refusal> {
    let Generation { policy, revocations, .. } = generation;
    let caller = async |certificate: Option<&CertificateHash>| {
        verifier.verify_again(headers, certificate, known).await
    };
    let (peer, caller) = both(peer, caller).await;
    draft.peer(peer.as_ref().map_err(|refusal| refusal.reason));
    draft.caller(caller.as_ref().map_err(|refusal| refusal.reason));
    let [peer_revoked, caller_revoked] = revoked(revocations, &peer, &caller, now);
    draft.revoked(peer_revoked.is_some(), caller_revoked.is_some());
    let refusal = match (peer, caller) {
        (Ok(peer), Ok(caller)) if peer_revoked.is_none() && caller_revoked.is_none() => {
            return Ok(Signatures { peer, caller });
        }
        // Nothing is decided, but the record calls the service by its name all the same, or says that it has none.
        (Ok(Signature::Verified(peer)), caller) => {
            let services = policy.services_of(&peer);
            draft.named(&services);
            let unknown = services.is_empty().then(|| Refusal::of(Reason::PeerUnknown));
            first([peer_revoked, caller.err(), caller_revoked, unknown])
        }
        (Ok(Signature::Absent), caller) => first([caller.err(), caller_revoked]),
        (Err(peer), caller) => first([Some(peer), caller.err(), caller_revoked]),
    };
    draft.signers(None, policy);
    Err(refusal)
}

/// The first of them in the order of the closed list.
fn first<const N: usize>(refusals: [Option<Refusal>; N]) -> Refusal {
    let first = refusals.into_iter().flatten().reduce(Refusal::and);
    first.unwrap_or_else(|| Refusal::of(Reason::Internal))
}

/// Whether peer and caller are on the revocation list, as far as they are verified.
fn revoked(
    revocations: &Revocations,
    peer: &Result<Signature<Peer>, Refusal>,
    caller: &Result<Signature<Caller>, Refusal>,
    now: impl Fn() -> Timestamp,
) -> [Option<Refusal>; 2] {
    if revocations.is_empty() {
        return [None, None];
    }
    let now = now();
    let peer = peer.as_ref().ok().and_then(Signature::verified);
    let caller = caller.as_ref().ok().and_then(Signature::verified);
    let (peer, caller) =
        (peer.map(|it| revocations.peer(it, now)), caller.map(|it| revocations.caller(it, now)));
    let by_token = |revoked: Revoked| Refusal::from(&TokenError::Revoked(revoked.to_string().into()));
    [
        peer.flatten().map(|revoked| Refusal::of(Reason::PeerRevoked).because(revoked)),
        caller.flatten().map(by_token),
    ]
}

/// What becomes of each signature.
async fn both(
    peer: impl Fn() -> Result<Signature<Peer>, PeerError>,
    caller: impl AsyncFnOnce(Option<&CertificateHash>) -> Result<Signature<Caller>, CredentialError>,
) -> (Result<Signature<Peer>, Refusal>, Result<Signature<Caller>, Refusal>) {
    let before = peer();
    let certificate = before.as_ref().ok().and_then(Signature::verified).map(|peer| &peer.certificate);
    let caller = caller(certificate).await;
    // Keys may have been waited for, and the certificate may have ended meanwhile.
    let peer = before.and_then(|_| peer());
    (peer.map_err(|error| Refusal::from(&error)), caller.map_err(|error| Refusal::from(&error)))
}

/// Judges once more what was permitted to somebody on `connection`, by the same steps: up to when it is permitted
/// now, or why no longer, with the decision if it came to one.
pub async fn again(
    generation: &Generation,
    connection: &Connection,
    basis: &Basis,
    clock: &Clock,
) -> Result<Timestamp, (Refusal, Option<Decision>)> {
    let Basis { asked, from, token, .. } = basis;
    let caller = async |certificate: Option<&CertificateHash>| match token {
        Some(token) => Ok(generation.verifier.verify_field(token, certificate).await?),
        None => Ok(Signature::Absent),
    };
    let (peer, caller) = both(|| connection.peer(generation, clock.now()), caller).await;
    let [peer_revoked, caller_revoked] = revoked(&generation.revocations, &peer, &caller, || clock.now());
    let signatures = match (peer, caller) {
        (Ok(peer), Ok(caller)) if peer_revoked.is_none() && caller_revoked.is_none() => {
            Signatures { peer, caller }
        }
        (peer, caller) => {
            return Err((first([peer.err(), peer_revoked, caller.err(), caller_revoked]), None));
        }
    };
    let headers = basis.headers();
    let request = signatures.ask(asked, &headers, *from, clock.now());
    let (decision, judged, _) = decide(generation, &request, None);
    match &decision.verdict {
        Verdict::Permit(permit) => Ok(holds_until(permit, &judged, connection.vouched_until(generation))),
        Verdict::Denial(denial) => Err((denial.into(), Some(decision))),
    }
}

/// Up to when what was decided needs no second look, unless by another generation.
pub fn holds_until(permit: &Permit, judged: &Judged<Telling>, vouched_until: Timestamp) -> Timestamp {
    permit.deadline().min(judged.standing.valid_until()).min(vouched_until)
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

impl Basis {
    /// As far as they are judged.
    fn headers(&self) -> HeaderMap {
        let mut headers: HeaderMap = self.headers.iter().cloned().collect();
        if self.grpc {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        }
        headers
    }
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
