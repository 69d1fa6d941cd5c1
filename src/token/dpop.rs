//! DPoP proofs (RFC 9449): that whoever sends a request has the key that its token is bound to.
//!
//! Nothing of a proof is believed, and no signature is checked, before its key is found to be the one that the
//! token's issuer named. All of §4.3 is asked of it; what is right is then used up.

use aws_lc_rs::digest::{self, SHA256};
use http::{HeaderName, Uri};
use serde_json::{Map, Value};

use super::algorithm::Algorithm;
use super::error::{Detail, TokenError};
use super::issuer::IssuerSettings;
use super::jwt::{Parts, decode};
use super::keys::{Key, KeyUse};
use super::possession::{Shown, Target, is_same};
use super::proofs::{Holder, Thumbprint, Unusable};
use super::verifier::Verifier;
use crate::clock::Timestamp;
use crate::identity::Caller;
use crate::metrics::Limit;
use crate::policy::{Host, NormalPath};

pub const DPOP: HeaderName = HeaderName::from_static("dpop");

/// The only members of its header.
const MEMBERS: [&str; 3] = ["alg", "jwk", "typ"];
/// Most bytes of a `jti`: those of two UUIDs, and a bit more.
const JTI_BYTES_MAX: usize = 128;

fn refused(detail: impl Into<Detail>) -> TokenError {
    TokenError::ProofRefused(detail.into())
}

impl Verifier {
    /// Checks the request's proof against the key that the caller's token is bound to, and uses it up.
    pub(super) fn check_proof(
        &self,
        issuer: &IssuerSettings,
        caller: &Caller,
        bound: &Thumbprint,
        shown: &Shown<'_>,
    ) -> Result<(), TokenError> {
        let request = shown.request.as_ref().ok_or_else(|| refused("there is no request to prove"))?;
        let proof = Parts::split(field(request)?, &self.limits).map_err(|error| match error {
            TokenError::Malformed(detail) => refused(detail),
            other => other,
        })?;
        check_signature(&proof, bound)?;
        let claims = Claims(&proof.claims);
        if claims.text("htm")? != request.method.as_str() {
            return Err(refused("`htm` is not the request's method"));
        }
        if !is_target(claims.text("htu")?, request) {
            return Err(refused("`htu` is not what the request asks for"));
        }
        // RFC 9449 §4.3: to this token, which the caller's hash is that of.
        let token = decode(claims.text("ath")?);
        if !token.is_some_and(|hash| is_same(&hash, &caller.token_hash)) {
            return Err(refused("`ath` is not the SHA-256 of the token"));
        }
        let (now, age_max) = (self.clock.now(), issuer.possession.proof_age_max);
        let issued = claims.time("iat")?;
        if issued > now.plus(age_max) {
            return Err(refused("`iat` is in the future"));
        }
        let end = issued.plus(age_max);
        if end <= now {
            return Err(refused("it is too old"));
        }
        if issuer.possession.proof_nonce {
            let nonce = proof.claims.get("nonce").and_then(Value::as_str);
            if !nonce.is_some_and(|nonce| self.proofs.is_nonce(nonce, now)) {
                return Err(TokenError::NonceWanted(self.proofs.nonce(now).into()));
            }
        }
        let jti = claims.text("jti")?;
        if jti.is_empty() || jti.len() > JTI_BYTES_MAX {
            return Err(refused("`jti` is empty or too long"));
        }
        let count_max = self.limits.dpop_proofs_max;
        match self.proofs.r#use((bound, jti), Holder::of(caller), end, now, count_max) {
            Ok(()) => Ok(()),
            Err(Unusable::Again) => Err(refused("it was used before")),
            Err(Unusable::NoRoom) => {
                let detail = format!("{count_max} proofs, or the part of them that one holder may have");
                Err(TokenError::LimitExceeded(Limit::DpopProofsMax, detail.into()))
            }
        }
    }
}

/// The one field that holds the proof.
fn field<'r>(request: &Target<'r>) -> Result<&'r str, TokenError> {
    let mut fields = request.headers.get_all(DPOP).iter();
    match (fields.next(), fields.next()) {
        (Some(field), None) => field.to_str().map_err(|_| refused("the field is not in ASCII")),
        (None, _) => Err(refused("there is none")),
        (Some(_), Some(_)) => Err(refused("there is more than one")),
    }
}

/// By the key in its own header, which must be the one that the token is bound to.
fn check_signature(proof: &Parts<'_>, bound: &Thumbprint) -> Result<(), TokenError> {
    if let Some(name) = proof.header.keys().find(|name| !MEMBERS.contains(&name.as_str())) {
        return Err(refused(match name.as_str() {
            "crit" => "header: `crit` asks for an extension",
            _ => "header: a member other than alg jwk typ",
        }));
    }
    let text = |name: &str| proof.header.get(name).and_then(Value::as_str);
    if text("typ") != Some("dpop+jwt") {
        return Err(refused("header: `typ` is not `dpop+jwt`"));
    }
    let algorithm: Option<Algorithm> = text("alg").and_then(|name| name.parse().ok());
    let algorithm = algorithm.ok_or_else(|| refused("header: `alg` is none that proofs are signed with"))?;
    let jwk = proof.header.get("jwk").and_then(Value::as_object);
    let jwk = jwk.ok_or_else(|| refused("header: `jwk` is no object"))?;
    // Public, strong, and meant for signatures.
    let key =
        Key::read(jwk, KeyUse::Signature).ok_or_else(|| refused("header: `jwk` is no usable public key"))?;
    if !is_same(&thumbprint(jwk), bound) {
        return Err(refused("its key is not the one that the token is bound to"));
    }
    if !key.verifies(algorithm, proof.message, &proof.signature) {
        return Err(refused("its signature is not by its key"));
    }
    Ok(())
}

/// RFC 7638 §3.2, RFC 8037 §2: over the members that make the key, in the order of their names. Of a key that was
/// read these are strings in base64url, or names, in which nothing is to be escaped.
pub fn thumbprint(jwk: &Map<String, Value>) -> Thumbprint {
    let members = ["crv", "e", "kty", "n", "x", "y"];
    let members = members.iter().filter_map(|name| Some(format!("\"{name}\":{}", jwk.get(*name)?)));
    let text = format!("{{{}}}", members.collect::<Vec<_>>().join(","));
    let mut thumbprint = Thumbprint::default();
    thumbprint.copy_from_slice(digest::digest(&SHA256, text.as_bytes()).as_ref());
    thumbprint
}

/// Whether `htu` is the request's own URL without query and fragment, both in normal form (RFC 9449 §4.3). A port
/// that is not said is that of the scheme.
fn is_target(htu: &str, request: &Target<'_>) -> bool {
    let Ok(uri) = htu.parse::<Uri>() else { return false };
    let port_of_scheme = match uri.scheme_str() {
        Some("https") => 443,
        Some("http") if !request.secure => 80,
        _ => return false,
    };
    let host_and_port = |authority: &str| {
        let (host, port) = Host::with_port(authority).ok()?;
        Some((host, port.unwrap_or(port_of_scheme)))
    };
    let named = uri.authority().and_then(|authority| host_and_port(authority.as_str()));
    let asked = request.authority.to_str().ok().and_then(host_and_port);
    named.is_some() && named == asked && NormalPath::parse(uri.path()).is_ok_and(|path| path == *request.path)
}

/// What a proof says, of which all that is read must be there.
struct Claims<'p>(&'p Map<String, Value>);

impl<'p> Claims<'p> {
    fn text(&self, name: &'static str) -> Result<&'p str, TokenError> {
        let text = self.0.get(name).and_then(Value::as_str);
        text.ok_or_else(|| refused(format!("`{name}` is no string")))
    }

    fn time(&self, name: &'static str) -> Result<Timestamp, TokenError> {
        let seconds =
            self.0.get(name).and_then(Value::as_u64).and_then(|seconds| i64::try_from(seconds).ok());
        let seconds = seconds.ok_or_else(|| refused(format!("`{name}` is no time in whole seconds")))?;
        Ok(Timestamp::from_unix_seconds(seconds))
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Method};

    use super::*;

    /// RFC 7638 §3.1 and RFC 8037 §A.3.
    #[test]
    fn thumbprints_are_those_of_the_rfcs() {
        let rsa = r#"{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}"#;
        let ed = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
        for (jwk, expected) in [
            (rsa, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"),
            (ed, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"),
        ] {
            let jwk: Map<String, Value> = serde_json::from_str(jwk).unwrap();
            assert_eq!(Some(thumbprint(&jwk).to_vec()), decode(expected));
        }
    }

    #[test]
    fn a_target_is_scheme_host_port_and_path_in_normal_form() {
        let headers = HeaderMap::new();
        let fits = |htu: &str, secure: bool, authority: &'static str| {
            let path = NormalPath::parse("/a/b%7C/").unwrap();
            let authority = HeaderValue::from_static(authority);
            let request = Target {
                headers: &headers,
                method: &Method::GET,
                secure,
                authority: &authority,
                path: &path,
            };
            is_target(htu, &request)
        };
        let host = "orders.example";
        let mut seen = 0;
        for (htu, expected) in [
            ("https://orders.example/a/b%7C/", true),
            ("https://orders.example:443/a/b%7C/", true),
            ("HTTPS://ORDERS.example./%61/b%7c/", true),
            ("https://orders.example/a/b%7C/?q=1", true),
            ("https://orders.example/a/b%7C/#f", true),
            ("http://orders.example/a/b%7C/", false),
            ("https://orders.example:8443/a/b%7C/", false),
            ("https://orders.example:80/a/b%7C/", false),
            ("https://orders.example/a/b%7C", false),
            ("https://orders.example/a/B%7C/", false),
            ("https://orders.example//a/b%7C/", false),
            ("https://orders.example/x/../a/b%7C/", false),
            ("https://other.example/a/b%7C/", false),
            ("https://orders.example.other.example/a/b%7C/", false),
            ("https://user@orders.example/a/b%7C/", false),
            ("https://orders.example\\@x/a/b%7C/", false),
            ("ftp://orders.example/a/b%7C/", false),
            ("//orders.example/a/b%7C/", false),
            ("/a/b%7C/", false),
            ("orders.example", false),
            ("", false),
        ] {
            assert_eq!(fits(htu, true, host), expected, "{htu}");
            seen += 1;
        }
        assert_eq!(seen, 21);
        assert!(fits("https://orders.example:8443/a/b%7C/", true, "orders.example:8443"));
        assert!(fits("https://orders.example/a/b%7C/", true, "orders.example:443"));
        assert!(!fits("https://orders.example/a/b%7C/", true, "orders.example:8443"));
        // where nobody knows whether TLS ended on the way
        assert!(fits("http://orders.example/a/b%7C/", false, host));
        assert!(fits("https://orders.example/a/b%7C/", false, host));
        assert!(!fits("http://orders.example/a/b%7C/", false, "orders.example:443"));
    }
}
