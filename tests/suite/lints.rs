//! What `check` finds in policies that load: `tests/lint/`, one file a finding, with what has it and what lies
//! beside it and has it not. Each stands beside `base.toml`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign::cli::mint::{Authority, CaSpec, LeafSpec, Validity};
use countersign::config::{self, Report};
use countersign::policy::Severity;
use countersign::policy::lint::Code;
use tempfile::TempDir;

use crate::configuration::{NOW, write_certificates};

/// One finding that a file is to be told: code, line, and a part of the message or the remedy.
type Expected = (String, usize, String);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lint")
}

/// The base with what it names, and without any case yet.
fn beside_the_base() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_certificates(folder.path());
    let day = Duration::from_secs(86_400);
    let validity = Validity { from: NOW.minus(day), to: NOW.plus(day) };
    let ended = Validity { from: NOW.minus(day), to: NOW.minus(Duration::from_secs(3600)) };
    let ca = |name: &str, validity| Authority::root(&CaSpec::new(name, validity)).unwrap();
    let partner = ca("partner CA", validity);
    let (first, second) = (ca("first CA", validity), ca("second CA", validity));
    let stray = LeafSpec::workload("spiffe://shop.example/ns/prod/sa/orders", validity);
    let stray = partner.issue(&stray).unwrap();
    for (name, text) in [
        ("partner-ca.pem", partner.pem()),
        ("partner.crl", partner.crl(&[], ended).unwrap()),
        ("ended-ca.pem", ca("ended CA", ended).pem()),
        ("two-cas.pem", first.pem() + &second.pem()),
        ("one.crl", first.crl(&[], validity).unwrap()),
        ("stray.pem", stray.chain),
        ("stray-key.pem", stray.key),
    ] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let entry = |keys: &str| format!("[[revoked]]\n{keys}\n");
    let list = [
        entry("issuer = \"corp\"\nsubject = \"alice\""),
        entry("issuer = \"elsewhere\"\nsubject = \"alice\""),
        entry("issuer = \"corp\"\njti = \"1\"\nuntil = 2020-01-01"),
    ];
    fs::write(folder.path().join("revoked.list"), format!("version = 1\n{}", list.concat())).unwrap();
    fs::copy(root().join("base.toml"), folder.path().join("base.toml")).unwrap();
    folder
}

/// What is found where the case stands beside the base.
fn report_of(folder: &TempDir, case: &str) -> Report {
    let path = folder.path().join("case.toml");
    fs::write(&path, format!("version = 1\n{case}")).unwrap();
    let loaded = config::load(&[folder.path().join("base.toml"), path], &|_| None, NOW);
    loaded.unwrap_or_else(|report| panic!("{}", report.to_text(false))).report
}

/// A line `#^ CODE TEXT` says what is found in the line above it.
fn expectations(case: &str) -> Vec<Expected> {
    let mut expected = Vec::new();
    let mut line = 0;
    // the first line of what is loaded is the version
    for (text, at) in case.lines().zip(2..) {
        match text.strip_prefix("#^ ") {
            Some(note) => {
                let (code, says) = note.split_once(' ').unwrap_or((note, ""));
                expected.push((code.to_owned(), line, says.to_owned()));
            }
            None => line = at,
        }
    }
    expected
}

fn cases() -> Vec<(String, String)> {
    let files = root().read_dir().unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<_> = files
        .map(|path| {
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap())
        })
        .filter(|(name, _)| name != "base")
        .collect();
    cases.sort();
    cases
}

#[test]
fn each_finding_is_told_at_its_place_and_nothing_beside_it() {
    let folder = beside_the_base();
    assert!(report_of(&folder, "").diagnostics().is_empty(), "{}", report_of(&folder, "").to_text(false));
    let (mut wrong, mut seen) = (String::new(), 0);
    for (name, text) in cases() {
        let report = report_of(&folder, &text);
        let mut missing = expectations(&text);
        assert!(missing.iter().any(|(code, ..)| *code == name), "{name} has no finding of its own");
        for found in report.diagnostics() {
            let line = report.sources.position(found.span).line;
            let in_case = report.sources.path(found.span.file).ends_with("case.toml");
            let fits = |(code, at, says): &Expected| {
                in_case
                    && (code.as_str(), *at) == (found.code, line)
                    && (found.message.contains(says) || found.remedy.contains(says))
            };
            match missing.iter().position(fits) {
                Some(at) => drop(missing.remove(at)),
                None => {
                    writeln!(wrong, "{name}: not expected: {} in line {line}: {}", found.code, found.message)
                        .unwrap()
                }
            }
            let code = Code::ALL.iter().find(|code| code.as_str() == found.code).unwrap();
            assert_eq!(found.severity, code.severity());
            assert!(
                !found.remedy.is_empty() && !found.remedy.ends_with('.') && !found.message.ends_with('.')
            );
            seen += 1;
        }
        missing.iter().for_each(|missing| writeln!(wrong, "{name}: missing {missing:?}").unwrap());
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    println!("{seen} findings in {} files", cases().len());
    assert_eq!(seen, 79);
}

/// A listener for who fetches our keys, and an issuer whose tokens stand beside assertions.
#[test]
fn what_a_chain_needs_is_not_found_to_be_idle() {
    let folder = beside_the_base();
    let assertion = "[assertion]\nissuer = \"https://orders.shop.example\"\n";
    let keys = "[listener.keys]\naddress = \"127.0.0.1:8444\"\nclient_certificate = \"none\"\n";
    let friends = "[issuer.friends]\nurl = \"https://auth.friend.example\"\naudience = \"https://orders.shop.example\"\n";
    let front = "[trusted_hop.front]\nkind = \"countersign\"\nspiffe_id = \"spiffe://shop.example/front\"\n\
                 [issuer.front]\npreset = \"countersign\"\nurl = \"https://front.shop.example\"\naudience = \"orders\"\n\
                 only = { subject_issuer = \"https://login.example.com\" }\n\
                 [service.front]\nspiffe_id = \"spiffe://shop.example/front\"\n\
                 client_id = { issuer = \"front\", client = \"storefront-web\" }\n\
                 [role.friend]\nany_of = { issuer = \"front\", scope = \"orders:read\" }\n\
                 [[allow]]\nname = \"through the front\"\nservice = \"front\"\nrole = \"friend\"\nmethod = \"GET\"\npath = \"/front\"\n";
    let found = |parts: &[&str]| {
        let report = report_of(&folder, &parts.concat());
        report.diagnostics().iter().map(|it| it.code).collect::<Vec<_>>()
    };
    assert_eq!(found(&[keys]), ["listener_closed"]);
    assert_eq!(found(&[keys, assertion]), [""; 0]);
    assert_eq!(found(&[friends]), ["name_unused"]);
    assert_eq!(found(&[friends, front]), [""; 0]);
}

/// Each finding has a file of its own, and a row in `docs/policy.md` with its severity.
#[test]
fn codes_cases_and_docs_agree() {
    let codes: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(codes.len(), Code::ALL.len());
    let cases = cases();
    assert_eq!(cases.iter().map(|(name, _)| name.as_str()).collect::<BTreeSet<_>>(), codes);
    let page = fs::read_to_string(root().join("../../docs/policy.md")).unwrap();
    let (_, table) = page.split_once("\n## Findings\n").unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.strip_suffix(" |")?.split(" | ").collect()))
        .collect();
    let told: Vec<_> = rows.iter().map(|row| (row[0].trim_end_matches('`'), row[1], row.len())).collect();
    let expected: Vec<_> = Code::ALL
        .iter()
        .map(|code| match code.severity() {
            Severity::Information => (code.as_str(), "information", 4),
            _ => (code.as_str(), "finding", 4),
        })
        .collect();
    assert_eq!(told, expected);
}

/// What a file says is meant is not told, if it names the place where it stands; what stands nowhere is an error.
#[test]
fn every_finding_can_be_allowed_by_its_code_and_place() {
    let folder = beside_the_base();
    let mut seen = 0;
    for (_, text) in cases() {
        let found = report_of(&folder, &text).diagnostics().len();
        for (code, ..) in expectations(&text) {
            let allowed = report_of(&folder, &format!("{text}\n[[lint.allow]]\ncode = \"{code}\"\n"));
            assert!(allowed.diagnostics().iter().all(|it| it.code != code), "{code}");
            assert!(allowed.diagnostics().len() < found);
            seen += 1;
        }
    }
    assert_eq!(seen, 79);
    let unused = cases().into_iter().find(|(name, _)| name == "name_unused").unwrap().1;
    let mut seen = 0;
    for (key, name) in [
        ("service", "batch"),
        ("role", "admin"),
        ("issuer", "friends"),
        ("upstream", "old"),
        ("trust_domain", "partner.example"),
        ("trusted_hop", "balancer"),
        ("trusted_hop", "alb"),
        ("route", "away"),
    ] {
        let lint = format!("\n[[lint.allow]]\ncode = \"name_unused\"\n{key} = \"{name}\"\n");
        let report = report_of(&folder, &(unused.clone() + &lint));
        assert_eq!(report.diagnostics().len(), 7, "{key}");
        assert!(!report.to_text(false).contains(&format!("`{name}` is never used")), "{key}");
        seen += 1;
    }
    assert_eq!(seen, 8);
}
