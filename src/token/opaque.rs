//! The verifier's way with tokens that are no JWT: their issuer's word stands in place of a signature.

use std::sync::Arc;

use super::error::TokenError;
use super::memory::{Remembered, TokenHash, Vouched};
use super::steps::Step;
use super::verifier::{Issuer, Verifier};
use crate::metrics::Limit;

/// What every JWT starts with: `{"` in base64url.
const JWT_START: &str = "eyJ";

impl Verifier {
    /// Whom to ask about a token that is no JWT.
    pub(super) fn opaque(&self, token: &str) -> Option<(usize, &Issuer)> {
        let asked = |(_, issuer): &(usize, &Issuer)| issuer.settings.introspection.is_some();
        (!token.starts_with(JWT_START)).then(|| self.issuers.iter().enumerate().find(asked)).flatten()
    }

    /// The issuer's word in place of a signature; what it says is judged as a JWT's claims are.
    pub(super) async fn ask(
        &self,
        position: usize,
        issuer: &Issuer,
        token: &str,
        hash: TokenHash,
        step: &mut Step,
    ) -> Result<Arc<Remembered>, TokenError> {
        if token.len() > self.limits.token_bytes_max {
            let detail = format!("longer than {} bytes", self.limits.token_bytes_max);
            return Err(TokenError::LimitExceeded(Limit::TokenBytesMax, detail.into()));
        }
        *step = Step::Issuer;
        let nobody =
            || TokenError::IssuerUnavailable("an opaque token is asked about only where one serves".into());
        let asked = issuer.introspection.as_ref().ok_or_else(nobody)?;
        let _turn = asked.turn(hash).await;
        // Another may have asked meanwhile.
        if let Some(remembered) = self.recall(&hash).await? {
            return Ok(remembered);
        }
        *step = Step::Signature;
        let claims = asked.claims(token, &self.limits, self.clock.now()).await;
        let judged = self.clock.now();
        let caller = claims.and_then(|claims| match issuer.settings.url.accepts(&claims) {
            _ if !claims.contains_key("iss") => {
                issuer.settings.caller(claims, hash, &self.limits, judged, step)
            }
            Some(true) => issuer.settings.caller(claims, hash, &self.limits, judged, step),
            _ => Err(TokenError::IssuerUnknown("its issuer says that it is another's".into())),
        });
        match caller {
            Ok(caller) => {
                let end = judged.plus(asked.settings().time_max);
                Ok(self.memory.remember(caller, position, Vouched::Until(end), judged))
            }
            Err(error @ (TokenError::NotYetValid(_) | TokenError::IssuerUnavailable(_))) => Err(error),
            Err(error) => {
                self.failed(hash, &error, position, None, judged);
                Err(error)
            }
        }
    }
}
