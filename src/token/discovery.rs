//! What issuers publish about themselves (OpenID Connect Discovery §4, RFC 8414). Of such a document its `issuer` is read,
//! which must be the very one that is expected, and one address.

use std::sync::Arc;

use serde_json::{Map, Value};
use url::Url;

use super::json::{self, JsonLimits};

const LIMITS: JsonLimits = JsonLimits { depth_max: 8, values_max: 4096 };

/// Where something of an issuer's is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    Url(Url),
    /// Where this issuer's document says.
    Discovery {
        document: Url,
        issuer: Arc<str>,
    },
}

/// Its keys.
pub fn jwks_uri(document: &[u8], issuer: &str) -> Option<Url> {
    url(&of(document, issuer)?, "jwks_uri")
}

/// Where it is asked about tokens (RFC 8414 §2).
pub(super) fn introspection_endpoint(document: &[u8], issuer: &str) -> Option<Url> {
    url(&of(document, issuer)?, "introspection_endpoint")
}

/// Where it is asked for tokens; by whoever is known there by his certificate, perhaps elsewhere (RFC 8705 §5).
pub fn token_endpoint(document: &[u8], issuer: &str, by_certificate: bool) -> Option<Url> {
    const MEMBER: &str = "token_endpoint";
    let members = of(document, issuer)?;
    match members.get("mtls_endpoint_aliases").and_then(Value::as_object) {
        Some(aliases) if by_certificate && aliases.contains_key(MEMBER) => url(aliases, MEMBER),
        _ => url(&members, MEMBER),
    }
}

fn of(document: &[u8], issuer: &str) -> Option<Map<String, Value>> {
    let members = json::object(document, LIMITS).ok()?;
    (members.get("issuer").and_then(Value::as_str) == Some(issuer)).then_some(members)
}

fn url(members: &Map<String, Value>, member: &str) -> Option<Url> {
    Url::parse(members.get(member)?.as_str()?).ok()
}
