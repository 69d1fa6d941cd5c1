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
    per_address: Mutex<HashMap<IpAddr, Open>>,
}

/// What one client address has open.
#[derive(Debug, Default)]
struct Open {
    connections: usize,
    /// Of these.
    handshakes: usize,
}

/// A connection that was let in, until dropped.
#[derive(Debug)]
pub struct Admitted {
    admission: Arc<Admission>,
    address: Option<IpAddr>,
}

/// A handshake that was let in, until dropped.
#[derive(Debug)]
pub struct Handshaking {
    admission: Arc<Admission>,
    address: IpAddr,
}

impl Admission {
    /// Lets a connection in, if fewer than `max` are.
    pub fn connection(self: &Arc<Self>, max: usize) -> Result<Admitted, Limit> {
        if !take(&self.connections, max) {
            return Err(Limit::ConnectionsMax);
        }
        Ok(Admitted { admission: Arc::clone(self), address: None })
    }

    /// Lets a handshake begin, if fewer than `max` are under way, and fewer than `per_peer_max` with its
    /// client's address.
    pub fn handshake(
        self: &Arc<Self>,
        address: IpAddr,
        max: usize,
        per_peer_max: usize,
    ) -> Result<Handshaking, Limit> {
        if !self.take_from(address, per_peer_max, |open| &mut open.handshakes) {
            return Err(Limit::HandshakesPerPeerMax);
        }
        if !take(&self.handshakes, max) {
            self.give_back(address, |open| &mut open.handshakes);
            return Err(Limit::HandshakesMax);
        }
        Ok(Handshaking { admission: Arc::clone(self), address })
    }

    /// Connections let in and not yet ended.
    pub fn connections_open(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    fn take_from(&self, address: IpAddr, max: usize, counted: fn(&mut Open) -> &mut usize) -> bool {
        let mut all = self.per_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counted(all.entry(address).or_default());
        let fits = *count < max;
        *count += usize::from(fits);
        fits
    }

    fn give_back(&self, address: IpAddr, counted: fn(&mut Open) -> &mut usize) {
        let mut all = self.per_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = all.get_mut(&address) {
            *counted(open) -= 1;
            if open.connections == 0 && open.handshakes == 0 {
                all.remove(&address);
            }
        }
    }
}

fn take(count: &AtomicUsize, max: usize) -> bool {
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < max).then_some(open + 1)).is_ok()
}

impl Admitted {
    /// Counts the connection for its client's address too, once that is known.
    pub fn from_address(&mut self, address: IpAddr, max: usize) -> Result<(), Limit> {
        if !self.admission.take_from(address, max, |open| &mut open.connections) {
            return Err(Limit::ConnectionsPerPeerMax);
        }
        self.address = Some(address);
        Ok(())
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.connections.fetch_sub(1, Ordering::Relaxed);
        if let Some(address) = self.address {
            self.admission.give_back(address, |open| &mut open.connections);
        }
    }
}

impl Drop for Handshaking {
    fn drop(&mut self) {
        self.admission.handshakes.fetch_sub(1, Ordering::Relaxed);
        self.admission.give_back(self.address, |open| &mut open.handshakes);
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
        let [one, other] = [address, IpAddr::from([10, 0, 0, 2])];
        let handshake = admission.handshake(one, 2, 1).unwrap();
        assert_eq!(admission.handshake(one, 2, 1).unwrap_err(), Limit::HandshakesPerPeerMax);
        let another = admission.handshake(other, 2, 1).unwrap();
        assert_eq!(admission.handshake(IpAddr::from([10, 0, 0, 3]), 2, 1).unwrap_err(), Limit::HandshakesMax);
        drop((handshake, another));
        assert!(admission.per_address.lock().unwrap().is_empty());
        assert!(admission.handshake(one, 1, 1).is_ok());
    }
}
