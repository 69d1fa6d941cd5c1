//! The steps by which a request is judged: its head is read, both signatures are verified, the policy
//! decides, and what its upstream is told is made out.
//!
//! [`exchange`](super::exchange) goes them for requests that came; whoever only asks what would become of one
//! goes the same. Nothing here reads a socket or a clock.

use std::cell::{Cell, OnceCell};
use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use http::request::Parts;

use super::connection::{Connection, Telling};
use super::generation::Generation;
use super::headers;
use super::hop::{self, Through, TrustedHop};
use super::leaves::Leaves;
use super::normalize::{Asked, OddNames};
use super::refusal::Refusal;
use super::route::CrossOrigin;
use crate::audit::{Draft, Reason};
use crate::clock::Timestamp;
use crate::decisions::Judged;
use crate::identity::{Caller, CertificateHash, Hop, Peer, SUBJECT_ISSUER, Signature};
use crate::metrics::{Limit, Lookup};
use crate::policy::{self, Circumstances, Decision, Host, Permit, Policy};
use crate::revocation::Revoked;
use crate::token::{KnownToken, Scheme, Shown, Target, TokenError, Verifier};

/// Both signatures of a request, verified or absent.
#[derive(Clone, Debug)]
pub struct Signatures {
    pub peer: Signature<Peer>,
    pub caller: Signature<Caller>,
    /// Whose the token is that was shown beside what a hop tells of the caller.
    pub beside: Option<Arc<Caller>>,
}

/// Who holds the connection: `peer` tells who is there now, `replaced` since when with the present certificate, if that
/// stands in for this one, and `hop` through whom, if that tells of others; `page` is the one that may have sent it.
pub struct Holder<'g, P, R> {
    pub peer: P,
    pub replaced: R,
    pub hop: Option<&'g TrustedHop>,
    /// The client's.
    pub address: Option<IpAddr>,
    pub page: &'g CrossOrigin<'g>,
}

/// From where a request comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whence {
    /// Who brings it, whether or not that tells whose it is.
    pub hop: Hop,
    /// The other end of the connection, after the PROXY protocol.
    pub peer: Option<IpAddr>,
    /// The client as trusted hops tell it.
    pub client: Option<IpAddr>,
}

impl Whence {
    /// Over a connection from `peer`, and through a hop that tells of others, if it is one.
    pub fn of(peer: IpAddr, through: Option<Through<'_>>) -> Result<Whence, Refusal> {
        let Some(through) = through else {
            return Ok(Whence { hop: Hop::Direct, peer: Some(peer), client: Some(peer) });
        };
        Ok(Whence { hop: through.named(), peer: Some(peer), client: through.client? })
    }
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

/// Verifies both signatures, also when the first is bad: the record says what became of each, unless to judge the second
/// is more than to look at it. `known` is the token that came last.
pub async fn verify(
    generation: &Generation,
    verifier: &Verifier,
    request: Target<'_>,
    holder: Holder<
        '_,
        impl Fn() -> Result<Signature<Peer>, Refusal>,
        impl Fn(&CertificateHash) -> Option<Timestamp>,
    >,
    now: impl Fn() -> Timestamp,
    known: &mut Option<Arc<KnownToken>>,
    draft: &mut Draft,
) -> Result<Signatures, Refusal> {
    let policy = &generation.policy;
    let Holder { peer, replaced, hop, address, page } = holder;
    let (headers, beside) = (request.headers, OnceCell::new());
    let is_reached = Cell::new(true);
    let caller = async |peer: Result<Option<&Peer>, &Refusal>| {
        if peer.is_err() && verifier.leaves_traces(headers) {
            is_reached.set(false);
            return Ok(Signature::Absent);
        }
        let peer = peer.ok().flatten();
        let certificate = peer.map(|peer| &peer.certificate);
        let shown = Shown { certificate, address, replaced: &replaced, request: Some(request) };
        let caller = verifier.verify_again(headers, &shown, known).await;
        let caller = caller.map_err(|error| Refusal::from(&error).in_scheme(Scheme::of(headers)));
        // Boxed: most requests have neither.
        match peer {
            Some(peer)
                if headers.contains_key(headers::ASSERTION) && hop::is_believed(&generation.hops, peer) =>
            {
                let asserted = Box::pin(asserted(generation, verifier, headers, (peer, &shown))).await;
                caller.and_then(|caller| one_of(caller, asserted?, SUBJECT_ISSUER, &beside))
            }
            _ if hop.is_some() && headers.contains_key(headers::USER_CLAIMS) => {
                let logged_in = Box::pin(logged_in(verifier, headers, hop)).await;
                caller.and_then(|caller| one_of(caller, logged_in?, "iss", &beside))
            }
            _ => caller,
        }
    };
    let (peer, caller) = both(peer, caller).await;
    draft.peer(peer.as_ref().map_err(|refusal| refusal.reason));
    if is_reached.get() {
        draft.caller(caller.as_ref().map_err(|refusal| refusal.reason));
    }
    let [peer_revoked, caller_revoked] = revoked(generation, &peer, (&caller, beside.get()), now);
    draft.revoked(peer_revoked.is_some(), caller_revoked.is_some());
    let refusal = match (peer, caller) {
        (Ok(peer), caller) => {
            let (foreign, carried) = match &caller {
                Ok(caller) => (
                    is_cross_site(verifier, caller, page, &request),
                    may_carry(policy, (&peer, caller), beside.get()),
                ),
                Err(_) => (false, true),
            };
            let refused = caller.is_err() || peer_revoked.is_some() || caller_revoked.is_some();
            match caller {
                Ok(caller) if !refused && !foreign && carried => {
                    return Ok(Signatures { peer, caller, beside: beside.into_inner() });
                }
                caller => {
                    // Nothing is decided, but the record calls the service by its name all the same, or says that it
                    // has none.
                    let services = peer.verified().map(|peer| policy.services_of(peer));
                    if let Some(services) = &services {
                        draft.named(services);
                    }
                    let unknown = services.is_some_and(|services| services.is_empty());
                    let unknown = unknown.then(|| Refusal::of(Reason::PeerUnknown));
                    let foreign = foreign.then(|| Refusal::of(Reason::CrossSite));
                    let carried = (!carried).then(beside_not_carried);
                    first([peer_revoked, caller.err(), caller_revoked, foreign, unknown, carried])
                }
            }
        }
        (Err(peer), caller) => first([Some(peer), caller.err(), caller_revoked]),
    };
    draft.signers(None, policy);
    Err(refusal)
}

/// The first of them in the order of the closed list.
pub fn first<const N: usize>(refusals: [Option<Refusal>; N]) -> Refusal {
    let first = refusals.into_iter().flatten().reduce(Refusal::and);
    first.unwrap_or_else(|| Refusal::of(Reason::Internal))
}

/// Whether peer and caller are on the revocation list, as far as they are verified; `beside` is the token that was
/// shown beside an assertion.
pub fn revoked(
    generation: &Generation,
    peer: &Result<Signature<Peer>, Refusal>,
    (caller, beside): (&Result<Signature<Caller>, Refusal>, Option<&Arc<Caller>>),
    now: impl Fn() -> Timestamp,
) -> [Option<Refusal>; 2] {
    let revocations = &generation.revocations;
    if revocations.is_empty() {
        return [None, None];
    }
    let now = now();
    let peer = peer.as_ref().ok().and_then(Signature::verified);
    let caller = caller.as_ref().ok().and_then(Signature::verified);
    let of_caller = |caller: &Arc<Caller>| caller_revoked(generation, caller, now);
    let by_token = |revoked: Revoked| Refusal::from(&TokenError::Revoked(revoked.to_string().into()));
    [
        peer.and_then(|it| revocations.peer(it, now))
            .map(|revoked| Refusal::of(Reason::PeerRevoked).because(revoked)),
        caller.into_iter().chain(beside).find_map(of_caller).map(by_token),
    ]
}

/// What of this caller is on the revocation list: whom a hop vouches for is on it as who the issuers call so, too.
pub fn caller_revoked(generation: &Generation, caller: &Caller, now: Timestamp) -> Option<Revoked> {
    let Generation { revocations, verifier, .. } = generation;
    let first = caller.subject_issuer().into_iter().flat_map(|iss| verifier.issuers_named(iss));
    revocations.caller(caller, first, now)
}

/// Whether a page of another origin sends what a browser adds the caller's log-in to by itself.
pub fn is_cross_site(
    verifier: &Verifier,
    caller: &Signature<Caller>,
    page: &CrossOrigin<'_>,
    request: &Target<'_>,
) -> bool {
    let is_ambient = caller.verified().is_some_and(|caller| verifier.takes_user_claims(Some(&caller.issuer)));
    is_ambient && !page.may_act(request)
}

/// Whether this peer may carry the token `beside` what a load balancer tells of the caller, as if it came alone. One beside
/// an assertion is of the client that this tells.
pub fn may_carry(
    policy: &Policy,
    (peer, caller): (&Signature<Peer>, &Signature<Caller>),
    beside: Option<&Arc<Caller>>,
) -> bool {
    match (peer.verified(), caller.verified(), beside) {
        (_, Some(caller), Some(token)) if caller.via.is_some() => {
            caller.client.is_none() || token.client.is_none() || caller.client == token.client
        }
        (Some(peer), _, Some(token)) => policy.is_carried_by(peer, token),
        _ => true,
    }
}

pub fn beside_not_carried() -> Refusal {
    Refusal::of(Reason::TokenNotIssuedToService)
        .because("the token beside what the hop tells was issued to another client")
}

/// What becomes of each signature.
pub async fn both(
    peer: impl Fn() -> Result<Signature<Peer>, Refusal>,
    caller: impl AsyncFnOnce(Result<Option<&Peer>, &Refusal>) -> Result<Signature<Caller>, Refusal>,
) -> (Result<Signature<Peer>, Refusal>, Result<Signature<Caller>, Refusal>) {
    let before = peer();
    let caller = caller(before.as_ref().map(|peer| peer.verified().map(|peer| &**peer))).await;
    // Keys may have been waited for, and the certificate may have ended meanwhile.
    let peer = before.and_then(|_| peer());
    (peer, caller)
}

/// Who a hop whose word is taken vouches for.
async fn asserted(
    generation: &Generation,
    verifier: &Verifier,
    headers: &HeaderMap,
    (peer, shown): (&Peer, &Shown<'_>),
) -> Result<Signature<Caller>, Refusal> {
    let Some(assertion) = hop::assertion(&generation.hops, peer, headers)? else {
        return Ok(Signature::Absent);
    };
    // To our own application we said it ourselves, maybe by the certificate before. Another one's namesake is not that one.
    let asserted = match peer.hop {
        Hop::Local => verifier.verify_assertion(assertion, shown).await,
        _ => verifier.verify_assertion(assertion, &Shown::on(shown.certificate)).await,
    };
    let asserted = asserted.map_err(|error| Refusal::from(&error))?;
    if let Some(caller) = asserted.verified() {
        check_bound(caller, peer).map_err(|error| Refusal::from(&error))?;
    }
    Ok(asserted)
}

/// Who logged in at the load balancer that this is.
async fn logged_in(
    verifier: &Verifier,
    headers: &HeaderMap,
    hop: Option<&TrustedHop>,
) -> Result<Signature<Caller>, Refusal> {
    match hop::user_claims(hop, headers)? {
        Some(said) if verifier.takes_user_claims(None) => {
            let logged_in = verifier.verify_user_claims(said).await;
            logged_in.map_err(|error| Refusal::from(&error))
        }
        _ => Ok(Signature::Absent),
    }
}

/// What one proxy was told another could pass on, were it not bound to whom it was told by.
pub fn check_bound(asserted: &Caller, peer: &Peer) -> Result<(), TokenError> {
    if asserted.confirmation.is_none() && peer.hop == Hop::Direct {
        let detail = "an assertion that is not bound to the certificate of the hop";
        return Err(TokenError::NotSenderConstrained(detail.into()));
    }
    Ok(())
}

/// What a hop tells of a caller beside a token is of the same subject, or one of the two is not what it seems. The
/// caller is whom the hop tells, and the token is put `beside`.
pub fn one_of(
    token: Signature<Caller>,
    told: Signature<Caller>,
    named_by: &str,
    beside: &OnceCell<Arc<Caller>>,
) -> Result<Signature<Caller>, Refusal> {
    match (token.verified(), told.verified()) {
        (Some(token), Some(told)) if !told.is_of_subject_of(token, named_by) => {
            let detail = "the token is another subject's than what the hop tells";
            Err(Refusal::from(&TokenError::Malformed(detail.into())))
        }
        (token, Some(_)) => {
            if let Some(token) = token {
                // One is shown.
                let _ = beside.set(Arc::clone(token));
            }
            Ok(told)
        }
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
    /// Whose the token is, where there is one: the caller's own, unless it was shown beside what a hop tells.
    pub fn token(&self) -> Option<&Arc<Caller>> {
        self.beside.as_ref().or(self.caller.verified())
    }

    /// Up to when what was decided upon them needs no second look, unless by another generation.
    pub fn hold_until(
        &self,
        permit: &Permit,
        judged: &Judged<Telling>,
        vouched_until: Timestamp,
    ) -> Timestamp {
        let decided = permit.deadline().min(judged.standing.valid_until());
        let token = self.token().map_or(Timestamp::MAX, |token| token.holds_until());
        decided.min(token).min(vouched_until)
    }

    /// Up to when all that was presented of the caller is in the right hands with this peer, which it was shown to be.
    pub fn held_until(
        &self,
        generation: &Generation,
        connection: &Connection,
        leaves: &Leaves,
        now: Timestamp,
    ) -> Timestamp {
        let replaced = |before: &CertificateHash| connection.replaced(leaves, generation, before, now);
        let certificate = self.peer.verified().map(|peer| &peer.certificate);
        let held_until = |caller| generation.verifier.held_until(caller, certificate, &replaced);
        let presented = self.caller.verified().into_iter().chain(&self.beside);
        presented.map(|caller| held_until(caller)).min().unwrap_or(Timestamp::MAX)
    }

    /// These two asking for `asked` now: what the policy judges.
    pub fn ask<'a>(
        &'a self,
        asked: &'a Asked,
        headers: &'a HeaderMap,
        from: &'a Whence,
        now: Timestamp,
    ) -> policy::Request<'a> {
        let hop = self.peer.verified().map_or(&from.hop, |peer| &peer.hop);
        let circumstances = Circumstances { hop, peer_ip: from.peer, client_ip: from.client };
        let Signatures { peer, caller, .. } = self;
        policy::Request { peer, caller, action: asked.action(headers), circumstances, now }
    }

    /// What upstreams are told of both.
    pub fn introduce(&self, generation: &Generation, decision: &Decision) -> headers::Identity {
        let Signatures { peer, caller, .. } = self;
        let (peer, caller) = (peer.verified().map(|it| &**it), caller.verified().map(|it| &**it));
        let evidence = &decision.evidence;
        headers::Identity::new(peer, &evidence.services, caller, &evidence.roles, generation.own_id.as_ref())
    }
}
