//! How what is read from files fares: since when it is in force, and what came since and could not be taken.

use crate::clock::Timestamp;

#[derive(Clone, Debug)]
pub struct Loads {
    /// When what is in force was taken.
    pub since: Timestamp,
    /// Of the last attempt, if it failed.
    pub failure: Option<Failure>,
}

#[derive(Clone, Debug)]
pub struct Failure {
    pub at: Timestamp,
    /// In words.
    pub why: String,
}

impl Loads {
    pub fn since(now: Timestamp) -> Loads {
        Loads { since: now, failure: None }
    }

    pub fn failed(&mut self, at: Timestamp, why: String) {
        self.failure = Some(Failure { at, why });
    }
}
