//! What brute force finds, a comparison has found; and what a comparison finds, is so.

use std::collections::BTreeMap;

use super::tests_requests::{approach, approaches, request, seeds};
use super::tests_universe::{Dice, NOW, World, issuer};
use super::{Mint, vouched};
use crate::clock::Timestamp;
use crate::identity::Hop;
use crate::policy::cells::Side;
use crate::policy::claim::{ClaimPath, MatchClaim};
use crate::policy::condition::{RoleTerm, ServiceTerm};
use crate::policy::difference::coverage::{covers, granted_by};
use crate::policy::difference::{Change, Comparison, Differences, Outcome, Witness};
use crate::policy::rule::{Effect, Mode, Rule};
use crate::policy::{Condition, Policy};
use crate::token::TokenLimits;

#[derive(Debug, Default)]
struct Seen {
    policies: usize,
    judged: u64,
    requests: usize,
    allowed: usize,
    /// Those of no certificate that a hop brought, and came in.
    nobody: usize,
    flips: BTreeMap<Change, usize>,
    reported: usize,
    kinds: BTreeMap<&'static str, usize>,
    edits: BTreeMap<&'static str, usize>,
}

fn upstream(policy: &Policy, outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Permitted { upstream, .. } => Some(policy.parts().upstreams[upstream.index()].to_string()),
        _ => None,
    }
}

fn change_of(policies: [&Policy; 2], outcomes: &[Outcome; 2]) -> Option<Change> {
    match (outcomes[0].is_permitted(), outcomes[1].is_permitted()) {
        (false, true) => Some(Change::Allowed),
        (true, false) => Some(Change::Denied),
        (true, true) if upstream(policies[0], &outcomes[0]) != upstream(policies[1], &outcomes[1]) => {
            Some(Change::Elsewhere)
        }
        _ => None,
    }
}

/// So many requests are made up for one that is looked at.
const TRIES: usize = 8;

fn case(seed: u64, requests: usize, seen: &mut Seen) {
    let mut dice = Dice(seed);
    let old = World::random(&mut dice);
    let mut new = old.clone();
    for _ in 0..1 + dice.below(3) {
        *seen.edits.entry(new.edit(&mut dice)).or_default() += 1;
    }
    let (old, new) = if dice.one_in(2) { (new, old) } else { (old, new) };
    seen.policies += 1;
    for condition in old.parts.rules.iter().flat_map(|rule| &rule.conditions) {
        *seen.kinds.entry(condition.key()).or_default() += 1;
    }
    let compiled = [old.compiled(), new.compiled()];
    let policies = [&compiled[0], &compiled[1]];
    let issuers = [&old.issuers[..], &new.issuers[..]];
    let approaches = approaches(&mut Dice(seed));
    let comparison = Comparison::new(policies, &vouched(issuers), approaches.each_ref(), NOW);
    let limits = [&TokenLimits::FOR_TESTS; 2];
    let kinds = comparison.kinds();
    let mint = Mint::new(issuers, limits, comparison.globs(), comparison.places(), &kinds, NOW);
    let found = mint.realm(|realm| comparison.differences(realm, mint.fresh()));
    seen.judged += found.judged;
    seen.reported += found.flips.len();
    assert!(found.gaps.is_empty(), "seed {seed}: {:?}", found.gaps);
    let judged =
        |asked: &Witness| [0, 1].map(|side: Side| approaches[side].judged(asked, policies[side], side));
    for flip in &found.flips {
        let outcomes = judged(&flip.witness);
        assert_eq!(change_of(policies, &outcomes), Some(flip.change), "seed {seed}: {flip:#?}");
        assert!(covers(flip, &flip.witness, &comparison, &kinds), "seed {seed}: {flip:?}");
    }
    let pairs: Vec<_> = (0..mint.vouched().len()).map(|at| *mint.issuers(at)).collect();
    let times = [0, 1, 2, 4].map(|days| NOW.plus(std::time::Duration::from_secs(days * 86_400)));
    for _ in 0..requests {
        let at = dice.pick(&times);
        let tried = (0..TRIES).filter_map(|_| {
            let asked = request(&mut dice, &[&old, &new], &pairs, at)?;
            let asked = approaches[0].seen_as(&asked).into_owned();
            let outcomes = judged(&asked);
            Some((asked, outcomes))
        });
        // one that is permitted, if there is one among a few
        let tried: Vec<_> = tried.collect();
        let permitted = tried.iter().position(|(_, outcomes)| outcomes.iter().any(Outcome::is_permitted));
        let Some((asked, outcomes)) = tried.into_iter().nth(permitted.unwrap_or(0)) else { continue };
        seen.requests += 1;
        seen.allowed += usize::from(outcomes.iter().any(Outcome::is_permitted));
        let is_nobody = asked.peer.verified().is_none() && asked.hop != Hop::Direct;
        seen.nobody += usize::from(is_nobody && outcomes.iter().any(Outcome::is_permitted));
        let Some(change) = change_of(policies, &outcomes) else { continue };
        *seen.flips.entry(change).or_default() += 1;
        let side = change.permitting();
        let by = match &outcomes[side] {
            Outcome::Permitted { rule, .. } => rule.map(|rule| policies[side].rule(rule).name.clone()),
            _ => None,
        };
        let lies_in = found.flips.iter().any(|flip| {
            flip.change == change
                && granted_by(policies, flip) == by
                && covers(flip, &asked, &comparison, &kinds)
        });
        if !lies_in {
            old.print_against(&new);
            let near =
                found.flips.iter().filter(|flip| flip.change == change && granted_by(policies, flip) == by);
            near.take(5).for_each(|flip| println!("found {:?} {:?}", flip.demand, flip.cell));
            let token = asked.token.as_ref().map(|(_, token)| serde_json::Value::from(token.claims.clone()));
            println!("{:?} {:?} {}", asked.peer, token.map(|token| token.to_string()), asked.path);
            println!(
                "{} {} {:?} {:?} {}",
                asked.method,
                asked.host,
                asked.hop,
                (asked.peer_ip, asked.client_ip),
                asked.at
            );
            panic!("seed {seed}: {change:?} by {by:?} is not found: {outcomes:?}");
        }
    }
}

fn run(seeds: impl Iterator<Item = u64>, requests: usize) -> Seen {
    let mut seen = Seen::default();
    seeds.for_each(|seed| case(seed, requests, &mut seen));
    println!("{seen:#?}");
    seen
}

#[test]
fn no_difference_is_missed_and_each_witness_shows_one() {
    let seen = run(17..35, 100);
    // callers whom nothing tells apart are asked about once
    assert!(seen.judged < 60_000, "{seen:?}");
    assert!(seen.nobody > 10 && seen.flips.len() == 3 && seen.allowed * 5 >= seen.requests, "{seen:?}");
}

/// `cargo test --release --lib -- --ignored --nocapture thousands_of_edits`; others with `SEEDS=5000..6000`.
#[test]
#[ignore = "needs minutes"]
fn thousands_of_edits() {
    let seen = run(seeds(1_000..2_600), 500);
    assert!(seen.allowed * 5 >= seen.requests, "{seen:?}");
    assert!(seen.kinds.len() == 18 && seen.kinds.values().all(|times| *times >= 100), "{seen:?}");
}

/// One issuer, whose tokens may all do everything where no rule of these is in the way.
fn open_to_all(barriers: Vec<Rule>) -> World {
    let mut world = World::random(&mut Dice(0));
    world.issuers = vec![issuer("corp", "cid")];
    world.parts.routes.truncate(1);
    world.parts.routes[0].variants.clear();
    let allow = vec![Condition::Service(ServiceTerm::None), Condition::Role(RoleTerm::Any)];
    world.parts.rules = vec![rule("a", Effect::Allow, allow)];
    world.parts.rules.extend(barriers);
    world
}

fn rule(name: &str, effect: Effect, conditions: Vec<Condition>) -> Rule {
    Rule {
        name: name.into(),
        effect,
        conditions,
        mode: Mode::Enforce,
        not_before: Timestamp::MIN,
        expires: Timestamp::MAX,
        owner: None,
        ticket: None,
    }
}

fn differences(old: &World, new: &World) -> Differences {
    let compiled = [old.compiled(), new.compiled()];
    let (policies, issuers) = ([&compiled[0], &compiled[1]], [&old.issuers[..], &new.issuers[..]]);
    let approach = approach();
    let comparison = Comparison::new(policies, &vouched(issuers), [&approach; 2], NOW);
    let (limits, kinds) = ([&TokenLimits::FOR_TESTS; 2], comparison.kinds());
    let mint = Mint::new(issuers, limits, comparison.globs(), comparison.places(), &kinds, NOW);
    mint.realm(|realm| comparison.differences(realm, mint.fresh()))
}

#[test]
fn a_token_that_must_be_bound_is_not_the_one_before() {
    let bound = || rule("b", Effect::Require, vec![Condition::SenderConstrained]);
    let mfa = || rule("c", Effect::Require, vec![Condition::Acr(vec!["mfa".into()])]);
    let (loose, tight) = (open_to_all(vec![bound()]), open_to_all(vec![bound(), mfa()]));
    let found = differences(&loose, &tight);
    assert!(found.gaps.is_empty() && !found.flips.is_empty(), "{:?}", found.gaps);
    for flip in &found.flips {
        let caller = flip.witness.caller(0).unwrap();
        assert!(flip.change == Change::Denied && caller.confirmation.is_some(), "{flip:?}");
    }
}

#[test]
fn a_claim_of_a_segment_that_no_path_names_is_never_there() {
    let claim = MatchClaim { segment: "c".into(), claim: ClaimPath::top_level("sub") };
    let never = rule("b", Effect::Require, vec![Condition::MatchClaim(vec![claim])]);
    let new = open_to_all(vec![never]);
    let mut old = new.clone();
    old.parts.rules.remove(0);
    let found = differences(&old, &new);
    assert!(found.gaps.is_empty() && found.flips.is_empty(), "{:?} {:?}", found.gaps, found.flips);
}
