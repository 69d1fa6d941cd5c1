//! The revocation list as it changes: read by itself, so that nothing that stands in another file keeps a
//! revocation from taking effect. A list that cannot be read leaves the last good one in force, loudly.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::live::Live;
use crate::config::{RevocationSettings, load_revocations};
use crate::proxy::Shared;
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
pub async fn follow(live: Arc<Live>) {
    let mut reloaded = live.shared.reloaded.subscribe();
    let mut followed: Option<Followed> = None;
    loop {
        reloaded.borrow_and_update();
        let settings = live.assembled().revocation.clone();
        if followed.as_ref().map(|followed| &followed.settings) != settings.as_ref() {
            followed = settings.map(Followed::new);
        }
        // Also after a reload, which may have read the list before it changed last.
        if let Some(followed) = &mut followed {
            followed.take(&live);
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

    fn take(&mut self, live: &Live) {
        match load_revocations(&self.settings, live.shared.clock.now()) {
            Ok(revocations) => {
                self.failure = None;
                live.shared.metrics.revocation_list_read(true);
                live.revoke(&self.settings, revocations);
            }
            Err(report) => self.failed(&live.shared, report.to_text(false)),
        }
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
