//! A page as a reader follows it: files to write, commands to type, and what these print.

use std::ops::Range;

/// What there is to do, in the order of the page.
pub enum Step {
    /// A block with ` file=NAME` behind its language.
    File { name: String, text: String },
    /// Behind `$ ` in a `console` block, over as many lines as end in a backslash; or in a comment that begins with
    /// `<!-- console`, which readers do not see.
    Command { text: String, printed: Range<usize> },
}

pub struct Page {
    pub text: String,
    pub steps: Vec<Step>,
}

enum Open {
    Nothing,
    Console,
    File,
    Other,
}

impl Page {
    pub fn read(text: String) -> Page {
        let mut steps = Vec::new();
        let mut open = Open::Nothing;
        let (mut at, mut goes_on) = (0, false);
        for line in text.split_inclusive('\n') {
            let range = at..at + line.len();
            at = range.end;
            let bare = line.trim_end_matches('\n');
            let is_end = bare == "```" || bare == "-->";
            match (&open, bare.strip_prefix("```").or_else(|| bare.strip_prefix("<!-- "))) {
                (Open::Nothing, Some("console")) => open = Open::Console,
                (Open::Nothing, Some(info)) if bare.starts_with("```") => {
                    open = info.split_once(" file=").map_or(Open::Other, |(_, name)| {
                        steps.push(Step::File { name: name.to_owned(), text: String::new() });
                        Open::File
                    });
                }
                (Open::Nothing, _) => {}
                (_, _) if is_end => open = Open::Nothing,
                (Open::Console, _) => {
                    let typed = bare.strip_prefix("$ ");
                    match (typed, steps.last_mut()) {
                        (Some(typed), _) => steps
                            .push(Step::Command { text: typed.to_owned(), printed: range.end..range.end }),
                        (None, Some(Step::Command { text, printed })) if goes_on => {
                            *text += &format!("\n{bare}");
                            *printed = range.end..range.end;
                        }
                        (None, Some(Step::Command { printed, .. })) if printed.end == range.start => {
                            printed.end = range.end;
                        }
                        (None, _) => panic!("what prints `{bare}`?"),
                    }
                    goes_on = (typed.is_some() || goes_on) && bare.ends_with('\\');
                }
                (Open::File, _) => match steps.last_mut() {
                    Some(Step::File { text, .. }) => *text += line,
                    _ => unreachable!(),
                },
                (Open::Other, _) => {}
            }
        }
        Page { text, steps }
    }
}

/// Whether this is what stands on the page, where `...` stands for any lines, and for what is never the same twice.
pub fn is_as_shown(shown: &str, came: &str) -> bool {
    fn matches(shown: &[String], came: &[String]) -> bool {
        match shown.split_first() {
            None => came.is_empty(),
            Some((line, rest)) if line == "..." => (0..=came.len()).any(|at| matches(rest, &came[at..])),
            Some((line, rest)) => came.first() == Some(line) && matches(rest, &came[1..]),
        }
    }
    matches(&lasting(shown), &lasting(came))
}

/// Lines without moments, ids, and how long something took.
fn lasting(text: &str) -> Vec<String> {
    let line = |line: &str| {
        let line = match line.rsplit_once(" in ") {
            Some((counts, time)) if time.ends_with(" ms") => counts,
            _ => line.trim_end(),
        };
        let part = |part: &str| {
            let word = part.trim_matches(['"', ',', '(', ')', '`', ':', ';']);
            if is_moment(word) || is_id(word) { part.replace(word, "…") } else { part.to_owned() }
        };
        line.split(' ').map(part).collect::<Vec<_>>().join(" ")
    };
    text.trim_end().lines().map(line).collect()
}

/// RFC 3339, as the program writes it: `2027-01-01T00:00:00.000Z`.
fn is_moment(word: &str) -> bool {
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    word.len() == 24 && digits == 17 && word.as_bytes()[10] == b'T' && word.ends_with('Z')
}

/// Of a record.
fn is_id(word: &str) -> bool {
    word.len() == 26
        && word.starts_with('0')
        && word.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_in_its_order() {
        let text = "# A\n```toml file=a.toml\nx = 1\n```\n```console\n$ one \\\n    more\nout\n\nput\n$ two\n```\n\
                    ```json\n$ no\n```\n<!-- console\n$ three\n-->\nend\n";
        let page = Page::read(text.to_owned());
        let seen: Vec<_> = page
            .steps
            .iter()
            .map(|step| match step {
                Step::File { name, text } => (name.as_str(), text.as_str()),
                Step::Command { text, printed } => (text.as_str(), &page.text[printed.clone()]),
            })
            .collect();
        let expected =
            [("a.toml", "x = 1\n"), ("one \\\n    more", "out\n\nput\n"), ("two", ""), ("three", "")];
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_differs_from_run_to_run_is_let_pass_and_nothing_else() {
        let mut seen = 0;
        for (shown, came, expected) in [
            ("a\nb\n", "a\nb", true),
            ("a", "a\nb", false),
            ("a\nb", "a", false),
            ("a\n...\nd", "a\nb\nc\nd", true),
            ("a\n...\nd", "a\nd", true),
            ("a\n...\nd", "a\nb\nc", false),
            ("...", "", true),
            ("3 passed in 1 ms", "3 passed in 20 ms", true),
            ("3 passed in 1 ms", "2 passed in 1 ms", false),
            ("at 2027-01-15T12:00:00.000Z, `x`", "at 2026-11-22T14:08:18.402Z, `x`", true),
            ("id 01M80GF7KC7NY00K89HNDE91WT", "id 01KF0X2J8ZQ4M6T3V5W7Y9A1BC", true),
            ("sha256:aa", "sha256:ab", false),
            ("HTTP/2 403", "HTTP/2 403 \r", true),
        ] {
            assert_eq!(is_as_shown(shown, came), expected, "{shown:?} {came:?}");
            seen += 1;
        }
        assert_eq!(seen, 13);
    }
}
