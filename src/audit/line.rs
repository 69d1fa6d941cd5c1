//! One record as one line: JSON in which no field can end the line, move a cursor or turn the
//! reading direction, and none is longer than a bound.

use std::io;

use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, Serializer};

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
pub fn write_json(value: &impl Serialize, to: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    value.serialize(&mut Serializer::with_formatter(to, Plain(CompactFormatter)))
}

/// [`write_json`] of a text.
pub fn write_text(text: &str, to: &mut Vec<u8>) {
    to.reserve(text.len() + 2);
    to.push(b'"');
    escape(text, to);
    to.push(b'"');
}

/// [`write_json`] of a number.
pub fn write_number(mut number: u64, to: &mut Vec<u8>) {
    let (mut digits, mut begin) = ([0; 20], 20);
    loop {
        begin -= 1;
        digits[begin] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return to.extend_from_slice(&digits[begin..]);
        }
    }
}

/// Whether a text stands between quotes as it is: printable ASCII without `"` and `\`.
pub fn is_plain(text: &str) -> bool {
    plain_bytes(text) == text.len()
}

/// How many bytes `text` begins with that stand between quotes as they are.
fn plain_bytes(text: &str) -> usize {
    let plain = |&byte: &u8| matches!(byte, b' '..=b'~') & (byte != b'"') & (byte != b'\\');
    // Many at once, none of which is known to be the last.
    let (chunks, _) = text.as_bytes().as_chunks::<16>();
    let all = |chunk: &&[u8; 16]| chunk.iter().fold(true, |all, byte| all & plain(byte));
    let whole = 16 * chunks.iter().take_while(all).count();
    whole + text.as_bytes()[whole..].iter().take_while(|byte| plain(byte)).count()
}

/// Appends what `text` is between quotes: itself, but for what ends a text or misleads.
fn escape(text: &str, to: &mut Vec<u8>) {
    let mut rest = text;
    loop {
        let (plain, odd) = rest.split_at(plain_bytes(rest));
        to.extend_from_slice(plain.as_bytes());
        let Some(c) = odd.chars().next() else { return };
        rest = &odd[c.len_utf8()..];
        if matches!(c, '"' | '\\') || is_misleading(c) {
            write_escaped(c, to);
        } else {
            to.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
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

/// Appends a character as JSON escapes one (RFC 8259 §7).
pub fn write_escaped(c: char, to: &mut Vec<u8>) {
    let short = match c {
        '"' | '\\' => c,
        '\u{8}' => 'b',
        '\u{c}' => 'f',
        '\n' => 'n',
        '\r' => 'r',
        '\t' => 't',
        _ => {
            for unit in c.encode_utf16(&mut [0; 2]) {
                to.extend_from_slice(b"\\u");
                to.extend_from_slice(hex::encode(unit.to_be_bytes()).as_bytes());
            }
            return;
        }
    };
    to.extend([b'\\', short as u8]);
}

/// Has serde_json escape as [`escape`] does.
struct Plain(CompactFormatter);

impl Formatter for Plain {
    fn write_string_fragment<W: io::Write + ?Sized>(&mut self, to: &mut W, text: &str) -> io::Result<()> {
        if is_plain(text) {
            return self.0.write_string_fragment(to, text);
        }
        let mut escaped = Vec::new();
        escape(text, &mut escaped);
        to.write_all(&escaped)
    }

    fn write_char_escape<W: io::Write + ?Sized>(&mut self, to: &mut W, escape: CharEscape) -> io::Result<()> {
        let mut escaped = Vec::new();
        write_escaped(
            match escape {
                CharEscape::Quote => '"',
                CharEscape::ReverseSolidus => '\\',
                CharEscape::Solidus => '/',
                CharEscape::Backspace => '\u{8}',
                CharEscape::FormFeed => '\u{c}',
                CharEscape::LineFeed => '\n',
                CharEscape::CarriageReturn => '\r',
                CharEscape::Tab => '\t',
                CharEscape::AsciiControl(byte) => byte.into(),
            },
            &mut escaped,
        );
        to.write_all(&escaped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

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
    fn every_character_is_escaped_alike_and_only_if_it_must_be() {
        let (mut bare, mut seen) = (0, 0);
        for c in (0..0x2_0000).chain(0xe_0000..0xe_1000).filter_map(char::from_u32) {
            // At both ends of what is looked at at once.
            let text = format!("{c}fifteen letters{c}");
            let mut written = Vec::new();
            write_text(&text, &mut written);
            let is_bare = written.len() == text.len() + 2;
            assert_eq!(is_bare, !matches!(c, '"' | '\\') && !is_misleading(c), "{c:?}");
            bare += usize::from(is_bare);
            if !is_bare || c.len_utf8() < 3 {
                let mut read = serde_json::Deserializer::from_slice(&written);
                assert_eq!(String::deserialize(&mut read).unwrap(), text);
                let mut by_serde = Vec::new();
                write_json(&text, &mut by_serde).unwrap();
                assert_eq!(written, by_serde, "{c:?}");
            }
            seen += 1;
        }
        assert_eq!((seen, seen - bare), (0x2_1000 - 0x800, 230));
    }

    #[test]
    fn numbers_are_those_of_json() {
        for number in [0, 7, 10, 1_234_567_890, u64::MAX] {
            let mut written = Vec::new();
            write_number(number, &mut written);
            assert_eq!(written, number.to_string().as_bytes());
        }
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
