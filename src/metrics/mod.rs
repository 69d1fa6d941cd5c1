//! What is counted, by name and typed label; never an identity or a path as a label.
//!
//! Every label value is either from a closed list in the code ([`Label`]) or a name from the
//! configuration, so the number of series does not depend on who asks for what. Series on the path
//! of a request are resolved once, when they are registered, and cost one atomic each.

mod credential;
mod expiry;
mod limit;

pub use credential::CredentialMetrics;
pub use limit::Limit;

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};
use tokio::runtime::RuntimeMetrics;

use crate::clock::Timestamp;

/// A closed list of label values.
pub trait Label: Copy + 'static {
    /// How many values there are.
    const COUNT: usize;

    /// All values, each at its [`Label::position`].
    fn all() -> Vec<Self>;

    /// Names and values of the labels.
    fn labels(self) -> Vec<(&'static str, &'static str)>;

    /// Where this value stands in [`Label::all`].
    fn position(self) -> usize;
}

/// Every pair of two closed lists.
impl<A: Label, B: Label> Label for (A, B) {
    const COUNT: usize = A::COUNT * B::COUNT;

    fn all() -> Vec<(A, B)> {
        A::all().into_iter().flat_map(|a| B::all().into_iter().map(move |b| (a, b))).collect()
    }

    fn labels(self) -> Vec<(&'static str, &'static str)> {
        [self.0.labels(), self.1.labels()].concat()
    }

    fn position(self) -> usize {
        self.0.position() * B::COUNT + self.1.position()
    }
}

/// One counter for each value of a closed label.
#[derive(Clone, Debug)]
pub struct CounterBy<L> {
    counters: Box<[Counter]>,
    label: PhantomData<L>,
}

/// Series for things that the configuration names, as issuers and upstreams.
pub type Named<M> = Family<[(&'static str, String); 1], M>;

/// What a lookup in a cache found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    Hit,
    Miss,
}

/// Lookups of one cache.
#[derive(Clone, Debug, Default)]
pub struct CacheMetrics {
    pub hits: Counter,
    pub misses: Counter,
}

/// What verifying tokens took; one set for all generations of the configuration.
#[derive(Clone, Debug, Default)]
pub struct TokenMetrics {
    /// Tokens that were verified before.
    pub cache: CacheMetrics,
    /// Tokens that were refused a moment ago; asked only where [`TokenMetrics::cache`] knows nothing.
    pub failures: CacheMetrics,
    pub signature_checks: Counter,
}

/// What came from the source of service identity.
#[derive(Clone, Debug, Default)]
pub struct SourceMetrics {
    /// Good values, also such as were known already.
    pub updates: Counter,
    pub failures: Counter,
}

/// Fetches of one issuer's keys.
#[derive(Clone, Debug, Default)]
pub struct IssuerMetrics {
    /// When the keys in use were fetched, in seconds since 1970.
    pub fetched: Gauge,
    /// Fetches ended, good or not; one with discovery is one.
    pub fetches: Counter,
    pub failures: Counter,
    /// Of the failures, those over `key_document_bytes_max`.
    pub documents_too_long: Counter,
}

/// All metrics that are not bound to another module's closed list; those come from
/// [`Metrics::counter_by`]. All names start with `countersign_`.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    /// Seconds from the arrival of a request's head to the end of its answer.
    request_duration: Histogram,
    /// Seconds that deciding took.
    decision_duration: Histogram,
    pub connections_open: Gauge,
    /// TLS handshakes that completed.
    pub handshakes_completed: Counter,
    /// TLS handshakes that completed by resumption; also counted as completed.
    pub handshakes_resumed: Counter,
    /// Connections closed by the other end before a ClientHello, as load balancers probe.
    pub probes: Counter,
    /// Connections closed for their PROXY header, or for having none.
    pub proxy_headers_refused: Counter,
    /// Times that the kernel handed out no connection, as it does without file descriptors.
    pub accept_failures: Counter,
    pub tokens: TokenMetrics,
    pub decision_cache: CacheMetrics,
    keys_fetched: Named<Gauge>,
    key_fetches: Named<Counter>,
    key_fetch_failures: Named<Counter>,
    pub identity: SourceMetrics,
    /// Connections closed since our own certificate has not come yet.
    pub connections_before_certificate: Counter,
    pub expiry: expiry::Expiry,
    pub credentials: credential::Credentials,
    cache_entries: Named<Gauge>,
    revocations: Named<Gauge>,
    revocation_success: Gauge,
    /// Counted when they are asked for.
    tasks: Gauge,
    runtimes: Mutex<Vec<RuntimeMetrics>>,
    servers: Named<Gauge>,
    servers_ejected: Named<Gauge>,
    pub audit_written: Counter,
    /// Records lost: the queue was full, or the output could not be written until the end.
    pub audit_dropped: Counter,
    /// 1 while the output cannot be written.
    pub audit_failing: Gauge,
    reload_success: Gauge,
    reload_time: Gauge,
    policy: Named<Gauge>,
    policy_generation: Gauge,
    limits_hit: CounterBy<Limit>,
}

/// Bounds in seconds of OpenTelemetry's `http.server.request.duration`.
const REQUEST_SECONDS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// A decision takes microseconds.
const DECISION_SECONDS: [f64; 8] = [1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 1e-4, 1e-3, 1e-2];

impl Metrics {
    pub fn new() -> Metrics {
        let mut to = Registry::with_prefix("countersign");
        let cache_lookups = Family::<[(&'static str, &'static str); 2], Counter>::default();
        let cache = |name: &'static str| CacheMetrics {
            hits: cache_lookups.get_or_create_owned(&[("cache", name), ("result", "hit")]),
            misses: cache_lookups.get_or_create_owned(&[("cache", name), ("result", "miss")]),
        };
        to.register("build", "The version that runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        to.register("cache_lookups", "Lookups in a cache", cache_lookups.clone());
        Metrics {
            request_duration: add(
                &mut to,
                "request_duration_seconds",
                "From a request's head to the end of its answer",
                Histogram::new(REQUEST_SECONDS),
            ),
            decision_duration: add(
                &mut to,
                "decision_duration_seconds",
                "Time that deciding took",
                Histogram::new(DECISION_SECONDS),
            ),
            connections_open: new(&mut to, "connections_open", "Client connections open now"),
            handshakes_completed: new(&mut to, "tls_handshakes_completed", "TLS handshakes completed"),
            handshakes_resumed: new(
                &mut to,
                "tls_handshakes_resumed",
                "TLS handshakes completed by resumption",
            ),
            probes: new(&mut to, "probes", "Connections closed before a ClientHello"),
            proxy_headers_refused: new(
                &mut to,
                "proxy_headers_refused",
                "Connections closed for their PROXY header",
            ),
            accept_failures: new(&mut to, "accept_failures", "Times that no connection could be accepted"),
            tokens: TokenMetrics {
                cache: cache("tokens"),
                failures: cache("refused_tokens"),
                signature_checks: new(&mut to, "token_signature_checks", "Signatures of tokens checked"),
            },
            decision_cache: cache("decisions"),
            keys_fetched: new(
                &mut to,
                "issuer_keys_fetched_timestamp_seconds",
                "When an issuer's keys were last fetched",
            ),
            key_fetches: new(&mut to, "issuer_fetches", "Fetches of an issuer's keys, good or not"),
            key_fetch_failures: new(
                &mut to,
                "issuer_fetch_failures",
                "Fetches of an issuer's keys that failed",
            ),
            identity: SourceMetrics {
                updates: new(
                    &mut to,
                    "identity_updates",
                    "Certificates and CAs that came from the source of service identity",
                ),
                failures: new(
                    &mut to,
                    "identity_failures",
                    "Failures of the source of service identity; the last good value stays",
                ),
            },
            connections_before_certificate: new(
                &mut to,
                "connections_before_certificate",
                "Connections closed since our own certificate has not come yet",
            ),
            expiry: expiry::Expiry::new(&mut to),
            credentials: credential::Credentials::new(&mut to),
            cache_entries: new(&mut to, "cache_entries", "Entries of a cache"),
            revocations: new(&mut to, "revocations", "Entries of the revocation list, by what they name"),
            revocation_success: new(
                &mut to,
                "revocation_list_last_read_success",
                "1 if what the revocation list said last was taken",
            ),
            tasks: new(&mut to, "tasks", "Tasks alive: connections, streams, tunnels, what keeps house"),
            runtimes: Mutex::default(),
            servers: new(&mut to, "upstream_servers", "Servers of an upstream"),
            servers_ejected: new(&mut to, "upstream_servers_ejected", "Servers of an upstream now ejected"),
            audit_written: new(&mut to, "audit_records_written", "Audit records written"),
            audit_dropped: new(&mut to, "audit_records_dropped", "Audit records lost"),
            audit_failing: new(&mut to, "audit_failing", "1 while the audit output cannot be written"),
            reload_success: new(&mut to, "config_last_reload_success", "1 if the last load was taken"),
            reload_time: new(&mut to, "config_last_reload_timestamp_seconds", "When the last load was tried"),
            policy: new(&mut to, "policy_info", "1 for the policy that is served"),
            policy_generation: new(&mut to, "policy_generation", "Loads taken since the start"),
            limits_hit: counter_by(&mut to, "limits_hit", "Refusals because a limit was reached"),
            registry: Mutex::new(to),
        }
    }

    /// Registers one counter for each value of a closed label; `_total` is added to the name.
    pub fn counter_by<L: Label>(&self, name: &str, help: &str) -> CounterBy<L> {
        counter_by(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner), name, help)
    }

    pub fn request_finished(&self, total: Duration) {
        self.request_duration.observe(total.as_secs_f64());
    }

    pub fn decided(&self, took: Duration) {
        self.decision_duration.observe(took.as_secs_f64());
    }

    pub fn issuer(&self, name: &str) -> IssuerMetrics {
        let label = named("issuer", name);
        IssuerMetrics {
            fetched: self.keys_fetched.get_or_create_owned(&label),
            fetches: self.key_fetches.get_or_create_owned(&label),
            failures: self.key_fetch_failures.get_or_create_owned(&label),
            documents_too_long: self.limits_hit.counter(Limit::KeyDocumentBytesMax),
        }
    }

    /// The configuration has no such issuer any more.
    pub fn forget_issuer(&self, name: &str) {
        let label = named("issuer", name);
        self.keys_fetched.remove(&label);
        self.key_fetches.remove(&label);
        self.key_fetch_failures.remove(&label);
    }

    /// How much a cache holds.
    pub fn cache_holds(&self, cache: &str, entries: u64) {
        let entries = i64::try_from(entries).unwrap_or(i64::MAX);
        self.cache_entries.get_or_create(&named("cache", cache)).set(entries);
    }

    /// A runtime whose tasks count from now on.
    pub fn runtime(&self, runtime: RuntimeMetrics) {
        self.runtimes.lock().unwrap_or_else(PoisonError::into_inner).push(runtime);
    }

    /// How many servers an upstream has, and how many of them are ejected.
    pub fn upstream_health(&self, upstream: &str, servers: usize, ejected: usize) {
        self.servers.get_or_create(&named("upstream", upstream)).set(whole(servers));
        self.servers_ejected.get_or_create(&named("upstream", upstream)).set(whole(ejected));
    }

    /// The configuration has no such upstream any more.
    pub fn forget_upstream(&self, upstream: &str) {
        self.servers.remove(&named("upstream", upstream));
        self.servers_ejected.remove(&named("upstream", upstream));
    }

    /// A new configuration was tried, and taken or not.
    pub fn reloaded(&self, taken: bool, at: Timestamp) {
        self.reload_success.set(i64::from(taken));
        self.reload_time.set(at.unix_seconds());
    }

    /// The revocation list was read, and taken or not.
    pub fn revocation_list_read(&self, taken: bool) {
        self.revocation_success.set(i64::from(taken));
    }

    /// This many entries of a kind are in force from now on.
    pub fn revocations(&self, kind: &str, entries: usize) {
        let entries = i64::try_from(entries).unwrap_or(i64::MAX);
        self.revocations.get_or_create(&named("kind", kind)).set(entries);
    }

    /// This policy is the one that decides from now on.
    pub fn policy_in_force(&self, hash: &impl fmt::Display, generation: u64) {
        // no page shows the moment between the two
        let _registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        self.policy.clear();
        self.policy.get_or_create(&named("hash", &hash.to_string())).set(1);
        self.policy_generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
    }

    /// Something was over `limit`, and was refused or ended for that.
    pub fn limit_hit(&self, limit: Limit) {
        self.limits_hit.inc(limit);
    }

    /// Everything in the OpenMetrics text format, version 1.0.0.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let runtimes = self.runtimes.lock().unwrap_or_else(PoisonError::into_inner);
        self.tasks.set(whole(runtimes.iter().map(RuntimeMetrics::num_alive_tasks).sum()));
        drop(runtimes);
        let mut text = String::new();
        text::encode(&mut text, &self.registry.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Lookup {
    pub fn as_str(self) -> &'static str {
        match self {
            Lookup::Hit => "hit",
            Lookup::Miss => "miss",
        }
    }
}

impl CacheMetrics {
    pub fn count(&self, lookup: Lookup) {
        match lookup {
            Lookup::Hit => self.hits.inc(),
            Lookup::Miss => self.misses.inc(),
        };
    }
}

impl<L: Label> CounterBy<L> {
    /// The counter for `label`, for who counts nothing else.
    fn counter(&self, label: L) -> Counter {
        self.counters.get(label.position()).cloned().unwrap_or_default()
    }

    pub fn inc(&self, label: L) {
        if let Some(counter) = self.counters.get(label.position()) {
            counter.inc();
        }
    }

    pub fn get(&self, label: L) -> u64 {
        self.counters.get(label.position()).map_or(0, |counter| counter.get())
    }
}

fn counter_by<L: Label>(to: &mut Registry, name: &str, help: &str) -> CounterBy<L> {
    let family = Family::<Vec<(&'static str, &'static str)>, Counter>::default();
    let counters = L::all().iter().map(|label| family.get_or_create_owned(&label.labels())).collect();
    to.register(name, help, family);
    CounterBy { counters, label: PhantomData }
}

fn new<M: Metric + Clone + Default>(to: &mut Registry, name: &str, help: &str) -> M {
    add(to, name, help, M::default())
}

fn add<M: Metric + Clone>(to: &mut Registry, name: &str, help: &str, metric: M) -> M {
    to.register(name, help, metric.clone());
    metric
}

fn named(label: &'static str, name: &str) -> [(&'static str, String); 1] {
    [(label, name.to_owned())]
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
