//! A line of the audit log: what it says, in words.

use super::{ExplainArgs, Unexplained};
use crate::trial::Trial;

pub fn explain(_: &ExplainArgs, _: &[u8], _: &mut Trial) -> Result<String, Unexplained> {
    Err(Unexplained::usage("not yet"))
}
