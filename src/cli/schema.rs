//! `countersign schema`: what can be typed, as JSON Schema, for editors and checks elsewhere.

use std::process::ExitCode;

use clap::Args;

use super::{tell, test};
use crate::config;

#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// Of a file of policy tests, in place of the configuration
    #[arg(long)]
    test: bool,
    /// Of a revocation list
    #[arg(long, conflicts_with = "test")]
    revocation: bool,
}

pub fn run(args: &SchemaArgs) -> ExitCode {
    let schema = match (args.test, args.revocation) {
        (true, _) => test::schema(),
        (_, true) => config::revocation_schema(),
        _ => config::schema(),
    };
    tell(format_args!("{schema:#}\n"));
    ExitCode::SUCCESS
}
