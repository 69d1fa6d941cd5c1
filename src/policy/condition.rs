//! Every condition that a rule can state, and when it holds.
//!
//! To add one: a variant here (the compiler lists every match that must know it), a key in
//! `config/`, a file in `tests/policy/`, a line in `docs/policy.md`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::path_pattern::Segment;
use super::pattern::{Glob, HostPattern, MethodSet, PathPattern, PatternError};
use super::{IssuerId, RoleId, RouteId, ServiceId};
use crate::identity::ActorKind;

/// Which step of a decision judges a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
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
        }
    }

    pub(super) fn kind(&self) -> Kind {
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
            Condition::MatchClaim(_) | Condition::Hop(_) | Condition::PeerIp(_) | Condition::ClientIp(_) => {
                Kind::Circumstance
            }
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
            | Condition::MaxAge(_) => false,
        }
    }

    /// Whether this cannot hold without a verified caller. `role` speaks for itself.
    pub(super) fn reads_caller(&self) -> bool {
        match self {
            Condition::Issuer(_)
            | Condition::Actor(_)
            | Condition::OnBehalfOf(_)
            | Condition::Claim(_)
            | Condition::Acr(_)
            | Condition::MaxAge(_)
            | Condition::MatchClaim(_) => true,
            Condition::Role(term) => *term != RoleTerm::None,
            _ => false,
        }
    }
}

impl ClaimTest {
    /// Whether the claim, or a member of it if it is a list, equals one of the values. An absent
    /// claim fulfils nothing.
    pub fn holds(&self, claims: &Map<String, Value>) -> bool {
        self.claim.look_up(claims).is_some_and(|claim| {
            members(claim).iter().any(|member| self.values.iter().any(|value| value.equals(member)))
        })
    }
}

impl ClaimPath {
    /// A claim by its top-level name.
    pub fn top_level(name: &str) -> ClaimPath {
        ClaimPath(vec![name.into()])
    }

    /// What stands at this place; through objects only.
    pub fn look_up<'c>(&self, claims: &'c Map<String, Value>) -> Option<&'c Value> {
        let (first, inner) = self.0.split_first()?;
        inner.iter().try_fold(claims.get(&**first)?, |value, name| value.as_object()?.get(&**name))
    }
}

impl MatchClaim {
    /// Whether the segment, decoded once, is the claim or a member of it, byte for byte.
    pub fn holds(&self, segment: &str, claims: &Map<String, Value>) -> bool {
        let names_something = !matches!(segment, "" | "." | "..") && !segment.contains(['/', '\\', '\0']);
        names_something
            && self.claim.look_up(claims).is_some_and(|claim| {
                members(claim).iter().any(|member| scalar_text(member).as_deref() == Some(segment))
            })
    }
}

impl ClaimValue {
    fn equals(&self, claim: &Value) -> bool {
        match (self, claim) {
            (ClaimValue::Boolean(wanted), Value::Bool(seen)) => wanted == seen,
            (ClaimValue::Boolean(_), _) | (_, Value::Bool(_)) => false,
            (ClaimValue::Text(glob), _) => scalar_text(claim).is_some_and(|text| glob.matches(&text)),
            (ClaimValue::Integer(wanted), _) => {
                scalar_text(claim).is_some_and(|text| text == wanted.to_string())
            }
        }
    }
}

/// The members of a list; of anything else, itself.
fn members(claim: &Value) -> &[Value] {
    match claim {
        Value::Array(members) => members,
        _ => std::slice::from_ref(claim),
    }
}

/// A string, or the decimal text of an integer; nothing else is coerced.
fn scalar_text(claim: &Value) -> Option<std::borrow::Cow<'_, str>> {
    match claim {
        Value::String(text) => Some(text.as_str().into()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string().into()),
        _ => None,
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

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, name) in self.0.iter().enumerate() {
            write!(f, "{}{name}", if at == 0 { "" } else { " → " })?;
        }
        Ok(())
    }
}

impl fmt::Display for ClaimValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClaimValue::Text(glob) => glob.fmt(f),
            ClaimValue::Integer(integer) => integer.fmt(f),
            ClaimValue::Boolean(boolean) => boolean.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims() -> Map<String, Value> {
        let value = json!({
            "tier": "gold", "level": 7, "big": u64::MAX, "share": 7.0, "staff": true, "word": "true",
            "tags": ["a", 7, ["nested"]], "empty": [], "nothing": null, "seven": "7",
            "realm": { "roles": ["x"] }, "https://corp/roles": ["admin"], "a.b": "dotted",
            "odd": ["", ".", "..", "a/b", "auth0|alice"],
        });
        value.as_object().cloned().unwrap_or_default()
    }

    fn path(names: &[&str]) -> ClaimPath {
        ClaimPath(names.iter().map(|name| (*name).into()).collect())
    }

    #[test]
    fn a_claim_equals_what_it_says_and_nothing_is_coerced() {
        let text = |text: &str| ClaimValue::Text(text.parse().unwrap());
        let cases = [
            (&["tier"][..], text("gold"), true),
            (&["tier"], text("go*"), true),
            (&["tier"], text("Gold"), false),
            (&["level"], text("7"), true),
            (&["level"], ClaimValue::Integer(7), true),
            (&["seven"], ClaimValue::Integer(7), true),
            (&["share"], ClaimValue::Integer(7), false),
            (&["share"], text("7"), false),
            (&["big"], text("18446744073709551615"), true),
            (&["staff"], ClaimValue::Boolean(true), true),
            (&["staff"], ClaimValue::Boolean(false), false),
            (&["staff"], text("true"), false),
            (&["word"], ClaimValue::Boolean(true), false),
            (&["tags"], text("a"), true),
            (&["tags"], ClaimValue::Integer(7), true),
            (&["tags"], text("nested"), false),
            (&["empty"], text("*"), false),
            (&["nothing"], text("*"), false),
            (&["absent"], text("*"), false),
            (&["realm"], text("*"), false),
            (&["realm", "roles"], text("x"), true),
            (&["realm", "roles", "0"], text("x"), false),
            (&["https://corp/roles"], text("admin"), true),
            (&["a.b"], text("dotted"), true),
            (&["a", "b"], text("dotted"), false),
            (&[], text("*"), false),
        ];
        let mut seen = 0;
        for (names, value, expected) in cases {
            let test = ClaimTest { claim: path(names), values: vec![value] };
            assert_eq!(test.holds(&claims()), expected, "{test:?}");
            seen += 1;
        }
        assert_eq!(seen, 26);
        assert!(!ClaimTest { claim: path(&["tier"]), values: vec![] }.holds(&claims()));
    }

    #[test]
    fn a_segment_equals_a_claim_byte_for_byte() {
        let mut seen = 0;
        for (claim, segment, expected) in [
            ("odd", "auth0|alice", true),
            ("odd", "auth0%7Calice", false),
            ("odd", "", false),
            ("odd", ".", false),
            ("odd", "..", false),
            ("odd", "a/b", false),
            ("level", "7", true),
            ("level", "07", false),
            ("staff", "true", false),
            ("share", "7.0", false),
            ("absent", "x", false),
        ] {
            let test = MatchClaim { segment: "s".into(), claim: path(&[claim]) };
            assert_eq!(test.holds(segment, &claims()), expected, "{claim} {segment}");
            seen += 1;
        }
        assert_eq!(seen, 11);
    }

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
