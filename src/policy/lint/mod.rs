//! What is wrong with a policy, or looks wrong: errors that keep it from serving, and findings.
//!
//! Findings by subject: `rules` looks at one rule, `pairs` at two that meet, `names` at what is named and
//! by whom, `asserted` at names that another Countersign vouches for, `roles` at who can have a role and whose tokens a service carries. Each is of one [`Code`].

mod asserted;
mod code;
mod names;
mod pairs;
mod roles;
mod rules;

pub use code::Code;

use super::compiled::PolicyParts;
use super::reach::Region;
use super::{IssuerId, RoleId, RouteId, RuleId, ServiceId, UpstreamId};
use crate::clock::Timestamp;

/// One thing found. The configuration layer knows the file, line and column of its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Stable, as `deny_evadable`.
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
    Rule(RuleId),
    Role(RoleId),
    Service(ServiceId),
    Issuer(IssuerId),
    Route(RouteId),
    Upstream(UpstreamId),
}

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub found: Vec<Finding>,
}

impl Report {
    pub(super) fn error(
        &mut self,
        item: Item,
        key: Option<&'static str>,
        code: &'static str,
        message: String,
        remedy: String,
    ) {
        let place = Place { item, key };
        self.found.push(Finding { code, severity: Severity::Error, place, message, remedy });
    }

    fn add(&mut self, code: Code, place: Place, message: String, remedy: impl Into<String>) {
        let (severity, remedy) = (code.severity(), remedy.into());
        self.found.push(Finding { code: code.as_str(), severity, place, message, remedy });
    }
}

impl Item {
    fn at(self, key: &'static str) -> Place {
        Place { item: self, key: Some(key) }
    }

    fn whole(self) -> Place {
        Place { item: self, key: None }
    }
}

/// What looks wrong with a policy that can serve.
pub(super) fn findings(parts: &PolicyParts, today: Timestamp) -> Vec<Finding> {
    let regions: Vec<Region<'_>> = parts.rules.iter().map(|rule| Region::of(rule, parts)).collect();
    let mut report = Report::default();
    rules::look(parts, &regions, today, &mut report);
    pairs::look(parts, &regions, &mut report);
    roles::look(parts, &mut report);
    asserted::look(parts, &mut report);
    names::look(parts, &regions, today, &mut report);
    report.found
}
