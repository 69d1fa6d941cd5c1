//! The decision: both identities, one action, one policy, one verdict with its evidence.
//!
//! Default deny. A request is permitted by one allow that holds in full, no deny that matches, no
//! require that reaches it unmet, and a token that every service of the peer may carry; or, with
//! `enforced` false, by its route's `shadow_until`, which waives the allow alone.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use fixedbitset::FixedBitSet;
use smallvec::SmallVec;

use super::condition::Condition;
use super::judge::{self, Asked, Lack, Who};
use super::near_miss::{self, NearMiss, Nearest};
use super::pattern::never_served;
use super::rule::{Rule, stated};
use super::{Action, Circumstances, Policy, PolicyHash, RouteId, RuleId, Standing, UpstreamId};
use crate::clock::Timestamp;
use crate::identity::{Caller, Name, Peer, Signature};

/// All that a decision reads besides the policy and the standing.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub peer: &'a Signature<Peer>,
    pub caller: &'a Signature<Caller>,
    pub action: Action<'a>,
    pub circumstances: Circumstances<'a>,
    pub now: Timestamp,
}

/// The outcome with its evidence. What is acted upon and what is recorded are this one value.
#[derive(Debug)]
pub struct Decision {
    pub verdict: Verdict,
    pub evidence: Evidence,
}

#[derive(Debug)]
pub enum Verdict {
    Permit(Permit),
    Denial(Denial),
}

/// The right to forward one request. Born in this module only.
#[derive(Debug)]
pub struct Permit {
    route: RouteId,
    upstream: UpstreamId,
    policy: PolicyHash,
    deadline: Timestamp,
    enforced: bool,
}

impl Permit {
    pub fn route(&self) -> RouteId {
        self.route
    }

    pub fn upstream(&self) -> UpstreamId {
        self.upstream
    }

    /// The policy that this was decided under.
    pub fn policy(&self) -> PolicyHash {
        self.policy
    }

    /// When the permission ends: the earliest expiry among the credentials and rules it rests on.
    pub fn deadline(&self) -> Timestamp {
        self.deadline
    }

    /// False where `shadow_until` alone let the request through.
    pub fn enforced(&self) -> bool {
        self.enforced
    }
}

#[derive(Debug)]
pub struct Denial {
    /// In the order of the closed list of reason codes; never empty.
    pub causes: Vec<Cause>,
    pub challenge: Challenge,
}

/// Why the policy denies. Each is the reason code of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    PeerMissing,
    PeerUnknown,
    TokenMissing,
    TokenNotSenderConstrained,
    TokenNotIssuedToService,
    DeniedByRule,
    RequirementUnmet,
    StepUpRequired,
    ServiceNotAllowed,
    ActorNotAllowed,
    ScopeMissing,
    RoleMissing,
    ClaimMismatch,
    NoRule,
    NoRoute,
}

/// What the answer may tell the caller about how to come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// 403, nothing more.
    Forbidden,
    /// 404: only to who is verified by both signatures.
    NotFound,
    /// 401 `Bearer`: no token was presented.
    Credentials,
    /// 403 `insufficient_scope`, with these scopes.
    Scope(Vec<Arc<str>>),
    /// 401 `DPoP` (RFC 9449 §7.1): the token is bound to no key.
    Possession,
    /// 401 `insufficient_user_authentication` (RFC 9470).
    StepUp { acr_values: Vec<Arc<str>>, max_age: Option<Duration> },
}

/// What the decision rests on; the record and `explain` read it.
#[derive(Debug, Default)]
pub struct Evidence {
    /// The allow that permitted, or the deny or require that denied.
    pub rule: Option<RuleId>,
    pub route: Option<RouteId>,
    /// The services that name the peer.
    pub services: Arc<[Name]>,
    /// The configured roles that the caller has.
    pub roles: Arc<[Name]>,
    /// Of a denial: the rule that came closest and what it lacked.
    pub near_miss: Option<NearMiss>,
    /// What rules in shadow mode would have done, and `shadow_until`.
    pub shadow: Vec<ShadowVerdict>,
}

/// What something without effect would have decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShadowVerdict {
    WouldAllow(RuleId),
    WouldDeny(RuleId),
    /// `shadow_until` let through what is denied for these causes.
    Unenforced(Vec<Cause>),
}

/// What the rules say about one request, before a verdict is made of it.
struct Findings<'p> {
    /// First by name, as all of these.
    allow: Option<RuleId>,
    deny: Option<RuleId>,
    /// The requires that reach the request, unmet, each with what is not met.
    unmet: Vec<Nearest<'p>>,
    /// What of the nearest allow is lacking, where none holds.
    nearest: Option<Nearest<'p>>,
}

/// Judges one request. `standing` is that of the request's own peer and caller; one that was made
/// under another policy is not believed but made anew.
pub fn decide(policy: &Policy, standing: &Standing, request: &Request<'_>) -> Decision {
    if standing.policy != policy.hash() {
        let fresh = policy.standing(request.peer, request.caller, request.now);
        return decide(policy, &fresh, request);
    }
    let path: SmallVec<[Cow<'_, str>; 12]> = request.action.path.segments().collect();
    let asked = Asked { request, path: &path };
    let caller = request.caller.verified().map(|caller| &**caller);
    let who = Who {
        peer: request.peer.verified().map(|peer| &**peer),
        caller,
        issuer: policy.issuer_of(caller),
        services: &standing.services,
        roles: &standing.roles,
        now: request.now,
    };
    let mut evidence = Evidence {
        services: Arc::clone(&standing.service_names),
        roles: Arc::clone(&standing.role_names),
        ..Evidence::default()
    };
    match policy.choose_route(&asked) {
        Some(route) => {
            evidence.route = Some(route);
            decide_on(policy, standing, route, &who, &asked, evidence)
        }
        None => Decision { verdict: Verdict::Denial(no_route(policy, standing, &who)), evidence },
    }
}

fn decide_on(
    policy: &Policy,
    standing: &Standing,
    id: RouteId,
    who: &Who<'_>,
    asked: &Asked<'_>,
    mut evidence: Evidence,
) -> Decision {
    let route = policy.route(id);
    let in_shadow = route.is_in_shadow(asked.request.now) && !never_served(asked.request.action.method);
    let findings = Findings::gather(policy, standing, id, who, asked, &mut evidence.shadow);
    let peer_unknown = who.peer.is_some() && who.services.is_clear();
    let requires_met = findings.unmet.is_empty();
    let nothing_forbids = standing.token_mapped && findings.deny.is_none() && requires_met;
    let permit = |deadline: Timestamp, enforced: bool| {
        let upstream = route.upstream_for(who.roles);
        Verdict::Permit(Permit { route: id, upstream, policy: policy.hash(), deadline, enforced })
    };
    if let Some(allow) = findings.allow
        && nothing_forbids
        && !peer_unknown
    {
        evidence.rule = Some(allow);
        let deadline = credentials_end(who).min(policy.rule(allow).expires);
        return Decision { verdict: permit(deadline, true), evidence };
    }
    evidence.rule = findings.deny.or(findings.unmet.first().map(|unmet| unmet.rule));
    let nearest = findings.unmet.first().or(findings.nearest.as_ref());
    evidence.near_miss = nearest.map(|nearest| near_miss::in_words(policy, nearest, who, asked));
    let causes = findings.causes(policy, who, standing.token_mapped, peer_unknown);
    if in_shadow && nothing_forbids {
        evidence.shadow.push(ShadowVerdict::Unenforced(causes));
        let deadline =
            route.shadow_until.map_or(credentials_end(who), |until| until.min(credentials_end(who)));
        return Decision { verdict: permit(deadline, false), evidence };
    }
    let named_in_answer = standing.token_mapped && findings.deny.is_none() && !peer_unknown;
    let challenge = match nearest {
        Some(nearest) if named_in_answer => findings.challenge(policy, nearest, who),
        _ => Challenge::Forbidden,
    };
    Decision { verdict: Verdict::Denial(Denial { causes, challenge }), evidence }
}

impl<'p> Findings<'p> {
    fn gather(
        policy: &'p Policy,
        standing: &Standing,
        route: RouteId,
        who: &Who<'_>,
        asked: &Asked<'_>,
        shadow: &mut Vec<ShadowVerdict>,
    ) -> Findings<'p> {
        let reached = policy.reached(asked, route);
        let mut held = reached.clone();
        held.intersect_with(&standing.rules);
        let rule = |at: usize| (policy.order()[at], policy.rule(policy.order()[at]));
        let holds = |rule: &Rule| judge::reaches(rule, asked) && judge::circumstances_hold(rule, asked);
        let holding = |set| held.intersection(set).map(rule).filter(|(_, r)| holds(r)).map(|(id, _)| id);
        let unmet = |set| {
            let is_unmet =
                |at: &usize| !standing.rules.contains(*at) || !judge::circumstances_hold(rule(*at).1, asked);
            // walks the first of the two: requires are few where many rules have one path
            FixedBitSet::intersection(set, &reached).filter(is_unmet).map(|at| rule(at).0)
        };
        shadow.extend(holding(&policy.shadow().allows).map(ShadowVerdict::WouldAllow));
        shadow.extend(holding(&policy.shadow().denies).map(ShadowVerdict::WouldDeny));
        shadow.extend(unmet(&policy.shadow().requires).map(ShadowVerdict::WouldDeny));

        let allow = holding(&policy.enforced().allows).next();
        let deny = holding(&policy.enforced().denies).next();
        let judged = allow.is_some() || policy.route(route).is_in_shadow(asked.request.now);
        let unmet = if judged { unmet(&policy.enforced().requires).collect() } else { Vec::new() };
        let candidates = || {
            let reached = reached.intersection(&policy.enforced().allows).map(rule);
            reached.filter(|(_, rule)| judge::reaches(rule, asked) && judge::in_time(rule, who.now))
        };
        let nearest = match allow {
            Some(_) => None,
            None => near_miss::nearest(policy, candidates().map(|(id, _)| id), who, asked).into_iter().next(),
        };
        Findings { allow, deny, unmet: near_miss::nearest(policy, unmet.into_iter(), who, asked), nearest }
    }

    /// All that applies, in the order of the closed list.
    fn causes(&self, policy: &Policy, who: &Who<'_>, token_mapped: bool, peer_unknown: bool) -> Vec<Cause> {
        let mut causes = Vec::new();
        causes.extend(peer_unknown.then_some(Cause::PeerUnknown));
        causes.extend((!token_mapped).then_some(Cause::TokenNotIssuedToService));
        causes.extend(self.deny.is_some().then_some(Cause::DeniedByRule));
        for unmet in &self.unmet {
            let seen = unmet.causes(policy, who);
            causes.extend(seen.iter().filter(|c| matches!(c, Cause::TokenMissing | Cause::PeerMissing)));
            causes.push(if unmet.is_step_up() { Cause::StepUpRequired } else { Cause::RequirementUnmet });
        }
        match (&self.nearest, self.allow) {
            (Some(nearest), _) => causes.extend(nearest.causes(policy, who)),
            (None, None) => causes.push(Cause::NoRule),
            (None, Some(_)) => {}
        }
        causes.sort_unstable();
        causes.dedup();
        causes
    }

    /// What the answer may name: the one thing that fails at the nearest rule, if a caller can do
    /// something about it.
    fn challenge(&self, policy: &Policy, nearest: &Nearest<'_>, who: &Who<'_>) -> Challenge {
        if self.unmet.iter().all(Nearest::is_step_up) && nearest.is_step_up() {
            let rule = policy.rule(nearest.rule);
            let acr_values = stated!(rule, Acr).cloned().unwrap_or_default();
            return Challenge::StepUp { acr_values, max_age: stated!(rule, MaxAge).copied() };
        }
        match nearest.lacks.as_slice() {
            [Lack::NoCaller] => Challenge::Credentials,
            [Lack::Stated(Condition::SenderConstrained)] => Challenge::Possession,
            [Lack::Stated(Condition::Role(term))] => {
                near_miss::missing_scopes(policy, term, who).map_or(Challenge::Forbidden, Challenge::Scope)
            }
            _ => Challenge::Forbidden,
        }
    }
}

/// When the first of the presented credentials ends.
fn credentials_end(who: &Who<'_>) -> Timestamp {
    let ends = who.peer.map(|peer| peer.not_after).into_iter().chain(who.caller.map(|c| c.expires));
    ends.min().unwrap_or(Timestamp::MAX)
}

/// An unknown route answers as a known one that wants what this policy wants; that there is none is
/// told only to who has both signatures.
fn no_route(policy: &Policy, standing: &Standing, who: &Who<'_>) -> Denial {
    let mut allows = policy.enforced().allows.ones().map(|at| policy.rule(policy.order()[at]));
    let peer_wanted = who.caller.is_some() || allows.any(|allow| !allow.waives_peer());
    let mut causes = Vec::new();
    causes.extend((who.peer.is_none() && peer_wanted).then_some(Cause::PeerMissing));
    causes.extend((who.peer.is_some() && who.services.is_clear()).then_some(Cause::PeerUnknown));
    causes.extend(who.caller.is_none().then_some(Cause::TokenMissing));
    causes.extend((!standing.token_mapped).then_some(Cause::TokenNotIssuedToService));
    let challenge = match causes.as_slice() {
        [] => Challenge::NotFound,
        [Cause::TokenMissing] => Challenge::Credentials,
        _ => Challenge::Forbidden,
    };
    causes.push(Cause::NoRoute);
    Denial { causes, challenge }
}
