//! A part of a record that later records have too: made once, put into JSON once.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::line::json;

/// A value that many records share. Cheap to clone.
#[derive(Debug)]
pub struct Part<T>(Arc<Made<T>>);

#[derive(Debug)]
struct Made<T> {
    value: T,
    json: OnceLock<Box<RawValue>>,
}

impl<T> Part<T> {
    pub fn new(value: T) -> Part<T> {
        Part(Arc::new(Made { value, json: OnceLock::new() }))
    }
}

#[cfg(test)]
impl<T: Clone> Part<T> {
    /// The value of this one alone.
    pub fn value_mut(&mut self) -> &mut T {
        *self = Part::new(T::clone(self));
        &mut Arc::get_mut(&mut self.0).unwrap().value
    }
}

impl<T> Clone for Part<T> {
    fn clone(&self) -> Part<T> {
        Part(Arc::clone(&self.0))
    }
}

impl<T> Deref for Part<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T: Serialize> Serialize for Part<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let is_shared = Arc::strong_count(&self.0) > 1;
        let known = self.0.json.get().or_else(|| {
            let made = is_shared.then(|| json(&self.0.value).ok()).flatten()?;
            Some(self.0.json.get_or_init(|| made))
        });
        match known {
            Some(json) => json.serialize(to),
            None => self.0.value.serialize(to),
        }
    }
}
