//! Session tickets that end with the certificate they stand for.
//!
//! A ticket holds the client's chain, and rustls would resume it for as long as the ticket key lives,
//! whatever the chain's dates say. To refuse such a session after its handshake would lock a client
//! out that has renewed its certificate in the meantime, since each resumed handshake hands out new
//! tickets with the old chain. So a ticket carries the moment its peer ends; from then on it does not
//! open, and a full handshake judges what the client has now.

use std::sync::{Arc, OnceLock};

use rustls::server::ProducesTickets;

use super::verifier::Witness;
use crate::clock::{Clock, Timestamp};

/// The tickets of one connection, under the keys of its listener.
#[derive(Debug)]
pub(super) struct Tickets {
    pub keys: Arc<dyn ProducesTickets>,
    pub clock: Clock,
    /// `None` where clients are not asked for certificates.
    pub witness: Option<Arc<Witness>>,
    /// When the peer of the ticket that the client presented ends.
    pub presented: OnceLock<Timestamp>,
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        self.keys.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.keys.lifetime()
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        let verified = self.witness.as_ref().and_then(|witness| witness.peer_ends());
        let presented = self.presented.get().copied();
        // Neither: the client has no certificate, and nothing ends.
        let ends = verified.or(presented).unwrap_or(Timestamp::MAX);
        self.keys.encrypt(&[&ends.unix_ms().to_be_bytes(), session].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let plain = self.keys.decrypt(ticket)?;
        let (ends, session) = plain.split_first_chunk()?;
        let ends = Timestamp::from_unix_ms(i64::from_be_bytes(*ends));
        if ends <= self.clock.now() || self.presented.set(ends).is_err() {
            return None;
        }
        Some(session.to_vec())
    }
}
