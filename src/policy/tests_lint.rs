//! What a finding says of a rule is so: whoever takes the rule away that never matters changes no verdict.

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

use super::fixture::*;
use super::properties::{request, rules, unchecked};
use super::rule::{Effect, Rule};
use super::*;

/// Findings about rules that change nothing.
const NEVER_MATTERS: [&str; 8] = [
    "allow_contradicted",
    "allow_denied",
    "allow_redundant",
    "deny_redundant",
    "guard_rail",
    "require_redundant",
    "rule_expired",
    "rule_in_shadow",
];

/// One of the rules without one of its conditions; or a deny of what it allows.
fn wider_twin(rules: &[Rule], which: Index, without: Index, denies: bool) -> Option<Rule> {
    let mut twin = (!rules.is_empty()).then(|| rules[which.index(rules.len())].clone())?;
    twin.name = "twin".to_owned();
    twin.conditions.remove(without.index(twin.conditions.len()));
    if denies && twin.effect == Effect::Allow {
        twin.effect = Effect::Deny;
    }
    Some(twin)
}

#[test]
fn a_rule_that_never_matters_can_be_taken_away() {
    let seen = RefCell::new(BTreeMap::<&str, usize>::new());
    let mut runner = TestRunner::new(Config { cases: 600, failure_persistence: None, ..Config::default() });
    let twin = (any::<Index>(), any::<Index>(), any::<bool>());
    let cases = (rules(), twin, prop::collection::vec(request(), 48));
    let outcome = runner.run(&cases, |(mut rules, (which, without, denies), requests)| {
        rules.extend(wider_twin(&rules, which, without, denies));
        let whole = unchecked(rules.clone());
        for finding in lint::findings(whole.parts(), NOW) {
            let Item::Rule(id) = finding.place.item else { continue };
            // what waives a credential that is demanded holds for those who have it
            if !NEVER_MATTERS.contains(&finding.code) || finding.message.contains("waives") {
                continue;
            }
            let mut fewer = rules.clone();
            fewer.remove(id.index());
            let fewer = unchecked(fewer);
            for (peer, caller, ask) in &requests {
                let permits = |policy| matches!(ask.judged(policy, peer, caller).verdict, Verdict::Permit(_));
                prop_assert_eq!(permits(&whole), permits(&fewer), "{:?} {:?}", &finding, ask);
            }
            *seen.borrow_mut().entry(finding.code).or_default() += 1;
        }
        Ok(())
    });
    outcome.unwrap();
    let seen = seen.into_inner();
    println!("{seen:?}");
    assert!(NEVER_MATTERS.iter().all(|code| seen.get(code).is_some_and(|count| *count >= 10)), "{seen:?}");
}
