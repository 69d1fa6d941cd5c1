//! What a change of policy newly allows, newly denies, and sends elsewhere, each part with a request that
//! shows it.
//!
//! Why nothing is missed. Let a request be permitted by one policy (by its allow A) and denied by the other.
//! 1. Every condition is positive, and what a request has beyond what some way of holding demands can only make
//!    more conditions hold. So the rules that matter here are written out into ways ([`crate::policy::cells`]).
//! 2. What is not positive (which route is chosen, which kind acts, who is known, which lengths exact patterns
//!    have, methods, times, being without a credential) has finitely many cells. The request lies in one.
//! 3. Take from the request all but what is demanded by the way in which A holds, by the entries of the routes
//!    that are chosen, by the ways in which the requires that reach it are met and its token may be carried, and,
//!    if the other policy denies it by a deny, an unmet require or a service that may not carry the token, by the
//!    way in which that holds. Every free segment and claim gets a value that no policy names.
//! 4. What is left has no condition fulfilled that the request had not, in the same cell: so no deny of the one
//!    policy and no allow of the other holds of it that did not hold before, no better route fits, no more
//!    requires reach it, and no more services name its peer. It is permitted by A, and denied, as the request was.
//! 5. All such remainders are built: each way of A, alone and joined with each way of each barrier of the other
//!    policy, in each cell; requires and carriers of the permitting policy are joined where they turn out to stop
//!    it. Each is judged by [`decide`](crate::policy::decide) itself under both policies, so nothing is reported
//!    that does not flip.
//! 6. A rule that says the same in both policies is a reason for a difference in neither: such pairs are left
//!    out, and nothing else is.

mod addresses;
mod alike;
mod alone;
mod approach;
mod barriers;
mod build;
mod cells;
#[cfg(test)]
pub(crate) mod coverage;
mod elsewhere;
mod except;
mod grid;
mod moments;
mod regions;
mod search;
mod tables;
mod witness;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};
use serde_json::{Map, Value};

pub use alone::{Alone, Closed, Tried, Ways};
pub use approach::Approach;
pub use cells::{CallerCell, Cell, PeerCell};
pub use except::UNENFORCED;
pub use regions::{Part, Region, Word, said};
pub use search::Comparison;

use super::cells::{Built, Demand, Gap, Shape, Side};
use super::{Cause, Host, IssuerId, NormalPath, RuleId, UpstreamId};
use crate::clock::Timestamp;
use crate::identity::{Caller, CertificateHash, Hop, Peer, Signature};

/// The certificate of every peer that is made up.
pub const STAND_IN: CertificateHash = CertificateHash([0; 32]);

/// The issuers that can have signed one and the same token, under each policy.
#[derive(Clone, Copy, Debug)]
pub struct Vouched {
    pub ids: [Option<IssuerId>; 2],
    /// Whether both read all its tokens alike.
    pub alike: bool,
    /// By how much each lets a token's times be off.
    pub leeways: [Duration; 2],
}

/// A token, and what it says under each policy: the code of a refusal where it is refused before any rule.
#[derive(Clone, Debug)]
pub struct Token {
    pub claims: Map<String, Value>,
    /// The path that goes with it: segments can be tied to claims.
    pub path: Vec<Arc<str>>,
    pub callers: [Result<Signature<Caller>, &'static str>; 2],
}

/// The code of a refusal for want of the certificate that the caller's token is bound to.
pub type Binding<'r> = dyn Fn(&Caller, Option<&CertificateHash>) -> Result<(), &'static str> + 'r;

/// By the place of the issuers and the way to act.
pub type Minting<'r> = dyn Fn(usize, usize, &Demand, &Shape, Timestamp) -> Built<Token> + 'r;

/// Where tokens come from: this module knows demands, not claims.
#[derive(Clone, Copy)]
pub struct Realm<'r> {
    pub vouched: &'r [Vouched],
    /// The ways in which a token of these issuers can tell who acts, as far as the demand takes them.
    pub acting: &'r dyn Fn(usize, &Demand) -> Vec<usize>,
    /// The token that fulfils the demand in one of these ways, and nothing else. The path's segments come along,
    /// as far as they are known.
    pub token: &'r Minting<'r>,
    /// Whether a token counts in the hands of whoever has this certificate. Every peer that is made up has
    /// [`STAND_IN`].
    pub bound: &'r Binding<'r>,
    /// Why some ways to act are not among those.
    pub gaps: &'r BTreeSet<Gap>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    Allowed,
    Denied,
    /// Allowed by both, and passed to another upstream.
    Elsewhere,
}

/// One request that the two policies judge differently.
#[derive(Clone, Debug)]
pub struct Witness {
    pub peer: Signature<Peer>,
    /// With the place of its issuers.
    pub token: Option<(usize, Token)>,
    pub method: Method,
    pub host: Host,
    pub path: NormalPath,
    pub headers: HeaderMap,
    pub hop: Hop,
    pub peer_ip: Option<std::net::IpAddr>,
    pub client_ip: Option<std::net::IpAddr>,
    pub at: Timestamp,
}

/// What one policy makes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Without a rule where a route is not enforced yet.
    Permitted {
        rule: Option<RuleId>,
        upstream: UpstreamId,
    },
    Denied {
        cause: Cause,
        rule: Option<RuleId>,
    },
    /// The token was refused before any rule.
    Refused(&'static str),
}

/// A difference: all requests that fulfil `demand` in `cell`, as far as the one policy permits them and the
/// other does not.
#[derive(Clone, Debug)]
pub struct Flip {
    pub change: Change,
    pub demand: Demand,
    pub cell: Cell,
    pub witness: Witness,
    pub outcomes: [Outcome; 2],
}

/// All differences, and how many requests were judged to find them.
#[derive(Debug, Default)]
pub struct Differences {
    pub flips: Vec<Flip>,
    pub judged: u64,
    /// How many requests were not built that there may be, by why: differences may be missing as long as there is
    /// any.
    pub gaps: BTreeMap<Gap, u64>,
}

impl Outcome {
    pub fn is_permitted(&self) -> bool {
        matches!(self, Outcome::Permitted { .. })
    }
}

impl Change {
    /// The policy that permits, of a flip.
    pub fn permitting(self) -> Side {
        match self {
            Change::Allowed | Change::Elsewhere => 1,
            Change::Denied => 0,
        }
    }
}
