//! Which kind of actor a token speaks of, and the RFC 8693 chain of who acts for whom. Kinds are
//! declared, never guessed: what no entry matches, or two contradict about, is `unknown`.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::error::{TokenError, malformed};
use crate::identity::{ActorKind, Delegate};
use crate::metrics::Limit;
use crate::policy::claim::{ClaimPath, ClaimTest};

/// `[[issuer.NAME.actor]]`: tokens that pass all tests speak of this kind.
#[derive(Clone, Debug, PartialEq)]
pub struct ActorEntry {
    /// Not `unknown`.
    pub kind: ActorKind,
    pub claim: Vec<ClaimTest>,
    /// Two claims that must be there and equal: machines' tokens of some providers have no mark but a
    /// subject that is the client (RFC 9068 §2.2).
    pub same: Option<[ClaimPath; 2]>,
}

/// Who acts, and for whom.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Actors {
    pub actor: ActorKind,
    pub on_behalf_of: ActorKind,
    /// Outermost first.
    pub chain: Vec<Delegate>,
}

impl ActorEntry {
    /// The top-level claims that this entry reads.
    pub fn claims(&self) -> impl Iterator<Item = &Arc<str>> {
        let tested = self.claim.iter().map(|test| &test.claim);
        tested.chain(self.same.iter().flatten()).filter_map(|path| path.0.first())
    }

    /// Whether a token with these claims, or an `act` with these members, speaks of the kind.
    pub fn matches(&self, claims: &Map<String, Value>) -> bool {
        let stated = !self.claim.is_empty() || self.same.is_some();
        let same = self.same.as_ref().is_none_or(|[a, b]| {
            let text = |path: &ClaimPath| path.look_up(claims)?.as_str();
            text(a).is_some() && text(a) == text(b)
        });
        stated && same && self.claim.iter().all(|test| test.holds(claims))
    }
}

/// As `claim uid *` or `claims sub and client_id equal`.
impl fmt::Display for ActorEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = "";
        for test in &self.claim {
            write!(f, "{before}{test}")?;
            before = " and ";
        }
        match &self.same {
            Some([one, other]) => write!(f, "{before}claims {one} and {other} equal"),
            None => Ok(()),
        }
    }
}

impl Actors {
    pub fn read(
        entries: &[ActorEntry],
        claims: &Map<String, Value>,
        depth_max: usize,
    ) -> Result<Actors, TokenError> {
        let subject = Kinds::of(entries, claims);
        let on_behalf_of = subject.other;
        let Some(act) = claims.get("act") else {
            let actor = if subject.agent { ActorKind::Agent } else { subject.other };
            return Ok(Actors { actor, on_behalf_of, chain: Vec::new() });
        };
        let chain = chain(act, depth_max)?;
        let foreign = chain
            .first()
            .and_then(|outermost| outermost.issuer.as_deref())
            .is_some_and(|issuer| claims.get("iss").and_then(Value::as_str) != Some(issuer));
        let outermost = match act {
            Value::Object(members) => Kinds::of(entries, members),
            _ => Kinds { agent: false, other: ActorKind::Unknown },
        };
        let actor = if subject.agent || (outermost.agent && !foreign) {
            ActorKind::Agent
        } else if foreign {
            ActorKind::Unknown
        } else {
            outermost.other
        };
        Ok(Actors { actor, on_behalf_of, chain })
    }
}

/// What the entries say of one set of claims.
struct Kinds {
    agent: bool,
    /// By the entries other than `agent`.
    other: ActorKind,
}

impl Kinds {
    fn of(entries: &[ActorEntry], claims: &Map<String, Value>) -> Kinds {
        let mut kinds = Kinds { agent: false, other: ActorKind::Unknown };
        let mut contradicted = false;
        for entry in entries.iter().filter(|entry| entry.matches(claims)) {
            match entry.kind {
                ActorKind::Agent => kinds.agent = true,
                ActorKind::Unknown => contradicted = true,
                kind @ (ActorKind::Human | ActorKind::Service) => {
                    contradicted |= kinds.other != ActorKind::Unknown && kinds.other != kind;
                    kinds.other = kind;
                }
            }
        }
        if contradicted {
            kinds.other = ActorKind::Unknown;
        }
        kinds
    }
}

/// RFC 8693 §4.1: objects within one another, outermost first.
fn chain(act: &Value, depth_max: usize) -> Result<Vec<Delegate>, TokenError> {
    let mut chain = Vec::new();
    let mut next = Some(act);
    while let Some(link) = next {
        if chain.len() == depth_max {
            let detail = format!("`act` is deeper than {depth_max}");
            return Err(TokenError::LimitExceeded(Limit::DelegationDepthMax, detail.into()));
        }
        let link = link.as_object().ok_or_else(|| malformed("`act` is no object"))?;
        let subject = match link.get("sub") {
            Some(Value::String(subject)) if !subject.is_empty() => subject.as_str().into(),
            _ => return Err(malformed("`act` names nobody in `sub`")),
        };
        let issuer = match link.get("iss") {
            None => None,
            Some(Value::String(issuer)) => Some(issuer.as_str().into()),
            Some(_) => return Err(malformed("`iss` in `act` is no string")),
        };
        chain.push(Delegate { subject, issuer });
        next = link.get("act");
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::claim::ClaimValue;
    use crate::policy::pattern::Glob;

    const DEPTH_MAX: usize = 4;

    fn entry(kind: ActorKind, claim: &str, glob: Glob) -> ActorEntry {
        let test = ClaimTest { claim: ClaimPath::top_level(claim), values: vec![ClaimValue::Text(glob)] };
        ActorEntry { kind, claim: vec![test], same: None }
    }

    fn read(claims: Value) -> Result<(ActorKind, ActorKind, usize), &'static str> {
        let entries = [
            entry(ActorKind::Agent, "cid", Glob::Prefix("assistant-".into())),
            entry(ActorKind::Agent, "sub", Glob::Prefix("agent:".into())),
            entry(ActorKind::Human, "uid", Glob::Prefix("".into())),
            entry(ActorKind::Service, "gty", Glob::Exact("client".into())),
            entry(ActorKind::Service, "sub", Glob::Prefix("svc:".into())),
            entry(ActorKind::Unknown, "imp", Glob::Prefix("".into())),
        ];
        Actors::read(&entries, claims.as_object().ok_or("no object")?, DEPTH_MAX)
            .map(|read| (read.actor, read.on_behalf_of, read.chain.len()))
            .map_err(|error| error.code())
    }

    #[test]
    fn kinds_come_from_declared_entries_alone() {
        use ActorKind::{Agent, Human, Service, Unknown};
        let iss = "https://corp";
        let mut seen = 0;
        for (claims, expected) in [
            (json!({ "uid": "1" }), (Human, Human, 0)),
            (json!({ "gty": "client" }), (Service, Service, 0)),
            (json!({}), (Unknown, Unknown, 0)),
            (json!({ "sub": "alice" }), (Unknown, Unknown, 0)),
            (json!({ "uid": "1", "gty": "client" }), (Unknown, Unknown, 0)),
            (json!({ "uid": "1", "imp": "admin" }), (Unknown, Unknown, 0)),
            (json!({ "uid": "1", "cid": "assistant-7" }), (Agent, Human, 0)),
            (json!({ "cid": "assistant-7" }), (Agent, Unknown, 0)),
            (json!({ "uid": "1", "gty": "client", "cid": "assistant-7" }), (Agent, Unknown, 0)),
            // delegation: the outermost actor is judged by the entries too
            (json!({ "uid": "1", "act": { "sub": "agent:7" } }), (Agent, Human, 1)),
            (json!({ "uid": "1", "act": { "sub": "svc:7" } }), (Service, Human, 1)),
            (json!({ "uid": "1", "act": { "sub": "someone" } }), (Unknown, Human, 1)),
            (json!({ "uid": "1", "cid": "assistant-7", "act": { "sub": "svc:7" } }), (Agent, Human, 1)),
            (
                json!({ "uid": "1", "act": { "sub": "svc:7", "act": { "sub": "agent:7" } } }),
                (Service, Human, 2),
            ),
            (json!({ "iss": iss, "uid": "1", "act": { "sub": "agent:7", "iss": iss } }), (Agent, Human, 1)),
            (
                json!({ "iss": iss, "uid": "1", "act": { "sub": "agent:7", "iss": "https://x" } }),
                (Unknown, Human, 1),
            ),
            (
                json!({ "iss": iss, "uid": "1", "act": { "sub": "svc:7", "iss": "https://x" } }),
                (Unknown, Human, 1),
            ),
            (
                json!({ "iss": iss, "uid": "1", "act": { "sub": "svc:7", "iss": "https://x", "act": { "sub": "a", "iss": iss } } }),
                (Unknown, Human, 2),
            ),
            (
                json!({ "iss": iss, "uid": "1", "act": { "sub": "svc:7", "iss": iss, "act": { "sub": "a", "iss": "https://x" } } }),
                (Service, Human, 2),
            ),
            // whoever acts through it, the token itself is an agent's
            (
                json!({ "iss": iss, "cid": "assistant-7", "act": { "sub": "svc:7", "iss": "https://x" } }),
                (Agent, Unknown, 1),
            ),
        ] {
            assert_eq!(read(claims.clone()), Ok(expected), "{claims}");
            seen += 1;
        }
        assert_eq!(seen, 20);
    }

    #[test]
    fn a_chain_is_whole_and_bounded() {
        let nested =
            |depth: usize| (1..depth).fold(json!({ "sub": "a" }), |act, _| json!({ "sub": "a", "act": act }));
        assert!(read(json!({ "act": nested(DEPTH_MAX) })).is_ok());
        assert_eq!(read(json!({ "act": nested(DEPTH_MAX + 1) })), Err("limit_exceeded"));
        for bad in [
            json!(null),
            json!("agent:7"),
            json!([]),
            json!({}),
            json!({ "sub": "" }),
            json!({ "sub": 7 }),
            json!({ "sub": "a", "iss": null }),
            json!({ "sub": "a", "act": null }),
            json!({ "sub": "a", "act": { "iss": "https://corp" } }),
        ] {
            assert_eq!(read(json!({ "act": bad })), Err("token_malformed"), "{bad}");
        }
    }
}
