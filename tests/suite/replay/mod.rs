//! `countersign replay` and `countersign propose`: what was recorded of real requests, judged again.

mod many;
mod proposals;
mod traffic;
mod unknown;

use std::fs;
use std::path::{Path, PathBuf};

use countersign::clock::Timestamp;
use countersign::config::Config;
use countersign::replay::tally::{Asked, Failed, Flip, Tally};
use countersign::replay::{Outcome, Replay, Why, log};

use serde_json::Value;

use crate::world::World;
use crate::world::program::run;
use traffic::{Traffic, policy};

const ALL: Asked = Asked { since: Timestamp::MIN, until: Timestamp::MAX, samples_max: 3 };

/// What a configuration makes of a log.
fn replay(config: &Config, log: &Path) -> Tally {
    let (mut tally, mut replay) = (Tally::default(), Replay::new(config));
    let files = [log.to_owned()];
    log::lines(&files, |place, line, _| tally.add(&mut replay, place, line, &ALL)).unwrap();
    tally
}

fn own_log(world: &World) -> PathBuf {
    world.folder.path().join("audit.jsonl")
}

/// What could not be replayed, but for records of other events.
fn failed(tally: &Tally) -> Vec<(&Why, &Failed)> {
    tally.failures.iter().filter(|(why, _)| !why.is_other_event()).collect()
}

#[tokio::test]
async fn a_log_replayed_under_its_own_policy_flips_nothing() {
    for redact in ["", "redact = [\"sub\", \"tier\", \"groups\", \"acr\", \"act\", \"client_id\"]\n"] {
        let world = World::new().await;
        // `[audit]` stands last in the base configuration
        let proxy = world.start(&format!("{redact}{}", policy(&world.clock)));
        let mut traffic = Traffic::of(&proxy, 7).await;
        for _ in 0..400 {
            traffic.ask().await;
        }
        proxy.records(400).await;
        let tally = replay(&world.load(), &own_log(&world));
        assert_eq!(tally.flips.len(), 0, "{:#?}", tally.flips);
        let unknown = failed(&tally);
        // the policy asks how some clients and subjects begin, which no hash tells
        assert_eq!(unknown.is_empty(), redact.is_empty(), "{unknown:#?}");
        assert!(unknown.iter().all(|(why, _)| matches!(why, Why::Redacted(_))), "{unknown:#?}");
        let unknown: u64 = unknown.iter().map(|(_, failed)| failed.lines).sum();
        assert!(unknown < 80, "{unknown}");
        let of = |outcome| tally.alike.get(&outcome).copied().unwrap_or(0);
        let undecided: u64 = tally.undecided.values().sum();
        let decided = [Outcome::Allowed, Outcome::Unenforced, Outcome::Denied].map(of);
        assert_eq!(decided.iter().sum::<u64>() + undecided + unknown, 400);
        assert!(decided[0] >= 80 && decided[1] >= 10 && decided[2] >= 80 && undecided >= 10, "{decided:?}");
        let text = fs::read_to_string(own_log(&world)).unwrap();
        assert_eq!(text.contains("\"subject\":\"alice\""), redact.is_empty());
        assert_eq!(text.contains("\"tier\":\"gold\""), redact.is_empty());
    }
}

/// Of the same log every record forgets one claim: whatever is decided all the same is decided as it was.
#[tokio::test]
async fn what_a_record_forgets_never_flips_a_decision() {
    let world = World::new().await;
    let proxy = world.start(&policy(&world.clock));
    let mut traffic = Traffic::of(&proxy, 23).await;
    for _ in 0..300 {
        traffic.ask().await;
    }
    proxy.records(300).await;
    let text = fs::read_to_string(own_log(&world)).unwrap();
    let (mut random, mut forgot) = (fastrand::Rng::with_seed(5), 0);
    let mut lines = String::new();
    for line in text.lines() {
        let mut record: Value = serde_json::from_str(line).unwrap();
        if let Some(claims) = record.pointer_mut("/caller/claims").and_then(Value::as_object_mut) {
            let names: Vec<String> = claims.keys().filter(|name| *name != "iss").cloned().collect();
            forgot += usize::from(claims.remove(&names[random.usize(..names.len())]).is_some());
        }
        lines += &format!("{record}\n");
    }
    let tally = replay(&world.load(), &world.write("forgetful.jsonl", &lines));
    assert_eq!(tally.flips.len(), 0, "{:#?}", tally.flips);
    let unknown: u64 = failed(&tally).iter().map(|(_, failed)| failed.lines).sum();
    assert!(forgot > 200 && unknown >= 20 && tally.alike.values().sum::<u64>() > 200, "{forgot} {unknown}");
}

#[tokio::test]
async fn the_command_says_what_changes_and_by_which_rule() {
    let world = World::new().await;
    let rules = policy(&world.clock);
    let proxy = world.start(&rules);
    let mut traffic = Traffic::of(&proxy, 3).await;
    for _ in 0..100 {
        traffic.ask().await;
    }
    let records = proxy.records(100).await;
    let fewer = rules.replace("role = \"order-reader\"\nactor", "role = \"supporter\"\nactor");
    world.configuration(&fewer);
    let (log, configuration) = (own_log(&world), world.folder.path().join("countersign.toml"));
    let (log, current) = (log.to_str().unwrap(), configuration.to_str().unwrap());
    let countersign = async |more: &[&str], stdin: &str| {
        run(env!("CARGO_BIN_EXE_countersign"), &[&["replay", "-c", current], more].concat(), stdin).await
    };

    let answer = countersign(&[log, "--format", "json"], "").await;
    assert_eq!(answer.code, Some(0), "{answer:?}");
    let json: Value = serde_json::from_str(&answer.stdout).unwrap();
    assert_eq!(json["requests"], 100);
    let [denied, allowed] = ["newly_denied", "newly_allowed"].map(|of| json["changed"][of].as_u64().unwrap());
    assert!(denied > 10, "{json:#}");
    let flip = &json["flips"][0];
    assert_eq!(flip["then"]["rule"], "people read their own");
    assert_eq!(flip["now"]["reason"], "role_missing");
    let sample = &flip["samples"][0];
    let (file, line) = sample["place"].as_str().unwrap().rsplit_once(':').unwrap();
    let text = fs::read_to_string(log).unwrap();
    let there: Value =
        serde_json::from_str(text.lines().nth(line.parse::<usize>().unwrap() - 1).unwrap()).unwrap();
    assert_eq!((file, &there["id"]), (log, &sample["id"]));

    let answer = countersign(&[log], "").await;
    assert!(answer.stdout.contains(&format!("{denied} newly denied\n")), "{}", answer.stdout);
    assert!(answer.stdout.contains("(\"people read their own\") then, role_missing"), "{}", answer.stdout);
    assert!(answer.stderr.is_empty(), "{answer:?}");
    let answer = countersign(&[log, "--format", "markdown"], "").await;
    assert!(answer.stdout.starts_with(&format!("### Replay: {denied} newly denied, ")), "{}", answer.stdout);
    assert!(
        answer.stdout.lines().any(|line| line.starts_with(&format!("| {denied} | "))),
        "{}",
        answer.stdout
    );

    // standard input, and a part of the time
    let time = records[60]["time"].as_str().unwrap();
    let [before, after] = ["--until", "--since"].map(|word| ["-", word, time, "--format", "json"]);
    let mut counts = Vec::new();
    for more in [before, after] {
        let json: Value = serde_json::from_str(&countersign(&more, &text).await.stdout).unwrap();
        counts.push(json["requests"].as_u64().unwrap());
    }
    assert_eq!(counts.iter().sum::<u64>(), 100);
    assert!(counts.iter().all(|count| *count > 10), "{counts:?}");

    let exits = |flags: &[&str], expected: i32| {
        (flags.iter().map(|flag| flag.to_string()).collect::<Vec<_>>(), expected)
    };
    let widens = i32::from(allowed > 0);
    for (flags, expected) in [
        exits(&[log, "--fail-on-flip"], 1),
        exits(&[log, "--fail-on-narrow"], 1),
        exits(&[log, "--fail-on-widen"], widens),
        exits(&["/nowhere/audit.jsonl"], 2),
        exits(&[log, "--since", "yesterday"], 2),
        exits(&[log, "-c", "/nowhere/countersign.toml"], 78),
        exits(&[log, "--old", "/nowhere/countersign.toml"], 78),
    ] {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        assert_eq!(countersign(&flags, "").await.code, Some(expected), "{flags:?}");
    }

    // what cannot be replayed may have flipped, as far as anybody knows
    for (flags, expected) in
        [(&["-"][..], 0), (&["-", "--fail-on-widen"], 1), (&["-", "--fail-on-narrow"], 1)]
    {
        let answer = countersign(flags, "{\"event\":\"request\"\n").await;
        assert_eq!(answer.code, Some(expected), "{flags:?}: {answer:?}");
    }
}

#[tokio::test]
async fn a_changed_rule_flips_what_it_decided_and_nothing_else() {
    let world = World::new().await;
    let policy = policy(&world.clock);
    let proxy = world.start(&policy);
    let mut traffic = Traffic::of(&proxy, 11).await;
    for _ in 0..200 {
        traffic.ask().await;
    }
    let records = proxy.records(200).await;
    let of_rule = |rule: &str| records.iter().filter(|record| record["rule"] == rule).count() as u64;
    let narrower = policy.replace("tier = [\"gold\", 7]", "tier = [\"lead\", 7]");
    assert_ne!(narrower, policy);
    world.configuration(&narrower);
    let tally = replay(&world.load(), &own_log(&world));
    assert!(tally.flipped(&Flip::NARROWER) > 0);
    assert_eq!(tally.flipped(&Flip::WIDER), 0);
    for (group, _) in tally.groups() {
        assert_eq!(group.flip, Flip::Denied, "{group:?}");
        assert!(of_rule(group.rule_then.as_deref().unwrap()) > 0);
    }
}
