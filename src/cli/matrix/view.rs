//! The table as it is shown: requesters with the same rights together, rules by number.

use crate::access::{self, Actor, Bearer, Carrier, Cell, Column, Matrix};
use crate::clock::Timestamp;
use crate::policy::rule::Rule;
use crate::policy::{Policy, PolicyParts, RuleId};

pub struct View<'a> {
    pub policy: &'a Policy,
    pub matrix: &'a Matrix,
    pub at: Timestamp,
    pub groups: Vec<Group<'a>>,
    /// By which anybody gets anywhere: numbered from 1 in this order.
    pub allows: Vec<RuleId>,
    /// Denies and requires that speak of requests of open cells: lettered in this order.
    pub barriers: Vec<RuleId>,
}

/// Rows with the same cells.
pub struct Group<'a> {
    pub carriers: Vec<Carrier>,
    pub bearers: Vec<Bearer>,
    pub actors: Vec<Actor>,
    pub cells: &'a [Cell],
}

/// Columns of one route with the same cells in all rows.
pub struct Span {
    /// Of the first of them.
    pub at: usize,
    pub route: String,
    /// With "other" for those that no rule names.
    pub methods: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    Never,
    Sometimes,
    Always,
}

impl Reach {
    pub fn of(cell: &Cell) -> Reach {
        match (cell.is_always(), cell.grants.is_empty()) {
            (true, _) => Reach::Always,
            (false, false) => Reach::Sometimes,
            (false, true) => Reach::Never,
        }
    }

    pub fn sign(self) -> &'static str {
        match self {
            Reach::Never => "·",
            Reach::Sometimes => "◐",
            Reach::Always => "●",
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Reach::Never => "never",
            Reach::Sometimes => "sometimes",
            Reach::Always => "always",
        }
    }
}

impl<'a> View<'a> {
    pub fn new(policy: &'a Policy, matrix: &'a Matrix, at: Timestamp) -> View<'a> {
        let mut groups: Vec<Group<'a>> = Vec::new();
        for row in matrix.rows.iter().filter(|row| row.is_open()) {
            let (carriers, bearers, actors) = (vec![row.carrier], vec![row.bearer], vec![row.actor]);
            groups.push(Group { carriers, bearers, actors, cells: &row.cells });
        }
        let groups = together(groups, |a, b| a.carriers == b.carriers && a.bearers == b.bearers);
        let groups = together(groups, |a, b| a.carriers == b.carriers && a.actors == b.actors);
        let groups = together(groups, |a, b| a.bearers == b.bearers && a.actors == b.actors);
        let grants = || groups.iter().flat_map(|group| group.cells).flat_map(|cell| &cell.grants);
        let by_name = |mut ids: Vec<RuleId>| {
            ids.sort_by_key(|id| &policy.rule(*id).name);
            ids.dedup();
            ids
        };
        let allows = by_name(grants().map(|grant| grant.rule).collect());
        let barriers =
            by_name(grants().flat_map(|grant| grant.denies.iter().chain(&grant.requires)).copied().collect());
        View { policy, matrix, at, groups, allows, barriers }
    }

    pub fn parts(&self) -> &'a PolicyParts {
        self.policy.parts()
    }

    pub fn rule(&self, id: RuleId) -> &'a Rule {
        self.policy.rule(id)
    }

    /// The number of an allow.
    pub fn number(&self, rule: RuleId) -> usize {
        self.allows.iter().position(|id| *id == rule).map_or(0, |at| at + 1)
    }

    /// The letter of a deny or require.
    pub fn letter(&self, rule: RuleId) -> String {
        let at = self.barriers.iter().position(|id| *id == rule).unwrap_or_default();
        let letter =
            |at: usize| (b'a'..=b'z').map(char::from).nth(at % 26).map(String::from).unwrap_or_default();
        if at < 26 { letter(at) } else { format!("{}{}", letter(at / 26 - 1), letter(at)) }
    }

    /// What an allow wants that rows and columns do not say.
    pub fn conditions(&self, rule: RuleId) -> Vec<String> {
        access::conditions(self.policy, self.rule(rule))
    }

    /// All that a deny or require says.
    pub fn says(&self, rule: RuleId) -> Vec<String> {
        access::says(self.policy, self.rule(rule))
    }

    /// As `1`, or `1 but not a, only with b`.
    pub fn grants(&self, cell: &Cell) -> Vec<String> {
        let one = |grant: &access::Grant| {
            let letters =
                |ids: &[RuleId]| ids.iter().map(|id| self.letter(*id)).collect::<Vec<_>>().join(" ");
            let mut said = self.number(grant.rule).to_string();
            for (sign, ids) in [("−", &grant.denies), ("+", &grant.requires)] {
                if !ids.is_empty() {
                    said += &format!(" {sign}{}", letters(ids));
                }
            }
            said
        };
        cell.grants.iter().map(one).collect()
    }

    /// One cell in words.
    pub fn in_words(&self, cell: &Cell) -> Vec<String> {
        let named = |ids: &[RuleId]| {
            let names: Vec<_> = ids.iter().map(|id| format!("“{}”", self.rule(*id).name)).collect();
            names.join(", ")
        };
        let one = |grant: &access::Grant| {
            let mut said = format!("“{}”", self.rule(grant.rule).name);
            let conditions = self.conditions(grant.rule);
            if !grant.always && !conditions.is_empty() {
                said += &format!(": {}", conditions.join(", "));
            }
            if !grant.denies.is_empty() {
                said += &format!("; but not where deny {}", named(&grant.denies));
            }
            if !grant.requires.is_empty() {
                said += &format!("; where it reaches, require {}", named(&grant.requires));
            }
            said
        };
        cell.grants.iter().map(one).collect()
    }

    /// Methods of a column, or "other".
    pub fn methods(column: &Column) -> Vec<String> {
        let named: Vec<String> = column.methods.iter().map(ToString::to_string).collect();
        if named.is_empty() { vec!["other".to_owned()] } else { named }
    }

    /// The columns that anybody reaches, alike ones together.
    pub fn spans(&self) -> Vec<Span> {
        let mut found: Vec<Span> = Vec::new();
        for (at, column) in self.matrix.columns.iter().enumerate() {
            let of = |group: &Group<'_>, at: usize| self.meaning(&group.cells[at]);
            if self.groups.iter().all(|group| group.cells[at].grants.is_empty()) {
                continue;
            }
            let same = found.iter_mut().find(|span| {
                let other = &self.matrix.columns[span.at];
                other.route == column.route
                    && self.groups.iter().all(|group| of(group, at) == of(group, span.at))
            });
            let route = self.policy.route(column.route).name.to_string();
            match same {
                Some(span) => span.methods.extend(View::methods(column)),
                None => found.push(Span { at, route, methods: View::methods(column) }),
            }
        }
        found
    }

    /// Routes that are not enforced yet, with when that ends.
    pub fn unenforced(&self) -> Vec<(String, Timestamp)> {
        let routes = self.parts().routes.iter();
        let until = routes.filter_map(|route| Some((route.name.to_string(), route.shadow_until?)));
        until.filter(|(_, until)| self.at < *until).collect()
    }

    /// Kinds of requesters that reach nothing at all.
    pub fn closed_rows(&self) -> usize {
        self.matrix.rows.iter().filter(|row| !row.is_open()).count()
    }

    pub fn carriers(&self, group: &Group<'_>) -> Vec<&'a str> {
        group.carriers.iter().map(|carrier| carrier.name(self.parts())).collect()
    }

    pub fn bearers(&self, group: &Group<'_>) -> Vec<&'a str> {
        group.bearers.iter().map(|bearer| bearer.name(self.parts())).collect()
    }

    fn meaning(&self, cell: &Cell) -> (bool, Vec<String>) {
        (cell.is_always(), self.grants(cell))
    }
}

impl Group<'_> {
    pub fn has_agents(&self) -> bool {
        self.actors.iter().any(|actor| actor.is_agent())
    }

    pub fn actors(&self) -> Vec<String> {
        self.actors.iter().map(ToString::to_string).collect()
    }

    fn is_like(&self, other: &Group<'_>) -> bool {
        let same = |a: &Cell, b: &Cell| {
            a.grants.len() == b.grants.len()
                && a.grants.iter().zip(&b.grants).all(|(a, b)| {
                    a.rule == b.rule
                        && a.always == b.always
                        && a.denies == b.denies
                        && a.requires == b.requires
                })
        };
        self.cells.iter().zip(other.cells).all(|(a, b)| same(a, b))
    }
}

/// Puts groups together that are alike and may stand as one.
fn together<'a>(groups: Vec<Group<'a>>, may: impl Fn(&Group<'a>, &Group<'a>) -> bool) -> Vec<Group<'a>> {
    let mut found: Vec<Group<'a>> = Vec::new();
    for group in groups {
        match found.iter_mut().find(|other| may(other, &group) && other.is_like(&group)) {
            Some(other) => {
                add(&mut other.carriers, group.carriers);
                add(&mut other.bearers, group.bearers);
                add(&mut other.actors, group.actors);
            }
            None => found.push(group),
        }
    }
    found
}

fn add<T: PartialEq>(all: &mut Vec<T>, more: Vec<T>) {
    for one in more {
        if !all.contains(&one) {
            all.push(one);
        }
    }
}
