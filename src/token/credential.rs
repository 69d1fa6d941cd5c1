//! What a request presents as its token. A credential stands in `Authorization: Bearer`, or `DPoP` (RFC 9449
//! §7.1), and nowhere else: `access_token` in a query or a form (RFC 6750 §2.2, §2.3) is never read.
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
    /// Of the same characters (RFC 9449 §7.1), to come with a proof.
    Dpop(&'r str),
}

/// How a token is presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Bearer,
    /// With a proof beside it.
    Dpop,
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
        let Some(field) = field else { return Ok(Credential::Absent) };
        Ok(match read(field)? {
            (Scheme::Bearer, token) => Credential::Bearer(token),
            (Scheme::Dpop, token) => Credential::Dpop(token),
        })
    }
}

/// The one field that may hold a credential, as it came.
pub(super) fn authorization(headers: &HeaderMap) -> Result<Option<&HeaderValue>, CredentialError> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let field = fields.next();
    if fields.next().is_some() { Err(CredentialError::Several) } else { Ok(field) }
}

impl Scheme {
    /// In which a request presents what it presents, whatever that is worth.
    pub fn of(headers: &HeaderMap) -> Scheme {
        Scheme::of_field(headers.get(AUTHORIZATION).map_or(&[][..], HeaderValue::as_bytes))
    }

    pub(super) fn of_field(field: &[u8]) -> Scheme {
        let is_dpop = field.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"dpop "));
        if is_dpop { Scheme::Dpop } else { Scheme::Bearer }
    }
}

/// How the token in such a field is presented, and the token.
pub(super) fn read(field: &HeaderValue) -> Result<(Scheme, &str), CredentialError> {
    if field.as_bytes().contains(&b',') {
        return Err(CredentialError::Several);
    }
    let text = std::str::from_utf8(field.as_bytes()).ok().filter(|text| text.is_ascii());
    let text = text.ok_or_else(|| malformed("`Authorization` is not in ASCII"))?;
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    let scheme = if scheme.eq_ignore_ascii_case("Bearer") {
        Scheme::Bearer
    } else if scheme.eq_ignore_ascii_case("DPoP") {
        Scheme::Dpop
    } else {
        return Err(malformed("`Authorization` has a scheme other than `Bearer` and `DPoP`").into());
    };
    if !is_b64token(token) {
        return Err(malformed("what follows the scheme is no single token").into());
    }
    Ok((scheme, token))
}

/// RFC 6750 §2.1.
pub fn is_b64token(text: &str) -> bool {
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
            Credential::Dpop(_) => "Dpop(…)",
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
            Ok(Credential::Bearer(token) | Credential::Dpop(token)) => Ok(Some(token.to_owned())),
            Err(CredentialError::Several) => Err("request_malformed"),
            Err(CredentialError::Token(error)) => Err(error.code()),
        }
    }

    #[test]
    fn one_token_is_read_and_nothing_else() {
        assert_eq!(read(&[]), Ok(None));
        for good in ["Bearer abc.def-_~+/g==", "bearer abc", "BEARER abc", "bEaReR a", "DPoP abc", "dpop a=="]
        {
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
            (&[b"DPoP"], "token_malformed"),
            (&[b"DPoP abc,def"], "request_malformed"),
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
        for credential in [Credential::Bearer("canary"), Credential::Dpop("canary")] {
            assert!(!format!("{credential:?}").contains("canary"));
        }
    }
}
