//! Rust files as the house rules read them: code told from comments and strings, tests from what serves.
//!
//! Masked text keeps its length and its line breaks, so a place in it is a place in the file.

use std::path::Path;

/// The files that are compiled as crates of their own.
pub const ROOTS: [&str; 7] = [
    "src/lib.rs",
    "src/main.rs",
    "tests/suite/main.rs",
    "benches/main.rs",
    "benches/load/main.rs",
    "fuzz/run.rs",
    "fuzz/targets/mod.rs",
];

pub struct File {
    /// From the repository's root, with `/`.
    pub path: String,
    pub text: String,
    /// The text with comments and the insides of strings blanked.
    pub code: String,
    /// `code` with everything under `#[cfg(test)]` blanked, the whole file included where its `mod` is.
    pub production: String,
}

impl File {
    pub fn new(path: &str, text: &str) -> File {
        let code = mask(text);
        let production = if path.starts_with("tests/") { blank(&code) } else { without_tests(&code) };
        File { path: path.to_owned(), text: text.to_owned(), code, production }
    }

    /// What only tests run.
    pub fn test_code(&self) -> String {
        let pairs = self.code.bytes().zip(self.production.bytes());
        let bytes =
            pairs.map(|(code, production)| if code == production && code != b'\n' { b' ' } else { code });
        String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned()
    }

    pub fn is_root(&self) -> bool {
        ROOTS.contains(&self.path.as_str())
    }

    pub fn is_code(&self, at: usize) -> bool {
        self.code.as_bytes()[at] == self.text.as_bytes()[at]
    }

    /// The line and name of every module of this crate that a path in this file starts from:
    /// `crate::x`, each `x` of `crate::{x, …}`, and a `super::` that climbs to the root.
    pub fn imports(&self) -> Vec<(usize, &str)> {
        let mut imports = Vec::new();
        for start in ["crate", "countersign"] {
            for (at, path) in paths_from(&self.code, start) {
                imports.extend(heads(path).into_iter().map(|head| (line_of(&self.code, at), head)));
            }
        }
        for (at, path) in paths_from(&self.code, "super") {
            let mut climbed = 1;
            let mut rest = path;
            while let Some(further) = rest.strip_prefix("super::") {
                climbed += 1;
                rest = further;
            }
            let in_tests = self.production.as_bytes()[at] == b' ';
            if climbed >= segments(&self.path).len() + usize::from(in_tests) {
                imports.extend(heads(rest).into_iter().map(|head| (line_of(&self.code, at), head)));
            }
        }
        imports
    }
}

/// The modules that lead to a file: `src/policy/rule.rs` is `[policy, rule]`, `src/policy/mod.rs` is `[policy]`.
pub fn segments(path: &str) -> Vec<&str> {
    let path = path.strip_suffix(".rs").unwrap_or(path);
    path.split('/').skip(1).filter(|segment| *segment != "mod").collect()
}

/// Each place where a path starts with `start::`, and what follows it up to the end of the statement
/// or, for a plain path, of the path.
pub fn paths_from<'a>(code: &'a str, start: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    code.match_indices(start).filter_map(move |(at, _)| {
        let before = code[..at].bytes().next_back();
        let rest = code[at + start.len()..].strip_prefix("::")?;
        let starts_here = !before.is_some_and(|byte| is_ident(byte) || byte == b':');
        let end = if rest.starts_with('{') { rest.find(';') } else { rest.find(|c| !is_path(c)) };
        starts_here.then_some((at, &rest[..grouped(rest).or(end).unwrap_or(rest.len())]))
    })
}

/// Where the group of `a::b::{c, d}` ends, if that is what `rest` starts with.
fn grouped(rest: &str) -> Option<usize> {
    let open = rest.find(|c| !is_path(c)).filter(|at| rest[*at..].starts_with('{'))?;
    (open == 0 || rest[..open].ends_with("::")).then(|| closing(rest, open))
}

/// Names in a path or group.
pub fn idents(path: &str) -> Vec<&str> {
    path.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|name| !name.is_empty()).collect()
}

/// What stands first in a path, or in each member of a group.
fn heads(path: &str) -> Vec<&str> {
    let Some(group) = path.strip_prefix('{') else { return idents(path).into_iter().take(1).collect() };
    let mut heads = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, byte) in group.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b',' if depth == 0 => {
                heads.extend(idents(&group[start..at]).first());
                start = at + 1;
            }
            b'}' if depth == 0 => {
                heads.extend(idents(&group[start..at]).first());
                break;
            }
            b'}' => depth -= 1,
            _ => {}
        }
    }
    heads.retain(|head| *head != "self");
    heads
}

fn is_ident(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn is_path(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == ':'
}

pub fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1
}

fn blank(text: &str) -> String {
    text.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

/// Just past the brace that closes the one at `open`, or the end.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

fn without_tests(code: &str) -> String {
    let mut kept = String::new();
    let mut rest = code;
    while let Some(start) = rest.find("#[cfg(test)]") {
        let item = &rest[start..];
        let end = match item.find(['{', ';']) {
            Some(open) if item[open..].starts_with('{') => closing(item, open),
            Some(semicolon) => semicolon + 1,
            None => item.len(),
        };
        kept.push_str(&rest[..start]);
        kept.push_str(&blank(&item[..end]));
        rest = &item[end..];
    }
    kept + rest
}

/// `text` with comments and the insides of strings and characters blanked, byte by byte.
fn mask(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut masked = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at..] {
            [b'/', b'/', ..] => find(bytes, at, b"\n"),
            [b'/', b'*', ..] => end_of_comment(bytes, at),
            [b'r', b'"' | b'#', ..] if at == 0 || !is_ident(bytes[at - 1]) || bytes[at - 1] == b'b' => {
                let hashes = bytes[at + 1..].iter().take_while(|byte| **byte == b'#').count();
                if bytes.get(at + 1 + hashes) != Some(&b'"') {
                    at += 1; // a raw identifier
                    continue;
                }
                let close = [&b"\""[..], &b"#".repeat(hashes)].concat();
                find(bytes, at + 2 + hashes, &close) + close.len()
            }
            [b'"', ..] => end_of_quoted(bytes, at, b'"'),
            [b'\'', b'\\', ..] => end_of_quoted(bytes, at, b'\''),
            [b'\'', ..] => match text[at + 1..].chars().next() {
                // a character; otherwise a lifetime
                Some(c) if bytes.get(at + 1 + c.len_utf8()) == Some(&b'\'') => at + 2 + c.len_utf8(),
                _ => at + 1,
            },
            _ => at + 1,
        };
        if end > at + 1 {
            let quoted = bytes[at] == b'"';
            masked[at..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
            if quoted {
                masked[at] = b'"';
                masked[end - 1] = b'"';
            }
        }
        at = end;
    }
    // only whole comments, strings and characters were blanked, so this is UTF-8 still
    String::from_utf8(masked).unwrap()
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    rest.windows(what.len()).position(|window| window == what).map_or(bytes.len(), |at| from + at)
}

fn end_of_quoted(bytes: &[u8], start: usize, quote: u8) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

fn end_of_comment(bytes: &[u8], start: usize) -> usize {
    let (mut depth, mut at) = (1, start + 2);
    while at < bytes.len() && depth > 0 {
        let step = match bytes[at..] {
            [b'/', b'*', ..] => (1, 2),
            [b'*', b'/', ..] => (-1, 2),
            _ => (0, 1),
        };
        depth += step.0;
        at += step.1;
    }
    at
}

/// All `.rs` files under `folders`, by path.
pub fn rust_files(root: &Path, folders: &[&str]) -> Vec<File> {
    let mut open: Vec<_> =
        folders.iter().map(|folder| root.join(folder)).filter(|folder| folder.exists()).collect();
    let mut files = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let is_built = path.ends_with("node_modules") || path.ends_with("target");
            if path.is_dir() && !is_built {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
                files.push(File::new(&name, &std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    without_test_files(&mut files);
    files
}

/// Blanks the files that only `#[cfg(test)] mod …;` declares, and those that only such files declare.
pub fn without_test_files(files: &mut [File]) {
    loop {
        let declared = |file: &File, by: fn(&File) -> &str| {
            let (parents, declaration) = declaration(file);
            let mut parents = files.iter().filter(|parent| parents.contains(&parent.path));
            parents.any(|parent| by(parent).contains(&declaration))
        };
        let only_tests = |file: &File| {
            let blanked = file.production.trim().is_empty();
            !blanked && declared(file, |it| &it.code) && !declared(file, |it| &it.production)
        };
        let found: Vec<_> = files.iter().map(only_tests).collect();
        if !found.contains(&true) {
            return;
        }
        for (file, _) in files.iter_mut().zip(found).filter(|(_, only_tests)| *only_tests) {
            file.production = blank(&file.code);
        }
    }
}

/// The files that may declare this one as their module, and how they would.
fn declaration(file: &File) -> ([String; 4], String) {
    let path = file.path.trim_end_matches(".rs").trim_end_matches("/mod");
    let (folder, name) = path.rsplit_once('/').unwrap_or_default();
    let parents = ["/mod.rs", ".rs", "/lib.rs", "/main.rs"].map(|end| format!("{folder}{end}"));
    (parents, format!("mod {name};"))
}

/// Whether no other file declares this one as its module; crate roots are nobody's.
pub fn is_orphan(file: &File, files: &[File]) -> bool {
    if file.is_root() {
        return false;
    }
    let (parents, declaration) = declaration(file);
    !files.iter().any(|parent| parents.contains(&parent.path) && parent.code.contains(&declaration))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_strings_and_characters_are_not_code() {
        let cases = [
            ("a // b", "a     "),
            ("a /* b /* c */ d */ e", "a                   e"),
            ("f(\"x\\\"y\") + z", "f(\"    \") + z"),
            ("r#\"a\"b\"# c", "         c"),
            ("b'x' '\\'' 'a' &'a str", "b             &'a str"),
            ("'é' x", "     x"),
            ("r#type + \"{\"", "r#type + \" \""),
        ];
        let seen = cases.map(|(text, code)| assert_eq!(mask(text), code, "{text}")).len();
        assert_eq!(seen, 7);
    }

    #[test]
    fn a_file_of_tests_is_known_by_who_declares_it() {
        let mut files = [
            File::new("src/lib.rs", "mod a;"),
            File::new("src/a/mod.rs", "#[cfg(test)]\nmod doubles;\nmod b;"),
            File::new("src/a/doubles.rs", "fn f() {}"),
            File::new("src/a/b.rs", "fn f() {}"),
        ];
        without_test_files(&mut files);
        let left = files.map(|file| !file.production.trim().is_empty());
        assert_eq!(left, [true, true, false, true]);
    }
}
