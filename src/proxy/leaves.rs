//! The certificates that peers were verified with, so that one which has replaced its own is known as the one that
//! had the other: tokens that are bound to that serve a moment longer.
//!
//! Written once a handshake, read only where a token is bound to another certificate than its connection's.
//! Nothing here vouches for anybody: a chain that is found is verified again under what is in force now.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use rustls::pki_types::CertificateDer;

use crate::clock::Timestamp;
use crate::identity::{CertificateHash, Peer, PeerName, Signature};
use crate::tls::ListenerTls;

#[derive(Debug)]
pub struct Leaves(Cache<CertificateHash, Arc<Leaf>>);

#[derive(Debug)]
struct Leaf {
    name: PeerName,
    chain: Vec<CertificateDer<'static>>,
    first_seen: Timestamp,
    /// Under what it was last verified again, and until when it then was good.
    good: Mutex<(Weak<ListenerTls>, Timestamp)>,
}

/// For all chains together; the one that was not seen or asked for the longest makes room.
const BYTES_MAX: u64 = 16 << 20;
/// What a chain takes beside its certificates.
const LEAF_BYTES: usize = 512;

impl Default for Leaves {
    fn default() -> Leaves {
        let bytes = |leaf: &Arc<Leaf>| leaf.chain.iter().map(|certificate| certificate.len()).sum::<usize>();
        let leaves = Cache::builder()
            .weigher(move |_, leaf| u32::try_from(LEAF_BYTES + bytes(leaf)).unwrap_or(u32::MAX))
            .max_capacity(BYTES_MAX)
            .eviction_policy(EvictionPolicy::lru());
        Leaves(leaves.build())
    }
}

impl Leaves {
    /// A peer was verified with this chain.
    pub fn saw(&self, peer: &Signature<Peer>, chain: &[CertificateDer<'_>], now: Timestamp) {
        let Some(peer) = peer.verified() else { return };
        if matches!(peer.name, PeerName::Spiffe(_)) && self.0.get(&peer.certificate).is_none() {
            let leaf = Leaf {
                name: peer.name.clone(),
                chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
                first_seen: now,
                good: Mutex::new((Weak::new(), Timestamp::MIN)),
            };
            self.0.insert(peer.certificate, Arc::new(leaf));
        }
    }

    /// When this peer was first seen with its present certificate, if it was with the one `before` earlier, and that
    /// would be good now.
    pub fn replaced(
        &self,
        peer: &Peer,
        before: &CertificateHash,
        tls: &Arc<ListenerTls>,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let (before, present) = (self.0.get(before)?, self.0.get(&peer.certificate)?);
        let is_successor = before.name == peer.name && before.first_seen < present.first_seen;
        (is_successor && before.is_good(tls, now)).then_some(present.first_seen)
    }
}

impl Leaf {
    fn is_good(&self, tls: &Arc<ListenerTls>, now: Timestamp) -> bool {
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = std::ptr::eq(good.0.as_ptr(), Arc::as_ptr(tls)) && now < good.1;
        if !is_known {
            let Ok(Signature::Verified(peer)) = tls.verify(&self.chain) else { return false };
            *good = (Arc::downgrade(tls), tls.vouched_until(&peer));
        }
        now < good.1
    }
}
