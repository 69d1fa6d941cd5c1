//! The data path.

pub mod limits;
