//! Names that the configuration gives to things: services, roles, issuers, routes, upstreams.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// A name given in the configuration: 1 to 64 of `A-Z a-z 0-9 _ -`. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// Why a text is no [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to 64 letters, digits, `_` or `-`")]
pub struct NameError;

/// Words that rules use in place of a name.
const RESERVED: [&str; 2] = ["any", "none"];

impl Name {
    /// Whether a rule would read this name as `"any"` or `"none"`.
    pub fn is_reserved(&self) -> bool {
        RESERVED.contains(&&*self.0)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Name, NameError> {
        let fits = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if fits { Ok(Name(text.into())) } else { Err(NameError) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl serde::Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_plain() {
        for good in ["orders", "orders-next", "A_1", &"x".repeat(64)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "a b", "a.b", "é", "a/b", &"x".repeat(65)] {
            assert_eq!(bad.parse::<Name>(), Err(NameError), "{bad}");
        }
        for (name, reserved) in [("any", true), ("none", true), ("Any", false), ("anyone", false)] {
            assert_eq!(name.parse::<Name>().unwrap().is_reserved(), reserved, "{name}");
        }
    }
}
