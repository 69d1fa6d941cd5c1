//! What is said of who can do what, against the decisions on requests of a small universe.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderMap, Method};

use super::{Access, Actor, Bearer, Carrier, Cell, Matrix, Only, SIDE, Way, WhoCan};
use crate::clock::Timestamp;
use crate::identity::{ActorKind, Direction};
use crate::policy::condition::{RoleTerm, ServiceTerm};
use crate::policy::difference::{Outcome, Witness};
use crate::policy::rule::{Effect, Mode};
use crate::policy::{Action, Condition, NormalPath, Policy, Reading, RoleId, RuleId, ServiceId};
use crate::token::TokenLimits;
use crate::token::tests_universe::{Dice, NOW, World, approach, request, seeds};

#[derive(Debug, Default)]
struct Seen {
    policies: usize,
    requests: usize,
    permitted: usize,
    unenforced: usize,
    /// Pairs of a permitted request and an allow that holds of it.
    covered: usize,
    actions: usize,
    nobody: usize,
    witnesses: usize,
    shut: usize,
    cells: usize,
    open_cells: usize,
    always: usize,
    /// Requests that lie in a cell that is always open.
    in_always: usize,
    conditions: BTreeMap<&'static str, usize>,
}

/// What the evaluator says of a request: all that the claims are compared with.
struct Facts {
    outcome: Outcome,
    /// Enforced allows that hold.
    allows: Vec<RuleId>,
    services: Vec<ServiceId>,
    roles: Vec<(RoleId, Vec<String>)>,
    route: Option<crate::policy::RouteId>,
}

fn facts(policy: &Policy, asked: &Witness) -> Facts {
    let mut facts = Facts {
        outcome: asked.judged(policy, SIDE),
        allows: Vec::new(),
        services: Vec::new(),
        roles: Vec::new(),
        route: None,
    };
    let _ = asked.ask(policy, SIDE, |standing, request| {
        let reading = Reading::new(policy, standing, request);
        let allows = reading.rules().filter(|read| {
            let rule = read.rule;
            rule.effect == Effect::Allow && rule.mode == Mode::Enforce && read.holds()
        });
        facts.allows = allows.map(|read| read.id).collect();
        facts.services = reading.services().into_iter().map(|read| read.service).collect();
        facts.roles = reading
            .roles()
            .into_iter()
            .filter(|role| role.holds)
            .map(|role| {
                (
                    role.role,
                    role.entries.into_iter().filter(|entry| entry.holds).map(|entry| entry.wanted).collect(),
                )
            })
            .collect();
        facts.route = reading.route();
    });
    facts
}

fn is_enforced(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Permitted { rule: Some(_), .. })
}

fn actor(asked: &Witness) -> Actor {
    let Some(caller) = asked.caller(SIDE) else { return Actor::Absent };
    let human = caller.on_behalf_of == ActorKind::Human;
    match (caller.actor, caller.chain.is_empty()) {
        (ActorKind::Agent, _) if human => Actor::AgentForHuman,
        (ActorKind::Agent, true) => Actor::Agent,
        (ActorKind::Agent, false) => Actor::AgentForOther,
        (_, false) => Actor::OtherForSomebody,
        (ActorKind::Human, true) => Actor::Human,
        (ActorKind::Service, true) => Actor::Service,
        (ActorKind::Unknown, true) => Actor::Unknown,
    }
}

/// Whether somebody who comes in by this way may be the one who asked.
fn covers(way: &Way, asked: &Witness, facts: &Facts) -> bool {
    let caller = asked.caller(SIDE);
    let services = way.services.iter().all(|(id, _)| facts.services.contains(id));
    let roles = way.roles.iter().all(|held| {
        let has = facts.roles.iter().find(|(id, _)| *id == held.role);
        has.is_some_and(|(_, by)| held.by.iter().all(|entry| by.contains(entry)))
    });
    let issuer = way.issuer.is_none() || way.issuer.as_ref() == caller.map(|caller| &caller.issuer);
    let actor = way.issuer.is_none()
        || caller.is_some_and(|caller| {
            way.actors.iter().any(|acts| {
                acts.kind == caller.actor && acts.for_whom.is_none_or(|whom| whom == caller.on_behalf_of)
            })
        });
    services && roles && issuer && actor
}

struct Case<'a> {
    seed: u64,
    world: &'a World,
    policy: &'a Policy,
}

impl Case<'_> {
    fn fail(&self, asked: &Witness, why: &str) -> ! {
        self.world.print_against(self.world);
        let token = asked.token.as_ref().map(|(_, token)| serde_json::Value::from(token.claims.clone()));
        println!("{:?} {:?}", asked.peer, token.map(|token| token.to_string()));
        println!(
            "{} {} {} {:?} {:?} {}",
            asked.method, asked.host, asked.path, asked.hop, asked.client_ip, asked.at
        );
        panic!("seed {}: {why}", self.seed);
    }

    fn check_who_can(&self, asked: &Witness, facts: &Facts, said: &WhoCan, seen: &mut Seen) {
        if let Outcome::Permitted { rule: None, .. } = facts.outcome {
            seen.unenforced += 1;
            if said.unenforced.is_none() {
                self.fail(asked, "it is let in unenforced, and nobody is said to be");
            }
        }
        if !is_enforced(&facts.outcome) {
            return;
        }
        for id in &facts.allows {
            let allow = said.allows.iter().find(|allow| allow.rule == *id);
            let way = allow.and_then(|allow| allow.open.iter().find(|way| covers(way, asked, facts)));
            seen.covered += 1;
            if way.is_none() {
                println!("{allow:#?}");
                self.fail(asked, &format!("let in by {}, and not said to be", self.policy.rule(*id).name));
            }
        }
    }

    fn check_witnesses(&self, said: &WhoCan, asked: &Witness, seen: &mut Seen) {
        seen.actions += 1;
        seen.nobody += usize::from(said.is_nobody());
        for allow in &said.allows {
            seen.shut += allow.shut.len();
            for way in &allow.open {
                seen.witnesses += 1;
                let facts = facts(self.policy, &way.witness);
                let same = way.witness.path == asked.path && way.witness.method == asked.method;
                let lets_in = is_enforced(&facts.outcome) && facts.allows.contains(&allow.rule);
                if !(same && lets_in && covers(way, &way.witness, &facts)) {
                    self.fail(&way.witness, &format!("a witness of {:?} is {:?}", allow.rule, facts.outcome));
                }
            }
        }
    }

    /// The cells of a table that a request lies in.
    fn cells<'m>(
        &self,
        matrix: &'m Matrix,
        asked: &Witness,
        facts: &Facts,
    ) -> Vec<(Carrier, Bearer, &'m Cell)> {
        let caller = asked.caller(SIDE);
        let issuer = self.policy.parts().issuers.iter().zip(0..).find_map(|(issuer, at)| {
            (Some(&issuer.name) == caller.map(|caller| &caller.issuer)).then_some(crate::policy::IssuerId(at))
        });
        let carries = |carrier: Carrier| match (carrier, caller) {
            (Carrier::Service(id), Some(caller)) => {
                self.policy.parts().services[id.index()].carries(issuer, caller)
            }
            _ => true,
        };
        let column = matrix.columns.iter().position(|column| {
            let named = || matrix.columns.iter().any(|column| column.methods.contains(&asked.method));
            Some(column.route) == facts.route
                && (column.methods.contains(&asked.method) || (column.methods.is_empty() && !named()))
        });
        let Some(column) = column else { return Vec::new() };
        let is_of = |row: &&super::Row| {
            row.actor == actor(asked)
                && carries(row.carrier)
                && match row.carrier {
                    Carrier::Nobody => asked.peer.verified().is_none(),
                    Carrier::Service(id) => facts.services.contains(&id),
                }
                && match row.bearer {
                    Bearer::NoToken => caller.is_none(),
                    Bearer::NoRole => caller.is_some() && facts.roles.is_empty(),
                    Bearer::Role(id) => facts.roles.iter().any(|(role, _)| *role == id),
                }
        };
        matrix.rows.iter().filter(is_of).map(|row| (row.carrier, row.bearer, &row.cells[column])).collect()
    }

    fn check_matrix(&self, matrix: &Matrix, asked: &Witness, facts: &Facts, seen: &mut Seen) {
        let parts = self.policy.parts();
        let cells = self.cells(matrix, asked, facts);
        for (carrier, bearer, cell) in &cells {
            let is_served = asked.method != Method::TRACE && !matches!(facts.outcome, Outcome::Refused(_));
            if cell.is_always() && is_served {
                seen.in_always += 1;
                if !is_enforced(&facts.outcome) {
                    self.fail(
                        asked,
                        &format!("{carrier:?} {bearer:?} always gets in, and did not: {cell:#?}"),
                    );
                }
            }
            if !is_enforced(&facts.outcome) {
                continue;
            }
            for id in &facts.allows {
                let rule = self.policy.rule(*id);
                let named = carrier.is_named_by(&carrier.peers(parts), rule, parts)
                    && bearer.is_named_by(&bearer.roles(parts), rule, parts);
                if named && !cell.grants.iter().any(|grant| grant.rule == *id) {
                    self.fail(
                        asked,
                        &format!("{carrier:?} {bearer:?} got in by {}, and never does", rule.name),
                    );
                }
            }
        }
        if is_enforced(&facts.outcome) {
            for id in &facts.allows {
                if !cells.iter().any(|(_, _, cell)| cell.grants.iter().any(|grant| grant.rule == *id)) {
                    self.fail(asked, &format!("let in by {}, and in no cell", self.policy.rule(*id).name));
                }
            }
        }
    }

    fn check_cells(&self, matrix: &Matrix, seen: &mut Seen) {
        for row in &matrix.rows {
            assert_eq!(row.cells.len(), matrix.columns.len());
            for (cell, column) in row.cells.iter().zip(&matrix.columns) {
                seen.cells += 1;
                seen.open_cells += usize::from(!cell.grants.is_empty());
                seen.always += usize::from(cell.is_always());
                for grant in &cell.grants {
                    let facts = facts(self.policy, &grant.witness);
                    let lets_in = is_enforced(&facts.outcome) && facts.allows.contains(&grant.rule);
                    let cells = self.cells(matrix, &grant.witness, &facts);
                    let lies_here = cells.iter().any(|(_, _, other)| std::ptr::eq(*other, cell));
                    if !lets_in || !lies_here {
                        self.fail(&grant.witness, &format!("{row:#?} {column:?} {lets_in} {lies_here}"));
                    }
                }
            }
        }
    }
}

/// Requests of all kinds, and most of them for what somebody is let in to: of each world that lets in enough.
fn requests(
    case: &Case<'_>,
    dice: &mut Dice,
    access: &Access<'_>,
    times: &[Timestamp],
) -> Option<Vec<Witness>> {
    let pairs: Vec<_> = (0..case.world.issuers.len()).map(|at| *access.mint.issuers(at)).collect();
    let one = |_| {
        let at = dice.pick(times);
        request(dice, &[case.world, case.world], &pairs, at)
    };
    let samples: Vec<Witness> = (0..120).filter_map(one).collect();
    let is_let_in = |asked: &&Witness| asked.judged(case.policy, SIDE).is_permitted();
    let let_in: Vec<&Witness> = samples.iter().filter(is_let_in).collect();
    if let_in.len() * 10 < samples.len() {
        return None;
    }
    let actions =
        let_in.iter().step_by(let_in.len() / ACTIONS + 1).copied().chain(samples.iter().take(ACTIONS / 2));
    let actions: Vec<Witness> = actions.cloned().collect();
    let asked = actions.iter().flat_map(|action| {
        let Witness { method, host, path, headers, peer_ip, .. } = action;
        samples.iter().map(move |sample| Witness {
            method: method.clone(),
            host: host.clone(),
            path: path.clone(),
            headers: headers.clone(),
            peer_ip: *peer_ip,
            client_ip: *peer_ip,
            ..sample.clone()
        })
    });
    Some(asked.collect())
}

/// Leaves an allow that is wide enough to let somebody in always, and mostly nothing against it.
fn loosen(world: &mut World, dice: &mut Dice) {
    if dice.one_in(2) {
        world.parts.rules.retain(|rule| rule.effect == Effect::Allow);
    }
    if let Some(rule) = world.parts.rules.iter_mut().find(|rule| rule.effect == Effect::Allow) {
        rule.conditions.retain(|condition| ["service", "role", "route", "method"].contains(&condition.key()));
        (rule.not_before, rule.expires) = (Timestamp::MIN, Timestamp::MAX);
    }
}

/// Of one world.
const ACTIONS: usize = 6;

fn case(seed: u64, with_matrix: bool, seen: &mut Seen) {
    let mut dice = Dice(seed);
    let mut world = World::random(&mut dice);
    if with_matrix && dice.one_in(2) {
        loosen(&mut world, &mut dice);
    }
    let policy = world.compiled();
    let nothing = policy.permitting_nothing();
    let case = Case { seed, world: &world, policy: &policy };
    let later = |days: u64| NOW.plus(Duration::from_secs(days * 86_400));
    let now = later(if with_matrix { 0 } else { dice.pick(&[0, 0, 1, 2, 4]) });
    let times = if with_matrix { [0, 1, 2, 4].map(later).to_vec() } else { vec![now] };
    let approach = approach();
    let access = Access::new(&policy, &nothing, &world.issuers, &TokenLimits::FOR_TESTS, &approach, now);
    let Some(requests) = requests(&case, &mut dice, &access, &times) else { return };
    seen.policies += 1;
    for condition in world.parts.rules.iter().flat_map(|rule| &rule.conditions) {
        *seen.conditions.entry(condition.key()).or_default() += 1;
    }
    let matrix = with_matrix.then(|| access.matrix(&Only::default()));
    matrix.iter().for_each(|matrix| case.check_cells(matrix, seen));
    let mut answers: BTreeMap<String, WhoCan> = BTreeMap::new();
    for asked in &requests {
        seen.requests += 1;
        if let Some(matrix) = &matrix {
            let facts = facts(&policy, asked);
            seen.permitted += usize::from(facts.outcome.is_permitted());
            case.check_matrix(matrix, asked, &facts, seen);
            continue;
        }
        let Witness { method, host, path, headers, peer_ip: address, hop, .. } = asked;
        let direction = hop.direction();
        let key = format!("{method} {host} {path} {headers:?} {address:?} {direction:?}");
        let said = answers.entry(key).or_insert_with(|| {
            let from = address.filter(|_| dice.one_in(2));
            let said = access.who_can(Action { method, host, path, headers }, direction, from);
            case.check_witnesses(&said, asked, seen);
            said
        });
        if !asked.judged(&policy, SIDE).is_permitted() {
            continue;
        }
        seen.permitted += 1;
        let facts = facts(&policy, asked);
        case.check_who_can(asked, &facts, said, seen);
    }
}

fn run(seeds: std::ops::Range<u64>, with_matrix: bool) -> Seen {
    let mut seen = Seen::default();
    seeds.for_each(|seed| case(seed, with_matrix, &mut seen));
    println!("{seen:#?}");
    assert!(seen.permitted * 5 >= seen.requests, "{seen:?}");
    seen
}

#[test]
fn whoever_comes_in_was_said_to() {
    let seen = run(0..48, false);
    assert!(seen.covered > 1_000 && seen.nobody >= 5 && seen.witnesses > 300 && seen.shut > 50, "{seen:?}");
    assert!(seen.unenforced > 0, "{seen:?}");
}

#[test]
fn never_is_never_and_always_is_always() {
    let seen = run(100..115, true);
    assert!(seen.open_cells > 500 && seen.in_always > 100, "{seen:?}");
}

/// `cargo test --release --lib -- --ignored --nocapture thousands_of_policies`; others with `SEEDS=5000..6000`.
#[test]
#[ignore = "needs minutes"]
fn thousands_of_policies() {
    let seen = run(seeds(1_000..3_000), false);
    assert!(seen.conditions.len() == 18 && seen.conditions.values().all(|times| *times >= 100), "{seen:?}");
}

/// The same way.
#[test]
#[ignore = "needs minutes"]
fn hundreds_of_tables() {
    run(seeds(6_000..6_400), true);
}

#[test]
fn whom_a_rule_lets_in_is_named_by_a_service_where_a_route_is_not_enforced() {
    for hop in [None, Some("alb")] {
        let mut world = World::random(&mut Dice(0));
        world.parts.routes.truncate(1);
        let route = &mut world.parts.routes[0];
        (route.shadow_until, route.header) = (Some(NOW.plus(Duration::from_secs(86_400))), Vec::new());
        let anybody = [Condition::Service(ServiceTerm::None), Condition::Role(RoleTerm::None)];
        let through = hop.map(|hop| Condition::Hop(vec![hop.into()]));
        world.parts.rules.truncate(1);
        let rule = &mut world.parts.rules[0];
        (rule.effect, rule.mode) = (Effect::Allow, Mode::Enforce);
        rule.conditions = anybody.into_iter().chain(through).collect();
        (rule.not_before, rule.expires) = (Timestamp::MIN, Timestamp::MAX);
        let policy = world.compiled();
        let nothing = policy.permitting_nothing();
        let approach = approach();
        let access = Access::new(&policy, &nothing, &world.issuers, &TokenLimits::FOR_TESTS, &approach, NOW);
        let (host, path) = ("a.example".parse().unwrap(), NormalPath::parse("/").unwrap());
        let action = Action { method: &Method::GET, host: &host, path: &path, headers: &HeaderMap::new() };
        let said = access.who_can(action, Direction::Inbound, None);
        let open = &said.allows[0].open;
        assert!(!open.is_empty() && said.unenforced.is_some(), "{said:#?}");
        for way in open {
            assert!(is_enforced(&way.witness.judged(&policy, SIDE)), "{hop:?} {way:#?}");
        }
        let unenforced = said.unenforced.unwrap().judged(&policy, SIDE);
        assert!(matches!(unenforced, Outcome::Permitted { rule: None, .. }), "{unenforced:?}");
    }
}
