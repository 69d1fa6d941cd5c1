//! How a question comes by its token, and who verifies that: always a real [`Verifier`], with the issuers' own
//! keys where these are given, and else with keys that are made here.

use std::sync::Arc;

use super::question::{Bearer, Claims};
use super::{Unaskable, claims};
use crate::clock::{Clock, Timestamp};
use crate::identity::Name;
use crate::metrics::TokenMetrics;
use crate::token::{
    Issuer, IssuerKeys, IssuerSettings, KeySource, SameIssuer, SigningKey, TokenCacheSettings, TokenLimits,
    Verifier, claimed_signer,
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
}

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
        let issuers = issuers.map(|(settings, keys)| Issuer { settings, keys }).collect();
        let verifier = Verifier::new(issuers, limits, cache, TokenMetrics::default(), clock.clone())?;
        Ok(Ring { verifier, keys })
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

    pub fn issuers(&self) -> impl Iterator<Item = &IssuerSettings> + Clone {
        self.given.verifier.issuers().iter().map(|issuer| &issuer.settings)
    }

    /// The token to send, if there is one, and who verifies it.
    pub fn present(
        &mut self,
        bearer: &Bearer,
        now: Timestamp,
    ) -> Result<(Option<String>, &Verifier), Unaskable> {
        Ok(match bearer {
            Bearer::Nothing => (None, &self.given.verifier),
            Bearer::Token(text) => (Some(text.clone()), &self.given.verifier),
            Bearer::Claims(claims) => (Some(self.mint(claims, now)?), &self.minted.verifier),
            Bearer::TokenOnTrust(text) => (Some(self.believe(text)?), &self.believed.verifier),
        })
    }

    fn mint(&mut self, given: &Claims, now: Timestamp) -> Result<String, Unaskable> {
        let at = self.minted.position(&given.issuer)?;
        let Issuer { settings, keys } = &self.minted.verifier.issuers()[at];
        let signing = match &mut self.signing[at] {
            Some(signing) => signing,
            none => {
                let no_algorithm = || Unaskable::Algorithm(settings.name.clone());
                let signing = SigningKey::generate(claims::algorithm(settings).ok_or_else(no_algorithm)?)?;
                let jwks = signing.jwks(Some(settings.name.as_str()), settings.keys.key_use);
                keys.hold(jwks.to_string().as_bytes())?;
                none.insert(signing)
            }
        };
        let claims = claims::completed(settings, given, now);
        Ok(signing.token(settings.token_type.media_type(), settings.name.as_str(), &claims)?)
    }

    /// The same header and claims, signed with a key of the kind and name that the header asks for. Every issuer
    /// has that key, so nothing else about the token is believed.
    fn believe(&self, text: &str) -> Result<String, Unaskable> {
        let (Some((algorithm, kid)), Some((message, _))) =
            (claimed_signer(text, &self.limits), text.rsplit_once('.'))
        else {
            // Refused before anybody looks for a key.
            return Ok(text.to_owned());
        };
        let signing = SigningKey::generate(algorithm)?;
        for (issuer, keys) in self.believed.verifier.issuers().iter().zip(&self.believed.keys) {
            let jwks = signing.jwks(kid.as_deref(), issuer.settings.keys.key_use);
            keys.hold(jwks.to_string().as_bytes())?;
        }
        Ok(signing.signed(message)?)
    }
}
