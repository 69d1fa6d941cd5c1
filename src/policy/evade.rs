//! Denies that somebody could evade by presenting less: `deny_evadable`.
//!
//! Callers choose how little to ask for, so a deny may read only what every token must have; and it
//! may not read a credential where an allow takes requests without that credential.

use super::claim::ClaimPath;
use super::compiled::PolicyParts;
use super::condition::{Condition, RoleTerm};
use super::lint::{Finding, Item, Report};
use super::reach::{self, Region};
use super::role::{IssuerFacts, Role, RoleEntry};
use super::rule::{Effect, Rule};
use super::{IssuerId, RuleId};
use crate::identity::ActorKind;

const CODE: &str = "deny_evadable";

/// What a deny reads that a token can lack: for the message, and the key that makes it read it.
struct Evasion {
    key: &'static str,
    reads: String,
    remedy: String,
}

pub(super) fn errors(parts: &PolicyParts, regions: &[Region<'_>]) -> Vec<Finding> {
    let mut report = Report::default();
    for (at, (rule, id)) in parts.rules.iter().zip((0..).map(RuleId)).enumerate() {
        if rule.effect != Effect::Deny {
            continue;
        }
        for evasion in by_asking_for_less(rule, parts) {
            let message = format!("`{}` could be evaded by a token without {}", rule.name, evasion.reads);
            report.error(Item::Rule(id), Some(evasion.key), CODE, message, evasion.remedy);
        }
        let overlapping = |(other, _): &(&Rule, &Region<'_>)| {
            other.effect == Effect::Allow && reach::can_share_a_peer(rule, other, parts)
        };
        for (allow, region) in parts.rules.iter().zip(regions).filter(overlapping) {
            for (credential, key) in leaves_away(rule, allow) {
                if !regions[at].overlaps(region) {
                    continue;
                }
                let message = format!(
                    "`{}` could be evaded by leaving the {credential} away, because `{}` takes requests without one",
                    rule.name, allow.name
                );
                let remedy = format!(
                    "give `{}` a {key}, or narrow one of the two (`route`, `host`, `path`, `method`) until no \
                     request is in both",
                    allow.name
                );
                report.error(Item::Rule(id), Some(key), CODE, message, remedy);
            }
        }
    }
    report.found
}

/// The credentials that the deny reads and the allow waives.
fn leaves_away(deny: &Rule, allow: &Rule) -> impl Iterator<Item = (&'static str, &'static str)> {
    let token = (allow.waives_caller() && reach::reads_caller(deny)).then_some(("token", "role"));
    let certificate = (allow.waives_peer() && reach::reads_peer(deny)).then_some(("certificate", "service"));
    token.into_iter().chain(certificate)
}

fn by_asking_for_less(rule: &Rule, parts: &PolicyParts) -> Vec<Evasion> {
    let mut found = Vec::new();
    let reached: Vec<&IssuerFacts> =
        reach::issuers(rule, parts).ones().map(|at| &parts.issuers[at]).collect();
    for condition in &rule.conditions {
        let key = condition.key();
        let mut reads = |claim: &str| {
            for issuer in &reached {
                found.extend(optional(key, issuer, claim));
            }
        };
        match condition {
            Condition::Role(RoleTerm::AnyOf(roles) | RoleTerm::AllOf(roles)) => {
                for role in roles.iter().map(|id| &parts.roles[id.index()]) {
                    for entry in role.entries() {
                        through_role(role, entry, parts, &mut found);
                    }
                }
            }
            Condition::Claim(tests) => {
                tests.iter().filter_map(|test| test.claim.0.first()).for_each(|c| reads(c))
            }
            Condition::MatchClaim(tests) => {
                tests.iter().filter_map(|test| test.claim.0.first()).for_each(|c| reads(c));
                found.extend(tests.iter().filter_map(|test| within(key, &test.claim)));
            }
            Condition::Acr(_) => reads("acr"),
            Condition::MaxAge(_) => reads("auth_time"),
            // An assertion says of the token that it rests on.
            Condition::SenderConstrained => {
                for issuer in &reached {
                    let claim = if issuer.asserts.is_some() { "bound" } else { "cnf" };
                    found.extend(optional(key, issuer, claim));
                }
            }
            // a token that lacks what tells its kind is `unknown`, which these lists name
            Condition::Actor(kinds)
                if kinds.iter().any(|k| matches!(k, ActorKind::Agent | ActorKind::Unknown)) => {}
            Condition::OnBehalfOf(kinds) if kinds.contains(&ActorKind::Unknown) => {}
            Condition::Actor(_) | Condition::OnBehalfOf(_) => {
                for issuer in &reached {
                    issuer.actor_claims.iter().for_each(|claim| found.extend(optional(key, issuer, claim)));
                }
            }
            Condition::Service(_)
            | Condition::Issuer(_)
            | Condition::Role(RoleTerm::Any | RoleTerm::None)
            | Condition::Route(_)
            | Condition::Host(_)
            | Condition::Method(_)
            | Condition::Path(_)
            | Condition::Grpc(_)
            | Condition::Hop(_)
            | Condition::PeerIp(_)
            | Condition::ClientIp(_) => {}
        }
    }
    found
}

fn through_role(role: &Role, entry: &RoleEntry, parts: &PolicyParts, found: &mut Vec<Evasion>) {
    let issuer = issuer(parts, entry.issuer);
    if !entry.scope.is_empty() {
        found.push(Evasion {
            key: "role",
            reads: format!("the scopes of role `{}`", role.name),
            remedy:
                "turn it round: give the allow a role that asks for the scope that may; a deny never reads \
                     scopes"
                    .to_owned(),
        });
    }
    let mapped = [
        (!entry.subject.is_empty(), &issuer.subject),
        (!entry.client.is_empty(), &issuer.client),
        (!entry.group.is_empty(), &issuer.groups),
        (!entry.role.is_empty(), &issuer.roles),
    ];
    let mapped = mapped.into_iter().filter(|(read, _)| *read).filter_map(|(_, claim)| claim.as_deref());
    let claims = entry.claim.iter().filter_map(|test| test.claim.0.first()).map(|claim| &**claim);
    let act = (!entry.actor_subject.is_empty()).then_some("act");
    found.extend(mapped.chain(claims).chain(act).filter_map(|claim| optional("role", issuer, claim)));
}

/// The evasion that a claim is, unless every token of the issuer has it.
fn optional(key: &'static str, issuer: &IssuerFacts, claim: &str) -> Option<Evasion> {
    let required = issuer.requires.iter().any(|name| **name == *claim);
    (!required).then(|| Evasion {
        key,
        reads: format!("the claim `{claim}`"),
        remedy: format!(
            "add `{claim}` to the `requires` of `[issuer.{}]`, or deny by what every token has",
            issuer.name
        ),
    })
}

/// The evasion that a member of a claim is: `requires` speaks of whole claims alone.
fn within(key: &'static str, claim: &ClaimPath) -> Option<Evasion> {
    (claim.0.len() > 1).then(|| Evasion {
        key,
        reads: format!("the member `{claim}` of a claim"),
        remedy: "deny by a claim that stands at the top of every token and in its issuer's `requires`"
            .to_owned(),
    })
}

fn issuer(parts: &PolicyParts, id: IssuerId) -> &IssuerFacts {
    &parts.issuers[id.index()]
}
