//! What a leaf certificate calls its holder, read as strictly as X.509-SVID §4 and §5.2 say, and why
//! a peer is refused.
//!
//! Nothing here trusts the certificate: reading comes first, so that the trust domain it claims can
//! be asked. The subject and its common name are never read.

use std::sync::Arc;

use aws_lc_rs::digest;
use x509_parser::asn1_rs::{Any, Sequence, Tag};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::clock::Timestamp;
use crate::identity::{CertificateHash, PeerName, SpiffeId, TrustDomain, spiffe::SpiffeError};

/// What a leaf certificate says of its holder and its time; believed by nobody yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    pub name: LeafName,
    pub validity: Validity,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LeafName {
    Spiffe(SpiffeId),
    /// There is no URI SAN, and these DNS SANs: lower-case, in order, at least one.
    Dns(Vec<Arc<str>>),
}

/// Both ends are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

/// What a refused certificate says of itself, for the record. Nobody vouches for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unverified {
    /// The first URI SAN, whatever it is: escaped, at most 2,048 characters.
    pub uri: Option<String>,
    pub certificate: CertificateHash,
}

/// Why a peer is refused: one variant for each `peer_…` reason code that TLS can find.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    #[error("no client certificate was presented")]
    Missing,
    /// Of what the local application sends.
    #[error("our own certificate has not come yet")]
    Awaited,
    #[error("the certificate is malformed: {0}")]
    Malformed(#[from] MalformedCertificate),
    #[error("the certificate is not trusted: {0}")]
    Untrusted(Distrust),
    #[error("the certificate is out of date: {0}")]
    Expired(OutOfDate),
    #[error("the certificate claims trust domain `{claimed}`, but a CA of `{vouching}` issued it")]
    WrongTrustDomain { claimed: TrustDomain, vouching: TrustDomain },
    #[error("the certificate is revoked, or nobody can say that it is not: {0}")]
    Revoked(Revocation),
}

/// What makes a leaf certificate unusable as an identity, whoever issued it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedCertificate {
    #[error(
        "it, or a CA of its chain, is no DER-encoded X.509 version 3 certificate, or an extension does not parse"
    )]
    Encoding,
    #[error("it, or a CA of its chain, has a critical extension that is not known here")]
    CriticalExtension,
    #[error("it has no URI SAN, hence no SPIFFE ID")]
    NoSpiffeId,
    #[error("it has {0} URI SANs, and an X.509-SVID has exactly one")]
    SeveralUris(usize),
    #[error("its URI SAN is no SPIFFE ID: {0}")]
    SpiffeId(#[from] SpiffeError),
    #[error("a SAN has bytes that no such name can have")]
    NameBytes,
    #[error("it is a CA certificate")]
    Ca,
    #[error("it has no key usage extension")]
    NoKeyUsage,
    #[error("its key usage lacks digitalSignature")]
    NoDigitalSignature,
    #[error("its key usage has keyCertSign or cRLSign, which only a CA has")]
    CaKeyUsage,
    #[error("its extended key usage does not allow this end of a TLS connection")]
    ExtendedKeyUsage,
}

/// Why no configured CA vouches for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    #[error("no configured CA issued it")]
    UnknownIssuer,
    #[error("the handshake was not signed with its key, or the key is too weak to count")]
    HandshakeSignature,
    #[error(
        "a CA of its chain has name constraints that it violates, or constrains URIs, which is not supported"
    )]
    NameConstraints,
    #[error("its chain is longer than a CA in it allows")]
    PathLength,
    #[error("its chain has a signature of an algorithm or key size that is not accepted")]
    Algorithm,
    #[error("its chain has too many certificates, or is too complex to be verified")]
    TooComplex,
    #[error("its chain does not verify")]
    Chain,
}

/// How a chain misses the present moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutOfDate {
    #[error("its chain expired at {0}")]
    Expired(Timestamp),
    #[error("its chain is not valid before {0}")]
    NotYetValid(Timestamp),
}

/// What the revocation lists say; silence refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Revocation {
    #[error("a revocation list has it, or a CA of its chain")]
    Revoked,
    #[error("the revocation list should have been renewed at {0}")]
    ListExpired(Timestamp),
    #[error("a CA of its chain has no revocation list, or one that does not verify")]
    NoList,
}

const URI_CHARS_MAX: usize = 2048;
/// uniformResourceIdentifier among GeneralName (RFC 5280 §4.2.1.6).
const URI_TAG: Tag = Tag(6);

/// SHA-256 of a certificate's DER.
pub fn certificate_hash(der: &[u8]) -> CertificateHash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, der).as_ref());
    CertificateHash(hash)
}

/// The name that a certificate with these DNS SANs, and no URI, gives its holder.
pub fn dns_peer<'n>(
    names: impl IntoIterator<Item = &'n str>,
    trust_domain: TrustDomain,
) -> Result<PeerName, MalformedCertificate> {
    let names: Vec<_> = names.into_iter().map(dns_name).collect::<Result<_, _>>()?;
    if names.is_empty() {
        Err(MalformedCertificate::NoSpiffeId)
    } else {
        Ok(PeerName::Dns { names, trust_domain })
    }
}

impl Unverified {
    pub fn read(der: &[u8]) -> Unverified {
        let uri = parse(der).ok().and_then(|certificate| {
            let san = certificate.subject_alternative_name().ok()??;
            san.value.general_names.iter().find_map(|name| match name {
                GeneralName::URI(uri) => {
                    Some(uri.chars().flat_map(char::escape_default).take(URI_CHARS_MAX).collect())
                }
                GeneralName::Invalid(URI_TAG, bytes) => {
                    Some(bytes.escape_ascii().map(char::from).take(URI_CHARS_MAX).collect())
                }
                _ => None,
            })
        });
        Unverified { uri, certificate: certificate_hash(der) }
    }
}

impl Leaf {
    /// Reads the end-entity certificate of a chain. Extended key usage is left to webpki, which
    /// checks it along the whole chain.
    pub(super) fn read(der: &[u8]) -> Result<Leaf, MalformedCertificate> {
        let certificate = parse(der)?;
        check_usage(&certificate)?;
        Ok(Leaf { name: read_name(&certificate)?, validity: validity_of(&certificate) })
    }
}

/// The validity of any certificate; `None` if it does not parse.
pub(super) fn validity(der: &[u8]) -> Option<Validity> {
    parse(der).ok().map(|certificate| validity_of(&certificate))
}

/// When a revocation list is to be renewed; `None` if it does not say so or does not parse.
pub(super) fn next_update(der: &[u8]) -> Option<Timestamp> {
    let (_, list) = CertificateRevocationList::from_der(der).ok()?;
    Some(Timestamp::from_unix_seconds(list.next_update()?.timestamp()))
}

/// Whether this certificate may issue others (RFC 5280 §6.1.4 (k) and (n)): webpki looks at basic constraints
/// only.
pub(super) fn may_issue(der: &[u8]) -> bool {
    parse(der).is_ok_and(|certificate| {
        let usage = certificate.key_usage();
        certificate.is_ca() && usage.is_ok_and(|usage| usage.is_none_or(|it| it.value.key_cert_sign()))
    })
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, MalformedCertificate> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(MalformedCertificate::Encoding),
    }
}

fn validity_of(certificate: &X509Certificate<'_>) -> Validity {
    let validity = certificate.validity();
    Validity {
        not_before: Timestamp::from_unix_seconds(validity.not_before.timestamp()),
        not_after: Timestamp::from_unix_seconds(validity.not_after.timestamp()),
    }
}

/// X.509-SVID §4.1 (not a CA) and §4.3 (key usage).
fn check_usage(certificate: &X509Certificate<'_>) -> Result<(), MalformedCertificate> {
    let constraints = certificate.basic_constraints().map_err(|_| MalformedCertificate::Encoding)?;
    if constraints.is_some_and(|found| found.value.ca) {
        return Err(MalformedCertificate::Ca);
    }
    let usage = certificate
        .key_usage()
        .map_err(|_| MalformedCertificate::Encoding)?
        .ok_or(MalformedCertificate::NoKeyUsage)?
        .value;
    if usage.key_cert_sign() || usage.crl_sign() {
        return Err(MalformedCertificate::CaKeyUsage);
    }
    if !usage.digital_signature() {
        return Err(MalformedCertificate::NoDigitalSignature);
    }
    Ok(())
}

/// X.509-SVID §2: exactly one URI SAN. DNS SANs are a name only where there is no URI at all.
fn read_name(certificate: &X509Certificate<'_>) -> Result<LeafName, MalformedCertificate> {
    let san = certificate
        .subject_alternative_name()
        .map_err(|_| MalformedCertificate::Encoding)?
        .ok_or(MalformedCertificate::NoSpiffeId)?;
    check_names(certificate).ok_or(MalformedCertificate::Encoding)?;
    let mut uris = Vec::new();
    let mut names = Vec::new();
    for name in &san.value.general_names {
        match name {
            GeneralName::URI(uri) => uris.push(plain(uri)?),
            GeneralName::DNSName(name) => names.push(dns_name(name)?),
            GeneralName::RFC822Name(address) => _ = plain(address)?,
            GeneralName::Invalid(..) => return Err(MalformedCertificate::NameBytes),
            GeneralName::OtherName(..)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::IPAddress(_)
            | GeneralName::RegisteredID(_) => {}
        }
    }
    match uris[..] {
        [uri] => Ok(LeafName::Spiffe(uri.parse()?)),
        [] if names.is_empty() => Err(MalformedCertificate::NoSpiffeId),
        [] => Ok(LeafName::Dns(names)),
        _ => Err(MalformedCertificate::SeveralUris(uris.len())),
    }
}

/// Tags of `GeneralName` (RFC 5280 §4.2.1.6) whose value is a string of bytes.
const STRINGS: [u32; 5] = [1, 2, 6, 7, 8];

/// What x509-parser lets pass: bytes after the names, and strings in constructed form (X.690 §10.2), which
/// another reader takes apart or refuses.
fn check_names(certificate: &X509Certificate<'_>) -> Option<()> {
    let extension = certificate.get_extension_unique(&OID_X509_EXT_SUBJECT_ALT_NAME).ok()??;
    let (rest, names) = Sequence::from_der(extension.value).ok()?;
    let mut left: &[u8] = if rest.is_empty() { &names.content } else { return None };
    while !left.is_empty() {
        let (rest, name) = Any::from_der(left).ok()?;
        if name.header.is_constructed() && STRINGS.contains(&name.tag().0) {
            return None;
        }
        left = rest;
    }
    Some(())
}

/// An IA5String (RFC 5280 §4.2.1.6) without control characters: x509-parser takes any UTF-8.
fn plain(text: &str) -> Result<&str, MalformedCertificate> {
    let fits = text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if fits { Ok(text) } else { Err(MalformedCertificate::NameBytes) }
}

fn dns_name(text: &str) -> Result<Arc<str>, MalformedCertificate> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_*".contains(&byte);
    if text.is_empty() || !text.bytes().all(allowed) {
        return Err(MalformedCertificate::NameBytes);
    }
    Ok(text.to_ascii_lowercase().into())
}
