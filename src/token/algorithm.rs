//! The signature algorithms that tokens may use, each pinned to one kind of key. Symmetric ones and
//! `none` do not exist here, so no configuration can ask for them (RFC 8725 §2.1, §3.1).

use std::fmt;
use std::str::FromStr;

use jsonwebtoken::DecodingKey;
use jsonwebtoken::crypto::{self, aws_lc};

/// An asymmetric JWS algorithm (RFC 7518 §3.1, RFC 8037 §3.1). `ES512` is missing because the
/// signature library has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

/// What a key is, and with that which algorithms may use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyKind {
    Rsa,
    P256,
    P384,
    Ed25519,
}

/// A text that names no [`Algorithm`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 EdDSA")]
pub struct UnknownAlgorithm(pub String);

/// The signature library does not do what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature self-test failed for {0}")]
pub struct SelfTestError(pub Algorithm);

impl Algorithm {
    pub const ALL: [Algorithm; 9] = [
        Algorithm::Rs256,
        Algorithm::Rs384,
        Algorithm::Rs512,
        Algorithm::Ps256,
        Algorithm::Ps384,
        Algorithm::Ps512,
        Algorithm::Es256,
        Algorithm::Es384,
        Algorithm::EdDsa,
    ];

    /// What an issuer takes that is configured without `algorithms`.
    pub const DEFAULT: [Algorithm; 4] =
        [Algorithm::Rs256, Algorithm::Ps256, Algorithm::Es256, Algorithm::EdDsa];

    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Rs256 => "RS256",
            Algorithm::Rs384 => "RS384",
            Algorithm::Rs512 => "RS512",
            Algorithm::Ps256 => "PS256",
            Algorithm::Ps384 => "PS384",
            Algorithm::Ps512 => "PS512",
            Algorithm::Es256 => "ES256",
            Algorithm::Es384 => "ES384",
            Algorithm::EdDsa => "EdDSA",
        }
    }

    /// The one kind of key that this algorithm uses.
    pub(super) fn key_kind(self) -> KeyKind {
        match self {
            Algorithm::Rs256 | Algorithm::Rs384 | Algorithm::Rs512 => KeyKind::Rsa,
            Algorithm::Ps256 | Algorithm::Ps384 | Algorithm::Ps512 => KeyKind::Rsa,
            Algorithm::Es256 => KeyKind::P256,
            Algorithm::Es384 => KeyKind::P384,
            Algorithm::EdDsa => KeyKind::Ed25519,
        }
    }

    /// Whether `signature` (base64url) is this algorithm's over `message` by the holder of `key`.
    pub(super) fn verifies(self, message: &str, signature: &str, key: &DecodingKey) -> bool {
        matches!(crypto::verify(signature, message.as_bytes(), key, self.into()), Ok(true))
    }
}

impl From<Algorithm> for jsonwebtoken::Algorithm {
    fn from(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
        match algorithm {
            Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
            Algorithm::Rs384 => jsonwebtoken::Algorithm::RS384,
            Algorithm::Rs512 => jsonwebtoken::Algorithm::RS512,
            Algorithm::Ps256 => jsonwebtoken::Algorithm::PS256,
            Algorithm::Ps384 => jsonwebtoken::Algorithm::PS384,
            Algorithm::Ps512 => jsonwebtoken::Algorithm::PS512,
            Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::Es384 => jsonwebtoken::Algorithm::ES384,
            Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    /// Case counts, as in a token.
    fn from_str(text: &str) -> Result<Algorithm, UnknownAlgorithm> {
        let found = Algorithm::ALL.into_iter().find(|algorithm| algorithm.as_str() == text);
        found.ok_or_else(|| UnknownAlgorithm(text.to_owned()))
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names the signature library's backend for this process and asks it questions with known answers.
/// To be called once at start, before any token is verified: a build of that library without exactly
/// one backend would otherwise fail at the first token.
pub fn self_test() -> Result<(), SelfTestError> {
    // a second call, or another's, changes nothing: the questions below are what counts
    let _ = aws_lc::DEFAULT_PROVIDER.install_default();
    let es256 = (
        Algorithm::Es256,
        DecodingKey::from_ec_components(
            "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        ),
        // RFC 7515 appendix A.3
        "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ",
        "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
    );
    let eddsa = (
        Algorithm::EdDsa,
        DecodingKey::from_ed_components("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"),
        // RFC 8037 appendix A.4
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
    );
    for (algorithm, key, message, signature) in [es256, eddsa] {
        let key = key.map_err(|_| SelfTestError(algorithm))?;
        let takes_good = algorithm.verifies(message, signature, &key);
        let takes_bad = algorithm.verifies(&message[1..], signature, &key);
        if !takes_good || takes_bad {
            return Err(SelfTestError(algorithm));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backend_answers_known_questions() {
        assert_eq!(self_test(), Ok(()));
        assert_eq!(self_test(), Ok(()), "a second time");
    }

    #[test]
    fn only_asymmetric_algorithms_have_a_name() {
        for algorithm in Algorithm::ALL {
            assert_eq!(algorithm.as_str().parse(), Ok(algorithm));
        }
        for text in
            ["none", "None", "nOnE", "", "HS256", "HS384", "HS512", "rs256", "ES512", "ES256K", "RSA-OAEP"]
        {
            assert!(text.parse::<Algorithm>().is_err(), "{text}");
        }
    }
}
