//! One record as one line: JSON in which no field can end the line, move a cursor or turn the
//! reading direction, and none is longer than a bound.

use std::io;

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

/// What most lines have room in.
pub const LINE_BYTES: usize = 2048;
/// Bytes of one recorded text. Longer ones are cut, and say so.
pub const TEXT_BYTES_MAX: usize = 2048;
/// Entries of one recorded list. What is over is counted in a last entry.
pub const LIST_ENTRIES_MAX: usize = 64;

/// `record` as one line of JSON, with its line feed.
pub fn line(record: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = Vec::with_capacity(LINE_BYTES);
    write_json(record, &mut line)?;
    line.push(b'\n');
    Ok(line)
}

/// Appends what `value` is within a line.
pub fn write_json(value: &(impl Serialize + ?Sized), to: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    value.serialize(&mut Serializer::with_formatter(to, Plain(CompactFormatter)))
}

/// [`write_json`] for a text, most of which need no escape.
pub fn write_text(text: &str, to: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    if !is_plain(text) {
        return write_json(text, to);
    }
    to.reserve(text.len() + 2);
    to.push(b'"');
    to.extend_from_slice(text.as_bytes());
    to.push(b'"');
    Ok(())
}

/// Whether a text stands in quotes as it is: printable ASCII without `"` and `\`.
pub fn is_plain(text: &str) -> bool {
    let plain = |byte: u8| matches!(byte, b' '..=b'~') & (byte != b'"') & (byte != b'\\');
    // Without an early end, so that many bytes are looked at at once.
    text.bytes().fold(true, |so_far, byte| so_far & plain(byte))
}

/// Whether a character could mislead who reads a line: controls (C0, DEL, C1), line and paragraph
/// separators, and whatever is invisible or turns the direction of text.
pub fn is_misleading(c: char) -> bool {
    matches!(c,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{61c}' | '\u{180e}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// `text`, cut to [`TEXT_BYTES_MAX`] with a mark that says how much is missing.
pub fn bounded(text: &str) -> String {
    cut(text, TEXT_BYTES_MAX)
}

/// `text`, cut to `bytes_max` with a mark that says how much is missing.
pub fn cut(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let kept = &text[..text.floor_char_boundary(bytes_max)];
    format!("{kept}…[{} bytes more]", text.len() - kept.len())
}

/// Each text of a list bounded, and the list to [`LIST_ENTRIES_MAX`].
pub fn bounded_list<T: AsRef<str>>(list: &[T]) -> Vec<String> {
    let mut kept: Vec<String> =
        list.iter().take(LIST_ENTRIES_MAX).map(|entry| bounded(entry.as_ref())).collect();
    if list.len() > LIST_ENTRIES_MAX {
        kept.push(format!("…[{} more]", list.len() - LIST_ENTRIES_MAX));
    }
    kept
}

/// Writes a character as JSON escapes one (RFC 8259 §7).
pub fn write_escaped<W: io::Write + ?Sized>(to: &mut W, c: char) -> io::Result<()> {
    c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(to, "\\u{unit:04x}"))
}

/// JSON already escapes `"`, `\` and C0; this escapes whatever else is misleading.
struct Plain(CompactFormatter);

impl Formatter for Plain {
    fn write_string_fragment<W: io::Write + ?Sized>(&mut self, to: &mut W, text: &str) -> io::Result<()> {
        if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return self.0.write_string_fragment(to, text);
        }
        let mut written = 0;
        for (at, c) in text.char_indices().filter(|&(_, c)| is_misleading(c)) {
            self.0.write_string_fragment(to, &text[written..at])?;
            write_escaped(to, c)?;
            written = at + c.len_utf8();
        }
        self.0.write_string_fragment(to, &text[written..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_can_leave_its_line_or_move_a_cursor() {
        let hostile = [
            "\n",
            "\r\n",
            "\0",
            "\u{1b}[2J",
            "\u{7f}",
            "\u{85}",
            "\u{9b}31m",
            "\u{2028}",
            "\u{2029}",
            "\u{202e}gnp",
            "\u{2066}",
            "\u{200b}",
            "\u{feff}",
            "\u{e0041}",
            "\",\"verdict\":\"allow",
            "\\",
        ];
        let mut seen = 0;
        for text in hostile {
            let text = format!("é{text}…a");
            let line = String::from_utf8(line(&text).unwrap()).unwrap();
            let inside = line.strip_suffix('\n').unwrap();
            assert!(!inside.chars().any(is_misleading), "{inside:?}");
            assert_eq!(serde_json::from_str::<String>(inside).unwrap(), text);
            seen += 1;
        }
        assert_eq!(seen, 16);
        assert_eq!(line(&"é\u{2028}").unwrap(), "\"é\\u2028\"\n".as_bytes());
        assert_eq!(line(&"\u{e0041}").unwrap(), b"\"\\udb40\\udc41\"\n");
    }

    #[test]
    fn a_text_that_is_put_down_as_it_is_needed_no_escape() {
        let mut plain = 0;
        for c in (0..=char::MAX as u32).filter_map(char::from_u32) {
            let text = format!("seventeen letters{c}");
            plain += usize::from(is_plain(&text));
            if is_plain(&text) || c.len_utf8() < 3 {
                let mut written = Vec::new();
                write_text(&text, &mut written).unwrap();
                written.push(b'\n');
                assert_eq!(written, line(&text).unwrap(), "{c:?}");
            }
        }
        assert_eq!(plain, 95 - 2);
        assert!(is_plain("") && !is_plain("a\"seventeen letters"));
    }

    #[test]
    fn what_is_too_long_is_cut_and_says_so() {
        let exact = "a".repeat(TEXT_BYTES_MAX);
        assert_eq!(bounded(&exact), exact);
        assert_eq!(bounded(&format!("{exact}bc")), format!("{exact}…[2 bytes more]"));
        assert_eq!(cut("aéb", 2), "a…[3 bytes more]");
        let list = bounded_list(&vec!["x"; LIST_ENTRIES_MAX + 3]);
        assert_eq!((list.len(), list.last().map(String::as_str)), (65, Some("…[3 more]")));
    }
}
