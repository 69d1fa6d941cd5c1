//! What is wrong with a policy, or looks wrong: errors that keep it from serving, and findings.

use super::{RoleId, RouteId, RuleId, ServiceId};

/// One thing found. The configuration layer knows the file, line and column of its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Stable, as `deny_evadable`; what `[lint] allow` names.
    pub code: &'static str,
    pub severity: Severity,
    pub place: Place,
    /// What is wrong: lower case, no full stop, what the user typed in backticks.
    pub message: String,
    /// What to write instead.
    pub remedy: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Information,
    Finding,
    Error,
}

/// Where: a table of the configuration and, if one is to blame, a key in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub item: Item,
    pub key: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    Policy,
    Rule(RuleId),
    Role(RoleId),
    Service(ServiceId),
    Route(RouteId),
}
pub(super) fn findings(_: &super::compiled::PolicyParts, _: crate::clock::Timestamp) -> Vec<Finding> {
    vec![]
}
