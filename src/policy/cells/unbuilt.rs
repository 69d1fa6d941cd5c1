//! Why a request was not built: because there is none, or because it was not found.

use std::fmt;

/// What became of building something that fulfils a demand.
pub type Built<T = ()> = Result<T, Unbuilt>;

/// No request was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unbuilt {
    /// What is demanded excludes itself: there is no such request, and nothing is missed without it.
    Impossible,
    /// There may be such requests. Whoever looks for all of them has not seen these.
    Open(Gap),
}

/// Why requests that there may be were not built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gap {
    /// Each word, or number, matches something that rules compare it with.
    NoFreshWord,
    NoFreshTime,
    /// A name of a host or a workload, or a path, made from its pattern, is none.
    Name,
    /// An issuer's `{tid}`, under an `iss` that is demanded in part.
    Tenant,
    /// A claim of words that is to be one text with spaces and other words at once.
    Words,
    /// A token was made, and no verifier takes it.
    Token,
    /// A request was made to meet a require, or to be carried by a service, and does not.
    Unmet,
}

impl Gap {
    /// As a code.
    pub fn as_str(self) -> &'static str {
        match self {
            Gap::NoFreshWord => "no_fresh_word",
            Gap::NoFreshTime => "no_fresh_time",
            Gap::Name => "name",
            Gap::Tenant => "tenant",
            Gap::Words => "words",
            Gap::Token => "token",
            Gap::Unmet => "unmet",
        }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Gap::NoFreshWord => "rules name so many starts of texts that no other text was found",
            Gap::NoFreshTime => "rules name so many starts of times that no other time was found",
            Gap::Name => "a name of a host or workload was not found that fits its pattern",
            Gap::Tenant => "a tenant was not found for an `iss` of which rules demand the start",
            Gap::Words => "a claim of words is compared with a text of several words",
            Gap::Token => "no token was found that has the claims demanded and is taken",
            Gap::Unmet => "a require, or the clients of a service, could not be met",
        })
    }
}
