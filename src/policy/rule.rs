//! Rules as the configuration states them, with names resolved: `[[allow]]`, `[[deny]]`, `[[require]]`.

use super::RouteId;
use super::claim::MatchClaim;
use super::condition::{Condition, GrpcPattern, RoleTerm, RouteTerm, ServiceTerm};
use super::pattern::{HostPattern, MethodSet, PathPattern};
use crate::clock::Timestamp;

/// One rule. All its conditions must hold.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Unique, in the words of its author; what records and denials cite.
    pub name: String,
    pub effect: Effect,
    /// At most one of each kind.
    pub conditions: Vec<Condition>,
    pub mode: Mode,
    /// First moment at which an allow holds.
    pub not_before: Timestamp,
    /// First moment at which an allow no longer holds.
    pub expires: Timestamp,
    /// Copied to the record.
    pub owner: Option<String>,
    /// Copied to the record.
    pub ticket: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Allow,
    Deny,
    Require,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Enforce,
    /// Evaluated, counted and recorded, without effect.
    Shadow,
}

impl Effect {
    pub fn as_str(self) -> &'static str {
        match self {
            Effect::Allow => "allow",
            Effect::Deny => "deny",
            Effect::Require => "require",
        }
    }
}

/// The one condition of a kind that a rule states, if it states it.
macro_rules! stated {
    ($rule:expr, $kind:ident) => {
        $rule.conditions.iter().find_map(|condition| match condition {
            Condition::$kind(term) => Some(term),
            _ => None,
        })
    };
}
pub(super) use stated;

impl Rule {
    pub fn service(&self) -> Option<&ServiceTerm> {
        stated!(self, Service)
    }

    pub fn role(&self) -> Option<&RoleTerm> {
        stated!(self, Role)
    }

    /// The routes it names; `None` for any.
    pub(super) fn routes(&self) -> Option<&[RouteId]> {
        match stated!(self, Route) {
            Some(RouteTerm::Named(routes)) => Some(routes),
            Some(RouteTerm::Any) | None => None,
        }
    }

    /// Empty for any.
    pub(super) fn hosts(&self) -> &[HostPattern] {
        stated!(self, Host).map_or(&[], |hosts| hosts)
    }

    pub(super) fn paths(&self) -> Option<&Vec<PathPattern>> {
        stated!(self, Path)
    }

    /// The paths that `grpc` stands for.
    pub(super) fn grpc_paths(&self) -> Option<Vec<PathPattern>> {
        Some(stated!(self, Grpc)?.iter().map(GrpcPattern::path).collect())
    }

    pub(super) fn match_claims(&self) -> &[MatchClaim] {
        stated!(self, MatchClaim).map_or(&[], |tests| tests)
    }

    /// `None` for any. gRPC calls are `POST`, which a rule need not say.
    pub(super) fn methods(&self) -> Option<MethodSet> {
        match (stated!(self, Method), stated!(self, Grpc)) {
            (Some(methods), None) => Some(methods.clone()),
            (Some(methods), Some(_)) => Some(MethodSet(
                methods.0.iter().filter(|method| **method == http::Method::POST).cloned().collect(),
            )),
            (None, Some(_)) => Some(MethodSet(vec![http::Method::POST])),
            (None, None) => None,
        }
    }

    pub fn has_start(&self) -> bool {
        self.not_before != Timestamp::MIN
    }

    pub fn has_end(&self) -> bool {
        self.expires != Timestamp::MAX
    }

    /// Whether this is an allow that holds with or without a token.
    pub(super) fn waives_caller(&self) -> bool {
        self.effect == Effect::Allow && self.role() == Some(&RoleTerm::None)
    }

    /// Whether this is an allow that holds with or without a certificate.
    pub(super) fn waives_peer(&self) -> bool {
        self.effect == Effect::Allow && self.service() == Some(&ServiceTerm::None)
    }
}
