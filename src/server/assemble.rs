//! A configuration becomes a [`Generation`]. What did not change is carried over from the present one:
//! TLS configurations with their ticket keys, issuers' keys, upstreams with their connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use super::AssembleError;
use super::credential::KeptCredential;
use crate::audit::SinkSettings;
use crate::clock::Clock;
use crate::config::{Config, ListenerSettings, LogSettings, UpstreamConfig, UpstreamTls};
use crate::decisions::Decisions;
use crate::identity::Name;
use crate::metrics::Metrics;
use crate::proxy::assertion::{AssertionKeys, Assertions, Audience};
use crate::proxy::limits::Limits;
use crate::proxy::{Generation, ListenerState};
use crate::tls::client::{ExpectedServer, client_config};
use crate::tls::{Alpn, ListenerTls, OwnCertificate};
use crate::token::{Issuer, IssuerKeys, IssuerSettings, KeySource, SigningError, Verifier};
use crate::upstream::{ServerSettings, Upstream, UpstreamLimits, UpstreamSettings};

/// What a generation was made from, as far as the next one may keep it.
pub struct Assembled {
    fixed: Fixed,
    pub listeners: Vec<ListenerSettings>,
    pub own: Option<OwnCertificate>,
    pub issuers: Vec<KeyedIssuer>,
    pub upstreams: Vec<(UpstreamTls, Arc<rustls::ClientConfig>, Arc<Upstream>)>,
    pub credentials: Vec<KeptCredential>,
    /// For as long as the process lives, or until nothing is asserted.
    assertion_keys: Option<Arc<AssertionKeys>>,
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
pub(super) struct Tools<'a> {
    pub background: &'a Handle,
    pub metrics: &'a Arc<Metrics>,
    pub clock: &'a Clock,
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
        .map(|upstream| KeptCredential::assemble(upstream, old, tools))
        .collect::<Result<Vec<_>, _>>()?;
    let assertions = assertions(&config, old, tools)?;
    let upstreams = config
        .upstreams
        .into_iter()
        .map(|settings| upstream(settings, &config.limits, old, tools))
        .collect::<Result<Vec<_>, _>>()?;
    let own_keys = assertions.as_ref().map(|assertions| Arc::clone(&assertions.keys));
    let issuers = config
        .issuers
        .iter()
        .map(|settings| issuer(settings, own_keys.as_ref(), old, tools))
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
        hops: config.hops,
        assertions,
        limits: config.limits,
        odd_names: config.odd_names,
    };
    let (listeners, own) = (config.listeners, config.own);
    let assembled =
        Assembled { fixed, listeners, own, issuers, upstreams, credentials, assertion_keys: own_keys };
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
    own: Option<&Arc<AssertionKeys>>,
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
    if let KeySource::Own = settings.keys.source {
        // There is an issuer of this kind only with `[assertion]`.
        let own = own.ok_or(SigningError)?;
        let keys = Arc::new(IssuerKeys::held(settings.keys.clone(), tools.clock.clone()));
        let known = hold(&keys, own, None, tools.clock)?;
        let fresh = keep_own(Arc::clone(&keys), Arc::clone(own), known, tools.clock.clone());
        return Ok(KeyedIssuer::new(settings, keys, tools.background.spawn(fresh)));
    }
    let expected = match (&settings.keys.source, &settings.keys.ca) {
        // Never dialled.
        (KeySource::File(_) | KeySource::Own, _) => ExpectedServer::Ca(Vec::new()),
        (_, Some(ca)) => ExpectedServer::Ca(ca.clone()),
        (_, None) => ExpectedServer::PublicCa,
    };
    let tls = client_config(&expected, None, &[Alpn::Http1], tools.clock);
    let tls = tls.map_err(|source| AssembleError::Client { name: settings.name.clone(), source })?;
    let metrics = tools.metrics.issuer(settings.name.as_str());
    let keys = Arc::new(IssuerKeys::new(settings.keys.clone(), &tls, metrics, tools.clock.clone()));
    let fresh = tools.background.spawn(Arc::clone(&keys).keep_fresh());
    Ok(KeyedIssuer::new(settings, keys, fresh))
}

impl KeyedIssuer {
    fn new(settings: &IssuerSettings, keys: Arc<IssuerKeys>, fresh: JoinHandle<()>) -> KeyedIssuer {
        KeyedIssuer { name: settings.name.clone(), keys, _fresh: Arc::new(AbortOnDropHandle::new(fresh)) }
    }
}

/// Hands our own public keys over, if they are others than `known`.
fn hold(
    keys: &IssuerKeys,
    own: &AssertionKeys,
    known: Option<Value>,
    clock: &Clock,
) -> Result<Option<Value>, SigningError> {
    let set = own.key_set(clock.now())?;
    if known.as_ref() != Some(&set) {
        keys.hold(set.to_string().as_bytes()).map_err(|_| SigningError)?;
    }
    Ok(Some(set))
}

/// Each of our keys is published for hours before it signs.
const OWN_KEYS_PERIOD: Duration = Duration::from_secs(60);

async fn keep_own(keys: Arc<IssuerKeys>, own: Arc<AssertionKeys>, mut known: Option<Value>, clock: Clock) {
    loop {
        tokio::time::sleep(OWN_KEYS_PERIOD).await;
        match hold(&keys, &own, known.clone(), &clock) {
            Ok(now) => known = now,
            Err(error) => tracing::error!(%error, "our own assertions will not be taken"),
        }
    }
}

fn assertions(
    config: &Config,
    old: Option<&Assembled>,
    tools: &Tools<'_>,
) -> Result<Option<Assertions>, AssembleError> {
    let Some(settings) = config.assertion.clone() else { return Ok(None) };
    let keys = match old.and_then(|old| old.assertion_keys.clone()) {
        Some(kept) => kept,
        None => Arc::new(AssertionKeys::new(tools.clock.now())?),
    };
    let audience = |upstream: &UpstreamConfig| Audience {
        name: Arc::clone(&upstream.audience),
        bound_to: upstream.tls.own.as_ref().map(OwnCertificate::hash),
    };
    Ok(Some(Assertions { settings, audiences: config.upstreams.iter().map(audience).collect(), keys }))
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
