//! One issuer's keys, kept fresh. Shared by all runtimes, and by the generations of a configuration
//! in which the issuer's [`KeySettings`] did not change; where only its CAs did, the next start with these.
//!
//! Invariants:
//! - At most one fetch at a time, for [`ATTEMPT_TIMEOUT`](super::key_fetch::ATTEMPT_TIMEOUT) at most, and after one a rest before a request
//!   may cause the next. No request waits longer.
//! - A fetch that fails, or brings something that is no good key set, leaves the keys as they were.
//! - Keys older than their lifetime stay in use while they cannot be fetched, visibly, for `max_stale`
//!   at most; then every token of the issuer is refused.

mod lookup;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::ClientConfig;

use super::attempts::Attempted;
use super::issuer::KeySettings;
use super::key_fetch::{KeyFetch, KeysError, LIFETIME_MAX};
use super::keys::{KeyName, KeySet};
use crate::clock::{Clock, Timestamp};
use crate::fetch::FetchError;
use crate::metrics::IssuerMetrics;
use lookup::Lookups;

/// After a fetch, unknown `kid`s cause no other for this long.
pub const UNKNOWN_KEY_REST: Duration = Duration::from_secs(10);
/// After a failed fetch, requests that find no keys cause no other for this long.
const NO_KEYS_REST: Duration = Duration::from_secs(1);
/// Between background attempts while they fail, growing from one second.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// The live keys of one issuer.
#[derive(Debug)]
pub struct IssuerKeys {
    settings: KeySettings,
    /// None where keys are handed over: then nothing is ever fetched.
    fetch: Option<KeyFetch>,
    metrics: IssuerMetrics,
    clock: Clock,
    /// How the last attempt left things, once there was one.
    last: ArcSwapOption<Attempt>,
    /// Held during an attempt.
    attempting: tokio::sync::Mutex<()>,
    /// Where each key is fetched by itself: those of the last while.
    lookups: Lookups,
    status: ArcSwap<KeyStatus>,
    /// Not yet taken.
    rotations: Mutex<Vec<Rotation>>,
}

/// A fetch brought other keys than the one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// By `kid`, of those that have one; as all lists of a record in a fixed order. Another key under the same
    /// `kid` is one removed and one added.
    pub added: Vec<Arc<str>>,
    pub removed: Vec<Arc<str>>,
}

/// Rotations that wait to be taken; one fetch follows the last by a second at least.
const ROTATIONS_MAX: usize = 64;

type Attempt = Attempted<Arc<HeldKeys>>;

/// Keys as they were fetched together.
#[derive(Debug)]
pub(super) struct HeldKeys {
    pub set: KeySet,
    /// Differs between any two that one [`IssuerKeys`] ever held.
    pub generation: u64,
    fetched: Timestamp,
    lifetime: Duration,
}

/// For readiness, metrics and logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyStatus {
    /// Usable keys; zero before the first good fetch.
    pub keys: usize,
    /// Those of them that have a `kid`.
    ids: BTreeSet<(Arc<str>, KeyName)>,
    /// When these were fetched.
    pub fetched: Option<Timestamp>,
    /// When they become stale: still used, but a fetch is overdue.
    pub fresh_until: Option<Timestamp>,
    /// When they stop being used unless a fetch succeeds.
    pub usable_until: Option<Timestamp>,
    /// Why the last fetch failed, if it did.
    pub last_error: Option<Arc<str>>,
}

impl IssuerKeys {
    /// Holds no keys until [`IssuerKeys::refresh`]. `tls` verifies the issuer, with the trust anchors
    /// that [`KeySettings::ca`] names.
    pub fn new(
        settings: KeySettings,
        tls: &ClientConfig,
        metrics: IssuerMetrics,
        clock: Clock,
    ) -> IssuerKeys {
        let keys = IssuerKeys::awaiting(settings, metrics, clock);
        keys.reach(tls);
        keys
    }

    /// Fetches nothing until [`IssuerKeys::reach`].
    pub fn awaiting(settings: KeySettings, metrics: IssuerMetrics, clock: Clock) -> IssuerKeys {
        let fetch = KeyFetch::new(&settings);
        IssuerKeys::with(settings, Some(fetch), metrics, clock)
    }

    /// From now on the issuer is verified, and shown who we are, by `tls`. What is held stays until the next fetch.
    pub fn reach(&self, tls: &ClientConfig) {
        if let Some(fetch) = &self.fetch {
            fetch.reach(tls);
        }
    }

    /// Nothing is fetched until [`IssuerKeys::reach`]; what is held stays.
    pub fn unreach(&self) {
        if let Some(fetch) = &self.fetch {
            fetch.unreach();
        }
    }

    /// Holds what [`IssuerKeys::hold`] hands over, for ever, and never fetches anything: for questions that are
    /// only asked, and not for traffic.
    pub fn held(settings: KeySettings, clock: Clock) -> IssuerKeys {
        IssuerKeys::with(settings, None, IssuerMetrics::default(), clock)
    }

    fn with(
        settings: KeySettings,
        fetch: Option<KeyFetch>,
        metrics: IssuerMetrics,
        clock: Clock,
    ) -> IssuerKeys {
        IssuerKeys {
            settings,
            fetch,
            metrics,
            clock,
            last: ArcSwapOption::empty(),
            attempting: tokio::sync::Mutex::default(),
            lookups: Lookups::default(),
            status: ArcSwap::default(),
            rotations: Mutex::default(),
        }
    }

    /// Starts with what `before` holds, if that would be fetched alike, until it is fetched anew: who vouches for the
    /// issuer's server says nothing of keys that came before.
    pub fn take_over(&self, before: &IssuerKeys) {
        if self.settings.asks_as(&before.settings) {
            self.last.store(before.last.load_full());
            self.status.store(before.status());
        }
    }

    /// Takes a key set as if it had been fetched now, and to stay fresh.
    pub fn hold(&self, document: &[u8]) -> Result<(), KeysError> {
        self.put(KeySet::parse(document, self.settings.key_use)?);
        Ok(())
    }

    fn put(&self, set: KeySet) {
        let (before, now) = (self.last.load_full(), self.clock.now());
        let generation = Attempted::count(before.as_deref()) + 1;
        let held = self.note(Ok((set, Duration::MAX)), generation, now);
        self.last.store(Some(Arc::new(Attempted::after(before.as_deref(), held, now))));
    }

    /// What they were made from; equal settings mean that they can be carried over a reload.
    pub fn settings(&self) -> &KeySettings {
        &self.settings
    }

    pub fn status(&self) -> Arc<KeyStatus> {
        self.status.load_full()
    }

    /// What fetches have changed since this was last asked. The first keys of all are no rotation.
    pub fn take_rotations(&self) -> Vec<Rotation> {
        std::mem::take(&mut self.rotations.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn changed(&self, before: &KeyStatus, ids: &BTreeSet<(Arc<str>, KeyName)>) {
        if before.fetched.is_none() || before.ids == *ids {
            return;
        }
        let kids = |(kid, _): &(Arc<str>, KeyName)| Arc::clone(kid);
        let rotation = Rotation {
            added: ids.difference(&before.ids).map(kids).collect(),
            removed: before.ids.difference(ids).map(kids).collect(),
        };
        let mut rotations = self.rotations.lock().unwrap_or_else(PoisonError::into_inner);
        if rotations.len() < ROTATIONS_MAX {
            rotations.push(rotation);
        }
    }

    /// Fetches the keys, or waits for the fetch that is under way.
    pub async fn refresh(&self) -> Result<(), Arc<str>> {
        let seen = Attempted::count(self.last.load().as_deref());
        self.attempt(seen).await;
        match &self.status.load().last_error {
            Some(error) => Err(Arc::clone(error)),
            None => Ok(()),
        }
    }

    /// Keeps the keys fresh for ever; starts with a fetch. To be spawned on the background runtime.
    pub async fn keep_fresh(self: Arc<Self>) {
        let mut failures = 0;
        loop {
            failures = if self.refresh().await.is_ok() { 0 } else { failures + 1 };
            tokio::time::sleep(self.rest_before_refresh(failures)).await;
        }
    }

    /// After a success three quarters of what is left of the lifetime; after failures ever longer.
    fn rest_before_refresh(&self, failures: u32) -> Duration {
        if let Some(doublings) = failures.checked_sub(1) {
            return Duration::from_secs(1 << doublings.min(6)).min(RETRY_MAX);
        }
        let fresh_until = self.status.load().fresh_until.unwrap_or(Timestamp::MIN);
        (fresh_until.since(self.clock.now()) * 3 / 4).clamp(NO_KEYS_REST, LIFETIME_MAX)
    }

    /// The keys to verify with now; fetches them if there are none.
    pub(super) async fn current(self: &Arc<Self>) -> Result<Arc<HeldKeys>, Arc<str>> {
        let now = self.clock.now();
        if let Some(keys) = self.usable(self.last.load().as_deref(), now) {
            return Ok(keys);
        }
        let after = self.attempt_after(NO_KEYS_REST).await;
        self.usable(after.as_deref(), now).ok_or_else(|| {
            let error = self.status.load().last_error.clone();
            error.unwrap_or_else(|| match self.fetch {
                Some(_) => "no keys were fetched yet".into(),
                None => KeysError::NotHandedOver.to_string().into(),
            })
        })
    }

    fn usable(&self, last: Option<&Attempt>, now: Timestamp) -> Option<Arc<HeldKeys>> {
        let keys = last?.keys.as_ref()?;
        (now < keys.usable_until(self.settings.max_stale)).then(|| Arc::clone(keys))
    }

    /// Keys other than `seen`, which lack the one that a token names.
    pub(super) async fn other_than(self: &Arc<Self>, seen: &HeldKeys) -> Option<Arc<HeldKeys>> {
        let after = self.attempt_after(UNKNOWN_KEY_REST).await?;
        after.keys.clone().filter(|keys| keys.generation != seen.generation)
    }

    /// One attempt, unless the last one ended less than `rest` ago. It goes on if the request that caused it
    /// goes away: others may wait for it, and starting anew each time would void the rest.
    async fn attempt_after(self: &Arc<Self>, rest: Duration) -> Option<Arc<Attempt>> {
        let before = self.last.load_full();
        if self.fetch.is_none() {
            return before;
        }
        // After that: an attempt that ended later than now is taken for one under a clock that was set back.
        if !Attempted::is_due(before.as_deref(), rest, self.clock.now()) {
            return before;
        }
        let seen = Attempted::count(before.as_deref());
        let keys = Arc::clone(self);
        // an error here is a runtime that shuts down: then there is simply no new key
        let _ = tokio::spawn(async move { keys.attempt(seen).await }).await;
        self.last.load_full()
    }

    /// Fetches, unless another attempt has ended since the caller counted `seen` of them.
    async fn attempt(&self, seen: u64) {
        let _single_flight = self.attempting.lock().await;
        let before = self.last.load_full();
        if !Attempted::is_wanted(before.as_deref(), seen) {
            return;
        }
        let outcome = match &self.fetch {
            Some(fetch) => {
                let held = before.as_ref().and_then(|before| before.keys.as_ref());
                fetch.key_set(&self.settings, held.map(|held| &held.set)).await
            }
            None => Err(KeysError::NotHandedOver),
        };
        let ended = self.clock.now();
        let fetched = self.note(outcome, seen + 1, ended);
        self.last.store(Some(Arc::new(Attempted::after(before.as_deref(), fetched, ended))));
    }

    /// Records how an attempt ended.
    fn note(
        &self,
        outcome: Result<(KeySet, Duration), KeysError>,
        generation: u64,
        now: Timestamp,
    ) -> Option<Arc<HeldKeys>> {
        self.metrics.fetches.inc();
        match outcome {
            Ok((set, lifetime)) => Some(self.taken(HeldKeys { set, generation, fetched: now, lifetime })),
            Err(error) => {
                self.metrics.failures.inc();
                if matches!(
                    error,
                    KeysError::Fetch(FetchError::TooLong(_)) | KeysError::Discovery(FetchError::TooLong(_))
                ) {
                    self.metrics.documents_too_long.inc();
                }
                let error: Arc<str> = error.to_string().into();
                tracing::warn!(%error, from = %self.settings.source, "an issuer's keys could not be fetched");
                let before = self.status.load_full();
                self.status.store(Arc::new(KeyStatus { last_error: Some(error), ..(*before).clone() }));
                None
            }
        }
    }
}

impl IssuerKeys {
    /// Tells of keys that are held from now on.
    fn taken(&self, held: HeldKeys) -> Arc<HeldKeys> {
        let ids = held.set.ids();
        self.changed(&self.status.load(), &ids);
        self.status.store(Arc::new(KeyStatus {
            keys: held.set.len(),
            ids,
            fetched: Some(held.fetched),
            fresh_until: Some(held.fetched.plus(held.lifetime)),
            usable_until: Some(held.usable_until(self.settings.max_stale)),
            last_error: None,
        }));
        self.metrics.fetched.set(held.fetched.unix_seconds());
        Arc::new(held)
    }
}

impl HeldKeys {
    fn usable_until(&self, max_stale: Duration) -> Timestamp {
        self.fetched.plus(self.lifetime.max(max_stale))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::token::{KeySource, KeyUse};

    fn keys_in(file: &Path, clock: &Clock) -> IssuerKeys {
        let settings = KeySettings {
            source: KeySource::File(file.to_owned()),
            key_use: KeyUse::Signature,
            ca: None,
            server_spiffe_ids: Vec::new(),
            credential: None,
            allow_http: false,
            allow_private_addresses: false,
            max_stale: LIFETIME_MAX,
            document_bytes_max: 1,
        };
        let tls =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("protocol versions")
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
        IssuerKeys::new(settings, &tls, IssuerMetrics::default(), clock.clone())
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_kept_fresh_and_asked_for_ever_more_seldom_while_that_fails() {
        let clock = Clock::manual(Timestamp::from_unix_seconds(1_800_000_000));
        let file = tempfile::NamedTempFile::new().expect("a file");
        let keys = Arc::new(keys_in(file.path(), &clock));
        let begun = tokio::time::Instant::now();
        tokio::spawn(Arc::clone(&keys).keep_fresh());
        // when the attempts ended, by a clock that runs ahead while all tasks wait and no file is read
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        let mut ended = Vec::new();
        while ended.len() < 6 {
            if ended.len() == 4 {
                let key = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"; // RFC 8037 appendix A.2
                let set = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{key}"}}]}}"#);
                std::fs::write(file.path(), set).expect("keys");
            }
            while keys.metrics.fetches.get() == ended.len() as u64 {
                ticks.tick().await;
                assert!(begun.elapsed() < LIFETIME_MAX, "{ended:?}");
            }
            ended.push(begun.elapsed().as_secs());
        }
        assert_eq!(ended, [0, 1, 3, 7, 15, 60]);
        assert_eq!(keys.status().keys, 1);
    }

    #[test]
    fn refreshes_come_before_the_keys_age_out_and_failures_are_spaced() {
        let clock = Clock::manual(Timestamp::from_unix_seconds(1_800_000_000));
        let keys = keys_in(Path::new("keys.json"), &clock);
        let seconds = |failures| keys.rest_before_refresh(failures).as_secs();
        let spaced: Vec<u64> = (1..=9).map(seconds).collect();
        assert_eq!(spaced, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(seconds(u32::MAX), 60);
        let fresh_until = Some(clock.now().plus(Duration::from_secs(400)));
        keys.status.store(Arc::new(KeyStatus { fresh_until, ..KeyStatus::default() }));
        assert_eq!(seconds(0), 300);
        clock.advance(Duration::from_secs(500));
        assert_eq!(seconds(0), 1, "never a busy loop");
    }
}
