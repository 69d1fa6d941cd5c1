//! All that there is to say about one request, as data: the text and the JSON are made from this one value.

use http::header::WWW_AUTHENTICATE;
use serde::Serialize;

use super::token::TokenAccount;
use super::who::{CallerAccount, PeerAccount};
use crate::audit::record::{NearMissRecord, RequestRecord, Verdict};
use crate::audit::{Reason, story};
use crate::policy::condition::Kind;
use crate::policy::reading::{Reading, RuleReading};
use crate::policy::rule::{Effect, Mode};
use crate::policy::{Evidence, Policy};
use crate::trial::{Answer, Answered};

#[derive(Debug, Serialize)]
pub struct Account {
    pub verdict: Verdict,
    pub reason: Reason,
    /// Where several apply, all.
    pub also: Vec<Reason>,
    /// Whether the TLS handshake fails, so that no HTTP is spoken.
    pub in_handshake: bool,
    /// Absent where the handshake fails, or where the upstream answers.
    pub status: Option<u16>,
    /// `WWW-Authenticate`.
    pub challenge: Option<String>,
    pub story: String,
    pub cause: &'static str,
    pub remedy: &'static str,
    pub detail: Option<String>,
    pub rule: Option<String>,
    pub near_miss: Option<NearMiss>,
    pub would_allow: Vec<String>,
    pub would_deny: Vec<String>,
    pub unenforced: Vec<Reason>,
    /// What was taken for granted, and what nobody looked at.
    pub notes: Vec<String>,
    pub asked: String,
    pub at: String,
    pub policy: String,
    pub route: Option<String>,
    pub upstream: Option<String>,
    pub peer: PeerAccount,
    pub token: Option<TokenAccount>,
    /// The header in which somebody vouches for a caller whose word is not taken.
    pub unread: Option<&'static str>,
    pub caller: Option<CallerAccount>,
    /// Absent where no rule was asked.
    pub rules: Option<Rules>,
}

#[derive(Debug, Serialize)]
pub struct NearMiss {
    pub rule: String,
    pub lacks: Vec<Lack>,
}

#[derive(Debug, Serialize)]
pub struct Lack {
    pub wanted: String,
    pub seen: String,
}

#[derive(Debug, Serialize)]
pub struct Rules {
    /// Of the whole policy.
    pub total: usize,
    /// Those that the action reaches.
    pub reaching: usize,
    /// Whether an enforced allow is among them.
    pub allow_reaches: bool,
    pub told: Vec<RuleAccount>,
}

#[derive(Debug, Serialize)]
pub struct RuleAccount {
    pub name: String,
    pub effect: &'static str,
    pub mode: &'static str,
    pub owner: Option<String>,
    pub ticket: Option<String>,
    pub outcome: RuleOutcome,
    /// Whether the verdict rests on it.
    pub decided: bool,
    pub conditions: Vec<ConditionAccount>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleOutcome {
    /// A require that reaches the request, and is not fulfilled.
    Unmet,
    /// An allow or a deny.
    Holds,
    Met,
    DoesNotHold,
    /// It speaks of another action.
    OutOfReach,
}

#[derive(Debug, Serialize)]
pub struct ConditionAccount {
    pub condition: &'static str,
    pub holds: bool,
    /// The rule asks for it without saying so.
    pub unspoken: bool,
    pub wanted: String,
    pub seen: String,
}

/// What rules to tell of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those that could have spoken; where no allow could, also allows of which one condition on the action fails.
    Reaching,
    All,
}

impl Account {
    /// The part of it that an answer holds by itself.
    pub fn of(answer: &Answer, asked: String, at: String, policy: &Policy, peer: PeerAccount) -> Account {
        let (reason, record) = (answer.reason(), answer.record());
        let told = match answer {
            Answer::Handshake(refused) => story::handshake(refused),
            Answer::Http(answered) => story::tell(&answered.record),
        };
        let list = |names: fn(&RequestRecord) -> &Vec<String>| record.map(names).cloned().unwrap_or_default();
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Account {
            verdict: answer.verdict(),
            reason,
            also: answer.also().to_vec(),
            in_handshake: matches!(answer, Answer::Handshake(_)),
            status: answer.status().map(|status| status.as_u16()),
            challenge: answer.http().and_then(challenge),
            story: told,
            cause: reason.cause(),
            remedy: reason.remedy(),
            detail: owned(answer.detail()),
            rule: owned(answer.rule()),
            near_miss: record.and_then(|record| record.near_miss.as_ref()).map(NearMiss::of),
            would_allow: list(|record| &record.would_allow),
            would_deny: list(|record| &record.would_deny),
            unenforced: record.map(|record| record.unenforced.clone()).unwrap_or_default(),
            notes: Vec::new(),
            asked,
            at,
            policy: policy.hash().to_string(),
            route: record.and_then(|record| record.action.route.as_ref()).map(ToString::to_string),
            upstream: record.and_then(|record| record.upstream.as_ref()).map(ToString::to_string),
            peer,
            token: None,
            unread: None,
            caller: None,
            rules: None,
        }
    }

    /// Whether a token counts whose signature nobody looked at.
    pub fn is_on_trust(&self) -> bool {
        self.token.as_ref().is_some_and(|token| !token.made_up && !token.signature_checked)
    }
}

fn challenge(answered: &Answered) -> Option<String> {
    let challenge = answered.answer.as_ref()?.headers.get(WWW_AUTHENTICATE)?;
    Some(String::from_utf8_lossy(challenge.as_bytes()).into_owned())
}

impl NearMiss {
    fn of(record: &NearMissRecord) -> NearMiss {
        let pairs = record.lacks.iter().zip(&record.seen);
        let lacks = pairs.map(|(wanted, seen)| Lack { wanted: wanted.clone(), seen: seen.clone() });
        NearMiss { rule: record.rule.clone(), lacks: lacks.collect() }
    }
}

impl Rules {
    pub fn of(reading: &Reading<'_>, decided: &Evidence, which: Which) -> Rules {
        let all: Vec<_> = reading.rules().collect();
        let reaching = all.iter().filter(|rule| rule.reaches()).count();
        let is_allow =
            |rule: &RuleReading<'_>| rule.rule.effect == Effect::Allow && rule.rule.mode == Mode::Enforce;
        let allow_reaches = all.iter().any(|rule| rule.reaches() && is_allow(rule));
        let is_told = |rule: &RuleReading<'_>| {
            let is_close = !allow_reaches && is_allow(rule) && actions_missed(rule) == 1;
            which == Which::All || rule.reaches() || is_close
        };
        let nearest = decided.near_miss.as_ref().map(|near| near.rule);
        let mut told: Vec<_> = all.iter().filter(|rule| is_told(rule)).collect();
        // what decided, then what came close; those out of reach last
        told.sort_by_cached_key(|rule| {
            let lacks = rule.conditions.iter().filter(|condition| !condition.holds).count();
            (Some(rule.id) != decided.rule, Some(rule.id) != nearest, outcome(rule), lacks)
        });
        let told = told.into_iter().map(|rule| RuleAccount {
            decided: Some(rule.id) == decided.rule,
            ..RuleAccount::of(reading, rule)
        });
        Rules { total: all.len(), reaching, allow_reaches, told: told.collect() }
    }
}

impl RuleAccount {
    fn of(reading: &Reading<'_>, read: &RuleReading<'_>) -> RuleAccount {
        let conditions = read.conditions.iter().map(|condition| {
            let words = reading.words(read, condition);
            ConditionAccount {
                condition: condition.key(),
                holds: condition.holds,
                unspoken: condition.is_unspoken(),
                wanted: words.wanted,
                seen: words.seen,
            }
        });
        RuleAccount {
            name: read.rule.name.clone(),
            effect: read.rule.effect.as_str(),
            mode: match read.rule.mode {
                Mode::Enforce => "enforce",
                Mode::Shadow => "shadow",
            },
            owner: read.rule.owner.clone(),
            ticket: read.rule.ticket.clone(),
            outcome: outcome(read),
            decided: false,
            conditions: conditions.collect(),
        }
    }
}

fn outcome(read: &RuleReading<'_>) -> RuleOutcome {
    match read.rule.effect {
        _ if !read.reaches() => RuleOutcome::OutOfReach,
        Effect::Require if read.is_fulfilled() => RuleOutcome::Met,
        Effect::Require => RuleOutcome::Unmet,
        Effect::Allow | Effect::Deny if read.holds() => RuleOutcome::Holds,
        Effect::Allow | Effect::Deny => RuleOutcome::DoesNotHold,
    }
}

fn actions_missed(rule: &RuleReading<'_>) -> usize {
    rule.conditions.iter().filter(|it| it.kind() == Kind::Action && !it.holds).count()
}
