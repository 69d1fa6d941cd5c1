//! Certificates that no library mints: a sound one is taken apart, changed, and signed again by its CA.

use countersign::cli::mint::Minted;
use rcgen::{KeyPair, SigningKey};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// A DER value (X.690 §8.1) that a test may change at will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Der {
    pub tag: u8,
    pub content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Bytes(Vec<u8>),
    Parts(Vec<Der>),
}

pub const BOOLEAN: u8 = 0x01;
pub const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
pub const SEQUENCE: u8 = 0x30;
const CONSTRUCTED: u8 = 0x20;

impl Der {
    pub fn new(tag: u8, bytes: &[u8]) -> Der {
        Der { tag, content: Content::Bytes(bytes.to_vec()) }
    }

    pub fn of(tag: u8, parts: Vec<Der>) -> Der {
        Der { tag, content: Content::Parts(parts) }
    }

    /// An object identifier by its content, as `[0x55, 0x1d, 0x11]`.
    pub fn oid(content: &[u8]) -> Der {
        Der::new(OID, content)
    }

    /// The first value in `bytes`, and what stands after it.
    pub fn parse(bytes: &[u8]) -> (Der, &[u8]) {
        let (tag, rest) = (bytes[0], &bytes[1..]);
        let (length, rest) = match rest[0] {
            short @ ..0x80 => (usize::from(short), &rest[1..]),
            long => {
                let (length, rest) = rest[1..].split_at(usize::from(long & 0x7f));
                (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
            }
        };
        let (mut content, rest) = rest.split_at(length);
        if tag & CONSTRUCTED == 0 {
            return (Der::new(tag, content), rest);
        }
        let mut parts = Vec::new();
        while !content.is_empty() {
            let (part, after) = Der::parse(content);
            parts.push(part);
            content = after;
        }
        (Der::of(tag, parts), rest)
    }

    pub fn encode(&self) -> Vec<u8> {
        let content = match &self.content {
            Content::Bytes(bytes) => bytes.clone(),
            Content::Parts(parts) => parts.iter().flat_map(Der::encode).collect(),
        };
        [vec![self.tag], length(content.len()), content].concat()
    }

    pub fn parts(&mut self) -> &mut Vec<Der> {
        match &mut self.content {
            Content::Parts(parts) => parts,
            Content::Bytes(_) => panic!("a value without parts"),
        }
    }
}

fn length(length: usize) -> Vec<u8> {
    let bytes = length.to_be_bytes();
    let used = &bytes[bytes.iter().take_while(|&&byte| byte == 0).count()..];
    match length {
        ..0x80 => vec![length as u8],
        _ => [&[0x80 | used.len() as u8], used].concat(),
    }
}

/// Where the fields of a version 3 TBSCertificate stand (RFC 5280 §4.1).
pub mod field {
    pub const VERSION: usize = 0;
    pub const SERIAL: usize = 1;
    pub const SIGNATURE: usize = 2;
    pub const VALIDITY: usize = 4;
    pub const SUBJECT_KEY: usize = 6;
    pub const EXTENSIONS: usize = 7;
}

/// Extensions of RFC 5280 §4.2 by their object identifiers' content.
pub mod extension {
    pub const KEY_USAGE: [u8; 3] = [0x55, 0x1d, 0x0f];
    pub const SAN: [u8; 3] = [0x55, 0x1d, 0x11];
    pub const BASIC_CONSTRAINTS: [u8; 3] = [0x55, 0x1d, 0x13];
    pub const NAME_CONSTRAINTS: [u8; 3] = [0x55, 0x1d, 0x1e];
    pub const EXTENDED_KEY_USAGE: [u8; 3] = [0x55, 0x1d, 0x25];
    /// Below the arc for examples: nobody's.
    pub const UNKNOWN: [u8; 4] = [0x88, 0x37, 0x03, 0x01];
}

/// A certificate that is taken apart.
pub struct Open {
    pub tbs: Der,
    /// The algorithm that is named outside of what is signed.
    pub algorithm: Der,
}

impl Open {
    fn extensions(&mut self) -> &mut Vec<Der> {
        self.tbs.parts()[field::EXTENSIONS].parts()[0].parts()
    }

    /// Adds an extension with this value.
    pub fn add(&mut self, id: &[u8], critical: bool, value: &[u8]) {
        let mut parts = vec![Der::oid(id), Der::new(OCTET_STRING, value)];
        if critical {
            parts.insert(1, Der::new(BOOLEAN, &[0xff]));
        }
        self.extensions().push(Der::of(SEQUENCE, parts));
    }

    pub fn remove(&mut self, id: &[u8]) {
        let id = Der::oid(id);
        self.extensions().retain_mut(|extension| extension.parts()[0] != id);
    }

    pub fn replace(&mut self, id: &[u8], value: &[u8]) {
        self.remove(id);
        self.add(id, true, value);
    }

    /// The same extension again.
    pub fn repeat(&mut self, id: &[u8]) {
        let id = Der::oid(id);
        let same = |extension: &mut Der| extension.parts()[0] == id;
        let mut again: Vec<_> =
            self.extensions().iter_mut().filter_map(|it| same(it).then(|| it.clone())).collect();
        self.extensions().append(&mut again);
    }

    /// Names another algorithm, inside and outside, without signing by it.
    pub fn pretend(&mut self, algorithm: &[u8], parameters: &[Der]) {
        let algorithm = Der::of(SEQUENCE, [&[Der::oid(algorithm)], parameters].concat());
        self.tbs.parts()[field::SIGNATURE] = algorithm.clone();
        self.algorithm = algorithm;
    }
}

/// The certificate `der`, changed and signed anew by `ca`.
pub fn forged(der: &[u8], ca: &KeyPair, change: impl FnOnce(&mut Open)) -> Vec<u8> {
    let (mut certificate, _) = Der::parse(der);
    let [tbs, algorithm, _] = &certificate.parts()[..] else { panic!("not a certificate") };
    let mut open = Open { tbs: tbs.clone(), algorithm: algorithm.clone() };
    change(&mut open);
    let signature = ca.sign(&open.tbs.encode()).unwrap();
    let signature = Der::new(BIT_STRING, &[&[0], &signature[..]].concat());
    Der::of(SEQUENCE, vec![open.tbs, open.algorithm, signature]).encode()
}

/// The chain of what was minted, leaf first.
pub fn chain_of(minted: &Minted) -> Vec<Vec<u8>> {
    let chain = CertificateDer::pem_slice_iter(minted.chain.as_bytes());
    chain.map(|certificate| certificate.unwrap().to_vec()).collect()
}

/// The certificate in this PEM.
pub fn der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

/// DER as PEM.
pub fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use countersign::clock::Clock;

    use super::*;
    use crate::world::certificates::{Certificates, Who};

    #[test]
    fn a_certificate_that_is_only_taken_apart_is_the_same() {
        let certificates = Certificates::new(&Clock::system());
        let minted = certificates.client(Who::Storefront).unwrap();
        let (parsed, rest) = Der::parse(&minted.der);
        assert_eq!((parsed.encode(), rest), (minted.der.clone(), &[][..]));
        assert_eq!(length(0x7f), [0x7f]);
        assert_eq!(length(0x80), [0x81, 0x80]);
        assert_eq!(length(0x1234), [0x82, 0x12, 0x34]);
        assert_eq!(chain_of(&Minted { chain: pem(&minted.der), ..minted }).len(), 1);
    }
}
