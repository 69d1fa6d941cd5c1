//! Clients of the data path: HTTP over h1 or h2, with a client certificate or without, WebSockets,
//! and bytes as an attacker writes them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::sync::CancellationToken;

use super::{Body, Error, full, soon};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    H1,
    H2,
}

impl Protocol {
    pub const BOTH: [Protocol; 2] = [Protocol::H1, Protocol::H2];

    pub fn alpn(self) -> Vec<u8> {
        match self {
            Protocol::H1 => b"http/1.1".to_vec(),
            Protocol::H2 => b"h2".to_vec(),
        }
    }
}

/// One connection.
pub struct Client {
    sender: Sender,
    scheme: Scheme,
    /// What requests name as their host where they do not name one themselves.
    pub authority: Authority,
    ended: CancellationToken,
}

enum Sender {
    H1(tokio::sync::Mutex<http1::SendRequest<Body>>),
    H2(http2::SendRequest<Body>),
}

/// An answer read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
}

pub type WebSocket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

impl Client {
    pub async fn plain(address: SocketAddr, protocol: Protocol) -> Result<Client, Error> {
        Client::plain_for(address, &address.to_string(), protocol).await
    }

    /// One that dials from this address.
    pub async fn plain_from(from: IpAddr, address: SocketAddr, protocol: Protocol) -> Result<Client, Error> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        Client::over(stream, protocol, Scheme::HTTP, address.to_string().parse()?).await
    }

    /// One whose requests are for another host than the one that it dials.
    pub async fn plain_for(address: SocketAddr, host: &str, protocol: Protocol) -> Result<Client, Error> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Client::over(stream, protocol, Scheme::HTTP, host.parse()?).await
    }

    /// Under TLS 1.3 a server that refuses the client's certificate does so after this returns.
    pub async fn tls(
        address: SocketAddr,
        name: &str,
        mut config: ClientConfig,
        protocol: Protocol,
    ) -> Result<Client, Error> {
        config.alpn_protocols = vec![protocol.alpn()];
        let stream = secure(address, name, config).await?;
        Client::over(stream, protocol, Scheme::HTTPS, name.parse()?).await
    }

    /// The same behind a load balancer, which says `header` first.
    pub async fn behind(
        header: &[u8],
        address: SocketAddr,
        name: &str,
        mut config: ClientConfig,
        protocol: Protocol,
    ) -> Result<Client, Error> {
        config.alpn_protocols = vec![protocol.alpn()];
        let stream = secure_after(header, address, name, config).await?;
        Client::over(stream, protocol, Scheme::HTTPS, name.parse()?).await
    }

    async fn over<S>(
        stream: S,
        protocol: Protocol,
        scheme: Scheme,
        authority: Authority,
    ) -> Result<Client, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stream = TokioIo::new(stream);
        let ended = CancellationToken::new();
        let end = ended.clone().drop_guard();
        let sender = match protocol {
            Protocol::H1 => {
                let (sender, connection) = http1::handshake(stream).await?;
                tokio::spawn(async move {
                    let _end = end;
                    connection.with_upgrades().await
                });
                Sender::H1(tokio::sync::Mutex::new(sender))
            }
            Protocol::H2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
                tokio::spawn(async move {
                    let _end = end;
                    connection.await
                });
                Sender::H2(sender)
            }
        };
        Ok(Client { sender, scheme, authority, ended })
    }

    pub fn is_closed(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Waits until the connection is no more.
    pub async fn closed(&self) {
        self.ended.cancelled().await;
    }

    /// The answer's head; its body is still to be read. The host comes from the request's `Host`
    /// header, else from its URI, else from this client.
    pub async fn send(&self, mut request: Request<Body>) -> Result<Response<Incoming>, hyper::Error> {
        let path = request.uri().path_and_query().cloned();
        let authority = request.uri().authority().unwrap_or(&self.authority).clone();
        match &self.sender {
            Sender::H1(sender) => {
                request.headers_mut().entry(HOST).or_insert(authority.as_str().parse().unwrap());
                let mut uri = http::uri::Parts::default();
                uri.path_and_query = path;
                *request.uri_mut() = Uri::from_parts(uri).unwrap();
                let answer = sender.lock().await.send_request(request);
                soon("an answer's head", answer).await
            }
            Sender::H2(sender) => {
                let mut uri = http::uri::Parts::default();
                uri.scheme = Some(self.scheme.clone());
                uri.authority = Some(authority);
                uri.path_and_query = path;
                *request.uri_mut() = Uri::from_parts(uri).unwrap();
                soon("an answer's head", sender.clone().send_request(request)).await
            }
        }
    }

    /// The whole answer.
    pub async fn ask(&self, request: Request<Body>) -> Result<Answer, Error> {
        let (head, body) = self.send(request).await?.into_parts();
        let collected = soon("an answer's body", body.collect()).await?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        Ok(Answer { status: head.status, headers: head.headers, body: collected.to_bytes(), trailers })
    }

    /// A WebSocket handshake: an upgrade on h1, an extended CONNECT (RFC 8441) on h2. The answer
    /// is the refusal, whole.
    pub async fn websocket(&self, mut request: Request<Body>) -> Result<WebSocket, Result<Answer, Error>> {
        let headers = request.headers_mut();
        headers.insert(SEC_WEBSOCKET_VERSION, "13".parse().unwrap());
        match &self.sender {
            Sender::H1(_) => {
                headers.insert(CONNECTION, "upgrade".parse().unwrap());
                headers.insert(UPGRADE, "websocket".parse().unwrap());
                headers.insert(SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap());
            }
            Sender::H2(_) => {
                *request.method_mut() = Method::CONNECT;
                request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
            }
        }
        let response = self.send(request).await.map_err(|error| Err(error.into()))?;
        if matches!(response.status(), StatusCode::SWITCHING_PROTOCOLS | StatusCode::OK) {
            let upgraded = soon("an upgrade", hyper::upgrade::on(response)).await;
            let upgraded = TokioIo::new(upgraded.map_err(|error| Err(error.into()))?);
            return Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await);
        }
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| Err(error.into()))?.to_bytes();
        Err(Ok(Answer { status: head.status, headers: head.headers, body, trailers: HeaderMap::new() }))
    }
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }
}

/// The next data of a body as it arrives, at its end nothing; trailers are skipped.
pub async fn next_data(body: &mut Incoming) -> Result<Option<Bytes>, Error> {
    while let Some(frame) = soon("a body's next frame", body.frame()).await {
        match frame?.into_data() {
            Ok(data) if !data.is_empty() => return Ok(Some(data)),
            _ => {}
        }
    }
    Ok(None)
}

pub fn get(uri: &str) -> Request<Body> {
    Request::get(uri).body(full(Bytes::new())).unwrap()
}

pub fn post(uri: &str, body: impl Into<Bytes>) -> Request<Body> {
    Request::post(uri).body(full(body)).unwrap()
}

/// The request as one who has this token sends it.
pub fn with_token(mut request: Request<Body>, token: &str) -> Request<Body> {
    request.headers_mut().insert(AUTHORIZATION, bearer(token));
    request
}

/// What `Authorization` says of this token (RFC 6750 §2.1).
pub fn bearer(token: &str) -> HeaderValue {
    format!("Bearer {token}").parse().unwrap()
}

async fn secure(
    address: SocketAddr,
    name: &str,
    config: ClientConfig,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Error> {
    secure_after(&[], address, name, config).await
}

async fn secure_after(
    header: &[u8],
    address: SocketAddr,
    name: &str,
    config: ClientConfig,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Error> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    stream.write_all(header).await?;
    secure_over(stream, name, Arc::new(config)).await
}

pub async fn secure_over(
    stream: TcpStream,
    name: &str,
    config: Arc<ClientConfig>,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Error> {
    let name = ServerName::try_from(name.to_owned())?;
    Ok(soon("a TLS handshake", TlsConnector::from(config).connect(name, stream)).await?)
}

/// The fatal alert that ended a connection, if one did.
pub fn alert(error: &(dyn std::error::Error + 'static)) -> Option<AlertDescription> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(rustls::Error::AlertReceived(alert)) = error.downcast_ref() {
            return Some(*alert);
        }
        let inner = error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref());
        cause = inner.map(|inner| inner as &(dyn std::error::Error + 'static)).or(error.source());
    }
    None
}

/// The fatal alert that a connection ends with, if it does before anything is asked. A server that refuses
/// the client's certificate under TLS 1.3 says so only after the client's side of the handshake is done.
pub async fn alert_after(
    address: SocketAddr,
    name: &str,
    mut config: ClientConfig,
    protocol: Protocol,
) -> Option<AlertDescription> {
    config.alpn_protocols = vec![protocol.alpn()];
    let ended = async { secure(address, name, config).await?.read_u8().await.map_err(Error::from) };
    alert(&*soon("an alert", ended).await.err()?)
}

/// A connection for requests that no client library would send.
pub struct Raw {
    stream: Box<dyn Duplex>,
    read: Vec<u8>,
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

impl Raw {
    pub async fn plain(address: SocketAddr) -> Result<Raw, Error> {
        Ok(Raw { stream: Box::new(TcpStream::connect(address).await?), read: Vec::new() })
    }

    pub async fn tls(address: SocketAddr, name: &str, mut config: ClientConfig) -> Result<Raw, Error> {
        config.alpn_protocols = vec![Protocol::H1.alpn()];
        Ok(Raw { stream: Box::new(secure(address, name, config).await?), read: Vec::new() })
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Error> {
        self.stream.write_all(bytes.as_ref()).await?;
        Ok(self.stream.flush().await?)
    }

    /// Nothing more will be sent.
    pub async fn end(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// The next head that comes, up to its empty line, or what came before the connection ended.
    pub async fn head(&mut self) -> Result<String, Error> {
        loop {
            if let Some(end) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = self.read.drain(..end + 4).collect();
                return Ok(String::from_utf8(head)?);
            }
            if soon("an answer's head", self.stream.read_buf(&mut self.read)).await? == 0 {
                return Ok(String::from_utf8(std::mem::take(&mut self.read))?);
            }
        }
    }

    /// All that comes until the other side closes; a reset is an end too.
    pub async fn rest(mut self) -> Vec<u8> {
        while let Ok(1..) = soon("the end of the connection", self.stream.read_buf(&mut self.read)).await {}
        self.read
    }
}
