//! Defaults: what holds where nothing was typed. Safe on the open internet.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use super::elsewhere::AuditOutput;
use super::file::{Cache, File, Limit, LogFormat as TypedFormat, LogLevel, OddHeaderNames};
use super::source::At;
use super::value::{Bytes, Timeout};
use crate::audit::{Output, SinkSettings};
use crate::decisions::DecisionsSettings;
use crate::identity::Name;
use crate::proxy::limits::Limits;
use crate::proxy::normalize::OddNames;
use crate::token::{TokenCacheSettings, TokenLimits};

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// As `info`, or `warn,countersign::token=debug`.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Pretty if standard error is a terminal, JSON else.
    Auto,
    Pretty,
    Json,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn count(typed: &Option<At<u32>>, default: u32) -> usize {
    usize::try_from(typed.as_ref().map_or(default, |typed| typed.value)).unwrap_or(usize::MAX)
}

fn bytes(typed: &Option<At<Bytes>>, default: u64) -> u64 {
    typed.as_ref().map_or(default, |typed| typed.value.0)
}

fn size(typed: &Option<At<Bytes>>, default: u64) -> usize {
    usize::try_from(bytes(typed, default)).unwrap_or(usize::MAX)
}

pub fn seconds(typed: &Option<At<Timeout>>, default_s: u64) -> Duration {
    typed.as_ref().map_or(Duration::from_secs(default_s), |typed| typed.value.0)
}

pub fn name(file: &File) -> Option<Name> {
    let typed = file.proxy.as_ref().and_then(|proxy| proxy.value.name.as_ref());
    match typed {
        Some(name) => Some(name.value.clone()),
        None => "countersign".parse().ok(),
    }
}

/// Threads that serve; one on each core where the file does not say.
pub fn workers(file: &File) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let typed = file.proxy.as_ref().and_then(|proxy| proxy.value.workers);
    typed.map_or_else(cores, |_| count(&typed, 1))
}

pub fn odd_names(file: &File) -> OddNames {
    let typed = file.proxy.as_ref().and_then(|proxy| proxy.value.odd_header_names);
    match typed.map(|typed| typed.value) {
        Some(OddHeaderNames::Drop) => OddNames::Drop,
        Some(OddHeaderNames::Refuse) | None => OddNames::Refuse,
    }
}

pub fn limits(file: &File) -> Limits {
    let defaults = Limit::default();
    let typed = file.limit.as_ref().map_or(&defaults, |limit| &limit.value);
    Limits {
        connections_max: count(&typed.connections_max, 10_000),
        connections_per_peer_max: count(&typed.connections_per_peer_max, 1000),
        handshakes_max: count(&typed.handshakes_max, 1000),
        handshakes_per_peer_max: count(&typed.handshakes_per_peer_max, 250),
        handshake_timeout: seconds(&typed.handshake_timeout, 10),
        header_bytes_max: size(&typed.header_bytes_max, 64 * KIB),
        header_count_max: count(&typed.header_count_max, 100),
        header_timeout: seconds(&typed.header_timeout, 10),
        body_bytes_max: bytes(&typed.body_bytes_max, 10 * MIB),
        token: TokenLimits {
            token_bytes_max: size(&typed.token_bytes_max, 16 * KIB),
            json_depth_max: count(&typed.json_depth_max, 32),
            json_values_max: count(&typed.json_values_max, 4096),
            scope_count_max: count(&typed.scope_count_max, 256),
            group_count_max: count(&typed.group_count_max, 1024),
            delegation_depth_max: count(&typed.delegation_depth_max, 4),
            dpop_proofs_max: count(&typed.dpop_proofs_max, 1_000_000),
            introspection_pending_max: count(&typed.introspection_pending_max, 1000),
        },
        requests_per_client_max: count(&typed.requests_per_client_max, 512),
        upstream_in_flight_max: count(&typed.upstream_in_flight_max, 1024),
        upstream_pending_max: count(&typed.upstream_pending_max, 1024),
        streams_per_connection_max: typed.streams_per_connection_max.as_ref().map_or(100, |max| max.value),
        resets_per_connection_max: count(&typed.resets_per_connection_max, 100),
        control_frames_per_connection_max: count(&typed.control_frames_per_connection_max, 1000),
        idle_timeout: seconds(&typed.idle_timeout, 60),
        total_timeout: seconds(&typed.total_timeout, 300),
        connection_age_max: seconds(&typed.connection_age_max, 3600),
        drain_timeout: seconds(&typed.drain_timeout, 30),
    }
}

/// The largest key set or discovery document that is read, in bytes.
pub fn key_document_bytes_max(file: &File) -> usize {
    let typed = file.limit.as_ref().and_then(|limit| limit.value.key_document_bytes_max);
    size(&typed, 256 * KIB)
}

pub fn audit(file: &File) -> SinkSettings {
    let typed = file.audit.as_ref().map(|audit| &audit.value);
    let defaults = Limit::default();
    let limit = file.limit.as_ref().map_or(&defaults, |limit| &limit.value);
    SinkSettings {
        output: match typed.and_then(|audit| audit.output.as_ref()).map(|output| &output.value) {
            Some(AuditOutput::File(path)) => Output::File(path.clone()),
            Some(AuditOutput::Stdout) | None => Output::Stdout,
        },
        required: typed.and_then(|audit| audit.required).is_some_and(|required| required.value),
        queue_records_max: count(&limit.audit_queue_max, 8192),
        wait_max: seconds(&limit.audit_wait_timeout, 1),
    }
}

/// Claims whose values stand in no record.
pub fn redact(file: &File) -> Vec<Arc<str>> {
    let typed = file.audit.as_ref().and_then(|audit| audit.value.redact.as_ref());
    typed.map_or_else(Vec::new, |names| names.value.iter().map(|name| name.value.as_str().into()).collect())
}

pub fn caches(file: &File) -> (TokenCacheSettings, DecisionsSettings) {
    let defaults = Cache::default();
    let typed = file.cache.as_ref().map_or(&defaults, |cache| &cache.value);
    let number = |typed: &Option<At<u32>>, default| u64::from(typed.map_or(default, |typed| typed.value));
    let tokens = TokenCacheSettings {
        bytes_max: bytes(&typed.token_bytes_max, 64 * MIB),
        idle_max: seconds(&typed.token_idle_time, 15 * 60),
        failures_max: number(&typed.failed_token_entries_max, 10_000),
        failure_lifetime: seconds(&typed.failed_token_time, 10),
    };
    let decisions = DecisionsSettings {
        entries_max: number(&typed.decision_entries_max, 20_000),
        lifetime_max: seconds(&typed.decision_time_max, 300),
    };
    (tokens, decisions)
}

pub fn log(file: &File) -> LogSettings {
    let typed = file.log.as_ref().map(|log| &log.value);
    let level = match typed.and_then(|log| log.level).map(|level| level.value) {
        Some(LogLevel::Error) => "error",
        Some(LogLevel::Warn) => "warn",
        Some(LogLevel::Info) | None => "info",
        Some(LogLevel::Debug) => "debug",
        Some(LogLevel::Trace) => "trace",
    };
    let format = match typed.and_then(|log| log.format).map(|format| format.value) {
        Some(TypedFormat::Pretty) => LogFormat::Pretty,
        Some(TypedFormat::Json) => LogFormat::Json,
        None => LogFormat::Auto,
    };
    LogSettings { level: level.to_owned(), format }
}
