//! Defaults: what holds where nothing was typed. Safe on the open internet.

use std::time::Duration;

use super::file::{File, Limit};
use super::source::At;
use super::value::{Bytes, Timeout};
use crate::proxy::limits::Limits;

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

fn seconds(typed: &Option<At<Timeout>>, default_s: u64) -> Duration {
    typed.as_ref().map_or(Duration::from_secs(default_s), |typed| typed.value.0)
}

pub fn limits(file: &File) -> Limits {
    let defaults = Limit::default();
    let typed = file.limit.as_ref().map_or(&defaults, |limit| &limit.value);
    Limits {
        connections_max: count(&typed.connections_max, 10_000),
        connections_per_peer_max: count(&typed.connections_per_peer_max, 1000),
        handshakes_max: count(&typed.handshakes_max, 1000),
        handshake_timeout: seconds(&typed.handshake_timeout, 10),
        header_bytes_max: size(&typed.header_bytes_max, 64 * KIB),
        header_count_max: count(&typed.header_count_max, 100),
        header_timeout: seconds(&typed.header_timeout, 10),
        body_bytes_max: bytes(&typed.body_bytes_max, 10 * MIB),
        token_bytes_max: size(&typed.token_bytes_max, 16 * KIB),
        json_depth_max: count(&typed.json_depth_max, 32),
        scope_count_max: count(&typed.scope_count_max, 256),
        group_count_max: count(&typed.group_count_max, 1024),
        delegation_depth_max: count(&typed.delegation_depth_max, 4),
        streams_per_connection_max: typed.streams_per_connection_max.as_ref().map_or(100, |max| max.value),
        resets_per_connection_max: count(&typed.resets_per_connection_max, 100),
        idle_timeout: seconds(&typed.idle_timeout, 60),
        total_timeout: seconds(&typed.total_timeout, 300),
        connection_age_max: seconds(&typed.connection_age_max, 3600),
        audit_queue_max: count(&typed.audit_queue_max, 8192),
        drain_timeout: seconds(&typed.drain_timeout, 30),
    }
}
