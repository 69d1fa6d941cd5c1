//! Markup that nothing given can get out of.
//!
//! What is written as it is must be a literal of this program; all else is text, and every character of it that
//! means something in HTML or SVG is written as a reference.

use std::fmt::Display;

use crate::audit::line::is_misleading;

#[derive(Default)]
pub struct Page {
    written: String,
}

impl Page {
    pub fn raw(&mut self, markup: &'static str) -> &mut Page {
        self.written.push_str(markup);
        self
    }

    /// In content, or within quotes in an attribute.
    pub fn text(&mut self, text: impl Display) -> &mut Page {
        for c in text.to_string().chars() {
            match c {
                '&' => self.written.push_str("&amp;"),
                '<' => self.written.push_str("&lt;"),
                '>' => self.written.push_str("&gt;"),
                '"' => self.written.push_str("&quot;"),
                '\'' => self.written.push_str("&#39;"),
                // as U+202E, which turns what follows around
                c if is_misleading(c) => self.written.push('\u{fffd}'),
                c => self.written.push(c),
            }
        }
        self
    }

    /// `open`, the text, `close`.
    pub fn element(&mut self, open: &'static str, text: impl Display, close: &'static str) -> &mut Page {
        self.raw(open).text(text).raw(close)
    }

    pub fn finish(self) -> String {
        self.written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        let mut page = Page::default();
        page.element("<p title=\"", "\"><script>alert('1')</script>&\u{202e}\u{1b}\n", "\">");
        assert_eq!(
            page.finish(),
            "<p title=\"&quot;&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;\u{fffd}\u{fffd}\u{fffd}\">"
        );
    }
}
