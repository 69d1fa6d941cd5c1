//! How requests come to be judged: whom listeners let in before a policy is asked, and what hops tell.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::{Outcome, Witness};
use crate::identity::{Hop, Name, PeerName, Signature, TrustDomain};
use crate::policy::cells::{Built, Fresh, Gap, Side, Unbuilt};
use crate::policy::{Policy, Standing};

/// A pattern of `*` alone has no more.
const SEGMENTS_MAX: usize = 16;

/// The listeners of one configuration, taken together, and its hops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approach {
    /// Whether one of them takes clients without a certificate.
    pub takes_nobody: bool,
    /// Whether one of them asks for certificates; where none does, everybody comes without.
    pub takes_peers: bool,
    /// Whose certificates are taken; empty where it is not said.
    pub trust_domains: Vec<TrustDomain>,
    /// The hops that tell of others than are at the other end: of their certificates, or their addresses.
    pub hops: BTreeSet<Name>,
    /// Those of them that tell certificates and are listened to: people come through one with a certificate and
    /// without, whatever listeners ask of who comes by none.
    pub telling: BTreeSet<Name>,
}

impl Approach {
    /// Takes whoever comes.
    pub const OPEN: Approach = Approach {
        takes_nobody: true,
        takes_peers: true,
        trust_domains: Vec::new(),
        hops: BTreeSet::new(),
        telling: BTreeSet::new(),
    };

    /// Whether certificates are asked for alike.
    pub(super) fn lets_in_as(&self, other: &Approach) -> bool {
        self.takes_nobody == other.takes_nobody
            && self.takes_peers == other.takes_peers
            && self.telling == other.telling
    }

    /// Whether requests without a certificate come by this hop.
    pub(super) fn takes_nobody_by(&self, hop: &str) -> bool {
        hop != Hop::Local.as_str() && (self.takes_nobody || self.tells(hop))
    }

    /// Whether it matters by which hop somebody comes, before any rule is asked.
    pub(super) fn tells_hops_apart(&self, has_local: bool) -> bool {
        !self.takes_peers && (has_local || !self.telling.is_empty())
            || !self.takes_nobody && !self.telling.is_empty()
    }

    /// Whether certificates are asked of who comes by this hop, or told of them.
    pub(super) fn takes_peers_by(&self, hop: &str) -> bool {
        hop == Hop::Local.as_str() || self.takes_peers || self.tells(hop)
    }

    fn tells(&self, hop: &str) -> bool {
        self.telling.iter().any(|telling| telling.as_str() == hop)
    }

    /// As whom a request comes in, if it does.
    pub(crate) fn seen_as<'w>(&self, witness: &'w Witness) -> Cow<'w, Witness> {
        match &witness.peer {
            Signature::Verified(_) if !self.takes_peers_by(witness.hop.as_str()) => {
                Cow::Owned(Witness { peer: Signature::Absent, ..witness.clone() })
            }
            _ => Cow::Borrowed(witness),
        }
    }

    /// The same; the code of a refusal in the handshake.
    fn comes_in<'w>(&self, witness: &'w Witness) -> Result<Cow<'w, Witness>, &'static str> {
        match &witness.peer {
            Signature::Absent if !self.takes_nobody_by(witness.hop.as_str()) => Err("peer_missing"),
            _ => Ok(self.seen_as(witness)),
        }
    }

    #[cfg(test)]
    pub(crate) fn judged(&self, witness: &Witness, policy: &Policy, side: Side) -> Outcome {
        let standing = self.seen_as(witness).standing(policy, side);
        self.judged_as(witness, policy, side, standing.as_ref())
    }

    /// What becomes of a request, where it is known what the policy makes of whoever it comes in as.
    pub(super) fn judged_as(
        &self,
        witness: &Witness,
        policy: &Policy,
        side: Side,
        standing: Result<&Standing, &&'static str>,
    ) -> Outcome {
        match (self.comes_in(witness), standing) {
            (Ok(witness), Ok(standing)) => witness.judged_as(policy, side, standing),
            (Err(code), _) | (_, Err(&code)) => Outcome::Refused(code),
        }
    }
}

/// A name that no service of either policy has, of a trust domain that both know if there is one.
pub(super) fn unknown(approaches: [&Approach; 2], policies: [&Policy; 2], fresh: &Fresh) -> Built<PeerName> {
    let [old, new] = approaches.map(|approach| &approach.trust_domains);
    let (both, one): (Vec<_>, Vec<_>) =
        old.iter().chain(new).partition(|domain| old.contains(domain) && new.contains(domain));
    let mut domains: Vec<String> = both.into_iter().chain(one).map(ToString::to_string).collect();
    if domains.is_empty() {
        domains.push(format!("{}.example", fresh.word(1)?));
    }
    let named = |name: &PeerName| {
        let services = policies.iter().flat_map(|policy| &policy.parts().services);
        services.flat_map(|service| &service.identities).any(|identity| identity.matches(name))
    };
    for domain in &domains {
        let mut id = format!("spiffe://{domain}");
        for segment in 1..=SEGMENTS_MAX {
            id.push('/');
            id.push_str(&fresh.word(segment + 1)?);
            let name = id.parse().map(PeerName::Spiffe).map_err(|_| Unbuilt::Open(Gap::Name))?;
            if !named(&name) {
                return Ok(name);
            }
        }
    }
    // services name everybody
    Err(Unbuilt::Impossible)
}
