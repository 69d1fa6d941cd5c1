//! One line a cell, for spreadsheets and for comparing two of them (RFC 4180).

use super::view::{Reach, View};
use crate::cli::ink::shown;

const HEAD: [&str; 8] = ["service", "role", "actor", "route", "method", "access", "rules", "conditions"];

pub fn table(view: &View<'_>) -> String {
    let mut out = String::new();
    record(&mut out, HEAD.map(ToOwned::to_owned));
    for row in &view.matrix.rows {
        for (cell, column) in row.cells.iter().zip(&view.matrix.columns) {
            let rules: Vec<_> = cell.grants.iter().map(|grant| &*view.rule(grant.rule).name).collect();
            for method in View::methods(column) {
                record(
                    &mut out,
                    [
                        row.carrier.name(view.policy.parts()).to_owned(),
                        row.bearer.name(view.policy.parts()).to_owned(),
                        row.actor.to_string(),
                        view.policy.route(column.route).name.to_string(),
                        method,
                        Reach::of(cell).word().to_owned(),
                        rules.join("; "),
                        view.in_words(cell).join(" | "),
                    ],
                );
            }
        }
    }
    out
}

fn record(out: &mut String, fields: [String; HEAD.len()]) {
    let fields = fields.map(|field| quoted(&field));
    out.push_str(&fields.join(","));
    out.push_str("\r\n");
}

/// What a spreadsheet would take for a formula gets an apostrophe in front.
fn quoted(field: &str) -> String {
    let formula =
        field.starts_with(['=', '+', '@', '\t', '\r']) || (field.starts_with('-') && field.len() > 1);
    let guard = if formula { "'" } else { "" };
    format!("\"{guard}{}\"", shown(field).replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_a_formula_or_ends_a_field() {
        assert_eq!(quoted("plain"), "\"plain\"");
        assert_eq!(quoted("a\",\"b"), "\"a\"\",\"\"b\"");
        assert_eq!(quoted("=1+1"), "\"'=1+1\"");
        assert_eq!(quoted("-2+3"), "\"'-2+3\"");
        assert_eq!(quoted("-"), "\"-\"");
    }
}
