//! What this proxy vouches for towards its upstreams: who asks, in `x-auth-assertion`, as a JWT that it signs itself
//! (ES256). An upstream verifies it with any JWT library and the keys at [`KEY_SET_PATH`]; the next Countersign
//! takes it as an issuer's token (`preset = "countersign"`).
//!
//! Invariants:
//! - One is signed only for what a [`Permit`](crate::policy::Permit) permits, for the upstream that it names.
//! - It says nothing that was not verified, and ends no later than what it says.
//! - To an upstream that sees our certificate it is bound to that (RFC 8705 §3.1): in other hands it is worth nothing.

mod claims;
mod keys;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

pub use keys::AssertionKeys;

use super::judgement::Signatures;
use crate::clock::Timestamp;
use crate::identity::CertificateHash;
use crate::policy::{Evidence, Permit, UpstreamId};
use crate::token::SigningError;

/// Where the keys are published, on every listener (RFC 8615).
pub const KEY_SET_PATH: &str = "/.well-known/countersign/jwks.json";

/// How long an assertion is good for, at most.
pub const LIFETIME: Duration = Duration::from_secs(60);

/// For how long one is sent again, while all that it says holds.
const USED_FOR: Duration = Duration::from_secs(30);

/// `[assertion]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssertionSettings {
    /// `iss`.
    pub issuer: Arc<str>,
    /// Claims of the caller's own token, by top-level name, that are passed on as they are.
    pub claims: Vec<Arc<str>>,
}

/// To whom an assertion is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audience {
    /// `aud`.
    pub name: Arc<str>,
    /// Our own certificate, where the upstream sees it.
    pub bound_to: Option<CertificateHash>,
}

/// Signs for one generation.
#[derive(Debug)]
pub struct Assertions {
    pub settings: AssertionSettings,
    /// By `UpstreamId`.
    pub audiences: Vec<Audience>,
    pub keys: Arc<AssertionKeys>,
}

/// An assertion, and for what it may be sent again: the standing that it is kept with says whose it is.
#[derive(Debug)]
pub struct Signed {
    pub value: HeaderValue,
    upstream: UpstreamId,
    enforced: bool,
    /// For which moments; the last one is out.
    since: Timestamp,
    until: Timestamp,
}

/// What is asserted of a request.
pub struct Asserted<'a> {
    pub signatures: &'a Signatures,
    pub evidence: &'a Evidence,
    pub permit: &'a Permit,
    /// The id of the record.
    pub decision: &'a str,
}

impl Assertions {
    /// Signs what was decided.
    pub fn sign(&self, asserted: &Asserted<'_>, now: Timestamp) -> Result<Signed, SigningError> {
        let Asserted { permit, .. } = asserted;
        let audience = self.audiences.get(permit.upstream().index()).ok_or(SigningError)?;
        let ends = now.plus(LIFETIME).min(permit.deadline());
        let claims = claims::claims(&self.settings, audience, asserted, (now, ends));
        let token = self.keys.sign(&claims, now)?;
        let mut value = HeaderValue::try_from(token).map_err(|_| SigningError)?;
        value.set_sensitive(true);
        Ok(Signed {
            value,
            upstream: permit.upstream(),
            enforced: permit.enforced(),
            since: now,
            until: now.plus(USED_FOR).min(ends),
        })
    }
}

impl Signed {
    /// Whether it says of a request of the same two now what would be signed anew, but for the decision's id.
    pub fn serves(&self, permit: &Permit, now: Timestamp) -> bool {
        self.upstream == permit.upstream()
            && self.enforced == permit.enforced()
            && self.since <= now
            && now < self.until.min(permit.deadline())
    }
}
