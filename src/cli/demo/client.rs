//! A client of the proxy, as a workload is one: real TLS, one HTTP/1.1 request on one connection.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST as HOST_HEADER};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::AlertDescription;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::requests::{HOST, Line};
use super::upstream::DECISION_HEADER;
use super::workloads::{CA_FILE, Workload};
use crate::clock::Clock;
use crate::tls::client::{ClientTlsError, ExpectedServer, client_config};
use crate::tls::own::OwnCertificateError;
use crate::tls::{Alpn, CertificateSettings, OwnCertificate, PemSource, Roots, TrustError};

/// What came back.
#[derive(Debug)]
pub enum Reply {
    Http(Answered),
    /// The other side ended the handshake.
    Alert(AlertDescription),
}

/// An HTTP answer, read as one of the proxy's or the demo's own.
#[derive(Debug)]
pub struct Answered {
    pub status: StatusCode,
    /// The id of the audit record: a refusal names it, and the demo's upstreams send back what they
    /// were told.
    pub decision: Option<String>,
    /// The demo's upstream that answered.
    pub upstream: Option<String>,
}

/// Why nothing came back that a proxy would say.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(transparent)]
    Ca(#[from] TrustError),
    #[error(transparent)]
    Certificate(#[from] OwnCertificateError),
    #[error(transparent)]
    Tls(#[from] ClientTlsError),
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("the exchange broke off: {0}")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be written: {0}")]
    Request(#[from] http::Error),
    #[error("the body of the answer cannot be read: {0}")]
    Body(Box<dyn Error + Send + Sync>),
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
}

/// Far longer than anything on loopback takes.
const TIMEOUT: Duration = Duration::from_secs(10);
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Asks what `line` asks, with the certificates in `folder`.
pub async fn ask(
    proxy: SocketAddr,
    folder: &Path,
    line: &Line,
    token: Option<&str>,
    clock: &Clock,
) -> Result<Reply, ClientError> {
    let outcome = tokio::time::timeout(TIMEOUT, exchange(proxy, folder, line, token, clock)).await;
    match outcome.map_err(|_| ClientError::Timeout)? {
        Ok(answered) => Ok(Reply::Http(answered)),
        Err(error) => match alert(&error) {
            Some(alert) => Ok(Reply::Alert(alert)),
            None => Err(error),
        },
    }
}

async fn exchange(
    proxy: SocketAddr,
    folder: &Path,
    line: &Line,
    token: Option<&str>,
    clock: &Clock,
) -> Result<Answered, ClientError> {
    let tls = TlsConnector::from(config(folder, line.workload, clock)?);
    let name = ServerName::try_from(HOST).map_err(io::Error::other)?;
    let stream = tls.connect(name, TcpStream::connect(proxy).await?).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let mut request = Request::builder().method(&line.method).uri(line.path).header(HOST_HEADER, HOST);
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let error = match sender.send_request(request.body(Empty::<Bytes>::new())?).await {
        Ok(answer) => return read(answer).await,
        Err(error) => error,
    };
    // A connection that ended before it had a request keeps the cause to itself.
    drop(sender);
    match connection.await {
        Ok(Err(cause)) => Err(cause.into()),
        Ok(Ok(())) | Err(_) => Err(error.into()),
    }
}

fn config(
    folder: &Path,
    workload: Option<Workload>,
    clock: &Clock,
) -> Result<Arc<rustls::ClientConfig>, ClientError> {
    let ca = Roots::load(&PemSource::File(folder.join(CA_FILE)))?;
    let own = match workload {
        Some(workload) => {
            let file = PemSource::File(folder.join(workload.file()));
            let settings =
                CertificateSettings { certificate: file.clone(), private_key: file, passphrase: None };
            Some(OwnCertificate::load(&settings, clock.now())?)
        }
        None => None,
    };
    Ok(client_config(&ExpectedServer::Named(Some(ca)), own.as_ref(), &[Alpn::Http1], clock)?)
}

async fn read(answer: Response<Incoming>) -> Result<Answered, ClientError> {
    let status = answer.status();
    let body = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await.map_err(ClientError::Body)?;
    let body: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Ok(Answered {
        status,
        decision: text(&body["decision"]).or_else(|| text(&body["headers"][DECISION_HEADER])),
        upstream: text(&body["upstream"]),
    })
}

/// The fatal alert that ended a connection. Under TLS 1.3 a server refuses a certificate only after
/// the client has finished its handshake, so the alert may come in place of an answer.
fn alert(error: &(dyn Error + 'static)) -> Option<AlertDescription> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(rustls::Error::AlertReceived(alert)) = error.downcast_ref() {
            return Some(*alert);
        }
        // What an `io::Error` holds is not its `source`, but that one's.
        let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = held.map(|held| held as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}
