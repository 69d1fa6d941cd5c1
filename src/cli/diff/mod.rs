//! `countersign diff`: what a change of configuration newly allows and newly denies, each with a request that
//! shows it.
//!
//! What rules, roles, services, routes and the reading of tokens decide is compared by requests
//! ([`crate::policy::difference`]), and each request that is shown is asked once more of a [`Trial`] of either
//! side. What decides before any rule is compared key by key (`settings.rs`).

mod markdown;
mod settings;
mod text;
pub(super) mod witness;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{EXIT_CONFIG, EXIT_FINDINGS, EXIT_USAGE, tell};
use crate::audit::Reason;
use crate::clock::{Clock, Timestamp};
use crate::config::{self, Config, Report};
use crate::identity::Name;
use crate::policy::difference::{Approach, Change, Comparison, Outcome, Part, Region, UNENFORCED, said};
use crate::token::{IssuerSettings, Mint, TokenLimits, vouched};
use crate::trial::{Trial, TrialError};
pub use settings::Setting;
use witness::Shown;

#[derive(Debug, Args)]
#[command(after_help = "\
Says what NEW allows that OLD did not, what it denies that OLD allowed, and what it passes to another upstream, \
as regions in words, each with a request that shows it, ready for `countersign explain`. Nothing is sampled: each way of \
each rule is built and judged in each cell, from now on. What decides before any rule (certificates, whose tokens are \
taken, limits) cannot be shown by requests; it is listed key by key, with what may widen access. What could not be \
followed is counted, and may widen too.

  countersign diff main/ branch/
  countersign diff old.toml new.toml --format markdown --fail-on-widen

Exit codes: 0 compared; 1 with --fail-on-widen, if anything is newly allowed or may be; 2 wrong usage; 78 a \
configuration cannot be loaded.")]
pub struct DiffArgs {
    /// The configuration as it was: a file, or a folder of them (its *.toml, by name)
    old: PathBuf,
    /// The configuration as it is to be
    new: PathBuf,
    /// Exit with 1 if anything is newly allowed, or may be
    #[arg(long)]
    fail_on_widen: bool,
    /// How to answer
    #[arg(long, value_enum, default_value_t = DiffFormat::Text)]
    format: DiffFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DiffFormat {
    /// For people
    Text,
    Json,
    /// For the comment on a pull request
    Markdown,
}

/// All that there is to tell.
#[derive(Debug, Serialize)]
pub struct Diff {
    /// The hashes of the two policies.
    pub old: String,
    pub new: String,
    pub differences: Vec<Difference>,
    pub settings: Vec<Setting>,
    /// What is not known: requests that there may be, and that were not built.
    pub open: Vec<Open>,
    /// Whether anything is newly allowed, or may be.
    pub widens: bool,
    /// How many requests were judged.
    pub judged: u64,
}

/// Requests that nobody was asked about.
#[derive(Debug, Serialize)]
pub struct Open {
    /// As a code.
    pub why: &'static str,
    pub told: String,
    /// How many demands and cells there are of them.
    pub count: u64,
}

/// All requests that have one of each list.
#[derive(Debug, Serialize)]
pub struct Difference {
    pub change: &'static str,
    /// What permits it: the name of an allow, or why none was needed.
    pub by: String,
    pub before: String,
    pub now: String,
    pub method: Vec<String>,
    pub host: Vec<String>,
    pub path: Vec<String>,
    pub service: Vec<String>,
    pub caller: Vec<String>,
    pub actor: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub circumstances: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub time: Vec<String>,
    /// Rules by which the other policy permits some of it all the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// What of it is judged as it was, whatever permits it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unchanged: Vec<String>,
    pub witness: Shown,
    /// What the old configuration passes the witness to; empty where it passes it to nothing.
    #[serde(skip)]
    pub upstream_before: String,
}

/// Why nothing is compared.
#[derive(Debug)]
enum Failed {
    Configuration(Box<Report>),
    Usage(String),
}

impl From<TrialError> for Failed {
    fn from(error: TrialError) -> Failed {
        Failed::Usage(error.to_string())
    }
}

pub fn run(args: &DiffArgs) -> ExitCode {
    let clock = Clock::system();
    let load = |path: &PathBuf| {
        let loaded = config::load(std::slice::from_ref(path), &|name| std::env::var(name).ok(), clock.now());
        loaded.map_err(|report| Failed::Configuration(Box::new(report)))
    };
    let compared = load(&args.old).and_then(|old| Ok((old, load(&args.new)?)));
    let compared = compared.and_then(|(old, new)| Ok(compare(old, new, clock.now())?));
    match compared {
        Ok(diff) => {
            let text = match args.format {
                DiffFormat::Text => text::text(&diff, &args.new),
                DiffFormat::Json => format!("{:#}\n", serde_json::json!(diff)),
                DiffFormat::Markdown => markdown::markdown(&diff),
            };
            // Whoever reads it may have seen enough and gone.
            tell(text);
            let failed = args.fail_on_widen && diff.widens;
            if failed { ExitCode::from(EXIT_FINDINGS) } else { ExitCode::SUCCESS }
        }
        Err(Failed::Configuration(report)) => {
            eprint!("{}", report.to_text(io::stderr().is_terminal()));
            ExitCode::from(EXIT_CONFIG)
        }
        Err(Failed::Usage(why)) => {
            eprintln!("error: {why}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// One of the two configurations.
struct Side {
    issuers: Vec<IssuerSettings>,
    limits: TokenLimits,
    approach: Approach,
    trial: Trial,
}

impl Side {
    fn new(config: Config, now: Timestamp) -> Result<Side, TrialError> {
        let approach = config.approach();
        let (issuers, limits) = (config.issuers.clone(), config.limits.token);
        Ok(Side { issuers, limits, approach, trial: Trial::new(config, now)? })
    }
}

/// Compares two configurations from `now` on.
///
/// # Errors
/// A configuration of which nothing can be asked.
pub fn compare(old: Config, new: Config, now: Timestamp) -> Result<Diff, TrialError> {
    let mut settings = settings::changes(&old.resolved, &new.resolved);
    settings.extend(settings::contents(&old, &new));
    let mut sides = [Side::new(old, now)?, Side::new(new, now)?];
    let [before, after] = &sides;
    let policies = [before.trial.policy(), after.trial.policy()];
    let issuers = [&before.issuers[..], &after.issuers[..]];
    let vouched = vouched(issuers);
    let comparison = Comparison::new(policies, &vouched, [&before.approach, &after.approach], now);
    let limits = [&before.limits, &after.limits];
    let mint = Mint::new(issuers, limits, comparison.globs(), comparison.places(), &comparison.kinds(), now);
    let found = mint.realm(|realm| comparison.differences(realm, mint.fresh()));
    let regions = comparison.regions(&found.flips, &vouched);
    let told = regions.iter().map(|region| Told::of(&comparison, region)).collect::<Vec<_>>();
    let [old, new] = policies.map(|policy| policy.hash().to_string());
    let names: Vec<[Option<Name>; 2]> = vouched
        .iter()
        .map(|pair| [0, 1].map(|side| pair.ids[side].map(|id| issuers[side][id.index()].name.clone())))
        .collect();
    let mut differences = Vec::new();
    for (region, told) in regions.iter().zip(told) {
        let issuer = region.witness.token.as_ref().map(|(at, _)| &names[*at]);
        let trials = sides.each_mut().map(|side| &mut side.trial);
        let shown = Shown::of(region, issuer, trials, now);
        differences.push(told.difference(region, shown));
    }
    let open: Vec<Open> = found
        .gaps
        .iter()
        .map(|(gap, count)| Open { why: gap.as_str(), told: gap.to_string(), count: *count })
        .collect();
    let widens = settings.iter().any(|setting| setting.may_widen)
        || !open.is_empty()
        || regions.iter().any(|region| region.change == Change::Allowed);
    Ok(Diff { old, new, differences, settings, open, widens, judged: found.judged })
}

/// What takes the policies to say.
struct Told {
    by: String,
    outcomes: [String; 2],
    upstream_before: String,
}

impl Told {
    fn of(comparison: &Comparison<'_>, region: &Region) -> Told {
        let side = region.change.permitting();
        let in_words = |side: usize| {
            let outcome = &region.outcomes[side];
            let rule = comparison.rule_name(side, outcome);
            match (outcome, rule) {
                (Outcome::Permitted { upstream, .. }, rule) => {
                    let to = comparison.upstream(side, *upstream);
                    let by = rule
                        .map_or("its route is not enforced yet".to_owned(), |rule| format!("by `{rule}`"));
                    format!("allowed, {by}, to upstream {to}")
                }
                (Outcome::Denied { cause, .. }, Some(rule)) => {
                    format!("denied, {}: `{rule}`", Reason::from(*cause).as_str())
                }
                (Outcome::Denied { cause, .. }, None) => format!("denied, {}", Reason::from(*cause).as_str()),
                (Outcome::Refused(code), _) => format!("refused before any rule, {code}"),
            }
        };
        let by = comparison.rule_name(side, &region.outcomes[side]);
        Told {
            by: by.unwrap_or_else(|| UNENFORCED.to_owned()),
            outcomes: [in_words(0), in_words(1)],
            upstream_before: match &region.outcomes[0] {
                Outcome::Permitted { upstream, .. } => comparison.upstream(0, *upstream).to_string(),
                _ => String::new(),
            },
        }
    }

    fn difference(self, region: &Region, witness: Shown) -> Difference {
        let part = |part: Part| region.parts.get(&part).map(said).unwrap_or_default();
        let [before, now] = self.outcomes;
        Difference {
            change: match region.change {
                Change::Allowed => "newly allowed",
                Change::Denied => "newly denied",
                Change::Elsewhere => "goes elsewhere",
            },
            by: self.by,
            before,
            now,
            method: part(Part::Method),
            host: part(Part::Host),
            path: part(Part::Path),
            service: part(Part::Service),
            caller: part(Part::Caller),
            actor: part(Part::Actor),
            circumstances: part(Part::Circumstances),
            time: part(Part::Time),
            except: region.allowed_too.iter().cloned().collect(),
            unchanged: region.refused_too.iter().cloned().collect(),
            witness,
            upstream_before: self.upstream_before,
        }
    }
}
