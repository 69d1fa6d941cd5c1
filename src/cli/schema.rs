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
}

pub fn run(args: &SchemaArgs) -> ExitCode {
    let schema = if args.test { test::schema() } else { config::schema() };
    tell(format_args!("{schema:#}\n"));
    ExitCode::SUCCESS
}
