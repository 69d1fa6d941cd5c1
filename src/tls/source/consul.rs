//! The Consul agent of this machine: the certificate of one service with its key, and the roots of the cluster,
//! each from a query that is answered when there is news.
//!
//! The agent renews the certificate by itself for as long as somebody waits for it. While a CA is replaced, the
//! cluster names the old root and the new one, and both are believed.

mod agent;

use std::convert::Infallible;
use std::fmt;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, StatusCode};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use tokio::time::{Interval, MissedTickBehavior, interval};
use url::Url;

use self::agent::{Agent, Held};
use super::{BackOff, Issued, Publisher, client_of, in_short};
use crate::clock::{Clock, Timestamp};
use crate::fetch::{Answer, FetchError, FetchSettings, SecretSource};
use crate::identity::SpiffeId;
use crate::identity::TrustDomain;
use crate::identity::spiffe::SpiffeError;
use crate::tls::client::ClientTlsError;
use crate::tls::{BadBundle, Bundles, Cas, OwnCertificate, PemSource, Roots, TrustError, Unusable};

/// `[identity.consul]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// https, or http at a loopback address.
    pub address: Url,
    /// Who vouches for the agent. `None`: the CAs of the system.
    pub ca: Option<PemSource>,
    pub access: Access,
    /// What of these is not given is the agent's own, or the token's.
    pub whose: Whose,
}

/// Where the ACL token comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    Anonymous,
    Token(SecretSource),
    Login {
        auth_method: String,
        bearer_token: SecretSource,
        /// Of the auth method.
        namespace: Option<String>,
    },
}

/// A service of a Consul cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whose {
    pub service: String,
    pub partition: Option<String>,
    pub namespace: Option<String>,
    pub datacenter: Option<String>,
}

/// What goes wrong between us and the agent.
#[derive(Debug, thiserror::Error)]
enum AgentError {
    #[error("the Consul agent: {0}")]
    Fetch(#[from] FetchError),
    #[error("the Consul agent cannot be asked: {0}")]
    Tls(#[from] ClientTlsError),
    #[error("the CA of the Consul agent: {0}")]
    Ca(#[from] TrustError),
    #[error(
        "the Consul agent refuses with status {0}: the token is no longer good, or has no `service:write` for the service"
    )]
    Forbidden(Refusal),
    #[error("the Consul agent answers with status {0}; its log says more")]
    Status(Refusal),
    #[error(
        "the Consul agent refuses the login with status {0}: see the auth method's log, and `namespace` of `login`"
    )]
    Login(Refusal),
    #[error("an answer of the Consul agent does not parse ({0})")]
    Malformed(&'static str),
    #[error("{0}")]
    Useless(#[from] Useless),
}

/// How the agent refuses, and what it says of it.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    says: String,
}

impl Refusal {
    /// It may say back what it was sent; then it says nothing.
    fn of(answer: &Answer, sent: Option<&str>) -> Refusal {
        let says = String::from_utf8_lossy(&answer.body);
        let says = if sent.is_some_and(|sent| says.contains(sent)) { String::new() } else { in_short(&says) };
        Refusal { status: answer.status, says }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { status, says } = self;
        if says.is_empty() { write!(f, "{status}") } else { write!(f, "{status} ({says:?})") }
    }
}

/// Why what the agent answers is of no use.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Useless {
    #[error("the Consul agent: {0}")]
    Certificate(#[from] Unusable),
    #[error("the Consul agent gives a certificate without a SPIFFE ID")]
    NoSpiffeId,
    #[error("the Consul agent gives a certificate of `{0}`, which is not service `{1}`")]
    OtherService(SpiffeId, String),
    #[error("the Consul agent gives a certificate of `{0}`, and the cluster's trust domain is `{1}`")]
    OtherTrustDomain(SpiffeId, TrustDomain),
    #[error("the Consul agent names `{0}`, which is no trust domain: {1}")]
    TrustDomain(String, SpiffeError),
    #[error("the Consul agent gives as roots {0}")]
    Roots(#[from] BadBundle),
}

/// How long the agent waits for news. It adds up to a sixteenth of that.
const WAIT_S: u64 = 60;
const TOTAL_TIMEOUT: Duration = Duration::from_secs(WAIT_S + WAIT_S / 16 + 30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Between two queries of the same thing, whatever an agent makes of waiting.
const PAUSE: Duration = Duration::from_millis(250);

const ROOTS: &str = "/v1/agent/connect/ca/roots";
const LEAF: &str = "/v1/agent/connect/ca/leaf/";
const INDEX: HeaderName = HeaderName::from_static("x-consul-index");

/// `GET /v1/agent/connect/ca/leaf/:service`.
#[derive(Deserialize)]
struct Leaf {
    /// The leaf first, then those between it and a root.
    #[serde(rename = "CertPEM")]
    chain: String,
    #[serde(rename = "PrivateKeyPEM")]
    private_key: String,
}

/// `GET /v1/agent/connect/ca/roots`.
#[derive(Deserialize)]
struct RootList {
    #[serde(rename = "TrustDomain")]
    trust_domain: String,
    #[serde(rename = "Roots")]
    roots: Vec<Root>,
}

#[derive(Deserialize)]
struct Root {
    #[serde(rename = "RootCert")]
    certificate: String,
}

/// Asks until dropped, and anew whenever that fails.
pub async fn follow(settings: Settings, publisher: Publisher, clock: Clock) {
    let mut back_off = BackOff::default();
    // Each login makes a token in the cluster, so it is kept whatever else fails.
    let held = Held::default();
    loop {
        let error = match watch(&settings, &held, &publisher, &clock, &mut back_off).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        publisher.failed(&error);
        back_off.wait(clock.now()).await;
    }
}

/// Waits for news of both at once, until something fails.
async fn watch(
    settings: &Settings,
    held: &Held,
    publisher: &Publisher,
    clock: &Clock,
    back_off: &mut BackOff,
) -> Result<Infallible, AgentError> {
    let fetch = FetchSettings {
        allow_http: settings.address.scheme() == "http",
        allow_private_addresses: true,
        body_bytes_max: BODY_BYTES_MAX,
        connect_timeout: CONNECT_TIMEOUT,
        total_timeout: TOTAL_TIMEOUT,
    };
    // It rotates, too.
    let ca = match &settings.ca {
        _ if fetch.allow_http => Some(Roots::none()),
        ca => ca.as_ref().map(Roots::load).transpose()?,
    };
    let client = client_of(fetch, ca, clock).await?;
    let agent = Agent { settings, client, held, clock };
    let mut leaf = Watched::new(format!("{LEAF}{}", settings.whose.service));
    let mut roots = Watched::new(ROOTS.to_owned());
    tokio::try_join!(leaf.news(&agent), roots.news(&agent))?;
    let known = std::sync::Mutex::new((leaf.known.clone(), roots.known.clone()));
    let publish = |leaf: Option<&Bytes>, roots: Option<&Bytes>| -> Result<(), AgentError> {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        known.0 = leaf.unwrap_or(&known.0).clone();
        known.1 = roots.unwrap_or(&known.1).clone();
        publisher.issued(issued(&known.0, &known.1, &settings.whose, clock.now())?);
        Ok(())
    };
    publish(None, None)?;
    back_off.good(clock.now());
    let leaves = endless(async {
        loop {
            leaf.news(&agent).await?;
            // The root that it leads to may be new as well.
            let roots = agent.get(ROOTS, None).await?.body;
            publish(Some(&leaf.known), Some(&roots))?;
        }
    });
    let roots = endless(async {
        loop {
            roots.news(&agent).await?;
            publish(None, Some(&roots.known))?;
        }
    });
    Ok(tokio::try_join!(leaves, roots)?.0)
}

/// Says of what kind it is.
fn endless<F: Future<Output = Result<Infallible, AgentError>>>(future: F) -> F {
    future
}

/// Something that is asked for again and again.
struct Watched {
    path: String,
    /// After which the next answer is to come; `None`: at once.
    index: Option<u64>,
    known: Bytes,
    pace: Interval,
}

impl Watched {
    fn new(path: String) -> Watched {
        let mut pace = interval(PAUSE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Watched { path, index: None, known: Bytes::new(), pace }
    }

    /// Returns when it is another than was known.
    async fn news(&mut self, agent: &Agent<'_>) -> Result<(), AgentError> {
        while !self.look(agent).await? {}
        Ok(())
    }

    /// Whether the next answer is another than was known.
    async fn look(&mut self, agent: &Agent<'_>) -> Result<bool, AgentError> {
        self.pace.tick().await;
        let answer = agent.get(&self.path, self.index).await?;
        let index = answer.headers.get(INDEX).and_then(|index| index.to_str().ok()?.parse().ok());
        self.index = after(self.index, index);
        let is_news = self.known != answer.body;
        self.known = answer.body;
        Ok(is_news)
    }
}

/// The index to wait after. One that is zero or goes backwards is of a cluster that was restored: what is waited
/// for after it may never come.
fn after(before: Option<u64>, index: Option<u64>) -> Option<u64> {
    index.filter(|index| *index > 0 && before.is_none_or(|before| *index >= before))
}

/// What two answers give, if all of it is good.
fn issued(leaf: &[u8], roots: &[u8], whose: &Whose, now: Timestamp) -> Result<Issued, AgentError> {
    let malformed = |what| move || AgentError::Malformed(what);
    let leaf: Leaf = serde_json::from_slice(leaf).ok().ok_or_else(malformed("the certificate"))?;
    let roots: RootList = serde_json::from_slice(roots).ok().ok_or_else(malformed("the roots"))?;
    let chain = certificates(&leaf.chain).ok_or_else(malformed("the certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(leaf.private_key.as_bytes());
    let own =
        OwnCertificate::new(chain, key.ok().ok_or_else(malformed("the key"))?, now).map_err(Useless::from)?;
    let trust_domain = roots.trust_domain.parse::<TrustDomain>();
    let trust_domain = trust_domain.map_err(|error| Useless::TrustDomain(roots.trust_domain, error))?;
    check(own.spiffe_id.as_ref(), &trust_domain, whose)?;
    let mut cas = Vec::new();
    for root in &roots.roots {
        cas.extend(certificates(&root.certificate).ok_or_else(malformed("the roots"))?);
    }
    let cas = Cas::issued(&cas).map_err(Useless::from)?;
    Ok(Issued { own, bundles: Bundles::from([(trust_domain, Ok(cas))]) })
}

fn certificates(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().ok()
}

/// Whether a certificate is that of the service which was asked for.
fn check(id: Option<&SpiffeId>, trust_domain: &TrustDomain, whose: &Whose) -> Result<(), Useless> {
    let id = id.ok_or(Useless::NoSpiffeId)?;
    if id.trust_domain() != trust_domain {
        return Err(Useless::OtherTrustDomain(id.clone(), trust_domain.clone()));
    }
    if !whose.is_named_by(id) {
        return Err(Useless::OtherService(id.clone(), whose.service.clone()));
    }
    Ok(())
}

impl Whose {
    /// Whether this is its SPIFFE ID: `/ns/N/dc/D/svc/S`, with `/ap/P` before that in another partition than
    /// `default`.
    fn is_named_by(&self, id: &SpiffeId) -> bool {
        let segments: Vec<&str> = id.segments().collect();
        let (partition, in_partition) = match &segments[..] {
            ["ap", partition, rest @ ..] => (*partition, rest),
            all => ("default", all),
        };
        let ["ns", namespace, "dc", datacenter, "svc", service] = in_partition else { return false };
        let fits = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|wanted| wanted == is);
        *service == self.service
            && fits(&self.partition, partition)
            && fits(&self.namespace, namespace)
            && fits(&self.datacenter, datacenter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_is_zero_or_goes_backwards_is_forgotten() {
        for (before, index, expected) in [
            (None, Some(7), Some(7)),
            (Some(7), Some(7), Some(7)),
            (Some(7), Some(9), Some(9)),
            (Some(7), Some(6), None),
            (Some(7), Some(0), None),
            (None, Some(0), None),
            (Some(7), None, None),
        ] {
            assert_eq!(after(before, index), expected, "{before:?} {index:?}");
        }
    }

    #[test]
    fn a_service_is_known_by_each_segment_of_its_id() {
        let given = |text: &str| Some(text.to_owned());
        let plain = Whose { service: "web".to_owned(), partition: None, namespace: None, datacenter: None };
        let all = Whose {
            partition: given("edge"),
            namespace: given("shop"),
            datacenter: given("dc1"),
            ..plain.clone()
        };
        let default = Whose { partition: given("default"), ..plain.clone() };
        let mut seen = 0;
        for (path, expected) in [
            ("ns/shop/dc/dc1/svc/web", [true, false, true]),
            ("ap/edge/ns/shop/dc/dc1/svc/web", [true, true, false]),
            ("ap/default/ns/shop/dc/dc1/svc/web", [true, false, true]),
            ("ap/edge/ns/other/dc/dc1/svc/web", [true, false, false]),
            ("ap/edge/ns/shop/dc/dc2/svc/web", [true, false, false]),
            ("ap/other/ns/shop/dc/dc1/svc/web", [true, false, false]),
            ("ns/shop/dc/dc1/svc/web2", [false; 3]),
            ("ns/shop/dc/dc1/svc/web/more", [false; 3]),
            ("agent/client/dc/dc1/id/web", [false; 3]),
            ("gateway/mesh/dc/dc1", [false; 3]),
            ("dc/dc1/ns/shop/svc/web", [false; 3]),
            ("ap/edge/ap/edge/ns/shop/dc/dc1/svc/web", [false; 3]),
            ("svc/web", [false; 3]),
        ] {
            let Ok(id) = format!("spiffe://11111111-2222-3333-4444-555555555555.consul/{path}").parse()
            else {
                panic!("{path}")
            };
            assert_eq!([&plain, &all, &default].map(|it| it.is_named_by(&id)), expected, "{path}");
            seen += 1;
        }
        assert_eq!(seen, 13);
    }
}
