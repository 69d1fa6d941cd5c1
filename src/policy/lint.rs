//! What is wrong with a policy, or looks wrong: errors that keep it from serving, and findings.

use std::time::Duration;

use super::compiled::PolicyParts;
use super::condition::Condition;
use super::reach::Region;
use super::role::CarriedClients;
use super::rule::{Effect, Rule};
use super::{RoleId, RouteId, RuleId, ServiceId, wider};
use crate::clock::Timestamp;

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

/// The codes of all that is found in a policy without errors: what can be allowed.
pub const CODES: [&str; 8] = [
    "address_only",
    "allow_redundant",
    "client_id_any",
    "guard_rail",
    "rule_expired",
    "rule_expires_soon",
    "shadow_over",
    "signature_waived",
];

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
    Route(RouteId),
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
        self.add(Severity::Error, Place { item, key }, code, message, remedy);
    }

    pub(super) fn add(
        &mut self,
        severity: Severity,
        place: Place,
        code: &'static str,
        message: String,
        remedy: String,
    ) {
        self.found.push(Finding { code, severity, place, message, remedy });
    }
}

const EXPIRY_WARNING_DAYS: u64 = 14;

/// What looks wrong with a policy that can serve.
pub(super) fn findings(parts: &PolicyParts, today: Timestamp) -> Vec<Finding> {
    let mut report = Report::default();
    let regions: Vec<Region<'_>> = parts.rules.iter().map(|rule| Region::of(rule, parts)).collect();
    for (rule, id) in parts.rules.iter().zip((0..).map(RuleId)) {
        let region = &regions[id.index()];
        match rule.effect {
            Effect::Allow => {
                expiry(rule, id, today, &mut report);
                waivers(rule, id, &mut report);
                redundant(rule, id, parts, &mut report);
            }
            Effect::Deny | Effect::Require => guard_rail(rule, id, region, parts, &regions, &mut report),
        }
    }
    for (service, id) in parts.services.iter().zip((0..).map(ServiceId)) {
        if matches!(service.clients, CarriedClients::Any) {
            let message = format!("`{}` may carry the token of any client", service.name);
            let remedy = "list the OAuth clients it carries tokens of: a stolen token is then useless to it";
            report.add(
                Severity::Finding,
                Item::Service(id).at("client_id"),
                "client_id_any",
                message,
                remedy.into(),
            );
        }
    }
    for (route, id) in parts.routes.iter().zip((0..).map(RouteId)) {
        if route.shadow_until.is_some_and(|until| until <= today) {
            let message = format!("`shadow_until` of `{}` is over, its rules are enforced", route.name);
            let remedy = "take it out".to_owned();
            report.add(Severity::Finding, Item::Route(id).at("shadow_until"), "shadow_over", message, remedy);
        }
    }
    report.found
}

fn expiry(rule: &Rule, id: RuleId, today: Timestamp, report: &mut Report) {
    let soon = today.plus(Duration::from_secs(EXPIRY_WARNING_DAYS * 86_400));
    let (code, message) = if rule.expires <= today {
        ("rule_expired", format!("`{}` has expired", rule.name))
    } else if rule.expires <= soon {
        ("rule_expires_soon", format!("`{}` ends within {EXPIRY_WARNING_DAYS} days", rule.name))
    } else {
        return;
    };
    let remedy = "give it a later day, or remove it".to_owned();
    report.add(Severity::Finding, Item::Rule(id).at("expires"), code, message, remedy);
}

fn waivers(rule: &Rule, id: RuleId, report: &mut Report) {
    let by_address =
        rule.conditions.iter().find(|c| matches!(c, Condition::PeerIp(_) | Condition::ClientIp(_)));
    if let Some(condition) = by_address
        && rule.waives_caller()
        && rule.waives_peer()
    {
        let message = format!("`{}` knows who asks by an address alone", rule.name);
        let remedy = "name a service or a role: an address is no identity".to_owned();
        report.add(Severity::Finding, Item::Rule(id).at(condition.key()), "address_only", message, remedy);
        return;
    }
    let waived = [(rule.waives_peer(), "service", "certificate"), (rule.waives_caller(), "role", "token")];
    for (_, key, credential) in waived.into_iter().filter(|(waived, ..)| *waived) {
        let message = format!("`{}` takes requests without a {credential}", rule.name);
        let remedy = format!("nothing, if that is meant; else name who may in `{key}`");
        report.add(Severity::Information, Item::Rule(id).at(key), "signature_waived", message, remedy);
    }
}

/// An allow that lies within another one never matters; of two that say the same, the later by name.
fn redundant(rule: &Rule, id: RuleId, parts: &PolicyParts, report: &mut Report) {
    let wider = parts.rules.iter().find(|other| {
        let other_first = other.name < rule.name;
        other.name != rule.name
            && other.effect == Effect::Allow
            && other.mode == rule.mode
            && wider::is_within(rule, other)
            && (other_first || !wider::is_within(other, rule))
    });
    if let Some(other) = wider {
        let message = format!("`{}` never matters: `{}` allows all that it does", rule.name, other.name);
        let remedy = "remove it, or narrow the other".to_owned();
        report.add(
            Severity::Finding,
            Place { item: Item::Rule(id), key: None },
            "allow_redundant",
            message,
            remedy,
        );
    }
}

fn guard_rail(
    rule: &Rule,
    id: RuleId,
    region: &Region<'_>,
    parts: &PolicyParts,
    regions: &[Region<'_>],
    report: &mut Report,
) {
    let mut allows = parts.rules.iter().zip(regions).filter(|(other, _)| other.effect == Effect::Allow);
    if !allows.any(|(_, reached)| reached.overlaps(region)) {
        let message = format!("`{}` is a guard rail: no allow reaches what it speaks of", rule.name);
        let remedy = "nothing: it holds for allows to come".to_owned();
        let place = Place { item: Item::Rule(id), key: None };
        report.add(Severity::Information, place, "guard_rail", message, remedy);
    }
}

impl Item {
    fn at(self, key: &'static str) -> Place {
        Place { item: self, key: Some(key) }
    }
}
