//! `[lint] allow`: an entry that names no finding, or a place that is not there, would allow nothing and
//! look as if it did.

use super::error::{Diagnostics, suggestion};
use super::file::File;
use super::names::{Names, items};
use super::rules::{TypedRule, Vocabulary};
use crate::policy::lint::CODES;

pub fn check(
    file: &File,
    rules: &[TypedRule<'_>],
    known: &Vocabulary,
    routes: &Names,
    found: &mut Diagnostics,
) {
    let rule_names = rules.iter().filter_map(|(_, rule)| Some(rule.value.name.as_ref()?.value.as_str()));
    for allow in file.lint.as_ref().map_or(&[][..], |lint| items(&lint.value.allow)) {
        let allow = &allow.value;
        if let Some(code) = &allow.code
            && !CODES.contains(&code.value.as_str())
        {
            let message = format!("`check` has no finding `{}`", code.value);
            found.error("unknown_word", code.span, message, suggestion(&code.value, CODES));
        }
        if let Some(rule) = &allow.rule
            && !rule_names.clone().any(|name| name == rule.value)
        {
            let message = format!("no rule is called `{}`", rule.value);
            found.error("unknown_rule", rule.span, message, suggestion(&rule.value, rule_names.clone()));
        }
        for (names, place) in
            [(&known.roles, &allow.role), (&known.services, &allow.service), (routes, &allow.route)]
        {
            if let Some(name) = place {
                names.find(name.value.as_str(), name.span, found);
            }
        }
    }
}
