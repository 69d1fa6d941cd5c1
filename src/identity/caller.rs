//! Who a request is made for: what a verified token says, always with its issuer.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{ActorKind, Delegate, Name};
use crate::clock::Timestamp;

/// The claims of one verified token in one vocabulary, whatever its issuer calls them.
///
/// A subject, client, scope, group or role means nothing without [`Caller::issuer`].
#[derive(Clone, Debug, PartialEq)]
pub struct Caller {
    /// The `[issuer.NAME]` whose key signed the token.
    pub issuer: Name,
    /// `sub`. Present in nearly every token; an issuer's `requires` makes it mandatory.
    pub subject: Option<Arc<str>>,
    /// The OAuth client the token was issued to.
    pub client: Option<Arc<str>>,
    pub scopes: Vec<Arc<str>>,
    pub groups: Vec<Arc<str>>,
    /// The token's own roles claim; not the configured `[role]`s.
    pub roles: Vec<Arc<str>>,
    /// Who is acting now: with `act`, the outermost actor.
    pub actor: ActorKind,
    /// The kind that the issuer's entries other than `agent` give to the token itself: with an
    /// agent, whom it acts for.
    pub on_behalf_of: ActorKind,
    /// The `act` chain, outermost (the one acting now) first; only that one is ever judged.
    pub chain: Vec<Delegate>,
    /// `exp` plus the issuer's leeway: from then on the token is refused.
    pub expires: Timestamp,
    /// Where the issuer's word stands in place of a signature: up to when that is believed. From then on it is asked
    /// again, and may say something else of the same token.
    pub believed_until: Option<Timestamp>,
    /// `auth_time` (OpenID Connect Core §2): when the person last logged in.
    pub authenticated_at: Option<Timestamp>,
    /// `acr` (OpenID Connect Core §2): how.
    pub acr: Option<Arc<str>>,
    /// `cnf` (RFC 7800): the key that the token is bound to.
    pub confirmation: Option<Confirmation>,
    /// The services that the request came through, the first one first, where another Countersign vouches for this
    /// caller; `None` where a token does.
    pub via: Option<Vec<Arc<str>>>,
    /// `jti`, for revocation.
    pub token_id: Option<Arc<str>>,
    /// All claims, as issued.
    pub claims: Map<String, Value>,
    /// SHA-256 of the whole token: a name for this caller in caches, never in records.
    pub token_hash: [u8; 32],
}

impl Caller {
    /// Up to when all this is as it is: its token ends, or its issuer is asked again.
    pub fn holds_until(&self) -> Timestamp {
        self.believed_until.map_or(self.expires, |until| until.min(self.expires))
    }

    /// Whether this caller, for whom a hop vouches, is who `token` is of: the same subject, by the name that the same
    /// issuer gave it, which the claim `named_by` says.
    pub fn is_of_subject_of(&self, token: &Caller, named_by: &str) -> bool {
        let text = |caller: &Caller, claim: &str| caller.claims.get(claim).cloned();
        self.subject == token.subject && text(self, named_by) == text(token, "iss")
    }

    /// When the token ends that this caller was first known by, whoever vouches for the caller since.
    pub fn token_ends(&self) -> Timestamp {
        let asserted = self.via.as_ref().and_then(|_| self.claims.get("caller_exp")?.as_i64());
        asserted.map_or(self.expires, Timestamp::from_unix_seconds)
    }

    /// Who named the subject first, where another Countersign vouches for it.
    pub fn subject_issuer(&self) -> Option<&str> {
        self.via.as_ref().and_then(|_| self.claims.get(SUBJECT_ISSUER)?.as_str())
    }

    /// To what the caller's own token was bound: an assertion says that of the token that it rests on, and its own
    /// binding tells of the hop.
    pub fn bound_to(&self) -> Option<Bound> {
        let asserted =
            || Bound::ALL.into_iter().find(|bound| self.claims.get("bound") == Some(&bound.as_str().into()));
        match (&self.via, &self.confirmation) {
            (Some(_), _) => asserted(),
            (None, Some(Confirmation::Certificate(_))) => Some(Bound::Certificate),
            (None, Some(Confirmation::Key(_))) => Some(Bound::Key),
            // What cannot be checked is proven by nobody.
            (None, Some(Confirmation::Unsupported) | None) => None,
        }
    }

    /// The outermost actor, if the token's own issuer names it. What another issuer calls `bot` is no `bot` of
    /// this one.
    pub fn acting(&self) -> Option<&str> {
        self.chain.first().filter(|outermost| self.names(outermost)).map(|outermost| &*outermost.subject)
    }

    /// All in the chain that the token's own issuer names.
    pub fn actors(&self) -> impl Iterator<Item = &str> {
        self.chain.iter().filter(|actor| self.names(actor)).map(|actor| &*actor.subject)
    }

    fn names(&self, actor: &Delegate) -> bool {
        let own = self.claims.get("iss").and_then(Value::as_str);
        actor.issuer.is_none() || actor.issuer.as_deref() == own
    }
}

/// The claim in which an assertion says who named its subject first.
pub const SUBJECT_ISSUER: &str = "subject_issuer";

/// The key that a token's holder must prove to have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Confirmation {
    /// `x5t#S256` (RFC 8705 §3.1): SHA-256 of a client certificate.
    Certificate([u8; 32]),
    /// `jkt` (RFC 9449 §6.1): the SHA-256 thumbprint of a DPoP key.
    Key([u8; 32]),
    /// A confirmation method that this proxy cannot check, hence never proven.
    Unsupported,
}

/// What a caller proved to hold beside a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    Certificate,
    Key,
}

impl Bound {
    pub const ALL: [Bound; 2] = [Bound::Certificate, Bound::Key];

    /// As records and assertions say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Bound::Certificate => "certificate",
            Bound::Key => "key",
        }
    }
}
