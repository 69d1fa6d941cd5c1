//! Differences for the comment on a pull request.

use std::fmt::Write as _;

use super::Diff;
use super::text::{requests, rows};

pub fn markdown(diff: &Diff) -> String {
    let mut text = String::new();
    let widens =
        if diff.widens { "**This change widens access, or may.**" } else { "This change widens nothing." };
    let _ = writeln!(
        text,
        "### Policy: what this change does\n\n{widens} {} requests were judged, under `{}` and `{}`.\n",
        diff.judged, diff.old, diff.new
    );
    for change in ["newly allowed", "newly denied", "goes elsewhere"] {
        let all: Vec<_> = diff.differences.iter().filter(|one| one.change == change).collect();
        if all.is_empty() {
            continue;
        }
        let _ = writeln!(text, "#### {}{}\n", change[..1].to_uppercase(), &change[1..]);
        for one in all {
            let _ = writeln!(text, "- **{}**", escaped(&one.by));
            for (name, words) in rows(one) {
                let _ = writeln!(text, "  - {name}: {}", escaped(&words));
            }
            let expect = match change {
                "newly allowed" => "verdict = \"deny\"".to_owned(),
                "newly denied" => "verdict = \"allow\"".to_owned(),
                _ => format!("upstream = {}", toml::Value::from(one.upstream_before.as_str())),
            };
            let test = one.witness.test(&format!("{change}: {}", one.by), &expect);
            let _ =
                writeln!(text, "  <details><summary>a test that refuses this change</summary>\n\n  ```toml");
            for line in test.lines() {
                let _ = writeln!(text, "  {line}");
            }
            let _ = writeln!(text, "  ```\n  </details>");
        }
        text.push('\n');
    }
    if !diff.settings.is_empty() {
        let _ = writeln!(
            text,
            "#### Changed before the rules\n\n| key | was | is | |\n| --- | --- | --- | --- |"
        );
        for one in &diff.settings {
            let widens = if one.may_widen { "**may widen**" } else { one.effect };
            let cells = [&one.key, &one.old, &one.new].map(|cell| cell.replace('|', "\\|"));
            let _ = writeln!(text, "| `{}` | `{}` | `{}` | {widens} |", cells[0], cells[1], cells[2]);
        }
        text.push('\n');
    }
    if !diff.open.is_empty() {
        let _ = writeln!(text, "#### Not known\n");
        for one in &diff.open {
            let _ = writeln!(text, "- **may widen**: {}: {}", escaped(&one.told), requests(one.count));
        }
        text.push('\n');
    }
    text
}

/// `*` of patterns, and `<`, are no markup.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('*', "\\*").replace('<', "\\<").replace('|', "\\|")
}
