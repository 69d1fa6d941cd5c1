//! What workloads and CAs show: names, certificates, and files of certificates and revocation lists.

use std::sync::{Arc, LazyLock};

use countersign::cli::mint::{Authority, CaSpec, LeafSpec, Validity};
use countersign::clock::{Clock, Timestamp};
use countersign::identity::{Peer, PeerName, Signature, SpiffeId, SpiffePattern};
use countersign::tls::{
    CertificateSettings, ClientCertificates, ListenerTls, OwnCertificate, PeerError, PemSource, Trust,
    TrustDomainSettings,
};
use rustls::pki_types::pem::{PemObject, SectionKind};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::{in_file, two_parts};

const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
const VALID: Validity = Validity {
    from: Timestamp::from_unix_seconds(1_700_000_000),
    to: Timestamp::from_unix_seconds(1_900_000_000),
};
const TRUST_DOMAIN: &str = "shop.example";

struct Mesh {
    ca: Authority,
    listener: ListenerTls,
}

/// A CA, and a listener that believes it.
static MESH: LazyLock<Mesh> = LazyLock::new(|| {
    let ca = Authority::root(&CaSpec::new("shop CA", VALID)).expect("a CA");
    let own = ca.issue(&LeafSpec::workload("spiffe://shop.example/proxy", VALID)).expect("a certificate");
    let trust = in_file(ca.pem().as_bytes(), |source| Trust::load(&[domain(source, None)])).expect("trust");
    let own = in_file(own.chain.as_bytes(), |certificate| {
        in_file(own.key.as_bytes(), |private_key| {
            let (certificate, private_key) = (PemSource::File(certificate), PemSource::File(private_key));
            OwnCertificate::load(&CertificateSettings { certificate, private_key, passphrase: None }, NOW)
        })
    });
    let clients = ClientCertificates::Required(Arc::new(trust));
    let listener = ListenerTls::new(&own.expect("our own"), clients, Clock::manual(NOW)).expect("a listener");
    Mesh { ca, listener }
});

fn domain(ca: std::path::PathBuf, crl: Option<std::path::PathBuf>) -> TrustDomainSettings {
    TrustDomainSettings {
        name: TRUST_DOMAIN.parse().expect("a trust domain"),
        ca: Some(PemSource::File(ca)),
        crl: crl.map(PemSource::File),
        allow_dns_names: true,
    }
}

fn verify(der: &[u8]) -> Result<Arc<Peer>, PeerError> {
    match MESH.listener.verify(&[der.to_vec().into()])? {
        Signature::Verified(peer) => Ok(peer),
        Signature::Absent => panic!("a certificate was presented"),
    }
}

/// A certificate that our CA did not issue is never believed.
pub fn certificate(data: &[u8]) {
    assert!(verify(data).is_err());
}

/// The names of a certificate that our CA did issue, DER: a peer has exactly one URI, a SPIFFE ID of the
/// CA's trust domain, or DNS names and no URI.
pub fn names(data: &[u8]) {
    let spec = LeafSpec { raw_san: Some(data.to_vec()), ..LeafSpec::workload("spiffe://a/b", VALID) };
    let Ok(minted) = MESH.ca.issue(&spec) else { return };
    let Ok(peer) = verify(&minted.der) else { return };
    let names = general_names(data).expect("a list of names");
    let of = |tag: u8| -> Vec<&[u8]> {
        names.iter().filter(|(found, _)| *found == tag).map(|(_, value)| *value).collect()
    };
    match &peer.name {
        PeerName::Spiffe(id) => {
            assert_eq!(of(URI), [id.as_str().as_bytes()]);
            assert_eq!(id.trust_domain().as_str(), TRUST_DOMAIN);
            assert!(is_plainly_a_spiffe_id(id.as_str()));
        }
        PeerName::Dns { names, .. } => {
            assert!(of(URI).is_empty());
            let names: Vec<_> = names.iter().map(|name| name.as_bytes().to_vec()).collect();
            assert_eq!(names, of(DNS).iter().map(|name| name.to_ascii_lowercase()).collect::<Vec<_>>());
        }
    }
}

const URI: u8 = 0x86;
const DNS: u8 = 0x82;

/// Tags and values of a DER `GeneralNames`, to its last byte.
fn general_names(der: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let (0x30, mut inside, []) = element(der)? else { return None };
    let mut names = Vec::new();
    while !inside.is_empty() {
        let (tag, value, rest) = element(inside)?;
        names.push((tag, value));
        inside = rest;
    }
    Some(names)
}

/// One element: tag, value, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((tag, value, rest))
}

/// A SPIFFE ID, and on the second line a pattern: taken exactly where a plain reader takes them, and
/// matched as a plain matcher matches.
pub fn spiffe_id(data: &[u8]) {
    let (id, pattern) = two_parts(data);
    let (Ok(id), Ok(pattern)) = (std::str::from_utf8(id), std::str::from_utf8(pattern)) else { return };
    let parsed = id.parse::<SpiffeId>();
    assert_eq!(parsed.is_ok(), is_plainly_a_spiffe_id(id));
    let Ok(parsed) = parsed else { return };
    assert_eq!(parsed.as_str(), id);
    let Ok(wanted) = pattern.parse::<SpiffePattern>() else { return };
    let found: Vec<&str> = id.split('/').collect();
    let plain: Vec<&str> = pattern.split('/').collect();
    let matches = match plain.split_last() {
        Some((&"**", start)) => {
            start.len() <= found.len() && start.iter().zip(&found).all(|(a, b)| *a == "*" || a == b)
        }
        _ => plain.len() == found.len() && plain.iter().zip(&found).all(|(a, b)| *a == "*" || a == b),
    };
    assert_eq!(wanted.matches(&parsed), matches);
}

/// SPIFFE-ID §2, of a workload.
fn is_plainly_a_spiffe_id(text: &str) -> bool {
    let Some((domain, path)) = text.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')) else {
        return false;
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    text.len() <= 2048
        && (1..=255).contains(&domain.len())
        && domain.chars().all(|c| plain(c) && !c.is_ascii_uppercase())
        && path.split('/').all(|it| !["", ".", ".."].contains(&it) && it.chars().all(plain))
}

/// One PEM file as both `ca` and `crl`: what is taken holds CAs alone, and lists that say when they end.
pub fn trust(data: &[u8]) {
    let (plain, with_lists) = in_file(data, |path| {
        (Trust::load(&[domain(path.clone(), None)]), Trust::load(&[domain(path.clone(), Some(path))]))
    });
    let sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(data).filter_map(Result::ok).collect::<Vec<_>>();
    let of = |kind: SectionKind| sections.iter().filter(move |(found, _)| *found == kind).map(|(_, der)| der);
    if plain.is_ok() {
        assert!(of(SectionKind::Certificate).count() > 0);
        for der in of(SectionKind::Certificate) {
            assert!(X509Certificate::from_der(der).is_ok_and(|(_, certificate)| certificate.is_ca()));
        }
    }
    if with_lists.is_ok() {
        assert!(plain.is_ok() && of(SectionKind::Crl).count() > 0);
        for der in of(SectionKind::Crl) {
            let (_, list) = CertificateRevocationList::from_der(der).expect("a list");
            assert!(list.next_update().is_some());
        }
    }
}
