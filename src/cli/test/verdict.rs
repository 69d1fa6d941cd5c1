//! What came of each case.

use std::time::Duration;

use super::cases::Case;
use super::coverage::Coverage;
use super::expect::Difference;
use crate::audit::story;
use crate::clock::Stopwatch;
use crate::policy::reading::{RuleReading, Words};
use crate::policy::{Policy, Reading};
use crate::trial::{Answer, Case as Judged, Trial};

/// All cases, judged.
pub struct Verdicts {
    /// In the order of the cases.
    pub outcomes: Vec<Outcome>,
    pub coverage: Coverage,
    pub took: Duration,
}

pub enum Outcome {
    Passed,
    Failed(Failed),
    /// Of another name than was asked for.
    LeftOut,
}

pub struct Failed {
    pub differences: Vec<Difference>,
    /// In one sentence, as the record has it; else why there is no answer at all.
    pub why: String,
    /// What the rules that speak of the action make of it.
    pub rules: Vec<String>,
}

impl Verdicts {
    /// Asks all cases whose name has `filter` in it.
    pub fn of(cases: &[Case], trial: &mut Trial, filter: Option<&str>) -> Verdicts {
        let watch = Stopwatch::start();
        let mut coverage = Coverage::of(trial.policy());
        let outcomes = cases
            .iter()
            .map(|case| match filter.is_none_or(|part| case.name.contains(part)) {
                true => outcome(case, trial, &mut coverage),
                false => Outcome::LeftOut,
            })
            .collect();
        Verdicts { outcomes, coverage, took: watch.elapsed() }
    }

    /// Passed and failed.
    pub fn counts(&self) -> (usize, usize) {
        let count = |of: fn(&Outcome) -> bool| self.outcomes.iter().filter(|outcome| of(outcome)).count();
        (
            count(|outcome| matches!(outcome, Outcome::Passed)),
            count(|outcome| matches!(outcome, Outcome::Failed(_))),
        )
    }
}

fn outcome(case: &Case, trial: &mut Trial, coverage: &mut Coverage) -> Outcome {
    let answer = match trial.ask(&case.question) {
        Ok(answer) => answer,
        Err(unaskable) => {
            let why = unaskable.to_string();
            return Outcome::Failed(Failed { differences: Vec::new(), why, rules: Vec::new() });
        }
    };
    let policy = trial.policy();
    if let Some(judged) = answer.case() {
        coverage.see(policy, judged);
    }
    let differences: Vec<_> =
        case.expect.iter().filter_map(|expected| expected.differs(&answer, policy)).collect();
    if differences.is_empty() {
        return Outcome::Passed;
    }
    let why = match &answer {
        Answer::Handshake(refused) => story::handshake(refused),
        Answer::Http(answered) => story::tell(&answered.record),
    };
    let rules = answer.case().map(|judged| read_out(policy, judged)).unwrap_or_default();
    Outcome::Failed(Failed { differences, why, rules })
}

/// Every rule that reaches the request: that it holds, or what it lacks.
fn read_out(policy: &Policy, case: &Judged) -> Vec<String> {
    let request = case.request();
    let reading = Reading::new(policy, case.standing(), &request);
    let tell = |rule: RuleReading<'_>| {
        let lacks: Vec<_> = rule
            .conditions
            .iter()
            .filter(|condition| !condition.holds)
            .map(|condition| {
                let Words { wanted, seen } = reading.words(&rule, condition);
                format!("wants {wanted}; {seen}")
            })
            .collect();
        let (effect, name) = (rule.rule.effect.as_str(), &rule.rule.name);
        match lacks.is_empty() {
            true => format!("{effect} \"{name}\" holds"),
            false => format!("{effect} \"{name}\" {}", lacks.join(", and ")),
        }
    };
    reading.rules().filter(RuleReading::reaches).map(tell).collect()
}
