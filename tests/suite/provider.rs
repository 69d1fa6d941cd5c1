//! A real OpenID provider (`tests/idp/provider.mjs`) in a process of its own, and what only it can
//! show: tokens, keys and discovery as no code of ours made them.

use std::collections::HashMap;
use std::io;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, LOCATION, SET_COOKIE};
use http::{HeaderName, Request, StatusCode};
use openidconnect::core::{CoreAuthenticationFlow, CoreClient, CoreProviderMetadata};
use openidconnect::{
    AuthorizationCode, ClientId, ClientSecret, CsrfToken, IssuerUrl, Nonce, OAuth2TokenResponse as _,
    PkceCodeChallenge, RedirectUrl, Scope, TokenResponse as _,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use url::Url;

use crate::world::client::{Answer, Client, Protocol};
use crate::world::{Error, full, soon};

const FORM: &str = "application/x-www-form-urlencoded";
const AUDIENCE: &str = "https://orders.shop.example";
const CALLBACK: &str = "http://127.0.0.1/callback";
const REDIRECTS_MAX: usize = 10;

pub struct Provider {
    pub issuer: String,
    folder: TempDir,
    process: Option<Child>,
}

/// Cookies by name and path.
#[derive(Default)]
struct Browser(HashMap<(String, String), String>);

impl Provider {
    pub async fn start() -> Provider {
        let folder = tempfile::tempdir().unwrap();
        let (process, issuer) = spawn(&folder, "0").await;
        Provider { issuer, folder, process: Some(process) }
    }

    /// One that knows the client `orders-jwt` by these keys.
    pub async fn start_knowing(jwks: &Value) -> Provider {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("client-jwks.json"), jwks.to_string()).unwrap();
        let (process, issuer) = spawn(&folder, "0").await;
        Provider { issuer, folder, process: Some(process) }
    }

    /// Nothing answers any more; the keys are kept.
    pub async fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await.unwrap();
        }
    }

    /// The same issuer on the same port with the same keys.
    pub async fn start_again(&mut self) {
        self.stop().await;
        let port = Url::parse(&self.issuer).unwrap().port().unwrap().to_string();
        let (process, issuer) = spawn(&self.folder, &port).await;
        assert_eq!(issuer, self.issuer);
        self.process = Some(process);
    }

    /// A new key signs from now on; the kids of all published keys, the new one first.
    pub async fn rotate(&self) -> Vec<String> {
        self.control("POST", "/control/rotate").await["keys"].as_array().unwrap().iter().map(text).collect()
    }

    /// Only the newest key of each algorithm stays published; their kids.
    pub async fn retire(&self) -> Vec<String> {
        self.control("POST", "/control/retire").await["keys"].as_array().unwrap().iter().map(text).collect()
    }

    /// How often its keys were fetched since it started.
    pub async fn jwks_fetches(&self) -> u64 {
        self.control("GET", "/control/counts").await["/jwks"].as_u64().unwrap_or(0)
    }

    async fn control(&self, method: &str, path: &str) -> Value {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.issuer));
        exchange(request.body(Vec::new()).unwrap()).await.unwrap().json()
    }

    /// An access token by client credentials, `batch` (RS256) or `batch-es256`; signed with the
    /// newest key, or with the published one that is named.
    pub async fn client_token(&self, client: &str, scope: &str, kid: Option<&str>) -> String {
        let sign_with = kid.map(|kid| ("x-sign-with", kid));
        self.client_token_with(client, scope, sign_with.as_slice()).await
    }

    /// The same with these fields in the request.
    pub async fn client_token_with(
        &self,
        client: &str,
        scope: &str,
        fields: &[(&'static str, &str)],
    ) -> String {
        let form = [("grant_type", "client_credentials"), ("scope", scope), ("resource", AUDIENCE)];
        let answer = self.post(client, "/token", &form, fields).await;
        text(&answer.json()["access_token"])
    }

    /// From now on it is not active (RFC 7009).
    pub async fn revoke(&self, client: &str, token: &str) {
        self.post(client, "/token/revocation", &[("token", token)], &[]).await;
    }

    async fn post(
        &self,
        client: &str,
        path: &str,
        form: &[(&str, &str)],
        fields: &[(&'static str, &str)],
    ) -> Answer {
        let basic = format!("Basic {}", STANDARD.encode(format!("{client}:batch-secret")));
        let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let mut request = Request::post(format!("{}{path}", self.issuer))
            .header(AUTHORIZATION, basic)
            .header(CONTENT_TYPE, FORM);
        for (name, value) in fields {
            request = request.header(HeaderName::from_static(name), *value);
        }
        let answer = exchange(request.body(form.into_bytes()).unwrap()).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        answer
    }

    /// An access token for a person, by authorization code and PKCE: discovery, login and consent
    /// as a browser does them, and the ID token verified on the way.
    pub async fn person_token(&self, person: &str, scope: &str) -> Result<String, Error> {
        let http = |request: Request<Vec<u8>>| async {
            let answer = exchange(request).await.map_err(io::Error::other)?;
            let mut response = http::Response::new(answer.body.to_vec());
            *response.status_mut() = answer.status;
            *response.headers_mut() = answer.headers;
            Ok::<_, io::Error>(response)
        };
        let metadata =
            CoreProviderMetadata::discover_async(IssuerUrl::new(self.issuer.clone())?, &http).await?;
        let client = CoreClient::from_provider_metadata(
            metadata,
            ClientId::new("storefront-web".to_owned()),
            Some(ClientSecret::new("storefront-secret".to_owned())),
        )
        .set_redirect_uri(RedirectUrl::new(CALLBACK.to_owned())?);
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let flow = CoreAuthenticationFlow::AuthorizationCode;
        let (start, state, nonce) = client
            .authorize_url(flow, CsrfToken::new_random, Nonce::new_random)
            .add_scopes(scope.split(' ').map(|scope| Scope::new(scope.to_owned())))
            .add_extra_param("resource", AUDIENCE)
            .set_pkce_challenge(challenge)
            .url();
        let callback = Browser::default().log_in(start, person).await?;
        let returned: HashMap<_, _> = callback.query_pairs().collect();
        assert_eq!(returned["state"], state.secret().as_str());
        let tokens = client
            .exchange_code(AuthorizationCode::new(returned["code"].to_string()))?
            .set_pkce_verifier(verifier)
            .add_extra_param("resource", AUDIENCE)
            .request_async(&http)
            .await?;
        let id_token = tokens.id_token().ok_or("no ID token")?;
        assert_eq!(id_token.claims(&client.id_token_verifier(), &nonce)?.subject().as_str(), person);
        Ok(tokens.access_token().secret().clone())
    }
}

async fn spawn(folder: &TempDir, port: &str) -> (Child, String) {
    let mut command = Command::new("node");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/idp/provider.mjs"));
    command.env("PORT", port).env("KEYS_FILE", folder.path().join("keys.json"));
    command.env("CLIENT_JWKS_FILE", folder.path().join("client-jwks.json"));
    // its standard input stays open until the handle goes, and it ends with it
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
    let mut process = command.spawn().unwrap_or_else(|error| panic!("node: {error}"));
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let line = soon("the provider's start", lines.next_line()).await.unwrap();
    let line = line.unwrap_or_else(|| panic!("the provider did not start; is tests/idp installed?"));
    let issuer = line.strip_prefix("ready ").unwrap_or_else(|| panic!("{line}")).to_owned();
    (process, issuer)
}

async fn exchange(request: Request<Vec<u8>>) -> Result<Answer, Error> {
    let authority = request.uri().authority().ok_or("no host")?.as_str();
    let client = Client::plain(authority.parse()?, Protocol::H1).await?;
    client.ask(request.map(|body| full(Bytes::from(body)))).await
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value}")).to_owned()
}

impl Browser {
    /// Where the provider sends the person back to, after they agreed to everything.
    async fn log_in(&mut self, start: Url, person: &str) -> Result<Url, Error> {
        let (mut at, mut form) = (start, None);
        for _ in 0..REDIRECTS_MAX {
            let answer = self.visit(&at, form.take()).await?;
            match (answer.status, answer.headers.get(LOCATION)) {
                (StatusCode::FOUND | StatusCode::SEE_OTHER, Some(location)) => {
                    at = at.join(location.to_str()?)?;
                    if at.as_str().starts_with(CALLBACK) {
                        return Ok(at);
                    }
                }
                // the two pages of a login; each form goes to its own address
                (StatusCode::OK, None) if answer.body.windows(12).any(|part| part == b"name=\"login\"") => {
                    form = Some(format!("prompt=login&login={person}&password=any"));
                }
                (StatusCode::OK, None) => form = Some("prompt=consent".to_owned()),
                _ => return Err(format!("{at}: {answer:?}").into()),
            }
        }
        Err(format!("more than {REDIRECTS_MAX} steps, now at {at}").into())
    }

    async fn visit(&mut self, url: &Url, form: Option<String>) -> Result<Answer, Error> {
        let fits = |((name, path), value): (&(String, String), &String)| {
            url.path().starts_with(path.as_str()).then(|| format!("{name}={value}"))
        };
        let cookies: Vec<_> = self.0.iter().filter_map(fits).collect();
        let method = if form.is_some() { "POST" } else { "GET" };
        let request = Request::builder().method(method).uri(url.as_str()).header(COOKIE, cookies.join("; "));
        let request = request.header(CONTENT_TYPE, FORM).body(form.unwrap_or_default().into_bytes())?;
        let answer = exchange(request).await?;
        for cookie in answer.headers.get_all(SET_COOKIE) {
            let mut parts = cookie.to_str()?.split("; ");
            let (name, value) = parts.next().and_then(|pair| pair.split_once('=')).ok_or("no cookie")?;
            let path = parts.find_map(|part| part.strip_prefix("path=")).unwrap_or("/");
            self.0.insert((name.to_owned(), path.to_owned()), value.to_owned());
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;

    fn part(token: &str, at: usize) -> Value {
        let part = token.split('.').nth(at).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    async fn published(provider: &Provider) -> Vec<String> {
        let jwks =
            exchange(Request::get(format!("{}/jwks", provider.issuer)).body(Vec::new()).unwrap()).await;
        jwks.unwrap().json()["keys"].as_array().unwrap().iter().map(|key| text(&key["kid"])).collect()
    }

    #[tokio::test]
    #[ignore = "needs node and `npm ci` in tests/idp; tests/run runs it"]
    async fn it_issues_access_tokens_to_clients_and_to_people() {
        let provider = Provider::start().await;
        let token = provider.client_token("batch", "orders:read", None).await;
        assert_eq!((&part(&token, 0)["typ"], &part(&token, 0)["alg"]), (&json!("at+jwt"), &json!("RS256")));
        let claims = part(&token, 1);
        assert_eq!((&claims["iss"], &claims["aud"]), (&json!(provider.issuer), &json!(AUDIENCE)));
        assert_eq!((&claims["client_id"], &claims["roles"]), (&json!("batch"), &json!(["batch"])));
        let token = provider.client_token("batch-es256", "orders:read", None).await;
        assert_eq!(part(&token, 0)["alg"], "ES256");

        let token = provider.person_token("alice", "orders:read orders:write").await.unwrap();
        let claims = part(&token, 1);
        assert_eq!((&claims["sub"], &claims["client_id"]), (&json!("alice"), &json!("storefront-web")));
        assert_eq!(claims["scope"], "orders:read orders:write");
        assert_eq!(claims["groups"], json!(["support", "eng"]));
    }

    #[tokio::test]
    #[ignore = "needs node and `npm ci` in tests/idp; tests/run runs it"]
    async fn its_keys_turn_over_while_it_runs_and_outlive_it() {
        let mut provider = Provider::start().await;
        let before = published(&provider).await;
        let rotated = provider.rotate().await;
        assert_eq!(rotated[1..], before);
        assert_eq!(published(&provider).await, rotated);
        for kid in &rotated[..2] {
            assert_eq!(
                part(&provider.client_token("batch", "orders:read", Some(kid)).await, 0)["kid"],
                **kid
            );
        }
        let newest = provider.client_token("batch", "orders:read", None).await;
        assert_eq!(part(&newest, 0)["kid"], *rotated[0]);
        assert_eq!(provider.jwks_fetches().await, 2);

        let kept = provider.retire().await;
        assert_eq!(kept.len(), 3);
        assert!(!kept.contains(&rotated[1]), "{kept:?}");
        provider.stop().await;
        assert!(
            exchange(Request::get(format!("{}/jwks", provider.issuer)).body(Vec::new()).unwrap())
                .await
                .is_err()
        );
        provider.start_again().await;
        assert_eq!(published(&provider).await, kept);
    }
}
