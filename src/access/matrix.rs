//! The whole table: which requester gets where, by which rules, and whether always.
//!
//! *Never* rests on the argument of [`difference`](crate::policy::difference), *sometimes* on a request that
//! the policy permits. *Always* is said only where an allow demands nothing beyond its row and column, and no
//! deny or require speaks of them: some cells are always open and called sometimes, and none the other way.

use http::Method;

use super::row::{Bearer, Carrier, Row, requesters};
use super::{Access, SIDE};
use crate::policy::cells::{self, Demand, SideDemand};
use crate::policy::difference::{Alone, Flip, Witness};
use crate::policy::role::CarriedClients;
use crate::policy::rule::{Effect, Mode};
use crate::policy::{Action, Policy, PolicyParts, RoleId, RouteId, RuleId, ServiceId};

#[derive(Debug)]
pub struct Matrix {
    pub columns: Vec<Column>,
    /// In the order of the configuration; those without a single open cell among them.
    pub rows: Vec<Row>,
}

/// A route, and methods that no rule tells apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub route: RouteId,
    /// Empty: all that no rule names.
    pub methods: Vec<Method>,
}

/// By which rules a row gets to a column; by none: never.
#[derive(Debug, Default)]
pub struct Cell {
    /// By the order of rules.
    pub grants: Vec<Grant>,
}

#[derive(Debug)]
pub struct Grant {
    pub rule: RuleId,
    /// Whether it permits all requests of this row and column.
    pub always: bool,
    /// Denies that hold of some of them.
    pub denies: Vec<RuleId>,
    /// Requires that reach some of them.
    pub requires: Vec<RuleId>,
    /// One that is permitted.
    pub witness: Box<Witness>,
}

/// Which part of the table is wanted; empty: all.
#[derive(Clone, Debug, Default)]
pub struct Only {
    pub services: Vec<ServiceId>,
    pub roles: Vec<RoleId>,
    pub routes: Vec<RouteId>,
}

impl Cell {
    pub fn is_always(&self) -> bool {
        self.grants.iter().any(|grant| grant.always)
    }
}

impl Row {
    pub fn is_open(&self) -> bool {
        self.cells.iter().any(|cell| !cell.grants.is_empty())
    }
}

impl Access<'_> {
    pub fn matrix(&self, only: &Only) -> Matrix {
        let parts = self.policy.parts();
        let columns = self.columns(only);
        let wanted = |id: &RoleId| only.roles.is_empty() || only.roles.contains(id);
        let roles = (0..).map(RoleId).take(parts.roles.len()).filter(wanted).map(Bearer::Role);
        let without = [Bearer::NoToken, Bearer::NoRole].into_iter().filter(|_| only.roles.is_empty());
        let bearers: Vec<_> = without.chain(roles).collect();
        let wanted = |id: &ServiceId| only.services.is_empty() || only.services.contains(id);
        let services = (0..).map(ServiceId).take(parts.services.len()).filter(wanted).map(Carrier::Service);
        let nobody = only.services.is_empty().then_some(Carrier::Nobody);
        let carriers: Vec<_> = nobody.into_iter().chain(services).collect();
        let rows = self.ask(|alone| {
            let table = Table::new(self.policy, alone, &columns);
            let bearers = &bearers;
            carriers
                .iter()
                .flat_map(|carrier| bearers.iter().flat_map(|bearer| table.rows(*carrier, *bearer)))
                .collect()
        });
        Matrix { columns, rows }
    }

    fn columns(&self, only: &Only) -> Vec<Column> {
        let mut classes = self.comparison.method_classes().to_vec();
        classes.sort_by_key(|class| class.iter().map(place).min());
        classes.iter_mut().for_each(|class| class.sort_by_key(place));
        classes.push(Vec::new());
        let routes = (0..).map(RouteId).take(self.policy.parts().routes.len());
        let routes = routes.filter(|id| only.routes.is_empty() || only.routes.contains(id));
        let columns = |route| classes.iter().map(move |methods| Column { route, methods: methods.clone() });
        routes.flat_map(columns).collect()
    }
}

/// As people list methods.
fn place(method: &Method) -> (usize, String) {
    let known = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    let at = known.iter().position(|known| known == method).unwrap_or(known.len());
    (at, method.to_string())
}

/// The policy, written out.
struct Table<'t> {
    policy: &'t Policy,
    alone: &'t Alone<'t>,
    columns: &'t [Column],
    /// By name, with all that each holds of, by route.
    allows: Vec<(RuleId, Vec<Demand>)>,
    denies: Vec<(RuleId, Vec<Demand>)>,
    requires: Vec<(RuleId, Vec<Demand>)>,
}

impl<'t> Table<'t> {
    fn new(policy: &'t Policy, alone: &'t Alone<'t>, columns: &'t [Column]) -> Table<'t> {
        let parts = policy.parts();
        let barriers =
            |effect: Effect, ways: fn(&crate::policy::rule::Rule, &PolicyParts, usize) -> Vec<Demand>| {
                let rules = parts.rules.iter().zip((0..).map(RuleId));
                let rules =
                    rules.filter(move |(rule, _)| rule.effect == effect && rule.mode == Mode::Enforce);
                rules.map(|(rule, id)| (id, ways(rule, parts, SIDE))).collect()
            };
        let mut allows: Vec<_> =
            alone.ways().into_iter().filter_map(|ways| Some((ways.rule?, ways.demands))).collect();
        allows.sort_by_key(|(id, _)| &policy.rule(*id).name);
        let (denies, requires) =
            (barriers(Effect::Deny, cells::ways), barriers(Effect::Require, cells::reach));
        Table { policy, alone, columns, allows, denies, requires }
    }

    fn rows(&self, carrier: Carrier, bearer: Bearer) -> Vec<Row> {
        let parts = self.policy.parts();
        let (peers, roles) = (carrier.peers(parts), bearer.roles(parts));
        let naming = self.allows.iter().filter(|(id, _)| {
            let rule = self.policy.rule(*id);
            carrier.is_named_by(&peers, rule, parts) && bearer.is_named_by(&roles, rule, parts)
        });
        let naming: Vec<_> = naming.collect();
        let rows = bearer.actors().iter().map(|actor| {
            let requesters = requesters(&peers, &roles, carrier, *actor, parts);
            let mut cells: Vec<Cell> = self.columns.iter().map(|_| Cell::default()).collect();
            for (rule, ways) in &naming {
                let joined = requesters.iter().flat_map(|requester| {
                    let ways = ways.iter().filter_map(|way| Some((requester, way, requester.join(way)?)));
                    ways.collect::<Vec<_>>()
                });
                let joined: Vec<_> = joined.collect();
                if joined.is_empty() {
                    continue;
                }
                for (column, cell) in self.columns.iter().zip(&mut cells) {
                    cell.grants.extend(self.grant(*rule, column, carrier, bearer, &requesters, &joined));
                }
            }
            Row { carrier, bearer, actor: *actor, cells }
        });
        rows.collect()
    }

    /// Whether, and how, a rule lets these requesters do what the column says.
    fn grant(
        &self,
        rule: RuleId,
        column: &Column,
        carrier: Carrier,
        bearer: Bearer,
        requesters: &[Demand],
        joined: &[(&Demand, &Demand, Demand)],
    ) -> Option<Grant> {
        let of_column = joined.iter().filter_map(|(_, _, both)| column.narrowed(both));
        let of_column: Vec<_> = of_column.collect();
        let is_asked =
            |cell: &crate::policy::difference::Cell| cell.alike.is_empty() == column.methods.is_empty();
        let is_wanted = |flip: &Flip| self.is_of(flip, column, bearer);
        let Flip { mut witness, demand, .. } =
            of_column.iter().find_map(|both| self.alone.first(both, is_asked, is_wanted))?;
        // without one it is in fewer ranges still
        witness.forget_addresses(&demand);
        let meeting = |barriers: &[(RuleId, Vec<Demand>)]| -> Vec<RuleId> {
            let meets = |ways: &[Demand]| {
                ways.iter().any(|way| of_column.iter().any(|both| both.join(way).is_some()))
            };
            barriers.iter().filter(|(_, ways)| meets(ways)).map(|(id, _)| *id).collect()
        };
        let (denies, requires) = (meeting(&self.denies), meeting(&self.requires));
        let always = denies.is_empty()
            && requires.is_empty()
            && !self.is_named_otherwise(carrier)
            && requesters.iter().all(|requester| self.takes_all(requester, column, joined));
        Some(Grant { rule, always, denies, requires, witness: Box::new(witness) })
    }

    /// Whether this is a request of the column, by somebody without a role if it is to be.
    fn is_of(&self, flip: &Flip, column: &Column, bearer: Bearer) -> bool {
        let Witness { method, host, path, headers, .. } = &flip.witness;
        let action = Action { method, host, path, headers };
        let direction = self.policy.route(column.route).direction;
        let is_of_route = self.policy.route_for(&action, direction) == Some(column.route);
        let roleless = || {
            let roles = flip.witness.ask(self.policy, SIDE, |standing, _| standing.has_roles());
            roles.is_ok_and(|has| !has)
        };
        is_of_route && (bearer != Bearer::NoRole || roleless())
    }

    /// Whether somebody of these can be of a service besides, that may not carry the same tokens.
    fn is_named_otherwise(&self, carrier: Carrier) -> bool {
        let parts = self.policy.parts();
        let peers = carrier.peers(parts);
        let lists = |at: usize| matches!(parts.services[at].clients, CarriedClients::Listed(_));
        let others = (0..parts.services.len()).filter(|at| match carrier {
            Carrier::Service(id) => id.index() != *at && lists(*at),
            Carrier::Nobody => false,
        });
        let mut ways = others.flat_map(|at| cells::peers(&parts.services[at]));
        ways.any(|other| peers.iter().any(|peer| can_be_both(peer, &other)))
    }

    /// Whether a rule demands nothing of these requests beyond what they have by their row and column.
    fn takes_all(&self, requester: &Demand, column: &Column, joined: &[(&Demand, &Demand, Demand)]) -> bool {
        let route = &self.policy.parts().routes[column.route.index()];
        cells::entries(route, column.route, SIDE).iter().all(|entry| {
            let Some(whole) = requester.join(entry) else { return true };
            joined.iter().any(|(of, way, both)| {
                let methods = way.methods.as_ref();
                let named = |methods: &Vec<Method>| {
                    !column.methods.is_empty() && column.methods.iter().all(|method| methods.contains(method))
                };
                let mut unsaid = Demand { methods: None, ..both.clone() };
                // what the policy that permits nothing calls the route is no demand
                unsaid.sides[1 - SIDE] = SideDemand::default();
                std::ptr::eq(*of, requester) && methods.is_none_or(named) && unsaid == whole
            })
        })
    }
}

/// Whether one certificate can have the names of both.
fn can_be_both(one: &Demand, other: &Demand) -> bool {
    one.join(other).is_some()
}

impl Column {
    /// The demand, as far as it is of this column.
    fn narrowed(&self, demand: &Demand) -> Option<Demand> {
        let mut of_column = Demand::nothing();
        of_column.sides[SIDE].routes = Some(vec![self.route]);
        match (&demand.methods, self.methods.is_empty()) {
            (Some(_), true) => return None,
            (None, true) => {}
            (_, false) => of_column.methods = Some(self.methods.clone()),
        }
        demand.join(&of_column)
    }
}
