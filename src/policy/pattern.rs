//! Patterns: hosts, methods, and globs over clients and claims; those over paths are next door.
//!
//! There is no expression language here on purpose: whether two patterns overlap, or one lies within
//! the other, can be answered exactly, and the checks of a policy rest on that.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use http::Method;

use super::Host;
pub use super::path_pattern::PathPattern;

/// An exact host, or `*.` and the rest, where `*` is one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    Exact(Host),
    /// What follows the first label, without its dot.
    Wildcard(Host),
}

/// An exact text, or a start that ends in one trailing `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Glob {
    Exact(Arc<str>),
    Prefix(Arc<str>),
}

/// Methods a rule names. `GET` includes `HEAD`; `CONNECT` and `TRACE` cannot be in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodSet(pub(super) Vec<Method>);

/// Why a text is no pattern. Each says what to write instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("a path starts with `/`")]
    NotAbsolute,
    #[error("a path has no empty segments")]
    EmptySegment,
    #[error("`.` and `..` are never part of a path, alone or before a `;`")]
    DotSegment,
    #[error("`**` stands only as the last segment")]
    RestNotLast,
    #[error("`*` stands for one whole segment; a part of a segment cannot be matched")]
    PartialWildcard,
    #[error("a named segment is `{{name}}`, the whole segment, of letters, digits, `_` and `-`")]
    SegmentName,
    #[error("a segment's name is given twice")]
    SegmentNameTwice,
    #[error("paths are written decoded: write the character in place of its `%` escape")]
    Encoded,
    #[error("the query is never matched: leave out `?` and what follows")]
    Query,
    #[error("a path has no `\\` and no control characters")]
    Character,
    #[error("a host has no port in a pattern, and no characters that no host name has")]
    Host,
    #[error("in a host, `*.` stands once and first, for one label; leave `host` out for any")]
    HostWildcard,
    #[error("an empty text matches nothing")]
    Empty,
    #[error("`*` stands only once and last")]
    GlobWildcard,
    #[error("`CONNECT` and `TRACE` are never forwarded, so no rule can name them")]
    MethodNeverServed,
    #[error("methods are case-sensitive: write it in upper case")]
    MethodCase,
    #[error("a method is a word such as `GET`")]
    Method,
    #[error("a gRPC method is `package.Service/Method`, or `package.Service/*` for all of them")]
    Grpc,
}

impl HostPattern {
    pub fn matches(&self, host: &Host) -> bool {
        self.matches_name(host.as_str())
    }

    /// The same for a DNS name that is lower-case already.
    pub(super) fn matches_name(&self, name: &str) -> bool {
        match self {
            HostPattern::Exact(exact) => exact.as_str() == name,
            HostPattern::Wildcard(parent) => parent_of(name) == Some(parent.as_str()),
        }
    }

    /// Whether any host matches both.
    pub fn overlaps(&self, other: &HostPattern) -> bool {
        self.is_within(other) || other.is_within(self)
    }

    /// Whether every host that matches this matches `other`.
    pub fn is_within(&self, other: &HostPattern) -> bool {
        match self {
            HostPattern::Exact(host) => other.matches(host),
            HostPattern::Wildcard(_) => self == other,
        }
    }
}

/// What follows the first label.
pub(super) fn parent_of(name: &str) -> Option<&str> {
    match name.split_once('.') {
        Some(("", _)) | None => None,
        Some((_, parent)) => Some(parent),
    }
}

impl FromStr for HostPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<HostPattern, PatternError> {
        let (host, wildcard) = match text.strip_prefix("*.") {
            Some(parent) => (parent, true),
            None => (text, false),
        };
        if host.contains('*') {
            return Err(PatternError::HostWildcard);
        }
        if host.contains(':') && !(host.starts_with('[') && host.ends_with(']') && !wildcard) {
            return Err(PatternError::Host);
        }
        let host: Host = host.parse().map_err(|_| PatternError::Host)?;
        Ok(if wildcard { HostPattern::Wildcard(host) } else { HostPattern::Exact(host) })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Exact(host) => host.fmt(f),
            HostPattern::Wildcard(parent) => write!(f, "*.{parent}"),
        }
    }
}

impl Glob {
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Glob::Exact(exact) => **exact == *text,
            Glob::Prefix(start) => text.starts_with(&**start),
        }
    }

    /// Whether any text matches both.
    pub(super) fn overlaps(&self, other: &Glob) -> bool {
        match (self, other) {
            (Glob::Exact(text), other) => other.matches(text),
            (one, Glob::Exact(text)) => one.matches(text),
            (Glob::Prefix(one), Glob::Prefix(other)) => {
                one.starts_with(&**other) || other.starts_with(&**one)
            }
        }
    }

    /// Whether every text that matches this matches `other`.
    pub(super) fn is_within(&self, other: &Glob) -> bool {
        match (self, other) {
            (Glob::Exact(text), other) => other.matches(text),
            (Glob::Prefix(one), Glob::Prefix(other)) => one.starts_with(&**other),
            (Glob::Prefix(_), Glob::Exact(_)) => false,
        }
    }

    /// Whether this is `*`.
    pub(super) fn is_everything(&self) -> bool {
        matches!(self, Glob::Prefix(start) if start.is_empty())
    }
}

impl FromStr for Glob {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Glob, PatternError> {
        let (start, glob) = match text.strip_suffix('*') {
            Some(start) => (start, true),
            None => (text, false),
        };
        if text.is_empty() {
            Err(PatternError::Empty)
        } else if start.contains('*') {
            Err(PatternError::GlobWildcard)
        } else {
            Ok(if glob { Glob::Prefix(start.into()) } else { Glob::Exact(start.into()) })
        }
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Glob::Exact(exact) => f.write_str(exact),
            Glob::Prefix(start) => write!(f, "{start}*"),
        }
    }
}

impl MethodSet {
    /// From the methods as they are written in a rule.
    pub fn new<'a>(methods: impl IntoIterator<Item = &'a str>) -> Result<MethodSet, PatternError> {
        methods.into_iter().map(read_method).collect::<Result<_, _>>().map(MethodSet)
    }

    pub fn contains(&self, method: &Method) -> bool {
        self.0.contains(method) || (*method == Method::HEAD && self.0.contains(&Method::GET))
    }

    /// Whether every method of this is one of `other`.
    pub fn is_within(&self, other: &MethodSet) -> bool {
        self.0.iter().all(|method| other.contains(method))
    }

    /// Whether any method is in both.
    pub fn overlaps(&self, other: &MethodSet) -> bool {
        self.0.iter().any(|method| other.contains(method)) || other.0.iter().any(|m| self.contains(m))
    }
}

fn read_method(text: &str) -> Result<Method, PatternError> {
    let method = Method::from_bytes(text.as_bytes()).map_err(|_| PatternError::Method)?;
    match standard_method(&method) {
        Some(standard) if never_served(&standard) => Err(PatternError::MethodNeverServed),
        Some(standard) if standard != method => Err(PatternError::MethodCase),
        _ => Ok(method),
    }
}

/// The method of RFC 9110 or RFC 5789 that this one is, or would be if case did not count.
pub fn standard_method(method: &Method) -> Option<Method> {
    const STANDARD: [Method; 9] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
        Method::CONNECT,
        Method::TRACE,
    ];
    STANDARD.into_iter().find(|standard| standard.as_str().eq_ignore_ascii_case(method.as_str()))
}

/// `CONNECT` and `TRACE` match no rule at all.
pub(super) fn never_served(method: &Method) -> bool {
    *method == Method::CONNECT || *method == Method::TRACE
}

impl fmt::Display for MethodSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, method) in self.0.iter().enumerate() {
            write!(f, "{}{method}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_globs_and_methods() {
        let host = |text: &str| text.parse::<Host>().unwrap();
        let wild: HostPattern = "*.Example.com".parse().unwrap();
        assert!(wild.matches(&host("a.example.com")));
        assert!(!wild.matches(&host("a.b.example.com")) && !wild.matches(&host("example.com")));
        for (text, why) in [
            ("*", PatternError::HostWildcard),
            ("a.*.com", PatternError::HostWildcard),
            ("a:80", PatternError::Host),
            ("a/b", PatternError::Host),
        ] {
            assert_eq!(text.parse::<HostPattern>(), Err(why), "{text}");
        }
        let exact: HostPattern = "a.example.com".parse().unwrap();
        let deeper: HostPattern = "*.a.example.com".parse().unwrap();
        assert!(wild.overlaps(&wild) && wild.overlaps(&exact) && exact.overlaps(&wild));
        assert!(!wild.overlaps(&deeper) && !wild.is_within(&exact) && !exact.overlaps(&deeper));
        assert!("[::1]".parse::<HostPattern>().unwrap().matches(&host("[::1]:443")));
        assert_eq!("*.[::1]".parse::<HostPattern>(), Err(PatternError::Host));
        let glob: Glob = "assistant-*".parse().unwrap();
        assert!(glob.matches("assistant-1") && !glob.matches("my-assistant-1"));
        assert_eq!("a*b".parse::<Glob>(), Err(PatternError::GlobWildcard));
        assert_eq!("".parse::<Glob>(), Err(PatternError::Empty));
        let get = MethodSet::new(["GET"]).unwrap();
        assert!(get.contains(&Method::GET) && get.contains(&Method::HEAD));
        let head = MethodSet::new(["HEAD"]).unwrap();
        assert!(!head.contains(&Method::GET));
        assert!(get.overlaps(&head) && head.overlaps(&get) && head.is_within(&get) && !get.is_within(&head));
        assert!(!get.overlaps(&MethodSet::new(["POST"]).unwrap()));
        let (heads, gets) =
            (MethodSet::new(["HEAD", "PUT"]).unwrap(), MethodSet::new(["GET", "POST"]).unwrap());
        assert!(heads.overlaps(&gets) && gets.overlaps(&heads));
        assert!(!get.contains(&Method::from_bytes(b"get").unwrap()));
        for (text, why) in [
            ("CONNECT", PatternError::MethodNeverServed),
            ("connect", PatternError::MethodNeverServed),
            ("trace", PatternError::MethodNeverServed),
            ("get", PatternError::MethodCase),
            ("G T", PatternError::Method),
            ("", PatternError::Method),
        ] {
            assert_eq!(MethodSet::new([text]), Err(why), "{text}");
        }
    }
}
