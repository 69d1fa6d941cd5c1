//! Keys as issuers publish them: whether those of a set can be used, and where each is by itself.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::pem::{PemObject, SectionKind};
use serde_json::{Map, Value};
use url::Url;

use super::key_fetch::KeysError;
use super::keys::{Key, KeySet, KeySetError, KeyUse};

/// A P-256 key in DER (RFC 5480 §2) up to the coordinates of its point, which is not compressed.
const P256_START: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];

/// Where the hyphens of a UUID stand (RFC 9562 §4).
const UUID_HYPHENS: [usize; 4] = [8, 13, 18, 23];
const UUID_LEN: usize = 36;

/// A `kid` of the form of a UUID: what may stand in an address that a key is fetched from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyId(String);

impl KeyId {
    pub fn parse(text: &str) -> Option<KeyId> {
        let fits = |(at, byte): (usize, u8)| match UUID_HYPHENS.contains(&at) {
            true => byte == b'-',
            false => byte.is_ascii_hexdigit(),
        };
        (text.len() == UUID_LEN && text.bytes().enumerate().all(fits)).then(|| KeyId(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where the key stands below this address, which ends with `/`.
    pub fn below(&self, base: &Url) -> Option<Url> {
        base.join(&self.0).ok()
    }
}

/// The one key that a PEM document holds.
pub(super) fn public_key(document: &[u8], kid: &KeyId) -> Result<Key, KeySetError> {
    let mut sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(document);
    let (Some(Ok((SectionKind::PublicKey, der))), None) = (sections.next(), sections.next()) else {
        return Err(KeySetError::Pem);
    };
    let point = der.strip_prefix(&P256_START).and_then(|point| point.split_at_checked(32));
    let [x, y] =
        point.map(|(x, y)| [x, y].map(|part| URL_SAFE_NO_PAD.encode(part))).ok_or(KeySetError::Pem)?;
    let members =
        [("kty", "EC"), ("crv", "P-256"), ("alg", "ES256"), ("kid", kid.as_str()), ("x", &x), ("y", &y)];
    let entry = Map::from_iter(members.map(|(name, value)| (name.to_owned(), Value::from(value))));
    Key::read(&entry, KeyUse::Signature).ok_or(KeySetError::Pem)
}

/// Whether a key set in a file can be used, so that a configuration can say what is wrong with it.
pub fn check_key_file(path: &Path, key_use: KeyUse) -> Result<(), KeysError> {
    check_key_set(&std::fs::read(path)?, key_use)
}

/// Whether a document is a key set that can be used.
pub fn check_key_set(document: &[u8], key_use: KeyUse) -> Result<(), KeysError> {
    KeySet::parse(document, key_use)?;
    Ok(())
}
