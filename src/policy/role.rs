//! Names for identities: what a `[service]` and a `[role]` stand for.

use std::fmt;
use std::sync::Arc;

use fixedbitset::FixedBitSet;

use super::IssuerId;
use super::claim::ClaimTest;
use super::pattern::Glob;
use crate::identity::{ActorKind, Caller, Name, Peer, PeerName, SpiffePattern, TrustDomain};

/// `[service.NAME]`: a name for peer identities.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: Name,
    /// Any of these names the peer.
    pub identities: Vec<PeerPattern>,
    /// Whose tokens this service may carry.
    pub clients: CarriedClients,
}

#[derive(Clone, Debug)]
pub enum PeerPattern {
    Spiffe(SpiffePattern),
    /// A DNS SAN, exact or `*.` and one label, vouched for by this trust domain's CA.
    Dns {
        name: super::pattern::HostPattern,
        trust_domain: TrustDomain,
    },
}

/// Token mapping: `client_id` of a `[service]`.
#[derive(Clone, Debug)]
pub enum CarriedClients {
    /// No `client_id` given: this service says nothing about tokens, so only allows without a
    /// caller may name it.
    Unstated,
    /// `client_id = "any"`.
    Any,
    Listed(Vec<ClientPattern>),
}

#[derive(Clone, Debug)]
pub struct ClientPattern {
    pub issuer: IssuerId,
    pub client: Glob,
}

/// `[role.NAME]`: a name for callers.
#[derive(Clone, Debug)]
pub struct Role {
    pub name: Name,
    pub entries: RoleEntries,
}

#[derive(Clone, Debug)]
pub enum RoleEntries {
    AnyOf(Vec<RoleEntry>),
    AllOf(Vec<RoleEntry>),
}

/// All that is stated must hold, for a token of this issuer; lists mean any of their members.
#[derive(Clone, Debug)]
pub struct RoleEntry {
    pub issuer: IssuerId,
    pub subject: Vec<Glob>,
    pub client: Vec<Glob>,
    pub scope: Vec<Arc<str>>,
    pub group: Vec<Arc<str>>,
    /// Of the token's own roles claim.
    pub role: Vec<Arc<str>>,
    pub claim: Vec<ClaimTest>,
    /// The `sub` of the outermost `act`.
    pub actor_subject: Vec<Glob>,
}

/// What the policy must know of an `[issuer.NAME]` to judge rules that speak of its tokens.
#[derive(Clone, Debug)]
pub struct IssuerFacts {
    pub name: Name,
    /// The claims that every token of it has (`requires`), as top-level names.
    pub requires: Vec<Arc<str>>,
    /// Which top-level claims the caller's words are read from; `None` where the issuer has none.
    pub subject: Option<Arc<str>>,
    pub client: Option<Arc<str>>,
    pub scopes: Option<Arc<str>>,
    pub groups: Option<Arc<str>>,
    pub roles: Option<Arc<str>>,
    /// The kinds that its tokens can have; `Unknown` is always possible.
    pub actors: Vec<ActorKind>,
    /// Top-level claims that decide between `human`, `service` and `unknown`; a deny that names one
    /// of these kinds reads them. (Those of `agent` must be in `requires` in any case.)
    pub actor_claims: Vec<Arc<str>>,
    /// Whether it vouches for the callers of other issuers (`preset = "countersign"`), and for whose if only for those
    /// of some.
    pub asserts: Option<Asserts>,
}

/// Whose callers an issuer vouches for, as far as its own settings tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asserts {
    Anybodys,
    /// `only` names them.
    Named,
}

impl Service {
    /// Whether this names the peer.
    pub fn names(&self, peer: &Peer) -> bool {
        self.identities.iter().any(|identity| identity.matches(&peer.name))
    }

    /// Whether this service may carry the caller's token; `true` where it says nothing about tokens.
    pub fn carries(&self, issuer: Option<IssuerId>, caller: &Caller) -> bool {
        match &self.clients {
            CarriedClients::Unstated | CarriedClients::Any => true,
            CarriedClients::Listed(clients) => clients.iter().any(|carried| carried.matches(issuer, caller)),
        }
    }
}

impl ClientPattern {
    /// Whether the caller's token was issued to this client.
    pub(super) fn matches(&self, issuer: Option<IssuerId>, caller: &Caller) -> bool {
        let client = caller.client.as_deref();
        Some(self.issuer) == issuer && client.is_some_and(|client| self.client.matches(client))
    }
}

impl PeerPattern {
    pub fn matches(&self, peer: &PeerName) -> bool {
        match (self, peer) {
            (PeerPattern::Spiffe(pattern), PeerName::Spiffe(id)) => pattern.matches(id),
            (PeerPattern::Dns { name, trust_domain }, PeerName::Dns { names, trust_domain: vouched_by }) => {
                trust_domain == vouched_by && names.iter().any(|dns| name.matches_name(dns))
            }
            (PeerPattern::Spiffe(_), PeerName::Dns { .. })
            | (PeerPattern::Dns { .. }, PeerName::Spiffe(_)) => false,
        }
    }
}

/// As it is written.
impl fmt::Display for PeerPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerPattern::Spiffe(pattern) => pattern.fmt(f),
            PeerPattern::Dns { name, trust_domain } => write!(f, "{name} of {trust_domain}"),
        }
    }
}

impl Role {
    /// Whether the caller, of this issuer, has the role. Without entries nobody has it.
    pub fn holds(&self, issuer: IssuerId, caller: &Caller) -> bool {
        match &self.entries {
            RoleEntries::AnyOf(entries) => entries.iter().any(|entry| entry.holds(issuer, caller)),
            RoleEntries::AllOf(entries) => {
                !entries.is_empty() && entries.iter().all(|entry| entry.holds(issuer, caller))
            }
        }
    }

    pub fn entries(&self) -> &[RoleEntry] {
        match &self.entries {
            RoleEntries::AnyOf(entries) | RoleEntries::AllOf(entries) => entries,
        }
    }

    /// The issuers whose tokens can have the role.
    pub(super) fn issuers(&self, all: usize) -> FixedBitSet {
        let mut found = FixedBitSet::with_capacity(all);
        match &self.entries {
            RoleEntries::AnyOf(entries) => entries.iter().for_each(|e| found.insert(e.issuer.index())),
            // All of one issuer, or the role is an error of its own.
            RoleEntries::AllOf(entries) => {
                entries.first().into_iter().for_each(|e| found.insert(e.issuer.index()))
            }
        }
        found
    }
}

impl RoleEntry {
    pub(super) fn holds(&self, issuer: IssuerId, caller: &Caller) -> bool {
        self.holds_but_for_scope(issuer, caller)
            && (self.scope.is_empty() || self.scope.iter().any(|scope| caller.scopes.contains(scope)))
    }

    /// Whether a scope of the entry, if it names any, is all that the caller can lack.
    pub(super) fn holds_but_for_scope(&self, issuer: IssuerId, caller: &Caller) -> bool {
        let any_glob = |globs: &[Glob], text: Option<&str>| {
            globs.is_empty() || text.is_some_and(|text| globs.iter().any(|glob| glob.matches(text)))
        };
        let any_of = |wanted: &[Arc<str>], seen: &[Arc<str>]| {
            wanted.is_empty() || wanted.iter().any(|one| seen.contains(one))
        };
        self.issuer == issuer
            && !self.is_empty()
            && any_glob(&self.subject, caller.subject.as_deref())
            && any_glob(&self.client, caller.client.as_deref())
            && any_of(&self.group, &caller.groups)
            && any_of(&self.role, &caller.roles)
            && self.claim.iter().all(|test| test.holds(&caller.claims))
            && any_glob(&self.actor_subject, caller.acting())
    }

    /// Whether whoever fulfils this fulfils `other` too. Certain where it says yes.
    pub(super) fn is_within(&self, other: &RoleEntry) -> bool {
        let globs = |some: &[Glob], all: &[Glob]| {
            all.is_empty()
                || (!some.is_empty() && some.iter().all(|one| all.iter().any(|other| one.is_within(other))))
        };
        let words = |some: &[Arc<str>], all: &[Arc<str>]| {
            all.is_empty() || (!some.is_empty() && some.iter().all(|one| all.contains(one)))
        };
        self.issuer == other.issuer
            && globs(&self.subject, &other.subject)
            && globs(&self.client, &other.client)
            && words(&self.scope, &other.scope)
            && words(&self.group, &other.group)
            && words(&self.role, &other.role)
            && other.claim.iter().all(|test| self.claim.contains(test))
            && globs(&self.actor_subject, &other.actor_subject)
    }

    /// Whether this names nothing but its issuer, which is an error and fulfilled by nobody.
    pub(super) fn is_empty(&self) -> bool {
        self.subject.is_empty()
            && self.client.is_empty()
            && self.scope.is_empty()
            && self.group.is_empty()
            && self.role.is_empty()
            && self.claim.is_empty()
            && self.actor_subject.is_empty()
    }
}
