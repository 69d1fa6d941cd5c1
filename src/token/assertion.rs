//! Assertions: what another Countersign vouches for, in a header of its own.

use std::sync::Arc;

use http::HeaderValue;
use serde_json::{Map, Value};

use super::credential::Scheme;
use super::error::{TokenError, malformed};
use super::issuer::Carrier;
use super::possession::Shown;
use super::steps::{Step, Trace};
use super::verifier::{Issuer, Verifier};
use crate::clock::Timestamp;
use crate::identity::{Caller, CertificateHash, Name, Signature};

/// Where a Countersign publishes what its assertions are verified with (RFC 8615).
pub const ASSERTION_KEYS_PATH: &str = "/.well-known/countersign/jwks.json";

/// The `typ` of assertions.
pub const ASSERTION_TYPE: &str = "countersign+jwt";

/// What `actor` says in an assertion without a caller.
pub const ASSERTED_NOBODY: &str = "none";

/// What every assertion says.
pub(super) const ASSERTION_CLAIMS: [&str; 5] = ["iss", "exp", "aud", "iat", "actor"];

/// Services that an asserted request may have come through: more is a loop.
const VIA_MAX: usize = 16;

impl Verifier {
    /// Who an assertion of another Countersign stands for: nobody, where that was shown no token itself.
    pub async fn verify_assertion(
        &self,
        assertion: &HeaderValue,
        shown: &Shown<'_>,
    ) -> Result<Signature<Caller>, TokenError> {
        let assertion = assertion.to_str().map_err(|_| malformed("the assertion is not in ASCII"))?;
        let remembered = self.remembered(assertion, shown.asking()).await?;
        self.check_carrier(&remembered, Carrier::Assertion)?;
        let caller = self.presented(&remembered, Scheme::Bearer, shown)?;
        let is_nobody = caller.verified().is_some_and(|caller| is_nobody(caller));
        Ok(if is_nobody { Signature::Absent } else { caller })
    }

    /// Whom an assertion stands for that was verified for a request which goes on, perhaps by a verifier of another
    /// configuration: it is read as this one would have read it when it was made, for that moment it was, and holds
    /// for as long as the token that it rests on. The key that signed it may be gone since.
    pub fn verify_word_again(&self, asserted: &Caller) -> Result<Signature<Caller>, TokenError> {
        let claims = asserted.claims.clone();
        let settings = &self.issuers[self.issuer_of(&claims, false)?].settings;
        if !settings.token_type.is_assertion() {
            return Err(TokenError::IssuerUnknown("its issuer is no other Countersign any more".into()));
        }
        let made = claims.get("iat").and_then(Value::as_i64).map(Timestamp::from_unix_seconds);
        let made = made.ok_or_else(|| malformed("it does not say when it was made"))?;
        let caller = settings.caller(claims, asserted.token_hash, &self.limits, made, &mut Step::Kind)?;
        let expires = caller.token_ends();
        if expires <= self.clock.now() {
            return Err(TokenError::Expired);
        }
        Ok(Signature::Verified(Arc::new(Caller { expires, ..caller })))
    }

    /// All that issue tokens with this `iss`, of whichever tenant: a provider's tokens and what a load balancer says
    /// of those who log in there have one.
    pub fn issuers_named(&self, iss: &str) -> impl Iterator<Item = &Name> {
        let settings = self.issuers.iter().map(|issuer| &issuer.settings);
        settings.filter(move |known| known.url.tenant_of(iss).is_some()).map(|known| &known.name)
    }

    /// As [`Verifier::verify_assertion`] with nothing remembered, saying how far the assertion gets. Of one that
    /// [stands for nobody](is_nobody) as of any other.
    pub async fn trace_assertion(&self, assertion: &str, certificate: Option<&CertificateHash>) -> Trace {
        self.trace_of(Carrier::Assertion, Scheme::Bearer, assertion, &Shown::on(certificate)).await
    }

    /// Whether the tokens of this issuer are assertions.
    pub fn takes_assertions_of(&self, issuer: &Name) -> bool {
        let is_its = |known: &&Issuer| known.settings.name == *issuer;
        self.issuers.iter().find(is_its).is_some_and(|known| known.settings.token_type.is_assertion())
    }
}

/// Whether what was verified is the assertion of a request without a caller.
pub fn is_nobody(asserted: &Caller) -> bool {
    asserted.claims.get("actor").and_then(Value::as_str) == Some(ASSERTED_NOBODY)
}

/// The services that an asserted request came through, the first one first.
pub(super) fn via(claims: &Map<String, Value>) -> Result<Vec<Arc<str>>, TokenError> {
    let names = match claims.get("via") {
        None => Some(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(|name| name.as_str().map(Arc::from)).collect(),
        Some(_) => None,
    };
    match names {
        Some(names) if names.len() <= VIA_MAX => Ok(names),
        Some(_) => Err(malformed(format!("it came through more than {VIA_MAX} services"))),
        None => Err(malformed("`via` is no list of names")),
    }
}
