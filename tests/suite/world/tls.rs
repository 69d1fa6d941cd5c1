//! Handshakes without a world around them: between the listener under test and rustls as its client, over
//! an in-memory pipe. Time stands still at [`now`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign::cli::mint::{Authority, LeafSpec, Minted, Validity};
use countersign::clock::{Clock, Timestamp};
use countersign::identity::{Peer, Signature};
use countersign::tls::{
    Accepted, CertificateSettings, ClientCertificates, HandshakeFailure, ListenerTls, OwnCertificate,
    PeerError, PemSource, Trust, TrustDomainSettings,
};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{AlertDescription, ClientConfig, ClientConnection, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::TlsConnector;

use super::certificates::{Certificates, PARTNER_DOMAIN, TRUST_DOMAIN, parsed, store};

pub const GOOD: &str = "spiffe://shop.example/ns/prod/sa/storefront";
const LIMIT: Duration = Duration::from_secs(10);
const PIPE_BYTES: usize = 64 * 1024;

pub struct Tls {
    pub dir: tempfile::TempDir,
    pub clock: Clock,
    /// The CA of `shop.example`.
    pub shop: Authority,
    /// The CA of `partner.example`.
    pub partner: Authority,
    /// A CA that nobody configured.
    pub stranger: Authority,
    server: Minted,
}

pub const BAD_CERTIFICATE: ClientSaw = ClientSaw::Alert(AlertDescription::BadCertificate);
pub const UNKNOWN_CA: ClientSaw = ClientSaw::Alert(AlertDescription::UnknownCA);
pub const EXPIRED: ClientSaw = ClientSaw::Alert(AlertDescription::CertificateExpired);
pub const REVOKED: ClientSaw = ClientSaw::Alert(AlertDescription::CertificateRevoked);
pub const ACCESS_DENIED: ClientSaw = ClientSaw::Alert(AlertDescription::AccessDenied);
pub const UNSUPPORTED: ClientSaw = ClientSaw::Alert(AlertDescription::UnsupportedCertificate);
pub const REQUIRED: ClientSaw = ClientSaw::Alert(AlertDescription::CertificateRequired);

/// What a client saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientSaw {
    /// The server's first byte.
    Answer {
        resumed: bool,
    },
    Alert(AlertDescription),
    Closed,
    Other(String),
}

pub fn now() -> Timestamp {
    "2027-01-15T12:00:00Z".parse().unwrap()
}

pub fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

/// From a day ago for a day.
pub fn valid() -> Validity {
    Validity { from: now().minus(hours(24)), to: now().plus(hours(24)) }
}

/// rustls as the client looks at the machine's clock.
pub fn always() -> Validity {
    Validity { from: "2020-01-01T00:00:00Z".parse().unwrap(), to: "2090-01-01T00:00:00Z".parse().unwrap() }
}

pub fn good() -> LeafSpec {
    LeafSpec::workload(GOOD, valid())
}

impl Tls {
    pub fn new() -> Tls {
        let certificates = Certificates::valid(always());
        let server = certificates.server("orders");
        let Certificates { shop, partner, stranger, .. } = certificates;
        let dir = tempfile::tempdir().unwrap();
        Tls { dir, clock: Clock::manual(now()), shop, partner, stranger, server }
    }

    pub fn file(&self, name: &str, text: &str) -> PemSource {
        let path: PathBuf = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        PemSource::File(path)
    }

    pub fn domain(&self, name: &str, ca: &str) -> TrustDomainSettings {
        TrustDomainSettings {
            name: name.parse().unwrap(),
            ca: Some(self.file(&format!("{name}-ca.pem"), ca)),
            crl: None,
            allow_dns_names: false,
        }
    }

    pub fn domains(&self) -> Vec<TrustDomainSettings> {
        vec![self.domain(TRUST_DOMAIN, &self.shop.pem()), self.domain(PARTNER_DOMAIN, &self.partner.pem())]
    }

    pub fn trust(&self) -> Arc<Trust> {
        Arc::new(Trust::load(&self.domains()).unwrap())
    }

    /// Trust in which `shop.example` has this revocation list.
    pub fn trust_with_crl(&self, crl: &str) -> Arc<Trust> {
        let mut domains = self.domains();
        domains[0].crl = Some(self.file("shop.crl", crl));
        Arc::new(Trust::load(&domains).unwrap())
    }

    pub fn own(&self, minted: &Minted) -> OwnCertificate {
        let settings = CertificateSettings {
            certificate: self.file("own.pem", &minted.chain),
            private_key: self.file("own-key.pem", &minted.key),
            passphrase: None,
        };
        OwnCertificate::load(&settings, self.clock.now()).unwrap()
    }

    pub fn listener(&self, clients: ClientCertificates) -> ListenerTls {
        ListenerTls::new(&self.own(&self.server), clients, self.clock.clone()).unwrap()
    }

    pub fn required(&self) -> ListenerTls {
        self.listener(ClientCertificates::Required(self.trust()))
    }

    /// A client that trusts our server certificate and presents `own`, if any. It does not resume.
    pub fn client(&self, own: Option<&Minted>) -> ClientConfig {
        self.client_of(own, rustls::ALL_VERSIONS)
    }

    pub fn client_of(
        &self,
        own: Option<&Minted>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ClientConfig {
        self.client_with(own, versions, aws_lc_rs::default_provider())
    }

    pub fn client_with(
        &self,
        own: Option<&Minted>,
        versions: &[&'static SupportedProtocolVersion],
        provider: CryptoProvider,
    ) -> ClientConfig {
        let mut config = ClientConfig::builder_with_provider(provider.into())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(store(&[&self.shop]))
            .with_no_client_auth();
        if let Some(minted) = own {
            config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(pair(minted)));
        }
        config.resumption = Resumption::disabled();
        config
    }
}

/// Certificate and key, fitting or not: rustls's own loader would refuse what the listener is to
/// refuse.
pub fn pair(minted: &Minted) -> CertifiedKey {
    let (chain, key) = parsed(minted);
    CertifiedKey::new(chain, aws_lc_rs::default_provider().key_provider.load_private_key(key).unwrap())
}

/// The first that a client sends to a server of this name.
pub fn hello(client: &Arc<ClientConfig>, name: &'static str) -> Vec<u8> {
    let name = ServerName::try_from(name).unwrap();
    let mut connection = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut hello = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut hello).unwrap();
    }
    hello
}

/// One connection: the listener answers with one byte if it accepts.
pub async fn connect(
    listener: &ListenerTls,
    client: &Arc<ClientConfig>,
) -> (Result<Accepted<DuplexStream>, HandshakeFailure>, ClientSaw) {
    connect_to(listener, client, "localhost").await
}

/// The same to a server of this name.
pub async fn connect_to(
    listener: &ListenerTls,
    client: &Arc<ClientConfig>,
    name: &'static str,
) -> (Result<Accepted<DuplexStream>, HandshakeFailure>, ClientSaw) {
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let server = async {
        let mut accepted = listener.accept(far, LIMIT).await?;
        accepted.stream.write_all(b"k").await.unwrap();
        accepted.stream.flush().await.unwrap();
        Ok(accepted)
    };
    tokio::join!(server, watch(near, client, name))
}

async fn watch(near: DuplexStream, client: &Arc<ClientConfig>, name: &'static str) -> ClientSaw {
    let name = ServerName::try_from(name).unwrap();
    let mut stream = match TlsConnector::from(client.clone()).connect(name, near).await {
        Ok(stream) => stream,
        Err(error) => return saw(&error),
    };
    let mut answer = [0];
    match stream.read(&mut answer).await {
        Ok(0) => ClientSaw::Closed,
        Ok(_) => ClientSaw::Answer {
            resumed: stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
        },
        Err(error) => saw(&error),
    }
}

fn saw(error: &std::io::Error) -> ClientSaw {
    match error.get_ref().and_then(|it| it.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(alert)) => ClientSaw::Alert(*alert),
        _ if error.kind() == std::io::ErrorKind::UnexpectedEof => ClientSaw::Closed,
        _ => ClientSaw::Other(error.to_string()),
    }
}

/// The peer error of a refused handshake, and what the client saw; panics if it was accepted.
pub async fn refused(listener: &ListenerTls, own: Option<&Minted>, tls: &Tls) -> (PeerError, ClientSaw) {
    let mut seen = Vec::new();
    for version in rustls::ALL_VERSIONS {
        let client = Arc::new(tls.client_of(own, &[version]));
        let (outcome, saw) = connect(listener, &client).await;
        match outcome {
            Err(HandshakeFailure::Peer { error, claimed }) => {
                assert_eq!(claimed.is_some(), own.is_some());
                seen.push((error, saw));
            }
            Err(other) => panic!("{:?}: {other:?}", version.version),
            Ok(_) => panic!("{:?}: accepted", version.version),
        }
    }
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0], seen[1], "TLS 1.2 and 1.3 disagree");
    seen.remove(0)
}

/// The peer of an accepted handshake.
pub async fn admitted(listener: &ListenerTls, tls: &Tls, own: &Minted) -> Arc<Peer> {
    let (outcome, saw) = connect(listener, &Arc::new(tls.client(Some(own)))).await;
    assert_eq!(saw, ClientSaw::Answer { resumed: false });
    match outcome.unwrap().peer {
        Signature::Verified(peer) => peer,
        Signature::Absent => panic!("no peer"),
    }
}
