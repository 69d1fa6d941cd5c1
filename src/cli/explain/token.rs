//! The checks of a token, in words. Never its text; of its claims, those that a check reads.

use serde::Serialize;
use serde_json::Value;

use crate::clock::Timestamp;
use crate::token::{IssuerSettings, Said, Step, TokenError, TokenType, Trace};

/// The steps that look at no claim but `iss`.
const HEADER: [Step; 4] = [Step::Structure, Step::Type, Step::Algorithm, Step::Key];

/// What became of the token.
#[derive(Debug, Serialize)]
pub struct TokenAccount {
    /// Whether it was made up here, for claims by hand.
    pub made_up: bool,
    /// `false` where nobody looked at the signature: then anybody can have written it.
    pub signature_checked: bool,
    pub steps: Vec<StepAccount>,
}

#[derive(Debug, Serialize)]
pub struct StepAccount {
    pub step: &'static str,
    pub outcome: Outcome,
    pub words: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Ok,
    Refused,
    /// It has to be checked where the proxy runs.
    NotChecked,
    /// A step before refused.
    NotReached,
}

/// Where a token comes from.
#[derive(Clone, Debug)]
pub enum Source {
    Presented,
    /// Why nobody looked for the key that signed it.
    OnTrust(String),
    MadeUp,
}

impl Source {
    fn unchecked(&self) -> Option<&str> {
        match self {
            Source::Presented => None,
            Source::OnTrust(_) => Some("nobody looked at it"),
            Source::MadeUp => Some("made up here"),
        }
    }
}

/// All steps of a token's way.
pub fn account(trace: &Trace, source: &Source, issuers: &[&IssuerSettings], now: Timestamp) -> TokenAccount {
    let issuer = issuers.iter().find(|issuer| Some(&issuer.name) == trace.issuer.as_ref());
    let (refused, unchecked) = (trace.outcome.as_ref().err(), source.unchecked());
    let made_up = matches!(source, Source::MadeUp);
    let tell = |step: Step| {
        let seen = || match (&trace.said, issuer) {
            (Some(said), Some(issuer)) => seen(step, said, issuer, now),
            (Some(said), None) if step == Step::Issuer => unknown(said, issuers),
            _ => String::new(),
        };
        let (outcome, words) = match (refused, unchecked) {
            _ if step > trace.last => (Outcome::NotReached, String::new()),
            (Some(error), _) if step == trace.last => (Outcome::Refused, refusal(error, &seen())),
            (_, Some(why)) if step == Step::Signature => (Outcome::NotChecked, why.to_owned()),
            (_, Some(_)) if step == Step::Key && !made_up => (Outcome::NotChecked, seen()),
            (_, Some(why)) if made_up && HEADER.contains(&step) => (Outcome::NotChecked, why.to_owned()),
            _ => (Outcome::Ok, passed(step).map_or_else(seen, str::to_owned)),
        };
        StepAccount { step: step.as_str(), outcome, words }
    };
    TokenAccount { made_up, signature_checked: unchecked.is_none(), steps: Step::ALL.map(tell).into() }
}

/// What is to be said of a step that looks at nothing that could be shown.
fn passed(step: Step) -> Option<&'static str> {
    match step {
        Step::Structure => Some("a JWT that can be read in one way only"),
        Step::Signature => Some("by that key"),
        Step::Kind => Some("no ID, refresh or logout token"),
        Step::Revocation => Some("on no revocation list"),
        _ => None,
    }
}

fn refusal(error: &TokenError, seen: &str) -> String {
    match seen {
        "" => format!("{}: {error}", error.code()),
        seen => format!("{}: {error}; {seen}", error.code()),
    }
}

fn seen(step: Step, said: &Said, issuer: &IssuerSettings, now: Timestamp) -> String {
    let name = &issuer.name;
    match step {
        Step::Structure | Step::Signature | Step::Kind | Step::Revocation => String::new(),
        Step::Issuer => format!("{} is {name}", claim(said, "iss")),
        Step::Type => match &said.media_type {
            Some(media_type) => format!("typ is {media_type}; {name} has {}", types(&issuer.token_type)),
            None => format!("there is no typ; {name} has {}", types(&issuer.token_type)),
        },
        Step::Algorithm => {
            let taken: Vec<_> = issuer.algorithms.iter().map(ToString::to_string).collect();
            let given =
                said.algorithm.map_or_else(|| "one that is never taken".to_owned(), |it| it.to_string());
            format!("it is {given}; {name} has {}", taken.join(" "))
        }
        Step::Key => {
            let kid = said.kid.as_ref().map_or_else(|| "no kid".to_owned(), |kid| format!("kid {kid}"));
            format!("{kid}; the keys of {name} are {}", issuer.keys.source)
        }
        Step::Times => times(said, issuer, now),
        Step::Audience => {
            format!("{}; wanted is {}", claim(said, "aud"), issuer.audience.join(" or "))
        }
        Step::Required if issuer.requires.is_empty() => format!("{name} requires no claims"),
        Step::Required => {
            let required = issuer.requires.iter().map(|it| &**it);
            format!("{name} requires {}", required.collect::<Vec<_>>().join(" "))
        }
        Step::Only if issuer.only.is_empty() => format!("{name} takes whoever it issues tokens to"),
        Step::Only => {
            let tests: Vec<_> = issuer.only.iter().map(ToString::to_string).collect();
            format!("{name} takes {} only", tests.join(" and "))
        }
        Step::Claims => {
            let map = &issuer.claims;
            let word = |word: &str, place: Option<String>| place.map(|place| format!("{word} from {place}"));
            let words = [
                word("subject", Some(map.subject.to_string())),
                word("client", map.client.as_ref().map(ToString::to_string)),
                word("scopes", map.scopes.as_ref().map(ToString::to_string)),
                word("groups", map.groups.as_ref().map(ToString::to_string)),
                word("roles", map.roles.as_ref().map(ToString::to_string)),
            ];
            words.into_iter().flatten().collect::<Vec<_>>().join(", ")
        }
        Step::Binding => match said.claims.get("cnf") {
            Some(cnf) if cnf.get("x5t#S256").is_some() => "it is bound to a certificate (cnf)".to_owned(),
            Some(_) => "it is bound to a key (cnf)".to_owned(),
            None => "it is not bound to a key".to_owned(),
        },
    }
}

/// Of a token that no configured issuer has.
fn unknown(said: &Said, issuers: &[&IssuerSettings]) -> String {
    let known: Vec<_> = issuers.iter().map(|issuer| format!("{} {}", issuer.name, issuer.url)).collect();
    format!("{}; configured are {}", claim(said, "iss"), known.join(", "))
}

fn types(token_type: &TokenType) -> String {
    match token_type {
        TokenType::AccessToken => "at+jwt".to_owned(),
        TokenType::Assertion => token_type.media_type().to_owned(),
        TokenType::Alb { .. } => format!("{} or none", token_type.media_type()),
        TokenType::Provider(types) => format!("{} or none", types.join(" or ")),
    }
}

fn times(said: &Said, issuer: &IssuerSettings, now: Timestamp) -> String {
    let told = ["iat", "nbf", "exp"].into_iter().filter_map(|name| {
        let at = Timestamp::from_unix_seconds(said.claims.get(name)?.as_i64()?);
        let distance = if at > now {
            format!("in {}", length(at.since(now).as_secs()))
        } else {
            format!("{} ago", length(now.since(at).as_secs()))
        };
        Some(format!("{name} {at} ({distance})"))
    });
    let told: Vec<_> = told.chain([format!("leeway {}", length(issuer.leeway.as_secs()))]).collect();
    told.join(", ")
}

/// As `2h 5m`.
fn length(seconds: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let Some(at) = units.iter().position(|(unit, _)| seconds >= *unit) else { return "0s".to_owned() };
    let (unit, name) = units[at];
    let rest = seconds % unit;
    match units.get(at + 1) {
        Some((smaller, less)) if rest >= *smaller => {
            format!("{}{name} {}{less}", seconds / unit, rest / smaller)
        }
        _ => format!("{}{name}", seconds / unit),
    }
}

fn claim(said: &Said, name: &str) -> String {
    match said.claims.get(name) {
        Some(Value::String(text)) => format!("{name} {text}"),
        Some(other) => format!("{name} {other}"),
        None => format!("there is no {name}"),
    }
}
