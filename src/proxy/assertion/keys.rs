//! The keys that sign assertions: made in memory, replaced while they serve, and published before they sign.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::clock::Timestamp;
use crate::token::{ASSERTION_TYPE, Algorithm, KeyUse, SigningError, SigningKey};

/// How long a key signs. Whoever fetches the keys no less often than that has the next one before it is used.
const SIGNS_FOR: Duration = Duration::from_secs(12 * 60 * 60);
/// When it is tried again to make a key, while the present ones go on.
const RETRY_PERIOD: Duration = Duration::from_secs(60);

/// Keys of one process, over all reloads. No one else ever has them: another replica has its own.
pub struct AssertionKeys(Mutex<Ring>);

struct Ring {
    /// Signed until the last change; what it signed has ended long before the next one.
    last: Option<Key>,
    signs: Key,
    /// Known to whoever asks, so that nobody meets a key that he has not seen.
    next: Key,
    changes: Timestamp,
}

#[derive(Clone)]
struct Key(Arc<Named>);

struct Named {
    id: String,
    key: SigningKey,
}

impl AssertionKeys {
    pub fn new(now: Timestamp) -> Result<AssertionKeys, SigningError> {
        let (signs, next) = (Key::new()?, Key::new()?);
        Ok(AssertionKeys(Mutex::new(Ring { last: None, signs, next, changes: now.plus(SIGNS_FOR) })))
    }

    /// A JWT with these claims.
    pub fn sign(&self, claims: &Value, now: Timestamp) -> Result<String, SigningError> {
        let Key(named) = self.at(now, Key::new).0;
        named.key.token(ASSERTION_TYPE, Some(&named.id), claims)
    }

    /// The public keys as of now, as a key set (RFC 7517 §5).
    pub fn key_set(&self, now: Timestamp) -> Value {
        let (signs, next, last) = self.at(now, Key::new);
        let all = [Some(signs), Some(next), last];
        let keys = all.into_iter().flatten().filter_map(|Key(named)| {
            let mut set = named.key.jwks(Some(&named.id), KeyUse::Signature);
            set["keys"].as_array_mut()?.pop()
        });
        json!({ "keys": keys.collect::<Vec<_>>() })
    }

    fn at(
        &self,
        now: Timestamp,
        make: impl FnOnce() -> Result<Key, SigningError>,
    ) -> (Key, Key, Option<Key>) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.changes <= now {
            // Made first: without one, nothing changes.
            match make() {
                Ok(fresh) => {
                    let signs = std::mem::replace(&mut ring.next, fresh);
                    ring.last = Some(std::mem::replace(&mut ring.signs, signs));
                    ring.changes = now.plus(SIGNS_FOR);
                }
                Err(error) => {
                    tracing::error!(%error, "no new key for assertions; the present one signs on");
                    ring.changes = now.plus(RETRY_PERIOD);
                }
            }
        }
        (ring.signs.clone(), ring.next.clone(), ring.last.clone())
    }
}

impl Key {
    fn new() -> Result<Key, SigningError> {
        let key = SigningKey::generate(Algorithm::Es256)?;
        Ok(Key(Arc::new(Named { id: format!("{:032x}", fastrand::u128(..)), key })))
    }
}

impl std::fmt::Debug for AssertionKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AssertionKeys")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(keys: &AssertionKeys, now: Timestamp) -> Vec<String> {
        let set = keys.key_set(now);
        set["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_key_is_published_before_it_signs_and_after_it_signed() {
        let start = Timestamp::from_unix_seconds(1_700_000_000);
        let keys = AssertionKeys::new(start).unwrap();
        let first = ids(&keys, start);
        assert_eq!(first.len(), 2);
        let changed = start.plus(SIGNS_FOR);
        assert_eq!(ids(&keys, Timestamp::from_unix_ms(changed.unix_ms() - 1)), first);
        let second = ids(&keys, changed);
        assert_eq!((&second[0], &second[2]), (&first[1], &first[0]), "the next signs, the last is known");
        assert!(!first.contains(&second[1]));
        let third = ids(&keys, changed.plus(SIGNS_FOR));
        assert_eq!((&third[0], &third[2]), (&second[1], &second[0]));
        assert!(!third.contains(&first[0]), "long ended");
        assert_eq!(ids(&keys, start), third, "a clock that goes back revives nothing");
    }

    #[test]
    fn where_no_key_can_be_made_the_present_ones_serve_on() {
        let start = Timestamp::from_unix_seconds(1_700_000_000);
        let keys = AssertionKeys::new(start).unwrap();
        let first = ids(&keys, start);
        let due = start.plus(SIGNS_FOR);
        keys.at(due, || Err(SigningError));
        assert_eq!(ids(&keys, due), first);
        assert!(keys.sign(&json!({}), due).is_ok());
        let later = ids(&keys, due.plus(RETRY_PERIOD));
        assert_eq!((&later[0], &later[2]), (&first[1], &first[0]), "it is tried again");
    }

    #[test]
    fn nothing_private_is_published() {
        let now = Timestamp::from_unix_seconds(1_700_000_000);
        let set = AssertionKeys::new(now).unwrap().key_set(now);
        for key in set["keys"].as_array().unwrap() {
            let mut names: Vec<&str> = key.as_object().unwrap().keys().map(String::as_str).collect();
            names.sort_unstable();
            assert_eq!(names, ["alg", "crv", "kid", "kty", "use", "x", "y"]);
        }
    }
}
