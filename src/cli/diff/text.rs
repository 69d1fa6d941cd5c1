//! Differences for people.

use std::fmt::Write as _;
use std::path::Path;

use super::{Diff, Difference};
use crate::cli::ink::Ink;

pub fn text(diff: &Diff, new: &Path) -> String {
    let ink = Ink::of_stdout();
    let mut text = String::new();
    for (change, paint) in [
        ("newly allowed", Ink::red as fn(Ink, &str) -> String),
        ("newly denied", Ink::yellow),
        ("goes elsewhere", Ink::yellow),
    ] {
        let all: Vec<&Difference> = diff.differences.iter().filter(|one| one.change == change).collect();
        if !all.is_empty() {
            let _ = writeln!(text, "{}", paint(ink, &change.to_uppercase()));
        }
        for one in all {
            difference(&mut text, one, ink, new);
        }
    }
    if !diff.settings.is_empty() {
        let _ = writeln!(text, "{}", ink.bold("CHANGED BEFORE THE RULES"));
    }
    for setting in &diff.settings {
        let widens = if setting.may_widen { ink.red("may widen") } else { ink.faint(setting.effect) };
        let _ = writeln!(text, "  {}: {} → {}  ({widens})", setting.key, setting.old, setting.new);
    }
    if !diff.open.is_empty() {
        let _ = writeln!(text, "{}", ink.bold("NOT KNOWN"));
    }
    for one in &diff.open {
        let _ = writeln!(text, "  {}: {}  ({})", one.told, requests(one.count), ink.red("may widen"));
    }
    let count = diff.differences.len();
    let _ = match count {
        0 if !diff.open.is_empty() => {
            writeln!(text, "no difference was found ({} requests were judged)", diff.judged)
        }
        0 => writeln!(text, "no request is judged differently ({} were judged)", diff.judged),
        1 => writeln!(text, "1 difference ({} requests were judged)", diff.judged),
        _ => writeln!(text, "{count} differences ({} requests were judged)", diff.judged),
    };
    let _ = writeln!(text, "{}", ink.faint(&format!("policy {} → {}", diff.old, diff.new)));
    text
}

/// Of what was not built, how much.
pub fn requests(count: u64) -> String {
    match count {
        1 => "1 kind of request was not judged".to_owned(),
        _ => format!("{count} kinds of requests were not judged"),
    }
}

fn difference(text: &mut String, one: &Difference, ink: Ink, new: &Path) {
    let _ = writeln!(text, "  {}", ink.bold(&one.by));
    for (name, words) in rows(one) {
        let _ = writeln!(text, "    {name:<8} {words}");
    }
    let line = one.witness.explain(&[new.display().to_string()]);
    let _ = writeln!(text, "    shown by {}", ink.faint(&line));
    for answered in &one.witness.unconfirmed {
        let _ = writeln!(text, "    {}", ink.red(&format!("not confirmed: {answered}")));
    }
    text.push('\n');
}

/// A difference line by line, without what is anything at all.
pub fn rows(one: &Difference) -> Vec<(&'static str, String)> {
    let asked = format!("{} {}", one.method.join(", "), one.host.join(", "));
    let mut rows = vec![("what", asked), ("path", one.path.join(", "))];
    let mut row = |name, words: &[String], between: &str| {
        if !words.is_empty() {
            rows.push((name, words.join(between)));
        }
    };
    row("carried", &one.service, "; or ");
    row("for", &one.caller, "; or ");
    row("actor", &one.actor, "; or ");
    row("while", &one.circumstances, "; or ");
    row("when", &one.time, "; or ");
    rows.push(("before", one.before.clone()));
    rows.push(("now", one.now.clone()));
    let mut except = Vec::new();
    if !one.except.is_empty() {
        let names: Vec<String> = one.except.iter().map(|name| format!("`{name}`")).collect();
        let word = if one.change == "newly denied" { "still is" } else { "was already" };
        except.push(format!("what {word} allowed by {}", names.join(", ")));
    }
    except.extend(one.unchanged.iter().cloned());
    if !except.is_empty() {
        rows.push(("except", except.join("; ")));
    }
    rows
}
