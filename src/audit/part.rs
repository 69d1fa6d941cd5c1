//! A part of a record that later records have too: made once, put into JSON once.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use serde::Serialize;

use super::line::write_json;

/// A value that many records share. Cheap to clone.
#[derive(Debug)]
pub struct Part<T>(Arc<Made<T>>);

#[derive(Debug)]
struct Made<T> {
    value: T,
    json: OnceLock<Box<[u8]>>,
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

impl<T: Serialize> Part<T> {
    /// Appends what it is within a line.
    pub fn write(&self, to: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        if let Some(json) = self.0.json.get() {
            to.extend_from_slice(json);
            return Ok(());
        }
        let begin = to.len();
        write_json(&self.0.value, to)?;
        if Arc::strong_count(&self.0) > 1 {
            self.0.json.get_or_init(|| to[begin..].into());
        }
        Ok(())
    }
}
