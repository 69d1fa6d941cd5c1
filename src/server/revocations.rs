//! The revocation list as it changes: read by itself, so that nothing that stands in another file keeps a
//! revocation from taking effect. A list that cannot be read leaves the last good one in force, loudly.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::live::Live;
use crate::config::{Report, RevocationSettings, load_revocations};
use crate::revocation::Idle;
use crate::tls::reload::Watch;

/// How often the list is read where it cannot be watched.
const PERIOD: Duration = Duration::from_millis(500);

/// One list, and the watch over it.
struct Followed {
    settings: RevocationSettings,
    watch: Option<Watch>,
    /// What was wrong with it when it was last read.
    failure: Option<String>,
    /// Of its entries, those that were told to revoke nothing.
    idle: Vec<Idle>,
}

/// Takes the list that the configuration in force names, as it changes, until the proxy has stopped.
pub async fn follow(live: Arc<Live>) {
    let mut reloaded = live.shared.reloaded.subscribe();
    let mut followed: Option<Followed> = None;
    loop {
        reloaded.borrow_and_update();
        let settings = live.present().assembled.revocation.clone();
        if followed.as_ref().map(|followed| &followed.settings) != settings.as_ref() {
            followed = settings.map(Followed::new);
        }
        // Also after a reload, which may have read the list before it changed last.
        if let Some(followed) = &mut followed {
            followed.take(&live).await;
        }
        let changed = async {
            match &mut followed {
                Some(Followed { watch: Some(watch), .. }) => watch.changed().await,
                Some(Followed { watch: None, .. }) => sleep(PERIOD).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => {}
            _ = reloaded.changed() => {}
        }
    }
}

impl Followed {
    fn new(settings: RevocationSettings) -> Followed {
        let file: PathBuf = settings.file.clone();
        let watch = Watch::new([file]).inspect_err(|error| {
            tracing::warn!(%error, "the revocation list cannot be watched; it is read every half second");
        });
        Followed { settings, watch: watch.ok(), failure: None, idle: Vec::new() }
    }

    async fn take(&mut self, live: &Arc<Live>) {
        match load_revocations(&self.settings, live.shared.clock.now()) {
            Ok(revocations) => {
                self.failure = None;
                live.revocations().failure = None;
                live.shared.metrics.revocation_list_read(true);
                self.warn_of(revocations.idle());
                Arc::clone(live).revoke(self.settings.clone(), revocations).await;
            }
            Err(report) => self.failed(live, &report),
        }
    }

    fn warn_of(&mut self, idle: &[Idle]) {
        for Idle { line, why } in idle.iter().filter(|idle| !self.idle.contains(idle)) {
            let place = format!("{}:{line}", self.settings.file.display());
            tracing::warn!(place, "an entry of the revocation list revokes nothing{why}");
        }
        self.idle = idle.to_vec();
    }

    fn failed(&mut self, live: &Live, report: &Report) {
        live.shared.metrics.revocation_list_read(false);
        let failure = report.in_words();
        live.revocations().failed(live.shared.clock.now(), failure.clone());
        if self.failure.as_ref() != Some(&failure) {
            report.log();
            tracing::error!("the revocation list cannot be taken; the last good one stays in force");
            self.failure = Some(failure);
        }
    }
}
