//! Chains that a CA was found to vouch for: a workload that connects again has its chain judged, but not
//! its signatures checked, again.
//!
//! Invariants:
//! - What is remembered belongs to one [`Trust`](super::Trust), that is to one set of CAs and revocation
//!   lists: a reload that changes any of them begins with nothing.
//! - It is believed for these very bytes at this end of a connection, from the moment they were judged
//!   until the path or a revocation list ends. A clock that goes back revives nothing.
//! - Refusals are not remembered, so strangers fill nothing. That the client holds the key is no part of
//!   this: rustls asks for that in each handshake.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::CertificateDer;

use super::fingerprint::Fingerprint;
use super::trust::Role;
use crate::clock::Timestamp;
use crate::identity::Peer;

/// Over this all are forgotten: a workload that varies what it sends along makes others be judged whole.
const CHAINS_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Vouched(Mutex<HashMap<Fingerprint, Found>>);

/// What was found, and for which moments that stands: the last one is out.
#[derive(Debug)]
pub(super) struct Found {
    pub peer: Arc<Peer>,
    pub since: Timestamp,
    pub until: Timestamp,
}

/// A chain as one end of a connection shows it.
pub(super) fn fingerprint(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    role: Role,
) -> Fingerprint {
    let role: &[u8] = match role {
        Role::Client => b"client",
        Role::Server => b"server",
    };
    let intermediates = intermediates.iter().map(|it| it.as_ref());
    Fingerprint::of([role, end_entity.as_ref()].into_iter().chain(intermediates))
}

impl Vouched {
    pub fn get(&self, chain: &Fingerprint, now: Timestamp) -> Option<Arc<Peer>> {
        let chains = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = chains.get(chain).filter(|found| found.since <= now && now < found.until)?;
        Some(Arc::clone(&found.peer))
    }

    pub fn put(&self, chain: Fingerprint, found: Found) {
        let mut chains = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if chains.len() >= CHAINS_MAX {
            chains.clear();
        }
        chains.insert(chain, found);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::{ca, leaf, trust};
    use super::*;
    use crate::clock::Clock;
    use crate::identity::{CertificateHash, Hop, PeerName};
    use crate::tls::peer::{OutOfDate, PeerError};

    #[test]
    fn a_chain_is_known_again_for_as_long_as_it_is_vouched_for_and_no_longer() {
        let (issuer, root) = ca();
        let (_, other) = ca();
        let trust = trust(&root);
        let chain = leaf(&issuer).cert;
        let [leaf] = &chain[..] else { panic!() };
        let now = Clock::system().now();
        let client = |at| trust.verify(leaf, &[], Role::Client, at);
        let first = client(now).unwrap();
        let is_first = |peer: &Arc<Peer>| Arc::ptr_eq(peer, &first);
        let (end, second) = (first.not_after, Duration::from_secs(1));
        for at in [now, now.plus(second), end.minus(second)] {
            assert!(is_first(&client(at).unwrap()), "{at}");
        }
        assert_eq!(client(end), Err(PeerError::Expired(OutOfDate::Expired(end))));
        // each of these is judged for itself
        assert!(!is_first(&trust.verify(leaf, &[other.der().clone()], Role::Client, now).unwrap()));
        assert!(!is_first(&trust.verify(leaf, &[], Role::Server, now).unwrap()));
        let changed = [&leaf[..leaf.len() - 1], &[leaf[leaf.len() - 1] ^ 1]].concat();
        assert!(trust.verify(&changed.into(), &[], Role::Client, now).is_err());
        assert!(!is_first(&client(now.minus(second)).unwrap()));
        let same_again = super::super::testing::trust(&root);
        assert!(!is_first(&same_again.verify(leaf, &[], Role::Client, now).unwrap()));
    }

    #[test]
    fn there_is_an_end_to_what_is_remembered() {
        let vouched = Vouched::default();
        let peer = Arc::new(Peer {
            name: PeerName::Spiffe("spiffe://a.example/x".parse().unwrap()),
            certificate: CertificateHash([0; 32]),
            not_after: Timestamp::MAX,
            hop: Hop::Direct,
        });
        for count in 0..=CHAINS_MAX {
            assert_eq!(vouched.0.lock().unwrap().len(), count);
            let found = Found { peer: Arc::clone(&peer), since: Timestamp::MIN, until: Timestamp::MAX };
            vouched.put(Fingerprint::of([&count.to_be_bytes()[..]]), found);
        }
        assert_eq!(vouched.0.lock().unwrap().len(), 1);
    }
}
