//! Findings that take two rules to see: one makes the other pointless, or impossible.

use super::rules::says_who;
use super::{Code, Item, Report};
use crate::policy::compiled::PolicyParts;
use crate::policy::reach::Region;
use crate::policy::rule::{Effect, Mode, Rule};
use crate::policy::{RuleId, wider};

pub(super) fn look(parts: &PolicyParts, regions: &[Region<'_>], report: &mut Report) {
    let enforced = |effect: Effect| {
        parts.rules.iter().filter(move |rule| rule.effect == effect && rule.mode == Mode::Enforce)
    };
    for ((rule, id), region) in parts.rules.iter().zip((0..).map(RuleId)).zip(regions) {
        redundant(rule, id, parts, report);
        if rule.effect == Effect::Allow {
            if let Some(deny) = enforced(Effect::Deny).find(|deny| wider::is_denied_whole(rule, deny)) {
                let message =
                    format!("`{}` never allows anything: `{}` denies all of it", rule.name, deny.name);
                let remedy = "narrow the deny, or remove the allow: a deny beats every allow";
                report.add(Code::AllowDenied, Item::Rule(id).whole(), message, remedy);
            }
            let contradicted = enforced(Effect::Require)
                .find_map(|require| Some((require, wider::contradiction(rule, require, parts)?)));
            if let Some((require, (key, why))) = contradicted {
                let message = format!(
                    "`{}` cannot have what `{}` demands of all it allows: {why}",
                    rule.name, require.name
                );
                let remedy = "say the same in both, or narrow what the require reaches";
                report.add(Code::AllowContradicted, Item::Rule(id).at(key), message, remedy);
            }
        } else {
            guard_rail(rule, id, region, parts, regions, report);
        }
        if rule.effect == Effect::Deny && rule.mode == Mode::Enforce {
            by_path(rule, id, region, parts, regions, report);
        }
    }
}

/// A rule that lies within another one never matters; of two that say the same, the later by name.
fn redundant(rule: &Rule, id: RuleId, parts: &PolicyParts, report: &mut Report) {
    let within = |one: &Rule, other: &Rule| match one.effect {
        Effect::Allow => wider::is_within(one, other),
        Effect::Deny => wider::is_denied_whole(one, other),
        Effect::Require => wider::is_demanded_by(one, other),
    };
    let other = parts.rules.iter().find(|other| {
        other.name != rule.name
            && other.effect == rule.effect
            && other.mode == rule.mode
            && within(rule, other)
            && (other.name < rule.name || !within(other, rule))
    });
    let Some(other) = other else { return };
    let (code, does) = match rule.effect {
        Effect::Allow => (Code::AllowRedundant, "allows"),
        Effect::Deny => (Code::DenyRedundant, "denies"),
        Effect::Require => (Code::RequireRedundant, "demands"),
    };
    let message = format!("`{}` never matters: `{}` {does} all that it does", rule.name, other.name);
    report.add(code, Item::Rule(id).whole(), message, "remove it, or narrow the other");
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
        report.add(Code::GuardRail, Item::Rule(id).whole(), message, "nothing: it holds for allows to come");
    }
}

/// A hole cut out of a tree: what is added beside it is open.
fn by_path(
    rule: &Rule,
    id: RuleId,
    region: &Region<'_>,
    parts: &PolicyParts,
    regions: &[Region<'_>],
    report: &mut Report,
) {
    let Some(denied) = rule.paths().filter(|_| !says_who(rule)) else { return };
    let broad = parts.rules.iter().zip(regions).find(|(allow, reached)| {
        let around = |path: &_| match allow.paths() {
            None => allow.grpc_paths().is_none(),
            Some(allowed) => allowed.iter().any(|tree| tree.is_tree_around(path)),
        };
        allow.effect == Effect::Allow && reached.overlaps(region) && denied.iter().any(around)
    });
    if let Some((allow, _)) = broad {
        let message = format!(
            "`{}` cuts a path out of what `{}` allows: what is added beside it is open",
            rule.name, allow.name
        );
        let remedy = format!("turn it round: name in `{}` the paths that are meant", allow.name);
        report.add(Code::DenyByPath, Item::Rule(id).at("path"), message, remedy);
    }
}
