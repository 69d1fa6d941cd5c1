//! What was typed becomes what the program runs on; what is wrong with it is collected, all of it.

use super::error::{Diagnostics, Report};
use super::file::File;
use super::issuers::issuers;
use super::names::{Names, entries, refuse_reserved, roles, services};
use super::rules::{Vocabulary, routes, rule, typed_rules};
use super::source::{At, Sources};
use super::tree::SYNTAX;
use super::{listeners, settings, upstreams};
use crate::clock::Timestamp;
use crate::policy::PolicyParts;
use crate::proxy::limits::Limits;

/// A configuration that can be run.
#[derive(Debug)]
pub struct Config {
    pub policy: PolicyParts,
    pub limits: Limits,
    /// What `check` has to say although it can be run.
    pub report: Report,
}

pub fn resolve(
    file: Option<At<File>>,
    sources: Sources,
    mut found: Diagnostics,
    _now: Timestamp,
) -> Result<Config, Report> {
    let Some(file) = file else {
        return Err(Report::new(sources, found));
    };
    listeners::check(&file.value, &mut found);
    upstreams::check(&file.value, &mut found);
    let policy = policy(&file.value, &mut found);
    drop_consequences(&sources, &mut found);
    if found.has_errors() {
        return Err(Report::new(sources, found));
    }
    Ok(Config { policy, limits: settings::limits(&file.value), report: Report::new(sources, found) })
}

/// Services, roles, routes and rules.
fn policy(file: &File, found: &mut Diagnostics) -> PolicyParts {
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
    let typed = typed_rules(file, found);
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
