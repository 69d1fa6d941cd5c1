//! What a replay came to, in words, as a table for a pull request, and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::audit::line::is_misleading;
use crate::clock::Timestamp;
use crate::policy::PolicyHash;
use crate::replay::Outcome;
use crate::replay::tally::{Flip, Group, Seen, Tally, Trial};

pub fn text(tally: &Tally, policy: PolicyHash) -> String {
    let mut to = String::new();
    let _ = write_text(tally, policy, &mut to); // a String takes all that is written
    to
}

fn write_text(tally: &Tally, policy: PolicyHash, to: &mut String) -> std::fmt::Result {
    writeln!(to, "{} under policy {policy}", requests(tally))?;
    writeln!(to, "{:>9} decided alike: {}", tally.alike.values().sum::<u64>(), alike(tally))?;
    if !tally.undecided.is_empty() {
        let all: u64 = tally.undecided.values().sum();
        writeln!(
            to,
            "{all:>9} refused or answered before any decision, and stay so: {}",
            counts(&tally.undecided)
        )?;
    }
    for flip in Flip::ALL {
        let flipped = tally.flipped(&[flip]);
        if flipped > 0 || matches!(flip, Flip::Denied | Flip::Allowed) {
            writeln!(to, "{flipped:>9} {}", flip.words())?;
        }
    }
    let unknown: u64 = unknown(tally).map(|(_, lines, _)| lines).sum();
    writeln!(to, "{unknown:>9} cannot be replayed")?;
    let mut last = None;
    for (group, seen) in tally.groups() {
        if last.replace(group.flip) != Some(group.flip) {
            writeln!(to, "\n{}: {}", group.flip.words(), tally.flipped(&[group.flip]))?;
        }
        writeln!(to, "  {} by {}: {}", seen.requests, signers(seen), change(group))?;
        samples(seen, to)?;
    }
    if !tally.trials.is_empty() {
        writeln!(to, "\nrules in shadow, if they were enforced:")?;
        for ((trial, rule), seen) in &tally.trials {
            writeln!(to, "  {} by {}: {}", seen.requests, signers(seen), would(*trial, rule))?;
            samples(seen, to)?;
        }
    }
    if unknown > 0 {
        writeln!(to, "\ncannot be replayed:")?;
        for (why, lines, first) in self::unknown(tally) {
            writeln!(to, "  {lines} {why} (first at {first})")?;
        }
    }
    Ok(())
}

fn samples(seen: &Seen, to: &mut String) -> std::fmt::Result {
    for sample in &seen.samples {
        writeln!(to, "      {} {}", sample.place, sample.what)?;
    }
    Ok(())
}

/// As `1200 requests from … to …`.
fn requests(tally: &Tally) -> String {
    match (tally.first, tally.last) {
        (Some(first), Some(last)) => format!("{} requests from {first} to {last}", tally.requests),
        _ => "no requests".to_owned(),
    }
}

fn alike(tally: &Tally) -> String {
    let of = |outcome| tally.alike.get(&outcome).copied().unwrap_or(0);
    let (allowed, denied) = (of(Outcome::Allowed), of(Outcome::Denied));
    match of(Outcome::Unenforced) {
        0 => format!("{allowed} allowed, {denied} denied"),
        shadow => format!("{allowed} allowed, {denied} denied, {shadow} let through by shadow_until"),
    }
}

/// As `3 token_expired, 1 token_malformed`.
fn counts(counts: &BTreeMap<String, u64>) -> String {
    counts.iter().map(|(name, count)| format!("{count} {}", plain(name))).collect::<Vec<_>>().join(", ")
}

fn signers(seen: &Seen) -> String {
    match seen.signers() {
        1 => "one service and caller".to_owned(),
        pairs => format!("{pairs} services and callers"),
    }
}

/// What decided then and what decides now.
fn change(group: &Group) -> String {
    let Group { flip: _, rule_then, reason_then, rule_now, nearest_now, reason_now } = group;
    let side = |rule: &Option<String>, reason: &str| match rule {
        Some(rule) => format!("{} ({})", plain(reason), quoted(rule)),
        None => plain(reason),
    };
    let nearest =
        nearest_now.as_ref().map_or_else(String::new, |rule| format!(", nearest is {}", quoted(rule)));
    format!("{} then, {} now{nearest}", side(rule_then, reason_then), side(rule_now, reason_now))
}

fn would(trial: Trial, rule: &str) -> String {
    match trial {
        Trial::WouldDeny => format!("{} would deny them", quoted(rule)),
        Trial::WouldAllow => format!("{} would allow them", quoted(rule)),
    }
}

/// Why, how many lines, and where the first stands; records of other events have no decision to repeat.
fn unknown(tally: &Tally) -> impl Iterator<Item = (String, u64, &str)> {
    let failures = tally.failures.iter().filter(|(why, _)| !why.is_other_event());
    failures.map(|(why, failed)| (plain(&why.to_string()), failed.lines, failed.first.as_str()))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", plain(text))
}

/// A log is text from outside.
fn plain(text: &str) -> String {
    text.replace(is_misleading, "\u{fffd}")
}

pub fn markdown(tally: &Tally, policy: PolicyHash) -> String {
    let mut to = String::new();
    let _ = write_markdown(tally, policy, &mut to);
    to
}

fn write_markdown(tally: &Tally, policy: PolicyHash, to: &mut String) -> std::fmt::Result {
    writeln!(to, "### Replay: {} newly denied, {} newly allowed\n", narrower(tally), wider(tally))?;
    writeln!(to, "{}, under policy `{policy}`; decided alike: {}.\n", requests(tally), alike(tally))?;
    if !tally.flips.is_empty() {
        writeln!(to, "| requests | services and callers | change | then | now | for example |")?;
        writeln!(to, "| ---: | ---: | --- | --- | --- | --- |")?;
    }
    let cell = |text: &str| plain(text).replace('|', "\\|").replace('<', "&lt;");
    let side = |rule: &Option<String>, reason: &str| {
        format!("{} {}", cell(reason), rule.as_ref().map_or(String::new(), |rule| cell(&quoted(rule))))
    };
    for (group, seen) in tally.groups() {
        let sample = seen.samples.first().map_or_else(String::new, |sample| cell(&sample.what));
        writeln!(
            to,
            "| {} | {} | {} | {} | {} | {sample} |",
            seen.requests,
            seen.signers(),
            group.flip.words(),
            side(&group.rule_then, &group.reason_then),
            side(&group.rule_now, &group.reason_now),
        )?;
    }
    for ((trial, rule), seen) in &tally.trials {
        writeln!(to, "\n- in shadow: {} requests, {}", seen.requests, cell(&would(*trial, rule)))?;
    }
    for (why, lines, _) in unknown(tally) {
        writeln!(to, "\n- not replayed: {lines} {}", cell(&why))?;
    }
    Ok(())
}

fn narrower(tally: &Tally) -> u64 {
    tally.flipped(&Flip::NARROWER)
}

fn wider(tally: &Tally) -> u64 {
    tally.flipped(&Flip::WIDER)
}

pub fn json(tally: &Tally, policy: PolicyHash) -> Value {
    let time = |time: Option<Timestamp>| time.map(|time| time.to_string());
    let seen = |seen: &Seen| {
        let samples = seen
            .samples
            .iter()
            .map(|sample| json!({ "place": sample.place, "id": sample.id, "request": sample.what }));
        json!({
            "requests": seen.requests,
            "services_and_callers": seen.signers(),
            "first": time(seen.first),
            "last": time(seen.last),
            "samples": samples.collect::<Vec<_>>(),
        })
    };
    let with = |mut object: Value, more: Value| {
        if let (Value::Object(members), Value::Object(more)) = (&mut object, more) {
            members.extend(more);
        }
        object
    };
    let flips = tally.groups().into_iter().map(|(group, of)| {
        let about = json!({
            "change": group.flip.as_str(),
            "then": { "rule": group.rule_then, "reason": group.reason_then },
            "now": { "rule": group.rule_now, "nearest": group.nearest_now, "reason": group.reason_now },
        });
        with(about, seen(of))
    });
    let trials = tally
        .trials
        .iter()
        .map(|((trial, rule), of)| with(json!({ "rule": rule, "would": trial.as_str() }), seen(of)));
    let failures = tally.failures.iter().map(|(why, failed)| {
        json!({ "why": why.code(), "detail": why.to_string(), "lines": failed.lines, "first": failed.first })
    });
    let alike =
        tally.alike.iter().map(|(outcome, count)| (outcome.as_str(), *count)).collect::<BTreeMap<_, _>>();
    let changed = Flip::ALL.map(|flip| (flip.as_str(), tally.flipped(&[flip])));
    json!({
        "policy": policy.to_string(),
        "requests": tally.requests,
        "first": time(tally.first),
        "last": time(tally.last),
        "policies_then": tally.policies,
        "alike": alike,
        "undecided": tally.undecided,
        "changed": BTreeMap::from(changed),
        "flips": flips.collect::<Vec<_>>(),
        "rules_in_shadow": trials.collect::<Vec<_>>(),
        "not_replayed": failures.collect::<Vec<_>>(),
    })
}
