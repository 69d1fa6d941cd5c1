//! Who can do one thing: each allow that reaches an action, and whom it lets in.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::{Access, SIDE};
use crate::clock::Timestamp;
use crate::identity::{ActorKind, Caller, Direction, Hop, Name, Signature};
use crate::policy::cells::{self, Demand, Shape};
use crate::policy::difference::{Alone, Closed, Flip, Outcome, Witness};
use crate::policy::pattern::HostPattern;
use crate::policy::reading::Reading;
use crate::policy::rule::{Effect, Mode};
use crate::policy::{Action, Circumstances, IssuerId, Policy, Request, RoleId, RouteId, RuleId, ServiceId};

/// Who can do one thing, now.
#[derive(Debug)]
pub struct WhoCan {
    pub route: Option<RouteId>,
    /// Until then whoever is not denied comes in.
    pub unenforced_until: Option<Timestamp>,
    /// Whether anybody comes in now since the route is not enforced: no deny or require keeps all out.
    pub unenforced: Option<Box<Witness>>,
    /// Those that reach the action, by name.
    pub allows: Vec<Allow>,
    pub denies: Vec<RuleId>,
    pub requires: Vec<RuleId>,
    /// Of any effect, none of which they have.
    pub shadow: Vec<RuleId>,
}

/// One allow that reaches the action.
#[derive(Debug)]
pub struct Allow {
    pub rule: RuleId,
    /// Whom it lets in.
    pub open: Vec<Way>,
    /// Whom it names, and does not let in.
    pub shut: Vec<Shut>,
}

/// One way to come in, and somebody who does.
#[derive(Debug)]
pub struct Way {
    /// Services that name whoever carries the request; none where no certificate is wanted.
    pub services: Vec<(ServiceId, String)>,
    /// Whose token; `None` where none is wanted.
    pub issuer: Option<Name>,
    /// The roles that the token has, and how.
    pub roles: Vec<Held>,
    pub actors: Vec<Acts>,
    /// Comes in, and has no more than what is wanted.
    pub witness: Box<Witness>,
}

/// Who acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acts {
    pub kind: ActorKind,
    /// Whose rights are used, where those are somebody else's.
    pub for_whom: Option<ActorKind>,
}

impl Acts {
    fn of(caller: &Caller) -> Acts {
        let is_own = match caller.actor {
            _ if !caller.chain.is_empty() => false,
            ActorKind::Agent => caller.on_behalf_of == ActorKind::Unknown,
            ActorKind::Human | ActorKind::Service | ActorKind::Unknown => true,
        };
        Acts { kind: caller.actor, for_whom: (!is_own).then_some(caller.on_behalf_of) }
    }
}

impl fmt::Display for Acts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.kind, self.for_whom) {
            (ActorKind::Agent, None) => f.write_str("agent for itself"),
            (kind, None) => kind.fmt(f),
            (kind, Some(ActorKind::Unknown)) => write!(f, "{kind} for somebody of no known kind"),
            (kind, Some(whom)) => write!(f, "{kind} for {whom}"),
        }
    }
}

/// A role that somebody has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub role: RoleId,
    /// The entries that hold, in words.
    pub by: Vec<String>,
}

/// Whom an allow names, and who does not come in for all that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shut {
    pub whom: Whom,
    pub why: Why,
}

/// Of whom one way in which a rule holds speaks. Empty: of anybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whom {
    pub services: Vec<ServiceId>,
    pub roles: Vec<RoleId>,
    pub issuers: Vec<IssuerId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    NotYet(Timestamp),
    Over(Timestamp),
    Closed(Closed),
}

impl WhoCan {
    pub fn is_nobody(&self) -> bool {
        self.unenforced.is_none() && self.allows.iter().all(|allow| allow.open.is_empty())
    }
}

impl Access<'_> {
    /// Who can do this, now, coming in from this side, over a connection from this address, or from any.
    pub fn who_can(&self, action: Action<'_>, direction: Direction, address: Option<IpAddr>) -> WhoCan {
        let policy = self.policy;
        let route = policy.route_for(&action, direction);
        let mut found = WhoCan {
            route,
            unenforced_until: route
                .and_then(|id| policy.route(id).shadow_until)
                .filter(|until| self.now < *until),
            unenforced: None,
            allows: Vec::new(),
            denies: Vec::new(),
            requires: Vec::new(),
            shadow: Vec::new(),
        };
        let Some(route) = route else { return found };
        for id in reaching(policy, action, direction, self.now) {
            let rule = policy.rule(id);
            match (rule.mode, rule.effect) {
                (Mode::Shadow, _) => found.shadow.push(id),
                (Mode::Enforce, Effect::Allow) => {
                    found.allows.push(Allow { rule: id, open: Vec::new(), shut: Vec::new() });
                }
                (Mode::Enforce, Effect::Deny) => found.denies.push(id),
                (Mode::Enforce, Effect::Require) => found.requires.push(id),
            }
        }
        let named = self.comparison.method_classes().iter().flatten().any(|method| method == action.method);
        let asked = Asked { action, address, route, named };
        let within = asked.demand(self.now);
        self.ask(|alone| {
            for ways in alone.ways() {
                let ways_in = ways.demands.iter().filter_map(|way| way.join(&within));
                match ways.rule {
                    Some(id) => {
                        if let Some(allow) = found.allows.iter_mut().find(|allow| allow.rule == id) {
                            self.try_ways(alone, &asked, ways_in, allow);
                        }
                    }
                    None => {
                        let tried = ways_in.map(|way| asked.tried(self.policy, alone, &way, false));
                        let first = tried.flat_map(|(open, _)| open).next();
                        found.unenforced =
                            found.unenforced.take().or(first.map(|flip| Box::new(flip.witness)));
                    }
                }
            }
        });
        found.allows.iter_mut().for_each(|allow| self.explain_times(allow));
        found
    }

    fn try_ways(
        &self,
        alone: &Alone<'_>,
        asked: &Asked<'_>,
        ways: impl Iterator<Item = Demand>,
        allow: &mut Allow,
    ) {
        let mut let_in = Vec::new();
        for way in ways {
            let whom = self.whom(&way);
            let (open, closed) = asked.tried(self.policy, alone, &way, true);
            if open.is_empty() {
                let why = closed.into_iter().max_by_key(telling).map(Why::Closed);
                let shut = why.map(|why| Shut { whom, why }).filter(|shut| !allow.shut.contains(shut));
                allow.shut.extend(shut);
                continue;
            }
            let_in.push(whom);
            for way in open.into_iter().filter_map(|flip| self.way(flip)) {
                let same = allow.open.iter_mut().find(|other| {
                    other.services == way.services && other.issuer == way.issuer && other.roles == way.roles
                });
                match same {
                    Some(known) => {
                        let new = way.actors.iter().filter(|actor| !known.actors.contains(actor));
                        known.actors.extend(new.copied().collect::<Vec<_>>());
                    }
                    None => allow.open.push(way),
                }
            }
        }
        allow.shut.retain(|shut| !let_in.contains(&shut.whom));
    }

    fn way(&self, flip: Flip) -> Option<Way> {
        let witness = Box::new(flip.witness);
        let (services, roles) = witness
            .ask(self.policy, SIDE, |standing, request| {
                let reading = Reading::new(self.policy, standing, request);
                let services =
                    reading.services().into_iter().map(|read| (read.service, read.named_by)).collect();
                let roles = reading.roles().into_iter().filter(|role| role.holds).map(|role| Held {
                    role: role.role,
                    by: role
                        .entries
                        .into_iter()
                        .filter(|entry| entry.holds)
                        .map(|entry| entry.wanted)
                        .collect(),
                });
                (services, roles.collect())
            })
            .ok()?;
        let caller = witness.caller(SIDE);
        let actor = caller.map(Acts::of);
        let issuer = caller.map(|caller| caller.issuer.clone());
        Some(Way { services, issuer, roles, actors: actor.into_iter().collect(), witness })
    }

    fn explain_times(&self, allow: &mut Allow) {
        let rule = self.policy.rule(allow.rule);
        let why = if self.now < rule.not_before {
            Why::NotYet(rule.not_before)
        } else if rule.expires <= self.now {
            Why::Over(rule.expires)
        } else {
            return;
        };
        allow.shut.push(Shut { whom: Whom::default(), why });
    }

    fn whom(&self, demand: &Demand) -> Whom {
        let parts = self.policy.parts();
        let services = parts.services.iter().zip((0..).map(ServiceId)).filter(|(service, _)| {
            cells::peers(service).any(|peer| demand.join(&peer).is_some_and(|both| both.peer == demand.peer))
        });
        let roles = (0..).map(RoleId).take(parts.roles.len()).filter(|id| {
            cells::role(*id, parts, SIDE).iter().any(|role| demand.join(role).as_ref() == Some(demand))
        });
        Whom {
            services: services.map(|(_, id)| id).collect(),
            roles: roles.collect(),
            issuers: demand.sides[SIDE].issuers.clone().unwrap_or_default(),
        }
    }
}

/// What tells most about why nobody comes in.
fn telling(closed: &Closed) -> u8 {
    match closed {
        Closed::NoToken => 0,
        Closed::NoClaims => 1,
        Closed::Denied(_) => 2,
        Closed::Open(_) => 3,
    }
}

/// The rules that reach an action, whoever asks, by name.
fn reaching(policy: &Policy, action: Action<'_>, direction: Direction, now: Timestamp) -> Vec<RuleId> {
    let (peer, caller) = (Signature::Absent, Signature::Absent);
    let hop = if direction == Direction::Outbound { &Hop::Local } else { &Hop::Direct };
    let circumstances = Circumstances { hop, peer_ip: None, client_ip: None };
    let request = Request { peer: &peer, caller: &caller, action, circumstances, now };
    let standing = policy.standing(&peer, &caller, now);
    let reading = Reading::new(policy, &standing, &request);
    reading.rules().filter(|rule| rule.reaches()).map(|rule| rule.id).collect()
}

/// What is asked about.
struct Asked<'a> {
    action: Action<'a>,
    address: Option<IpAddr>,
    route: RouteId,
    /// Whether some rule names the method.
    named: bool,
}

impl Asked<'_> {
    fn demand(&self, now: Timestamp) -> Demand {
        let segments = self.action.path.segments().map(|segment| Some(segment.as_ref().into()));
        let mut demand = Demand {
            host: Some(HostPattern::Exact(self.action.host.clone())),
            path: Shape { segments: segments.collect(), rest: false },
            methods: self.named.then(|| vec![self.action.method.clone()]),
            peer_ip: self.address.map(|address| IpNet::from(address.to_canonical())),
            client_ip: self.address.map(|address| IpNet::from(address.to_canonical())),
            time: (now, now.plus(Duration::from_millis(1))),
            ..Demand::nothing()
        };
        demand.sides[SIDE].routes = Some(vec![self.route]);
        demand
    }

    /// With this very action in place of one that is like it, and let in by a rule, or by none.
    fn tried(
        &self,
        policy: &Policy,
        alone: &Alone<'_>,
        way: &Demand,
        by_rule: bool,
    ) -> (Vec<Flip>, Vec<Closed>) {
        let mut tried = alone.each(way, |cell| cell.alike.is_empty() != self.named);
        let mut open = Vec::new();
        for mut flip in tried.open {
            let Action { method, host, path, headers } = self.action;
            flip.witness.method = method.clone();
            (flip.witness.host, flip.witness.path) = (host.clone(), path.clone());
            flip.witness.headers = headers.clone();
            flip.witness.forget_addresses(&flip.demand);
            let outcome = flip.witness.judged(policy, SIDE);
            match outcome {
                Outcome::Permitted { rule, .. } if rule.is_some() == by_rule => open.push(flip),
                other => tried.closed.push(Closed::Denied(other)),
            }
        }
        (open, tried.closed)
    }
}
