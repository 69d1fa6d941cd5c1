//! Says when files have changed: certificates, keys, CAs, revocation lists, the configuration itself.
//!
//! What to do about it, and to go on with the last good files, is the server's business. Folders are
//! watched, not files: editors and `mv` replace a file, and Kubernetes swaps a symlink beside it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{Event, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::sleep;

/// Watches a set of files for as long as it lives.
pub struct Watch {
    events: mpsc::Receiver<()>,
    /// An event was taken and not yet looked into.
    due: bool,
    seen: Seen,
    _watcher: RecommendedWatcher,
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

/// As many as the kernel follows.
const LINKS_MAX: u8 = 40;

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
        let (folders, names) = (folders(&paths), names(&paths));
        let (send, events) = mpsc::channel(1);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // An error means that events were lost, so that anything may have changed.
            if event.is_err() || event.is_ok_and(|event| concerns(&event, &names)) {
                // Full: an event that nobody has looked into yet says it all.
                _ = send.try_send(());
            }
        })?;
        // Before the first look: what changes in between is seen twice rather than never.
        for folder in &folders {
            let failed = |error| WatchError::Folder { folder: folder.clone(), error };
            watcher.watch(folder, RecursiveMode::NonRecursive).map_err(failed)?;
        }
        for folder in of_links(&paths).difference(&folders) {
            // It may be one that we may pass through and not read, as `/home`.
            if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
                tracing::warn!(folder = %folder.display(), %error, "links in a folder cannot be watched");
            }
        }
        let seen = Seen { last: sights(&paths), paths };
        Ok(Watch { events, due: false, seen, _watcher: watcher })
    }

    /// Whether a file can be watched for, be it there or not: a folder that is not there cannot.
    pub fn can_see(file: &Path) -> bool {
        file.parent().is_none_or(|folder| folder.as_os_str().is_empty() || folder.is_dir())
    }

    /// Waits until something has changed since the last call. May be dropped and called again.
    pub async fn changed(&mut self) {
        loop {
            if !self.due && self.events.recv().await.is_none() {
                // The watcher's thread is gone; nothing will ever change again.
                std::future::pending::<()>().await;
            }
            self.due = true;
            sleep(SETTLE).await;
            self.due = false;
            if self.seen.changed() {
                return;
            }
        }
    }
}

/// Whether a watched file may be another after this. What is merely written to counts by its name, so that a log
/// that stands in the same folder costs next to nothing.
fn concerns(event: &Event, names: &BTreeSet<OsString>) -> bool {
    let is_meant = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension == "toml")
            || path.file_name().is_none_or(|name| names.contains(name))
    };
    match event.kind {
        EventKind::Access(_) => false,
        EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)) => event.paths.iter().any(is_meant),
        _ => true,
    }
}

/// What the files are called where they are asked for, and where their links end.
fn names(paths: &[PathBuf]) -> BTreeSet<OsString> {
    let real = paths.iter().filter_map(|path| fs::canonicalize(path).ok());
    let all = paths.iter().cloned().chain(real);
    all.filter_map(|path| path.file_name().map(OsString::from)).collect()
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

/// The folders of all links on the way to where the paths end: any of these may be replaced.
fn of_links(paths: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    for path in paths {
        follow(path.clone(), LINKS_MAX, &mut folders);
    }
    folders
}

fn follow(path: PathBuf, links_left: u8, folders: &mut BTreeSet<PathBuf>) {
    let (mut walked, mut parts) = (PathBuf::new(), path.components());
    while let Some(part) = parts.next() {
        walked.push(part);
        if let (Ok(target), Some(left)) = (fs::read_link(&walked), links_left.checked_sub(1)) {
            let folder = parent(&walked);
            let onward = folder.join(target).join(parts.as_path());
            folders.insert(folder);
            return follow(onward, left, folders);
        }
    }
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

    #[cfg(unix)]
    #[tokio::test]
    async fn a_link_is_seen_wherever_on_the_way_it_stands() {
        use std::os::unix::fs::symlink;

        let folder = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(folder.path()).unwrap();
        for (at, version) in [("releases/v1", "one"), ("releases/v2", "two")] {
            fs::create_dir_all(root.join(at).join("tls")).unwrap();
            fs::write(root.join(at).join("tls/a.pem"), version).unwrap();
        }
        let replace = |link: &str, target: &str| {
            symlink(target, root.join("next")).unwrap();
            fs::rename(root.join("next"), root.join(link)).unwrap();
        };
        fs::create_dir(root.join("etc")).unwrap();
        replace("releases/latest", "v1");
        replace("current", "releases/latest");
        replace("etc/a.pem", "../current/tls/a.pem");
        let path = root.join("etc/a.pem");
        let seen = of_links(std::slice::from_ref(&path));
        assert_eq!(seen.len(), 3, "{seen:?}");
        let mut watch = Watch::new([path.clone()]).unwrap();
        let mut cases = 0;
        for (link, target, is) in [
            ("releases/latest", "v2", "two"),
            ("current", "releases/v1", "one"),
            ("etc/a.pem", "../releases/v2/tls/a.pem", "two"),
        ] {
            replace(link, target);
            tokio::time::timeout(Duration::from_secs(20), watch.changed()).await.expect(link);
            assert_eq!(fs::read_to_string(&path).unwrap(), is, "{link}");
            cases += 1;
        }
        assert_eq!(cases, 3);
        // One that leads to itself ends somewhere.
        replace("round", "round");
        assert_eq!(of_links(&[root.join("round/a.pem")]).len(), 1);
    }

    #[test]
    fn a_watcher_that_fell_reports_nothing_for_ever() {
        let mut watch = Watch::new([]).unwrap();
        (_, watch.events) = mpsc::channel(1);
        assert!(watch.changed().now_or_never().is_none());
    }

    #[test]
    fn what_is_merely_written_to_concerns_only_those_who_are_watched() {
        use notify::event::{AccessKind, CreateKind, DataChange, RenameMode};
        let names = names(&["conf/a.pem".into()]);
        let concerned =
            |kind: EventKind, path: &str| concerns(&Event::new(kind).add_path(path.into()), &names);
        let written = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        assert!(concerned(written, "conf/a.pem") && concerned(written, "conf/10-routes.toml"));
        assert!(!concerned(written, "conf/audit.jsonl"));
        // Kubernetes puts another link in the place of this one.
        assert!(concerned(EventKind::Modify(ModifyKind::Name(RenameMode::To)), "conf/..data"));
        assert!(concerned(EventKind::Create(CreateKind::Any), "conf/..data"));
        assert!(!concerned(EventKind::Access(AccessKind::Any), "conf/a.pem"));
        assert!(concerns(&Event::new(EventKind::Other), &names), "events were lost");
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
