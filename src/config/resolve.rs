//! What was typed becomes what the program runs on; what is wrong with it is collected, all of it.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Typed;
use super::credentials::check_routes;
use super::error::{Diagnostics, Report};
use super::file::{Admin, File};
use super::issuers::issuers;
use super::listeners::{self, ListenerSettings};
use super::material::Material;
use super::names::{Names, entries, items, roles, services};
use super::places::Places;
use super::revocation::{self, RevocationSettings};
use super::routes::routes;
use super::rules::{TypedRule, Vocabulary, rule, typed_rules};
use super::settings::{self, LogSettings};
use super::source::{At, Sources};
use super::tree::SYNTAX;
use super::upstreams::{IssuerServer, UpstreamConfig, issuer_servers, upstreams};
use super::vouching::Vouching;
use super::{assertion, canonical, effective, hops, lints, own_identity, surroundings};
use crate::audit::SinkSettings;
use crate::clock::Timestamp;
use crate::decisions::DecisionsSettings;
use crate::identity::{Direction, Name};
use crate::policy::difference::Approach;
use crate::policy::lint::Finding;
use crate::policy::{Policy, PolicyParts};
use crate::proxy::assertion::AssertionSettings;
use crate::proxy::hop::{HopKind, KnownBy, TrustedHop};
use crate::proxy::limits::Limits;
use crate::proxy::normalize::OddNames;
use crate::proxy::route::RouteSettings;
use crate::revocation::Revocations;
use crate::tls::source::SourceSettings;
use crate::tls::{ClientCertificates, Own, OwnCertificate, Trust};
use crate::token::{IssuerSettings, TokenCacheSettings};

/// A configuration that can be run.
#[derive(Debug)]
pub struct Config {
    /// This instance.
    pub name: Name,
    /// Threads that serve.
    pub workers: usize,
    pub admin: Option<SocketAddr>,
    pub health: Option<SocketAddr>,
    /// By name.
    pub listeners: Vec<ListenerSettings>,
    /// `[identity]`.
    pub own: Option<Own>,
    /// Where it comes from, unless from files.
    pub source: Option<SourceSettings>,
    /// By `IssuerId`.
    pub issuers: Vec<IssuerSettings>,
    /// By `UpstreamId`.
    pub issuer_servers: Vec<IssuerServer>,
    pub upstreams: Vec<UpstreamConfig>,
    /// By `RouteId`.
    pub routes: Vec<RouteSettings>,
    /// By whose word callers are known; those that speak the PROXY protocol are with their listeners.
    pub hops: Vec<TrustedHop>,
    /// Who vouches for the certificates that these tell: all trust domains.
    pub trust: Option<Arc<Trust>>,
    /// `[assertion]`.
    pub assertion: Option<AssertionSettings>,
    pub policy: Policy,
    /// `[revocation]`.
    pub revocation: Option<RevocationSettings>,
    /// What its list says.
    pub revoked: Revocations,
    pub audit: SinkSettings,
    pub limits: Limits,
    pub odd_names: OddNames,
    pub decisions: DecisionsSettings,
    pub tokens: TokenCacheSettings,
    pub log: LogSettings,
    /// All files as one, with variables, presets and defaults filled in.
    pub resolved: toml::Table,
    /// What `check` has to say although it can be run.
    pub report: Report,
}

impl Config {
    /// How requests come to the policy; a configuration without listeners takes whoever it is told of.
    pub fn approach(&self) -> Approach {
        let names = |kind: &str| {
            let table = self.resolved.get(kind).and_then(toml::Value::as_table);
            table.into_iter().flat_map(toml::Table::keys)
        };
        let inbound = || self.listeners.iter().filter(|listener| listener.direction == Direction::Inbound);
        let clients = || inbound().map(|listener| Some(&listener.tls.as_ref()?.clients));
        let asks = clients().any(|clients| clients.is_some_and(|clients| clients.trust().is_some()));
        let none = self.listeners.is_empty();
        let takes_nobody = none || clients().any(|it| !matches!(it, Some(ClientCertificates::Required(_))));
        let takes_peers = none || asks;
        let is_heard = |hop: &&TrustedHop| match (hop.kind, &hop.known_by) {
            (HopKind::Countersign, _) => false,
            // with a certificate of its own it is that workload
            (HopKind::Certificate(_), KnownBy::Address(_)) => takes_nobody,
            (HopKind::Certificate(_), KnownBy::SpiffeId(_)) => takes_peers,
        };
        Approach {
            takes_nobody,
            takes_peers,
            telling: self.hops.iter().filter(is_heard).map(|hop| hop.name.clone()).collect(),
            trust_domains: names("trust_domain").filter_map(|name| name.parse().ok()).collect(),
            hops: names("trusted_hop").filter_map(|name| name.parse().ok()).collect(),
        }
    }
}

/// What the policy is made of, and what stands beside it at the same positions.
struct Resolved {
    parts: PolicyParts,
    issuers: Vec<IssuerSettings>,
    upstreams: Vec<UpstreamConfig>,
    routes: Vec<RouteSettings>,
}

pub fn resolve(
    typed: Option<Typed>,
    mut sources: Sources,
    mut found: Diagnostics,
    mut material: Material<'_>,
) -> Result<Config, Report> {
    let Some(Typed { file, merged }) = typed else {
        return Err(Report::new(sources, found, material.watched));
    };
    let typed = &file.value;
    let limits = settings::limits(typed);
    let (own, source) = own_identity::own(typed, &mut material, &mut found);
    let trust = listeners::trust(typed, &mut material, &mut found);
    let listeners = listeners::listeners(typed, own.as_ref(), trust.as_ref(), &mut material, &mut found);
    if let Some(trust) = trust.as_deref() {
        let (own, listeners) = (own.as_ref(), &listeners[..]);
        Vouching { file: typed, own, trust, listeners, now: material.now }.look(&mut found);
    }
    let hops = hops::hops(typed, &mut found);
    let assertion = assertion::assertion(typed, &mut found);
    let (issuer_names, issuers) = issuers(typed, &sources, &mut material, &mut found);
    let issuer_servers = issuer_servers(typed, own.as_ref(), trust.as_ref(), &mut material, &mut found);
    check_routes(typed, &mut found);
    let named = (&issuer_names, &issuers[..]);
    let upstreams = upstreams(typed, own.as_ref(), trust.as_ref(), named, &mut material, &mut found);
    let rules = typed_rules(typed, &mut found);
    let (revocation, revoked) = revocation::configured(typed, &mut sources, material.now, &mut found);
    let resolved = parts(typed, &rules, (issuer_names, issuers), upstreams, &limits, &mut found);
    let Resolved { parts, issuers, upstreams, routes } = resolved;
    let presented = own.as_ref().and_then(Own::known);
    let policy = policy(&file, &rules, (presented, parts), &issuers, material.now, &mut found);
    drop_consequences(&sources, &mut found);
    if !found.has_errors() && !policy.as_ref().is_some_and(|policy| is_whole(typed, policy, &listeners)) {
        let message = "this configuration cannot be resolved whole, and nothing says why";
        found.error("internal", file.span, message, "this is a fault of the program: please report it");
    }
    let (Some(policy), Some(name), false) = (policy, settings::name(typed), found.has_errors()) else {
        return Err(Report::new(sources, found, material.watched));
    };
    let none = Admin::default();
    let admin = typed.admin.as_ref().map_or(&none, |admin| &admin.value);
    let (tokens, decisions) = settings::caches(typed);
    let config = Config {
        name,
        workers: settings::workers(typed),
        admin: admin.address.map(|address| address.value),
        health: admin.health_address.map(|address| address.value),
        listeners,
        own,
        source,
        issuers,
        issuer_servers,
        upstreams,
        routes,
        hops,
        trust,
        assertion,
        policy,
        revocation,
        revoked,
        audit: settings::audit(typed),
        limits,
        odd_names: settings::odd_names(typed),
        decisions,
        tokens,
        log: settings::log(typed),
        resolved: toml::Table::new(),
        report: Report::new(sources, found, material.watched),
    };
    Ok(Config { resolved: effective::filled(merged, &config), ..config })
}

/// The policy, with what it finds wrong with itself; also where something else is wrong already, so
/// that all is told at once.
fn policy(
    file: &At<File>,
    rules: &[TypedRule<'_>],
    (own, parts): (Option<&OwnCertificate>, PolicyParts),
    issuers: &[IssuerSettings],
    now: Timestamp,
    found: &mut Diagnostics,
) -> Option<Policy> {
    let places = Places::new(file, rules, &parts);
    let hash = canonical::hash(&parts, issuers);
    match Policy::compile(parts, hash, now) {
        Ok((policy, findings)) => {
            // What looks odd may do so only because a table next to it could not be read.
            if !found.has_errors() {
                places.add(findings, &file.value, found);
                surroundings::look(&file.value, own, policy.parts(), now, found);
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
fn parts(
    file: &File,
    typed: &[TypedRule<'_>],
    (issuer_names, issuers): (Names, Vec<IssuerSettings>),
    upstreams: Vec<UpstreamConfig>,
    limits: &Limits,
    found: &mut Diagnostics,
) -> Resolved {
    let (service_names, services) = services(file, &issuer_names, found);
    let (role_names, roles) = roles(file, &issuer_names, found);
    let named = entries(&file.upstream).iter().map(|(name, _)| {
        let upstream = upstreams.iter().find(|upstream| upstream.name == name.value);
        (name.value.to_string(), upstream.map(|upstream| upstream.name.clone()))
    });
    let (upstream_names, upstream_ids) = Names::number("upstream", "unknown_upstream", named);
    let known = Vocabulary {
        issuers: issuer_names,
        services: service_names,
        roles: role_names,
        upstreams: upstream_names,
        hops: hops::told(file).cloned().collect(),
    };
    let (route_names, routes) = routes(file, &known, limits, found);
    let (routes, route_settings) = routes.into_iter().unzip();
    lints::check(file, typed, &known, &route_names, found);
    let rules = typed.iter().filter_map(|typed| rule(*typed, &known, &route_names, found)).collect();
    let facts = issuers.iter().map(IssuerSettings::facts).collect();
    let redact = settings::redact(file);
    let parts =
        PolicyParts { issuers: facts, services, roles, routes, upstreams: upstream_ids, rules, redact };
    Resolved { parts, issuers, upstreams, routes: route_settings }
}

/// Whether nothing was left out in silence: a rule that was could be a deny.
fn is_whole(file: &File, policy: &Policy, listeners: &[ListenerSettings]) -> bool {
    let parts = policy.parts();
    let rules = items(&file.allow).len() + items(&file.deny).len() + items(&file.require).len();
    listeners.len() == entries(&file.listener).len()
        && parts.issuers.len() == entries(&file.issuer).len()
        && parts.services.len() == entries(&file.service).len()
        && parts.roles.len() == entries(&file.role).len()
        && parts.upstreams.len() == entries(&file.upstream).len()
        && parts.routes.len() == entries(&file.route).len()
        && parts.rules.len() == rules
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
