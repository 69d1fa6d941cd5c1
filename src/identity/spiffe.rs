//! SPIFFE IDs, parsed as strictly as the SPIFFE-ID standard (§2) says, and patterns over them.
//!
//! A [`SpiffeId`] cannot hold an ID that is not in canonical form, so equality of IDs is equality
//! of bytes. Nothing is decoded, folded or repaired.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A trust domain name: 1 to 255 of `a-z 0-9 . - _`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

/// A workload's SPIFFE ID, `spiffe://<trust domain>/<path>`, at most 2,048 bytes, with a path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: TrustDomain,
}

/// Which SPIFFE IDs a `[service]` stands for: the trust domain is literal, `*` is one whole
/// segment, `**` any number of segments and only last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpiffePattern {
    trust_domain: TrustDomain,
    segments: Vec<PatternSegment>,
    rest: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PatternSegment {
    Literal(String),
    Any,
}

/// Why a text is no SPIFFE ID, trust domain or pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    #[error("a SPIFFE ID starts with `spiffe://`")]
    Scheme,
    #[error("a trust domain has 1 to 255 of `a-z`, `0-9`, `.`, `-` and `_`")]
    TrustDomain,
    #[error("a workload's SPIFFE ID has a path after its trust domain")]
    NoPath,
    #[error("a path segment is empty, or the path ends in `/`")]
    EmptySegment,
    #[error("`.` and `..` are not allowed as path segments")]
    DotSegment,
    #[error("a path segment has only `A-Z`, `a-z`, `0-9`, `.`, `-` and `_`")]
    Character,
    #[error("a SPIFFE ID has at most 2048 bytes")]
    TooLong,
    #[error("`*` stands for one whole segment, `**` for any number and only last")]
    Wildcard,
}

const ID_BYTES_MAX: usize = 2048;
const TRUST_DOMAIN_BYTES_MAX: usize = 255;

impl TrustDomain {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<TrustDomain, SpiffeError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b);
        if (1..=TRUST_DOMAIN_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(TrustDomain(text.into()))
        } else {
            Err(SpiffeError::TrustDomain)
        }
    }
}

impl SpiffeId {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path's segments, in order; never empty.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        path_of(&self.text).unwrap_or_default().split('/')
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<SpiffeId, SpiffeError> {
        if text.len() > ID_BYTES_MAX {
            return Err(SpiffeError::TooLong);
        }
        let (trust_domain, path) = split(text)?;
        path.split('/').try_for_each(check_segment)?;
        Ok(SpiffeId { text: text.into(), trust_domain })
    }
}

/// The trust domain, and the path without its first `/`.
fn split(text: &str) -> Result<(TrustDomain, &str), SpiffeError> {
    let rest = text.strip_prefix("spiffe://").ok_or(SpiffeError::Scheme)?;
    let (trust_domain, path) = match rest.split_once('/') {
        Some((trust_domain, path)) => (trust_domain.parse()?, path),
        None => {
            rest.parse::<TrustDomain>()?;
            return Err(SpiffeError::NoPath);
        }
    };
    Ok((trust_domain, path))
}

fn path_of(text: &str) -> Option<&str> {
    text.strip_prefix("spiffe://")?.split_once('/').map(|(_, path)| path)
}

fn check_segment(segment: &str) -> Result<(), SpiffeError> {
    match segment {
        "" => Err(SpiffeError::EmptySegment),
        "." | ".." => Err(SpiffeError::DotSegment),
        _ if segment.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b)) => Ok(()),
        _ => Err(SpiffeError::Character),
    }
}

impl SpiffePattern {
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Whether no segment of it is literal: every workload of that depth, or all, is named by it.
    pub fn is_everything(&self) -> bool {
        self.segments.iter().all(|segment| matches!(segment, PatternSegment::Any))
    }

    /// An ID that this matches, with `segment` for each wildcard; `None` where that is none, or too long.
    pub fn example(&self, segment: &str) -> Option<SpiffeId> {
        let segments = self.segments.iter().map(|wanted| match wanted {
            PatternSegment::Any => segment,
            PatternSegment::Literal(literal) => literal,
        });
        let path: Vec<&str> = segments.chain(self.rest.then_some(segment)).collect();
        let id = format!("spiffe://{}/{}", self.trust_domain, path.join("/")).parse().ok()?;
        self.matches(&id).then_some(id)
    }

    /// The path's segments, in order; `None` is `*`.
    pub fn segments(&self) -> impl Iterator<Item = Option<&str>> {
        self.segments.iter().map(|segment| match segment {
            PatternSegment::Literal(literal) => Some(literal.as_str()),
            PatternSegment::Any => None,
        })
    }

    /// Whether it ends in `**`.
    pub fn takes_more(&self) -> bool {
        self.rest
    }

    pub fn matches(&self, id: &SpiffeId) -> bool {
        if self.trust_domain != *id.trust_domain() {
            return false;
        }
        let mut segments = id.segments();
        for wanted in &self.segments {
            match (wanted, segments.next()) {
                (_, None) => return false,
                (PatternSegment::Any, Some(_)) => {}
                (PatternSegment::Literal(literal), Some(segment)) if literal == segment => {}
                (PatternSegment::Literal(_), Some(_)) => return false,
            }
        }
        self.rest || segments.next().is_none()
    }
}

impl FromStr for SpiffePattern {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<SpiffePattern, SpiffeError> {
        if text.len() > ID_BYTES_MAX {
            return Err(SpiffeError::TooLong);
        }
        let (trust_domain, path) = split(text)?;
        let (path, rest) = match path {
            "**" => return Ok(SpiffePattern { trust_domain, segments: Vec::new(), rest: true }),
            _ => match path.strip_suffix("/**") {
                Some(start) => (start, true),
                None => (path, false),
            },
        };
        let mut segments = Vec::new();
        for segment in path.split('/') {
            segments.push(match segment {
                "*" => PatternSegment::Any,
                _ if segment.contains('*') => return Err(SpiffeError::Wildcard),
                _ => {
                    check_segment(segment)?;
                    PatternSegment::Literal(segment.to_owned())
                }
            });
        }
        Ok(SpiffePattern { trust_domain, segments, rest })
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({})", self.text)
    }
}

impl fmt::Display for SpiffePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}", self.trust_domain)?;
        for segment in &self.segments {
            match segment {
                PatternSegment::Literal(literal) => write!(f, "/{literal}")?,
                PatternSegment::Any => f.write_str("/*")?,
            }
        }
        if self.rest { f.write_str("/**") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_by_the_letter_of_the_standard() {
        let longest = format!("spiffe://td/{}", "a".repeat(ID_BYTES_MAX - 12));
        for good in ["spiffe://shop.example/ns/prod/sa/storefront", "spiffe://a_b-1/X.y", &longest] {
            let id: SpiffeId = good.parse().unwrap();
            assert_eq!(id.as_str(), good);
        }
        let too_long = format!("{longest}a");
        let long_domain = format!("spiffe://{}/a", "d".repeat(256));
        for (bad, why) in [
            ("", SpiffeError::Scheme),
            ("https://td/a", SpiffeError::Scheme),
            ("SPIFFE://td/a", SpiffeError::Scheme),
            ("spiffe:/td/a", SpiffeError::Scheme),
            ("spiffe://td", SpiffeError::NoPath),
            ("spiffe:///a", SpiffeError::TrustDomain),
            ("spiffe://TD/a", SpiffeError::TrustDomain),
            ("spiffe://u@td/a", SpiffeError::TrustDomain),
            ("spiffe://td:80/a", SpiffeError::TrustDomain),
            ("spiffe://td%41/a", SpiffeError::TrustDomain),
            (&long_domain, SpiffeError::TrustDomain),
            ("spiffe://td/", SpiffeError::EmptySegment),
            ("spiffe://td/a/", SpiffeError::EmptySegment),
            ("spiffe://td//a", SpiffeError::EmptySegment),
            ("spiffe://td/a/../b", SpiffeError::DotSegment),
            ("spiffe://td/.", SpiffeError::DotSegment),
            ("spiffe://td/a?b", SpiffeError::Character),
            ("spiffe://td/a#b", SpiffeError::Character),
            ("spiffe://td/a%2fb", SpiffeError::Character),
            ("spiffe://td/a\0b", SpiffeError::Character),
            ("spiffe://td/é", SpiffeError::Character),
            ("spiffe://td/*", SpiffeError::Character),
            (&too_long, SpiffeError::TooLong),
        ] {
            assert_eq!(bad.parse::<SpiffeId>(), Err(why), "{bad}");
        }
    }

    #[test]
    fn patterns_never_cross_a_segment_or_a_trust_domain() {
        let cases = [
            ("spiffe://td/ns/*/sa/web", "spiffe://td/ns/prod/sa/web", true),
            ("spiffe://td/ns/*/sa/web", "spiffe://td/ns/a/b/sa/web", false),
            ("spiffe://td/ns/*/sa/web", "spiffe://td/ns/prod/sa/webx", false),
            ("spiffe://td/ns/*", "spiffe://td/ns", false),
            ("spiffe://td/ns/**", "spiffe://td/ns", true),
            ("spiffe://td/ns/**", "spiffe://td/ns/prod/sa/web", true),
            ("spiffe://td/ns/**", "spiffe://td/nsx", false),
            ("spiffe://td/**", "spiffe://td/a", true),
            ("spiffe://td/**", "spiffe://other/a", false),
            ("spiffe://a.b/x", "spiffe://axb/x", false),
            ("spiffe://td/a.b", "spiffe://td/aXb", false),
        ];
        for (pattern, id, expected) in cases {
            let pattern: SpiffePattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(&id.parse().unwrap()), expected, "{pattern} {id}");
        }
        let too_long = format!("spiffe://td/{}", "a".repeat(ID_BYTES_MAX - 11));
        for (bad, why) in [
            ("spiffe://td/a*", SpiffeError::Wildcard),
            ("spiffe://td/**/a", SpiffeError::Wildcard),
            ("spiffe://*/a", SpiffeError::TrustDomain),
            ("spiffe://*", SpiffeError::TrustDomain),
            ("spiffe://td", SpiffeError::NoPath),
            ("spiffe://td/", SpiffeError::EmptySegment),
            (&too_long, SpiffeError::TooLong),
        ] {
            assert_eq!(bad.parse::<SpiffePattern>(), Err(why), "{bad}");
        }
        assert!(too_long[..ID_BYTES_MAX].parse::<SpiffePattern>().is_ok());
        let text = "spiffe://td/ns/*/sa/**";
        assert_eq!(text.parse::<SpiffePattern>().unwrap().to_string(), text);
    }
}
