//! `countersign explain`: one request under a configuration, and why it ends as it does.
//!
//! Nothing is judged here. A [`Trial`] asks what serves traffic; the rules are read by the policy's own
//! [`Reading`], the token's steps are the verifier's.

mod account;
mod question;
mod record;
mod text;
mod token;
mod who;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Args;

use super::ink::Ink;
use super::{ConfigArgs, EXIT_CONFIG, EXIT_USAGE, Format};
use crate::clock::{Clock, Timestamp};
use crate::config::Report;
use crate::identity::Signature;
use crate::policy::Reading;
use crate::token::{IssuerSettings, TokenError};
use crate::trial::{Answer, Bearer, Presented, Question, Trial, TrialError, Unaskable};
use account::{Account, Rules, Which};
use question::QuestionArgs;
use who::{CallerAccount, PeerAccount, ServiceAccount};

#[derive(Debug, Args)]
#[command(after_help = "\
Says how one request would end and why: the verdict, what came nearest, how certificate and token were checked, \
who is there and how roles came about, and every condition of every rule that could have spoken, wanted against \
seen. What answers is the code that serves; nothing is sent, fetched or written.

A token is a secret: give a file, `-` for standard input, or env:NAME, never the token itself. Where an issuer's keys \
are not in a file, its tokens are read as if their signature were good, and it is said so; --keys gives the keys.

  countersign explain -c /etc/countersign --service storefront --token /tmp/token \\
      GET https://orders.shop.example/customers/alice/orders/7
  countersign explain -c /etc/countersign --service storefront \\
      --claims '{\"sub\": \"alice\", \"client_id\": \"web\", \"scope\": \"orders:read\"}' GET https://orders.shop.example/
  grep 01J8ZQ audit.jsonl | countersign explain -c /etc/countersign --record -

Exit codes: 0 explained, whatever the verdict; 2 wrong usage; 78 the configuration cannot be loaded.")]
pub struct ExplainArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    question: QuestionArgs,
    /// Explain a line of the audit log instead: a file with one, or `-`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["method", "peer", "caller", "headers", "at"])]
    record: Option<String>,
    /// Tell of all rules and roles, also of those that could not have spoken
    #[arg(long)]
    all: bool,
    /// How to answer
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Why nothing is explained.
#[derive(Debug)]
pub enum Unexplained {
    Configuration(Box<Report>),
    Usage(String),
}

impl Unexplained {
    fn usage(why: impl ToString) -> Unexplained {
        Unexplained::Usage(why.to_string())
    }
}

impl From<TrialError> for Unexplained {
    fn from(error: TrialError) -> Unexplained {
        Unexplained::usage(error)
    }
}

impl From<Unaskable> for Unexplained {
    fn from(error: Unaskable) -> Unexplained {
        Unexplained::usage(error)
    }
}

pub fn run(args: &ExplainArgs) -> ExitCode {
    match explain(args) {
        Ok(text) => {
            // Whoever reads it may have seen enough and gone.
            let _ = io::stdout().lock().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(Unexplained::Configuration(report)) => {
            eprint!("{}", report.to_text(io::stderr().is_terminal()));
            ExitCode::from(EXIT_CONFIG)
        }
        Err(Unexplained::Usage(why)) => {
            eprintln!("error: {why}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}

fn explain(args: &ExplainArgs) -> Result<String, Unexplained> {
    let clock = Clock::system();
    let config = args.config.load(&clock).map_err(|report| Unexplained::Configuration(Box::new(report)))?;
    let mut trial = Trial::new(config, clock.now())?;
    if let Some(place) = &args.record {
        return record::explain(args, &question::read_or_stdin(place)?, &mut trial);
    }
    let question = args.question.question(&mut trial)?;
    let account = give(&mut trial, question, which(args), clock.now())?;
    Ok(match args.format {
        Format::Text => text::render(&account, Ink::of_stdout(), args.all),
        Format::Json => format!("{:#}\n", serde_json::json!(account)),
    })
}

fn which(args: &ExplainArgs) -> Which {
    if args.all { Which::All } else { Which::Reaching }
}

/// Asks, and tells all that there is to the answer.
fn give(
    trial: &mut Trial,
    mut question: Question,
    which: Which,
    now: Timestamp,
) -> Result<Account, Unexplained> {
    let mut trace = trial.trace(&question)?;
    let mut unchecked = None;
    if let Some(Err(TokenError::IssuerUnavailable(_))) = trace.as_ref().map(|trace| &trace.outcome)
        && let Bearer::Token(text) = question.caller
    {
        // Its keys are elsewhere, and nothing is fetched here.
        let issuer = trace.as_ref().and_then(|trace| trace.issuer.clone());
        unchecked = trial.issuers().find(|it| Some(&it.name) == issuer.as_ref()).map(not_checked);
        question.caller = Bearer::TokenOnTrust(text);
        trace = trial.trace(&question)?;
    }
    let answer = trial.ask(&question)?;
    let (policy, issuers): (_, Vec<&IssuerSettings>) = (trial.policy(), trial.issuers().collect());
    let asked = format!("{} {}", question.head.method, question.head.uri);
    let peer = PeerAccount::of(&answer, granted(&question.peer));
    let at = question.at.unwrap_or(now);
    let mut account = Account::of(&answer, asked, at.to_string(), policy, peer);
    account.notes.extend(notes(&question));
    account.notes.extend(unchecked.clone());
    if !matches!(answer, Answer::Handshake(_)) {
        account.token = trace.map(|trace| token::account(&trace, unchecked.as_deref(), &issuers, at));
    }
    if let Some(case) = answer.case() {
        let request = case.request();
        let reading = Reading::new(policy, case.standing(), &request);
        let services = reading.services().into_iter().map(|read| ServiceAccount::of(policy, read));
        account.peer.services = services.collect();
        if let Signature::Verified(caller) = &case.signatures.caller {
            account.caller = Some(CallerAccount::of(policy, &reading, caller, &issuers));
        }
        account.rules = Some(Rules::of(&reading, case, which));
    }
    Ok(account)
}

fn not_checked(issuer: &IssuerSettings) -> String {
    let IssuerSettings { name, keys, .. } = issuer;
    format!(
        "the token's signature was NOT CHECKED: anybody can have written it. The keys of {name} are at {}, and \
         explain fetches nothing; give them with --keys {name}=FILE",
        keys.source
    )
}

/// What is taken for granted of a certificate.
fn granted(peer: &Presented) -> &'static str {
    match peer {
        Presented::Service(_) => "a good certificate of this service, taken for granted",
        Presented::Named(_) => "a good certificate with this name, taken for granted",
        Presented::Chain(_) => "the certificate given, verified as in a handshake",
        Presented::Nothing => "",
    }
}

fn notes(question: &Question) -> Option<String> {
    matches!(question.caller, Bearer::Claims(_)).then(|| {
        "the token was made up here, with these claims and what its issuer puts into each: whether the issuer would \
         give it to anybody is not known"
            .to_owned()
    })
}
