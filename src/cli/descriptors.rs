//! File descriptors: as many as the kernel lets us have, and no more connections than these carry.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::proxy::Limits;

/// Besides connections: listeners, files, the log, fetches, the admin pages.
const OTHERS: u64 = 256;

/// Raises the soft limit to the hard one.
pub fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}

/// Lowers `connections_max` to what the process may have open. Says so once for each `connections_max`: `said` is
/// the one that it was said of.
pub fn fit(limits: &mut Limits, said: &mut Option<usize>) {
    let Some(allowed) = getrlimit(Resource::Nofile).current else { return };
    // Each client's connection may have one to an upstream.
    let carried = usize::try_from(allowed.saturating_sub(OTHERS) / 2).unwrap_or(usize::MAX).max(1);
    if carried < limits.connections_max {
        if said.replace(limits.connections_max) != Some(limits.connections_max) {
            tracing::warn!(
                allowed,
                connections_max = carried,
                "`[limit] connections_max` is lowered to what the open files allow; raise their limit \
                 (`ulimit -Hn`), or lower the key"
            );
        }
        limits.connections_max = carried;
    }
}
