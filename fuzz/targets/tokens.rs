//! What callers and issuers write: tokens, and the documents that keys come from.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign::clock::{Clock, Timestamp};
use countersign::identity::{Caller, Signature};
use countersign::metrics::{IssuerMetrics, TokenMetrics};
use countersign::token::{
    Credential, Issuer, IssuerKeys, IssuerUrl, KEYS_MAX, KeySettings, KeySource, KeyUse, Preset, Shown,
    TokenCacheSettings, TokenError, TokenLimits, Verifier, check_key_set, jwks_uri,
};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};

use super::json::Node;
use super::{complete, two_parts};

const NOW: i64 = 1_800_000_000;
const LEEWAY: i64 = 60;
const ISSUER: &str = "https://login.example.com";
const AUDIENCE: &str = "https://orders.example";
/// The one token that is good, in the corpus too: its key is no secret, and Ed25519 signs the same way each time.
const GOOD_HEADER: &str = r#"{"alg":"EdDSA","kid":"k1"}"#;
const GOOD_CLAIMS: &str =
    r#"{"iss":"https://login.example.com","aud":"https://orders.example","sub":"alice","exp":1800000600}"#;

static KEY: LazyLock<Ed25519KeyPair> =
    LazyLock::new(|| Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a key"));

/// One issuer that signs with [`KEY`]; it remembers nothing, so that no input depends on another.
static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let x = URL_SAFE_NO_PAD.encode(KEY.public_key());
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "k1", "x": x });
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), json!({ "keys": [jwk] }).to_string()).expect("a key set");
    let keys = KeySettings {
        source: KeySource::File(file.path().to_owned()),
        key_use: KeyUse::Signature,
        ca: None,
        server_spiffe_ids: Vec::new(),
        credential: None,
        allow_http: false,
        allow_private_addresses: false,
        max_stale: Duration::from_secs(24 * 3600),
        document_bytes_max: 256 * 1024,
    };
    let clock = Clock::manual(Timestamp::from_unix_seconds(NOW));
    let url = IssuerUrl::parse(&[ISSUER]).expect("a URL");
    let name = "corp".parse().expect("a name");
    let mut settings = Preset::Generic.fill(name, url, vec![AUDIENCE.into()], keys.clone());
    settings.leeway = Duration::from_secs(LEEWAY.unsigned_abs());
    let tls = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let keys = IssuerKeys::new(keys, &tls, IssuerMetrics::default(), clock.clone());
    complete(keys.refresh()).expect("keys");
    let limits = TokenLimits {
        token_bytes_max: 16 * 1024,
        json_depth_max: 32,
        json_values_max: 4096,
        scope_count_max: 256,
        group_count_max: 1024,
        delegation_depth_max: 4,
        dpop_proofs_max: 1000,
        introspection_pending_max: 1000,
    };
    let nothing = TokenCacheSettings {
        bytes_max: 0,
        idle_max: Duration::ZERO,
        failures_max: 0,
        failure_lifetime: Duration::ZERO,
    };
    let issuers = vec![Issuer { settings, keys: Arc::new(keys), introspection: None }];
    Verifier::new(issuers, limits, nothing, Arc::default(), TokenMetrics::default(), clock)
        .expect("a verifier")
});

fn verify(token: &str) -> Result<Arc<Caller>, TokenError> {
    match complete(VERIFIER.verify(Credential::Bearer(token), &Shown::on(None)))? {
        Signature::Verified(caller) => Ok(caller),
        Signature::Absent => panic!("a token was presented"),
    }
}

/// With a true signature, whatever the parts say.
fn signed(header: &[u8], claims: &[u8]) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(KEY.sign(message.as_bytes()));
    format!("{message}.{signature}")
}

/// A token that nobody here signed: none is taken but, byte for byte, the one that was.
pub fn token(data: &[u8]) {
    static GOOD: LazyLock<String> = LazyLock::new(|| signed(GOOD_HEADER.as_bytes(), GOOD_CLAIMS.as_bytes()));
    let Ok(token) = std::str::from_utf8(data) else { return };
    match verify(token) {
        Ok(_) => assert_eq!(token, *GOOD),
        Err(error) => {
            assert_ne!(token, *GOOD, "{error}");
            assert!(!error.to_string().contains("canary"));
        }
    }
}

/// Header and claims, a line each, truly signed: whatever is taken is what another reader of JSON says too.
pub fn claims(data: &[u8]) {
    let (header, claims) = two_parts(data);
    let caller = match verify(&signed(header, claims)) {
        Ok(caller) => caller,
        Err(error) => return assert!(!error.to_string().contains("canary"), "{error}"),
    };
    for part in [header, claims] {
        assert!(Node::read(part).is_some_and(|read| read.is_strict_object()));
    }
    let read = |part| serde_json::from_slice::<Value>(part).expect("JSON");
    let (header, claims) = (read(header), read(claims));
    let members = ["alg", "typ", "kid", "cty", "x5t", "x5t#S256"];
    assert!(header.as_object().expect("an object").keys().all(|name| members.contains(&name.as_str())));
    assert!(header["alg"] == "EdDSA" && (header["kid"] == "k1" || header.get("kid").is_none()));
    assert_eq!(claims["iss"], ISSUER);
    assert!(
        claims["aud"] == AUDIENCE || claims["aud"].as_array().is_some_and(|it| it.contains(&AUDIENCE.into()))
    );
    let expires = claims["exp"].as_i64().expect("a time");
    assert!(expires + LEEWAY > NOW);
    assert_eq!(caller.expires.unix_seconds(), expires + LEEWAY);
    for start in ["nbf", "iat"] {
        assert!(claims.get(start).is_none_or(|at| at.as_i64().is_some_and(|at| at <= NOW + LEEWAY)));
    }
    assert_eq!(caller.subject.as_deref(), claims.get("sub").map(|it| it.as_str().expect("a subject")));
    assert!(claims.get("cnf").is_none());
    assert!(["events", "at_hash", "c_hash", "nonce"].iter().all(|name| claims.get(name).is_none()));
    if let Some(Value::String(scopes)) = claims.get("scope") {
        let words: Vec<&str> = scopes.split(' ').filter(|word| !word.is_empty()).collect();
        assert_eq!(caller.scopes.iter().map(|word| &**word).collect::<Vec<_>>(), words);
    }
    assert_eq!(Value::Object(caller.claims.clone()), claims);
}

/// A key document: one that is taken is small, strict, and has a public key of a known kind.
pub fn key_set(data: &[u8]) {
    for key_use in [KeyUse::Signature, KeyUse::JwtSvid] {
        if check_key_set(data, key_use).is_err() {
            continue;
        }
        assert!(Node::read(data).is_some_and(|read| read.is_strict_object()));
        let document: Value = serde_json::from_slice(data).expect("JSON");
        let keys = document["keys"].as_array().expect("a list");
        assert!(keys.len() <= KEYS_MAX);
        assert!(keys.iter().any(|key| is_usable(key, key_use)));
    }
}

fn is_usable(key: &Value, key_use: KeyUse) -> bool {
    let size = |name: &str| {
        let text = key.get(name).and_then(Value::as_str).unwrap_or_default();
        URL_SAFE_NO_PAD.decode(text).map_or(0, |bytes| bytes.len())
    };
    let fits = match (key["kty"].as_str(), key["crv"].as_str()) {
        (Some("RSA"), None) => (256..=1024).contains(&size("n")) && size("e") >= 3,
        (Some("EC"), Some("P-256")) => size("x") == 32 && size("y") == 32,
        (Some("EC"), Some("P-384")) => size("x") == 48 && size("y") == 48,
        (Some("OKP"), Some("Ed25519")) => size("x") == 32,
        _ => false,
    };
    let meant = match key_use {
        KeyUse::Signature => key.get("use").is_none_or(|it| it == "sig"),
        KeyUse::JwtSvid => key["use"] == "jwt-svid",
    };
    fits && meant && ["d", "p", "q", "dp", "dq", "qi", "oth", "k"].iter().all(|it| key.get(it).is_none())
}

/// A discovery document: an address for keys is read only from one of exactly this issuer.
pub fn discovery(data: &[u8]) {
    let Some(url) = jwks_uri(data, ISSUER) else { return };
    assert!(Node::read(data).is_some_and(|read| read.is_strict_object()));
    let document: Value = serde_json::from_slice(data).expect("JSON");
    assert_eq!(document["issuer"], ISSUER);
    let typed = document["jwks_uri"].as_str().expect("an address");
    assert_eq!(url, typed.parse().expect("a URL"));
    assert!(jwks_uri(data, "https://login.example.com/").is_none());
}
