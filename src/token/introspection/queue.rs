//! Who may ask an issuer about tokens now.
//!
//! Invariants:
//! - Questions about tokens that nobody vouched for yet, which anybody can make up, are half of all at most: who asks
//!   anew about one that was believed waits for none of those that wait.
//! - Of that half one asker has at most half, and of those that wait a part: so nobody's take the place of all others'.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::identity::CertificateHash;
use crate::token::share::has_room;

/// Questions to one issuer at once.
const IN_FLIGHT_MAX: usize = 64;
/// Of these, about tokens that were never believed.
const UNKNOWN_MAX: usize = IN_FLIGHT_MAX / 2;
/// Of those, one asker's.
const EACH_MAX: usize = UNKNOWN_MAX / 2;

/// Whose question it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::token) enum Asker {
    Certificate(CertificateHash),
    /// In IPv6 the first half of it: whoever has one has all that begin so.
    Address(IpAddr),
    Nobody,
}

/// About which token.
#[derive(Clone, Copy, Debug)]
pub(in crate::token) enum About {
    /// One that was believed before, here or where it let somebody in.
    Known,
    Unknown(Asker),
}

#[derive(Debug)]
pub(super) struct Queue {
    all: Semaphore,
    unknown: Semaphore,
    askers: Mutex<Askers>,
}

/// Who asks about unknown tokens, or waits to.
#[derive(Debug, Default)]
struct Askers {
    by: HashMap<Asker, Asking>,
    count: usize,
}

#[derive(Debug)]
struct Asking {
    turns: Arc<Semaphore>,
    count: usize,
}

/// The right to ask one question, until dropped.
pub(super) struct Place<'q> {
    _all: SemaphorePermit<'q>,
    _unknown: Option<(SemaphorePermit<'q>, OwnedSemaphorePermit, Entered<'q>)>,
}

/// Who is counted.
struct Entered<'q> {
    queue: &'q Queue,
    asker: Asker,
}

impl Asker {
    pub fn of(certificate: Option<&CertificateHash>, address: Option<IpAddr>) -> Asker {
        let network = |address: IpAddr| match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::from((address.to_bits() >> 64 << 64).to_be_bytes()),
            address => address,
        };
        let by_address = || address.map_or(Asker::Nobody, |address| Asker::Address(network(address)));
        certificate.map_or_else(by_address, |certificate| Asker::Certificate(*certificate))
    }
}

impl Default for Queue {
    fn default() -> Queue {
        let (all, unknown) = (Semaphore::new(IN_FLIGHT_MAX), Semaphore::new(UNKNOWN_MAX));
        Queue { all, unknown, askers: Mutex::default() }
    }
}

impl Queue {
    /// Waits until the question may be asked; `None` if too many wait, of all or of this asker. `unknown_max` is for
    /// unknown tokens that are asked about or wait.
    pub async fn place(&self, about: About, unknown_max: usize) -> Option<Place<'_>> {
        let unknown = match about {
            About::Known => None,
            About::Unknown(asker) => {
                let (entered, turns) = self.enter(asker, unknown_max)?;
                let turn = turns.acquire_owned().await.ok()?;
                Some((self.unknown.acquire().await.ok()?, turn, entered))
            }
        };
        Some(Place { _all: self.all.acquire().await.ok()?, _unknown: unknown })
    }

    fn enter(&self, asker: Asker, count_max: usize) -> Option<(Entered<'_>, Arc<Semaphore>)> {
        let mut askers = self.askers();
        let own = askers.by.get(&asker).map_or(0, |asking| asking.count);
        if !has_room(own, askers.count, count_max) {
            return None;
        }
        askers.count += 1;
        let new = || Asking { turns: Arc::new(Semaphore::new(EACH_MAX)), count: 0 };
        let asking = askers.by.entry(asker).or_insert_with(new);
        asking.count += 1;
        Some((Entered { queue: self, asker }, Arc::clone(&asking.turns)))
    }

    fn askers(&self) -> std::sync::MutexGuard<'_, Askers> {
        self.askers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut askers = self.queue.askers();
        askers.count -= 1;
        if let Some(asking) = askers.by.get_mut(&self.asker) {
            asking.count -= 1;
            if asking.count == 0 {
                askers.by.remove(&self.asker);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const MAX: usize = 1000;
    // Outside of a runtime, which has a task wait now and then for no reason of ours.

    fn left_in(queue: &Queue) -> (usize, usize) {
        let askers = queue.askers();
        (askers.count, askers.by.len())
    }

    fn asker(at: u8) -> About {
        About::Unknown(Asker::of(None, Some([10, 0, 0, at].into())))
    }

    #[test]
    fn made_up_tokens_leave_half_of_all_questions_and_one_asker_half_of_the_rest() {
        let queue = Queue::default();
        let place = |about| queue.place(about, MAX).now_or_never().flatten();
        let many = |about: About| (0..IN_FLIGHT_MAX).map_while(|_| place(about)).collect::<Vec<_>>();
        let one = many(asker(1));
        assert_eq!(one.len(), EACH_MAX);
        let mut waiting = Box::pin(queue.place(asker(1), MAX));
        assert!((&mut waiting).now_or_never().is_none());
        let other = many(asker(2));
        assert_eq!((other.len(), many(asker(3)).len()), (EACH_MAX, 0));
        let known = many(About::Known);
        assert_eq!(known.len(), IN_FLIGHT_MAX - UNKNOWN_MAX);
        drop(known);
        drop(one);
        assert!(matches!(waiting.now_or_never(), Some(Some(_))));
        assert_eq!(many(asker(3)).len(), EACH_MAX);
        drop(other);
        assert_eq!(left_in(&queue), (0, 0));
    }

    #[test]
    fn who_finds_no_room_in_the_queue_is_told_so_at_once() {
        let queue = Queue::default();
        let mut waiting = Vec::new();
        let mut room_of = |at| {
            let before = waiting.len();
            while waiting.len() < before + MAX {
                let mut place = Box::pin(queue.place(asker(at), 160));
                match (&mut place).now_or_never() {
                    Some(None) => break,
                    given => waiting.push((place, given)),
                }
            }
            waiting.len() - before
        };
        let rooms: Vec<usize> = (0..8).map(&mut room_of).collect();
        assert_eq!(rooms, [40, 40, 40, 20, 10, 10, 0, 0]);
        assert!(queue.place(About::Known, 160).now_or_never().is_some());
        drop(waiting);
        assert_eq!(left_in(&queue), (0, 0));
    }

    #[test]
    fn a_network_of_ipv6_is_one_asker() {
        let at = |text: &str| Asker::of(None, Some(text.parse().unwrap()));
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:ffff:ffff:ffff"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_ne!(at("10.0.0.1"), at("10.0.0.2"));
        assert_eq!(at("::ffff:10.0.0.1"), at("10.0.0.1"));
        assert_eq!(Asker::of(None, None), Asker::Nobody);
        let hash = CertificateHash([7; 32]);
        assert_eq!(Asker::of(Some(&hash), Some([10, 0, 0, 1].into())), Asker::Certificate(hash));
    }
}
