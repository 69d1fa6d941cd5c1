//! An issuer's public keys, read from a JWK set (RFC 7517) or a SPIFFE bundle.
//!
//! Invariants: every key is public, asymmetric, strong enough, meant for signatures and pinned to one
//! kind of algorithm. A document without one such key is an error, so it never replaces a good set. Keys that
//! do not qualify are left out one by one. Not checked: moduli from the ROCA generator (CVE-2017-15361).

use std::collections::BTreeSet;
use std::sync::Arc;

use aws_lc_rs::digest::{self, SHA256};
use aws_lc_rs::signature::ParsedPublicKey;
use serde_json::{Map, Value};

use super::algorithm::{Algorithm, KeyKind};
use super::json::{self, JsonError, JsonLimits};
use super::jwt::decode;

/// Most entries of a key set, unusable ones included.
pub const KEYS_MAX: usize = 128;

const LIMITS: JsonLimits = JsonLimits { depth_max: 8, values_max: 8192 };
const RSA_BITS_MIN: usize = 2048;
const RSA_BITS_MAX: usize = 8192;
/// Smaller exponents have a history of padding attacks; FIPS 186-5 §5.1 asks for more than 2^16.
const RSA_EXPONENT_MIN: u64 = 65_537;
const RSA_EXPONENT_BYTES_MAX: usize = 5;

/// What marks the keys of a set that sign tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyUse {
    /// `use` is absent or `sig` (RFC 7517 §4.2).
    Signature,
    /// `use` is `jwt-svid` (SPIFFE Trust Domain and Bundle §4.2.2).
    JwtSvid,
}

/// SHA-256 over a key's kind, material, `kid`, `alg` and `issuer`: equal names mean the same key, which may
/// sign the same tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName([u8; 32]);

/// One usable key.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub name: KeyName,
    pub kid: Option<Arc<str>>,
    /// Entra's `issuer` of a key: whose tokens it signs, perhaps with `{tenantid}` in it.
    pub issuer: Option<Arc<str>>,
    /// The key as each algorithm takes it: those of its kind, or the only one that its `alg` allows.
    usable_by: Vec<(Algorithm, ParsedPublicKey)>,
}

/// All usable keys of an issuer at one time; at least one, unless each is fetched by itself.
#[derive(Clone, Debug, Default)]
pub(super) struct KeySet {
    keys: Vec<Key>,
}

/// Why a document is no key set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    #[error("the key set {0}")]
    Json(#[from] JsonError),
    #[error("the key set has no list `keys` of objects")]
    Shape,
    #[error("the key set has more than {KEYS_MAX} keys")]
    TooMany,
    #[error("the key set has no usable key")]
    Empty,
    #[error("the document is no P-256 key in PEM")]
    Pem,
    #[error("what the key is called by has not the form of a UUID")]
    Kid,
}

impl KeySet {
    pub fn parse(document: &[u8], key_use: KeyUse) -> Result<KeySet, KeySetError> {
        let members = json::object(document, LIMITS)?;
        let Some(Value::Array(entries)) = members.get("keys") else { return Err(KeySetError::Shape) };
        if entries.len() > KEYS_MAX {
            return Err(KeySetError::TooMany);
        }
        let mut keys = Vec::new();
        for entry in entries {
            let entry = entry.as_object().ok_or(KeySetError::Shape)?;
            keys.extend(Key::read(entry, key_use));
        }
        if keys.is_empty() { Err(KeySetError::Empty) } else { Ok(KeySet { keys }) }
    }

    /// With this key as the last one, and without the first ones that are then over `keys_max`.
    pub fn and(&self, key: Key, keys_max: usize) -> KeySet {
        let mut keys = self.keys.clone();
        keys.push(key);
        keys.drain(..keys.len().saturating_sub(keys_max));
        KeySet { keys }
    }

    /// Whether there is one of this `kid`.
    pub fn names(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| key.kid.as_deref() == Some(kid))
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// The keys that have a `kid`.
    pub fn ids(&self) -> BTreeSet<(Arc<str>, KeyName)> {
        self.keys.iter().filter_map(|key| Some((key.kid.clone()?, key.name))).collect()
    }

    pub fn holds(&self, name: &KeyName) -> bool {
        self.keys.iter().any(|key| key.name == *name)
    }

    /// The keys that a token with this `alg` and `kid` can be verified with. Without a `kid` the set
    /// must leave no choice.
    pub fn candidates(&self, algorithm: Algorithm, kid: Option<&str>) -> Vec<&Key> {
        let fitting = self.keys.iter().filter(|key| key.for_algorithm(algorithm).is_some());
        match kid {
            Some(kid) => fitting.filter(|key| key.kid.as_deref() == Some(kid)).collect(),
            None => {
                let all: Vec<&Key> = fitting.collect();
                if all.len() == 1 { all } else { Vec::new() }
            }
        }
    }
}

impl Key {
    /// Whether `signature` is this algorithm's over `message` by this key's holder.
    pub fn verifies(&self, algorithm: Algorithm, message: &str, signature: &[u8]) -> bool {
        let key = self.for_algorithm(algorithm);
        key.is_some_and(|key| key.verify_sig(message.as_bytes(), signature).is_ok())
    }

    fn for_algorithm(&self, algorithm: Algorithm) -> Option<&ParsedPublicKey> {
        self.usable_by.iter().find(|(usable, _)| *usable == algorithm).map(|(_, key)| key)
    }

    /// `None` for whatever may not verify a token's signature.
    pub fn read(entry: &Map<String, Value>, key_use: KeyUse) -> Option<Key> {
        let private = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
        if private.iter().any(|name| entry.contains_key(*name)) || !is_meant(entry, key_use) {
            return None;
        }
        let (kind, parts) = match (text(entry, "kty")?, text(entry, "crv")) {
            ("RSA", None) => (KeyKind::Rsa, [bytes(entry, "n")?, bytes(entry, "e")?]),
            ("EC", Some("P-256")) => (KeyKind::P256, [bytes(entry, "x")?, bytes(entry, "y")?]),
            ("EC", Some("P-384")) => (KeyKind::P384, [bytes(entry, "x")?, bytes(entry, "y")?]),
            ("OKP", Some("Ed25519")) => (KeyKind::Ed25519, [bytes(entry, "x")?, Vec::new()]),
            _ => return None,
        };
        if !is_strong(kind, &parts) {
            return None;
        }
        let only = match entry.get("alg") {
            None => None,
            Some(named) => Some(named.as_str()?.parse::<Algorithm>().ok()?),
        };
        let of_its_kind = Algorithm::ALL.into_iter().filter(|algorithm| algorithm.key_kind() == kind);
        let usable = of_its_kind.filter(|algorithm| only.is_none_or(|only| only == *algorithm));
        let usable_by: Option<Vec<_>> =
            usable.map(|algorithm| Some((algorithm, algorithm.public_key(&parts)?))).collect();
        let usable_by = usable_by.filter(|usable_by| !usable_by.is_empty())?;
        let kid = optional_text(entry, "kid")?;
        let issuer = optional_text(entry, "issuer")?;
        let alg = only.map(Algorithm::as_str);
        let name = KeyName::of(kind, &parts, [kid.as_deref(), alg, issuer.as_deref()]);
        Some(Key { name, kid, issuer, usable_by })
    }
}

impl KeyName {
    fn of(kind: KeyKind, parts: &[Vec<u8>; 2], labels: [Option<&str>; 3]) -> KeyName {
        let mut hash = digest::Context::new(&SHA256);
        hash.update(&[kind as u8]);
        let labels = labels.iter().map(|label| label.map(str::as_bytes));
        for field in parts.iter().map(|part| Some(part.as_slice())).chain(labels) {
            hash.update(&[u8::from(field.is_some())]);
            let field = field.unwrap_or_default();
            hash.update(&(field.len() as u64).to_be_bytes());
            hash.update(field);
        }
        let mut name = [0; 32];
        name.copy_from_slice(hash.finish().as_ref());
        KeyName(name)
    }
}

/// Honours `use` and `key_ops` (RFC 7517 §4.2, §4.3).
fn is_meant(entry: &Map<String, Value>, key_use: KeyUse) -> bool {
    let by_use = match (entry.get("use"), key_use) {
        (None, KeyUse::Signature) => true,
        (Some(Value::String(named)), KeyUse::Signature) => named == "sig",
        (Some(Value::String(named)), KeyUse::JwtSvid) => named == "jwt-svid",
        _ => false,
    };
    let by_operations = match entry.get("key_ops") {
        None => true,
        Some(Value::Array(named)) => named.iter().any(|operation| operation == "verify"),
        Some(_) => false,
    };
    by_use && by_operations
}

/// Whether the parts are of a size that is strong enough, and no other.
fn is_strong(kind: KeyKind, [first, second]: &[Vec<u8>; 2]) -> bool {
    match kind {
        KeyKind::Rsa => is_strong_modulus(first) && is_strong_exponent(second),
        KeyKind::P256 => first.len() == 32 && second.len() == 32,
        KeyKind::P384 => first.len() == 48 && second.len() == 48,
        KeyKind::Ed25519 => first.len() == 32,
    }
}

fn is_strong_modulus(modulus: &[u8]) -> bool {
    let leading = modulus.first().map_or(8, |byte| byte.leading_zeros() as usize);
    let bits = (modulus.len() * 8).saturating_sub(leading);
    let odd = modulus.last().is_some_and(|byte| byte & 1 == 1);
    leading < 8 && odd && (RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits)
}

fn is_strong_exponent(exponent: &[u8]) -> bool {
    let value = exponent.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    exponent.len() <= RSA_EXPONENT_BYTES_MAX && value >= RSA_EXPONENT_MIN && value & 1 == 1
}

fn text<'e>(entry: &'e Map<String, Value>, name: &str) -> Option<&'e str> {
    entry.get(name)?.as_str()
}

/// `None` where the member is there and no string.
fn optional_text(entry: &Map<String, Value>, name: &str) -> Option<Option<Arc<str>>> {
    match entry.get(name) {
        None => Some(None),
        Some(value) => value.as_str().map(|text| Some(text.into())),
    }
}

fn bytes(entry: &Map<String, Value>, name: &str) -> Option<Vec<u8>> {
    decode(text(entry, name)?)
}

#[cfg(test)]
impl KeyName {
    pub(super) const FOR_TESTS: KeyName = KeyName([0; 32]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_keys_have_one_name() {
        let parts = |first: usize| [vec![1; first], vec![1; 64 - first]];
        let mut names: Vec<KeyName> = [
            [None, None, None],
            [Some(""), None, None],
            [None, None, Some("")],
            [Some("a"), None, None],
            [Some("a"), Some("ES256"), None],
            [Some("a"), None, Some("\0\0")],
            [Some("a\0\u{1}"), None, None],
        ]
        .map(|labels| KeyName::of(KeyKind::P256, &parts(32), labels))
        .into();
        names.push(KeyName::of(KeyKind::P256, &parts(31), [None; 3]));
        names.push(KeyName::of(KeyKind::P384, &parts(32), [None; 3]));
        assert_eq!(BTreeSet::from_iter(&names).len(), names.len());
    }
}
