//! Findings about names that another Countersign vouches for. It passes on what several issuers call their subjects and
//! clients, each for itself; read as its own names, two of them may be one.

use super::{Code, Item, Place, Report};
use crate::identity::SUBJECT_ISSUER;
use crate::policy::claim::ClaimTest;
use crate::policy::compiled::PolicyParts;
use crate::policy::condition::Condition;
use crate::policy::pattern::Glob;
use crate::policy::role::{Asserts, CarriedClients, IssuerFacts, RoleEntries, RoleEntry};
use crate::policy::rule::Rule;
use crate::policy::{IssuerId, RoleId, RuleId, ServiceId, reach};

pub(super) fn look(parts: &PolicyParts, report: &mut Report) {
    let mixing = parts.issuers.iter().zip((0..).map(IssuerId));
    for (issuer, id) in mixing.filter(|(issuer, _)| issuer.asserts == Some(Asserts::Anybodys)) {
        for (what, place) in readers(issuer, id, parts) {
            let name = &issuer.name;
            let message = format!(
                "{what} reads a name that `{name}` vouches for, whoever gave it: two issuers behind it may use one name"
            );
            let remedy = format!("add `only = {{ {SUBJECT_ISSUER} = \"https://…\" }}` to `[issuer.{name}]`");
            report.add(Code::SubjectsMixed, place, message, remedy);
        }
    }
}

/// What reads names of this issuer's callers, without asking who gave them.
fn readers(issuer: &IssuerFacts, id: IssuerId, parts: &PolicyParts) -> Vec<(String, Place)> {
    let mut found = Vec::new();
    for (role, at) in parts.roles.iter().zip((0..).map(RoleId)) {
        let key = match &role.entries {
            RoleEntries::AnyOf(_) => "any_of",
            RoleEntries::AllOf(_) => "all_of",
        };
        if role.entries().iter().any(|entry| entry.issuer == id && mixes(entry, issuer)) {
            found.push((format!("role `{}`", role.name), Item::Role(at).at(key)));
        }
    }
    for (service, at) in parts.services.iter().zip((0..).map(ServiceId)) {
        if let CarriedClients::Listed(clients) = &service.clients
            && clients.iter().any(|carried| carried.issuer == id && !carried.client.is_everything())
        {
            found.push((format!("service `{}`", service.name), Item::Service(at).at("client_id")));
        }
    }
    for (rule, at) in parts.rules.iter().zip((0..).map(RuleId)) {
        if let Some(key) = read_by(rule, issuer)
            && reach::issuers(rule, parts).contains(id.index())
        {
            found.push((format!("rule `{}`", rule.name), Item::Rule(at).at(key)));
        }
    }
    found
}

fn mixes(entry: &RoleEntry, issuer: &IssuerFacts) -> bool {
    let tells = |globs: &[Glob]| globs.iter().any(|glob| !glob.is_everything());
    let names = tells(&entry.subject) || tells(&entry.client) || tells(&entry.actor_subject);
    (names || entry.claim.iter().any(|test| is_name(test.claim.0.first(), issuer)))
        && !is_told_apart(&entry.claim)
}

/// The key by which a rule reads one.
fn read_by(rule: &Rule, issuer: &IssuerFacts) -> Option<&'static str> {
    let is_apart =
        |condition: &Condition| matches!(condition, Condition::Claim(tests) if is_told_apart(tests));
    let reads = |condition: &&Condition| match condition {
        Condition::Claim(tests) => tests.iter().any(|test| is_name(test.claim.0.first(), issuer)),
        Condition::MatchClaim(tests) => tests.iter().any(|test| is_name(test.claim.0.first(), issuer)),
        _ => false,
    };
    let found = rule.conditions.iter().find(reads)?;
    (!rule.conditions.iter().any(is_apart)).then(|| found.key())
}

fn is_name(claim: Option<&std::sync::Arc<str>>, issuer: &IssuerFacts) -> bool {
    claim.is_some() && (claim == issuer.subject.as_ref() || claim == issuer.client.as_ref())
}

fn is_told_apart(tests: &[ClaimTest]) -> bool {
    tests.iter().any(|test| matches!(&test.claim.0[..], [claim] if **claim == *SUBJECT_ISSUER))
}
