//! The verifier's way with tokens that are no JWT: their issuer's word stands in place of a signature.

use std::sync::Arc;

use futures_util::FutureExt;
use http::HeaderMap;
use serde_json::{Map, Value};

use super::credential::Credential;
use super::error::TokenError;
use super::introspection::{ASK_TIMEOUT, About, Introspection, REST, Wordless};
use super::issuer::IssuerSettings;
use super::json::{self, JsonLimits};
use super::jwt;
use super::limits::TokenLimits;
use super::memory::{Remembered, TokenHash, Vouched};
use super::steps::Step;
use super::verifier::{Issuer, Verifier};
use crate::clock::Timestamp;
use crate::identity::Caller;

/// What `token_use` says of access tokens, where a provider says it of all kinds.
const ACCESS_USES: [&str; 2] = ["access_token", "access"];

impl Verifier {
    /// Whether to judge what these headers present is more than to look at it: a proof is used up, or an issuer is
    /// asked.
    pub fn leaves_traces(&self, headers: &HeaderMap) -> bool {
        match Credential::from_headers(headers) {
            Ok(Credential::Bearer(token)) => self.opaque(token).is_some(),
            Ok(Credential::Dpop(_)) => true,
            Ok(Credential::Absent) | Err(_) => false,
        }
    }

    /// Whom to ask about a token that is no JWT.
    pub(super) fn opaque(&self, token: &str) -> Option<(usize, &Issuer)> {
        let asked = |(_, issuer): &(usize, &Issuer)| issuer.settings.introspection.is_some();
        self.issuers.iter().enumerate().find(asked).filter(|_| !jwt::is_meant(token))
    }

    /// The issuer's word in place of a signature; what it says is judged as a JWT's claims are. Where it says nothing
    /// of a token, what it said last stands for as long as that is believed.
    pub(super) async fn ask(
        &self,
        (position, issuer): (usize, &Issuer),
        token: &str,
        hash: TokenHash,
        about: About,
        step: &mut Step,
    ) -> Result<Arc<Remembered>, TokenError> {
        self.limits.check_length(token)?;
        *step = Step::Issuer;
        let unavailable = |why: &'static str| TokenError::IssuerUnavailable(why.into());
        let nobody = || unavailable("an opaque token is asked about only where one serves");
        let asked = issuer.introspection.as_ref().ok_or_else(nobody)?;
        let in_turn = async {
            let turn = match asked.turn(hash).now_or_never() {
                Some(turn) => turn,
                // Who asks already finds it out for all.
                None => match self.still_believed(&hash) {
                    Some(believed) => return Ok(believed),
                    None => asked.turn(hash).await,
                },
            };
            let said = self.ask_in_turn(position, (&issuer.settings, asked), token, hash, about, step).await;
            drop(turn);
            said
        };
        let in_time = tokio::time::timeout(ASK_TIMEOUT, in_turn).await;
        match in_time.unwrap_or_else(|_| Err(unavailable("too many tokens are asked about"))) {
            Err(error @ TokenError::IssuerUnavailable(_)) => self.still_believed(&hash).ok_or(error),
            said => said,
        }
    }

    async fn ask_in_turn(
        &self,
        position: usize,
        (settings, asked): (&IssuerSettings, &Introspection),
        token: &str,
        hash: TokenHash,
        about: About,
        step: &mut Step,
    ) -> Result<Arc<Remembered>, TokenError> {
        // Another may have asked meanwhile.
        if let Some(remembered) = self.recall_verified(&hash).await? {
            return Ok(remembered);
        }
        if let Some(error) = self.recall_failure(&hash).await? {
            return Err(error);
        }
        *step = Step::Signature;
        let known = self.memory.verified(&hash, self.clock.now());
        let about = if known.is_some() { About::Known } else { about };
        let said = asked.claims(token, about, &self.limits, &self.clock).await;
        let judged = self.clock.now();
        let caller = match said {
            Ok(claims) => settings.asked_caller(claims, hash, &self.limits, judged, step),
            Err(Wordless::Inactive) => Err(TokenError::Inactive),
            // Not of this token: who asked has a rest.
            Err(Wordless::Away(error)) => return Err(error),
            Err(Wordless::Odd(error)) => Err(error),
        };
        match caller {
            Ok(caller) => {
                let time = asked.settings().time_max;
                let (again, end) = (judged.plus(time * 3 / 4), judged.plus(time));
                Ok(self.believe(caller, position, (again, end), judged))
            }
            Err(error @ TokenError::NotYetValid(_)) => Err(error),
            Err(error) => {
                if !matches!(error, TokenError::IssuerUnavailable(_)) {
                    self.memory.forget(&hash);
                }
                self.failed(hash, &error, position, None, judged);
                Err(error)
            }
        }
    }

    /// What its issuer said last of a token that it is to be asked about again, as long as it is believed; so it is not
    /// asked for a moment.
    fn still_believed(&self, hash: &TokenHash) -> Option<Arc<Remembered>> {
        let now = self.clock.now();
        let last = self.memory.verified(hash, now)?;
        let Vouched::Asked { end, .. } = last.vouched else { return None };
        if now >= end.min(last.caller.expires) {
            return None;
        }
        let again = now.plus(REST).min(end);
        let caller = Caller { believed_until: Some(again), ..Caller::clone(&last.caller) };
        // Another core may have just had a word on it.
        self.memory.remember_again(&last, caller, Vouched::Asked { again, end })
    }

    fn believe(
        &self,
        caller: Caller,
        issuer: usize,
        (again, end): (Timestamp, Timestamp),
        judged: Timestamp,
    ) -> Arc<Remembered> {
        let caller = Caller { believed_until: Some(again), ..caller };
        self.memory.remember(caller, issuer, Vouched::Asked { again, end }, judged)
    }

    /// Takes over what issuers said of opaque tokens to the verifier `before`, as far as this one would ask the same
    /// one. It is read anew, as this one reads it, and believed no longer than there: so a reload asks nobody about all
    /// tokens at once.
    pub fn take_over(&self, before: &Verifier) {
        let now = self.clock.now();
        for remembered in before.memory.all_verified() {
            let Vouched::Asked { again, end } = remembered.vouched else { continue };
            let asked = &before.issuers[remembered.issuer].settings;
            let is_same = |issuer: &Issuer| issuer.settings.asks_as(asked);
            let Some(position) = self.issuers.iter().position(is_same) else { continue };
            if now < remembered.judged {
                continue;
            }
            let (settings, told) = (&self.issuers[position].settings, &remembered.caller);
            if self.limits != before.limits && !has_room_for(&self.limits, &told.claims) {
                continue;
            }
            let (claims, hash) = (told.claims.clone(), told.token_hash);
            let caller = settings.asked_caller(claims, hash, &self.limits, now, &mut Step::Structure);
            if let Ok(caller) = caller {
                self.believe(caller, position, (again, end), remembered.judged);
            }
        }
    }
}

/// Whether an answer with these claims, and `active`, is one that is read.
fn has_room_for(limits: &TokenLimits, claims: &Map<String, Value>) -> bool {
    let all = limits.json();
    let limits = JsonLimits { values_max: all.values_max.saturating_sub(1), ..all };
    serde_json::to_vec(claims).is_ok_and(|text| json::object(&text, limits).is_ok())
}

impl IssuerSettings {
    /// Who a token is of that this issuer says this of.
    fn asked_caller(
        &self,
        mut claims: Map<String, Value>,
        hash: TokenHash,
        limits: &TokenLimits,
        now: Timestamp,
        step: &mut Step,
    ) -> Result<Caller, TokenError> {
        // RFC 7662 §2.2 lets it leave its name out. Whoever is named with it, as in `act`, is its own all the same.
        if !claims.contains_key("iss") {
            let tenant = claims.get("tid").and_then(Value::as_str).unwrap_or_default().to_owned();
            claims.extend(self.url.issued(|| tenant).map(|name| ("iss".to_owned(), name.into())));
        }
        if claims.contains_key("iss") && self.url.accepts(&claims) != Some(true) {
            return Err(TokenError::IssuerUnknown("its issuer says that it is another's".into()));
        }
        // It is asked about whatever was presented, refresh tokens included: the hint of a question only hints.
        let is_access = |of: &Value| {
            of.as_str().is_some_and(|of| ACCESS_USES.iter().any(|access| of.eq_ignore_ascii_case(access)))
        };
        if claims.get("token_use").is_some_and(|of| !is_access(of)) {
            return Err(TokenError::TypeRefused("its issuer says that it is for another use".into()));
        }
        self.caller(claims, hash, limits, now, step)
    }
}
