//! Why a token was refused. One variant for each reason code that a token can give; the text with it
//! is for the record and holds no byte of the token and no claim's value, but for [`shown`] ones.

use std::borrow::Cow;

use serde_json::Value;

use crate::metrics::Limit;

/// Of a claim that is shown, no more than this.
const SHOWN_BYTES_MAX: usize = 128;

/// A short text: what exactly was wrong.
pub type Detail = Cow<'static, str>;

/// Why a presented token yields no caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("over `{0}`: {1}")]
    LimitExceeded(Limit, Detail),
    #[error("malformed token: {0}")]
    Malformed(Detail),
    #[error("unknown issuer: {0}")]
    IssuerUnknown(Detail),
    #[error("wrong type of token: {0}")]
    TypeRefused(Detail),
    #[error("algorithm refused: {0}")]
    AlgorithmRefused(Detail),
    #[error("unknown key: {0}")]
    KeyUnknown(Detail),
    #[error("the signature does not fit the token and its issuer's key")]
    BadSignature,
    #[error("expired")]
    Expired,
    /// Its issuer does not say why (RFC 7662 §2.2): it is over, was revoked, or never was a token.
    #[error("its issuer says that it is not active")]
    Inactive,
    #[error("not yet valid: {0}")]
    NotYetValid(Detail),
    #[error("wrong audience: {0}")]
    WrongAudience(Detail),
    #[error("bound to a key that was not proven: {0}")]
    NotSenderConstrained(Detail),
    #[error("revoked: {0}")]
    Revoked(Detail),
    /// It is bound to a key, and was presented as if it were not (RFC 9449 §7.2).
    #[error("bound to a key that was not proven: it was presented as `Bearer`, and wants a DPoP proof")]
    ProofMissing,
    #[error("no good DPoP proof: {0}")]
    ProofRefused(Detail),
    /// With the nonce that the next proof is to hold (RFC 9449 §9).
    #[error("the DPoP proof does not hold a nonce of this proxy")]
    NonceWanted(Box<str>),
    #[error("the issuer's keys are not to be had: {0}")]
    IssuerUnavailable(Detail),
}

impl TokenError {
    /// The reason code, as it stands in records.
    pub fn code(&self) -> &'static str {
        match self {
            TokenError::LimitExceeded(..) => "limit_exceeded",
            TokenError::Malformed(_) => "token_malformed",
            TokenError::IssuerUnknown(_) => "token_issuer_unknown",
            TokenError::TypeRefused(_) => "token_type_refused",
            TokenError::AlgorithmRefused(_) => "token_algorithm_refused",
            TokenError::KeyUnknown(_) => "token_key_unknown",
            TokenError::BadSignature => "token_bad_signature",
            TokenError::Expired => "token_expired",
            TokenError::Inactive => "token_revoked",
            TokenError::NotYetValid(_) => "token_not_yet_valid",
            TokenError::WrongAudience(_) => "token_wrong_audience",
            TokenError::NotSenderConstrained(_)
            | TokenError::ProofMissing
            | TokenError::ProofRefused(_)
            | TokenError::NonceWanted(_) => "token_not_sender_constrained",
            TokenError::Revoked(_) => "token_revoked",
            TokenError::IssuerUnavailable(_) => "issuer_unavailable",
        }
    }
}

/// Shorthand for the commonest of them.
pub(super) fn malformed(detail: impl Into<Detail>) -> TokenError {
    TokenError::Malformed(detail.into())
}

/// The value of `iss` or `aud`, which name no person, as JSON and not at any length: what is compared by every byte
/// is told apart only by who sees it.
pub(super) fn shown(value: &Value) -> String {
    let mut shown = value.to_string();
    if shown.len() > SHOWN_BYTES_MAX {
        shown.truncate(shown.floor_char_boundary(SHOWN_BYTES_MAX));
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_json_and_not_long() {
        assert_eq!(shown(&"https://login.example/\n".into()), r#""https://login.example/\n""#);
        assert_eq!(shown(&vec!["a", "b"].into()), r#"["a","b"]"#);
        assert_eq!(shown(&"é".repeat(100).into()), format!("\"{}…", "é".repeat(63)));
    }
}
