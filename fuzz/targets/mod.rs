//! The bodies of the fuzz targets: each takes any bytes at all, hands them to what serves traffic, and
//! holds the outcome against a plain second reading. `run.rs` gives them to libFuzzer, and the test suite
//! runs every file of `corpus/` through them.

#![forbid(unsafe_code)]

mod certificates;
mod configuration;
mod json;
mod records;
mod requests;
mod tokens;

use std::io::Write as _;
use std::path::PathBuf;

/// Takes any bytes; what it must not do is panic.
pub type Body = fn(&[u8]);

/// Named as their folders of `corpus/`, and as the binaries of `Cargo.toml`.
pub const TARGETS: [(&str, Body); 16] = [
    ("authorization", requests::authorization),
    ("certificate", certificates::certificate),
    ("claims", tokens::claims),
    ("configuration", configuration::configuration),
    ("discovery", tokens::discovery),
    ("head", requests::head),
    ("key_set", tokens::key_set),
    ("names", certificates::names),
    ("path", requests::path),
    ("pattern", requests::pattern),
    ("proxy_header", requests::proxy_header),
    ("record", records::record),
    ("spiffe_id", certificates::spiffe_id),
    ("token", tokens::token),
    ("trust", certificates::trust),
    ("value", configuration::value),
];

/// Runs one of [`TARGETS`].
pub fn run(name: &str, data: &[u8]) {
    let (_, body) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target of this name");
    body(data);
}

/// The bytes before the first line feed, and those after it.
fn two_parts(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[]),
    }
}

/// Runs a future that waits for no network.
fn complete<F: Future>(future: F) -> F::Output {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// Has a function read the bytes as a file.
fn in_file<T>(data: &[u8], read: impl FnOnce(PathBuf) -> T) -> T {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(data).expect("the bytes are written");
    read(file.path().to_owned())
}
