//! The integration tests, one binary: `tidy` holds the house rules, `world` is the one fixture.

mod broken_config;
mod identity_headers;
mod policy_cases;
mod policy_matrix;
mod provider;
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
