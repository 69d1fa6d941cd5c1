//! A credential becomes a caller. The only place in the tree that reads tokens.
//!
//! [`Credential::from_headers`] says what a request presents, [`Verifier::verify`] who that is. A missing
//! token is a fact for the policy to judge; a bad one is a [`TokenError`] and a refusal whatever the
//! policy says.
//!
//! A token that is bound to a key is worth something only to who proves to have it: `possession`, `dpop`.
//!
//! Deliberately absent: symmetric algorithms, keys that a token brings along, tokens in a query or a
//! form, and any guess at what an issuer did not say.

mod actor;
mod alb;
mod algorithm;
mod assertion;
mod attempts;
mod claims;
mod credential;
mod discovery;
mod dpop;
mod error;
mod introspection;
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
mod opaque;
mod possession;
mod preset;
mod proofs;
mod recall;
mod share;
mod signing;
mod steps;
mod verifier;
mod wanted;

pub use actor::ActorEntry;
pub use alb::{claimed_user_claims_signer, user_claims, user_claims_by};
pub use algorithm::{Algorithm, KeyKind, SelfTestError, UnknownAlgorithm, self_test};
pub use assertion::{ASSERTED_NOBODY, ASSERTION_KEYS_PATH, ASSERTION_TYPE, is_nobody};
pub use credential::{Credential, CredentialError, Scheme, is_b64token};
pub use discovery::{Location, jwks_uri, token_endpoint};
pub use dpop::{DPOP, thumbprint};
pub use error::{Detail, TokenError};
pub use introspection::{ASK_TIMEOUT, INTROSPECTION_TIME_MAX, Introspection, IntrospectionSettings};
pub use issuer::{ClaimMap, IssuerSettings, KeySettings, KeySource, LEEWAY_MAX, Quirks, TokenType};
pub use issuer_url::{IssuerUrl, IssuerUrlError};
pub use jwt::claimed_signer;
pub use key_cache::{IssuerKeys, KeyStatus, Rotation, UNKNOWN_KEY_REST};
pub use key_document::{check_key_file, check_key_set};
pub use key_fetch::{KeysError, LIFETIME_MAX, LIFETIME_MIN};
pub use keys::{KEYS_MAX, KeyUse};
pub use limits::TokenLimits;
pub use memory::TokenCacheSettings;
pub use possession::{PROOF_AGE_MAX, PossessionSettings, ROTATION_GRACE_MAX, Shown, Target};
pub use preset::{Preset, UnknownPreset};
pub use proofs::Proofs;
pub use signing::{BadSigningKey, SigningError, SigningKey};
pub use steps::{Said, Step, Trace};
pub use verifier::{Issuer, KnownToken, SameIssuer, TokenField, Verifier};
#[cfg(test)]
pub use wanted::tests_universe;
pub use wanted::{Mint, vouched};

#[cfg(test)]
mod tests;
