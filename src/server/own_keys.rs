//! Our own keys for assertions, as those of an issuer of ours.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::clock::Clock;
use crate::proxy::assertion::AssertionKeys;
use crate::token::{IssuerKeys, SigningError};

/// Hands our own public keys over, if they are others than `known`.
pub fn hold(
    keys: &IssuerKeys,
    own: &AssertionKeys,
    known: Option<Value>,
    clock: &Clock,
) -> Result<Option<Value>, SigningError> {
    let set = own.key_set(clock.now());
    if known.as_ref() != Some(&set) {
        keys.hold(set.to_string().as_bytes()).map_err(|_| SigningError)?;
    }
    Ok(Some(set))
}

/// Each of our keys is published for hours before it signs.
const OWN_KEYS_PERIOD: Duration = Duration::from_secs(60);

pub async fn keep_own(
    keys: Arc<IssuerKeys>,
    own: Arc<AssertionKeys>,
    mut known: Option<Value>,
    clock: Clock,
) {
    loop {
        tokio::time::sleep(OWN_KEYS_PERIOD).await;
        match hold(&keys, &own, known.clone(), &clock) {
            Ok(now) => known = now,
            Err(error) => tracing::error!(%error, "our own assertions will not be taken"),
        }
    }
}
