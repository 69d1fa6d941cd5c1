//! A request that is to be allowed, as often as it was asked.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::audit::record::hashed;
use crate::clock::Timestamp;
use crate::replay::Past;

/// Requests that differ in nothing that a rule could read.
#[derive(Debug)]
pub struct Wish {
    pub past: Past<'static>,
    /// Of the path, decoded.
    pub segments: Vec<String>,
    /// The route that it took, and those between which a header chose.
    pub routes: Vec<String>,
    /// What the policy in force calls the peer and the caller.
    pub services: Vec<String>,
    pub roles: BTreeSet<String>,
    /// The claim that the subject is read from, name by name.
    pub subject_claim: Vec<String>,
    /// Texts among the claims that the record holds.
    pub claims: Vec<(String, String)>,
    pub requests: u64,
    pub first: Timestamp,
    pub last: Timestamp,
}

/// What a policy calls those who ask, and where that goes.
#[derive(Debug)]
pub struct Names {
    pub routes: Vec<String>,
    pub services: Vec<String>,
    pub roles: BTreeSet<String>,
    pub subject_claim: Vec<String>,
}

impl Wish {
    pub fn new(past: Past<'static>, known: Names) -> Wish {
        let Names { routes, services, roles, subject_claim } = known;
        let segments = past.path.segments().map(|segment| segment.into_owned()).collect();
        let texts = past.caller.iter().flat_map(|caller| caller.claims().into_iter().flatten());
        let claims = texts.filter_map(|(name, value)| match value {
            Value::String(text) => Some((name.clone(), text.clone())),
            _ => None,
        });
        let claims = claims.collect();
        let (first, last) = (past.time, past.time);
        Wish { past, segments, routes, services, roles, subject_claim, claims, requests: 1, first, last }
    }

    /// Whether a rule could tell the two apart.
    pub fn is_like(&self, other: &Past<'_>) -> bool {
        let past = &self.past;
        past.path == other.path
            && past.method == other.method
            && past.host == other.host
            && (past.grpc, &past.route) == (other.grpc, &other.route)
            && (&past.peer, &past.caller) == (&other.peer, &other.caller)
    }

    pub fn again(&mut self, time: Timestamp) {
        self.requests += 1;
        (self.first, self.last) = (self.first.min(time), self.last.max(time));
    }

    /// Whether a segment is the caller's own subject.
    pub fn owns(&self, at: usize) -> bool {
        let subject = self.past.caller.as_ref().and_then(|caller| caller.subject.as_deref());
        let is = |subject: &str| subject == self.segments[at] || subject == hashed(&self.segments[at]);
        subject.is_some_and(is)
    }

    /// As it is listed in a rule: `GET` includes `HEAD`.
    pub fn method(&self) -> &str {
        match self.past.method.as_str() {
            "HEAD" => "GET",
            method => method,
        }
    }

    /// Who asked, in whole: for counting.
    pub fn caller(&self) -> Option<String> {
        self.past.caller.as_ref().map(|caller| caller.name())
    }
}
