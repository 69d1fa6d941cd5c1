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

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rustls::DistinguishedName;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::CertificateDer;

use super::domain::{BadCa, Cas, Domain, Question};
use super::peer::{Distrust, Leaf, LeafName, MalformedCertificate, PeerError, certificate_hash};
use super::vouched::{self, Found, Vouched};
use super::{Fingerprint, PemError, PemSource, provider};
use crate::clock::Timestamp;
use crate::identity::{Hop, Peer, PeerName, TrustDomain};

/// Certificates sent along with a leaf. A search for a path may try them in every order, before anybody is
/// known: ten of one name cost a hundred times what five do.
const INTERMEDIATES_MAX: usize = 5;

/// A `[trust_domain."NAME"]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustDomainSettings {
    pub name: TrustDomain,
    /// One or more CA certificates. `None`: the source of service identity gives them.
    pub ca: Option<PemSource>,
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

/// CA certificates by trust domain, as a source of service identity gives them.
pub type Bundles = BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>;

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
    #[error("the source of service identity gives trust domain `{0}` {1}")]
    Issued(TrustDomain, BadCa),
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
            known.is_none_or(|known| known.fingerprint() == one.fingerprint())
        };
        self.domains.iter().filter(move |one| !same(one)).map(|one| &one.name)
    }

    pub fn load(settings: &[TrustDomainSettings]) -> Result<Trust, TrustError> {
        let domains = settings.iter().map(Domain::load).collect::<Result<Vec<_>, _>>()?;
        Trust::of(domains)
    }

    /// The same with the CAs that a source of service identity gave last. A trust domain for which it has none
    /// any more vouches for nobody.
    pub fn issued(&self, bundles: &Bundles) -> Result<Trust, TrustError> {
        let domain = |domain: &Domain| {
            let cas = match bundles.get(&domain.name) {
                _ if !domain.is_issued => None,
                given => Some(given.map_or(&[][..], Vec::as_slice)),
            };
            let bad = |bad| TrustError::Issued(domain.name.clone(), bad);
            cas.map_or_else(|| Ok(domain.clone()), |cas| domain.with(cas).map_err(bad))
        };
        Trust::of(self.domains.iter().map(domain).collect::<Result<Vec<_>, _>>()?)
    }

    fn of(domains: Vec<Domain>) -> Result<Trust, TrustError> {
        let mut owners: HashMap<&[u8], &TrustDomain> = HashMap::new();
        for (at, domain) in domains.iter().enumerate() {
            if domains[..at].iter().any(|other| other.name == domain.name) {
                return Err(TrustError::Twice(domain.name.clone()));
            }
            for anchor in &domain.cas.anchors {
                match owners.insert(&anchor.subject_public_key_info, &domain.name) {
                    Some(other) if *other != domain.name => {
                        return Err(TrustError::SharedCa(other.clone(), domain.name.clone()));
                    }
                    _ => {}
                }
            }
        }
        if domains.is_empty() {
            return Err(TrustError::NoTrustDomain);
        }
        let parts: Vec<Fingerprint> = domains.iter().map(Domain::fingerprint).collect();
        let fingerprint = Fingerprint::of(parts.iter().map(Fingerprint::as_bytes));
        let algorithms = provider().signature_verification_algorithms;
        Ok(Trust { domains, fingerprint, algorithms, vouched: Vouched::default() })
    }

    /// The trust domains whose CAs the source of service identity has not given.
    pub fn awaited(&self) -> impl Iterator<Item = &TrustDomain> {
        let awaited = |domain: &&Domain| domain.is_issued && domain.cas.anchors.is_empty();
        self.domains.iter().filter(awaited).map(|domain| &domain.name)
    }

    pub(super) fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.algorithms
    }

    /// When the chain of a verified peer ends, or the first revocation list of its trust domain.
    pub(super) fn vouched_until(&self, peer: &Peer) -> Timestamp {
        let domain = self.domains.iter().find(|domain| domain.name == *peer.name.trust_domain());
        domain.map_or(Timestamp::MIN, |domain| domain.lists.end.min(peer.not_after))
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
        let anchors = self.domains.iter().flat_map(|domain| &domain.cas.anchors);
        anchors.map(|anchor| DistinguishedName::in_sequence(&anchor.subject)).collect()
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
    Cas::new(&certificates).map_err(|bad| bad.of(source.clone()))?;
    Ok(certificates)
}

fn peer_name(name: LeafName, vouching: &TrustDomain) -> PeerName {
    match name {
        LeafName::Spiffe(id) => PeerName::Spiffe(id),
        LeafName::Dns(names) => PeerName::Dns { names, trust_domain: vouching.clone() },
    }
}
