//! How this proxy says who it is to a token endpoint.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use http::header::{AUTHORIZATION, HeaderMap};
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::fetch::{FetchError, SecretSource, basic};
use crate::token::{BadSigningKey, SigningKey};

/// How long an assertion is good (RFC 7523 §3).
const ASSERTION_LIFETIME: Duration = Duration::from_secs(60);
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// By what the token endpoint knows us.
#[derive(Clone, Debug, PartialEq)]
pub enum Authentication {
    /// RFC 6749 §2.3.1, in `Authorization`.
    SecretBasic(SecretSource),
    /// The same in the form.
    SecretPost(SecretSource),
    /// RFC 7523 §2.2.
    PrivateKeyJwt(Arc<AssertionKey>),
    /// RFC 8705 §2: our own certificate, in the TLS handshake.
    Tls,
}

/// A key that assertions are signed with, and its name at the provider, if it has one there.
#[derive(Debug, PartialEq)]
pub struct AssertionKey {
    key: SigningKey,
    id: Option<String>,
}

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
                headers.insert(AUTHORIZATION, basic(client_id, &secret).ok_or(FetchError::Credential)?);
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

impl AssertionKey {
    pub fn read(key: &PrivateKeyDer<'_>, id: Option<String>) -> Result<AssertionKey, BadSigningKey> {
        Ok(AssertionKey { key: SigningKey::read(key)?, id })
    }

    /// RFC 7523 §3: for this endpoint, once, and for a minute.
    fn assertion(&self, client_id: &str, audience: &str, now: Timestamp) -> Option<String> {
        let mut nonce = [0; 16];
        rand::fill(&mut nonce).ok()?;
        let claims = json!({
            "iss": client_id,
            "sub": client_id,
            "aud": audience,
            "jti": hex::encode(nonce),
            "iat": now.unix_seconds(),
            "exp": now.plus(ASSERTION_LIFETIME).unix_seconds(),
        });
        self.key.token("JWT", self.id.as_deref(), &claims).ok()
    }
}
