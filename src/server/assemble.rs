//! A configuration becomes a [`Generation`]. What did not change is carried over from the present one:
//! TLS configurations with their ticket keys, issuers' keys, upstreams with their connections.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use super::AssembleError;
use crate::audit::SinkSettings;
use crate::clock::Clock;
use crate::config::{Config, ListenerSettings, LogSettings, UpstreamConfig, UpstreamTls};
use crate::decisions::Decisions;
use crate::identity::Name;
use crate::metrics::{CacheMetrics, CredentialMetrics, Metrics};
use crate::proxy::limits::Limits;
use crate::proxy::{Generation, ListenerState};
use crate::tls::client::{ExpectedServer, client_config};
use crate::tls::{Alpn, ListenerTls, OwnCertificate};
use crate::token::{Issuer, IssuerKeys, IssuerSettings, KeySource, Verifier};
use crate::upstream::credential::{Credential, CredentialSettings, Exchanges, OwnSettings, OwnToken, Wanted};
use crate::upstream::{ServerSettings, Upstream, UpstreamLimits, UpstreamSettings};

/// What a generation was made from, as far as the next one may keep it.
pub struct Assembled {
    fixed: Fixed,
    pub listeners: Vec<ListenerSettings>,
    pub own: Option<OwnCertificate>,
    pub issuers: Vec<KeyedIssuer>,
    pub upstreams: Vec<(UpstreamTls, Arc<rustls::ClientConfig>, Arc<Upstream>)>,
    pub credentials: Vec<KeptCredential>,
}

/// What an upstream is shown, with the task that keeps a token of our own fresh.
#[derive(Clone)]
pub struct KeptCredential {
    pub upstream: Name,
    settings: CredentialSettings,
    pub credential: Credential,
    _fresh: Option<Arc<AbortOnDropHandle<()>>>,
}

/// An issuer's keys with the task that keeps them fresh, which ends with the last generation that uses it.
#[derive(Clone)]
pub struct KeyedIssuer {
    pub name: Name,
    pub keys: Arc<IssuerKeys>,
    _fresh: Arc<AbortOnDropHandle<()>>,
}

/// What is taken at the start and stays.
#[derive(PartialEq)]
struct Fixed {
    name: Name,
    workers: usize,
    admin: [Option<SocketAddr>; 2],
    audit: SinkSettings,
    log: LogSettings,
}

/// What all steps of assembling need.
struct Tools<'a> {
    background: &'a Handle,
    metrics: &'a Arc<Metrics>,
    clock: &'a Clock,
}

/// The first generation.
pub fn first(
    config: Config,
    background: &Handle,
    metrics: &Arc<Metrics>,
    clock: &Clock,
) -> Result<(Generation, Assembled), AssembleError> {
    assemble(config, None, 1, &Tools { background, metrics, clock })
}

/// The generation after `present`, which was assembled from `assembled`.
pub fn next(
    config: Config,
    present: &Generation,
    assembled: &Assembled,
    background: &Handle,
    metrics: &Arc<Metrics>,
    clock: &Clock,
) -> Result<(Generation, Assembled), AssembleError> {
    let place = |listener: &ListenerSettings| (listener.name.clone(), listener.address);
    if !config.listeners.iter().map(place).eq(assembled.listeners.iter().map(place)) {
        return Err(AssembleError::ListenersChanged);
    }
    if Fixed::of(&config) != assembled.fixed {
        tracing::warn!("a change of `[proxy]`, `[admin]`, `[audit]` or `[log]` takes effect with a restart");
    }
    let tools = Tools { background, metrics, clock };
    assemble(config, Some((present, assembled)), present.number + 1, &tools)
}

fn assemble(
    config: Config,
    before: Option<(&Generation, &Assembled)>,
    number: u64,
    tools: &Tools<'_>,
) -> Result<(Generation, Assembled), AssembleError> {
    let old = before.map(|(_, assembled)| assembled);
    let fixed = Fixed::of(&config);
    let listeners = config
        .listeners
        .iter()
        .enumerate()
        .map(|(position, settings)| listener(settings, position, before, tools))
        .collect::<Result<Vec<_>, _>>()?;
    let credentials = config
        .upstreams
        .iter()
        .map(|upstream| credential(upstream, old, tools))
        .collect::<Result<Vec<_>, _>>()?;
    let upstreams = config
        .upstreams
        .into_iter()
        .map(|settings| upstream(settings, &config.limits, old, tools))
        .collect::<Result<Vec<_>, _>>()?;
    let issuers = config
        .issuers
        .iter()
        .map(|settings| issuer(settings, old, tools))
        .collect::<Result<Vec<_>, AssembleError>>()?;
    let verified = config
        .issuers
        .into_iter()
        .zip(&issuers)
        .map(|(settings, keyed)| Issuer { settings, keys: Arc::clone(&keyed.keys) })
        .collect();
    let generation = Generation {
        number,
        policy: config.policy,
        verifier: Verifier::new(
            verified,
            config.limits.token,
            config.tokens,
            tools.metrics.tokens.clone(),
            tools.clock.clone(),
        )?,
        standings: Decisions::new(config.decisions, tools.metrics.decision_cache.clone()),
        routes: config.routes,
        upstreams: upstreams.iter().map(|(_, _, upstream)| Arc::clone(upstream)).collect(),
        credentials: credentials.iter().map(|kept| kept.credential.clone()).collect(),
        listeners,
        own_id: config.own.as_ref().and_then(|own| own.spiffe_id.clone()),
        own_peer: config.own.as_ref().and_then(OwnCertificate::as_local_peer).map(Arc::new),
        limits: config.limits,
        odd_names: config.odd_names,
    };
    let (listeners, own) = (config.listeners, config.own);
    let assembled = Assembled { fixed, listeners, own, issuers, upstreams, credentials };
    Ok((generation, assembled))
}

impl Fixed {
    fn of(config: &Config) -> Fixed {
        Fixed {
            name: config.name.clone(),
            workers: config.workers,
            admin: [config.admin, config.health],
            audit: config.audit.clone(),
            log: config.log.clone(),
        }
    }
}

fn listener(
    settings: &ListenerSettings,
    position: usize,
    before: Option<(&Generation, &Assembled)>,
    tools: &Tools<'_>,
) -> Result<ListenerState, AssembleError> {
    let kept = before.and_then(|(generation, assembled)| {
        let same = assembled.listeners.get(position)?.tls == settings.tls;
        if same { Some(generation.listeners.get(position)?.tls.clone()) } else { None }
    });
    let tls = match (kept, &settings.tls) {
        (Some(kept), _) => kept,
        (None, None) => None,
        (None, Some(tls)) => {
            let made = ListenerTls::new(&tls.own, tls.clients.clone(), tools.clock.clone());
            let failed = |source| AssembleError::Listener { listener: settings.name.clone(), source };
            Some(Arc::new(made.map_err(failed)?))
        }
    };
    Ok(ListenerState {
        name: settings.name.clone(),
        direction: settings.direction,
        tls,
        proxy_hops: settings.proxy_hops.clone(),
    })
}

fn issuer(
    settings: &IssuerSettings,
    old: Option<&Assembled>,
    tools: &Tools<'_>,
) -> Result<KeyedIssuer, AssembleError> {
    let same = |keyed: &&KeyedIssuer| keyed.name == settings.name && *keyed.keys.settings() == settings.keys;
    if let Some(kept) = old.into_iter().flat_map(|old| &old.issuers).find(same) {
        if let KeySource::File(_) = settings.keys.source {
            // The file may be why there is a reload.
            let keys = Arc::clone(&kept.keys);
            tools.background.spawn(async move { keys.refresh().await });
        }
        return Ok(kept.clone());
    }
    let expected = match (&settings.keys.source, &settings.keys.ca) {
        // Never dialled.
        (KeySource::File(_), _) => ExpectedServer::Ca(Vec::new()),
        (_, Some(ca)) => ExpectedServer::Ca(ca.clone()),
        (_, None) => ExpectedServer::PublicCa,
    };
    let tls = client_config(&expected, None, &[Alpn::Http1], tools.clock);
    let tls = tls.map_err(|source| AssembleError::Client { name: settings.name.clone(), source })?;
    let metrics = tools.metrics.issuer(settings.name.as_str());
    let keys = Arc::new(IssuerKeys::new(settings.keys.clone(), &tls, metrics, tools.clock.clone()));
    let fresh = tools.background.spawn(Arc::clone(&keys).keep_fresh());
    Ok(KeyedIssuer { name: settings.name.clone(), keys, _fresh: Arc::new(AbortOnDropHandle::new(fresh)) })
}

fn credential(
    config: &UpstreamConfig,
    old: Option<&Assembled>,
    tools: &Tools<'_>,
) -> Result<KeptCredential, AssembleError> {
    let (upstream, settings) = (config.name.clone(), config.credential.clone());
    let same = |kept: &&KeptCredential| kept.upstream == upstream && kept.settings == settings;
    if let Some(kept) = old.into_iter().flat_map(|old| &old.credentials).find(same) {
        return Ok(kept.clone());
    }
    let Some(endpoint) = settings.endpoint() else {
        let credential = Credential::of_kind(settings.kind());
        return Ok(KeptCredential { upstream, settings, credential, _fresh: None });
    };
    let expected = endpoint.ca.clone().map_or(ExpectedServer::PublicCa, ExpectedServer::Ca);
    let tls = client_config(&expected, endpoint.own.as_ref(), &[Alpn::Http1], tools.clock);
    let tls = tls.map_err(|source| AssembleError::Client { name: upstream.clone(), source })?;
    let (metrics, clock) = (tools.metrics.credentials.of(upstream.as_str()), tools.clock);
    let own = |settings: OwnSettings, metrics: CredentialMetrics| {
        Arc::new(OwnToken::new(settings, &tls, metrics, clock.clone()))
    };
    let (credential, kept_fresh) = match &settings {
        CredentialSettings::Exchange(exchange) => {
            let actor = exchange.with_actor.then(|| {
                let wanted = Wanted::default();
                // Its lookups are no request's.
                let metrics = CredentialMetrics { cache: CacheMetrics::default(), ..metrics.clone() };
                own(OwnSettings { endpoint: exchange.endpoint.clone(), wanted }, metrics)
            });
            let exchanges =
                Exchanges::new(exchange.clone(), &tls, actor.clone(), metrics.clone(), clock.clone());
            (Credential::exchange(Arc::new(exchanges)), actor)
        }
        CredentialSettings::ClientCredentials(settings) => {
            let token = own(settings.clone(), metrics.clone());
            (Credential::own(Arc::clone(&token)), Some(token))
        }
        other => (Credential::of_kind(other.kind()), None),
    };
    let fresh = kept_fresh.map(|own| tools.background.spawn(own.keep_fresh()));
    let fresh = fresh.map(|task| Arc::new(AbortOnDropHandle::new(task)));
    Ok(KeptCredential { upstream, settings, credential, _fresh: fresh })
}

fn upstream(
    config: UpstreamConfig,
    limits: &Limits,
    old: Option<&Assembled>,
    tools: &Tools<'_>,
) -> Result<(UpstreamTls, Arc<rustls::ClientConfig>, Arc<Upstream>), AssembleError> {
    let old = || old.into_iter().flat_map(|old| &old.upstreams);
    let name = &config.name;
    let tls = match old().find(|(tls, ..)| *tls == config.tls) {
        Some((_, kept, _)) => Arc::clone(kept),
        None => {
            let UpstreamTls { expected, own } = &config.tls;
            client_config(expected, own.as_ref(), &[Alpn::Http2, Alpn::Http1], tools.clock)
                .map_err(|source| AssembleError::Client { name: name.clone(), source })?
        }
    };
    let servers = config
        .servers
        .iter()
        .map(|(url, weight)| ServerSettings::parse(url, *weight, Some(&tls)))
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
            Upstream::start(settings)
        }
    };
    Ok((config.tls, tls, upstream))
}
