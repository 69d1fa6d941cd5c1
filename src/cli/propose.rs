//! `countersign propose`: from requests that `shadow_until` alone let through to rules that would have allowed them, as
//! TOML for a person to review. Nothing is applied.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::replay::{Period, Progress, unloadable, unreadable};
use super::{EXIT_FINDINGS, Format, tell};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::replay::log;
use crate::replay::proposal::{self, Proposal, Wishes};

/// The rules are the narrowest that can still be read: what a rule would allow beyond what was seen stands above it.
#[derive(Debug, Args)]
pub struct ProposeArgs {
    /// Audit files, `-` for standard input; several are read in order
    #[arg(required = true, value_name = "LOG")]
    logs: Vec<PathBuf>,
    /// The configuration that the rules are to stand beside: its names are used, and the proposal is checked with it
    #[arg(short = 'c', long = "config", value_name = "FILE", env = "COUNTERSIGN_CONFIG")]
    config: Vec<PathBuf>,
    /// Propose rules for all requests that were allowed, not only for those that no rule allowed
    #[arg(long)]
    all_allowed: bool,
    #[command(flatten)]
    period: Period,
    /// How to answer
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Where the proposal stands in messages about it.
const NAME: &str = "proposal.toml";

/// What became of the proposal beside the configuration.
struct Checked {
    /// Why, how many requests, and one of them.
    denied: Vec<(String, u64, String)>,
}

pub fn run(args: &ProposeArgs) -> ExitCode {
    let clock = Clock::system();
    let load = |more| config::load_beside(&args.config, more, &|name| std::env::var(name).ok(), clock.now());
    let current = match args.config.is_empty() {
        true => None,
        false => match load(None) {
            Ok(config) => Some(config),
            Err(report) => return unloadable(&report),
        },
    };
    let mut wishes = Wishes::new(current.as_ref(), args.all_allowed);
    let asked = args.period.asked(0);
    let mut progress = Progress::over(&args.logs);
    let read = log::lines(&args.logs, |_, line, bytes| {
        wishes.add(line, &asked);
        progress.at(bytes);
    });
    progress.end();
    if let Err(error) = read {
        return unreadable(&error);
    }
    let proposal = proposal::write(&wishes.rules(), current.as_ref());
    let checked = match current.as_ref().map(|_| load(Some((Path::new(NAME), &proposal.toml)))) {
        None => None,
        Some(Ok(config)) => Some(Checked::of(&wishes, &config)),
        Some(Err(report)) => {
            print(args.format, &wishes, &proposal, None);
            eprint!("{}", report.to_text(io::stderr().is_terminal()));
            return ExitCode::from(EXIT_FINDINGS);
        }
    };
    print(args.format, &wishes, &proposal, checked.as_ref());
    let is_whole = checked.is_none_or(|checked| checked.denied.is_empty()) && wishes.failures.is_empty();
    if is_whole && wishes.left_out == 0 { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FINDINGS) }
}

impl Checked {
    fn of(wishes: &Wishes<'_>, config: &Config) -> Checked {
        let denied = wishes.still_denied(config).into_iter();
        Checked { denied: denied.map(|(why, (requests, sample))| (why, requests, sample)).collect() }
    }
}

fn print(format: Format, wishes: &Wishes<'_>, proposal: &Proposal, checked: Option<&Checked>) {
    match format {
        Format::Text => tell(text(wishes, proposal, checked)),
        Format::Json => tell(format_args!("{:#}\n", json(wishes, proposal, checked))),
    }
}

fn text(wishes: &Wishes<'_>, proposal: &Proposal, checked: Option<&Checked>) -> String {
    let mut lines = vec![format!(
        "Proposed from {} requests, for review: {} rules. Put into a file beside the configuration what should hold.",
        wishes.requests(),
        proposal.rules.len()
    )];
    if wishes.allowed_already > 0 {
        lines.push(format!("{} more are allowed by the configuration as it is.", wishes.allowed_already));
    }
    if wishes.left_out > 0 {
        lines.push(format!("{} more were left out: too many are different.", wishes.left_out));
    }
    lines.extend(wishes.failures.iter().map(|(why, lines)| format!("Not looked at: {lines} lines, {why}.")));
    match checked {
        None => lines.push("Not checked: no configuration that loads with it was given.".to_owned()),
        Some(checked) if checked.denied.is_empty() => {
            lines
                .push("Checked: with these rules the configuration loads and allows all of them.".to_owned());
        }
        Some(checked) => lines.extend(checked.denied.iter().map(|(why, requests, sample)| {
            format!("Still not allowed: {requests} requests ({why}), as {sample}.")
        })),
    }
    let comments: String = lines.iter().map(|line| format!("# {line}\n")).collect();
    format!("{comments}{}", proposal.toml)
}

fn json(wishes: &Wishes<'_>, proposal: &Proposal, checked: Option<&Checked>) -> serde_json::Value {
    let rules = proposal.rules.iter().map(|rule| {
        json!({
            "name": rule.name,
            "requests": rule.requests,
            "callers": rule.callers,
            "first": rule.first,
            "last": rule.last,
            "beyond": rule.beyond,
            "look_twice": rule.look_twice,
        })
    });
    let denied = checked.map(|checked| {
        let one = |(why, requests, sample): &(String, u64, String)| {
            json!({ "why": why, "requests": requests, "sample": sample })
        };
        checked.denied.iter().map(one).collect::<Vec<_>>()
    });
    let failures = wishes
        .failures
        .iter()
        .map(|(why, lines)| json!({ "why": why.code(), "detail": why.to_string(), "lines": lines }));
    json!({
        "requests": wishes.requests(),
        "allowed_already": wishes.allowed_already,
        "left_out": wishes.left_out,
        "rules": rules.collect::<Vec<_>>(),
        "toml": proposal.toml,
        "checked": checked.is_some(),
        "still_denied": denied,
        "not_looked_at": failures.collect::<Vec<_>>(),
    })
}
