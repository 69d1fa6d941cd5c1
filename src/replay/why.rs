//! Why a record cannot be replayed. Each is counted; none is guessed around.

use std::fmt;

/// Ordered as it is told: what is wrong with a line, then with a record, then between it and the policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    NotJson,
    /// Longer than any record.
    TooLong,
    /// A record of something else than a request.
    Event(String),
    /// What is named is missing or not as records have it now.
    Form(&'static str),
    /// What is named was too long, or too much, to be recorded whole.
    Cut(&'static str),
    /// The hash stands in the record, and the policy asks how the value begins.
    Redacted(String),
    /// The policy reads a claim that the record does not hold.
    Claim(String),
    /// No such `[issuer]` is configured.
    Issuer(String),
    /// No such `[trust_domain]` is configured.
    TrustDomain(String),
    /// An issuer's `claims` or `actor` entries changed between the policies.
    Mapping(String),
}

impl Why {
    /// Whether nobody would expect a decision there.
    pub fn is_other_event(&self) -> bool {
        matches!(self, Why::Event(_))
    }

    /// The same for all records of its kind.
    pub fn code(&self) -> &'static str {
        match self {
            Why::NotJson => "not_json",
            Why::TooLong => "too_long",
            Why::Event(_) => "other_event",
            Why::Form(_) => "other_form",
            Why::Cut(_) => "cut",
            Why::Redacted(_) => "redacted",
            Why::Claim(_) => "claim_not_recorded",
            Why::Issuer(_) => "issuer_unknown",
            Why::TrustDomain(_) => "trust_domain_unknown",
            Why::Mapping(_) => "mapping_changed",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::NotJson => f.write_str("not a line of JSON"),
            Why::TooLong => f.write_str("longer than any record"),
            Why::Event(event) => write!(f, "a record of another event: {event}"),
            Why::Form(field) => write!(f, "not a record as this version writes them: {field}"),
            Why::Cut(what) => {
                write!(f, "{what} is cut in the record, and the outcome may depend on the rest")
            }
            Why::Redacted(claim) => write!(f, "the policy asks how `{claim}` begins, which is redacted"),
            Why::Claim(claim) => write!(f, "the policy reads claim `{claim}`, which is not in the record"),
            Why::Issuer(name) => write!(f, "no `[issuer.{name}]` is configured"),
            Why::TrustDomain(name) => write!(f, "no `[trust_domain.\"{name}\"]` is configured"),
            Why::Mapping(name) => {
                write!(f, "`[issuer.{name}]` reads other things from a token than it did then")
            }
        }
    }
}
