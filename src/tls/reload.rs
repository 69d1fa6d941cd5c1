//! Says when files have changed: certificates, keys, CAs, revocation lists, the configuration itself.
//!
//! What to do about it, and to go on with the last good files, is the server's business. Folders are
//! watched, not files: editors and `mv` replace a file, and Kubernetes swaps a symlink beside it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify_debouncer_full::notify::{self, RecommendedWatcher, RecursiveMode};
use notify_debouncer_full::{DebounceEventResult, Debouncer, RecommendedCache, new_debouncer};
use tokio::sync::mpsc;

/// Watches a set of files for as long as it lives.
pub struct Watch {
    changed: mpsc::Receiver<()>,
    _debouncer: Debouncer<RecommendedWatcher, RecommendedCache>,
}

/// Why files cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("folder `{}` cannot be watched: {error}", folder.display())]
    Folder { folder: PathBuf, error: notify::Error },
    #[error("files cannot be watched: {0}")]
    System(#[from] notify::Error),
}

/// Writers that replace several files are given this long to finish.
const SETTLE: Duration = Duration::from_millis(200);

/// What a file looks like from outside: where its links end, its length and its time; `None` if it
/// is not there.
type Sight = Option<(PathBuf, u64, std::time::SystemTime)>;

impl Watch {
    /// Watches files, or folders for the `*.toml` directly in them; what else is written there, as
    /// audit records, is no change. What does not exist yet is seen
    /// when it comes, if the folder it is to stand in exists. Read the files after this, not
    /// before, and no change is missed.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Result<Watch, WatchError> {
        let paths: Vec<PathBuf> = paths.into_iter().collect();
        let folders = folders(&paths);
        let (send, changed) = mpsc::channel(1);
        let mut seen = Seen { last: sights(&paths), paths };
        let mut debouncer = new_debouncer(SETTLE, None, move |events: DebounceEventResult| {
            let changed = seen.changed();
            // An error means that events were lost, so that anything may have changed.
            if events.is_err() || changed {
                // Full: a change that nobody has looked at yet says it all.
                _ = send.try_send(());
            }
        })?;
        for folder in folders {
            debouncer
                .watch(&folder, RecursiveMode::NonRecursive)
                .map_err(|error| WatchError::Folder { folder, error })?;
        }
        Ok(Watch { changed, _debouncer: debouncer })
    }

    /// Waits until something has changed since the last call.
    pub async fn changed(&mut self) {
        if self.changed.recv().await.is_none() {
            // The watcher's thread is gone; nothing will ever change again.
            std::future::pending::<()>().await;
        }
    }
}

/// What was looked at, and what it looked like.
struct Seen {
    paths: Vec<PathBuf>,
    last: Vec<Sight>,
}

impl Seen {
    /// Whether anything has changed since the last call.
    fn changed(&mut self) -> bool {
        let now = sights(&self.paths);
        let changed = now != self.last;
        self.last = now;
        changed
    }
}

/// The folders that the paths stand in, and those that their links end in.
fn folders(paths: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    for path in paths {
        if path.is_dir() {
            folders.insert(path.clone());
        }
        let real = fs::canonicalize(path).ok();
        folders.extend([Some(path), real.as_ref()].into_iter().flatten().map(|it| parent(it)));
    }
    folders
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn sights(paths: &[PathBuf]) -> Vec<Sight> {
    let mut sights = Vec::with_capacity(paths.len());
    for path in paths {
        match fs::read_dir(path) {
            // Not the folder itself: it changes with every file that comes or goes.
            Ok(entries) => {
                let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
                files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
                files.sort();
                sights.extend(files.iter().map(|file| sight(file).ok()));
            }
            Err(_) => sights.push(sight(path).ok()),
        }
    }
    sights
}

fn sight(path: &Path) -> io::Result<(PathBuf, u64, std::time::SystemTime)> {
    let real = fs::canonicalize(path)?;
    let metadata = fs::metadata(&real)?;
    Ok((real, metadata.len(), metadata.modified()?))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn each_change_is_seen_once() {
        let folder = tempfile::tempdir().unwrap();
        let paths = vec![folder.path().join("a.pem")];
        let mut seen = Seen { last: sights(&paths), paths };
        assert!(!seen.changed());
        fs::write(folder.path().join("a.pem"), "a").unwrap();
        assert!(seen.changed());
        assert!(!seen.changed());
        fs::remove_file(folder.path().join("a.pem")).unwrap();
        assert!(seen.changed());
        assert!(!seen.changed());
    }

    #[test]
    fn a_watcher_that_fell_reports_nothing_for_ever() {
        let mut watch = Watch::new([]).unwrap();
        (_, watch.changed) = mpsc::channel(1);
        assert!(watch.changed().now_or_never().is_none());
    }

    #[test]
    fn a_folder_is_listed_in_one_order() {
        let folder = tempfile::tempdir().unwrap();
        // Each number once, as 7 and 64 have no common divisor, and neither up nor down.
        for at in 0..64 {
            fs::write(folder.path().join(format!("{:02}.toml", at * 7 % 64)), "a").unwrap();
        }
        let seen = sights(&[folder.path().to_owned()]);
        assert_eq!(seen.len(), 64);
        assert!(seen.is_sorted(), "{seen:?}");
    }

    #[test]
    fn of_a_folder_only_its_configuration_files_count() {
        let folder = tempfile::tempdir().unwrap();
        let watched = [folder.path().to_owned()];
        fs::write(folder.path().join("10.toml"), "a").unwrap();
        let first = sights(&watched);
        for other in ["audit.jsonl", "README", "toml"] {
            fs::write(folder.path().join(other), "a").unwrap();
            assert_eq!(first, sights(&watched), "{other}");
        }
        fs::write(folder.path().join("10.toml"), "ab").unwrap();
        let second = sights(&watched);
        assert_ne!(first, second);
        fs::write(folder.path().join("20.toml"), "a").unwrap();
        assert_ne!(second, sights(&watched));
        fs::remove_file(folder.path().join("20.toml")).unwrap();
        assert_eq!(second, sights(&watched));
    }
}
