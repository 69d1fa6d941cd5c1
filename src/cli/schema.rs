//! `countersign schema`: what can be typed, as JSON Schema, for editors and checks elsewhere.

use std::process::ExitCode;

use clap::Args;

use super::test;
use crate::config;

#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// Of files of tests
    #[arg(long)]
    tests: bool,
}

pub fn run(args: &SchemaArgs) -> ExitCode {
    println!("{:#}", if args.tests { test::schema() } else { config::schema() });
    ExitCode::SUCCESS
}
