//! Patterns: paths, hosts, methods, and globs over clients and claims.

use http::Method;
use std::sync::Arc;

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

/// An exact host, or `*.` and the rest, where `*` is one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    Exact(super::Host),
    /// What follows the first label, without its dot.
    Wildcard(super::Host),
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
