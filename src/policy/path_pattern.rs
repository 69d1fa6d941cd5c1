//! Patterns over paths, which routes and rules share.
//!
//! There is no expression language here on purpose: whether two patterns overlap, or one lies within
//! the other, can be answered exactly, and the checks of a policy rest on that.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::path::is_dots;
use super::pattern::PatternError;

/// A pattern over whole, non-empty segments of a [`super::NormalPath`]: a literal, `{name}`, `*`,
/// and `**` only last, for zero or more. Without `**` it is exact. Written decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    pub(super) segments: Vec<Segment>,
    /// Ends in `**`.
    pub(super) rest: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// Decoded.
    Literal(Arc<str>),
    /// `{name}`: one segment, which `match_claim` can read.
    Named(Arc<str>),
    /// `*`: one segment.
    Any,
}

impl PathPattern {
    /// Whether the segments, decoded once, are all and in order what the pattern says.
    pub fn matches(&self, path: &[Cow<'_, str>]) -> bool {
        let length_fits =
            if self.rest { path.len() >= self.segments.len() } else { path.len() == self.segments.len() };
        length_fits
            && self.segments.iter().zip(path).all(|(wanted, segment)| match wanted {
                Segment::Literal(literal) => **literal == **segment,
                Segment::Named(_) | Segment::Any => true,
            })
    }

    /// Where the segment `{name}` stands, from 0.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.segments.iter().position(|segment| matches!(segment, Segment::Named(n) if **n == *name))
    }

    /// Whether any path matches both.
    pub fn overlaps(&self, other: &PathPattern) -> bool {
        let (long, short) =
            if self.segments.len() >= other.segments.len() { (self, other) } else { (other, self) };
        (long.segments.len() == short.segments.len() || short.rest)
            && long.segments.iter().zip(&short.segments).all(|pair| match pair {
                (Segment::Literal(a), Segment::Literal(b)) => a == b,
                _ => true,
            })
    }

    /// Whether every path that matches this matches `other`.
    pub fn is_within(&self, other: &PathPattern) -> bool {
        let length_fits = if self.segments.len() == other.segments.len() {
            other.rest || !self.rest
        } else {
            self.segments.len() > other.segments.len() && other.rest
        };
        length_fits
            && self.segments.iter().zip(&other.segments).all(|pair| match pair {
                (Segment::Literal(a), Segment::Literal(b)) => a == b,
                (_, Segment::Literal(_)) => false,
                _ => true,
            })
    }

    /// Whether this is `/**`, or no more than wildcards before it.
    pub(super) fn is_everything(&self) -> bool {
        self.rest && !self.segments.iter().any(|segment| matches!(segment, Segment::Literal(_)))
    }

    /// Whether this ends in `**`, and `path` lies somewhere below it.
    pub(super) fn is_tree_around(&self, path: &PathPattern) -> bool {
        self.rest && path.is_within(self) && !self.is_within(path)
    }

    /// How many segments, from the first, are literal.
    pub fn literal_start(&self) -> usize {
        self.segments.iter().take_while(|segment| matches!(segment, Segment::Literal(_))).count()
    }
}

impl FromStr for PathPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<PathPattern, PatternError> {
        let path = text.strip_prefix('/').ok_or(PatternError::NotAbsolute)?;
        let path = path.strip_suffix('/').unwrap_or(path);
        let mut segments = Vec::new();
        if text == "/" {
            return Ok(PathPattern { segments, rest: false });
        }
        let mut rest = false;
        for segment in path.split('/') {
            if rest {
                return Err(PatternError::RestNotLast);
            }
            if segment == "**" {
                rest = true;
                continue;
            }
            let segment = parse_segment(segment)?;
            if matches!(segment, Segment::Named(_)) && segments.contains(&segment) {
                return Err(PatternError::SegmentNameTwice);
            }
            segments.push(segment);
        }
        Ok(PathPattern { segments, rest })
    }
}

fn parse_segment(segment: &str) -> Result<Segment, PatternError> {
    if let Some(name) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        let fits = !name.is_empty() && name.bytes().all(plain);
        return if fits { Ok(Segment::Named(name.into())) } else { Err(PatternError::SegmentName) };
    }
    match segment {
        "" => Err(PatternError::EmptySegment),
        _ if is_dots(segment) => Err(PatternError::DotSegment),
        "*" => Ok(Segment::Any),
        _ if segment.contains('*') => Err(PatternError::PartialWildcard),
        _ if segment.contains(['{', '}']) => Err(PatternError::SegmentName),
        _ if segment.contains('?') => Err(PatternError::Query),
        _ if segment.contains(|c: char| c == '\\' || c.is_ascii_control()) => Err(PatternError::Character),
        _ if has_escape(segment) => Err(PatternError::Encoded),
        _ => Ok(Segment::Literal(segment.into())),
    }
}

fn has_escape(text: &str) -> bool {
    text.as_bytes()
        .windows(3)
        .any(|three| matches!(three, [b'%', a, b] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit()))
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.segments.is_empty() && !self.rest {
            return f.write_str("/");
        }
        for segment in &self.segments {
            match segment {
                Segment::Literal(literal) => write!(f, "/{literal}")?,
                Segment::Named(name) => write!(f, "/{{{name}}}")?,
                Segment::Any => f.write_str("/*")?,
            }
        }
        if self.rest { f.write_str("/**") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::NormalPath;

    fn pattern(text: &str) -> PathPattern {
        text.parse().unwrap()
    }

    fn matches(text: &str, path: &str) -> bool {
        let path = NormalPath::parse(path).unwrap();
        pattern(text).matches(&path.segments().collect::<Vec<_>>())
    }

    #[test]
    fn a_path_pattern_speaks_of_whole_segments() {
        let cases = [
            ("/", "/", true),
            ("/", "/a", false),
            ("/**", "/", true),
            ("/**", "/a/b", true),
            ("/admin/**", "/admin", true),
            ("/admin/**", "/admin/", true),
            ("/admin/**", "/admin/x/y", true),
            ("/admin/**", "/administrator", false),
            ("/admin/**", "/Admin", false),
            ("/admin", "/admin/", true),
            ("/admin/", "/admin", true),
            ("/admin", "/admin/x", false),
            ("/a/*", "/a", false),
            ("/a/*", "/a/", false),
            ("/a/*", "/a/b", true),
            ("/a/*", "/a/b/c", false),
            ("/a/{x}/c", "/a/b/c", true),
            ("/a/{x_y-1}", "/a/b", true),
            ("/a/*/**", "/a", false),
            ("/auth0|x", "/auth0%7Cx", true),
            ("/auth0|x", "/auth0%257Cx", false),
            ("/café", "/caf%C3%A9", true),
            ("/100%", "/100%25", true),
        ];
        let mut seen = 0;
        for (text, path, expected) in cases {
            assert_eq!(matches(text, path), expected, "{text} {path}");
            seen += 1;
        }
        assert_eq!(seen, 23);
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        use PatternError::*;
        for (text, why) in [
            ("", NotAbsolute),
            ("a", NotAbsolute),
            ("//", EmptySegment),
            ("/a//b", EmptySegment),
            ("/a/../b", DotSegment),
            ("/a/..;x/b", DotSegment),
            ("/**/a", RestNotLast),
            ("/a*", PartialWildcard),
            ("/a/***", PartialWildcard),
            ("/{}", SegmentName),
            ("/{a b}", SegmentName),
            ("/x{a}", SegmentName),
            ("/{a}/{a}", SegmentNameTwice),
            ("/a%7Cb", Encoded),
            ("/a?b=c", Query),
            ("/a\\b", Character),
        ] {
            assert_eq!(text.parse::<PathPattern>(), Err(why), "{text}");
        }
        for text in ["/", "/**", "/a/{b}/*/**", "/a/b"] {
            assert_eq!(pattern(text).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn overlap_and_within_agree_with_matching(
            a in "(/(a|b|\\*)){0,3}(/\\*\\*)?",
            b in "(/(a|b|\\*)){0,3}(/\\*\\*)?",
        ) {
            let (a, b) = (pattern(&format!("/{}", a.trim_start_matches('/'))),
                          pattern(&format!("/{}", b.trim_start_matches('/'))));
            // every path of up to five segments over an alphabet that has a letter neither names
            let mut paths: Vec<Vec<Cow<'static, str>>> = vec![Vec::new()];
            let mut from = 0;
            for _ in 0..5 {
                let to = paths.len();
                for at in from..to {
                    for letter in ["a", "b", "c"] {
                        let mut longer = paths[at].clone();
                        longer.push(letter.into());
                        paths.push(longer);
                    }
                }
                from = to;
            }
            let both = paths.iter().any(|path| a.matches(path) && b.matches(path));
            prop_assert_eq!(a.overlaps(&b), both);
            prop_assert_eq!(b.overlaps(&a), both);
            let within = paths.iter().all(|path| !a.matches(path) || b.matches(path));
            prop_assert_eq!(a.is_within(&b), within);
        }
    }
}
