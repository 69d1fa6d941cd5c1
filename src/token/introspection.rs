//! Opaque tokens: what they say is asked of their issuer (RFC 7662), and believed for a moment.
//!
//! Invariants:
//! - Our credentials go to one endpoint: the configured one, or the one that discovery names on the issuer's own origin.
//! - One question at a time for one token, [`IN_FLIGHT_MAX`] for all; after a failure none for [`REST`].
//! - An answer that says anything but `"active": true` is a refusal.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, StatusCode};
use rustls::ClientConfig;
use serde_json::{Map, Value};
use tokio::sync::{OnceCell, OwnedMutexGuard, Semaphore};
use url::Url;
use url::form_urlencoded::byte_serialize;

use super::error::TokenError;
use super::issuer::KeySettings;
use super::json;
use super::key_document::introspection_endpoint;
use super::limits::TokenLimits;
use super::memory::TokenHash;
use crate::clock::Timestamp;
use crate::fetch::{Client, FetchSettings, SecretSource};

/// `[issuer.NAME.introspection]`, and whom the issuer knows us as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntrospectionSettings {
    pub endpoint: Endpoint,
    pub client_id: Arc<str>,
    pub client_secret: SecretSource,
    /// For how long an answer is believed: at most [`INTROSPECTION_TIME_MAX`].
    pub time_max: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Url(Url),
    /// The `introspection_endpoint` of this issuer's discovery document.
    Discovery {
        document: Url,
        issuer: Arc<str>,
    },
}

/// The longest [`IntrospectionSettings::time_max`].
pub const INTROSPECTION_TIME_MAX: Duration = Duration::from_secs(60);
/// For one question, discovery and waiting for others included.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// After a failure nobody is asked for this long.
const REST: Duration = Duration::from_secs(1);
/// Questions to one issuer at once.
const IN_FLIGHT_MAX: usize = 64;

/// Asks one issuer. Shared by all runtimes.
#[derive(Debug)]
pub struct Introspection {
    settings: IntrospectionSettings,
    client: Client,
    endpoint: OnceCell<Url>,
    in_flight: Semaphore,
    turns: Mutex<HashMap<TokenHash, Arc<tokio::sync::Mutex<()>>>>,
    failed: Mutex<Timestamp>,
}

/// The only one who asks about a token now.
pub(super) struct Turn<'i> {
    of: &'i Introspection,
    hash: TokenHash,
    held: Option<OwnedMutexGuard<()>>,
}

impl Introspection {
    /// `tls` verifies the issuer, as for its keys.
    pub fn new(settings: IntrospectionSettings, keys: &KeySettings, tls: &ClientConfig) -> Introspection {
        let fetch = FetchSettings {
            allow_http: keys.allow_http,
            allow_private_addresses: keys.allow_private_addresses,
            body_bytes_max: keys.document_bytes_max,
            connect_timeout: CONNECT_TIMEOUT,
            total_timeout: ASK_TIMEOUT,
        };
        Introspection {
            settings,
            client: Client::new(fetch, tls),
            endpoint: OnceCell::new(),
            in_flight: Semaphore::new(IN_FLIGHT_MAX),
            turns: Mutex::default(),
            failed: Mutex::new(Timestamp::MIN),
        }
    }

    pub fn settings(&self) -> &IntrospectionSettings {
        &self.settings
    }

    /// Waits until nobody else asks about this token.
    pub(super) async fn turn(&self, hash: TokenHash) -> Turn<'_> {
        let lock = Arc::clone(lock(&self.turns).entry(hash).or_default());
        let held = Some(lock.lock_owned().await);
        Turn { of: self, hash, held }
    }

    /// What the issuer says of a token that is good now.
    pub(super) async fn claims(
        &self,
        token: &str,
        limits: &TokenLimits,
        now: Timestamp,
    ) -> Result<Map<String, Value>, TokenError> {
        let unavailable = |why: String| TokenError::IssuerUnavailable(why.into());
        let failed = *lock(&self.failed);
        if failed <= now && now < failed.plus(REST) {
            return Err(unavailable("introspection has just failed".to_owned()));
        }
        let asked = tokio::time::timeout(ASK_TIMEOUT, self.ask(token)).await;
        let body = asked.unwrap_or_else(|_| Err(format!("no answer within {} ms", ASK_TIMEOUT.as_millis())));
        let said = body.and_then(|body| {
            json::object(&body, limits.json()).map_err(|error| format!("the answer {error}"))
        });
        let mut said = said.map_err(|why| {
            *lock(&self.failed) = now;
            tracing::warn!(error = %why, "an issuer could not be asked about a token");
            unavailable(format!("introspection: {why}"))
        })?;
        match said.remove("active") {
            Some(Value::Bool(true)) => Ok(said),
            _ => Err(TokenError::Inactive),
        }
    }

    async fn ask(&self, token: &str) -> Result<bytes::Bytes, String> {
        let _permit = self.in_flight.acquire().await.map_err(|error| error.to_string())?;
        let endpoint = self.endpoint.get_or_try_init(|| self.find()).await?;
        let IntrospectionSettings { client_id, client_secret, .. } = &self.settings;
        let secret = client_secret.read().await.map_err(|error| error.to_string())?;
        // RFC 6749 §2.3.1: both encoded as in a form
        let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let pair = STANDARD.encode(format!("{}:{}", encoded(client_id), encoded(&secret)));
        let field = HeaderValue::try_from(format!("Basic {pair}"));
        let mut field = field.map_err(|_| "the client secret cannot be sent".to_owned())?;
        field.set_sensitive(true);
        let headers = HeaderMap::from_iter([(AUTHORIZATION, field)]);
        let form = [("token", token), ("token_type_hint", "access_token")];
        let answer = self.client.post_form(endpoint, headers, &form).await;
        let answer = answer.map_err(|error| error.to_string())?;
        match answer.status {
            StatusCode::OK => Ok(answer.body),
            status => Err(format!("the answer has status {}", status.as_u16())),
        }
    }

    async fn find(&self) -> Result<Url, String> {
        let (document, issuer) = match &self.settings.endpoint {
            Endpoint::Url(url) => return Ok(url.clone()),
            Endpoint::Discovery { document, issuer } => (document, issuer),
        };
        let found = self.client.get(document, None).await.map_err(|error| error.to_string())?;
        let endpoint = introspection_endpoint(&found.body, issuer)
            .ok_or("the discovery document is another issuer's, or has no `introspection_endpoint`")?;
        if endpoint.origin() != document.origin() {
            return Err(
                "the discovery document names another host's endpoint, which gets no credentials".into()
            );
        }
        Ok(endpoint)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut turns = lock(&self.of.turns);
        self.held = None;
        // Nobody waits who could take it from here.
        if turns.get(&self.hash).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            turns.remove(&self.hash);
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
