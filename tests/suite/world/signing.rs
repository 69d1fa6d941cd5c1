//! Keys of issuers, and tokens as an issuer, or an attacker, would sign them.
//!
//! Signed with aws-lc-rs directly over any header and payload text, well-formed or not: nothing here
//! refuses what the proxy has to.

use std::sync::{Arc, LazyLock};

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RsaKeyPair,
};
use aws_lc_rs::{hmac, signature};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// One key with its name and the algorithm that it signs with.
#[derive(Clone)]
pub struct Key {
    pub kid: String,
    pub algorithm: &'static str,
    material: Arc<Material>,
}

enum Material {
    Rsa(RsaKeyPair, &'static dyn signature::RsaEncoding),
    Ec(EcdsaKeyPair, &'static str),
    Ed(Ed25519KeyPair),
    Secret(Box<hmac::Key>),
}

/// One key for each algorithm that issuers use, made once a process.
pub static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    ["RS256", "PS256", "ES256", "ES384", "EdDSA", "RS512"]
        .map(|algorithm| Key::new(algorithm, algorithm))
        .to_vec()
});

impl Key {
    pub fn new(kid: &str, algorithm: &'static str) -> Key {
        let rsa = || RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let material = match algorithm {
            "RS256" => Material::Rsa(rsa(), &RSA_PKCS1_SHA256),
            "RS512" => Material::Rsa(rsa(), &RSA_PKCS1_SHA512),
            "PS256" => Material::Rsa(rsa(), &RSA_PSS_SHA256),
            "ES256" => {
                Material::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(), "P-256")
            }
            "ES384" => {
                Material::Ec(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(), "P-384")
            }
            "EdDSA" => Material::Ed(Ed25519KeyPair::generate().unwrap()),
            _ => panic!("no keys for `{algorithm}`"),
        };
        Key { kid: kid.to_owned(), algorithm, material: Arc::new(material) }
    }

    /// The oldest trick: HS256 with something public as the secret.
    pub fn confused(kid: &str, secret: &[u8]) -> Key {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
        Key {
            kid: kid.to_owned(),
            algorithm: "HS256",
            material: Arc::new(Material::Secret(Box::new(secret))),
        }
    }

    /// The public half as certificates and PEM files have it (RFC 5280 §4.1.2.7), in DER.
    pub fn public_der(&self) -> Vec<u8> {
        let der: Result<PublicKeyX509Der<'_>, _> = match &*self.material {
            Material::Rsa(pair, _) => pair.public_key().as_der(),
            Material::Ec(pair, _) => pair.public_key().as_der(),
            Material::Ed(pair) => pair.public_key().as_der(),
            Material::Secret(_) => panic!("a secret is never published"),
        };
        der.unwrap().as_ref().to_vec()
    }

    /// The public half as an issuer publishes it (RFC 7517).
    pub fn jwk(&self) -> Value {
        let mut jwk = match &*self.material {
            Material::Rsa(pair, _) => {
                let (_, der) = x509_parser::der_parser::parse_der(pair.public_key().as_ref()).unwrap();
                let numbers: Vec<_> =
                    der.as_sequence().unwrap().iter().map(|n| n.as_slice().unwrap()).collect();
                let unsigned = |n: &[u8]| URL_SAFE_NO_PAD.encode(&n[usize::from(n[0] == 0)..]);
                json!({"kty": "RSA", "n": unsigned(numbers[0]), "e": unsigned(numbers[1])})
            }
            Material::Ec(pair, curve) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(pair.public_key().as_ref().len() / 2);
                json!({"kty": "EC", "crv": curve, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)})
            }
            Material::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(pair.public_key())})
            }
            Material::Secret(_) => panic!("a secret is never published"),
        };
        for (name, value) in [("kid", self.kid.as_str()), ("alg", self.algorithm), ("use", "sig")] {
            jwk[name] = value.into();
        }
        jwk
    }

    /// A token in compact form over exactly these texts, which need not be UTF-8.
    pub fn token(&self, header: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = self.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &*self.material {
            Material::Rsa(pair, padding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*padding, &random, message, &mut signature).unwrap();
                signature
            }
            Material::Ec(pair, _) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Material::Ed(pair) => pair.sign(message).as_ref().to_vec(),
            Material::Secret(key) => hmac::sign(key, message).as_ref().to_vec(),
        }
    }
}

/// The token with one bit of its signature turned.
pub fn forged(token: &str) -> String {
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    signature[10] ^= 1;
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::jwk::Jwk;
    use jsonwebtoken::{Algorithm, DecodingKey, crypto};

    use super::*;

    fn verifies(token: &str, key: &Key) -> bool {
        let jwk: Jwk = serde_json::from_value(key.jwk()).unwrap();
        let algorithm: Algorithm = key.algorithm.parse().unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        crypto::verify(signature, signed.as_bytes(), &DecodingKey::from_jwk(&jwk).unwrap(), algorithm)
            .unwrap()
    }

    #[test]
    fn tokens_of_every_algorithm_verify_under_the_published_key_and_forged_ones_do_not() {
        let mut seen = 0;
        for key in KEYS.iter() {
            let token = key.token(json!({"alg": key.algorithm}).to_string(), "{\"a\":1, \"a\":2}");
            assert!(verifies(&token, key), "{}", key.algorithm);
            assert!(!verifies(&forged(&token), key), "{}", key.algorithm);
            seen += 1;
        }
        assert_eq!(seen, 6);
        let rsa = &KEYS[0];
        assert!(!verifies(
            &Key::confused("RS256", &rsa.public_der()).token("{\"alg\":\"HS256\"}", "{}"),
            rsa
        ));
        assert!(!verifies(&Key::new("other", "RS256").token("{\"alg\":\"RS256\"}", "{}"), rsa));
    }
}
