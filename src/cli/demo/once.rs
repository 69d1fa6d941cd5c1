//! `--once`: asks every request, and compares what came with what was said of it. The answer is taken
//! from the wire, the reason and its story from the audit file.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::DemoError;
use super::client::{Reply, ask};
use super::records::Records;
use super::requests::{Answer, Line, lines};
use super::stage::Stage;
use crate::cli::ink::Ink;

/// A line and what became of it.
pub struct Outcome {
    /// From 1.
    number: usize,
    line: Line,
    /// What came, or why nothing did.
    came: Result<Came, String>,
}

/// What came of a request.
struct Came {
    answer: Answer,
    upstream: Option<String>,
    reason: String,
    story: String,
}

/// Asks all lines, one after the other.
pub async fn ask_all(stage: &Stage) -> Result<Vec<Outcome>, DemoError> {
    let mut records = stage.records()?;
    let mut outcomes = Vec::new();
    for (number, line) in (1..).zip(lines()) {
        let token = line.login.map(|login| stage.token(login)).transpose()?;
        let came = come(stage, &line, token.as_deref(), &mut records).await;
        outcomes.push(Outcome { number, line, came });
    }
    Ok(outcomes)
}

async fn come(
    stage: &Stage,
    line: &Line,
    token: Option<&str>,
    records: &mut Records,
) -> Result<Came, String> {
    let reply = ask(stage.proxy, stage.folder.path(), line, token, &stage.clock).await;
    let (answer, upstream, record) = match reply.map_err(|error| error.to_string())? {
        Reply::Alert(alert) => {
            let record = records.find(|record| record.event == "handshake").await;
            (Answer::Alert(alert), None, record)
        }
        Reply::Http(answered) => {
            let id = answered.decision.ok_or("the answer names no decision")?;
            let record = records.find(|record| record.event == "request" && record.id == id).await;
            (Answer::Status(answered.status.as_u16()), answered.upstream, record)
        }
    };
    let record = record.map_err(|error| error.to_string())?;
    let reason = record.reason.ok_or("the record has no reason")?;
    Ok(Came { answer, upstream, reason, story: record.story })
}

impl Outcome {
    /// In what it is not as it was said to be.
    fn faults(&self) -> Vec<String> {
        let came = match &self.came {
            Ok(came) => came,
            Err(why) => return vec![why.clone()],
        };
        let shown = |upstream: Option<&str>| upstream.unwrap_or("none").to_owned();
        [
            ("answer", self.line.answer.to_string(), came.answer.to_string()),
            ("reason", self.line.reason.as_str().to_owned(), came.reason.clone()),
            ("upstream", shown(self.line.upstream), shown(came.upstream.as_deref())),
        ]
        .into_iter()
        .filter(|(_, said, came)| said != came)
        .map(|(what, said, came)| format!("{what} {came} instead of {said}"))
        .collect()
    }

    fn to_text(&self, ink: Ink) -> String {
        let Line { title, workload, login, method, path, .. } = &self.line;
        let with = |name: Option<&str>, what: &str| match name {
            Some(name) => format!("{what} {name}"),
            None => format!("no {what}"),
        };
        let mut text = format!(
            "{}\n    {method} {path}, {}, {}\n",
            ink.bold(&format!("{:2}. {title}", self.number)),
            with(workload.map(|it| it.name()), "certificate"),
            with(login.map(|it| it.name()), "token"),
        );
        let faults = self.faults();
        if let Ok(Came { answer, upstream, reason, story }) = &self.came {
            let verdict = format!("{answer}, {reason}");
            let by = upstream.as_ref().map(|name| format!(", answered by {name}")).unwrap_or_default();
            let verdict = if faults.is_empty() { ink.green(&verdict) } else { ink.red(&verdict) };
            let _ = writeln!(text, "    {verdict}{by}\n    {story}");
        }
        for fault in faults {
            let _ = writeln!(text, "    {}", ink.red(&format!("NOT AS SAID: {fault}")));
        }
        text
    }

    fn to_json(&self) -> Value {
        let Line { title, workload, login, method, path, answer, reason, upstream } = &self.line;
        let came = self.came.as_ref().ok().map(|came| {
            let Came { answer, upstream, reason, story } = came;
            json!({ "answer": answer.to_string(), "reason": reason, "upstream": upstream, "story": story })
        });
        json!({
            "line": self.number,
            "title": title,
            "asked": {
                "certificate": workload.map(|it| it.name()),
                "token": login.map(|it| it.name()),
                "method": method.as_str(),
                "path": path,
            },
            "said": { "answer": answer.to_string(), "reason": reason.as_str(), "upstream": upstream },
            "came": came,
            "faults": self.faults(),
        })
    }
}

/// Whether each is as said.
pub fn all_as_said(outcomes: &[Outcome]) -> bool {
    !outcomes.is_empty() && outcomes.iter().all(|outcome| outcome.faults().is_empty())
}

pub fn to_text(outcomes: &[Outcome], ink: Ink) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        let _ = writeln!(text, "{}", outcome.to_text(ink));
    }
    let wrong: Vec<_> = outcomes.iter().filter(|outcome| !outcome.faults().is_empty()).collect();
    if all_as_said(outcomes) {
        let _ = writeln!(text, "{}", ink.green(&format!("all {} requests ended as said", outcomes.len())));
    } else {
        let count = format!("{} of {} requests did not end as said:", wrong.len(), outcomes.len());
        let _ = writeln!(text, "{}", ink.red(&count));
        for outcome in wrong {
            let _ = writeln!(
                text,
                "{:4}. {}: {}",
                outcome.number,
                outcome.line.title,
                outcome.faults().join("; ")
            );
        }
    }
    text
}

pub fn to_json(outcomes: &[Outcome]) -> String {
    let lines: Vec<_> = outcomes.iter().map(Outcome::to_json).collect();
    format!("{:#}\n", json!({ "as_said": all_as_said(outcomes), "lines": lines }))
}
