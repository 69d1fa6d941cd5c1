//! What a rule, a role or an issuer asks of a token's claims, and when it holds.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::path::is_dots;
use super::pattern::Glob;

/// `claim = { name = value }`: holds if the claim, or a member of it if it is a list, equals one of
/// the values.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimTest {
    pub claim: ClaimPath,
    pub values: Vec<ClaimValue>,
}

/// A claim's place in a token: one top-level name, whatever dots or slashes it holds, or a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimPath(pub Vec<Arc<str>>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimValue {
    /// Equals a string, or the decimal text of an integer.
    Text(Glob),
    Integer(i64),
    Boolean(bool),
}

/// `match_claim = { segment = "claim" }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatchClaim {
    /// The `{name}` of a segment in every path of the rule.
    pub segment: Arc<str>,
    pub claim: ClaimPath,
}

impl ClaimTest {
    /// Whether the claim, or a member of it if it is a list, equals one of the values. An absent
    /// claim fulfils nothing.
    pub fn holds(&self, claims: &Map<String, Value>) -> bool {
        self.claim.look_up(claims).is_some_and(|claim| {
            members(claim).iter().any(|member| self.values.iter().any(|value| value.equals(member)))
        })
    }
}

impl ClaimPath {
    /// A claim by its top-level name.
    pub fn top_level(name: &str) -> ClaimPath {
        ClaimPath(vec![name.into()])
    }

    /// What stands at this place; through objects only.
    pub fn look_up<'c>(&self, claims: &'c Map<String, Value>) -> Option<&'c Value> {
        let (first, inner) = self.0.split_first()?;
        inner.iter().try_fold(claims.get(&**first)?, |value, name| value.as_object()?.get(&**name))
    }
}

impl MatchClaim {
    /// Whether the segment, decoded once, is the claim or a member of it, byte for byte.
    pub fn holds(&self, segment: &str, claims: &Map<String, Value>) -> bool {
        let names_something =
            !segment.is_empty() && !is_dots(segment) && !segment.contains(['/', '\\', '\0']);
        names_something
            && self.claim.look_up(claims).is_some_and(|claim| {
                members(claim).iter().any(|member| scalar_text(member).as_deref() == Some(segment))
            })
    }
}

impl ClaimValue {
    fn equals(&self, claim: &Value) -> bool {
        match (self, claim) {
            (ClaimValue::Boolean(wanted), Value::Bool(seen)) => wanted == seen,
            (ClaimValue::Boolean(_), _) | (_, Value::Bool(_)) => false,
            (ClaimValue::Text(glob), _) => scalar_text(claim).is_some_and(|text| glob.matches(&text)),
            (ClaimValue::Integer(wanted), _) => {
                scalar_text(claim).is_some_and(|text| text == wanted.to_string())
            }
        }
    }
}

/// The members of a list; of anything else, itself.
fn members(claim: &Value) -> &[Value] {
    match claim {
        Value::Array(members) => members,
        _ => std::slice::from_ref(claim),
    }
}

/// A string, or the decimal text of an integer; nothing else is coerced.
fn scalar_text(claim: &Value) -> Option<std::borrow::Cow<'_, str>> {
    match claim {
        Value::String(text) => Some(text.as_str().into()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string().into()),
        _ => None,
    }
}

/// As `claim tier gold or silver`.
impl fmt::Display for ClaimTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "claim {}", self.claim)?;
        for (at, value) in self.values.iter().enumerate() {
            write!(f, "{}{value}", if at == 0 { " " } else { " or " })?;
        }
        Ok(())
    }
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, name) in self.0.iter().enumerate() {
            write!(f, "{}{name}", if at == 0 { "" } else { " → " })?;
        }
        Ok(())
    }
}

impl fmt::Display for ClaimValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // the text is not the boolean, while a number's text is the number
            ClaimValue::Text(Glob::Exact(text)) if matches!(&**text, "true" | "false") => {
                write!(f, "\"{text}\"")
            }
            ClaimValue::Text(glob) => glob.fmt(f),
            ClaimValue::Integer(integer) => integer.fmt(f),
            ClaimValue::Boolean(boolean) => boolean.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims() -> Map<String, Value> {
        let value = json!({
            "tier": "gold", "level": 7, "big": u64::MAX, "share": 7.0, "staff": true, "word": "true",
            "tags": ["a", 7, ["nested"]], "empty": [], "nothing": null, "seven": "7",
            "realm": { "roles": ["x"] }, "https://corp/roles": ["admin"], "a.b": "dotted",
            "odd": ["", ".", "..", "..;x", "a/b", "auth0|alice"],
        });
        value.as_object().cloned().unwrap_or_default()
    }

    fn path(names: &[&str]) -> ClaimPath {
        ClaimPath(names.iter().map(|name| (*name).into()).collect())
    }

    #[test]
    fn a_claim_equals_what_it_says_and_nothing_is_coerced() {
        let text = |text: &str| ClaimValue::Text(text.parse().unwrap());
        let cases = [
            (&["tier"][..], text("gold"), true),
            (&["tier"], text("go*"), true),
            (&["tier"], text("Gold"), false),
            (&["level"], text("7"), true),
            (&["level"], ClaimValue::Integer(7), true),
            (&["seven"], ClaimValue::Integer(7), true),
            (&["share"], ClaimValue::Integer(7), false),
            (&["share"], text("7"), false),
            (&["big"], text("18446744073709551615"), true),
            (&["staff"], ClaimValue::Boolean(true), true),
            (&["staff"], ClaimValue::Boolean(false), false),
            (&["staff"], text("true"), false),
            (&["word"], ClaimValue::Boolean(true), false),
            (&["tags"], text("a"), true),
            (&["tags"], ClaimValue::Integer(7), true),
            (&["tags"], text("nested"), false),
            (&["empty"], text("*"), false),
            (&["nothing"], text("*"), false),
            (&["absent"], text("*"), false),
            (&["realm"], text("*"), false),
            (&["realm", "roles"], text("x"), true),
            (&["realm", "roles", "0"], text("x"), false),
            (&["https://corp/roles"], text("admin"), true),
            (&["a.b"], text("dotted"), true),
            (&["a", "b"], text("dotted"), false),
            (&[], text("*"), false),
        ];
        let mut seen = 0;
        for (names, value, expected) in cases {
            let test = ClaimTest { claim: path(names), values: vec![value] };
            assert_eq!(test.holds(&claims()), expected, "{test:?}");
            seen += 1;
        }
        assert_eq!(seen, 26);
        assert!(!ClaimTest { claim: path(&["tier"]), values: vec![] }.holds(&claims()));
    }

    #[test]
    fn a_segment_equals_a_claim_byte_for_byte() {
        let mut seen = 0;
        for (claim, segment, expected) in [
            ("odd", "auth0|alice", true),
            ("odd", "auth0%7Calice", false),
            ("odd", "", false),
            ("odd", ".", false),
            ("odd", "..", false),
            ("odd", "..;x", false),
            ("odd", "a/b", false),
            ("level", "7", true),
            ("level", "07", false),
            ("staff", "true", false),
            ("share", "7.0", false),
            ("absent", "x", false),
        ] {
            let test = MatchClaim { segment: "s".into(), claim: path(&[claim]) };
            assert_eq!(test.holds(segment, &claims()), expected, "{claim} {segment}");
            seen += 1;
        }
        assert_eq!(seen, 12);
    }
}
