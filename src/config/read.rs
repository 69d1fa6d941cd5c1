//! From spanned tree to typed values, key by key, with every error on the way.

use std::fmt::Display;
use std::str::FromStr;

use schemars::{Schema, SchemaGenerator, json_schema};

use super::error::{Diagnostics, nearest};
use super::source::{At, Sources, Span};
use super::tree::{Node, Table, Value};

/// What the value of a key can be read as.
pub trait Field: Sized {
    /// `None` after an error was pushed.
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self>;

    fn schema(generator: &mut SchemaGenerator) -> Schema;
}

/// Reads values and collects what is wrong with them.
pub struct Reader<'a> {
    pub found: &'a mut Diagnostics,
    pub sources: &'a Sources,
    /// Places whose content must not be shown by any message.
    pub secrets: &'a mut Vec<Span>,
}

/// A list of one or more; one value may stand without brackets.
pub type List<T> = Vec<At<T>>;

/// A table whose keys are free: names of things, of claims, of segments.
pub type Keyed<K, T> = Vec<(At<K>, At<T>)>;

impl Reader<'_> {
    pub fn error(&mut self, code: &'static str, span: Span, message: String, remedy: impl Into<String>) {
        self.found.error(code, span, message, remedy);
    }

    /// The error of a value that is of another kind than its key takes.
    pub fn mismatch(&mut self, node: &Node, expected: &str) {
        if !matches!(node.value, Value::Invalid) {
            let message = format!("{} where {expected} belongs", node.value.kind());
            self.error("wrong_type", node.span, message, format!("write {expected}"));
        }
    }

    pub fn text<'n>(&mut self, node: &'n Node, expected: &str) -> Option<&'n str> {
        match &node.value {
            Value::Text(text) if text.is_empty() => {
                self.error("empty", node.span, "an empty string".to_owned(), format!("write {expected}"));
                None
            }
            Value::Text(text) => Some(text),
            _ => {
                self.mismatch(node, expected);
                None
            }
        }
    }

    /// Reads a text into a domain type; `expected` says what it should be, with an example.
    pub fn parse<T: FromStr>(&mut self, node: &Node, expected: &str) -> Option<T>
    where
        T::Err: Display,
    {
        let text = self.text(node, expected)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.refuse(node.span, text, &error, expected);
                None
            }
        }
    }

    /// The error of a text that does not parse.
    pub fn refuse(&mut self, span: Span, text: &str, why: &dyn Display, expected: &str) {
        self.error("bad_value", span, format!("`{text}` is not usable: {why}"), format!("write {expected}"));
    }

    /// A whole number of at least one; zero would be no limit at all, or no service at all.
    pub fn count(&mut self, node: &Node, max: u64) -> Option<u64> {
        let expected = "a whole number of at least 1";
        let Value::Integer(number) = &node.value else {
            self.mismatch(node, expected);
            return None;
        };
        match number.and_then(|number| u64::try_from(number).ok()) {
            Some(number) if (1..=max).contains(&number) => Some(number),
            _ => {
                let message = format!("`{}` is out of range", self.sources.typed(node.span));
                self.error("bad_value", node.span, message, format!("write a number from 1 to {max}"));
                None
            }
        }
    }

    pub fn table<'n>(&mut self, node: &'n Node, name: &str) -> Option<&'n Table> {
        match &node.value {
            Value::Table(table) => Some(table),
            _ => {
                self.mismatch(node, &format!("a table ({name})"));
                None
            }
        }
    }

    /// Reports every key that is unknown, or known but of a later version.
    pub fn check_keys(&mut self, table: &Table, known: &[&'static str], later: &[&'static str]) {
        for (key, entry) in &table.entries {
            if known.contains(&key.as_str()) {
                continue;
            }
            if later.contains(&key.as_str()) {
                self.not_available(entry.key, key);
                self.secrets.push(entry.node.span);
                continue;
            }
            let remedy = match nearest(key, known.iter().chain(later).copied()) {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("known here are {}", known.join(", ")),
            };
            self.error("unknown_key", entry.key, format!("unknown key `{key}`"), remedy);
        }
    }

    pub fn not_available(&mut self, span: Span, what: &str) {
        let message = format!("`{what}` is not available in this version");
        self.error("not_available", span, message, "take it out; the release notes say when it comes");
    }

    pub fn key<T: Field>(
        &mut self,
        table: &Table,
        whole: Span,
        key: &'static str,
        required: bool,
    ) -> Option<At<T>> {
        match table.entries.get(key) {
            Some(entry) => {
                let value = T::read(&entry.node, self)?;
                Some(At { value, span: entry.node.span })
            }
            None => {
                if required {
                    let message = format!("`{key}` is missing");
                    self.error("missing_key", whole, message, format!("add `{key} = …` to this table"));
                }
                None
            }
        }
    }
}

impl<T: Field> Field for List<T> {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let Value::Array(items) = &node.value else {
            let value = T::read(node, reader)?;
            return Some(vec![At { value, span: node.span }]);
        };
        if items.is_empty() {
            let remedy = "name at least one, or leave the key out";
            reader.error("empty", node.span, "an empty list".to_owned(), remedy);
            return None;
        }
        let read: Vec<_> = items
            .iter()
            .map(|item| T::read(item, reader).map(|value| At { value, span: item.span }))
            .collect();
        read.into_iter().collect()
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let item = T::schema(generator);
        json_schema!({ "anyOf": [item, { "type": "array", "items": item, "minItems": 1 }] })
    }
}

impl<K: FromStr, T: Field> Field for Keyed<K, T>
where
    K::Err: Display,
{
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let table = reader.table(node, "of names and values")?;
        let mut entries = Vec::new();
        for (key, entry) in &table.entries {
            let name = match key.parse() {
                Ok(name) => Some(At { value: name, span: entry.key }),
                Err(error) => {
                    let message = format!("`{key}` is not usable as a name: {error}");
                    reader.error("bad_name", entry.key, message, "choose another name");
                    None
                }
            };
            let value = T::read(&entry.node, reader).map(|value| At { value, span: entry.node.span });
            entries.extend(name.zip(value));
        }
        Some(entries)
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let value = T::schema(generator);
        json_schema!({ "type": "object", "additionalProperties": value })
    }
}

impl Field for bool {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        match &node.value {
            Value::Boolean(value) => Some(*value),
            _ => {
                reader.mismatch(node, "`true` or `false`");
                None
            }
        }
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "boolean" })
    }
}
