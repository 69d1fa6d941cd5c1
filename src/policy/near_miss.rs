//! Of a denial: the rule that came closest and what it lacked, in words.

use super::RuleId;

/// The nearest rule and what failed there; the same pick as the challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    pub rule: RuleId,
    /// One for each failing condition, in the order of the closed list of reasons; never empty.
    pub failures: Vec<Failure>,
}

/// One failing condition: what it wants against what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The condition's key in the configuration, as `role`.
    pub condition: &'static str,
    /// As `role order-reader: scope orders:read or group support`.
    pub wanted: String,
    /// As `the token has scope orders:write`.
    pub seen: String,
}
