//! An issuer double in this process: discovery and JWKS on loopback, counted, and failing in every
//! way that real ones do; tokens for any claims. For the protocol itself there is `provider.rs`.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use countersign::clock::Clock;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use http::{Response, StatusCode};
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::listen::{Listening, listen};
use super::signing::{KEYS, Key};
use super::{Body, Error, full};

pub const AUDIENCE: &str = "https://orders.shop.example";
const TOKEN_LIFETIME: Duration = Duration::from_secs(300);

pub struct Issuer {
    pub url: String,
    pub clock: Clock,
    listening: Listening,
    state: Arc<State>,
}

struct State {
    /// Known once the socket is bound.
    url: OnceLock<String>,
    desk: Mutex<Desk>,
    gate: Semaphore,
}

/// What the issuer publishes now, how, and how often it was asked.
#[derive(Clone)]
struct Desk {
    keys: Vec<Value>,
    cache_control: Option<String>,
    discovery: Answering,
    jwks: Answering,
    counts: Fetches,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fetches {
    pub discovery: u64,
    pub jwks: u64,
}

/// How an endpoint answers.
#[derive(Clone)]
pub enum Answering {
    Well,
    /// Not before [`Issuer::release`].
    Held,
    Status(StatusCode),
    Redirect(String),
    /// This text as it stands, whatever it is.
    Text {
        content_type: &'static str,
        body: String,
    },
    /// Valid JSON of at least so many bytes.
    Huge {
        bytes: usize,
    },
    /// The connection ends without an answer.
    HangUp,
}

impl Issuer {
    /// An issuer on plain HTTP that publishes every key of [`KEYS`].
    pub async fn start(clock: Clock) -> Issuer {
        Issuer::start_with(clock, None).await
    }

    pub async fn start_with(clock: Clock, tls: Option<Arc<ServerConfig>>) -> Issuer {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let desk = Desk {
            keys: KEYS.iter().map(Key::jwk).collect(),
            cache_control: None,
            discovery: Answering::Well,
            jwks: Answering::Well,
            counts: Fetches::default(),
        };
        let state = Arc::new(State { url: OnceLock::new(), desk: Mutex::new(desk), gate: Semaphore::new(0) });
        let shared = state.clone();
        let listening = listen("127.0.0.1:0".parse().unwrap(), tls, move |request| {
            let state = shared.clone();
            async move { state.answer(request.uri().path()).await }
        })
        .await;
        let url = format!("{scheme}://{}", listening.address);
        state.url.get_or_init(|| url.clone());
        Issuer { url, clock, state, listening }
    }

    pub fn address(&self) -> SocketAddr {
        self.listening.address
    }

    pub fn jwks_url(&self) -> String {
        format!("{}/jwks", self.url)
    }

    /// The keys published from now on.
    pub fn publish(&self, keys: &[Key]) {
        self.state.desk.lock().unwrap().keys = keys.iter().map(Key::jwk).collect();
    }

    /// The `Cache-Control` of both endpoints from now on.
    pub fn cache_control(&self, value: &str) {
        self.state.desk.lock().unwrap().cache_control = Some(value.to_owned());
    }

    pub fn discovery_answers(&self, how: Answering) {
        self.state.desk.lock().unwrap().discovery = how;
    }

    pub fn jwks_answers(&self, how: Answering) {
        self.state.desk.lock().unwrap().jwks = how;
    }

    /// Lets one [`Answering::Held`] answer go, now or when it is asked for.
    pub fn release(&self) {
        self.state.gate.add_permits(1);
    }

    pub fn fetches(&self) -> Fetches {
        self.state.desk.lock().unwrap().counts
    }

    /// A sound RS256 access token (RFC 9068) for `alice`, with `claims` laid over it; `null` takes a
    /// claim away.
    pub fn token(&self, claims: Value) -> String {
        self.token_by(&KEYS[0], json!({}), claims)
    }

    /// The same by another key, with members laid over the header too.
    pub fn token_by(&self, key: &Key, header: Value, claims: Value) -> String {
        let now = self.clock.now();
        let payload = json!({
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "alice",
            "client_id": "storefront-web",
            "scope": "orders:read",
            "jti": "7f3a",
            "iat": now.unix_seconds(),
            "exp": now.plus(TOKEN_LIFETIME).unix_seconds(),
        });
        let sound = json!({"alg": key.algorithm, "typ": "at+jwt", "kid": key.kid});
        key.token(laid_over(sound, header).to_string(), laid_over(payload, claims).to_string())
    }
}

fn laid_over(mut base: Value, over: Value) -> Value {
    let members = base.as_object_mut().unwrap();
    for (name, value) in over.as_object().unwrap() {
        match value {
            Value::Null => members.remove(name),
            _ => members.insert(name.clone(), value.clone()),
        };
    }
    base
}

impl State {
    async fn answer(&self, path: &str) -> Result<Response<Body>, Error> {
        let url = self.url.get().ok_or("not yet")?;
        let (how, document, cache_control) = {
            let mut desk = self.desk.lock().unwrap();
            let cache_control = desk.cache_control.clone();
            match path {
                "/.well-known/openid-configuration" => {
                    desk.counts.discovery += 1;
                    let document = json!({"issuer": url, "jwks_uri": format!("{url}/jwks")});
                    (desk.discovery.clone(), document, cache_control)
                }
                "/jwks" => {
                    desk.counts.jwks += 1;
                    (desk.jwks.clone(), json!({"keys": desk.keys}), cache_control)
                }
                _ => (Answering::Status(StatusCode::NOT_FOUND), Value::Null, None),
            }
        };
        let mut response = Response::builder();
        if let Some(value) = cache_control {
            response = response.header(CACHE_CONTROL, value);
        }
        let json = response.header(CONTENT_TYPE, "application/json");
        Ok(match how {
            Answering::Well => json.body(full(document.to_string()))?,
            Answering::Held => {
                self.gate.acquire().await?.forget();
                json.body(full(document.to_string()))?
            }
            Answering::Status(status) => json.status(status).body(full(Bytes::new()))?,
            Answering::Redirect(to) => json.status(302).header(LOCATION, to).body(full(Bytes::new()))?,
            Answering::Text { content_type, body } => {
                Response::builder().header(CONTENT_TYPE, content_type).body(full(body))?
            }
            Answering::Huge { bytes } => {
                let mut document = document;
                document["padding"] = " ".repeat(bytes).into();
                json.body(full(document.to_string()))?
            }
            Answering::HangUp => return Err("hang up".into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use countersign::clock::Timestamp;

    use super::*;
    use crate::world::client::{Answer, Client, Protocol, get};
    use crate::world::soon;

    async fn fetch(issuer: &Issuer, path: &str) -> Result<Answer, Error> {
        let client = Client::plain(issuer.address(), Protocol::H1).await?;
        client.ask(get(path)).await
    }

    #[tokio::test]
    async fn discovery_leads_to_the_keys_and_every_fetch_is_counted() {
        let issuer = Issuer::start(Clock::system()).await;
        issuer.cache_control("max-age=60");
        let discovery = fetch(&issuer, "/.well-known/openid-configuration").await.unwrap();
        assert_eq!(discovery.json(), json!({"issuer": issuer.url, "jwks_uri": issuer.jwks_url()}));
        assert_eq!(discovery.headers[CACHE_CONTROL], "max-age=60");
        issuer.publish(&KEYS[2..4]);
        let jwks = fetch(&issuer, "/jwks").await.unwrap().json();
        assert_eq!(jwks["keys"].as_array().unwrap().len(), 2);
        assert_eq!(jwks["keys"][0]["kid"], KEYS[2].kid);
        assert_eq!(issuer.fetches(), Fetches { discovery: 1, jwks: 1 });
    }

    #[tokio::test]
    async fn it_fails_in_every_way_it_is_told_to() {
        let issuer = Issuer::start(Clock::system()).await;
        issuer.jwks_answers(Answering::Status(StatusCode::INTERNAL_SERVER_ERROR));
        assert_eq!(fetch(&issuer, "/jwks").await.unwrap().status, 500);
        issuer.jwks_answers(Answering::Redirect("http://127.0.0.1:1/".to_owned()));
        assert_eq!(fetch(&issuer, "/jwks").await.unwrap().headers[LOCATION], "http://127.0.0.1:1/");
        issuer.jwks_answers(Answering::Text { content_type: "text/html", body: "<html>".to_owned() });
        assert_eq!(fetch(&issuer, "/jwks").await.unwrap().body, "<html>");
        issuer.jwks_answers(Answering::Huge { bytes: 1 << 20 });
        assert!(fetch(&issuer, "/jwks").await.unwrap().body.len() > 1 << 20);
        issuer.jwks_answers(Answering::HangUp);
        assert!(fetch(&issuer, "/jwks").await.is_err());
        issuer.discovery_answers(Answering::Held);
        issuer.jwks_answers(Answering::Held);
        let (answer, ()) = tokio::join!(fetch(&issuer, "/jwks"), async {
            while issuer.fetches().jwks < 6 {
                tokio::task::yield_now().await;
            }
            issuer.release();
        });
        assert_eq!(answer.unwrap().status, 200);
        issuer.release();
        let discovery = soon("discovery", fetch(&issuer, "/.well-known/openid-configuration")).await;
        assert_eq!(discovery.unwrap().status, 200);
    }

    #[tokio::test]
    async fn tokens_are_sound_but_for_what_is_laid_over_them() {
        let issuer = Issuer::start(Clock::manual(Timestamp::from_unix_seconds(1_000))).await;
        let part = |token: &str, at: usize| -> Value {
            let part = token.split('.').nth(at).unwrap();
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
        };
        let token = issuer.token(json!({"sub": null, "scope": "orders:write"}));
        assert_eq!(part(&token, 0), json!({"alg": "RS256", "typ": "at+jwt", "kid": "RS256"}));
        assert_eq!(part(&token, 1)["exp"], 1_300);
        assert_eq!(part(&token, 1)["scope"], "orders:write");
        assert_eq!(part(&token, 1).get("sub"), None);
        let token = issuer.token_by(&KEYS[2], json!({"typ": "JWT"}), json!({}));
        assert_eq!(part(&token, 0), json!({"alg": "ES256", "typ": "JWT", "kid": "ES256"}));
    }
}
