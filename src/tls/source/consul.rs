//! The Consul agent of this machine: the certificate of one service with its key, and the roots of the cluster,
//! each from a query that is answered when there is news.
//!
//! The agent renews the certificate by itself for as long as somebody waits for it. While a CA is replaced, the
//! cluster names the old root and the new one, and both are believed.

use std::convert::Infallible;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::{Interval, MissedTickBehavior, interval};
use url::Url;

use super::{BackOff, Issued, Publisher, client_of};
use crate::clock::{Clock, Timestamp};
use crate::fetch::{Answer, Client, FetchError, FetchSettings, SecretSource};
use crate::identity::SpiffeId;
use crate::identity::TrustDomain;
use crate::identity::spiffe::SpiffeError;
use crate::tls::client::ClientTlsError;
use crate::tls::{BadBundle, Bundles, Cas, OwnCertificate, Unusable};

/// `[identity.consul]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// https, or http at a loopback address.
    pub address: Url,
    /// Who vouches for the agent. `None`: the CAs of the system.
    pub ca: Option<Vec<CertificateDer<'static>>>,
    pub access: Access,
    /// What of these is not given is the agent's own, or the token's.
    pub whose: Whose,
}

/// Where the ACL token comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    Anonymous,
    Token(SecretSource),
    Login { auth_method: String, bearer_token: SecretSource },
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
    #[error("the Consul agent refuses with status {0}: the token may not, or is no longer good")]
    Forbidden(StatusCode),
    #[error("the Consul agent answers with status {0}")]
    Status(StatusCode),
    #[error("the Consul agent refuses the login with status {0}")]
    Login(StatusCode),
    #[error("an answer of the Consul agent does not parse ({0})")]
    Malformed(&'static str),
    #[error("{0}")]
    Useless(#[from] Useless),
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
const LOGIN: &str = "/v1/acl/login";
const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");
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
struct Roots {
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

/// `POST /v1/acl/login`.
#[derive(Deserialize)]
struct Token {
    #[serde(rename = "SecretID")]
    secret: String,
}

/// The ACL token of a login, while it is good.
type Held = Mutex<Option<HeaderValue>>;

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
    let ca = if fetch.allow_http { Some(&[][..]) } else { settings.ca.as_deref() };
    let client = client_of(fetch, ca, clock)?;
    let agent = Agent { settings, client, held };
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

/// Who is asked, and as whom.
struct Agent<'a> {
    settings: &'a Settings,
    client: Client,
    held: &'a Held,
}

impl Agent<'_> {
    async fn get(&self, path: &str, index: Option<u64>) -> Result<Answer, AgentError> {
        let url = self.url(path, index);
        let ask = async |token: Option<HeaderValue>| {
            let headers = token.map(|token| (TOKEN, token)).into_iter().collect();
            self.client.send(&url, Method::GET, headers, Bytes::new()).await
        };
        let token = self.token(None).await?;
        let mut answer = ask(token.clone()).await?;
        if answer.status == StatusCode::FORBIDDEN
            && let Access::Login { .. } = self.settings.access
        {
            answer = ask(self.token(token.as_ref()).await?).await?;
        }
        match answer.status {
            StatusCode::OK => Ok(answer),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Err(AgentError::Forbidden(status)),
            status => Err(AgentError::Status(status)),
        }
    }

    fn url(&self, path: &str, index: Option<u64>) -> Url {
        let Whose { partition, namespace, datacenter, .. } = &self.settings.whose;
        let mut url = self.settings.address.clone();
        url.set_path(path);
        let given = [("partition", partition), ("ns", namespace), ("dc", datacenter)];
        for (name, value) in given.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
            url.query_pairs_mut().append_pair(name, value);
        }
        if let Some(index) = index {
            let wait = format!("{WAIT_S}s");
            url.query_pairs_mut().append_pair("index", &index.to_string()).append_pair("wait", &wait);
        }
        url
    }

    /// The token to ask with; that of a login is another than the one that was refused.
    async fn token(&self, refused: Option<&HeaderValue>) -> Result<Option<HeaderValue>, AgentError> {
        match &self.settings.access {
            Access::Anonymous => Ok(None),
            Access::Token(source) => Ok(Some(secret_value(&source.read().await?)?)),
            Access::Login { auth_method, bearer_token } => {
                let mut held = self.held.lock().await;
                if held.as_ref() == refused {
                    *held = None;
                    *held = Some(self.log_in(auth_method, bearer_token).await?);
                }
                Ok(held.clone())
            }
        }
    }

    async fn log_in(&self, method: &str, bearer: &SecretSource) -> Result<HeaderValue, AgentError> {
        let body = json!({ "AuthMethod": method, "BearerToken": bearer.read().await? }).to_string();
        let url = self.url(LOGIN, None);
        let answer = self.client.send(&url, Method::POST, HeaderMap::new(), body.into()).await?;
        if answer.status != StatusCode::OK {
            return Err(AgentError::Login(answer.status));
        }
        // What serde would say could quote a secret.
        let token: Token =
            serde_json::from_slice(&answer.body).map_err(|_| AgentError::Malformed("the login"))?;
        secret_value(&token.secret)
    }
}

fn secret_value(secret: &str) -> Result<HeaderValue, AgentError> {
    let mut value = HeaderValue::from_str(secret).map_err(|_| FetchError::Credential)?;
    value.set_sensitive(true);
    Ok(value)
}

/// What two answers give, if all of it is good.
fn issued(leaf: &[u8], roots: &[u8], whose: &Whose, now: Timestamp) -> Result<Issued, AgentError> {
    let malformed = |what| move || AgentError::Malformed(what);
    let leaf: Leaf = serde_json::from_slice(leaf).ok().ok_or_else(malformed("the certificate"))?;
    let roots: Roots = serde_json::from_slice(roots).ok().ok_or_else(malformed("the roots"))?;
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
