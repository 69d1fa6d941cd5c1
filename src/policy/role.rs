//! Names for identities: what a `[service]` and a `[role]` stand for.

use std::sync::Arc;

use super::IssuerId;
use super::condition::ClaimTest;
use super::pattern::Glob;
use crate::identity::{ActorKind, Name, SpiffePattern, TrustDomain};

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
    pub groups: Option<Arc<str>>,
    pub roles: Option<Arc<str>>,
    /// The kinds that its tokens can have; `Unknown` is always possible.
    pub actors: Vec<ActorKind>,
    /// Claims that decide the actor kind; a deny by `actor` reads them.
    pub actor_claims: Vec<Arc<str>>,
}
