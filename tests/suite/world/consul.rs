//! A Consul agent that speaks the documented HTTP API: the certificate of a service and the roots of the cluster by
//! blocking queries, and logins. Steered by its handle.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign::cli::mint::{Authority, Minted};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use url::form_urlencoded;

use super::certificates::parsed;
use super::listen::{Listening, listen};
use super::{Body, Error, full, soon};

/// The trust domain of a cluster, as Consul names it.
pub const CLUSTER: &str = "7f42f496-fbc7-8692-05ed-334aa5340c1e.consul";

pub struct ConsulAgent {
    pub url: String,
    state: Arc<State>,
    _listening: Listening,
}

struct State {
    said: watch::Sender<Said>,
    desk: Mutex<Desk>,
}

/// What is known in the cluster.
#[derive(Clone, Default)]
struct Said {
    leaf: Entry,
    roots: Entry,
    /// Counts how often those who wait were sent away.
    sent_away: u64,
    failing: Option<Failing>,
}

#[derive(Clone, Default)]
struct Entry {
    index: u64,
    body: Value,
}

/// How both queries are answered instead.
#[derive(Clone)]
pub enum Failing {
    Status(u16),
    Says(u16, String),
    Text(String),
    HangUp,
}

#[derive(Default)]
struct Desk {
    /// The one token that is good; `None`: everybody may ask.
    token: Option<String>,
    /// A bearer token that the auth method takes.
    bearer: Option<String>,
    logins: u64,
    /// The namespace that the last login named.
    login_namespace: Option<String>,
    /// Tokens that were logged out.
    logged_out: Vec<String>,
    /// Paths with their queries, as they were asked for.
    asked: Vec<String>,
}

impl ConsulAgent {
    pub async fn start(tls: Option<Arc<ServerConfig>>) -> ConsulAgent {
        ConsulAgent::start_at("127.0.0.1:0".parse().unwrap(), tls).await
    }

    /// Another one in its place, with another certificate.
    pub async fn comes_back(self, tls: Arc<ServerConfig>) -> ConsulAgent {
        let address = self._listening.address;
        drop(self);
        let is_free = async {
            while TcpListener::bind(address).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        soon("the address", is_free).await;
        ConsulAgent::start_at(address, Some(tls)).await
    }

    async fn start_at(address: SocketAddr, tls: Option<Arc<ServerConfig>>) -> ConsulAgent {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let said = Said { failing: Some(Failing::Status(500)), ..Said::default() };
        let state = Arc::new(State { said: watch::Sender::new(said), desk: Mutex::default() });
        let shared = state.clone();
        let listening = listen(address, tls, move |request| {
            let state = shared.clone();
            async move { state.answer(request).await }
        })
        .await;
        ConsulAgent { url: format!("{scheme}://{}", listening.address), state, _listening: listening }
    }

    /// Says this from now on, to those who wait first.
    pub fn gives(&self, own: &Minted, trust_domain: &str, cas: &[&Authority]) {
        self.says(leaf(own), roots(trust_domain, cas));
    }

    pub fn says(&self, leaf: Value, roots: Value) {
        self.state.said.send_modify(|said| {
            said.failing = None;
            for (entry, body) in [(&mut said.leaf, leaf), (&mut said.roots, roots)] {
                if entry.body != body {
                    *entry = Entry { index: entry.index + 10, body };
                }
            }
        });
    }

    /// Fails from now on; those who wait are told too.
    pub fn fails(&self, failing: Failing) {
        self.state.said.send_modify(|said| {
            said.failing = Some(failing);
            said.sent_away += 1;
        });
    }

    /// All waits end without news.
    pub fn waits_end(&self) {
        self.state.said.send_modify(|said| said.sent_away += 1);
    }

    /// The cluster is restored: the same, with these indexes. Those who wait are told.
    pub fn restored(&self, index: u64) {
        self.state.said.send_modify(|said| {
            (said.leaf.index, said.roots.index) = (index, index);
            said.sent_away += 1;
        });
    }

    /// Only who has this token may ask. Those who wait are told.
    pub fn takes_token(&self, token: &str) {
        self.state.desk.lock().unwrap().token = Some(token.to_owned());
        self.waits_end();
    }

    /// Who shows this may log in; nobody has a token before.
    pub fn takes_login(&self, bearer: &str) {
        self.state.desk.lock().unwrap().bearer = Some(bearer.to_owned());
        self.takes_token("nobody's");
    }

    pub fn logins(&self) -> u64 {
        self.state.desk.lock().unwrap().logins
    }

    pub fn login_namespace(&self) -> Option<String> {
        self.state.desk.lock().unwrap().login_namespace.clone()
    }

    pub fn logged_out(&self) -> Vec<String> {
        self.state.desk.lock().unwrap().logged_out.clone()
    }

    pub fn asked(&self) -> Vec<String> {
        self.state.desk.lock().unwrap().asked.clone()
    }
}

/// The token that the auth method gives at its `n`th login.
pub fn login_token(n: u64) -> String {
    format!("2fa5d6a3-login-{n}-b0a4c7e19d38")
}

/// What the agent says of a certificate.
pub fn leaf(own: &Minted) -> Value {
    json!({
        "SerialNumber": "08",
        "CertPEM": own.chain,
        "PrivateKeyPEM": sec1(own),
        "Service": "orders",
        "ServiceURI": "",
        "ValidAfter": "2018-05-21T16:33:28Z",
        "ValidBefore": "2018-05-24T16:33:28Z",
        "CreateIndex": 5,
        "ModifyIndex": 5,
    })
}

/// What the agent says of the roots; the last is the active one.
pub fn roots(trust_domain: &str, cas: &[&Authority]) -> Value {
    let root = |(at, ca): (usize, &&Authority)| {
        json!({
            "ID": format!("c7:bd:{at:02}"),
            "Name": "Consul CA Root Cert",
            "RootCert": ca.pem(),
            "IntermediateCerts": null,
            "Active": at + 1 == cas.len(),
            "PrivateKeyType": "ec",
            "PrivateKeyBits": 256,
        })
    };
    json!({
        "ActiveRootID": format!("c7:bd:{:02}", cas.len().saturating_sub(1)),
        "TrustDomain": trust_domain,
        "Roots": cas.iter().enumerate().map(root).collect::<Vec<_>>(),
    })
}

/// Consul's keys are `EC PRIVATE KEY`s (RFC 5915): the inside of a PKCS #8 one, with the curve.
fn sec1(own: &Minted) -> String {
    const CURVE: [u8; 12] = [0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    let key = parsed(own).1;
    let pkcs8 = key.secret_der();
    assert_eq!((pkcs8.len(), &pkcs8[29..36]), (138, &[0x30, 0x6b, 2, 1, 1, 4, 32][..]), "a P-256 key");
    let der = [&[0x30, 0x77, 2, 1, 1, 4, 32], &pkcs8[36..68], &CURVE, &pkcs8[68..]].concat();
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN EC PRIVATE KEY-----\n{}\n-----END EC PRIVATE KEY-----\n", lines.join("\n"))
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Error> {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        let token = head.headers.get("x-consul-token").map(|token| token.to_str().unwrap().to_owned());
        let is_granted = {
            let mut desk = self.desk.lock().unwrap();
            desk.asked.push(head.uri.to_string());
            desk.token.is_none() || desk.token == token
        };
        if head.method == Method::POST && path == "/v1/acl/login" {
            return self.log_in(&body.collect().await?.to_bytes());
        }
        if head.method == Method::POST && path == "/v1/acl/logout" {
            self.desk.lock().unwrap().logged_out.extend(token);
            return Ok(Response::new(full("true")));
        }
        let query: HashMap<_, _> =
            form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
        let pick: fn(&Said) -> &Entry = match path {
            "/v1/agent/connect/ca/roots" => |said| &said.roots,
            "/v1/agent/connect/ca/leaf/orders" => |said| &said.leaf,
            _ => return Ok(Response::builder().status(404).body(full(""))?),
        };
        if !is_granted {
            return Ok(Response::builder().status(403).body(full("Permission denied"))?);
        }
        let mut said = self.said.subscribe();
        let before = said.borrow().sent_away;
        if let Some(index) = query.get("index") {
            let index: u64 = index.parse()?;
            let seconds: u64 = query["wait"].strip_suffix('s').unwrap().parse()?;
            let is_news =
                |said: &Said| pick(said).index > index || said.sent_away > before || said.failing.is_some();
            let _ = timeout(Duration::from_secs(seconds), said.wait_for(is_news)).await;
        }
        let said = said.borrow().clone();
        match said.failing {
            Some(Failing::Status(status)) => {
                Ok(Response::builder().status(status).body(full("rpc error"))?)
            }
            Some(Failing::Says(status, text)) => Ok(Response::builder().status(status).body(full(text))?),
            Some(Failing::Text(text)) => Ok(Response::new(full(text))),
            Some(Failing::HangUp) => Err("hang up".into()),
            None => {
                let Entry { index, body } = pick(&said);
                let answer = Response::builder().header("x-consul-index", *index);
                Ok(answer.header("content-type", "application/json").body(full(body.to_string()))?)
            }
        }
    }

    fn log_in(&self, body: &[u8]) -> Result<Response<Body>, Error> {
        let mut desk = self.desk.lock().unwrap();
        let shown: Value = serde_json::from_slice(body)?;
        if shown["AuthMethod"] != "tasks" || desk.bearer.as_deref() != shown["BearerToken"].as_str() {
            return Ok(Response::builder().status(403).body(full("Permission denied"))?);
        }
        desk.logins += 1;
        desk.login_namespace = shown["Namespace"].as_str().map(str::to_owned);
        let token = login_token(desk.logins);
        desk.token = Some(token.clone());
        let answer = json!({"AccessorID": "926e2bd2", "SecretID": token, "Local": true});
        Ok(Response::new(full(answer.to_string())))
    }
}
