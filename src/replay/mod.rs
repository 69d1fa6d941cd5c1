//! Recorded requests, judged again: by the policy of another configuration, with the evaluator that serves.
//!
//! A record holds what a decision read. Where the policy in hand wants to know more than that, the outcome counts only if
//! it is the same whatever the rest was; else the record is counted as one that cannot be replayed, with why.

pub mod line;
pub mod log;
mod named;
pub mod proposal;
mod signers;
pub mod tally;
mod why;

pub use line::{Line, Outcome, Past, Undecided};
pub use signers::{CallerLine, PeerLine};
pub use why::Why;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};

use crate::audit::line::is_misleading;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::identity::{Caller, Name, Peer, Signature};
use crate::policy::{self, Action, Cause, Circumstances, Decision, Policy, ShadowVerdict, Standing, Verdict};
use crate::token::IssuerSettings;
use named::Named;

/// One configuration, to judge what is recorded.
pub struct Replay<'c> {
    policy: &'c Policy,
    issuers: &'c [IssuerSettings],
    trust_domains: BTreeSet<&'c str>,
    /// Issuers that read tokens in another way than when the records were made, as far as that is known.
    changed: BTreeSet<Name>,
    named: Named,
    peers: HashMap<PeerLine, Result<Rc<Known<Peer>>, Why>>,
    callers: HashMap<CallerLine, Rc<Met>>,
    /// By the positions of peer and caller, 0 for none.
    standings: HashMap<(u64, u64), (Timestamp, Rc<Standing>)>,
    met: u64,
}

/// One of those who were met before.
struct Known<T> {
    /// From 1, and never given twice.
    position: u64,
    signature: Signature<T>,
}

/// Whom a record may speak of.
struct Met {
    /// The first has the least.
    callers: Vec<Known<Caller>>,
    /// Why there are several.
    why: Option<Why>,
    /// Whether the next record of these will find them again.
    is_known: bool,
}

/// One that cannot be repeated with certainty is not decided.
#[derive(Debug)]
pub struct Judged {
    pub outcome: Outcome,
    pub decision: Decision,
}

/// Peers and callers that are remembered at a time.
const KNOWN_MAX: usize = 20_000;

impl<'c> Replay<'c> {
    pub fn new(config: &'c Config) -> Replay<'c> {
        let policy = &config.policy;
        let trust_domains = config.resolved.get("trust_domain").and_then(toml::Value::as_table);
        Replay {
            policy,
            issuers: &config.issuers,
            trust_domains: trust_domains
                .into_iter()
                .flat_map(|domains| domains.keys().map(String::as_str))
                .collect(),
            changed: BTreeSet::new(),
            named: Named::of(policy.parts(), policy.claims_read()),
            peers: HashMap::new(),
            callers: HashMap::new(),
            standings: HashMap::new(),
            met: 0,
        }
    }

    /// The configuration that the records were made under: what it read from tokens in another way cannot be told from
    /// records.
    #[must_use]
    pub fn after(mut self, old: &Config) -> Replay<'c> {
        let reads_alike = |issuer: &IssuerSettings, old: &IssuerSettings| {
            issuer.claims == old.claims && issuer.actors == old.actors
        };
        let changed = self.issuers.iter().filter(|issuer| {
            old.issuers.iter().any(|old| old.name == issuer.name && !reads_alike(issuer, old))
        });
        self.changed = changed.map(|issuer| issuer.name.clone()).collect();
        self
    }

    pub fn policy(&self) -> &'c Policy {
        self.policy
    }

    /// What the policy makes of a recorded request, at the time of its record.
    ///
    /// # Errors
    /// Why that is not certain.
    pub fn judge(&mut self, past: &Past<'_>) -> Result<Judged, Why> {
        let peer = self.peer(past)?;
        let headers = self.headers(past);
        let request = |caller: &Signature<Caller>, standing: &Standing| {
            let peer = peer.as_ref().map_or(&Signature::Absent, |peer| &peer.signature);
            policy::decide(self.policy, standing, &past.asked(peer, caller, &headers))
        };
        let line = match &past.caller {
            Some(line) => line,
            None => {
                let standing = self.standing(peer.as_deref(), None, past.time);
                return Ok(Judged::of(request(&Signature::Absent, &standing)));
            }
        };
        let met = match self.callers.get(line) {
            Some(met) => Rc::clone(met),
            None => self.meet(line, past)?,
        };
        let signature = peer.as_ref().map_or(&Signature::Absent, |peer| &peer.signature);
        let mut judged = None;
        for caller in &met.callers {
            let standing = match met.is_known {
                true => self.standing(peer.as_deref(), Some(caller), past.time),
                false => Rc::new(self.policy.standing(signature, &caller.signature, past.time)),
            };
            let next = Judged::of(request(&caller.signature, &standing));
            match (&judged, &met.why) {
                (None, _) => judged = Some(next),
                (Some(least), Some(why)) if !next.settles(least) => return Err(why.clone()),
                (Some(_), _) => {}
            }
        }
        judged.ok_or(Why::Form("caller"))
    }

    /// Both signatures as far as the record tells of them, for who wants to look closer.
    ///
    /// # Errors
    /// Why they cannot be told.
    pub fn signatures(&mut self, past: &Past<'_>) -> Result<(Signature<Peer>, Signature<Caller>), Why> {
        let peer = self.peer(past)?.map_or(Signature::Absent, |peer| peer.signature.clone());
        let Some(line) = &past.caller else { return Ok((peer, Signature::Absent)) };
        let map = self.issuer(line)?;
        let segments: Vec<Cow<'_, str>> = past.path.segments().collect();
        let caller = line.read(&map.claims, &self.named, &segments)?.all.swap_remove(0);
        Ok((peer, Signature::Verified(Arc::new(caller))))
    }

    /// Those that a policy reads: the content type, and what leads to the route that was taken then.
    pub fn headers(&self, past: &Past<'_>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if past.grpc {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        }
        let routes = &self.policy.parts().routes;
        let taken =
            past.route.as_ref().and_then(|taken| routes.iter().find(|route| route.name.as_str() == taken));
        for (name, value) in taken.into_iter().flat_map(|route| &route.header) {
            headers.insert(name.clone(), value.clone());
        }
        headers
    }

    fn peer(&mut self, past: &Past<'_>) -> Result<Option<Rc<Known<Peer>>>, Why> {
        let Some(line) = &past.peer else { return Ok(None) };
        if let Some(known) = self.peers.get(line) {
            return known.clone().map(Some);
        }
        let read = match self.trust_domains.contains(line.trust_domain.as_str()) {
            true => line.read(),
            false => Err(Why::TrustDomain(line.trust_domain.clone())),
        };
        let position = self.next();
        let known =
            read.map(|peer| Rc::new(Known { position, signature: Signature::Verified(Arc::new(peer)) }));
        self.peers.insert(line.clone(), known.clone());
        known.map(Some)
    }

    fn issuer(&self, line: &CallerLine) -> Result<&'c IssuerSettings, Why> {
        let issuer = self.issuers.iter().find(|issuer| issuer.name.as_str() == line.issuer);
        let issuer = issuer.ok_or_else(|| Why::Issuer(line.issuer.clone()))?;
        match self.changed.contains(&issuer.name) {
            true => Err(Why::Mapping(line.issuer.clone())),
            false => Ok(issuer),
        }
    }

    /// Those of whom a record may speak.
    fn meet(&mut self, line: &CallerLine, past: &Past<'_>) -> Result<Rc<Met>, Why> {
        let map = &self.issuer(line)?.claims;
        let segments: Vec<Cow<'_, str>> = past.path.segments().collect();
        let read = line.read(map, &self.named, &segments)?;
        let mut callers = Vec::new();
        for caller in read.all {
            callers.push(Known { position: self.next(), signature: Signature::Verified(Arc::new(caller)) });
        }
        let met = Rc::new(Met { callers, why: read.whys.into_iter().next(), is_known: !read.is_of_path });
        if met.is_known {
            self.callers.insert(line.clone(), Rc::clone(&met));
        }
        Ok(met)
    }

    /// The position of one who was not met before, with room for it.
    fn next(&mut self) -> u64 {
        if self.peers.len() >= KNOWN_MAX
            || self.callers.len() >= KNOWN_MAX
            || self.standings.len() >= 2 * KNOWN_MAX
        {
            self.peers.clear();
            self.callers.clear();
            self.standings.clear();
        }
        self.met += 1;
        self.met
    }

    fn standing(
        &mut self,
        peer: Option<&Known<Peer>>,
        caller: Option<&Known<Caller>>,
        now: Timestamp,
    ) -> Rc<Standing> {
        let key = (peer.map_or(0, |peer| peer.position), caller.map_or(0, |caller| caller.position));
        if let Some((made, standing)) = self.standings.get(&key)
            && *made <= now
            && now < standing.valid_until()
        {
            return Rc::clone(standing);
        }
        let peer = peer.map_or(&Signature::Absent, |peer| &peer.signature);
        let caller = caller.map_or(&Signature::Absent, |caller| &caller.signature);
        let standing = Rc::new(self.policy.standing(peer, caller, now));
        self.standings.insert(key, (now, Rc::clone(&standing)));
        standing
    }
}

impl Past<'_> {
    /// The same request by these two.
    pub fn asked<'r>(
        &'r self,
        peer: &'r Signature<Peer>,
        caller: &'r Signature<Caller>,
        headers: &'r HeaderMap,
    ) -> policy::Request<'r> {
        policy::Request {
            peer,
            caller,
            action: Action { method: &self.method, host: &self.host, path: &self.path, headers },
            circumstances: Circumstances {
                hop: peer.verified().map_or(&self.hop, |peer| &peer.hop),
                peer_ip: self.peer_ip,
                client_ip: self.client_ip,
            },
            now: self.time,
        }
    }
}

/// As `storefront for alice@corp: GET /orders/7 on orders.shop.example`, on one line.
impl fmt::Display for Past<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = self.peer.as_ref().map_or("no certificate".to_owned(), PeerLine::name);
        let caller = self.caller.as_ref().map_or("nobody".to_owned(), CallerLine::name);
        let plain = |text: String| text.replace(is_misleading, "\u{fffd}");
        let (method, path, host) = (&self.method, &self.path, &self.host);
        write!(f, "{} for {}: {method} {path} on {host}", plain(service), plain(caller))
    }
}

impl Judged {
    fn of(decision: Decision) -> Judged {
        let outcome = match &decision.verdict {
            Verdict::Permit(permit) if permit.enforced() => Outcome::Allowed,
            Verdict::Permit(_) => Outcome::Unenforced,
            Verdict::Denial(_) => Outcome::Denied,
        };
        Judged { outcome, decision }
    }

    /// Why it is denied, or would be.
    pub fn causes(&self) -> &[Cause] {
        match &self.decision.verdict {
            Verdict::Denial(denial) => &denial.causes,
            Verdict::Permit(_) => {
                let shadow = &self.decision.evidence.shadow;
                let unenforced = shadow.iter().find_map(|verdict| match verdict {
                    ShadowVerdict::Unenforced(causes) => Some(causes.as_slice()),
                    ShadowVerdict::WouldAllow(_) | ShadowVerdict::WouldDeny(_) => None,
                });
                unenforced.unwrap_or_default()
            }
        }
    }

    /// Whether all callers between `least` and this one, who has more, come to the same.
    ///
    /// Conditions only gain by what a caller has. So a rule that holds for the least holds for all, and one that does not
    /// hold for the most holds for none: two permits are permits throughout. A denial is one throughout where a deny
    /// holds for the least, where no allow holds for the most and nothing else is said, or where both are denied for the
    /// same.
    fn settles(&self, least: &Judged) -> bool {
        let forbids = |cause: &Cause| {
            matches!(cause, Cause::DeniedByRule | Cause::RequirementUnmet | Cause::StepUpRequired)
                || *cause == Cause::TokenNotIssuedToService
        };
        let lacks = |cause: &Cause| {
            matches!(cause, Cause::ServiceNotAllowed | Cause::ActorNotAllowed | Cause::ScopeMissing)
                || matches!(cause, Cause::RoleMissing | Cause::ClaimMismatch | Cause::NoRule | Cause::NoRoute)
                || *cause == Cause::TokenNotSenderConstrained
        };
        let (causes, of_least) = (self.causes(), least.causes());
        self.outcome == least.outcome
            && (self.outcome != Outcome::Denied
                || of_least.contains(&Cause::DeniedByRule)
                || (causes.iter().any(lacks) && !causes.iter().any(forbids))
                || causes == of_least)
    }
}
