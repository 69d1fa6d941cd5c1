//! What an AWS Application Load Balancer says of who logged in there, in `x-amzn-oidc-data`; and the same, made up for a
//! question.
//!
//! It looks like a JWT and is read by nobody who reads JWTs: its parts are padded, `iss`, `exp` and the OAuth client
//! stand in its header, and its key is fetched by itself. Invariants:
//! - No token passes here, and nothing of this form where tokens are read: a signature of 64 bytes is padded.
//! - All load balancers of a region have their keys under one address, so a good signature says that it is of some
//!   load balancer. Whose it is `signer` says, which must be configured.
//! - Its parts are exactly as AWS documents them, padded; without padding, as RFC 7515 has it, they are refused.

use std::sync::Arc;

use base64::engine::general_purpose::URL_SAFE;
use http::HeaderValue;
use serde_json::{Map, Value, json};

use super::algorithm::Algorithm;
use super::credential::Scheme;
use super::error::{TokenError, malformed};
use super::issuer::{Carrier, TokenType};
use super::jwt::{Header, Parts, Unverified};
use super::key_document::KeyId;
use super::limits::TokenLimits;
use super::memory::{Remembered, TokenHash};
use super::possession::Shown;
use super::signing::{SigningError, SigningKey};
use super::steps::{Said, Step, Trace};
use super::verifier::{TokenField, Verifier, sha256};
use crate::identity::{Caller, Name, Signature};

/// What is said of everybody who logged in.
pub(super) const ALB_CLAIMS: [&str; 5] = ["iss", "exp", "aud", "client_id", "sub"];

/// All that its header may have, and what that is among the claims.
const HEADER_MEMBERS: [(&str, &[&str]); 7] = [
    ("alg", &[]),
    ("typ", &[]),
    ("kid", &[]),
    ("signer", &[]),
    ("iss", &["iss"]),
    ("exp", &["exp"]),
    // The client that the provider was asked as, which is whom a log-in is for (OpenID Connect Core §2).
    ("client", &["aud", "client_id"]),
];

impl Verifier {
    /// Who logged in at a load balancer, by what it says in the header of such.
    pub async fn verify_user_claims(&self, said: &HeaderValue) -> Result<Signature<Caller>, TokenError> {
        let said = said.to_str().map_err(|_| malformed("what the load balancer says is not in ASCII"))?;
        let hash = sha256(said);
        let remembered = match self.recall(&hash).await? {
            Some(remembered) => remembered,
            None => self.judge_user_claims(said, hash, &mut Step::Structure).await?,
        };
        self.logged_in(&remembered)
    }

    /// Whatever a provider says of a key, a browser has shown none.
    fn logged_in(&self, remembered: &Remembered) -> Result<Signature<Caller>, TokenError> {
        self.check_carrier(remembered, Carrier::UserClaims)?;
        self.presented(remembered, Scheme::Bearer, &Shown::on(None)).map_err(|error| match error {
            // It asks for a proof, which nobody makes for a log-in.
            TokenError::ProofMissing => {
                TokenError::NotSenderConstrained("it is bound to a key, which no log-in shows".into())
            }
            error => error,
        })
    }

    /// As [`Verifier::verify_user_claims`] for what was kept.
    pub async fn verify_user_claims_again(&self, said: &TokenField) -> Result<Signature<Caller>, TokenError> {
        let said = HeaderValue::from_bytes(&said.0).map_err(|_| malformed("it is no text"))?;
        self.verify_user_claims(&said).await
    }

    /// Whether this issuer's people log in at load balancers; without a name, whether anybody's do.
    pub fn takes_user_claims(&self, of: Option<&Name>) -> bool {
        let mut all = self.issuers.iter().map(|issuer| &issuer.settings);
        all.any(|issuer| issuer.token_type.is_alb() && of.is_none_or(|name| issuer.name == *name))
    }

    /// As [`Verifier::verify_user_claims`] with nothing remembered, saying how far it gets.
    pub async fn trace_user_claims(&self, said: &str) -> Trace {
        let mut last = Step::Structure;
        let outcome = self.judge_user_claims(said, sha256(said), &mut last).await;
        let outcome = outcome.and_then(|remembered| {
            last = Step::Binding;
            self.logged_in(&remembered).map(|_| Arc::clone(&remembered.caller))
        });
        let read = read(said, &self.limits).ok();
        let issuer = read.as_ref().and_then(|(token, _)| self.issuer_of(&token.claims, true).ok());
        let issuer = issuer.map(|at| self.issuers[at].settings.name.clone());
        Trace { last, outcome, issuer, said: read.map(|(token, _)| Said::of(token)) }
    }

    async fn judge_user_claims(
        &self,
        said: &str,
        hash: TokenHash,
        step: &mut Step,
    ) -> Result<Arc<Remembered>, TokenError> {
        let (token, signer) = read(said, &self.limits)?;
        *step = Step::Issuer;
        let position = self.issuer_of(&token.claims, true)?;
        let issuer = &self.issuers[position];
        let TokenType::Alb { signers } = &issuer.settings.token_type else {
            return Err(malformed("its issuer is no load balancer"));
        };
        if !signers.iter().any(|own| **own == *signer) {
            return Err(TokenError::IssuerUnknown("its `signer` is no load balancer of ours".into()));
        }
        let algorithm = issuer.settings.check_header(&token, step)?;
        *step = Step::Key;
        let kid = token.header.kid.as_deref().and_then(KeyId::parse);
        let kid = kid.ok_or_else(|| malformed("header: `kid` has not the form of a UUID"))?;
        // As of any other token, nothing but its text is held while its key is waited for.
        drop(token);
        let keys = issuer.keys.naming(&kid).await?;
        let (token, _) = read(said, &self.limits)?;
        self.settle((position, &keys), algorithm, token, hash, step)
    }
}

/// What a load balancer would say by this key: of these claims `iss`, `exp`, `client_id` and `signer` are its own.
pub fn user_claims(
    key: &SigningKey,
    kid: &str,
    mut claims: Map<String, Value>,
) -> Result<String, SigningError> {
    let mut header = json!({ "typ": "JWT", "kid": kid, "alg": Algorithm::Es256.as_str() });
    for (member, claim) in [("iss", "iss"), ("client", "client_id"), ("signer", "signer"), ("exp", "exp")] {
        if let Some(value) = claims.remove(claim) {
            header[member] = value;
        }
    }
    key.compact_in(&URL_SAFE, &header, &claims.into())
}

/// What a load balancer said, with another key's signature in place of the one that it has.
pub fn user_claims_by(key: &SigningKey, said: &str) -> Result<String, SigningError> {
    key.signed_in(&URL_SAFE, said.rsplit_once('.').map_or(said, |(message, _)| message))
}

/// As [`claimed_signer`](super::jwt::claimed_signer) of what a load balancer said.
pub fn claimed_user_claims_signer(said: &str, limits: &TokenLimits) -> Option<(Algorithm, Option<String>)> {
    let (Unverified { header, .. }, _) = read(said, limits).ok()?;
    Some((header.algorithm?, header.kid))
}

/// Takes it apart; what its header says stands among its claims, and the signer apart.
fn read<'t>(said: &'t str, limits: &TokenLimits) -> Result<(Unverified<'t>, String), TokenError> {
    let Parts { mut header, mut claims, message, signature } = Parts::split_by(&URL_SAFE, said, limits)?;
    if header.keys().any(|name| HEADER_MEMBERS.iter().all(|(known, _)| known != name)) {
        return Err(malformed("header: a member other than alg typ kid signer iss exp client"));
    }
    if !header.get("client").is_some_and(Value::is_string) {
        return Err(malformed("header: `client` is no string"));
    }
    for (member, names) in HEADER_MEMBERS {
        for name in names {
            let value = header.get(member).ok_or_else(|| malformed(format!("header: no `{member}`")))?;
            // What the provider says must not pass for what the load balancer says.
            if claims.insert((*name).to_owned(), value.clone()).is_some_and(|other| other != *value) {
                return Err(malformed(format!("the claim `{name}` is another than the header's `{member}`")));
            }
        }
    }
    let signer = text(&mut header, "signer")?.ok_or_else(|| malformed("header: no `signer`"))?;
    let algorithm = text(&mut header, "alg")?.ok_or_else(|| malformed("header: no `alg`"))?;
    let header = Header {
        algorithm: algorithm.parse().ok(),
        media_type: text(&mut header, "typ")?,
        kid: text(&mut header, "kid")?,
    };
    Ok((Unverified { header, claims, message, signature }, signer))
}

fn text(header: &mut Map<String, Value>, name: &'static str) -> Result<Option<String>, TokenError> {
    match header.remove(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(malformed(format!("header: `{name}` is no string"))),
    }
}
