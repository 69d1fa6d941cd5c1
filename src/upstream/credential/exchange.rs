//! The caller's token exchanged for one that is for the upstream (RFC 8693), so that it carries the person and
//! no more rights than are asked for.
//!
//! Invariants: what is remembered is found by the SHA-256 of the whole token of the caller, in the memory of one
//! upstream; it ends with the caller's token, or with its own if that is earlier. A refusal is remembered
//! briefly, so that a storm of one token asks once; an endpoint that cannot be asked rests briefly, so that a storm
//! of many tokens does. No attempt lasts longer than one may, whatever it waits for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest::{SHA256, digest};
use http::HeaderValue;
use moka::sync::Cache;
use rustls::ClientConfig;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::answer::{ACCESS_TOKEN, Issued, NotIssued};
use super::authentication::Fields;
use super::endpoint::{EndpointSettings, TokenEndpoint};
use super::own::{Held, OwnToken, Wanted};
use super::{CredentialError, CredentialStatus, Subject};
use crate::clock::{Clock, Timestamp};
use crate::metrics::CredentialMetrics;

const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// How long a refusal is answered from memory.
const REFUSED_TIME: Duration = Duration::from_secs(10);
/// The same for an endpoint that cannot be asked.
const FAILURE_REST: Duration = Duration::from_secs(1);
/// Callers that nobody asks for during this time are forgotten.
const IDLE_TIME: Duration = Duration::from_secs(15 * 60);
/// For whoever asks, waiting for others included.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests to the token endpoint at a time.
const IN_FLIGHT_MAX: usize = 64;
pub(super) const BUSY: &str = "too many tokens are exchanged at once";

/// What is asked for. Equal where exchanged tokens may be kept over a reload.
#[derive(Clone, Debug, PartialEq)]
pub struct ExchangeSettings {
    pub endpoint: EndpointSettings,
    pub wanted: Wanted,
    /// Whether the caller's is exchanged together with one of our own, who then acts for them (RFC 8693 §4.1).
    pub with_actor: bool,
    /// Exchanged tokens that are remembered.
    pub entries_max: u64,
}

/// Exchanges callers' tokens for one upstream, and remembers what came of it.
#[derive(Debug)]
pub struct Exchanges {
    settings: ExchangeSettings,
    endpoint: TokenEndpoint,
    actor: Option<Arc<OwnToken>>,
    metrics: CredentialMetrics,
    clock: Clock,
    callers: Cache<[u8; 32], Arc<Slot>>,
    in_flight: Semaphore,
    failure: Mutex<Option<Failure>>,
}

/// Why the last attempt failed.
#[derive(Clone, Debug)]
struct Failure {
    why: Arc<str>,
    at: Timestamp,
    /// Others would fail like it.
    is_for_all: bool,
}

/// What came of one caller's token.
#[derive(Debug, Default)]
struct Slot {
    outcome: ArcSwapOption<Outcome>,
    /// Held during an attempt.
    attempting: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Outcome {
    result: Result<HeaderValue, CredentialError>,
    until: Timestamp,
}

impl Exchanges {
    pub fn new(
        settings: ExchangeSettings,
        tls: &ClientConfig,
        actor: Option<Arc<OwnToken>>,
        metrics: CredentialMetrics,
        clock: Clock,
    ) -> Exchanges {
        Exchanges {
            endpoint: TokenEndpoint::new(settings.endpoint.clone(), tls, clock.clone()),
            callers: Cache::builder().max_capacity(settings.entries_max).time_to_idle(IDLE_TIME).build(),
            settings,
            actor,
            metrics,
            clock,
            in_flight: Semaphore::new(IN_FLIGHT_MAX),
            failure: Mutex::default(),
        }
    }

    pub fn settings(&self) -> &ExchangeSettings {
        &self.settings
    }

    /// Starts with what `before` has: the token of our own, and what was exchanged, unless by another certificate of
    /// ours. It may be bound to that (RFC 8705 §3), and nobody says whether it is.
    pub fn take_over(&self, before: &Exchanges) {
        if let (Some(actor), Some(before)) = (&self.actor, &before.actor) {
            actor.take_over(before);
        }
        if self.settings.endpoint.own == before.settings.endpoint.own {
            for (caller, slot) in &before.callers {
                self.callers.insert(*caller, slot);
            }
        }
    }

    /// The upstream's token for this caller, as it is sent.
    pub async fn token_for(self: &Arc<Self>, subject: Subject<'_>) -> Result<HeaderValue, CredentialError> {
        let key: Option<[u8; 32]> = digest(&SHA256, subject.token.as_bytes()).as_ref().try_into().ok();
        let key = key.ok_or_else(|| CredentialError::Unavailable("no digest".into()))?;
        let slot = self.callers.get_with(key, Arc::default);
        if let Some(known) = slot.at(self.clock.now()) {
            self.metrics.cache.hits.inc();
            return known;
        }
        self.metrics.cache.misses.inc();
        let (exchanges, mine) = (Arc::clone(self), Arc::clone(&slot));
        let (token, expires) = (Zeroizing::new(subject.token.to_owned()), subject.expires);
        // It goes on if this request goes away: others of this caller may wait for it.
        let attempt = tokio::spawn(async move { exchanges.attempt(&mine, token, expires).await });
        attempt.await.unwrap_or_else(|_| Err(CredentialError::Unavailable("the attempt was cut off".into())))
    }

    /// Exchanges a caller's token, unless somebody else did so meanwhile. Whose time goes by in waiting for others
    /// knows nothing of the endpoint.
    async fn attempt(
        &self,
        slot: &Slot,
        token: Zeroizing<String>,
        expires: Timestamp,
    ) -> Result<HeaderValue, CredentialError> {
        let in_time = timeout(ATTEMPT_TIMEOUT, self.attempt_in_turn(slot, token, expires)).await;
        in_time.unwrap_or_else(|_| {
            self.metrics.failures.inc();
            tracing::warn!(client = %self.settings.endpoint.client_id, error = BUSY, "a caller's token could not be exchanged");
            Err(CredentialError::Unavailable(BUSY.into()))
        })
    }

    async fn attempt_in_turn(
        &self,
        slot: &Slot,
        token: Zeroizing<String>,
        expires: Timestamp,
    ) -> Result<HeaderValue, CredentialError> {
        let _single_flight = slot.attempting.lock().await;
        if let Some(known) = slot.at(self.clock.now()) {
            return known;
        }
        let in_flight = self.in_flight.acquire().await;
        let _in_flight = in_flight.map_err(|_| CredentialError::Unavailable(BUSY.into()))?;
        if let Some(why) = self.rests() {
            return Err(CredentialError::Unavailable(why));
        }
        let outcome = self.outcome(self.ask(token).await, expires);
        let result = outcome.result.clone();
        slot.outcome.store(Some(Arc::new(outcome)));
        result
    }

    fn outcome(&self, outcome: Result<Issued, NotIssued>, expires: Timestamp) -> Outcome {
        let now = self.clock.now();
        let outcome = outcome.and_then(|issued| {
            let held = Held::of(&issued, now);
            held.ok_or_else(|| NotIssued::Failed("the token cannot be sent".to_owned()))
        });
        match outcome {
            Ok(held) => {
                self.failed(None);
                Outcome { result: Ok(held.bearer), until: held.usable_until.min(expires) }
            }
            Err(NotIssued::Refused(code)) => {
                self.metrics.failures.inc();
                let refused = CredentialError::Refused(format!("the token endpoint answers `{code}`").into());
                Outcome { result: Err(refused), until: now.plus(REFUSED_TIME) }
            }
            Err(failed) => {
                let (why, is_for_all) = match failed {
                    NotIssued::Unreachable(why) => (why, true),
                    // Perhaps this caller's token is what it fails over: others are not to wait for that.
                    NotIssued::Failed(why) | NotIssued::Refused(why) => (why, false),
                };
                self.metrics.failures.inc();
                tracing::warn!(client = %self.settings.endpoint.client_id, error = why, "a caller's token could not be exchanged");
                let why: Arc<str> = why.into();
                self.failed(Some(Failure { why: Arc::clone(&why), at: now, is_for_all }));
                Outcome { result: Err(CredentialError::Unavailable(why)), until: now.plus(FAILURE_REST) }
            }
        }
    }

    async fn ask(&self, token: Zeroizing<String>) -> Result<Issued, NotIssued> {
        let mut fields: Fields = vec![
            ("grant_type", GRANT.to_owned().into()),
            ("subject_token", token),
            ("subject_token_type", ACCESS_TOKEN.to_owned().into()),
            ("requested_token_type", ACCESS_TOKEN.to_owned().into()),
        ];
        if let Some(actor) = &self.actor {
            let bearer = actor.current().await.map_err(|error| NotIssued::Failed(error.to_string()))?;
            let actor = bearer.to_str().ok().and_then(|text| text.strip_prefix("Bearer "));
            let actor = actor.ok_or_else(|| NotIssued::Failed("our own token cannot be sent".to_owned()))?;
            fields.push(("actor_token", actor.to_owned().into()));
            fields.push(("actor_token_type", ACCESS_TOKEN.to_owned().into()));
        }
        self.settings.wanted.add(&mut fields);
        self.metrics.fetches.inc();
        self.endpoint.ask(fields, true).await
    }

    fn failed(&self, failure: Option<Failure>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    fn failure(&self) -> Option<Failure> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why nothing is asked of the endpoint, if it could not be asked a moment ago.
    fn rests(&self) -> Option<Arc<str>> {
        let Failure { why, at, .. } = self.failure().filter(|failure| failure.is_for_all)?;
        let now = self.clock.now();
        // A clock that was set back must not hold attempts off until it has caught up.
        (at <= now && now < at.plus(FAILURE_REST)).then_some(why)
    }

    pub fn status(&self) -> CredentialStatus {
        // What was put in or has ended is counted only then.
        self.callers.run_pending_tasks();
        CredentialStatus {
            entries: self.callers.entry_count(),
            failure: self.failure().map(|failure| failure.why),
            ..CredentialStatus::default()
        }
    }
}

impl Slot {
    /// What is known, if it still is.
    fn at(&self, now: Timestamp) -> Option<Result<HeaderValue, CredentialError>> {
        let outcome = self.outcome.load();
        let outcome = outcome.as_ref().filter(|outcome| now < outcome.until)?;
        Some(outcome.result.clone())
    }
}
