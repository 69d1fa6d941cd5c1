//! Whether a token is in the hands of whom it was bound to (`cnf`, RFC 7800): by the certificate of this
//! connection (RFC 8705), or by a proof that was made for this very request (RFC 9449).
//!
//! Asked on every request, whatever is remembered of the token: the same one may come over another connection.

use std::net::IpAddr;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::{HeaderMap, HeaderValue, Method};

use super::credential::Scheme;
use super::error::TokenError;
use super::introspection::{About, Asker};
use super::issuer::IssuerSettings;
use super::verifier::Verifier;
use crate::clock::Timestamp;
use crate::identity::{Caller, CertificateHash, Confirmation};
use crate::policy::NormalPath;

/// How an issuer's tokens are bound, as `[issuer.NAME]` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PossessionSettings {
    /// For how long after a peer's certificate was replaced a token is taken that is bound to the one before.
    pub rotation_grace: Duration,
    /// How old a DPoP proof may be, and how far in the future.
    pub proof_age_max: Duration,
    /// Whether a proof must hold a nonce of ours.
    pub proof_nonce: bool,
}

/// The longest [`PossessionSettings::rotation_grace`].
pub const ROTATION_GRACE_MAX: Duration = Duration::from_secs(60 * 60);
/// The longest [`PossessionSettings::proof_age_max`].
pub const PROOF_AGE_MAX: Duration = Duration::from_secs(5 * 60);

/// What a request shows beside its token.
#[derive(Clone, Copy)]
pub struct Shown<'r> {
    /// Of the peer on this connection.
    pub certificate: Option<&'r CertificateHash>,
    /// Of the client.
    pub address: Option<IpAddr>,
    /// Since when that peer has its present certificate, if it was verified with this one before, which would be good
    /// still.
    pub replaced: &'r dyn Fn(&CertificateHash) -> Option<Timestamp>,
    /// `None` where there is no request that a proof could be made for.
    pub request: Option<Target<'r>>,
}

/// What a request asks for, as its client sees it.
#[derive(Clone, Copy, Debug)]
pub struct Target<'r> {
    pub headers: &'r HeaderMap,
    pub method: &'r Method,
    /// Whether the client spoke TLS to us. Where it did not, TLS may have ended on the way.
    pub secure: bool,
    /// Host and perhaps port, in normal form.
    pub authority: &'r HeaderValue,
    pub path: &'r NormalPath,
}

impl Default for PossessionSettings {
    fn default() -> PossessionSettings {
        PossessionSettings {
            rotation_grace: Duration::from_secs(5 * 60),
            proof_age_max: Duration::from_secs(60),
            proof_nonce: false,
        }
    }
}

impl<'r> Shown<'r> {
    /// A connection and nothing more.
    pub fn on(certificate: Option<&'r CertificateHash>) -> Shown<'r> {
        Shown { certificate, address: None, replaced: &|_| None, request: None }
    }

    /// As whose its issuer is asked about the token, if it was never believed.
    pub(super) fn asking(&self) -> About {
        About::Unknown(Asker::of(self.certificate, self.address))
    }
}

impl Verifier {
    /// Whether this caller's token is where it belongs.
    pub(super) fn check_possession(
        &self,
        issuer: &IssuerSettings,
        caller: &Caller,
        scheme: Scheme,
        shown: &Shown<'_>,
    ) -> Result<(), TokenError> {
        let unproven = |detail: &'static str| Err(TokenError::NotSenderConstrained(detail.into()));
        match (&caller.confirmation, scheme) {
            (None, Scheme::Bearer) => Ok(()),
            (Some(Confirmation::Key(thumbprint)), Scheme::Dpop) => {
                self.check_proof(issuer, caller, thumbprint, shown)
            }
            // RFC 9449 §7.2: else a thief would leave the proof away.
            (Some(Confirmation::Key(_)), Scheme::Bearer) => Err(TokenError::ProofMissing),
            (Some(Confirmation::Certificate(bound)), Scheme::Bearer) => {
                let Some(presented) = shown.certificate else {
                    return unproven("this connection has no client certificate");
                };
                let grace_end = || grace_end(issuer, caller, bound, shown.replaced);
                if is_same(bound, &presented.0) || grace_end().is_some_and(|end| self.clock.now() < end) {
                    return Ok(());
                }
                unproven("its certificate is not this connection's")
            }
            (Some(Confirmation::Unsupported), _) => unproven("its `cnf` is none that can be checked here"),
            (None | Some(Confirmation::Certificate(_)), Scheme::Dpop) => {
                unproven("it was presented as `DPoP`, and is bound to no key")
            }
        }
    }

    /// Up to when a token that was found to be in the right hands is there: for ever, unless it is bound to the
    /// certificate that its holder had until a moment ago. As if long ago, where it is in the right hands no longer.
    pub fn held_until(
        &self,
        caller: &Caller,
        certificate: Option<&CertificateHash>,
        replaced: &dyn Fn(&CertificateHash) -> Option<Timestamp>,
    ) -> Timestamp {
        let Some(Confirmation::Certificate(bound)) = &caller.confirmation else { return Timestamp::MAX };
        if certificate.is_some_and(|presented| is_same(bound, &presented.0)) {
            return Timestamp::MAX;
        }
        let issuer = self.issuers().iter().find(|issuer| issuer.settings.name == caller.issuer);
        let grace_end = issuer.and_then(|issuer| grace_end(&issuer.settings, caller, bound, replaced));
        grace_end.unwrap_or(Timestamp::MIN)
    }
}

/// Up to when a token serves that was issued to this very peer for the certificate that it had until a moment ago.
fn grace_end(
    issuer: &IssuerSettings,
    caller: &Caller,
    bound: &[u8; 32],
    replaced: &dyn Fn(&CertificateHash) -> Option<Timestamp>,
) -> Option<Timestamp> {
    let grace = issuer.possession.rotation_grace;
    if grace.is_zero() {
        return None;
    }
    let since = replaced(&CertificateHash(*bound))?;
    let issued = caller.claims.get("iat").and_then(serde_json::Value::as_i64)?;
    (Timestamp::from_unix_seconds(issued) <= since).then(|| since.plus(grace))
}

/// Whether somebody with this certificate can show that the token is theirs: of a key that it is bound to, who asks
/// has the other half.
pub(super) fn check_possible(
    caller: &Caller,
    certificate: Option<&CertificateHash>,
) -> Result<(), TokenError> {
    match &caller.confirmation {
        None | Some(Confirmation::Key(_)) => Ok(()),
        Some(Confirmation::Certificate(bound)) if certificate.is_some_and(|own| own.0 == *bound) => Ok(()),
        Some(Confirmation::Certificate(_) | Confirmation::Unsupported) => {
            Err(TokenError::NotSenderConstrained("by nobody who is asked about".into()))
        }
    }
}

/// In a time that tells nothing about where they differ.
pub(super) fn is_same(one: &[u8], other: &[u8]) -> bool {
    verify_slices_are_equal(one, other).is_ok()
}
