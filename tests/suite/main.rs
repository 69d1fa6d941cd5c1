//! The integration tests, one binary: `tidy` holds the house rules, `world` is the one fixture.

mod balancer;
mod broken_config;
mod canary;
mod configuration;
mod configuration_reference;
mod demo;
mod examples;
mod expiry;
mod failures;
mod identity_headers;
mod language_holes;
mod policy_cases;
mod policy_matrix;
mod provider;
mod refusals;
mod tidy;
mod tls_files;
mod tls_fixture;
mod tls_peers;
mod tls_protocol;
mod tls_resumption;
mod tls_trust;
mod tls_upstreams;
mod traffic;
mod truth_table;
mod world;
