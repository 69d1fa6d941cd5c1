//! What files, variables, presets and defaults come to, in the form of one file, which says the same when
//! it is read: for people who ask why, and for a comparison of two environments. Relative paths stand as
//! they were typed.

use std::time::Duration;

use toml::{Table as Toml, Value as TomlValue};

use super::resolve::Config;
use super::tree::{Table, Value};
use super::upstreams::UpstreamConfig;
use crate::policy::claim::{ClaimPath, ClaimTest, ClaimValue};
use crate::proxy::normalize::OddNames;
use crate::proxy::route::RouteSettings;
use crate::tls::source::SourceSettings;
use crate::token::{ActorEntry, IssuerSettings, TokenType};
use crate::upstream::credential::CredentialKind;

/// The tree as TOML.
pub fn table(tree: &Table) -> Toml {
    tree.entries.iter().filter_map(|(key, entry)| Some((key.clone(), value(&entry.node.value)?))).collect()
}

fn value(node: &Value) -> Option<TomlValue> {
    Some(match node {
        Value::Text(text) => TomlValue::String(text.clone()),
        Value::Integer(number) => TomlValue::Integer((*number)?),
        Value::Boolean(value) => TomlValue::Boolean(*value),
        Value::Date(date) => TomlValue::Datetime(*date),
        Value::Array(items) => list(items.iter().filter_map(|item| value(&item.value))),
        Value::Table(inner) => TomlValue::Table(table(inner)),
        Value::Float | Value::Invalid => return None,
    })
}

/// Adds presets and defaults to what was typed.
pub fn filled(mut whole: Toml, config: &Config) -> Toml {
    within(&mut whole, "proxy", |proxy| {
        set(proxy, "name", config.name.to_string());
        set(proxy, "workers", count(config.workers));
        let odd_names = if config.odd_names == OddNames::Drop { "drop" } else { "refuse" };
        set(proxy, "odd_header_names", odd_names);
    });
    match &config.source {
        Some(SourceSettings::Consul(settings)) => within(&mut whole, "identity", |identity| {
            within(identity, "consul", |table| set(table, "address", settings.address.as_str()));
        }),
        Some(SourceSettings::AwsPrivateCa(settings)) => within(&mut whole, "identity", |identity| {
            within(identity, "aws_private_ca", |table| {
                set(table, "signing_algorithm", settings.signing_algorithm);
                set(table, "validity", time(settings.validity));
                set(table, "endpoint", settings.api.as_str());
            });
        }),
        Some(SourceSettings::WorkloadApi(_)) | None => {}
    }
    within(&mut whole, "issuer", |issuers| {
        for issuer in &config.issuers {
            within(issuers, issuer.name.as_str(), |table| fill_issuer(table, issuer));
        }
    });
    within(&mut whole, "listener", |listeners| {
        for listener in config.listeners.iter().filter(|listener| listener.tls.is_some()) {
            within(listeners, listener.name.as_str(), |table| set(table, "client_certificate", "required"));
        }
    });
    within(&mut whole, "upstream", |upstreams| {
        for upstream in &config.upstreams {
            within(upstreams, upstream.name.as_str(), |table| fill_upstream(table, upstream));
        }
    });
    within(&mut whole, "route", |routes| {
        for (route, settings) in config.policy.parts().routes.iter().zip(&config.routes) {
            let by_route = config
                .upstreams
                .get(route.upstream.index())
                .is_none_or(|upstream| upstream.credential.kind() == CredentialKind::ByRoute);
            within(routes, route.name.as_str(), |table| fill_route(table, settings, by_route));
        }
    });
    within(&mut whole, "limit", |table| fill_limits(table, config));
    within(&mut whole, "cache", |cache| {
        set(cache, "token_bytes_max", number(config.tokens.bytes_max));
        set(cache, "token_idle_time", time(config.tokens.idle_max));
        set(cache, "failed_token_entries_max", number(config.tokens.failures_max));
        set(cache, "failed_token_time", time(config.tokens.failure_lifetime));
        set(cache, "decision_entries_max", number(config.decisions.entries_max));
        set(cache, "decision_time_max", time(config.decisions.lifetime_max));
    });
    within(&mut whole, "audit", |audit| {
        set(audit, "output", "stdout");
        set(audit, "required", config.audit.required);
    });
    within(&mut whole, "log", |log| set(log, "level", config.log.level.as_str()));
    whole
}

fn fill_issuer(table: &mut Toml, issuer: &IssuerSettings) {
    let algorithms = issuer.algorithms.iter().map(|algorithm| TomlValue::from(algorithm.as_str()));
    set(table, "algorithms", list(algorithms));
    match issuer.token_type {
        TokenType::AccessToken => set(table, "token_type", "at+jwt"),
        TokenType::PLAIN => set(table, "token_type", "jwt"),
        // The preset's own, for which there is no word.
        TokenType::Provider(_) | TokenType::Assertion | TokenType::Alb { .. } => {}
    }
    set(table, "preset", "generic");
    set(table, "leeway", time(issuer.leeway));
    set(table, "max_stale", time(issuer.keys.max_stale));
    set(table, "rotation_grace", time(issuer.possession.rotation_grace));
    set(table, "dpop_proof_age_max", time(issuer.possession.proof_age_max));
    set(table, "dpop_nonce", issuer.possession.proof_nonce);
    if let Some(asked) = &issuer.introspection {
        within(table, "introspection", |table| set(table, "time_max", time(asked.time_max)));
    }
    within(table, "claims", |claims| {
        let map = &issuer.claims;
        set(claims, "subject", path(&map.subject));
        let optional = [
            ("client", &map.client),
            ("scopes", &map.scopes),
            ("groups", &map.groups),
            ("roles", &map.roles),
        ];
        for (key, claim) in optional {
            claim.iter().for_each(|claim| set(claims, key, path(claim)));
        }
    });
    if !issuer.actors.is_empty() {
        table.insert("actor".to_owned(), list(issuer.actors.iter().map(actor)));
    }
}

fn actor(entry: &ActorEntry) -> TomlValue {
    let mut table = Toml::new();
    set(&mut table, "kind", entry.kind.to_string());
    if !entry.claim.is_empty() {
        let test = |test: &ClaimTest| (test.claim.to_string(), list(test.values.iter().map(claim_value)));
        set(&mut table, "claim", entry.claim.iter().map(test).collect::<Toml>());
    }
    if let Some(same) = &entry.same {
        set(&mut table, "same", list(same.iter().map(path)));
    }
    TomlValue::Table(table)
}

fn fill_upstream(table: &mut Toml, upstream: &UpstreamConfig) {
    let weights = upstream.servers.iter().map(|(_, weight)| TomlValue::from(i64::from(weight.get())));
    set(table, "weight", list(weights));
    set(table, "identity_headers", upstream.identity_headers);
    set(table, "connect_timeout", time(upstream.connect_timeout));
    set(table, "first_byte_timeout", time(upstream.first_byte_timeout));
    set(table, "idle_timeout", time(upstream.idle_timeout));
    set(table, "eject_after_failures", i64::from(upstream.eject_after_failures));
}

fn fill_route(table: &mut Toml, route: &RouteSettings, by_route: bool) {
    set(table, "path", "/**");
    set(table, "total_timeout", time(route.total_timeout));
    set(table, "body_bytes_max", number(route.body_bytes_max));
    if by_route {
        set(table, "forward_authorization", route.forward_authorization);
    }
}

fn fill_limits(table: &mut Toml, config: &Config) {
    let limits = &config.limits;
    set(table, "connections_max", count(limits.connections_max));
    set(table, "connections_per_peer_max", count(limits.connections_per_peer_max));
    set(table, "handshakes_max", count(limits.handshakes_max));
    set(table, "handshakes_per_peer_max", count(limits.handshakes_per_peer_max));
    set(table, "handshake_timeout", time(limits.handshake_timeout));
    set(table, "header_bytes_max", count(limits.header_bytes_max));
    set(table, "header_count_max", count(limits.header_count_max));
    set(table, "header_timeout", time(limits.header_timeout));
    set(table, "body_bytes_max", number(limits.body_bytes_max));
    set(table, "token_bytes_max", count(limits.token.token_bytes_max));
    set(table, "json_depth_max", count(limits.token.json_depth_max));
    set(table, "json_values_max", count(limits.token.json_values_max));
    set(table, "scope_count_max", count(limits.token.scope_count_max));
    set(table, "group_count_max", count(limits.token.group_count_max));
    set(table, "delegation_depth_max", count(limits.token.delegation_depth_max));
    set(table, "dpop_proofs_max", count(limits.token.dpop_proofs_max));
    set(table, "introspection_pending_max", count(limits.token.introspection_pending_max));
    if let Some(issuer) = config.issuers.first() {
        set(table, "key_document_bytes_max", count(issuer.keys.document_bytes_max));
    }
    set(table, "requests_per_client_max", count(limits.requests_per_client_max));
    set(table, "upstream_in_flight_max", count(limits.upstream_in_flight_max));
    set(table, "upstream_pending_max", count(limits.upstream_pending_max));
    set(table, "streams_per_connection_max", i64::from(limits.streams_per_connection_max));
    set(table, "resets_per_connection_max", count(limits.resets_per_connection_max));
    set(table, "control_frames_per_connection_max", count(limits.control_frames_per_connection_max));
    set(table, "idle_timeout", time(limits.idle_timeout));
    set(table, "total_timeout", time(limits.total_timeout));
    set(table, "connection_age_max", time(limits.connection_age_max));
    set(table, "audit_queue_max", count(config.audit.queue_records_max));
    set(table, "audit_wait_timeout", time(config.audit.wait_max));
    set(table, "drain_timeout", time(limits.drain_timeout));
}

fn set(table: &mut Toml, key: &str, value: impl Into<TomlValue>) {
    table.entry(key).or_insert(value.into());
}

/// Changes the table of this name, which is made if it is not there.
fn within(table: &mut Toml, key: &str, change: impl FnOnce(&mut Toml)) {
    let place = table.entry(key).or_insert_with(|| TomlValue::Table(Toml::new()));
    if let TomlValue::Table(inner) = place {
        change(inner);
    }
}

fn claim_value(value: &ClaimValue) -> TomlValue {
    match value {
        ClaimValue::Text(glob) => TomlValue::String(glob.to_string()),
        ClaimValue::Integer(number) => TomlValue::Integer(*number),
        ClaimValue::Boolean(value) => TomlValue::Boolean(*value),
    }
}

/// As it is typed: one name, or a list of them.
fn path(path: &ClaimPath) -> TomlValue {
    match &path.0[..] {
        [name] => TomlValue::String(name.to_string()),
        names => list(names.iter().map(|name| TomlValue::String(name.to_string()))),
    }
}

fn list(items: impl IntoIterator<Item = TomlValue>) -> TomlValue {
    TomlValue::Array(items.into_iter().collect())
}

fn time(duration: Duration) -> String {
    match duration.subsec_millis() {
        0 => format!("{}s", duration.as_secs()),
        _ => format!("{}ms", duration.as_millis()),
    }
}

fn count(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
