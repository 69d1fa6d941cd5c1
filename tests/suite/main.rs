//! The integration tests, one binary: `tidy` holds the house rules, `world` is the one fixture.

mod broken_config;
mod configuration;
mod demo;
mod provider;
mod tidy;
mod tls_files;
mod tls_fixture;
mod tls_peers;
mod tls_protocol;
mod tls_resumption;
mod tls_trust;
mod tls_upstreams;
mod world;
