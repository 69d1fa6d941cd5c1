//! `benches/instructions.txt`: instructions of a few whole requests, so that a regression shows in a diff.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::callgrind;
use crate::scenario::Kind;
use crate::world::World;
use crate::world::client::Protocol;
use crate::world::policy::Shape;
use crate::world::signing::Algorithm;

/// By name, with how many are counted: as many as make what is counted besides them small.
const REQUESTS: [(&str, Kind, usize); 9] = [
    ("first sight ES256", Kind::FirstSight(Algorithm::Es256), 500),
    ("first sight RS256", Kind::FirstSight(Algorithm::Rs256), 500),
    ("handshake, full", Kind::Handshake { resumed: false }, 100),
    ("handshake, resumed", Kind::Handshake { resumed: true }, 100),
    ("hot h1", Kind::Hot(Protocol::H1), 1000),
    ("hot h2", Kind::Hot(Protocol::H2), 1000),
    ("refused 401, forged", Kind::Forged, 500),
    ("refused 403, no rule", Kind::Forbidden, 1000),
    ("second pass", Kind::SecondPass(Algorithm::Rs256), 500),
];
/// More than two runs of the same build differ by.
const TOLERANCE_PERCENT: u64 = 3;

pub async fn write(path: &Path) {
    let mut text = format!("# instructions a request; {}; {}\n", version("rustc"), version("valgrind"));
    for (name, instructions) in measure().await {
        writeln!(text, "{name:<24}{instructions:>9}").unwrap();
    }
    fs::write(path, text).unwrap();
}

/// What costs more than what is written down, or less: then that is to be written anew.
pub async fn check(path: &Path) -> Result<(), String> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let written = lines.map(|line| line.rsplit_once(' ').unwrap());
    let written: BTreeMap<&str, u64> =
        written.map(|(name, count)| (name.trim_end(), count.parse().unwrap())).collect();
    let mut off = String::new();
    for (name, seen) in measure().await {
        let expected = written.get(name).copied().unwrap_or_default();
        if seen.abs_diff(expected) * 100 > expected * TOLERANCE_PERCENT {
            writeln!(off, "{name}: {seen} instructions, {expected} are written down").unwrap();
        }
    }
    if off.is_empty() { Ok(()) } else { Err(off) }
}

async fn measure() -> BTreeMap<&'static str, u64> {
    let world = World::new();
    let mut measured = BTreeMap::new();
    for (name, kind, requests) in REQUESTS {
        let instructions = callgrind::per_request(&world, &Shape::default(), kind, requests).await;
        println!("{name:<24}{instructions:>9}");
        // the last digits are never the same
        measured.insert(name, instructions / 100 * 100);
    }
    measured
}

fn version(program: &str) -> String {
    let output = Command::new(program).arg("--version").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split(" (").next().unwrap().trim().to_owned()
}
