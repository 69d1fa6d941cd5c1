//! Whom a connection goes to. A request takes one only to a server that nobody has revoked and whose certificate
//! has not ended; what streams through it is judged again by the upstream of its name that is configured then.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use super::UpstreamError;
use super::discovery::Upstream;
use super::settings::Transport;
use crate::clock::Timestamp;
use crate::revocation::Revocations;
use crate::tls::servers::{Found, ServerTls, Shown};

/// What a connection is wanted for.
#[derive(Clone, Copy)]
pub struct Errand<'a> {
    /// What is revoked, and a number that no other list has.
    pub revocations: (u64, &'a Revocations),
    /// Is told of the server that each attempt goes to, where one has to show who it is.
    pub reached: &'a dyn Fn(Option<&Rc<Served>>),
}

/// The server at the other end of a connection.
pub struct Served {
    tls: Arc<ServerTls>,
    shown: Shown,
    found: Found,
    /// The upstream's name, and the server's within it.
    upstream: String,
    whom: String,
    /// The last list that it is not on.
    cleared: Cell<Option<u64>>,
}

impl Served {
    pub(super) fn new(
        upstream: &Upstream,
        tls: &Arc<ServerTls>,
        shown: Shown,
        whom: String,
    ) -> Result<Rc<Served>, UpstreamError> {
        let found = tls.find(&shown);
        let found = found.map_err(|wrong| UpstreamError::IdentityMismatch(format!("{whom}: {wrong}")))?;
        let upstream = upstream.settings().name.clone();
        Ok(Rc::new(Served { tls: Arc::clone(tls), shown, found, upstream, whom, cleared: Cell::default() }))
    }

    /// Whether a request may go there.
    pub(super) fn admits(&self, errand: &Errand<'_>) -> Result<(), UpstreamError> {
        let (number, revocations) = errand.revocations;
        let now = self.tls.now();
        if self.found.until <= now {
            return Err(self.mismatch(&"its certificate has ended"));
        }
        if self.cleared.get() != Some(number) {
            self.ask(&self.found, revocations, now)?;
            self.cleared.set(Some(number));
        }
        Ok(())
    }

    fn ask(&self, found: &Found, revocations: &Revocations, now: Timestamp) -> Result<(), UpstreamError> {
        let revoked = revocations.holder(&found.certificate, found.id.as_ref(), now);
        revoked.map_or(Ok(()), |revoked| Err(self.mismatch(&revoked)))
    }

    fn mismatch(&self, why: &dyn std::fmt::Display) -> UpstreamError {
        UpstreamError::IdentityMismatch(format!("{}: {why}", self.whom))
    }

    pub fn until(&self) -> Timestamp {
        self.found.until
    }

    /// Up to when the upstream of its name among these would take it for one of its servers.
    pub fn again(
        &self,
        upstreams: &[Arc<Upstream>],
        revocations: &Revocations,
    ) -> Result<Timestamp, UpstreamError> {
        let upstream = upstreams.iter().find(|upstream| upstream.settings().name == self.upstream);
        let mut servers = upstream.into_iter().flat_map(|upstream| &upstream.settings().servers);
        let tls = servers.find_map(|server| match &server.transport {
            Transport::Https { tls, .. } => Some(tls),
            Transport::Http | Transport::H2c | Transport::Awaited => None,
        });
        let tls = tls.ok_or_else(|| self.mismatch(&"nobody says any more who it should be"))?;
        let found = tls.find(&self.shown).map_err(|wrong| self.mismatch(&wrong))?;
        self.ask(&found, revocations, tls.now())?;
        Ok(found.until)
    }
}
