//! Issuers become live: their keys are carried over, or fetched anew, from whom the configuration names.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use super::AssembleError;
use super::assemble::{Assembled, Tools};
use super::identities::Identities;
use crate::clock::Clock;
use crate::config::UpstreamTls;
use crate::identity::Name;
use crate::proxy::assertion::AssertionKeys;
use crate::tls::client::{ExpectedServer, client_config};
use crate::tls::{Alpn, Own, Roots};
use crate::token::{Introspection, IssuerKeys, IssuerSettings, KeySource, SigningError};

/// An issuer's keys with the task that keeps them fresh, which ends with the last generation that uses it.
#[derive(Clone)]
pub struct KeyedIssuer {
    pub name: Name,
    pub keys: Arc<IssuerKeys>,
    /// How their server is verified, where it is known by its SPIFFE ID.
    server: Option<UpstreamTls>,
    pub introspection: Option<Arc<Introspection>>,
    _fresh: Arc<AbortOnDropHandle<()>>,
}

impl KeyedIssuer {
    /// Those of the present generation, if nothing is said of them that is new.
    pub(super) fn assemble(
        settings: &IssuerSettings,
        identities: &Identities,
        own: Option<&Arc<AssertionKeys>>,
        old: Option<&Assembled>,
        tools: &Tools<'_>,
    ) -> Result<KeyedIssuer, AssembleError> {
        let before = old.and_then(|old| old.issuers.iter().find(|keyed| keyed.name == settings.name));
        let same = |keyed: &&KeyedIssuer| {
            let introspection = keyed.introspection.as_ref().map(|asked| asked.settings());
            *keyed.keys.settings() == settings.keys
                && introspection == settings.introspection.as_ref()
                && expected(keyed.server.as_ref()) == expected(identities.server_of(&settings.name))
        };
        if let Some(kept) = before.filter(same) {
            if let KeySource::File(_) = settings.keys.source {
                // The file may be why there is a reload.
                let keys = Arc::clone(&kept.keys);
                tools.background.spawn(async move { keys.refresh().await });
            }
            return kept.reaching(identities, tools);
        }
        if let KeySource::Own = settings.keys.source {
            // There is an issuer of this kind only with `[assertion]`.
            let own = own.ok_or(SigningError)?;
            let keys = Arc::new(IssuerKeys::held(settings.keys.clone(), tools.clock.clone()));
            let known = hold(&keys, own, None, tools.clock)?;
            let fresh = keep_own(Arc::clone(&keys), Arc::clone(own), known, tools.clock.clone());
            return Ok(KeyedIssuer::new(settings, keys, tools.background.spawn(fresh)));
        }
        let metrics = tools.metrics.issuer(settings.name.as_str());
        // Not `before` itself by other CAs: it serves on as it is, should this configuration not be taken.
        let take_over = |keys: &IssuerKeys| {
            if let Some(before) = before {
                keys.take_over(&before.keys);
            }
        };
        if let Some(server) = identities.server_of(&settings.name) {
            let keys = Arc::new(IssuerKeys::awaiting(settings.keys.clone(), metrics, tools.clock.clone()));
            take_over(&keys);
            reach(&keys, &settings.name, server, tools)?;
            let fresh = tools.background.spawn(Arc::clone(&keys).keep_fresh());
            return Ok(KeyedIssuer {
                server: Some(server.clone()),
                ..KeyedIssuer::new(settings, keys, fresh)
            });
        }
        let ca = if settings.is_dialled() { settings.keys.ca.clone() } else { Some(Roots::none()) };
        let expected = ExpectedServer::Named(ca);
        let tls = client_config(&expected, None, &[Alpn::Http1], tools.clock);
        let tls = tls.map_err(|source| AssembleError::Client { name: settings.name.clone(), source })?;
        let introspection = settings.introspection.clone();
        let introspection =
            introspection.map(|asked| Arc::new(Introspection::new(asked, &settings.keys, &tls)));
        let keys = Arc::new(IssuerKeys::new(settings.keys.clone(), &tls, metrics, tools.clock.clone()));
        take_over(&keys);
        let fresh = tools.background.spawn(Arc::clone(&keys).keep_fresh());
        Ok(KeyedIssuer { introspection, ..KeyedIssuer::new(settings, keys, fresh) })
    }

    fn new(settings: &IssuerSettings, keys: Arc<IssuerKeys>, fresh: JoinHandle<()>) -> KeyedIssuer {
        let name = settings.name.clone();
        let fresh = Arc::new(AbortOnDropHandle::new(fresh));
        KeyedIssuer { name, keys, server: None, introspection: None, _fresh: fresh }
    }

    /// The same, its server known by these identities: keys that are held stay, and are fetched anew.
    pub(super) fn reaching(
        &self,
        identities: &Identities,
        tools: &Tools<'_>,
    ) -> Result<KeyedIssuer, AssembleError> {
        let server = identities.server_of(&self.name);
        if let Some(server) = server.filter(|server| self.server.as_ref() != Some(server)) {
            reach(&self.keys, &self.name, server, tools)?;
            let keys = Arc::clone(&self.keys);
            tools.background.spawn(async move { keys.refresh().await });
        }
        Ok(KeyedIssuer { server: server.cloned(), ..self.clone() })
    }
}

/// Has keys fetched from this server from now on, once it is known who we are, and from nobody before.
fn reach(
    keys: &IssuerKeys,
    issuer: &Name,
    UpstreamTls { expected, own }: &UpstreamTls,
    tools: &Tools<'_>,
) -> Result<(), AssembleError> {
    if *own == Some(Own::Awaited) {
        keys.unreach();
        return Ok(());
    }
    let own = own.as_ref().and_then(Own::known);
    let tls = client_config(expected, own, &[Alpn::Http1], tools.clock);
    keys.reach(&*tls.map_err(|source| AssembleError::Client { name: issuer.clone(), source })?);
    Ok(())
}

fn expected(server: Option<&UpstreamTls>) -> Option<&ExpectedServer> {
    server.map(|server| &server.expected)
}

fn hold(
    keys: &IssuerKeys,
    own: &AssertionKeys,
    known: Option<Value>,
    clock: &Clock,
) -> Result<Option<Value>, SigningError> {
    let set = own.key_set(clock.now());
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
