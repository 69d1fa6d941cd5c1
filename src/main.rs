//! Arguments → command → exit code.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use countersign::cli::Cli;
use mimalloc::MiMalloc;

/// A request allocates often. It takes more memory than the system's, and would ask for huge pages besides
/// if it were not told not to.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    Cli::parse().run()
}
