//! A token of our own (RFC 6749 §4.4), got before it is needed and again before it ends.
//!
//! Invariants: at most one request to the token endpoint at a time, and after one that failed a rest before a
//! request may cause the next; what fails leaves the last token in use until its end, and not a moment longer.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use rustls::ClientConfig;

use super::answer::{Issued, NotIssued};
use super::authentication::Fields;
use super::endpoint::{EndpointSettings, TokenEndpoint};
use super::{CredentialError, CredentialStatus};
use crate::clock::{Clock, Timestamp};
use crate::metrics::CredentialMetrics;

/// After a failed attempt, requests that find no token cause no other for this long.
const FAILURE_REST: Duration = Duration::from_secs(1);
/// Between background attempts while they fail, growing from one second.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Before its end a token is not sent any more: it has a way to go, and clocks differ.
const MARGIN_MAX: Duration = Duration::from_secs(5);

/// What is asked for. Equal where the token may be kept over a reload.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnSettings {
    pub endpoint: EndpointSettings,
    pub wanted: Wanted,
}

/// For whom, and for what (RFC 6749 §3.3, RFC 8693 §2.1, RFC 8707 §2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub scope: Vec<String>,
    pub audience: Vec<String>,
    pub resource: Vec<String>,
}

/// A token of ours that is kept fresh.
#[derive(Debug)]
pub struct OwnToken {
    settings: OwnSettings,
    endpoint: TokenEndpoint,
    metrics: CredentialMetrics,
    clock: Clock,
    state: ArcSwap<State>,
    /// Held during an attempt.
    attempting: tokio::sync::Mutex<()>,
}

/// How the last attempt left things.
#[derive(Clone, Debug, Default)]
struct State {
    /// Attempts ended, good or not.
    attempts: u64,
    ended: Option<Timestamp>,
    held: Option<Held>,
    failure: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
pub(super) struct Held {
    pub bearer: HeaderValue,
    pub usable_until: Timestamp,
    expires: Timestamp,
    refresh: Timestamp,
}

impl Wanted {
    pub(super) fn add(&self, fields: &mut Fields) {
        if !self.scope.is_empty() {
            fields.push(("scope", self.scope.join(" ").into()));
        }
        fields.extend(self.audience.iter().map(|audience| ("audience", audience.clone().into())));
        fields.extend(self.resource.iter().map(|resource| ("resource", resource.clone().into())));
    }
}

impl Held {
    /// Of a token that came now.
    pub fn of(issued: &Issued, now: Timestamp) -> Option<Held> {
        let lifetime = issued.lifetime;
        Some(Held {
            bearer: issued.bearer()?,
            usable_until: now.plus(lifetime - MARGIN_MAX.min(lifetime / 10)),
            expires: now.plus(lifetime),
            refresh: now.plus(lifetime * 2 / 3),
        })
    }
}

impl OwnToken {
    /// Holds none until it is asked for one, or kept fresh.
    pub fn new(
        settings: OwnSettings,
        tls: &ClientConfig,
        metrics: CredentialMetrics,
        clock: Clock,
    ) -> OwnToken {
        OwnToken {
            endpoint: TokenEndpoint::new(settings.endpoint.clone(), tls, clock.clone()),
            settings,
            metrics,
            clock,
            state: ArcSwap::default(),
            attempting: tokio::sync::Mutex::default(),
        }
    }

    pub fn settings(&self) -> &OwnSettings {
        &self.settings
    }

    /// Starts with what `before` holds, until there is a token of its own.
    pub fn take_over(&self, before: &OwnToken) {
        self.state.store(before.state.load_full());
    }

    /// Keeps the token fresh for ever; starts with an attempt. To be spawned on the background runtime.
    pub async fn keep_fresh(self: Arc<Self>) {
        let mut failures = 0;
        loop {
            self.attempt(self.state.load().attempts).await;
            let state = self.state.load_full();
            failures = if state.failure.is_none() { 0 } else { failures + 1 };
            let rest = match (&state.held, failures) {
                (Some(held), 0) => held.refresh.since(self.clock.now()).max(FAILURE_REST),
                _ => Duration::from_secs(1 << failures.min(6)).min(RETRY_MAX),
            };
            // Replicas that were started together do not ask together for ever.
            tokio::time::sleep(rest.mul_f64(1.0 - fastrand::f64() / 10.0)).await;
        }
    }

    /// The token as it is sent; asked for if there is none.
    pub async fn current(self: &Arc<Self>) -> Result<HeaderValue, CredentialError> {
        let (before, now) = (self.state.load_full(), self.clock.now());
        if let Some(bearer) = usable(&before, now) {
            self.metrics.cache.hits.inc();
            return Ok(bearer);
        }
        self.metrics.cache.misses.inc();
        // A clock that was set back must not hold off attempts until it has caught up.
        let rests = before.failure.is_some()
            && before.ended.is_some_and(|ended| ended <= now && now < ended.plus(FAILURE_REST));
        if !rests {
            let (own, seen) = (Arc::clone(self), before.attempts);
            // It goes on if this request goes away: others may wait for it.
            let _ = tokio::spawn(async move { own.attempt(seen).await }).await;
        }
        let after = self.state.load();
        usable(&after, self.clock.now()).ok_or_else(|| {
            let why = after.failure.clone().unwrap_or_else(|| "the last one has expired".into());
            CredentialError::Unavailable(why)
        })
    }

    /// Asks for a token, unless another attempt has ended since the caller counted `seen` of them.
    async fn attempt(&self, seen: u64) {
        let _single_flight = self.attempting.lock().await;
        let before = self.state.load_full();
        if before.attempts != seen {
            return;
        }
        let mut fields: Fields = vec![("grant_type", "client_credentials".to_owned().into())];
        self.settings.wanted.add(&mut fields);
        self.metrics.fetches.inc();
        let outcome = self.endpoint.ask(fields, false).await;
        let now = self.clock.now();
        let held = outcome.and_then(|issued| {
            Held::of(&issued, now).ok_or_else(|| NotIssued::Failed("the token cannot be sent".to_owned()))
        });
        let mut next = State { attempts: before.attempts + 1, ended: Some(now), ..State::clone(&before) };
        match held {
            Ok(held) => {
                self.metrics.expires.set(held.expires.unix_seconds());
                self.metrics.refresh.set(held.refresh.unix_seconds());
                (next.held, next.failure) = (Some(held), None);
            }
            Err(NotIssued::Failed(why) | NotIssued::Unreachable(why) | NotIssued::Refused(why)) => {
                self.metrics.failures.inc();
                tracing::warn!(client = %self.settings.endpoint.client_id, error = why, "no token of our own for an upstream");
                next.failure = Some(why.into());
            }
        }
        self.state.store(Arc::new(next));
    }

    pub fn status(&self) -> CredentialStatus {
        let state = self.state.load();
        let held = state.held.as_ref();
        CredentialStatus {
            expires: held.map(|held| held.expires),
            refresh: held.map(|held| held.refresh),
            entries: 0,
            failure: state.failure.clone(),
        }
    }
}

fn usable(state: &State, now: Timestamp) -> Option<HeaderValue> {
    let held = state.held.as_ref().filter(|held| now < held.usable_until)?;
    Some(held.bearer.clone())
}
