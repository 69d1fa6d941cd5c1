//! What is in the documents that issuers publish: whether keys of a set can be used, and where they are.

use std::path::Path;

use serde_json::Value;
use url::Url;

use super::json::{self, JsonLimits};
use super::key_fetch::KeysError;
use super::keys::{KeySet, KeyUse};

const DISCOVERY_LIMITS: JsonLimits = JsonLimits { depth_max: 8, values_max: 4096 };

/// Whether a key set in a file can be used, so that a configuration can say what is wrong with it.
pub fn check_key_file(path: &Path, key_use: KeyUse) -> Result<(), KeysError> {
    check_key_set(&std::fs::read(path)?, key_use)
}

/// Whether a document is a key set that can be used.
pub fn check_key_set(document: &[u8], key_use: KeyUse) -> Result<(), KeysError> {
    KeySet::parse(document, key_use)?;
    Ok(())
}

/// Where a discovery document of exactly this issuer has its keys (OpenID Connect Discovery §4.3).
pub fn jwks_uri(document: &[u8], issuer: &str) -> Option<Url> {
    named(document, issuer, "jwks_uri")
}

/// Where such a document says that tokens are asked about (RFC 8414 §2).
pub(super) fn introspection_endpoint(document: &[u8], issuer: &str) -> Option<Url> {
    named(document, issuer, "introspection_endpoint")
}

fn named(document: &[u8], issuer: &str, member: &str) -> Option<Url> {
    let members = json::object(document, DISCOVERY_LIMITS).ok()?;
    let text = |name| members.get(name).and_then(Value::as_str);
    if text("issuer") != Some(issuer) {
        return None;
    }
    Url::parse(text(member)?).ok()
}
