//! What came of each case.

use std::time::Duration;

use super::cases::Case;
use super::coverage::Coverage;
use super::expect::Difference;
use crate::audit::story;
use crate::clock::Stopwatch;
use crate::trial::{Answer, Trial};

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
            return Outcome::Failed(Failed { differences: Vec::new(), why: unaskable.to_string() });
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
    Outcome::Failed(Failed { differences, why })
}
