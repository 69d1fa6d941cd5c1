//! What a path, or a SPIFFE ID, must look like to match several patterns at once.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::identity::SpiffePattern;
use crate::policy::path_pattern::{PathPattern, Segment};

/// The meeting of patterns over whole segments: a literal or anything in each place, and whether more may
/// follow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shape {
    /// `None` is any one segment.
    pub segments: Vec<Option<Arc<str>>>,
    pub rest: bool,
}

impl Shape {
    pub const ANY: Shape = Shape { segments: Vec::new(), rest: true };

    pub fn of(pattern: &PathPattern) -> Shape {
        let segments = pattern.segments.iter().map(|segment| match segment {
            Segment::Literal(literal) => Some(Arc::clone(literal)),
            Segment::Named(_) | Segment::Any => None,
        });
        Shape { segments: segments.collect(), rest: pattern.rest }
    }

    pub fn of_spiffe(pattern: &SpiffePattern) -> Shape {
        let segments = pattern.segments().map(|segment| segment.map(Arc::from));
        let mut shape = Shape { segments: segments.collect(), rest: pattern.takes_more() };
        if shape.segments.is_empty() {
            // a workload's ID has a path
            shape.segments.push(None);
        }
        shape
    }

    /// What matches both, if anything does.
    pub fn join(&self, other: &Shape) -> Option<Shape> {
        let (long, short) =
            if self.segments.len() >= other.segments.len() { (self, other) } else { (other, self) };
        let same_length = long.segments.len() == short.segments.len();
        if !same_length && !short.rest {
            return None;
        }
        let mut segments = long.segments.clone();
        for (place, wanted) in segments.iter_mut().zip(&short.segments) {
            match (&*place, wanted) {
                (Some(a), Some(b)) if a != b => return None,
                (None, Some(literal)) => *place = Some(Arc::clone(literal)),
                _ => {}
            }
        }
        let rest = long.rest && (!same_length || short.rest);
        Some(Shape { segments, rest })
    }

    pub fn overlaps(&self, other: &Shape) -> bool {
        self.join(other).is_some()
    }

    /// Whether all that matches this matches `wider`.
    pub fn is_within(&self, wider: &Shape) -> bool {
        self.join(wider).as_ref() == Some(self)
    }

    /// The lengths that can be told apart: each that an exact pattern has, and the least of all others, since
    /// of those a longer path matches only more.
    pub fn lengths<'s>(&self, patterns: impl IntoIterator<Item = &'s Shape>) -> Vec<usize> {
        let least = self.segments.len();
        if !self.rest {
            return vec![least];
        }
        let exact = patterns.into_iter().filter(|pattern| !pattern.rest && pattern.overlaps(self));
        let mut lengths: BTreeSet<usize> = exact.map(|pattern| pattern.segments.len()).collect();
        lengths.extend((least..).find(|length| !lengths.contains(length)));
        lengths.into_iter().collect()
    }

    /// The paths of exactly this length among these.
    pub fn of_length(&self, length: usize) -> Shape {
        let mut segments = self.segments.clone();
        segments.resize(length, None);
        Shape { segments, rest: false }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.segments.is_empty() && !self.rest {
            return f.write_str("/");
        }
        for segment in &self.segments {
            write!(f, "/{}", segment.as_deref().unwrap_or("*"))?;
        }
        if self.rest { f.write_str("/**") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shape(text: &str) -> Shape {
        Shape::of(&format!("/{}", text.trim_start_matches('/')).parse().unwrap())
    }

    proptest! {
        #[test]
        fn a_join_is_what_both_match(
            a in "(/(a|b|\\*)){0,3}(/\\*\\*)?", b in "(/(a|b|\\*)){0,3}(/\\*\\*)?", c in "(/(a|b|\\*)){0,3}(/\\*\\*)?",
        ) {
            let (a, b, c) = (shape(&a), shape(&b), shape(&c));
            prop_assert_eq!(a.join(&b), b.join(&a));
            let left = a.join(&b).and_then(|ab| ab.join(&c));
            prop_assert_eq!(left, b.join(&c).and_then(|bc| a.join(&bc)));
            if let Some(ab) = a.join(&b) {
                prop_assert!(ab.is_within(&a) && ab.is_within(&b));
            }
        }
    }

    #[test]
    fn lengths_are_split_where_an_exact_pattern_could_tell() {
        let patterns = [shape("/a/*"), shape("/b/*/*"), shape("/a/*/*/**"), shape("/a/x/y/z")];
        assert_eq!(shape("/a/**").lengths(&patterns), [1, 2, 4]);
        assert_eq!(shape("/*/**").lengths(&patterns), [1, 2, 3, 4]);
        assert_eq!(shape("/a/*").lengths(&patterns), [2]);
    }
}
