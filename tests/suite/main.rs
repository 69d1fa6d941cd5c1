//! The integration tests, one binary: `tidy` holds the house rules, `world` is the one fixture.

mod tidy;
mod world;
