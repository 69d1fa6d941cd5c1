//! The table for programs: the open cells, each with a request that shows it.

use serde_json::{Value, json};

use super::view::{Reach, View};
use crate::access::{Bearer, Carrier, Cell, Column, Grant, Row, SIDE};
use crate::cli::diff::witness::{Shown, settings};
use crate::clock::Timestamp;
use crate::policy::RuleId;
use crate::token::IssuerSettings;

/// What commands are written with.
pub struct Asked<'a> {
    pub files: &'a [String],
    pub issuers: &'a [IssuerSettings],
    /// A time that commands need not say.
    pub now: Timestamp,
}

pub fn table(view: &View<'_>, asked: &Asked<'_>) -> String {
    let rows = view.matrix.rows.iter().map(|row| row_of(view, row, asked));
    let columns = view.matrix.columns.iter().map(
        |column| json!({ "route": view.policy.route(column.route).name, "methods": View::methods(column) }),
    );
    let rules = view.allows.iter().chain(&view.barriers).map(|id| {
        let rule = view.rule(*id);
        json!({ "rule": rule.name, "effect": rule.effect.as_str(), "says": view.says(*id) })
    });
    let unenforced = view
        .unenforced()
        .into_iter()
        .map(|(route, until)| json!({ "route": route, "until": until.to_string() }));
    let answer = json!({
        "policy": view.policy.hash().to_string(),
        "at": view.at.to_string(),
        "columns": columns.collect::<Vec<_>>(),
        "rows": rows.collect::<Vec<_>>(),
        "rules": rules.collect::<Vec<_>>(),
        "unenforced": unenforced.collect::<Vec<_>>(),
    });
    format!("{answer:#}\n")
}

fn row_of(view: &View<'_>, row: &Row, asked: &Asked<'_>) -> Value {
    let open = row.cells.iter().zip(&view.matrix.columns).filter(|(cell, _)| !cell.grants.is_empty());
    json!({
        "service": match row.carrier {
            Carrier::Nobody => None,
            Carrier::Service(_) => Some(row.carrier.name(view.policy.parts())),
        },
        "role": match row.bearer {
            Bearer::Role(_) => Some(row.bearer.name(view.policy.parts())),
            Bearer::NoRole | Bearer::NoToken => None,
        },
        "token": row.bearer != Bearer::NoToken,
        "actor": row.actor.to_string(),
        "reaches": open.map(|(cell, column)| cell_of(view, cell, column, asked)).collect::<Vec<_>>(),
    })
}

fn cell_of(view: &View<'_>, cell: &Cell, column: &Column, asked: &Asked<'_>) -> Value {
    let names = |ids: &[RuleId]| ids.iter().map(|id| view.rule(*id).name.clone()).collect::<Vec<_>>();
    let grants = cell.grants.iter().map(|grant: &Grant| {
        let issuer = grant.witness.caller(SIDE).map(|caller| &caller.issuer);
        let shown = Shown::alone(&grant.witness, settings(issuer, asked.issuers.iter()), asked.now);
        json!({
            "rule": view.rule(grant.rule).name,
            "always": grant.always,
            "conditions": view.conditions(grant.rule),
            "denies": names(&grant.denies),
            "requires": names(&grant.requires),
            "explain": shown.explain(asked.files),
        })
    });
    json!({
        "route": view.policy.route(column.route).name,
        "methods": View::methods(column),
        "access": Reach::of(cell).word(),
        "grants": grants.collect::<Vec<_>>(),
    })
}
