//! The closed, stable list of reason codes: what a record says in `reason` and `also`, a refusal in
//! its body, a metric in its label.
//!
//! Declared in order of precedence: where several apply, the first is the reason. Statuses are not
//! here; `proxy/refusal.rs` alone turns a reason into an answer.

use std::fmt;

use crate::metrics::Label;
use crate::policy::Cause;
use crate::tls::{HandshakeFailure, PeerError};
use crate::token::{CredentialError, TokenError};
use crate::upstream::{self, UpstreamError};

macro_rules! reasons {
    ($($name:ident = $code:literal, $cause:literal, $remedy:literal;)+) => {
        /// Why a request ended as it did.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $(#[doc = concat!("`", $code, "`: ", $cause)] $name,)+
        }

        impl Reason {
            /// Every reason, in order of precedence.
            pub const ALL: &'static [Reason] = &[$(Reason::$name),+];

            /// The stable code, as `scope_missing`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Reason::$name => $code),+ }
            }

            /// What happened, in one line.
            pub const fn cause(self) -> &'static str {
                match self { $(Reason::$name => $cause),+ }
            }

            /// What to do about it, in one line.
            pub const fn remedy(self) -> &'static str {
                match self { $(Reason::$name => $remedy),+ }
            }
        }
    };
}

reasons! {
    RequestMalformed = "request_malformed",
        "the request has no single meaning: its path, host or headers can be read in more than one way",
        "send a path without dot segments, `;` or encoded slashes, each of Host and Authorization once, and to an outbound listener plain HTTP, no CONNECT";
    Misdirected = "misdirected",
        "the host that was asked for is not the one that the TLS connection was made for",
        "open a connection whose server name (SNI) equals the host, or name the proxy that sends it as `[trusted_hop]`";
    LimitExceeded = "limit_exceeded",
        "the request or the connection is over a configured limit",
        "send less, or raise the limit that the metric `countersign_limits_hit` names";
    PeerMissing = "peer_missing",
        "no client certificate was presented where one is needed",
        "give the client a certificate of a configured trust domain";
    PeerMalformed = "peer_malformed",
        "the client certificate does not hold exactly one well-formed SPIFFE ID",
        "issue it with one SPIFFE URI SAN, or give the service a `dns_name`";
    PeerUntrusted = "peer_untrusted",
        "no configured CA vouches for the client certificate",
        "add its CA to the `[trust_domain]`, or use a certificate of a known one";
    PeerExpired = "peer_expired",
        "the client certificate, or one above it, is not valid now",
        "renew the certificate, and compare the clocks";
    PeerWrongTrustDomain = "peer_wrong_trust_domain",
        "the CA vouches for another trust domain than the one in the SPIFFE ID",
        "issue the certificate by the CA of its own trust domain";
    PeerRevoked = "peer_revoked",
        "the client certificate is revoked, or its revocation list is out of date",
        "issue a new certificate, or publish a current revocation list";
    PeerUnknown = "peer_unknown",
        "the certificate is good, but no `[service]` names its holder",
        "add a `[service]` whose identity matches";
    TokenMissing = "token_missing",
        "no token was presented where one is needed",
        "send `Authorization: Bearer` with a token of a configured issuer";
    TokenMalformed = "token_malformed",
        "the token is not a well-formed one of its issuer, or lacks a claim that the issuer `requires`",
        "get a new token, and see that the issuer puts the required claims into it";
    TokenIssuerUnknown = "token_issuer_unknown",
        "no configured `[issuer]` has exactly the token's `iss`",
        "add the issuer, or get the token from a configured one; the record's `detail` shows the `iss`, and one slash more is another issuer";
    TokenTypeRefused = "token_type_refused",
        "the token is of another type than the issuer's access tokens, as an ID token",
        "send the access token";
    TokenAlgorithmRefused = "token_algorithm_refused",
        "the token is signed with an algorithm that the issuer's `algorithms` does not list",
        "sign with a listed algorithm, or list this one";
    TokenKeyUnknown = "token_key_unknown",
        "the issuer publishes no key that the token could be signed with",
        "get a new token; see that the key is in the issuer's key set";
    TokenBadSignature = "token_bad_signature",
        "the token's signature is not by the issuer's key",
        "get a new token; if it comes from the issuer itself, compare its key set";
    TokenExpired = "token_expired",
        "the token's time is over",
        "get a new token";
    TokenNotYetValid = "token_not_yet_valid",
        "the token is not valid yet",
        "compare the clocks of issuer and proxy";
    TokenWrongAudience = "token_wrong_audience",
        "the token was issued for somebody else: its `aud` is not the issuer's `audience` here",
        "ask the issuer for a token for this audience; the record's `detail` shows the `aud`";
    TokenNotSenderConstrained = "token_not_sender_constrained",
        "the token is bound to a key that this connection did not prove to have, or had to be and is not",
        "send it over the connection, or with the key, that it was issued for";
    TokenRevoked = "token_revoked",
        "the token, its subject, its client or the certificate that it is bound to is revoked, or its issuer says that it is not active",
        "log in again, or take the entry out of the revocation list";
    IssuerUnavailable = "issuer_unavailable",
        "an issuer does not give what is needed of it: its keys, its word on a token, or a token for the upstream",
        "see the record's `detail`, and that the proxy reaches the issuer; `/readyz` and `/status` say what failed";
    CrossSite = "cross_site",
        "a page of another origin sent it, and the caller's log-in is one that browsers add by themselves",
        "send it from the site itself, or name the page's origin in the `cors` of the `[route]`";
    TokenNotIssuedToService = "token_not_issued_to_service",
        "the service carries a token that was issued to a client it does not list",
        "let the service use its own client's tokens, or add the client to its `client_id`";
    DeniedByRule = "denied_by_rule",
        "a `[[deny]]` matches",
        "see `rule` for which one";
    RequirementUnmet = "requirement_unmet",
        "a `[[require]]` reaches the request and is not met",
        "see `rule` for which one, and the near miss for what it demands";
    StepUpRequired = "step_up_required",
        "the login is too old or too weak for this",
        "log in again as the answer's `acr_values` and `max_age` say";
    ServiceNotAllowed = "service_not_allowed",
        "the nearest rule is for another service",
        "add the service to the rule if it should be allowed";
    ActorNotAllowed = "actor_not_allowed",
        "the nearest rule is for another kind of actor; agents must be named",
        "add an `[[allow]]` with this `actor` (and `on_behalf_of`) if it should be allowed";
    ScopeMissing = "scope_missing",
        "the token lacks a scope that would give the role",
        "ask the issuer for a token with the scope that the answer names";
    RoleMissing = "role_missing",
        "the caller lacks the role that the nearest rule asks for",
        "give the caller what the `[role]` asks for, if it should have it";
    ClaimMismatch = "claim_mismatch",
        "a claim of the token is not the value that the rule or the path asks for",
        "ask for what belongs to the caller";
    NoRule = "no_rule",
        "no `[[allow]]` speaks of this action",
        "add one if it should be allowed";
    NoRoute = "no_route",
        "no `[route]` takes this host and path",
        "add one, or correct the URL";
    TokenNotExchanged = "token_not_exchanged",
        "the upstream takes a token that is exchanged for the caller's, and the token endpoint refuses to",
        "see the record's `detail`: let the provider exchange this token for the upstream, or get another one";
    UpstreamUnavailable = "upstream_unavailable",
        "no server of the upstream could be reached, it refused our certificate, or it broke its answer off",
        "see the record's `detail`: that it runs and listens where `[upstream]` says, and trusts the CA of our certificate";
    UpstreamTimeout = "upstream_timeout",
        "the upstream did not answer in time",
        "make it faster, or raise the timeout";
    UpstreamIdentityMismatch = "upstream_identity_mismatch",
        "the upstream's certificate is not that of its `server_spiffe_id`, or has ended, or its server is on the revocation list",
        "find out who answers at this address; correct the certificate or the configuration";
    ClientGone = "client_gone",
        "the client went away before its answer was complete",
        "nothing, unless it happens often: then compare the client's timeout";
    AuditUnavailable = "audit_unavailable",
        "the record could not be kept, and `audit.required` forbids to act without",
        "free the disk or the reader of the audit output";
    Internal = "internal",
        "the proxy failed",
        "report it with the record's `id` and the log around it";
    Allowed = "allowed",
        "an `[[allow]]` permits it",
        "nothing";
    Unenforced = "unenforced",
        "`shadow_until` alone let it through; it would be denied",
        "see `unenforced` for why, and add the rule that is missing";
    Preflight = "preflight",
        "a CORS preflight, answered by the route's `cors` and not forwarded",
        "nothing";
}

impl From<&PeerError> for Reason {
    fn from(error: &PeerError) -> Reason {
        match error {
            PeerError::Missing | PeerError::Awaited => Reason::PeerMissing,
            PeerError::Malformed(_) => Reason::PeerMalformed,
            PeerError::Untrusted(_) => Reason::PeerUntrusted,
            PeerError::Expired(_) => Reason::PeerExpired,
            PeerError::WrongTrustDomain { .. } => Reason::PeerWrongTrustDomain,
            PeerError::Revoked(_) => Reason::PeerRevoked,
        }
    }
}

impl From<&HandshakeFailure> for Reason {
    fn from(failure: &HandshakeFailure) -> Reason {
        match failure {
            HandshakeFailure::Peer { error, .. } => error.into(),
            HandshakeFailure::TimedOut(_) => Reason::LimitExceeded,
            HandshakeFailure::PlainHttp => Reason::RequestMalformed,
            HandshakeFailure::Tls(rustls::Error::AlertReceived(_)) => Reason::ClientGone,
            HandshakeFailure::Tls(_) => Reason::RequestMalformed,
            HandshakeFailure::Probe | HandshakeFailure::Io(_) => Reason::ClientGone,
        }
    }
}

impl From<&TokenError> for Reason {
    fn from(error: &TokenError) -> Reason {
        match error {
            TokenError::LimitExceeded(..) => Reason::LimitExceeded,
            TokenError::Malformed(_) => Reason::TokenMalformed,
            TokenError::IssuerUnknown(_) => Reason::TokenIssuerUnknown,
            TokenError::TypeRefused(_) => Reason::TokenTypeRefused,
            TokenError::AlgorithmRefused(_) => Reason::TokenAlgorithmRefused,
            TokenError::KeyUnknown(_) => Reason::TokenKeyUnknown,
            TokenError::BadSignature => Reason::TokenBadSignature,
            TokenError::Expired => Reason::TokenExpired,
            TokenError::Inactive => Reason::TokenRevoked,
            TokenError::NotYetValid(_) => Reason::TokenNotYetValid,
            TokenError::WrongAudience(_) => Reason::TokenWrongAudience,
            TokenError::NotSenderConstrained(_)
            | TokenError::ProofMissing
            | TokenError::ProofRefused(_)
            | TokenError::NonceWanted(_) => Reason::TokenNotSenderConstrained,
            TokenError::Revoked(_) => Reason::TokenRevoked,
            TokenError::IssuerUnavailable(_) => Reason::IssuerUnavailable,
        }
    }
}

impl From<&CredentialError> for Reason {
    fn from(error: &CredentialError) -> Reason {
        match error {
            CredentialError::Several => Reason::RequestMalformed,
            CredentialError::Token(error) => error.into(),
        }
    }
}

impl From<&UpstreamError> for Reason {
    fn from(error: &UpstreamError) -> Reason {
        match error {
            UpstreamError::Unavailable(_) | UpstreamError::RefusedUs(_) => Reason::UpstreamUnavailable,
            UpstreamError::Timeout(_) => Reason::UpstreamTimeout,
            UpstreamError::IdentityMismatch(_) => Reason::UpstreamIdentityMismatch,
            UpstreamError::Overloaded(_) => Reason::LimitExceeded,
            UpstreamError::ClientGone(_) => Reason::ClientGone,
        }
    }
}

impl From<&upstream::credential::CredentialError> for Reason {
    fn from(error: &upstream::credential::CredentialError) -> Reason {
        match error {
            upstream::credential::CredentialError::Unavailable(_) => Reason::IssuerUnavailable,
            upstream::credential::CredentialError::Refused(_) => Reason::TokenNotExchanged,
        }
    }
}

impl From<Cause> for Reason {
    fn from(cause: Cause) -> Reason {
        match cause {
            Cause::PeerMissing => Reason::PeerMissing,
            Cause::PeerUnknown => Reason::PeerUnknown,
            Cause::TokenMissing => Reason::TokenMissing,
            Cause::TokenNotSenderConstrained => Reason::TokenNotSenderConstrained,
            Cause::TokenNotIssuedToService => Reason::TokenNotIssuedToService,
            Cause::DeniedByRule => Reason::DeniedByRule,
            Cause::RequirementUnmet => Reason::RequirementUnmet,
            Cause::StepUpRequired => Reason::StepUpRequired,
            Cause::ServiceNotAllowed => Reason::ServiceNotAllowed,
            Cause::ActorNotAllowed => Reason::ActorNotAllowed,
            Cause::ScopeMissing => Reason::ScopeMissing,
            Cause::RoleMissing => Reason::RoleMissing,
            Cause::ClaimMismatch => Reason::ClaimMismatch,
            Cause::NoRule => Reason::NoRule,
            Cause::NoRoute => Reason::NoRoute,
        }
    }
}

impl Label for Reason {
    const COUNT: usize = Reason::ALL.len();

    fn all() -> Vec<Reason> {
        Reason::ALL.to_vec()
    }

    fn labels(self) -> Vec<(&'static str, &'static str)> {
        vec![("reason", self.as_str())]
    }

    fn position(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl serde::Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The list of the contract, in its order.
    const CODES: &str = "request_malformed misdirected limit_exceeded peer_missing peer_malformed \
        peer_untrusted peer_expired peer_wrong_trust_domain peer_revoked peer_unknown token_missing \
        token_malformed token_issuer_unknown token_type_refused token_algorithm_refused \
        token_key_unknown token_bad_signature token_expired token_not_yet_valid token_wrong_audience \
        token_not_sender_constrained token_revoked issuer_unavailable cross_site \
        token_not_issued_to_service denied_by_rule requirement_unmet step_up_required service_not_allowed actor_not_allowed \
        scope_missing role_missing claim_mismatch no_rule no_route token_not_exchanged upstream_unavailable \
        upstream_timeout upstream_identity_mismatch client_gone audit_unavailable internal allowed \
        unenforced preflight";

    #[test]
    fn the_codes_are_the_closed_list_in_its_order() {
        let codes: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(codes, CODES.split_ascii_whitespace().collect::<Vec<_>>());
        assert!(Reason::ALL.is_sorted() && codes.len() == 45);
        for (position, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.position(), position);
            assert_eq!(format!("{reason:?}").to_lowercase(), reason.as_str().replace('_', ""));
            for line in [reason.cause(), reason.remedy()] {
                assert!(!line.is_empty() && !line.ends_with('.') && !line.contains('\n'), "{reason}");
            }
        }
    }

    #[test]
    fn a_cause_is_the_reason_of_the_same_name_and_keeps_its_order() {
        let causes = [
            Cause::PeerMissing,
            Cause::PeerUnknown,
            Cause::TokenMissing,
            Cause::TokenNotSenderConstrained,
            Cause::TokenNotIssuedToService,
            Cause::DeniedByRule,
            Cause::RequirementUnmet,
            Cause::StepUpRequired,
            Cause::ServiceNotAllowed,
            Cause::ActorNotAllowed,
            Cause::ScopeMissing,
            Cause::RoleMissing,
            Cause::ClaimMismatch,
            Cause::NoRule,
            Cause::NoRoute,
        ];
        for cause in causes {
            assert_eq!(format!("{cause:?}"), format!("{:?}", Reason::from(cause)));
        }
        let reasons: Vec<Reason> = causes.map(Reason::from).into();
        assert!(causes.is_sorted() && reasons.is_sorted());
    }
}
