//! Tells whether certificates, keys and lists are the same as before, byte for byte: what did not
//! change keeps its connections and sessions over a reload, and a chain that was judged is known again.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};

/// SHA-256 over parts, each with its length before it, so that no two lists of parts share one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub fn of<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> Fingerprint {
        let mut context = Context::new(&SHA256);
        for part in parts {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        Fingerprint(hash)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Without its content: keys are among what it is of.
impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_part_ends_makes_a_difference() {
        let of = |parts: &[&'static str]| Fingerprint::of(parts.iter().map(|part| part.as_bytes()));
        assert_eq!(of(&["ab", "c"]), of(&["ab", "c"]));
        let all = [of(&[]), of(&[""]), of(&["abc"]), of(&["ab", "c"]), of(&["a", "bc"]), of(&["c", "ab"])];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[..at].contains(one), "{at}");
        }
    }
}
