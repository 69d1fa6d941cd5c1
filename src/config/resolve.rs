//! What was typed becomes what the program runs on; what is wrong with it is collected, all of it.

use super::error::{Diagnostics, Report};
use super::file::File;
use super::issuers::issuers;
use super::names::{Names, entries, refuse_reserved, roles, services};
use super::places::Places;
use super::rules::{TypedRule, Vocabulary, routes, rule, typed_rules};
use super::source::{At, Sources};
use super::tree::SYNTAX;
use super::{canonical, listeners, settings, upstreams};
use crate::clock::Timestamp;
use crate::policy::lint::Finding;
use crate::policy::{Policy, PolicyParts};
use crate::proxy::limits::Limits;

/// A configuration that can be run.
#[derive(Debug)]
pub struct Config {
    pub policy: Policy,
    pub limits: Limits,
    /// What `check` has to say although it can be run.
    pub report: Report,
}

pub fn resolve(
    file: Option<At<File>>,
    sources: Sources,
    mut found: Diagnostics,
    now: Timestamp,
) -> Result<Config, Report> {
    let Some(file) = file else {
        return Err(Report::new(sources, found));
    };
    listeners::check(&file.value, &mut found);
    upstreams::check(&file.value, &mut found);
    let policy = policy(&file, now, &mut found);
    drop_consequences(&sources, &mut found);
    match policy {
        Some(policy) if !found.has_errors() => {
            let limits = settings::limits(&file.value);
            Ok(Config { policy, limits, report: Report::new(sources, found) })
        }
        _ => Err(Report::new(sources, found)),
    }
}

/// The policy, with what it finds wrong with itself; also where something else is wrong already, so
/// that all is told at once.
fn policy(file: &At<File>, now: Timestamp, found: &mut Diagnostics) -> Option<Policy> {
    let typed = typed_rules(&file.value, found);
    let parts = parts(&file.value, &typed, found);
    let places = Places::new(file, &typed, &parts);
    let hash = canonical::hash(&parts);
    match Policy::compile(parts, hash, now) {
        Ok((policy, findings)) => {
            // What looks odd may do so only because a table next to it could not be read.
            if !found.has_errors() {
                places.add(findings, &file.value, found);
            }
            Some(policy)
        }
        Err(mut errors) => {
            if found.has_errors() {
                errors.retain(|error| rests_on_what_was_read(error, &file.value));
            }
            places.add(errors, &file.value, found);
            None
        }
    }
}

/// Whether an error is one also when something else could not be read: that nothing fulfils a rule is
/// not known while routes or roles are missing, nor what a token may lack while an issuer is.
fn rests_on_what_was_read(error: &Finding, file: &File) -> bool {
    match error.code {
        "never_holds" => false,
        "deny_evadable" => entries(&file.issuer).iter().all(|(_, issuer)| issuer.value.is_read()),
        _ => true,
    }
}

/// Services, roles, routes and rules.
fn parts(file: &File, typed: &[TypedRule<'_>], found: &mut Diagnostics) -> PolicyParts {
    refuse_reserved("upstream", &file.upstream, found);
    let (issuer_names, issuers) = issuers(file, found);
    let (service_names, services) = services(file, &issuer_names, found);
    let (role_names, roles) = roles(file, &issuer_names, found);
    let upstreams =
        entries(&file.upstream).iter().map(|(name, _)| (name.value.to_string(), Some(name.value.clone())));
    let (upstream_names, upstreams) = Names::number("upstream", "unknown_upstream", upstreams);
    let known = Vocabulary {
        issuers: issuer_names,
        services: service_names,
        roles: role_names,
        upstreams: upstream_names,
    };
    let (route_names, routes) = routes(file, &known, found);
    let rules: Vec<_> = typed.iter().filter_map(|typed| rule(*typed, &known, &route_names, found)).collect();
    PolicyParts { issuers, services, roles, routes, upstreams, rules }
}

/// A line that is not TOML has one error, not also those that follow from reading it wrongly.
fn drop_consequences(sources: &Sources, found: &mut Diagnostics) {
    let mut broken = Vec::new();
    found.retain(|diagnostic| {
        if diagnostic.code == SYNTAX {
            broken.push((diagnostic.span.file, sources.position(diagnostic.span).line));
        }
        true
    });
    found.retain(|diagnostic| {
        let line = (diagnostic.span.file, sources.position(diagnostic.span).line);
        diagnostic.code == SYNTAX || !broken.contains(&line)
    });
}
