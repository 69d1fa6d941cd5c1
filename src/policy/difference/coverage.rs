//! Whether a request lies in a difference that was found: read off the demand, without the code that joins.

use super::cells::{CallerCell, PeerCell};
use super::{Comparison, Flip, Witness};
use crate::clock::Timestamp;
use crate::identity::{Caller, PeerName};
use crate::policy::Policy;
use crate::policy::cells::{CallerDemand, Demand, Kinds, PeerDemand, Shape, Side};
use crate::policy::claim::{ClaimTest, MatchClaim};
use crate::policy::pattern::Glob;

fn fits(shape: &Shape, segments: &[&str]) -> bool {
    let length = if shape.rest {
        segments.len() >= shape.segments.len()
    } else {
        segments.len() == shape.segments.len()
    };
    length
        && shape
            .segments
            .iter()
            .zip(segments)
            .all(|(wanted, seen)| wanted.as_deref().is_none_or(|w| w == *seen))
}

/// Strictly: the same methods, length, credentials, kinds, hop and time, and all that is demanded.
pub(crate) fn covers(
    flip: &Flip,
    request: &Witness,
    comparison: &Comparison<'_>,
    told: &[Vec<Kinds>; 2],
) -> bool {
    let Flip { demand, cell, .. } = flip;
    let domains = &comparison.domains;
    let callers = [0, 1].map(|side| request.caller(side));
    let flipped = [0, 1].map(|side| flip.witness.caller(side));
    let kinds = |callers: &[Option<&Caller>; 2]| {
        callers.map(|c| c.map(|c| (c.actor, c.on_behalf_of, c.chain.is_empty(), c.acting().is_some())))
    };
    let same_kind = |side: Side| match (kinds(&callers)[side], kinds(&flipped)[side]) {
        (Some(a), Some(b)) => {
            let asked = &demand.sides[side];
            a.2 == b.2
                && asked.actor.contains(a.0)
                && asked.on_behalf_of.contains(a.1)
                && told[side].iter().all(|kinds| {
                    kinds.contains(a.0) == kinds.contains(b.0) && kinds.contains(a.1) == kinds.contains(b.1)
                })
        }
        (a, b) => a.is_none() == b.is_none(),
    };
    let who = match (cell.caller, &request.token) {
        (CallerCell::Absent, None) => demand.caller != CallerDemand::Present,
        // nothing was demanded of the caller, so nothing is known of it
        (CallerCell::Absent, Some(_)) => demand.caller == CallerDemand::Free && !demand.reads_caller(),
        (CallerCell::Present { vouched, .. }, Some((pair, _))) => {
            vouched == *pair && same_kind(0) && same_kind(1)
        }
        (CallerCell::Present { .. }, None) => false,
    };
    let method = cell.method == request.method
        || cell.alike.contains(&request.method)
        || (cell.alike.is_empty() && !domains.names(&request.method));
    let segments: Vec<_> = request.path.segments().collect();
    let segments: Vec<&str> = segments.iter().map(|segment| &**segment).collect();
    let lengths = domains.lengths(&demand.path);
    let length = if lengths.contains(&segments.len()) {
        segments.len() == cell.length
    } else {
        segments.len() > cell.length && domains.is_least(&demand.path, cell.length)
    };
    let time = cell.at <= request.at && request.at < domains.until(cell.at);
    let host = demand.host.as_ref().is_none_or(|host| host.matches(&request.host));
    let headers = demand.headers.iter().all(|(name, value)| request.headers.get(name) == Some(value));
    let grpc = !demand.grpc || crate::policy::action::is_grpc(&request.headers);
    let is_in = |net: Option<ipnet::IpNet>, ip: Option<std::net::IpAddr>| {
        net.is_none_or(|net| ip.is_some_and(|ip| net.contains(&ip)))
    };
    let address = is_in(demand.peer_ip, request.peer_ip) && is_in(demand.client_ip, request.client_ip);
    who && method
        && length
        && fits(&demand.path, &segments)
        && time
        && host
        && headers
        && grpc
        && address
        && (*cell.hop == *request.hop.as_str() || !domains.reads_hop())
        && peer(demand, &cell.peer, request)
        && caller(demand, &callers, &segments, request.at)
}

fn peer(demand: &Demand, cell: &PeerCell, request: &Witness) -> bool {
    match (&demand.peer, request.peer.verified().map(|peer| &peer.name)) {
        (PeerDemand::Free, None) => *cell == PeerCell::Absent,
        (PeerDemand::Free, Some(_)) => true,
        (PeerDemand::Absent, seen) => seen.is_none(),
        (PeerDemand::Spiffe { trust_domain, path }, Some(PeerName::Spiffe(id))) => {
            let segments: Vec<&str> = id.segments().collect();
            *trust_domain == *id.trust_domain() && fits(path, &segments)
        }
        (
            PeerDemand::Dns { trust_domain, names },
            Some(PeerName::Dns { names: seen, trust_domain: domain }),
        ) => {
            trust_domain == domain
                && names.iter().all(|name| seen.iter().any(|dns| name.matches(&dns.parse().unwrap())))
        }
        _ => false,
    }
}

fn caller(demand: &Demand, callers: &[Option<&Caller>; 2], segments: &[&str], now: Timestamp) -> bool {
    let Some(any) = callers.iter().flatten().next() else {
        return !demand.reads_caller();
    };
    let glob = |glob: &Option<Glob>, text: Option<&str>| {
        glob.as_ref().is_none_or(|glob| text.is_some_and(|text| glob.matches(text)))
    };
    let sides = demand.sides.iter().zip(callers).all(|(asked, caller)| {
        caller.is_none_or(|caller| {
            glob(&asked.subject, caller.subject.as_deref())
                && glob(&asked.client, caller.client.as_deref())
                && asked.scopes.iter().all(|word| caller.scopes.contains(word))
                && asked.groups.iter().all(|word| caller.groups.contains(word))
                && asked.roles.iter().all(|word| caller.roles.contains(word))
        })
    });
    let claims = demand.claims.iter().all(|(claim, value)| {
        ClaimTest { claim: claim.clone(), values: vec![value.clone()] }.holds(&any.claims)
    });
    let matches = demand.matches.iter().all(|(at, claim)| {
        MatchClaim { segment: "s".into(), claim: claim.clone() }.holds(segments[*at], &any.claims)
    });
    let login = |age| any.authenticated_at.is_some_and(|login| login <= now && now.since(login) <= age);
    sides
        && claims
        && matches
        && glob(&demand.actor_subject, any.acting())
        && demand.acr.as_ref().is_none_or(|acr| any.acr.as_ref() == Some(acr))
        && demand.max_age.is_none_or(login)
        && (!demand.bound || any.confirmation.is_some())
}

/// The allow that permits, by name, as the request's own policy says.
pub(crate) fn granted_by(policies: [&Policy; 2], flip: &Flip) -> Option<String> {
    let side = flip.change.permitting();
    match &flip.outcomes[side] {
        super::Outcome::Permitted { rule, .. } => rule.map(|rule| policies[side].rule(rule).name.clone()),
        _ => None,
    }
}
