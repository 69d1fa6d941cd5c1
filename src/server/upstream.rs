//! Upstreams become live: kept over a reload, with their connections, where nothing of them changed.

use std::sync::Arc;

use super::AssembleError;
use super::assemble::{Assembled, Tools};
use super::identities::Identities;
use crate::config::{UpstreamConfig, UpstreamTls};
use crate::proxy::Generation;
use crate::proxy::limits::Limits;
use crate::tls::servers::ServerTls;
use crate::tls::{Alpn, Own};
use crate::upstream::{ServerSettings, Upstream, UpstreamLimits, UpstreamSettings};

/// An upstream with what its TLS configuration was made from.
pub type LiveUpstream = (UpstreamTls, Option<Arc<ServerTls>>, Arc<Upstream>);

pub(super) fn upstreams(
    identities: &Identities,
    limits: &Limits,
    before: Option<(&Generation, &Assembled)>,
    tools: &Tools<'_>,
) -> Result<Vec<LiveUpstream>, AssembleError> {
    let old = before.map(|(_, assembled)| assembled);
    identities.upstreams.iter().map(|settings| upstream(settings, limits, old, tools)).collect()
}

fn upstream(
    config: &UpstreamConfig,
    limits: &Limits,
    old: Option<&Assembled>,
    tools: &Tools<'_>,
) -> Result<LiveUpstream, AssembleError> {
    let old = || old.into_iter().flat_map(|old| &old.upstreams);
    let name = &config.name;
    let UpstreamTls { expected, own } = &config.tls;
    let tls = match (old().find(|(tls, ..)| *tls == config.tls), own) {
        (Some((_, kept, _)), _) => kept.clone(),
        (None, Some(Own::Awaited)) => None,
        (None, own) => {
            let own = own.as_ref().and_then(Own::known);
            let made = ServerTls::new(expected, own, &[Alpn::Http2, Alpn::Http1], tools.clock);
            Some(made.map_err(|source| AssembleError::Client { name: name.clone(), source })?)
        }
    };
    let servers = config
        .servers
        .iter()
        .map(|(url, weight)| ServerSettings::parse(url, *weight, tls.as_ref()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| AssembleError::Upstream { name: name.clone(), source })?;
    let settings = UpstreamSettings {
        name: name.to_string(),
        servers,
        connect_timeout: config.connect_timeout,
        first_byte_timeout: config.first_byte_timeout,
        idle_timeout: config.idle_timeout,
        eject_after_failures: config.eject_after_failures,
        limits: UpstreamLimits {
            in_flight_max: limits.upstream_in_flight_max,
            pending_max: limits.upstream_pending_max,
            ..UpstreamLimits::default()
        },
    };
    let kept = old().map(|(.., upstream)| upstream).find(|upstream| *upstream.settings() == settings);
    let upstream = match kept {
        Some(kept) => Arc::clone(kept),
        None => {
            let _inside = tools.background.enter();
            let before = old().map(|(.., upstream)| upstream).find(|it| it.settings().name == settings.name);
            Upstream::start(settings, before.map(AsRef::as_ref))
        }
    };
    Ok((config.tls.clone(), tls, upstream))
}
