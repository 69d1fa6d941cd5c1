//! Demands that meet in one claim, and the value that fulfils all of them and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::Drafted;
use crate::policy::cells::{Fresh, join_globs};
use crate::policy::claim::{ClaimPath, ClaimTest, ClaimValue};
use crate::policy::pattern::Glob;

/// Claims that are being put together, by their places.
#[derive(Default)]
pub struct Draft {
    slots: BTreeMap<Vec<Arc<str>>, Slot>,
    /// Segments of the path: their literal, if they have one.
    segments: Vec<Option<Arc<str>>>,
    /// What must be one text.
    same: Vec<(Node, Node)>,
}

#[derive(Default)]
struct Slot {
    form: Form,
    /// Of a text: all that it must match.
    text: Option<Glob>,
    words: Vec<Arc<str>>,
    values: Vec<ClaimValue>,
    /// Whether a segment of the path is one of its members.
    matched: bool,
    /// A number, or `null` never: what stands here as it is.
    fixed: Option<Value>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Form {
    /// A value, or a list of them.
    #[default]
    Free,
    /// One non-empty string.
    Text,
    /// A list of strings, or a string of words.
    Spaced,
    /// A list of strings.
    Words,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    Segment(usize),
    Claim(Vec<Arc<str>>),
}

impl Draft {
    pub fn new(segments: &[Option<Arc<str>>]) -> Draft {
        Draft { segments: segments.to_vec(), ..Draft::default() }
    }

    pub fn is_given(&self, top: &str) -> bool {
        self.slots.keys().any(|path| path.first().is_some_and(|name| **name == *top))
    }

    /// The text that is asked for here, where it is a whole one.
    pub fn known_text(&self, path: &ClaimPath) -> Option<Arc<str>> {
        let slot = self.slots.get(&path.0)?;
        let values = slot.values.iter().filter_map(|value| match value {
            ClaimValue::Text(glob) => Some(glob),
            _ => None,
        });
        slot.text.iter().chain(values).find_map(|glob| match glob {
            Glob::Exact(text) => Some(Arc::clone(text)),
            Glob::Prefix(_) => None,
        })
    }

    /// One string is read here, if anything is.
    pub fn is_text(&mut self, path: &ClaimPath) {
        if let Some(slot) = self.slots.get_mut(&path.0) {
            slot.form = Form::Text;
        }
    }

    pub fn text(&mut self, path: &ClaimPath, glob: Option<&Glob>) -> Option<()> {
        let slot = self.slots.entry(path.0.clone()).or_default();
        slot.form = Form::Text;
        if let Some(glob) = glob {
            slot.text = Some(meet(slot.text.take(), glob.clone())?);
        }
        Some(())
    }

    pub fn words(&mut self, path: &ClaimPath, words: &[Arc<str>], spaced: bool) {
        let slot = self.slots.entry(path.0.clone()).or_default();
        if slot.form != Form::Text {
            slot.form = if spaced { Form::Spaced } else { Form::Words };
        }
        slot.words.extend(words.iter().cloned());
    }

    pub fn value(&mut self, path: &ClaimPath, value: &ClaimValue) {
        self.slots.entry(path.0.clone()).or_default().values.push(value.clone());
    }

    pub fn fixed(&mut self, path: &ClaimPath, value: Value) {
        self.slots.entry(path.0.clone()).or_default().fixed = Some(value);
    }

    /// The segment equals the claim, or a member of it.
    pub fn segment_is(&mut self, segment: usize, path: &ClaimPath) {
        self.slots.entry(path.0.clone()).or_default();
        self.same.push((Node::Segment(segment), Node::Claim(path.0.clone())));
    }

    /// Both are there, and one string.
    pub fn are_same(&mut self, [one, other]: &[ClaimPath; 2]) -> Option<()> {
        self.text(one, None)?;
        self.text(other, None)?;
        self.same.push((Node::Claim(one.0.clone()), Node::Claim(other.0.clone())));
        Some(())
    }

    /// The claims and the path, each free thing with a value of its own.
    pub fn filled(mut self, fresh: &Fresh) -> Option<Drafted> {
        let mut values = Numbered { fresh, next: 0 };
        self.values_of_texts()?;
        let path = self.fill_texts(&mut values)?;
        let mut claims = Map::new();
        for (place, slot) in self.slots {
            let value = slot.filled(&mut values)?;
            put(&mut claims, &place, value)?;
        }
        Some(Drafted { claims, path })
    }

    /// What tests want of a claim that is a text is wanted of that text.
    fn values_of_texts(&mut self) -> Option<()> {
        for slot in self.slots.values_mut().filter(|slot| slot.form == Form::Text) {
            for value in std::mem::take(&mut slot.values) {
                let glob = match value {
                    ClaimValue::Text(glob) => glob,
                    ClaimValue::Integer(number) => Glob::Exact(number.to_string().into()),
                    ClaimValue::Boolean(_) => return None,
                };
                slot.text = Some(meet(slot.text.take(), glob)?);
            }
        }
        Some(())
    }

    /// Solves what must be equal, and gives every segment its text.
    fn fill_texts(&mut self, values: &mut Numbered<'_>) -> Option<Vec<Arc<str>>> {
        let is_text = |slots: &BTreeMap<Vec<Arc<str>>, Slot>, node: &Node| match node {
            Node::Segment(_) => true,
            Node::Claim(path) => slots.get(path).is_some_and(|slot| slot.form == Form::Text),
        };
        let texts = self.slots.iter().filter(|(_, slot)| slot.form == Form::Text);
        let mut nodes: Vec<Node> = texts.map(|(path, _)| Node::Claim(path.clone())).collect();
        nodes.extend((0..self.segments.len()).map(Node::Segment));
        let mut path = vec![Arc::from(""); self.segments.len()];
        while let Some(first) = nodes.pop() {
            let mut group = vec![first];
            while let Some(at) = nodes.iter().position(|node| {
                self.same.iter().any(|(a, b)| {
                    is_text(&self.slots, a)
                        && is_text(&self.slots, b)
                        && ((a == node && group.contains(b)) || (b == node && group.contains(a)))
                })
            }) {
                group.push(nodes.swap_remove(at));
            }
            let text = self.text_of(&group, values)?;
            for node in &group {
                match node {
                    Node::Segment(at) => path[*at] = Arc::clone(&text),
                    Node::Claim(place) => {
                        let slot = self.slots.get_mut(place)?;
                        slot.fixed = Some(Value::String(text.to_string()));
                    }
                }
            }
        }
        for (a, b) in &self.same {
            if let (Node::Segment(segment), Node::Claim(place)) = (a, b)
                && let Some(slot) = self.slots.get_mut(place)
                && slot.form != Form::Text
            {
                slot.matched = true;
                if !slot.words.contains(&path[*segment]) {
                    slot.words.push(Arc::clone(&path[*segment]));
                }
            }
        }
        Some(path)
    }

    fn text_of(&self, group: &[Node], values: &mut Numbered<'_>) -> Option<Arc<str>> {
        let mut glob = None;
        let mut in_path = false;
        for node in group {
            let wanted = match node {
                Node::Segment(at) => {
                    in_path = true;
                    self.segments[*at].as_ref().map(|literal| Glob::Exact(Arc::clone(literal)))
                }
                Node::Claim(place) => self.slots.get(place)?.text.clone(),
            };
            if let Some(wanted) = wanted {
                glob = Some(meet(glob, wanted)?);
            }
        }
        let text = values.text(glob.as_ref());
        let speakable = !text.is_empty() && !text.contains(['/', '\\']) && !text.contains(char::is_control);
        (!in_path || (speakable && !matches!(text.split(';').next(), Some("." | "..")))).then_some(text)
    }
}

impl Slot {
    fn filled(self, values: &mut Numbered<'_>) -> Option<Value> {
        if let Some(fixed) = self.fixed {
            let here = Map::from_iter([("here".to_owned(), fixed.clone())]);
            let fulfils = |value: &ClaimValue| {
                ClaimTest { claim: ClaimPath::top_level("here"), values: vec![value.clone()] }.holds(&here)
            };
            return (self.words.is_empty() && self.values.iter().all(fulfils)).then_some(fixed);
        }
        let mut members: Vec<Value> = Vec::new();
        let mut add = |value: Value| {
            if !members.contains(&value) {
                members.push(value);
            }
        };
        let only_words = self.values.is_empty();
        self.words.iter().for_each(|word| add(Value::String(word.to_string())));
        let listed = matches!(self.form, Form::Spaced | Form::Words);
        // exact ones first: they can fulfil the others
        for value in &self.values {
            match value {
                ClaimValue::Text(Glob::Exact(text)) => add(Value::String(text.to_string())),
                ClaimValue::Integer(number) if listed => add(Value::String(number.to_string())),
                ClaimValue::Integer(number) => add((*number).into()),
                ClaimValue::Boolean(_) if listed => return None,
                ClaimValue::Boolean(value) => add((*value).into()),
                ClaimValue::Text(Glob::Prefix(_)) => {}
            }
        }
        for value in &self.values {
            if let ClaimValue::Text(glob @ Glob::Prefix(_)) = value
                && !members.iter().any(|member| member.as_str().is_some_and(|text| glob.matches(text)))
            {
                members.push(Value::String(values.text(Some(glob)).to_string()));
            }
        }
        if members.is_empty() {
            members.push(Value::String(values.text(None).to_string()));
        }
        let spaces = members.iter().any(|member| member.as_str().is_some_and(|text| text.contains(' ')));
        match self.form {
            Form::Spaced if only_words && !spaces && !self.matched => {
                let words: Vec<&str> = members.iter().filter_map(Value::as_str).collect();
                Some(Value::String(words.join(" ")))
            }
            Form::Words | Form::Spaced => Some(Value::Array(members)),
            Form::Free | Form::Text if members.len() == 1 => members.pop(),
            Form::Free | Form::Text => Some(Value::Array(members)),
        }
    }
}

struct Numbered<'f> {
    fresh: &'f Fresh,
    next: usize,
}

impl Numbered<'_> {
    fn text(&mut self, glob: Option<&Glob>) -> Arc<str> {
        match glob {
            Some(Glob::Exact(text)) => Arc::clone(text),
            Some(Glob::Prefix(start)) => format!("{start}{}", self.word()).into(),
            None => self.word().into(),
        }
    }

    fn word(&mut self) -> String {
        self.next += 1;
        self.fresh.word(self.next)
    }
}

fn meet(own: Option<Glob>, other: Glob) -> Option<Glob> {
    match own {
        Some(own) => join_globs(&own, &other),
        None => Some(other),
    }
}

fn put(claims: &mut Map<String, Value>, place: &[Arc<str>], value: Value) -> Option<()> {
    let (last, around) = place.split_last()?;
    let mut inside = claims;
    for name in around {
        let next = inside.entry(name.to_string()).or_insert_with(|| Value::Object(Map::new()));
        inside = next.as_object_mut()?;
    }
    if inside.contains_key(&**last) {
        return None;
    }
    inside.insert(last.to_string(), value);
    Some(())
}
