//! How many requests of each client address are under way on one core. Behind a load balancer that ends TLS all its
//! clients come over its own connections, and one of them could otherwise take every place that an upstream has.
//!
//! A share is taken before anybody is asked anything on account of a request, and given back by a guard's drop, whatever
//! ends the exchange.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

use crate::metrics::Limit;

/// Those of one core.
#[derive(Debug, Default)]
pub struct InFlight(RefCell<HashMap<IpAddr, usize>>);

/// A request's part of what its client may have, until dropped.
#[derive(Debug)]
pub struct Share {
    of: Rc<InFlight>,
    address: IpAddr,
}

impl InFlight {
    /// Lets a request in, if fewer than `max` with its client's address are.
    pub fn enter(self: &Rc<Self>, address: IpAddr, max: usize) -> Result<Share, Limit> {
        let mut all = self.0.borrow_mut();
        let taken = all.entry(address).or_default();
        if *taken >= max {
            return Err(Limit::RequestsPerClientMax);
        }
        *taken += 1;
        Ok(Share { of: Rc::clone(self), address })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut all = self.of.0.borrow_mut();
        match all.get_mut(&self.address) {
            Some(taken) if *taken > 1 => *taken -= 1,
            _ => _ = all.remove(&self.address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_share_and_leaves_nothing_behind() {
        let in_flight = Rc::new(InFlight::default());
        let [one, other] = [1, 2].map(|last| IpAddr::from([203, 0, 113, last]));
        let shares = [in_flight.enter(one, 2).unwrap(), in_flight.enter(one, 2).unwrap()];
        assert_eq!(in_flight.enter(one, 2).unwrap_err(), Limit::RequestsPerClientMax);
        let beside = in_flight.enter(other, 2).unwrap();
        let [first, second] = shares;
        drop(first);
        let again = in_flight.enter(one, 2).unwrap();
        assert_eq!(in_flight.enter(one, 2).unwrap_err(), Limit::RequestsPerClientMax);
        drop((second, again, beside));
        assert!(in_flight.0.borrow().is_empty());
    }
}
