//! The line of a request. What is fixed in it stands here as it is written; every text goes through
//! [`write_text`], which alone knows what is escaped.

use serde::Serialize;
use serde_json::Error;

use super::{ActionRecord, ConnectionRecord, NearMissRecord, RequestRecord};
use crate::audit::line::{write_json, write_text};
use crate::audit::part::Part;
use crate::audit::sink::Record;
use crate::audit::story::tell;
use crate::identity::Name;

/// A line under way. Everything is put down with what stands before it.
struct Line<'a>(&'a mut Vec<u8>);

impl Record for RequestRecord {
    fn write(&self, to: &mut Vec<u8>) -> Result<(), Error> {
        let mut line = Line(to);
        line.text(r#"{"event":"request","time":"#, &self.time.to_string())?;
        line.text(r#","id":"#, self.id.array_to_str(&mut [0; ulid::ULID_LEN]))?;
        line.text(r#","proxy":"#, &self.proxy)?;
        line.text(r#","verdict":"#, self.verdict.as_str())?;
        line.text(r#","reason":"#, self.reason.as_str())?;
        line.texts(r#","also":["#, self.also.iter().map(|reason| reason.as_str()))?;
        line.optional(r#","detail":"#, self.detail.as_deref())?;
        line.optional(r#","rule":"#, self.rule.as_deref())?;
        line.optional(r#","owner":"#, self.owner.as_deref())?;
        line.optional(r#","ticket":"#, self.ticket.as_deref())?;
        line.near_miss(r#","near_miss":"#, self.near_miss.as_ref())?;
        line.texts(r#","would_allow":["#, self.would_allow.iter().map(String::as_str))?;
        line.texts(r#","would_deny":["#, self.would_deny.iter().map(String::as_str))?;
        line.texts(r#","unenforced":["#, self.unenforced.iter().map(|reason| reason.as_str()))?;
        line.text(r#","story":"#, &tell(self))?;
        line.text(r#","checks":{"peer":"#, self.checks.peer.as_str())?;
        line.text(r#","caller":"#, self.checks.caller.as_str())?;
        line.part(r#"},"peer":"#, self.peer.as_ref())?;
        line.part(r#","caller":"#, self.caller.as_ref())?;
        line.action(&self.action)?;
        line.connection(&self.connection)?;
        line.value(r#","status":"#, &self.status)?;
        line.optional(r#","upstream":"#, self.upstream.as_ref().map(Name::as_str))?;
        line.value(r#","request_bytes":"#, &self.request_bytes)?;
        line.value(r#","response_bytes":"#, &self.response_bytes)?;
        line.optional(r#","policy":"#, self.policy.as_deref())?;
        line.value(r#","cache":"#, &self.cache)?;
        line.value(r#","decision_us":"#, &self.decision_us)?;
        line.value(r#","total_us":"#, &self.total_us)?;
        line.optional(r#","trace":"#, self.trace.as_deref())?;
        line.fixed("}");
        Ok(())
    }
}

impl Line<'_> {
    fn fixed(&mut self, json: &'static str) {
        self.0.extend_from_slice(json.as_bytes());
    }

    fn text(&mut self, before: &'static str, text: &str) -> Result<(), Error> {
        self.fixed(before);
        write_text(text, self.0)
    }

    fn optional(&mut self, before: &'static str, text: Option<&str>) -> Result<(), Error> {
        self.fixed(before);
        match text {
            Some(text) => write_text(text, self.0)?,
            None => self.fixed("null"),
        }
        Ok(())
    }

    /// A list, from its bracket.
    fn texts<'t>(&mut self, before: &'static str, texts: impl Iterator<Item = &'t str>) -> Result<(), Error> {
        self.fixed(before);
        for (at, text) in texts.enumerate() {
            self.text(if at == 0 { "" } else { "," }, text)?;
        }
        self.fixed("]");
        Ok(())
    }

    /// A number, an address or a word of ours.
    fn value(&mut self, before: &'static str, value: &impl Serialize) -> Result<(), Error> {
        self.fixed(before);
        write_json(value, self.0)
    }

    fn part<T: Serialize>(&mut self, before: &'static str, part: Option<&Part<T>>) -> Result<(), Error> {
        self.fixed(before);
        match part {
            Some(part) => part.write(self.0)?,
            None => self.fixed("null"),
        }
        Ok(())
    }

    fn near_miss(&mut self, before: &'static str, near: Option<&NearMissRecord>) -> Result<(), Error> {
        self.fixed(before);
        let Some(NearMissRecord { rule, lacks, seen }) = near else {
            self.fixed("null");
            return Ok(());
        };
        self.text(r#"{"rule":"#, rule)?;
        self.text(r#","lacks":"#, &lacks.join("; "))?;
        self.text(r#","seen":"#, &seen.join("; "))?;
        self.fixed("}");
        Ok(())
    }

    fn action(&mut self, action: &ActionRecord) -> Result<(), Error> {
        self.optional(r#","action":{"method":"#, action.method.as_deref())?;
        self.optional(r#","host":"#, action.host.as_deref())?;
        self.optional(r#","path":"#, action.path.as_deref())?;
        self.optional(r#","route":"#, action.route.as_ref().map(Name::as_str))?;
        self.fixed("}");
        Ok(())
    }

    fn connection(&mut self, connection: &ConnectionRecord) -> Result<(), Error> {
        self.text(r#","connection":{"listener":"#, connection.listener.as_str())?;
        self.text(r#","protocol":"#, connection.protocol.as_str())?;
        self.value(r#","peer_ip":"#, &connection.peer_ip)?;
        self.value(r#","client_ip":"#, &connection.client_ip)?;
        self.fixed("}");
        Ok(())
    }
}
