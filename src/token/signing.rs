//! Keys that sign tokens. Most are made in memory: for assertions for upstreams, the demo's tokens, and those that are
//! made up for a question; what they sign is verified like every other token. One that is read says to a token endpoint
//! who we are.

use std::fmt;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair, RsaEncoding, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::{GeneralPurpose, URL_SAFE_NO_PAD};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Map, Value, json};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::RSAPublicKey;

use super::algorithm::{Algorithm, KeyKind};
use super::keys::KeyUse;

/// A private key for one algorithm, never written down. Equal where the public keys are.
pub struct SigningKey {
    algorithm: Algorithm,
    pair: Pair,
}

enum Pair {
    Ec(EcdsaKeyPair, &'static str),
    Ed(Ed25519KeyPair),
    Rsa(Arc<RsaKeyPair>, &'static dyn RsaEncoding),
}

/// The library could not make a key, or sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key could not be made, or could not sign")]
pub struct SigningError;

/// Why a key that was read cannot sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is neither a P-256 key nor an RSA key of 2048 bits or more")]
pub struct BadSigningKey;

const RSA_MODULUS_BITS_MIN: usize = 2048;

/// Takes a tenth of a second to make, so there is one; under which `kid` it stands tells its holders apart.
static RSA: OnceLock<Arc<RsaKeyPair>> = OnceLock::new();

impl SigningKey {
    pub fn generate(algorithm: Algorithm) -> Result<SigningKey, SigningError> {
        let pair = match algorithm.key_kind() {
            KeyKind::P256 => {
                EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map(|pair| Pair::Ec(pair, "P-256"))
            }
            KeyKind::P384 => {
                EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).map(|pair| Pair::Ec(pair, "P-384"))
            }
            KeyKind::Ed25519 => Ed25519KeyPair::generate().map(Pair::Ed),
            KeyKind::Rsa => return Ok(SigningKey { algorithm, pair: Pair::Rsa(rsa()?, padding(algorithm)) }),
        };
        Ok(SigningKey { algorithm, pair: pair.map_err(|_| SigningError)? })
    }

    /// For ES256 or RS256, as the key is.
    pub fn read(key: &PrivateKeyDer<'_>) -> Result<SigningKey, BadSigningKey> {
        let (der, curve) = (key.secret_der(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let ec = match key {
            PrivateKeyDer::Pkcs8(_) => EcdsaKeyPair::from_pkcs8(curve, der).ok(),
            PrivateKeyDer::Sec1(_) => EcdsaKeyPair::from_private_key_der(curve, der).ok(),
            _ => None,
        };
        if let Some(pair) = ec {
            return Ok(SigningKey { algorithm: Algorithm::Es256, pair: Pair::Ec(pair, "P-256") });
        }
        let rsa = match key {
            PrivateKeyDer::Pkcs8(_) => RsaKeyPair::from_pkcs8(der).ok(),
            PrivateKeyDer::Pkcs1(_) => RsaKeyPair::from_der(der).ok(),
            _ => None,
        };
        let rsa = rsa.filter(|pair| pair.public_modulus_len() * 8 >= RSA_MODULUS_BITS_MIN);
        let pair = Pair::Rsa(Arc::new(rsa.ok_or(BadSigningKey)?), padding(Algorithm::Rs256));
        Ok(SigningKey { algorithm: Algorithm::Rs256, pair })
    }

    /// The public key (RFC 7517).
    pub fn jwk(&self) -> Map<String, Value> {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let key = match &self.pair {
            Pair::Ec(pair, curve) => {
                // SEC 1 §2.3.3: 4, then both coordinates.
                let point = pair.public_key().as_ref();
                let (x, y) = point[1..].split_at(point.len() / 2);
                json!({ "kty": "EC", "crv": curve, "x": text(x), "y": text(y) })
            }
            Pair::Ed(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": text(pair.public_key().as_ref()) })
            }
            Pair::Rsa(pair, _) => {
                let [n, e] = numbers(pair.public_key().as_ref());
                json!({ "kty": "RSA", "n": text(n), "e": text(e) })
            }
        };
        if let Value::Object(members) = key { members } else { Map::new() }
    }

    /// The key set to publish (RFC 7517), with this key as its only one.
    pub fn jwks(&self, kid: Option<&str>, key_use: KeyUse) -> Value {
        let mut key = self.jwk();
        let key_use = match key_use {
            KeyUse::Signature => "sig",
            KeyUse::JwtSvid => "jwt-svid",
        };
        for (name, value) in [("alg", Some(self.algorithm.as_str())), ("use", Some(key_use)), ("kid", kid)] {
            key.extend(value.map(|value| (name.to_owned(), value.into())));
        }
        json!({ "keys": [key] })
    }

    /// A token, by a key of this name if it has one.
    pub fn token(&self, media_type: &str, kid: Option<&str>, claims: &Value) -> Result<String, SigningError> {
        let mut header = json!({ "alg": self.algorithm.as_str(), "typ": media_type });
        if let Some(kid) = kid {
            header["kid"] = kid.into();
        }
        self.compact(&header, claims)
    }

    /// A token in compact form (RFC 7515 §7.1).
    pub fn compact(&self, header: &Value, claims: &Value) -> Result<String, SigningError> {
        self.compact_in(&URL_SAFE_NO_PAD, header, claims)
    }

    /// The same in another form of Base64.
    pub(super) fn compact_in(
        &self,
        form: &GeneralPurpose,
        header: &Value,
        claims: &Value,
    ) -> Result<String, SigningError> {
        let [header, claims] = [header, claims].map(|part| form.encode(part.to_string()));
        self.signed_in(form, &format!("{header}.{claims}"))
    }

    /// A token of these two parts, header and claims, whatever they say.
    pub fn signed(&self, message: &str) -> Result<String, SigningError> {
        self.signed_in(&URL_SAFE_NO_PAD, message)
    }

    pub(super) fn signed_in(&self, form: &GeneralPurpose, message: &str) -> Result<String, SigningError> {
        let (bytes, random) = (message.as_bytes(), SystemRandom::new());
        let signature = match &self.pair {
            Pair::Ec(pair, _) => form.encode(pair.sign(&random, bytes).map_err(|_| SigningError)?),
            Pair::Ed(pair) => form.encode(pair.sign(bytes)),
            Pair::Rsa(pair, padding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*padding, &random, bytes, &mut signature).map_err(|_| SigningError)?;
                form.encode(signature)
            }
        };
        Ok(format!("{message}.{signature}"))
    }
}

impl PartialEq for SigningKey {
    fn eq(&self, other: &SigningKey) -> bool {
        self.algorithm == other.algorithm && self.jwk() == other.jwk()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

fn rsa() -> Result<Arc<RsaKeyPair>, SigningError> {
    if let Some(pair) = RSA.get() {
        return Ok(Arc::clone(pair));
    }
    let made = RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_| SigningError)?;
    Ok(Arc::clone(RSA.get_or_init(|| Arc::new(made))))
}

/// Modulus and exponent of an `RSAPublicKey` (RFC 8017 §A.1.1) without the zero that says that they are positive.
fn numbers(key: &[u8]) -> [&[u8]; 2] {
    let Ok((_, key)) = RSAPublicKey::from_der(key) else { return [&[]; 2] };
    [key.modulus, key.exponent].map(|number| number.strip_prefix(&[0]).unwrap_or(number))
}

fn padding(algorithm: Algorithm) -> &'static dyn RsaEncoding {
    match algorithm {
        Algorithm::Ps256 => &signature::RSA_PSS_SHA256,
        Algorithm::Ps384 => &signature::RSA_PSS_SHA384,
        Algorithm::Ps512 => &signature::RSA_PSS_SHA512,
        Algorithm::Rs384 => &signature::RSA_PKCS1_SHA384,
        Algorithm::Rs512 => &signature::RSA_PKCS1_SHA512,
        Algorithm::Rs256 | Algorithm::Es256 | Algorithm::Es384 | Algorithm::EdDsa => {
            &signature::RSA_PKCS1_SHA256
        }
    }
}
