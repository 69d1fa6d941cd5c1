//! The demo's OIDC issuer: discovery and key set over plain HTTP on loopback, and access tokens
//! (RFC 9068) with the claim names that the sample policy's issuer has.
//!
//! For development only, by construction: its key is made when it starts and is never written down,
//! and it opens loopback alone. It hands tokens to whoever starts the demo, not over the network.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::DemoError;
use super::loopback::{self, Listening, LoopbackError};
use crate::clock::Timestamp;
use crate::token::SigningKey;
use crate::token::{Algorithm, KeyUse, TokenType};

/// Signs tokens; what it signs is true only in the demo.
pub struct IssuerKey(SigningKey);

/// What one token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// Alice, who has just logged in with two factors.
    Alice,
    /// Alice, who logged in yesterday.
    AliceSinceYesterday,
    /// Alice's token of this morning, which is over.
    AliceExpired,
    /// Alice, in a token that may not read orders.
    AliceWithoutScope,
    /// Alice's token of the storefront, exchanged for one with which an agent acts for her (RFC 8693).
    AliceThroughAgent,
    /// Bob, who tests what comes next.
    Bob,
    /// Sam, of support.
    Sam,
    /// An agent acting for Alice.
    Assistant,
    /// The same agent, acting for nobody.
    AssistantAlone,
}

/// Of every token.
const AUDIENCE: &str = "https://orders.shop.example";
const KEY_ID: &str = "demo";
const AGENT: &str = "assistant-7";
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Login {
    pub const ALL: [Login; 9] = [
        Login::Alice,
        Login::AliceSinceYesterday,
        Login::AliceExpired,
        Login::AliceWithoutScope,
        Login::AliceThroughAgent,
        Login::Bob,
        Login::Sam,
        Login::Assistant,
        Login::AssistantAlone,
    ];

    /// As files call it.
    pub fn name(self) -> &'static str {
        match self {
            Login::Alice => "alice",
            Login::AliceSinceYesterday => "alice-since-yesterday",
            Login::AliceExpired => "alice-expired",
            Login::AliceWithoutScope => "alice-without-scope",
            Login::AliceThroughAgent => "alice-through-agent",
            Login::Bob => "bob",
            Login::Sam => "sam",
            Login::Assistant => "assistant",
            Login::AssistantAlone => "assistant-alone",
        }
    }

    /// The claims that are not those of every token; `null` takes one away.
    fn claims(self, now: Timestamp) -> Value {
        let ago = |time: Duration| now.minus(time).unix_seconds();
        match self {
            Login::Alice => json!({}),
            Login::AliceSinceYesterday => json!({ "auth_time": ago(DAY) }),
            Login::AliceExpired => json!({ "iat": ago(60 * MINUTE), "exp": ago(30 * MINUTE) }),
            Login::AliceWithoutScope => json!({ "scp": ["profile"] }),
            Login::AliceThroughAgent => json!({ "act": { "sub": AGENT, "cid": AGENT } }),
            Login::Bob => json!({ "sub": "bob", "uid": "00u-bob", "groups": ["beta"] }),
            Login::Sam => {
                json!({ "sub": "sam", "uid": "00u-sam", "scp": ["profile"], "groups": ["support"] })
            }
            Login::Assistant => json!({ "client_id": AGENT, "cid": AGENT, "act": { "sub": AGENT } }),
            Login::AssistantAlone => json!({
                "sub": AGENT, "client_id": AGENT, "cid": AGENT, "uid": null, "acr": null, "auth_time": null,
            }),
        }
    }
}

impl IssuerKey {
    pub fn generate() -> Result<IssuerKey, DemoError> {
        Ok(IssuerKey(SigningKey::generate(Algorithm::Es256)?))
    }

    /// The key set to publish (RFC 7517).
    pub fn jwks(&self) -> Value {
        self.0.jwks(Some(KEY_ID), KeyUse::Signature)
    }

    /// An access token of the issuer at `url`, valid from `now` for `lifetime`.
    pub fn token(
        &self,
        url: &str,
        login: Login,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<String, DemoError> {
        let sound = json!({
            "iss": url,
            "aud": AUDIENCE,
            "sub": "alice",
            "client_id": "storefront-web",
            "cid": "storefront-web",
            "uid": "00u-alice",
            "scp": ["orders:read"],
            "acr": "mfa",
            "auth_time": now.unix_seconds(),
            "iat": now.unix_seconds(),
            "exp": now.plus(lifetime).unix_seconds(),
            "jti": login.name(),
        });
        let claims = laid_over(sound, login.claims(now));
        Ok(self.0.token(TokenType::AccessToken.media_type(), Some(KEY_ID), &claims)?)
    }
}

/// An issuer that can be asked for its keys.
pub struct Issuer {
    pub url: String,
    _listening: Listening,
}

impl Issuer {
    pub async fn start(key: &IssuerKey) -> Result<Issuer, DemoError> {
        let listener = loopback::bind(loopback::ANY_PORT).await?;
        let failed = |error| LoopbackError::Bind(loopback::ANY_PORT, error);
        let url = format!("http://{}", listener.local_addr().map_err(failed)?);
        // OpenID Connect Discovery 1.0 §3, as far as there is something to discover.
        let discovery = json!({
            "issuer": url,
            "jwks_uri": format!("{url}/jwks"),
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        });
        let documents = Arc::new([("/.well-known/openid-configuration", discovery), ("/jwks", key.jwks())]);
        let listening = loopback::serve(listener, move |request| {
            let documents = Arc::clone(&documents);
            async move {
                let asked = documents.iter().find(|(path, _)| *path == request.uri().path());
                match asked {
                    Some((_, document)) if request.method() == Method::GET => {
                        loopback::json(StatusCode::OK, document)
                    }
                    _ => loopback::json(StatusCode::NOT_FOUND, &json!({ "error": "not_found" })),
                }
            }
        });
        Ok(Issuer { url, _listening: listening.map_err(failed)? })
    }
}

fn laid_over(mut base: Value, over: Value) -> Value {
    if let (Value::Object(members), Value::Object(over)) = (&mut base, over) {
        for (name, value) in over {
            match value {
                Value::Null => members.remove(&name),
                value => members.insert(name, value),
            };
        }
    }
    base
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jsonwebtoken::jwk::Jwk;
    use jsonwebtoken::{Algorithm, DecodingKey, crypto};

    use super::*;

    fn parts(token: &str) -> (Value, Value) {
        let part = |at: usize| {
            let part = token.split('.').nth(at).unwrap();
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
        };
        (part(0), part(1))
    }

    #[test]
    fn every_token_verifies_under_the_published_key_and_is_an_access_token() {
        let key = IssuerKey::generate().unwrap();
        let jwk: Jwk = serde_json::from_value(key.jwks()["keys"][0].clone()).unwrap();
        let now = Timestamp::from_unix_seconds(1_000_000);
        let mut seen = 0;
        for login in Login::ALL {
            let token = key.token("http://127.0.0.1:1", login, now, DAY).unwrap();
            let (message, signature) = token.rsplit_once('.').unwrap();
            let decoding = DecodingKey::from_jwk(&jwk).unwrap();
            assert!(crypto::verify(signature, message.as_bytes(), &decoding, Algorithm::ES256).unwrap());
            let (header, claims) = parts(&token);
            assert_eq!(header["typ"], "at+jwt");
            // RFC 9068 §2.2.
            for claim in ["iss", "exp", "aud", "sub", "client_id", "iat", "jti"] {
                assert!(!claims[claim].is_null(), "{login:?}: {claim}");
            }
            seen += 1;
        }
        assert_eq!(seen, 9);
    }

    #[test]
    fn logins_differ_in_what_they_are_about() {
        let key = IssuerKey::generate().unwrap();
        let now = Timestamp::from_unix_seconds(1_000_000);
        let claims = |login| parts(&key.token("http://127.0.0.1:1", login, now, DAY).unwrap()).1;
        assert_eq!(claims(Login::Alice)["exp"], 1_086_400);
        assert_eq!(claims(Login::AliceSinceYesterday)["auth_time"], 913_600);
        assert_eq!(claims(Login::AliceExpired)["exp"], 998_200);
        assert_eq!(claims(Login::Assistant)["act"]["sub"], "assistant-7");
        let alone = claims(Login::AssistantAlone);
        assert_eq!((&alone["sub"], &alone["uid"]), (&json!("assistant-7"), &Value::Null));
    }
}
