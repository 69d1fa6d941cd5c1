//! Words for *who*. Pure values: nothing here reads a socket, a file or a clock.
//!
//! Both identities of a request meet as [`Signature`]: verified, or absent. A credential that was
//! presented and failed is neither; it is an error of the step that read it and never gets here.

pub mod actor;
pub mod caller;
mod hash;
pub mod name;
pub mod peer;
pub mod spiffe;

pub use actor::{ActorKind, Delegate};
pub use caller::{Bound, Caller, Confirmation, SUBJECT_ISSUER};
pub(crate) use hash::write_sha256;
pub use name::Name;
pub use peer::{CertificateHash, Direction, Hop, Peer, PeerName};
pub use spiffe::{SpiffeId, SpiffePattern, TrustDomain};

use std::sync::Arc;

/// One of the two signatures of a request: the [`Peer`] or the [`Caller`].
#[derive(Debug)]
pub enum Signature<T> {
    /// Presented, and good.
    Verified(Arc<T>),
    /// Not presented at all: no certificate, no token. A fact for the policy to judge.
    Absent,
}

impl<T> Signature<T> {
    /// The verified identity, for readers to whom its absence is just one more value.
    pub fn verified(&self) -> Option<&Arc<T>> {
        match self {
            Signature::Verified(identity) => Some(identity),
            Signature::Absent => None,
        }
    }
}

impl<T> Clone for Signature<T> {
    fn clone(&self) -> Self {
        match self {
            Signature::Verified(identity) => Signature::Verified(Arc::clone(identity)),
            Signature::Absent => Signature::Absent,
        }
    }
}
