//! Flaws planted in a sound policy, `tests/planted/`, and what finds each: a record of what can be hoped for from
//! which tool.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use countersign::config;
use serde::Deserialize;
use tempfile::TempDir;

use crate::configuration::{NOW, write_certificates};
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
    write_certificates(folder.path());
    let keys = serde_json::json!({ "keys": [KEYS[0].jwk()] });
    fs::write(folder.path().join("jwks.json"), keys.to_string()).unwrap();
    folder
}

/// The codes of all that `check` says, sorted.
fn checked(folder: &Path, policy: &str) -> Vec<&'static str> {
    let path = folder.join("policy.toml");
    fs::write(&path, policy).unwrap();
    let loaded = config::load(&[path], &|_| None, NOW);
    let report = loaded.as_ref().map_or_else(|report| report, |config| &config.report);
    let mut codes: Vec<_> = report.diagnostics().iter().map(|it| it.code).collect();
    codes.sort_unstable();
    codes
}

#[test]
fn what_check_finds_of_planted_flaws() {
    let folder = folder();
    assert!(checked(folder.path(), SOUND).is_empty(), "{:?}", checked(folder.path(), SOUND));
    let flaws: Flaws = toml::from_str(FLAWS).unwrap();
    let mut wrong = Vec::new();
    for flaw in &flaws.flaw {
        let codes = checked(folder.path(), &flaw.planted());
        if codes != flaw.check {
            wrong.push(format!("{}: {codes:?}", flaw.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let names: BTreeSet<_> = flaws.flaw.iter().map(|flaw| &flaw.name).collect();
    let found = flaws.flaw.iter().filter(|flaw| !flaw.check.is_empty()).count();
    println!("check finds {found} of {} flaws", names.len());
    assert_eq!((names.len(), found), (25, 14));
}
