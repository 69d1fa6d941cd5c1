//! One issuer's key set, fetched once from where its keys are: a file, an address, or the address that discovery
//! names.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use rustls::ClientConfig;
use url::Url;

use super::discovery::jwks_uri;
use super::issuer::{KeySettings, KeySource};
use super::key_document::{KeyId, public_key};
use super::keys::{Key, KeySet, KeySetError};
use crate::fetch::{Client, FetchError, FetchSettings, Fetched, Moved, SecretSource};
use crate::tls::client::in_words;

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
    settings: FetchSettings,
    /// `None` before it is known how the issuer is reached.
    client: ArcSwapOption<Client>,
    moved: Moved,
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
    #[error("our own certificate, with which they are fetched, is awaited")]
    Awaited,
    #[error("its keys were not handed over")]
    NotHandedOver,
    #[error("discovery and key set together took longer than {} ms", ATTEMPT_TIMEOUT.as_millis())]
    Timeout,
}

impl KeyFetch {
    pub fn new(settings: &KeySettings) -> KeyFetch {
        let settings = FetchSettings {
            allow_http: settings.allow_http,
            allow_private_addresses: settings.allow_private_addresses,
            body_bytes_max: settings.document_bytes_max,
            connect_timeout: CONNECT_TIMEOUT,
            total_timeout: ATTEMPT_TIMEOUT,
        };
        KeyFetch { settings, client: ArcSwapOption::empty(), moved: Moved::default() }
    }

    /// From now on by `tls`, which verifies the issuer.
    pub fn reach(&self, tls: &ClientConfig) {
        self.client.store(Some(Arc::new(Client::new(self.settings.clone(), tls))));
    }

    /// By nobody until [`KeyFetch::reach`].
    pub fn unreach(&self) {
        self.client.store(None);
    }

    fn client(&self) -> Result<Arc<Client>, KeysError> {
        self.client.load_full().ok_or(KeysError::Awaited)
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
        match get(&*self.client()?, &url, settings.credential.as_ref()).await {
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
        let (client, credential) = (self.client()?, settings.credential.as_ref());
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
                let fetched = get(&client, url, credential).await?;
                (fetched.body, fetched.lifetime)
            }
            KeySource::Discovery { document, issuer } => {
                let found = get(&client, document, credential).await.map_err(KeysError::Discovery)?;
                let url = jwks_uri(&found.body, issuer).ok_or(KeysError::DiscoveryDocument)?;
                self.moved.to(&url, issuer, "keys");
                let credential = credential.filter(|_| url.origin() == document.origin());
                let fetched = get(&client, &url, credential).await?;
                (fetched.body, fetched.lifetime)
            }
        };
        let set = KeySet::parse(&body, settings.key_use)?;
        Ok((set, fresh(lifetime)))
    }
}

/// What our own verifier said of the server, in its own words.
async fn get(client: &Client, url: &Url, credential: Option<&SecretSource>) -> Result<Fetched, FetchError> {
    client.get(url, credential).await.map_err(|error| match &error {
        FetchError::Connect(inner) => match inner.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(tls) => FetchError::Connect(io::Error::other(in_words(tls))),
            None => error,
        },
        _ => error,
    })
}

fn fresh(lifetime: Option<Duration>) -> Duration {
    lifetime.unwrap_or(LIFETIME_DEFAULT).clamp(LIFETIME_MIN, LIFETIME_MAX)
}
