//! The revocation list as it changes: read by itself, so that nothing that stands in another file keeps a
//! revocation from taking effect. A list that cannot be read leaves the last good one in force, loudly.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use super::assemble::Assembled;
use super::report;
use crate::config::{RevocationSettings, load_revocations};
use crate::proxy::{Generation, Shared};
use crate::tls::reload::Watch;

/// How often the list is read where it cannot be watched.
const PERIOD: Duration = Duration::from_millis(500);

/// One list, and the watch over it.
struct Followed {
    settings: RevocationSettings,
    watch: Option<Watch>,
    /// What was wrong with it when it was last read.
    failure: Option<String>,
}

/// Takes the list that the configuration in force names, as it changes, until the proxy has stopped.
pub async fn follow(shared: Arc<Shared>, assembled: Arc<Mutex<Assembled>>) {
    let mut reloaded = shared.reloaded.subscribe();
    let mut followed: Option<Followed> = None;
    loop {
        reloaded.borrow_and_update();
        let settings = lock(&assembled).revocation.clone();
        if followed.as_ref().map(|followed| &followed.settings) != settings.as_ref() {
            followed = settings.map(Followed::new);
        }
        // Also after a reload, which may have read the list before it changed last.
        if let Some(followed) = &mut followed {
            followed.take(&shared, &assembled);
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
        Followed { settings, watch: watch.ok(), failure: None }
    }

    fn take(&mut self, shared: &Shared, assembled: &Mutex<Assembled>) {
        let revocations = match load_revocations(&self.settings, shared.clock.now()) {
            Ok(revocations) => revocations,
            Err(report) => return self.failed(shared, report.to_text(false)),
        };
        self.failure = None;
        shared.metrics.revocation_list_read(true);
        // No reload meanwhile.
        let assembled = lock(assembled);
        let present = shared.generation.load_full();
        if assembled.revocation.as_ref() != Some(&self.settings) || *present.revocations == revocations {
            return;
        }
        let next = Generation {
            number: present.number + 1,
            revocations: Arc::new(revocations),
            ..Generation::clone(&present)
        };
        report::revoked(shared, &next);
        shared.metrics.policy_in_force(&next.policy.hash(), next.number);
        shared.generation.store(Arc::new(next));
        shared.reloaded.send_replace(());
    }

    fn failed(&mut self, shared: &Shared, failure: String) {
        shared.metrics.revocation_list_read(false);
        if self.failure.as_ref() != Some(&failure) {
            tracing::error!("the revocation list cannot be taken; the last good one stays in force");
            for line in failure.lines().filter(|line| !line.is_empty()) {
                tracing::error!("{line}");
            }
            self.failure = Some(failure);
        }
    }
}

fn lock(assembled: &Mutex<Assembled>) -> MutexGuard<'_, Assembled> {
    assembled.lock().unwrap_or_else(PoisonError::into_inner)
}
