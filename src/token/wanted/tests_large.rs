//! How long a comparison of large policies takes.

use super::tests_universe::{Dice, NOW, World, blank, glob, issuer, text};
use super::{Mint, vouched};
use crate::clock::{Stopwatch, Timestamp};
use crate::identity::{ActorKind, Direction};
use crate::policy::claim::*;
use crate::policy::condition::*;
use crate::policy::difference::{Approach, Comparison};
use crate::policy::pattern::MethodSet;
use crate::policy::role::*;
use crate::policy::route::Route;
use crate::policy::rule::{Effect, Mode, Rule};
use crate::policy::*;
use crate::token::TokenLimits;

impl World {
    /// As large ones are: rules of many services, roles and routes, a tenth of them denies and requires.
    pub fn large(dice: &mut Dice, rules: usize) -> World {
        let issuers = vec![issuer("corp", "cid")];
        let mut parts = PolicyParts { upstreams: vec!["one".parse().unwrap()], ..PolicyParts::default() };
        for at in 0..100_u32 {
            let id = format!("spiffe://shop.example/ns/team-{}/sa/service-{at}", at % 10);
            let clients = vec![ClientPattern { issuer: IssuerId(0), client: glob(&format!("client-{at}")) }];
            parts.services.push(Service {
                name: format!("service-{at}").parse().unwrap(),
                identities: vec![PeerPattern::Spiffe(id.parse().unwrap())],
                clients: CarriedClients::Listed(clients),
            });
            let scope = RoleEntry { scope: vec![text(&format!("scope-{at}"))], ..blank(0) };
            let group = RoleEntry { group: vec![text(&format!("group-{at}"))], ..blank(0) };
            let entries = RoleEntries::AnyOf(vec![scope, group]);
            parts.roles.push(Role { name: format!("role-{at}").parse().unwrap(), entries });
        }
        for at in 0..20 {
            parts.routes.push(Route {
                name: format!("route-{at}").parse().unwrap(),
                direction: Direction::Inbound,
                host: vec![format!("h{at}.example").parse().unwrap()],
                path: "/**".parse().unwrap(),
                header: vec![],
                upstream: UpstreamId(0),
                variants: vec![],
                shadow_until: None,
            });
        }
        for at in 0..rules {
            let path = match dice.below(4) {
                0 => format!("/things-{}/**", dice.below(200)),
                1 => format!("/things-{}/*", dice.below(200)),
                2 => format!("/things-{}/{{who}}/parts", dice.below(200)),
                _ => format!("/things-{}", dice.below(200)),
            };
            let mut conditions = vec![
                Condition::Route(RouteTerm::Named(vec![RouteId(dice.below(20) as u32)])),
                Condition::Path(vec![path.parse().unwrap()]),
                Condition::Method(MethodSet::new(dice.some(&["GET", "POST", "PUT", "DELETE"])).unwrap()),
                Condition::Role(RoleTerm::AnyOf(vec![RoleId(dice.below(100) as u32)])),
            ];
            if path.contains("who") {
                let claim = ClaimPath::top_level("sub");
                conditions.push(Condition::MatchClaim(vec![MatchClaim { segment: text("who"), claim }]));
            }
            let effect = match at % 20 {
                0 => Effect::Deny,
                1 => Effect::Require,
                _ => Effect::Allow,
            };
            if effect == Effect::Allow {
                let services = dice.some(&(0..100).map(ServiceId).collect::<Vec<_>>());
                conditions.push(Condition::Service(ServiceTerm::Named(services)));
            }
            if dice.one_in(3) {
                conditions.push(Condition::Actor(vec![ActorKind::Human]));
            }
            parts.rules.push(Rule {
                name: format!("rule {at:04}"),
                effect,
                conditions,
                mode: Mode::Enforce,
                not_before: Timestamp::MIN,
                expires: Timestamp::MAX,
                owner: None,
                ticket: None,
            });
        }
        World { parts, issuers }
    }
}

/// `cargo test --release --lib -- --ignored --nocapture a_thousand_rules`
#[test]
#[ignore = "needs a release build to mean anything"]
fn a_thousand_rules_against_a_thousand() {
    let old = World::large(&mut Dice(1), 1_000);
    let mut edited = old.clone();
    (0..10).for_each(|at| drop(edited.parts.rules.remove(at * 90)));
    for (name, new) in [
        ("the same", old.clone()),
        ("ten rules gone", edited),
        ("all others", World::large(&mut Dice(2), 1_000)),
    ] {
        let watch = Stopwatch::start();
        let compiled = [old.compiled(), new.compiled()];
        let policies = [&compiled[0], &compiled[1]];
        let issuers = [&old.issuers[..], &new.issuers[..]];
        let approach = Approach { takes_nobody: false, ..Approach::OPEN };
        let comparison = Comparison::new(policies, &vouched(issuers), [&approach; 2], NOW);
        let limits = [&TokenLimits::FOR_TESTS; 2];
        let mint =
            Mint::new(issuers, limits, comparison.globs(), comparison.places(), &comparison.kinds(), NOW);
        let found = mint.realm(|realm| comparison.differences(realm, mint.fresh()));
        let searched = watch.elapsed();
        let regions = comparison.regions(&found.flips, mint.vouched());
        let memory = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let memory = memory.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default().to_owned();
        println!(
            "{name}: {} flips, {} regions, {} judged, {searched:?}, {:?} with words, {memory}",
            found.flips.len(),
            regions.len(),
            found.judged,
            watch.elapsed()
        );
        assert_eq!(name == "the same", found.flips.is_empty());
    }
}
