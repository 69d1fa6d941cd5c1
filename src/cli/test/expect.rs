//! What a case expects, one thing at a time, and whether it came.

use std::rc::Rc;

use super::file::{Code, Expect, HeaderTerm, NONE, VerdictTerm};
use crate::audit::{Reason, Verdict};
use crate::config::read::List;
use crate::config::source::At;
use crate::policy::Policy;
use crate::trial::Answer;

/// One key of an `expect`.
pub struct Expectation {
    /// As it is typed, with a header's name.
    pub key: Rc<str>,
    what: What,
}

enum What {
    /// Whether `unenforced` will do for an allow.
    Verdict(Verdict, bool),
    Rule(String),
    Reason(Reason),
    Also(Vec<Reason>),
    Status(u32),
    Challenge(String),
    NearMiss(String),
    WouldAllow(Vec<String>),
    WouldDeny(Vec<String>),
    Unenforced(Vec<Reason>),
    Route(String),
    Upstream(String),
    Header(String, Option<String>),
}

/// Something else came than was expected.
pub struct Difference {
    pub key: Rc<str>,
    pub expected: String,
    pub came: String,
}

/// What these say together; where several say something of one key, the first does.
pub fn expectations(said: &[&Expect]) -> Vec<Expectation> {
    let mut found = Vec::new();
    let mut add = |key: &str, what: What| found.push(Expectation { key: key.into(), what });
    macro_rules! first {
        ($key:ident) => {
            said.iter().find_map(|expect| expect.$key.as_ref()).map(|it| &it.value)
        };
    }
    let reason = first!(reason).map(|code| code.0);
    if let Some(verdict) = first!(verdict) {
        let verdict = match verdict {
            VerdictTerm::Allow => Verdict::Allow,
            VerdictTerm::Deny => Verdict::Deny,
        };
        add("verdict", What::Verdict(verdict, reason == Some(Reason::Unenforced)));
    }
    if let Some(reason) = reason {
        add("reason", What::Reason(reason));
    }
    if let Some(also) = first!(also) {
        add("also", What::Also(codes(also)));
    }
    if let Some(rule) = first!(rule) {
        add("rule", What::Rule(rule.clone()));
    }
    if let Some(near_miss) = first!(near_miss) {
        add("near_miss", What::NearMiss(near_miss.clone()));
    }
    if let Some(status) = first!(status) {
        add("status", What::Status(*status));
    }
    if let Some(challenge) = first!(challenge) {
        add("challenge", What::Challenge(challenge.clone()));
    }
    if let Some(rules) = first!(would_allow) {
        add("would_allow", What::WouldAllow(names(rules)));
    }
    if let Some(rules) = first!(would_deny) {
        add("would_deny", What::WouldDeny(names(rules)));
    }
    if let Some(unenforced) = first!(unenforced) {
        add("unenforced", What::Unenforced(codes(unenforced)));
    }
    if let Some(route) = first!(route) {
        add("route", What::Route(route.to_string()));
    }
    if let Some(upstream) = first!(upstream) {
        add("upstream", What::Upstream(upstream.to_string()));
    }
    for (name, value) in first!(header).into_iter().flatten() {
        let value = match &value.value {
            HeaderTerm::Value(text) => Some(text.clone()),
            HeaderTerm::Absent => None,
        };
        add(&format!("header {}", name.value), What::Header(name.value.clone(), value));
    }
    found
}

impl Expectation {
    /// What is another than was expected, if it is.
    pub fn differs(&self, answer: &Answer, policy: &Policy) -> Option<Difference> {
        let (expected, came) = self.compared(answer, policy);
        (expected != came).then(|| Difference { key: Rc::clone(&self.key), expected, came })
    }

    /// Both in the same words, so that they are the same if and only if the words are.
    fn compared(&self, answer: &Answer, policy: &Policy) -> (String, String) {
        let record = answer.record();
        let rules = |of: fn(&crate::audit::record::RequestRecord) -> &Vec<String>| {
            record.map(of).map_or_else(|| NONE.to_owned(), |rules| list(rules))
        };
        match &self.what {
            What::Verdict(expected, unenforced_will_do) => {
                let came = match answer.reason() {
                    Reason::Unenforced if !unenforced_will_do => "allow by `shadow_until` alone",
                    _ => answer.verdict().as_str(),
                };
                (expected.as_str().to_owned(), came.to_owned())
            }
            What::Reason(expected) => (expected.to_string(), answer.reason().to_string()),
            What::Also(expected) => {
                let also = match answer.also() {
                    [] => vec![answer.reason()],
                    also => also.to_vec(),
                };
                match expected.iter().all(|reason| also.contains(reason)) {
                    true => (String::new(), String::new()),
                    false => (list(expected), list(&also)),
                }
            }
            What::Rule(expected) => (expected.clone(), answer.rule().unwrap_or(NONE).to_owned()),
            What::NearMiss(expected) => {
                let near_miss = record.and_then(|record| record.near_miss.as_ref());
                (expected.clone(), near_miss.map_or(NONE, |near_miss| &near_miss.rule).to_owned())
            }
            What::Status(expected) => {
                let came = answer.status().map(|status| status.as_u16().to_string());
                (expected.to_string(), came.unwrap_or_else(|| unanswered(answer).to_owned()))
            }
            What::Challenge(expected) => (expected.clone(), answer.challenge().unwrap_or(NONE).to_owned()),
            What::WouldAllow(expected) => (list(expected), rules(|record| &record.would_allow)),
            What::WouldDeny(expected) => (list(expected), rules(|record| &record.would_deny)),
            What::Unenforced(expected) => {
                (list(expected), record.map_or_else(|| NONE.to_owned(), |record| list(&record.unenforced)))
            }
            What::Route(expected) => {
                let route = answer.case().and_then(|case| case.decision.evidence.route);
                let route = route.map_or(NONE, |route| policy.route(route).name.as_str());
                (expected.clone(), route.to_owned())
            }
            What::Upstream(expected) => {
                let upstream = record.and_then(|record| record.upstream.as_ref());
                (expected.clone(), upstream.map_or_else(|| NONE.to_owned(), ToString::to_string))
            }
            What::Header(name, expected) => {
                let onward = answer.http().and_then(|answered| answered.onward.as_ref());
                let came = match onward {
                    None => "the request is not passed on".to_owned(),
                    Some(head) => {
                        let values = head.headers.get_all(name).iter();
                        let values: Vec<_> =
                            values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
                        if values.is_empty() { ABSENT.to_owned() } else { values.join(", ") }
                    }
                };
                (expected.clone().unwrap_or_else(|| ABSENT.to_owned()), came)
            }
        }
    }
}

const ABSENT: &str = "no such field";

/// Why there is no status.
fn unanswered(answer: &Answer) -> &'static str {
    match answer {
        Answer::Handshake(_) => "none: the TLS handshake fails",
        Answer::Http(_) => "the upstream's: the request is passed on",
    }
}

fn codes(codes: &List<Code>) -> Vec<Reason> {
    codes.iter().map(|code| code.value.0).collect()
}

fn names(names: &List<String>) -> Vec<String> {
    names.iter().map(|At { value, .. }| value.clone()).filter(|name| name != NONE).collect()
}

/// In order, as a text.
fn list<T: ToString>(values: &[T]) -> String {
    let mut values: Vec<_> = values.iter().map(ToString::to_string).collect();
    values.sort();
    if values.is_empty() { NONE.to_owned() } else { values.join(", ") }
}
