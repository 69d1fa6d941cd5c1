//! What is too much of a token.

use super::error::TokenError;
use super::json::JsonLimits;
use crate::metrics::Limit;

/// `[limit]`, as far as it is about tokens. What is over one is refused with `limit_exceeded`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenLimits {
    /// A whole token.
    pub token_bytes_max: usize,
    /// Objects and lists within one another, in header and claims each.
    pub json_depth_max: usize,
    /// Values of all depths, in header and claims each.
    pub json_values_max: usize,
    /// Scopes of one token.
    pub scope_count_max: usize,
    /// Groups of one token, and likewise its roles.
    pub group_count_max: usize,
    /// Actors in a token's `act` chain.
    pub delegation_depth_max: usize,
    /// DPoP proofs that are remembered, so that none is used twice.
    pub dpop_proofs_max: usize,
    /// Opaque tokens of one issuer, never believed before, that it is asked about or that wait for it.
    pub introspection_pending_max: usize,
}

impl TokenLimits {
    pub(super) fn json(&self) -> JsonLimits {
        JsonLimits { depth_max: self.json_depth_max, values_max: self.json_values_max }
    }

    pub(super) fn check_length(&self, token: &str) -> Result<(), TokenError> {
        if token.len() > self.token_bytes_max {
            let detail = format!("longer than {} bytes", self.token_bytes_max);
            return Err(TokenError::LimitExceeded(Limit::TokenBytesMax, detail.into()));
        }
        Ok(())
    }
}

#[cfg(test)]
impl TokenLimits {
    pub(crate) const FOR_TESTS: TokenLimits = TokenLimits {
        token_bytes_max: 16 * 1024,
        json_depth_max: 32,
        json_values_max: 4096,
        scope_count_max: 256,
        group_count_max: 1024,
        delegation_depth_max: 4,
        dpop_proofs_max: 1000,
        introspection_pending_max: 1000,
    };
}
