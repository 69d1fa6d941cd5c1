//! The kind of who is acting now, and the chain of those who act for somebody (RFC 8693 `act`).

use std::fmt;
use std::sync::Arc;

/// What kind of actor a token speaks of. Declared per issuer, never guessed.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum ActorKind {
    Human,
    Service,
    Agent,
    /// No entry of the issuer matched, or two that contradict each other.
    Unknown,
}

/// One link of an `act` chain: who acts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Delegate {
    pub subject: Arc<str>,
    /// The `iss` inside the `act` claim, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<Arc<str>>,
}

impl ActorKind {
    pub const ALL: [ActorKind; 4] =
        [ActorKind::Human, ActorKind::Service, ActorKind::Agent, ActorKind::Unknown];

    pub fn as_str(self) -> &'static str {
        match self {
            ActorKind::Human => "human",
            ActorKind::Service => "service",
            ActorKind::Agent => "agent",
            ActorKind::Unknown => "unknown",
        }
    }
}

impl fmt::Display for ActorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
