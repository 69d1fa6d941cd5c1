//! A whole policy, compiled: tables, indexes over them, and a hash of its content.
//!
//! A [`Policy`] without errors is the only one there is: [`Policy::compile`] gives all that is wrong
//! with the parts, or the policy with what looks wrong.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fixedbitset::FixedBitSet;

use super::claim::ClaimPath;
use super::condition::Condition;
use super::index::{HostIndex, MethodIndex, PathIndex, RouteIndex};
use super::judge::Asked;
use super::lint::Finding;
use super::pattern::HostPattern;
use super::role::{IssuerFacts, Role, Service};
use super::route::{Route, RouteTable};
use super::rule::{Effect, Mode, Rule};
use super::{Action, RouteId, RuleId, check, lint};
use crate::clock::Timestamp;
use crate::identity::{Direction, Name, write_sha256};

/// What a configuration resolves to. Ids in it are positions in these lists.
#[derive(Clone, Debug, Default)]
pub struct PolicyParts {
    pub issuers: Vec<IssuerFacts>,
    pub services: Vec<Service>,
    pub roles: Vec<Role>,
    pub routes: Vec<Route>,
    pub upstreams: Vec<Name>,
    pub rules: Vec<Rule>,
    /// Top-level claims whose values nobody reads in a record.
    pub redact: Vec<Arc<str>>,
}

/// SHA-256 over the effective policy, the same on every replica that runs the same one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PolicyHash(pub [u8; 32]);

#[derive(Debug)]
pub struct Policy {
    parts: PolicyParts,
    hash: PolicyHash,
    hash_text: Arc<str>,
    routes: RouteTable,
    /// The rules by name, so that the first of a set is the first by name.
    order: Vec<RuleId>,
    enforced: ByEffect,
    shadow: ByEffect,
    index: ActionIndex,
    /// All starts and ends of allows, sorted.
    boundaries: Vec<Timestamp>,
    age_limits: Vec<Duration>,
    claims_read: Vec<ClaimPath>,
}

/// Places in the order of rules, by what the rules do.
#[derive(Debug)]
pub(super) struct ByEffect {
    pub allows: FixedBitSet,
    pub denies: FixedBitSet,
    pub requires: FixedBitSet,
}

/// Of each kind of condition on actions, the places in the order of rules at which it holds, or is not
/// stated.
#[derive(Debug)]
pub(super) struct Reach {
    pub routes: FixedBitSet,
    pub hosts: FixedBitSet,
    pub methods: FixedBitSet,
    pub paths: FixedBitSet,
    pub grpc: FixedBitSet,
}

#[derive(Debug)]
struct ActionIndex {
    routes: RouteIndex,
    methods: MethodIndex,
    hosts: HostIndex,
    paths: PathIndex,
    grpc: PathIndex,
}

impl Policy {
    /// Compiles the parts, whose `hash` covers all that they were made from. `today` is the present
    /// moment, for what is about to end.
    ///
    /// # Errors
    /// All errors at once, in the order of rules, roles, services, routes as they stand.
    pub fn compile(
        parts: PolicyParts,
        hash: PolicyHash,
        today: Timestamp,
    ) -> Result<(Policy, Vec<Finding>), Vec<Finding>> {
        let routes = RouteTable::new(&parts.routes);
        let errors = check::errors(&parts, &routes, today);
        if !errors.is_empty() {
            return Err(errors);
        }
        let findings = lint::findings(&parts, today);
        Ok((Policy::index(parts, hash, routes), findings))
    }

    fn index(parts: PolicyParts, hash: PolicyHash, routes: RouteTable) -> Policy {
        let mut order: Vec<RuleId> = (0..).map(RuleId).take(parts.rules.len()).collect();
        order.sort_by(|a, b| parts.rules[a.index()].name.cmp(&parts.rules[b.index()].name));
        let rules: Vec<&Rule> = order.iter().map(|id| &parts.rules[id.index()]).collect();
        let index = ActionIndex::new(&rules, parts.routes.len());
        let (enforced, shadow) = (ByEffect::new(&rules, Mode::Enforce), ByEffect::new(&rules, Mode::Shadow));
        let mut boundaries: Vec<_> = rules.iter().flat_map(|rule| [rule.not_before, rule.expires]).collect();
        boundaries.sort_unstable();
        boundaries.dedup();
        let age_limits = rules.iter().flat_map(|rule| &rule.conditions).filter_map(age_limit).collect();
        let claims_read = parts.claims_read();
        let hash_text = hash.to_string().into();
        Policy {
            parts,
            hash,
            hash_text,
            routes,
            order,
            enforced,
            shadow,
            index,
            boundaries,
            age_limits,
            claims_read,
        }
    }

    /// For properties that hold of senseless policies too.
    #[cfg(test)]
    pub(crate) fn compile_unchecked(parts: PolicyParts, hash: PolicyHash) -> Policy {
        let routes = RouteTable::new(&parts.routes);
        Policy::index(parts, hash, routes)
    }

    /// The same tables without anything that permits: what a policy is compared with to see all that it allows.
    pub fn permitting_nothing(&self) -> Policy {
        let mut parts = PolicyParts { rules: Vec::new(), ..self.parts.clone() };
        parts.routes.iter_mut().for_each(|route| route.shadow_until = None);
        let routes = RouteTable::new(&parts.routes);
        // another than its own: no standing of the one is taken for one of the other
        Policy::index(parts, PolicyHash([0; 32]), routes)
    }

    pub fn hash(&self) -> PolicyHash {
        self.hash
    }

    /// As it is written.
    pub fn hash_text(&self) -> &Arc<str> {
        &self.hash_text
    }

    pub fn parts(&self) -> &PolicyParts {
        &self.parts
    }

    /// Every place in a token that its rules and roles read as the token was issued, in order.
    pub fn claims_read(&self) -> &[ClaimPath] {
        &self.claims_read
    }

    pub fn rule(&self, id: RuleId) -> &Rule {
        &self.parts.rules[id.index()]
    }

    pub fn route(&self, id: RouteId) -> &Route {
        &self.parts.routes[id.index()]
    }

    pub(super) fn order(&self) -> &[RuleId] {
        &self.order
    }

    pub(super) fn enforced(&self) -> &ByEffect {
        &self.enforced
    }

    pub(super) fn shadow(&self) -> &ByEffect {
        &self.shadow
    }

    pub(super) fn boundaries(&self) -> &[Timestamp] {
        &self.boundaries
    }

    pub(super) fn age_limits(&self) -> &[Duration] {
        &self.age_limits
    }

    /// The route of an action that comes in from this side, whoever asks.
    pub fn route_for(&self, action: &Action<'_>, direction: Direction) -> Option<RouteId> {
        let path: Vec<_> = action.path.segments().collect();
        self.routes.choose(direction, action.host, &path, action.headers)
    }

    /// Routes under their hosts, in the order in which they are tried.
    pub fn route_order(&self) -> impl Iterator<Item = (RouteId, Option<&HostPattern>)> {
        self.routes.order()
    }

    /// Pairs of routes between which a client can choose by a header: what names one names both.
    pub fn routes_chosen_by_header(&self) -> Vec<(RouteId, RouteId)> {
        self.routes.chosen_by_header()
    }

    pub(super) fn choose_route(&self, asked: &Asked<'_>) -> Option<RouteId> {
        let action = &asked.request.action;
        let direction = asked.request.circumstances.hop.direction();
        self.routes.choose(direction, action.host, asked.path, action.headers)
    }

    /// The rules, by place in the order, whose `route host method path grpc` hold.
    pub(super) fn reached(&self, asked: &Asked<'_>, route: RouteId) -> FixedBitSet {
        let action = &asked.request.action;
        let mut found = self.index.paths.matching(asked.path);
        self.index.hosts.narrow(action.host, &mut found);
        self.index.grpc.narrow(asked.path, &mut found);
        self.index.routes.narrow(route, &mut found);
        self.index.methods.narrow(action.method, &mut found);
        found
    }

    /// The same, kind by kind. Without a route no rule is reached.
    pub(super) fn reach(&self, asked: &Asked<'_>, route: Option<RouteId>) -> Reach {
        let (index, action) = (&self.index, &asked.request.action);
        let narrowed = |narrow: &dyn Fn(&mut FixedBitSet)| {
            let mut found = FixedBitSet::with_capacity(self.order.len());
            found.insert_range(..);
            narrow(&mut found);
            found
        };
        Reach {
            routes: narrowed(&|found| match route {
                Some(route) => index.routes.narrow(route, found),
                None => found.clear(),
            }),
            hosts: narrowed(&|found| index.hosts.narrow(action.host, found)),
            methods: narrowed(&|found| index.methods.narrow(action.method, found)),
            paths: narrowed(&|found| index.paths.narrow(asked.path, found)),
            grpc: narrowed(&|found| index.grpc.narrow(asked.path, found)),
        }
    }
}

impl PolicyParts {
    fn claims_read(&self) -> Vec<ClaimPath> {
        let of_rule = |condition: &Condition| match condition {
            Condition::Claim(tests) => tests.iter().map(|test| test.claim.clone()).collect::<Vec<_>>(),
            Condition::MatchClaim(tests) => tests.iter().map(|test| test.claim.clone()).collect(),
            _ => Vec::new(),
        };
        let mut read: Vec<ClaimPath> =
            self.rules.iter().flat_map(|rule| &rule.conditions).flat_map(of_rule).collect();
        for entry in self.roles.iter().flat_map(Role::entries) {
            read.extend(entry.claim.iter().map(|test| test.claim.clone()));
            // an actor is named by the token's own issuer, or is somebody else
            read.extend((!entry.actor_subject.is_empty()).then(|| ClaimPath::top_level("iss")));
        }
        read.sort_unstable();
        read.dedup();
        read
    }

    /// Whether nobody may read in a record what stands in this top-level claim.
    pub fn redacts(&self, claim: Option<&Arc<str>>) -> bool {
        claim.is_some_and(|name| self.redact.contains(name))
    }
}

impl ActionIndex {
    fn new(rules: &[&Rule], route_count: usize) -> ActionIndex {
        let routes: Vec<_> = rules.iter().map(|rule| rule.routes()).collect();
        let methods: Vec<_> = rules.iter().map(|rule| rule.methods()).collect();
        ActionIndex {
            routes: RouteIndex::new(route_count, &routes),
            methods: MethodIndex::new(&methods),
            hosts: HostIndex::new(rules.iter().map(|rule| rule.hosts())),
            paths: PathIndex::new(
                rules.iter().map(|rule| rule.paths().map(|p| Cow::Borrowed(&**p))).collect(),
            ),
            grpc: PathIndex::new(rules.iter().map(|rule| rule.grpc_paths().map(Cow::Owned)).collect()),
        }
    }
}

impl ByEffect {
    fn new(rules: &[&Rule], mode: Mode) -> ByEffect {
        let of = |effect: Effect| {
            let mut set = FixedBitSet::with_capacity(rules.len());
            let fits = |rule: &Rule| rule.effect == effect && rule.mode == mode;
            rules.iter().enumerate().filter(|(_, r)| fits(r)).for_each(|(at, _)| set.insert(at));
            set
        };
        ByEffect { allows: of(Effect::Allow), denies: of(Effect::Deny), requires: of(Effect::Require) }
    }
}

fn age_limit(condition: &Condition) -> Option<Duration> {
    match condition {
        Condition::MaxAge(age) => Some(*age),
        _ => None,
    }
}

/// As `sha256:` and lower-case hex.
impl fmt::Display for PolicyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_sha256(f, &self.0)
    }
}

impl fmt::Debug for PolicyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
