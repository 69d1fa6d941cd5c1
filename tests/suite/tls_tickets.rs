//! What a ticket is not good for: another name, or data before the handshake.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use countersign::cli::mint::LeafSpec;
use countersign::tls::{ClientCertificates, ListenerTls};
use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, NamedGroup};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;

use crate::world::tls::{ClientSaw, Tls, always, connect, connect_to, good, hours};

const FULL: ClientSaw = ClientSaw::Answer { resumed: false };
const RESUMED: ClientSaw = ClientSaw::Answer { resumed: true };

/// Offers its last session to whomever it dials.
#[derive(Debug, Default)]
struct Indiscreet {
    tls12: Mutex<Option<Tls12ClientSessionValue>>,
    tls13: Mutex<Option<Tls13ClientSessionValue>>,
}

impl ClientSessionStore for Indiscreet {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, session: Tls12ClientSessionValue) {
        *self.tls12.lock().unwrap() = Some(session);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.tls12.lock().unwrap().clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        *self.tls13.lock().unwrap() = Some(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.tls13.lock().unwrap().take()
    }
}

#[tokio::test]
async fn a_session_is_for_its_server_name_alone() {
    let tls = Tls::new();
    let dns = vec!["localhost".to_owned(), "other.example".to_owned()];
    let server = tls.own(&tls.shop.issue(&LeafSpec { dns, validity: always(), ..good() }).unwrap());
    let clients = ClientCertificates::Required(tls.trust());
    let listener = ListenerTls::new(&server, clients, tls.clock.clone()).unwrap();
    let own = tls.shop.issue(&good()).unwrap();
    for version in rustls::ALL_VERSIONS {
        let mut client = tls.client_of(Some(&own), &[version]);
        client.resumption = Resumption::store(Arc::new(Indiscreet::default()));
        let client = Arc::new(client);
        for (name, seen) in
            [("localhost", FULL), ("localhost", RESUMED), ("other.example", FULL), ("localhost", FULL)]
        {
            let (outcome, saw) = connect_to(&listener, &client, name).await;
            assert_eq!(saw, seen, "{:?} {name}", version.version);
            assert_eq!(outcome.unwrap().server_name.as_str(), Some(name));
        }
    }
}

#[tokio::test]
async fn tickets_offer_no_early_data() {
    let tls = Tls::new();
    let own = tls.shop.issue(&good()).unwrap();
    let mut client = tls.client_of(Some(&own), &[&rustls::version::TLS13]);
    let sessions = Arc::new(Indiscreet::default());
    client.resumption = Resumption::store(sessions.clone());
    client.enable_early_data = true;
    let (listener, client) = (tls.required(), Arc::new(client));
    assert_eq!(connect(&listener, &client).await.1, FULL);
    assert!(sessions.tls13.lock().unwrap().is_some());
    let name = ServerName::try_from("localhost").unwrap();
    let mut next = ClientConnection::new(Arc::clone(&client), name).unwrap();
    assert!(next.early_data().is_none());
    // There was a session to take it from.
    assert!(sessions.tls13.lock().unwrap().is_none());
}

/// Changes one byte of what is written first, or puts bytes behind it.
struct Meddler<T, M> {
    io: T,
    meddle: Option<M>,
}

impl<T: AsyncRead + Unpin, M: Unpin> AsyncRead for Meddler<T, M> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin, M: FnOnce(&mut Vec<u8>) + Unpin> AsyncWrite for Meddler<T, M> {
    /// The pipe has room for a whole hello and more.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Some(meddle) = self.meddle.take() else { return Pin::new(&mut self.io).poll_write(cx, bytes) };
        let mut other = bytes.to_vec();
        meddle(&mut other);
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, &other))?;
        assert_eq!(written, other.len());
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Whether the listener takes a client whose hello is meddled with.
async fn is_taken(
    listener: &ListenerTls,
    client: &Arc<ClientConfig>,
    meddle: impl FnOnce(&mut Vec<u8>) + Unpin,
) -> bool {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let near = Meddler { io: near, meddle: Some(meddle) };
    let connector = TlsConnector::from(Arc::clone(client));
    let name = ServerName::try_from("localhost").unwrap();
    // What was connected stays so until the listener has seen all of it.
    let (accepted, _open) = tokio::join!(listener.accept(far, hours(1)), connector.connect(name, near));
    accepted.is_ok()
}

/// What goes before a handshake message: a record's type, version and length.
const RECORD_HEAD_BYTES: usize = 5;

#[tokio::test]
async fn a_ticket_of_which_one_byte_is_another_opens_nothing() {
    let tls = Tls::new();
    let own = tls.shop.issue(&good()).unwrap();
    let mut tried = 0;
    for version in rustls::ALL_VERSIONS {
        let mut client = tls.client_of(Some(&own), &[version]);
        client.resumption = Resumption::in_memory_sessions(16);
        let (listener, client) = (tls.required(), Arc::new(client));
        // In TLS 1.3 the ticket and what proves it stand last.
        for from_end in (1..400).step_by(13) {
            assert!(matches!(connect(&listener, &client).await.1, ClientSaw::Answer { .. }), "{from_end}");
            let meddle = move |hello: &mut Vec<u8>| {
                let at = hello.len().checked_sub(from_end).filter(|at| *at >= RECORD_HEAD_BYTES + 4).unwrap();
                hello[at] ^= 1;
            };
            assert!(!is_taken(&listener, &client, meddle).await, "{:?} {from_end}", version.version);
            tried += 1;
        }
    }
    assert_eq!(tried, 62);
}

/// Says in a hello that data comes before the handshake (RFC 8446 §4.2.10), and sends some.
fn with_early_data(hello: &mut Vec<u8>) {
    let two = |hello: &[u8], at: usize| usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
    // Behind the message's head, version and random: session, ciphers, compression, and then the extensions.
    let session = RECORD_HEAD_BYTES + 4 + 2 + 32;
    let ciphers = session + 1 + usize::from(hello[session]);
    let compression = ciphers + 2 + two(hello, ciphers);
    let extensions = compression + 1 + usize::from(hello[compression]);
    let longer = |length: usize| u16::try_from(length + 4).unwrap().to_be_bytes();
    for at in [3, RECORD_HEAD_BYTES + 2, extensions] {
        let length = longer(two(hello, at));
        hello[at..at + 2].copy_from_slice(&length);
    }
    // First, since a ticket has to be the last.
    hello.splice(extensions + 2..extensions + 2, [0, 42, 0, 0]);
    let early = b"GET /orders/1 HTTP/1.1\r\nhost: orders.shop.example\r\n\r\n";
    hello.extend([23, 3, 3, 0, u8::try_from(early.len()).unwrap()]);
    hello.extend(early);
}

#[tokio::test]
async fn early_data_that_is_sent_all_the_same_opens_nothing() {
    let tls = Tls::new();
    let own = tls.shop.issue(&good()).unwrap();
    let mut client = tls.client_of(Some(&own), &[&rustls::version::TLS13]);
    client.resumption = Resumption::in_memory_sessions(16);
    let (listener, client) = (tls.required(), Arc::new(client));
    assert!(!is_taken(&listener, &client, with_early_data).await, "without a ticket");
    assert_eq!(connect(&listener, &client).await.1, FULL);
    assert!(!is_taken(&listener, &client, with_early_data).await, "with a ticket");
    assert!(is_taken(&listener, &client, |_| ()).await);
}
