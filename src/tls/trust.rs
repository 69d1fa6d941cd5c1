//! Which CAs vouch for which workloads.
//!
//! A certificate is asked first which trust domain it claims, and then judged by the CAs of that
//! domain alone. A CA key stands in one trust domain only. With a revocation list configured, each
//! CA of a chain but the root needs one that is valid now; silence refuses (X.509-SVID §5,
//! RFC 5280 §6.3).
//!
//! webpki builds and verifies the paths. It is called directly rather than through rustls's verifier
//! because that one does not say which path it found, and a peer lives no longer than the shortest
//! certificate *of its path*: a client may send others along, which prove and harm nothing.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::DistinguishedName;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};

use super::peer::{
    Distrust, Leaf, LeafName, MalformedCertificate, OutOfDate, PeerError, Revocation, Validity,
    certificate_hash, may_issue, next_update, validity,
};
use super::vouched::{self, Found, Vouched};
use super::{Fingerprint, PemError, PemSource, provider, timestamp, unix_time};
use crate::clock::Timestamp;
use crate::identity::{Hop, Peer, PeerName, TrustDomain};

/// Certificates sent along with a leaf. A search for a path may try them in every order, before anybody is
/// known: ten of one name cost a hundred times what five do.
const INTERMEDIATES_MAX: usize = 5;

/// A `[trust_domain."NAME"]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustDomainSettings {
    pub name: TrustDomain,
    /// One or more CA certificates.
    pub ca: PemSource,
    /// Revocation lists of its CAs. `None`: revocation is not checked.
    pub crl: Option<PemSource>,
    /// A certificate without any URI SAN is named by its DNS SANs. Set where a service of this
    /// trust domain has a `dns_name`.
    pub allow_dns_names: bool,
}

/// All trust domains of one configuration. Equal where their names, CAs and revocation lists are.
#[derive(Debug)]
pub struct Trust {
    domains: Vec<Domain>,
    fingerprint: Fingerprint,
    algorithms: WebPkiSupportedAlgorithms,
    vouched: Vouched,
}

#[derive(Debug)]
struct Domain {
    name: TrustDomain,
    anchors: Vec<TrustAnchor<'static>>,
    /// In the order of `anchors`.
    anchors_not_after: Vec<Timestamp>,
    /// Empty if and only if none are configured.
    crls: Vec<CertRevocationList<'static>>,
    /// The earliest `nextUpdate` among `crls`.
    crls_end: Timestamp,
    allow_dns_names: bool,
    fingerprint: Fingerprint,
}

/// Why the configured CAs cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error(transparent)]
    Pem(#[from] PemError),
    #[error("{0} holds a certificate that does not parse")]
    Certificate(PemSource),
    #[error("{0} holds a certificate that is not a CA's")]
    NotACa(PemSource),
    #[error("{0} holds a revocation list that does not parse or is of a kind that is not supported")]
    Crl(PemSource),
    #[error("one CA key stands in trust domain `{0}` and in `{1}`; a CA speaks for one trust domain only")]
    SharedCa(TrustDomain, TrustDomain),
    #[error("trust domain `{0}` is configured twice")]
    Twice(TrustDomain),
    #[error("client certificates are asked for, but no trust domain is configured")]
    NoTrustDomain,
}

/// At which end of the TLS connection the peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    Server,
}

impl Trust {
    /// The trust domains that both know, by other CAs or revocation lists.
    pub fn changed<'t>(&'t self, other: &'t Trust) -> impl Iterator<Item = &'t TrustDomain> {
        let same = |one: &Domain| {
            let known = other.domains.iter().find(|other| other.name == one.name);
            known.is_none_or(|known| known.fingerprint == one.fingerprint)
        };
        self.domains.iter().filter(move |one| !same(one)).map(|one| &one.name)
    }

    pub fn load(settings: &[TrustDomainSettings]) -> Result<Trust, TrustError> {
        let mut domains: Vec<Domain> = Vec::with_capacity(settings.len());
        let mut owners: HashMap<Vec<u8>, TrustDomain> = HashMap::new();
        for domain in settings {
            if domains.iter().any(|other| other.name == domain.name) {
                return Err(TrustError::Twice(domain.name.clone()));
            }
            let domain = Domain::load(domain)?;
            for anchor in &domain.anchors {
                let key = anchor.subject_public_key_info.to_vec();
                match owners.insert(key, domain.name.clone()) {
                    Some(other) if other != domain.name => {
                        return Err(TrustError::SharedCa(other, domain.name));
                    }
                    _ => {}
                }
            }
            domains.push(domain);
        }
        if domains.is_empty() {
            return Err(TrustError::NoTrustDomain);
        }
        let fingerprint = Fingerprint::of(domains.iter().map(|domain| domain.fingerprint.as_bytes()));
        let algorithms = provider().signature_verification_algorithms;
        Ok(Trust { domains, fingerprint, algorithms, vouched: Vouched::default() })
    }

    pub(super) fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.algorithms
    }

    /// When the chain of a verified peer ends, or the first revocation list of its trust domain.
    pub fn vouched_until(&self, peer: &Peer) -> Timestamp {
        let domain = self.domains.iter().find(|domain| domain.name == *peer.name.trust_domain());
        domain.map_or(Timestamp::MIN, |domain| domain.crls_end.min(peer.not_after))
    }

    /// Takes for granted that a CA of the right trust domain issued a certificate with this name: what is then
    /// still refused, for there is no such trust domain, or none that knows names of this kind.
    pub fn check_name(&self, name: &PeerName) -> Result<(), PeerError> {
        let domains = || self.domains.iter().filter(|domain| domain.name == *name.trust_domain());
        match name {
            _ if domains().next().is_none() => Err(PeerError::Untrusted(Distrust::UnknownIssuer)),
            PeerName::Dns { .. } if !domains().any(|domain| domain.allow_dns_names) => {
                Err(MalformedCertificate::NoSpiffeId.into())
            }
            PeerName::Spiffe(_) | PeerName::Dns { .. } => Ok(()),
        }
    }

    /// The CAs' subjects, from which a client may choose among its certificates.
    pub(super) fn subjects(&self) -> Vec<DistinguishedName> {
        let anchors = self.domains.iter().flat_map(|domain| &domain.anchors);
        anchors.map(|anchor| DistinguishedName::in_sequence(&anchor.subject)).collect()
    }

    /// Judges the chain (leaf first) of a client that somebody else had the handshake with.
    pub fn verify_client(
        &self,
        chain: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Result<Arc<Peer>, PeerError> {
        let (leaf, others) = chain.split_first().ok_or(PeerError::Missing)?;
        self.verify(leaf, others, Role::Client, now)
    }

    /// Judges a chain as a whole, as of now: form, issuer, time, trust domain, revocation; the first of
    /// these that fails, in this order, is the error.
    pub(super) fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now: Timestamp,
    ) -> Result<Arc<Peer>, PeerError> {
        let chain = vouched::fingerprint(end_entity, intermediates, role);
        if let Some(peer) = self.vouched.get(&chain, now) {
            return Ok(peer);
        }
        let peer = Arc::new(self.judge(end_entity, intermediates, role, now)?);
        let until = self.vouched_until(&peer);
        self.vouched.put(chain, Found { peer: Arc::clone(&peer), since: now, until });
        Ok(peer)
    }

    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now: Timestamp,
    ) -> Result<Peer, PeerError> {
        let leaf = Leaf::read(end_entity)?;
        if intermediates.len() > INTERMEDIATES_MAX {
            return Err(PeerError::Untrusted(Distrust::TooComplex));
        }
        let (own, others) = self.split_by_claim(&leaf.name)?;
        let question = Question {
            end_entity,
            intermediates,
            validity: leaf.validity,
            role,
            now,
            algorithms: &self.algorithms,
        };
        for domain in own {
            match domain.judge(&question) {
                Ok(not_after) => {
                    let certificate = certificate_hash(end_entity);
                    let name = peer_name(leaf.name, &domain.name);
                    return Ok(Peer { name, certificate, not_after, hop: Hop::Direct });
                }
                Err(PeerError::Untrusted(Distrust::UnknownIssuer)) => {}
                Err(other) => return Err(other),
            }
        }
        Err(question.who_vouches(&leaf.name, &others))
    }

    /// The domains that may vouch for a name, and the rest.
    fn split_by_claim(&self, name: &LeafName) -> Result<(Vec<&Domain>, Vec<&Domain>), MalformedCertificate> {
        let (own, others): (Vec<_>, Vec<_>) = self.domains.iter().partition(|domain| match name {
            LeafName::Spiffe(id) => domain.name == *id.trust_domain(),
            LeafName::Dns(_) => domain.allow_dns_names,
        });
        match name {
            LeafName::Dns(_) if own.is_empty() => Err(MalformedCertificate::NoSpiffeId),
            _ => Ok((own, others)),
        }
    }
}

impl PartialEq for Trust {
    fn eq(&self, other: &Trust) -> bool {
        self.fingerprint == other.fingerprint
    }
}

/// The CA certificates in `source`, each one that can vouch for others; for servers that are known by
/// their DNS names.
pub fn ca_certificates(source: &PemSource) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let certificates = source.certificates()?;
    for certificate in &certificates {
        anchor(certificate, source)?;
    }
    Ok(certificates)
}

fn anchor(
    certificate: &CertificateDer<'_>,
    source: &PemSource,
) -> Result<(TrustAnchor<'static>, Validity), TrustError> {
    let anchor = webpki::anchor_from_trusted_cert(certificate).ok().map(|anchor| anchor.to_owned());
    match anchor.zip(validity(certificate)) {
        None => Err(TrustError::Certificate(source.clone())),
        Some(_) if !may_issue(certificate) => Err(TrustError::NotACa(source.clone())),
        Some(anchor) => Ok(anchor),
    }
}

fn peer_name(name: LeafName, vouching: &TrustDomain) -> PeerName {
    match name {
        LeafName::Spiffe(id) => PeerName::Spiffe(id),
        LeafName::Dns(names) => PeerName::Dns { names, trust_domain: vouching.clone() },
    }
}

/// One chain, put to one trust domain after another.
struct Question<'a> {
    end_entity: &'a CertificateDer<'a>,
    intermediates: &'a [CertificateDer<'a>],
    /// Of the end entity.
    validity: Validity,
    role: Role,
    now: Timestamp,
    algorithms: &'a WebPkiSupportedAlgorithms,
}

impl Question<'_> {
    /// No CA of the claimed trust domain vouches for the chain: does one of another?
    fn who_vouches(&self, name: &LeafName, others: &[&Domain]) -> PeerError {
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
    fn load(settings: &TrustDomainSettings) -> Result<Domain, TrustError> {
        let mut anchors = Vec::new();
        let mut anchors_not_after = Vec::new();
        let certificates = settings.ca.certificates()?;
        for certificate in &certificates {
            let (anchor, validity) = anchor(certificate, &settings.ca)?;
            anchors.push(anchor);
            anchors_not_after.push(validity.not_after);
        }
        let mut crls = Vec::new();
        let mut crls_end = Timestamp::MAX;
        let named: &[u8] = if settings.allow_dns_names { b"dns" } else { b"spiffe" };
        let mut parts: Vec<&[u8]> = vec![settings.name.as_str().as_bytes(), named];
        parts.extend(certificates.iter().map(|certificate| certificate.as_ref()));
        let lists = match &settings.crl {
            Some(source) => source.crls()?,
            None => Vec::new(),
        };
        // A part that no certificate can be: what follows it are lists.
        parts.push(&[]);
        parts.extend(lists.iter().map(|list| list.as_ref()));
        let fingerprint = Fingerprint::of(parts);
        if let Some(source) = &settings.crl {
            for crl in &lists {
                match (OwnedCertRevocationList::from_der(crl), next_update(crl)) {
                    (Ok(crl), Some(end)) => {
                        crls.push(crl.into());
                        crls_end = crls_end.min(end);
                    }
                    _ => return Err(TrustError::Crl(source.clone())),
                }
            }
        }
        Ok(Domain {
            name: settings.name.clone(),
            anchors,
            anchors_not_after,
            crls,
            crls_end,
            allow_dns_names: settings.allow_dns_names,
            fingerprint,
        })
    }

    /// The earliest not-after of the path that verifies.
    fn judge(&self, question: &Question<'_>) -> Result<Timestamp, PeerError> {
        let error = match self.find_path(question, question.now, &self.crls) {
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
                &self.anchors,
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
        // A renewed CA keeps name and key; the one that lasts longest counts.
        let anchor = self
            .anchors
            .iter()
            .zip(&self.anchors_not_after)
            .filter(|(anchor, _)| *anchor == path.anchor())
            .map(|(_, not_after)| *not_after)
            .max();
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
