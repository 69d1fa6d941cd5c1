//! Where the things of a policy were typed, so that what the policy finds is shown with its line.

use super::error::{Diagnostic, Diagnostics};
use super::file::File;
use super::file_policy as typed;
use super::names::{entries, items};
use super::read::Keyed;
use super::rules::TypedRule;
use super::source::{At, Span};
use crate::identity::Name;
use crate::policy::PolicyParts;
use crate::policy::lint::{Finding, Item, Place};

/// A named table as typed.
type Named<'f, T> = &'f (At<Name>, At<T>);

/// The tables as typed, in the order of the policy's positions.
pub struct Places<'f> {
    start: Span,
    rules: Vec<&'f At<typed::Rule>>,
    roles: Vec<Named<'f, typed::Role>>,
    services: Vec<Named<'f, typed::Service>>,
    routes: Vec<Named<'f, typed::Route>>,
}

impl<'f> Places<'f> {
    pub fn new(file: &'f At<File>, rules: &[TypedRule<'f>], parts: &PolicyParts) -> Places<'f> {
        let rule_name = |rule: &typed::Rule| rule.name.as_ref().map(|name| name.value.clone());
        let typed_rule = |name: &str| {
            rules
                .iter()
                .find(|(_, rule)| rule_name(&rule.value).as_deref() == Some(name))
                .map(|(_, rule)| *rule)
        };
        Places {
            start: file.span,
            rules: parts.rules.iter().filter_map(|rule| typed_rule(&rule.name)).collect(),
            roles: in_order(&file.value.role, parts.roles.iter().map(|role| &role.name)),
            services: in_order(&file.value.service, parts.services.iter().map(|service| &service.name)),
            routes: in_order(&file.value.route, parts.routes.iter().map(|route| &route.name)),
        }
    }

    fn span(&self, place: Place) -> Span {
        let key = |find: &dyn Fn(&str) -> Option<Span>| place.key.and_then(find);
        let span = match place.item {
            Item::Rule(id) => self.rules.get(id.index()).map(|rule| {
                let name = rule.value.name.as_ref().map_or(rule.span, |name| name.span);
                key(&|key| rule.value.span_of(key)).unwrap_or(name)
            }),
            Item::Role(id) => self
                .roles
                .get(id.index())
                .map(|(name, role)| key(&|key| role.value.span_of(key)).unwrap_or(name.span)),
            Item::Service(id) => self
                .services
                .get(id.index())
                .map(|(name, service)| key(&|key| service.value.span_of(key)).unwrap_or(name.span)),
            Item::Route(id) => self
                .routes
                .get(id.index())
                .map(|(name, route)| key(&|key| route.value.span_of(key)).unwrap_or(name.span)),
        };
        span.unwrap_or(self.start)
    }

    /// Whether `[lint] allow` names this finding and its place.
    fn is_allowed(&self, finding: &Finding, file: &File) -> bool {
        let allowed = file.lint.as_ref().map_or(&[][..], |lint| items(&lint.value.allow));
        allowed.iter().any(|allow| {
            let allow = &allow.value;
            let code = allow.code.as_ref().is_some_and(|code| code.value == finding.code);
            let places = [&allow.role, &allow.service, &allow.route];
            let anywhere = allow.rule.is_none() && places.iter().all(|place| place.is_none());
            let name = |wanted: &Option<At<Name>>, id: Option<&At<Name>>| {
                wanted.as_ref().zip(id).is_some_and(|(wanted, name)| wanted.value == name.value)
            };
            let here = match finding.place.item {
                Item::Rule(id) => {
                    let rule = self.rules.get(id.index()).and_then(|rule| rule.value.name.as_ref());
                    allow.rule.as_ref().zip(rule).is_some_and(|(wanted, rule)| wanted.value == rule.value)
                }
                Item::Role(id) => name(&allow.role, self.roles.get(id.index()).map(|(name, _)| name)),
                Item::Service(id) => {
                    name(&allow.service, self.services.get(id.index()).map(|(name, _)| name))
                }
                Item::Route(id) => name(&allow.route, self.routes.get(id.index()).map(|(name, _)| name)),
            };
            code && (anywhere || here)
        })
    }

    /// Adds what the policy found, but for findings that the file allows; errors cannot be allowed.
    pub fn add(&self, findings: Vec<Finding>, file: &File, found: &mut Diagnostics) {
        for finding in findings {
            if finding.severity != crate::policy::lint::Severity::Error && self.is_allowed(&finding, file) {
                continue;
            }
            found.push(Diagnostic {
                severity: finding.severity,
                code: finding.code,
                span: self.span(finding.place),
                message: finding.message,
                remedy: finding.remedy,
                related: None,
            });
        }
    }
}

fn in_order<'f, 'p, T>(
    table: &'f Option<At<Keyed<Name, T>>>,
    names: impl Iterator<Item = &'p Name>,
) -> Vec<Named<'f, T>> {
    let table = entries(table);
    names.filter_map(|name| table.iter().find(|(typed, _)| typed.value == *name)).collect()
}
