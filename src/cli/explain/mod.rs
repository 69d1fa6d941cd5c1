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

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::ink::Ink;
use super::{ConfigArgs, EXIT_CONFIG, EXIT_USAGE, Format, tell};
use crate::audit::line::{is_misleading, write_escaped};
use crate::clock::Clock;
use crate::config::Report;
use crate::identity::{Hop, Signature};
use crate::policy::Reading;
use crate::token::{IssuerSettings, TokenError, Trace};
use crate::trial::{Answer, Bearer, Presented, Question, Traced, Trial, TrialError, Unaskable, Word};
use account::Rules;
pub use account::{Account, Which};
use question::QuestionArgs;
use record::RecordAccount;
use token::Source;
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
            tell(text);
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
    let which = if args.all { Which::All } else { Which::Reaching };
    if let Some(place) = &args.record {
        let line = question::read_or_stdin(place)?;
        let account = RecordAccount::of(&line, &config, which)?;
        return Ok(match args.format {
            Format::Text => text::of_record(&account, Ink::of_stdout(), args.all),
            Format::Json => in_json(&account),
        });
    }
    let now = clock.now();
    let mut trial = Trial::new(config, now)?;
    let question = args.question.question(&mut trial)?;
    let account = account(&mut trial, question, args.question.asked(), which)?;
    Ok(match args.format {
        Format::Text => text::of_request(&account, Ink::of_stdout(), args.all),
        Format::Json => in_json(&account),
    })
}

fn in_json(account: &impl Serialize) -> String {
    let mut line = Vec::new();
    for c in format!("{:#}\n", serde_json::json!(account)).chars() {
        if c != '\n' && is_misleading(c) {
            write_escaped(c, &mut line);
        } else {
            line.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    String::from_utf8_lossy(&line).into_owned()
}

/// Asks, and tells all that there is to the answer.
///
/// # Errors
/// What the question speaks of and the configuration does not have.
pub fn account(
    trial: &mut Trial,
    mut question: Question,
    asked: String,
    which: Which,
) -> Result<Account, Unaskable> {
    let mut traced = trial.trace(&question)?;
    let mut source = match question.caller {
        Bearer::Claims(_) => Source::MadeUp,
        _ => Source::Presented,
    };
    if let Traced::Told(trace) = &traced
        && let Trace { outcome: Err(TokenError::IssuerUnavailable(_)), issuer: Some(issuer), .. } = &**trace
        && let Some(on_trust) = on_trust(&question.caller)
    {
        // Its keys are elsewhere, and nothing is fetched here.
        let issuer = trial.issuers().find(|settings| settings.name == *issuer);
        source = Source::OnTrust(issuer.map_or_else(String::new, not_checked));
        question.caller = on_trust;
        traced = trial.trace(&question)?;
    }
    let answer = trial.ask(&question)?;
    let (policy, issuers): (_, Vec<&IssuerSettings>) = (trial.policy(), trial.issuers().collect());
    let at = trial.at(&question);
    let peer = PeerAccount::of(&answer, granted(&question, &answer));
    let mut account = Account::of(&answer, asked, at.to_string(), policy, peer);
    account.notes.extend(note(&source));
    match &traced {
        _ if account.in_handshake => {}
        Traced::Told(trace) => account.token = Some(token::account(trace, &source, &issuers, at)),
        Traced::Unread(word) => {
            let (what, note) = unread(*word);
            account.unread = Some(what);
            account.notes.push(note.to_owned());
        }
        Traced::Nothing => {}
    }
    if let Some(case) = answer.case() {
        let request = case.request();
        let reading = Reading::new(policy, case.standing(), &request);
        let services = reading.services().into_iter().map(|read| ServiceAccount::of(policy, read));
        account.peer.services = services.collect();
        if let Signature::Verified(caller) = &case.signatures.caller {
            account.caller = Some(CallerAccount::of(policy, &reading, caller, &issuers));
        }
        account.rules = Some(Rules::of(&reading, &case.decision.evidence, which));
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

/// The same token, whose signature nobody looks at.
fn on_trust(presented: &Bearer) -> Option<Bearer> {
    match presented {
        Bearer::Token(text) => Some(Bearer::TokenOnTrust(text.clone())),
        Bearer::Assertion(text) => Some(Bearer::AssertionOnTrust(text.clone())),
        Bearer::UserClaims(text) => Some(Bearer::UserClaimsOnTrust(text.clone())),
        Bearer::Nothing
        | Bearer::Claims(_)
        | Bearer::TokenOnTrust(_)
        | Bearer::AssertionOnTrust(_)
        | Bearer::UserClaimsOnTrust(_) => None,
    }
}

/// Of what came from anybody else, and why that is not read.
fn unread(word: Word) -> (&'static str, &'static str) {
    match word {
        Word::Assertion => (
            "x-auth-assertion",
            "the assertion was not read, and is taken away: it counts from a [trusted_hop] of kind countersign alone, \
             by that one's own certificate",
        ),
        Word::UserClaims => (
            "x-amzn-oidc-data",
            "x-amzn-oidc-data was not read, and is taken away: it counts from a [trusted_hop] of kind alb alone, which \
             --hop names, and of an [issuer] with preset alb",
        ),
    }
}

/// What is taken for granted of a certificate.
fn granted(question: &Question, answer: &Answer) -> &'static str {
    let is_the_hop = || answer.record().and_then(|it| it.peer.as_ref()).is_some_and(|it| it.hop == "direct");
    match (&question.peer, &question.hop) {
        (Presented::Service(_), _) => "a good certificate of this service, taken for granted",
        (Presented::Named(_), _) => "a good certificate with this name, taken for granted",
        (Presented::Chain(_), _) => "the certificate given, verified as in a handshake",
        (Presented::Nothing, Hop::Direct) => "",
        (Presented::Nothing, Hop::Local) => "this proxy's own",
        (Presented::Nothing, Hop::Trusted(_)) if is_the_hop() => "a good one of this hop, taken for granted",
        (Presented::Nothing, Hop::Trusted(_)) => "the one that the hop tells, verified as in a handshake",
    }
}

fn note(source: &Source) -> Option<String> {
    match source {
        Source::Presented => None,
        Source::OnTrust(why) => Some(why.clone()),
        Source::MadeUp => Some(
            "the token was made up here, of these claims and of what its issuer puts into each: whether the issuer \
             gives such a token to anybody is not known"
                .to_owned(),
        ),
    }
}
