//! Arguments → command → exit code.

use std::process::ExitCode;

use clap::Parser;
use countersign::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
