//! By what its request a caller was known, for judging again what was permitted to it.

use std::cell::OnceCell;
use std::sync::Arc;

use http::HeaderMap;

use super::generation::Generation;
use super::judgement::{self, Signatures};
use super::refusal::Refusal;
use super::{headers, hop};
use crate::identity::{Caller, Peer, SUBJECT_ISSUER, Signature};
use crate::token::{KnownToken, Scheme, TokenField, Verifier};

/// All that a request presented of its caller, and nothing that another one did.
#[derive(Default)]
pub struct KnownBy {
    /// The caller's own, or the one beside what a hop told.
    token: Option<Token>,
    told: Option<Told>,
}

struct Token {
    field: TokenField,
    /// Its issuer is asked about it, again and again.
    is_opaque: bool,
}

/// What a hop told of the caller.
enum Told {
    /// Whom it vouched for.
    Word(Arc<Caller>),
    /// What a load balancer said of who logged in there.
    UserClaims(TokenField),
}

impl KnownBy {
    /// What these headers presented; `known` is the token that came last, and often came again.
    pub fn of(
        signatures: &Signatures,
        headers: &HeaderMap,
        known: Option<&KnownToken>,
        verifier: &Verifier,
    ) -> KnownBy {
        let Some(caller) = signatures.caller.verified() else { return KnownBy::default() };
        let told = if verifier.takes_assertions_of(&caller.issuer) {
            Some(Told::Word(Arc::clone(caller)))
        } else if verifier.takes_user_claims(Some(&caller.issuer)) {
            headers.get(headers::USER_CLAIMS).map(TokenField::of).map(Told::UserClaims)
        } else {
            None
        };
        let token = signatures.token().zip(TokenField::in_headers(headers, known));
        let token = token.map(|(of, field)| Token { field, is_opaque: of.believed_until.is_some() });
        KnownBy { token, told }
    }

    /// Whether somebody is asked who it stands for, and not only for keys.
    pub fn is_asked_about(&self) -> bool {
        self.token.as_ref().is_some_and(|token| token.is_opaque)
    }

    /// Whether it has a token that can be exchanged.
    pub fn is_bearer(&self) -> bool {
        self.token.as_ref().is_some_and(|token| token.field.scheme() == Scheme::Bearer)
    }

    /// Whom it stands for now, by the steps of a new request: what a hop told whose word is taken no longer is not
    /// read.
    pub async fn again(
        &self,
        generation: &Generation,
        (peer, is_alb): (Option<&Peer>, bool),
        beside: &OnceCell<Arc<Caller>>,
    ) -> Result<Signature<Caller>, Refusal> {
        let verifier = &generation.verifier;
        let token = match &self.token {
            Some(token) => {
                verifier.verify_field(&token.field).await.map_err(|error| Refusal::from(&error))?
            }
            None => Signature::Absent,
        };
        match &self.told {
            Some(Told::UserClaims(said)) if is_alb => {
                let told = verifier.verify_user_claims_again(said).await;
                judgement::one_of(token, told.map_err(|error| Refusal::from(&error))?, "iss", beside)
            }
            Some(Told::Word(caller)) if peer.is_some_and(|peer| hop::is_believed(&generation.hops, peer)) => {
                let told = verifier.verify_word_again(caller);
                let told = told.map_err(|error| Refusal::from(&error))?;
                judgement::one_of(token, told, SUBJECT_ISSUER, beside)
            }
            _ => Ok(token),
        }
    }
}
