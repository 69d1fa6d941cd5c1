//! What each upstream is shown becomes live: a token that is kept over a reload, or got anew.

use std::sync::Arc;

use tokio_util::task::AbortOnDropHandle;

use super::AssembleError;
use super::assemble::{Assembled, Tools};
use crate::config::UpstreamConfig;
use crate::identity::Name;
use crate::metrics::{CacheMetrics, CredentialMetrics};
use crate::tls::client::{ExpectedServer, client_config};
use crate::tls::{Alpn, Own};
use crate::upstream::credential::{
    CredentialSettings, Exchanges, OwnSettings, OwnToken, UpstreamCredential, Wanted,
};

/// What an upstream is shown, with the task that keeps a token of our own fresh.
#[derive(Clone)]
pub struct KeptCredential {
    pub upstream: Name,
    settings: CredentialSettings,
    pub credential: UpstreamCredential,
    _fresh: Option<Arc<AbortOnDropHandle<()>>>,
}

impl KeptCredential {
    pub(super) fn assemble(
        config: &UpstreamConfig,
        old: Option<&Assembled>,
        tools: &Tools<'_>,
    ) -> Result<KeptCredential, AssembleError> {
        let (upstream, settings) = (config.name.clone(), config.credential.clone());
        let same = |kept: &&KeptCredential| kept.upstream == upstream && kept.settings == settings;
        if let Some(kept) = old.into_iter().flat_map(|old| &old.credentials).find(same) {
            return Ok(kept.clone());
        }
        let endpoint = settings.endpoint().filter(|endpoint| endpoint.own != Some(Own::Awaited));
        let Some(endpoint) = endpoint else {
            let credential = UpstreamCredential::of_kind(settings.kind());
            return Ok(KeptCredential { upstream, settings, credential, _fresh: None });
        };
        let expected = ExpectedServer::Named(endpoint.ca.clone());
        let own = endpoint.own.as_ref().and_then(Own::known);
        let tls = client_config(&expected, own, &[Alpn::Http1], tools.clock);
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
                (UpstreamCredential::exchange(Arc::new(exchanges)), actor)
            }
            CredentialSettings::ClientCredentials(settings) => {
                let token = own(settings.clone(), metrics.clone());
                (UpstreamCredential::own(Arc::clone(&token)), Some(token))
            }
            other => (UpstreamCredential::of_kind(other.kind()), None),
        };
        // A token of our own serves until there is one by the certificate, or from under the CAs, that came.
        let asks_the_same =
            |kept: &&KeptCredential| kept.upstream == upstream && kept.settings.asks_as(&settings);
        if let Some(before) = old.into_iter().flat_map(|old| &old.credentials).find(asks_the_same) {
            credential.take_over(&before.credential);
        }
        let fresh = kept_fresh.map(|own| tools.background.spawn(own.keep_fresh()));
        let fresh = fresh.map(|task| Arc::new(AbortOnDropHandle::new(task)));
        Ok(KeptCredential { upstream, settings, credential, _fresh: fresh })
    }
}
