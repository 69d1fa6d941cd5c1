//! How this proxy says who it is to a token endpoint.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use url::form_urlencoded::byte_serialize;
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::fetch::{FetchError, SecretSource};

/// How long an assertion is good (RFC 7523 §3).
const ASSERTION_LIFETIME: Duration = Duration::from_secs(60);
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const RSA_MODULUS_BITS_MIN: usize = 2048;

/// By what the token endpoint knows us.
#[derive(Clone, Debug, PartialEq)]
pub enum Authentication {
    /// RFC 6749 §2.3.1, in `Authorization`.
    SecretBasic(SecretSource),
    /// The same in the form.
    SecretPost(SecretSource),
    /// RFC 7523 §2.2.
    PrivateKeyJwt(std::sync::Arc<SigningKey>),
    /// RFC 8705 §2: our own certificate, in the TLS handshake.
    Tls,
}

/// A key that assertions are signed with. Equal where the keys and their names are.
pub struct SigningKey {
    pair: Pair,
    fingerprint: [u8; 32],
    /// The key's name at the provider, if it has one there.
    id: Option<String>,
}

enum Pair {
    Es256(EcdsaKeyPair),
    Rs256(RsaKeyPair),
}

/// Why a key cannot sign assertions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is neither a P-256 key nor an RSA key of 2048 bits or more")]
pub struct BadSigningKey;

/// A request's headers and the fields of its form.
pub type Fields = Vec<(&'static str, Zeroizing<String>)>;

impl Authentication {
    /// What is added to a request to `audience` (RFC 7521 §4.2).
    pub(super) async fn add(
        &self,
        client_id: &str,
        audience: &str,
        now: Timestamp,
        fields: &mut Fields,
    ) -> Result<HeaderMap, FetchError> {
        let mut headers = HeaderMap::new();
        let mut named = true;
        match self {
            Authentication::SecretBasic(source) => {
                let secret = Zeroizing::new(source.read().await?);
                // RFC 6749 §2.3.1: each in the encoding of forms first.
                let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
                let pair = Zeroizing::new(format!("{}:{}", encoded(client_id), encoded(&secret)));
                let text = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
                let mut value = HeaderValue::from_str(&text).map_err(|_| FetchError::Credential)?;
                value.set_sensitive(true);
                headers.insert(AUTHORIZATION, value);
                named = false;
            }
            Authentication::SecretPost(source) => {
                fields.push(("client_secret", Zeroizing::new(source.read().await?)));
            }
            Authentication::PrivateKeyJwt(key) => {
                let assertion = key.assertion(client_id, audience, now).ok_or(FetchError::Credential)?;
                fields.push(("client_assertion_type", ASSERTION_TYPE.to_owned().into()));
                fields.push(("client_assertion", assertion.into()));
            }
            Authentication::Tls => {}
        }
        if named {
            fields.push(("client_id", client_id.to_owned().into()));
        }
        Ok(headers)
    }
}

impl SigningKey {
    /// Of a private key and its name at the provider.
    pub fn new(key: &PrivateKeyDer<'_>, id: Option<String>) -> Result<SigningKey, BadSigningKey> {
        let der = key.secret_der();
        let ec = match key {
            PrivateKeyDer::Pkcs8(_) => EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).ok(),
            PrivateKeyDer::Sec1(_) => {
                EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, der).ok()
            }
            _ => None,
        };
        let rsa = || match key {
            PrivateKeyDer::Pkcs8(_) => RsaKeyPair::from_pkcs8(der).ok(),
            PrivateKeyDer::Pkcs1(_) => RsaKeyPair::from_der(der).ok(),
            _ => None,
        };
        let is_long = |pair: &RsaKeyPair| pair.public_modulus_len() * 8 >= RSA_MODULUS_BITS_MIN;
        let pair =
            ec.map(Pair::Es256).or_else(|| rsa().filter(is_long).map(Pair::Rs256)).ok_or(BadSigningKey)?;
        let public = match &pair {
            Pair::Es256(pair) => digest(&SHA256, pair.public_key().as_ref()),
            Pair::Rs256(pair) => digest(&SHA256, pair.public_key().as_ref()),
        };
        let fingerprint = public.as_ref().try_into().map_err(|_| BadSigningKey)?;
        Ok(SigningKey { pair, fingerprint, id })
    }

    /// RFC 7523 §3: for this endpoint, once, and for a minute.
    fn assertion(&self, client_id: &str, audience: &str, now: Timestamp) -> Option<String> {
        let algorithm = match &self.pair {
            Pair::Es256(_) => "ES256",
            Pair::Rs256(_) => "RS256",
        };
        let mut header = json!({ "alg": algorithm, "typ": "JWT" });
        if let Some(id) = &self.id {
            header["kid"] = id.as_str().into();
        }
        let mut nonce = [0; 16];
        rand::fill(&mut nonce).ok()?;
        let at = now.unix_seconds();
        let claims = json!({
            "iss": client_id,
            "sub": client_id,
            "aud": audience,
            "jti": hex::encode(nonce),
            "iat": at,
            "exp": now.plus(ASSERTION_LIFETIME).unix_seconds(),
        });
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let message = format!("{header}.{claims}");
        let signature = self.sign(message.as_bytes())?;
        Some(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Es256(pair) => Some(pair.sign(&random, message).ok()?.as_ref().to_vec()),
            Pair::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).ok()?;
                Some(signature)
            }
        }
    }
}

impl PartialEq for SigningKey {
    fn eq(&self, other: &SigningKey) -> bool {
        self.fingerprint == other.fingerprint && self.id == other.id
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.id).finish_non_exhaustive()
    }
}
