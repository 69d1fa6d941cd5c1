//! Our own certificate and key: what we present to clients and to upstreams.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::peer::{Leaf, LeafName, certificate_hash, validity};
use super::{Fingerprint, PemError, PemSource, provider};
use crate::clock::Timestamp;
use crate::identity::{CertificateHash, Hop, Peer, PeerName, SpiffeId};

/// Where our certificate chain (leaf first) and its private key stand.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateSettings {
    pub certificate: PemSource,
    pub private_key: PemSource,
    /// Where the passphrase of the private key stands, if it has one.
    pub passphrase: Option<PemSource>,
}

/// A certificate chain with the key that fits it. Equal where chain and key are.
#[derive(Clone, Debug)]
pub struct OwnCertificate {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) fingerprint: Fingerprint,
    /// Whom it names, where it is an X.509-SVID.
    pub spiffe_id: Option<SpiffeId>,
    /// The earliest not-after of the chain.
    pub not_after: Timestamp,
}

/// What we present, as far as it is known.
#[derive(Clone, Debug, PartialEq)]
pub enum Own {
    Known(OwnCertificate),
    /// The source of service identity gives it, and has not done so yet.
    Awaited,
}

/// Why our own certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OwnCertificateError {
    #[error(transparent)]
    Pem(#[from] PemError),
    #[error("{0} holds a certificate that does not parse")]
    Certificate(PemSource),
    #[error("{0} holds a private key of a kind that is not supported: {1}")]
    Key(PemSource, String),
    #[error(
        "the private key in {private_key} does not fit the first certificate in {certificate}; the leaf certificate comes first"
    )]
    Mismatch { certificate: PemSource, private_key: PemSource },
    #[error("the certificate in {0} expired at {1}")]
    Expired(PemSource, Timestamp),
    #[error("the certificate in {0} is not valid before {1}")]
    NotYetValid(PemSource, Timestamp),
}

/// Why a certificate chain and a key cannot be used, wherever they come from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("a certificate of ours does not parse")]
    Certificate,
    #[error("our private key is of a kind that is not supported: {0}")]
    Key(String),
    #[error("our private key does not fit our certificate")]
    Mismatch,
    #[error("our certificate expired at {0}")]
    Expired(Timestamp),
    #[error("our certificate is not valid before {0}")]
    NotYetValid(Timestamp),
}

impl OwnCertificate {
    pub fn load(
        settings: &CertificateSettings,
        now: Timestamp,
    ) -> Result<OwnCertificate, OwnCertificateError> {
        let CertificateSettings { certificate, private_key, passphrase } = settings;
        let (chain, key) = (certificate.certificates()?, private_key.private_key(passphrase.as_ref())?);
        OwnCertificate::new(chain, key, now).map_err(|error| match error {
            Unusable::Certificate => OwnCertificateError::Certificate(certificate.clone()),
            Unusable::Key(why) => OwnCertificateError::Key(private_key.clone(), why),
            Unusable::Mismatch => OwnCertificateError::Mismatch {
                certificate: certificate.clone(),
                private_key: private_key.clone(),
            },
            Unusable::Expired(at) => OwnCertificateError::Expired(certificate.clone(), at),
            Unusable::NotYetValid(at) => OwnCertificateError::NotYetValid(certificate.clone(), at),
        })
    }

    /// The chain has its leaf first; an empty one is of no use.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        now: Timestamp,
    ) -> Result<OwnCertificate, Unusable> {
        let mut not_after = Timestamp::MAX;
        for certificate in &chain {
            let validity = validity(certificate).ok_or(Unusable::Certificate)?;
            if now < validity.not_before {
                return Err(Unusable::NotYetValid(validity.not_before));
            }
            not_after = not_after.min(validity.not_after);
        }
        if not_after <= now {
            return Err(Unusable::Expired(not_after));
        }
        let spiffe_id = match chain.first().map(|leaf| Leaf::read(leaf)) {
            Some(Ok(Leaf { name: LeafName::Spiffe(id), .. })) => Some(id),
            _ => None,
        };
        let parts = chain.iter().map(|it| it.as_ref()).chain([key.secret_der()]);
        let fingerprint = Fingerprint::of(parts);
        let signing = provider().key_provider.load_private_key(key);
        let signing = signing.map_err(|error| Unusable::Key(error.to_string()))?;
        let key = CertifiedKey::new(chain, signing);
        key.keys_match().map_err(|_| Unusable::Mismatch)?;
        Ok(OwnCertificate { key: Arc::new(key), fingerprint, spiffe_id, not_after })
    }
}

impl Own {
    pub fn known(&self) -> Option<&OwnCertificate> {
        match self {
            Own::Known(own) => Some(own),
            Own::Awaited => None,
        }
    }
}

impl OwnCertificate {
    /// Ourselves, as a peer would know us by it: whom requests of the local application come from.
    pub fn as_local_peer(&self) -> Option<Peer> {
        Some(Peer {
            name: PeerName::Spiffe(self.spiffe_id.clone()?),
            certificate: self.hash(),
            not_after: self.not_after,
            hop: Hop::Local,
        })
    }

    /// Of the leaf.
    pub fn hash(&self) -> CertificateHash {
        certificate_hash(self.key.end_entity_cert().map_or(&[], |leaf| leaf.as_ref()))
    }
}

impl PartialEq for OwnCertificate {
    fn eq(&self, other: &OwnCertificate) -> bool {
        self.fingerprint == other.fingerprint
    }
}
