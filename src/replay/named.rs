//! What a policy names: the values among which a hashed one is found again, and the most that an unknown one can
//! fulfil.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::Value;

use crate::audit::record::hashed;
use crate::policy::claim::{ClaimPath, ClaimTest, ClaimValue};
use crate::policy::pattern::Glob;
use crate::policy::role::{CarriedClients, Role};
use crate::policy::{Condition, PolicyParts};

/// All values that the rules, roles and services of one policy name.
#[derive(Debug, Default)]
pub struct Named {
    /// Texts by their hash.
    hashes: HashMap<String, Arc<str>>,
    pub claims: Vec<NamedClaim>,
    /// How subjects, clients and acting subjects begin, where a glob says so.
    pub subjects: BTreeSet<Arc<str>>,
    pub clients: BTreeSet<Arc<str>>,
    pub acting: BTreeSet<Arc<str>>,
    pub scopes: BTreeSet<Arc<str>>,
    pub groups: BTreeSet<Arc<str>>,
    pub roles: BTreeSet<Arc<str>>,
}

/// What is asked of one claim.
#[derive(Debug)]
pub struct NamedClaim {
    pub path: ClaimPath,
    /// A value for each that would fulfil something.
    values: Vec<Value>,
    /// Whether something is asked of how it begins.
    pub begins: bool,
    /// Whether segments of a path are compared with it.
    pub matched: bool,
}

impl Named {
    pub fn of(policy: &PolicyParts, claims_read: &[ClaimPath]) -> Named {
        let claim = |path: &ClaimPath| NamedClaim {
            path: path.clone(),
            values: Vec::new(),
            begins: false,
            matched: false,
        };
        let mut named = Named { claims: claims_read.iter().map(claim).collect(), ..Named::default() };
        for condition in policy.rules.iter().flat_map(|rule| &rule.conditions) {
            match condition {
                Condition::Claim(tests) => tests.iter().for_each(|test| named.add(test)),
                Condition::MatchClaim(tests) => {
                    let read = |claim: &NamedClaim| tests.iter().any(|test| test.claim == claim.path);
                    named
                        .claims
                        .iter_mut()
                        .filter(|claim| read(claim))
                        .for_each(|claim| claim.matched = true);
                }
                Condition::Acr(values) => values.iter().for_each(|value| named.learn(value)),
                _ => {}
            }
        }
        for entry in policy.roles.iter().flat_map(Role::entries) {
            entry.claim.iter().for_each(|test| named.add(test));
            named.scopes.extend(entry.scope.iter().cloned());
            named.groups.extend(entry.group.iter().cloned());
            named.roles.extend(entry.role.iter().cloned());
            entry.group.iter().chain(&entry.role).for_each(|text| named.learn(text));
            named.subjects.extend(entry.subject.iter().filter_map(begins));
            named.clients.extend(entry.client.iter().filter_map(begins));
            named.acting.extend(entry.actor_subject.iter().filter_map(begins));
            let globs = entry.subject.iter().chain(&entry.client).chain(&entry.actor_subject);
            globs.for_each(|glob| named.learn(text_of(glob)));
        }
        for service in &policy.services {
            if let CarriedClients::Listed(clients) = &service.clients {
                named.clients.extend(clients.iter().filter_map(|carried| begins(&carried.client)));
                clients.iter().for_each(|carried| named.learn(text_of(&carried.client)));
            }
        }
        named
    }

    fn add(&mut self, test: &ClaimTest) {
        for value in &test.values {
            let (text, begins) = match value {
                ClaimValue::Text(glob) => (text_of(glob).to_string(), begins(glob).is_some()),
                ClaimValue::Integer(number) => (number.to_string(), false),
                ClaimValue::Boolean(value) => {
                    self.put(test, Value::Bool(*value), false);
                    continue;
                }
            };
            self.learn(&text.as_str().into());
            self.put(test, text.into(), begins);
        }
    }

    fn put(&mut self, test: &ClaimTest, value: Value, begins: bool) {
        if let Some(claim) = self.claims.iter_mut().find(|claim| claim.path == test.claim) {
            claim.values.push(value);
            claim.begins |= begins;
        }
    }

    fn learn(&mut self, text: &Arc<str>) {
        self.hashes.insert(hashed(text), Arc::clone(text));
    }

    /// The text behind a hash, if the policy names it or it is one of the path's `segments`.
    pub fn reveal(&self, hash: &str, segments: &[Cow<'_, str>]) -> Option<Arc<str>> {
        let known = self.hashes.get(hash).cloned();
        known.or_else(|| segments.iter().find(|segment| hashed(segment) == hash).map(|text| (**text).into()))
    }
}

impl NamedClaim {
    /// A claim that fulfils all that is asked of it, whatever else it holds.
    pub fn fulfilled(&self, seen: Option<&Value>, segments: &[Cow<'_, str>]) -> Value {
        let mut members = match seen {
            Some(Value::Array(members)) => members.clone(),
            Some(value) => vec![value.clone()],
            None => Vec::new(),
        };
        members.extend(self.values.iter().cloned());
        if self.matched {
            members.extend(segments.iter().map(|segment| Value::from(&**segment)));
        }
        members.into()
    }
}

/// The text that a glob names, or that what it names begins with.
fn text_of(glob: &Glob) -> &Arc<str> {
    match glob {
        Glob::Exact(text) | Glob::Prefix(text) => text,
    }
}

/// How a text must begin, where not every text will do.
fn begins(glob: &Glob) -> Option<Arc<str>> {
    match glob {
        Glob::Prefix(start) if !start.is_empty() => Some(Arc::clone(start)),
        Glob::Prefix(_) | Glob::Exact(_) => None,
    }
}
