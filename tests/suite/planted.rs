//! Flaws planted in a sound policy, `tests/planted/`, and what finds each: a record of what can be hoped for from
//! which tool.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use countersign::clock::Clock;
use countersign::config;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::configuration::write_certificates_of;
use crate::world::signing::KEYS;

const SOUND: &str = include_str!("../planted/policy.toml");
const FLAWS: &str = include_str!("../planted/flaws.toml");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Flaws {
    flaw: Vec<Flaw>,
}

/// One edit of the policy, and what each tool says of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Flaw {
    name: String,
    /// Stands in the policy once.
    from: String,
    to: String,
    /// The codes, sorted.
    check: Vec<String>,
    test: Test,
}

/// What `test --require-coverage` makes of the policy, with the tests of the sound one.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Test {
    Passes,
    /// All goes as it should, and some condition is no longer seen to refuse.
    Uncovered,
    Fails,
    /// The policy cannot be loaded.
    Refuses,
}

impl Flaw {
    fn planted(&self) -> String {
        let (from, to) = (self.from.trim(), self.to.trim());
        assert_eq!(SOUND.matches(from).count(), 1, "{}: `{from}`", self.name);
        SOUND.replace(from, to)
    }
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_certificates_of(Clock::system().now(), folder.path());
    let keys = json!({ "keys": [KEYS[0].jwk()] });
    fs::write(folder.path().join("jwks.json"), keys.to_string()).unwrap();
    folder
}

/// The codes of all that `check` says, sorted.
fn checked(folder: &Path, policy: &str) -> Vec<&'static str> {
    let path = folder.join("policy.toml");
    fs::write(&path, policy).unwrap();
    let loaded = config::load(&[path], &|_| None, Clock::system().now());
    let report = loaded.as_ref().map_or_else(|report| report, |config| &config.report);
    let mut codes: Vec<_> = report.diagnostics().iter().map(|it| it.code).collect();
    codes.sort_unstable();
    codes
}

/// Tests the policy that [`checked`] left.
fn tested(folder: &Path) -> Test {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/planted/policy.test.toml");
    let output = Command::new(env!("CARGO_BIN_EXE_countersign"))
        .args(["test", "--require-coverage", "--format", "json", "-c"])
        .args([folder.join("policy.toml"), tests])
        .output()
        .unwrap();
    if output.status.code() == Some(78) {
        return Test::Refuses;
    }
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    match (answer["failed"].as_u64(), answer["coverage"]["complete"].as_bool()) {
        (Some(0), Some(true)) => Test::Passes,
        (Some(0), Some(false)) => Test::Uncovered,
        _ => Test::Fails,
    }
}

#[test]
fn what_finds_which_planted_flaw() {
    let folder = folder();
    assert_eq!((checked(folder.path(), SOUND), tested(folder.path())), (vec![], Test::Passes));
    let flaws: Flaws = toml::from_str(FLAWS).unwrap();
    let mut wrong = Vec::new();
    for flaw in &flaws.flaw {
        let found = (checked(folder.path(), &flaw.planted()), tested(folder.path()));
        if found.0 != flaw.check || found.1 != flaw.test {
            wrong.push(format!("{}: {found:?}", flaw.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let names: BTreeSet<_> = flaws.flaw.iter().map(|flaw| &flaw.name).collect();
    let count = |found: &dyn Fn(&Flaw) -> bool| flaws.flaw.iter().filter(|flaw| found(flaw)).count();
    let check = count(&|flaw| !flaw.check.is_empty());
    let test = count(&|flaw| flaw.test != Test::Passes);
    let either = count(&|flaw| !flaw.check.is_empty() || flaw.test != Test::Passes);
    println!(
        "of {} flaws check finds {check}, test --require-coverage {test}, the two {either}",
        names.len()
    );
    assert_eq!((names.len(), check, test, either), (25, 14, 23, 25));
}
