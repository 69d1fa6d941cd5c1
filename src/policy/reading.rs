//! One request under one policy, read rule by rule: which condition holds and which does not, what each
//! wants and what was seen, and how services, roles and token mapping came about.
//!
//! Nothing is judged here: the indexes say which conditions on the action hold, `judge` says it of all
//! others, so that a reading cannot say anything else than the decision rests on.

use std::borrow::Cow;

use super::compiled::Reach;
use super::condition::{Condition, Kind, RoleTerm};
use super::decision::Request;
use super::judge::{self, Asked, Lack, Who};
use super::pattern::never_served;
use super::role::{CarriedClients, Service};
use super::rule::{Effect, Rule, stated};
use super::{IssuerId, Policy, RoleId, RouteId, RuleId, ServiceId, Standing, words};
use crate::identity::{Caller, Name, Peer};

/// A request beside a policy, to be read.
#[derive(Debug)]
pub struct Reading<'a> {
    policy: &'a Policy,
    standing: Cow<'a, Standing>,
    request: &'a Request<'a>,
    /// Decoded once.
    path: Vec<Cow<'a, str>>,
    /// The caller's.
    issuer: Option<IssuerId>,
    route: Option<RouteId>,
    reach: Reach,
}

/// One rule, with all its conditions in the order in which it states them, then what it wants without
/// saying so.
#[derive(Debug)]
pub struct RuleReading<'a> {
    pub id: RuleId,
    pub rule: &'a Rule,
    pub conditions: Vec<ConditionReading<'a>>,
}

#[derive(Debug)]
pub struct ConditionReading<'a> {
    pub holds: bool,
    what: What<'a>,
}

/// What a rule asks of a request.
#[derive(Clone, Copy, Debug)]
enum What<'a> {
    Stated(&'a Condition),
    /// There is a route, which every rule asks for.
    SomeRoute,
    /// The method is one that is served at all.
    ServedMethod,
    /// Of an allow with `grpc`.
    GrpcContentType,
    /// Of an allow that does not name actors.
    NoAgent,
    /// Of an allow that does not name whom an actor may act for.
    NobodyElse,
    NotBefore,
    Expires,
}

/// What a condition wants, against what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    pub wanted: String,
    pub seen: String,
}

/// A service that names the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceReading {
    pub service: ServiceId,
    /// The pattern that did, as it is written.
    pub named_by: String,
    pub carries: Carries,
}

/// What a service's `client_id` says of the caller's token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carries {
    /// There is no token.
    Nothing,
    /// There is no `client_id`.
    Unstated,
    /// `client_id = "any"`.
    Any,
    /// This pattern has the token's client.
    Listed(String),
    /// The token's client is none of these, which refuses the request.
    Other { listed: Vec<String> },
}

/// A role, of whomever it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleReading {
    pub role: RoleId,
    pub holds: bool,
    /// Whether all entries must hold; else any.
    pub all: bool,
    pub entries: Vec<EntryReading>,
    /// What the token has of what the entries ask for.
    pub seen: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryReading {
    pub holds: bool,
    pub issuer: Name,
    /// As `scope orders:read`.
    pub wanted: String,
}

impl<'a> Reading<'a> {
    /// Of the request that [`super::decide`] judges with the same three.
    pub fn new(policy: &'a Policy, standing: &'a Standing, request: &'a Request<'a>) -> Reading<'a> {
        let standing = if standing.policy == policy.hash() {
            Cow::Borrowed(standing)
        } else {
            Cow::Owned(policy.standing(request.peer, request.caller, request.now))
        };
        let path: Vec<_> = request.action.path.segments().collect();
        let asked = Asked { request, path: &path };
        let route = policy.choose_route(&asked);
        let reach = policy.reach(&asked, route);
        let issuer = policy.issuer_of(request.caller.verified().map(|caller| &**caller));
        Reading { policy, standing, request, path, issuer, route, reach }
    }

    pub fn route(&self) -> Option<RouteId> {
        self.route
    }

    /// Whether every service of the peer that lists clients lists the token's.
    pub fn token_mapped(&self) -> bool {
        self.standing.token_mapped
    }

    /// Every rule, by name: the order in which the first is chosen among those that hold.
    pub fn rules(&self) -> impl Iterator<Item = RuleReading<'a>> {
        self.policy.order().iter().enumerate().map(|(at, id)| self.rule(at, *id))
    }

    /// Every service that names the peer.
    pub fn services(&self) -> Vec<ServiceReading> {
        let Some(peer) = self.request.peer.verified() else { return Vec::new() };
        let read = |at: usize| {
            let service = &self.policy.parts().services[at];
            let named_by = service.identities.iter().find(|identity| identity.matches(&peer.name));
            let id = u32::try_from(at).ok().map(ServiceId)?;
            let named_by = named_by.map_or_else(String::new, ToString::to_string);
            Some(ServiceReading { service: id, named_by, carries: self.carries(service) })
        };
        self.standing.services.ones().filter_map(read).collect()
    }

    /// Every role of the policy, in the order of the configuration.
    pub fn roles(&self) -> Vec<RoleReading> {
        let (caller, issuer) = (self.caller(), self.issuer);
        let parts = self.policy.parts();
        let read = |(role, id): (&super::role::Role, u32)| {
            let entries = role.entries().iter().map(|entry| EntryReading {
                holds: issuer.zip(caller).is_some_and(|(issuer, caller)| entry.holds(issuer, caller)),
                issuer: parts.issuers[entry.issuer.index()].name.clone(),
                wanted: words::entry(entry),
            });
            let term = RoleTerm::AnyOf(vec![RoleId(id)]);
            RoleReading {
                role: RoleId(id),
                holds: self.standing.roles.contains(RoleId(id).index()),
                all: matches!(role.entries, super::role::RoleEntries::AllOf(_)),
                entries: entries.collect(),
                seen: words::role_seen(self.policy, &term, caller),
            }
        };
        parts.roles.iter().zip(0..).map(read).collect()
    }

    /// What a condition of the rule wants, and what was seen.
    pub fn words(&self, rule: &RuleReading<'_>, condition: &ConditionReading<'_>) -> Words {
        let (who, asked) = (self.who(), self.asked());
        let (wanted, seen) = match condition.what {
            What::Stated(stated) => (
                words::wanted(self.policy, rule.rule, stated),
                words::seen(self.policy, rule.rule, stated, &who, &asked),
            ),
            What::SomeRoute => ("any route".to_owned(), words::route_seen(self.policy, &asked)),
            What::ServedMethod => {
                ("a method other than CONNECT and TRACE".to_owned(), words::method_seen(&asked))
            }
            What::GrpcContentType => {
                ("content type application/grpc".to_owned(), words::content_type_seen(&asked))
            }
            What::NoAgent => (words::ACTOR_LEFT_OUT.to_owned(), self.actor_seen()),
            What::NobodyElse => (words::ON_BEHALF_OF_LEFT_OUT.to_owned(), self.actor_seen()),
            What::NotBefore => (format!("a time from {}", rule.rule.not_before), self.time_seen()),
            What::Expires => (format!("a time before {}", rule.rule.expires), self.time_seen()),
        };
        Words { wanted, seen }
    }

    fn rule(&self, at: usize, id: RuleId) -> RuleReading<'a> {
        let rule = self.policy.rule(id);
        let stated = rule.conditions.iter().map(|condition| {
            let holds = self.holds(rule, at, condition);
            ConditionReading { holds, what: What::Stated(condition) }
        });
        let mut conditions: Vec<_> = stated.collect();
        conditions.extend(self.unspoken(rule, at));
        RuleReading { id, rule, conditions }
    }

    fn holds(&self, rule: &Rule, at: usize, condition: &Condition) -> bool {
        let reach = &self.reach;
        match condition {
            Condition::Route(_) => reach.routes.contains(at),
            Condition::Host(_) => reach.hosts.contains(at),
            Condition::Method(_) => reach.methods.contains(at),
            Condition::Path(_) => reach.paths.contains(at),
            // its method is POST
            Condition::Grpc(_) => reach.grpc.contains(at) && reach.methods.contains(at),
            _ => judge::holds(rule, condition, &self.who(), &self.asked()),
        }
    }

    fn unspoken(&self, rule: &'a Rule, at: usize) -> Vec<ConditionReading<'a>> {
        let mut found = Vec::new();
        let mut want = |what: What<'a>, holds: bool| found.push(ConditionReading { holds, what });
        if stated!(rule, Route).is_none() && self.route.is_none() {
            want(What::SomeRoute, self.reach.routes.contains(at));
        }
        if never_served(self.request.action.method) && stated!(rule, Method).is_none() {
            want(What::ServedMethod, self.reach.methods.contains(at));
        }
        if rule.effect != Effect::Allow {
            return found;
        }
        if stated!(rule, Grpc).is_some() {
            want(What::GrpcContentType, judge::reaches(rule, &self.asked()));
        }
        let now = self.request.now;
        if rule.has_start() {
            want(What::NotBefore, judge::has_begun(rule, now));
        }
        if rule.has_end() {
            want(What::Expires, !judge::is_over(rule, now));
        }
        // of nobody, `role` says enough
        if self.caller().is_some() && !rule.waives_caller() {
            let left_out = judge::left_out(rule, &self.who());
            if stated!(rule, Actor).is_none() {
                want(What::NoAgent, left_out != Some(Lack::ActorLeftOut));
            } else if stated!(rule, OnBehalfOf).is_none() {
                want(What::NobodyElse, left_out != Some(Lack::OnBehalfOfLeftOut));
            }
        }
        found
    }

    fn carries(&self, service: &Service) -> Carries {
        let Some(caller) = self.caller() else { return Carries::Nothing };
        let issuers = &self.policy.parts().issuers;
        let clients = match &service.clients {
            CarriedClients::Unstated => return Carries::Unstated,
            CarriedClients::Any => return Carries::Any,
            CarriedClients::Listed(clients) => clients,
        };
        let written = |client: &super::role::ClientPattern| {
            format!("{} of {}", client.client, issuers[client.issuer.index()].name)
        };
        match clients.iter().find(|client| client.matches(self.issuer, caller)) {
            Some(client) => Carries::Listed(written(client)),
            None => Carries::Other { listed: clients.iter().map(written).collect() },
        }
    }

    fn actor_seen(&self) -> String {
        self.caller().map_or_else(String::new, words::actor_seen)
    }

    fn time_seen(&self) -> String {
        format!("it is {}", self.request.now)
    }

    fn peer(&self) -> Option<&Peer> {
        self.request.peer.verified().map(|peer| &**peer)
    }

    fn caller(&self) -> Option<&'a Caller> {
        self.request.caller.verified().map(|caller| &**caller)
    }

    fn who(&self) -> Who<'_> {
        Who {
            peer: self.peer(),
            caller: self.caller(),
            issuer: self.issuer,
            services: &self.standing.services,
            roles: &self.standing.roles,
            now: self.request.now,
        }
    }

    fn asked(&self) -> Asked<'_> {
        Asked { request: self.request, path: &self.path }
    }
}

impl RuleReading<'_> {
    /// Whether it could have spoken: all that it asks of the action holds.
    pub fn reaches(&self) -> bool {
        self.all(|kind| kind == Kind::Action)
    }

    /// Whether all that it asks beside the action holds: what a require that reaches must have.
    pub fn is_fulfilled(&self) -> bool {
        self.all(|kind| kind != Kind::Action)
    }

    /// Whether it allows or denies, apart from its mode.
    pub fn holds(&self) -> bool {
        self.all(|_| true)
    }

    fn all(&self, of: impl Fn(Kind) -> bool) -> bool {
        self.conditions.iter().filter(|condition| of(condition.kind())).all(|condition| condition.holds)
    }
}

impl ConditionReading<'_> {
    /// Its key in the configuration, or that of which something unspoken is asked.
    pub fn key(&self) -> &'static str {
        match self.what {
            What::Stated(condition) => condition.key(),
            What::SomeRoute => "route",
            What::ServedMethod => "method",
            What::GrpcContentType => "grpc",
            What::NoAgent => "actor",
            What::NobodyElse => "on_behalf_of",
            What::NotBefore => "not_before",
            What::Expires => "expires",
        }
    }

    /// What the rule states, if it is that.
    pub fn stated(&self) -> Option<&Condition> {
        match self.what {
            What::Stated(condition) => Some(condition),
            _ => None,
        }
    }

    pub fn kind(&self) -> Kind {
        match self.what {
            What::Stated(condition) => condition.kind(),
            What::SomeRoute | What::ServedMethod | What::GrpcContentType => Kind::Action,
            What::NoAgent | What::NobodyElse | What::NotBefore | What::Expires => Kind::Identity,
        }
    }

    /// Whether the rule asks for it without saying so.
    pub fn is_unspoken(&self) -> bool {
        !matches!(self.what, What::Stated(_) | What::NotBefore | What::Expires)
    }
}
