//! The decision: both identities, one action, one policy, one verdict with its evidence.

use std::sync::Arc;
use std::time::Duration;

use super::near_miss::NearMiss;
use super::{Action, Circumstances, PolicyHash, RouteId, RuleId, UpstreamId};
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
    pub services: Vec<Name>,
    /// The configured roles that the caller has.
    pub roles: Vec<Name>,
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
