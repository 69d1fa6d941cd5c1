//! The one guarded HTTP client: keys, discovery documents and whatever else this proxy itself asks
//! for. Requests of clients never pass here.
//!
//! Invariants:
//! - https, or http to a loopback address where `allow_http` says so; certificates are verified by
//!   the TLS configuration that the maker of a [`Client`] hands in.
//! - The address that is dialled is the one that [`address::Guard`] has seen: names are resolved
//!   here, once a fetch, so a name that resolves differently a moment later changes nothing.
//! - No redirects, no compression, no body over its limit, no exchange over its time.
//! - A credential is read anew for each fetch and goes to the one URL it is given with.
//! - The agent that gives this task its own credentials is asked at one URL, which the environment names; nothing
//!   else reaches its address.

pub mod address;
mod authorization;
mod moved;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use address::Guard;
pub use authorization::{basic, sensitive};
pub use moved::Moved;

/// What a [`Client`] may do, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchSettings {
    /// Take `http` URLs whose host is a loopback address.
    pub allow_http: bool,
    /// Dial loopback, private (RFC 1918, RFC 4193) and shared (RFC 6598) addresses.
    pub allow_private_addresses: bool,
    /// Longest body, in bytes.
    pub body_bytes_max: usize,
    /// For one TCP connection and its TLS handshake.
    pub connect_timeout: Duration,
    /// For the whole fetch, from resolving the name to the last byte.
    pub total_timeout: Duration,
}

/// Where a secret text stands. Never the secret itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// `{ env = "NAME" }`
    Env(String),
    /// `{ file = "path" }`
    File(PathBuf),
}

/// Fetches documents under one set of [`FetchSettings`].
#[derive(Debug)]
pub struct Client {
    settings: FetchSettings,
    guard: Guard,
    tls: Arc<ClientConfig>,
    /// The one URL of an agent for credentials.
    agent: Option<Url>,
}

/// A document, whole.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub body: Bytes,
    /// What `Cache-Control` says of its freshness (RFC 9111 §5.2.2), not clamped: zero for
    /// `no-store` and `no-cache`, `None` where it says nothing.
    pub lifetime: Option<Duration>,
}

/// What a server answered, whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Never a redirect.
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Why a fetch brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("`{0}` is no https URL")]
    Scheme(String),
    #[error("a URL to fetch from has no user name, password or fragment")]
    UrlPart,
    #[error("`{0}` could not be resolved")]
    Resolve(String),
    #[error("`{0}` resolves only to addresses that may not be dialled (see `allow_private_addresses`)")]
    AddressRefused(String),
    #[error("could not connect: {0}")]
    Connect(io::Error),
    #[error("took longer than {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("the exchange broke off: {0}")]
    Http(#[from] hyper::Error),
    #[error("the answer is a redirect, which is never followed")]
    Redirect,
    #[error("the answer has status {0}")]
    Status(u16),
    #[error("the answer is compressed, which was not asked for")]
    Compressed,
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    #[error("the credential for the fetch could not be read")]
    Credential,
}

/// Longest head of an answer that is read.
const HEAD_BYTES_MAX: usize = 32 * 1024;

impl Client {
    /// `tls` verifies the servers; its ALPN list is replaced, since this client speaks HTTP/1.1.
    pub fn new(settings: FetchSettings, tls: &ClientConfig) -> Client {
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Client {
            guard: Guard { allow_private_addresses: settings.allow_private_addresses },
            settings,
            tls: Arc::new(tls),
            agent: None,
        }
    }

    /// The same, which may also fetch this very URL over http from an address that [`address::is_near`].
    pub fn allowing_agent(self, url: Url) -> Client {
        Client { agent: Some(url), ..self }
    }

    /// One `GET`, answered with 200 or an error. `credential` is sent as a bearer token.
    pub async fn get(&self, url: &Url, credential: Option<&SecretSource>) -> Result<Fetched, FetchError> {
        self.get_from(url, credential, system_lookup).await
    }

    /// One `POST` of a form, as token endpoints take it (RFC 6749 appendix B). What it answers may be an error
    /// in words (RFC 6749 §5.2), so its status is the caller's to read.
    pub async fn post_form(
        &self,
        url: &Url,
        mut headers: HeaderMap,
        fields: &[(&str, &str)],
    ) -> Result<Answer, FetchError> {
        let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(header::CONTENT_TYPE, form_type);
        self.send(url, Method::POST, headers, form.into()).await
    }

    /// One request with these headers beside those that every fetch has. Any status is an answer but a redirect.
    pub async fn send(
        &self,
        url: &Url,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, FetchError> {
        self.in_time(self.exchange(url, (method, headers, body), system_lookup)).await
    }

    /// As [`Client::get`], from where `lookup` says that the URL's host is.
    async fn get_from<L>(
        &self,
        url: &Url,
        credential: Option<&SecretSource>,
        lookup: L,
    ) -> Result<Fetched, FetchError>
    where
        L: AsyncFn(String, u16) -> io::Result<Vec<SocketAddr>>,
    {
        let document = async {
            let headers = bearer(credential).await?;
            let answer = self.exchange(url, (Method::GET, headers, Bytes::new()), lookup).await?;
            if answer.status != StatusCode::OK {
                return Err(FetchError::Status(answer.status.as_u16()));
            }
            Ok(Fetched { lifetime: lifetime(&answer.headers), body: answer.body })
        };
        self.in_time(document).await
    }

    /// Within the time that a fetch may take.
    async fn in_time<T>(&self, fetch: impl Future<Output = Result<T, FetchError>>) -> Result<T, FetchError> {
        let limit = self.settings.total_timeout;
        timeout(limit, fetch).await.unwrap_or(Err(FetchError::Timeout(limit)))
    }

    async fn exchange<L>(
        &self,
        url: &Url,
        asked: (Method, HeaderMap, Bytes),
        lookup: L,
    ) -> Result<Answer, FetchError>
    where
        L: AsyncFn(String, u16) -> io::Result<Vec<SocketAddr>>,
    {
        let plain = self.check(url)?;
        let request = request(url, asked)?;
        let addresses = self.addresses(url, plain, lookup).await?;
        let limit = self.settings.connect_timeout;
        let mut failure = FetchError::AddressRefused(host_of(url));
        for address in addresses {
            match timeout(limit, self.connect(url, plain, address)).await {
                Ok(Ok(Connection::Plain(stream))) => return self.converse(stream, request).await,
                Ok(Ok(Connection::Tls(stream))) => return self.converse(stream, request).await,
                Ok(Err(error)) => failure = FetchError::Connect(error),
                Err(_) => failure = FetchError::Timeout(limit),
            }
        }
        Err(failure)
    }

    /// Whether `url` is to be fetched without TLS, if at all.
    fn check(&self, url: &Url) -> Result<bool, FetchError> {
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err(FetchError::UrlPart);
        }
        match url.scheme() {
            "https" => Ok(false),
            "http" if self.settings.allow_http || self.is_agent(url) => Ok(true),
            _ => Err(FetchError::Scheme(url.origin().ascii_serialization())),
        }
    }

    fn is_agent(&self, url: &Url) -> bool {
        self.agent.as_ref() == Some(url)
    }

    /// The addresses of the URL's host that may be dialled; perhaps none.
    async fn addresses<L>(&self, url: &Url, plain: bool, lookup: L) -> Result<Vec<SocketAddr>, FetchError>
    where
        L: AsyncFn(String, u16) -> io::Result<Vec<SocketAddr>>,
    {
        let unresolved = || FetchError::Resolve(host_of(url));
        let port = url.port_or_known_default().ok_or_else(unresolved)?;
        let found: Vec<SocketAddr> = match url.host().ok_or_else(unresolved)? {
            Host::Ipv4(ip) => vec![(ip, port).into()],
            Host::Ipv6(ip) => vec![(ip, port).into()],
            Host::Domain(name) => lookup(name.to_owned(), port).await.map_err(|_| unresolved())?,
        };
        let may_dial = |ip| match plain {
            true if self.is_agent(url) => address::is_near(ip),
            true => address::is_loopback(ip),
            false => self.guard.allows(ip),
        };
        Ok(found.into_iter().filter(|at| may_dial(at.ip())).collect())
    }

    async fn connect(&self, url: &Url, plain: bool, address: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        if plain {
            return Ok(Connection::Plain(stream));
        }
        let name = match url.host() {
            Some(Host::Ipv4(ip)) => ServerName::from(std::net::IpAddr::from(ip)),
            Some(Host::Ipv6(ip)) => ServerName::from(std::net::IpAddr::from(ip)),
            _ => ServerName::try_from(host_of(url)).map_err(io::Error::other)?,
        };
        Ok(Connection::Tls(Box::new(TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await?)))
    }

    /// Sends the request and reads the answer; the connection is driven here and ends here.
    async fn converse<S>(&self, stream: S, request: Request<Full<Bytes>>) -> Result<Answer, FetchError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake::<_, Full<Bytes>>(TokioIo::new(stream))
            .await?;
        let mut connection = pin!(connection);
        let mut answer = pin!(async { self.read(sender.send_request(request).await?).await });
        tokio::select! {
            outcome = &mut answer => outcome,
            _ = &mut connection => answer.await,
        }
    }

    async fn read(&self, answer: Response<Incoming>) -> Result<Answer, FetchError> {
        let (head, body) = answer.into_parts();
        if head.status.is_redirection() {
            return Err(FetchError::Redirect);
        }
        let encodings = head.headers.get_all(header::CONTENT_ENCODING);
        if encodings.iter().any(|value| value != "identity") {
            return Err(FetchError::Compressed);
        }
        let limit = self.settings.body_bytes_max;
        match Limited::new(body, limit).collect().await {
            Ok(body) => Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() }),
            Err(error) => Err(match error.downcast::<hyper::Error>() {
                Ok(broken) => FetchError::Http(*broken),
                // the only other: `LengthLimitError`
                Err(_) => FetchError::TooLong(limit),
            }),
        }
    }
}

enum Connection {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl SecretSource {
    /// The secret as it is now, without the white space around it.
    pub async fn read(&self) -> Result<String, FetchError> {
        let text = match self {
            SecretSource::Env(name) => std::env::var(name).ok(),
            SecretSource::File(path) => tokio::fs::read_to_string(path).await.ok(),
        };
        match text.as_deref().map(str::trim) {
            None | Some("") => Err(FetchError::Credential),
            Some(secret) => Ok(secret.to_owned()),
        }
    }
}

async fn system_lookup(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host((host, port)).await?.collect())
}

fn request(url: &Url, asked: (Method, HeaderMap, Bytes)) -> Result<Request<Full<Bytes>>, FetchError> {
    let (method, headers, body) = asked;
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
    let bad_url = |_| FetchError::Scheme(url.origin().ascii_serialization());
    *request.uri_mut() = target.parse().map_err(bad_url)?;
    let host = HeaderValue::from_str(host).map_err(|_| FetchError::UrlPart)?;
    *request.headers_mut() = headers;
    let headers = request.headers_mut();
    headers.insert(header::HOST, host);
    headers.entry(header::ACCEPT).or_insert(HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static("countersign"));
    Ok(request)
}

async fn bearer(credential: Option<&SecretSource>) -> Result<HeaderMap, FetchError> {
    let mut headers = HeaderMap::new();
    if let Some(source) = credential {
        let value = sensitive(&format!("Bearer {}", source.read().await?));
        headers.insert(header::AUTHORIZATION, value.ok_or(FetchError::Credential)?);
    }
    Ok(headers)
}

fn host_of(url: &Url) -> String {
    url.host_str().unwrap_or_default().to_owned()
}

/// The shortest lifetime that any directive of any `Cache-Control` field gives.
fn lifetime(headers: &HeaderMap) -> Option<Duration> {
    let fields = headers.get_all(header::CACHE_CONTROL);
    let directives = fields.iter().filter_map(|field| field.to_str().ok()).flat_map(|field| field.split(','));
    directives.filter_map(|directive| freshness(directive.trim())).min()
}

fn freshness(directive: &str) -> Option<Duration> {
    let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
    if name.eq_ignore_ascii_case("no-store") || name.eq_ignore_ascii_case("no-cache") {
        return Some(Duration::ZERO);
    }
    if !name.eq_ignore_ascii_case("max-age") {
        return None;
    }
    // RFC 9111 §1.2.2: what does not fit is very long; what is no number is taken as stale (§4.2.1)
    let digits = value.trim_matches('"');
    let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let seconds = if all_digits { digits.parse().unwrap_or(u64::from(u32::MAX)) } else { 0 };
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
pub(crate) mod double;
#[cfg(test)]
mod tests;
