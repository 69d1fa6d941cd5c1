//! DPoP proofs that were used, so that none is used twice (RFC 9449 §11.1), and the nonces that bind them to a
//! time (§9). One for the whole process: it outlives every generation of the configuration.
//!
//! Invariants:
//! - A proof that was used is known for as long as it would be good. Nothing is forgotten before to make room: who
//!   finds no room is refused.
//! - One holder, however many keys it has tokens issued for, takes a sixteenth of the room, or up to a quarter while as
//!   much is left free: who has a token does not shut out the others.
//! - A clock that goes back revives nothing.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{self, SHA256};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::jwt::decode;
use super::share::has_room;
use crate::clock::Timestamp;
use crate::identity::Caller;

/// The thumbprint of a proof's key (RFC 7638).
pub(super) type Thumbprint = [u8; 32];

#[derive(Debug)]
pub struct Proofs {
    used: Mutex<Used>,
    /// Of this process alone; without one, which would be a failure of the system's randomness, no nonce is good.
    nonce_key: Option<hmac::Key>,
}

/// Why a proof may not be used now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// It was used before.
    Again,
    /// There is no room to remember it.
    NoRoom,
}

#[derive(Debug)]
struct Used {
    /// By their ends, the next first.
    batches: VecDeque<Batch>,
    count: usize,
    /// What ended by then is not known any more.
    forgotten_to: Timestamp,
}

/// Proofs that are forgotten together.
#[derive(Debug)]
struct Batch {
    /// When the last of them has ended.
    end: Timestamp,
    proofs: HashSet<ProofId>,
    by_holder: HashMap<Holder, usize>,
}

/// Whose proofs count together: a subject's, else a client's, of one issuer; the start of the SHA-256 over both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Holder([u8; 16]);

/// The start of the SHA-256 over key and `jti`: enough of it, since finding two that are equal only serves to be
/// refused.
type ProofId = [u8; 16];

/// How far apart proofs end that are forgotten together.
const BATCH_MS: i64 = 10_000;
/// For how long a nonce is good.
pub const NONCE_LIFETIME: Duration = Duration::from_secs(5 * 60);
/// Of its authentication code.
const TAG_BYTES: usize = 16;

impl Default for Proofs {
    fn default() -> Proofs {
        let used = Used { batches: VecDeque::new(), count: 0, forgotten_to: Timestamp::MIN };
        let nonce_key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok();
        Proofs { used: Mutex::new(used), nonce_key }
    }
}

impl Proofs {
    /// Uses the proof with this `jti` by this key, which is good up to `end`, for the `holder` of the token. `count_max` is
    /// for all proofs together.
    pub(super) fn r#use(
        &self,
        (key, jti): (&Thumbprint, &str),
        holder: Holder,
        end: Timestamp,
        now: Timestamp,
        count_max: usize,
    ) -> Result<(), Unusable> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.forget_to(now);
        used.take((key, jti), holder, end, count_max)
    }

    /// As if none had been used: for questions that are only asked.
    pub fn forget(&self) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        *used = Used { batches: VecDeque::new(), count: 0, forgotten_to: Timestamp::MIN };
    }

    /// A nonce for proofs that are made from now on.
    pub fn nonce(&self, now: Timestamp) -> String {
        let moment = now.unix_ms().to_be_bytes();
        let tag = self.nonce_key.as_ref().map(|key| hmac::sign(key, &moment));
        let tag = tag.as_ref().map_or(&[][..], |tag| &tag.as_ref()[..TAG_BYTES]);
        URL_SAFE_NO_PAD.encode([&moment[..], tag].concat())
    }

    /// Whether it is one of ours, and not too old.
    pub(super) fn is_nonce(&self, text: &str, now: Timestamp) -> bool {
        let Some(moment) = decode(text).and_then(|bytes| bytes.first_chunk().copied()) else { return false };
        let at = Timestamp::from_unix_ms(i64::from_be_bytes(moment));
        let is_ours = super::possession::is_same(text.as_bytes(), self.nonce(at).as_bytes());
        self.nonce_key.is_some() && is_ours && at <= now && now < at.plus(NONCE_LIFETIME)
    }
}

impl Used {
    fn forget_to(&mut self, now: Timestamp) {
        while let Some(first) = self.batches.front()
            && first.end <= now
        {
            self.forgotten_to = first.end;
            self.count -= first.proofs.len();
            self.batches.pop_front();
        }
    }

    fn take(
        &mut self,
        (key, jti): (&Thumbprint, &str),
        holder: Holder,
        end: Timestamp,
        count_max: usize,
    ) -> Result<(), Unusable> {
        let id = proof_id(key, jti);
        if end <= self.forgotten_to || self.batches.iter().any(|batch| batch.proofs.contains(&id)) {
            return Err(Unusable::Again);
        }
        let own = self.batches.iter().filter_map(|batch| batch.by_holder.get(&holder)).sum();
        if !has_room(own, self.count, count_max) {
            return Err(Unusable::NoRoom);
        }
        let batch = self.batch_to(end);
        batch.proofs.insert(id);
        *batch.by_holder.entry(holder).or_default() += 1;
        self.count += 1;
        Ok(())
    }

    /// The batch of proofs that end then.
    fn batch_to(&mut self, end: Timestamp) -> &mut Batch {
        let end = Timestamp::from_unix_ms((end.unix_ms().div_euclid(BATCH_MS) + 1).saturating_mul(BATCH_MS));
        let at = self.batches.partition_point(|batch| batch.end < end);
        if self.batches.get(at).is_none_or(|batch| batch.end != end) {
            self.batches.insert(at, Batch { end, proofs: HashSet::new(), by_holder: HashMap::new() });
        }
        &mut self.batches[at]
    }
}

impl Holder {
    pub fn of(caller: &Caller) -> Holder {
        let name = caller.subject.as_ref().or(caller.client.as_ref());
        let mut hash = digest::Context::new(&SHA256);
        // No issuer's name has a space in it.
        hash.update(caller.issuer.as_str().as_bytes());
        hash.update(b" ");
        hash.update(name.map_or(&b""[..], |name| name.as_bytes()));
        let mut start = [0; 16];
        start.copy_from_slice(&hash.finish().as_ref()[..16]);
        Holder(start)
    }
}

fn proof_id(key: &Thumbprint, jti: &str) -> ProofId {
    let mut hash = digest::Context::new(&SHA256);
    // The key is of one length, so nothing of it can be taken for the other's.
    hash.update(key);
    hash.update(jti.as_bytes());
    let mut id = ProofId::default();
    id.copy_from_slice(&hash.finish().as_ref()[..size_of::<ProofId>()]);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
    const MAX: usize = 160;

    fn after(seconds: u64) -> Timestamp {
        NOW.plus(Duration::from_secs(seconds))
    }

    #[test]
    fn a_proof_is_used_once_while_it_is_good() {
        let proofs = Proofs::default();
        let take = |key: u8, jti: &str, end, now| {
            proofs.r#use((&[key; 32], jti), Holder([key; 16]), after(end), after(now), MAX)
        };
        assert_eq!(take(1, "a", 60, 0), Ok(()));
        assert_eq!(take(1, "a", 60, 0), Err(Unusable::Again));
        assert_eq!(take(1, "a", 75, 0), Err(Unusable::Again), "its key made another with the same name");
        assert_eq!(take(2, "a", 60, 0), Ok(()), "another's");
        assert_eq!(take(1, "b", 60, 0), Ok(()));
        assert_eq!(take(1, "a", 60, 59), Err(Unusable::Again));
        assert_eq!(take(1, "c", 200, 90), Ok(()));
        assert_eq!(take(1, "a", 60, 0), Err(Unusable::Again), "the clock went back");
        assert_eq!(take(1, "d", 60, 0), Err(Unusable::Again), "so that it cannot be told");
        assert_eq!(take(1, "a", 140, 90), Ok(()));
    }

    #[test]
    fn nothing_is_forgotten_to_make_room() {
        let proofs = Proofs::default();
        let take = |key: u8, jti: usize| {
            proofs.r#use((&[key; 32], &jti.to_string()), Holder([key; 16]), after(60), NOW, MAX)
        };
        let room_of = |key| (0..).take_while(|jti| take(key, *jti).is_ok()).count();
        // a quarter of the room, then as much as is left free, and not less than a sixteenth
        let rooms: Vec<usize> = (0..8).map(room_of).collect();
        assert_eq!(rooms, [40, 40, 40, 20, 10, 10, 0, 0]);
        assert_eq!(rooms.iter().sum::<usize>(), MAX);
        assert_eq!(take(0, 0), Err(Unusable::Again));
        assert_eq!(take(9, 0), Err(Unusable::NoRoom));
        assert_eq!(proofs.r#use((&[9; 32], "0"), Holder([9; 16]), after(200), after(90), MAX), Ok(()));
        assert_eq!(proofs.used.lock().unwrap().count, 1);
    }

    #[test]
    fn who_has_many_keys_has_no_more_room() {
        let proofs = Proofs::default();
        let take =
            |key: u8, holder: u8| proofs.r#use((&[key; 32], "a"), Holder([holder; 16]), after(60), NOW, MAX);
        let of_one = (0..200).take_while(|key| take(*key, 1).is_ok()).count();
        assert_eq!(of_one, MAX / 4);
        assert_eq!(take(200, 1), Err(Unusable::NoRoom), "by a key that was never seen");
        assert_eq!(take(200, 2), Ok(()), "another's");
        assert_eq!(take(0, 1), Err(Unusable::Again));
    }

    #[test]
    fn where_there_is_room_for_few_there_is_room() {
        for count_max in 1..=5 {
            let proofs = Proofs::default();
            let taken = (0..8).filter(|key| {
                proofs.r#use((&[*key; 32], "a"), Holder([*key; 16]), after(60), NOW, count_max).is_ok()
            });
            assert_eq!(taken.count(), count_max);
        }
    }

    #[test]
    fn a_nonce_is_of_one_process_and_one_time() {
        let proofs = Proofs::default();
        let nonce = proofs.nonce(NOW);
        let is = |text: &str, at: Timestamp| proofs.is_nonce(text, at);
        assert!(is(&nonce, NOW) && is(&nonce, after(299)));
        assert!(!is(&nonce, after(300)) && !is(&nonce, NOW.minus(Duration::from_millis(1))));
        assert!(!Proofs::default().is_nonce(&nonce, NOW));
        let mut seen = 0;
        for at in 0..nonce.len() {
            let mut other = nonce.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            assert!(!is(str::from_utf8(&other).unwrap(), NOW), "{at}");
            seen += 1;
        }
        assert_eq!(seen, 32);
        for other in ["", "A", "AAAAAAAAAAA", &nonce[..31], &format!("{nonce}A"), &format!("{nonce}AAAA")] {
            assert!(!is(other, NOW), "{other}");
        }
    }
}
