//! What a permit rests on, and the steps by which it is judged again: those of a new request.

use std::cell::OnceCell;

use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};

use super::connection::Connection;
use super::forward::{carries, shown};
use super::generation::Generation;
use super::hop;
use super::judgement::{self, Signatures, Whence};
use super::known_by::KnownBy;
use super::leaves::Leaves;
use super::normalize::Asked;
use super::refusal::Refusal;
use super::route::CrossOrigin;
use crate::audit::Reason;
use crate::clock::{Clock, Timestamp};
use crate::identity::{Name, Peer, Signature};
use crate::policy::{Decision, Permit, Verdict};
use crate::token::TokenError;

/// What a permit rests on, for judging it again: a request without what nobody judges.
pub struct Basis {
    pub asked: Asked,
    /// Those by which its route was chosen, and by which a hop may tell whose it is and from where.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether its content type is gRPC's.
    pub grpc: bool,
    pub known_by: KnownBy,
    /// Where it went.
    pub upstream: Name,
}

/// Judges once more what was permitted to somebody on `connection`, by the same steps: up to when it is permitted
/// now, or why no longer, with the decision if it came to one.
pub async fn judge_again(
    generation: &Generation,
    connection: &Connection,
    basis: &Basis,
    leaves: &Leaves,
    clock: &Clock,
) -> Result<Timestamp, (Refusal, Option<Decision>)> {
    let Basis { asked, known_by, .. } = basis;
    let (beside, headers) = (OnceCell::new(), basis.headers());
    // By what is a hop now.
    let end = connection.peer(generation, clock.now()).ok();
    let through = end.as_ref().and_then(|end| connection.through(generation, end, &headers));
    let is_alb = through.as_ref().is_some_and(|through| through.hop.is_alb());
    let is_told = through.is_some();
    let from = Whence::of(connection.peer_ip, through).map_err(|refusal| (refusal, None))?;
    let origin = is_told.then(|| connection.origin.told(from.client, hop::spoke_tls(&headers)));
    let request = asked.seen(&headers, origin.as_ref().unwrap_or(&connection.origin).is_secure());
    let page = CrossOrigin::of(generation, connection.direction, asked, &headers);
    let caller = async |peer: Result<Option<&Peer>, &Refusal>| match peer {
        Ok(peer) => known_by.again(generation, (peer, is_alb), &beside).await,
        Err(_) => Ok(Signature::Absent),
    };
    let (peer, caller) =
        judgement::both(|| connection.requester(generation, &headers, clock.now()), caller).await;
    let [peer_revoked, caller_revoked] =
        judgement::revoked(generation, &peer, (&caller, beside.get()), || clock.now());
    let signatures = match (peer, caller) {
        (Ok(peer), Ok(caller)) if peer_revoked.is_none() && caller_revoked.is_none() => {
            if judgement::is_cross_site(&generation.verifier, &caller, &page, &request) {
                return Err((Refusal::of(Reason::CrossSite), None));
            }
            if !judgement::may_carry(&generation.policy, (&peer, &caller), beside.get()) {
                return Err((judgement::beside_not_carried(), None));
            }
            Signatures { peer, caller, beside: beside.into_inner() }
        }
        (peer, caller) => {
            return Err((judgement::first([peer.err(), peer_revoked, caller.err(), caller_revoked]), None));
        }
    };
    let held_until = signatures.held_until(generation, connection, leaves, clock.now());
    if held_until <= clock.now() {
        let detail = "its certificate is this connection's no longer";
        return Err((Refusal::from(&TokenError::NotSenderConstrained(detail.into())), None));
    }
    let request = signatures.ask(asked, &headers, &from, clock.now());
    let (decision, judged, _) = judgement::decide(generation, &request, None);
    match &decision.verdict {
        Verdict::Permit(permit) => {
            let has_caller = signatures.caller.verified().is_some();
            basis.is_carried(generation, permit, has_caller).map_err(|refusal| (refusal, None))?;
            let vouched_until = connection.vouched_until(generation, &signatures.peer);
            Ok(signatures.hold_until(permit, &judged, vouched_until.min(held_until)))
        }
        Verdict::Denial(denial) => Err((denial.into(), Some(decision))),
    }
}

impl Basis {
    /// Whether such a request would be carried, and to where this one went.
    fn is_carried(&self, generation: &Generation, permit: &Permit, has_caller: bool) -> Result<(), Refusal> {
        let route = generation.routes.get(permit.route().index());
        let source = generation.credentials.get(permit.upstream().index());
        let (Some(route), Some(source)) = (route, source) else { return Err(Refusal::of(Reason::Internal)) };
        if generation.policy.parts().upstreams.get(permit.upstream().index()) != Some(&self.upstream) {
            return Err(Refusal::of(Reason::NoRoute).because("it would go to another upstream"));
        }
        carries(route, self.asked.kind, false)?;
        shown(source.kind, route, has_caller, || self.known_by.is_bearer()).map(drop)
    }

    /// As far as they are judged.
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        if self.grpc {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        }
        headers
    }
}
