//! `countersign demo`: the whole story on one machine, with nothing else installed.
//!
//! It mints what a CA and an issuer would give out, writes a configuration into a folder and starts
//! the proxy from it. From there on it is the serving code: nothing here judges, and what is told of
//! a request is read from the proxy's own audit file.

mod client;
mod configuration;
mod curl;
mod folder;
mod issuer;
mod lasting;
mod loopback;
mod once;
mod records;
mod requests;
mod stage;
mod upstream;
mod workloads;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::ink::Ink;
use super::{EXIT_CONFIG, EXIT_FINDINGS, Format, log};
use crate::clock::Clock;
use crate::config::{LogFormat, LogSettings};
use crate::server::StartError;
use crate::token::SigningError;

use configuration::PolicySource;
use stage::Stage;

#[derive(Debug, Args)]
#[command(after_help = "\
Starts, on loopback alone, a proxy with the sample policy, two upstreams and a development issuer, with \
certificates and tokens that end with it. Prints requests to paste into another terminal, and tells the \
story of each that comes.

Exit codes: 0 done; 1 a request did not end as said, or something could not be started; 78 the policy \
cannot be loaded.")]
pub struct DemoArgs {
    /// Ask all requests, check each answer and its audit record against what is said of it, and end
    #[arg(long)]
    once: bool,
    /// Take this file instead of the sample (config/sidecar.toml), whose names it has to keep
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Leave CA, certificates, tokens, configuration and requests in DIR, which must be new or empty, for
    /// `countersign run -c DIR`, and end
    #[arg(long, value_name = "DIR", conflicts_with = "once")]
    write: Option<PathBuf>,
    /// How --once answers
    #[arg(long, value_enum, default_value_t = Format::Text, requires = "once")]
    format: Format,
}

/// Why there is no demo.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error("the policy `{}` cannot be read: {source}", path.display())]
    Policy { path: PathBuf, source: io::Error },
    /// The whole report.
    #[error("{0}")]
    Config(String),
    #[error("`{}` is not empty; name a folder that is, or a new one", .0.display())]
    NotEmpty(PathBuf),
    #[error("`{}` cannot be written: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("a certificate cannot be made: {0}")]
    Mint(#[from] super::mint::MintError),
    #[error("the issuer's key: {0}")]
    Signing(#[from] SigningError),
    #[error(transparent)]
    Loopback(#[from] loopback::LoopbackError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("the policy has no `[listener.{}]`", configuration::LISTENER)]
    NoListener,
    #[error(transparent)]
    Records(#[from] records::RecordError),
    #[error(transparent)]
    Log(#[from] log::LogError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Tokens are short-lived, and the login that they tell of is fresh for minutes; the demo may run for
/// hours.
const TOKEN_RENEWAL: Duration = Duration::from_secs(5 * 60);

pub fn run(args: &DemoArgs) -> ExitCode {
    match tell(args) {
        Ok(code) => code,
        Err(DemoError::Config(report)) => {
            eprint!("{report}");
            ExitCode::from(EXIT_CONFIG)
        }
        Err(error @ DemoError::Policy { .. }) => {
            eprintln!("error: {error}");
            ExitCode::from(EXIT_CONFIG)
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(EXIT_FINDINGS)
        }
    }
}

fn tell(args: &DemoArgs) -> Result<ExitCode, DemoError> {
    log::set_up(&LogSettings { level: "warn".to_owned(), format: LogFormat::Auto })?;
    let clock = Clock::system();
    let policy = PolicySource::read(args.policy.as_deref())?;
    if let Some(path) = &args.write {
        say(&lasting::write(path, &policy, &clock)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stage = Stage::set(&policy, clock).await?;
        if !args.once {
            follow(&stage, &policy).await?;
            return Ok(ExitCode::SUCCESS);
        }
        let outcomes = once::ask_all(&stage).await?;
        say(&match args.format {
            Format::Text => once::to_text(&outcomes, Ink::of_stdout()),
            Format::Json => once::to_json(&outcomes),
        })?;
        let as_said = once::all_as_said(&outcomes);
        Ok(if as_said { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FINDINGS) })
    })
}

/// Prints the requests, then the story of each that comes, until it is told to end.
async fn follow(stage: &Stage, policy: &PolicySource) -> Result<(), DemoError> {
    let ink = Ink::of_stdout();
    let mut records = stage.records()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut renewal = tokio::time::interval(TOKEN_RENEWAL);
    say(&introduction(stage, policy, ink))?;
    loop {
        tokio::select! {
            record = records.next() => {
                let record = record?;
                if record.is_decision() {
                    let reason = record.reason.as_deref().unwrap_or_default();
                    let reason = if record.is_allowed() { ink.green(reason) } else { ink.red(reason) };
                    say(&format!("{reason}: {}\n", record.story))?;
                }
            }
            _ = renewal.tick() => stage.renew_tokens()?,
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        }
    }
    Ok(())
}

fn introduction(stage: &Stage, policy: &PolicySource, ink: Ink) -> String {
    let rules = match &policy.file {
        Some(file) => file.display().to_string(),
        None => "the sample, config/sidecar.toml".to_owned(),
    };
    let [orders, orders_next] = &stage.upstreams;
    let mut text = format!(
        "{}\n\n  proxy      {}, for https://{}\n  upstreams  {} orders, {} orders-next\n  issuer     {}, for development only\n  policy     {rules}\n  folder     {}\n\n",
        ink.bold("Two identities, one decision. All of this is throw-away and on loopback alone:"),
        stage.proxy,
        requests::HOST,
        orders.address,
        orders_next.address,
        stage.issuer.url,
        stage.folder.path().display(),
    );
    text.push_str(&ink.bold("Paste any of these into another terminal:"));
    text.push_str("\n\n");
    for (number, line) in (1..).zip(requests::lines()) {
        let title = format!("# {number}. {}: {}, {}", line.title, line.answer, line.reason.as_str());
        let command = curl::command(&line, &stage.proxy.to_string(), Some(stage.folder.path()));
        text.push_str(&format!("{}\n{command}\n", ink.bold(&title)));
    }
    text.push('\n');
    text.push_str(&ink.bold("The story of every request, as it comes; Ctrl-C ends it all:"));
    text.push_str("\n\n");
    text
}

/// Unlike `print!`, does not panic where nobody reads on.
fn say(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
