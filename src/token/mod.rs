//! A credential becomes a caller. The only place in the tree that reads tokens.
//!
//! [`Credential::from_headers`] says what a request presents, [`Verifier::verify`] who that is. A missing
//! token is a fact for the policy to judge; a bad one is a [`TokenError`] and a refusal whatever the
//! policy says.
//!
//! Deliberately absent: symmetric algorithms, keys that a token brings along, tokens in a query or a
//! form, and any guess at what an issuer did not say.

mod actor;
mod algorithm;
mod attempts;
mod claims;
mod credential;
mod error;
mod issuer;
mod issuer_url;
mod json;
mod jwt;
mod key_cache;
mod key_document;
mod key_fetch;
mod keys;
mod limits;
mod memory;
mod preset;
mod signing;
mod steps;
mod verifier;
mod wanted;

pub use actor::ActorEntry;
pub use algorithm::{Algorithm, KeyKind, SelfTestError, UnknownAlgorithm, self_test};
pub use credential::{Credential, CredentialError};
pub use error::{Detail, TokenError};
pub use issuer::{
    ASSERTION_KEYS_PATH, ASSERTION_TYPE, ClaimMap, IssuerSettings, KeySettings, KeySource, LEEWAY_MAX,
    Quirks, TokenType,
};
pub use issuer_url::{IssuerUrl, IssuerUrlError};
pub use jwt::claimed_signer;
pub use key_cache::{IssuerKeys, KeyStatus, Rotation, UNKNOWN_KEY_REST};
pub use key_document::{check_key_file, check_key_set, jwks_uri};
pub use key_fetch::{KeysError, LIFETIME_MAX, LIFETIME_MIN};
pub use keys::{KEYS_MAX, KeyUse};
pub use limits::TokenLimits;
pub use memory::TokenCacheSettings;
pub use preset::{Preset, UnknownPreset};
pub use signing::{SigningError, SigningKey};
pub use steps::{Said, Step, Trace};
pub use verifier::{Issuer, KnownToken, SameIssuer, Verifier};
#[cfg(test)]
pub use wanted::tests_universe;
pub use wanted::{Mint, bound_to, vouched};

#[cfg(test)]
mod tests;
