//! What there is to know about a proxy, and whether it is ready.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use serde::Serialize;

use crate::clock::{Clock, Timestamp};
use crate::identity::Name;
use crate::metrics::Metrics;

/// What there is to know about this proxy. The composition root keeps it up to date.
#[derive(Debug)]
pub struct Status {
    pub(super) proxy: Name,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<Metrics>,
    draining: AtomicBool,
    pub(super) serving: ArcSwapOption<Serving>,
}

/// What is served at present; replaced as a whole when any of it changes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Serving {
    /// The hash of the policy, as `sha256:…`.
    pub policy: String,
    pub generation: u64,
    pub configuration: LoadStatus,
    /// `None` without a revocation list.
    pub revocation: Option<RevocationStatus>,
    pub listeners: Vec<ListenerStatus>,
    pub issuers: Vec<IssuerStatus>,
    /// `None` where files give our certificate.
    pub identity: Option<IdentityStatus>,
    pub certificates: Vec<CertificateStatus>,
    pub trust_domains: Vec<CasStatus>,
    pub upstreams: Vec<UpstreamStatus>,
    /// Of upstreams that tokens are got for.
    pub credentials: Vec<CredentialStatus>,
}

/// How the configuration fares.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LoadStatus {
    /// Since when what is in force is.
    pub since: String,
    /// Of the last attempt to take another, if it failed; what was in force still is.
    pub failure: Option<FailureStatus>,
}

#[derive(Clone, Debug, Serialize)]
pub struct FailureStatus {
    pub at: String,
    /// In words.
    pub why: String,
}

/// How the revocation list fares.
#[derive(Clone, Debug, Serialize)]
pub struct RevocationStatus {
    /// Those in force.
    pub entries: usize,
    /// Those that revoke nothing, and why.
    pub idle: Vec<String>,
    #[serde(flatten)]
    pub load: LoadStatus,
}

#[derive(Clone, Debug, Serialize)]
pub struct ListenerStatus {
    pub name: Name,
    pub address: SocketAddr,
}

#[derive(Clone, Debug, Serialize)]
pub struct IssuerStatus {
    pub name: Name,
    /// Keys that tokens are verified with now.
    pub keys: usize,
    /// Whether they were never fetched, so that nobody knows which there are.
    pub awaited: bool,
    /// Of the last fetch, in words, if it failed.
    pub failure: Option<String>,
}

/// Where the source of service identity stands.
#[derive(Clone, Debug, Serialize)]
pub struct IdentityStatus {
    /// Its name in the configuration.
    pub source: String,
    /// It has not given our certificate yet: until then listeners refuse connections.
    pub awaited: bool,
    /// What is wrong with it, in words; the last good value stays.
    pub failure: Option<String>,
    /// They vouch for nobody.
    pub trust_domains_without_ca: Vec<TrustDomainStatus>,
    /// Why nobody can be believed, whatever it gives, where that is so.
    pub mismatch: Option<String>,
}

/// A trust domain whose CAs were to come from the source of service identity.
#[derive(Clone, Debug, Serialize)]
pub struct TrustDomainStatus {
    pub name: String,
    /// Why it has none, in words.
    pub failure: String,
}

/// A certificate of ours.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateStatus {
    /// Its place in the configuration, as `identity`.
    pub name: String,
    #[serde(serialize_with = "shown")]
    pub not_after: Timestamp,
}

/// The CAs of a trust domain.
#[derive(Clone, Debug, Serialize)]
pub struct CasStatus {
    pub name: String,
    /// It is ours.
    pub own: bool,
    pub cas: usize,
    /// Of those that have not ended yet.
    #[serde(serialize_with = "shown")]
    pub next_not_after: Timestamp,
    #[serde(serialize_with = "shown")]
    pub last_not_after: Timestamp,
    /// When the first of its revocation lists must have a successor.
    pub crl_next_update: Option<String>,
    /// The CAs that vouch for nobody, and why, in words.
    pub idle: Vec<String>,
    /// They are all.
    #[serde(skip)]
    pub is_idle: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct UpstreamStatus {
    pub name: Name,
    pub servers: usize,
    pub ejected: usize,
}

/// Tokens for one upstream; never the tokens themselves.
#[derive(Clone, Debug, Serialize)]
pub struct CredentialStatus {
    pub upstream: Name,
    pub kind: &'static str,
    /// When our own token ends.
    pub expires: Option<String>,
    /// When the next one is asked for.
    pub refresh: Option<String>,
    /// Exchanged tokens that are remembered.
    pub entries: u64,
    /// Of the last attempt, in words, if it failed.
    pub failure: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Readiness {
    pub ready: bool,
    pub reasons: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct Report<'a> {
    pub proxy: &'a Name,
    pub version: &'static str,
    #[serde(serialize_with = "shown")]
    pub time: Timestamp,
    #[serde(flatten)]
    pub readiness: Readiness,
    #[serde(flatten)]
    pub serving: Option<&'a Serving>,
}

impl Status {
    /// Not ready until something is served.
    pub fn new(proxy: Name, clock: Clock, metrics: Arc<Metrics>) -> Status {
        Status { proxy, clock, metrics, draining: AtomicBool::new(false), serving: ArcSwapOption::empty() }
    }

    pub fn serves(&self, serving: Serving) {
        self.serving.store(Some(Arc::new(serving)));
    }

    /// From now on not ready; there is no way back.
    pub fn drains(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Why no requests should be sent here, in words; ready if there is nothing to say.
    pub fn unready(&self) -> Vec<String> {
        let now = self.clock.now();
        let mut reasons = Vec::new();
        if self.draining.load(Ordering::Acquire) {
            reasons.push("draining: the proxy is shutting down".to_owned());
        }
        let Some(serving) = self.serving.load_full() else {
            reasons.push("starting: no configuration is served yet".to_owned());
            return reasons;
        };
        for issuer in serving.issuers.iter().filter(|issuer| issuer.awaited) {
            let failure = issuer.failure.as_deref().unwrap_or("they were not fetched yet");
            reasons.push(format!("issuer {}: no keys are known: {failure}", issuer.name));
        }
        if let Some(identity) = serving.identity.as_ref().filter(|identity| identity.awaited) {
            let failure = identity.failure.as_deref().unwrap_or("it has not answered yet");
            reasons.push(format!("identity: our certificate is awaited from {}: {failure}", identity.source));
        }
        if let Some(mismatch) = serving.identity.as_ref().and_then(|identity| identity.mismatch.as_ref()) {
            reasons.push(format!("identity: {mismatch}"));
        }
        for certificate in serving.certificates.iter().filter(|certificate| certificate.not_after <= now) {
            reasons.push(format!("certificate {}: expired at {}", certificate.name, certificate.not_after));
        }
        // Those of another trust domain are its own affair, as long as anybody is believed.
        let is_idle = |domain: &CasStatus| domain.is_idle || domain.last_not_after <= now;
        let all_are = serving.trust_domains.iter().all(is_idle);
        for domain in serving.trust_domains.iter().filter(|domain| is_idle(domain) && (domain.own || all_are))
        {
            let CasStatus { name, last_not_after, idle, .. } = domain;
            reasons.push(if *last_not_after <= now {
                format!("trust domain {name}: all its CAs have expired, the last at {last_not_after}")
            } else {
                format!("trust domain {name}: nobody is believed: {}", idle.join("; "))
            });
        }
        reasons
    }

    pub(super) fn readiness(&self) -> Readiness {
        let reasons = self.unready();
        Readiness { ready: reasons.is_empty(), reasons }
    }
}

fn shown<S: serde::Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(at)
}
