//! The one decision. Synchronous, without I/O: all that is read comes in as values, the present
//! moment included; TLS, tokens, hyper, caches and clocks are unknown here.
//!
//! A [`Policy`] is compiled once a reload. A request is judged in two steps: a [`Standing`] (which
//! rules' identity conditions hold for this peer and caller; cacheable) and [`decide`], which joins
//! it with the action and its circumstances. Nothing but `decision.rs` can make a [`Permit`].
//!
//! - What a request is judged by: `path`, `action`, `condition`, `claim`, `pattern`, `role`, `route`, `rule`.
//! - How: `judge` alone says whether a condition holds; `index` finds the rules that an action reaches;
//!   `near_miss` and `words` say what was lacking, `reading` says it of every rule.
//! - What keeps a policy from serving, or looks wrong: `check` with `never`, `evade` and `reach`; `lint`
//!   with `wider`.

pub mod action;
pub mod cells;
mod check;
pub mod claim;
pub mod compiled;
pub mod condition;
pub mod decision;
pub mod difference;
mod evade;
mod index;
mod judge;
pub mod lint;
pub mod near_miss;
mod never;
pub mod path;
mod path_pattern;
pub mod pattern;
mod reach;
pub mod reading;
pub mod role;
pub mod route;
pub mod rule;
pub mod standing;
mod wider;
mod words;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests_challenges;
#[cfg(test)]
mod tests_check;
#[cfg(test)]
mod tests_decision;
#[cfg(test)]
mod tests_lint;
#[cfg(test)]
mod tests_lists;
#[cfg(test)]
mod tests_reading;
#[cfg(test)]
mod tests_rollout;
#[cfg(test)]
mod tests_routes;

pub use action::{Action, Circumstances, Host};
pub use compiled::{Policy, PolicyHash, PolicyParts};
pub use condition::Condition;
pub use decision::{
    Cause, Challenge, Decision, Denial, Evidence, Permit, Request, ShadowVerdict, Verdict, decide,
};
pub use lint::{Finding, Item, Place, Severity};
pub use near_miss::{Failure, NearMiss};
pub use path::{NormalPath, PathError};
pub use reading::Reading;
pub use standing::Standing;

/// Positions in the tables of one [`Policy`]; without meaning in any other.
macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);

        impl $name {
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    )+};
}

ids! {
    /// A `[service.NAME]`.
    ServiceId,
    /// A `[role.NAME]`.
    RoleId,
    /// An `[issuer.NAME]`.
    IssuerId,
    /// A `[route.NAME]`.
    RouteId,
    /// An `[upstream.NAME]`.
    UpstreamId,
    /// An `[[allow]]`, `[[deny]]` or `[[require]]`.
    RuleId,
}
