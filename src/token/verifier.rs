//! The one verifier of tokens.
//!
//! A token is judged in this order: its structure, its issuer, its type and algorithm, its key, its
//! signature, its claims. Nothing in it decides about a key but `kid` among the keys of the issuer that
//! `iss` names exactly.
//!
//! A remembered caller is given out only while, by our own clock, its token has not expired, and while
//! the key that signed it is still one of its issuer's.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{self, SHA256};
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue};
use serde_json::{Map, Value};

use super::algorithm::Algorithm;
use super::credential::{Credential, CredentialError, authorization, bearer};
use super::error::{TokenError, malformed};
use super::issuer::IssuerSettings;
use super::jwt::Unverified;
use super::key_cache::{HeldKeys, IssuerKeys};
use super::keys::{Key, KeyName};
use super::limits::TokenLimits;
use super::memory::{Failure, Memory, Remembered, TokenCacheSettings, TokenHash};
use super::steps::{Said, Step, Trace};
use crate::clock::Clock;
use crate::identity::{Caller, CertificateHash, Confirmation, Name, Signature};
use crate::metrics::{Lookup, TokenMetrics};

/// Turns credentials into callers, for one generation of the configuration.
#[derive(Debug)]
pub struct Verifier {
    issuers: Vec<Issuer>,
    limits: TokenLimits,
    failure_lifetime: Duration,
    clock: Clock,
    memory: Memory,
    metrics: TokenMetrics,
}

/// An issuer whose tokens are taken.
#[derive(Debug)]
pub struct Issuer {
    pub settings: IssuerSettings,
    /// Made from `settings.keys`.
    pub keys: Arc<IssuerKeys>,
}

/// A token that a [`Verifier`] found good, by the field that it came in.
#[derive(Debug)]
pub struct KnownToken {
    authorization: Box<[u8]>,
    remembered: Arc<Remembered>,
}

/// The header that a token came in.
#[derive(Clone, Copy)]
enum Carrier {
    Authorization,
    Assertion,
}

/// Two issuers that one token could be of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("issuers `{0}` and `{1}` have the same `url`; tokens of the one would be taken for the other's")]
pub struct SameIssuer(pub Name, pub Name);

/// What is kept at hand is beside the memory that tokens were given, so it has a bound. A token of 800
/// bytes with eleven claims takes about 4 KiB.
const KNOWN_BYTES_MAX: u64 = 16 * 1024;

/// Keys with one `kid` that are tried on one token.
const CANDIDATES_MAX: usize = 4;

impl Verifier {
    pub fn new(
        issuers: Vec<Issuer>,
        limits: TokenLimits,
        cache: TokenCacheSettings,
        metrics: TokenMetrics,
        clock: Clock,
    ) -> Result<Verifier, SameIssuer> {
        for (at, one) in issuers.iter().enumerate() {
            for other in &issuers[at + 1..] {
                if one.settings.url.overlaps(&other.settings.url) {
                    return Err(SameIssuer(one.settings.name.clone(), other.settings.name.clone()));
                }
            }
        }
        let (memory, failure_lifetime) = (Memory::new(cache), cache.failure_lifetime);
        Ok(Verifier { issuers, limits, failure_lifetime, clock, memory, metrics })
    }

    pub fn issuers(&self) -> &[Issuer] {
        &self.issuers
    }

    /// How many tokens are remembered, verified ones and failed ones, after what has ended was cleared away.
    pub fn entries(&self) -> (u64, u64) {
        self.memory.entries()
    }

    /// Who the credential stands for. `certificate` is that of the peer on this connection, which a
    /// token may be bound to.
    pub async fn verify(
        &self,
        credential: Credential<'_>,
        certificate: Option<&CertificateHash>,
    ) -> Result<Signature<Caller>, TokenError> {
        let Credential::Bearer(token) = credential else { return Ok(Signature::Absent) };
        let remembered = self.remembered(token).await?;
        self.check_carrier(&remembered, Carrier::Authorization)?;
        remembered.presented(certificate)
    }

    /// Who an assertion of another Countersign stands for: nobody, where that was shown no token itself.
    pub async fn verify_assertion(
        &self,
        assertion: &HeaderValue,
        certificate: Option<&CertificateHash>,
    ) -> Result<Signature<Caller>, TokenError> {
        let assertion = assertion.to_str().map_err(|_| malformed("the assertion is not in ASCII"))?;
        let remembered = self.remembered(assertion).await?;
        self.check_carrier(&remembered, Carrier::Assertion)?;
        let caller = remembered.presented(certificate)?;
        let names_caller = caller.verified().is_some_and(|caller| caller.claims.contains_key("actor"));
        Ok(if names_caller { caller } else { Signature::Absent })
    }

    /// A token is of one kind, and each kind comes in one header: an assertion is no bearer token, which anybody may
    /// present, and no token of a provider is an assertion.
    fn check_carrier(&self, remembered: &Remembered, carrier: Carrier) -> Result<(), TokenError> {
        let is_assertion = self.issuers[remembered.issuer].settings.token_type.is_assertion();
        match (carrier, is_assertion) {
            (Carrier::Authorization, false) | (Carrier::Assertion, true) => Ok(()),
            (Carrier::Authorization, true) => {
                Err(TokenError::TypeRefused("an assertion is no bearer token".into()))
            }
            (Carrier::Assertion, false) => {
                Err(TokenError::TypeRefused("its issuer is no Countersign, so it is no assertion".into()))
            }
        }
    }

    /// As [`Verifier::verify`] with what these headers present, for somebody who expects the token that came last
    /// to come again: `known` is what this verifier said of that one, and saves reading and finding it, not what
    /// is asked of it each time.
    pub async fn verify_again(
        &self,
        headers: &HeaderMap,
        certificate: Option<&CertificateHash>,
        known: &mut Option<Arc<KnownToken>>,
    ) -> Result<Signature<Caller>, CredentialError> {
        let Some(field) = authorization(headers)? else { return Ok(Signature::Absent) };
        // A field of the same bytes is as well formed as it was. More of them are compared at once than can be
        // guessed, so how long it takes tells nothing.
        let same = known.as_ref().filter(|known| *known.authorization == *field.as_bytes()).map(Arc::clone);
        if let Some(same) = same
            && self.still_holds(&same.remembered).await?
        {
            self.metrics.cache.count(Lookup::Hit);
            return Ok(same.remembered.presented(certificate)?);
        }
        let remembered = self.remembered(bearer(field)?).await?;
        self.check_carrier(&remembered, Carrier::Authorization)?;
        *known = (remembered.bytes <= KNOWN_BYTES_MAX).then(|| {
            let remembered = Arc::clone(&remembered);
            Arc::new(KnownToken { authorization: field.as_bytes().into(), remembered })
        });
        Ok(remembered.presented(certificate)?)
    }

    async fn remembered(&self, token: &str) -> Result<Arc<Remembered>, TokenError> {
        let hash = sha256(token);
        match self.recall(&hash).await? {
            Some(remembered) => Ok(remembered),
            None => self.judge(token, hash, &mut Step::Structure).await,
        }
    }

    /// As [`Verifier::verify`] with nothing remembered, saying how far the token gets.
    pub async fn trace(&self, token: &str, certificate: Option<&CertificateHash>) -> Trace {
        let mut last = Step::Structure;
        let mut outcome = self.judge(token, sha256(token), &mut last).await;
        if let Ok(remembered) = &outcome {
            last = Step::Binding;
            if let Err(error) = remembered.presented(certificate) {
                outcome = Err(error);
            }
        }
        let said = Said::read(token, &self.limits);
        let issuer = said.as_ref().and_then(|said| self.issuer_of(&said.claims).ok());
        Trace {
            last,
            outcome: outcome.map(|remembered| Arc::clone(&remembered.caller)),
            issuer: issuer.map(|at| self.issuers[at].settings.name.clone()),
            said,
        }
    }

    /// What is remembered of a token and still true.
    async fn recall(&self, hash: &TokenHash) -> Result<Option<Arc<Remembered>>, TokenError> {
        if let Some(remembered) = self.recall_verified(hash).await? {
            self.metrics.cache.count(Lookup::Hit);
            return Ok(Some(remembered));
        }
        self.metrics.cache.count(Lookup::Miss);
        if let Some(error) = self.recall_failure(hash).await? {
            self.metrics.failures.count(Lookup::Hit);
            return Err(error);
        }
        self.metrics.failures.count(Lookup::Miss);
        Ok(None)
    }

    async fn recall_verified(&self, hash: &TokenHash) -> Result<Option<Arc<Remembered>>, TokenError> {
        let Some(remembered) = self.memory.verified(hash, self.clock.now()) else { return Ok(None) };
        let holds = self.still_holds(&remembered).await;
        if matches!(holds, Ok(false) | Err(TokenError::Expired)) {
            self.memory.forget(hash);
        }
        Ok(holds?.then_some(remembered))
    }

    /// Asked each time that something remembered is used, however it was found.
    async fn still_holds(&self, remembered: &Remembered) -> Result<bool, TokenError> {
        let keys = self.issuers[remembered.issuer].current_keys().await?;
        let now = self.clock.now();
        if now >= remembered.caller.expires {
            return Err(TokenError::Expired);
        }
        Ok(remembered.judged <= now && keys.set.holds(&remembered.key))
    }

    async fn recall_failure(&self, hash: &TokenHash) -> Result<Option<TokenError>, TokenError> {
        let Some(failure) = self.memory.failed(hash) else { return Ok(None) };
        let keys = self.issuers[failure.issuer].current_keys().await?;
        let holds = failure.generation == keys.generation && self.clock.now() < failure.until;
        Ok(holds.then_some(failure.error))
    }

    /// While keys are waited for, nothing is held but the token's text: its claims may be many times as large.
    async fn judge(
        &self,
        token: &str,
        hash: TokenHash,
        step: &mut Step,
    ) -> Result<Arc<Remembered>, TokenError> {
        *step = Step::Structure;
        let mut unverified = Unverified::parse(token, &self.limits)?;
        *step = Step::Issuer;
        let position = self.issuer_of(&unverified.claims)?;
        let issuer = &self.issuers[position];
        let algorithm = issuer.settings.check_header(&unverified, step)?;
        *step = Step::Key;
        let mut keys = match issuer.current_keys().now_or_never() {
            Some(keys) => keys?,
            None => {
                drop(unverified);
                let keys = issuer.current_keys().await?;
                unverified = Unverified::parse(token, &self.limits)?;
                keys
            }
        };
        if issuer.candidates(&keys, algorithm, &unverified).is_empty() {
            drop(unverified);
            let unknown = || TokenError::KeyUnknown("its issuer has no such key for this algorithm".into());
            keys = issuer.keys.other_than(&keys).await.ok_or_else(unknown)?;
            unverified = Unverified::parse(token, &self.limits)?;
            if issuer.candidates(&keys, algorithm, &unverified).is_empty() {
                return Err(unknown());
            }
        }
        let (generation, judged) = (keys.generation, self.clock.now());
        match self.check(issuer, &keys, algorithm, unverified, hash, step) {
            Ok((caller, key)) => Ok(self.memory.remember(caller, position, key, judged)),
            // soon true, so not worth remembering
            Err(error @ TokenError::NotYetValid(_)) => Err(error),
            Err(error) => {
                let until = judged.plus(self.failure_lifetime);
                let failure = Failure { error: error.clone(), issuer: position, generation, until };
                self.memory.remember_failure(hash, failure);
                Err(error)
            }
        }
    }

    /// Signature, then claims.
    fn check(
        &self,
        issuer: &Issuer,
        keys: &HeldKeys,
        algorithm: Algorithm,
        token: Unverified<'_>,
        hash: TokenHash,
        step: &mut Step,
    ) -> Result<(Caller, KeyName), TokenError> {
        *step = Step::Signature;
        let mut candidates = issuer.candidates(keys, algorithm, &token).into_iter().take(CANDIDATES_MAX);
        let signer = candidates.find(|key| {
            self.metrics.signature_checks.inc();
            key.verifies(algorithm, token.message, &token.signature)
        });
        let key = signer.ok_or(TokenError::BadSignature)?.name;
        let caller = issuer.settings.caller(token.claims, hash, &self.limits, self.clock.now(), step)?;
        Ok((caller, key))
    }

    fn issuer_of(&self, claims: &Map<String, Value>) -> Result<usize, TokenError> {
        for (position, issuer) in self.issuers.iter().enumerate() {
            match issuer.settings.url.accepts(claims) {
                Some(true) => return Ok(position),
                Some(false) => {}
                None => return Err(TokenError::Malformed("`iss` is no string".into())),
            }
        }
        Err(TokenError::IssuerUnknown("its `iss` is no configured issuer's `url`".into()))
    }
}

impl Issuer {
    async fn current_keys(&self) -> Result<Arc<HeldKeys>, TokenError> {
        let keys = self.keys.current().await;
        keys.map_err(|error| TokenError::IssuerUnavailable(error.to_string().into()))
    }

    fn candidates<'k>(
        &self,
        keys: &'k HeldKeys,
        algorithm: Algorithm,
        token: &Unverified<'_>,
    ) -> Vec<&'k Key> {
        let IssuerSettings { quirks, url, .. } = &self.settings;
        let mut found = keys.set.candidates(algorithm, token.header.kid.as_deref());
        found.retain(|key| quirks.key_may_sign(key.issuer.as_deref(), url, &token.claims));
        found
    }
}

impl IssuerSettings {
    fn check_header(&self, token: &Unverified<'_>, step: &mut Step) -> Result<Algorithm, TokenError> {
        *step = Step::Type;
        if !self.token_type.accepts(token.header.media_type.as_deref()) {
            return Err(TokenError::TypeRefused("its `typ` is not the one of this issuer's tokens".into()));
        }
        *step = Step::Algorithm;
        match token.header.algorithm {
            Some(algorithm) if self.algorithms.contains(&algorithm) => Ok(algorithm),
            Some(algorithm) => {
                Err(TokenError::AlgorithmRefused(format!("{algorithm} is not one of the issuer's").into()))
            }
            None => Err(TokenError::AlgorithmRefused("none that this proxy takes from anybody".into())),
        }
    }
}

impl Remembered {
    fn presented(&self, certificate: Option<&CertificateHash>) -> Result<Signature<Caller>, TokenError> {
        check_confirmation(&self.caller, certificate)?;
        Ok(Signature::Verified(Arc::clone(&self.caller)))
    }
}

/// RFC 8705 §3: a bound token is worth something only in the hands of whom it was bound to. Judged on
/// every request, since the same token may come over another connection.
pub(super) fn check_confirmation(
    caller: &Caller,
    certificate: Option<&CertificateHash>,
) -> Result<(), TokenError> {
    let detail = match (&caller.confirmation, certificate) {
        (None, _) => return Ok(()),
        (Some(Confirmation::Certificate(bound)), Some(CertificateHash(presented))) => {
            if verify_slices_are_equal(bound, presented).is_ok() {
                return Ok(());
            }
            "its certificate is not this connection's"
        }
        (Some(Confirmation::Certificate(_)), None) => "this connection has no client certificate",
        (Some(Confirmation::Key(_)), _) => "DPoP proofs are not checked by this version",
        (Some(Confirmation::Unsupported), _) => "its `cnf` is none that can be checked here",
    };
    Err(TokenError::NotSenderConstrained(detail.into()))
}

fn sha256(token: &str) -> TokenHash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&SHA256, token.as_bytes()).as_ref());
    hash
}
