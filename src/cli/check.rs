//! `countersign check`: parses, resolves and loads a configuration as `run` does, and says all that is
//! wrong with it or looks wrong.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{ConfigArgs, EXIT_CONFIG, EXIT_FINDINGS, Format, tell};
use crate::clock::Clock;
use crate::config::{Config, Report};
use crate::policy::lint::Severity;

#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print what files, variables, presets and defaults come to
    #[arg(long)]
    resolved: bool,
    /// How to answer
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub fn run(args: &CheckArgs) -> ExitCode {
    let loaded = args.config.load(&Clock::system());
    let (report, config) = match &loaded {
        Ok(config) => (&config.report, Some(config)),
        Err(report) => (report, None),
    };
    match args.format {
        Format::Text => print_text(args, report, config),
        Format::Json => print_json(args, report, config),
    }
    exit_code(report, config)
}

fn has_findings(report: &Report) -> bool {
    report.diagnostics().iter().any(|diagnostic| diagnostic.severity == Severity::Finding)
}

fn exit_code(report: &Report, config: Option<&Config>) -> ExitCode {
    match config {
        None => ExitCode::from(EXIT_CONFIG),
        Some(_) if has_findings(report) => ExitCode::from(EXIT_FINDINGS),
        Some(_) => ExitCode::SUCCESS,
    }
}

fn print_text(args: &CheckArgs, report: &Report, config: Option<&Config>) {
    // what was found beside a resolved configuration must not get into a file that it is written to
    if args.resolved {
        eprint!("{}", report.to_text(std::io::stderr().is_terminal()));
    } else {
        tell(report.to_text(std::io::stdout().is_terminal()));
    }
    match config {
        Some(config) if args.resolved => tell(&config.resolved),
        Some(config) if has_findings(report) => {
            tell(format_args!("it loads, with findings: policy {}\n", config.policy.hash()))
        }
        Some(config) => tell(format_args!("ok: policy {}\n", config.policy.hash())),
        None => {}
    }
}

fn print_json(args: &CheckArgs, report: &Report, config: Option<&Config>) {
    let mut answer = json!({ "loads": config.is_some(), "diagnostics": report.to_json() });
    if let Some(config) = config {
        answer["policy"] = config.policy.hash().to_string().into();
        if args.resolved {
            answer["resolved"] = json!(config.resolved);
        }
    }
    tell(format_args!("{answer:#}\n"));
}
