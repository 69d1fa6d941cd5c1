//! Our end of a TLS connection to an upstream or an issuer.
//!
//! The server is always verified: by DNS name under public or given CAs, or by SPIFFE ID under its
//! trust domain's CAs. Sessions are not resumed, so each connection judges anew.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
};

use super::peer::PeerError;
use super::trust::{Role, Trust};
use super::{Alpn, ClockTime, OwnCertificate, Roots, provider, timestamp};
use crate::clock::{Clock, Timestamp};
use crate::identity::{Peer, PeerName, SpiffePattern};

/// Whom we expect at the other end.
#[derive(Clone, Debug, PartialEq)]
pub enum ExpectedServer {
    /// Whoever one of these CAs, and no other, vouches for under the DNS name dialled. `None`: those of the
    /// operating system's store.
    Named(Option<Roots>),
    /// A workload: an X.509-SVID that one of the patterns matches. The name dialled proves nothing.
    Workload { trust: Arc<Trust>, spiffe_ids: Vec<SpiffePattern> },
}

/// Why no connection can be configured.
#[derive(Debug, thiserror::Error)]
pub enum ClientTlsError {
    #[error("the operating system has no CA certificates; give a `ca` file")]
    NoSystemCa,
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Why a server is not the workload we expect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongServer {
    #[error("the server is not verified: {0}")]
    Peer(#[from] PeerError),
    #[error("the server is `{0}`, which is not expected there")]
    Unexpected(PeerName),
    #[error("the server is not verified: {0}")]
    Named(String),
}

/// By what servers are judged.
#[derive(Clone, Debug)]
pub(super) enum Judge {
    Roots(Arc<RootCertStore>),
    Workload(Arc<WorkloadVerifier>),
}

/// Configures connections to one server. `own` is presented where the server asks for a certificate;
/// give it only to servers that are meant to see it.
pub fn client_config(
    server: &ExpectedServer,
    own: Option<&OwnCertificate>,
    alpn: &[Alpn],
    clock: &Clock,
) -> Result<Arc<ClientConfig>, ClientTlsError> {
    Judge::of(server)?.config(own, alpn, clock)
}

impl Judge {
    pub(super) fn of(server: &ExpectedServer) -> Result<Judge, ClientTlsError> {
        Ok(match server {
            ExpectedServer::Named(roots) => {
                let roots = roots.clone().or_else(Roots::system).ok_or(ClientTlsError::NoSystemCa)?;
                Judge::Roots(Arc::clone(roots.store()))
            }
            ExpectedServer::Workload { trust, spiffe_ids } => {
                let (trust, spiffe_ids) = (Arc::clone(trust), spiffe_ids.clone());
                Judge::Workload(Arc::new(WorkloadVerifier { trust, spiffe_ids }))
            }
        })
    }

    pub(super) fn config(
        &self,
        own: Option<&OwnCertificate>,
        alpn: &[Alpn],
        clock: &Clock,
    ) -> Result<Arc<ClientConfig>, ClientTlsError> {
        let builder = ClientConfig::builder_with_details(provider(), Arc::new(ClockTime(clock.clone())))
            .with_safe_default_protocol_versions()?;
        let builder = match self {
            Judge::Roots(roots) => builder.with_root_certificates(Arc::clone(roots)),
            Judge::Workload(verifier) => {
                // Not a loosening: rustls has no verifier that knows SPIFFE IDs.
                let verifier: Arc<dyn ServerCertVerifier> = Arc::<WorkloadVerifier>::clone(verifier);
                builder.dangerous().with_custom_certificate_verifier(verifier)
            }
        };
        let mut config = match own {
            Some(own) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&own.key))))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|it| it.as_bytes().to_vec()).collect();
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

/// A TLS error in words. What our own verifier said of a server, rustls shows in the form for debugging only.
pub fn in_words(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(ours))) => ours.to_string(),
        other => other.to_string(),
    }
}

#[derive(Debug)]
pub(super) struct WorkloadVerifier {
    pub(super) trust: Arc<Trust>,
    spiffe_ids: Vec<SpiffePattern>,
}

impl WorkloadVerifier {
    pub(super) fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Result<Arc<Peer>, WrongServer> {
        let peer = self.trust.verify(end_entity, intermediates, Role::Server, now)?;
        match &peer.name {
            PeerName::Spiffe(id) if self.spiffe_ids.iter().any(|it| it.matches(id)) => Ok(peer),
            PeerName::Spiffe(_) | PeerName::Dns { .. } => Err(WrongServer::Unexpected(peer.name.clone())),
        }
    }
}

impl ServerCertVerifier for WorkloadVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.judge(end_entity, intermediates, timestamp(now)) {
            Ok(_) => Ok(ServerCertVerified::assertion()),
            Err(wrong) => Err(CertificateError::Other(OtherError(Arc::new(wrong))).into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, self.trust.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, self.trust.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms().supported_schemes()
    }
}
