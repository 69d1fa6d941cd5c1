//! `countersign test`, as whoever writes a policy uses it: the sample's own tests, what they find when the sample is
//! spoiled, what is said of tests that make no sense, and every way of answering.

mod coverage;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::examples::{beside, countersign, shipped};

const TESTS: &str = "sidecar.test.toml";

/// The sample with its tests.
fn sample() -> TempDir {
    let folder = beside("sidecar.toml");
    fs::write(folder.path().join(TESTS), shipped(TESTS)).unwrap();
    folder
}

/// Exit code, standard output and error of `test -c sidecar.toml …`.
fn test(folder: &TempDir, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_countersign"))
        .args(["test", "-c", "sidecar.toml"])
        .args(arguments)
        .current_dir(folder.path())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn json(folder: &TempDir, arguments: &[&str]) -> (Option<i32>, Value) {
    let (code, answer, errors) = test(folder, &[arguments, &["--format", "json"]].concat());
    (code, serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}{errors}")))
}

#[test]
fn the_sample_s_tests_pass_and_cover_all_of_it() {
    let folder = sample();
    let (code, answer) = json(&folder, &["--require-coverage", TESTS]);
    assert_eq!((code, &answer["failed"]), (Some(0), &0.into()), "{answer:#}");
    assert_eq!((&answer["passed"], &answer["coverage"]["complete"]), (&42.into(), &true.into()));
    // A folder is its `*.test.toml`, and for `-c` all but these.
    let (code, answer, errors) = test(&folder, &["."]);
    assert!(code == Some(0) && answer.starts_with("42 passed, 0 failed"), "{answer}{errors}");
    assert_eq!(countersign(&["check", "-c", "."], &folder).0, Some(0));
}

/// What is taken out of the sample, or widened, and how often it stands there: one condition after the other.
const SPOILED: [(&str, &str, usize); 16] = [
    ("match_claim = { customer = \"sub\" }", "", 2),
    ("match_claim  = { customer = \"sub\" }", "", 1),
    ("actor       = \"human\"", "actor = [\"human\", \"service\", \"unknown\"]", 2),
    ("on_behalf_of = \"human\"", "on_behalf_of = [\"human\", \"service\", \"unknown\"]", 1),
    ("role        = \"order-reader\"", "role = \"any\"", 2),
    ("role         = \"order-reader\"", "role = \"any\"", 1),
    ("service     = \"storefront\"", "service = [\"storefront\", \"assistant\"]", 2),
    ("method      = \"GET\"", "method = [\"GET\", \"DELETE\"]", 1),
    ("method      = \"POST\"", "method = [\"POST\", \"PUT\"]", 1),
    ("/customers/{customer}/orders/*/refund", "/customers/{customer}/orders/*/*", 1),
    ("acr     = \"mfa\"", "acr = [\"mfa\", \"pwd\"]", 1),
    ("max_age = \"15m\"", "max_age = \"30m\"", 1),
    ("\"/customers/*/orders/*/refund\"", "\"/customers/*/orders/*/refunds\"", 1),
    ("\"PATCH\", ", "", 1),
    ("{ issuer = \"corp\", group = \"support\" },", "", 1),
    ("client_id = [\"assistant-*\"]", "client_id = \"any\"", 1),
];

#[test]
fn whatever_is_taken_out_of_the_sample_is_found_by_its_tests() {
    let folder = sample();
    let (path, whole) = (folder.path().join("sidecar.toml"), shipped("sidecar.toml"));
    let mut seen = 0;
    for (part, instead, times) in SPOILED {
        let places: Vec<usize> = whole.match_indices(part).map(|(at, _)| at).collect();
        assert_eq!(places.len(), times, "{part}");
        for at in places {
            fs::write(&path, [&whole[..at], instead, &whole[at + part.len()..]].concat()).unwrap();
            let (code, answer, errors) = test(&folder, &[TESTS]);
            assert!(code == Some(1) && answer.contains("FAILED"), "{part}: {code:?}\n{answer}{errors}");
            seen += 1;
        }
    }
    assert_eq!(seen, 20);
}

#[test]
fn a_failure_says_what_was_expected_what_came_and_why() {
    let folder = sample();
    let wrong = "[[test]]\nname = \"bob reads alice's\"\nservice = \"storefront\"\n\
                 caller = { issuer = \"corp\", sub = \"bob\", uid = \"1\", cid = \"storefront-web\", scp = [\"orders:read\"] }\n\
                 request = \"GET https://orders.shop.example/customers/alice/orders/7\"\n\
                 expect = { verdict = \"allow\", status = 200 }\n";
    fs::write(folder.path().join("wrong.test.toml"), wrong).unwrap();
    let (code, answer, _) = test(&folder, &["wrong.test.toml"]);
    assert_eq!(code, Some(1));
    let expected = "\
FAILED  bob reads alice's (wrong.test.toml:1)
  asked     GET https://orders.shop.example/customers/alice/orders/7
  by        storefront, for bob
  verdict   expected allow
            came     deny
  status    expected 200
            came     403
  because   storefront, for bob@corp (human), asked to GET /customers/alice/orders/7 on orders: denied, because no \
rule allows it; the nearest needs {customer} equal to claim sub, and {customer} is alice and sub is bob
            allow \"assistants read orders for their person\" wants service assistant; the service is storefront, and \
wants actor agent; the actor is human, and wants {customer} equal to claim sub; {customer} is alice and sub is bob
            allow \"people read their own orders through the storefront\" wants {customer} equal to claim sub; \
{customer} is alice and sub is bob

0 passed, 1 failed in ";
    assert!(answer.starts_with(expected), "{answer}");

    let (_, answer) = json(&folder, &["wrong.test.toml"]);
    let case = &answer["cases"][0];
    assert_eq!((&case["outcome"], &case["line"]), (&"failed".into(), &1.into()));
    assert_eq!(
        case["differences"][0],
        serde_json::json!({ "key": "verdict", "expected": "allow", "came": "deny" })
    );
    assert_eq!(case["rules"].as_array().unwrap().len(), 2);

    let (code, answer, _) = test(&folder, &["wrong.test.toml", TESTS, "--format", "junit"]);
    assert_eq!(code, Some(1));
    for part in [
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites tests=\"43\" failures=\"1\"",
        "<failure message=\"verdict: expected allow, came deny; status: expected 200, came 403\">wrong.test.toml:1",
        "alice&apos;s",
    ] {
        let part = part.replace("&apos;", "'");
        assert!(answer.contains(&part), "{part} in\n{answer}");
    }
    assert_eq!(answer.matches("<testcase").count(), 43);
}

/// A file of tests, and of what is wrong with it the code, the line and a part of message or remedy.
const SENSELESS: [(&str, &str, usize, &str); 21] = [
    ("[[tests]]", "unknown_key", 1, "did you mean `test`?"),
    ("", "missing_key", 1, "`test`"),
    ("[[test]]\nname = \"x\"\n@ask@\nexpct = {}", "unknown_key", 4, "did you mean `expect`?"),
    ("[[test]]\n@ask@\nexpect = { verdict = \"deny\" }", "missing_key", 1, "name"),
    ("[[test]]\nname = \"x\"\nexpect = { verdict = \"deny\" }", "missing_key", 1, "nothing is asked"),
    ("[[test]]\nname = \"x\"\n@ask@", "missing_key", 1, "nothing is expected"),
    ("[[test]]\nname = \"x\"\n@ask@\nexpect = {}", "missing_key", 1, "nothing is expected"),
    (
        "[[test]]\nname = \"x\"\n@ask@\nexpect = { verdict = \"alow\" }",
        "unknown_word",
        4,
        "did you mean `\"allow\"`?",
    ),
    (
        "[[test]]\nname = \"x\"\n@ask@\nexpect = { reason = \"scope_mising\" }",
        "unknown_reason",
        4,
        "did you mean `scope_missing`?",
    ),
    (
        "[[test]]\nname = \"x\"\n@ask@\nexpect = { rule = \"agents never wrote\" }",
        "unknown_name",
        4,
        "did you mean `agents never write`?",
    ),
    (
        "[[test]]\nname = \"x\"\n@ask@\nexpect = { route = \"order\" }",
        "unknown_name",
        4,
        "did you mean `orders`?",
    ),
    (
        "[[test]]\nname = \"x\"\n@ask@\nservice = \"storefrnt\"\nexpect = { verdict = \"deny\" }",
        "unknown_name",
        4,
        "did you mean `storefront`?",
    ),
    (
        "[[test]]\nname = \"x\"\n@ask@\nlistener = \"mash\"\nexpect = { verdict = \"deny\" }",
        "unknown_name",
        4,
        "did you mean `mesh`?",
    ),
    (
        "[[test]]\nname = \"x\"\n@ask@\nhop = \"locl\"\nexpect = { verdict = \"deny\" }",
        "unknown_name",
        4,
        "did you mean `local`?",
    ),
    (
        "[[test]]\nname = \"x\"\n@ask@\ncaller = \"alice\"\nexpect = { verdict = \"deny\" }",
        "unknown_caller",
        4,
        "none is defined yet",
    ),
    (
        "[[test]]\nname = \"x\"\n@ask@\ncaller = { issuer = \"crop\" }\nexpect = { verdict = \"deny\" }",
        "unknown_name",
        4,
        "did you mean `corp`?",
    ),
    (
        "[[test]]\nname = \"x\"\n@ask@\ncaller = { sub = \"alice\" }\nexpect = { verdict = \"deny\" }",
        "missing_key",
        4,
        "issuer",
    ),
    (
        "[caller.a]\nlike = \"b\"\n[caller.b]\nlike = \"a\"\n[[test]]\nname = \"x\"\n@ask@\nexpect = { verdict = \"deny\" }",
        "contradiction",
        1,
        "is like itself",
    ),
    (
        "[[test]]\nname = \"x\"\nrequest = \"https://a.example/\"\nexpect = { verdict = \"deny\" }",
        "bad_request",
        3,
        "is no request",
    ),
    (
        "[[test]]\nname = \"x\"\nrequest = \"GET /orders\"\nexpect = { verdict = \"deny\" }",
        "bad_request",
        3,
        "no URL with a host",
    ),
    (
        "[[test]]\nname = \"x\"\n@ask@\nat = \"tomorrow\"\nexpect = { verdict = \"deny\" }",
        "bad_value",
        4,
        "2027-01-31",
    ),
];

#[test]
fn a_test_that_makes_no_sense_is_told_with_its_place_and_tests_nothing() {
    let folder = sample();
    let mut seen = 0;
    for (text, code, line, part) in SENSELESS {
        let text = text.replace("@ask@", "request = \"GET https://orders.shop.example/\"");
        fs::write(folder.path().join("senseless.test.toml"), &text).unwrap();
        let (exit, answer, errors) = test(&folder, &["senseless.test.toml"]);
        assert_eq!((exit, &*answer), (Some(78), ""), "{text}\n{errors}");
        assert!(errors.contains(&format!("error[{code}]")), "{code}:\n{errors}");
        assert!(
            errors.contains(&format!("senseless.test.toml:{line}:")) || text.is_empty(),
            "{line}:\n{errors}"
        );
        assert!(errors.contains(part), "{part}:\n{errors}");
        seen += 1;
    }
    assert_eq!(seen, 21);
    for missing in ["absent.test.toml", "certs"] {
        let (exit, _, errors) = test(&folder, &[missing]);
        assert!(exit == Some(78) && errors.contains("error[unreadable]"), "{errors}");
    }
    assert_eq!(test(&folder, &[]).0, Some(2));
    assert_eq!(test(&folder, &[TESTS, "--filter", "refund", "--require-coverage"]).0, Some(2));
    let (exit, _, errors) = test(&folder, &[TESTS, "--filter", "no such test"]);
    assert!(exit == Some(2) && errors.contains("no test has `no such test` in its name"), "{errors}");
    let (exit, answer, _) = test(&folder, &[TESTS, "--filter", "agents never write"]);
    assert!(exit == Some(0) && answer.starts_with("5 passed, 0 failed"), "{answer}");
}

#[test]
fn every_key_of_a_test_is_told() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/tools.md")).unwrap();
    let section = page.split("\n## ").find(|section| section.starts_with("countersign test\n")).unwrap();
    let folder = sample();
    let (_, schema) = countersign(&["schema", "--test"], &folder);
    let schema: Value = serde_json::from_str(&schema).unwrap();
    for table in ["Test", "Expect"] {
        let keys = schema["$defs"][table]["properties"].as_object().unwrap();
        for (key, value) in keys {
            let row = format!("\n| `{key}` | {} |\n", value["description"].as_str().unwrap());
            assert!(section.contains(&row), "{row}");
        }
        assert!(keys.len() >= 13);
    }
}

#[test]
fn a_watch_tests_again_after_each_change() {
    let folder = sample();
    let mut child = Command::new(env!("CARGO_BIN_EXE_countersign"))
        .args(["test", "-c", "sidecar.toml", TESTS, "--watch"])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut next =
        || lines.by_ref().take_while(|line| !line.starts_with("-- ")).collect::<Vec<_>>().join("\n");
    assert!(next().starts_with("42 passed, 0 failed"));
    let write = |name: &str, text: String| {
        let fresh = folder.path().join("fresh");
        fs::write(&fresh, text).unwrap();
        fs::rename(fresh, folder.path().join(name)).unwrap();
    };
    write("sidecar.toml", shipped("sidecar.toml").replace("max_age = \"15m\"", "max_age = \"30m\""));
    assert!(next().contains("FAILED  people refund"));
    // What cannot be read is said, and waited for to be put right.
    write(TESTS, "[[test]]".to_owned());
    assert_eq!(next(), "");
    write(TESTS, shipped(TESTS));
    assert!(next().contains("41 passed, 1 failed"));
    child.kill().unwrap();
    child.wait().unwrap();
}
