//! The SPIFFE Workload API: a gRPC stream on a socket of this machine that gives an X.509-SVID with its bundle
//! and those of federated trust domains, whole again whenever any of it changes.
//!
//! One method is asked, `FetchX509SVID`, since all that belongs together comes in one message; `FetchX509Bundles`
//! would say some of it a second time. Framing and status of gRPC are told by hand: it is one request and one
//! kind of answer, and so we decide how long a message may be and when to ask again.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use percent_encoding::percent_decode;
use prost::Message;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::UnixStream;
use tokio::time::timeout;
use x509_parser::asn1_rs::{Any, FromDer};

use super::{BackOff, Issued, Publisher, in_short};
use crate::clock::{Clock, Timestamp};
use crate::identity::TrustDomain;
use crate::tls::{BadBundle, Bundles, Cas, OwnCertificate, Unusable};

/// `[identity]` with `source = "workload_api"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub socket: PathBuf,
    /// Which SVID is ours. `None`: the first.
    pub hint: Option<String>,
}

/// What goes wrong between us and a Workload API.
#[derive(Debug, thiserror::Error)]
enum ApiError {
    #[error("the Workload API at `{}` cannot be reached: {error}", socket.display())]
    Connect { socket: PathBuf, error: std::io::Error },
    #[error("the Workload API at `{}` has not taken the connection within {} s", .0.display(), CONNECT_TIMEOUT.as_secs())]
    Full(PathBuf),
    #[error("the Workload API has not answered within {} s", ANSWER_TIMEOUT.as_secs())]
    Silent,
    #[error("the Workload API broke off: {0}")]
    Http(#[from] hyper::Error),
    #[error("the Workload API answers with HTTP status {0}")]
    Status(http::StatusCode),
    #[error("the Workload API refuses: {code} ({message:?})")]
    Refused { code: &'static str, message: String },
    #[error(
        "the Workload API has no identity for us: PERMISSION_DENIED ({0:?}); register one that fits this process"
    )]
    Denied(String),
    #[error(
        "what listens there is no Workload API, or a broken one: {code} ({message:?}); see `workload_api`"
    )]
    Stranger { code: &'static str, message: String },
    #[error("the Workload API ended the stream")]
    Ended,
    #[error("a message of the Workload API is compressed, or longer than {MESSAGE_BYTES_MAX} bytes")]
    Framing,
    #[error("a message of the Workload API does not parse")]
    Malformed,
    #[error("{0}")]
    Useless(#[from] Useless),
}

/// Why a message of the Workload API is of no use.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Useless {
    #[error("the Workload API gives no X.509-SVID")]
    NoSvid,
    #[error("the Workload API gives no X.509-SVID with the hint `{0}`")]
    NoSuchHint(String),
    #[error("the Workload API gives certificates that are no DER")]
    Der,
    #[error("the Workload API: {0}")]
    Certificate(#[from] Unusable),
    #[error("the Workload API calls a certificate `{0}` that does not have this SPIFFE ID")]
    OtherId(String),
    #[error("the Workload API gives our own trust domain `{0}` {1}")]
    Bundle(TrustDomain, BadBundle),
}

/// From the first byte to the first message; then it may be silent for hours.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Several hundred CA certificates, and what gRPC takes unless told otherwise.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// An agent that hangs is found by these. gRPC servers in Go end a connection that pings more often than every
/// five minutes.
const PING_INTERVAL: Duration = Duration::from_secs(600);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
const METHOD: &str = "http://localhost/SpiffeWorkloadAPI/FetchX509SVID";
/// The statuses of gRPC that say that a call failed, from 1 on.
const CODES: [&str; 16] = [
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
/// An empty message: not compressed, of no length.
const EMPTY_REQUEST: [u8; 5] = [0; 5];

/// `X509SVIDResponse` of the SPIFFE Workload API.
#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<Svid>,
    /// Revocation lists, of whichever CAs. They are not checked: a trust domain's come from its `crl`.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    crl: Vec<Bytes>,
    #[prost(map = "string, bytes", tag = "3")]
    federated_bundles: HashMap<String, Bytes>,
}

/// `X509SVID`.
#[derive(Clone, PartialEq, Message)]
struct Svid {
    #[prost(string, tag = "1")]
    spiffe_id: String,
    /// Certificates one after the other, the leaf first.
    #[prost(bytes = "bytes", tag = "2")]
    x509_svid: Bytes,
    /// PKCS #8.
    #[prost(bytes = "vec", tag = "3")]
    x509_svid_key: Vec<u8>,
    /// CA certificates of its trust domain, one after the other.
    #[prost(bytes = "bytes", tag = "4")]
    bundle: Bytes,
    #[prost(string, tag = "5")]
    hint: String,
}

/// Asks until dropped, and again whenever that ends.
pub async fn follow(settings: Settings, publisher: Publisher, clock: Clock) {
    let mut back_off = BackOff::default();
    loop {
        let error = match stream(&settings, &publisher, &clock, &mut back_off).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        match &error {
            // Workload API §5.2.1: what it takes away is not to be used any more.
            ApiError::Denied(_) | ApiError::Useless(Useless::NoSuchHint(_)) => {
                publisher.denied(&error, clock.now());
            }
            ApiError::Stranger { .. } => {
                publisher.failed(&error);
                back_off.hopeless();
            }
            _ => publisher.failed(&error),
        }
        back_off.wait(clock.now()).await;
    }
}

/// Follows one stream to its end.
async fn stream(
    settings: &Settings,
    publisher: &Publisher,
    clock: &Clock,
    back_off: &mut BackOff,
) -> Result<Infallible, ApiError> {
    let unreachable = |error| ApiError::Connect { socket: settings.socket.clone(), error };
    let connecting = timeout(CONNECT_TIMEOUT, UnixStream::connect(&settings.socket));
    let socket =
        connecting.await.map_err(|_| ApiError::Full(settings.socket.clone()))?.map_err(unreachable)?;
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake::<_, Full<Bytes>>(TokioIo::new(socket))
        .await?;
    let mut connection = pin!(connection);
    let mut following = pin!(async {
        let answer = within(async { Ok(sender.send_request(request()).await?) }).await?;
        if !answer.status().is_success() {
            return Err(ApiError::Status(answer.status()));
        }
        refused(answer.headers())?;
        let mut messages = Messages { body: answer.into_body(), unread: BytesMut::new() };
        let mut message = within(messages.next()).await?;
        loop {
            publisher.issued(issued(message, settings.hint.as_deref(), clock.now())?);
            back_off.good(clock.now());
            message = messages.next().await?;
        }
    });
    tokio::select! {
        outcome = &mut following => outcome,
        ended = &mut connection => {
            // What came before it has come.
            ended?;
            following.await
        }
    }
}

async fn within<T>(answer: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    timeout(ANSWER_TIMEOUT, answer).await.unwrap_or(Err(ApiError::Silent))
}

fn request() -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(Bytes::from_static(&EMPTY_REQUEST)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static(METHOD);
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, header::HeaderValue::from_static("trailers"));
    // SPIFFE Workload Endpoint §6: who forgets it may have been talked into the request by somebody else.
    headers.insert("workload.spiffe.io", header::HeaderValue::from_static("true"));
    request
}

/// The messages of a stream (gRPC over HTTP/2, "Length-Prefixed-Message").
struct Messages {
    body: Incoming,
    unread: BytesMut,
}

impl Messages {
    async fn next(&mut self) -> Result<Response, ApiError> {
        loop {
            if let Some(message) = message(&mut self.unread)? {
                return Response::decode(message).map_err(|_| ApiError::Malformed);
            }
            let frame = self.body.frame().await.ok_or(ApiError::Ended)??;
            match frame.into_data() {
                Ok(data) => self.unread.extend_from_slice(&data),
                Err(frame) => {
                    frame.trailers_ref().map_or(Ok(()), refused)?;
                    return Err(ApiError::Ended);
                }
            }
        }
    }
}

/// The first whole message of what was read.
fn message(unread: &mut BytesMut) -> Result<Option<Bytes>, ApiError> {
    const PREFIX: usize = 5;
    let Some((compressed, mut length)) = unread.get(..PREFIX).and_then(<[u8]>::split_first) else {
        return Ok(None);
    };
    let length = length.get_u32() as usize;
    if *compressed != 0 || length > MESSAGE_BYTES_MAX {
        return Err(ApiError::Framing);
    }
    if unread.len() < PREFIX + length {
        return Ok(None);
    }
    unread.advance(PREFIX);
    Ok(Some(unread.split_to(length).freeze()))
}

/// Whether headers or trailers say that a call failed.
fn refused(headers: &HeaderMap) -> Result<(), ApiError> {
    // gRPC over HTTP/2 percent-encodes messages.
    let text = |name| Some(percent_decode(headers.get(name)?.as_bytes()).decode_utf8_lossy());
    let message = text("grpc-message").map(|message| in_short(&message)).unwrap_or_default();
    let Some(status) = text("grpc-status").filter(|status| status != "0") else { return Ok(()) };
    let named = CODES.iter().zip(1..).find(|(_, number): &(_, u8)| status == number.to_string());
    Err(match named.map_or("a status that gRPC does not have", |(code, _)| code) {
        "PERMISSION_DENIED" => ApiError::Denied(message),
        // It wants another header than Workload Endpoint §6 has, or knows no such method.
        code @ ("INVALID_ARGUMENT" | "UNIMPLEMENTED") => ApiError::Stranger { code, message },
        code => ApiError::Refused { code, message },
    })
}

/// What a message gives, if all that is ours is good. Those who are federated speak for themselves alone.
fn issued(response: Response, hint: Option<&str>, now: Timestamp) -> Result<Issued, Useless> {
    if !response.crl.is_empty() {
        let lists = response.crl.len();
        tracing::warn!(
            lists,
            "revocation lists of the Workload API are not checked; see `crl` of `[trust_domain]`"
        );
    }
    let mut bundles: Bundles = response.federated_bundles.iter().filter_map(federated).collect();
    let mut svids = response.svids.into_iter();
    let svid = match hint {
        None => svids.next().ok_or(Useless::NoSvid)?,
        Some(hint) => {
            svids.find(|svid| svid.hint == hint).ok_or_else(|| Useless::NoSuchHint(hint.to_owned()))?
        }
    };
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(svid.x509_svid_key));
    let chain = certificates(&svid.x509_svid).map_err(|_| Useless::Der)?;
    let own = OwnCertificate::new(chain, key, now)?;
    let trust_domain = match &own.spiffe_id {
        Some(id) if id.as_str() == svid.spiffe_id => id.trust_domain().clone(),
        _ => return Err(Useless::OtherId(svid.spiffe_id)),
    };
    let cas = cas(&svid.bundle).map_err(|bad| Useless::Bundle(trust_domain.clone(), bad))?;
    bundles.insert(trust_domain, Ok(cas));
    Ok(Issued { own, bundles })
}

/// Trust domains are named `shop.example` or `spiffe://shop.example`; what is neither, no configuration can name.
fn federated((name, bundle): (&String, &Bytes)) -> Option<(TrustDomain, Result<Cas, BadBundle>)> {
    Some((name.strip_prefix("spiffe://").unwrap_or(name).parse().ok()?, cas(bundle)))
}

fn cas(bundle: &[u8]) -> Result<Cas, BadBundle> {
    Cas::issued(&certificates(bundle)?)
}

/// Certificates as they stand one after the other.
fn certificates(mut der: &[u8]) -> Result<Vec<CertificateDer<'static>>, BadBundle> {
    let mut certificates = Vec::new();
    while !der.is_empty() {
        let (rest, _) = Any::from_der(der).map_err(|_| BadBundle::Der)?;
        let (one, _) = der.split_at(der.len() - rest.len());
        certificates.push(CertificateDer::from(one.to_vec()));
        der = rest;
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_whole_not_compressed_and_of_bounded_length() {
        let mut unread = BytesMut::new();
        let whole = [0, 0, 0, 0, 2, b'o', b'k', 0, 0, 0, 0, 0];
        let mut seen = Vec::new();
        for byte in whole {
            unread.extend_from_slice(&[byte]);
            seen.extend(message(&mut unread).unwrap());
        }
        assert_eq!(seen, [&b"ok"[..], b""]);
        let longest = u32::try_from(MESSAGE_BYTES_MAX).unwrap();
        let begun = |compressed: u8, length: u32| {
            message(&mut BytesMut::from(&[&[compressed][..], &length.to_be_bytes()].concat()[..]))
        };
        assert!(begun(0, longest).unwrap().is_none());
        for (compressed, length) in [(0, longest + 1), (0, u32::MAX), (1, 2), (255, 0)] {
            assert!(matches!(begun(compressed, length), Err(ApiError::Framing)), "{compressed} {length}");
        }
    }

    #[test]
    fn a_status_that_is_not_ok_ends_the_stream_in_words() {
        let told = |status: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", http::HeaderValue::from_static(status));
            headers.insert("grpc-message", http::HeaderValue::from_static("no%20identity%0aissued"));
            refused(&headers).map_err(|error| error.to_string())
        };
        assert_eq!(told("0"), Ok(()));
        assert!(refused(&HeaderMap::new()).is_ok());
        for (status, code) in [
            ("3", "INVALID_ARGUMENT"),
            ("7", "PERMISSION_DENIED"),
            ("12", "UNIMPLEMENTED"),
            ("14", "UNAVAILABLE"),
            ("1", "CANCELLED"),
            ("13", "INTERNAL"),
            ("16", "UNAUTHENTICATED"),
            ("17", "a status that gRPC does not have"),
            ("00", "a status that gRPC does not have"),
            ("", "a status that gRPC does not have"),
        ] {
            let expected = format!("{code} (\"no identity\u{fffd}issued\")");
            assert!(told(status).unwrap_err().contains(&expected), "{status}");
        }
    }
}
