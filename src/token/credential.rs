//! What a request presents as its token. A credential stands in `Authorization: Bearer` and nowhere
//! else: `access_token` in a query or a form (RFC 6750 §2.2, §2.3) is never read.
//!
//! Absent is not failed: only a request without any `Authorization` field presents nothing.

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};

use super::error::{TokenError, malformed};

/// The caller's credential as it came, not yet verified.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Credential<'r> {
    Absent,
    /// Of the characters of RFC 6750's `b64token`, not empty.
    Bearer(&'r str),
}

/// Why a request's credential cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// `request_malformed`: RFC 6750 §3.1 wants a 400.
    #[error("more than one credential in `Authorization`")]
    Several,
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl<'r> Credential<'r> {
    pub fn from_headers(headers: &'r HeaderMap) -> Result<Credential<'r>, CredentialError> {
        let field = authorization(headers)?;
        field.map_or(Ok(Credential::Absent), |field| bearer(field).map(Credential::Bearer))
    }
}

/// The one field that may hold a credential, as it came.
pub(super) fn authorization(headers: &HeaderMap) -> Result<Option<&HeaderValue>, CredentialError> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let field = fields.next();
    if fields.next().is_some() { Err(CredentialError::Several) } else { Ok(field) }
}

/// The token in such a field.
pub(super) fn bearer(field: &HeaderValue) -> Result<&str, CredentialError> {
    if field.as_bytes().contains(&b',') {
        return Err(CredentialError::Several);
    }
    let text = std::str::from_utf8(field.as_bytes()).ok().filter(|text| text.is_ascii());
    let text = text.ok_or_else(|| malformed("`Authorization` is not in ASCII"))?;
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    if scheme.eq_ignore_ascii_case("DPoP") {
        let detail = "DPoP proofs (RFC 9449) are not checked by this version";
        return Err(TokenError::NotSenderConstrained(detail.into()).into());
    }
    if !scheme.eq_ignore_ascii_case("Bearer") {
        return Err(malformed("`Authorization` has a scheme other than `Bearer`").into());
    }
    if !is_b64token(token) {
        return Err(malformed("what follows `Bearer` is no single token").into());
    }
    Ok(token)
}

/// RFC 6750 §2.1.
fn is_b64token(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    // All bytes are looked at, so that many are at once.
    !body.is_empty() && body.bytes().fold(true, |all, byte| all & is_b64token_byte(byte))
}

const fn is_b64token_byte(byte: u8) -> bool {
    // `-`, `.` and `/` stand before the digits.
    let digits = byte.wrapping_sub(b'-') <= b'9' - b'-';
    let letters = (byte | 0x20).wrapping_sub(b'a') < 26;
    digits | letters | (byte == b'_') | (byte == b'~') | (byte == b'+')
}

/// Says that there is one, never what it is.
impl std::fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Credential::Absent => "Absent",
            Credential::Bearer(_) => "Bearer(…)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[&[u8]]) -> Result<Option<String>, &'static str> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(field).map_err(|_| "no field value")?);
        }
        match Credential::from_headers(&headers) {
            Ok(Credential::Absent) => Ok(None),
            Ok(Credential::Bearer(token)) => Ok(Some(token.to_owned())),
            Err(CredentialError::Several) => Err("request_malformed"),
            Err(CredentialError::Token(error)) => Err(error.code()),
        }
    }

    #[test]
    fn one_bearer_token_is_read_and_nothing_else() {
        assert_eq!(read(&[]), Ok(None));
        for good in ["Bearer abc.def-_~+/g==", "bearer abc", "BEARER abc", "bEaReR a"] {
            let token = good.split_once(' ').map(|(_, token)| token.to_owned());
            assert_eq!(read(&[good.as_bytes()]), Ok(token), "{good}");
        }
        let mut seen = 0;
        for (bad, code) in [
            (&[&b"Bearer a"[..], b"Bearer a"][..], "request_malformed"),
            (&[b"Bearer a", b"Basic a"], "request_malformed"),
            (&[b"Bearer a, Bearer b"], "request_malformed"),
            (&[b"Bearer a,b"], "request_malformed"),
            (&[b"Basic YTpi"], "token_malformed"),
            (&[b"Negotiate YTpi"], "token_malformed"),
            (&[b"DPoP abc"], "token_not_sender_constrained"),
            (&[b"dpop abc"], "token_not_sender_constrained"),
            (&[b""], "token_malformed"),
            (&[b"Bearer"], "token_malformed"),
            (&[b"Bearer "], "token_malformed"),
            (&[b"Bearer  a"], "token_malformed"),
            (&[b"Bearer\ta"], "token_malformed"),
            (&[b"Bearer a b"], "token_malformed"),
            (&[b"Bearer a "], "token_malformed"),
            (&[b"Bearer =="], "token_malformed"),
            (&[b"Bearer a=b"], "token_malformed"),
            (&[b"Bearer \"a\""], "token_malformed"),
            (&[b"Bearer \xc3\xa9"], "token_malformed"),
            (&[b" Bearer a"], "token_malformed"),
            (&[b"Bearera"], "token_malformed"),
            (&[b"abc.def.ghi"], "token_malformed"),
        ] {
            assert_eq!(read(bad), Err(code), "{bad:?}");
            seen += 1;
        }
        assert_eq!(seen, 22);
    }

    #[test]
    fn a_token_has_the_bytes_of_the_rfc() {
        for byte in 0..=u8::MAX {
            let listed = byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
            assert_eq!(is_b64token_byte(byte), listed, "{byte}");
        }
    }

    #[test]
    fn a_credential_never_prints_itself() {
        assert!(!format!("{:?}", Credential::Bearer("canary")).contains("canary"));
    }
}
