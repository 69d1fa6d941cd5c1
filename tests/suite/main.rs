//! The integration tests, one binary: `tidy` holds the house rules, `world` is the one fixture.

mod provider;
mod tidy;
mod world;
