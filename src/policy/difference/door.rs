//! Whom listeners let in before a policy is asked: the part of a TLS handshake that a comparison has to know.

use super::{Outcome, Witness};
use crate::identity::{PeerName, Signature, TrustDomain};
use crate::policy::Policy;
use crate::policy::cells::{Fresh, Side};

/// A pattern of `*` alone has no more.
const SEGMENTS_MAX: usize = 16;

/// The listeners of one configuration, taken together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// Whether one of them takes clients without a certificate.
    pub takes_nobody: bool,
    /// Whether one of them asks for certificates; where none does, everybody comes without.
    pub takes_peers: bool,
    /// Whose certificates are taken; empty where it is not said.
    pub trust_domains: Vec<TrustDomain>,
}

impl Door {
    /// Takes whoever comes.
    pub const OPEN: Door = Door { takes_nobody: true, takes_peers: true, trust_domains: Vec::new() };

    /// What becomes of a request: refused in the handshake, or judged as whoever it comes in as.
    pub(super) fn judged(&self, witness: &Witness, policy: &Policy, side: Side) -> Outcome {
        match &witness.peer {
            Signature::Absent if !self.takes_nobody => Outcome::Refused("peer_missing"),
            Signature::Verified(_) if !self.takes_peers => {
                Witness { peer: Signature::Absent, ..witness.clone() }.judged(policy, side)
            }
            _ => witness.judged(policy, side),
        }
    }
}

/// A name that no service of either policy has, of a trust domain that both know if there is one; `None` where
/// services name everybody.
pub(super) fn unknown(doors: [&Door; 2], policies: [&Policy; 2], fresh: &Fresh) -> Option<PeerName> {
    let [old, new] = doors.map(|door| &door.trust_domains);
    let (both, one): (Vec<_>, Vec<_>) =
        old.iter().chain(new).partition(|domain| old.contains(domain) && new.contains(domain));
    let mut domains: Vec<String> = both.into_iter().chain(one).map(ToString::to_string).collect();
    if domains.is_empty() {
        domains.push(format!("{}.example", fresh.word(1)));
    }
    let named = |name: &PeerName| {
        let services = policies.iter().flat_map(|policy| &policy.parts().services);
        services.flat_map(|service| &service.identities).any(|identity| identity.matches(name))
    };
    let ids = domains.iter().flat_map(|domain| {
        (1..=SEGMENTS_MAX).map(move |segments| {
            let path: String = (1..=segments).map(|at| format!("/{}", fresh.word(at + 1))).collect();
            format!("spiffe://{domain}{path}")
        })
    });
    ids.filter_map(|id| Some(PeerName::Spiffe(id.parse().ok()?))).find(|name| !named(name))
}
