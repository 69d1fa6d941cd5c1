//! A configuration becomes a [`Generation`]. What did not change is carried over from the present one:
//! TLS configurations with their ticket keys, issuers' keys, upstreams with their connections.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::AssembleError;
use super::credential::KeptCredential;
use super::identities::Identities;
use super::issuers::KeyedIssuer;
use super::upstream::{LiveUpstream, upstreams};
use crate::audit::SinkSettings;
use crate::clock::Clock;
use crate::config::{
    Config, ListenerSettings, ListenerTlsSettings, LogSettings, RevocationSettings, UpstreamConfig,
    load_revocations,
};
use crate::decisions::Decisions;
use crate::identity::Name;
use crate::metrics::Metrics;
use crate::proxy::assertion::{AssertionKeys, AssertionSettings, Assertions, Audience};
use crate::proxy::generation::Security;
use crate::proxy::{Generation, ListenerState};
use crate::revocation::Revocations;
use crate::tls::client::ExpectedServer;
use crate::tls::source::Issued;
use crate::tls::{ListenerTls, Own, OwnCertificate, Roots};
use crate::token::{Issuer, Proofs, Verifier};

/// What a generation was made from, as far as the next one may keep it.
#[derive(Clone)]
pub struct Assembled {
    fixed: Fixed,
    /// As the configuration has it.
    configured: Identities,
    /// What the source of service identity gave last that could be taken.
    pub issued: Option<Arc<Issued>>,
    /// The configured ones with that.
    pub identities: Identities,
    pub issuers: Vec<KeyedIssuer>,
    pub revocation: Option<RevocationSettings>,
    /// Whatever is changed, a proof is used once.
    proofs: Arc<Proofs>,
    pub upstreams: Vec<LiveUpstream>,
    pub credentials: Vec<KeptCredential>,
    /// For as long as the process lives, or until nothing is asserted.
    assertion_keys: Option<Arc<AssertionKeys>>,
}

/// What is taken at the start and stays.
#[derive(Clone, PartialEq)]
struct Fixed {
    name: Name,
    workers: usize,
    admin: [Option<SocketAddr>; 2],
    audit: SinkSettings,
    log: LogSettings,
}

/// What all steps of assembling need.
#[derive(Clone, Copy)]
pub struct Tools<'a> {
    pub background: &'a Handle,
    pub metrics: &'a Arc<Metrics>,
    pub clock: &'a Clock,
}

/// The first generation.
pub fn first(config: Config, tools: Tools<'_>) -> Result<(Generation, Assembled), AssembleError> {
    assemble(config, None, 1, &tools)
}

/// The generation after `present`, which was assembled from `assembled`.
pub fn next(
    config: Config,
    present: &Generation,
    assembled: &Assembled,
    tools: Tools<'_>,
) -> Result<(Generation, Assembled), AssembleError> {
    let place = |listener: &ListenerSettings| (listener.name.clone(), listener.address);
    if !config.listeners.iter().map(place).eq(assembled.configured.listeners.iter().map(place)) {
        return Err(AssembleError::ListenersChanged);
    }
    if Fixed::of(&config) != assembled.fixed {
        tracing::warn!("a change of `[proxy]`, `[admin]`, `[audit]` or `[log]` takes effect with a restart");
    }
    assemble(config, Some((present, assembled)), present.number + 1, &tools)
}

/// The generation after `present`, with the same configuration and what the source of service identity gives
/// now. Nothing that was judged under another CA is remembered: standings go by the generation's number.
pub fn reissued(
    present: &Generation,
    assembled: &Assembled,
    issued: Option<Arc<Issued>>,
    tools: Tools<'_>,
) -> Result<(Generation, Assembled), AssembleError> {
    let identities = assembled.configured.with(issued.as_deref(), Some(&assembled.identities));
    let before = Some((present, assembled));
    let listeners = listeners(&identities, before, &tools)?;
    let upstreams = upstreams(&identities, &present.limits, before, &tools)?;
    let credentials = credentials(&identities, Some(assembled), &tools)?;
    let issuers = assembled.issuers.iter().map(|issuer| issuer.reaching(&identities, &tools));
    let issuers = issuers.collect::<Result<Vec<_>, AssembleError>>()?;
    let assertions = present.assertions.as_ref();
    let assertions =
        assertions.map(|old| assertions_of(old.settings.clone(), Arc::clone(&old.keys), &identities));
    let own_peer = identities.own_peer();
    let generation = Generation {
        number: present.number + 1,
        assertions,
        upstreams: upstreams.iter().map(|(_, _, upstream)| Arc::clone(upstream)).collect(),
        credentials: credentials.iter().map(|kept| kept.credential.clone()).collect(),
        listeners,
        own_id: identities.own_id(),
        trust: identities.trust.clone(),
        own_former: present.former(own_peer.as_deref(), tools.clock.now()),
        own_peer,
        ..present.clone()
    };
    let assembled = Assembled { issued, identities, issuers, upstreams, credentials, ..assembled.clone() };
    Ok((generation, assembled))
}

/// The generation after `present`, with what a revocation list says that was read as `settings` say.
pub fn revoked(
    present: &Generation,
    assembled: &Assembled,
    settings: &RevocationSettings,
    revocations: Revocations,
) -> (Generation, Assembled) {
    let is_in_force = assembled.revocation.as_ref() == Some(settings);
    let revocations = if is_in_force { Arc::new(revocations) } else { Arc::clone(&present.revocations) };
    (Generation { number: present.number + 1, revocations, ..present.clone() }, assembled.clone())
}

/// Where the configuration leaves it to the operating system's store who vouches for a server.
fn left_to_system(config: &mut Config) -> impl Iterator<Item = &mut Option<Roots>> {
    let upstreams = config.upstreams.iter_mut().flat_map(|upstream| {
        let server = match &mut upstream.tls.expected {
            ExpectedServer::Named(ca) => Some(ca),
            ExpectedServer::Workload { .. } => None,
        };
        server.into_iter().chain(upstream.credential.endpoint_mut().map(|endpoint| &mut endpoint.ca))
    });
    let issuers = config.issuers.iter_mut().filter(|issuer| issuer.is_dialled());
    let issuers = issuers.map(|issuer| &mut issuer.keys.ca);
    upstreams.chain(issuers).filter(|ca| ca.is_none())
}

fn assemble(
    mut config: Config,
    before: Option<(&Generation, &Assembled)>,
    number: u64,
    tools: &Tools<'_>,
) -> Result<(Generation, Assembled), AssembleError> {
    let old = before.map(|(_, assembled)| assembled);
    let fixed = Fixed::of(&config);
    if left_to_system(&mut config).next().is_some() {
        // Where it holds none, whoever needs them says so.
        let system = Roots::system();
        left_to_system(&mut config).for_each(|ca| ca.clone_from(&system));
    }
    let configured = Identities {
        own: config.own,
        trust: config.trust,
        listeners: config.listeners,
        issuers: config.issuer_servers,
        upstreams: config.upstreams,
    };
    let issued = old.and_then(|old| old.issued.clone());
    let identities = configured.with(issued.as_deref(), old.map(|old| &old.identities));
    let listeners = listeners(&identities, before, tools)?;
    let upstreams = upstreams(&identities, &config.limits, before, tools)?;
    let credentials = credentials(&identities, old, tools)?;
    let own_keys = match (&config.assertion, old.and_then(|old| old.assertion_keys.clone())) {
        (None, _) => None,
        (Some(_), Some(kept)) => Some(kept),
        (Some(_), None) => Some(Arc::new(AssertionKeys::new(tools.clock.now())?)),
    };
    let assertions = config.assertion.clone().zip(own_keys.clone());
    let assertions = assertions.map(|(settings, keys)| assertions_of(settings, keys, &identities));
    let issuers = config
        .issuers
        .iter()
        .map(|settings| KeyedIssuer::assemble(settings, &identities, own_keys.as_ref(), old, tools))
        .collect::<Result<Vec<_>, AssembleError>>()?;
    let verified = config
        .issuers
        .into_iter()
        .zip(&issuers)
        .map(|(settings, keyed)| Issuer {
            settings,
            keys: Arc::clone(&keyed.keys),
            introspection: keyed.introspection.clone(),
        })
        .collect();
    let proofs = old.map_or_else(Arc::default, |old| Arc::clone(&old.proofs));
    // What was taken by itself since may be newer than what was read with the configuration.
    let revocations = match (before, &config.revocation) {
        (Some((present, old)), new) if old.revocation == *new => Arc::clone(&present.revocations),
        (Some(_), Some(new)) => Arc::new(load_revocations(new, tools.clock.now()).unwrap_or(config.revoked)),
        _ => Arc::new(config.revoked),
    };
    let verifier = Verifier::new(
        verified,
        config.limits.token,
        config.tokens,
        Arc::clone(&proofs),
        tools.metrics.tokens.clone(),
        tools.clock.clone(),
    )?;
    if let Some((present, _)) = before {
        verifier.take_over(&present.verifier);
    }
    let own_peer = identities.own_peer();
    let former =
        |(present, _): (&Generation, &Assembled)| present.former(own_peer.as_deref(), tools.clock.now());
    let generation = Generation {
        number,
        policy: Arc::new(config.policy),
        verifier: Arc::new(verifier),
        standings: Arc::new(Decisions::new(config.decisions, tools.metrics.decision_cache.clone())),
        revocations,
        routes: config.routes.into(),
        upstreams: upstreams.iter().map(|(_, _, upstream)| Arc::clone(upstream)).collect(),
        credentials: credentials.iter().map(|kept| kept.credential.clone()).collect(),
        told: identities.upstreams.iter().map(|upstream| upstream.identity_headers).collect(),
        listeners,
        own_id: identities.own_id(),
        own_former: before.and_then(former),
        own_peer,
        hops: config.hops.into(),
        trust: identities.trust.clone(),
        assertions,
        limits: config.limits,
        odd_names: config.odd_names,
    };
    let revocation = config.revocation;
    let assembled = Assembled {
        fixed,
        configured,
        issued,
        identities,
        issuers,
        revocation,
        proofs,
        upstreams,
        credentials,
        assertion_keys: own_keys,
    };
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

fn listeners(
    identities: &Identities,
    before: Option<(&Generation, &Assembled)>,
    tools: &Tools<'_>,
) -> Result<Vec<ListenerState>, AssembleError> {
    let settings = identities.listeners.iter().enumerate();
    settings.map(|(position, settings)| listener(settings, position, before, tools)).collect()
}

fn listener(
    settings: &ListenerSettings,
    position: usize,
    before: Option<(&Generation, &Assembled)>,
    tools: &Tools<'_>,
) -> Result<ListenerState, AssembleError> {
    let kept = before.and_then(|(generation, assembled)| {
        let same = assembled.identities.listeners.get(position)?.tls == settings.tls;
        if same { Some(generation.listeners.get(position)?.security.clone()) } else { None }
    });
    let security = match (kept, &settings.tls) {
        (Some(kept), _) => kept,
        (None, None) => Security::Plain,
        (None, Some(ListenerTlsSettings { own: Own::Awaited, .. })) => Security::Awaited,
        (None, Some(ListenerTlsSettings { own: Own::Known(own), clients })) => {
            let made = ListenerTls::new(own, clients.clone(), tools.clock.clone());
            let failed = |source| AssembleError::Listener { listener: settings.name.clone(), source };
            Security::Tls(Arc::new(made.map_err(failed)?))
        }
    };
    let direction = settings.direction;
    Ok(ListenerState {
        name: settings.name.clone(),
        direction,
        security,
        proxy_hops: settings.proxy_hops.clone(),
    })
}

/// What is asserted to an upstream is bound to the certificate that it is shown.
fn assertions_of(
    settings: AssertionSettings,
    keys: Arc<AssertionKeys>,
    identities: &Identities,
) -> Arc<Assertions> {
    let own = |upstream: &UpstreamConfig| upstream.tls.own.as_ref()?.known().map(OwnCertificate::hash);
    let audience = |upstream: &UpstreamConfig| Audience {
        name: Arc::clone(&upstream.audience),
        bound_to: own(upstream),
    };
    let audiences = identities.upstreams.iter().map(audience).collect();
    Arc::new(Assertions { settings, audiences, keys })
}

fn credentials(
    identities: &Identities,
    old: Option<&Assembled>,
    tools: &Tools<'_>,
) -> Result<Vec<KeptCredential>, AssembleError> {
    identities.upstreams.iter().map(|upstream| KeptCredential::assemble(upstream, old, tools)).collect()
}
