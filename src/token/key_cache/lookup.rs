//! Keys that stand one by one, each under its own `kid`: fetched when a token names one.
//!
//! Invariants:
//! - A `kid` is looked up once in [`UNKNOWN_KEY_REST`], for all who ask for it together; so are [`LOOKUPS_MAX`] of them,
//!   after which an unknown `kid` is refused unseen. Where the issuer could not be asked, it is once in [`NO_KEYS_REST`].
//! - One fetch at a time, as of whole key sets; no request waits longer than for one.
//! - At most [`KEYS_MAX`] are held: the one that was found first goes first.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::timeout;

use super::{Attempted, HeldKeys, IssuerKeys, NO_KEYS_REST, UNKNOWN_KEY_REST};
use crate::clock::Timestamp;
use crate::token::error::TokenError;
use crate::token::key_document::{KeyId, public_key};
use crate::token::key_fetch::{ATTEMPT_TIMEOUT, KeysError};
use crate::token::keys::{KeySet, KeySetError};

/// Names that are looked up in [`UNKNOWN_KEY_REST`]: whoever can send names that nobody has can keep a new key from
/// being found for so long, and makes so many requests of its issuer.
const LOOKUPS_MAX: usize = 16;
/// A region's load balancers sign with few.
const KEYS_MAX: usize = 16;

/// The lookups of the last while, and those that are under way.
#[derive(Debug, Default)]
pub(super) struct Lookups(Mutex<Vec<Lookup>>);

#[derive(Debug)]
struct Lookup {
    kid: KeyId,
    begun: Timestamp,
    found: Found,
}

type Found = Shared<BoxFuture<'static, Result<(), TokenError>>>;

impl IssuerKeys {
    /// Takes a key in PEM as if it had been found now, and to stay fresh, beside those that are held.
    pub fn hold_one(&self, kid: &str, document: &[u8]) -> Result<(), KeysError> {
        let kid = KeyId::parse(kid).ok_or(KeySetError::Kid)?;
        let key = public_key(document, &kid)?;
        let held = self.last.load().as_ref().and_then(|last| Some(last.keys.as_ref()?.set.clone()));
        self.put(held.unwrap_or_default().and(key, KEYS_MAX));
        Ok(())
    }

    /// The keys, with the one of this name among them.
    pub(in crate::token) async fn naming(self: &Arc<Self>, kid: &KeyId) -> Result<Arc<HeldKeys>, TokenError> {
        let unavailable = |error: Arc<str>| TokenError::IssuerUnavailable(error.to_string().into());
        let keys = self.current().await.map_err(unavailable)?;
        if keys.set.names(kid.as_str()) {
            return Ok(keys);
        }
        if self.fetch.is_none() {
            return Err(unknown("none of this name was handed over"));
        }
        let looked_up = async {
            let found = self.lookup(kid).ok_or_else(|| unknown("too many are looked for"))?;
            found.await
        };
        match timeout(ATTEMPT_TIMEOUT, looked_up).await {
            Ok(found) => found?,
            Err(_) => return Err(TokenError::IssuerUnavailable(KeysError::Timeout.to_string().into())),
        }
        let keys = self.current().await.map_err(unavailable)?;
        if keys.set.names(kid.as_str()) { Ok(keys) } else { Err(unknown("its key is gone")) }
    }

    /// The lookup of this name that is under way, has ended just now, or begins; `None` where there are too many.
    fn lookup(self: &Arc<Self>, kid: &KeyId) -> Option<Found> {
        let now = self.clock.now();
        let mut all = self.lookups.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Begun later than now: under a clock that was set back, which must not hold off others until it has caught up.
        all.retain(|Lookup { begun, found, .. }| match found.peek() {
            None => true,
            Some(Err(TokenError::IssuerUnavailable(_))) => *begun <= now && now < begun.plus(NO_KEYS_REST),
            Some(_) => *begun <= now && now < begun.plus(UNKNOWN_KEY_REST),
        });
        if let Some(same) = all.iter().find(|lookup| lookup.kid == *kid) {
            return Some(same.found.clone());
        }
        if all.len() >= LOOKUPS_MAX {
            return None;
        }
        let (keys, kid) = (Arc::clone(self), kid.clone());
        let looked_for = kid.clone();
        // It goes on if the request that caused it goes away.
        let fetching = tokio::spawn(async move { keys.look_up(&looked_for).await });
        // An error here is a runtime that shuts down.
        let found = fetching.map(|found| found.unwrap_or_else(|_| Err(unknown("this proxy is ending"))));
        let found = found.boxed().shared();
        all.push(Lookup { kid, begun: now, found: found.clone() });
        Some(found)
    }

    async fn look_up(&self, kid: &KeyId) -> Result<(), TokenError> {
        let _single_flight = self.attempting.lock().await;
        let before = self.last.load_full();
        let count = Attempted::count(before.as_deref());
        let held = before.as_ref().and_then(|before| before.keys.as_ref());
        if held.is_some_and(|held| held.set.names(kid.as_str())) {
            return Ok(());
        }
        let Some(fetch) = &self.fetch else { return Err(unknown("none is fetched here")) };
        let fetched = timeout(ATTEMPT_TIMEOUT, fetch.key(&self.settings, kid)).await;
        let ended = self.clock.now();
        match fetched.unwrap_or(Err(KeysError::Timeout)) {
            Ok(Some((key, lifetime))) => {
                self.metrics.fetches.inc();
                // Those that were held do not become younger by it.
                let (set, fetched, lifetime) = match held.filter(|held| held.set.len() > 0) {
                    Some(held) => (held.set.clone(), held.fetched, held.lifetime.min(lifetime)),
                    None => (KeySet::default(), ended, lifetime),
                };
                let set = set.and(key, KEYS_MAX);
                let held = self.taken(HeldKeys { set, generation: count + 1, fetched, lifetime });
                self.last.store(Some(Arc::new(Attempted::after(before.as_deref(), Some(held), ended))));
                Ok(())
            }
            // Nothing is wrong with the issuer.
            Ok(None) => {
                self.metrics.fetches.inc();
                Err(unknown("its issuer has no such key"))
            }
            Err(error) => {
                let text = error.to_string();
                self.note(Err(error), count + 1, ended);
                Err(TokenError::IssuerUnavailable(text.into()))
            }
        }
    }
}

fn unknown(why: &'static str) -> TokenError {
    TokenError::KeyUnknown(why.into())
}
