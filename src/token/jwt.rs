//! Reads a JWT in JWS compact form (RFC 7515 §7.1, RFC 7519) without believing any of it.
//!
//! Invariants of what comes out: canonical base64url without padding; header and claims are JSON
//! objects without a member twice at any depth; a token's header has members of [`HEADER_MEMBERS`] alone,
//! so nothing in it can name or carry a key other than by `kid`.

use base64::Engine;
use base64::engine::general_purpose::{GeneralPurpose, URL_SAFE_NO_PAD};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::algorithm::Algorithm;
use super::error::{TokenError, malformed};
use super::json::{self, JsonError, JsonLimits};
use super::limits::TokenLimits;
use crate::metrics::Limit;

/// All that a header may have. `crit` and `b64` (RFC 7797) change what a signature means; `jwk`, `jku`,
/// `x5u` and `x5c` would let a token bring its own key.
const HEADER_MEMBERS: [&str; 6] = ["alg", "typ", "kid", "cty", "x5t", "x5t#S256"];

/// A JWT taken apart, whatever it is for.
#[derive(Debug)]
pub(super) struct Parts<'t> {
    pub header: Map<String, Value>,
    pub claims: Map<String, Value>,
    /// The two first parts, as the signature covers them.
    pub message: &'t str,
    /// Empty where the token has an empty third part.
    pub signature: Vec<u8>,
}

/// A token taken apart. Nothing in it is true before its signature was verified.
#[derive(Debug)]
pub(super) struct Unverified<'t> {
    pub header: Header,
    pub claims: Map<String, Value>,
    /// As in [`Parts`].
    pub message: &'t str,
    pub signature: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Header {
    /// `None`: one that this proxy never takes, `none` and `HS256` among them.
    pub algorithm: Option<Algorithm>,
    /// `typ`, as it came.
    pub media_type: Option<String>,
    pub kid: Option<String>,
}

impl<'t> Unverified<'t> {
    pub fn parse(token: &'t str, limits: &TokenLimits) -> Result<Unverified<'t>, TokenError> {
        let Parts { header, claims, message, signature } = Parts::split(token, limits)?;
        Ok(Unverified { header: Header::read(header)?, claims, message, signature })
    }
}

impl<'t> Parts<'t> {
    pub fn split(token: &'t str, limits: &TokenLimits) -> Result<Parts<'t>, TokenError> {
        Parts::split_by(&URL_SAFE_NO_PAD, token, limits)
    }

    /// Where the parts are in another form of Base64.
    pub fn split_by(
        form: &GeneralPurpose,
        token: &'t str,
        limits: &TokenLimits,
    ) -> Result<Parts<'t>, TokenError> {
        limits.check_length(token)?;
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(signature)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(malformed("no JWT; perhaps an opaque token"));
        };
        match parts.count() {
            0 => {}
            2 => return Err(malformed("an encrypted token (JWE), which this proxy has no key for")),
            _ => return Err(malformed("no JWT: more than three parts")),
        }
        let signature = form.decode(signature).map_err(|_| malformed("signature: no canonical base64url"))?;
        Ok(Parts {
            header: object(form, header, "header", limits.json())?,
            claims: object(form, claims, "claims", limits.json())?,
            message: &token[..header.len() + 1 + claims.len()],
            signature,
        })
    }
}

/// The algorithm and the `kid` that a token names, of which nothing is verified; `None` for what is no token, or
/// names an algorithm that is never taken.
pub fn claimed_signer(token: &str, limits: &TokenLimits) -> Option<(Algorithm, Option<String>)> {
    let header = Unverified::parse(token, limits).ok()?.header;
    Some((header.algorithm?, header.kid))
}

impl Header {
    fn read(mut members: Map<String, Value>) -> Result<Header, TokenError> {
        if let Some(name) = members.keys().find(|name| !HEADER_MEMBERS.contains(&name.as_str())) {
            return Err(malformed(match name.as_str() {
                "crit" => "header: `crit` asks for an extension",
                "b64" => "header: `b64` asks for an unencoded payload",
                "jwk" | "jku" | "x5u" | "x5c" => "header: a token may not bring its own key",
                "zip" | "enc" => "header: of an encrypted or compressed token",
                "nonce" => "header: `nonce`; a Microsoft Graph token can be verified by Graph alone",
                _ => "header: a member other than alg typ kid cty x5t x5t#S256",
            }));
        }
        let mut text = |name: &'static str| match members.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(malformed(format!("header: `{name}` is no string"))),
        };
        let algorithm = text("alg")?.ok_or_else(|| malformed("header: no `alg`"))?;
        for name in ["cty", "x5t", "x5t#S256"] {
            text(name)?;
        }
        Ok(Header { algorithm: algorithm.parse().ok(), media_type: text("typ")?, kid: text("kid")? })
    }
}

/// Whether it was meant as a JWT, signed or encrypted, whosever it is: it begins with a header.
pub(super) fn is_meant(token: &str) -> bool {
    let header = token.split_once('.').map_or(token, |(header, _)| header);
    let is_object = |text: Vec<u8>| {
        text.trim_ascii_start().starts_with(b"{") && serde_json::from_slice::<IgnoredAny>(&text).is_ok()
    };
    // `{"` with more behind it than a header: one that is broken
    let is_broken = token.starts_with("eyJ") && header.len() < token.len();
    is_broken || decode(header).is_some_and(is_object)
}

/// Canonical base64url: no padding, no white space, no stray bits (RFC 7515 §2, RFC 4648 §3.5).
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

fn object(
    form: &GeneralPurpose,
    part: &str,
    of: &'static str,
    limits: JsonLimits,
) -> Result<Map<String, Value>, TokenError> {
    let bytes = form.decode(part).map_err(|_| malformed(format!("{of}: no canonical base64url")))?;
    json::object(&bytes, limits).map_err(|error| match error {
        JsonError::TooDeep => TokenError::LimitExceeded(Limit::JsonDepthMax, format!("{of} {error}").into()),
        JsonError::TooMany => TokenError::LimitExceeded(Limit::JsonValuesMax, format!("{of} {error}").into()),
        JsonError::Syntax | JsonError::Duplicate => malformed(format!("{of} {error}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: TokenLimits = TokenLimits::FOR_TESTS;

    fn b64(text: impl AsRef<[u8]>) -> String {
        URL_SAFE_NO_PAD.encode(text)
    }

    fn code(token: &str) -> &'static str {
        Unverified::parse(token, &LIMITS).map_or_else(|error| error.code(), |_| "ok")
    }

    #[test]
    fn a_header_has_only_what_is_known() {
        let mut seen = 0;
        for (header, outcome) in [
            (r#"{"alg":"RS256"}"#, "ok"),
            (r#"{"alg":"RS256","typ":"JWT","kid":"k","cty":"x","x5t":"a","x5t#S256":"b"}"#, "ok"),
            (r#"{"alg":"none"}"#, "ok"), // refused by the verifier, as every unknown algorithm
            (r#"{"alg":1}"#, "token_malformed"),
            (r#"{"alg":null}"#, "token_malformed"),
            (r#"{"alg":["RS256"]}"#, "token_malformed"),
            (r#"{"typ":"JWT"}"#, "token_malformed"),
            (r#"{"alg":"RS256","kid":1}"#, "token_malformed"),
            (r#"{"alg":"RS256","typ":null}"#, "token_malformed"),
            (r#"{"alg":"RS256","x5t":{}}"#, "token_malformed"),
            (r#"{"alg":"RS256","alg":"none"}"#, "token_malformed"),
            (r#"{"alg":"RS256","crit":[]}"#, "token_malformed"),
            (r#"{"alg":"RS256","crit":["exp"],"exp":1}"#, "token_malformed"),
            (r#"{"alg":"RS256","b64":false}"#, "token_malformed"),
            (r#"{"alg":"RS256","b64":true}"#, "token_malformed"),
            (r#"{"alg":"RS256","jwk":{"kty":"RSA"}}"#, "token_malformed"),
            (r#"{"alg":"RS256","jku":"https://e.example"}"#, "token_malformed"),
            (r#"{"alg":"RS256","x5u":"https://e.example"}"#, "token_malformed"),
            (r#"{"alg":"RS256","x5c":[]}"#, "token_malformed"),
            (r#"{"alg":"RS256","zip":"DEF"}"#, "token_malformed"),
            (r#"{"alg":"RS256","nonce":"x"}"#, "token_malformed"),
            (r#"{"alg":"RS256","x":1}"#, "token_malformed"),
            (r#"["alg"]"#, "token_malformed"),
            ("", "token_malformed"),
        ] {
            let token = format!("{}.{}.AA", b64(header), b64("{}"));
            assert_eq!(code(&token), outcome, "{header}");
            seen += 1;
        }
        assert_eq!(seen, 24);
    }

    #[test]
    fn only_the_compact_form_in_canonical_base64url_is_read() {
        let (header, claims) = (b64(r#"{"alg":"RS256"}"#), b64(r#"{"a":1}"#));
        assert_eq!(code(&format!("{header}.{claims}.AA")), "ok");
        assert_eq!(code(&format!("{header}.{claims}.")), "ok"); // `none`'s shape; never verifies
        let mut seen = 0;
        for bad in [
            String::new(),
            header.clone(),
            format!("{header}.{claims}"),
            format!("{header}.{claims}.AA."),
            format!("{header}.{claims}.AA.AA"),
            format!("{header}.{claims}.AA.AA.AA"),
            format!(".{header}.{claims}.AA"),
            format!("{header}..AA"),
            format!("{header}.{claims}.AB"), // trailing bits
            format!("{header}.{claims}.AA=="),
            format!("{header}=.{claims}.AA"),
            format!("{header}.{claims}.+/AA"),
            format!("{header}.{claims}.AA "),
            format!("{header}.{claims}.AA junk"),
            format!("{header}.{claims}.A\nA"),
            format!("{header}.{claims}.A"),
            format!("{header}.{}.AA", b64("[]")),
            format!("{header}.{}.AA", b64("{\"a\":1}x")),
            format!("{header}.{}.AA", b64("\u{feff}{}")),
            format!("{header}.{}.AA", b64(b"{\"a\":\"\xff\"}")),
            r#"{"payload":"e30","signatures":[]}"#.to_owned(),
        ] {
            assert_eq!(code(&bad), "token_malformed", "{bad}");
            seen += 1;
        }
        assert_eq!(seen, 21);
    }

    #[test]
    fn size_and_depth_have_limits() {
        let header = b64(r#"{"alg":"RS256"}"#);
        let deep =
            format!("{{\"a\":{}{}}}", "[".repeat(LIMITS.json_depth_max), "]".repeat(LIMITS.json_depth_max));
        assert_eq!(code(&format!("{header}.{}.AA", b64(deep))), "limit_exceeded");
        let open = format!("{{\"a\":{}", "[".repeat(10_000));
        assert_eq!(code(&format!("{header}.{}.AA", b64(open))), "limit_exceeded");
        let many = format!("{{\"a\":[{}0]}}", "0,".repeat(LIMITS.json_values_max));
        assert_eq!(code(&format!("{header}.{}.AA", b64(many))), "limit_exceeded");
        let long = |bytes| code(&"a".repeat(bytes));
        assert_eq!(long(LIMITS.token_bytes_max), "token_malformed", "no JWT, but not too long");
        assert_eq!(long(LIMITS.token_bytes_max + 1), "limit_exceeded");
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_is_an_answer(header in ".{0,40}", claims in ".{0,40}", token in "[A-Za-z0-9._=-]{0,80}") {
            code(&format!("{}.{}.AA", b64(header), b64(claims)));
            code(&token);
        }
    }
}
