//! The files as one spanned tree: parsed, merged in order, `${NAME}` expanded.
//!
//! Text is expanded after the parse and inside values only, so an environment variable can never
//! add a key, a table or a rule.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as MapEntry;

use toml::de::{DeTable, DeValue};

use super::error::Diagnostics;
use super::source::{FileId, Sources, Span};

/// A value of any kind, and where it stands.
#[derive(Debug)]
pub struct Node {
    pub value: Value,
    pub span: Span,
}

#[derive(Debug)]
pub enum Value {
    Text(String),
    /// As typed, for numbers that do not fit are errors of who reads them.
    Integer(Option<i64>),
    Float,
    Boolean(bool),
    Date(toml::value::Datetime),
    Array(Vec<Node>),
    Table(Table),
    /// Already reported; whoever reads it says nothing more.
    Invalid,
}

/// A table's entries by key.
#[derive(Debug, Default)]
pub struct Table {
    pub entries: BTreeMap<String, Entry>,
    /// `{ … }`: one value, which is replaced or refused as a whole and never added to.
    inline: bool,
}

#[derive(Debug)]
pub struct Entry {
    pub key: Span,
    pub node: Node,
}

/// Where environment variables come from.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Value {
    /// The kind of value, in the words of messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "a string",
            Value::Integer(_) => "a number",
            Value::Float => "a fraction",
            Value::Boolean(_) => "a boolean",
            Value::Date(_) => "a date",
            Value::Array(_) => "a list",
            Value::Table(_) => "a table",
            Value::Invalid => "an error",
        }
    }
}

/// Parses one file; after a syntax error, goes on with what could be understood.
pub fn parse(file: FileId, sources: &Sources, found: &mut Diagnostics) -> Table {
    let text = sources.text(file);
    let (tree, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let range = error.span().unwrap_or(0..0);
        let span = Span { file, start: range.start, end: range.end };
        let (code, remedy) = match error.message() {
            "duplicate key" => ("set_twice", "keep one of the two"),
            _ => (SYNTAX, "write TOML as https://toml.io has it: strings in quotes, one key a line"),
        };
        found.error(code, span, error.message(), remedy);
    }
    table(tree.into_inner(), file, text, false)
}

/// The code of errors whose line is not worth a second message.
pub const SYNTAX: &str = "syntax";

fn table(tree: DeTable<'_>, file: FileId, source: &str, inline: bool) -> Table {
    let mut entries = BTreeMap::new();
    for (key, value) in tree {
        let range = key.span();
        let key_span = Span { file, start: range.start, end: range.end };
        let node = node(value, file, source);
        entries.insert(key.into_inner().into_owned(), Entry { key: key_span, node });
    }
    Table { entries, inline }
}

fn node(value: toml::Spanned<DeValue<'_>>, file: FileId, source: &str) -> Node {
    let range = value.span();
    let inline = source.get(range.clone()).is_some_and(|typed| typed.starts_with('{'));
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok()),
        DeValue::Float(_) => Value::Float,
        DeValue::Boolean(value) => Value::Boolean(value),
        DeValue::Datetime(date) => Value::Date(date),
        DeValue::Array(list) => Value::Array(list.into_iter().map(|item| node(item, file, source)).collect()),
        DeValue::Table(tree) => Value::Table(table(tree, file, source, inline)),
    };
    Node { value, span: Span { file, start: range.start, end: range.end } }
}

/// Adds a later file to the earlier ones: tables add up, arrays of tables append, a key set twice
/// is an error unless it is one that an environment is expected to change.
pub fn merge(into: &mut Table, from: Table, found: &mut Diagnostics) {
    merge_at(&mut Vec::new(), into, from, found);
}

fn merge_at(path: &mut Vec<String>, into: &mut Table, from: Table, found: &mut Diagnostics) {
    for (key, later) in from.entries {
        path.push(key.clone());
        match into.entries.entry(key) {
            MapEntry::Vacant(free) => {
                free.insert(later);
            }
            MapEntry::Occupied(taken) => merge_entry(path, taken.into_mut(), later, found),
        }
        path.pop();
    }
}

fn merge_entry(path: &mut Vec<String>, earlier: &mut Entry, later: Entry, found: &mut Diagnostics) {
    let place = (later.key, earlier.key);
    match (&mut earlier.node.value, later.node.value) {
        (Value::Table(into), Value::Table(from)) if !into.inline && !from.inline => {
            merge_at(path, into, from, found);
        }
        (Value::Array(into), Value::Array(from)) if appends(path) => into.extend(from),
        (Value::Integer(one), Value::Integer(other)) if path.as_slice() == ["version"] && *one == other => {}
        (_, value) if overrides(path) => {
            earlier.node = Node { value, span: later.node.span };
            earlier.key = later.key;
        }
        _ => found.conflict(
            "set_twice",
            place,
            format!("`{}` is set twice", path.join(".")),
            "keep one of the two; a later file changes only keys of `proxy`, `admin`, `identity`, `listener`, \
             `upstream` and an issuer's `url`, `jwks` and `audience`",
        ),
    }
}

fn appends(path: &[String]) -> bool {
    let path: Vec<_> = path.iter().map(String::as_str).collect();
    matches!(
        path.as_slice(),
        ["allow" | "deny" | "require"] | ["lint", "allow"] | ["issuer", _, "actor"] | ["route", _, "variant"]
    )
}

fn overrides(path: &[String]) -> bool {
    let path: Vec<_> = path.iter().map(String::as_str).collect();
    matches!(
        path.as_slice(),
        ["proxy" | "admin" | "identity", _, ..]
            | ["listener" | "upstream", _, _, ..]
            | ["issuer", _, "url" | "jwks" | "audience"]
    )
}

/// Expands `${NAME}` and `${NAME:-default}` in every text, and refuses them where they could decide
/// who is allowed what.
pub fn expand(tree: &mut Table, environment: Environment<'_>, found: &mut Diagnostics) {
    for (key, entry) in &mut tree.entries {
        let fixed = matches!(
            key.as_str(),
            "allow" | "deny" | "require" | "role" | "service" | "trust_domain" | "version" | "lint"
        );
        expand_node(&mut entry.node, fixed, environment, found);
    }
}

fn expand_node(node: &mut Node, fixed: bool, environment: Environment<'_>, found: &mut Diagnostics) {
    match &mut node.value {
        Value::Text(text) if text.contains("${") => {
            if fixed {
                found.error(
                    "variable_refused",
                    node.span,
                    format!("`{text}` stands where no variable may decide"),
                    "write the value itself: rules, roles, services and trust domains are the same everywhere",
                );
                node.value = Value::Invalid;
                return;
            }
            match expand_text(text, environment) {
                Ok(expanded) => {
                    found.hide(node.span, expanded.clone());
                    *text = expanded;
                }
                Err((message, remedy)) => {
                    found.error("variable", node.span, message, remedy);
                    node.value = Value::Invalid;
                }
            }
        }
        Value::Array(list) => {
            list.iter_mut().for_each(|item| expand_node(item, fixed, environment, found));
        }
        Value::Table(table) => {
            let nodes = table.entries.values_mut().map(|entry| &mut entry.node);
            nodes.for_each(|node| expand_node(node, fixed, environment, found));
        }
        _ => {}
    }
}

fn expand_text(text: &str, environment: Environment<'_>) -> Result<String, (String, String)> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        expanded.push_str(before);
        let Some((inside, after)) = after.split_once('}') else {
            return Err((format!("`{text}` has a `${{` without its `}}`"), "close it".to_owned()));
        };
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if name.is_empty() || !name.bytes().all(plain) {
            return Err((
                format!("`{name}` is no name of a variable"),
                "names have letters, digits and `_`".to_owned(),
            ));
        }
        match environment(name).or_else(|| default.map(str::to_owned)) {
            Some(value) => expanded.push_str(&value),
            None => {
                return Err((
                    format!("the variable `{name}` is not set"),
                    format!("set it, or give a default: `${{{name}:-…}}`"),
                ));
            }
        }
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}
