//! What is counted of rules and routes that have no effect yet.

use crate::metrics::Label;
use crate::policy::decision::ShadowVerdict;

/// What a rule in shadow mode, or `shadow_until`, made of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShadowOutcome {
    WouldAllow,
    WouldDeny,
    /// `shadow_until` let through what is to be denied.
    Unenforced,
}

impl From<&ShadowVerdict> for ShadowOutcome {
    fn from(verdict: &ShadowVerdict) -> ShadowOutcome {
        match verdict {
            ShadowVerdict::WouldAllow(_) => ShadowOutcome::WouldAllow,
            ShadowVerdict::WouldDeny(_) => ShadowOutcome::WouldDeny,
            ShadowVerdict::Unenforced(_) => ShadowOutcome::Unenforced,
        }
    }
}

impl Label for ShadowOutcome {
    const COUNT: usize = 3;

    fn all() -> Vec<ShadowOutcome> {
        vec![ShadowOutcome::WouldAllow, ShadowOutcome::WouldDeny, ShadowOutcome::Unenforced]
    }

    fn labels(self) -> Vec<(&'static str, &'static str)> {
        let value = match self {
            ShadowOutcome::WouldAllow => "would_allow",
            ShadowOutcome::WouldDeny => "would_deny",
            ShadowOutcome::Unenforced => "unenforced",
        };
        vec![("outcome", value)]
    }

    fn position(self) -> usize {
        self as usize
    }
}
