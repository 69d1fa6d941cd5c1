//! What each condition means, as data: `tests/policy/*.toml`, one file a condition with cases in which it
//! holds and in which it fails.

use std::fmt::Write as _;
use std::path::Path;

use countersign::clock::Clock;
use serde::Deserialize;

use crate::world::World;
use crate::world::court::{Asked, Court};

/// A policy, added to the world's base configuration, and what becomes of requests under it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    policy: String,
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    ask: Asked,
    /// The reason code.
    then: String,
    /// The allow that permits, or the deny or require that denies.
    rule: Option<String>,
    #[serde(default)]
    shadow: Vec<String>,
}

/// When all of it happens, unless a case says otherwise.
const NOW: &str = "2027-01-15T12:00:00Z";

/// Every condition that a rule can state, and what is not a condition but decides too.
const SUBJECTS: [&str; 20] = [
    "acr",
    "actor",
    "claim",
    "client_ip",
    "grpc",
    "hop",
    "host",
    "issuer",
    "match_claim",
    "max_age",
    "method",
    "on_behalf_of",
    "path",
    "peer_ip",
    "role",
    "route",
    "sender_constrained",
    "service",
    "shadow",
    "times",
];

#[tokio::test]
async fn every_case_is_decided_as_written() {
    let world = World::at(Clock::manual(NOW.parse().unwrap())).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policy");
    let mut names: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    names.sort();
    let subjects: Vec<_> = names.iter().map(|path| path.file_stem().unwrap().to_str().unwrap()).collect();
    assert_eq!(subjects, SUBJECTS);

    let (mut cases, mut wrong) = (0, String::new());
    for (path, subject) in names.iter().zip(SUBJECTS) {
        let text = std::fs::read_to_string(path).unwrap();
        let file: File = toml::from_str(&text).unwrap_or_else(|error| panic!("{subject}: {error}"));
        world.configuration(&file.policy);
        let config = world.try_load().unwrap_or_else(|report| panic!("{subject}:\n{report}"));
        let mut court = Court::new(&world, config, &world.issuer.url);
        let holding = file.case.iter().filter(|case| case.then == "allowed").count();
        assert!(
            (1..file.case.len()).contains(&holding),
            "{subject} needs cases that hold and cases that fail"
        );
        for case in file.case {
            let judged = court.judge(&case.ask);
            let seen = (&judged.reason, &judged.rule, &judged.shadow);
            if seen != (&case.then, &case.rule, &case.shadow) {
                writeln!(wrong, "{subject}: {:?}\n    is {judged:?}", case.ask).unwrap();
            }
            cases += 1;
        }
    }
    println!("{cases} cases in {} files", names.len());
    assert!(wrong.is_empty(), "\n{wrong}");
    assert_eq!(cases, 156);
}
