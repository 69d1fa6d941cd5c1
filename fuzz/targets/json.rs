//! A second reader of JSON, which keeps every member, also those that are there twice.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

#[derive(Debug)]
pub enum Node {
    /// What is neither a list nor an object.
    Plain,
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

impl Node {
    pub fn read(text: &[u8]) -> Option<Node> {
        serde_json::from_slice(text).ok()
    }

    /// Whether it is an object in which no name stands twice, at any depth.
    pub fn is_strict_object(&self) -> bool {
        matches!(self, Node::Object(_)) && self.names_are_unique()
    }

    fn names_are_unique(&self) -> bool {
        match self {
            Node::Plain => true,
            Node::List(items) => items.iter().all(Node::names_are_unique),
            Node::Object(members) => {
                let mut seen = HashSet::new();
                members.iter().all(|(name, value)| seen.insert(name) && value.names_are_unique())
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Node, D::Error> {
        from.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Plain)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Plain)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Plain)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Plain)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Plain)
    }

    fn visit_str<E>(self, _: &str) -> Result<Node, E> {
        Ok(Node::Plain)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Node, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = object.next_entry()? {
            members.push(member);
        }
        Ok(Node::Object(members))
    }
}
