//! The signature algorithms that tokens may use, each pinned to one kind of key. Symmetric ones and
//! `none` do not exist here, so no configuration can ask for them (RFC 8725 §2.1, §3.1).

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::RsaPublicKeyComponents;
use aws_lc_rs::signature::{self, EcdsaVerificationAlgorithm, ParsedPublicKey, RsaParameters};

use super::jwt::decode;

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
    pub fn key_kind(self) -> KeyKind {
        match self {
            Algorithm::Rs256 | Algorithm::Rs384 | Algorithm::Rs512 => KeyKind::Rsa,
            Algorithm::Ps256 | Algorithm::Ps384 | Algorithm::Ps512 => KeyKind::Rsa,
            Algorithm::Es256 => KeyKind::P256,
            Algorithm::Es384 => KeyKind::P384,
            Algorithm::EdDsa => KeyKind::Ed25519,
        }
    }

    /// A key's material, read once for all tokens: modulus and exponent, or what there is of a point. `None` for
    /// what the signature library takes for no such key.
    pub(super) fn public_key(self, [first, second]: &[Vec<u8>; 2]) -> Option<ParsedPublicKey> {
        let rsa = |parameters: &'static RsaParameters| {
            RsaPublicKeyComponents { n: first, e: second }.to_parsed_public_key(parameters)
        };
        // SEC 1 §2.3.3: uncompressed, and refused where it does not lie on its curve
        let point = |curve: &'static EcdsaVerificationAlgorithm| {
            ParsedPublicKey::new(curve, [&[4][..], first, second].concat())
        };
        let key = match self {
            Algorithm::Rs256 => rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
            Algorithm::Rs384 => rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
            Algorithm::Rs512 => rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
            Algorithm::Ps256 => rsa(&signature::RSA_PSS_2048_8192_SHA256),
            Algorithm::Ps384 => rsa(&signature::RSA_PSS_2048_8192_SHA384),
            Algorithm::Ps512 => rsa(&signature::RSA_PSS_2048_8192_SHA512),
            Algorithm::Es256 => point(&signature::ECDSA_P256_SHA256_FIXED),
            Algorithm::Es384 => point(&signature::ECDSA_P384_SHA384_FIXED),
            Algorithm::EdDsa => ParsedPublicKey::new(&signature::ED25519, first),
        };
        key.ok()
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

/// Asks the signature library questions with known answers. To be called once at start, before any token is
/// verified.
pub fn self_test() -> Result<(), SelfTestError> {
    let es256 = (
        Algorithm::Es256,
        ["f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"],
        // RFC 7515 appendix A.3
        "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ",
        "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
    );
    let eddsa = (
        Algorithm::EdDsa,
        ["11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", ""],
        // RFC 8037 appendix A.4
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
    );
    for (algorithm, key, message, signature) in [es256, eddsa] {
        let failed = || SelfTestError(algorithm);
        let bytes = |text: &str| decode(text).ok_or_else(failed);
        let key = algorithm.public_key(&[bytes(key[0])?, bytes(key[1])?]).ok_or_else(failed)?;
        let signature = bytes(signature)?;
        let takes = |message: &str| key.verify_sig(message.as_bytes(), &signature).is_ok();
        if !takes(message) || takes(&message[1..]) {
            return Err(failed());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_library_answers_known_questions() {
        assert_eq!(self_test(), Ok(()));
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
