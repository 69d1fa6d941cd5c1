//! `countersign replay` and `countersign propose`: what was recorded of real requests, judged again.

mod proposals;
mod traffic;

use std::fs;
use std::path::{Path, PathBuf};

use countersign::clock::Timestamp;
use countersign::config::Config;
use countersign::replay::tally::{Asked, Failed, Flip, Tally};
use countersign::replay::{Outcome, Replay, Why, log};

use crate::world::World;
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
