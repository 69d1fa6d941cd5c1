//! The files that a configuration was read from, and places in them.
//!
//! Every value read keeps its [`Span`], so that whatever is found to be wrong with it later, by
//! whomever, can be shown with its line.

use std::path::{Path, PathBuf};

/// One of the [`Sources`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId(u32);

/// A place in a file, in bytes. Sorts by file, then position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub file: FileId,
    pub start: usize,
    pub end: usize,
}

/// A value and where it stands.
#[derive(Clone, Copy, Debug)]
pub struct At<T> {
    pub value: T,
    pub span: Span,
}

/// The files of one configuration, in the order in which they were read.
#[derive(Debug, Default)]
pub struct Sources(Vec<Source>);

#[derive(Debug)]
struct Source {
    path: PathBuf,
    text: String,
}

/// Line and column, both from 1; the column counts characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

impl Span {
    /// The start of a file: for what is wrong with it as a whole.
    pub fn start_of(file: FileId) -> Span {
        Span { file, start: 0, end: 0 }
    }
}

impl Sources {
    pub fn add(&mut self, path: PathBuf, text: String) -> FileId {
        let id = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0.push(Source { path, text });
        FileId(id)
    }

    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|source| source.path.as_path())
    }

    pub fn ids(&self) -> impl Iterator<Item = FileId> + use<> {
        (0..u32::try_from(self.0.len()).unwrap_or(u32::MAX)).map(FileId)
    }

    pub fn path(&self, file: FileId) -> &Path {
        self.0.get(file.0 as usize).map_or(Path::new(""), |source| &source.path)
    }

    pub fn text(&self, file: FileId) -> &str {
        self.0.get(file.0 as usize).map_or("", |source| &source.text)
    }

    /// The folder from which relative paths in this file start.
    pub fn folder(&self, file: FileId) -> &Path {
        match self.path(file).parent() {
            Some(folder) => folder,
            None => Path::new(""),
        }
    }

    pub fn typed(&self, span: Span) -> &str {
        self.text(span.file).get(span.start..span.end).unwrap_or("")
    }

    pub fn position(&self, span: Span) -> Position {
        let before = self.text(span.file).get(..span.start).unwrap_or("");
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Position { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }

    /// The whole line in which a place starts.
    pub fn line(&self, span: Span) -> &str {
        self.text(span.file).lines().nth(self.position(span).line - 1).unwrap_or("")
    }

    /// Overwrites a place with `*`, so that no message can show what stood there.
    pub fn blank(&mut self, span: Span) {
        if let Some(source) = self.0.get_mut(span.file.0 as usize)
            && let Some(inside) = source.text.get(span.start..span.end)
        {
            let stars: String = inside.bytes().map(|byte| if byte == b'\n' { '\n' } else { '*' }).collect();
            source.text.replace_range(span.start..span.end, &stars);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_in_lines_and_characters() {
        let mut sources = Sources::default();
        let file = sources.add("conf/a.toml".into(), "a = 1\né = \"ü\" # x\n".into());
        let span = Span { file, start: 11, end: 15 };
        assert_eq!(sources.typed(span), "\"ü\"");
        assert_eq!(sources.position(span), Position { line: 2, column: 5 });
        assert_eq!(sources.line(span), "é = \"ü\" # x");
        assert_eq!(sources.folder(file), Path::new("conf"));
        sources.blank(span);
        assert_eq!(sources.line(span), "é = **** # x");
    }
}
