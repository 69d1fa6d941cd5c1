//! A client: a connection with the storefront's certificate, and requests over it.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, HandshakeKind};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::HOST;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    H1,
    H2,
}

/// One connection.
pub struct Client {
    sender: Sender,
    pub resumed: bool,
}

enum Sender {
    H1(http1::SendRequest<Full<Bytes>>),
    H2(http2::SendRequest<Full<Bytes>>),
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Ask {
    pub method: Method,
    pub path: &'static str,
    pub body: Bytes,
}

impl Ask {
    pub fn get(path: &'static str) -> Ask {
        Ask { method: Method::GET, path, body: Bytes::new() }
    }
}

impl Client {
    pub async fn connect(address: SocketAddr, tls: &ClientConfig, protocol: Protocol) -> Client {
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![match protocol {
            Protocol::H1 => b"http/1.1".to_vec(),
            Protocol::H2 => b"h2".to_vec(),
        }];
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let stream =
            TlsConnector::from(Arc::new(tls)).connect(HOST.try_into().unwrap(), stream).await.unwrap();
        let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        let stream = TokioIo::new(stream);
        let sender = match protocol {
            Protocol::H1 => {
                let (sender, connection) = http1::handshake(stream).await.unwrap();
                tokio::spawn(connection);
                Sender::H1(sender)
            }
            Protocol::H2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
                tokio::spawn(connection);
                Sender::H2(sender)
            }
        };
        Client { sender, resumed }
    }

    /// The status of the answer, once it was read to its end.
    pub async fn ask(&mut self, ask: &Ask, token: &str) -> StatusCode {
        let mut request = Request::builder().method(ask.method.clone());
        request = match self.sender {
            Sender::H1(_) => request.uri(ask.path).header("host", HOST),
            Sender::H2(_) => {
                let uri = Uri::builder().scheme("https").authority(HOST).path_and_query(ask.path);
                request.uri(uri.build().unwrap())
            }
        };
        let request = request
            .header("authorization", format!("Bearer {token}"))
            .header("user-agent", "load/1")
            .header("accept", "application/json")
            .header("x-request-id", "7f1e6a52-4c1b-4c55-9a55-0d9a3a5f2b11")
            .body(Full::new(ask.body.clone()))
            .unwrap();
        let response = match &mut self.sender {
            Sender::H1(sender) => {
                sender.ready().await.unwrap();
                sender.send_request(request).await
            }
            Sender::H2(sender) => sender.send_request(request).await,
        };
        let response = response.unwrap();
        let status = response.status();
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            frame.unwrap();
        }
        status
    }

    /// Another one over the same connection, where that can have several requests at once.
    pub fn beside(&self) -> Option<Client> {
        match &self.sender {
            Sender::H1(_) => None,
            Sender::H2(sender) => Some(Client { sender: Sender::H2(sender.clone()), resumed: self.resumed }),
        }
    }
}
