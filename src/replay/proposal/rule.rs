//! Requests that belong together become rules.

use std::collections::{BTreeMap, BTreeSet};

use super::shape::{Segment, Shape, shapes};
use super::wish::Wish;
use crate::clock::Timestamp;
use crate::policy::condition::GrpcPattern;

/// Whose requests can be allowed by one rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    pub service: Peer,
    pub caller: Option<Actor>,
    pub routes: Vec<String>,
    pub grpc: bool,
}

/// Who carries the request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// No certificate.
    Nobody,
    Named(String),
    /// By a SPIFFE ID, or DNS names of a trust domain, that no `[service]` names.
    Unnamed {
        spiffe_id: Option<String>,
        dns_names: Vec<String>,
        trust_domain: String,
    },
}

/// What kind of caller, and whose.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Actor {
    pub issuer: String,
    pub kind: String,
    /// Of an agent, and of whoever acts for another.
    pub on_behalf_of: Option<String>,
}

/// What all callers of a rule have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Nothing, as there is no token.
    NoToken,
    Role(String),
    Scope(String),
    Group(String),
    TokenRole(String),
    Client(String),
    /// A token of the issuer, and nothing more.
    Any,
}

/// Scopes that say what a client may learn, not what it may do (OpenID Connect Core §5.4, §11).
const OPENID_SCOPES: [&str; 6] = ["openid", "profile", "email", "address", "phone", "offline_access"];

/// One rule to be.
#[derive(Debug)]
pub struct Rule<'w> {
    pub kind: Kind,
    /// All that the rule names; the kind's is one of them.
    pub services: BTreeSet<Peer>,
    pub need: Need,
    /// What else all of them have.
    pub also: Vec<Need>,
    pub methods: BTreeSet<String>,
    pub shapes: Vec<Shape<'w>>,
}

/// What makes two shapes one rule's.
type Together = (Option<Actor>, Vec<String>, bool, Need, BTreeSet<String>, BTreeMap<String, Vec<String>>);

/// The rules that allow these requests, in order.
pub fn rules(wishes: &[Wish]) -> Vec<Rule<'_>> {
    let mut kinds: BTreeMap<Kind, Vec<&Wish>> = BTreeMap::new();
    for wish in wishes {
        kinds.entry(Kind::of(wish)).or_default().push(wish);
    }
    let mut rules: BTreeMap<(Together, Peer), Rule<'_>> = BTreeMap::new();
    for (kind, wishes) in &kinds {
        for Pattern { methods, need, also, shape } in patterns(wishes) {
            let together: Together = (
                kind.caller.clone(),
                kind.routes.clone(),
                kind.grpc,
                need.clone(),
                methods.clone(),
                shape.owned(),
            );
            let rule = rules.entry((together, kind.service.clone())).or_insert_with(|| Rule {
                kind: kind.clone(),
                services: BTreeSet::from([kind.service.clone()]),
                need,
                also: also.clone(),
                methods,
                shapes: Vec::new(),
            });
            rule.also.retain(|need| also.contains(need));
            rule.shapes.push(shape);
        }
    }
    merge_services(rules.into_values())
}

/// A shape with the methods that the same callers used under it.
struct Pattern<'w> {
    methods: BTreeSet<String>,
    need: Need,
    also: Vec<Need>,
    shape: Shape<'w>,
}

/// What was asked for, each method by itself: who reads is not therefore one who writes.
fn patterns<'w>(wishes: &[&'w Wish]) -> Vec<Pattern<'w>> {
    let methods: BTreeSet<&str> = wishes.iter().map(|wish| wish.method()).collect();
    let mut found: BTreeMap<(Vec<Segment>, Need), Pattern<'w>> = BTreeMap::new();
    for method in methods {
        let of_method: Vec<&Wish> = wishes.iter().copied().filter(|wish| wish.method() == method).collect();
        for shape in shapes(&of_method) {
            let (need, also) = Need::of(&shape.wishes, wishes);
            match found.get_mut(&(shape.segments.clone(), need.clone())) {
                Some(known) => {
                    known.methods.insert(method.to_owned());
                    known.also.retain(|need| also.contains(need));
                    known.shape.wishes.extend(shape.wishes);
                    let values = known.shape.values.iter_mut().zip(shape.values);
                    values.for_each(|(known, new)| *known = (*known).max(new));
                }
                None => {
                    let methods = BTreeSet::from([method.to_owned()]);
                    let key = (shape.segments.clone(), need.clone());
                    found.insert(key, Pattern { methods, need, also, shape });
                }
            }
        }
    }
    found.into_values().collect()
}

/// Rules that differ in nothing but the service are one.
fn merge_services<'w>(rules: impl Iterator<Item = Rule<'w>>) -> Vec<Rule<'w>> {
    let mut merged: Vec<Rule<'w>> = Vec::new();
    for rule in rules {
        let is_like = |other: &&mut Rule<'w>| {
            let both_named = |peer: &Peer| matches!(peer, Peer::Named(_));
            rule.kind.caller == other.kind.caller
                && rule.kind.routes == other.kind.routes
                && rule.kind.grpc == other.kind.grpc
                && rule.need == other.need
                && rule.methods == other.methods
                && rule
                    .shapes
                    .iter()
                    .map(|shape| &shape.segments)
                    .eq(other.shapes.iter().map(|shape| &shape.segments))
                && rule.services.iter().chain(&other.services).all(both_named)
        };
        match merged.iter_mut().find(is_like) {
            Some(other) => {
                other.services.extend(rule.services);
                for (known, new) in other.shapes.iter_mut().zip(rule.shapes) {
                    known.wishes.extend(new.wishes);
                }
            }
            None => merged.push(rule),
        }
    }
    merged
}

impl Kind {
    fn of(wish: &Wish) -> Kind {
        let past = &wish.past;
        let service = match (&past.peer, wish.services.first()) {
            (None, _) => Peer::Nobody,
            (Some(_), Some(name)) => Peer::Named(name.clone()),
            (Some(peer), None) => Peer::Unnamed {
                spiffe_id: peer.spiffe_id.clone(),
                dns_names: peer.dns_names.clone(),
                trust_domain: peer.trust_domain.clone(),
            },
        };
        let caller = past.caller.as_ref().map(|caller| Actor {
            issuer: caller.issuer.clone(),
            kind: caller.actor.clone(),
            on_behalf_of: (caller.actor == "agent" || caller.acts_for_another())
                .then(|| caller.on_behalf_of.clone()),
        });
        let grpc = past.grpc && wish.method() == "POST" && grpc_name(&wish.segments).is_some();
        Kind { service, caller, routes: wish.routes.clone(), grpc }
    }
}

/// As `pkg.Service/Method`, if the path is one of gRPC.
pub fn grpc_name(segments: &[String]) -> Option<String> {
    let name = segments.join("/");
    let is_one =
        segments.len() == 2 && name.parse::<GrpcPattern>().is_ok_and(|pattern| pattern.method.is_some());
    is_one.then_some(name)
}

impl Need {
    /// The narrowest that all of `these` have: which the fewest of all callers have.
    fn of(these: &[&Wish], all: &[&Wish]) -> (Need, Vec<Need>) {
        if these.iter().all(|wish| wish.past.caller.is_none()) {
            return (Need::NoToken, Vec::new());
        }
        type Have = fn(&Wish) -> Vec<Need>;
        let kinds: [Have; 3] = [
            |wish| wish.roles.iter().cloned().map(Need::Role).collect(),
            |wish| {
                let scopes = wish.words(|caller| &caller.scopes).into_iter();
                let scopes = scopes.filter(|scope| !OPENID_SCOPES.contains(&scope.as_str())).map(Need::Scope);
                let groups = wish.words(|caller| caller.groups()).into_iter().map(Need::Group);
                let roles = wish.words(|caller| caller.token_roles()).into_iter().map(Need::TokenRole);
                scopes.chain(groups).chain(roles).collect()
            },
            |wish| {
                wish.past
                    .caller
                    .iter()
                    .filter_map(|caller| caller.client().cloned())
                    .map(Need::Client)
                    .collect()
            },
        ];
        for have in kinds {
            let sets = these.iter().map(|wish| have(wish).into_iter().collect::<BTreeSet<_>>());
            let common = sets.reduce(|a, b| a.intersection(&b).cloned().collect()).unwrap_or_default();
            let holders = |need: &Need| {
                let holding = all.iter().filter(|wish| have(wish).contains(need));
                holding.map(|wish| wish.caller()).collect::<BTreeSet<_>>().len()
            };
            let mut common: Vec<Need> = common.into_iter().collect();
            common.sort_by_cached_key(|need| (holders(need), need.clone()));
            if !common.is_empty() {
                let also = common.split_off(1);
                return (common.swap_remove(0), also);
            }
        }
        (Need::Any, Vec::new())
    }
}

impl Wish {
    fn words(&self, of: fn(&crate::replay::CallerLine) -> &[String]) -> Vec<String> {
        self.past.caller.as_ref().map_or_else(Vec::new, |caller| of(caller).to_vec())
    }
}

impl Rule<'_> {
    pub fn wishes(&self) -> impl Iterator<Item = &Wish> {
        self.shapes.iter().flat_map(|shape| shape.wishes.iter().copied())
    }

    pub fn requests(&self) -> u64 {
        self.wishes().map(|wish| wish.requests).sum()
    }

    /// How many different callers there were.
    pub fn callers(&self) -> usize {
        self.wishes().filter_map(Wish::caller).collect::<BTreeSet<_>>().len()
    }

    pub fn seen(&self) -> Option<(Timestamp, Timestamp)> {
        let first = self.wishes().map(|wish| wish.first).min()?;
        Some((first, self.wishes().map(|wish| wish.last).max()?))
    }
}
