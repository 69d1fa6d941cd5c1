//! The one normal form of a path. A [`NormalPath`] is judged and, byte for byte, forwarded.
//!
//! There is one mode. What two servers could read in two ways is refused, never repaired: dot and
//! empty segments, `\`, `;`, encoded delimiters and control bytes. An encoded `;` is data, but not
//! behind dots. An escape is decoded at most once in the life of a request, when a segment is compared.

use std::borrow::Cow;
use std::fmt;

use percent_encoding::percent_decode_str;

/// A request path in normal form: starts with `/`; unreserved characters decoded, every other
/// escape kept in upper-case hex; no dot segments, no empty segments but one trailing slash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NormalPath {
    text: String,
}

/// Why a text is no path that is served. All of them are `request_malformed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the path does not start with `/`")]
    NotAbsolute,
    #[error("the path has an empty segment")]
    EmptySegment,
    #[error("the path has the segment `.` or `..`, or an encoding of it, alone or before a `;`")]
    DotSegment,
    #[error("the path has a `%` that two hexadecimal digits do not follow")]
    Escape,
    #[error("the path encodes `/`, `\\`, NUL or another control byte")]
    EncodedDelimiter,
    #[error("the path has a character that RFC 3986 does not allow there, or `;`")]
    Character,
    #[error("the path is not UTF-8 when decoded")]
    NotUtf8,
    #[error("the path is not under the prefix that the route strips")]
    NotUnderPrefix,
}

impl NormalPath {
    /// Reads a path without its query, as it stands in the request line or `:path`.
    pub fn parse(raw: &str) -> Result<NormalPath, PathError> {
        let segments = raw.strip_prefix('/').ok_or(PathError::NotAbsolute)?;
        let mut text = String::with_capacity(raw.len());
        let mut rest = Some(segments);
        while let Some(here) = rest {
            let (segment, after) = match here.split_once('/') {
                Some((segment, after)) => (segment, Some(after)),
                None => (here, None),
            };
            if segment.is_empty() && after.is_some() {
                return Err(PathError::EmptySegment);
            }
            text.push('/');
            normalise_segment(segment, &mut text)?;
            rest = after;
        }
        Ok(NormalPath { text })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The segments, each decoded once; a trailing slash adds none, so `/` has none at all.
    pub fn segments(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.raw_segments().map(decoded)
    }

    /// The path that is left when `prefix` is taken off its start, whole segments only, compared
    /// decoded. What is left goes through [`NormalPath::parse`] again.
    pub fn strip_prefix(&self, prefix: &NormalPath) -> Result<NormalPath, PathError> {
        let mut length = 0;
        let mut own = self.raw_segments();
        for wanted in prefix.segments() {
            let segment = own.next().ok_or(PathError::NotUnderPrefix)?;
            if decoded(segment) != wanted {
                return Err(PathError::NotUnderPrefix);
            }
            length += 1 + segment.len();
        }
        match self.text.get(length..) {
            Some("") | None => NormalPath::parse("/"),
            Some(rest) => NormalPath::parse(rest),
        }
    }

    fn raw_segments(&self) -> impl Iterator<Item = &str> {
        self.text.split('/').filter(|segment| !segment.is_empty())
    }
}

fn decoded(segment: &str) -> Cow<'_, str> {
    percent_decode_str(segment).decode_utf8_lossy()
}

fn normalise_segment(segment: &str, text: &mut String) -> Result<(), PathError> {
    let start = text.len();
    let mut beyond_ascii = false;
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            if !is_plain(byte) {
                return Err(PathError::Character);
            }
            text.push(char::from(byte));
            continue;
        }
        let (Some(high), Some(low)) = (bytes.next().and_then(hex_value), bytes.next().and_then(hex_value))
        else {
            return Err(PathError::Escape);
        };
        let value = high << 4 | low;
        if value.is_ascii_control() || value == b'/' || value == b'\\' {
            return Err(PathError::EncodedDelimiter);
        }
        if is_unreserved(value) {
            text.push(char::from(value));
        } else {
            text.push('%');
            text.push(hex_digit(high));
            text.push(hex_digit(low));
        }
        beyond_ascii |= !value.is_ascii();
    }
    let normal = text.get(start..).unwrap_or_default();
    if normal.starts_with('.') && is_dots(&decoded(normal)) {
        return Err(PathError::DotSegment);
    }
    if beyond_ascii && percent_decode_str(normal).decode_utf8().is_err() {
        return Err(PathError::NotUtf8);
    }
    Ok(())
}

/// Whether some server takes a decoded segment for a way to go: `.` or `..`, also where parameters
/// follow that it cuts off first.
pub(super) fn is_dots(segment: &str) -> bool {
    matches!(segment.split(';').next(), Some("." | ".."))
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// RFC 3986 §3.3 `pchar`, less the escape and less `;`, which starts path parameters on some
/// servers and is data on others.
fn is_plain(byte: u8) -> bool {
    is_unreserved(byte) || b"!$&'()*+,=:@".contains(&byte)
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn hex_digit(value: u8) -> char {
    char::from(if value < 10 { b'0' + value } else { b'A' + value - 10 })
}

impl fmt::Display for NormalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_have_one_normal_form() {
        let cases = [
            ("/", "/"),
            ("/a", "/a"),
            ("/a/", "/a/"),
            ("/a/b.c/~d_e-f", "/a/b.c/~d_e-f"),
            ("/%61%2D%2e%5f%7E", "/a-._~"),
            ("/a%2dB%30", "/a-B0"),
            ("/auth0%7calice", "/auth0%7Calice"),
            ("/auth0%7Calice", "/auth0%7Calice"),
            ("/auth0%257Calice", "/auth0%257Calice"),
            ("/%252e%252e/a", "/%252e%252e/a"),
            ("/%25%32%65", "/%252e"),
            ("/%3bx", "/%3Bx"),
            ("/%3Fq", "/%3Fq"),
            ("/%23", "/%23"),
            ("/a%20b", "/a%20b"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/!$&'()*+,=:@", "/!$&'()*+,=:@"),
            ("/...", "/..."),
            ("/.a/a./..a", "/.a/a./..a"),
            ("/...%3b/a..%3b/.a%3b..", "/...%3B/a..%3B/.a%3B.."),
            ("/..%253bx", "/..%253bx"),
            ("/A/a", "/A/a"),
        ];
        let mut seen = 0;
        for (raw, normal) in cases {
            assert_eq!(NormalPath::parse(raw).unwrap().as_str(), normal, "{raw}");
            seen += 1;
        }
        assert_eq!(seen, 22);
    }

    #[test]
    fn what_two_servers_could_read_in_two_ways_is_refused() {
        use PathError::*;
        let cases = [
            ("", NotAbsolute),
            ("*", NotAbsolute),
            ("a/b", NotAbsolute),
            ("pkg.Service/Method", NotAbsolute),
            ("http://h/a", NotAbsolute),
            ("//", EmptySegment),
            ("//a", EmptySegment),
            ("/a//b", EmptySegment),
            ("/a//", EmptySegment),
            ("/.", DotSegment),
            ("/..", DotSegment),
            ("/a/./b", DotSegment),
            ("/a/../b", DotSegment),
            ("/a/%2e/b", DotSegment),
            ("/a/%2e%2E/b", DotSegment),
            ("/a/.%2e/b", DotSegment),
            ("/a/%2E.", DotSegment),
            ("/a/../", DotSegment),
            ("/a/..%3Bx/b", DotSegment),
            ("/a/.%3bx=1/b", DotSegment),
            ("/a/%2e%2E%3b", DotSegment),
            ("/..%3b%3b../b", DotSegment),
            ("/a/..%3b%C3%A9", DotSegment),
            ("/a;b", Character),
            ("/a/..;/b", Character),
            ("/a;x=1/b", Character),
            ("/a\\b", Character),
            ("/..\\b", Character),
            ("/a#b", Character),
            ("/a?b", Character),
            ("/a b", Character),
            ("/a\tb", Character),
            ("/a\0b", Character),
            ("/a\u{7f}", Character),
            ("/caf\u{e9}", Character),
            ("/\u{2215}", Character),
            ("/a\"b", Character),
            ("/a<b", Character),
            ("/a[b]", Character),
            ("/a|b", Character),
            ("/a^b", Character),
            ("/a`b", Character),
            ("/{a}", Character),
            ("/a%2fb", EncodedDelimiter),
            ("/a%2Fb", EncodedDelimiter),
            ("/..%2fb", EncodedDelimiter),
            ("/a%5cb", EncodedDelimiter),
            ("/a%5Cb", EncodedDelimiter),
            ("/a%00", EncodedDelimiter),
            ("/a%0a", EncodedDelimiter),
            ("/a%0D", EncodedDelimiter),
            ("/a%09", EncodedDelimiter),
            ("/a%7f", EncodedDelimiter),
            ("/%", Escape),
            ("/a%", Escape),
            ("/a%2", Escape),
            ("/a%2/b", Escape),
            ("/%zz", Escape),
            ("/%u002e", Escape),
            ("/%+1", Escape),
            ("/% 1", Escape),
            ("/%c0%ae", NotUtf8),
            ("/%c0%af", NotUtf8),
            ("/%e0%80%af", NotUtf8),
            ("/%ff", NotUtf8),
            ("/%c3", NotUtf8),
            ("/%c3/%a9", NotUtf8),
            ("/%ed%a0%80", NotUtf8),
            ("/%f4%90%80%80", NotUtf8),
        ];
        let mut seen = 0;
        for (raw, why) in cases {
            assert_eq!(NormalPath::parse(raw), Err(why), "{raw:?}");
            seen += 1;
        }
        assert_eq!(seen, 69);
    }

    #[test]
    fn segments_are_decoded_exactly_once_and_borrowed_where_they_can_be() {
        let path = NormalPath::parse("/a/auth0%7Cx/%257C/").unwrap();
        let segments: Vec<_> = path.segments().collect();
        assert_eq!(segments, ["a", "auth0|x", "%7C"]);
        assert!(matches!(segments[0], Cow::Borrowed(_)));
        assert_eq!(NormalPath::parse("/").unwrap().segments().count(), 0);
    }

    #[test]
    fn a_prefix_is_stripped_by_whole_segments() {
        let cases = [
            ("/api/v1/x", "/api", Ok("/v1/x")),
            ("/api/v1/", "/api/", Ok("/v1/")),
            ("/api", "/api", Ok("/")),
            ("/api/", "/api", Ok("/")),
            ("/a%21/x", "/a!", Ok("/x")),
            ("/x", "/", Ok("/x")),
            ("/apis/x", "/api", Err(PathError::NotUnderPrefix)),
            ("/x/api", "/api", Err(PathError::NotUnderPrefix)),
            ("/", "/api", Err(PathError::NotUnderPrefix)),
        ];
        let mut seen = 0;
        for (path, prefix, left) in cases {
            let stripped = NormalPath::parse(path).unwrap().strip_prefix(&NormalPath::parse(prefix).unwrap());
            assert_eq!(stripped.as_ref().map(NormalPath::as_str), left.as_ref().copied(), "{path}");
            seen += 1;
        }
        assert_eq!(seen, 9);
    }

    proptest! {
        #[test]
        fn the_normal_form_is_its_own_normal_form(raw in "/([a-z./;%]|%[2-7][0-9a-fA-F]|%25|%C3%A9){0,24}") {
            if let Ok(path) = NormalPath::parse(&raw) {
                prop_assert_eq!(NormalPath::parse(path.as_str()), Ok(path.clone()));
                for segment in path.segments() {
                    prop_assert!(!segment.is_empty());
                    prop_assert!(!segment.split(';').next().is_some_and(|name| [".", ".."].contains(&name)));
                    prop_assert!(!segment.contains(['/', '\\', '\0']));
                }
            }
        }

        #[test]
        fn no_text_makes_the_parser_fall(raw in any::<String>()) {
            let _ = NormalPath::parse(&raw);
        }
    }
}
