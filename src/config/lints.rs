//! `[lint] allow`: which findings are meant to be so. An entry that names no finding, or a place that is not
//! there, would allow nothing and look as if it did.

use super::error::{Diagnostics, suggestion};
use super::file::{File, LintAllow};
use super::names::{Names, entries, items, known_trust_domain};
use super::read::Keyed;
use super::rules::{TypedRule, Vocabulary};
use super::source::At;
use crate::identity::{Name, TrustDomain};
use crate::policy::lint::Code;

/// What a finding is about, as an entry names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject<'f> {
    Rule(&'f str),
    Role(&'f Name),
    Service(&'f Name),
    Issuer(&'f Name),
    Route(&'f Name),
    Upstream(&'f Name),
    TrustDomain(&'f TrustDomain),
    Listener(&'f Name),
    TrustedHop(&'f Name),
}

impl LintAllow {
    /// The places it names; none stands for everywhere.
    fn subjects(&self) -> Vec<Subject<'_>> {
        fn named<'f, T>(key: &'f Option<At<T>>, subject: fn(&'f T) -> Subject<'f>) -> Option<Subject<'f>> {
            key.as_ref().map(|name| subject(&name.value))
        }
        let all = [
            self.rule.as_ref().map(|rule| Subject::Rule(&rule.value)),
            named(&self.role, Subject::Role),
            named(&self.service, Subject::Service),
            named(&self.issuer, Subject::Issuer),
            named(&self.route, Subject::Route),
            named(&self.upstream, Subject::Upstream),
            named(&self.trust_domain, Subject::TrustDomain),
            named(&self.listener, Subject::Listener),
            named(&self.trusted_hop, Subject::TrustedHop),
        ];
        all.into_iter().flatten().collect()
    }
}

/// Whether an entry names this finding, and its place or none.
pub fn is_allowed(file: &File, code: &str, subject: Option<Subject<'_>>) -> bool {
    let allowed = file.lint.as_ref().map_or(&[][..], |lint| items(&lint.value.allow));
    allowed.iter().map(|allow| &allow.value).any(|allow| {
        let places = allow.subjects();
        let here = places.is_empty() || subject.is_some_and(|subject| places.contains(&subject));
        here && allow.code.as_ref().is_some_and(|named| named.value == code)
    })
}

pub fn check(
    file: &File,
    rules: &[TypedRule<'_>],
    known: &Vocabulary,
    routes: &Names,
    found: &mut Diagnostics,
) {
    let codes = Code::ALL.iter().map(|code| code.as_str());
    let rule_names = rules.iter().filter_map(|(_, rule)| Some(rule.value.name.as_ref()?.value.as_str()));
    for allow in file.lint.as_ref().map_or(&[][..], |lint| items(&lint.value.allow)) {
        let allow = &allow.value;
        if let Some(code) = &allow.code
            && !codes.clone().any(|known| known == code.value)
        {
            let message = format!("`check` has no finding `{}`", code.value);
            found.error("unknown_word", code.span, message, suggestion(&code.value, codes.clone()));
        }
        if let Some(rule) = &allow.rule
            && !rule_names.clone().any(|name| name == rule.value)
        {
            let message = format!("no rule is called `{}`", rule.value);
            found.error("unknown_rule", rule.span, message, suggestion(&rule.value, rule_names.clone()));
        }
        for (names, place) in [
            (&known.roles, &allow.role),
            (&known.services, &allow.service),
            (&known.issuers, &allow.issuer),
            (routes, &allow.route),
            (&known.upstreams, &allow.upstream),
        ] {
            if let Some(name) = place {
                names.find(name.value.as_str(), name.span, found);
            }
        }
        if let Some(domain) = &allow.trust_domain {
            known_trust_domain(file, &domain.value, domain.span, found);
        }
        is_there(&allow.listener, &file.listener, ("listener", "unknown_listener"), found);
        is_there(&allow.trusted_hop, &file.trusted_hop, ("hop", "unknown_hop"), found);
    }
}

fn is_there<T>(
    name: &Option<At<Name>>,
    table: &Option<At<Keyed<Name, T>>>,
    (kind, code): (&'static str, &'static str),
    found: &mut Diagnostics,
) {
    let Some(name) = name else { return };
    let known = entries(table).iter().map(|(known, _)| known.value.as_str());
    if !known.clone().any(|known| known == name.value.as_str()) {
        let message = format!("no {kind} is called `{}`", name.value);
        found.error(code, name.span, message, suggestion(name.value.as_str(), known));
    }
}
