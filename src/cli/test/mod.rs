//! `countersign test`: policy tests from TOML, judged by what serves traffic, and what of the rules they cover.

mod cases;
mod coverage;
mod expect;
mod file;
mod report;
mod verdict;

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::{ConfigArgs, EXIT_CONFIG, EXIT_FINDINGS, EXIT_USAGE, tell};
use crate::clock::Clock;
use crate::config;
use crate::tls::reload::{Watch, WatchError};
use crate::trial::{Trial, TrialError};
use report::Report;
use verdict::Verdicts;

#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLE)]
pub struct TestArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// A file of tests, or a folder of them (its *.test.toml, by name)
    #[arg(value_name = "TESTS", required = true)]
    tests: Vec<PathBuf>,
    /// Only tests whose name has this in it
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Fail unless each rule is seen to hold, and each of its conditions to refuse by itself
    #[arg(long, conflicts_with = "filter")]
    require_coverage: bool,
    /// Go on: test again whenever the configuration or a test changes
    #[arg(long)]
    watch: bool,
    /// How to answer
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    Json,
    /// XML, as test reports are
    Junit,
}

const EXAMPLE: &str = r#"A test:

  [[test]]
  name    = "a person reads her own orders"
  service = "storefront"
  caller  = { issuer = "corp", sub = "alice", scp = ["orders:read"] }
  request = "GET https://orders.shop.example/customers/alice/orders/7"
  expect  = { verdict = "allow" }

It exits with 0 if all is as expected, with 1 if not, and with 78 if a file cannot be read."#;

/// Why nothing could be tested.
#[derive(Debug, thiserror::Error)]
enum TestError {
    /// Of the configuration, or of the tests.
    #[error("{}", .0.to_text(std::io::stderr().is_terminal()))]
    Files(Box<config::Report>),
    #[error("error: {0}\n")]
    Trial(#[from] TrialError),
    #[error("error: no test has `{0}` in its name\n")]
    NoneLeft(String),
}

/// The JSON Schema of a file of tests.
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::SchemaGenerator::default().into_root_schema_for::<file::TestFile>();
    schema.insert("title".to_owned(), "Policy tests of Countersign".into());
    schema.to_value()
}

pub fn run(args: &TestArgs) -> ExitCode {
    if args.watch {
        return match watch(args) {
            Ok(never) => match never {},
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::from(EXIT_FINDINGS)
            }
        };
    }
    test(args).0
}

/// Tests once; the files that it rests on.
fn test(args: &TestArgs) -> (ExitCode, BTreeSet<PathBuf>) {
    let mut files: BTreeSet<PathBuf> = args.config.files.iter().chain(&args.tests).cloned().collect();
    let code = match judge(args, &mut files) {
        Ok(good) => good,
        Err(error) => {
            eprint!("{error}");
            ExitCode::from(match error {
                TestError::NoneLeft(_) => EXIT_USAGE,
                TestError::Files(_) | TestError::Trial(_) => EXIT_CONFIG,
            })
        }
    };
    (code, files)
}

fn judge(args: &TestArgs, files: &mut BTreeSet<PathBuf>) -> Result<ExitCode, TestError> {
    let clock = Clock::system();
    let not_loaded = |report: config::Report, files: &mut BTreeSet<PathBuf>| {
        files.extend(report.watched.iter().cloned());
        TestError::Files(Box::new(report))
    };
    let config = args.config.load(&clock).map_err(|report| not_loaded(report, files))?;
    files.extend(config.report.watched.iter().cloned());
    let now = clock.now();
    let mut trial = Trial::new(config, now)?;
    let cases = cases::read(&args.tests, &trial, now).map_err(|report| not_loaded(report, files))?;
    files.extend(cases.files.iter().cloned());
    let verdicts = Verdicts::of(&cases.cases, &mut trial, args.filter.as_deref());
    if let (Some(filter), (0, 0)) = (&args.filter, verdicts.counts()) {
        return Err(TestError::NoneLeft(filter.clone()));
    }
    let report = Report {
        cases: &cases,
        verdicts: &verdicts,
        policy: trial.policy().hash(),
        coverage_required: args.require_coverage,
    };
    match args.format {
        Format::Text => tell(report.text()),
        Format::Json => tell(format_args!("{:#}\n", report.json())),
        Format::Junit => tell(report.junit()),
    }
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FINDINGS) })
}

/// Why it cannot go on.
#[derive(Debug, thiserror::Error)]
enum GoOnError {
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error("no runtime: {0}")]
    Runtime(#[from] std::io::Error),
}

fn watch(args: &TestArgs) -> Result<std::convert::Infallible, GoOnError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut files: BTreeSet<PathBuf> = args.config.files.iter().chain(&args.tests).cloned().collect();
    loop {
        // Watched before they are read: a change in between is not missed.
        let mut watch = Watch::new(files.iter().filter(|file| Watch::can_see(file)).cloned())?;
        let (_, now_read) = test(args);
        if now_read != files {
            files = now_read;
            // What is new among them may have changed since.
            watch = Watch::new(files.iter().filter(|file| Watch::can_see(file)).cloned())?;
        }
        tell("-- waiting for a change; Ctrl-C ends\n");
        runtime.block_on(watch.changed());
    }
}
