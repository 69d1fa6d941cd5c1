//! Our end of a client's TLS connection: from an accepted socket to a verified peer.
//!
//! Invariants:
//! - A [`ListenerTls`] has ticket keys of its own and no session store, so that no session crosses
//!   from one configuration into another; each reload makes a new one.
//! - rustls does not ask the client verifier on a resumed session. So after *every* handshake the
//!   peer is asserted here, and the chain of a resumed session is judged whole, again, as of now.
//!   (`tickets.rs` keeps a session whose chain has ended from resuming at all.)
//! - No early data (RFC 8446 §8), no key log.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, ProducesTickets, ServerConfig};
use rustls::sign::SingleCertAndKey;
use rustls::{ConfigBuilder, DistinguishedName, HandshakeKind, ProtocolVersion, WantsVerifier};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::StartHandshake;
use tokio_rustls::server::TlsStream;

use super::hello::{linger, read_hello};
use super::peer::{Distrust, PeerError, Unverified};
use super::tickets::Tickets;
use super::trust::{Role, Trust};
use super::verifier::{Seen, Witness};
use super::{Alpn, ClockTime, OwnCertificate, provider};
use crate::clock::{Clock, Timestamp};
use crate::identity::{Peer, Signature};

/// The TLS configuration of one listener, for one generation of its certificates and CAs.
pub struct ListenerTls {
    builder: ConfigBuilder<ServerConfig, WantsVerifier>,
    certificate: Arc<SingleCertAndKey>,
    ticket_keys: Arc<dyn ProducesTickets>,
    clients: ClientCertificates,
    subjects: Arc<[DistinguishedName]>,
    clock: Clock,
}

/// `client_certificate` of a listener. A certificate that is presented and bad is refused always.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientCertificates {
    Required(Arc<Trust>),
    Optional(Arc<Trust>),
    /// `none`: clients are not asked.
    Off,
}

impl ClientCertificates {
    /// By whom certificates are vouched for, where they are asked for.
    pub fn trust(&self) -> Option<&Arc<Trust>> {
        match self {
            ClientCertificates::Required(trust) | ClientCertificates::Optional(trust) => Some(trust),
            ClientCertificates::Off => None,
        }
    }

    /// Judges a chain (leaf first) whole, as of now; an empty one is that of a client without a certificate.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<Signature<Peer>, PeerError> {
        match (self, chain.split_first()) {
            (ClientCertificates::Off, _) | (ClientCertificates::Optional(_), None) => Ok(Signature::Absent),
            (ClientCertificates::Required(_), None) => Err(PeerError::Missing),
            (
                ClientCertificates::Required(trust) | ClientCertificates::Optional(trust),
                Some((leaf, rest)),
            ) => trust.verify(leaf, rest, Role::Client, now).map(Signature::Verified),
        }
    }
}

/// A finished handshake.
#[derive(Debug)]
pub struct Accepted<IO> {
    pub stream: TlsStream<IO>,
    pub peer: Signature<Peer>,
    pub server_name: SentServerName,
    pub alpn: Alpn,
    pub version: Option<ProtocolVersion>,
    pub resumed: bool,
}

/// The server name that the client asked for by SNI, if it did (RFC 6066 §3); lower-case, without a
/// last dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentServerName(Option<Arc<str>>);

/// Why a connection came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeFailure {
    /// A load balancer's probe, most likely: counted, not recorded.
    #[error("closed before any byte was sent")]
    Probe,
    #[error("no handshake within {} ms", .0.as_millis())]
    TimedOut(Duration),
    #[error("{error}")]
    Peer { error: PeerError, claimed: Option<Unverified> },
    #[error("the client sent plain HTTP to a TLS port")]
    PlainHttp,
    /// No shared cipher suite, not TLS at all, an alert from the client, …
    #[error("TLS: {0}")]
    Tls(rustls::Error),
    #[error("the connection broke during the handshake: {0}")]
    Io(io::Error),
}

impl ListenerTls {
    pub fn new(
        certificate: &OwnCertificate,
        clients: ClientCertificates,
        clock: Clock,
    ) -> Result<ListenerTls, rustls::Error> {
        let subjects = match &clients {
            ClientCertificates::Required(trust) | ClientCertificates::Optional(trust) => trust.subjects(),
            ClientCertificates::Off => Vec::new(),
        };
        let time = Arc::new(ClockTime(clock.clone()));
        Ok(ListenerTls {
            builder: ServerConfig::builder_with_details(provider(), time)
                .with_safe_default_protocol_versions()?,
            certificate: Arc::new(SingleCertAndKey::from(Arc::clone(&certificate.key))),
            ticket_keys: Ticketer::new()?,
            clients,
            subjects: subjects.into(),
            clock,
        })
    }

    /// Does the handshake, within `limit`.
    pub async fn accept<IO>(&self, io: IO, limit: Duration) -> Result<Accepted<IO>, HandshakeFailure>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        match tokio::time::timeout(limit, self.handshake(io)).await {
            Ok(Ok(accepted)) => Ok(accepted),
            Ok(Err((failure, io))) => {
                linger(io).await;
                Err(failure)
            }
            Err(_) => Err(HandshakeFailure::TimedOut(limit)),
        }
    }

    /// Judges again, as of now and as this configuration has it, the chain (leaf first) of a connection
    /// that was made under another one.
    pub fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<Signature<Peer>, PeerError> {
        self.clients.verify(chain, self.clock.now())
    }

    /// Until when a verified peer stays so without being asked about again: its chain ends, or a list that
    /// says that it is not revoked.
    pub fn vouched_until(&self, peer: &Peer) -> Timestamp {
        match &self.clients {
            ClientCertificates::Required(trust) | ClientCertificates::Optional(trust) => {
                trust.vouched_until(peer)
            }
            ClientCertificates::Off => Timestamp::MIN,
        }
    }

    async fn handshake<IO>(&self, mut io: IO) -> Result<Accepted<IO>, (HandshakeFailure, IO)>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let hello = match read_hello(&mut io).await {
            Ok(hello) => hello,
            Err(failure) => return Err((failure, io)),
        };
        let witness = self.witness();
        let config = self.config(witness.as_ref());
        let start = StartHandshake::from_parts(hello, io);
        let stream = match start.into_stream(config).into_fallible().await {
            Ok(stream) => stream,
            Err((error, io)) => return Err((failure(error, witness.as_deref()), io)),
        };
        match self.peer(&stream, witness.as_deref()) {
            Ok(peer) => Ok(accepted(stream, peer)),
            Err(failure) => Err((failure, stream.into_inner().0)),
        }
    }

    fn witness(&self) -> Option<Arc<Witness>> {
        let (trust, mandatory) = match &self.clients {
            ClientCertificates::Required(trust) => (trust, true),
            ClientCertificates::Optional(trust) => (trust, false),
            ClientCertificates::Off => return None,
        };
        Some(Arc::new(Witness {
            trust: Arc::clone(trust),
            subjects: Arc::clone(&self.subjects),
            mandatory,
            seen: OnceLock::new(),
        }))
    }

    /// One connection's configuration; all that lasts longer is shared.
    fn config(&self, witness: Option<&Arc<Witness>>) -> Arc<ServerConfig> {
        let builder = self.builder.clone();
        let builder = match witness {
            Some(witness) => builder.with_client_cert_verifier(witness.clone()),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(self.certificate.clone());
        config.alpn_protocols = [Alpn::Http2, Alpn::Http1].map(|it| it.as_bytes().to_vec()).into();
        // RFC 7627: without it, a client certificate under TLS 1.2 can be passed on by a third party.
        config.require_ems = true;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        // A connection begets as many as it may use up, and each costs as much as half a hot request.
        config.send_tls13_tickets = 1;
        config.ticketer = Arc::new(Tickets {
            keys: Arc::clone(&self.ticket_keys),
            clock: self.clock.clone(),
            witness: witness.cloned(),
            presented: OnceLock::new(),
        });
        Arc::new(config)
    }

    /// Who is there, asserted after every handshake, whichever way it went.
    fn peer<IO>(
        &self,
        stream: &TlsStream<IO>,
        witness: Option<&Witness>,
    ) -> Result<Signature<Peer>, HandshakeFailure> {
        let Some(witness) = witness else {
            return Ok(Signature::Absent);
        };
        let chain = stream.get_ref().1.peer_certificates().and_then(<[_]>::split_first);
        let Some((leaf, intermediates)) = chain else {
            return match witness.mandatory {
                true => Err(HandshakeFailure::Peer { error: PeerError::Missing, claimed: None }),
                false => Ok(Signature::Absent),
            };
        };
        let outcome = match witness.seen.get() {
            Some(seen) => seen.outcome.clone(),
            // Resumed: the session remembers a chain, and this is now.
            None => witness.trust.verify(leaf, intermediates, Role::Client, self.clock.now()),
        };
        outcome.map(Signature::Verified).map_err(|error| refused(error, leaf))
    }
}

fn refused(error: PeerError, leaf: &CertificateDer<'_>) -> HandshakeFailure {
    HandshakeFailure::Peer { error, claimed: Some(Unverified::read(leaf)) }
}

fn failure(error: io::Error, witness: Option<&Witness>) -> HandshakeFailure {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return HandshakeFailure::Io(error);
    };
    match (tls, witness.and_then(|it| it.seen.get())) {
        (_, Some(Seen { outcome: Err(error), leaf })) => refused(error.clone(), leaf),
        (rustls::Error::NoCertificatesPresented, _) => {
            HandshakeFailure::Peer { error: PeerError::Missing, claimed: None }
        }
        (rustls::Error::InvalidCertificate(_), Some(Seen { outcome: Ok(_), leaf })) => {
            refused(PeerError::Untrusted(Distrust::HandshakeSignature), leaf)
        }
        _ => HandshakeFailure::Tls(tls.clone()),
    }
}

fn accepted<IO>(stream: TlsStream<IO>, peer: Signature<Peer>) -> Accepted<IO> {
    let connection = stream.get_ref().1;
    let server_name = SentServerName::new(connection.server_name());
    let alpn = Alpn::from_agreed(connection.alpn_protocol());
    let version = connection.protocol_version();
    let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
    Accepted { peer, server_name, alpn, version, resumed, stream }
}

impl SentServerName {
    fn new(sent: Option<&str>) -> SentServerName {
        SentServerName(sent.map(|name| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase().into()))
    }

    pub fn as_str(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, RootCertStore};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::TlsConnector;

    use super::super::testing::{ca, leaf, trust};
    use super::*;
    use crate::tls::Fingerprint;

    #[test]
    fn a_server_name_has_one_form() {
        for (sent, name) in [
            (Some("Orders.Shop.Example."), Some("orders.shop.example")),
            (Some("orders.shop.example"), Some("orders.shop.example")),
            (None, None),
        ] {
            assert_eq!(SentServerName::new(sent).as_str(), name);
        }
    }

    /// Were a ticket to open at the wrong listener, which its own keys do not let happen.
    #[tokio::test]
    async fn a_resumed_session_is_judged_by_the_listener_it_came_to() {
        let ((issuer, root), (_, other_root)) = (ca(), ca());
        let own = OwnCertificate {
            key: Arc::new(leaf(&issuer)),
            fingerprint: Fingerprint::of([]),
            spiffe_id: None,
            not_after: Timestamp::MAX,
        };
        let anonymous = ClientCertificates::Off;
        let here = ClientCertificates::Required(trust(&root));
        let elsewhere = ClientCertificates::Required(trust(&other_root));
        let cases = [
            (false, anonymous, here.clone(), PeerError::Missing),
            (true, here, elsewhere, PeerError::Untrusted(Distrust::UnknownIssuer)),
        ];
        for (presents, first, second, expected) in cases {
            let first = ListenerTls::new(&own, first, Clock::system()).unwrap();
            let mut second = ListenerTls::new(&own, second, Clock::system()).unwrap();
            second.ticket_keys = Arc::clone(&first.ticket_keys);

            let mut roots = RootCertStore::empty();
            roots.add(root.der().clone()).unwrap();
            let mut client = ClientConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            if presents {
                client.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(leaf(&issuer)));
            }
            let connector = TlsConnector::from(Arc::new(client));
            let connect = async |listener: &ListenerTls| {
                let (near, far) = tokio::io::duplex(64 * 1024);
                let name = ServerName::try_from("localhost").unwrap();
                let client = async {
                    let mut stream = connector.connect(name, near).await.unwrap();
                    // The tickets come first.
                    _ = stream.read(&mut [0]).await;
                    stream.get_ref().1.handshake_kind()
                };
                let server = async {
                    let mut accepted = listener.accept(far, Duration::from_secs(1)).await?;
                    accepted.stream.write_all(b"k").await.map_err(HandshakeFailure::Io)?;
                    accepted.stream.flush().await.map_err(HandshakeFailure::Io)
                };
                tokio::join!(server, client)
            };
            connect(&first).await.0.unwrap();
            let (outcome, kind) = connect(&second).await;
            assert_eq!(kind, Some(HandshakeKind::Resumed));
            match outcome {
                Err(HandshakeFailure::Peer { error, .. }) => assert_eq!(error, expected),
                other => panic!("{other:?}"),
            }
        }
    }
}
