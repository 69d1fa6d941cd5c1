//! The revocation lists of a trust domain, and whose they are.

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateRevocationListDer, TrustAnchor};
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::asn1_rs::{Any, BitString, FromDer, Sequence};

use super::peer::next_update;
use super::trust::TrustError;
use super::{Fingerprint, PemSource};
use crate::clock::Timestamp;

#[derive(Debug)]
pub struct Lists {
    /// Empty if and only if none are configured.
    pub crls: Vec<CertRevocationList<'static>>,
    /// In the order of `crls`.
    issued: Vec<Issued>,
    /// The earliest `nextUpdate` among them.
    pub end: Timestamp,
    pub fingerprint: Fingerprint,
}

/// One list as it came.
#[derive(Debug)]
struct Issued {
    der: CertificateRevocationListDer<'static>,
    next_update: Timestamp,
}

impl Lists {
    pub fn none() -> Lists {
        Lists { crls: Vec::new(), issued: Vec::new(), end: Timestamp::MAX, fingerprint: Fingerprint::of([]) }
    }

    pub fn load(source: &PemSource) -> Result<Lists, TrustError> {
        let lists = source.crls()?;
        let fingerprint = Fingerprint::of(lists.iter().map(|list| list.as_ref()));
        let (mut crls, mut issued) = (Vec::new(), Vec::new());
        for der in lists {
            match (OwnedCertRevocationList::from_der(&der), next_update(&der)) {
                (Ok(crl), Some(next_update)) => {
                    crls.push(crl.into());
                    issued.push(Issued { der, next_update });
                }
                _ => return Err(TrustError::Crl(source.clone())),
            }
        }
        let end = issued.iter().map(|list| list.next_update).min().unwrap_or(Timestamp::MAX);
        Ok(Lists { crls, issued, end, fingerprint })
    }

    /// The name of each list's CA, DER without its tag, and when the next list should be there.
    pub fn ends(&self) -> impl Iterator<Item = (&[u8], Timestamp)> {
        self.crls.iter().zip(&self.issued).map(|(crl, list)| (crl.issuer(), list.next_update))
    }

    /// Until when a CA has a list that it signed itself.
    pub fn end_of(&self, ca: &TrustAnchor<'_>, algorithms: &WebPkiSupportedAlgorithms) -> Option<Timestamp> {
        let named = self.crls.iter().zip(&self.issued).filter(|(crl, _)| crl.issuer() == &*ca.subject);
        let signed = named.filter(|(_, list)| is_signed(&list.der, ca, algorithms).unwrap_or(false));
        signed.map(|(_, list)| list.next_update).max()
    }
}

/// Whether a list has the signature of this CA's key (RFC 5280 §5.1.1); `None` if it does not parse.
fn is_signed(list: &[u8], ca: &TrustAnchor<'_>, algorithms: &WebPkiSupportedAlgorithms) -> Option<bool> {
    let (_, list) = Sequence::from_der(list).ok()?;
    let (rest, _) = Any::from_der(&list.content).ok()?;
    let told = list.content.get(..list.content.len() - rest.len())?;
    let (rest, signed_by) = Any::from_der(rest).ok()?;
    let (_, signature) = BitString::from_der(rest).ok()?;
    let (rest, kind) = Any::from_der(&ca.subject_public_key_info).ok()?;
    let (_, key) = BitString::from_der(rest).ok()?;
    let mut fitting = algorithms.all.iter().filter(|algorithm| {
        algorithm.public_key_alg_id().as_ref() == kind.data
            && algorithm.signature_alg_id().as_ref() == signed_by.data
    });
    Some(fitting.any(|algorithm| algorithm.verify_signature(&key.data, told, &signature.data).is_ok()))
}
