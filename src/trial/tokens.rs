//! How a question comes by its token, and who verifies that: always a real [`Verifier`], with the issuers' own
//! keys where these are given, and else with keys that are made here.

use std::sync::Arc;

use aws_lc_rs::digest::{self, SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::HOST;
use http::request::Parts;
use serde_json::json;

use super::question::{Bearer, Bound, Claims};
use super::{Unaskable, claims};
use crate::clock::{Clock, Timestamp};
use crate::identity::{CertificateHash, Name};
use crate::metrics::TokenMetrics;
use crate::token::{
    Algorithm, Issuer, IssuerKeys, IssuerSettings, KeySource, Proofs, SameIssuer, Scheme, SigningError,
    SigningKey, TokenCacheSettings, TokenLimits, Verifier, claimed_signer, claimed_user_claims_signer,
    thumbprint, user_claims, user_claims_by,
};

/// All issuers, three times: by whom a token is verified depends on where it comes from.
pub struct Tokens {
    /// With their own keys, as far as those are files, or were handed over.
    given: Ring,
    /// With keys that sign claims by hand.
    minted: Ring,
    /// With a key like the one that the token at hand names.
    believed: Ring,
    limits: TokenLimits,
    /// By issuer, once there was something to sign.
    signing: Vec<Option<SigningKey>>,
}

struct Ring {
    verifier: Verifier,
    keys: Vec<Arc<IssuerKeys>>,
    proofs: Arc<Proofs>,
}

/// What a request presents, and in which header.
pub enum Credential {
    /// In `Authorization`; beside it with [`Scheme::Dpop`] the proof.
    Token {
        scheme: Scheme,
        token: String,
        proof: Option<String>,
    },
    Assertion(String),
    /// Of who logged in at a load balancer.
    UserClaims(String),
}

/// Of the key that stands in for a load balancer's.
const ALB_KID: &str = "00000000-0000-4000-8000-000000000000";

/// Of nobody.
const NO_CERTIFICATE: CertificateHash = CertificateHash([0; 32]);

impl Ring {
    fn new(
        issuers: &[IssuerSettings],
        limits: TokenLimits,
        cache: TokenCacheSettings,
        clock: &Clock,
    ) -> Result<Ring, SameIssuer> {
        let held = |settings: &IssuerSettings| IssuerKeys::held(settings.keys.clone(), clock.clone());
        let keys: Vec<_> = issuers.iter().map(held).map(Arc::new).collect();
        let issuers = issuers.iter().cloned().zip(keys.iter().map(Arc::clone));
        let issuers =
            issuers.map(|(settings, keys)| Issuer { settings, keys, introspection: None }).collect();
        let (proofs, metrics) = (Arc::<Proofs>::default(), TokenMetrics::default());
        let verifier = Verifier::new(issuers, limits, cache, Arc::clone(&proofs), metrics, clock.clone())?;
        Ok(Ring { verifier, keys, proofs })
    }

    fn position(&self, issuer: &Name) -> Result<usize, Unaskable> {
        let found = self.verifier.issuers().iter().position(|other| other.settings.name == *issuer);
        found.ok_or_else(|| Unaskable::Issuer(issuer.clone()))
    }
}

impl Tokens {
    pub fn new(
        issuers: &[IssuerSettings],
        limits: TokenLimits,
        cache: TokenCacheSettings,
        clock: &Clock,
    ) -> Result<Tokens, SameIssuer> {
        // Each question's token is judged for itself, whatever the time was when it was asked before.
        let cache = TokenCacheSettings { bytes_max: 0, failures_max: 0, ..cache };
        let ring = || Ring::new(issuers, limits, cache, clock);
        let signing = issuers.iter().map(|_| None).collect();
        let tokens = Tokens { given: ring()?, minted: ring()?, believed: ring()?, limits, signing };
        for (settings, keys) in issuers.iter().zip(&tokens.given.keys) {
            if let KeySource::File(path) = &settings.keys.source
                // One that is gone by now is as good as one that was never there: its tokens are not verified.
                && let Ok(document) = std::fs::read(path)
            {
                let _ = keys.hold(&document);
            }
        }
        Ok(tokens)
    }

    /// Takes a key set as that of an issuer.
    pub fn give(&self, issuer: &Name, document: &[u8]) -> Result<(), Unaskable> {
        let at = self.given.position(issuer)?;
        Ok(self.given.keys[at].hold(document)?)
    }

    /// Takes a key of this name as one of an issuer's, in PEM.
    pub fn give_one(&self, issuer: &Name, kid: &str, document: &[u8]) -> Result<(), Unaskable> {
        let at = self.given.position(issuer)?;
        Ok(self.given.keys[at].hold_one(kid, document)?)
    }

    pub fn issuers(&self) -> impl Iterator<Item = &IssuerSettings> + Clone {
        self.given.verifier.issuers().iter().map(|issuer| &issuer.settings)
    }

    /// What to send with this head, if there is something, and who verifies it. `certificate` is the peer's.
    pub fn present(
        &mut self,
        bearer: &Bearer,
        head: &Parts,
        certificate: Option<CertificateHash>,
        now: Timestamp,
    ) -> Result<(Option<Credential>, &Verifier), Unaskable> {
        let plain = |token| Some(Credential::Token { scheme: Scheme::Bearer, token, proof: None });
        let (credential, ring) = match bearer {
            Bearer::Nothing => (None, &self.given),
            Bearer::Token(text) => (plain(text.clone()), &self.given),
            Bearer::Assertion(text) => (Some(Credential::Assertion(text.clone())), &self.given),
            Bearer::Claims(claims) => (Some(self.mint(claims, head, certificate, now)?), &self.minted),
            Bearer::TokenOnTrust(text) => (plain(self.believe(text)?), &self.believed),
            Bearer::AssertionOnTrust(text) => {
                (Some(Credential::Assertion(self.believe(text)?)), &self.believed)
            }
            Bearer::UserClaims(text) => (Some(Credential::UserClaims(text.clone())), &self.given),
            Bearer::UserClaimsOnTrust(text) => {
                (Some(Credential::UserClaims(self.believe_user_claims(text)?)), &self.believed)
            }
        };
        // Asked again, a question has the same answer.
        ring.proofs.forget();
        Ok((credential, &ring.verifier))
    }

    fn mint(
        &mut self,
        given: &Claims,
        head: &Parts,
        certificate: Option<CertificateHash>,
        now: Timestamp,
    ) -> Result<Credential, Unaskable> {
        let at = self.minted.position(&given.issuer)?;
        let Issuer { settings, keys, .. } = &self.minted.verifier.issuers()[at];
        let kid = if settings.token_type.is_alb() { ALB_KID } else { settings.name.as_str() };
        let signing = match &mut self.signing[at] {
            Some(signing) => signing,
            none => {
                let no_algorithm = || Unaskable::Algorithm(settings.name.clone());
                let signing = SigningKey::generate(claims::algorithm(settings).ok_or_else(no_algorithm)?)?;
                let jwks = signing.jwks(Some(kid), settings.keys.key_use);
                keys.hold(jwks.to_string().as_bytes())?;
                none.insert(signing)
            }
        };
        let mut claims = claims::completed(settings, given, now);
        let is_assertion = settings.token_type.is_assertion();
        let says_so = given.claims.contains_key("cnf") || given.without.iter().any(|name| name == "cnf");
        let as_ever = (is_assertion && !says_so).then_some(Bound::Certificate);
        let mut holder = None;
        match given.bound.or(as_ever) {
            Some(Bound::Certificate) => {
                let certificate = certificate.unwrap_or(NO_CERTIFICATE);
                claims["cnf"] = json!({ "x5t#S256": URL_SAFE_NO_PAD.encode(certificate.0) });
            }
            Some(Bound::Key) => {
                let holder = holder.insert(SigningKey::generate(Algorithm::Es256)?);
                claims["cnf"] = json!({ "jkt": URL_SAFE_NO_PAD.encode(thumbprint(&holder.jwk())) });
            }
            Some(Bound::Nothing) | None => {}
        }
        if settings.token_type.is_alb() {
            let claims = claims.as_object_mut().map(std::mem::take).unwrap_or_default();
            return Ok(Credential::UserClaims(user_claims(signing, kid, claims)?));
        }
        let token = signing.token(settings.token_type.media_type(), Some(kid), &claims)?;
        if is_assertion {
            return Ok(Credential::Assertion(token));
        }
        let Some(holder) = holder else {
            return Ok(Credential::Token { scheme: Scheme::Bearer, token, proof: None });
        };
        let nonce = settings.possession.proof_nonce.then(|| self.minted.proofs.nonce(now));
        let proof = proof(&holder, &token, nonce, head, now)?;
        Ok(Credential::Token { scheme: Scheme::Dpop, token, proof: Some(proof) })
    }

    /// The same header and claims, signed with a key of the kind and name that the header asks for. Every issuer
    /// has that key, so nothing else about the token is believed.
    fn believe(&self, text: &str) -> Result<String, Unaskable> {
        let (Some(signer), Some((message, _))) = (claimed_signer(text, &self.limits), text.rsplit_once('.'))
        else {
            // Refused before anybody looks for a key.
            return Ok(text.to_owned());
        };
        Ok(self.everybodys(signer)?.signed(message)?)
    }

    /// The same of what a load balancer said.
    fn believe_user_claims(&self, text: &str) -> Result<String, Unaskable> {
        match claimed_user_claims_signer(text, &self.limits) {
            Some(signer) => Ok(user_claims_by(&self.everybodys(signer)?, text)?),
            None => Ok(text.to_owned()),
        }
    }

    /// A key of this kind and name, which every issuer has.
    fn everybodys(&self, (algorithm, kid): (Algorithm, Option<String>)) -> Result<SigningKey, Unaskable> {
        let signing = SigningKey::generate(algorithm)?;
        for (issuer, keys) in self.believed.verifier.issuers().iter().zip(&self.believed.keys) {
            let jwks = signing.jwks(kid.as_deref(), issuer.settings.keys.key_use);
            keys.hold(jwks.to_string().as_bytes())?;
        }
        Ok(signing)
    }
}

/// That `holder` sends this head with this token (RFC 9449 §4.2).
fn proof(
    holder: &SigningKey,
    token: &str,
    nonce: Option<String>,
    head: &Parts,
    now: Timestamp,
) -> Result<String, SigningError> {
    let host = head.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let header = json!({ "typ": "dpop+jwt", "alg": Algorithm::Es256.as_str(), "jwk": holder.jwk() });
    let mut claims = json!({
        "htm": head.method.as_str(),
        "htu": format!("https://{host}{}", head.uri.path()),
        "iat": now.unix_seconds(),
        "jti": "trial",
        "ath": URL_SAFE_NO_PAD.encode(digest::digest(&SHA256, token.as_bytes())),
    });
    if let Some(nonce) = nonce {
        claims["nonce"] = nonce.into();
    }
    holder.compact(&header, &claims)
}
