//! What the verifier remembers: whom verified tokens stand for, and which tokens failed.
//!
//! Invariants:
//! - Verified tokens take no more memory than they were given, counted from what their claims hold and not
//!   from how long they are.
//! - One subject takes a sixteenth of it, or up to a quarter while as much is left free, however many tokens it
//!   presents: who can have many tokens issued does not crowd out the others. Failed tokens have a memory of their own.
//! - A caller is remembered from the moment it was judged on: a clock that goes back revives nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use moka::Entry;
use moka::ops::compute::{CompResult, Op};
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
    verified: Cache<TokenHash, Arc<Remembered>>,
    failed: Cache<TokenHash, Failure>,
    holders: Arc<Holders>,
    bytes_max: u64,
}

#[derive(Debug)]
pub(super) struct Remembered {
    pub caller: Arc<Caller>,
    /// Position among the verifier's issuers.
    pub issuer: usize,
    pub vouched: Vouched,
    pub judged: Timestamp,
    /// What it takes in memory, rather more than less.
    pub bytes: u64,
    /// With all that its holder has.
    held: Arc<Held>,
}

/// What a remembered caller rests on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Vouched {
    /// What signed its token.
    By(KeyName),
    /// Its issuer was asked: it is asked again from `again` on, and without another word it is believed up to `end`.
    Asked { again: Timestamp, end: Timestamp },
}

#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub error: TokenError,
    pub issuer: usize,
    /// Of the keys that it failed with, unless its issuer was asked.
    pub generation: Option<u64>,
    pub until: Timestamp,
}

/// Whose tokens count together: a subject's, else a client's, of one issuer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Holder {
    issuer: usize,
    name: Option<Arc<str>>,
}

/// Of whom tokens are remembered: what they hold lives as long as one of those.
#[derive(Debug, Default)]
struct Holders(Mutex<HashMap<Holder, Weak<Held>>>);

/// What one holder has.
#[derive(Debug)]
struct Held {
    holder: Holder,
    holders: Arc<Holders>,
    tokens: Mutex<HeldTokens>,
}

/// A holder's tokens and their bytes, the first remembered first; some of them may be forgotten already.
#[derive(Debug, Default)]
struct HeldTokens {
    tokens: VecDeque<(Weak<Remembered>, u64)>,
    bytes: u64,
}

/// One holder's part of the memory: this, and more only while as much is left free.
const HOLDER_SHARE: u64 = 16;
/// What it may have of a memory that is empty but for its own.
const HOLDER_MOST: u64 = 4;
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
            .weigher(|_, remembered: &Arc<Remembered>| u32::try_from(remembered.bytes).unwrap_or(u32::MAX))
            .max_capacity(settings.bytes_max)
            .time_to_idle(settings.idle_max);
        let failed =
            Cache::builder().max_capacity(settings.failures_max).time_to_live(settings.failure_lifetime);
        Memory {
            verified: verified.build(),
            failed: failed.build(),
            holders: Arc::default(),
            bytes_max: settings.bytes_max,
        }
    }

    /// How many tokens there are, verified and failed, after what has ended was cleared away.
    pub fn entries(&self) -> (u64, u64) {
        self.verified.run_pending_tasks();
        self.failed.run_pending_tasks();
        (self.verified.entry_count(), self.failed.entry_count())
    }

    pub fn verified(&self, hash: &TokenHash, now: Timestamp) -> Option<Arc<Remembered>> {
        self.verified.get(hash).filter(|remembered| remembered.judged <= now)
    }

    /// All that are remembered; some may hold no longer.
    pub fn all_verified(&self) -> impl Iterator<Item = Arc<Remembered>> {
        self.verified.iter().map(|(_, remembered)| remembered)
    }

    pub fn failed(&self, hash: &TokenHash) -> Option<Failure> {
        self.failed.get(hash)
    }

    pub fn remember(
        &self,
        caller: Caller,
        issuer: usize,
        vouched: Vouched,
        judged: Timestamp,
    ) -> Arc<Remembered> {
        let remembered = self.held(caller, issuer, vouched, judged);
        self.verified.insert(remembered.caller.token_hash, Arc::clone(&remembered));
        self.count(&remembered);
        remembered
    }

    /// In place of `last`, unless that was forgotten or something else stands there since; what stands there then.
    pub fn remember_again(
        &self,
        last: &Arc<Remembered>,
        caller: Caller,
        vouched: Vouched,
    ) -> Option<Arc<Remembered>> {
        let remembered = self.held(caller, last.issuer, vouched, last.judged);
        let in_place = |there: Option<Entry<_, Arc<Remembered>>>| match there {
            Some(there) if Arc::ptr_eq(there.value(), last) => Op::Put(Arc::clone(&remembered)),
            _ => Op::Nop,
        };
        match self.verified.entry(last.caller.token_hash).and_compute_with(in_place) {
            CompResult::ReplacedWith(_) => {
                self.count(&remembered);
                Some(remembered)
            }
            CompResult::Unchanged(other) => Some(other.into_value()),
            _ => None,
        }
    }

    fn held(&self, caller: Caller, issuer: usize, vouched: Vouched, judged: Timestamp) -> Arc<Remembered> {
        let held = Holders::of(&self.holders, Holder::of(&caller, issuer));
        let (bytes, caller) = (caller_bytes(&caller), Arc::new(caller));
        Arc::new(Remembered { caller, issuer, vouched, judged, bytes, held })
    }

    /// What its holder has too many of is forgotten.
    fn count(&self, remembered: &Arc<Remembered>) {
        let outgrown = lock(&remembered.held.tokens).add(remembered, self.holder_bytes_max());
        for token in outgrown {
            self.verified.invalidate(&token.caller.token_hash);
        }
    }

    /// Where there is room, one holder may have of it what it leaves, within bounds: so a flood of one's tokens
    /// fills no memory, and in a full one takes only its share.
    fn holder_bytes_max(&self) -> u64 {
        let free = self.bytes_max.saturating_sub(self.verified.weighted_size());
        free.clamp(self.bytes_max / HOLDER_SHARE, self.bytes_max / HOLDER_MOST)
    }

    pub fn remember_failure(&self, hash: TokenHash, failure: Failure) {
        self.failed.insert(hash, failure);
    }

    pub fn forget(&self, hash: &TokenHash) {
        self.verified.invalidate(hash);
    }
}

impl Holder {
    fn of(caller: &Caller, issuer: usize) -> Holder {
        Holder { issuer, name: caller.subject.clone().or_else(|| caller.client.clone()) }
    }
}

impl Holders {
    fn of(holders: &Arc<Holders>, holder: Holder) -> Arc<Held> {
        let mut all = lock(&holders.0);
        if let Some(held) = all.get(&holder).and_then(Weak::upgrade) {
            return held;
        }
        let new = Held { holder: holder.clone(), holders: Arc::clone(holders), tokens: Mutex::default() };
        let new = Arc::new(new);
        all.insert(holder, Arc::downgrade(&new));
        new
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut all = lock(&self.holders.0);
        // Another may stand in its place by now.
        if all.get(&self.holder).is_some_and(|held| held.strong_count() == 0) {
            all.remove(&self.holder);
        }
    }
}

impl HeldTokens {
    /// Adds a token, and takes out the first ones: those that are forgotten, and as many as are then over
    /// `bytes_max`.
    fn add(&mut self, token: &Arc<Remembered>, bytes_max: u64) -> Vec<Arc<Remembered>> {
        self.tokens.push_back((Arc::downgrade(token), token.bytes));
        self.bytes += token.bytes;
        let mut outgrown = Vec::new();
        while let Some((first, bytes)) = self.tokens.front()
            && (self.bytes > bytes_max || first.strong_count() == 0)
        {
            self.bytes -= bytes;
            outgrown.extend(first.upgrade());
            self.tokens.pop_front();
        }
        outgrown
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn caller_bytes(caller: &Caller) -> u64 {
    let Caller { scopes, groups, roles, chain, claims, .. } = caller;
    let words = scopes.iter().chain(groups).chain(roles);
    let words = words.map(|word| WORD_BYTES + word.len()).sum::<usize>();
    (CALLER_BYTES + words + chain.len() * 4 * WORD_BYTES + members_bytes(claims)) as u64
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
    use crate::identity::ActorKind;

    fn token(holders: &Arc<Holders>, subject: &str, bytes: u64) -> Arc<Remembered> {
        let caller = Caller {
            issuer: "corp".parse().unwrap(),
            subject: Some(subject.into()),
            client: None,
            scopes: Vec::new(),
            groups: Vec::new(),
            roles: Vec::new(),
            actor: ActorKind::Human,
            on_behalf_of: ActorKind::Human,
            chain: Vec::new(),
            expires: Timestamp::MAX,
            believed_until: None,
            authenticated_at: None,
            acr: None,
            confirmation: None,
            via: None,
            token_id: None,
            claims: Map::new(),
            token_hash: [0; 32],
        };
        let held = Holders::of(holders, Holder::of(&caller, 0));
        let (caller, vouched, judged) = (Arc::new(caller), Vouched::By(KeyName::FOR_TESTS), Timestamp::MIN);
        Arc::new(Remembered { caller, issuer: 0, vouched, judged, bytes, held })
    }

    #[test]
    fn a_holder_s_first_tokens_make_room_for_its_last() {
        let holders = Arc::default();
        let [a, b, c, d, e] = [40, 60, 20, 100, 101].map(|bytes| token(&holders, "alice", bytes));
        let mut held = HeldTokens::default();
        let mut add = |token: &Arc<Remembered>| {
            let bytes = |token: &Arc<Remembered>| token.bytes;
            let outgrown: Vec<u64> = held.add(token, 100).iter().map(bytes).collect();
            (outgrown, held.bytes)
        };
        assert_eq!(add(&a), (vec![], 40));
        assert_eq!(add(&b), (vec![], 100), "as much as it may have");
        assert_eq!(add(&c), (vec![40], 80));
        drop(b);
        assert_eq!(add(&a), (vec![], 60), "what is forgotten counts no longer");
        assert_eq!(add(&d), (vec![20, 40], 100));
        assert_eq!(add(&e), (vec![100, 101], 0), "alone too large");
    }

    #[test]
    fn of_a_holder_without_tokens_nothing_is_left() {
        let holders: Arc<Holders> = Arc::default();
        let count = || lock(&holders.0).len();
        let [alice, again, bob] = ["alice", "alice", "bob"].map(|subject| token(&holders, subject, 1));
        assert!(Arc::ptr_eq(&alice.held, &again.held));
        assert_eq!(count(), 2);
        drop((alice, bob));
        assert_eq!(count(), 1);
        drop(again);
        assert_eq!(count(), 0);
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
