//! Whether a request lies in a difference as it is told, read off its words alone.

use countersign::cli::diff::Difference;
use countersign::clock::Timestamp;
use countersign::identity::Caller;
use countersign::policy::Policy;
use countersign::policy::action::is_grpc;
use countersign::policy::condition::Condition;
use countersign::policy::pattern::{Glob, HostPattern};
use countersign::policy::rule::Mode;
use countersign::trial::Case;
use http::Method;
use serde_json::Value;

/// What each of two configurations was asked, and by which rule the permitting one permits.
pub struct Flipped<'a> {
    pub policies: [&'a Policy; 2],
    pub cases: [&'a Case; 2],
    pub change: &'static str,
    pub by: &'a str,
}

impl Flipped<'_> {
    fn permitting(&self) -> usize {
        usize::from(self.change != "newly denied")
    }

    /// The first thing that it is not in, if there is one.
    pub fn outside(&self, told: &Difference) -> Option<&'static str> {
        let case = self.cases[self.permitting()];
        let any = |words: &[String], holds: &dyn Fn(&str) -> bool| {
            words.is_empty() || words.iter().any(|word| holds(word))
        };
        let parts: [(&'static str, bool); 10] = [
            ("change", told.change == self.change),
            ("by", told.by == self.by),
            ("method", any(&told.method, &|word| self.method(word))),
            ("host", any(&told.host, &|word| self.host(word))),
            ("path", any(&told.path, &|word| self.path(word))),
            ("service", any(&told.service, &|word| self.service(word))),
            ("caller", any(&told.caller, &|word| self.caller(word))),
            ("actor", any(&told.actor, &|word| self.actor(word))),
            ("circumstances", any(&told.circumstances, &|word| self.circumstances(word))),
            ("time", any(&told.time, &|word| time(word, case.now))),
        ];
        parts.into_iter().find(|(_, holds)| !holds).map(|(name, _)| name)
    }

    fn method(&self, word: &str) -> bool {
        let asked = &self.cases[0].asked.method;
        match word {
            "any method" => true,
            "any other method" => !self.is_named(asked),
            name => asked.as_str() == name,
        }
    }

    fn is_named(&self, method: &Method) -> bool {
        let rules = self.policies.iter().flat_map(|policy| &policy.parts().rules);
        let rules = rules.filter(|rule| rule.mode == Mode::Enforce);
        rules.flat_map(|rule| &rule.conditions).any(|condition| match condition {
            Condition::Method(set) => set.contains(method),
            Condition::Grpc(_) => *method == Method::POST,
            _ => false,
        })
    }

    fn host(&self, word: &str) -> bool {
        word == "any host" || word.parse::<HostPattern>().unwrap().matches(&self.cases[0].asked.host)
    }

    fn path(&self, word: &str) -> bool {
        let segments: Vec<_> = self.cases[0].asked.path.segments().collect();
        let (pattern, lengths) = word.split_once(" (not of ").unwrap_or((word, ""));
        let lengths = lengths.trim_end_matches(" segments)").split(" or ");
        if lengths.filter_map(|length| length.parse::<usize>().ok()).any(|length| length == segments.len()) {
            return false;
        }
        let mut wanted: Vec<&str> = pattern.trim_start_matches('/').split('/').collect();
        wanted.retain(|segment| !segment.is_empty());
        let rest = wanted.last() == Some(&"**");
        wanted.truncate(wanted.len() - usize::from(rest));
        let length = if rest { segments.len() >= wanted.len() } else { segments.len() == wanted.len() };
        length
            && wanted.iter().zip(&segments).all(|(wanted, seen)| {
                match wanted.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
                    Some(claims) => claims.split(" and ").all(|claim| {
                        self.claims(claim).iter().any(|one| compared(one).as_deref() == Some(&**seen))
                    }),
                    None => *wanted == "*" || wanted == seen,
                }
            })
    }

    fn service(&self, word: &str) -> bool {
        let peer = self.cases[self.permitting()].signatures.peer.verified();
        let named = |side: usize| {
            let services = self.policies[side].parts().services.iter();
            let naming = services.filter(|service| peer.is_some_and(|peer| service.names(peer)));
            naming.map(|service| service.name.as_str()).collect::<Vec<_>>()
        };
        let are = |names: &str, side: usize| names.split(" and ").all(|name| named(side).contains(&name));
        if let Some(names) = word.strip_prefix("through ") {
            // what goes elsewhere went somewhere
            let went = self.change != "goes elsewhere" || peer.is_none() || !named(0).is_empty();
            return went && are(names, self.permitting());
        }
        if let Some((_, names)) = word.split_once(" policy names as ") {
            return are(names, 1 - self.permitting());
        }
        match word {
            "with a certificate or without" => true,
            "with a certificate" => peer.is_some(),
            "without a certificate" => peer.is_none(),
            "with a certificate that no service names" => {
                peer.is_some() && named(0).is_empty() && named(1).is_empty()
            }
            other => panic!("{other}"),
        }
    }

    fn callers(&self) -> [Option<&Caller>; 2] {
        self.cases.map(|case| case.signatures.caller.verified().map(|caller| &**caller))
    }

    fn claims(&self, name: &str) -> Vec<Value> {
        let Some(claims) = self.callers().into_iter().flatten().next().map(|caller| &caller.claims) else {
            return Vec::new();
        };
        let mut names = name.split(" → ");
        let first = names.next().and_then(|name| claims.get(name));
        match names.fold(first, |value, name| value?.get(name)) {
            Some(Value::Array(members)) => members.clone(),
            other => other.into_iter().cloned().collect(),
        }
    }

    fn caller(&self, word: &str) -> bool {
        let callers = self.callers();
        match word {
            "with a token or without" => return true,
            "without a token" => return callers == [None, None],
            _ => {}
        }
        let (said, issuer) = word.rsplit_once(" of ").unwrap();
        let Some(caller) = callers[self.permitting()] else { return false };
        (issuer == caller.issuer.as_str() || issuer == "another issuer")
            && (said == "any token" || said.split(", ").all(|one| self.has(one)))
    }

    /// Under either policy, since the words do not say whose they are.
    fn has(&self, said: &str) -> bool {
        let now = self.cases[0].now;
        let glob = |text: &str, seen: Option<&str>| {
            seen.is_some_and(|seen| text.parse::<Glob>().unwrap().matches(seen))
        };
        let (kind, text) = said.split_once(' ').unwrap();
        let is = |caller: &Caller| match kind {
            "bound" => caller.confirmation.is_some(),
            "subject" => glob(text, caller.subject.as_deref()),
            "client" => glob(text, caller.client.as_deref()),
            "scope" => caller.scopes.iter().any(|word| **word == *text),
            "group" => caller.groups.iter().any(|word| **word == *text),
            "token" => caller.roles.iter().any(|word| Some(&**word) == text.strip_prefix("role ")),
            "actor" => glob(text.strip_prefix("subject ").unwrap(), caller.acting()),
            "acr" => caller.acr.as_deref() == Some(text),
            "a" => {
                let age = text.trim_start_matches("login at most ").trim_end_matches(" old");
                let unit = match age.trim_start_matches(|c: char| c.is_ascii_digit()) {
                    "s" => 1,
                    "m" => 60,
                    "h" => 3_600,
                    "d" => 86_400,
                    other => panic!("{other}"),
                };
                let age = unit * age[..age.len() - 1].parse::<u128>().unwrap();
                let login = caller.authenticated_at;
                login.is_some_and(|at| at <= now && now.since(at).as_millis() <= 1_000 * age)
            }
            "claim" => {
                let (name, value) = text.split_once(' ').unwrap();
                let is = |seen: &Value| match value {
                    "true" | "false" => *seen == Value::Bool(value == "true"),
                    value => glob(value.trim_matches('"'), compared(seen).as_deref()),
                };
                self.claims(name).iter().any(is)
            }
            other => panic!("{other}: {said}"),
        };
        self.callers().into_iter().flatten().any(is)
    }

    fn actor(&self, word: &str) -> bool {
        let Some(caller) = self.callers()[self.permitting()] else { return true };
        let one_of =
            |words: &str, kind: &str| words == "anybody" || words.split(" or ").any(|one| one == kind);
        let (kind, whom) = (caller.actor.to_string(), caller.on_behalf_of.to_string());
        let (said, how) = word.split_once(", ").map_or((word, None), |(said, how)| (said, Some(how)));
        let acts = match how {
            Some("with act") => Some(true),
            Some("without act") => Some(false),
            Some(other) => panic!("{other}"),
            None if said.contains(" for ") => None,
            None => Some(false),
        };
        let (who, for_whom) = said.split_once(" for ").map_or((said, "anybody"), |both| both);
        acts.is_none_or(|acts| acts != caller.chain.is_empty())
            && one_of(who, &kind)
            && one_of(for_whom, &whom)
    }

    fn circumstances(&self, words: &str) -> bool {
        let case = self.cases[0];
        words.split(", ").filter(|word| !word.is_empty()).all(|word| {
            if let Some(hop) = word.strip_prefix("hop ") {
                case.request().circumstances.hop.as_str() == hop
            } else if let Some(net) = word.strip_prefix("from ") {
                let net: ipnet::IpNet = net.parse().unwrap();
                case.from.peer.is_some_and(|ip| net.contains(&ip))
            } else if let Some(net) = word.strip_prefix("of a client at ") {
                let net: ipnet::IpNet = net.parse().unwrap();
                case.from.client.is_some_and(|ip| net.contains(&ip))
            } else if word == "gRPC" {
                is_grpc(&case.headers)
            } else {
                let (name, value) = word.split_once(": ").unwrap();
                case.headers.get(name).is_some_and(|seen| seen == value)
            }
        })
    }
}

/// What is no text and no number equals none.
fn compared(claim: &Value) -> Option<String> {
    match claim {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// `from now on`, `from T until T`, `until T`, `from T on`.
fn time(words: &str, now: Timestamp) -> bool {
    let after = |mark: &str| words.split_once(mark).map(|(_, text)| text.split(' ').next().unwrap());
    let at = |text: &str| text.parse::<Timestamp>().ok();
    let from = after("from ").and_then(at);
    let until = after("until ").and_then(at);
    from.is_none_or(|from| from <= now) && until.is_none_or(|until| now < until)
}
