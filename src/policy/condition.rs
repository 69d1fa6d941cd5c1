//! Every condition that a rule can state.
//!
//! To add one: a variant here (the compiler lists every match that must know it), a key in
//! `config/`, a file in `tests/policy/`, a line in `docs/policy.md`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use std::time::Duration;

use ipnet::IpNet;

use super::claim::{ClaimTest, MatchClaim};
use super::path_pattern::Segment;
use super::pattern::{HostPattern, MethodSet, PathPattern, PatternError};
use super::{IssuerId, RoleId, RouteId, ServiceId};
use crate::identity::ActorKind;

/// Which step of a decision judges a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Who asks: judged once for a peer and a caller, and kept in their standing.
    Identity,
    /// What is asked: whether the rule reaches the request at all.
    Action,
    /// What joins the two, or changes with each request.
    Circumstance,
}

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
    /// The token is bound to a key, of which this connection or request has brought the proof.
    SenderConstrained,
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

/// `grpc = "pkg.Service/Method"`; `pkg.Service/*` is every method of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcPattern {
    pub service: String,
    /// `None` is `*`.
    pub method: Option<String>,
}

impl Condition {
    /// The condition's key in the configuration.
    pub fn key(&self) -> &'static str {
        match self {
            Condition::Service(_) => "service",
            Condition::Issuer(_) => "issuer",
            Condition::Role(_) => "role",
            Condition::Actor(_) => "actor",
            Condition::OnBehalfOf(_) => "on_behalf_of",
            Condition::Claim(_) => "claim",
            Condition::Acr(_) => "acr",
            Condition::MaxAge(_) => "max_age",
            Condition::Route(_) => "route",
            Condition::Host(_) => "host",
            Condition::Method(_) => "method",
            Condition::Path(_) => "path",
            Condition::MatchClaim(_) => "match_claim",
            Condition::Grpc(_) => "grpc",
            Condition::Hop(_) => "hop",
            Condition::PeerIp(_) => "peer_ip",
            Condition::ClientIp(_) => "client_ip",
            Condition::SenderConstrained => "sender_constrained",
        }
    }

    pub fn kind(&self) -> Kind {
        match self {
            Condition::Service(_)
            | Condition::Issuer(_)
            | Condition::Role(_)
            | Condition::Actor(_)
            | Condition::OnBehalfOf(_)
            | Condition::Claim(_)
            | Condition::Acr(_)
            | Condition::MaxAge(_) => Kind::Identity,
            Condition::Route(_)
            | Condition::Host(_)
            | Condition::Method(_)
            | Condition::Path(_)
            | Condition::Grpc(_) => Kind::Action,
            Condition::MatchClaim(_)
            | Condition::Hop(_)
            | Condition::PeerIp(_)
            | Condition::ClientIp(_)
            | Condition::SenderConstrained => Kind::Circumstance,
        }
    }

    /// Whether this is a list without members, which nothing can fulfil.
    pub(super) fn is_empty_list(&self) -> bool {
        match self {
            Condition::Service(ServiceTerm::Named(ids)) => ids.is_empty(),
            Condition::Role(RoleTerm::AnyOf(ids) | RoleTerm::AllOf(ids)) => ids.is_empty(),
            Condition::Route(RouteTerm::Named(ids)) => ids.is_empty(),
            Condition::Issuer(ids) => ids.is_empty(),
            Condition::Actor(kinds) | Condition::OnBehalfOf(kinds) => kinds.is_empty(),
            Condition::Claim(tests) => tests.is_empty() || tests.iter().any(|test| test.values.is_empty()),
            Condition::Acr(values) => values.is_empty(),
            Condition::Host(hosts) => hosts.is_empty(),
            Condition::Method(methods) => methods.0.is_empty(),
            Condition::Path(paths) => paths.is_empty(),
            Condition::MatchClaim(tests) => tests.is_empty(),
            Condition::Grpc(patterns) => patterns.is_empty(),
            Condition::Hop(names) => names.is_empty(),
            Condition::PeerIp(nets) | Condition::ClientIp(nets) => nets.is_empty(),
            Condition::Service(ServiceTerm::Any | ServiceTerm::None)
            | Condition::Role(RoleTerm::Any | RoleTerm::None)
            | Condition::Route(RouteTerm::Any)
            | Condition::MaxAge(_)
            | Condition::SenderConstrained => false,
        }
    }

    /// Whether this cannot hold without a verified caller. `role` speaks for itself.
    pub fn reads_caller(&self) -> bool {
        match self {
            Condition::Issuer(_)
            | Condition::Actor(_)
            | Condition::OnBehalfOf(_)
            | Condition::Claim(_)
            | Condition::Acr(_)
            | Condition::MaxAge(_)
            | Condition::MatchClaim(_)
            | Condition::SenderConstrained => true,
            Condition::Role(term) => *term != RoleTerm::None,
            _ => false,
        }
    }
}

impl GrpcPattern {
    /// The path that calls of this method have (gRPC over HTTP/2, Requests).
    pub fn path(&self) -> PathPattern {
        let method = match &self.method {
            Some(method) => Segment::Literal(method.as_str().into()),
            None => Segment::Any,
        };
        PathPattern { segments: vec![Segment::Literal(self.service.as_str().into()), method], rest: false }
    }
}

impl FromStr for GrpcPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<GrpcPattern, PatternError> {
        let (service, method) = text.split_once('/').ok_or(PatternError::Grpc)?;
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let identifier = |text: &str| !text.is_empty() && text.bytes().all(word);
        if !service.split('.').all(identifier) || !(method == "*" || identifier(method)) {
            return Err(PatternError::Grpc);
        }
        let method = (method != "*").then(|| method.to_owned());
        Ok(GrpcPattern { service: service.to_owned(), method })
    }
}

impl fmt::Display for GrpcPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.method.as_deref().unwrap_or("*"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_names_a_service_and_a_method() {
        for text in ["orders.v1.Orders/Get", "Orders/*"] {
            assert_eq!(text.parse::<GrpcPattern>().unwrap().to_string(), text);
        }
        for bad in ["", "Orders", "/Orders/Get", "Orders/", "Orders/Get/x", "a..b/C", "Orders/G*", "*/Get"] {
            assert_eq!(bad.parse::<GrpcPattern>(), Err(PatternError::Grpc), "{bad}");
        }
        let any: GrpcPattern = "Orders/*".parse().unwrap();
        let calls = |path: &[&str]| any.path().matches(&path.iter().map(|s| (*s).into()).collect::<Vec<_>>());
        assert!(calls(&["Orders", "Get"]) && !calls(&["Orders", "Get", "x"]) && !calls(&["Orders"]));
    }
}
