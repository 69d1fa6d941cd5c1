//! The cases as they are written, in `tests/heads/http1/*.toml`.
//!
//! `send` is the bytes: a line end is CRLF, and whatever else is meant stands in an escape:
//!
//! | escape | bytes |
//! | --- | --- |
//! | `\r` `\n` `\t` `\0` `\\` | one of C's |
//! | `\xHH` | any |
//! | `\(TEXT*N)` | TEXT N times; it may have escapes, but no `*` |
//! | `\` at the end of a line | nothing: the line goes on |

use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::recorder::Message;

/// One subject.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Configuration that its cases need.
    #[serde(default)]
    pub more: String,
    pub case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    send: String,
    /// `STATUS`, or `STATUS REASON`; `-` is a record without an answer. The reason of a 200 is `allowed`, of a
    /// 400 `request_malformed`.
    #[serde(default)]
    answers: Option<Vec<String>>,
    /// What reached the upstream, whole.
    #[serde(default)]
    pub upstream: Vec<Forwarded>,
    #[serde(default)]
    pub then: Then,
    /// The first answer has no content, as one to a HEAD.
    #[serde(default)]
    pub bodiless: bool,
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Then {
    /// Nothing that follows is read as a request.
    #[default]
    Closed,
    /// The next request is served.
    Kept,
    /// The client ends it after what it sent.
    Hangup,
}

/// One message as the upstream must have got it, framed by the proxy.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forwarded {
    /// Method and target.
    line: String,
    #[serde(default)]
    body: String,
    /// Fields that stand in it exactly so.
    #[serde(default)]
    has: Vec<String>,
    /// Texts that stand nowhere in it, in whatever case.
    #[serde(default)]
    lacks: Vec<String>,
    #[serde(default)]
    trailers: Vec<String>,
    /// The upstream gets this far at most, and sees that it is not the end.
    #[serde(default)]
    pub broken: bool,
    /// Bytes that followed on the connection after a switch.
    #[serde(default)]
    tunnel: String,
}

impl File {
    pub fn read(path: &Path) -> File {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

impl Case {
    pub fn bytes(&self) -> Vec<u8> {
        bytes(&self.send)
    }

    /// Status (0 for none) and reason of each answer.
    pub fn answers(&self) -> Vec<(u16, String)> {
        let Some(answers) = &self.answers else { return vec![(400, "request_malformed".to_owned())] };
        let read = |answer: &String| {
            let (status, reason) = answer.split_once(' ').unwrap_or((answer, ""));
            let reason = match (status, reason) {
                ("200" | "101", "") => "allowed",
                ("400", "") => "request_malformed",
                (_, reason) => reason,
            };
            (status.parse().unwrap_or(0), reason.to_owned())
        };
        answers.iter().map(read).collect()
    }
}

impl Forwarded {
    pub fn of(line: &str) -> Forwarded {
        Forwarded {
            line: line.to_owned(),
            body: String::new(),
            has: Vec::new(),
            lacks: Vec::new(),
            trailers: Vec::new(),
            broken: false,
            tunnel: String::new(),
        }
    }

    /// In what the message is another.
    pub fn differs_from(&self, message: &Message) -> Option<String> {
        let fields = |names: &[String]| names.iter().all(|field| message.fields.contains(field));
        let whole = String::from_utf8_lossy(&message.bytes).to_ascii_lowercase();
        let same = message.line == format!("{} HTTP/1.1", self.line)
            && message.body == bytes(&self.body)
            && fields(&self.has)
            && !self.lacks.iter().any(|text| whole.contains(&text.to_ascii_lowercase()))
            && message.trailers == self.trailers
            && message.tunnel == bytes(&self.tunnel);
        (!same).then(|| format!("upstream got {}, not {self:?}", message.shown()))
    }

    /// Whether the message is one that broke off within this one.
    pub fn begins_as(&self, message: &Message) -> bool {
        let whole = String::from_utf8_lossy(&message.bytes).to_ascii_lowercase();
        message.line == format!("{} HTTP/1.1", self.line)
            && bytes(&self.body).starts_with(&message.body)
            && !self.lacks.iter().any(|text| whole.contains(&text.to_ascii_lowercase()))
    }
}

/// `text` with line ends as CRLF and escapes read.
pub fn bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        rest = &rest[next.len_utf8()..];
        match next {
            '\n' => out.extend_from_slice(b"\r\n"),
            '\\' => rest = escape(rest, &mut out),
            plain => out.extend_from_slice(plain.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out
}

/// Reads what follows a backslash; the outcome is what follows that.
fn escape<'t>(text: &'t str, out: &mut Vec<u8>) -> &'t str {
    let kind = text.chars().next().expect("something after `\\`");
    let rest = &text[1..];
    let byte = match kind {
        'r' => b'\r',
        'n' => b'\n',
        't' => b'\t',
        '0' => 0,
        '\\' => b'\\',
        '\n' => return rest,
        'x' => {
            out.push(u8::from_str_radix(&rest[..2], 16).expect("two hex digits"));
            return &rest[2..];
        }
        '(' => {
            let (repeated, rest) = rest.split_once('*').expect("`*` in `\\(`");
            let (times, rest) = rest.split_once(')').expect("`)` after `\\(`");
            let times: usize = times.parse().expect("a number of times");
            out.extend_from_slice(&bytes(repeated).repeat(times));
            return rest;
        }
        other => panic!("`\\{other}` is no escape"),
    };
    out.push(byte);
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_readably() {
        for (text, read) in [
            ("a\nb\n", &b"a\r\nb\r\n"[..]),
            (r"\r\n\t\0\\", b"\r\n\t\0\\"),
            (r"\x80\x0b", b"\x80\x0b"),
            (r"\(a\n*3)b", b"a\na\na\nb"),
            ("a\\\nb", b"ab"),
            ("é", "é".as_bytes()),
        ] {
            assert_eq!(bytes(text), read, "{text}");
        }
    }
}
