//! From spanned tree to typed tables, key by key, with every error on the way.
//!
//! [`table!`] makes a table's struct, its reader and its JSON Schema from one definition, and
//! [`choice!`] does so for a key that takes one of a few words: what is documented, what is known
//! and what is read cannot differ.

use std::fmt::Display;
use std::str::FromStr;

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value as Json, json};

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

/// One key of a [`table!`], for its schema.
pub struct KeySchema {
    pub key: &'static str,
    pub text: &'static str,
    pub required: bool,
    pub schema: Schema,
}

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

/// The JSON Schema of a [`table!`].
pub fn table_schema(text: &str, keys: Vec<KeySchema>) -> Schema {
    let required: Vec<_> = keys.iter().filter(|key| key.required).map(|key| key.key).collect();
    let mut properties = Map::new();
    for KeySchema { key, text, mut schema, .. } in keys {
        schema.insert("description".to_owned(), Json::from(text.trim()));
        properties.insert(key.to_owned(), schema.to_value());
    }
    let mut whole = json_schema!({
        "type": "object",
        "description": text.trim(),
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        whole.insert("required".to_owned(), json!(required));
    }
    whole
}

/// The words of a [`choice!`].
pub struct Words<'w, T> {
    pub known: &'w [(&'static str, T)],
    /// Of a later version.
    pub later: &'w [&'static str],
    /// Never to be known, and why.
    pub refused: &'w [(&'static str, &'static str)],
}

/// Reads one of a few words.
pub fn read_choice<T: Copy>(node: &Node, reader: &mut Reader<'_>, words: &Words<'_, T>) -> Option<T> {
    let known = words.known.iter().map(|(word, _)| *word);
    let expected = known.clone().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(" or ");
    let text = reader.text(node, &expected)?;
    if let Some((_, value)) = words.known.iter().find(|(word, _)| *word == text) {
        return Some(*value);
    }
    if words.later.contains(&text) {
        reader.not_available(node.span, text);
        return None;
    }
    let refused = words.refused.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
    let (code, why) = match refused {
        Some((_, why)) => ("refused_word", *why),
        None => ("unknown_word", "none of the words known here"),
    };
    let remedy = match nearest(text, known) {
        Some(word) if refused.is_none() => format!("did you mean `\"{word}\"`?"),
        _ => format!("write {expected}"),
    };
    let message = format!("`{text}` is {why}");
    reader.error(code, node.span, message, remedy);
    None
}

/// A table: one definition for what is typed, what is read and what is documented.
macro_rules! table {
    (
        $(#[doc = $about:literal])+
        $name:ident {
            $($(#[doc = $doc:literal])+ $key:ident: $type:ty $(= $required:ident)?,)*
        }
        $(later { $($later:ident),+ $(,)? })?
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Default)]
        pub struct $name {
            $($(#[doc = $doc])+ pub $key: Option<$crate::config::source::At<$type>>,)*
            /// The keys that were given, also those whose value was an error.
            given: Vec<String>,
        }

        impl $name {
            const KEYS: &'static [&'static str] = &[$(stringify!($key)),*];
            const LATER: &'static [&'static str] = &[$($(stringify!($later)),+)?];

            /// Whether a key was given, perhaps with a value that was an error.
            #[allow(dead_code, reason = "only tables that can do without a key are asked")]
            pub fn gives(&self, key: &str) -> bool {
                self.given.iter().any(|given| given == key)
            }

            /// Whether all that was given could be read.
            #[allow(dead_code, reason = "only where half a table would mean more than the whole")]
            pub fn is_read(&self) -> bool {
                let read = [$(self.$key.is_some()),*].into_iter().filter(|read| *read).count();
                read == self.given.len()
            }

            /// Where a key's value stands, if it was given.
            #[allow(dead_code, reason = "not every table has keys that are looked up by name")]
            pub fn span_of(&self, key: &str) -> Option<$crate::config::source::Span> {
                match key {
                    $(stringify!($key) => self.$key.as_ref().map(|value| value.span),)*
                    _ => None,
                }
            }
        }

        impl $crate::config::read::Field for $name {
            fn read(
                node: &$crate::config::tree::Node,
                reader: &mut $crate::config::read::Reader<'_>,
            ) -> Option<Self> {
                let table = reader.table(node, concat!($($about),+).trim())?;
                reader.check_keys(table, Self::KEYS, Self::LATER);
                Some($name {
                    $($key: reader.key(
                        table,
                        node.span,
                        stringify!($key),
                        $crate::config::read::table!(@required $($required)?),
                    ),)*
                    given: table.entries.keys().cloned().collect(),
                })
            }

            fn schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                generator.subschema_for::<Self>()
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let keys = vec![$($crate::config::read::KeySchema {
                    key: stringify!($key),
                    text: concat!($($doc),+),
                    required: $crate::config::read::table!(@required $($required)?),
                    schema: <$type as $crate::config::read::Field>::schema(generator),
                },)*];
                $crate::config::read::table_schema(concat!($($about),+), keys)
            }
        }
    };
    (@required) => { false };
    (@required required) => { true };
}

/// A key that takes one of a few words.
macro_rules! choice {
    (
        $(#[doc = $about:literal])+
        $name:ident { $($(#[doc = $doc:literal])* $variant:ident = $word:literal,)+ }
        $(later { $($later:literal),+ $(,)? })?
        $(refused { $($refused:literal: $why:literal),+ $(,)? })?
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[doc = $doc])* $variant,)+ }

        $crate::config::read::choice!(
            for $name { $($variant = $word,)+ }
            $(later { $($later),+ })?
            $(refused { $($refused: $why),+ })?
        );
    };
    (
        for $name:ident { $($variant:ident = $word:literal,)+ }
        $(later { $($later:literal),+ $(,)? })?
        $(refused { $($refused:literal: $why:literal),+ $(,)? })?
    ) => {
        impl $crate::config::read::Field for $name {
            fn read(
                node: &$crate::config::tree::Node,
                reader: &mut $crate::config::read::Reader<'_>,
            ) -> Option<Self> {
                let words = $crate::config::read::Words {
                    known: &[$(($word, $name::$variant)),+],
                    later: &[$($($later),+)?],
                    refused: &[$($(($refused, $why)),+)?],
                };
                $crate::config::read::read_choice(node, reader, &words)
            }

            fn schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "enum": [$($word),+] })
            }
        }
    };
}

pub(super) use {choice, table};
