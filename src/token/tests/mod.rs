//! Minted keys and tokens, and a verifier before a provider that serves the keys.

mod caching;
mod claims;
mod fetching;
mod introspection;
mod lookups;
mod memory;
mod opaque;
mod presets;
mod signatures;
mod steps;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair, RsaKeyPair, RsaPublicKeyComponents,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};

use super::*;
use crate::clock::{Clock, Timestamp};
use crate::fetch::double::{Answer, Provider};
use crate::identity::{Caller, CertificateHash, Signature};
use crate::metrics::{IssuerMetrics, TokenMetrics};

pub(super) const NOW: i64 = 1_800_000_000;
pub(super) const ISS: &str = "https://login.example.com";
pub(super) const AUD: &str = "https://orders.example";

/// Where a [`World`] serves its keys.
const JWKS: &str = "/jwks";

pub(super) const CACHE: TokenCacheSettings = TokenCacheSettings {
    bytes_max: 1 << 20,
    idle_max: Duration::from_secs(900),
    failures_max: 1000,
    failure_lifetime: Duration::from_secs(10),
};

pub(super) enum Pair {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

pub(super) static RSA: LazyLock<Pair> =
    LazyLock::new(|| Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key")));
pub(super) static P256: LazyLock<Pair> =
    LazyLock::new(|| Pair::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key")));
/// A second one of a kind: another issuer's, or the one rotated in.
pub(super) static OTHER: LazyLock<Pair> =
    LazyLock::new(|| Pair::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key")));
pub(super) static P384: LazyLock<Pair> =
    LazyLock::new(|| Pair::P384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("a key")));
pub(super) static ED25519: LazyLock<Pair> =
    LazyLock::new(|| Pair::Ed25519(Ed25519KeyPair::generate().expect("a key")));

pub(super) fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Pair {
    pub fn sign(&self, algorithm: &str, message: &str) -> Vec<u8> {
        let random = SystemRandom::new();
        let message = message.as_bytes();
        match self {
            Pair::Rsa(pair) => {
                let encoding: &dyn signature::RsaEncoding = match algorithm {
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    "PS512" => &signature::RSA_PSS_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signed = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, message, &mut signed).expect("a signature");
                signed
            }
            Pair::P256(pair) | Pair::P384(pair) => {
                pair.sign(&random, message).expect("a signature").as_ref().to_vec()
            }
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    pub fn jwk(&self, kid: &str) -> Value {
        let point = |pair: &EcdsaKeyPair, crv: &str, size: usize| {
            let point = pair.public_key().as_ref();
            json!({ "kty": "EC", "crv": crv, "kid": kid, "x": b64(&point[1..=size]), "y": b64(&point[size + 1..]) })
        };
        match self {
            Pair::Rsa(pair) => {
                let parts = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({ "kty": "RSA", "kid": kid, "n": b64(parts.n), "e": b64(parts.e) })
            }
            Pair::P256(pair) => point(pair, "P-256", 32),
            Pair::P384(pair) => point(pair, "P-384", 48),
            Pair::Ed25519(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": b64(pair.public_key()) })
            }
        }
    }
}

/// `base` with the members of `changes`; a null takes one away.
pub(super) fn with(base: Value, changes: Value) -> Value {
    let (Value::Object(mut base), Value::Object(changes)) = (base, changes) else { panic!("objects") };
    for (name, value) in changes {
        if value.is_null() {
            base.remove(&name);
        } else {
            base.insert(name, value);
        }
    }
    base.into()
}

pub(super) fn good_claims() -> Value {
    json!({ "iss": ISS, "aud": AUD, "sub": "alice", "client_id": "web", "iat": NOW, "exp": NOW + 600,
            "scope": "orders:read", "jti": "1" })
}

/// Signed with the P-256 key `k1`.
pub(super) fn mint(claims: &Value) -> String {
    mint_with(&P256, json!({ "alg": "ES256", "kid": "k1" }), claims.to_string())
}

pub(super) fn mint_with(pair: &Pair, header: Value, claims: impl AsRef<[u8]>) -> String {
    let message = format!("{}.{}", b64(header.to_string()), b64(claims));
    let signature = pair.sign(header["alg"].as_str().unwrap_or_default(), &message);
    format!("{message}.{}", b64(signature))
}

fn token_of(pair: &Pair, kid: &str, jti: usize) -> String {
    let claims = with(good_claims(), json!({ "jti": jti.to_string() }));
    mint_with(pair, json!({ "alg": "ES256", "kid": kid }), claims.to_string())
}

pub(super) fn key_set(keys: &[Value]) -> Answer {
    Answer::json(json!({ "keys": keys }))
}

pub(super) fn no_roots() -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth()
}

pub(super) struct World {
    pub clock: Clock,
    pub provider: Provider,
    pub verifier: Verifier,
    pub metrics: TokenMetrics,
}

/// Keys at `/jwks` of the provider.
pub(super) fn keys_at(source: KeySource) -> KeySettings {
    KeySettings {
        source,
        key_use: KeyUse::Signature,
        ca: None,
        server_spiffe_ids: Vec::new(),
        credential: None,
        allow_http: true,
        allow_private_addresses: false,
        max_stale: Duration::from_secs(24 * 3600),
        document_bytes_max: 256 * 1024,
    }
}

pub(super) fn settings(preset: Preset, url: &str, keys: KeySettings) -> IssuerSettings {
    let url = IssuerUrl::parse(&[url]).expect("a url");
    let keys = KeySettings { key_use: preset.key_use(), ..keys };
    preset.fill("corp".parse().expect("a name"), url, vec![AUD.into()], keys)
}

impl World {
    /// One issuer [`ISS`] with the generic preset and the key `k1`, changed by `change`.
    pub async fn new(change: impl FnOnce(&mut IssuerSettings)) -> World {
        let provider = Provider::start(None).await;
        provider.set(JWKS, key_set(&[P256.jwk("k1")]));
        let keys = keys_at(KeySource::Url(provider.url(JWKS)));
        let mut settings = settings(Preset::Generic, ISS, keys);
        change(&mut settings);
        World::of(provider, vec![settings])
    }

    pub fn of(provider: Provider, settings: Vec<IssuerSettings>) -> World {
        let clock = Clock::manual(Timestamp::from_unix_seconds(NOW));
        let issuers = settings.into_iter().map(|settings| {
            let metrics = IssuerMetrics::default();
            let keys = IssuerKeys::new(settings.keys.clone(), &no_roots(), metrics, clock.clone());
            let asked = settings.introspection.clone();
            let asked = asked.map(|asked| Arc::new(Introspection::new(asked, &settings.keys, &no_roots())));
            Issuer { settings, keys: Arc::new(keys), introspection: asked }
        });
        let (limits, metrics) = (TokenLimits::FOR_TESTS, TokenMetrics::default());
        let verifier =
            Verifier::new(issuers.collect(), limits, CACHE, Arc::default(), metrics.clone(), clock.clone())
                .expect("distinct issuers");
        World { clock, provider, verifier, metrics }
    }

    fn keys(&self) -> &Arc<IssuerKeys> {
        &self.verifier.issuers()[0].keys
    }

    pub async fn caller(&self, token: &str) -> Result<Arc<Caller>, TokenError> {
        self.caller_on(token, None).await
    }

    pub async fn caller_on(
        &self,
        token: &str,
        certificate: Option<&CertificateHash>,
    ) -> Result<Arc<Caller>, TokenError> {
        self.caller_shown(token, &Shown::on(certificate)).await
    }

    pub async fn caller_shown(&self, token: &str, shown: &Shown<'_>) -> Result<Arc<Caller>, TokenError> {
        match self.verifier.verify(Credential::Bearer(token), shown).await? {
            Signature::Verified(caller) => Ok(caller),
            Signature::Absent => panic!("a token was presented"),
        }
    }

    /// `ok` or the reason code.
    pub async fn code(&self, token: &str) -> &'static str {
        self.caller(token).await.map_or_else(|error| error.code(), |_| "ok")
    }
}
