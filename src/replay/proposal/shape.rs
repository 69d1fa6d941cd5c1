//! Paths that were asked for become patterns: as few as can be read, as narrow as what was seen.
//!
//! A segment that is always the caller's own is `{name}`; one of many values, or of several that look like ids, is `*`;
//! everything else stays as it was. Patterns never get shorter or longer than what was asked, so there is no `**`.

use std::collections::{BTreeMap, BTreeSet};

use super::wish::Wish;
use crate::policy::pattern::PathPattern;

/// One segment of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Segment {
    Literal(String),
    /// Named so, and always equal to this claim of the caller.
    Own {
        name: String,
        claim: Vec<String>,
    },
    /// `*`
    Any,
}

/// A pattern, and what was asked for under it.
#[derive(Clone, Debug)]
pub struct Shape<'w> {
    pub segments: Vec<Segment>,
    pub wishes: Vec<&'w Wish>,
    /// How many values each segment had.
    pub values: Vec<usize>,
}

/// As many different values are listed one by one.
const VALUES_MAX: usize = 5;
/// A hexadecimal id has at least as many digits.
const ID_CHARS_MIN: usize = 8;

/// The patterns of these requests, in order.
pub fn shapes<'w>(wishes: &[&'w Wish]) -> Vec<Shape<'w>> {
    let mut by_length: BTreeMap<usize, Vec<&Wish>> = BTreeMap::new();
    for wish in wishes {
        by_length.entry(wish.segments.len()).or_default().push(wish);
    }
    let mut found = Vec::new();
    for (length, wishes) in by_length {
        let start = Shape { segments: Vec::new(), wishes, values: Vec::new() };
        extend(start, length, &mut found);
    }
    found.sort_by(|a, b| a.segments.cmp(&b.segments));
    found
}

/// Adds what `shape` becomes when it has as many segments as the paths.
fn extend<'w>(shape: Shape<'w>, length: usize, found: &mut Vec<Shape<'w>>) {
    let at = shape.segments.len();
    if at == length {
        return found.push(shape);
    }
    let with = |segment: Segment, wishes: Vec<&'w Wish>| {
        let values: BTreeSet<&str> = wishes.iter().map(|wish| &*wish.segments[at]).collect();
        let mut next = Shape { wishes, ..shape.clone() };
        next.values.push(values.len());
        next.segments.push(segment);
        next
    };
    let (own, others): (Vec<_>, Vec<_>) = shape.wishes.iter().copied().partition(|wish| wish.owns(at));
    if !own.is_empty() {
        let claim = own[0].subject_claim.clone();
        extend(with(Segment::Own { name: name_after(&shape.segments), claim }, own), length, found);
    }
    if others.is_empty() {
        return;
    }
    if let Some(claim) = common_claim(&others, at) {
        let segment = Segment::Own { name: name_after(&shape.segments), claim };
        return extend(with(segment, others), length, found);
    }
    let values: BTreeSet<&str> = others.iter().map(|wish| &*wish.segments[at]).collect();
    if is_open(&values) {
        return extend(with(Segment::Any, others), length, found);
    }
    for value in values {
        let same = others.iter().copied().filter(|wish| wish.segments[at] == value).collect();
        extend(with(Segment::Literal(value.to_owned()), same), length, found);
    }
}

/// Whether any value may stand there.
fn is_open(values: &BTreeSet<&str>) -> bool {
    let is_id = |value: &&str| {
        let digits = value.bytes().filter(u8::is_ascii_digit).count();
        let long =
            value.len() >= ID_CHARS_MIN && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        digits > 0 && (digits == value.len() || long)
    };
    values.len() > VALUES_MAX
        || (values.len() > 1 && values.iter().all(is_id))
        || values.iter().any(|value| !is_literal(value))
}

/// Whether a pattern can say this and nothing else.
fn is_literal(value: &str) -> bool {
    format!("/{value}").parse::<PathPattern>().is_ok_and(|pattern| pattern.literal_start() == 1)
}

/// A claim of the token that is this segment each time, for several values.
fn common_claim(wishes: &[&Wish], at: usize) -> Option<Vec<String>> {
    let values: BTreeSet<&str> = wishes.iter().map(|wish| &*wish.segments[at]).collect();
    let names = wishes.first()?.claims.iter().map(|(name, _)| name);
    let is_always = |name: &&String| {
        wishes
            .iter()
            .all(|wish| wish.claims.iter().any(|(n, value)| n == *name && *value == wish.segments[at]))
    };
    if values.len() > 1 { names.into_iter().find(is_always).map(|name| vec![name.clone()]) } else { None }
}

/// As `customer` for what stands behind `customers`; no name twice.
fn name_after(before: &[Segment]) -> String {
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let word: String = match before.last() {
        Some(Segment::Literal(literal)) => literal.chars().filter(plain).collect(),
        _ => String::new(),
    };
    let name = match word.strip_suffix('s').unwrap_or(&word) {
        "" => "subject",
        name => name,
    };
    let taken =
        |name: &str| before.iter().any(|it| matches!(it, Segment::Own { name: other, .. } if other == name));
    let numbered = (2..).map(|number| format!("{name}{number}"));
    std::iter::once(name.to_owned()).chain(numbered).find(|name| !taken(name)).unwrap_or_default()
}

impl Shape<'_> {
    /// As it is written.
    pub fn pattern(&self) -> String {
        if self.segments.is_empty() {
            return "/".to_owned();
        }
        let one = |segment: &Segment| match segment {
            Segment::Literal(literal) => format!("/{literal}"),
            Segment::Own { name, .. } => format!("/{{{name}}}"),
            Segment::Any => "/*".to_owned(),
        };
        self.segments.iter().map(one).collect()
    }

    /// What `match_claim` says of it.
    pub fn owned(&self) -> BTreeMap<String, Vec<String>> {
        let own = self.segments.iter().filter_map(|segment| match segment {
            Segment::Own { name, claim } => Some((name.clone(), claim.clone())),
            Segment::Literal(_) | Segment::Any => None,
        });
        own.collect()
    }
}
