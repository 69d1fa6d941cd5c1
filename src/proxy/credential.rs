//! What a caller was known by, for judging again what was permitted to it.

use std::cell::OnceCell;
use std::sync::Arc;

use http::HeaderMap;

use super::generation::Generation;
use super::judgement::{self, Signatures};
use super::refusal::Refusal;
use super::{headers, hop};
use crate::clock::Clock;
use crate::identity::{Caller, Peer, SUBJECT_ISSUER, Signature};
use crate::token::{KnownToken, TokenError, TokenField, Verifier};

/// What a caller was known by.
pub enum Credential {
    Absent,
    Token(TokenField),
    /// One that its issuer is asked about, again and again.
    Opaque(TokenField),
    /// The word of a hop, and the token that was shown beside it.
    Word(Arc<Caller>, Option<TokenField>),
    /// What a load balancer said of who logged in there.
    UserClaims(TokenField),
}

impl Credential {
    /// What these headers presented, of which `known` is the token that was found good, if it is at hand.
    pub fn of(
        signatures: &Signatures,
        headers: &HeaderMap,
        known: Option<&KnownToken>,
        verifier: &Verifier,
    ) -> Credential {
        let Some(caller) = signatures.caller.verified() else { return Credential::Absent };
        if let Some(said) = headers.get(headers::USER_CLAIMS)
            && verifier.takes_user_claims(Some(&caller.issuer))
        {
            return Credential::UserClaims(TokenField::of(said));
        }
        let field = known.map(KnownToken::field).or_else(|| TokenField::in_headers(headers));
        if headers.contains_key(headers::ASSERTION) && verifier.takes_assertions_of(&caller.issuer) {
            return Credential::Word(Arc::clone(caller), field);
        }
        let kind = if caller.believed_until.is_some() { Credential::Opaque } else { Credential::Token };
        field.map_or(Credential::Absent, kind)
    }

    /// Whom it stands for now.
    pub async fn again(
        &self,
        generation: &Generation,
        (peer, is_alb): (Option<&Peer>, bool),
        clock: &Clock,
        beside: &OnceCell<Arc<Caller>>,
    ) -> Result<Signature<Caller>, Refusal> {
        let verifier = &generation.verifier;
        let of_token = async |token| {
            let caller = verifier.verify_field(token).await;
            caller.map_err(|error| Refusal::from(&error))
        };
        match self {
            Credential::Absent => Ok(Signature::Absent),
            Credential::Token(token) | Credential::Opaque(token) => of_token(token).await,
            Credential::UserClaims(said) => {
                if !is_alb {
                    return Ok(Signature::Absent);
                }
                let caller = verifier.verify_user_claims_again(said).await;
                caller.map_err(|error| Refusal::from(&error))
            }
            Credential::Word(caller, token) => {
                if !peer.is_some_and(|peer| hop::is_believed(&generation.hops, peer)) {
                    return Ok(Signature::Absent);
                }
                if !verifier.takes_assertions_of(&caller.issuer) {
                    let detail = "its issuer is no other Countersign any more";
                    return Err(Refusal::from(&TokenError::IssuerUnknown(detail.into())));
                }
                // The assertion was for the moment of the request; what it says of the token holds for longer.
                let expires = caller.token_ends();
                if expires <= clock.now() {
                    return Err(Refusal::from(&TokenError::Expired));
                }
                let caller = Signature::Verified(Arc::new(Caller { expires, ..Caller::clone(caller) }));
                match token {
                    Some(token) => judgement::one_of(of_token(token).await?, caller, SUBJECT_ISSUER, beside),
                    None => Ok(caller),
                }
            }
        }
    }
}
