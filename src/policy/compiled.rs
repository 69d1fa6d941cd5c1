//! A whole policy, compiled: tables, indexes over them, and a hash of its content.

use std::fmt;

use super::role::{IssuerFacts, Role, Service};
use super::route::Route;
use super::rule::Rule;

/// What a configuration resolves to. Ids in it are positions in these lists.
#[derive(Clone, Debug, Default)]
pub struct PolicyParts {
    pub issuers: Vec<IssuerFacts>,
    pub services: Vec<Service>,
    pub roles: Vec<Role>,
    pub routes: Vec<Route>,
    pub upstreams: Vec<crate::identity::Name>,
    pub rules: Vec<Rule>,
}

/// SHA-256 over the effective policy, the same on every replica that runs the same one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PolicyHash(pub [u8; 32]);

#[derive(Debug)]
pub struct Policy {
    parts: PolicyParts,
    hash: PolicyHash,
}

/// As `sha256:` and lower-case hex.
impl fmt::Display for PolicyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PolicyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
