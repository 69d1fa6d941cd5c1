//! `countersign replay`: judges recorded requests under another policy, and says which decisions would change, by
//! which rule, and which records cannot tell.

mod report;

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::{ConfigArgs, EXIT_CONFIG, EXIT_FINDINGS, EXIT_USAGE, tell};
use crate::clock::{Clock, Timestamp};
use crate::config::{self, Config};
use crate::replay::Replay;
use crate::replay::log::{self, LogError};
use crate::replay::tally::{Asked, Flip, Tally};

/// What was decided then is read from the records; nothing is asked over a network, and no token is needed.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Audit files, `-` for standard input; several are read in order
    #[arg(required = true, value_name = "LOG")]
    logs: Vec<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
    /// The configuration that the records were made under: says which issuers read tokens in another way since
    #[arg(long, value_name = "FILE")]
    old: Vec<PathBuf>,
    #[command(flatten)]
    period: Period,
    /// Requests to show of each group
    #[arg(long, value_name = "N", default_value_t = 3)]
    samples: usize,
    /// How to answer
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    format: ReportFormat,
    /// Exit with 1 if any request passes that did not, or does not that did, or cannot be replayed
    #[arg(long)]
    fail_on_flip: bool,
    /// Exit with 1 if any request passes that did not, or cannot be replayed
    #[arg(long)]
    fail_on_widen: bool,
    /// Exit with 1 if any request does not pass that did, or cannot be replayed
    #[arg(long)]
    fail_on_narrow: bool,
}

/// Which records count.
#[derive(Clone, Copy, Debug, Args)]
pub struct Period {
    /// Only records from this moment on, as 2027-01-31 or 2027-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// Only records before this moment
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Timestamp>,
}

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ReportFormat {
    /// For people
    Text,
    Json,
    /// For a comment on a pull request
    Markdown,
}

pub fn run(args: &ReplayArgs) -> ExitCode {
    let clock = Clock::system();
    let config = match args.config.load(&clock) {
        Ok(config) => config,
        Err(report) => return unloadable(&report),
    };
    let mut replay = Replay::new(&config);
    if !args.old.is_empty() {
        let environment = |name: &str| std::env::var(name).ok();
        match config::load(&args.old, &environment, clock.now()) {
            Ok(old) => replay = replay.after(&old),
            Err(report) => return unloadable(&report),
        }
    }
    let asked = args.period.asked(args.samples);
    match read(&args.logs, &mut replay, &asked) {
        Ok(tally) => answer(args, &config, &tally),
        Err(error) => unreadable(&error),
    }
}

/// All lines of these files, judged and counted.
fn read(logs: &[PathBuf], replay: &mut Replay<'_>, asked: &Asked) -> Result<Tally, LogError> {
    let mut tally = Tally::default();
    let mut progress = Progress::over(logs);
    let read = log::lines(logs, |place, line, bytes| {
        tally.add(replay, place, line, asked);
        progress.at(bytes);
    });
    progress.end();
    read.map(|()| tally)
}

fn answer(args: &ReplayArgs, config: &Config, tally: &Tally) -> ExitCode {
    let text = match args.format {
        ReportFormat::Text => report::text(tally, config.policy.hash()),
        ReportFormat::Json => format!("{:#}\n", report::json(tally, config.policy.hash())),
        ReportFormat::Markdown => report::markdown(tally, config.policy.hash()),
    };
    tell(text);
    let wider = (args.fail_on_flip || args.fail_on_widen) && tally.flipped(&Flip::WIDER) > 0;
    let narrower = (args.fail_on_flip || args.fail_on_narrow) && tally.flipped(&Flip::NARROWER) > 0;
    // What is not known to be the same may have flipped.
    let unknown = tally.failures.keys().any(|why| !why.is_other_event());
    let unknown = unknown && (args.fail_on_flip || args.fail_on_widen || args.fail_on_narrow);
    if wider || narrower || unknown { ExitCode::from(EXIT_FINDINGS) } else { ExitCode::SUCCESS }
}

pub fn unloadable(report: &config::Report) -> ExitCode {
    eprint!("{}", report.to_text(io::stderr().is_terminal()));
    ExitCode::from(EXIT_CONFIG)
}

pub fn unreadable(error: &LogError) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(EXIT_USAGE)
}

impl Period {
    pub fn asked(&self, samples_max: usize) -> Asked {
        Asked {
            since: self.since.unwrap_or(Timestamp::MIN),
            until: self.until.unwrap_or(Timestamp::MAX),
            samples_max,
        }
    }
}

fn moment(text: &str) -> Result<Timestamp, String> {
    let day = || format!("{text}T00:00:00Z").parse();
    text.parse().or_else(|_| day()).map_err(|_| "neither a day nor a time of RFC 3339".to_owned())
}

/// How far reading is, on a terminal only.
pub struct Progress {
    /// Of all files, where that is known.
    bytes_all: Option<u64>,
    lines: u64,
    is_shown: bool,
}

/// Lines between two looks at it.
const PROGRESS_LINES: u64 = 1 << 14;

impl Progress {
    pub fn over(logs: &[PathBuf]) -> Progress {
        let bytes =
            |log: &PathBuf| fs::metadata(log).ok().filter(fs::Metadata::is_file).map(|file| file.len());
        Progress { bytes_all: logs.iter().map(bytes).sum(), lines: 0, is_shown: io::stderr().is_terminal() }
    }

    pub fn at(&mut self, bytes: u64) {
        self.lines += 1;
        if self.is_shown && self.lines.is_multiple_of(PROGRESS_LINES) {
            match self.bytes_all {
                Some(all @ 1..) => eprint!("\r{:3} %  {} lines", bytes * 100 / all, self.lines),
                _ => eprint!("\r{} lines", self.lines),
            }
            let _ = io::stderr().flush(); // a terminal that is gone needs no progress
        }
    }

    pub fn end(&self) {
        if self.is_shown && self.lines >= PROGRESS_LINES {
            eprint!("\r\u{1b}[K");
        }
    }
}
