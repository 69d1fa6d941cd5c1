//! Broken configurations are told all their errors at once, each at its place and with a remedy.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use countersign::cli::mint::{Authority, CaSpec, Validity};
use countersign::clock::Timestamp;
use countersign::config;
use serde_json::Value;
use tempfile::TempDir;

use crate::configuration::{NOW, write_certificates};

/// One error that a file is to be told.
#[derive(Debug)]
struct Expected {
    code: String,
    file: PathBuf,
    line: usize,
    column: usize,
    /// A part of the remedy or of the message.
    says: String,
}

/// A copy of `tests/config/` with certificates, sound and not, beside the files.
fn corpus() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config"), folder.path());
    write_certificates(folder.path());
    for (name, text) in [
        ("empty.pem", "\n"),
        ("garbage.pem", "no PEM at all\n"),
        ("broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ("broken-key.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        ("broken.crl", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"),
        ("garbage.json", "{\"keys\": [{\"kty\": \"oct\", \"k\": \"c2VjcmV0\"}]}\n"),
    ] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let long_ago = Validity { from: Timestamp::from_unix_seconds(0), to: Timestamp::from_unix_seconds(1) };
    let ended = Authority::root(&CaSpec::new("ended CA", long_ago)).unwrap();
    fs::write(folder.path().join("ended-ca.pem"), ended.pem()).unwrap();
    let other = Authority::root(&CaSpec::new(
        "other CA",
        Validity { to: Timestamp::from_unix_seconds(4_000_000_000), ..long_ago },
    ))
    .unwrap();
    fs::write(folder.path().join("other-ca.pem"), other.pem()).unwrap();
    fs::write(folder.path().join("ended.crl"), other.crl(&[], long_ago).unwrap()).unwrap();
    folder
}

fn copy(from: &Path, to: &Path) {
    for entry in from.read_dir().unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A line `#^ CODE COLUMN TEXT` says what is wrong with the line above it.
fn expectations(file: &Path) -> Vec<Expected> {
    let text = String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned();
    let mut expected = Vec::new();
    let mut line = 0;
    for (above, text) in text.lines().enumerate() {
        match text.strip_prefix("#^ ") {
            Some(note) => {
                let parts: Vec<_> = note.splitn(3, ' ').collect();
                let [code, column, says] = parts[..] else { panic!("{file:?}: {note}") };
                let (code, says) = (code.to_owned(), says.to_owned());
                let column = column.parse().unwrap();
                expected.push(Expected { code, file: file.to_owned(), line, column, says });
            }
            None => line = above + 1,
        }
    }
    expected
}

fn files(case: &Path) -> Vec<PathBuf> {
    if !case.is_dir() {
        return vec![case.to_owned()];
    }
    case.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn every_broken_configuration_is_told_all_its_errors_at_once() {
    let folder = corpus();
    let entries = folder.path().read_dir().unwrap().map(|entry| entry.unwrap().path());
    let is_case = |path: &PathBuf| path.is_dir() || path.extension().is_some_and(|it| it == "toml");
    let mut cases: Vec<_> = entries.filter(is_case).collect();
    cases.sort();
    let mut failures = String::new();
    for case in &cases {
        let report = config::load(std::slice::from_ref(case), &|_| None, NOW).unwrap_err();
        let mut missing: Vec<_> = files(case).iter().flat_map(|path| expectations(path)).collect();
        if case.ends_with("an_unreadable_file") {
            let file = case.join("20-broken.toml");
            missing.push(Expected {
                code: "unreadable".into(),
                file,
                line: 1,
                column: 1,
                says: "UTF-8".into(),
            });
        }
        let kinds: BTreeSet<_> =
            missing.iter().map(|error| (error.code.clone(), error.says.clone())).collect();
        assert!(kinds.len() >= 2, "{case:?} has one kind of error");
        for error in report.diagnostics() {
            let at = report.sources.position(error.span);
            let fits = |expected: &Expected| {
                let place = (expected.code.as_str(), &*expected.file, expected.line, expected.column);
                place == (error.code, report.sources.path(error.span.file), at.line, at.column)
                    && (error.remedy.contains(&expected.says) || error.message.contains(&expected.says))
            };
            match missing.iter().position(fits) {
                Some(found) => drop(missing.remove(found)),
                None => failures += &format!("\n{case:?}: not expected: {}\n", error.code),
            }
            assert!(!error.remedy.is_empty(), "{case:?}: {}", error.message);
        }
        if !missing.is_empty() || failures.contains(&format!("{case:?}")) {
            failures += &format!("\n{case:?}: missing {missing:?}\n{}", report.to_text(false));
        }
    }
    assert!(failures.is_empty(), "{failures}");
    cases.iter().for_each(|case| assert_check_refuses(case));
    assert!(cases.len() >= 60, "{}", cases.len());
}

/// The command says it too, and ends with the code for a configuration that cannot be loaded.
fn assert_check_refuses(case: &Path) {
    let output = Command::new(env!("CARGO_BIN_EXE_countersign"))
        .args([
            OsStr::new("check"),
            OsStr::new("--format"),
            OsStr::new("json"),
            OsStr::new("-c"),
            case.as_os_str(),
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78), "{case:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let diagnostics = answer["diagnostics"].as_array().unwrap();
    assert!(diagnostics.len() >= 2, "{case:?}");
    for diagnostic in diagnostics {
        let told = ["file", "message", "remedy"].iter().all(|key| diagnostic[key].as_str() != Some(""));
        assert!(told && diagnostic["line"].as_u64() >= Some(1) && diagnostic["column"].as_u64() >= Some(1));
    }
}
