//! Where the things of a policy were typed, so that what the policy finds is shown with its line.

use super::error::{Diagnostic, Diagnostics};
use super::file::{File, Upstream};
use super::file_policy as typed;
use super::lints::{self, Subject};
use super::names::entries;
use super::read::Keyed;
use super::rules::TypedRule;
use super::source::{At, Span};
use crate::identity::Name;
use crate::policy::PolicyParts;
use crate::policy::lint::{Finding, Item, Place, Severity};

/// A named table as typed.
type Named<'f, T> = &'f (At<Name>, At<T>);

/// The tables as typed, in the order of the policy's positions.
pub struct Places<'f> {
    start: Span,
    rules: Vec<&'f At<typed::Rule>>,
    roles: Vec<Named<'f, typed::Role>>,
    services: Vec<Named<'f, typed::Service>>,
    issuers: Vec<Named<'f, typed::Issuer>>,
    routes: Vec<Named<'f, typed::Route>>,
    upstreams: Vec<Named<'f, Upstream>>,
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
            issuers: in_order(&file.value.issuer, parts.issuers.iter().map(|issuer| &issuer.name)),
            routes: in_order(&file.value.route, parts.routes.iter().map(|route| &route.name)),
            upstreams: in_order(&file.value.upstream, parts.upstreams.iter()),
        }
    }

    /// Where a place was typed, and what `[lint] allow` would call it.
    fn find(&self, place: Place) -> (Span, Option<Subject<'f>>) {
        let found = match place.item {
            Item::Rule(id) => self.rules.get(id.index()).map(|rule| {
                let name = rule.value.name.as_ref();
                let span = place.key.and_then(|key| rule.value.span_of(key));
                let span = span.or(name.map(|name| name.span)).unwrap_or(rule.span);
                (span, name.map(|name| Subject::Rule(&name.value)))
            }),
            Item::Role(id) => named(&self.roles, id.index(), place.key, typed::Role::span_of, Subject::Role),
            Item::Service(id) => {
                named(&self.services, id.index(), place.key, typed::Service::span_of, Subject::Service)
            }
            Item::Issuer(id) => {
                named(&self.issuers, id.index(), place.key, typed::Issuer::span_of, Subject::Issuer)
            }
            Item::Route(id) => {
                named(&self.routes, id.index(), place.key, typed::Route::span_of, Subject::Route)
            }
            Item::Upstream(id) => {
                named(&self.upstreams, id.index(), place.key, Upstream::span_of, Subject::Upstream)
            }
        };
        found.unwrap_or((self.start, None))
    }

    /// Adds what the policy found, but for findings that the file allows; errors cannot be allowed.
    pub fn add(&self, findings: Vec<Finding>, file: &File, found: &mut Diagnostics) {
        for finding in findings {
            let (span, subject) = self.find(finding.place);
            if finding.severity != Severity::Error && lints::is_allowed(file, finding.code, subject) {
                continue;
            }
            found.push(Diagnostic {
                severity: finding.severity,
                code: finding.code,
                span,
                message: finding.message,
                remedy: finding.remedy,
                related: None,
            });
        }
    }
}

fn named<'f, T>(
    table: &[Named<'f, T>],
    at: usize,
    key: Option<&str>,
    span_of: impl Fn(&T, &str) -> Option<Span>,
    subject: fn(&'f Name) -> Subject<'f>,
) -> Option<(Span, Option<Subject<'f>>)> {
    let (name, typed) = table.get(at)?;
    let span = key.and_then(|key| span_of(&typed.value, key)).unwrap_or(name.span);
    Some((span, Some(subject(&name.value))))
}

fn in_order<'f, 'p, T>(
    table: &'f Option<At<Keyed<Name, T>>>,
    names: impl Iterator<Item = &'p Name>,
) -> Vec<Named<'f, T>> {
    let table = entries(table);
    names.filter_map(|name| table.iter().find(|(typed, _)| typed.value == *name)).collect()
}
