//! Sources of service identity: where our own certificate and CAs of trust domains come from when no file holds
//! them. One file each.
//!
//! Invariants:
//! - What a source gives is [`Issued`] whole or not at all: a certificate and a key that fit and are valid now,
//!   and the CAs that came with them.
//! - The last good value stays until there is a better one, whatever goes wrong; what goes wrong is counted,
//!   logged and shown. Until there is a first one, nothing stands in for it.

pub mod workload_api;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{Bundles, OwnCertificate};
use crate::clock::Clock;
use crate::metrics::SourceMetrics;

/// `[identity] source`, where it is not files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceSettings {
    WorkloadApi(workload_api::Settings),
}

/// What a source gives at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct Issued {
    pub own: OwnCertificate,
    /// Of whichever trust domains the source knows; only those that the configuration names are believed.
    pub bundles: Bundles,
}

/// Where a source stands.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Its last good value.
    pub issued: Option<Arc<Issued>>,
    /// What is wrong since, in words.
    pub failure: Option<Arc<str>>,
}

/// A source that runs, until it is dropped.
pub struct Source {
    settings: SourceSettings,
    state: watch::Receiver<State>,
    _task: AbortOnDropHandle<()>,
}

/// What a source has for its news.
pub struct Publisher {
    state: watch::Sender<State>,
    metrics: SourceMetrics,
}

impl Source {
    pub fn start(
        settings: SourceSettings,
        background: &Handle,
        metrics: SourceMetrics,
        clock: Clock,
    ) -> Source {
        let (sender, state) = watch::channel(State::default());
        let publisher = Publisher { state: sender, metrics };
        let task = match settings.clone() {
            SourceSettings::WorkloadApi(settings) => {
                background.spawn(workload_api::follow(settings, publisher, clock))
            }
        };
        Source { settings, state, _task: AbortOnDropHandle::new(task) }
    }

    pub fn settings(&self) -> &SourceSettings {
        &self.settings
    }

    /// As it is now; its changes can be waited for.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }
}

impl Publisher {
    /// All is well; what came may be what is known already.
    pub fn issued(&self, issued: Issued) {
        self.metrics.updates.inc();
        self.state.send_modify(|state| {
            state.failure = None;
            if state.issued.as_deref() != Some(&issued) {
                state.issued = Some(Arc::new(issued));
            }
        });
    }

    /// Something is wrong; the last good value stays.
    pub fn failed(&self, why: &dyn fmt::Display) {
        self.metrics.failures.inc();
        let stays = self.state.borrow().issued.is_some();
        tracing::warn!(%why, last_good_stays = stays, "the source of service identity fails");
        self.state.send_modify(|state| state.failure = Some(why.to_string().into()));
    }
}

/// How it is called in the configuration.
impl fmt::Display for SourceSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SourceSettings::WorkloadApi(_) => "workload_api",
        })
    }
}

/// How long to wait before a source is asked again that failed: each failure in a row doubles it. Somewhat less
/// than that, by chance, so that many who failed at once do not come back at once.
#[derive(Debug)]
pub struct BackOff(Duration);

impl Default for BackOff {
    fn default() -> BackOff {
        BackOff(BackOff::MIN)
    }
}

impl BackOff {
    const MIN: Duration = Duration::from_millis(500);
    const MAX: Duration = Duration::from_secs(30);
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.0.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        self.0 = BackOff::MAX.min(self.0 * 2);
    }
}
