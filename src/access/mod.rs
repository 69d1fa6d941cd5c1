//! A policy read backwards: who can do one thing ([`who_can`]), and what everybody can do ([`matrix`]).
//!
//! Nothing is judged here. What a policy permits is what it newly allows where nothing was allowed before, so
//! [`Comparison`] finds it: rules are written out into conjunctions, each becomes the least request that fulfils
//! it, and [`decide`](crate::policy::decide) says what becomes of that. Nobody comes in by a rule of whose least
//! requests none does: what others have beyond them can only make more denies hold, not fewer.
//!
//! An allow lets a request in here if the request is permitted and the allow holds of it: where several do, the
//! record names the first of them.

mod matrix;
mod row;
#[cfg(test)]
mod tests;
mod who_can;

pub use matrix::{Cell, Column, Grant, Matrix, Only};
pub use row::{Actor, Bearer, Carrier, Row};
pub use who_can::{Allow, Held, Shut, Way, WhoCan, Whom, Why};

use crate::clock::Timestamp;
use crate::identity::ActorKind;
use crate::policy::cells::{Kinds, Side};
use crate::policy::condition::Kind;
use crate::policy::difference::{Alone, Approach, Comparison};
use crate::policy::rule::Rule;
use crate::policy::{Action, Condition, Policy};
use crate::token::{IssuerSettings, Mint, TokenLimits, vouched};

/// The side of two-sided things that speaks of the policy that is asked.
pub const SIDE: Side = Alone::SIDE;

/// A policy, and the issuers that it is asked about.
pub struct Access<'a> {
    policy: &'a Policy,
    comparison: Comparison<'a>,
    mint: Mint<'a>,
    now: Timestamp,
}

impl<'a> Access<'a> {
    /// `nothing` is the same policy [without anything that permits](Policy::permitting_nothing); `approach`
    /// says how requests come to it.
    pub fn new(
        policy: &'a Policy,
        nothing: &'a Policy,
        issuers: &'a [IssuerSettings],
        limits: &'a TokenLimits,
        approach: &'a Approach,
        now: Timestamp,
    ) -> Access<'a> {
        let both = [issuers, issuers];
        let comparison = Comparison::new([nothing, policy], &vouched(both), [approach; 2], now);
        let mut kinds = comparison.kinds();
        // whom no rule tells apart is still told of one by one
        kinds[SIDE].extend(ActorKind::ALL.map(|kind| Kinds::of(&[kind])));
        let mint = Mint::new(both, [limits, limits], comparison.globs(), comparison.places(), &kinds, now);
        Access { policy, comparison, mint, now }
    }

    pub fn policy(&self) -> &'a Policy {
        self.policy
    }

    fn ask<T>(&self, then: impl FnOnce(&Alone<'_>) -> T) -> T {
        self.mint.realm(|realm| then(&self.comparison.alone(realm, self.mint.fresh())))
    }
}

/// What a rule wants of a request beyond its route and method, and who carries it for whom: for a table that
/// has those as rows and columns.
pub fn conditions(policy: &Policy, rule: &Rule) -> Vec<String> {
    words(policy, rule, |condition| {
        condition.key() != "route" && condition.key() != "method" && is_further(condition)
    })
}

/// All that a rule says.
pub fn says(policy: &Policy, rule: &Rule) -> Vec<String> {
    words(policy, rule, |_| true)
}

/// What a rule wants of whoever asks for something that it reaches, and of how.
pub fn demands(policy: &Policy, rule: &Rule) -> Vec<String> {
    words(policy, rule, |condition| condition.kind() != Kind::Action)
}

/// What an allow that reaches this action wants beyond who carries it for whom.
pub fn further_demands(policy: &Policy, rule: &Rule, action: &Action<'_>) -> Vec<String> {
    let further = words(policy, rule, |condition| {
        condition.kind() != Kind::Action && condition.key() != "match_claim" && is_further(condition)
    });
    let mut found = Vec::new();
    let path: Vec<_> = action.path.segments().collect();
    for condition in &rule.conditions {
        let Condition::MatchClaim(tests) = condition else { continue };
        let patterns = rule.conditions.iter().filter_map(|condition| match condition {
            Condition::Path(patterns) => Some(patterns),
            _ => None,
        });
        let Some(pattern) = patterns.flatten().find(|pattern| pattern.matches(&path)) else { continue };
        found.extend(tests.iter().filter_map(|test| {
            let segment = path.get(pattern.position(&test.segment)?)?;
            Some(format!("claim {} is {segment}", test.claim))
        }));
    }
    found.extend(further);
    found
}

fn is_further(condition: &Condition) -> bool {
    !["service", "role", "actor", "on_behalf_of"].contains(&condition.key())
}

fn words(policy: &Policy, rule: &Rule, is_told: impl Fn(&Condition) -> bool) -> Vec<String> {
    let told = rule.conditions.iter().filter(|condition| is_told(condition));
    let mut found: Vec<String> = told.map(|condition| policy.wanted(rule, condition)).collect();
    let times = [
        (rule.not_before != Timestamp::MIN, "from", rule.not_before),
        (rule.expires != Timestamp::MAX, "until", rule.expires),
    ];
    found.extend(times.iter().filter(|(stated, ..)| *stated).map(|(_, word, at)| format!("{word} {at}")));
    found
}
