//! One address of a server: its health, which all cores share, and its counters, one set a core.
//!
//! Health is written only by failures and by the success that follows one, counters only by the core
//! that they belong to: no request writes what another core writes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::connect::Server;
use super::settings::{UpstreamLimits, UpstreamSettings};

/// An address that requests may go to.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub server: Arc<Server>,
    pub address: SocketAddr,
    born: Instant,
    failures_in_a_row: AtomicU32,
    ejections_in_a_row: AtomicU32,
    /// Milliseconds after `born`.
    ejected_until_ms: AtomicU64,
    cores: Mutex<Vec<Arc<Counters>>>,
}

/// What one core did with one address.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub in_flight: AtomicU64,
    pub connections_open: AtomicU64,
    pub requests: AtomicU64,
    pub connects: AtomicU64,
    pub failures: AtomicU64,
}

/// Counts one up for as long as it lives.
#[derive(Debug)]
pub(super) struct Counted {
    counters: Arc<Counters>,
    which: fn(&Counters) -> &AtomicU64,
}

/// An upstream for `/metrics` and readiness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamStatus {
    pub name: String,
    /// Empty while no name of it has resolved yet.
    pub endpoints: Vec<EndpointStatus>,
}

/// One address; counters are sums over all cores since the address became known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointStatus {
    /// `host:port` as configured.
    pub server: String,
    pub address: SocketAddr,
    pub ejected: bool,
    pub failures_in_a_row: u32,
    pub in_flight: u64,
    pub connections_open: u64,
    pub requests: u64,
    pub connects: u64,
    pub failures: u64,
}

impl Endpoint {
    pub fn new(server: Arc<Server>, address: SocketAddr) -> Endpoint {
        Endpoint {
            server,
            address,
            born: Instant::now(),
            failures_in_a_row: AtomicU32::new(0),
            ejections_in_a_row: AtomicU32::new(0),
            ejected_until_ms: AtomicU64::new(0),
            cores: Mutex::default(),
        }
    }

    pub fn is_ejected(&self) -> bool {
        let until = self.ejected_until_ms.load(Ordering::Relaxed);
        until != 0 && self.age_ms() < until
    }

    /// It answered, whatever it said.
    pub fn succeeded(&self) {
        if self.failures_in_a_row.load(Ordering::Relaxed) != 0 {
            self.failures_in_a_row.store(0, Ordering::Relaxed);
            self.ejections_in_a_row.store(0, Ordering::Relaxed);
            self.ejected_until_ms.store(0, Ordering::Relaxed);
        }
    }

    /// It was refused, reset, or timed out before the response. After an ejection ends, one more
    /// failure ejects anew and for longer; one success forgives all.
    pub fn failed(&self, settings: &UpstreamSettings) {
        let failures = self.failures_in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let threshold = settings.eject_after_failures;
        let until = self.ejected_until_ms.load(Ordering::Relaxed);
        let now = self.age_ms();
        if threshold == 0 || failures < threshold || now < until {
            return;
        }
        let ejection =
            ejection_lasts(self.ejections_in_a_row.load(Ordering::Relaxed), &settings.limits).as_millis();
        let next = now.saturating_add(u64::try_from(ejection).unwrap_or(u64::MAX));
        // Many requests fail at once; only the one that ejects makes the next ejection longer.
        if self.ejected_until_ms.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.ejections_in_a_row.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(server = %self.server.settings, address = %self.address, failures, "upstream address ejected");
        }
    }

    /// Counters for one more core.
    pub fn counters_of_a_core(&self) -> Arc<Counters> {
        let counters = Arc::new(Counters::default());
        self.cores.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&counters));
        counters
    }

    pub fn status(&self) -> EndpointStatus {
        let cores = self.cores.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |which: fn(&Counters) -> &AtomicU64| {
            cores.iter().map(|core| which(core).load(Ordering::Relaxed)).sum()
        };
        EndpointStatus {
            server: self.server.settings.to_string(),
            address: self.address,
            ejected: self.is_ejected(),
            failures_in_a_row: self.failures_in_a_row.load(Ordering::Relaxed),
            in_flight: sum(|core| &core.in_flight),
            connections_open: sum(|core| &core.connections_open),
            requests: sum(|core| &core.requests),
            connects: sum(|core| &core.connects),
            failures: sum(|core| &core.failures),
        }
    }

    fn age_ms(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

fn ejection_lasts(ejections_before: u32, limits: &UpstreamLimits) -> Duration {
    let doubled = 2u32.checked_pow(ejections_before).and_then(|by| limits.ejection_min.checked_mul(by));
    doubled.unwrap_or(limits.ejection_max).min(limits.ejection_max)
}

impl Counters {
    pub fn add(&self, which: fn(&Counters) -> &AtomicU64) {
        which(self).fetch_add(1, Ordering::Relaxed);
    }
}

impl Counted {
    pub fn new(counters: &Arc<Counters>, which: fn(&Counters) -> &AtomicU64) -> Counted {
        counters.add(which);
        Counted { counters: Arc::clone(counters), which }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.which)(&self.counters).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::testing::{settings, trusting_nobody};
    use std::num::NonZeroU32;

    fn endpoint() -> (Endpoint, UpstreamSettings) {
        let mut settings = settings(&["http://127.0.0.1:1"], &trusting_nobody());
        settings.eject_after_failures = 3;
        let server = Server::new(settings.servers[0].clone());
        assert_eq!(server.settings.weight, NonZeroU32::MIN);
        (Endpoint::new(Arc::new(server), ([127, 0, 0, 1], 1).into()), settings)
    }

    #[tokio::test(start_paused = true)]
    async fn consecutive_failures_eject_and_each_ejection_is_longer() {
        let (endpoint, settings) = endpoint();
        tokio::time::advance(Duration::from_millis(1)).await;
        endpoint.failed(&settings);
        endpoint.failed(&settings);
        endpoint.succeeded();
        endpoint.failed(&settings);
        endpoint.failed(&settings);
        assert!(!endpoint.is_ejected(), "a success in between starts the count anew");
        for seconds in [5, 10, 20, 40, 80, 160, 300, 300] {
            endpoint.failed(&settings);
            endpoint.failed(&settings);
            tokio::time::advance(Duration::from_millis(seconds * 1000 - 1)).await;
            assert!(endpoint.is_ejected(), "{seconds}");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(!endpoint.is_ejected(), "{seconds}");
        }
        endpoint.succeeded();
        endpoint.failed(&settings);
        assert!(!endpoint.is_ejected(), "forgiven");
    }

    #[tokio::test(start_paused = true)]
    async fn zero_never_ejects() {
        let (endpoint, mut settings) = endpoint();
        settings.eject_after_failures = 0;
        for _ in 0..100 {
            endpoint.failed(&settings);
        }
        assert!(!endpoint.is_ejected());
    }
}
