//! The one integration binary.

mod tls_files;
mod tls_fixture;
mod tls_peers;
mod tls_protocol;
mod tls_resumption;
mod tls_trust;
mod tls_upstreams;
