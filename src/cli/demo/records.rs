//! Reads the proxy's own audit file while it is being written.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

/// What the demo tells of a record.
#[derive(Clone, Debug, Deserialize)]
pub struct Record {
    pub event: String,
    pub id: String,
    pub story: String,
    /// `allow` or `deny`, of requests and handshakes.
    #[serde(default)]
    pub verdict: Option<String>,
    #[serde(default)]
    pub reason: Option<String>,
}

/// The records of an audit file, in the order in which they were written.
#[derive(Debug)]
pub struct Records {
    file: BufReader<File>,
    /// The start of a line whose end is not written yet.
    begun: String,
}

/// Why a record was not found.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("the audit file cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("the audit file holds a line that is no record: {0}")]
    Shape(#[from] serde_json::Error),
    #[error("the audit file has no record of it after {} s", PATIENCE.as_secs())]
    Missing,
}

/// How long a record may take to be written.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the file is looked at.
const INTERVAL: Duration = Duration::from_millis(10);

impl Record {
    pub fn is_allowed(&self) -> bool {
        self.verdict.as_deref() == Some("allow")
    }

    /// Whether it is about somebody who wanted something, not about the proxy itself.
    pub fn is_decision(&self) -> bool {
        matches!(self.event.as_str(), "request" | "handshake")
    }
}

impl Records {
    pub fn open(path: &Path) -> Result<Records, RecordError> {
        Ok(Records { file: BufReader::new(File::open(path)?), begun: String::new() })
    }

    /// The next record for which `wanted` holds; those before it are skipped.
    pub async fn find(&mut self, wanted: impl Fn(&Record) -> bool) -> Result<Record, RecordError> {
        let search = async {
            loop {
                let record = self.next().await?;
                if wanted(&record) {
                    return Ok(record);
                }
            }
        };
        tokio::time::timeout(PATIENCE, search).await.unwrap_or(Err(RecordError::Missing))
    }

    /// The next record, as soon as it is there.
    pub async fn next(&mut self) -> Result<Record, RecordError> {
        loop {
            self.file.read_line(&mut self.begun)?;
            if self.begun.ends_with('\n') {
                let record = serde_json::from_str(&self.begun);
                self.begun.clear();
                return Ok(record?);
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_counts_once_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let mut file = File::create(&path).unwrap();
        let mut records = Records::open(&path).unwrap();
        file.write_all(br#"{"event":"started","id":"1","story":"started"}"#).unwrap();
        let missing = records.find(|_| true).await;
        assert!(matches!(missing, Err(RecordError::Missing)), "{missing:?}");
        file.write_all(b"\n{\"event\":\"request\",\"id\":\"2\",\"story\":\"s\",\"verdict\":\"deny\",\"reason\":\"no_rule\"}\n")
            .unwrap();
        let record = records.find(Record::is_decision).await.unwrap();
        assert_eq!(
            (record.id.as_str(), record.reason.as_deref(), record.is_allowed()),
            ("2", Some("no_rule"), false)
        );
    }
}
