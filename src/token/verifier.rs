//! The one verifier of tokens.
//!
//! A token is judged in this order: its structure, its issuer, its type and algorithm, its key, its
//! signature, its claims. Nothing in it decides about a key but `kid` among the keys of the issuer that
//! `iss` names exactly.
//!
//! A remembered caller is given out only while, by our own clock, its token has not expired, and while
//! the key that signed it is still one of its issuer's.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{self, SHA256};
use futures_util::FutureExt as _;
use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderValue};
use serde_json::{Map, Value};

use super::algorithm::Algorithm;
use super::credential::{self, Credential, CredentialError, Scheme, authorization};
use super::error::{TokenError, malformed, shown};
use super::introspection::{About, Introspection};
use super::issuer::{Carrier, IssuerSettings};
use super::jwt::Unverified;
use super::key_cache::{HeldKeys, IssuerKeys};
use super::keys::{Key, KeyName};
use super::limits::TokenLimits;
use super::memory::{Memory, Remembered, TokenCacheSettings, TokenHash, Vouched};
use super::possession::Shown;
use super::proofs::Proofs;
use super::steps::{Said, Step, Trace};
use crate::clock::Clock;
use crate::identity::{Caller, Name, Signature};
use crate::metrics::{Lookup, TokenMetrics};

/// Turns credentials into callers, for one generation of the configuration.
#[derive(Debug)]
pub struct Verifier {
    pub(super) issuers: Vec<Issuer>,
    pub(super) limits: TokenLimits,
    pub(super) failure_lifetime: Duration,
    pub(super) clock: Clock,
    pub(super) memory: Memory,
    pub(super) proofs: Arc<Proofs>,
    pub(super) metrics: TokenMetrics,
}

/// An issuer whose tokens are taken.
#[derive(Debug)]
pub struct Issuer {
    pub settings: IssuerSettings,
    /// Made from `settings.keys`.
    pub keys: Arc<IssuerKeys>,
    /// Made from `settings.introspection`; without it, nobody is asked.
    pub introspection: Option<Arc<Introspection>>,
}

/// A token that a [`Verifier`] found good, by the field that it came in.
#[derive(Debug)]
pub struct KnownToken {
    authorization: TokenField,
    scheme: Scheme,
    remembered: Arc<Remembered>,
}

/// The field that a token came in, for presenting it again. Cheap to clone.
#[derive(Clone)]
pub struct TokenField(pub(super) Arc<[u8]>);

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
        proofs: Arc<Proofs>,
        metrics: TokenMetrics,
        clock: Clock,
    ) -> Result<Verifier, SameIssuer> {
        for (at, one) in issuers.iter().enumerate() {
            for other in &issuers[at + 1..] {
                if one.settings.overlaps(&other.settings) {
                    return Err(SameIssuer(one.settings.name.clone(), other.settings.name.clone()));
                }
            }
        }
        let (memory, failure_lifetime) = (Memory::new(cache), cache.failure_lifetime);
        Ok(Verifier { issuers, limits, failure_lifetime, clock, memory, proofs, metrics })
    }

    pub fn issuers(&self) -> &[Issuer] {
        &self.issuers
    }

    /// How many tokens are remembered, verified ones and failed ones, after what has ended was cleared away.
    pub fn entries(&self) -> (u64, u64) {
        self.memory.entries()
    }

    /// Who the credential stands for.
    pub async fn verify(
        &self,
        credential: Credential<'_>,
        shown: &Shown<'_>,
    ) -> Result<Signature<Caller>, TokenError> {
        let (scheme, token) = match credential {
            Credential::Absent => return Ok(Signature::Absent),
            Credential::Bearer(token) => (Scheme::Bearer, token),
            Credential::Dpop(token) => (Scheme::Dpop, token),
        };
        let remembered = self.remembered(token, shown.asking()).await?;
        self.check_carrier(&remembered, Carrier::Authorization)?;
        self.presented(&remembered, scheme, shown)
    }

    /// A token is of one kind, and each kind comes in one header: an assertion is no bearer token, which anybody may
    /// present, and no token of a provider is an assertion.
    pub(super) fn check_carrier(&self, remembered: &Remembered, carrier: Carrier) -> Result<(), TokenError> {
        let refused = match (carrier, self.issuers[remembered.issuer].settings.token_type.carrier()) {
            (carrier, own) if carrier == own => return Ok(()),
            (Carrier::UserClaims, _) => "its issuer is no load balancer",
            (Carrier::Assertion, _) => "its issuer is no Countersign, so it is no assertion",
            (Carrier::Authorization, Carrier::UserClaims) => "what a load balancer says is no bearer token",
            (Carrier::Authorization, _) => "an assertion is no bearer token",
        };
        Err(TokenError::TypeRefused(refused.into()))
    }

    /// As [`Verifier::verify`] with what these headers present, for somebody who expects the token that came last
    /// to come again: `known` is what this verifier said of that one, and saves reading and finding it, not what
    /// is asked of it each time.
    pub async fn verify_again(
        &self,
        headers: &HeaderMap,
        shown: &Shown<'_>,
        known: &mut Option<Arc<KnownToken>>,
    ) -> Result<Signature<Caller>, CredentialError> {
        let Some(field) = authorization(headers)? else { return Ok(Signature::Absent) };
        // A field of the same bytes is as well formed as it was.
        let same = known.as_ref().filter(|known| known.came_in(field)).map(Arc::clone);
        if let Some(same) = same
            && self.still_holds(&same.remembered).await?
        {
            self.metrics.cache.count(Lookup::Hit);
            return Ok(self.presented(&same.remembered, same.scheme, shown)?);
        }
        let (scheme, token) = credential::read(field)?;
        let remembered = self.remembered(token, shown.asking()).await?;
        self.check_carrier(&remembered, Carrier::Authorization)?;
        *known = (remembered.bytes <= KNOWN_BYTES_MAX).then(|| {
            let remembered = Arc::clone(&remembered);
            Arc::new(KnownToken { authorization: TokenField::of(field), scheme, remembered })
        });
        Ok(self.presented(&remembered, scheme, shown)?)
    }

    pub(super) fn presented(
        &self,
        remembered: &Remembered,
        scheme: Scheme,
        shown: &Shown<'_>,
    ) -> Result<Signature<Caller>, TokenError> {
        let Remembered { caller, issuer, .. } = remembered;
        self.check_possession(&self.issuers[*issuer].settings, caller, scheme, shown)?;
        Ok(Signature::Verified(Arc::clone(caller)))
    }

    /// As [`Verifier::verify`] for a token that a verifier, perhaps of another configuration, found good on this very
    /// connection: that it is in the right hands was shown when its request came, and it is none that was made up.
    pub async fn verify_field(&self, field: &TokenField) -> Result<Signature<Caller>, CredentialError> {
        let field = HeaderValue::from_bytes(&field.0).map_err(|_| malformed("it is no text"))?;
        let (_, token) = credential::read(&field)?;
        let remembered = self.remembered(token, About::Known).await?;
        self.check_carrier(&remembered, Carrier::Authorization)?;
        Ok(Signature::Verified(Arc::clone(&remembered.caller)))
    }

    pub(super) async fn remembered(&self, token: &str, about: About) -> Result<Arc<Remembered>, TokenError> {
        // What was taken over of an opaque one does not say how long it is.
        self.limits.check_length(token)?;
        let hash = sha256(token);
        match self.recall(&hash).await? {
            Some(remembered) => Ok(remembered),
            // Boxed: it asks issuers, and would make every request's future large.
            None => Box::pin(self.judge(token, hash, about, &mut Step::Structure)).await,
        }
    }

    /// As [`Verifier::verify`] with nothing remembered, saying how far the token gets.
    pub async fn trace(&self, scheme: Scheme, token: &str, shown: &Shown<'_>) -> Trace {
        self.trace_of(Carrier::Authorization, scheme, token, shown).await
    }

    pub(super) async fn trace_of(
        &self,
        carrier: Carrier,
        scheme: Scheme,
        token: &str,
        shown: &Shown<'_>,
    ) -> Trace {
        let mut last = Step::Structure;
        let mut outcome = self.judge(token, sha256(token), shown.asking(), &mut last).await;
        if let Ok(remembered) = &outcome {
            let carried = self.check_carrier(remembered, carrier);
            last = if carried.is_ok() { Step::Binding } else { Step::Type };
            let presented = carried.and_then(|()| self.presented(remembered, scheme, shown));
            if let Err(error) = presented {
                outcome = Err(error);
            }
        }
        let said = Said::read(token, &self.limits);
        let issuer = said.as_ref().and_then(|said| self.issuer_of(&said.claims, false).ok());
        Trace {
            last,
            outcome: outcome.map(|remembered| Arc::clone(&remembered.caller)),
            issuer: issuer.map(|at| self.issuers[at].settings.name.clone()),
            said,
        }
    }

    /// While keys are waited for, nothing is held but the token's text: its claims may be many times as large.
    async fn judge(
        &self,
        token: &str,
        hash: TokenHash,
        about: About,
        step: &mut Step,
    ) -> Result<Arc<Remembered>, TokenError> {
        *step = Step::Structure;
        if let Some((position, issuer)) = self.opaque(token) {
            return self.ask((position, issuer), token, hash, about, step).await;
        }
        let mut unverified = Unverified::parse(token, &self.limits)?;
        *step = Step::Issuer;
        let position = self.issuer_of(&unverified.claims, false)?;
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
        self.settle((position, &keys), algorithm, unverified, hash, step)
    }

    /// Checks a token with these keys, among which there is one for it, and remembers what comes of it.
    pub(super) fn settle(
        &self,
        (position, keys): (usize, &HeldKeys),
        algorithm: Algorithm,
        token: Unverified<'_>,
        hash: TokenHash,
        step: &mut Step,
    ) -> Result<Arc<Remembered>, TokenError> {
        let (generation, judged) = (keys.generation, self.clock.now());
        match self.check(&self.issuers[position], keys, algorithm, token, hash, step) {
            Ok((caller, key)) => Ok(self.memory.remember(caller, position, Vouched::By(key), judged)),
            // soon true, so not worth remembering
            Err(error @ TokenError::NotYetValid(_)) => Err(error),
            Err(error) => {
                self.failed(hash, &error, position, Some(generation), judged);
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

    /// Whose `iss` these claims have, among load balancers' log-ins or among all others.
    pub(super) fn issuer_of(&self, claims: &Map<String, Value>, is_alb: bool) -> Result<usize, TokenError> {
        let all = self.issuers.iter().enumerate();
        for (position, issuer) in all.filter(|(_, issuer)| issuer.settings.token_type.is_alb() == is_alb) {
            match issuer.settings.url.accepts(claims) {
                Some(true) => return Ok(position),
                Some(false) => {}
                None => return Err(TokenError::Malformed("`iss` is no string".into())),
            }
        }
        let detail = match claims.get("iss") {
            Some(iss) => format!("its `iss` is {}, no configured issuer's `url`", shown(iss)),
            None => "it has no `iss`".to_owned(),
        };
        Err(TokenError::IssuerUnknown(detail.into()))
    }
}

impl KnownToken {
    /// Whether it came in a field of the same bytes. More of them are compared at once than can be guessed, so how
    /// long it takes tells nothing.
    fn came_in(&self, field: &HeaderValue) -> bool {
        *self.authorization.0 == *field.as_bytes()
    }
}

impl TokenField {
    /// The one in these headers, if there is one; that of `known` if it is the same.
    pub fn in_headers(headers: &HeaderMap, known: Option<&KnownToken>) -> Option<TokenField> {
        let field = headers.get(AUTHORIZATION)?;
        let same = known.filter(|known| known.came_in(field)).map(|known| known.authorization.clone());
        Some(same.unwrap_or_else(|| TokenField::of(field)))
    }

    /// In which it presents the token, which was found to be one.
    pub fn scheme(&self) -> Scheme {
        Scheme::of_field(&self.0)
    }

    pub fn of(field: &HeaderValue) -> TokenField {
        TokenField(field.as_bytes().into())
    }
}

/// Says that there is one, never what it is.
impl fmt::Debug for TokenField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenField")
    }
}

impl Issuer {
    pub(super) async fn current_keys(&self) -> Result<Arc<HeldKeys>, TokenError> {
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
    pub(super) fn check_header(
        &self,
        token: &Unverified<'_>,
        step: &mut Step,
    ) -> Result<Algorithm, TokenError> {
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

pub(super) fn sha256(token: &str) -> TokenHash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&SHA256, token.as_bytes()).as_ref());
    hash
}
