//! The step inside a handshake at which the peer's certificate is judged.
//!
//! rustls tells a server why a handshake failed by a closed enum that picks the alert, and has no
//! room for what the certificate claimed. So each connection has a [`Witness`] of its own: it answers
//! rustls with the error that gives the client the most telling alert, and keeps the whole reason,
//! or the verified peer, for us. A `CertificateError::Other` with our error inside would carry the
//! reason too, but every alert would then be `certificate_unknown`.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};

use super::peer::{MalformedCertificate, PeerError};
use super::timestamp;
use super::trust::{Role, Trust};
use crate::clock::Timestamp;
use crate::identity::Peer;

/// Judges the client certificate of one connection and remembers the outcome.
#[derive(Debug)]
pub(super) struct Witness {
    pub trust: Arc<Trust>,
    pub subjects: Arc<[DistinguishedName]>,
    pub mandatory: bool,
    /// Set once the client showed a certificate in this handshake. Empty on a resumed session.
    pub seen: OnceLock<Seen>,
}

/// A certificate that was shown, and what became of it.
#[derive(Debug)]
pub(super) struct Seen {
    pub leaf: CertificateDer<'static>,
    /// Verified but for the handshake's signature, which rustls checks next.
    pub outcome: Result<Arc<Peer>, PeerError>,
}

impl Witness {
    /// From when on the peer that was verified in this handshake would be refused.
    pub fn peer_ends(&self) -> Option<Timestamp> {
        let peer = self.seen.get()?.outcome.as_ref().ok()?;
        Some(self.trust.vouched_until(peer))
    }
}

impl ClientCertVerifier for Witness {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let now = timestamp(now);
        let outcome = self.trust.verify(end_entity, intermediates, Role::Client, now);
        let answer = match &outcome {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(error) => Err(alerting(error).into()),
        };
        let leaf = end_entity.clone().into_owned();
        match self.seen.set(Seen { leaf, outcome }) {
            Ok(()) => answer,
            Err(_) => Err(rustls::Error::General("a second certificate in one handshake".into())),
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

/// The rustls error that makes the alert of RFC 8446 §6.2 which says most about this refusal.
pub(super) fn alerting(error: &PeerError) -> CertificateError {
    match error {
        // unsupported_certificate
        PeerError::Malformed(MalformedCertificate::ExtendedKeyUsage) => CertificateError::InvalidPurpose,
        // bad_certificate
        PeerError::Missing | PeerError::Awaited | PeerError::Malformed(_) => CertificateError::BadEncoding,
        // unknown_ca
        PeerError::Untrusted(_) => CertificateError::UnknownIssuer,
        // certificate_expired
        PeerError::Expired(_) => CertificateError::Expired,
        // access_denied
        PeerError::WrongTrustDomain { .. } => CertificateError::ApplicationVerificationFailure,
        // certificate_revoked
        PeerError::Revoked(_) => CertificateError::Revoked,
    }
}
