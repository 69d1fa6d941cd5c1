//! Conjunctions: all that a request must have for some conditions to hold of it, in two policies at once.
//!
//! Everything in a [`Demand`] is positive, and demands of one kind meet: two paths in their common shape, two
//! globs in the longer, two lists of scopes in both. What cannot meet is no demand at all (`None`).

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::header::{HeaderName, HeaderValue};
use ipnet::IpNet;

use super::shape::Shape;
use crate::clock::Timestamp;
use crate::identity::{ActorKind, Hop, TrustDomain};
use crate::policy::claim::{ClaimPath, ClaimValue};
use crate::policy::pattern::{Glob, HostPattern};
use crate::policy::{IssuerId, RouteId};

/// Of which of the two policies something speaks: position in what is kept for both.
pub type Side = usize;

#[derive(Clone, Debug, PartialEq)]
pub struct Demand {
    pub peer: PeerDemand,
    pub caller: CallerDemand,
    /// What one policy's tables give a meaning to.
    pub sides: [SideDemand; 2],
    /// Whether the token has `act`.
    pub act: Option<bool>,
    /// The `sub` of an `act` that the token's own issuer names.
    pub actor_subject: Option<Glob>,
    /// Claims as issued, each with one value that it, or a member of it, must equal.
    pub claims: Vec<(ClaimPath, ClaimValue)>,
    pub acr: Option<Arc<str>>,
    pub max_age: Option<Duration>,
    /// Whether the token must be bound to a key.
    pub bound: bool,
    /// Segments of the path, from 0, that equal a claim.
    pub matches: Vec<(usize, ClaimPath)>,
    /// Each method by itself: `GET` does not include `HEAD` here. `None` is any.
    pub methods: Option<Vec<Method>>,
    pub host: Option<HostPattern>,
    pub path: Shape,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether the content type must be gRPC's.
    pub grpc: bool,
    pub hops: Option<Vec<Arc<str>>>,
    /// Whether the hop must be another than `local`, whatever its name.
    pub inbound: bool,
    /// The other end of the connection.
    pub peer_ip: Option<IpNet>,
    /// The client, whom a hop may tell of.
    pub client_ip: Option<IpNet>,
    /// From the first moment to before the second.
    pub time: (Timestamp, Timestamp),
}

#[derive(Clone, Debug, PartialEq)]
pub enum PeerDemand {
    /// Any, or none.
    Free,
    Absent,
    Spiffe {
        trust_domain: TrustDomain,
        path: Shape,
    },
    /// A certificate has each of the names.
    Dns {
        trust_domain: TrustDomain,
        names: Vec<HostPattern>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerDemand {
    /// Any, or none.
    Free,
    Absent,
    Present,
}

/// What is demanded in the words of one policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SideDemand {
    pub routes: Option<Vec<RouteId>>,
    pub issuers: Option<Vec<IssuerId>>,
    pub actor: Kinds,
    pub on_behalf_of: Kinds,
    pub subject: Option<Glob>,
    pub client: Option<Glob>,
    pub scopes: Vec<Arc<str>>,
    pub groups: Vec<Arc<str>>,
    /// Of the token's own roles claim.
    pub roles: Vec<Arc<str>>,
}

/// A set of kinds of actors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kinds(u8);

impl Kinds {
    pub const ANY: Kinds = Kinds(0b1111);

    pub fn of(kinds: &[ActorKind]) -> Kinds {
        Kinds(kinds.iter().fold(0, |set, kind| set | 1 << *kind as u8))
    }

    pub fn contains(self, kind: ActorKind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }

    pub fn join(self, other: Kinds) -> Option<Kinds> {
        let both = self.0 & other.0;
        (both != 0).then_some(Kinds(both))
    }

    pub fn members(self) -> impl Iterator<Item = ActorKind> {
        ActorKind::ALL.into_iter().filter(move |kind| self.contains(*kind))
    }
}

impl Default for Kinds {
    fn default() -> Kinds {
        Kinds::ANY
    }
}

impl Demand {
    /// Demands nothing.
    pub fn nothing() -> Demand {
        Demand {
            peer: PeerDemand::Free,
            caller: CallerDemand::Free,
            sides: [SideDemand::default(), SideDemand::default()],
            act: None,
            actor_subject: None,
            claims: Vec::new(),
            acr: None,
            max_age: None,
            bound: false,
            matches: Vec::new(),
            methods: None,
            host: None,
            path: Shape::ANY,
            headers: Vec::new(),
            grpc: false,
            hops: None,
            inbound: false,
            peer_ip: None,
            client_ip: None,
            time: (Timestamp::MIN, Timestamp::MAX),
        }
    }

    /// What fulfils both.
    pub fn join(&self, other: &Demand) -> Option<Demand> {
        // what tells most pairs apart comes first
        let path = self.path.join(&other.path)?;
        let host = meet(&self.host, &other.host, join_hosts)?;
        let methods = meet(&self.methods, &other.methods, |a, b| common(a, b))?;
        let time = (self.time.0.max(other.time.0), self.time.1.min(other.time.1));
        if time.0 >= time.1 {
            return None;
        }
        let [own_old, own_new] = &self.sides;
        let [other_old, other_new] = &other.sides;
        let joined = Demand {
            peer: self.peer.join(&other.peer)?,
            caller: self.caller.join(other.caller)?,
            sides: [own_old.join(other_old)?, own_new.join(other_new)?],
            act: meet(&self.act, &other.act, |a, b| (a == b).then_some(*a))?,
            actor_subject: meet(&self.actor_subject, &other.actor_subject, join_globs)?,
            claims: union(&self.claims, &other.claims),
            acr: meet(&self.acr, &other.acr, |a, b| (a == b).then(|| Arc::clone(a)))?,
            max_age: meet(&self.max_age, &other.max_age, |a, b| Some(*a.min(b)))?,
            bound: self.bound || other.bound,
            matches: union(&self.matches, &other.matches),
            methods,
            host,
            path,
            headers: union(&self.headers, &other.headers),
            grpc: self.grpc || other.grpc,
            hops: meet(&self.hops, &other.hops, |a, b| common(a, b))?,
            inbound: self.inbound || other.inbound,
            peer_ip: meet(&self.peer_ip, &other.peer_ip, join_nets)?,
            client_ip: meet(&self.client_ip, &other.client_ip, join_nets)?,
            time,
        };
        let absent = joined.caller == CallerDemand::Absent;
        let acts = joined.actor_subject.is_some() && joined.act == Some(false);
        let two_values = joined.headers.iter().enumerate().any(|(at, (name, value))| {
            joined.headers[..at].iter().any(|(other, second)| other == name && second != value)
        });
        let local = joined.hops.as_ref().is_some_and(|hops| hops.iter().all(|hop| is_local(hop)));
        if joined.inbound && local {
            return None;
        }
        (!(two_values || acts || absent && joined.reads_caller())).then_some(joined)
    }

    /// Whether it takes peers that were learned in this way.
    pub fn takes_hop(&self, hop: &Arc<str>) -> bool {
        self.hops.as_ref().is_none_or(|hops| hops.contains(hop)) && !(self.inbound && is_local(hop))
    }

    /// Every text with which it compares one.
    pub fn globs(&self) -> Vec<Glob> {
        let mut globs: Vec<Glob> = Vec::new();
        let exact = |text: &str| Glob::Exact(text.into());
        for side in &self.sides {
            globs.extend(side.subject.iter().chain(&side.client).cloned());
            let words = side.scopes.iter().chain(&side.groups).chain(&side.roles);
            globs.extend(words.map(|word| exact(word)));
        }
        globs.extend(self.actor_subject.clone());
        globs.extend(self.claims.iter().map(|(_, value)| match value {
            ClaimValue::Text(glob) => glob.clone(),
            other => exact(&other.to_string()),
        }));
        globs.extend(self.acr.as_deref().map(exact));
        globs.extend(self.path.segments.iter().flatten().map(|literal| exact(literal)));
        let mut host = |pattern: &HostPattern| globs.push(exact(&pattern.to_string()));
        self.host.iter().for_each(&mut host);
        match &self.peer {
            PeerDemand::Spiffe { trust_domain, path } => {
                globs.push(exact(trust_domain.as_str()));
                globs.extend(path.segments.iter().flatten().map(|literal| exact(literal)));
            }
            PeerDemand::Dns { names, .. } => names.iter().for_each(host),
            PeerDemand::Free | PeerDemand::Absent => {}
        }
        globs
    }

    /// Whether only a verified caller can fulfil it.
    pub fn reads_caller(&self) -> bool {
        self.caller == CallerDemand::Present
            || self.act.is_some()
            || self.actor_subject.is_some()
            || !self.claims.is_empty()
            || self.acr.is_some()
            || self.max_age.is_some()
            || self.bound
            || !self.matches.is_empty()
    }
}

impl PeerDemand {
    fn join(&self, other: &PeerDemand) -> Option<PeerDemand> {
        match (self, other) {
            (PeerDemand::Free, one) | (one, PeerDemand::Free) => Some(one.clone()),
            (PeerDemand::Absent, PeerDemand::Absent) => Some(PeerDemand::Absent),
            (
                PeerDemand::Spiffe { trust_domain: a, path },
                PeerDemand::Spiffe { trust_domain: b, path: other },
            ) if a == b => Some(PeerDemand::Spiffe { trust_domain: a.clone(), path: path.join(other)? }),
            (
                PeerDemand::Dns { trust_domain: a, names },
                PeerDemand::Dns { trust_domain: b, names: others },
            ) if a == b => {
                // one name can stand for both: a certificate with fewer names is of fewer services
                let mut names: Vec<HostPattern> = union(names, others);
                let all = names.clone();
                names.retain(|name| !all.iter().any(|other| other != name && other.is_within(name)));
                Some(PeerDemand::Dns { trust_domain: a.clone(), names })
            }
            _ => None,
        }
    }
}

impl CallerDemand {
    fn join(self, other: CallerDemand) -> Option<CallerDemand> {
        match (self, other) {
            (CallerDemand::Free, one) | (one, CallerDemand::Free) => Some(one),
            (a, b) => (a == b).then_some(a),
        }
    }
}

impl SideDemand {
    pub fn join(&self, other: &SideDemand) -> Option<SideDemand> {
        Some(SideDemand {
            routes: meet(&self.routes, &other.routes, |a, b| common(a, b))?,
            issuers: meet(&self.issuers, &other.issuers, |a, b| common(a, b))?,
            actor: self.actor.join(other.actor)?,
            on_behalf_of: self.on_behalf_of.join(other.on_behalf_of)?,
            subject: meet(&self.subject, &other.subject, join_globs)?,
            client: meet(&self.client, &other.client, join_globs)?,
            scopes: union(&self.scopes, &other.scopes),
            groups: union(&self.groups, &other.groups),
            roles: union(&self.roles, &other.roles),
        })
    }
}

/// Both, where both are stated. The outer `None`: they do not meet.
fn is_local(hop: &str) -> bool {
    hop == Hop::Local.as_str()
}

fn meet<T: Clone>(a: &Option<T>, b: &Option<T>, join: impl Fn(&T, &T) -> Option<T>) -> Option<Option<T>> {
    match (a, b) {
        (Some(a), Some(b)) => join(a, b).map(Some),
        (one, None) | (None, one) => Some(one.clone()),
    }
}

fn common<T: Clone + PartialEq>(a: &[T], b: &[T]) -> Option<Vec<T>> {
    let both: Vec<T> = a.iter().filter(|one| b.contains(one)).cloned().collect();
    (!both.is_empty()).then_some(both)
}

fn union<T: Clone + PartialEq>(a: &[T], b: &[T]) -> Vec<T> {
    let mut all = a.to_vec();
    all.extend(b.iter().filter(|one| !a.contains(one)).cloned());
    all
}

/// One text that both match.
pub fn join_globs(a: &Glob, b: &Glob) -> Option<Glob> {
    match (a, b) {
        (Glob::Exact(text), glob) | (glob, Glob::Exact(text)) => {
            glob.matches(text).then(|| Glob::Exact(Arc::clone(text)))
        }
        (Glob::Prefix(a), Glob::Prefix(b)) => {
            let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
            long.starts_with(&**short).then(|| Glob::Prefix(Arc::clone(long)))
        }
    }
}

fn join_hosts(a: &HostPattern, b: &HostPattern) -> Option<HostPattern> {
    if a.is_within(b) { Some(a.clone()) } else { b.is_within(a).then(|| b.clone()) }
}

/// The addresses of both.
pub fn join_nets(a: &IpNet, b: &IpNet) -> Option<IpNet> {
    if a.contains(b) { Some(*b) } else { b.contains(a).then_some(*a) }
}
