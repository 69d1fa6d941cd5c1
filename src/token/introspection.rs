//! Opaque tokens: what they say is asked of their issuer (RFC 7662), and believed for a moment.
//!
//! Invariants:
//! - Our credentials go to one endpoint: the configured one, or the one that discovery names on the issuer's own origin.
//! - One question at a time for one token, and a bound for all; while the issuer is away none for [`REST`] by who found
//!   it so, and by nobody once two did, or who asked about a token that was believed.
//! - What it answers to one token keeps nobody else's from being asked about, and what tokens bring about that were
//!   never believed, which anybody can make up, none of those that were.
//! - An answer that says anything but `"active": true` is a refusal.

mod queue;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};
use rustls::ClientConfig;
use serde_json::{Map, Value};
use tokio::sync::OwnedMutexGuard;
use url::Url;
use zeroize::Zeroizing;

use super::discovery::{Location, introspection_endpoint};
use super::error::TokenError;
use super::issuer::KeySettings;
use super::json;
use super::limits::TokenLimits;
use super::memory::TokenHash;
use crate::clock::{Clock, Timestamp};
use crate::fetch::{Answer, Client, FetchError, FetchSettings, SecretSource, basic};
use crate::metrics::Limit;
use queue::Queue;
pub(super) use queue::{About, Asker};

/// `[issuer.NAME.introspection]`, and whom the issuer knows us as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntrospectionSettings {
    pub endpoint: Location,
    pub client_id: Arc<str>,
    pub client_secret: SecretSource,
    /// For how long an answer is believed: at most [`INTROSPECTION_TIME_MAX`].
    pub time_max: Duration,
}

/// The longest [`IntrospectionSettings::time_max`].
pub const INTROSPECTION_TIME_MAX: Duration = Duration::from_secs(60);
/// For whoever asks, waiting for others included.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// For the issuer to answer one question, discovery included. Less than [`ASK_TIMEOUT`]: who waited for others and has
/// no time left does not find that the issuer is away.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For how long who finds the issuer away does not ask again.
pub(super) const REST: Duration = Duration::from_secs(1);

/// Asks one issuer. Shared by all runtimes.
#[derive(Debug)]
pub struct Introspection {
    settings: IntrospectionSettings,
    client: Client,
    /// Where discovery says that it is asked, until it is not there.
    found: ArcSwapOption<Url>,
    queue: Queue,
    turns: Mutex<HashMap<TokenHash, Arc<tokio::sync::Mutex<()>>>>,
    failed: Mutex<Failed>,
}

/// When it was last found to be away, or to have enough of questions. By one alone it may have been for what that one
/// asks about, which anybody can make up.
#[derive(Clone, Copy, Debug)]
struct Failed {
    /// Away, by who asked about a token that was believed.
    by_known: Timestamp,
    /// By who asked about such a token, or by two others.
    by_all: Timestamp,
    by_one: Option<(Asker, Timestamp)>,
}

/// The only one who asks about a token now.
pub(super) struct Turn<'i> {
    of: &'i Introspection,
    hash: TokenHash,
    held: Option<OwnedMutexGuard<()>>,
}

/// Why there is no word on a token.
pub(super) enum Wordless {
    /// Who asks has nothing of any such token now.
    Away(TokenError),
    /// It says nothing of this one that can be understood.
    Odd(TokenError),
    /// It says that the token is not good.
    Inactive,
}

/// How a question fails.
enum Failure {
    Away(String),
    /// It has enough of questions.
    Enough(String),
    Odd(String),
}

impl Introspection {
    /// `tls` verifies the issuer, as for its keys.
    pub fn new(settings: IntrospectionSettings, keys: &KeySettings, tls: &ClientConfig) -> Introspection {
        let fetch = FetchSettings {
            allow_http: keys.allow_http,
            allow_private_addresses: keys.allow_private_addresses,
            body_bytes_max: keys.document_bytes_max,
            connect_timeout: CONNECT_TIMEOUT,
            total_timeout: ANSWER_TIMEOUT,
        };
        Introspection {
            settings,
            client: Client::new(fetch, tls),
            found: ArcSwapOption::empty(),
            queue: Queue::default(),
            turns: Mutex::default(),
            failed: Mutex::new(Failed { by_known: Timestamp::MIN, by_all: Timestamp::MIN, by_one: None }),
        }
    }

    pub fn settings(&self) -> &IntrospectionSettings {
        &self.settings
    }

    /// Waits until nobody else asks about this token.
    pub(super) async fn turn(&self, hash: TokenHash) -> Turn<'_> {
        let lock = Arc::clone(lock(&self.turns).entry(hash).or_default());
        // Made first: who stops waiting leaves nothing behind.
        let mut turn = Turn { of: self, hash, held: None };
        turn.held = Some(lock.lock_owned().await);
        turn
    }

    /// What the issuer says of a token that is good now.
    pub(super) async fn claims(
        &self,
        token: &str,
        about: About,
        limits: &TokenLimits,
        clock: &Clock,
    ) -> Result<Map<String, Value>, Wordless> {
        let unavailable = |why: &str| TokenError::IssuerUnavailable(format!("introspection: {why}").into());
        let Some(_place) = self.queue.place(about, limits.introspection_pending_max).await else {
            let detail = "of tokens that are asked about, or of one client's part of them";
            return Err(Wordless::Away(TokenError::LimitExceeded(
                Limit::IntrospectionPendingMax,
                detail.into(),
            )));
        };
        if lock(&self.failed).is_recent(about, clock.now()) {
            return Err(Wordless::Away(unavailable("it has just failed")));
        }
        let in_time = tokio::time::timeout(ANSWER_TIMEOUT, self.ask(token)).await;
        let too_long = || format!("no answer within {} ms", ANSWER_TIMEOUT.as_millis());
        let answer = in_time.unwrap_or_else(|_| Err(Failure::Away(too_long())));
        let said = answer.and_then(|answer| self.read(&answer, limits));
        match said {
            Ok(mut said) => match said.remove("active") {
                Some(Value::Bool(true)) => Ok(said),
                _ => Err(Wordless::Inactive),
            },
            Err(Failure::Away(why)) => {
                lock(&self.failed).note(about, true, clock.now());
                self.found.store(None);
                tracing::warn!(error = %why, "an issuer cannot be asked about tokens");
                Err(Wordless::Away(unavailable(&why)))
            }
            Err(Failure::Enough(why)) => {
                lock(&self.failed).note(about, false, clock.now());
                tracing::warn!(error = %why, "an issuer is asked about too many tokens");
                Err(Wordless::Odd(unavailable(&why)))
            }
            Err(Failure::Odd(why)) => {
                tracing::debug!(error = %why, "an issuer does not say what it should of a token");
                Err(Wordless::Odd(unavailable(&why)))
            }
        }
    }

    fn read(&self, answer: &Answer, limits: &TokenLimits) -> Result<Map<String, Value>, Failure> {
        let why = format!("the answer has status {}", answer.status.as_u16());
        match answer.status {
            StatusCode::OK => json::object(&answer.body, limits.json())
                .map_err(|error| Failure::Odd(format!("the answer {error}"))),
            StatusCode::TOO_MANY_REQUESTS => Err(Failure::Enough(why)),
            // It does not know us, or is not there behind what answers.
            StatusCode::UNAUTHORIZED
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Err(Failure::Away(why)),
            // All others a token of somebody's making may bring about.
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::GONE => {
                self.found.store(None);
                Err(Failure::Odd(why))
            }
            _ => Err(Failure::Odd(why)),
        }
    }

    async fn ask(&self, token: &str) -> Result<Answer, Failure> {
        let endpoint = self.endpoint().await.map_err(Failure::Away)?;
        let headers = self.authorization().await.map_err(Failure::Away)?;
        let form = [("token", token), ("token_type_hint", "access_token")];
        let answer = self.client.post_form(&endpoint, headers, &form).await;
        answer.map_err(|error| match error {
            FetchError::Redirect | FetchError::Compressed | FetchError::TooLong(_) => {
                Failure::Odd(error.to_string())
            }
            error => Failure::Away(error.to_string()),
        })
    }

    async fn authorization(&self) -> Result<HeaderMap, String> {
        let IntrospectionSettings { client_id, client_secret, .. } = &self.settings;
        let secret = Zeroizing::new(client_secret.read().await.map_err(|error| error.to_string())?);
        let field = basic(client_id, &secret).ok_or("the client secret cannot be sent")?;
        Ok(HeaderMap::from_iter([(AUTHORIZATION, field)]))
    }

    async fn endpoint(&self) -> Result<Arc<Url>, String> {
        let (document, issuer) = match &self.settings.endpoint {
            Location::Url(url) => return Ok(Arc::new(url.clone())),
            Location::Discovery { document, issuer } => (document, issuer),
        };
        if let Some(found) = self.found.load_full() {
            return Ok(found);
        }
        let fetched = self.client.get(document, None).await.map_err(|error| format!("discovery: {error}"))?;
        let endpoint = introspection_endpoint(&fetched.body, issuer)
            .ok_or("the discovery document is another issuer's, or has no `introspection_endpoint`")?;
        if endpoint.origin() != document.origin() {
            return Err(
                "the discovery document names another host's endpoint, which gets no credentials".into()
            );
        }
        let endpoint = Arc::new(endpoint);
        self.found.store(Some(Arc::clone(&endpoint)));
        Ok(endpoint)
    }

    /// About how many tokens somebody asks, or waits to.
    #[cfg(test)]
    pub(super) fn turns(&self) -> usize {
        lock(&self.turns).len()
    }
}

impl Failed {
    /// Whether this is not asked now.
    fn is_recent(&self, about: About, now: Timestamp) -> bool {
        match about {
            About::Known => rests(self.by_known, now),
            About::Unknown(asker) => {
                let own = self.by_one.is_some_and(|(one, failed)| one == asker && rests(failed, now));
                own || rests(self.by_all, now)
            }
        }
    }

    /// One is enough to keep: once another fails while it rests, all do, and for longer.
    fn note(&mut self, about: About, is_away: bool, now: Timestamp) {
        match about {
            About::Known => {
                self.by_all = now;
                if is_away {
                    self.by_known = now;
                }
            }
            About::Unknown(asker) => {
                if self.by_one.is_some_and(|(one, failed)| one != asker && rests(failed, now)) {
                    self.by_all = now;
                }
                self.by_one = Some((asker, now));
            }
        }
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

/// A time that is to come is of a clock that was set back since.
fn rests(failed: Timestamp, now: Timestamp) -> bool {
    failed <= now && now < failed.plus(REST)
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
