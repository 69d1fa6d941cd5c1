//! One issuer's key set, fetched once from where its keys are: a file, an address, or the address that discovery
//! names.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rustls::ClientConfig;
use url::Url;

use super::issuer::{KeySettings, KeySource};
use super::key_document::{KeyId, jwks_uri, public_key};
use super::keys::{Key, KeySet, KeySetError};
use crate::fetch::{Client, FetchError, FetchSettings};

/// Keys are used for this long without a new fetch, whatever `Cache-Control` says.
pub const LIFETIME_MIN: Duration = Duration::from_secs(60);
pub const LIFETIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Where `Cache-Control` says nothing.
const LIFETIME_DEFAULT: Duration = Duration::from_secs(10 * 60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For one attempt, discovery included, and so for whoever waits for it.
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// Fetches one issuer's keys.
#[derive(Debug)]
pub(super) struct KeyFetch {
    client: Client,
    /// Where discovery last said that the keys are.
    named: Mutex<Option<Url>>,
}

/// Why an issuer's keys could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("discovery: {0}")]
    Discovery(FetchError),
    #[error("discovery: the document has another `issuer` than the one configured, or no `jwks_uri`")]
    DiscoveryDocument,
    #[error("key set: {0}")]
    Fetch(#[from] FetchError),
    #[error("key set: {0}")]
    File(#[from] std::io::Error),
    #[error(transparent)]
    KeySet(#[from] KeySetError),
    #[error("its keys were not handed over")]
    NotHandedOver,
    #[error("discovery and key set together took longer than {} ms", ATTEMPT_TIMEOUT.as_millis())]
    Timeout,
}

impl KeyFetch {
    /// `tls` verifies the issuer.
    pub fn new(settings: &KeySettings, tls: &ClientConfig) -> KeyFetch {
        let fetch = FetchSettings {
            allow_http: settings.allow_http,
            allow_private_addresses: settings.allow_private_addresses,
            body_bytes_max: settings.document_bytes_max,
            connect_timeout: CONNECT_TIMEOUT,
            total_timeout: ATTEMPT_TIMEOUT,
        };
        KeyFetch { client: Client::new(fetch, tls), named: Mutex::default() }
    }

    /// The keys, and for how long they are fresh. Where each is fetched by itself, those are that were `held` and are
    /// still there.
    pub async fn key_set(
        &self,
        settings: &KeySettings,
        held: Option<&KeySet>,
    ) -> Result<(KeySet, Duration), KeysError> {
        let in_time = tokio::time::timeout(ATTEMPT_TIMEOUT, self.fetch(settings, held)).await;
        in_time.unwrap_or(Err(KeysError::Timeout))
    }

    /// The key of this name, where each is fetched by itself; `None` if there is none.
    pub async fn key(
        &self,
        settings: &KeySettings,
        kid: &KeyId,
    ) -> Result<Option<(Key, Duration)>, KeysError> {
        let url = match &settings.source {
            KeySource::Each(base) => kid.below(base),
            _ => None,
        };
        let Some(url) = url else { return Ok(None) };
        match self.client.get(&url, settings.credential.as_ref()).await {
            Ok(fetched) => Ok(Some((public_key(&fetched.body, kid)?, fresh(fetched.lifetime)))),
            Err(FetchError::Status(403 | 404)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn fetch(
        &self,
        settings: &KeySettings,
        held: Option<&KeySet>,
    ) -> Result<(KeySet, Duration), KeysError> {
        let (client, credential) = (&self.client, settings.credential.as_ref());
        let (body, lifetime) = match &settings.source {
            KeySource::File(path) => (Bytes::from(tokio::fs::read(path).await?), Some(LIFETIME_MIN)),
            KeySource::Own => return Err(KeysError::NotHandedOver),
            KeySource::Each(_) => {
                let (mut keys, mut lifetime) = (KeySet::default(), LIFETIME_DEFAULT);
                let ids = held.map(KeySet::ids).unwrap_or_default();
                for kid in ids.iter().filter_map(|(kid, _)| KeyId::parse(kid)) {
                    if let Some((key, fresh)) = self.key(settings, &kid).await? {
                        (keys, lifetime) = (keys.and(key, ids.len()), lifetime.min(fresh));
                    }
                }
                return Ok((keys, lifetime));
            }
            KeySource::Url(url) => {
                let fetched = client.get(url, credential).await?;
                (fetched.body, fetched.lifetime)
            }
            KeySource::Discovery { document, issuer } => {
                let found = client.get(document, credential).await.map_err(KeysError::Discovery)?;
                let url = jwks_uri(&found.body, issuer).ok_or(KeysError::DiscoveryDocument)?;
                self.named(&url, issuer);
                let credential = credential.filter(|_| url.origin() == document.origin());
                let fetched = client.get(&url, credential).await?;
                (fetched.body, fetched.lifetime)
            }
        };
        let set = KeySet::parse(&body, settings.key_use)?;
        Ok((set, fresh(lifetime)))
    }

    /// Tells of keys that move to another host: the issuer may do so, but seldom does.
    fn named(&self, url: &Url, issuer: &str) {
        let before = self.named.lock().unwrap_or_else(PoisonError::into_inner).replace(url.clone());
        if let Some(before) = before
            && before.host() != url.host()
        {
            let [before, now] = [&before, url].map(|url| url.host_str().unwrap_or_default());
            tracing::warn!(
                issuer,
                before,
                now,
                "an issuer's discovery document names another host for its keys"
            );
        }
    }
}

fn fresh(lifetime: Option<Duration>) -> Duration {
    lifetime.unwrap_or(LIFETIME_DEFAULT).clamp(LIFETIME_MIN, LIFETIME_MAX)
}
