//! Builds each request that could be judged differently, and has it judged.

use std::cell::{Cell as Counter, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::approach::unknown;
use super::barriers::Barriers;
use super::cells::{CallerCell, Cell, Domains, PeerCell};
use super::tables::{Grant, Table};
use super::{Approach, Change, Differences, Flip, Outcome, Realm, STAND_IN, Vouched, Witness};
use crate::clock::Timestamp;
use crate::identity::{Hop, Name, Peer, PeerName, Signature};
use crate::policy::action::is_grpc;
use crate::policy::cells::{self, Built, Demand, Fresh, Gap, Kinds, Side, Unbuilt};
use crate::policy::claim::ClaimPath;
use crate::policy::pattern::{Glob, HostPattern};
use crate::policy::rule::Effect;
use crate::policy::{Cause, NormalPath, Policy, RuleId, ServiceId, UpstreamId};

const CREDENTIALS_LAST: Duration = Duration::from_secs(3_600);
/// RFC 3986 §2.3.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Two policies, written out.
pub struct Comparison<'a> {
    pub(super) tables: [Table<'a>; 2],
    pub(super) domains: Domains,
    pub(super) approaches: [&'a Approach; 2],
}

impl<'a> Comparison<'a> {
    /// From `now` on.
    pub fn new(
        policies: [&'a Policy; 2],
        vouched: &[Vouched],
        approaches: [&'a Approach; 2],
        now: Timestamp,
    ) -> Comparison<'a> {
        let tables = [0, 1].map(|side| Table::new(policies[side], side, vouched));
        let domains = Domains::new(&tables, vouched, approaches, now);
        Comparison { tables, domains, approaches }
    }

    /// Every text with which the policies compare one.
    pub fn globs(&self) -> Vec<Glob> {
        self.tables.iter().flat_map(Table::demands).flat_map(Demand::globs).collect()
    }

    /// Every claim that the policies compare with values, or with the path.
    pub fn places(&self) -> BTreeSet<ClaimPath> {
        let demands = self.tables.iter().flat_map(Table::demands);
        let of = |demand: &Demand| {
            let matched = demand.matches.iter().map(|(_, claim)| claim.clone());
            demand.claims.iter().map(|(claim, _)| claim.clone()).chain(matched).collect::<Vec<_>>()
        };
        demands.flat_map(of).collect()
    }

    /// Every set of kinds of actors that each policy asks for.
    pub fn kinds(&self) -> [Vec<Kinds>; 2] {
        [0, 1].map(|side: Side| {
            let asked = self.tables[side].demands().map(|demand| &demand.sides[side]);
            let kinds: BTreeSet<Kinds> = asked.flat_map(|asked| [asked.actor, asked.on_behalf_of]).collect();
            kinds.into_iter().collect()
        })
    }

    /// What an upstream is called.
    pub fn upstream(&self, side: Side, id: UpstreamId) -> &Name {
        &self.tables[side].policy.parts().upstreams[id.index()]
    }

    pub(super) fn search<'r>(&'r self, realm: Realm<'r>, fresh: &'r Fresh) -> Search<'r> {
        let Comparison { tables, domains, approaches } = self;
        let unknown = unknown(*approaches, [tables[0].policy, tables[1].policy], fresh);
        let (judged, gaps) = (Counter::new(0), RefCell::default());
        Search { tables, domains, approaches: *approaches, unknown, realm, fresh, judged, gaps }
    }

    /// Every difference.
    pub fn differences(&self, realm: Realm<'_>, fresh: &Fresh) -> Differences {
        let search = self.search(realm, fresh);
        let mut flips = search.flips(Change::Allowed);
        flips.extend(search.flips(Change::Denied));
        flips.extend(search.elsewhere());
        let mut gaps = search.gaps.into_inner();
        realm.gaps.iter().for_each(|gap| *gaps.entry(*gap).or_default() += 1);
        Differences { flips, judged: search.judged.get(), gaps }
    }
}

pub(super) struct Search<'a> {
    pub tables: &'a [Table<'a>; 2],
    pub domains: &'a Domains,
    pub approaches: [&'a Approach; 2],
    /// Of whom no service speaks.
    pub unknown: Built<PeerName>,
    pub realm: Realm<'a>,
    pub fresh: &'a Fresh,
    pub judged: Counter<u64>,
    pub gaps: RefCell<BTreeMap<Gap, u64>>,
}

/// What has been joined to a demand since its cell was chosen.
#[derive(Clone, Default)]
pub(super) struct Met {
    requires: Vec<(Side, RuleId)>,
    carriers: Vec<(Side, ServiceId)>,
    /// Whether the permitting policy has been asked to know the peer.
    known: Vec<Side>,
}

/// Requests that were judged, and those of them that flip as they are.
#[derive(Clone, Copy, Default)]
pub(super) struct Tally {
    requests: usize,
    flipped: usize,
}

impl<'a> Search<'a> {
    /// What may be missing for it is told in the end.
    fn leave_open(&self, gap: Gap) {
        *self.gaps.borrow_mut().entry(gap).or_default() += 1;
    }

    /// All that the one policy permits and the other does not.
    fn flips(&self, change: Change) -> Vec<Flip> {
        let side = change.permitting();
        let [ours, theirs] = [&self.tables[side], &self.tables[1 - side]];
        let same_routes = ours.routes_meaning() == theirs.routes_meaning();
        let same_services = ours.known_meaning == theirs.known_meaning;
        let same_approach = self.approaches[0].lets_in_as(self.approaches[1]);
        let their_grants = theirs.grant_meanings();
        let barriers = Barriers::new(ours, theirs);
        let mut found = Vec::new();
        for grant in &ours.grants {
            let known = their_grants.contains(&*grant.meaning)
                && same_approach
                && (same_services || !grant.waives_peer);
            for (way, same_route) in self.routed(grant, side, same_routes) {
                let mut alone = Vec::new();
                if !(known && same_route) {
                    let tally = self.explore(&way, None, change, &Met::default(), &mut alone);
                    found.append(&mut alone);
                    if tally.flipped == tally.requests {
                        continue;
                    }
                }
                for barrier in barriers.that_matter(same_route) {
                    for joined in barrier.ways.iter().filter_map(|other| way.join(other)) {
                        self.explore(&joined, None, change, &Met::default(), &mut found);
                    }
                }
            }
        }
        found
    }

    /// The ways of a grant with each choice of a route in both policies, and whether that is the same route.
    pub(super) fn routed(&self, grant: &Grant, side: Side, same_routes: bool) -> Vec<(Demand, bool)> {
        let [ours, theirs] = [&self.tables[side], &self.tables[1 - side]];
        let mut found = Vec::new();
        for way in &grant.ways {
            for entry in &ours.entries {
                let Some(here) = way.join(&entry.way) else { continue };
                for other in &theirs.entries {
                    if same_routes && other.meaning != entry.meaning {
                        continue;
                    }
                    if let Some(both) = here.join(&other.way) {
                        found.push((both, other.route == entry.route));
                    }
                }
                if !same_routes {
                    found.push((here, false));
                }
            }
        }
        found
    }

    /// Judges a demand in each of its cells.
    pub(super) fn explore(
        &self,
        demand: &Demand,
        pinned: Option<(&Demand, &Cell)>,
        change: Change,
        met: &Met,
        found: &mut Vec<Flip>,
    ) -> Tally {
        let cells = self.cells(demand, pinned);
        let mut tally = Tally::default();
        for cell in cells {
            let witness = match self.witness(demand, &cell) {
                Ok(witness) => witness,
                Err(Unbuilt::Impossible) => continue,
                Err(Unbuilt::Open(gap)) => {
                    self.leave_open(gap);
                    continue;
                }
            };
            tally.requests += 1;
            if self.judge_one(demand, &cell, witness, change, met, found) {
                tally.flipped += 1;
            }
        }
        tally
    }

    /// Whether it flips as it is.
    pub(super) fn judge_one(
        &self,
        demand: &Demand,
        cell: &Cell,
        witness: Witness,
        change: Change,
        met: &Met,
        found: &mut Vec<Flip>,
    ) -> bool {
        let first = change.permitting();
        let mut outcomes = Vec::new();
        for side in [first, 1 - first] {
            let wanted = side == first || change == Change::Elsewhere;
            let outcome = self.judge(side, &witness);
            match (&outcome, wanted) {
                (Outcome::Permitted { .. }, true) => {}
                (_, true) => {
                    if let Some((more, met)) = self.what_stops(side, &outcome, &witness, met) {
                        for joined in more.iter().filter_map(|more| demand.join(more)) {
                            self.explore(&joined, Some((demand, cell)), change, &met, found);
                        }
                    }
                    return false;
                }
                (Outcome::Permitted { .. }, false) => return false,
                (_, false) => {}
            }
            outcomes.push(outcome);
        }
        let [one, other] = &outcomes[..] else { return false };
        let outcomes = if first == 0 { [one.clone(), other.clone()] } else { [other.clone(), one.clone()] };
        if change == Change::Elsewhere && self.upstream(0, &outcomes[0]) == self.upstream(1, &outcomes[1]) {
            return false;
        }
        found.push(Flip { change, demand: demand.clone(), cell: cell.clone(), witness, outcomes });
        true
    }

    fn upstream(&self, side: Side, outcome: &Outcome) -> Option<&str> {
        match outcome {
            Outcome::Permitted { upstream, .. } => {
                Some(self.tables[side].policy.parts().upstreams[upstream.index()].as_str())
            }
            _ => None,
        }
    }

    /// What the permitting policy still wants of a request that it denies: ways to have it.
    fn what_stops(
        &self,
        side: Side,
        outcome: &Outcome,
        witness: &Witness,
        met: &Met,
    ) -> Option<(Vec<Demand>, Met)> {
        let policy = self.tables[side].policy;
        let parts = policy.parts();
        let mut met = met.clone();
        // what has been joined and still is not so was not built as it should be
        let unmet = || {
            self.leave_open(Gap::Unmet);
            None
        };
        // without a certificate: no listener takes it, or the token is bound to one
        let is_bare = matches!(outcome, Outcome::Refused(_)) && witness.peer.verified().is_none();
        if is_bare || matches!(outcome, Outcome::Denied { cause: Cause::PeerUnknown, .. }) {
            if met.known.contains(&side) {
                return if is_bare { None } else { unmet() };
            }
            met.known.push(side);
            return Some((parts.services.iter().flat_map(cells::peers).collect(), met));
        }
        let Outcome::Denied { cause, rule } = outcome else { return None };
        if *cause == Cause::TokenNotIssuedToService {
            let (peer, caller) = (witness.peer.verified()?, witness.caller(side)?);
            let issuer = policy.issuer_of(Some(caller));
            let mut carriers = parts.services.iter().zip((0..).map(ServiceId));
            let stops = carriers.find(|(service, _)| service.names(peer) && !service.carries(issuer, caller));
            let (service, id) = stops?;
            if met.carriers.contains(&(side, id)) {
                return unmet();
            }
            met.carriers.push((side, id));
            // one that carries no token has no way
            return Some((cells::carried(service, side)?, met));
        }
        let id = (*rule)?;
        let rule = policy.rule(id);
        if rule.effect != Effect::Require {
            return None;
        }
        if met.requires.contains(&(side, id)) {
            return unmet();
        }
        met.requires.push((side, id));
        Some((cells::met(rule, parts, side), met))
    }

    pub(super) fn cells(&self, demand: &Demand, pinned: Option<(&Demand, &Cell)>) -> Vec<Cell> {
        self.domains.of(demand, pinned, &|demand| self.acting(demand))
    }

    fn acting(&self, demand: &Demand) -> Vec<CallerCell> {
        let mut found = Vec::new();
        for (vouched, pair) in self.realm.vouched.iter().enumerate() {
            let taken = [0, 1].into_iter().all(|side: Side| {
                let wanted = demand.sides[side].issuers.as_ref();
                wanted.is_none_or(|wanted| pair.ids[side].is_some_and(|id| wanted.contains(&id)))
            });
            if taken {
                let acting = (self.realm.acting)(vouched, demand);
                found.extend(acting.into_iter().map(|acting| CallerCell::Present { vouched, acting }));
            }
        }
        found
    }

    /// The least request that fulfils the demand in the cell.
    pub(super) fn witness(&self, demand: &Demand, cell: &Cell) -> Built<Witness> {
        let shape = demand.path.of_length(cell.length);
        let hop = match &*cell.hop {
            "direct" => Hop::Direct,
            "local" => Hop::Local,
            name => Hop::Trusted(name.parse().map_err(|_| Unbuilt::Open(Gap::Name))?),
        };
        let peer = self.peer(cell, &hop)?;
        // a hop is that of a certificate
        if peer.verified().is_none() && hop != Hop::Direct {
            return Err(Unbuilt::Impossible);
        }
        let (token, path) = match cell.caller {
            CallerCell::Present { vouched, acting } => {
                let mut token = (self.realm.token)(vouched, acting, demand, &shape, cell.at)?;
                let certificate = peer.verified().map(|peer| &peer.certificate);
                for caller in &mut token.callers {
                    let bound = caller.as_ref().ok().and_then(Signature::verified);
                    if let Some(Err(code)) = bound.map(|bound| (self.realm.bound)(bound, certificate)) {
                        *caller = Err(code);
                    }
                }
                let path = token.path.clone();
                (Some((vouched, token)), path)
            }
            CallerCell::Absent => {
                let fill = |(at, segment): (usize, &Option<Arc<str>>)| match segment {
                    Some(literal) => Ok(Arc::clone(literal)),
                    None => Ok(self.fresh.word(at + 1)?.into()),
                };
                (None, shape.segments.iter().enumerate().map(fill).collect::<Built<_>>()?)
            }
        };
        let encoded = path.iter().map(|segment| format!("/{}", utf8_percent_encode(segment, SEGMENT)));
        let text: String = encoded.collect();
        let path = NormalPath::parse(if text.is_empty() { "/" } else { &text });
        let mut headers: HeaderMap = demand.headers.iter().cloned().collect();
        if demand.grpc {
            headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/grpc"));
            // each of its values must be gRPC's, and the one that is demanded is not
            if !is_grpc(&headers) {
                return Err(Unbuilt::Impossible);
            }
        }
        let unnamed = |_| Unbuilt::Open(Gap::Name);
        Ok(Witness {
            peer,
            token,
            method: cell.method.clone(),
            host: self.host(demand.host.as_ref())?.parse().map_err(unnamed)?,
            path: path.map_err(|_| Unbuilt::Open(Gap::Name))?,
            headers,
            hop,
            peer_ip: cell.peer_ip,
            client_ip: cell.client_ip,
            at: cell.at,
        })
    }

    fn host(&self, pattern: Option<&HostPattern>) -> Built<String> {
        Ok(match pattern {
            Some(HostPattern::Exact(host)) => host.to_string(),
            Some(HostPattern::Wildcard(parent)) => format!("{}.{parent}", self.fresh.word(1)?),
            // under no domain that a wildcard is of
            None => format!("{}.{}", self.fresh.word(1)?, self.fresh.word(2)?),
        })
    }

    fn peer(&self, cell: &Cell, hop: &Hop) -> Built<Signature<Peer>> {
        let spiffe = |id: String| id.parse().map(PeerName::Spiffe).map_err(|_| Unbuilt::Open(Gap::Name));
        let name = match &cell.peer {
            PeerCell::Absent => return Ok(Signature::Absent),
            PeerCell::Unknown => self.unknown.clone()?,
            PeerCell::Spiffe { trust_domain, path } => {
                let mut id = format!("spiffe://{trust_domain}");
                for (at, segment) in path.segments.iter().enumerate() {
                    id.push('/');
                    match segment {
                        Some(literal) => id.push_str(literal),
                        None => id.push_str(&self.fresh.word(at + 1)?),
                    }
                }
                spiffe(id)?
            }
            PeerCell::Dns { trust_domain, names } => PeerName::Dns {
                names: names.iter().map(|name| Ok(self.host(Some(name))?.into())).collect::<Built<_>>()?,
                trust_domain: trust_domain.clone(),
            },
        };
        Ok(Signature::Verified(Arc::new(Peer {
            name,
            certificate: STAND_IN,
            not_after: cell.at.plus(CREDENTIALS_LAST),
            hop: hop.clone(),
        })))
    }

    pub(super) fn judge(&self, side: Side, witness: &Witness) -> Outcome {
        self.judged.set(self.judged.get() + 1);
        self.approaches[side].judged(witness, self.tables[side].policy, side)
    }
}
