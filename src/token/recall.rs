//! What the verifier makes of what it remembers: nothing is given out that would not be found good now.

use std::sync::Arc;

use super::error::TokenError;
use super::introspection::REST;
use super::memory::{Failure, Remembered, TokenHash, Vouched};
use super::verifier::Verifier;
use crate::clock::Timestamp;
use crate::metrics::Lookup;

impl Verifier {
    /// What is remembered of a token and still true.
    pub(super) async fn recall(&self, hash: &TokenHash) -> Result<Option<Arc<Remembered>>, TokenError> {
        if let Some(remembered) = self.recall_verified(hash).await? {
            self.metrics.cache.count(Lookup::Hit);
            return Ok(Some(remembered));
        }
        self.metrics.cache.count(Lookup::Miss);
        if let Some(error) = self.recall_failure(hash).await? {
            self.metrics.failures.count(Lookup::Hit);
            return Err(error);
        }
        self.metrics.failures.count(Lookup::Miss);
        Ok(None)
    }

    pub(super) async fn recall_verified(
        &self,
        hash: &TokenHash,
    ) -> Result<Option<Arc<Remembered>>, TokenError> {
        let Some(remembered) = self.memory.verified(hash, self.clock.now()) else { return Ok(None) };
        let holds = self.still_holds(&remembered).await;
        let is_over = match holds {
            // Who asks about it anew is not one of those who made theirs up.
            Ok(false) => matches!(remembered.vouched, Vouched::By(_)),
            Err(TokenError::Expired) => true,
            _ => false,
        };
        if is_over {
            self.memory.forget(hash);
        }
        Ok(holds?.then_some(remembered))
    }

    /// Asked each time that something remembered is used, however it was found.
    pub(super) async fn still_holds(&self, remembered: &Remembered) -> Result<bool, TokenError> {
        let keys = match remembered.vouched {
            Vouched::By(_) => Some(self.issuers[remembered.issuer].current_keys().await?),
            Vouched::Asked { .. } => None,
        };
        let now = self.clock.now();
        if now >= remembered.caller.expires {
            return Err(TokenError::Expired);
        }
        let is_vouched_for = match (&remembered.vouched, &keys) {
            (Vouched::By(key), Some(keys)) => keys.set.holds(key),
            (Vouched::By(_), None) => false,
            (Vouched::Asked { again, .. }, _) => now < *again,
        };
        Ok(remembered.judged <= now && is_vouched_for)
    }

    pub(super) async fn recall_failure(&self, hash: &TokenHash) -> Result<Option<TokenError>, TokenError> {
        let Some(failure) = self.memory.failed(hash) else { return Ok(None) };
        let is_same = match failure.generation {
            Some(generation) => generation == self.issuers[failure.issuer].current_keys().await?.generation,
            None => true,
        };
        let holds = is_same && self.clock.now() < failure.until;
        Ok(holds.then_some(failure.error))
    }

    pub(super) fn failed(
        &self,
        hash: TokenHash,
        error: &TokenError,
        issuer: usize,
        generation: Option<u64>,
        judged: Timestamp,
    ) {
        let lifetime = match error {
            // Nothing is said of the token.
            TokenError::IssuerUnavailable(_) => self.failure_lifetime.min(REST),
            _ => self.failure_lifetime,
        };
        let until = judged.plus(lifetime);
        self.memory.remember_failure(hash, Failure { error: error.clone(), issuer, generation, until });
    }
}
