//! How many connections and handshakes are let in at once, in all and per client address.
//!
//! What is over a limit is closed and counted before a byte of it is read. Every count is given back
//! by a guard's drop, whatever ends the connection.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::metrics::Limit;

/// Shared by all cores.
#[derive(Debug, Default)]
pub struct Admission {
    connections: AtomicUsize,
    handshakes: AtomicUsize,
    per_address: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection that was let in, until dropped.
#[derive(Debug)]
pub struct Admitted {
    admission: Arc<Admission>,
    address: Option<IpAddr>,
}

/// A handshake that was let in, until dropped.
#[derive(Debug)]
pub struct Handshaking(Arc<Admission>);

impl Admission {
    /// Lets a connection in, if fewer than `max` are.
    pub fn connection(self: &Arc<Self>, max: usize) -> Result<Admitted, Limit> {
        if !take(&self.connections, max) {
            return Err(Limit::ConnectionsMax);
        }
        Ok(Admitted { admission: Arc::clone(self), address: None })
    }

    /// Lets a handshake begin, if fewer than `max` are under way.
    pub fn handshake(self: &Arc<Self>, max: usize) -> Result<Handshaking, Limit> {
        if take(&self.handshakes, max) {
            Ok(Handshaking(Arc::clone(self)))
        } else {
            Err(Limit::HandshakesMax)
        }
    }

    /// Connections let in and not yet ended.
    pub fn connections_open(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

fn take(count: &AtomicUsize, max: usize) -> bool {
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < max).then_some(open + 1)).is_ok()
}

impl Admitted {
    /// Counts the connection for its client's address too, once that is known.
    pub fn from_address(&mut self, address: IpAddr, max: usize) -> Result<(), Limit> {
        let mut open = self.admission.per_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_insert(0);
        if *count >= max {
            return Err(Limit::ConnectionsPerPeerMax);
        }
        *count += 1;
        drop(open);
        self.address = Some(address);
        Ok(())
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.connections.fetch_sub(1, Ordering::Relaxed);
        let Some(address) = self.address else { return };
        let mut open = self.admission.per_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&address);
            }
        }
    }
}

impl Drop for Handshaking {
    fn drop(&mut self) {
        self.0.handshakes.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_a_limit_stays_out_and_what_ends_makes_room() {
        let admission = Arc::new(Admission::default());
        let address = IpAddr::from([10, 0, 0, 1]);
        let mut first = admission.connection(2).unwrap();
        first.from_address(address, 1).unwrap();
        let mut second = admission.connection(2).unwrap();
        assert_eq!(second.from_address(address, 1), Err(Limit::ConnectionsPerPeerMax));
        assert_eq!(admission.connection(2).unwrap_err(), Limit::ConnectionsMax);
        drop(first);
        assert_eq!(second.from_address(address, 1), Ok(()));
        assert_eq!(admission.connections_open(), 1);
        drop(second);
        assert!(admission.per_address.lock().unwrap().is_empty());
        let handshake = admission.handshake(1).unwrap();
        assert_eq!(admission.handshake(1).unwrap_err(), Limit::HandshakesMax);
        drop(handshake);
        assert!(admission.handshake(1).is_ok());
    }
}
