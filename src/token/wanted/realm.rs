//! All tokens that two configurations could be shown, for a comparison of their policies.

use std::collections::BTreeSet;

use super::acting::Acting;
use super::{Issuers, Wanted};
use crate::clock::Timestamp;
use crate::identity::{ActorKind, Caller, CertificateHash, Signature};
use crate::policy::IssuerId;
use crate::policy::cells::{Built, Demand, Fresh, Gap, Kinds, Shape, Side, Unbuilt};
use crate::policy::claim::ClaimPath;
use crate::policy::difference::{Realm, Token, Vouched};
use crate::policy::pattern::Glob;
use crate::token::error::TokenError;
use crate::token::possession::check_possible;
use crate::token::{IssuerSettings, TokenLimits};

/// The issuers of two configurations, paired where they can have signed the same token.
pub struct Mint<'a> {
    pairs: Vec<Pair<'a>>,
    vouched: Vec<Vouched>,
    fresh: Fresh,
    /// Claims that are compared with values, or with the path.
    places: BTreeSet<ClaimPath>,
}

/// A way to act, and what comes out under each policy.
type Apart = (Acting, [Option<Told>; 2]);

struct Pair<'a> {
    issuers: Issuers<'a>,
    /// That rules tell apart.
    acting: Vec<Apart>,
    gaps: BTreeSet<Gap>,
}

/// What rules can read of who acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    actor: ActorKind,
    on_behalf_of: ActorKind,
    acts: bool,
    /// Whether the token's own issuer names who acts.
    own: bool,
}

impl Told {
    fn of(caller: &Caller) -> Told {
        Told {
            actor: caller.actor,
            on_behalf_of: caller.on_behalf_of,
            acts: !caller.chain.is_empty(),
            own: caller.acting().is_some(),
        }
    }
}

/// Which issuers can have signed one token, under each of two configurations.
pub fn vouched(sides: [&[IssuerSettings]; 2]) -> Vec<Vouched> {
    let [old, new] = sides;
    let mut found = Vec::new();
    for (one, at) in old.iter().zip((0..).map(IssuerId)) {
        let same = new.iter().zip((0..).map(IssuerId)).filter(|(other, _)| one.url.overlaps(&other.url));
        let before = found.len();
        found.extend(same.map(|(other, to)| Vouched {
            ids: [Some(at), Some(to)],
            alike: one.claims == other.claims && one.actors == other.actors,
            leeways: [one.leeway, other.leeway],
        }));
        if found.len() == before {
            let leeways = [one.leeway; 2];
            found.push(Vouched { ids: [Some(at), None], alike: false, leeways });
        }
    }
    let fresh = new.iter().zip((0..).map(IssuerId));
    let fresh = fresh.filter(|(other, _)| !old.iter().any(|one| one.url.overlaps(&other.url)));
    found.extend(fresh.map(|(other, to)| {
        let leeways = [other.leeway; 2];
        Vouched { ids: [None, Some(to)], alike: false, leeways }
    }));
    found
}

impl<'a> Mint<'a> {
    /// `globs` and `kinds` are what the policies compare texts and kinds of actors with, and `places` the claims
    /// that they compare.
    pub fn new(
        sides: [&'a [IssuerSettings]; 2],
        limits: [&'a TokenLimits; 2],
        mut globs: Vec<Glob>,
        mut places: BTreeSet<ClaimPath>,
        kinds: &[Vec<Kinds>; 2],
        now: Timestamp,
    ) -> Mint<'a> {
        let vouched = vouched(sides);
        let issuers: Vec<Issuers<'a>> = vouched
            .iter()
            .map(|pair| Issuers {
                sides: [0, 1].map(|side: Side| pair.ids[side].map(|id| &sides[side][id.index()])),
                limits,
            })
            .collect();
        issuers.iter().for_each(|issuers| globs.extend(issuers.globs()));
        issuers.iter().for_each(|issuers| places.extend(issuers.places()));
        let fresh = Fresh::among(&globs);
        let pairs = issuers
            .into_iter()
            .map(|issuers| {
                let (acting, gaps) = told_apart(&issuers, &globs, &places, kinds, &fresh, now);
                Pair { issuers, acting, gaps }
            })
            .collect();
        Mint { pairs, vouched, fresh, places }
    }

    pub fn fresh(&self) -> &Fresh {
        &self.fresh
    }

    pub fn vouched(&self) -> &[Vouched] {
        &self.vouched
    }

    pub fn issuers(&self, vouched: usize) -> &Issuers<'a> {
        &self.pairs[vouched].issuers
    }

    /// Hands out what a comparison asks for.
    pub fn realm<T>(&self, then: impl FnOnce(Realm<'_>) -> T) -> T {
        let acting = |pair: usize, demand: &Demand| self.acting(pair, demand);
        let token = |pair: usize, at: usize, demand: &Demand, path: &Shape, now: Timestamp| {
            let Pair { issuers, acting, .. } = &self.pairs[pair];
            let (acting, _) = &acting[at];
            let (fresh, places) = (&self.fresh, &self.places);
            let wanted = Wanted { demand, path: &path.segments, acting, fresh, places, now };
            let drafted = issuers.draft(&wanted)?;
            let callers = issuers.callers(&drafted.claims, now);
            let told = callers.each_ref().map(|caller| Some(Told::of(caller.as_ref().ok()?)));
            issuers.taken(&callers)?;
            // what is demanded makes it another kind's: who is of this kind all the same has more, in another cell
            if !fits(demand, &told) {
                return Err(Unbuilt::Impossible);
            }
            let callers = callers.map(|caller| match caller {
                Ok(caller) => Ok(Signature::Verified(caller.into())),
                Err(error) => Err(error.code()),
            });
            Ok(Token { claims: drafted.claims, path: drafted.path, callers })
        };
        let bound = |caller: &Caller, certificate: Option<&CertificateHash>| {
            check_possible(caller, certificate).map_err(|error| error.code())
        };
        let gaps = self.pairs.iter().flat_map(|pair| &pair.gaps).copied().collect();
        then(Realm { vouched: &self.vouched, acting: &acting, token: &token, bound: &bound, gaps: &gaps })
    }

    fn acting(&self, pair: usize, demand: &Demand) -> Vec<usize> {
        let acting = self.pairs[pair].acting.iter().enumerate();
        acting.filter(|(_, (_, told))| fits(demand, told)).map(|(at, _)| at).collect()
    }
}

impl Issuers<'_> {
    /// Whether either verifier takes a token. Of what both refuse, these are reasons that no other token would lack:
    /// it has no claim but those demanded and required, and always an audience of theirs if it has one at all.
    fn taken(&self, callers: &[Result<Caller, TokenError>; 2]) -> Built {
        if callers.iter().any(Result::is_ok) {
            return Ok(());
        }
        let hopeless = self.known().all(|(side, _)| {
            use TokenError::{LimitExceeded, TypeRefused, WrongAudience};
            matches!(callers[side], Err(TypeRefused(_) | LimitExceeded(..) | WrongAudience(_)))
        });
        Err(if hopeless { Unbuilt::Impossible } else { Unbuilt::Open(Gap::Token) })
    }
}

/// Whether who acts is of the kinds demanded, wherever the token is taken.
fn fits(demand: &Demand, told: &[Option<Told>; 2]) -> bool {
    demand.sides.iter().zip(told).all(|(asked, told)| {
        told.is_none_or(|told| {
            asked.actor.contains(told.actor)
                && asked.on_behalf_of.contains(told.on_behalf_of)
                && demand.act.is_none_or(|act| act == told.acts)
                && (demand.actor_subject.is_none() || told.own)
        })
    })
}

/// Of all ways to act, the least of those that no rule tells apart.
fn told_apart(
    issuers: &Issuers<'_>,
    globs: &[Glob],
    places: &BTreeSet<ClaimPath>,
    kinds: &[Vec<Kinds>; 2],
    fresh: &Fresh,
    now: Timestamp,
) -> (Vec<Apart>, BTreeSet<Gap>) {
    let mut gaps = BTreeSet::new();
    let nothing = Demand::nothing();
    let unlike_unknown = |kinds: &Kinds| {
        let unknown = kinds.contains(ActorKind::Unknown);
        kinds.contains(ActorKind::Human) != unknown || kinds.contains(ActorKind::Service) != unknown
    };
    let unknown_matters = kinds.iter().flatten().any(unlike_unknown);
    let mut found: Vec<(Acting, [Option<Told>; 2], Vec<bool>)> = Vec::new();
    for acting in issuers.acting(globs) {
        let mut demand = nothing.clone();
        demand.act = acting.acts().then_some(true);
        let wanted = Wanted { demand: &demand, path: &[], acting: &acting, fresh, places, now };
        let callers = issuers.draft(&wanted).and_then(|drafted| {
            let callers = issuers.callers(&drafted.claims, now);
            issuers.taken(&callers).map(|()| callers)
        });
        let callers = match callers {
            Ok(callers) => callers,
            Err(Unbuilt::Impossible) => continue,
            Err(Unbuilt::Open(gap)) => {
                gaps.insert(gap);
                continue;
            }
        };
        let told = callers.map(|caller| Some(Told::of(&caller.ok()?)));
        let mut seen = vec![unknown_matters && acting.contradicts()];
        for side in [0, 1] {
            let told = told[side];
            seen.push(told.is_some_and(|told| told.acts));
            seen.push(told.is_some_and(|told| told.own));
            for kinds in &kinds[side] {
                seen.push(told.is_some_and(|told| kinds.contains(told.actor)));
                seen.push(told.is_some_and(|told| kinds.contains(told.on_behalf_of)));
            }
        }
        let is_more = |(less, _, same): &(Acting, _, Vec<bool>)| *same == seen && less.is_less_than(&acting);
        if !found.iter().any(is_more) {
            found.push((acting, told, seen));
        }
    }
    (found.into_iter().map(|(acting, told, _)| (acting, told)).collect(), gaps)
}
