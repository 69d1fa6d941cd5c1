//! Of a denial: the rule that came closest and what it lacked, in words.
//!
//! The record, the reasons and the challenge all rest on this one pick.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::condition::{Condition, RoleTerm};
use super::decision::Cause;
use super::judge::{self, Asked, Lack, Who};
use super::role::{Role, RoleEntries, RoleEntry};
use super::{Policy, RoleId, RuleId, words};

/// The nearest rule and what failed there; the same pick as the challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    pub rule: RuleId,
    /// One for each failing condition, in the order of the closed list of reasons; never empty.
    pub failures: Vec<Failure>,
}

/// One failing condition: what it wants against what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The condition's key in the configuration, as `role`.
    pub condition: &'static str,
    /// As `role order-reader: scope orders:read or group support`.
    pub wanted: String,
    /// As `the token has scope orders:write`.
    pub seen: String,
}

/// A rule and all that it lacks, never nothing.
#[derive(Debug)]
pub(super) struct Nearest<'p> {
    pub rule: RuleId,
    pub lacks: Vec<Lack<'p>>,
}

/// How many ways of completing a role are weighed at most.
const SCOPE_SETS_MAX: usize = 64;

/// The rules with what each lacks, nearest first: the fewest failing conditions, then the order in
/// which they are given, which is by name.
pub(super) fn nearest<'p>(
    policy: &'p Policy,
    rules: impl Iterator<Item = RuleId>,
    who: &Who<'_>,
    asked: &Asked<'_>,
) -> Vec<Nearest<'p>> {
    let with_lacks = |rule| Nearest { rule, lacks: judge::lacks(policy.rule(rule), who, asked) };
    let mut found: Vec<_> = rules.map(with_lacks).collect();
    found.sort_by_key(|nearest| nearest.lacks.len());
    found
}

impl Nearest<'_> {
    pub(super) fn causes(&self, policy: &Policy, who: &Who<'_>) -> Vec<Cause> {
        self.lacks.iter().map(|lack| cause(policy, lack, who)).collect()
    }

    /// Whether a better login is all that is missing.
    pub(super) fn is_step_up(&self) -> bool {
        let by_login =
            |lack: &Lack<'_>| matches!(lack, Lack::Stated(Condition::Acr(_) | Condition::MaxAge(_)));
        !self.lacks.is_empty() && self.lacks.iter().all(by_login)
    }
}

fn cause(policy: &Policy, lack: &Lack<'_>, who: &Who<'_>) -> Cause {
    let condition = match lack {
        Lack::NoCaller => return Cause::TokenMissing,
        Lack::ActorLeftOut | Lack::OnBehalfOfLeftOut => return Cause::ActorNotAllowed,
        Lack::Stated(condition) => condition,
    };
    match condition {
        Condition::Service(_) if who.peer.is_none() => Cause::PeerMissing,
        Condition::Service(_) if who.services.is_clear() => Cause::PeerUnknown,
        Condition::Service(_) => Cause::ServiceNotAllowed,
        Condition::Role(term) if missing_scopes(policy, term, who).is_some() => Cause::ScopeMissing,
        Condition::Role(_) | Condition::Issuer(_) => Cause::RoleMissing,
        Condition::Actor(_) | Condition::OnBehalfOf(_) => Cause::ActorNotAllowed,
        Condition::Claim(_) | Condition::MatchClaim(_) => Cause::ClaimMismatch,
        Condition::Acr(_) | Condition::MaxAge(_) => Cause::StepUpRequired,
        Condition::SenderConstrained => Cause::TokenNotSenderConstrained,
        Condition::Hop(_) | Condition::PeerIp(_) | Condition::ClientIp(_) => Cause::ServiceNotAllowed,
        Condition::Route(_)
        | Condition::Host(_)
        | Condition::Method(_)
        | Condition::Path(_)
        | Condition::Grpc(_) => Cause::NoRule,
    }
}

/// The near miss as the record tells it.
pub(super) fn in_words(policy: &Policy, nearest: &Nearest<'_>, who: &Who<'_>, asked: &Asked<'_>) -> NearMiss {
    let mut lacks = nearest.lacks.clone();
    lacks.sort_by_key(|lack| cause(policy, lack, who));
    let rule = policy.rule(nearest.rule);
    let failures = lacks.iter().map(|lack| words::failure(policy, rule, lack, who, asked)).collect();
    NearMiss { rule: nearest.rule, failures }
}

/// The smallest set of scopes, then the first by name, that would fulfil the term all by itself.
pub(super) fn missing_scopes(policy: &Policy, term: &RoleTerm, who: &Who<'_>) -> Option<Vec<Arc<str>>> {
    let role = |id: &RoleId| completions(&policy.parts().roles[id.index()], who);
    let ways = match term {
        RoleTerm::Any | RoleTerm::None => return None,
        RoleTerm::AnyOf(ids) => any_of(ids.iter().map(role)),
        RoleTerm::AllOf(ids) => all_of(ids.iter().map(role)),
    };
    let smallest = ways.into_iter().next()?;
    (!smallest.is_empty()).then(|| smallest.into_iter().collect())
}

/// Sets of scopes of which each would complete something, smallest first; none at all if scopes
/// cannot, the empty set if nothing is missing.
type Ways = Vec<BTreeSet<Arc<str>>>;

fn completions(role: &Role, who: &Who<'_>) -> Ways {
    let of_entry = |entry: &RoleEntry| -> Ways {
        match who.issuer.zip(who.caller) {
            Some((issuer, caller)) if entry.holds_but_for_scope(issuer, caller) => {
                let has_one = entry.scope.iter().any(|scope| caller.scopes.contains(scope));
                if entry.scope.is_empty() || has_one {
                    vec![BTreeSet::new()]
                } else {
                    entry.scope.iter().map(|scope| BTreeSet::from([Arc::clone(scope)])).collect()
                }
            }
            _ => Vec::new(),
        }
    };
    match &role.entries {
        RoleEntries::AnyOf(entries) => any_of(entries.iter().map(of_entry)),
        RoleEntries::AllOf(entries) => all_of(entries.iter().map(of_entry)),
    }
}

fn any_of(ways: impl Iterator<Item = Ways>) -> Ways {
    smallest_first(ways.flatten().collect())
}

fn all_of(mut ways: impl Iterator<Item = Ways>) -> Ways {
    let Some(first) = ways.next() else { return Vec::new() };
    ways.fold(smallest_first(first), |so_far, more| {
        let joined = so_far.iter().flat_map(|one| more.iter().map(move |other| one | other));
        smallest_first(joined.collect())
    })
}

fn smallest_first(mut ways: Ways) -> Ways {
    ways.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    ways.dedup();
    ways.truncate(SCOPE_SETS_MAX);
    ways
}
