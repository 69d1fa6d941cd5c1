//! The certificate that a hop was shown, in the header that it tells it by.
//!
//! Strict: whatever is not exactly one chain, as the hop's own documentation has it, is an error.

use http::header::{HeaderMap, HeaderValue};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{PemObject, SectionKind};

use super::{structured, xfcc};
use crate::audit::Reason;
use crate::proxy::refusal::Refusal;

/// The form in which a kind of hop tells a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateHeader {
    /// An ALB that passes certificates through: the whole chain, percent-encoded PEM.
    AlbChain,
    /// An ALB that verifies certificates itself: the leaf alone.
    AlbLeaf,
    /// An ALB that asks for none: nothing is read.
    AlbNone,
    /// Envoy: `x-forwarded-client-cert`.
    Envoy,
    /// RFC 9440.
    Rfc9440,
}

/// What is wrong with a header, in words.
pub type Fault = &'static str;

impl CertificateHeader {
    /// Whether it is the form of an ALB.
    pub fn is_alb(self) -> bool {
        match self {
            CertificateHeader::AlbChain | CertificateHeader::AlbLeaf | CertificateHeader::AlbNone => true,
            CertificateHeader::Envoy | CertificateHeader::Rfc9440 => false,
        }
    }

    /// The fields that are read; no others of the same kind are.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            CertificateHeader::AlbChain => &["x-amzn-mtls-clientcert"],
            CertificateHeader::AlbLeaf => &["x-amzn-mtls-clientcert-leaf"],
            CertificateHeader::AlbNone => &[],
            CertificateHeader::Envoy => &["x-forwarded-client-cert"],
            CertificateHeader::Rfc9440 => &["client-cert", "client-cert-chain"],
        }
    }

    /// Their values, each of which may stand once: of two nobody can say which is the hop's.
    pub fn values(self, headers: &HeaderMap) -> Result<Vec<Option<&HeaderValue>>, Refusal> {
        self.names().iter().map(|name| only(headers, name)).collect()
    }

    /// The chain that these values tell, leaf first. At least one of them is there.
    pub fn chain(self, values: &[Option<&HeaderValue>]) -> Result<Vec<CertificateDer<'static>>, Fault> {
        let text = |value: &HeaderValue| value.to_str().map(str::to_owned).map_err(|_| "it is not ASCII");
        match (self, values) {
            (CertificateHeader::AlbChain, [Some(chain)]) => pem(&text(chain)?),
            (CertificateHeader::AlbLeaf, [Some(leaf)]) => one(pem(&text(leaf)?)?),
            (CertificateHeader::Envoy, [Some(element)]) => xfcc::chain(&text(element)?),
            (CertificateHeader::Rfc9440, [Some(leaf), others]) => {
                let mut chain = vec![structured::byte_sequence(&text(leaf)?)?];
                if let Some(others) = others {
                    chain.extend(structured::byte_sequences(&text(others)?)?);
                }
                Ok(chain.into_iter().map(CertificateDer::from).collect())
            }
            _ => Err("`client-cert-chain` without its `client-cert`"),
        }
    }
}

/// The only value of a field, if there is one.
pub(super) fn only<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h HeaderValue>, Refusal> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(Refusal::of(Reason::RequestMalformed).because(format!("more than one `{name}`"))),
    }
}

pub(super) fn one(chain: Vec<CertificateDer<'static>>) -> Result<Vec<CertificateDer<'static>>, Fault> {
    if chain.len() == 1 { Ok(chain) } else { Err("it holds several certificates where one is told") }
}

/// The certificates in percent-encoded PEM.
pub(super) fn pem(text: &str) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let text = decoded(text)?;
    if has_text_beside(&text) {
        // As it stands between two values that somebody joined.
        return Err("it has text beside its PEM");
    }
    let mut chain = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(&text) {
        match section {
            Ok((SectionKind::Certificate, der)) => chain.push(CertificateDer::from(der)),
            Ok(_) => return Err("it holds PEM that is no certificate"),
            Err(_) => return Err("it is not PEM"),
        }
    }
    if chain.is_empty() { Err("it holds no certificate") } else { Ok(chain) }
}

fn has_text_beside(text: &[u8]) -> bool {
    let mut is_inside = false;
    text.split(|byte| matches!(byte, b'\n' | b'\r')).any(|line| {
        is_inside |= line.starts_with(b"-----BEGIN ");
        let is_beside = !is_inside && !line.is_empty();
        is_inside &= !line.starts_with(b"-----END ");
        is_beside
    })
}

/// Escapes alone are undone: `+` is a digit of Base64 and not a blank.
fn decoded(text: &str) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => {
                let digits = [rest.next(), rest.next()].map(Option::unwrap_or_default);
                let mut decoded = [0];
                hex::decode_to_slice(digits, &mut decoded).map_err(|_| "it has a `%` without two digits")?;
                decoded[0]
            }
            byte => byte,
        };
        if !matches!(byte, b'\n' | b'\r' | b' '..=b'~') {
            return Err("it has bytes that PEM has not");
        }
        bytes.push(byte);
    }
    Ok(bytes)
}
