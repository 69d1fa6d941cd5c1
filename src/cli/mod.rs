//! The commands, one file each, and what they share.

pub mod check;
pub mod completions;
pub mod demo;
mod descriptors;
pub mod diff;
pub mod explain;
pub mod healthcheck;
mod ink;
pub mod log;
pub mod matrix;
pub mod mint;
pub mod propose;
pub mod replay;
pub mod run;
pub mod schema;
pub mod test;
pub mod who_can;

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::clock::Clock;
use crate::config::{self, Config, Report};

/// An identity-aware reverse proxy: every request needs two signatures, the service that carries it (mTLS)
/// and the caller behind it (OAuth / OIDC). One policy decides on both; one audit line says why.
#[derive(Debug, Parser)]
#[command(name = "countersign", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve. SIGHUP or a changed file reloads, SIGTERM drains
    Run(run::RunArgs),
    /// The whole story on one machine, with nothing else installed
    Demo(demo::DemoArgs),
    /// Say all that is wrong with a configuration, and what looks wrong
    Check(check::CheckArgs),
    /// Judge policy tests, and say what of the rules they cover
    Test(test::TestArgs),
    /// Say how one request would end, and why: every condition, wanted against seen
    Explain(Box<explain::ExplainArgs>),
    /// Say who can do something: which services, roles and actors, by which rules
    WhoCan(who_can::WhoCanArgs),
    /// Print the whole table: who reaches what, by which rules
    Matrix(matrix::MatrixArgs),
    /// Say what a change of configuration newly allows and newly denies, with requests that show it
    Diff(diff::DiffArgs),
    /// Judge recorded requests under another policy: what would change, and by which rule
    ///
    /// Each record is judged as of its time, by the evaluator that serves. Nothing is asked over a network, and no token
    /// is needed. What a record does not tell is counted with why, and never guessed.
    Replay(replay::ReplayArgs),
    /// Propose rules for recorded requests that no rule allowed, as TOML to review
    ///
    /// They are the narrowest that can still be read; what each would allow beyond what was seen stands above it. Nothing
    /// is applied.
    Propose(propose::ProposeArgs),
    /// Print the JSON Schema of the configuration, or of policy tests
    Schema(schema::SchemaArgs),
    /// Ask a running proxy whether it lives; for containers without a shell
    Healthcheck(healthcheck::HealthcheckArgs),
    /// Print the completions for a shell
    Completions(completions::CompletionsArgs),
    /// Print the manual page
    Man,
}

/// Where the configuration is.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// A configuration file, or a folder of them (its *.toml, by name); several are merged in order
    #[arg(short = 'c', long = "config", value_name = "FILE", required = true, env = "COUNTERSIGN_CONFIG")]
    pub files: Vec<PathBuf>,
}

/// How a command answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    Json,
}

/// The configuration cannot be loaded (`EX_CONFIG` of sysexits).
pub const EXIT_CONFIG: u8 = 78;
/// What was asked for makes no sense; as clap answers, too.
pub const EXIT_USAGE: u8 = 2;
/// There are findings, or it did not go as it should.
pub const EXIT_FINDINGS: u8 = 1;

impl Cli {
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Run(args) => run::run(&args),
            Command::Demo(args) => demo::run(&args),
            Command::Check(args) => check::run(&args),
            Command::Test(args) => test::run(&args),
            Command::Explain(args) => explain::run(&args),
            Command::WhoCan(args) => who_can::run(&args),
            Command::Matrix(args) => matrix::run(&args),
            Command::Diff(args) => diff::run(&args),
            Command::Propose(args) => propose::run(&args),
            Command::Replay(args) => replay::run(&args),
            Command::Schema(args) => schema::run(&args),
            Command::Healthcheck(args) => healthcheck::run(&args),
            Command::Completions(args) => completions::run(&args),
            Command::Man => completions::man(),
        }
    }
}

/// Writes an answer to standard output. Whoever reads it may have read enough of it, as `head` does.
fn tell(answer: impl fmt::Display) {
    let _ = io::stdout().lock().write_all(answer.to_string().as_bytes());
}

impl ConfigArgs {
    /// Loads the configuration with this process's environment.
    pub fn load(&self, clock: &Clock) -> Result<Config, Report> {
        config::load(&self.files, &|name| std::env::var(name).ok(), clock.now())
    }
}
