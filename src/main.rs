//! Arguments → command → exit code.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use countersign::cli::Cli;
use mimalloc::MiMalloc;

/// A request allocates often; this one is quicker at it than the system's.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    Cli::parse().run()
}
