//! Every way in which a request is refused, and the only map from that to HTTP.
//!
//! An answer names the reason code and the decision's id, and gives nothing of the policy away: what a
//! caller may be told about coming back is the [`Challenge`] that the policy chose.

mod answer;

use std::fmt::Write as _;
use std::time::Duration;

pub use answer::Form;
use http::StatusCode;

use super::body::Fault;
use super::normalize::HeadError;
use crate::audit::Reason;
use crate::metrics::Limit;
use crate::policy::{Challenge, Denial, PathError};
use crate::tls::PeerError;
use crate::token::{Algorithm, CredentialError, Scheme, TokenError};
use crate::upstream::{self, UpstreamError};

/// Why a request is not forwarded, or why its forwarding failed before an answer came.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The first in the order of the closed list; the record has all that apply.
    pub reason: Reason,
    /// For the record, in words; never for the client.
    pub detail: Option<String>,
    /// The limit that was reached, to be counted.
    pub limit: Option<Limit>,
    status: StatusCode,
    challenge: Option<String>,
    /// For the next DPoP proof (RFC 9449 §9).
    nonce: Option<Box<str>>,
}

impl Refusal {
    /// A refusal for one reason, answered as that reason always is.
    pub fn of(reason: Reason) -> Refusal {
        let (status, challenge) = answer_to(reason);
        let challenge = challenge.map(str::to_owned);
        Refusal { reason, detail: None, limit: None, status, challenge, nonce: None }
    }

    #[must_use]
    pub fn because(mut self, detail: impl ToString) -> Refusal {
        self.detail = Some(detail.to_string());
        self
    }

    /// Over a limit: 413 for bodies, 431 for what stands in the head and does not become smaller by
    /// waiting, 504 for the whole time, 429 for what waiting may help.
    pub fn over(limit: Limit) -> Refusal {
        let (reason, status) = match limit {
            Limit::TotalTimeout => (Reason::UpstreamTimeout, StatusCode::GATEWAY_TIMEOUT),
            Limit::BodyBytesMax => (Reason::LimitExceeded, StatusCode::PAYLOAD_TOO_LARGE),
            Limit::HeaderBytesMax
            | Limit::HeaderCountMax
            | Limit::TokenBytesMax
            | Limit::JsonDepthMax
            | Limit::JsonValuesMax
            | Limit::ScopeCountMax
            | Limit::GroupCountMax
            | Limit::DelegationDepthMax => {
                (Reason::LimitExceeded, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
            }
            Limit::AuditQueueMax
            | Limit::ConnectionsMax
            | Limit::ConnectionsPerPeerMax
            | Limit::ControlFramesPerConnectionMax
            | Limit::DpopProofsMax
            | Limit::HandshakeTimeout
            | Limit::HandshakesMax
            | Limit::HandshakesPerPeerMax
            | Limit::HeaderTimeout
            | Limit::IdleTimeout
            | Limit::IntrospectionPendingMax
            | Limit::KeyDocumentBytesMax
            | Limit::RequestsPerClientMax
            | Limit::ResetsPerConnectionMax
            | Limit::StreamsPerConnectionMax
            | Limit::UpstreamPendingMax => (Reason::LimitExceeded, StatusCode::TOO_MANY_REQUESTS),
        };
        let detail = format!("over `{limit}`");
        Refusal { reason, detail: Some(detail), limit: Some(limit), status, challenge: None, nonce: None }
    }

    /// What hyper answers by itself to a head that it does not hand over. It has one word for both limits:
    /// `is_too_long` tells which.
    pub fn unread(error: &hyper::Error, is_too_long: bool) -> Refusal {
        if !error.is_parse_too_large() {
            return Refusal::of(Reason::RequestMalformed).because(error);
        }
        let refusal = Refusal::over(if is_too_long { Limit::HeaderBytesMax } else { Limit::HeaderCountMax });
        match error.to_string().as_str() {
            // A bound of its own, 65,534 bytes.
            "URI too long" => {
                Refusal { status: StatusCode::URI_TOO_LONG, ..Refusal::over(Limit::HeaderBytesMax) }
            }
            _ => refusal,
        }
    }

    /// A token that is bound to a key, without the proof.
    fn unproven(error: &str, why: &TokenError) -> Refusal {
        Refusal { challenge: Some(dpop(error)), ..Refusal::of(why.into()).because(why) }
    }

    /// As it is told to who presented a token in this scheme.
    #[must_use]
    pub fn in_scheme(mut self, scheme: Scheme) -> Refusal {
        if scheme == Scheme::Dpop
            && let Some(rest) =
                self.challenge.as_deref().and_then(|challenge| challenge.strip_prefix("Bearer "))
        {
            self.challenge = Some(format!("DPoP {rest}, algs=\"{}\"", proof_algorithms()));
        }
        self
    }

    /// More than one step refused: the first in the order of the closed list is the reason.
    #[must_use]
    pub fn and(self, other: Refusal) -> Refusal {
        if other.reason < self.reason { other } else { self }
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }
}

impl From<HeadError> for Refusal {
    fn from(error: HeadError) -> Refusal {
        let reason = match &error {
            HeadError::Malformed(_) | HeadError::Path(_) | HeadError::Host(_) => Reason::RequestMalformed,
            HeadError::Misdirected { .. } => Reason::Misdirected,
        };
        Refusal::of(reason).because(error)
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Refusal {
        match fault {
            Fault::TooLarge => Refusal::over(Limit::BodyBytesMax),
            Fault::Malformed => {
                Refusal::of(Reason::RequestMalformed).because("the body is not framed as its head says")
            }
        }
    }
}

impl From<PathError> for Refusal {
    fn from(error: PathError) -> Refusal {
        Refusal::from(HeadError::Path(error))
    }
}

impl From<&PeerError> for Refusal {
    fn from(error: &PeerError) -> Refusal {
        Refusal::of(error.into()).because(error)
    }
}

impl From<&CredentialError> for Refusal {
    fn from(error: &CredentialError) -> Refusal {
        match error {
            // RFC 6750 §3.1.
            CredentialError::Several => Refusal {
                challenge: Some("Bearer error=\"invalid_request\"".to_owned()),
                ..Refusal::of(error.into()).because(error)
            },
            CredentialError::Token(error) => error.into(),
        }
    }
}

impl From<&TokenError> for Refusal {
    fn from(error: &TokenError) -> Refusal {
        match error {
            TokenError::LimitExceeded(limit, _) => Refusal::over(*limit).because(error),
            TokenError::ProofMissing => Refusal::unproven("invalid_token", error),
            TokenError::ProofRefused(_) => Refusal::unproven("invalid_dpop_proof", error),
            TokenError::NonceWanted(nonce) => {
                Refusal { nonce: Some(nonce.clone()), ..Refusal::unproven("use_dpop_nonce", error) }
            }
            _ => Refusal::of(error.into()).because(error),
        }
    }
}

impl From<&UpstreamError> for Refusal {
    fn from(error: &UpstreamError) -> Refusal {
        match error {
            UpstreamError::Overloaded(_) => Refusal::over(Limit::UpstreamPendingMax).because(error),
            _ => Refusal::of(error.into()).because(error),
        }
    }
}

impl From<&upstream::credential::CredentialError> for Refusal {
    fn from(error: &upstream::credential::CredentialError) -> Refusal {
        Refusal::of(error.into()).because(error)
    }
}

impl From<&Denial> for Refusal {
    fn from(denial: &Denial) -> Refusal {
        // A denial without a cause cannot be built by `decide`; if it ever is, it still denies.
        let reason = denial.causes.first().map_or(Reason::Internal, |cause| Reason::from(*cause));
        let (status, challenge) = match &denial.challenge {
            Challenge::Forbidden => (StatusCode::FORBIDDEN, None),
            Challenge::NotFound => (StatusCode::NOT_FOUND, None),
            Challenge::Credentials => (StatusCode::UNAUTHORIZED, Some("Bearer".to_owned())),
            Challenge::Possession => (StatusCode::UNAUTHORIZED, Some(dpop("invalid_token"))),
            Challenge::Scope(scopes) => (StatusCode::FORBIDDEN, Some(insufficient_scope(scopes))),
            Challenge::StepUp { acr_values, max_age } => {
                (StatusCode::UNAUTHORIZED, Some(insufficient_authentication(acr_values, *max_age)))
            }
        };
        Refusal { reason, detail: None, limit: None, status, challenge, nonce: None }
    }
}

/// RFC 9449 §7.1.
fn dpop(error: &str) -> String {
    format!("DPoP error=\"{error}\", algs=\"{}\"", proof_algorithms())
}

/// What DPoP proofs may be signed with.
fn proof_algorithms() -> String {
    Algorithm::ALL.map(Algorithm::as_str).join(" ")
}

/// RFC 6750 §3.1.
fn insufficient_scope(scopes: &[std::sync::Arc<str>]) -> String {
    format!("Bearer error=\"insufficient_scope\", scope=\"{}\"", quoted(&scopes.join(" ")))
}

/// RFC 9470 §3.
fn insufficient_authentication(acr_values: &[std::sync::Arc<str>], max_age: Option<Duration>) -> String {
    let mut challenge = String::from("Bearer error=\"insufficient_user_authentication\"");
    if !acr_values.is_empty() {
        let _ = write!(challenge, ", acr_values=\"{}\"", quoted(&acr_values.join(" ")));
    }
    if let Some(max_age) = max_age {
        let _ = write!(challenge, ", max_age=\"{}\"", max_age.as_secs());
    }
    challenge
}

/// The inside of a quoted-string (RFC 9110 §5.6.4).
fn quoted(text: &str) -> String {
    let visible = text.chars().filter(|c| matches!(c, ' '..='~'));
    visible.flat_map(|c| matches!(c, '"' | '\\').then_some('\\').into_iter().chain([c])).collect()
}

/// Status and challenge of a reason that is answered in one way only. A denial by the policy brings
/// its own [`Challenge`] instead.
fn answer_to(reason: Reason) -> (StatusCode, Option<&'static str>) {
    const INVALID_TOKEN: Option<&str> = Some("Bearer error=\"invalid_token\"");
    match reason {
        Reason::RequestMalformed => (StatusCode::BAD_REQUEST, None),
        Reason::Misdirected => (StatusCode::MISDIRECTED_REQUEST, None),
        Reason::LimitExceeded => (StatusCode::TOO_MANY_REQUESTS, None),
        Reason::TokenMissing => (StatusCode::UNAUTHORIZED, Some("Bearer")),
        Reason::TokenMalformed
        | Reason::TokenIssuerUnknown
        | Reason::TokenTypeRefused
        | Reason::TokenAlgorithmRefused
        | Reason::TokenKeyUnknown
        | Reason::TokenBadSignature
        | Reason::TokenExpired
        | Reason::TokenNotYetValid
        | Reason::TokenWrongAudience
        | Reason::TokenNotSenderConstrained
        | Reason::TokenRevoked => (StatusCode::UNAUTHORIZED, INVALID_TOKEN),
        Reason::IssuerUnavailable | Reason::AuditUnavailable => (StatusCode::SERVICE_UNAVAILABLE, None),
        Reason::UpstreamUnavailable | Reason::UpstreamIdentityMismatch => (StatusCode::BAD_GATEWAY, None),
        Reason::UpstreamTimeout => (StatusCode::GATEWAY_TIMEOUT, None),
        Reason::Internal => (StatusCode::INTERNAL_SERVER_ERROR, None),
        // For one that is still there and sent nothing more.
        Reason::ClientGone => (StatusCode::REQUEST_TIMEOUT, None),
        Reason::PeerMissing
        | Reason::PeerMalformed
        | Reason::PeerUntrusted
        | Reason::PeerExpired
        | Reason::PeerWrongTrustDomain
        | Reason::PeerRevoked
        | Reason::PeerUnknown
        | Reason::CrossSite
        | Reason::TokenNotIssuedToService
        | Reason::DeniedByRule
        | Reason::RequirementUnmet
        | Reason::StepUpRequired
        | Reason::ServiceNotAllowed
        | Reason::ActorNotAllowed
        | Reason::ScopeMissing
        | Reason::RoleMissing
        | Reason::ClaimMismatch
        | Reason::NoRule
        | Reason::NoRoute
        | Reason::TokenNotExchanged
        | Reason::Allowed
        | Reason::Unenforced
        | Reason::Preflight => (StatusCode::FORBIDDEN, None),
    }
}

#[cfg(test)]
mod tests {
    use http::header::WWW_AUTHENTICATE;

    use super::*;
    use crate::policy::Cause;

    fn challenge(denial: Denial) -> (u16, Option<String>) {
        let response = Refusal::from(&denial).answer(Form::Problem, "01J");
        let challenge = response.headers().get(WWW_AUTHENTICATE).map(|v| v.to_str().unwrap().to_owned());
        (response.status().as_u16(), challenge)
    }

    #[test]
    fn a_denial_is_answered_as_its_challenge_says() {
        let denial = |challenge| Denial { causes: vec![Cause::ScopeMissing], challenge };
        assert_eq!(challenge(denial(Challenge::Forbidden)), (403, None));
        assert_eq!(challenge(denial(Challenge::NotFound)), (404, None));
        assert_eq!(challenge(denial(Challenge::Credentials)), (401, Some("Bearer".into())));
        let (status, possession) = challenge(denial(Challenge::Possession));
        assert_eq!(status, 401);
        assert!(possession.unwrap().starts_with("DPoP error=\"invalid_token\", algs=\"RS256 "));
        assert_eq!(
            challenge(denial(Challenge::Scope(vec!["a:read".into(), "q\"\\\r\n".into()]))),
            (403, Some(r#"Bearer error="insufficient_scope", scope="a:read q\"\\""#.into()))
        );
        let step_up =
            Challenge::StepUp { acr_values: vec!["mfa".into()], max_age: Some(Duration::from_secs(900)) };
        let expected =
            r#"Bearer error="insufficient_user_authentication", acr_values="mfa", max_age="900""#.to_owned();
        assert_eq!(challenge(denial(step_up)), (401, Some(expected)));
    }

    #[test]
    fn of_two_refusals_the_first_in_the_closed_list_is_the_reason() {
        let both = Refusal::of(Reason::TokenExpired).and(Refusal::of(Reason::PeerExpired));
        assert_eq!(both.reason, Reason::PeerExpired);
        assert_eq!(both.status(), StatusCode::FORBIDDEN);
    }
}
