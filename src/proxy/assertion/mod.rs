//! What this proxy vouches for towards its upstreams: who asks, in `x-auth-assertion`, as a JWT that it signs itself
//! (ES256). An upstream verifies it with any JWT library and the keys at [`ASSERTION_KEYS_PATH`]; the next Countersign
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

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;

pub use claims::NAMES;
pub use keys::AssertionKeys;

use super::generation::Generation;
use super::judgement::Signatures;
use super::normalize::Asked;
use crate::clock::Timestamp;
use crate::fetch::sensitive;
use crate::identity::CertificateHash;
use crate::policy::{Evidence, Permit, UpstreamId};
use crate::token::{ASSERTION_KEYS_PATH, SigningError};

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
#[derive(Clone, Debug)]
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
    /// The record's.
    pub id: &'a str,
}

impl Assertions {
    /// What is sent for a request: `kept` if that still says it, else a new one, which is kept then.
    pub fn of(
        &self,
        asserted: &Asserted<'_>,
        kept: Option<&ArcSwapOption<Signed>>,
        now: Timestamp,
    ) -> Result<Arc<Signed>, SigningError> {
        let last = kept.and_then(ArcSwapOption::load_full);
        if let Some(last) = last.filter(|last| last.serves(asserted.permit, now)) {
            return Ok(last);
        }
        let signed = Arc::new(self.sign(asserted, now)?);
        if let Some(kept) = kept {
            kept.store(Some(Arc::clone(&signed)));
        }
        Ok(signed)
    }

    fn sign(&self, asserted: &Asserted<'_>, now: Timestamp) -> Result<Signed, SigningError> {
        let Asserted { permit, .. } = asserted;
        let audience = self.audiences.get(permit.upstream().index()).ok_or(SigningError)?;
        let ends = now.plus(LIFETIME).min(permit.deadline());
        let claims = claims::claims(&self.settings, audience, asserted, (now, ends));
        let token = self.keys.sign(&claims, now)?;
        let value = sensitive(&token).ok_or(SigningError)?;
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

/// The keys that assertions are verified with, to whoever asks: they are public. Any host will do, since whoever
/// fetches them knows this proxy by its certificate.
pub fn key_set(generation: &Generation, asked: &Asked, now: Timestamp) -> Option<Response<Full<Bytes>>> {
    let assertions = generation.assertions.as_ref().filter(|_| asked.path.as_str() == ASSERTION_KEYS_PATH)?;
    let mut answer = Response::new(Full::default());
    let headers = answer.headers_mut();
    if !matches!(asked.method, Method::GET | Method::HEAD) {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        return Some(answer);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=300"));
    *answer.body_mut() = Full::from(assertions.keys.key_set(now).to_string());
    Some(answer)
}
