//! Which CAs vouch for which workloads.
//!
//! A certificate is asked first which trust domain it claims, and then judged by the CAs of that
//! domain alone. A CA key stands in one trust domain only. With revocation lists configured, each
//! CA of a chain needs one that is valid now, the root too; silence refuses (X.509-SVID §5,
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

use super::domain::{BadBundle, Cas, Domain, NoCas, Question};
use super::peer::{Distrust, Leaf, LeafName, MalformedCertificate, PeerError, Revocation, certificate_hash};
use super::standing::Standing;
use super::vouched::{self, Found, Vouched};
use super::{Fingerprint, OwnCertificate, PemError, PemSource, provider};
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
    /// In the order of `domains`.
    standings: Vec<Standing>,
    fingerprint: Fingerprint,
    algorithms: WebPkiSupportedAlgorithms,
    vouched: Vouched,
}

/// CAs by trust domain, as a source of service identity gives them: each by itself, since whoever is federated
/// must not be able to spoil those of others.
pub type Bundles = BTreeMap<TrustDomain, Result<Cas, BadBundle>>;

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
            known.is_none_or(|known| known.fingerprint() == one.fingerprint())
        };
        self.domains.iter().filter(move |one| !same(one)).map(|one| &one.name)
    }

    pub fn load(settings: &[TrustDomainSettings]) -> Result<Trust, TrustError> {
        let domains = settings.iter().map(Domain::load).collect::<Result<Vec<_>, _>>()?;
        Trust::of(domains)
    }

    /// The same with the CAs that a source of service identity gave last. A trust domain for which it has none
    /// any more vouches for nobody, nor does one that has a CA of a trust domain which comes before it: ours
    /// (`own`), then those of the configuration.
    pub fn issued(&self, bundles: &Bundles, own: Option<&TrustDomain>) -> Trust {
        let fill = |domain: &Domain| match domain.is_issued {
            true => domain.issued(bundles.get(&domain.name)),
            false => domain.clone(),
        };
        let mut domains: Vec<Domain> = self.domains.iter().map(fill).collect();
        let rank = |domain: &Domain| match domain.is_issued {
            true if own == Some(&domain.name) => 0,
            false => 1,
            true => 2,
        };
        for (at, other) in sharing(&domains, rank) {
            domains[at].cas = Err(NoCas::Shared(other));
        }
        Trust::new(domains)
    }

    fn of(domains: Vec<Domain>) -> Result<Trust, TrustError> {
        let mut owners: HashMap<&[u8], &TrustDomain> = HashMap::new();
        for (at, domain) in domains.iter().enumerate() {
            if domains[..at].iter().any(|other| other.name == domain.name) {
                return Err(TrustError::Twice(domain.name.clone()));
            }
            for anchor in domain.anchors() {
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
        Ok(Trust::new(domains))
    }

    fn new(domains: Vec<Domain>) -> Trust {
        let parts: Vec<Fingerprint> = domains.iter().map(Domain::fingerprint).collect();
        let fingerprint = Fingerprint::of(parts.iter().map(Fingerprint::as_bytes));
        let algorithms = provider().signature_verification_algorithms;
        let standings = domains.iter().map(|domain| Standing::of(domain, &algorithms)).collect();
        Trust { domains, standings, fingerprint, algorithms, vouched: Vouched::default() }
    }

    /// The trust domains that have no CAs, and why.
    pub fn awaited(&self) -> impl Iterator<Item = (&TrustDomain, &NoCas)> {
        self.domains.iter().filter_map(|domain| Some((&domain.name, domain.cas.as_ref().err()?)))
    }

    /// How each trust domain stands with its CAs and revocation lists.
    pub fn standings(&self) -> impl Iterator<Item = (&TrustDomain, &Standing)> {
        self.domains.iter().map(|domain| &domain.name).zip(&self.standings)
    }

    /// Why the workloads of our own trust domain would refuse our certificate, if they know what we know: no CA of
    /// it issued it, or it is revoked.
    pub fn refuses(&self, own: &OwnCertificate, now: Timestamp) -> Option<PeerError> {
        let domain = own.spiffe_id.as_ref()?.trust_domain();
        self.domains.iter().find(|known| known.name == *domain && known.cas.is_ok())?;
        let (leaf, others) = own.key.cert.split_first()?;
        let judged = |role| self.judge(leaf, others, role, now).err();
        let error = judged(Role::Server).and_then(|_| judged(Role::Client))?;
        let is_ours = match error {
            PeerError::Untrusted(_) | PeerError::WrongTrustDomain { .. } => true,
            PeerError::Revoked(revocation) => revocation == Revocation::Revoked,
            _ => false,
        };
        is_ours.then_some(error)
    }

    /// The trust domains that have CAs, and these.
    pub fn cas(&self) -> impl Iterator<Item = (&TrustDomain, &Cas)> {
        self.domains.iter().filter_map(|domain| Some((&domain.name, domain.cas.as_ref().ok()?)))
    }

    pub fn names(&self, name: &TrustDomain) -> bool {
        self.domains.iter().any(|domain| domain.name == *name)
    }

    /// Whether a source of service identity was to give CAs, and gave none of them.
    pub fn lacks_all_issued(&self) -> bool {
        let mut issued = self.domains.iter().filter(|domain| domain.is_issued).peekable();
        issued.peek().is_some() && issued.all(|domain| domain.cas.is_err())
    }

    pub(super) fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.algorithms
    }

    /// When the chain of a verified peer ends, or the first revocation list of its trust domain.
    pub fn vouched_until(&self, peer: &Peer) -> Timestamp {
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
        let anchors = self.domains.iter().flat_map(Domain::anchors);
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

/// The trust domains that have a CA key in common with one of the same or a lower rank, and that one.
fn sharing(domains: &[Domain], rank: impl Fn(&Domain) -> u8) -> Vec<(usize, TrustDomain)> {
    let mut owners: HashMap<&[u8], Vec<&Domain>> = HashMap::new();
    for domain in domains {
        for anchor in domain.anchors() {
            owners.entry(&anchor.subject_public_key_info).or_default().push(domain);
        }
    }
    let first = |domain: &Domain| {
        let others =
            domain.anchors().iter().filter_map(|anchor| owners.get(&*anchor.subject_public_key_info));
        let mut others = others.flatten().filter(|other| other.name != domain.name);
        others.find(|other| rank(other) <= rank(domain)).map(|other| other.name.clone())
    };
    domains.iter().enumerate().filter_map(|(at, domain)| Some((at, first(domain)?))).collect()
}

fn peer_name(name: LeafName, vouching: &TrustDomain) -> PeerName {
    match name {
        LeafName::Spiffe(id) => PeerName::Spiffe(id),
        LeafName::Dns(names) => PeerName::Dns { names, trust_domain: vouching.clone() },
    }
}
