//! One place of a token's claims, and the value that fulfils all that is demanded of it.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::policy::cells::{Built, Fresh, Gap, Unbuilt};
use crate::policy::claim::ClaimValue;
use crate::policy::pattern::Glob;

#[derive(Default)]
pub struct Slot {
    pub form: Form,
    /// Of a text or a number: all that it must match.
    pub text: Option<Glob>,
    pub words: Vec<Arc<str>>,
    pub values: Vec<ClaimValue>,
    /// Whether a segment of the path is one of its members.
    pub matched: bool,
    /// A text or a number, once it is known.
    pub known: Option<Value>,
    /// What stands deeper.
    pub inner: Map<String, Value>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Form {
    /// A value, or a list of them.
    #[default]
    Free,
    /// One non-empty string.
    Text,
    /// A time in whole seconds.
    Time(Time),
    /// A list of strings, or a string of words.
    Spaced,
    /// A list of strings, one string, or the names of an object.
    Names,
    /// A list of strings, or one.
    Texts,
    /// A list of strings.
    List,
    /// What is in it, if there is anything.
    Object,
}

/// Times that a token can have, and which it has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Time {
    pub from: i64,
    pub until: i64,
    pub usual: i64,
}

/// Who else reads the place than what reads it as words.
#[derive(Clone, Copy, Default)]
pub struct Read {
    /// Whether rules, or issuers, compare it with values.
    pub as_claim: bool,
    /// Whether it is compared with another claim, which a list is not.
    pub as_same: bool,
    /// How many scopes a token may have.
    pub scopes_max: usize,
}

impl Slot {
    /// One text, or one number, and no list: whoever reads it wants that.
    pub fn is_single(&self) -> bool {
        matches!(self.form, Form::Text | Form::Time(_))
    }

    /// What is read as words in two ways is what both can read.
    pub fn read_as(&mut self, form: Form) {
        self.form = match (self.form, form) {
            (Form::Text | Form::Time(_), _) => self.form,
            (Form::Free, form) => form,
            (own, form) if own == form => own,
            _ => Form::List,
        };
    }

    /// What tests want of one text is wanted of that text.
    pub fn gather(&mut self) -> Built {
        for value in std::mem::take(&mut self.values) {
            let glob = match value {
                ClaimValue::Text(glob) => glob,
                ClaimValue::Integer(number) => Glob::Exact(number.to_string().into()),
                // true is no text, and no number
                ClaimValue::Boolean(_) => return Err(Unbuilt::Impossible),
            };
            self.text = Some(meet(self.text.take(), glob)?);
        }
        Ok(())
    }

    pub fn filled(self, values: &mut Numbered<'_>, read: Read) -> Built<Value> {
        if let Some(known) = self.known {
            // no text is one of several words, and none has anything deeper
            let alone = self.words.iter().all(|word| known.as_str() == Some(word)) && self.inner.is_empty();
            return if alone { Ok(known) } else { Err(Unbuilt::Impossible) };
        }
        if !self.inner.is_empty() || self.form == Form::Object {
            return self.into_object();
        }
        let only_words = self.values.is_empty() && !self.matched;
        match self.form {
            // names of an object are no values, and neither is a text with more in it
            Form::Names if read.as_claim && only_words => return self.into_object(),
            Form::Spaced if !self.matched => {
                if let Some(text) = self.as_sentence(values, read)? {
                    return Ok(text);
                }
            }
            _ => {}
        }
        let mut members = self.members(values)?;
        Ok(match self.form {
            Form::Free if read.as_same && members[0].is_string() => Value::Array(members),
            Form::Free | Form::Text | Form::Texts if members.len() == 1 => members.remove(0),
            _ => Value::Array(members),
        })
    }

    /// No value, no list and no text, so nothing that is compared with one.
    fn into_object(self) -> Built<Value> {
        let compared = !self.values.is_empty() || self.matched;
        if compared || !matches!(self.form, Form::Free | Form::Names | Form::Object) {
            return Err(Unbuilt::Impossible);
        }
        let mut inner = self.inner;
        for word in &self.words {
            inner.entry(word.to_string()).or_insert_with(|| Value::Object(Map::new()));
        }
        Ok(Value::Object(inner))
    }

    /// Words in one string: the whole of it is no single word, where somebody reads it as a claim.
    fn as_sentence(&self, values: &mut Numbered<'_>, read: Read) -> Built<Option<Value>> {
        if self.words.iter().any(|word| word.contains(' ') || word.is_empty()) {
            return Ok(None);
        }
        let mut start: Option<Glob> = None;
        for value in &self.values {
            let glob = match value {
                ClaimValue::Text(glob) => glob.clone(),
                ClaimValue::Integer(number) => Glob::Exact(number.to_string().into()),
                ClaimValue::Boolean(_) => return Err(Unbuilt::Impossible),
            };
            let Ok(both) = meet(start.take(), glob) else { return Ok(None) };
            start = Some(both);
        }
        let words = || self.words.iter().map(|word| &**word);
        match &start {
            None if self.words.is_empty() => Ok(Some(values.text(None)?.as_ref().into())),
            None if read.as_claim && self.words.len() < read.scopes_max => {
                let first = values.text(None)?;
                let all: Vec<&str> = [&*first].into_iter().chain(words()).collect();
                Ok(Some(all.join(" ").into()))
            }
            None => Ok(Some(words().collect::<Vec<_>>().join(" ").into())),
            Some(Glob::Exact(text) | Glob::Prefix(text)) if text.contains(' ') && !self.words.is_empty() => {
                // as a list it is a word with spaces, as a string it is several; neither is less than the other
                Err(Unbuilt::Open(Gap::Words))
            }
            Some(Glob::Prefix(start)) if !start.contains(' ') && self.words.len() < read.scopes_max => {
                let first = values.text(Some(&Glob::Prefix(Arc::clone(start))))?;
                let all: Vec<&str> = [&*first].into_iter().chain(words()).collect();
                Ok(Some(all.join(" ").into()))
            }
            Some(_) => Ok(None),
        }
    }

    /// At least one.
    fn members(&self, values: &mut Numbered<'_>) -> Built<Vec<Value>> {
        let mut members: Vec<Value> = Vec::new();
        let mut add = |value: Value| {
            if !members.contains(&value) {
                members.push(value);
            }
        };
        self.words.iter().for_each(|word| add(Value::String(word.to_string())));
        let strings = !matches!(self.form, Form::Free);
        // exact ones first: they can fulfil the others
        for value in &self.values {
            match value {
                ClaimValue::Text(Glob::Exact(text)) => add(Value::String(text.to_string())),
                ClaimValue::Integer(number) if strings => add(Value::String(number.to_string())),
                ClaimValue::Integer(number) => add((*number).into()),
                // no list of strings has it
                ClaimValue::Boolean(_) if strings => return Err(Unbuilt::Impossible),
                ClaimValue::Boolean(value) => add((*value).into()),
                ClaimValue::Text(Glob::Prefix(_)) => {}
            }
        }
        for value in &self.values {
            if let ClaimValue::Text(glob @ Glob::Prefix(_)) = value
                && !members.iter().any(|member| member.as_str().is_some_and(|text| glob.matches(text)))
            {
                members.push(Value::String(values.text(Some(glob))?.to_string()));
            }
        }
        if members.is_empty() {
            members.push(Value::String(values.text(None)?.to_string()));
        }
        Ok(members)
    }
}

/// Words that nobody names, each once.
pub struct Numbered<'f> {
    fresh: &'f Fresh,
    next: usize,
}

impl<'f> Numbered<'f> {
    pub fn new(fresh: &'f Fresh) -> Numbered<'f> {
        Numbered { fresh, next: 0 }
    }

    pub fn text(&mut self, glob: Option<&Glob>) -> Built<Arc<str>> {
        Ok(match glob {
            Some(Glob::Exact(text)) => Arc::clone(text),
            Some(Glob::Prefix(start)) => format!("{start}{}", self.word()?).into(),
            None => self.word()?.into(),
        })
    }

    pub fn time(&self, glob: Option<&Glob>, time: Time) -> Built<i64> {
        self.fresh.number((time.from, time.until), glob, time.usual)
    }

    fn word(&mut self) -> Built<String> {
        self.next += 1;
        self.fresh.word(self.next)
    }
}

/// No text matches two globs that do not meet.
pub fn meet(own: Option<Glob>, other: Glob) -> Built<Glob> {
    match own {
        Some(own) => crate::policy::cells::join_globs(&own, &other).ok_or(Unbuilt::Impossible),
        None => Ok(other),
    }
}
