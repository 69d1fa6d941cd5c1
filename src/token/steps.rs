//! How far a token gets in the verifier, step by step: for whoever asks why one was refused, or what of it was
//! looked at.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::algorithm::Algorithm;
use super::error::TokenError;
use super::jwt::Unverified;
use super::limits::TokenLimits;
use crate::identity::{Caller, Name};

/// The steps of the verifier, in the order in which it goes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// It is a JWT that can be read in one way only.
    Structure,
    /// An issuer is configured whose `iss` it has.
    Issuer,
    /// `typ` is the one of the issuer's tokens.
    Type,
    Algorithm,
    /// The issuer has a key that it could be signed with.
    Key,
    Signature,
    /// Its claims are not those of an ID, refresh or logout token.
    Kind,
    Times,
    Audience,
    /// All that the issuer `requires` is there.
    Required,
    /// The issuer's `only`.
    Only,
    /// All that the caller's words are read from has its type and is complete.
    Claims,
    /// The key that it is bound to is the one of this connection.
    Binding,
    /// Nothing of it is on the revocation list.
    Revocation,
}

/// One token's way.
#[derive(Debug)]
pub struct Trace {
    /// The last step that was begun: where it was refused, if it was.
    pub last: Step,
    pub outcome: Result<Arc<Caller>, TokenError>,
    /// Whose `iss` it has.
    pub issuer: Option<Name>,
    /// Absent where it cannot be read.
    pub said: Option<Said>,
}

/// What a token says, whoever signed it.
#[derive(Debug)]
pub struct Said {
    /// `None`: one that is never taken from anybody.
    pub algorithm: Option<Algorithm>,
    /// `typ`.
    pub media_type: Option<String>,
    pub kid: Option<String>,
    pub claims: Map<String, Value>,
}

impl Step {
    pub const ALL: [Step; 14] = [
        Step::Structure,
        Step::Issuer,
        Step::Type,
        Step::Algorithm,
        Step::Key,
        Step::Signature,
        Step::Kind,
        Step::Times,
        Step::Audience,
        Step::Required,
        Step::Only,
        Step::Claims,
        Step::Binding,
        Step::Revocation,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Step::Structure => "structure",
            Step::Issuer => "issuer",
            Step::Type => "type",
            Step::Algorithm => "algorithm",
            Step::Key => "key",
            Step::Signature => "signature",
            Step::Kind => "kind",
            Step::Times => "times",
            Step::Audience => "audience",
            Step::Required => "required",
            Step::Only => "only",
            Step::Claims => "claims",
            Step::Binding => "binding",
            Step::Revocation => "revocation",
        }
    }
}

impl Said {
    pub(super) fn read(token: &str, limits: &TokenLimits) -> Option<Said> {
        Unverified::parse(token, limits).ok().map(Said::of)
    }

    pub(super) fn of(token: Unverified<'_>) -> Said {
        let Unverified { header, claims, .. } = token;
        Said { algorithm: header.algorithm, media_type: header.media_type, kid: header.kid, claims }
    }
}
