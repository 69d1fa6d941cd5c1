//! Rules as the configuration states them, with names resolved: `[[allow]]`, `[[deny]]`, `[[require]]`.

use super::Condition;
use crate::clock::Timestamp;

/// One rule. All its conditions must hold.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Unique, in the words of its author; what records and denials cite.
    pub name: String,
    pub effect: Effect,
    /// At most one of each kind.
    pub conditions: Vec<Condition>,
    pub mode: Mode,
    /// First moment at which an allow holds.
    pub not_before: Timestamp,
    /// First moment at which an allow no longer holds.
    pub expires: Timestamp,
    /// Copied to the record.
    pub owner: Option<String>,
    /// Copied to the record.
    pub ticket: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Allow,
    Deny,
    Require,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Enforce,
    /// Evaluated, counted and recorded, without effect.
    Shadow,
}

impl Effect {
    pub fn as_str(self) -> &'static str {
        match self {
            Effect::Allow => "allow",
            Effect::Deny => "deny",
            Effect::Require => "require",
        }
    }
}
