//! One record per request.
pub mod reason;
