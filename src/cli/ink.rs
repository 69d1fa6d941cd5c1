//! Colours, and text from outside, where a person reads.

use std::io::{self, IsTerminal};

use crate::audit::line::is_misleading;

#[derive(Clone, Copy, Debug)]
pub struct Ink {
    styled: bool,
}

impl Ink {
    /// None where standard output is no terminal, or `NO_COLOR` is set.
    pub fn of_stdout() -> Ink {
        Ink { styled: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() }
    }

    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub fn red(self, text: &str) -> String {
        self.paint("31", text)
    }

    pub fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// ECMA-48 §8.3.117, select graphic rendition.
    fn paint(self, rendition: &str, text: &str) -> String {
        if self.styled { format!("\x1b[{rendition}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// What came from outside moves no cursor and turns no reading direction.
pub fn shown(words: &str) -> String {
    let mut shown = String::with_capacity(words.len());
    for c in words.chars() {
        if is_misleading(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}
