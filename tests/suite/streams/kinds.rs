//! Other bodies.
