//! The verdicts for people, for programs, and for what shows test reports.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::cases::{Case, Cases};
use super::coverage::{Coverage, Covered};
use super::verdict::{Failed, Outcome, Verdicts};
use crate::policy::PolicyHash;

/// All that there is to say.
pub struct Report<'a> {
    pub cases: &'a Cases,
    pub verdicts: &'a Verdicts,
    pub policy: PolicyHash,
    /// Incomplete coverage is a failure.
    pub coverage_required: bool,
}

impl Report<'_> {
    pub fn is_good(&self) -> bool {
        self.verdicts.counts().1 == 0 && (!self.coverage_required || self.verdicts.coverage.is_complete())
    }

    /// What failed, each with its reason, and the sums.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (case, failed) in self.failed() {
            let _ = writeln!(text, "FAILED  {} ({})", case.name, self.place(case));
            let _ = writeln!(text, "  asked     {}", case.request);
            let _ = writeln!(text, "  by        {}, for {}", case.peer, case.caller);
            for difference in &failed.differences {
                let _ = writeln!(text, "  {:<9} expected {}", difference.key, difference.expected);
                let _ = writeln!(text, "  {:<9} came     {}", "", difference.came);
            }
            let _ = writeln!(text, "  because   {}", failed.why);
            for rule in &failed.rules {
                let _ = writeln!(text, "            {rule}");
            }
            text.push('\n');
        }
        let Verdicts { coverage, took, .. } = self.verdicts;
        if self.coverage_required {
            uncovered(coverage).into_iter().for_each(|line| _ = writeln!(text, "{line}"));
        }
        let (passed, failed) = self.verdicts.counts();
        let _ = writeln!(text, "{passed} passed, {failed} failed in {} ms", took.as_millis());
        let ((held, rules), (failing, conditions)) = (coverage.held(), coverage.failed());
        let _ = writeln!(
            text,
            "{held} of {rules} rules seen to hold, {failing} of {conditions} conditions seen to refuse by themselves"
        );
        text
    }

    pub fn json(&self) -> Value {
        let case = |(case, outcome): (&Case, &Outcome)| {
            let position = self.cases.sources.position(case.span);
            let mut told = json!({
                "name": &*case.name,
                "file": self.cases.sources.path(case.file).display().to_string(),
                "line": position.line,
                "request": &*case.request,
                "service": &*case.peer,
                "caller": &*case.caller,
                "outcome": match outcome {
                    Outcome::Passed => "passed",
                    Outcome::Failed(_) => "failed",
                    Outcome::LeftOut => "left_out",
                },
            });
            if let Outcome::Failed(failed) = outcome {
                let difference = |it: &super::expect::Difference| json!({ "key": &*it.key, "expected": it.expected, "came": it.came });
                told["differences"] = failed.differences.iter().map(difference).collect();
                told["why"] = failed.why.as_str().into();
                told["rules"] = failed.rules.iter().map(String::as_str).collect();
            }
            told
        };
        let rule = |rule: &Covered| {
            json!({
                "rule": rule.rule,
                "effect": rule.effect.as_str(),
                "held": rule.held,
                "conditions": rule.conditions.iter().map(|(key, seen)| json!({ "key": key, "failed_alone": seen })).collect::<Value>(),
            })
        };
        let (passed, failed) = self.verdicts.counts();
        json!({
            "good": self.is_good(),
            "policy": self.policy.to_string(),
            "passed": passed,
            "failed": failed,
            "took_ms": u64::try_from(self.verdicts.took.as_millis()).unwrap_or(u64::MAX),
            "cases": self.outcomes().map(case).collect::<Value>(),
            "coverage": {
                "complete": self.verdicts.coverage.is_complete(),
                "required": self.coverage_required,
                "rules": self.verdicts.coverage.rules.iter().map(rule).collect::<Value>(),
            },
        })
    }

    /// As JUnit's XML reports, of which there is no standard but this is what tools read.
    pub fn junit(&self) -> String {
        let (passed, failed) = self.verdicts.counts();
        let missing = if self.coverage_required { uncovered(&self.verdicts.coverage) } else { Vec::new() };
        let (tests, failures) = (
            passed + failed + usize::from(self.coverage_required),
            failed + usize::from(!missing.is_empty()),
        );
        let seconds = self.verdicts.took.as_secs_f64();
        let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        let _ = writeln!(
            text,
            "<testsuites tests=\"{tests}\" failures=\"{failures}\" time=\"{seconds:.3}\">\n  <testsuite name=\"countersign\" tests=\"{tests}\" failures=\"{failures}\" time=\"{seconds:.3}\">"
        );
        for (case, outcome) in self.outcomes() {
            let name = format!("{}: {} by {} for {}", case.name, case.request, case.peer, case.caller);
            match outcome {
                Outcome::LeftOut => {}
                Outcome::Passed => {
                    let _ = writeln!(
                        text,
                        "    <testcase classname=\"{}\" name=\"{}\"/>",
                        self.file(case),
                        escaped(&name)
                    );
                }
                Outcome::Failed(failed) => {
                    let lines: Vec<_> = failed
                        .differences
                        .iter()
                        .map(|it| format!("{}: expected {}, came {}", it.key, it.expected, it.came))
                        .collect();
                    let (classname, name) = (self.file(case), escaped(&name));
                    let message = escaped(&lines.join("; "));
                    let place = escaped(&format!(
                        "{}\n{}\n{}",
                        self.place(case),
                        failed.why,
                        failed.rules.join("\n")
                    ));
                    let _ = writeln!(
                        text,
                        "    <testcase classname=\"{classname}\" name=\"{name}\">\n      <failure message=\"{message}\">{place}</failure>\n    </testcase>"
                    );
                }
            }
        }
        if self.coverage_required {
            text.push_str(
                "    <testcase classname=\"coverage\" name=\"every rule and condition is covered\"",
            );
            match missing.is_empty() {
                true => text.push_str("/>\n"),
                false => {
                    let _ = writeln!(
                        text,
                        ">\n      <failure message=\"not covered\">{}</failure>\n    </testcase>",
                        escaped(&missing.join("\n"))
                    );
                }
            }
        }
        text.push_str("  </testsuite>\n</testsuites>\n");
        text
    }

    fn outcomes(&self) -> impl Iterator<Item = (&Case, &Outcome)> {
        self.cases.cases.iter().zip(&self.verdicts.outcomes)
    }

    fn failed(&self) -> impl Iterator<Item = (&Case, &Failed)> {
        self.outcomes().filter_map(|(case, outcome)| match outcome {
            Outcome::Failed(failed) => Some((case, failed)),
            Outcome::Passed | Outcome::LeftOut => None,
        })
    }

    fn file(&self, case: &Case) -> String {
        escaped(&self.cases.sources.path(case.file).display().to_string())
    }

    /// As `orders.test.toml:12`.
    fn place(&self, case: &Case) -> String {
        let sources = &self.cases.sources;
        format!("{}:{}", sources.path(case.file).display(), sources.position(case.span).line)
    }
}

/// What no case has shown, a line for each rule.
fn uncovered(coverage: &Coverage) -> Vec<String> {
    let line = |covered: &Covered| {
        let missing: Vec<_> = covered.missing().collect();
        let mut lacks = Vec::new();
        if !covered.held {
            lacks.push("no case fulfils it".to_owned());
        }
        if !missing.is_empty() {
            lacks.push(format!("no case fails by this alone: {}", missing.join(", ")));
        }
        (!lacks.is_empty()).then(|| {
            format!("NOT COVERED  {} \"{}\": {}", covered.effect.as_str(), covered.rule, lacks.join("; "))
        })
    };
    coverage.rules.iter().filter_map(line).collect()
}

/// For XML 1.0: markup is escaped, and what no document can hold is replaced.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\n' | '\t' => safe.push(c),
            c if c.is_control() => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_ends_its_element() {
        assert_eq!(escaped("a \"b\" <c> & d\u{1}"), "a &quot;b&quot; &lt;c&gt; &amp; d\u{fffd}");
    }
}
