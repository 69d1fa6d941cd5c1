//! What a token endpoint answers: a token (RFC 6749 §5.1, RFC 8693 §2.2.1) or why there is none (RFC 6749 §5.2).

use std::time::Duration;

use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::fetch::{Answer, sensitive};
use crate::token::is_b64token;

/// A token that says nothing of its end is asked for anew after this long.
const LIFETIME_UNSAID: Duration = Duration::from_secs(60);
/// However long it says to live.
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Of a token; what is longer does not fit into a head that servers take.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Of an error's code that is told in a record.
const CODE_BYTES_MAX: usize = 64;

/// RFC 8693 §3: of what is exchanged.
pub const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// A token that came.
pub struct Issued {
    pub token: Zeroizing<String>,
    /// From when it came.
    pub lifetime: Duration,
}

/// Why none came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotIssued {
    /// What was asked for is not given to anybody like this (RFC 6749 §5.2, RFC 8693 §2.2.2), by its code.
    Refused(String),
    /// Nothing that says so.
    Failed(String),
    /// There is no answer at all, whatever is asked.
    Unreachable(String),
}

#[derive(Deserialize)]
struct Token {
    access_token: String,
    token_type: String,
    #[serde(default)]
    expires_in: Option<u64>,
    #[serde(default)]
    issued_token_type: Option<String>,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

/// Reads an answer; to an exchange, one that says what it issued.
pub fn read(answer: &Answer, is_exchange: bool) -> Result<Issued, NotIssued> {
    let failed = |why: &str| NotIssued::Failed(why.to_owned());
    if answer.status != StatusCode::OK {
        return Err(refusal(answer));
    }
    let read: Token = serde_json::from_slice(&answer.body).map_err(|_| {
        failed("its answer is no JSON object with `access_token`, `token_type` and whole seconds")
    })?;
    let token = Zeroizing::new(read.access_token);
    if !read.token_type.eq_ignore_ascii_case("Bearer") {
        return Err(failed("the token that it issued is no bearer token"));
    }
    if token.len() > TOKEN_BYTES_MAX || !is_b64token(&token) {
        return Err(failed("the token that it issued cannot be sent as one (RFC 6750 §2.1)"));
    }
    match read.issued_token_type.as_deref() {
        Some(ACCESS_TOKEN | JWT) => {}
        None if !is_exchange => {}
        _ => return Err(failed("what it issued is no access token, or it does not say (RFC 8693 §2.2.1)")),
    }
    let lifetime = read.expires_in.map_or(LIFETIME_UNSAID, Duration::from_secs).min(LIFETIME_MAX);
    if lifetime.is_zero() {
        return Err(failed("the token that it issued has expired already"));
    }
    Ok(Issued { token, lifetime })
}

fn refusal(answer: &Answer) -> NotIssued {
    let status = answer.status.as_u16();
    let code = serde_json::from_slice::<Refusal>(&answer.body).ok().map(|refusal| refusal.error);
    let is_code = |code: &String| {
        let fits = |b: u8| b.is_ascii_lowercase() || b == b'_';
        !code.is_empty() && code.len() <= CODE_BYTES_MAX && code.bytes().all(fits)
    };
    match code.filter(is_code) {
        // About what was asked for, or for whom; all others are about us, or about the endpoint.
        Some(code)
            if answer.status.is_client_error()
                && [
                    "invalid_grant",
                    "invalid_request",
                    "invalid_target",
                    "invalid_scope",
                    "access_denied",
                ]
                .contains(&code.as_str()) =>
        {
            NotIssued::Refused(code)
        }
        Some(code) => NotIssued::Failed(format!("it answers {status}, `{code}`")),
        None => NotIssued::Failed(format!("it answers {status}")),
    }
}

impl Issued {
    /// As it is sent; nobody who prints the headers sees it.
    pub fn bearer(&self) -> Option<HeaderValue> {
        let text = Zeroizing::new(format!("Bearer {}", *self.token));
        sensitive(&text)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn answered(status: u16, body: &str) -> Answer {
        let status = StatusCode::from_u16(status).unwrap();
        Answer { status, headers: HeaderMap::new(), body: body.to_owned().into() }
    }

    fn outcome(status: u16, body: &str, is_exchange: bool) -> Result<(String, u64), NotIssued> {
        let read = read(&answered(status, body), is_exchange);
        read.map(|issued| (issued.token.to_string(), issued.lifetime.as_secs()))
    }

    #[test]
    fn a_token_is_taken_as_it_must_be() {
        let good = [
            (r#"{"access_token":"a.b-c_~+/=","token_type":"Bearer","expires_in":300}"#, 300),
            (r#"{"access_token":"x","token_type":"bearer","scope":"a","extra":{"b":1}}"#, 60),
            (r#"{"access_token":"x","token_type":"BEARER","expires_in":9999999999}"#, 86_400),
            (
                &format!(
                    r#"{{"access_token":"x","token_type":"bearer","expires_in":9,"issued_token_type":"{JWT}"}}"#
                ),
                9,
            ),
        ];
        for (body, seconds) in good {
            assert_eq!(outcome(200, body, false).unwrap().1, seconds, "{body}");
        }
        let long =
            format!(r#"{{"access_token":"{}","token_type":"Bearer"}}"#, "x".repeat(TOKEN_BYTES_MAX + 1));
        let bad = [
            "",
            "[]",
            "null",
            r#"{"access_token":"x"}"#,
            r#"{"token_type":"Bearer"}"#,
            r#"{"access_token":"","token_type":"Bearer"}"#,
            r#"{"access_token":"===","token_type":"Bearer"}"#,
            r#"{"access_token":"a b","token_type":"Bearer"}"#,
            r#"{"access_token":"a\r\nx: y","token_type":"Bearer"}"#,
            r#"{"access_token":"ä","token_type":"Bearer"}"#,
            r#"{"access_token":"a,b","token_type":"Bearer"}"#,
            r#"{"access_token":7,"token_type":"Bearer"}"#,
            r#"{"access_token":"x","token_type":"DPoP"}"#,
            r#"{"access_token":"x","token_type":"N_A"}"#,
            r#"{"access_token":"x","token_type":"mac"}"#,
            r#"{"access_token":"x","token_type":"Bearer","expires_in":0}"#,
            r#"{"access_token":"x","token_type":"Bearer","expires_in":-1}"#,
            r#"{"access_token":"x","token_type":"Bearer","expires_in":1.5}"#,
            r#"{"access_token":"x","token_type":"Bearer","expires_in":"300"}"#,
            r#"{"access_token":"x","access_token":"y","token_type":"Bearer"}"#,
            r#"{"access_token":"x","token_type":"Bearer","issued_token_type":"urn:ietf:params:oauth:token-type:refresh_token"}"#,
            r#"{"access_token":"x","token_type":"Bearer"} trailing"#,
            &long,
        ];
        for body in bad {
            assert!(matches!(outcome(200, body, false), Err(NotIssued::Failed(_))), "{body}");
        }
        assert_eq!((good.len(), bad.len()), (4, 23));
    }

    #[test]
    fn an_exchange_says_what_it_issued() {
        let of = |issued: &str| format!(r#"{{"access_token":"x","token_type":"Bearer"{issued}}}"#);
        let said =
            |kind: &str| of(&format!(r#","issued_token_type":"urn:ietf:params:oauth:token-type:{kind}""#));
        for (body, good) in [
            (said("access_token"), true),
            (said("jwt"), true),
            (said("id_token"), false),
            (said("saml2"), false),
            (of(r#","issued_token_type":"#), false),
            (of(""), false),
        ] {
            assert_eq!(outcome(200, &body, true).is_ok(), good, "{body}");
        }
    }

    #[test]
    fn a_refusal_is_told_from_a_failure_by_its_code() {
        let refused =
            ["invalid_grant", "invalid_request", "invalid_target", "invalid_scope", "access_denied"];
        for code in refused {
            let body = format!(r#"{{"error":"{code}","error_description":"secret"}}"#);
            assert_eq!(outcome(400, &body, true), Err(NotIssued::Refused(code.to_owned())));
            assert!(matches!(outcome(500, &body, true), Err(NotIssued::Failed(_))));
        }
        for (status, body, told) in [
            (401, r#"{"error":"invalid_client"}"#, "it answers 401, `invalid_client`"),
            (400, r#"{"error":"unauthorized_client"}"#, "it answers 400, `unauthorized_client`"),
            (400, r#"{"error":"Invalid\nGrant"}"#, "it answers 400"),
            (400, "<html>", "it answers 400"),
            (503, "", "it answers 503"),
            (201, r#"{"access_token":"x","token_type":"Bearer"}"#, "it answers 201"),
        ] {
            assert_eq!(
                outcome(status, body, true),
                Err(NotIssued::Failed(told.to_owned())),
                "{status} {body}"
            );
        }
    }
}
