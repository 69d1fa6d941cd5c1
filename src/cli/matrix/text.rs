//! The table for a terminal: at most 120 columns, wide tables in several parts.

use std::fmt::Write as _;

use super::view::{Part, Reach, Span, View};
use crate::cli::ink::{Ink, shown};

const WIDTH_MAX: usize = 120;
/// Of service, role and actor.
const LABEL_WIDTHS_MAX: [usize; 3] = [26, 28, 20];
const CELL_WIDTH_MAX: usize = 20;
const GAP: &str = "  ";

pub fn table(view: &View<'_>, ink: Ink) -> String {
    let mut out = String::new();
    view.parts.iter().for_each(|part| of_route(view, part, ink, &mut out));
    if view.parts.is_empty() {
        out.push_str("nobody reaches anything\n\n");
    }
    legend(view, ink, &mut out);
    out
}

fn of_route(view: &View<'_>, part: &Part<'_>, ink: Ink, out: &mut String) {
    let labels: Vec<[String; 3]> =
        part.groups.iter().map(|group| [view.services(group), view.roles(group), group.who_acts()]).collect();
    let titles = ["service", "role", "actor"];
    let widths = [0, 1, 2].map(|at| {
        let longest =
            labels.iter().map(|label| wide(&label[at])).chain([wide(titles[at])]).max().unwrap_or(0);
        longest.min(LABEL_WIDTHS_MAX[at])
    });
    let taken: usize = widths.iter().map(|width| width + GAP.len()).sum();
    let cells: Vec<Vec<String>> = part.spans.iter().map(|span| column(view, part, span)).collect();
    let wide_of =
        |cells: &[String]| cells.iter().map(|cell| wide(cell)).max().unwrap_or(0).min(CELL_WIDTH_MAX);
    let mut from = 0;
    while from < part.spans.len() {
        let mut left = WIDTH_MAX - taken;
        let fitting = cells[from..].iter().take_while(|cells| {
            let needed = wide_of(cells) + GAP.len();
            let fits = needed <= left;
            left = left.saturating_sub(needed);
            fits
        });
        let to = from + fitting.count().max(1);
        let mut all_widths = widths.to_vec();
        all_widths.extend(cells[from..to].iter().map(|cells| wide_of(cells)));
        let _ = writeln!(out, "{}", ink.bold(&format!("route {}", part.route.name)));
        let mut head: Vec<&str> = titles.to_vec();
        head.extend(cells[from..to].iter().map(|cells| &*cells[0]));
        line(out, &head, &all_widths, |text| ink.faint(text));
        for (at, label) in labels.iter().enumerate() {
            let mut row: Vec<&str> = label.iter().map(|label| &**label).collect();
            row.extend(cells[from..to].iter().map(|cells| &*cells[at + 1]));
            line(out, &row, &all_widths, ToOwned::to_owned);
        }
        out.push('\n');
        from = to;
    }
}

/// Its head, then a cell for each group.
fn column(view: &View<'_>, part: &Part<'_>, span: &Span) -> Vec<String> {
    let cells = part.groups.iter().map(|group| {
        let cell = &group.cells[span.at];
        let sign = Reach::of(cell).sign();
        if cell.grants.is_empty() {
            sign.to_owned()
        } else {
            format!("{sign} {}", view.grants(cell).join(", "))
        }
    });
    [span.methods.join(" ")].into_iter().chain(cells).collect()
}

fn legend(view: &View<'_>, ink: Ink, out: &mut String) {
    let allows =
        view.allows.iter().map(|id| (view.number(*id).to_string(), "allow", *id, view.conditions(*id)));
    let barriers = view
        .barriers
        .iter()
        .map(|id| (view.letter(*id), view.rule(*id).effect.as_str(), *id, view.says(*id)));
    for (sign, effect, id, said) in allows.chain(barriers) {
        let _ = writeln!(out, "{sign:>3} {effect} {}", ink.bold(&shown(&view.rule(id).name)));
        for line in wrapped(&said.join(", "), WIDTH_MAX - 6) {
            let _ = writeln!(out, "      {}", ink.faint(&line));
        }
    }
    for (route, until) in view.unenforced() {
        let text = format!(
            "route {route} is not enforced until {until}: whom nothing forbids comes in (shadow_until)"
        );
        let _ = writeln!(out, "    {}", ink.yellow(&text));
    }
    let signs = "● always   ◐ sometimes, by the rules   · never   − but not where a deny holds   + where it reaches, only with a require";
    let _ = writeln!(out, "\n{}", ink.faint(signs));
    let closed = view.closed_rows();
    if closed > 0 {
        let _ = writeln!(out, "{}", ink.faint(&format!("{closed} more kinds of requesters reach nothing")));
    }
}

fn line(out: &mut String, cells: &[&str], widths: &[usize], paint: impl Fn(&str) -> String) {
    let cells: Vec<Vec<String>> =
        cells.iter().zip(widths).map(|(cell, width)| wrapped(cell, *width)).collect();
    let height = cells.iter().map(Vec::len).max().unwrap_or(0);
    for at in 0..height {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            let part = cell.get(at).map_or("", |part| part);
            let _ = write!(text, "{part}{}{GAP}", " ".repeat(width.saturating_sub(wide(part))));
        }
        let _ = writeln!(out, "{}", paint(text.trim_end()));
    }
}

/// In lines of at most this width, broken between words where that can be.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    for word in shown(text).split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        while !word.is_empty() {
            let Some(last) = lines.last_mut() else { break };
            let taken = if last.is_empty() { 0 } else { wide(last) + 1 };
            if taken + word.len() <= width || (taken == 0 && width == 0) {
                if taken > 0 {
                    last.push(' ');
                }
                last.extend(word.drain(..));
            } else if taken > 0 {
                lines.push(String::new());
            } else {
                last.extend(word.drain(..width));
                lines.push(String::new());
            }
        }
    }
    lines.retain(|line| !line.is_empty());
    lines
}

fn wide(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
        assert_eq!(wrapped("", 3), [""; 0]);
        assert_eq!(wrapped("a\u{1b}[2Jb", 19), ["a\\u{1b}[2Jb"]);
    }
}
