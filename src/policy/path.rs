//! The one normal form of a path. A [`NormalPath`] is judged and, byte for byte, forwarded.

use std::fmt;

/// A request path in normal form: starts with `/`; unreserved characters decoded, every other
/// escape kept in upper-case hex; no dot segments, no empty segments but one trailing slash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NormalPath {
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the path does not start with `/`")]
    NotAbsolute,
}

impl NormalPath {
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for NormalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
