//! Texts that no policy speaks of.

use super::unbuilt::{Built, Gap, Unbuilt};
use crate::policy::pattern::Glob;

/// A word that, alone or behind a start that is asked for, and with any number behind it, is no text and
/// matches no glob of all that it was chosen against, other than those whose start it was put behind. And
/// numbers of which the same is true.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// Where globs end in every letter and digit, there is none.
    word: Option<String>,
    globs: Vec<Glob>,
}

const READABLE: [&str; 6] = ["other", "someone", "anything", "fresh", "x", "q"];
/// What names of hosts, of workloads and of tenants may all consist of.
const LETTERS: &str = "zyxwvutsrqponmlkjihgfedcba9876543210";
/// Of words with one letter around a number. A glob has at most as many as it has bytes.
const NUMBERS: u32 = 10_000;

impl Fresh {
    pub fn among<'t>(globs: impl IntoIterator<Item = &'t Glob>) -> Fresh {
        let globs: Vec<Glob> = globs.into_iter().cloned().collect();
        let taken = |word: &str| globs.iter().any(|glob| is_taken(word, glob));
        let readable = READABLE.iter().map(|word| (*word).to_owned());
        // one that ends a glob takes all words that it begins
        let letters = LETTERS.chars().filter(|letter| !taken(&format!("{letter}+")));
        let others = letters.flat_map(|letter| (0..NUMBERS).map(move |n| format!("{letter}{n}{letter}")));
        let word = readable.chain(others).find(|word| !taken(word));
        Fresh { word, globs }
    }

    /// Another for each number.
    pub fn word(&self, number: usize) -> Built<String> {
        let word = self.word.as_ref().ok_or(Unbuilt::Open(Gap::NoFreshWord))?;
        Ok(format!("{word}{number}"))
    }

    /// Whether nothing speaks of this text; `*` speaks of all.
    pub fn is_free(&self, text: &str) -> bool {
        !self.globs.iter().any(|glob| *glob != Glob::Prefix("".into()) && glob.matches(text))
    }

    /// The number from the first to the second in decimal that matches `wanted`, and nothing else of which there
    /// is a choice: the `usual` one, or the least.
    pub fn number(&self, (from, until): (i64, i64), wanted: Option<&Glob>, usual: i64) -> Built<i64> {
        if let Some(Glob::Exact(text)) = wanted {
            let number = text.parse().ok().filter(|number: &i64| number.to_string() == **text);
            return number.filter(|number| (from..=until).contains(number)).ok_or(Unbuilt::Impossible);
        }
        let start = match wanted {
            Some(Glob::Prefix(start)) => start,
            _ => "",
        };
        let fits = |text: &str| text.starts_with(start) && self.is_free_behind(start, text);
        if (from..=until).contains(&usual) && fits(&usual.to_string()) {
            return Ok(usual);
        }
        let all = numbers(start);
        let within = || all.iter().map(|(least, most)| (*least.max(&from), *most.min(&until)));
        if within().all(|(least, most)| least > most) {
            return Err(Unbuilt::Impossible);
        }
        let near = within().filter(|(least, most)| least <= most).find_map(|range| self.least(start, range));
        near.ok_or(Unbuilt::Open(Gap::NoFreshTime))
    }

    fn is_free_behind(&self, start: &str, text: &str) -> bool {
        !self.globs.iter().any(|glob| {
            let demanded = matches!(glob, Glob::Prefix(own) if start.starts_with(&**own));
            !demanded && glob.matches(text)
        })
    }

    /// The least of numbers of equally many digits.
    fn least(&self, start: &str, (from, until): (i64, i64)) -> Option<i64> {
        let mut number = from;
        while number <= until {
            let text = number.to_string();
            let prefix = |glob: &&Glob| {
                let demanded = matches!(glob, Glob::Prefix(own) if start.starts_with(&**own));
                !demanded && glob.matches(&text)
            };
            // behind all that begin so
            number = match self.globs.iter().find(prefix) {
                None => return Some(number),
                Some(Glob::Exact(_)) => number.checked_add(1)?,
                Some(Glob::Prefix(own)) => {
                    let digits = u32::try_from(text.len() - own.len()).ok()?;
                    own.parse::<i64>().ok()?.checked_add(1)?.checked_mul(10_i64.checked_pow(digits)?)?
                }
            };
        }
        None
    }
}

/// The numbers of up to twelve digits whose decimals begin so, from and to, by their lengths. Times have no more.
pub fn numbers(start: &str) -> Vec<(i64, i64)> {
    let lengths = (0..=12_u32).map(|digits| 10_i64.pow(digits));
    if start.is_empty() {
        return [(0, 0)].into_iter().chain(lengths.take(12).map(|least| (least, 10 * least - 1))).collect();
    }
    let first = match start.parse::<i64>() {
        Ok(first) if first.to_string() == start && first >= 0 => first,
        _ => return Vec::new(),
    };
    let more = lengths.take(13_usize.saturating_sub(start.len())).take(if first == 0 { 1 } else { 13 });
    more.map(|width| (first * width, first * width + (width - 1))).collect()
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

    fn glob(text: &str) -> Glob {
        text.parse().unwrap()
    }

    fn among(texts: &[&str]) -> Fresh {
        let globs: Vec<_> = texts.iter().map(|text| glob(text)).collect();
        Fresh::among(&globs)
    }

    #[test]
    fn a_word_is_nobodys() {
        let word = |texts: &[&str]| among(texts).word(1).unwrap();
        assert_eq!(word(&["a", "b*", "*"]), "other1");
        assert_eq!(word(&["an-other"]), "someone1");
        assert_eq!(word(&["agent-o*"]), "someone1");
        assert_eq!(word(&["other*", "s*", "a*"]), "fresh1");
        assert_eq!(word(&["o*", "s*", "a*", "f*", "x*", "q*", "z*"]), "y0y1");
    }

    #[test]
    fn where_every_word_is_somebodys_there_is_none() {
        let starts: Vec<String> = LETTERS.chars().map(|letter| format!("{letter}*")).collect();
        let mut starts: Vec<&str> = starts.iter().map(String::as_str).collect();
        assert_eq!(among(&starts).word(1), Err(Unbuilt::Open(Gap::NoFreshWord)));
        starts.retain(|start| *start != "k*");
        assert_eq!(among(&starts).word(1).as_deref(), Ok("k0k1"));
    }

    #[test]
    fn a_number_is_nobodys() {
        let mut seen = 0;
        let impossible = Err(Unbuilt::Impossible);
        for (texts, range, wanted, expected) in [
            (&[][..], (5, 900), None, Ok(77)),
            (&["*"], (5, 900), None, Ok(77)),
            (&["77"], (5, 900), None, Ok(5)),
            (&["7*", "5*"], (5, 900), None, Ok(6)),
            (&["7*", "6*", "5*", "8*", "9*"], (5, 900), None, Ok(10)),
            (&["77", "1*"], (10, 900), None, Ok(20)),
            (&["77", "1*", "20*"], (10, 900), None, Ok(21)),
            (&["77", "1*", "20*"], (100, 900), None, Ok(210)),
            (&["7*"], (70, 79), None, Err(Unbuilt::Open(Gap::NoFreshTime))),
            (&["7*"], (70, 79), Some("7*"), Ok(77)),
            (&["7*", "77"], (70, 79), Some("7*"), Ok(70)),
            (&["7*", "77", "70*"], (70, 79), Some("7*"), Ok(71)),
            (&["7*", "7"], (0, 900), Some("7*"), Ok(77)),
            (&["18*"], (500, 90_000), Some("18*"), Ok(1_800)),
            (&["18*"], (20, 90), Some("18*"), impossible),
            (&["12"], (0, 90), Some("12"), Ok(12)),
            (&["12"], (0, 11), Some("12"), impossible),
            (&["012"], (0, 90), Some("012"), impossible),
            (&["x*"], (0, 90), Some("x*"), impossible),
            (&["0*"], (1, 90), Some("0*"), impossible),
        ] {
            let wanted = wanted.map(glob);
            assert_eq!(
                among(texts).number(range, wanted.as_ref(), 77),
                expected,
                "{texts:?} {range:?} {wanted:?}"
            );
            seen += 1;
        }
        assert_eq!(seen, 20);
    }
}
