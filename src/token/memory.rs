//! What the verifier remembers: whom verified tokens stand for, and which tokens failed.
//!
//! Invariants:
//! - Verified tokens take no more memory than they were given, counted from what their claims hold and not
//!   from how long they are.
//! - One subject takes a part of it, however many tokens it presents: who can have many tokens issued does not
//!   crowd out the others. Failed tokens have a memory of their own.
//! - A caller is remembered from the moment it was judged on: a clock that goes back revives nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use serde_json::{Map, Value};

use super::error::TokenError;
use super::keys::KeyName;
use crate::clock::Timestamp;
use crate::identity::Caller;

/// How much a verifier remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenCacheSettings {
    /// Of verified tokens, by what they take in memory.
    pub bytes_max: u64,
    /// A verified token that nobody presents for this long is forgotten.
    pub idle_max: Duration,
    /// Of failed tokens.
    pub failures_max: u64,
    /// A failed token is refused from memory for this long.
    pub failure_lifetime: Duration,
}

/// SHA-256 of the whole token.
pub(super) type TokenHash = [u8; 32];

#[derive(Debug)]
pub(super) struct Memory {
    verified: Cache<TokenHash, Remembered>,
    failed: Cache<TokenHash, Failure>,
    /// Of whom the verified tokens are.
    holders: Cache<Holder, Arc<Mutex<Held>>>,
    holder_bytes_max: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Remembered {
    pub caller: Arc<Caller>,
    /// Position among the verifier's issuers.
    pub issuer: usize,
    /// What signed it.
    pub key: KeyName,
    pub judged: Timestamp,
}

#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub error: TokenError,
    pub issuer: usize,
    /// Of the keys that it failed with.
    pub generation: u64,
    pub until: Timestamp,
}

/// Whose tokens count together: a subject's, else a client's, of one issuer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Holder {
    issuer: usize,
    name: Option<Arc<str>>,
}

/// A holder's tokens and their bytes, the first remembered first; some may be forgotten already.
#[derive(Debug, Default)]
struct Held {
    tokens: VecDeque<(TokenHash, u64)>,
    bytes: u64,
}

/// One holder's part of the memory.
const HOLDER_SHARE: u64 = 16;
/// A remembered caller without its words and claims, the entries that lead to it, and its holder's.
const CALLER_BYTES: usize = 1024;
/// A word: its pointer, its counts, and what an allocation costs.
const WORD_BYTES: usize = 48;
/// A node of a map that has room for eleven members and at least five.
const NODE_BYTES: usize = 11 * (size_of::<String>() + size_of::<Value>()) + 32;
const NODE_MEMBERS_MIN: usize = 5;

impl Memory {
    pub fn new(settings: TokenCacheSettings) -> Memory {
        let verified = Cache::builder()
            .weigher(|_, remembered: &Remembered| u32::try_from(remembered.bytes()).unwrap_or(u32::MAX))
            .max_capacity(settings.bytes_max)
            .time_to_idle(settings.idle_max);
        let failed =
            Cache::builder().max_capacity(settings.failures_max).time_to_live(settings.failure_lifetime);
        // as many as there can be tokens; who presents new ones is never forgotten before who does not
        let holders = Cache::builder()
            .max_capacity(settings.bytes_max / CALLER_BYTES as u64)
            .eviction_policy(EvictionPolicy::lru());
        Memory {
            verified: verified.build(),
            failed: failed.build(),
            holders: holders.build(),
            holder_bytes_max: settings.bytes_max / HOLDER_SHARE,
        }
    }

    /// How many tokens there are, verified and failed, after what has ended was cleared away.
    pub fn entries(&self) -> (u64, u64) {
        self.verified.run_pending_tasks();
        self.failed.run_pending_tasks();
        (self.verified.entry_count(), self.failed.entry_count())
    }

    pub fn verified(&self, hash: &TokenHash, now: Timestamp) -> Option<Remembered> {
        self.verified.get(hash).filter(|remembered| remembered.judged <= now)
    }

    pub fn failed(&self, hash: &TokenHash) -> Option<Failure> {
        self.failed.get(hash)
    }

    pub fn remember(&self, remembered: Remembered) {
        let (hash, bytes) = (remembered.caller.token_hash, remembered.bytes());
        let holder = Holder::of(&remembered);
        self.verified.insert(hash, remembered);
        let held = self.holders.get_with(holder, Arc::default);
        let outgrown =
            held.lock().unwrap_or_else(PoisonError::into_inner).add(hash, bytes, self.holder_bytes_max);
        for hash in outgrown {
            self.verified.invalidate(&hash);
        }
    }

    pub fn remember_failure(&self, hash: TokenHash, failure: Failure) {
        self.failed.insert(hash, failure);
    }

    pub fn forget(&self, hash: &TokenHash) {
        self.verified.invalidate(hash);
    }
}

impl Remembered {
    /// What it takes in memory, rather more than less.
    pub fn bytes(&self) -> u64 {
        let Caller { scopes, groups, roles, chain, claims, .. } = &*self.caller;
        let words = scopes.iter().chain(groups).chain(roles);
        let words = words.map(|word| WORD_BYTES + word.len()).sum::<usize>();
        (CALLER_BYTES + words + chain.len() * 4 * WORD_BYTES + members_bytes(claims)) as u64
    }
}

impl Holder {
    fn of(remembered: &Remembered) -> Holder {
        let caller = &remembered.caller;
        Holder { issuer: remembered.issuer, name: caller.subject.clone().or_else(|| caller.client.clone()) }
    }
}

impl Held {
    /// Adds a token, and takes out what is then over `bytes_max`.
    fn add(&mut self, hash: TokenHash, bytes: u64, bytes_max: u64) -> Vec<TokenHash> {
        if let Some(again) = self.tokens.iter().position(|(token, _)| *token == hash) {
            self.bytes -= self.tokens.remove(again).map_or(0, |(_, bytes)| bytes);
        }
        self.tokens.push_back((hash, bytes));
        self.bytes += bytes;
        let mut outgrown = Vec::new();
        while self.bytes > bytes_max
            && let Some((hash, bytes)) = self.tokens.pop_front()
        {
            self.bytes -= bytes;
            outgrown.push(hash);
        }
        outgrown
    }
}

fn members_bytes(members: &Map<String, Value>) -> usize {
    let nodes = members.len().div_ceil(NODE_MEMBERS_MIN) * NODE_BYTES;
    members.iter().map(|(name, value)| WORD_BYTES + name.len() + value_bytes(value)).sum::<usize>() + nodes
}

/// Beside the value itself, which stands in its list or map.
fn value_bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => WORD_BYTES + text.len(),
        // a list that grew has room for twice what is in it
        Value::Array(list) => {
            WORD_BYTES + list.iter().map(|value| 2 * size_of::<Value>() + value_bytes(value)).sum::<usize>()
        }
        Value::Object(members) => members_bytes(members),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_holder_s_first_tokens_make_room_for_its_last() {
        let hash = |of: u8| [of; 32];
        let mut held = Held::default();
        assert_eq!(held.add(hash(1), 40, 100), [[0; 32]; 0]);
        assert_eq!(held.add(hash(2), 60, 100), [[0; 32]; 0], "as much as it may have");
        assert_eq!(held.add(hash(1), 30, 100), [[0; 32]; 0], "counts once, and is now the last");
        assert_eq!(held.add(hash(3), 20, 100), [hash(2)]);
        assert_eq!(held.add(hash(4), 50, 100), [[0; 32]; 0]);
        assert_eq!(held.add(hash(5), 100, 100), [hash(1), hash(3), hash(4)]);
        assert_eq!(held.add(hash(6), 101, 100), [hash(5), hash(6)], "alone too large");
        assert_eq!(held.bytes, 0);
    }

    #[test]
    fn claims_count_for_no_less_than_they_take() {
        let member = size_of::<String>() + size_of::<Value>();
        let flat: Map<String, Value> = (0..100).map(|at| (format!("{at:03}"), Value::Null)).collect();
        let mut seen = 0;
        for (value, at_least) in [
            (json!("x".repeat(1000)), 1000),
            (json!(vec![0; 100]), 100 * size_of::<Value>()),
            (json!(vec!["x".repeat(100); 100]), 100 * (size_of::<Value>() + 100)),
            (json!(vec![vec![0; 100]; 100]), 100 * 100 * size_of::<Value>()),
            (json!(flat), 100 * (member + 3)),
            (json!({ "a": flat, "b": flat }), 2 * 100 * (member + 3)),
            (json!({ "a": "x".repeat(1000) }), 1000 + member),
            (json!({ "x".repeat(1000): 0 }), 1000 + member),
        ] {
            let counted = value_bytes(&value);
            assert!((at_least..8 * at_least).contains(&counted), "{counted} for {at_least}");
            seen += 1;
        }
        assert_eq!(seen, 8);
    }
}
