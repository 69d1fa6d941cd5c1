//! The rows of the table: every kind of requester there is, told apart by what rules can read.

use std::fmt;

use super::SIDE;
use super::matrix::Cell;
use crate::identity::ActorKind;
use crate::policy::cells::{self, CallerDemand, Demand, Kinds, PeerDemand, product};
use crate::policy::condition::{RoleTerm, ServiceTerm};
use crate::policy::rule::Rule;
use crate::policy::{PolicyParts, RoleId, ServiceId};

/// One kind of requester, and what it can do: one cell a column.
#[derive(Debug)]
pub struct Row {
    pub carrier: Carrier,
    pub bearer: Bearer,
    pub actor: Actor,
    pub cells: Vec<Cell>,
}

/// Who carries a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Carrier {
    /// Somebody without a certificate.
    Nobody,
    Service(ServiceId),
}

/// What the token makes of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bearer {
    NoToken,
    /// A caller who has no role at all.
    NoRole,
    /// A caller who has this role, and no other that it does not bring along, unless a rule asks for both.
    Role(RoleId),
}

/// Who acts. Each token is of exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Actor {
    /// There is no token.
    Absent,
    Human,
    Service,
    Unknown,
    /// For itself.
    Agent,
    AgentForHuman,
    /// With `act`, and for no human.
    AgentForOther,
    /// No agent, with `act`.
    OtherForSomebody,
}

impl Actor {
    pub const WITH_TOKEN: [Actor; 7] = [
        Actor::Human,
        Actor::Service,
        Actor::Unknown,
        Actor::Agent,
        Actor::AgentForHuman,
        Actor::AgentForOther,
        Actor::OtherForSomebody,
    ];

    pub fn is_agent(self) -> bool {
        matches!(self, Actor::Agent | Actor::AgentForHuman | Actor::AgentForOther)
    }

    fn demand(self) -> Demand {
        let agent = &[ActorKind::Agent][..];
        let no_agent = &[ActorKind::Human, ActorKind::Service, ActorKind::Unknown][..];
        let no_human = &[ActorKind::Service, ActorKind::Agent, ActorKind::Unknown][..];
        let any = &ActorKind::ALL[..];
        let (actor, on_behalf_of, act): (&[ActorKind], &[ActorKind], _) = match self {
            Actor::Absent => return Demand { caller: CallerDemand::Absent, ..Demand::nothing() },
            Actor::Human => (&[ActorKind::Human], any, Some(false)),
            Actor::Service => (&[ActorKind::Service], any, Some(false)),
            Actor::Unknown => (&[ActorKind::Unknown], any, Some(false)),
            Actor::Agent => (agent, no_human, Some(false)),
            Actor::AgentForHuman => (agent, &[ActorKind::Human], None),
            Actor::AgentForOther => (agent, no_human, Some(true)),
            Actor::OtherForSomebody => (no_agent, any, Some(true)),
        };
        let mut demand = Demand { caller: CallerDemand::Present, act, ..Demand::nothing() };
        demand.sides[SIDE].actor = Kinds::of(actor);
        demand.sides[SIDE].on_behalf_of = Kinds::of(on_behalf_of);
        demand
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Actor::Absent => "-",
            Actor::Human => "human",
            Actor::Service => "service",
            Actor::Unknown => "unknown",
            Actor::Agent => "agent for itself",
            Actor::AgentForHuman => "agent for human",
            Actor::AgentForOther => "agent for another",
            Actor::OtherForSomebody => "no agent, for another",
        })
    }
}

impl Carrier {
    pub fn name(self, parts: &PolicyParts) -> &str {
        match self {
            Carrier::Nobody => "no certificate",
            Carrier::Service(id) => parts.services[id.index()].name.as_str(),
        }
    }

    pub(super) fn peers(self, parts: &PolicyParts) -> Vec<Demand> {
        match self {
            Carrier::Nobody => vec![Demand { peer: PeerDemand::Absent, ..Demand::nothing() }],
            Carrier::Service(id) => cells::peers(&parts.services[id.index()]).collect(),
        }
    }

    /// Whether a rule's `service` speaks of all of these, and not only of such as another service names too.
    pub(super) fn is_named_by(self, peers: &[Demand], rule: &Rule, parts: &PolicyParts) -> bool {
        match (rule.service(), self) {
            (None | Some(ServiceTerm::None), _) => true,
            (Some(_), Carrier::Nobody) => false,
            (Some(ServiceTerm::Any), _) => true,
            (Some(ServiceTerm::Named(ids)), Carrier::Service(own)) => {
                let others = || ids.iter().flat_map(|id| cells::peers(&parts.services[id.index()]));
                ids.contains(&own) || others().any(|other| peers.iter().any(|peer| is_within(peer, &other)))
            }
        }
    }
}

impl Bearer {
    pub fn name(self, parts: &PolicyParts) -> &str {
        match self {
            Bearer::NoToken => "no token",
            Bearer::NoRole => "no role",
            Bearer::Role(id) => parts.roles[id.index()].name.as_str(),
        }
    }

    pub(super) fn actors(self) -> &'static [Actor] {
        if self == Bearer::NoToken { &[Actor::Absent] } else { &Actor::WITH_TOKEN }
    }

    pub(super) fn roles(self, parts: &PolicyParts) -> Vec<Demand> {
        match self {
            Bearer::NoToken | Bearer::NoRole => vec![Demand::nothing()],
            Bearer::Role(id) => cells::role(id, parts, SIDE),
        }
    }

    /// The same for a rule's `role`.
    pub(super) fn is_named_by(self, roles: &[Demand], rule: &Rule, parts: &PolicyParts) -> bool {
        let implied = |id: &RoleId| {
            let ways = cells::role(*id, parts, SIDE);
            roles.iter().any(|role| ways.iter().any(|way| is_within(role, way)))
        };
        match (rule.role(), self) {
            (None | Some(RoleTerm::None), _) => true,
            (Some(_), Bearer::NoToken) => false,
            (Some(RoleTerm::Any), _) => true,
            (Some(_), Bearer::NoRole) => false,
            (Some(RoleTerm::AnyOf(ids)), Bearer::Role(own)) => ids.contains(&own) || ids.iter().any(implied),
            (Some(RoleTerm::AllOf(ids)), Bearer::Role(own)) => ids.contains(&own) || ids.iter().all(implied),
        }
    }
}

/// All ways to be of a row.
pub(super) fn requesters(
    peers: &[Demand],
    roles: &[Demand],
    carrier: Carrier,
    actor: Actor,
    parts: &PolicyParts,
) -> Vec<Demand> {
    let found = product(&product(peers, roles), &[actor.demand()]);
    let carried = match carrier {
        Carrier::Service(id) if actor != Actor::Absent => cells::carried(&parts.services[id.index()], SIDE),
        _ => None,
    };
    match carried {
        Some(carried) => product(&found, &carried),
        None => found,
    }
}

fn is_within(demand: &Demand, wider: &Demand) -> bool {
    demand.join(wider).as_ref() == Some(demand)
}
