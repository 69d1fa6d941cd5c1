//! File descriptors: as many as the kernel lets us have, and a word where that is not enough.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::proxy::Limits;

/// Besides connections: listeners, files, the log, fetches, the admin pages.
const OTHERS: u64 = 256;

/// Raises the soft limit to the hard one, and warns if `limits` may need more.
pub fn raise_limit(limits: &Limits) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
    // Each client's connection may have one to an upstream.
    let wanted = 2 * limits.connections_max as u64 + OTHERS;
    if let Some(allowed) = getrlimit(Resource::Nofile).current
        && allowed < wanted
    {
        tracing::warn!(
            allowed,
            wanted,
            "`[limit] connections_max` is more than the open files that the process may have: raise the \
             limit (`ulimit -Hn`), or lower the key"
        );
    }
}
