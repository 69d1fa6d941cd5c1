//! An issuer's keys, and its tokens, each for another person.

use std::ops::Range;
use std::thread;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
    RsaEncoding, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign::clock::Clock;
use serde_json::{Value, json};

/// How tokens may be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

pub struct Issuer {
    /// Of 2048 bits, as providers have them.
    rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    ed25519: Ed25519KeyPair,
    random: SystemRandom,
    issued: i64,
}

impl Algorithm {
    pub const ALL: [Algorithm; 9] = [
        Algorithm::Rs256,
        Algorithm::Rs384,
        Algorithm::Rs512,
        Algorithm::Ps256,
        Algorithm::Ps384,
        Algorithm::Ps512,
        Algorithm::Es256,
        Algorithm::Es384,
        Algorithm::EdDsa,
    ];

    /// As in RFC 7518 §3.1 and RFC 8037.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Rs256 => "RS256",
            Algorithm::Rs384 => "RS384",
            Algorithm::Rs512 => "RS512",
            Algorithm::Ps256 => "PS256",
            Algorithm::Ps384 => "PS384",
            Algorithm::Ps512 => "PS512",
            Algorithm::Es256 => "ES256",
            Algorithm::Es384 => "ES384",
            Algorithm::EdDsa => "EdDSA",
        }
    }

    fn rsa(self) -> Option<&'static dyn RsaEncoding> {
        match self {
            Algorithm::Rs256 => Some(&RSA_PKCS1_SHA256),
            Algorithm::Rs384 => Some(&RSA_PKCS1_SHA384),
            Algorithm::Rs512 => Some(&RSA_PKCS1_SHA512),
            Algorithm::Ps256 => Some(&RSA_PSS_SHA256),
            Algorithm::Ps384 => Some(&RSA_PSS_SHA384),
            Algorithm::Ps512 => Some(&RSA_PSS_SHA512),
            Algorithm::Es256 | Algorithm::Es384 | Algorithm::EdDsa => None,
        }
    }
}

impl Issuer {
    pub fn new() -> Issuer {
        Issuer {
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
            p256: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            p384: EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
            ed25519: Ed25519KeyPair::generate().unwrap(),
            random: SystemRandom::new(),
            issued: Clock::system().now().unix_seconds(),
        }
    }

    /// The key set (RFC 7517), a key for each algorithm, as most issuers name it.
    pub fn jwks(&self) -> String {
        let keys = Algorithm::ALL.map(|algorithm| {
            let mut key = self.public_key(algorithm);
            for (name, value) in [("kid", algorithm.as_str()), ("alg", algorithm.as_str()), ("use", "sig")] {
                key[name] = value.into();
            }
            key
        });
        json!({ "keys": keys }).to_string()
    }

    fn public_key(&self, algorithm: Algorithm) -> Value {
        let point = |pair: &EcdsaKeyPair, curve: &str| {
            let (x, y) = pair.public_key().as_ref()[1..].split_at(pair.public_key().as_ref().len() / 2);
            json!({"kty": "EC", "crv": curve, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)})
        };
        match algorithm {
            Algorithm::Es256 => point(&self.p256, "P-256"),
            Algorithm::Es384 => point(&self.p384, "P-384"),
            Algorithm::EdDsa => {
                let x = URL_SAFE_NO_PAD.encode(self.ed25519.public_key());
                json!({"kty": "OKP", "crv": "Ed25519", "x": x})
            }
            _ => {
                // RSAPublicKey (RFC 8017 appendix A.1.1)
                let (_, der) = x509_parser::der_parser::parse_der(self.rsa.public_key().as_ref()).unwrap();
                let number = |at: usize| {
                    let bytes = der.as_sequence().unwrap()[at].as_slice().unwrap();
                    URL_SAFE_NO_PAD.encode(&bytes[usize::from(bytes[0] == 0)..])
                };
                json!({"kty": "RSA", "n": number(0), "e": number(1)})
            }
        }
    }

    /// The access token of person `number`, who may read orders.
    pub fn token(&self, algorithm: Algorithm, number: usize) -> String {
        let name = algorithm.as_str();
        let header = format!(r#"{{"alg":"{name}","typ":"at+jwt","kid":"{name}"}}"#);
        let (issued, expires) = (self.issued, self.issued + 12 * 3600);
        let claims = format!(
            r#"{{"iss":"https://login.shop.example","aud":"https://orders.shop.example","sub":"person-{number}","client_id":"storefront-web","uid":"00u{number:017}","tenant":"acme","scope":"openid profile orders:read","jti":"{number:032x}","iat":{issued},"nbf":{issued},"exp":{expires}}}"#
        );
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.sign(algorithm, signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    /// The tokens of these persons; signing them is the work of all cores.
    pub fn tokens(&self, algorithm: Algorithm, numbers: Range<usize>) -> Vec<String> {
        let cores = thread::available_parallelism().unwrap().get();
        let numbers: Vec<usize> = numbers.collect();
        thread::scope(|scope| {
            let parts = numbers.chunks(numbers.len().div_ceil(cores).max(1));
            let mint = |part: &[usize]| part.iter().map(|at| self.token(algorithm, *at)).collect::<Vec<_>>();
            let parts: Vec<_> = parts.map(|part| scope.spawn(move || mint(part))).collect();
            parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
        })
    }

    /// Person `number`'s token with a signature that is not of it.
    pub fn forged(&self, algorithm: Algorithm, number: usize) -> String {
        let (token, other) = (self.token(algorithm, number), self.token(algorithm, number + 1));
        let (signed, _) = token.rsplit_once('.').unwrap();
        let (_, signature) = other.rsplit_once('.').unwrap();
        format!("{signed}.{signature}")
    }

    fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
        let by = |pair: &EcdsaKeyPair| pair.sign(&self.random, message).unwrap().as_ref().to_vec();
        match algorithm {
            Algorithm::Es256 => by(&self.p256),
            Algorithm::Es384 => by(&self.p384),
            Algorithm::EdDsa => self.ed25519.sign(message).as_ref().to_vec(),
            _ => {
                let mut signature = vec![0; self.rsa.public_modulus_len()];
                let encoding = algorithm.rsa().unwrap();
                self.rsa.sign(encoding, &self.random, message, &mut signature).unwrap();
                signature
            }
        }
    }
}
