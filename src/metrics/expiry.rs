//! When what we believe, or are believed by, ends.

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Named, named, new};
use crate::clock::Timestamp;

/// In seconds since 1970.
#[derive(Debug)]
pub struct Expiry {
    certificates: Named<Gauge>,
    cas: Named<Gauge>,
    lists: Named<Gauge>,
}

impl Expiry {
    pub(super) fn new(to: &mut Registry) -> Expiry {
        Expiry {
            certificates: new(
                to,
                "certificate_expiry_timestamp_seconds",
                "When a certificate of ours expires",
            ),
            cas: new(
                to,
                "trust_domain_expiry_timestamp_seconds",
                "When the next CA of a trust domain expires; once all have, when the last did",
            ),
            lists: new(
                to,
                "trust_domain_crl_next_update_timestamp_seconds",
                "When the first revocation list of a trust domain must have a successor",
            ),
        }
    }

    /// When a certificate of ours expires, by its place in the configuration.
    pub fn certificate(&self, name: &str, not_after: Timestamp) {
        self.certificates.get_or_create(&named("certificate", name)).set(not_after.unix_seconds());
    }

    /// No certificate stands there any more.
    pub fn forget_certificate(&self, name: &str) {
        self.certificates.remove(&named("certificate", name));
    }

    /// When the next CA of a trust domain expires.
    pub fn cas(&self, trust_domain: &str, next_end: Timestamp) {
        self.cas.get_or_create(&named("trust_domain", trust_domain)).set(next_end.unix_seconds());
    }

    /// When the first revocation list of a trust domain must have a successor.
    pub fn lists(&self, trust_domain: &str, next_update: Timestamp) {
        self.lists.get_or_create(&named("trust_domain", trust_domain)).set(next_update.unix_seconds());
    }

    /// The trust domain is gone, or has no revocation lists any more.
    pub fn forget_lists(&self, trust_domain: &str) {
        self.lists.remove(&named("trust_domain", trust_domain));
    }

    /// The trust domain is gone, or has no CAs any more.
    pub fn forget_cas(&self, trust_domain: &str) {
        self.cas.remove(&named("trust_domain", trust_domain));
    }
}
