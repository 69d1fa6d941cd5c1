//! What can be typed, defined once.
//!
//! [`table!`] makes a table's struct, its reader and its JSON Schema from one definition, and
//! [`choice!`] does so for a key that takes one of a few words: what is documented, what is known
//! and what is read cannot differ.

use schemars::{Schema, json_schema};
use serde_json::{Map, Value as Json, json};

use super::error::nearest;
use super::read::Reader;
use super::tree::Node;

/// One key of a [`table!`], for its schema.
pub struct KeySchema {
    pub key: &'static str,
    pub text: &'static str,
    pub required: bool,
    pub schema: Schema,
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
                        $crate::config::definition::table!(@required $($required)?),
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
                let keys = vec![$($crate::config::definition::KeySchema {
                    key: stringify!($key),
                    text: concat!($($doc),+),
                    required: $crate::config::definition::table!(@required $($required)?),
                    schema: <$type as $crate::config::read::Field>::schema(generator),
                },)*];
                $crate::config::definition::table_schema(concat!($($about),+), keys)
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

        $crate::config::definition::choice!(
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
                let words = $crate::config::definition::Words {
                    known: &[$(($word, $name::$variant)),+],
                    later: &[$($($later),+)?],
                    refused: &[$($(($refused, $why)),+)?],
                };
                $crate::config::definition::read_choice(node, reader, &words)
            }

            fn schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "enum": [$($word),+] })
            }
        }
    };
}

pub(crate) use {choice, table};
