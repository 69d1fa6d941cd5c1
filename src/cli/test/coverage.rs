//! What of the rules the cases have shown: that each can hold, and that each of its conditions refuses by
//! itself. A condition that no case sees refuse alone could be taken out, and no case would fail.
//!
//! - A signature that is not there shows nothing about which one is wanted: it counts for `"any"` alone.
//! - Which route a request takes follows from its host and path, so `route` may fail together with them, and
//!   `match_claim` cannot hold where the path does not.

use crate::policy::condition::{Condition, RoleTerm, RouteTerm, ServiceTerm};
use crate::policy::reading::{ConditionReading, RuleReading};
use crate::policy::rule::{Effect, Rule};
use crate::policy::{Policy, Reading};
use crate::trial::Case;

/// By rule, in the order of the configuration.
pub struct Coverage {
    pub rules: Vec<Covered>,
}

pub struct Covered {
    pub rule: String,
    pub effect: Effect,
    /// A case fulfilled all that the rule asks for.
    pub held: bool,
    /// Those that can fail, by key, and whether a case failed by it alone.
    pub conditions: Vec<(&'static str, bool)>,
}

impl Coverage {
    pub fn of(policy: &Policy) -> Coverage {
        Coverage { rules: policy.parts().rules.iter().map(Covered::new).collect() }
    }

    /// Takes note of a case that the policy judged.
    pub fn see(&mut self, policy: &Policy, case: &Case) {
        let request = case.request();
        let (no_peer, no_caller) = (request.peer.verified().is_none(), request.caller.verified().is_none());
        for rule in Reading::new(policy, case.standing(), &request).rules() {
            let Some(covered) = self.rules.get_mut(rule.id.index()) else { continue };
            covered.held |= rule.holds();
            for key in failing_alone(&rule, no_peer, no_caller) {
                covered
                    .conditions
                    .iter_mut()
                    .filter(|(other, _)| *other == key)
                    .for_each(|(_, seen)| *seen = true);
            }
        }
    }

    /// Rules seen to hold, and rules.
    pub fn held(&self) -> (usize, usize) {
        (self.rules.iter().filter(|rule| rule.held).count(), self.rules.len())
    }

    /// Conditions seen to fail alone, and conditions.
    pub fn failed(&self) -> (usize, usize) {
        let conditions = || self.rules.iter().flat_map(|rule| &rule.conditions);
        (conditions().filter(|(_, seen)| *seen).count(), conditions().count())
    }

    pub fn is_complete(&self) -> bool {
        self.rules.iter().all(|rule| rule.held && rule.missing().next().is_none())
    }
}

impl Covered {
    fn new(rule: &Rule) -> Covered {
        let can_fail = |condition: &&Condition| match condition {
            Condition::Service(ServiceTerm::None) | Condition::Role(RoleTerm::None) => {
                rule.effect != Effect::Allow
            }
            Condition::Route(RouteTerm::Any) => false,
            _ => true,
        };
        let stated = rule.conditions.iter().filter(can_fail).map(Condition::key);
        let times = [(rule.has_start(), "not_before"), (rule.has_end(), "expires")];
        let times = times.into_iter().filter(|(given, _)| *given).map(|(_, key)| key);
        Covered {
            rule: rule.name.clone(),
            effect: rule.effect,
            held: false,
            conditions: stated.chain(times).map(|key| (key, false)).collect(),
        }
    }

    /// Conditions that no case has seen to fail alone.
    pub fn missing(&self) -> impl Iterator<Item = &'static str> {
        self.conditions.iter().filter(|(_, seen)| !seen).map(|(key, _)| *key)
    }
}

/// The conditions of which this shows that the rule needs them.
fn failing_alone(rule: &RuleReading<'_>, no_peer: bool, no_caller: bool) -> Vec<&'static str> {
    // That no route, or no method, leads anywhere follows from what is stated.
    let follows = |condition: &ConditionReading<'_>| {
        condition.is_unspoken() && matches!(condition.key(), "route" | "method")
    };
    let failing = || rule.conditions.iter().filter(|condition| !condition.holds && !follows(condition));
    let of_absent = |condition: &ConditionReading<'_>| match condition.stated() {
        Some(Condition::Service(_)) => no_peer,
        Some(stated) => no_caller && stated.reads_caller(),
        None => false,
    };
    let is_any = |condition: &ConditionReading<'_>| {
        matches!(
            condition.stated(),
            Some(Condition::Service(ServiceTerm::Any) | Condition::Role(RoleTerm::Any))
        )
    };
    let mut keys: Vec<_> = failing().filter(|it| !of_absent(it)).map(ConditionReading::key).collect();
    let absent: Vec<_> = failing().filter(|it| of_absent(it)).collect();
    if keys.contains(&"path") {
        keys.retain(|key| *key != "match_claim");
    }
    match (&keys[..], &absent[..]) {
        ([key], []) => vec![*key],
        ([], absent) if !(no_peer && no_caller) => {
            absent.iter().filter(|condition| is_any(condition)).map(|condition| condition.key()).collect()
        }
        (["route", "host"] | ["host", "route"], []) => vec!["route", "host"],
        (keys, []) if keys.contains(&"route") => {
            let leads = |key: &&str| matches!(*key, "route" | "host" | "path" | "grpc");
            if keys.iter().all(leads) { vec!["route"] } else { Vec::new() }
        }
        _ => Vec::new(),
    }
}
