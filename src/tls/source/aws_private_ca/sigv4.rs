//! AWS Signature Version 4, for requests whose path is `/` and that have no query.
//!
//! That is all that a service of the JSON protocol is asked with. What makes the general case long, the
//! canonical form of paths and queries, does not arise; the library for it brings a dozen crates of an SDK and a
//! second implementation of SHA-256.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{HMAC_SHA256, Key, Tag, sign};

use super::credentials::Credentials;
use crate::clock::Timestamp;

/// Where a signature is good.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    pub region: &'a str,
    pub service: &'a str,
}

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// The time as `x-amz-date` has it.
pub fn date_of(at: Timestamp) -> String {
    let text = at.rfc3339();
    let seconds = text.iter().take_while(|byte| **byte != b'.');
    seconds.filter(|byte| !b"-:".contains(byte)).map(|byte| char::from(*byte)).chain(['Z']).collect()
}

/// The `Authorization` of a request. All of `headers` are signed: names in lower case, `host` and `x-amz-date`
/// among them.
pub fn authorization(
    credentials: &Credentials,
    scope: Scope<'_>,
    method: &str,
    headers: &BTreeMap<&str, &str>,
    body: &[u8],
) -> String {
    let names = headers.keys().copied().collect::<Vec<_>>().join(";");
    let mut canonical = format!("{method}\n/\n\n");
    for (name, value) in headers {
        let _ = writeln!(canonical, "{name}:{}", value.trim());
    }
    let _ = write!(canonical, "\n{names}\n{}", hex::encode(digest(&SHA256, body)));

    let date = headers.get("x-amz-date").copied().unwrap_or_default();
    let day = date.split('T').next().unwrap_or_default();
    let Scope { region, service } = scope;
    let scope = format!("{day}/{region}/{service}/aws4_request");
    let hashed = hex::encode(digest(&SHA256, canonical.as_bytes()));
    let to_sign = format!("{ALGORITHM}\n{date}\n{scope}\n{hashed}");

    let hmac = |key: &[u8], text: &str| -> Tag { sign(&Key::new(HMAC_SHA256, key), text.as_bytes()) };
    let mut key = hmac(credentials.key().as_bytes(), day);
    for part in [region, service, "aws4_request"] {
        key = hmac(key.as_ref(), part);
    }
    let signature = hex::encode(hmac(key.as_ref(), &to_sign));
    let id = &credentials.access_key_id;
    format!("{ALGORITHM} Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors of AWS's own test suite for signers, by their names there.
    #[test]
    fn signatures_are_those_of_the_published_vectors() {
        let credentials = Credentials::new("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", None);
        let scope = Scope { region: "us-east-1", service: "service" };
        let sent = [("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z")];
        let form = ("content-type", "application/x-www-form-urlencoded");
        let token = (
            "x-amz-security-token",
            "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==",
        );
        let mut seen = 0;
        for (name, method, more, body, expected) in [
            (
                "get-vanilla",
                "GET",
                vec![],
                "",
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            (
                "post-vanilla",
                "POST",
                vec![],
                "",
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
            (
                "post-x-www-form-urlencoded",
                "POST",
                vec![form],
                "Param1=value1",
                "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            ),
            (
                "post-sts-header-before",
                "POST",
                vec![token],
                "",
                "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
            ),
        ] {
            let headers = sent.into_iter().chain(more).collect();
            let signed = authorization(&credentials, scope, method, &headers, body.as_bytes());
            assert!(signed.ends_with(&format!("Signature={expected}")), "{name}: {signed}");
            seen += 1;
        }
        assert_eq!(seen, 4);
    }

    #[test]
    fn dates_are_compact() {
        assert_eq!(date_of(Timestamp::from_unix_seconds(1_440_938_160)), "20150830T123600Z");
    }
}
