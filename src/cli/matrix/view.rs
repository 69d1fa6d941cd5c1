//! The table as it is shown: requesters with the same rights together, rules by number.

use std::ops::Range;

use crate::access::{self, Actor, Bearer, Carrier, Cell, Column, Matrix};
use crate::clock::Timestamp;
use crate::policy::route::Route;
use crate::policy::rule::Rule;
use crate::policy::{Policy, PolicyParts, RuleId};

pub struct View<'a> {
    pub policy: &'a Policy,
    pub matrix: &'a Matrix,
    pub at: Timestamp,
    /// One for each route that anybody reaches.
    pub parts: Vec<Part<'a>>,
    /// By which anybody gets anywhere: numbered from 1 in this order.
    pub allows: Vec<RuleId>,
    /// Denies and requires that speak of requests of open cells: lettered in this order.
    pub barriers: Vec<RuleId>,
}

/// The table of one route.
pub struct Part<'a> {
    pub route: &'a Route,
    pub columns: &'a [Column],
    /// Those who reach it.
    pub groups: Vec<Group<'a>>,
    /// Of columns that somebody reaches.
    pub spans: Vec<Span>,
}

/// Rows with the same cells.
pub struct Group<'a> {
    pub carriers: Vec<Carrier>,
    pub bearers: Vec<Bearer>,
    pub actors: Vec<Actor>,
    pub cells: &'a [Cell],
}

/// Columns with the same cells in all rows.
pub struct Span {
    /// Of the first of them.
    pub at: usize,
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
        let mut parts = Vec::new();
        let mut from = 0;
        for columns in matrix.columns.chunk_by(|one, other| one.route == other.route) {
            let to = from + columns.len();
            parts.extend(Part::new(policy, columns, matrix, from..to));
            from = to;
        }
        let groups = || parts.iter().flat_map(|part| &part.groups);
        let grants = || groups().flat_map(|group| group.cells).flat_map(|cell| &cell.grants);
        let by_name = |mut ids: Vec<RuleId>| {
            ids.sort_by_key(|id| &policy.rule(*id).name);
            ids.dedup();
            ids
        };
        let allows = by_name(grants().map(|grant| grant.rule).collect());
        let barriers =
            by_name(grants().flat_map(|grant| grant.denies.iter().chain(&grant.requires)).copied().collect());
        View { policy, matrix, at, parts, allows, barriers }
    }

    fn tables(&self) -> &'a PolicyParts {
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

    /// Routes that are not enforced yet, with when that ends.
    pub fn unenforced(&self) -> Vec<(String, Timestamp)> {
        let routes = self.tables().routes.iter();
        let until = routes.filter_map(|route| Some((route.name.to_string(), route.shadow_until?)));
        until.filter(|(_, until)| self.at < *until).collect()
    }

    /// Kinds of requesters that reach nothing at all.
    pub fn closed_rows(&self) -> usize {
        self.matrix.rows.iter().filter(|row| !row.is_open()).count()
    }

    /// All names of a group's services and roles, to be searched.
    pub fn names(&self, group: &Group<'_>) -> [String; 2] {
        let services: Vec<_> = group.carriers.iter().map(|carrier| carrier.name(self.tables())).collect();
        let roles: Vec<_> = group.bearers.iter().map(|bearer| bearer.name(self.tables())).collect();
        [services.join(" "), roles.join(" ")]
    }

    /// The services of a group, in as few words as can be.
    pub fn services(&self, group: &Group<'_>) -> String {
        let is_service = |carrier: &Carrier| matches!(carrier, Carrier::Service(_));
        let all: Vec<Carrier> = self.matrix.rows.iter().map(|row| row.carrier).filter(is_service).collect();
        in_short(&group.carriers, all, "any service", |carrier| carrier.name(self.tables()))
    }

    /// The same of its roles.
    pub fn roles(&self, group: &Group<'_>) -> String {
        let has_token = |bearer: &Bearer| *bearer != Bearer::NoToken;
        let all: Vec<Bearer> = self.matrix.rows.iter().map(|row| row.bearer).filter(has_token).collect();
        in_short(&group.bearers, all, "any caller", |bearer| bearer.name(self.tables()))
    }
}

impl<'a> Part<'a> {
    fn new(
        policy: &'a Policy,
        columns: &'a [Column],
        matrix: &'a Matrix,
        at: Range<usize>,
    ) -> Option<Part<'a>> {
        let mut groups: Vec<Group<'a>> = Vec::new();
        for row in &matrix.rows {
            let cells = &row.cells[at.clone()];
            if cells.iter().any(|cell| !cell.grants.is_empty()) {
                let (carriers, bearers, actors) = (vec![row.carrier], vec![row.bearer], vec![row.actor]);
                groups.push(Group { carriers, bearers, actors, cells });
            }
        }
        let groups = together(groups, |a, b| a.carriers == b.carriers && a.bearers == b.bearers);
        let groups = together(groups, |a, b| a.carriers == b.carriers && a.actors == b.actors);
        let groups = together(groups, |a, b| a.bearers == b.bearers && a.actors == b.actors);
        let mut spans: Vec<Span> = Vec::new();
        for (at, column) in columns.iter().enumerate() {
            if groups.iter().all(|group| group.cells[at].grants.is_empty()) {
                continue;
            }
            let same = spans
                .iter_mut()
                .find(|span| groups.iter().all(|group| is_like(&group.cells[at], &group.cells[span.at])));
            match same {
                Some(span) => span.methods.extend(View::methods(column)),
                None => spans.push(Span { at, methods: View::methods(column) }),
            }
        }
        let route = policy.route(columns.first()?.route);
        (!groups.is_empty()).then_some(Part { route, columns, groups, spans })
    }
}

/// Whether the same rules say the same in both.
fn is_like(a: &Cell, b: &Cell) -> bool {
    a.grants.len() == b.grants.len()
        && a.grants.iter().zip(&b.grants).all(|(a, b)| {
            a.rule == b.rule && a.always == b.always && a.denies == b.denies && a.requires == b.requires
        })
}

impl Group<'_> {
    pub fn has_agents(&self) -> bool {
        self.actors.iter().any(|actor| actor.is_agent())
    }

    /// In as few words as can be.
    pub fn who_acts(&self) -> String {
        if Actor::WITH_TOKEN.iter().all(|actor| self.actors.contains(actor)) {
            return "any actor".to_owned();
        }
        self.actors().join(", ")
    }

    pub fn actors(&self) -> Vec<String> {
        self.actors.iter().map(ToString::to_string).collect()
    }

    fn is_like(&self, other: &Group<'_>) -> bool {
        self.cells.iter().zip(other.cells).all(|(a, b)| is_like(a, b))
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

/// Names of all, of nearly all as those that are not among them, or of each.
fn in_short<'n, T: Copy + Ord>(
    some: &[T],
    mut all: Vec<T>,
    every: &str,
    name: impl Fn(T) -> &'n str,
) -> String {
    all.sort_unstable();
    all.dedup();
    let names = |of: &[T]| of.iter().map(|one| name(*one)).collect::<Vec<_>>().join(", ");
    let without: Vec<T> = all.iter().copied().filter(|one| !some.contains(one)).collect();
    let others = some.iter().any(|one| !all.contains(one));
    match without.len() {
        _ if others || some.len() < 4 => names(some),
        0 => every.to_owned(),
        few if few * 3 <= all.len() => format!("{every} but {}", names(&without)),
        _ => names(some),
    }
}
