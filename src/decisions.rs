//! The cache of standings (moka): which rules' identity conditions hold for one peer and one caller
//! under one policy.
//!
//! A standing is looked up only by who holds both verified signatures in his hands, never by token
//! bytes alone. It is served while our clock stands between the moment it was made and the earlier
//! of its own end and the cap; moka's own expiry only keeps house. A clock that goes back revives
//! nothing.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use crate::clock::Timestamp;
use crate::identity::{Caller, CertificateHash, Hop, Peer, Signature};
use crate::metrics::{CacheMetrics, Lookup};
use crate::policy::{Policy, PolicyHash, Standing};

/// `[cache]`, as far as it is about decisions.
#[derive(Clone, Copy, Debug)]
pub struct DecisionsSettings {
    pub entries_max: u64,
    /// How long a standing is served at most.
    pub lifetime_max: Duration,
}

/// Cheap to clone; clones share their entries.
#[derive(Clone, Debug)]
pub struct Decisions {
    standings: Entries<Arc<Standing>>,
}

/// What judges: a policy, and the count of loads, which also counts new CAs, issuers and revocations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Generation {
    pub policy: PolicyHash,
    pub number: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// The certificate, and the hop it was learned from.
    peer: Option<(CertificateHash, Hop)>,
    /// SHA-256 of the whole token.
    caller: Option<[u8; 32]>,
    generation: Generation,
}

#[derive(Clone, Debug)]
struct Entries<V: Clone + Send + Sync + 'static> {
    entries: Cache<Key, Entry<V>>,
    lifetime_max: Duration,
    metrics: CacheMetrics,
}

#[derive(Clone, Debug)]
struct Entry<V> {
    value: V,
    made: Timestamp,
    valid_until: Timestamp,
}

/// A standing, and whose it is.
#[derive(Debug)]
pub struct KnownStanding {
    key: Key,
    entry: Entry<Arc<Standing>>,
}

impl Decisions {
    pub fn new(settings: DecisionsSettings, metrics: CacheMetrics) -> Decisions {
        Decisions { standings: Entries::new(settings, metrics) }
    }

    /// The standing of these two under `policy`, remembered or made anew. `known` is the one that its holder had
    /// last: it saves finding it again, not what is asked of it each time.
    pub fn standing(
        &self,
        policy: &Policy,
        generation: u64,
        peer: &Signature<Peer>,
        caller: &Signature<Caller>,
        now: Timestamp,
        known: &mut Option<Arc<KnownStanding>>,
    ) -> (Arc<Standing>, Lookup) {
        let key = Key::new(Generation { policy: policy.hash(), number: generation }, peer, caller);
        if let Some(same) = known.as_ref().filter(|known| known.key == key && known.entry.is_live(now)) {
            self.standings.metrics.count(Lookup::Hit);
            return (Arc::clone(&same.entry.value), Lookup::Hit);
        }
        let (entry, lookup) = match self.standings.get(&key, now) {
            Some(entry) => (entry, Lookup::Hit),
            None => {
                let standing = Arc::new(policy.standing(peer, caller, now));
                let valid_until = standing.valid_until();
                (self.standings.put(key.clone(), standing, now, valid_until), Lookup::Miss)
            }
        };
        let standing = Arc::clone(&entry.value);
        *known = Some(Arc::new(KnownStanding { key, entry }));
        (standing, lookup)
    }

    /// How many are remembered, after what has ended was cleared away.
    pub fn entries(&self) -> u64 {
        self.standings.entries.run_pending_tasks();
        self.standings.entries.entry_count()
    }
}

impl Key {
    fn new(generation: Generation, peer: &Signature<Peer>, caller: &Signature<Caller>) -> Key {
        Key {
            peer: peer.verified().map(|peer| (peer.certificate, peer.hop.clone())),
            caller: caller.verified().map(|caller| caller.token_hash),
            generation,
        }
    }
}

impl<V: Clone + Send + Sync + 'static> Entries<V> {
    fn new(settings: DecisionsSettings, metrics: CacheMetrics) -> Entries<V> {
        let entries =
            Cache::builder().max_capacity(settings.entries_max).time_to_live(settings.lifetime_max).build();
        Entries { entries, lifetime_max: settings.lifetime_max, metrics }
    }

    fn get(&self, key: &Key, now: Timestamp) -> Option<Entry<V>> {
        let found = self.entries.get(key).filter(|entry| entry.is_live(now));
        self.metrics.count(if found.is_some() { Lookup::Hit } else { Lookup::Miss });
        found
    }

    fn put(&self, key: Key, value: V, now: Timestamp, valid_until: Timestamp) -> Entry<V> {
        let valid_until = valid_until.min(now.plus(self.lifetime_max));
        let entry = Entry { value, made: now, valid_until };
        if entry.is_live(now) {
            self.entries.insert(key, entry.clone());
        }
        entry
    }
}

impl<V> Entry<V> {
    fn is_live(&self, now: Timestamp) -> bool {
        self.made <= now && now < self.valid_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::identity::{ActorKind, PeerName};
    use crate::metrics::Metrics;
    use crate::policy::PolicyParts;
    use serde_json::Map;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_700_000_000);
    const MINUTE: Duration = Duration::from_secs(60);

    fn entries(entries_max: u64) -> Entries<&'static str> {
        let settings = DecisionsSettings { entries_max, lifetime_max: 10 * MINUTE };
        Entries::new(settings, Metrics::new().decision_cache)
    }

    fn peer() -> Peer {
        Peer {
            name: PeerName::Spiffe("spiffe://shop.example/storefront".parse().unwrap()),
            certificate: CertificateHash([1; 32]),
            not_after: Timestamp::MAX,
            hop: Hop::Direct,
        }
    }

    fn caller() -> Caller {
        Caller {
            issuer: "corp".parse().unwrap(),
            subject: Some("alice".into()),
            client: None,
            scopes: Vec::new(),
            groups: Vec::new(),
            roles: Vec::new(),
            actor: ActorKind::Human,
            on_behalf_of: ActorKind::Human,
            chain: Vec::new(),
            expires: Timestamp::MAX,
            authenticated_at: None,
            acr: None,
            confirmation: None,
            token_id: None,
            claims: Map::new(),
            token_hash: [2; 32],
        }
    }

    fn verified<T>(identity: T) -> Signature<T> {
        Signature::Verified(Arc::new(identity))
    }

    #[test]
    fn a_standing_belongs_to_exactly_these_two_this_hop_and_this_generation() {
        let generation = Generation { policy: PolicyHash([3; 32]), number: 4 };
        let key = || Key::new(generation, &verified(peer()), &verified(caller()));
        let cache = entries(100);
        cache.put(key(), "standing", NOW, Timestamp::MAX);
        assert_eq!(cache.get(&key(), NOW).map(|entry| entry.value), Some("standing"));
        let with_peer = |peer: Peer| Key::new(generation, &verified(peer), &verified(caller()));
        let others = [
            with_peer(Peer { certificate: CertificateHash([9; 32]), ..peer() }),
            with_peer(Peer { hop: Hop::Local, ..peer() }),
            with_peer(Peer { hop: Hop::Trusted("alb".parse().unwrap()), ..peer() }),
            Key::new(generation, &Signature::Absent, &verified(caller())),
            Key::new(generation, &verified(peer()), &verified(Caller { token_hash: [9; 32], ..caller() })),
            Key::new(generation, &verified(peer()), &Signature::Absent),
            Key::new(generation, &Signature::Absent, &Signature::Absent),
            Key { generation: Generation { policy: PolicyHash([9; 32]), ..generation }, ..key() },
            Key { generation: Generation { number: 5, ..generation }, ..key() },
        ];
        for other in &others {
            assert!(cache.get(other, NOW).is_none(), "{other:?}");
            assert_ne!(*other, key(), "what is kept at hand is found by the whole key");
        }
        assert_eq!((cache.metrics.hits.get(), cache.metrics.misses.get()), (1, 9));
    }

    #[test]
    fn our_clock_ends_a_standing_and_never_revives_one() {
        let clock = Clock::manual(NOW);
        let key = |number| {
            let generation = Generation { policy: PolicyHash([3; 32]), number };
            Key::new(generation, &verified(peer()), &verified(caller()))
        };
        let cache = entries(100);
        cache.put(key(1), "short", clock.now(), NOW.plus(MINUTE));
        cache.put(key(2), "capped", clock.now(), Timestamp::MAX);
        cache.put(key(3), "past", clock.now(), NOW);
        let standing = |now: Timestamp| [1, 2, 3].map(|number| cache.get(&key(number), now).is_some());
        assert_eq!(standing(clock.now()), [true, true, false]);
        clock.advance(MINUTE - Duration::from_millis(1));
        assert_eq!(standing(clock.now()), [true, true, false]);
        clock.advance(Duration::from_millis(1));
        assert_eq!(standing(clock.now()), [false, true, false]);
        clock.advance(9 * MINUTE);
        assert_eq!(standing(clock.now()), [false, false, false]);
        clock.set(NOW.minus(Duration::from_millis(1)));
        assert_eq!(standing(clock.now()), [false, false, false]);
    }

    #[test]
    fn a_standing_is_made_once_while_its_credentials_live() {
        let policy = Policy::compile(PolicyParts::default(), PolicyHash([3; 32]), NOW).unwrap().0;
        let settings = DecisionsSettings { entries_max: 100, lifetime_max: 10 * MINUTE };
        let cache = Decisions::new(settings, Metrics::new().decision_cache);
        let lookups = |caller: Caller, now| {
            let caller = verified(caller);
            [1, 1, 2].map(|generation| {
                cache.standing(&policy, generation, &verified(peer()), &caller, now, &mut None).1
            })
        };
        let (hit, miss) = (Lookup::Hit, Lookup::Miss);
        let expires = NOW.plus(MINUTE);
        assert_eq!(lookups(Caller { expires, ..caller() }, NOW), [miss, hit, miss]);
        assert_eq!(lookups(Caller { expires, ..caller() }, expires), [miss, miss, miss]);
    }

    #[test]
    fn a_standing_that_is_kept_at_hand_is_for_its_own_and_ends_as_others_do() {
        let policy = Policy::compile(PolicyParts::default(), PolicyHash([3; 32]), NOW).unwrap().0;
        let settings = DecisionsSettings { entries_max: 0, lifetime_max: 10 * MINUTE };
        let cache = Decisions::new(settings, Metrics::new().decision_cache);
        let mut known = None;
        let mut lookup = |generation, peer: Peer, caller: Caller, now| {
            let (peer, caller) = (verified(peer), verified(caller));
            cache.standing(&policy, generation, &peer, &caller, now, &mut known).1
        };
        let (hit, miss) = (Lookup::Hit, Lookup::Miss);
        let alice = || Caller { expires: NOW.plus(MINUTE), ..caller() };
        let bob = || Caller { token_hash: [9; 32], ..alice() };
        let other = || Peer { certificate: CertificateHash([9; 32]), ..peer() };
        let end = NOW.plus(MINUTE);
        assert_eq!(lookup(1, peer(), alice(), NOW), miss);
        assert_eq!(lookup(1, peer(), alice(), NOW), hit);
        for (generation, peer, caller, now) in [
            (2, peer(), alice(), NOW),
            (2, other(), alice(), NOW),
            (2, other(), bob(), NOW),
            (2, other(), bob(), NOW.minus(MINUTE)),
            (1, peer(), alice(), NOW),
            (1, peer(), alice(), end),
            (1, peer(), alice(), end),
        ] {
            assert_eq!(lookup(generation, peer, caller, now), miss);
        }
    }

    #[test]
    fn entries_are_bounded() {
        let cache = entries(10);
        for number in 0..1000 {
            let generation = Generation { policy: PolicyHash([3; 32]), number };
            let key = Key::new(generation, &verified(peer()), &verified(caller()));
            cache.put(key, "standing", NOW, Timestamp::MAX);
        }
        cache.entries.run_pending_tasks();
        assert!(cache.entries.entry_count() <= 10, "{}", cache.entries.entry_count());
    }
}
