//! Flaws planted in a sound policy, `tests/planted/`, and what finds each: a record of what can be hoped for from
//! which tool.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use countersign::cli::diff::compare;
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
    /// What the flaw does, of `diff` between the sound policy and this one.
    diff: BTreeSet<String>,
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

    /// Of the table in docs/tools.md.
    fn row(&self) -> String {
        let codes: BTreeSet<_> = self.check.iter().map(|code| format!("`{code}`")).collect();
        let listed =
            |words: &BTreeSet<String>| words.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let test = match self.test {
            Test::Passes => "",
            Test::Uncovered => "not covered",
            Test::Fails => "fails",
            Test::Refuses => "refuses",
        };
        let name = self.name.replace("**", "`**`").replace("* was", "`*` was");
        let cells = [name, listed(&codes), test.to_owned(), listed(&self.diff)];
        let cells = cells.map(|cell| if cell.is_empty() { "-".to_owned() } else { cell });
        format!("| {} |\n", cells.join(" | "))
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

/// What `diff` says that the policy which [`checked`] left does, against the sound one.
fn compared(folder: &Path) -> BTreeSet<String> {
    let sound = folder.join("sound.toml");
    fs::write(&sound, SOUND).unwrap();
    let now = Clock::system().now();
    let load = |path: PathBuf| config::load(&[path], &|_| None, now);
    let Ok(planted) = load(folder.join("policy.toml")) else { return ["refuses".to_owned()].into() };
    let diff = compare(load(sound).unwrap(), planted, now).unwrap();
    let settings = diff.settings.iter().map(|it| it.effect.to_owned());
    diff.differences.iter().map(|it| it.change.to_owned()).chain(settings).collect()
}

#[test]
fn what_finds_which_planted_flaw() {
    let folder = folder();
    let found =
        |policy: &str| (checked(folder.path(), policy), tested(folder.path()), compared(folder.path()));
    assert_eq!(found(SOUND), (vec![], Test::Passes, BTreeSet::new()));
    let flaws: Flaws = toml::from_str(FLAWS).unwrap();
    let mut wrong = Vec::new();
    for flaw in &flaws.flaw {
        let found = found(&flaw.planted());
        if found.0 != flaw.check || found.1 != flaw.test || found.2 != flaw.diff {
            wrong.push(format!("{}: {found:?}", flaw.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let names: BTreeSet<_> = flaws.flaw.iter().map(|flaw| &flaw.name).collect();
    let count = |found: &dyn Fn(&Flaw) -> bool| flaws.flaw.iter().filter(|flaw| found(flaw)).count();
    let check = count(&|flaw| !flaw.check.is_empty());
    let test = count(&|flaw| flaw.test != Test::Passes);
    let diff = count(&|flaw| !flaw.diff.is_empty());
    let all = count(&|flaw| !flaw.check.is_empty() && flaw.test != Test::Passes && !flaw.diff.is_empty());
    let none = count(&|flaw| flaw.check.is_empty() && flaw.test == Test::Passes && flaw.diff.is_empty());
    let table: String = flaws.flaw.iter().map(Flaw::row).collect();
    println!("{table}");
    assert_eq!((names.len(), check, test, diff, all, none), (25, 14, 23, 22, 9, 0));
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/tools.md")).unwrap();
    assert!(
        page.contains(&format!("| flaw | `check` | `test` | `diff` |\n| --- | --- | --- | --- |\n{table}\n"))
    );
}
