//! One trust domain: its CAs, its revocation lists, and how a chain is judged by them alone.

use std::sync::Arc;

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};

use super::lists::Lists;
use super::peer::{
    Distrust, LeafName, MalformedCertificate, OutOfDate, PeerError, Revocation, Validity, may_issue, validity,
};
use super::trust::{Role, TrustDomainSettings, TrustError};
use super::{Fingerprint, PemSource, timestamp, unix_time};
use crate::clock::Timestamp;
use crate::identity::TrustDomain;

#[derive(Clone, Debug)]
pub struct Domain {
    pub name: TrustDomain,
    /// Without any it vouches for nobody.
    pub cas: Result<Cas, NoCas>,
    /// Its CAs come from the source of service identity.
    pub is_issued: bool,
    pub lists: Arc<Lists>,
    /// A certificate without any URI SAN is named by its DNS SANs.
    pub allow_dns_names: bool,
}

/// The CAs of a trust domain.
#[derive(Clone, Debug)]
pub struct Cas {
    pub anchors: Vec<TrustAnchor<'static>>,
    /// In the order of `anchors`. A renewed CA keeps name and key; the one that lasts longest counts.
    ends: Vec<Timestamp>,
    fingerprint: Fingerprint,
}

/// Why a certificate cannot be a trust domain's CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCa {
    #[error("a certificate that does not parse")]
    Certificate,
    #[error("a certificate that is not a CA's")]
    NotACa,
}

/// Why a source's CAs of a trust domain cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBundle {
    #[error("no CA at all")]
    Empty,
    #[error("certificates that are no DER")]
    Der,
    #[error("{0}")]
    Ca(#[from] BadCa),
}

/// Why a trust domain has no CAs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoCas {
    #[error("the source of service identity gives none")]
    NotGiven,
    #[error("the source of service identity gives {0}")]
    Bad(BadBundle),
    #[error("a CA key of it stands in trust domain `{0}` too, and a CA speaks for one trust domain only")]
    Shared(TrustDomain),
}

impl BadCa {
    pub fn of(self, source: PemSource) -> TrustError {
        match self {
            BadCa::Certificate => TrustError::Certificate(source),
            BadCa::NotACa => TrustError::NotACa(source),
        }
    }
}

impl Cas {
    /// As a source gives them, which cannot mean to give none.
    pub fn issued(certificates: &[CertificateDer<'_>]) -> Result<Cas, BadBundle> {
        if certificates.is_empty() { Err(BadBundle::Empty) } else { Ok(Cas::new(certificates)?) }
    }

    pub fn new(certificates: &[CertificateDer<'_>]) -> Result<Cas, BadCa> {
        let fingerprint = Fingerprint::of(certificates.iter().map(|certificate| certificate.as_ref()));
        let (mut anchors, mut not_after) = (Vec::<TrustAnchor<'static>>::new(), Vec::new());
        for certificate in certificates {
            let anchor = webpki::anchor_from_trusted_cert(certificate).map_err(|_| BadCa::Certificate)?;
            let validity = validity(certificate).ok_or(BadCa::Certificate)?;
            if !may_issue(certificate) {
                return Err(BadCa::NotACa);
            }
            anchors.push(anchor.to_owned());
            not_after.push(validity.not_after);
        }
        let end = |anchor| {
            let same = anchors.iter().zip(&not_after).filter(|(other, _)| *other == anchor);
            same.map(|(_, not_after)| *not_after).max().unwrap_or(Timestamp::MIN)
        };
        let ends = anchors.iter().map(end).collect();
        Ok(Cas { anchors, ends, fingerprint })
    }

    pub fn count(&self) -> usize {
        self.anchors.len()
    }

    /// When the last of them ends, from which on nobody is vouched for.
    pub fn last_end(&self) -> Timestamp {
        self.ends.iter().copied().max().unwrap_or(Timestamp::MIN)
    }

    /// When the first of those ends that have not ended yet; the last end where all have.
    pub fn next_end(&self, now: Timestamp) -> Timestamp {
        self.ends.iter().copied().filter(|end| now < *end).min().unwrap_or_else(|| self.last_end())
    }

    /// Each with its end.
    pub fn ends(&self) -> impl Iterator<Item = (&TrustAnchor<'static>, Timestamp)> {
        self.anchors.iter().zip(self.ends.iter().copied())
    }
}

/// Equal where the certificates are.
impl PartialEq for Cas {
    fn eq(&self, other: &Cas) -> bool {
        self.fingerprint == other.fingerprint
    }
}

/// One chain, put to one trust domain after another.
pub struct Question<'a> {
    pub end_entity: &'a CertificateDer<'a>,
    pub intermediates: &'a [CertificateDer<'a>],
    /// Of the end entity.
    pub validity: Validity,
    pub role: Role,
    pub now: Timestamp,
    pub algorithms: &'a WebPkiSupportedAlgorithms,
}

impl Question<'_> {
    /// No CA of the claimed trust domain vouches for the chain: does one of another?
    pub fn who_vouches(&self, name: &LeafName, others: &[&Domain]) -> PeerError {
        for domain in others {
            match (domain.judge(self), name) {
                (Err(PeerError::Untrusted(Distrust::UnknownIssuer)), _) => {}
                (Ok(_) | Err(PeerError::Revoked(_)), LeafName::Spiffe(id)) => {
                    let claimed = id.trust_domain().clone();
                    return PeerError::WrongTrustDomain { claimed, vouching: domain.name.clone() };
                }
                // A CA whose trust domain knows no DNS names vouches for one.
                (Ok(_), LeafName::Dns(_)) => return MalformedCertificate::NoSpiffeId.into(),
                (Err(error), _) => return error,
            }
        }
        PeerError::Untrusted(Distrust::UnknownIssuer)
    }
}

impl Domain {
    /// The trust domain, without the CAs that its source has yet to give where the settings name none.
    pub fn load(settings: &TrustDomainSettings) -> Result<Domain, TrustError> {
        let cas = match &settings.ca {
            Some(source) => Ok(Cas::new(&source.certificates()?).map_err(|fault| fault.of(source.clone()))?),
            None => Err(NoCas::NotGiven),
        };
        let lists = match &settings.crl {
            Some(source) => Lists::load(source)?,
            None => Lists::none(),
        };
        Ok(Domain {
            name: settings.name.clone(),
            cas,
            is_issued: settings.ca.is_none(),
            lists: Arc::new(lists),
            allow_dns_names: settings.allow_dns_names,
        })
    }

    /// The same with what a source gives in the place of its CAs.
    pub fn issued(&self, given: Option<&Result<Cas, BadBundle>>) -> Domain {
        let cas = match given {
            Some(given) => given.clone().map_err(NoCas::Bad),
            None => Err(NoCas::NotGiven),
        };
        Domain { cas, ..self.clone() }
    }

    pub fn anchors(&self) -> &[TrustAnchor<'static>] {
        self.cas.as_ref().map_or(&[], |cas| &cas.anchors)
    }

    pub fn fingerprint(&self) -> Fingerprint {
        let named: &[u8] = if self.allow_dns_names { b"dns" } else { b"spiffe" };
        let cas = match &self.cas {
            Ok(cas) => cas.fingerprint,
            Err(why) => Fingerprint::of([why.to_string().as_bytes()]),
        };
        let parts = [cas.as_bytes(), self.lists.fingerprint.as_bytes()];
        Fingerprint::of([self.name.as_str().as_bytes(), named].into_iter().chain(parts))
    }

    /// The earliest not-after of the path that verifies.
    pub fn judge(&self, question: &Question<'_>) -> Result<Timestamp, PeerError> {
        let error = match self.find_path(question, question.now, &self.lists.crls) {
            Ok(not_after) if question.now < not_after => return Ok(not_after),
            Ok(not_after) => return Err(PeerError::Expired(OutOfDate::Expired(not_after))),
            Err(error) => error,
        };
        // webpki looks at the time first. To call a stranger's certificate merely out of date would
        // hide what is wrong with it, so who issued it is asked at a moment when it was valid.
        if matches!(error, PeerError::Expired(_)) {
            let Validity { not_before, not_after } = question.validity;
            let valid_then = question.now.max(not_before).min(not_after);
            if let Err(untrusted @ PeerError::Untrusted(_)) = self.find_path(question, valid_then, &[]) {
                return Err(untrusted);
            }
        }
        Err(error)
    }

    fn find_path(
        &self,
        question: &Question<'_>,
        at: Timestamp,
        crls: &[CertRevocationList<'static>],
    ) -> Result<Timestamp, PeerError> {
        let end_entity = EndEntityCert::try_from(question.end_entity).map_err(refusal)?;
        let usage = match question.role {
            Role::Client => KeyUsage::client_auth(),
            Role::Server => KeyUsage::server_auth(),
        };
        let crls: Vec<&CertRevocationList<'_>> = crls.iter().collect();
        // `new` fails on an empty list alone: nothing is configured, nothing is checked.
        let revocation = RevocationOptionsBuilder::new(&crls).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        let path = end_entity
            .verify_for_usage(
                question.algorithms.all,
                self.anchors(),
                question.intermediates,
                unix_time(at),
                usage,
                revocation,
                None,
            )
            .map_err(refusal)?;
        if !path.intermediate_certificates().all(|ca| may_issue(&ca.der())) {
            return Err(PeerError::Untrusted(Distrust::Chain));
        }
        Ok(self.earliest_not_after(&path, question.validity))
    }

    fn earliest_not_after(&self, path: &VerifiedPath<'_>, leaf: Validity) -> Timestamp {
        let end_of = |der: &CertificateDer<'_>| validity(der).map_or(Timestamp::MIN, |it| it.not_after);
        let intermediates = path.intermediate_certificates().map(|it| end_of(&it.der())).min();
        let mut cas = self.cas.iter().flat_map(Cas::ends);
        let anchor = cas.find(|(anchor, _)| *anchor == path.anchor()).map(|(_, end)| end);
        leaf.not_after.min(intermediates.unwrap_or(Timestamp::MAX)).min(anchor.unwrap_or(Timestamp::MIN))
    }
}

/// What webpki found, in the words of the closed list of reasons.
fn refusal(error: webpki::Error) -> PeerError {
    use webpki::Error::*;
    match error {
        BadDer
        | BadDerTime
        | TrailingData(_)
        | ExtensionValueInvalid
        | MalformedExtensions
        | InvalidSerialNumber
        | UnsupportedCertVersion
        | InvalidCertValidity => MalformedCertificate::Encoding.into(),
        UnsupportedCriticalExtension => MalformedCertificate::CriticalExtension.into(),
        CaUsedAsEndEntity => MalformedCertificate::Ca.into(),
        RequiredEkuNotFoundContext(_) | EmptyEkuExtension => MalformedCertificate::ExtendedKeyUsage.into(),
        CertExpired { not_after, .. } => PeerError::Expired(OutOfDate::Expired(timestamp(not_after))),
        CertNotValidYet { not_before, .. } => {
            PeerError::Expired(OutOfDate::NotYetValid(timestamp(not_before)))
        }
        CertRevoked => PeerError::Revoked(Revocation::Revoked),
        CrlExpired { next_update, .. } => PeerError::Revoked(Revocation::ListExpired(timestamp(next_update))),
        UnknownRevocationStatus | IssuerNotCrlSigner | InvalidCrlSignatureForPublicKey => {
            PeerError::Revoked(Revocation::NoList)
        }
        // A CA of the same name with another key is another CA.
        UnknownIssuer | InvalidSignatureForPublicKey => PeerError::Untrusted(Distrust::UnknownIssuer),
        NameConstraintViolation | MalformedNameConstraint | InvalidNetworkMaskConstraint => {
            PeerError::Untrusted(Distrust::NameConstraints)
        }
        PathLenConstraintViolated => PeerError::Untrusted(Distrust::PathLength),
        UnsupportedSignatureAlgorithmContext(_)
        | UnsupportedSignatureAlgorithmForPublicKeyContext(_)
        | SignatureAlgorithmMismatch => PeerError::Untrusted(Distrust::Algorithm),
        MaximumNameConstraintComparisonsExceeded
        | MaximumPathBuildCallsExceeded
        | MaximumPathDepthExceeded
        | MaximumSignatureChecksExceeded => PeerError::Untrusted(Distrust::TooComplex),
        _ => PeerError::Untrusted(Distrust::Chain),
    }
}
