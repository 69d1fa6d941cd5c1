//! The agent's HTTP API, asked with the ACL token that there is, or that a login gives.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::timeout;
use url::Url;

use super::{Access, AgentError, Refusal, Settings, WAIT_S, Whose};
use crate::clock::{Clock, Timestamp};
use crate::fetch::{Answer, Client, FetchError, SecretSource, sensitive};

const LOGIN: &str = "/v1/acl/login";
const LOGOUT: &str = "/v1/acl/logout";
/// A token this young that is refused is no old one, but one that may not: another would be refused as well.
const LOGIN_AGE: Duration = Duration::from_secs(5 * 60);
const LOGOUT_TIMEOUT: Duration = Duration::from_secs(5);
const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");

/// `POST /v1/acl/login`.
#[derive(Deserialize)]
struct Token {
    #[serde(rename = "SecretID")]
    secret: String,
}

/// The ACL token of the last login.
pub type Held = Mutex<Option<LoggedIn>>;

pub struct LoggedIn {
    token: HeaderValue,
    since: Timestamp,
}

/// Who is asked, and as whom.
pub struct Agent<'a> {
    pub settings: &'a Settings,
    pub client: Client,
    pub held: &'a Held,
    pub clock: &'a Clock,
}

impl Agent<'_> {
    pub async fn get(&self, path: &str, index: Option<u64>) -> Result<Answer, AgentError> {
        let Whose { partition, namespace, datacenter, .. } = &self.settings.whose;
        let mut url = self.url(path, [("partition", partition), ("ns", namespace), ("dc", datacenter)]);
        if let Some(index) = index {
            let wait = format!("{WAIT_S}s");
            url.query_pairs_mut().append_pair("index", &index.to_string()).append_pair("wait", &wait);
        }
        let ask = async |token: Option<HeaderValue>| {
            let headers = token.map(|token| (TOKEN, token)).into_iter().collect();
            self.client.send(&url, Method::GET, headers, Bytes::new()).await
        };
        let mut token = self.token(None).await?;
        let mut answer = ask(token.clone()).await?;
        if answer.status == StatusCode::FORBIDDEN
            && let Some(another) = self.token(token.as_ref()).await?.filter(|it| Some(it) != token.as_ref())
        {
            answer = ask(Some(another.clone())).await?;
            token = Some(another);
        }
        let refusal = || Refusal::of(&answer, token.as_ref().and_then(|token| token.to_str().ok()));
        match answer.status {
            StatusCode::OK => Ok(answer),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(AgentError::Forbidden(refusal())),
            _ => Err(AgentError::Status(refusal())),
        }
    }

    /// With what is given of these.
    fn url<const N: usize>(&self, path: &str, query: [(&str, &Option<String>); N]) -> Url {
        let mut url = self.settings.address.clone();
        url.set_path(path);
        for (name, value) in query.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
            url.query_pairs_mut().append_pair(name, value);
        }
        url
    }

    /// The token to ask with; that of a login is another than the one that was refused, unless that is quite new.
    async fn token(&self, refused: Option<&HeaderValue>) -> Result<Option<HeaderValue>, AgentError> {
        match &self.settings.access {
            Access::Anonymous => Ok(None),
            Access::Token(source) => Ok(Some(secret_value(&source.read().await?)?)),
            Access::Login { auth_method, bearer_token, namespace } => {
                let mut held = self.held.lock().await;
                let now = self.clock.now();
                // A time that is to come is of a clock that was set back since.
                let is_new = |it: &LoggedIn| it.since <= now && now < it.since.plus(LOGIN_AGE);
                let is_good = |it: &&LoggedIn| Some(&it.token) != refused || is_new(it);
                if let Some(good) = held.as_ref().filter(is_good) {
                    return Ok(Some(good.token.clone()));
                }
                let token = self.log_in(auth_method, bearer_token, namespace.as_deref()).await?;
                let replaced = held.replace(LoggedIn { token: token.clone(), since: now });
                drop(held);
                if let Some(replaced) = replaced {
                    self.log_out(replaced.token).await;
                }
                Ok(Some(token))
            }
        }
    }

    /// What is not logged out stays in the cluster until it expires, if ever.
    async fn log_out(&self, token: HeaderValue) {
        // The datacenter is that in which it was made; its partition it has itself.
        let url = self.url(LOGOUT, [("dc", &self.settings.whose.datacenter)]);
        let headers = HeaderMap::from_iter([(TOKEN, token)]);
        let asking = self.client.send(&url, Method::POST, headers, Bytes::new());
        // Most often it is refused because the cluster forgot it.
        let _ = timeout(LOGOUT_TIMEOUT, asking).await;
    }

    async fn log_in(
        &self,
        method: &str,
        bearer: &SecretSource,
        namespace: Option<&str>,
    ) -> Result<HeaderValue, AgentError> {
        let bearer = bearer.read().await?;
        let mut body = json!({ "AuthMethod": method, "BearerToken": bearer });
        if let Some(namespace) = namespace {
            body["Namespace"] = namespace.into();
        }
        let body = body.to_string();
        // `ns` would name the auth method's namespace, and not the service's.
        let Whose { partition, datacenter, .. } = &self.settings.whose;
        let url = self.url(LOGIN, [("partition", partition), ("dc", datacenter)]);
        let answer = self.client.send(&url, Method::POST, HeaderMap::new(), body.into()).await?;
        if answer.status != StatusCode::OK {
            return Err(AgentError::Login(Refusal::of(&answer, Some(&bearer))));
        }
        // What serde would say could quote a secret.
        let token: Token =
            serde_json::from_slice(&answer.body).map_err(|_| AgentError::Malformed("the login"))?;
        Ok(secret_value(&token.secret)?)
    }
}

fn secret_value(secret: &str) -> Result<HeaderValue, FetchError> {
    sensitive(secret).ok_or(FetchError::Credential)
}
