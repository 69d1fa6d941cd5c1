//! Whether one rule's conditions hold, and which do not. The only evaluator of conditions: standing,
//! decision and near miss all ask here.
//!
//! Two truth values: a condition holds or it does not; what is absent fulfils nothing.

use std::borrow::Cow;
use std::net::IpAddr;

use fixedbitset::FixedBitSet;
use ipnet::IpNet;

use super::action::is_grpc;
use super::condition::{Condition, RoleTerm, ServiceTerm};
use super::decision::Request;
use super::rule::{Effect, Rule, stated};
use super::{IssuerId, Policy};
use crate::clock::Timestamp;
use crate::identity::{ActorKind, Caller, Peer};

/// Who asks: both signatures, with the names that the policy has for them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who<'a> {
    pub peer: Option<&'a Peer>,
    pub caller: Option<&'a Caller>,
    pub issuer: Option<IssuerId>,
    pub services: &'a FixedBitSet,
    pub roles: &'a FixedBitSet,
    pub now: Timestamp,
}

/// What is asked, with the path's segments decoded once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub request: &'a Request<'a>,
    pub path: &'a [Cow<'a, str>],
}

/// One thing that a rule wants and a request does not have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Lack<'r> {
    Stated(&'r Condition),
    /// No token was presented, whatever it is that reads it.
    NoCaller,
    /// An allow without `actor`, asked by an agent or with a token that has `act`.
    ActorLeftOut,
    /// An allow without `on_behalf_of`, asked with a token that has `act`.
    OnBehalfOfLeftOut,
}

/// Whether all identity conditions of the rule hold, the unspoken ones of an allow and its times
/// included.
pub(super) fn identity_holds(rule: &Rule, who: &Who<'_>) -> bool {
    in_time(rule, who.now)
        && left_out(rule, who).is_none()
        && rule.conditions.iter().all(|condition| holds_for(rule.effect, condition, who))
}

/// Whether an allow's time has come and is not over; the other effects have no times.
pub(super) fn in_time(rule: &Rule, now: Timestamp) -> bool {
    has_begun(rule, now) && !is_over(rule, now)
}

pub(super) fn has_begun(rule: &Rule, now: Timestamp) -> bool {
    rule.effect != Effect::Allow || rule.not_before <= now
}

pub(super) fn is_over(rule: &Rule, now: Timestamp) -> bool {
    rule.effect == Effect::Allow && now >= rule.expires
}

/// Whether what depends on more than identity and action holds.
pub(super) fn circumstances_hold(rule: &Rule, asked: &Asked<'_>) -> bool {
    rule.conditions.iter().all(|condition| holds_in(rule, condition, asked))
}

/// Whether the rule reaches the request, given that the indexes say so: an allow with `grpc` asks
/// for the content type too.
pub(super) fn reaches(rule: &Rule, asked: &Asked<'_>) -> bool {
    rule.effect != Effect::Allow || stated!(rule, Grpc).is_none() || is_grpc(asked.request.action.headers)
}

/// All that the rule wants and the request does not have. What an absent caller lacks is one thing.
pub(super) fn lacks<'r>(rule: &'r Rule, who: &Who<'_>, asked: &Asked<'_>) -> Vec<Lack<'r>> {
    let mut found = Vec::new();
    for condition in &rule.conditions {
        if holds(rule, condition, who, asked) {
            continue;
        }
        let lack = if who.caller.is_none() && condition.reads_caller() {
            Lack::NoCaller
        } else {
            Lack::Stated(condition)
        };
        if !found.contains(&lack) {
            found.push(lack);
        }
    }
    found.extend(left_out(rule, who));
    found
}

/// Whether one condition of the rule holds; those on the action are the indexes' to judge.
pub(super) fn holds(rule: &Rule, condition: &Condition, who: &Who<'_>, asked: &Asked<'_>) -> bool {
    holds_for(rule.effect, condition, who) && holds_in(rule, condition, asked)
}

/// What an allow wants without saying so: agents, and whoever acts for somebody, are named.
pub(super) fn left_out<'r>(rule: &Rule, who: &Who<'_>) -> Option<Lack<'r>> {
    let caller = who.caller?;
    if rule.effect != Effect::Allow || rule.waives_caller() {
        return None;
    }
    let acts = !caller.chain.is_empty();
    if stated!(rule, Actor).is_none() {
        (acts || caller.actor == ActorKind::Agent).then_some(Lack::ActorLeftOut)
    } else {
        (acts && stated!(rule, OnBehalfOf).is_none()).then_some(Lack::OnBehalfOfLeftOut)
    }
}

/// Whether an identity condition holds; every other is somebody else's question.
fn holds_for(effect: Effect, condition: &Condition, who: &Who<'_>) -> bool {
    let of_caller = |test: &dyn Fn(&Caller) -> bool| who.caller.is_some_and(test);
    match condition {
        Condition::Service(term) => match term {
            ServiceTerm::Any => !who.services.is_clear(),
            ServiceTerm::Named(ids) => ids.iter().any(|id| who.services.contains(id.index())),
            ServiceTerm::None => effect == Effect::Allow || who.peer.is_none(),
        },
        Condition::Role(term) => match term {
            RoleTerm::Any => who.caller.is_some(),
            RoleTerm::AnyOf(ids) => ids.iter().any(|id| who.roles.contains(id.index())),
            RoleTerm::AllOf(ids) => !ids.is_empty() && ids.iter().all(|id| who.roles.contains(id.index())),
            RoleTerm::None => effect == Effect::Allow || who.caller.is_none(),
        },
        Condition::Issuer(ids) => who.issuer.is_some_and(|issuer| ids.contains(&issuer)),
        Condition::Actor(kinds) => of_caller(&|caller| {
            let may_be_agent = effect == Effect::Deny && caller.actor == ActorKind::Unknown;
            kinds.contains(&caller.actor) || (may_be_agent && kinds.contains(&ActorKind::Agent))
        }),
        Condition::OnBehalfOf(kinds) => of_caller(&|caller| kinds.contains(&caller.on_behalf_of)),
        Condition::Claim(tests) => of_caller(&|caller| tests.iter().all(|test| test.holds(&caller.claims))),
        Condition::Acr(wanted) => {
            of_caller(&|caller| caller.acr.as_ref().is_some_and(|acr| wanted.contains(acr)))
        }
        Condition::MaxAge(age) => of_caller(&|caller| {
            caller.authenticated_at.is_some_and(|at| at <= who.now && who.now.since(at) <= *age)
        }),
        Condition::Route(_)
        | Condition::Host(_)
        | Condition::Method(_)
        | Condition::Path(_)
        | Condition::MatchClaim(_)
        | Condition::Grpc(_)
        | Condition::Hop(_)
        | Condition::PeerIp(_)
        | Condition::ClientIp(_)
        | Condition::SenderConstrained => true,
    }
}

/// Whether a condition on circumstances holds; every other is somebody else's question.
fn holds_in(rule: &Rule, condition: &Condition, asked: &Asked<'_>) -> bool {
    let circumstances = &asked.request.circumstances;
    match condition {
        Condition::MatchClaim(tests) => asked.request.caller.verified().is_some_and(|caller| {
            let mut paths = rule.paths().into_iter().flatten();
            paths.any(|pattern| {
                pattern.matches(asked.path)
                    && tests.iter().all(|test| {
                        let segment = pattern.position(&test.segment).and_then(|at| asked.path.get(at));
                        segment.is_some_and(|segment| test.holds(segment, &caller.claims))
                    })
            })
        }),
        Condition::Hop(names) => names.iter().any(|name| **name == *circumstances.hop.as_str()),
        Condition::PeerIp(nets) => is_in(nets, circumstances.peer_ip),
        Condition::ClientIp(nets) => is_in(nets, circumstances.client_ip),
        // Nobody is verified by a token that is bound and was not proven to be in the right hands.
        Condition::SenderConstrained => {
            asked.request.caller.verified().is_some_and(|caller| caller.bound_to().is_some())
        }
        Condition::Service(_)
        | Condition::Issuer(_)
        | Condition::Role(_)
        | Condition::Actor(_)
        | Condition::OnBehalfOf(_)
        | Condition::Claim(_)
        | Condition::Acr(_)
        | Condition::MaxAge(_)
        | Condition::Route(_)
        | Condition::Host(_)
        | Condition::Method(_)
        | Condition::Path(_)
        | Condition::Grpc(_) => true,
    }
}

fn is_in(nets: &[IpNet], address: Option<IpAddr>) -> bool {
    address.is_some_and(|ip| nets.iter().any(|net| net.contains(&ip.to_canonical())))
}

impl Policy {
    /// The issuer's position, by the name that callers carry.
    pub(super) fn issuer_of(&self, caller: Option<&Caller>) -> Option<IssuerId> {
        let name = &caller?.issuer;
        let at = self.parts().issuers.iter().position(|issuer| issuer.name == *name)?;
        u32::try_from(at).ok().map(IssuerId)
    }
}
