//! Which rules' identity conditions hold for one peer and caller: the part of a decision that does
//! not depend on what is asked, and that the decision cache stores.

use std::sync::Arc;
use std::time::Duration;

use fixedbitset::FixedBitSet;

use super::judge::{self, Who};
use super::{Policy, PolicyHash};
use crate::clock::Timestamp;
use crate::identity::{Caller, Name, Peer, Signature};

/// The rules whose identity conditions (`service issuer role actor on_behalf_of claim acr max_age`)
/// hold for one peer and one caller under one policy. Opaque outside `policy/`.
#[derive(Clone, Debug)]
pub struct Standing {
    /// By `ServiceId`.
    pub(super) services: FixedBitSet,
    /// By `RoleId`.
    pub(super) roles: FixedBitSet,
    /// By place in the policy's order of rules.
    pub(super) rules: FixedBitSet,
    /// What these are called.
    pub(super) service_names: Arc<[Name]>,
    pub(super) role_names: Arc<[Name]>,
    /// Whether every matching service that lists clients lists the token's.
    pub(super) token_mapped: bool,
    pub(super) policy: PolicyHash,
    valid_until: Timestamp,
}

impl Standing {
    /// The first moment at which this standing must be made anew: token or certificate expiry, an
    /// issuer that is asked again, a rule's start or end, a login grown too old.
    pub fn valid_until(&self) -> Timestamp {
        self.valid_until
    }

    /// Whether the policy makes the same of both, whatever is asked, but for claims that it compares with a path.
    pub(super) fn is_like(&self, other: &Standing) -> bool {
        self.services == other.services
            && self.roles == other.roles
            && self.rules == other.rules
            && self.token_mapped == other.token_mapped
    }

    /// Whether the caller has any configured role.
    pub fn has_roles(&self) -> bool {
        !self.roles.is_clear()
    }
}

impl Policy {
    /// Judges every rule's identity conditions, once for a peer and a caller. Both must be alive:
    /// neither their expiry nor their revocation is looked at here.
    pub fn standing(&self, peer: &Signature<Peer>, caller: &Signature<Caller>, now: Timestamp) -> Standing {
        let parts = self.parts();
        let (peer, caller) = (peer.verified().map(|peer| &**peer), caller.verified().map(|c| &**c));
        let issuer = self.issuer_of(caller);
        let services = set_of(&parts.services, |service| peer.is_some_and(|peer| service.names(peer)));
        let roles = set_of(&parts.roles, |role| {
            issuer.zip(caller).is_some_and(|(issuer, caller)| role.holds(issuer, caller))
        });
        let mut carriers = services.ones().map(|at| &parts.services[at]);
        let token_mapped =
            caller.is_none_or(|caller| carriers.all(|service| service.carries(issuer, caller)));
        let who = Who { peer, caller, issuer, services: &services, roles: &roles, now };
        let rules = set_of(self.order(), |id| judge::identity_holds(self.rule(*id), &who));
        let valid_until = self.next_change(peer, caller, now);
        let service_names = services.ones().map(|at| parts.services[at].name.clone()).collect();
        let role_names = roles.ones().map(|at| parts.roles[at].name.clone()).collect();
        let policy = self.hash();
        Standing { services, roles, rules, service_names, role_names, token_mapped, policy, valid_until }
    }

    /// Whether every service that names the peer and lists clients lists this caller's.
    pub fn is_carried_by(&self, peer: &Peer, caller: &Caller) -> bool {
        let issuer = self.issuer_of(Some(caller));
        let mut naming = self.parts().services.iter().filter(|service| service.names(peer));
        naming.all(|service| service.carries(issuer, caller))
    }

    /// The services that name the peer, for a record of what was refused before any decision.
    pub fn services_of(&self, peer: &Peer) -> Arc<[Name]> {
        let naming = self.parts().services.iter().filter(|service| service.names(peer));
        naming.map(|service| service.name.clone()).collect()
    }

    fn next_change(&self, peer: Option<&Peer>, caller: Option<&Caller>, now: Timestamp) -> Timestamp {
        let credentials = peer.map(|peer| peer.not_after).into_iter().chain(caller.map(Caller::holds_until));
        let times = self.boundaries();
        let rule_time = times.get(times.partition_point(|at| *at <= now)).copied();
        let login = caller.and_then(|caller| caller.authenticated_at).and_then(|at| {
            // an age limit holds at its very end; a login in the future starts to hold when it comes
            let ends = self.age_limits().iter().map(|age| at.plus(*age).plus(Duration::from_millis(1)));
            ends.chain([at]).filter(|change| *change > now).min()
        });
        credentials.chain(rule_time).chain(login).min().unwrap_or(Timestamp::MAX)
    }
}

fn set_of<T>(items: &[T], holds: impl Fn(&T) -> bool) -> FixedBitSet {
    let mut set = FixedBitSet::with_capacity(items.len());
    items.iter().enumerate().filter(|(_, item)| holds(item)).for_each(|(at, _)| set.insert(at));
    set
}
