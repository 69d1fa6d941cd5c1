//! Tokens that this proxy gets for upstreams.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{CacheMetrics, Named, named, new};

/// For one upstream.
#[derive(Clone, Debug, Default)]
pub struct CredentialMetrics {
    /// Requests for which a token was there, or not.
    pub cache: CacheMetrics,
    /// Requests to the token endpoint.
    pub fetches: Counter,
    /// Of these, the ones that brought no token.
    pub failures: Counter,
    /// When our own token ends, in seconds since 1970.
    pub expires: Gauge,
    /// When the next one is asked for.
    pub refresh: Gauge,
}

/// Those of all upstreams.
#[derive(Debug)]
pub struct Credentials {
    hits: Named<Counter>,
    misses: Named<Counter>,
    fetches: Named<Counter>,
    failures: Named<Counter>,
    expires: Named<Gauge>,
    refresh: Named<Gauge>,
}

impl Credentials {
    pub(super) fn new(to: &mut Registry) -> Credentials {
        Credentials {
            hits: new(
                to,
                "upstream_credential_hits",
                "Requests for which a token for the upstream was there",
            ),
            misses: new(to, "upstream_credential_misses", "Requests for which a token had to be got"),
            fetches: new(to, "upstream_credential_fetches", "Tokens for an upstream asked for, got or not"),
            failures: new(to, "upstream_credential_failures", "Tokens for an upstream asked for and not got"),
            expires: new(
                to,
                "upstream_credential_expiry_timestamp_seconds",
                "When our own token for an upstream ends",
            ),
            refresh: new(
                to,
                "upstream_credential_refresh_timestamp_seconds",
                "When the next token of our own for an upstream is asked for",
            ),
        }
    }

    pub fn of(&self, upstream: &str) -> CredentialMetrics {
        let label = named("upstream", upstream);
        CredentialMetrics {
            cache: CacheMetrics {
                hits: self.hits.get_or_create_owned(&label),
                misses: self.misses.get_or_create_owned(&label),
            },
            fetches: self.fetches.get_or_create_owned(&label),
            failures: self.failures.get_or_create_owned(&label),
            expires: self.expires.get_or_create_owned(&label),
            refresh: self.refresh.get_or_create_owned(&label),
        }
    }

    /// No token is got for this upstream any more.
    pub fn forget(&self, upstream: &str) {
        let label = named("upstream", upstream);
        for counters in [&self.hits, &self.misses, &self.fetches, &self.failures] {
            counters.remove(&label);
        }
        self.expires.remove(&label);
        self.refresh.remove(&label);
    }
}
