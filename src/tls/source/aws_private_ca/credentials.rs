//! Credentials of the role that a task runs as, from the endpoint that its environment names.

use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;
use url::{Host, Url};
use zeroize::Zeroizing;

use super::CaError;
use crate::clock::Clock;
use crate::fetch::{FetchError, FetchSettings, SecretSource, address, sensitive};
use crate::tls::Roots;
use crate::tls::source::client_of;

/// Where credentials are given, and what is shown there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub url: Url,
    /// Sent as it stands.
    pub authorization: Option<SecretSource>,
}

/// Short-lived credentials of a role.
#[derive(Deserialize)]
pub struct Credentials {
    #[serde(rename = "AccessKeyId")]
    pub access_key_id: String,
    #[serde(rename = "SecretAccessKey")]
    secret_access_key: String,
    #[serde(rename = "Token")]
    pub session_token: Option<String>,
}

/// What an environment says of the endpoint.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEndpoint {
    #[error("neither `{RELATIVE_URI}` nor `{FULL_URI}` is set: this is no task with a role")]
    Unset,
    #[error("`{0}` does not name an endpoint of credentials")]
    Bad(&'static str),
}

const RELATIVE_URI: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
const FULL_URI: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
const TOKEN: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN";
const TOKEN_FILE: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";

impl Endpoint {
    pub fn of(environment: &dyn Fn(&str) -> Option<String>) -> Result<Endpoint, NoEndpoint> {
        let (url, name) = match (environment(RELATIVE_URI), environment(FULL_URI)) {
            (Some(path), _) if path.starts_with('/') => {
                (format!("http://{}{path}", address::ECS_AGENT), RELATIVE_URI)
            }
            (Some(_), _) => return Err(NoEndpoint::Bad(RELATIVE_URI)),
            (None, Some(url)) => (url, FULL_URI),
            (None, None) => return Err(NoEndpoint::Unset),
        };
        let url: Url = url.parse().map_err(|_| NoEndpoint::Bad(name))?;
        let is_near = match url.host() {
            Some(Host::Ipv4(ip)) => address::is_near(ip.into()),
            Some(Host::Ipv6(ip)) => address::is_near(ip.into()),
            Some(Host::Domain(domain)) => domain == "localhost",
            None => false,
        };
        if url.scheme() != "https" && !(url.scheme() == "http" && is_near) {
            return Err(NoEndpoint::Bad(name));
        }
        let authorization = match environment(TOKEN_FILE) {
            Some(path) => Some(SecretSource::File(path.into())),
            None => environment(TOKEN).map(|_| SecretSource::Env(TOKEN.to_owned())),
        };
        Ok(Endpoint { url, authorization })
    }

    /// As they are now.
    pub(super) async fn credentials(
        &self,
        settings: FetchSettings,
        clock: &Clock,
    ) -> Result<Credentials, CaError> {
        let mut headers = HeaderMap::new();
        if let Some(source) = &self.authorization {
            let secret = source.read().await.map_err(CaError::Credentials)?;
            let value = sensitive(&secret).ok_or(CaError::Credentials(FetchError::Credential))?;
            headers.insert(AUTHORIZATION, value);
        }
        let ca = (self.url.scheme() == "http").then(Roots::none);
        let client = client_of(settings, ca, clock).await?.allowing_agent(self.url.clone());
        let answer = client.send(&self.url, Method::GET, headers, Default::default()).await;
        let answer = answer.map_err(CaError::Credentials)?;
        if answer.status != StatusCode::OK {
            return Err(CaError::Credentials(FetchError::Status(answer.status.as_u16())));
        }
        // What serde would say could quote a secret.
        serde_json::from_slice(&answer.body).map_err(|_| CaError::Malformed("the role's credentials"))
    }
}

impl Credentials {
    #[cfg(test)]
    pub fn new(id: &str, secret: &str, token: Option<&str>) -> Credentials {
        Credentials {
            access_key_id: id.to_owned(),
            secret_access_key: secret.to_owned(),
            session_token: token.map(str::to_owned),
        }
    }

    /// From which keys for signing are derived.
    pub fn key(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("AWS4{}", self.secret_access_key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_near_or_behind_tls() {
        let mut seen = 0;
        for (relative, full, expected) in [
            (Some("/v2/credentials/7f3a"), None, Ok("http://169.254.170.2/v2/credentials/7f3a")),
            (Some("/v2/a"), Some("https://elsewhere.example/"), Ok("http://169.254.170.2/v2/a")),
            (None, Some("http://127.0.0.1:51679/role"), Ok("http://127.0.0.1:51679/role")),
            (None, Some("http://localhost:51679/role"), Ok("http://localhost:51679/role")),
            (None, Some("http://169.254.170.23/v1/credentials"), Ok("http://169.254.170.23/v1/credentials")),
            (None, Some("http://[fd00:ec2::23]/v1"), Ok("http://[fd00:ec2::23]/v1")),
            (None, Some("https://agent.example/role"), Ok("https://agent.example/role")),
            (None, None, Err(NoEndpoint::Unset)),
            (Some("@elsewhere.example/"), None, Err(NoEndpoint::Bad(RELATIVE_URI))),
            (Some(""), None, Err(NoEndpoint::Bad(RELATIVE_URI))),
            (None, Some("http://agent.example/role"), Err(NoEndpoint::Bad(FULL_URI))),
            (None, Some("http://169.254.169.254/latest"), Err(NoEndpoint::Bad(FULL_URI))),
            (None, Some("http://10.0.0.1/role"), Err(NoEndpoint::Bad(FULL_URI))),
            (None, Some("ftp://127.0.0.1/role"), Err(NoEndpoint::Bad(FULL_URI))),
            (None, Some("127.0.0.1"), Err(NoEndpoint::Bad(FULL_URI))),
        ] {
            let environment = |name: &str| match name {
                RELATIVE_URI => relative.map(str::to_owned),
                FULL_URI => full.map(str::to_owned),
                _ => None,
            };
            let endpoint = Endpoint::of(&environment).map(|endpoint| endpoint.url.to_string());
            assert_eq!(endpoint, expected.map(str::to_owned), "{relative:?} {full:?}");
            seen += 1;
        }
        assert_eq!(seen, 15);
    }
}
