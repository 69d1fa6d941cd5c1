//! A token endpoint: where it is, how it knows us, and one request to it.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::ClientConfig;
use url::Url;

use super::answer::{self, Issued, NotIssued};
use super::authentication::{Authentication, Fields};
use crate::clock::Clock;
use crate::fetch::{Client, FetchError, FetchSettings, Moved};
use crate::tls::{Own, Roots};
use crate::token::{Location, token_endpoint};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For one request, discovery included. Less than whoever waits for it waits: who waited for others and has no time
/// left does not find that the endpoint is away.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
/// Of an answer, and of a discovery document.
const DOCUMENT_BYTES_MAX: usize = 256 * 1024;

/// Who issues tokens, and as whom we ask. Equal where tokens may be kept over a reload.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSettings {
    pub location: Location,
    /// Who vouches for the server; else the system's CAs.
    pub ca: Option<Roots>,
    pub allow_http: bool,
    pub allow_private_addresses: bool,
    pub client_id: Arc<str>,
    pub authentication: Authentication,
    /// With [`Authentication::Tls`]: what is presented.
    pub own: Option<Own>,
}

/// Asks one token endpoint.
#[derive(Debug)]
pub struct TokenEndpoint {
    settings: EndpointSettings,
    client: Client,
    clock: Clock,
    /// Where discovery says that it is, until it fails there.
    found: ArcSwapOption<Url>,
    moved: Moved,
}

impl TokenEndpoint {
    /// `tls` verifies the server, and shows our certificate where that is how we are known.
    pub fn new(settings: EndpointSettings, tls: &ClientConfig, clock: Clock) -> TokenEndpoint {
        let fetch = FetchSettings {
            allow_http: settings.allow_http,
            allow_private_addresses: settings.allow_private_addresses,
            body_bytes_max: DOCUMENT_BYTES_MAX,
            connect_timeout: CONNECT_TIMEOUT,
            total_timeout: ANSWER_TIMEOUT,
        };
        let (client, found) = (Client::new(fetch, tls), ArcSwapOption::empty());
        TokenEndpoint { client, settings, clock, found, moved: Moved::default() }
    }

    /// Asks for a token with these fields of a form.
    pub async fn ask(&self, fields: Fields, is_exchange: bool) -> Result<Issued, NotIssued> {
        let asking = tokio::time::timeout(ANSWER_TIMEOUT, self.attempt(fields, is_exchange));
        let outcome = asking.await.unwrap_or_else(|_| {
            Err(NotIssued::Unreachable(format!("it took longer than {} ms", ANSWER_TIMEOUT.as_millis())))
        });
        if let Err(NotIssued::Failed(_) | NotIssued::Unreachable(_)) = &outcome {
            self.found.store(None);
        }
        outcome
    }

    async fn attempt(&self, mut fields: Fields, is_exchange: bool) -> Result<Issued, NotIssued> {
        let failed = |error: FetchError| NotIssued::Unreachable(format!("token endpoint: {error}"));
        let url = self.url().await?;
        let (client_id, now) = (&self.settings.client_id, self.clock.now());
        let added = self.settings.authentication.add(client_id, url.as_str(), now, &mut fields);
        let headers = added.await.map_err(failed)?;
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = self.client.post_form(&url, headers, &fields).await.map_err(failed)?;
        answer::read(&answer, is_exchange).map_err(|error| match error {
            NotIssued::Failed(why) => NotIssued::Failed(format!("token endpoint: {why}")),
            other => other,
        })
    }

    async fn url(&self) -> Result<Arc<Url>, NotIssued> {
        let (document, issuer) = match &self.settings.location {
            Location::Url(url) => return Ok(Arc::new(url.clone())),
            Location::Discovery { document, issuer } => (document, issuer),
        };
        if let Some(found) = self.found.load_full() {
            return Ok(found);
        }
        let fetched = self.client.get(document, None).await;
        let fetched = fetched.map_err(|error| NotIssued::Unreachable(format!("discovery: {error}")))?;
        let by_certificate = self.settings.authentication == Authentication::Tls;
        let named = token_endpoint(&fetched.body, issuer, by_certificate);
        let url = Arc::new(named.ok_or_else(|| {
            let why = "discovery: the document has another `issuer` than the one configured, or no `token_endpoint`";
            NotIssued::Failed(why.to_owned())
        })?);
        self.moved.to(&url, issuer, "token endpoint");
        self.found.store(Some(Arc::clone(&url)));
        Ok(url)
    }
}
