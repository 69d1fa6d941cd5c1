//! What a listener presents, whoever vouches for it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use countersign::cli::mint::Minted;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::certificates::parsed;
use super::proxy::HOST;
use super::soon;

/// Waits until new connections are shown this certificate.
pub async fn in_force(address: SocketAddr, own: &Minted) {
    let issued = parsed(own).0;
    let shown = async { while presented(address).await.as_ref() != issued.first() {} };
    soon("the certificate in force", shown).await;
}

/// What a new connection is shown.
pub async fn presented(address: SocketAddr) -> Option<CertificateDer<'static>> {
    let seen = Arc::new(Seen::default());
    let builder = ClientConfig::builder().dangerous().with_custom_certificate_verifier(seen.clone());
    let connector = TlsConnector::from(Arc::new(builder.with_no_client_auth()));
    let stream = TcpStream::connect(address).await.unwrap();
    let _ = soon("a handshake", connector.connect(ServerName::try_from(HOST).unwrap(), stream)).await;
    seen.0.lock().unwrap().take()
}

/// Notes the certificate that it is to verify, and refuses it.
#[derive(Debug, Default)]
struct Seen(Mutex<Option<CertificateDer<'static>>>);

fn refused<T>() -> Result<T, Error> {
    Err(Error::General("seen".to_owned()))
}

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.0.lock().unwrap() = Some(end_entity.clone().into_owned());
        refused()
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        refused()
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        refused()
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
