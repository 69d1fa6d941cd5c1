//! What is in force, and how it is replaced: by another configuration, or by what changes by itself while the
//! files stay as they are (what a source of service identity gives).
//!
//! A whole new generation is made first and put in place last, so that one that fails changes nothing. What
//! changes by itself never reads a file again: one that is half written must not keep a certificate from
//! rotating.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::AssembleError;
use super::assemble::{self, Assembled, Tools};
use super::identities::Mismatch;
use super::loads::Loads;
use super::report;
use crate::clock::Clock;
use crate::config::{Config, RevocationSettings};
use crate::metrics::Metrics;
use crate::proxy::{Generation, Shared};
use crate::revocation::Revocations;
use crate::tls::Own;
use crate::tls::source::{Issued, Source, SourceSettings, State};

pub struct Live {
    pub shared: Arc<Shared>,
    /// Locked for moments only.
    present: Mutex<Arc<Present>>,
    /// Held by who makes the next generation, which takes its time. Nothing on the background runtime waits for it.
    turn: Mutex<()>,
    background: Handle,
    source: Option<Source>,
    /// Why what the source gives now could not be taken.
    refused: Mutex<Option<Arc<str>>>,
    configuration: Mutex<Loads>,
    revocations: Mutex<Loads>,
}

/// The present generation with what it was assembled from.
pub struct Present {
    pub generation: Arc<Generation>,
    pub assembled: Assembled,
}

/// Where the source of service identity stands.
pub struct SourceStatus {
    pub source: String,
    pub is_awaited: bool,
    pub failure: Option<Arc<str>>,
    /// What it gives and what the configuration names are strangers to each other.
    pub mismatch: Option<Mismatch>,
}

/// The source that the configuration names, started.
pub fn source(
    settings: Option<SourceSettings>,
    background: &Handle,
    metrics: &Metrics,
    clock: &Clock,
) -> Option<Source> {
    settings.map(|settings| Source::start(settings, background, metrics.identity.clone(), clock.clone()))
}

impl Live {
    pub fn new(
        shared: Arc<Shared>,
        assembled: Assembled,
        background: Handle,
        source: Option<Source>,
    ) -> Live {
        let present = Mutex::new(Arc::new(Present { generation: shared.generation.load_full(), assembled }));
        let loads = || Mutex::new(Loads::since(shared.clock.now()));
        let (configuration, revocations) = (loads(), loads());
        let (turn, refused) = (Mutex::default(), Mutex::default());
        Live { shared, present, turn, background, source, refused, configuration, revocations }
    }

    /// It stays the present one for as long as this is held.
    pub fn present(&self) -> MutexGuard<'_, Arc<Present>> {
        lock(&self.present)
    }

    /// Takes a new configuration for all requests from now on. If that fails, the present one stays.
    pub fn reload(&self, config: Config) -> Result<(), AssembleError> {
        let running = self.source.as_ref().map(Source::settings);
        let taken = if config.source.as_ref() == running {
            self.replace(|present, assembled, tools| assemble::next(config, present, assembled, tools))
        } else {
            Err(AssembleError::SourceChanged)
        };
        match &taken {
            Ok(()) => {
                *self.configuration() = Loads::since(self.shared.clock.now());
                self.shared.metrics.reloaded(true, self.shared.clock.now());
            }
            Err(error) => self.reload_failed(error.to_string()),
        }
        // It may have cured what kept the source's news out.
        if taken.is_ok() && self.refused().is_some() {
            self.reissue();
        }
        taken
    }

    /// The files were read, and cannot be taken for what `why` says.
    pub fn reload_failed(&self, why: String) {
        let now = self.shared.clock.now();
        self.configuration().failed(now, why);
        self.shared.metrics.reloaded(false, now);
    }

    /// How the configuration fares.
    pub fn configuration(&self) -> MutexGuard<'_, Loads> {
        lock(&self.configuration)
    }

    /// How the revocation list fares.
    pub fn revocations(&self) -> MutexGuard<'_, Loads> {
        lock(&self.revocations)
    }

    /// Takes what the source of service identity gives, as it comes. What cannot be taken leaves the present
    /// generation in place.
    pub async fn follow(self: Arc<Live>) {
        let mut state = self.source_state();
        let mut taken: Option<Arc<Issued>> = None;
        loop {
            let issued = state.borrow_and_update().issued.clone();
            if issued.as_ref().map(Arc::as_ptr) != taken.as_ref().map(Arc::as_ptr) {
                Arc::clone(&self).aside(Live::reissue).await;
                taken = issued;
            }
            if state.changed().await.is_err() {
                return;
            }
        }
    }

    /// Takes what the revocation list says that is read as `settings` say.
    pub async fn revoke(self: Arc<Live>, settings: RevocationSettings, revocations: Revocations) {
        if *self.shared.generation.load().revocations == revocations {
            return;
        }
        let revoke = move |live: &Live| {
            let taken = live.replace(|present, assembled, _| {
                Ok(assemble::revoked(present, assembled, &settings, revocations))
            });
            if let Err(error) = taken {
                tracing::error!(%error, "the revocation list cannot be put in force");
            }
        };
        self.aside(revoke).await;
    }

    /// Does what waits for its turn beside the background runtime, which answers operators meanwhile.
    async fn aside(self: Arc<Live>, work: impl FnOnce(&Live) + Send + 'static) {
        if tokio::task::spawn_blocking(move || work(&self)).await.is_err() {
            tracing::error!("what is in force could not be replaced: a thread ended by a panic");
        }
    }

    fn reissue(&self) {
        let taken = self.replace(|present, assembled, tools| {
            assemble::reissued(present, assembled, self.state().issued, tools)
        });
        let refused = match taken {
            Ok(()) => None,
            Err(error) => {
                self.shared.metrics.identity.failures.inc();
                tracing::error!(%error, "what the source of service identity gives cannot be taken; the last good stays");
                Some(error.to_string().into())
            }
        };
        *self.refused() = refused;
    }

    fn refused(&self) -> MutexGuard<'_, Option<Arc<str>>> {
        lock(&self.refused)
    }

    /// Puts the generation that `make` makes of the present one in its place.
    fn replace(
        &self,
        make: impl FnOnce(&Generation, &Assembled, Tools<'_>) -> Result<(Generation, Assembled), AssembleError>,
    ) -> Result<(), AssembleError> {
        let shared = &self.shared;
        let _turn = lock(&self.turn);
        let present = Arc::clone(&self.present());
        let tools = Tools { background: &self.background, metrics: &shared.metrics, clock: &shared.clock };
        let (generation, assembled) = make(&present.generation, &present.assembled, tools)?;
        let next = Present { generation: Arc::new(generation), assembled };
        report::changes(&shared.audit, &present, &next);
        let revocations =
            |of: &Present| (of.assembled.revocation.clone(), Arc::clone(&of.generation.revocations));
        if revocations(&present) != revocations(&next) {
            *self.revocations() = Loads::since(shared.clock.now());
            report::revoked(shared, &next.generation);
        }
        report::awaited(&present.assembled, &next.assembled);
        let mut in_force = self.present();
        report::forget(&shared.metrics, &present, &next);
        shared.metrics.policy_in_force(&next.generation.policy.hash(), next.generation.number);
        shared.generation.store(Arc::clone(&next.generation));
        *in_force = Arc::new(next);
        shared.reloaded.send_replace(());
        Ok(())
    }

    /// Where the source stands, if there is one.
    pub fn source_status(&self, assembled: &Assembled) -> Option<SourceStatus> {
        let source = self.source.as_ref()?;
        let refused = self.refused().clone();
        Some(SourceStatus {
            source: source.settings().to_string(),
            is_awaited: assembled.identities.own == Some(Own::Awaited),
            failure: self.state().failure.or(refused),
            mismatch: assembled.identities.mismatch(assembled.issued.as_deref()),
        })
    }

    fn state(&self) -> State {
        self.source_state().borrow().clone()
    }

    /// Changes whenever the source has news; never, if there is none.
    pub fn source_state(&self) -> watch::Receiver<State> {
        self.source.as_ref().map_or_else(|| watch::channel(State::default()).1, Source::state)
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
