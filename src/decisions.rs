//! The cache of standings (moka): which rules' identity conditions hold for one peer and one caller
//! under one policy; and what is made of each once.
//!
//! A standing is looked up only by who holds both verified signatures in his hands, never by token
//! bytes alone. It is served while our clock stands between the moment it was made and the earlier
//! of its own end and the cap; moka's own expiry only keeps house. A clock that goes back revives
//! nothing.

use std::sync::{Arc, OnceLock};
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

/// Standings, each with a place for what is made of it.
#[derive(Debug)]
pub struct Decisions<T: Send + Sync + 'static> {
    entries: Cache<Key, Arc<Judged<T>>>,
    lifetime_max: Duration,
    metrics: CacheMetrics,
}

/// A standing, and whose it is: of one peer and one caller under one policy.
#[derive(Debug)]
pub struct Judged<T> {
    key: Key,
    pub standing: Standing,
    made: Timestamp,
    valid_until: Timestamp,
    /// What is the same for all requests of these two.
    pub told: OnceLock<T>,
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
    /// SHA-256 of the whole token, and up to when its issuer's word on it is believed, where that was asked: at
    /// another time it may have said something else of the same token.
    caller: Option<([u8; 32], Option<Timestamp>)>,
    generation: Generation,
}

impl<T: Send + Sync> Decisions<T> {
    pub fn new(settings: DecisionsSettings, metrics: CacheMetrics) -> Decisions<T> {
        let entries = Cache::builder().max_capacity(settings.entries_max).time_to_live(settings.lifetime_max);
        Decisions { entries: entries.build(), lifetime_max: settings.lifetime_max, metrics }
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
        known: Option<&Arc<Judged<T>>>,
    ) -> (Arc<Judged<T>>, Lookup) {
        let key = Key::new(Generation { policy: policy.hash(), number: generation }, peer, caller);
        let known = known.filter(|known| known.key == key && known.is_live(now)).cloned();
        let found = known.or_else(|| self.entries.get(&key).filter(|found| found.is_live(now)));
        if let Some(found) = found {
            self.metrics.count(Lookup::Hit);
            return (found, Lookup::Hit);
        }
        self.metrics.count(Lookup::Miss);
        (self.put(key, policy.standing(peer, caller, now), now), Lookup::Miss)
    }

    fn put(&self, key: Key, standing: Standing, now: Timestamp) -> Arc<Judged<T>> {
        let valid_until = standing.valid_until().min(now.plus(self.lifetime_max));
        let judged = Judged { key, standing, made: now, valid_until, told: OnceLock::new() };
        let judged = Arc::new(judged);
        if judged.is_live(now) {
            self.entries.insert(judged.key.clone(), Arc::clone(&judged));
        }
        judged
    }

    /// How many are remembered, after what has ended was cleared away.
    pub fn entries(&self) -> u64 {
        self.entries.run_pending_tasks();
        self.entries.entry_count()
    }
}

impl Key {
    fn new(generation: Generation, peer: &Signature<Peer>, caller: &Signature<Caller>) -> Key {
        Key {
            peer: peer.verified().map(|peer| (peer.certificate, peer.hop.clone())),
            caller: caller.verified().map(|caller| (caller.token_hash, caller.believed_until)),
            generation,
        }
    }
}

impl<T> Judged<T> {
    /// Whether the peers of both are one, called the same by one policy.
    pub fn is_of_peer_of(&self, other: &Judged<T>) -> bool {
        let peer = |judged: &Judged<T>| (judged.key.peer.clone(), judged.key.generation);
        peer(self) == peer(other)
    }

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

    fn decisions(entries_max: u64) -> Decisions<()> {
        let settings = DecisionsSettings { entries_max, lifetime_max: 10 * MINUTE };
        Decisions::new(settings, Metrics::new().decision_cache)
    }

    fn policy(hash: u8) -> Policy {
        Policy::compile(PolicyParts::default(), PolicyHash([hash; 32]), NOW).unwrap().0
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
            believed_until: None,
            authenticated_at: None,
            acr: None,
            confirmation: None,
            via: None,
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
        let cache = decisions(100);
        let with_peer = |peer: Peer| (policy(3), 4, verified(peer), verified(caller()));
        let with_caller = |caller: Caller| (policy(3), 4, verified(peer()), verified(caller));
        let own = || with_peer(peer());
        type Who = (Policy, u64, Signature<Peer>, Signature<Caller>);
        let look_up = |(policy, generation, peer, caller): Who, known: Option<&Arc<Judged<()>>>| {
            cache.standing(&policy, generation, &peer, &caller, NOW, known)
        };
        let (standing, lookup) = look_up(own(), None);
        assert_eq!(lookup, Lookup::Miss);
        for (other, of_same_peer) in [
            (with_peer(Peer { certificate: CertificateHash([9; 32]), ..peer() }), false),
            (with_peer(Peer { hop: Hop::Local, ..peer() }), false),
            (with_peer(Peer { hop: Hop::Trusted("alb".parse().unwrap()), ..peer() }), false),
            (with_caller(Caller { token_hash: [9; 32], ..caller() }), true),
            ((policy(3), 4, Signature::Absent, verified(caller())), false),
            ((policy(3), 4, verified(peer()), Signature::Absent), true),
            ((policy(3), 4, Signature::Absent, Signature::Absent), false),
            ((policy(9), 4, verified(peer()), verified(caller())), false),
            ((policy(3), 5, verified(peer()), verified(caller())), false),
        ] {
            let shown = format!("{:?} {:?}", other.2, other.3);
            let (of_other, lookup) = look_up(other, Some(&standing));
            assert_eq!(lookup, Lookup::Miss, "{shown}");
            assert_eq!(of_other.is_of_peer_of(&standing), of_same_peer, "{shown}");
            assert!(Arc::ptr_eq(&standing, &look_up(own(), None).0), "{shown}");
            assert!(Arc::ptr_eq(&standing, &look_up(own(), Some(&of_other)).0), "{shown}");
        }
        assert_eq!((cache.metrics.hits.get(), cache.metrics.misses.get()), (18, 10));
    }

    #[test]
    fn our_clock_ends_a_standing_and_never_revives_one() {
        let clock = Clock::manual(NOW);
        let cache = decisions(100);
        let generation = |number| Generation { policy: PolicyHash([3; 32]), number };
        let key = |number| Key::new(generation(number), &verified(peer()), &verified(caller()));
        for (number, expires) in [(1, NOW.plus(MINUTE)), (2, Timestamp::MAX), (3, NOW)] {
            let caller = verified(Caller { expires, ..caller() });
            cache.put(key(number), policy(3).standing(&verified(peer()), &caller, NOW), NOW);
        }
        let is_served = |number, now| cache.entries.get(&key(number)).is_some_and(|found| found.is_live(now));
        let standing = |now: Timestamp| [1, 2, 3].map(|number| is_served(number, now));
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
        let (policy, cache) = (policy(3), decisions(100));
        let lookups = |caller: Caller, now| {
            let caller = verified(caller);
            [1, 1, 2].map(|generation| {
                cache.standing(&policy, generation, &verified(peer()), &caller, now, None).1
            })
        };
        let (hit, miss) = (Lookup::Hit, Lookup::Miss);
        let expires = NOW.plus(MINUTE);
        assert_eq!(lookups(Caller { expires, ..caller() }, NOW), [miss, hit, miss]);
        assert_eq!(lookups(Caller { expires, ..caller() }, expires), [miss, miss, miss]);
    }

    #[test]
    fn a_standing_that_is_kept_at_hand_is_for_its_own_and_ends_as_others_do() {
        let (policy, cache) = (policy(3), decisions(0));
        let mut known = None;
        let mut lookup = |generation, peer: Peer, caller: Caller, now| {
            let (peer, caller) = (verified(peer), verified(caller));
            let (judged, lookup) = cache.standing(&policy, generation, &peer, &caller, now, known.as_ref());
            known = Some(judged);
            lookup
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
        let (policy, cache) = (policy(3), decisions(10));
        for generation in 0..1000 {
            cache.standing(&policy, generation, &verified(peer()), &verified(caller()), NOW, None);
        }
        assert!(cache.entries() <= 10, "{}", cache.entries());
    }
}
