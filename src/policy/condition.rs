//! Every condition that a rule can state, and when it holds.
//!
//! To add one: a variant here (the compiler lists every match that must know it), a key in
//! `config/`, a file in `tests/policy/`, a line in `docs/policy.md`.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::pattern::{Glob, HostPattern, MethodSet, PathPattern};
use super::{IssuerId, RoleId, RouteId, ServiceId};
use crate::identity::ActorKind;

/// One condition of one rule. A list means any of its members.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    // identity: what a standing holds
    Service(ServiceTerm),
    Issuer(Vec<IssuerId>),
    Role(RoleTerm),
    Actor(Vec<ActorKind>),
    OnBehalfOf(Vec<ActorKind>),
    /// All tests must hold; reads the token as issued.
    Claim(Vec<ClaimTest>),
    Acr(Vec<Arc<str>>),
    /// The login (`auth_time`) is at most this old.
    MaxAge(Duration),
    // action
    Route(RouteTerm),
    Host(Vec<HostPattern>),
    Method(MethodSet),
    Path(Vec<PathPattern>),
    /// Each `{segment}` of the rule's path equals the caller's claim.
    MatchClaim(Vec<MatchClaim>),
    Grpc(Vec<GrpcPattern>),
    // circumstances
    /// `direct`, `local` or a `[trusted_hop]`'s name.
    Hop(Vec<Arc<str>>),
    PeerIp(Vec<IpNet>),
    ClientIp(Vec<IpNet>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceTerm {
    /// Any service that the configuration names.
    Any,
    /// In an allow: the certificate is waived. In a deny: there is none.
    None,
    Named(Vec<ServiceId>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoleTerm {
    /// Any verified caller.
    Any,
    /// In an allow: the token is waived. In a deny: there is none.
    None,
    AnyOf(Vec<RoleId>),
    AllOf(Vec<RoleId>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteTerm {
    /// `route = "any"`.
    Any,
    Named(Vec<RouteId>),
}

/// `claim = { name = value }`: holds if the claim, or a member of it if it is a list, equals one of
/// the values.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimTest {
    pub claim: ClaimPath,
    pub values: Vec<ClaimValue>,
}

/// A claim's place in a token: one top-level name, whatever dots or slashes it holds, or a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimPath(pub Vec<Arc<str>>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimValue {
    /// Equals a string, or the decimal text of an integer.
    Text(Glob),
    Integer(i64),
    Boolean(bool),
}

/// `match_claim = { segment = "claim" }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatchClaim {
    /// The `{name}` of a segment in every path of the rule.
    pub segment: Arc<str>,
    pub claim: ClaimPath,
}

/// `grpc = "pkg.Service/Method"`; `pkg.Service/*` is every method of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcPattern {
    pub service: String,
    /// `None` is `*`.
    pub method: Option<String>,
}
