//! Texts that no policy speaks of.

use crate::policy::pattern::Glob;

/// A word that, alone or behind a start that is asked for, and with any number behind it, is no text and
/// matches no glob of all that it was chosen against, other than those whose start it was put behind.
#[derive(Clone, Debug)]
pub struct Fresh {
    word: String,
}

const READABLE: [&str; 6] = ["other", "someone", "anything", "fresh", "x", "q"];

impl Fresh {
    pub fn among<'t>(globs: impl IntoIterator<Item = &'t Glob>) -> Fresh {
        let globs: Vec<&Glob> = globs.into_iter().collect();
        let taken = |word: &str| globs.iter().any(|glob| is_taken(word, glob));
        let readable = READABLE.iter().map(|word| (*word).to_owned());
        let mut words = readable.chain((0..).map(|number| format!("z{number}z")));
        let word = words.find(|word| !taken(word)).unwrap_or_default();
        Fresh { word }
    }

    /// Another for each number.
    pub fn word(&self, number: usize) -> String {
        format!("{}{number}", self.word)
    }
}

fn is_taken(word: &str, glob: &Glob) -> bool {
    match glob {
        Glob::Exact(text) => text.contains(word),
        Glob::Prefix(start) => {
            let ends = start.char_indices().map(|(at, _)| &start[at..]);
            start.contains(word) || ends.into_iter().any(|end| word.starts_with(end))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_nobodys() {
        let glob = |text: &str| text.parse::<Glob>().unwrap();
        let word = |texts: &[&str]| {
            let globs: Vec<_> = texts.iter().map(|text| glob(text)).collect();
            Fresh::among(&globs).word(1)
        };
        assert_eq!(word(&["a", "b*", "*"]), "other1");
        assert_eq!(word(&["an-other"]), "someone1");
        assert_eq!(word(&["agent-o*"]), "someone1");
        assert_eq!(word(&["other*", "s*", "a*"]), "fresh1");
    }
}
