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
    /// What the present generation was assembled from; locked for as long as the next one is made.
    assembled: Mutex<Assembled>,
    background: Handle,
    source: Option<Source>,
    /// Why what the source gives now could not be taken.
    refused: Mutex<Option<Arc<str>>>,
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
        Live { shared, assembled: Mutex::new(assembled), background, source, refused: Mutex::default() }
    }

    pub fn assembled(&self) -> MutexGuard<'_, Assembled> {
        self.assembled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a new configuration for all requests from now on. If that fails, the present one stays.
    pub fn reload(&self, config: Config) -> Result<(), AssembleError> {
        let running = self.source.as_ref().map(Source::settings);
        let taken = if config.source.as_ref() == running {
            self.replace(|present, assembled, tools| assemble::next(config, present, assembled, tools))
        } else {
            Err(AssembleError::SourceChanged)
        };
        self.shared.metrics.reloaded(taken.is_ok(), self.shared.clock.now());
        // It may have cured what kept the source's news out.
        if taken.is_ok() && self.refused().is_some() {
            self.reissue();
        }
        taken
    }

    /// Takes what the source of service identity gives, as it comes. What cannot be taken leaves the present
    /// generation in place.
    pub async fn follow(self: Arc<Live>) {
        let mut state = self.source_state();
        let mut taken: Option<Arc<Issued>> = None;
        loop {
            let issued = state.borrow_and_update().issued.clone();
            if issued.as_ref().map(Arc::as_ptr) != taken.as_ref().map(Arc::as_ptr) {
                self.reissue();
                taken = issued;
            }
            if state.changed().await.is_err() {
                return;
            }
        }
    }

    /// Takes what the revocation list says that is read as `settings` say.
    pub fn revoke(&self, settings: &RevocationSettings, revocations: Revocations) {
        if *self.shared.generation.load().revocations == revocations {
            return;
        }
        let taken = self.replace(|present, assembled, _| {
            Ok(assemble::revoked(present, assembled, settings, revocations))
        });
        if let Err(error) = taken {
            tracing::error!(%error, "the revocation list cannot be put in force");
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
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the generation that `make` makes of the present one in its place.
    fn replace(
        &self,
        make: impl FnOnce(&Generation, &Assembled, Tools<'_>) -> Result<(Generation, Assembled), AssembleError>,
    ) -> Result<(), AssembleError> {
        let shared = &self.shared;
        let mut assembled = self.assembled();
        let present = shared.generation.load_full();
        let tools = Tools { background: &self.background, metrics: &shared.metrics, clock: &shared.clock };
        let (generation, next) = make(&present, &assembled, tools)?;
        let generation = Arc::new(generation);
        report::changes(&shared.audit, (&present, &assembled), (&generation, &next));
        if assembled.revocation != next.revocation || present.revocations != generation.revocations {
            report::revoked(shared, &generation);
        }
        report::awaited(&assembled, &next);
        report::forget(&shared.metrics, (&present, &assembled), (&generation, &next));
        shared.metrics.policy_in_force(&generation.policy.hash(), generation.number);
        shared.generation.store(generation);
        *assembled = next;
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
            mismatch: assembled.mismatch(),
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
