//! What a proposed rule would allow that was not seen, and what was seen but should perhaps not have been.

use super::rule::{Need, Peer, Rule};
use super::shape::{Segment, Shape};

/// What the rule would allow that was not asked for.
pub fn beyond(rule: &Rule<'_>) -> Vec<String> {
    let mut words = Vec::new();
    for shape in &rule.shapes {
        let pattern = shape.pattern();
        for (at, (segment, values)) in shape.segments.iter().zip(&shape.values).enumerate() {
            match segment {
                Segment::Literal(_) => {}
                Segment::Any => words.push(format!("in {pattern} any segment {}; seen: {values}", at + 1)),
                Segment::Own { name, claim } => words.push(format!(
                    "in {pattern} every caller's own {{{name}}}, by claim {}; seen: {values}",
                    claim.join(" → ")
                )),
            }
        }
    }
    let callers = rule.callers();
    match &rule.need {
        Need::NoToken => {}
        Need::Any => words.push("every caller of this kind that the issuer gives a token".to_owned()),
        Need::Client(_) => words.push("every caller of the same client".to_owned()),
        need => words.push(format!("whoever has {need}; seen: {callers}")),
    }
    let is_seen = |method: &str| rule.wishes().any(|wish| wish.past.method.as_str() == method);
    if rule.methods.contains("GET") && !is_seen("HEAD") {
        words.push("HEAD, which GET includes".to_owned());
    }
    if rule.methods.contains("GET") && !is_seen("GET") {
        words.push("GET, of which HEAD alone was seen".to_owned());
    }
    words
}

/// What looks like a mistake, or an attack, that `shadow_until` let through.
pub fn look_twice(rule: &Rule<'_>, all: &[Rule<'_>]) -> Vec<String> {
    let mut words = Vec::new();
    if rule.need == Need::NoToken {
        words.push("no token is asked for".to_owned());
    }
    if rule.services.contains(&Peer::Nobody) {
        words.push("no certificate is asked for".to_owned());
    }
    if rule.services.iter().any(|peer| matches!(peer, Peer::Unnamed { .. })) {
        words.push("no service was named so until now".to_owned());
    }
    if rule.kind.caller.as_ref().is_some_and(|actor| actor.kind == "agent") {
        words.push("an agent acts here".to_owned());
    }
    if rule.kind.caller.as_ref().is_some_and(|actor| actor.kind == "unknown") {
        words.push("who acts here is of no known kind".to_owned());
    }
    let others =
        || all.iter().filter(|other| other.kind.routes == rule.kind.routes).flat_map(|other| &other.shapes);
    let anothers = rule.shapes.iter().filter(|shape| others().any(|other| is_own_of(other, shape)));
    words.extend(
        anothers.map(|shape| format!("in {} other callers ask for their own alone", shape.pattern())),
    );
    words
}

/// Whether `own` has the caller's own where the other has what may be anybody's.
fn is_own_of(own: &Shape<'_>, other: &Shape<'_>) -> bool {
    let pairs = || own.segments.iter().zip(&other.segments);
    let differs =
        |(a, b): (&Segment, &Segment)| matches!(a, Segment::Own { .. }) && !matches!(b, Segment::Own { .. });
    pairs().position(differs).is_some_and(|at| own.segments[..at] == other.segments[..at])
}
