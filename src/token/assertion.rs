//! Assertions: what another Countersign vouches for, in a header of its own.

use std::sync::Arc;

use http::HeaderValue;
use serde_json::{Map, Value};

use super::credential::Scheme;
use super::error::{TokenError, malformed};
use super::issuer::Carrier;
use super::possession::Shown;
use super::steps::Trace;
use super::verifier::{Issuer, Verifier};
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
        certificate: Option<&CertificateHash>,
    ) -> Result<Signature<Caller>, TokenError> {
        let assertion = assertion.to_str().map_err(|_| malformed("the assertion is not in ASCII"))?;
        let remembered = self.remembered(assertion).await?;
        self.check_carrier(&remembered, Carrier::Assertion)?;
        let caller = self.presented(&remembered, Scheme::Bearer, &Shown::on(certificate))?;
        let is_nobody = caller.verified().is_some_and(|caller| is_nobody(caller));
        Ok(if is_nobody { Signature::Absent } else { caller })
    }

    /// Who of them issues tokens with this `iss`.
    pub fn issuer_named(&self, iss: &str) -> Option<&Name> {
        let said = Map::from_iter([("iss".to_owned(), iss.into())]);
        let known = self.issuers.iter().find(|known| known.settings.url.accepts(&said) == Some(true));
        known.map(|known| &known.settings.name)
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
