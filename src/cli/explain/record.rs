//! A line of the audit log: what it says, in words, and what the configuration at hand makes of the same request.
//!
//! What it says is told as it stands there. It is judged again only as far as a record holds what a decision reads.

use serde::{Deserialize, Serialize};

use super::Unexplained;
use super::account::{Rules, Which};
use super::who::{CallerAccount, ServiceAccount};
use crate::audit::{Reason, Verdict};
use crate::config::Config;
use crate::identity::Signature;
use crate::policy::Reading;
use crate::replay::{Line, Outcome, Past, Replay};
use crate::token::IssuerSettings;

#[derive(Debug, Serialize)]
pub struct RecordAccount {
    pub recorded: Recorded,
    pub cause: Option<&'static str>,
    pub remedy: Option<&'static str>,
    /// Of the configuration at hand.
    pub policy: String,
    /// Whether it is the one that decided then.
    pub same_policy: bool,
    /// Absent where the record does not hold enough, or nothing was decided.
    pub now: Option<Again>,
    pub not_judged: Option<String>,
}

/// What is read of the line. All of it may be missing: other events have other fields.
#[derive(Debug, Deserialize, Serialize)]
pub struct Recorded {
    pub event: String,
    pub time: Option<String>,
    pub id: Option<String>,
    pub proxy: Option<String>,
    pub verdict: Option<String>,
    pub reason: Option<String>,
    #[serde(default)]
    pub also: Vec<String>,
    pub status: Option<u16>,
    pub story: Option<String>,
    pub detail: Option<String>,
    pub rule: Option<String>,
    pub owner: Option<String>,
    pub ticket: Option<String>,
    pub near_miss: Option<RecordedMiss>,
    pub checks: Option<RecordedChecks>,
    pub upstream: Option<String>,
    pub trace: Option<String>,
    pub policy: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
pub struct RecordedMiss {
    pub rule: String,
    pub lacks: String,
    pub seen: String,
}

#[derive(Debug, Deserialize, Serialize)]
pub struct RecordedChecks {
    pub peer: String,
    pub caller: String,
}

/// The same request, asked of the configuration at hand at the time of the record.
#[derive(Debug, Serialize)]
pub struct Again {
    /// Whether verdict, reason and rule are what they were then.
    pub same: bool,
    pub outcome: &'static str,
    pub reasons: Vec<Reason>,
    pub rule: Option<String>,
    /// What of the caller is not in the record, if that is known.
    pub services: Vec<ServiceAccount>,
    pub caller: Option<CallerAccount>,
    pub rules: Rules,
}

impl RecordAccount {
    pub fn of(line: &[u8], config: &Config, which: Which) -> Result<RecordAccount, Unexplained> {
        let line = only_line(line)?;
        let recorded: Recorded = serde_json::from_slice(line)
            .map_err(|error| Unexplained::usage(format!("this is no line of the audit log: {error}")))?;
        let reason = Reason::ALL.iter().find(|reason| Some(reason.as_str()) == recorded.reason.as_deref());
        let policy = config.policy.hash().to_string();
        let (now, not_judged) = match again(line, &recorded, config, which) {
            Ok(now) => (Some(now), None),
            Err(why) => (None, Some(why)),
        };
        Ok(RecordAccount {
            cause: reason.map(|reason| reason.cause()),
            remedy: reason.map(|reason| reason.remedy()),
            same_policy: recorded.policy.as_ref() == Some(&policy),
            policy,
            recorded,
            now,
            not_judged,
        })
    }
}

fn only_line(text: &[u8]) -> Result<&[u8], Unexplained> {
    let mut lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    match (lines.next(), lines.count()) {
        (Some(line), 0) => Ok(line),
        (None, _) => Err(Unexplained::usage("there is no line")),
        (Some(_), more) => Err(Unexplained::usage(format!(
            "there are {} lines; one is explained at a time, and `countersign replay` judges many",
            more + 1
        ))),
    }
}

fn again(line: &[u8], recorded: &Recorded, config: &Config, which: Which) -> Result<Again, String> {
    let past = match Line::read(line).map_err(|why| why.to_string())? {
        Line::Decided(past) => past,
        Line::Undecided(_) => return Err("it ended before any rule was asked".to_owned()),
    };
    let mut replay = Replay::new(config);
    let judged = replay.judge(&past).map_err(|why| why.to_string())?;
    let (peer, caller) = replay.signatures(&past).map_err(|why| why.to_string())?;
    let (policy, headers) = (replay.policy(), replay.headers(&past));
    let standing = policy.standing(&peer, &caller, past.time);
    let request = past.asked(&peer, &caller, &headers);
    let reading = Reading::new(policy, &standing, &request);
    let evidence = &judged.decision.evidence;
    let rule = evidence.rule.map(|rule| policy.rule(rule).name.clone());
    let reasons: Vec<_> = judged.causes().iter().map(|cause| Reason::from(*cause)).collect();
    let issuers: Vec<&IssuerSettings> = config.issuers.iter().collect();
    let caller = match &caller {
        Signature::Verified(caller) => Some(CallerAccount::recorded(policy, &reading, caller, &issuers)),
        Signature::Absent => None,
    };
    let services = reading.services().into_iter().map(|read| ServiceAccount::of(policy, read));
    Ok(Again {
        same: is_same(&past, judged.outcome, &rule, &reasons, recorded),
        outcome: judged.outcome.as_str(),
        reasons,
        rule,
        services: services.collect(),
        caller,
        rules: Rules::of(&reading, evidence, which),
    })
}

/// Whether it ended for the same reason: of what was let through, by the same rule.
fn is_same(
    past: &Past<'_>,
    outcome: Outcome,
    rule: &Option<String>,
    reasons: &[Reason],
    recorded: &Recorded,
) -> bool {
    let first = reasons.first().map(|reason| reason.as_str());
    past.outcome == outcome
        && recorded.rule == *rule
        && (outcome != Outcome::Denied || first == recorded.reason.as_deref())
}

impl Recorded {
    pub fn is_allowed(&self) -> bool {
        self.verdict.as_deref() == Some(Verdict::Allow.as_str())
    }
}
