//! `countersign schema`: what can be configured, as JSON Schema, for editors and checks elsewhere.

use std::process::ExitCode;

use crate::config;

pub fn run() -> ExitCode {
    println!("{:#}", config::schema());
    ExitCode::SUCCESS
}
