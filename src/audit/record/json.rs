//! The line of a request. What is fixed in it stands here as it is written; every text goes through
//! [`write_text`].

use std::net::IpAddr;

use serde::Serialize;
use serde_json::Error;

use super::{ActionRecord, ConnectionRecord, NearMissRecord, RequestRecord};
use crate::audit::line::{write_number, write_text};
use crate::audit::part::Part;
use crate::audit::sink::Record;
use crate::audit::story::tell;
use crate::identity::Name;
use crate::metrics::Lookup;
use crate::policy::Host;

/// A line under way. Everything is put down with what stands before it.
struct Line<'a>(&'a mut Vec<u8>);

impl Record for RequestRecord {
    fn write(&self, to: &mut Vec<u8>) -> Result<(), Error> {
        let mut line = Line(to);
        line.fixed(r#"{"event":"request","time":""#);
        line.0.extend_from_slice(&self.time.rfc3339());
        line.text(r#"","id":"#, self.id.array_to_str(&mut [0; ulid::ULID_LEN]));
        line.text(r#","proxy":"#, &self.proxy);
        line.word(r#","verdict":""#, self.verdict.as_str());
        line.word(r#"","reason":""#, self.reason.as_str());
        line.texts(r#"","also":["#, self.also.iter().map(|reason| reason.as_str()));
        line.optional(r#","detail":"#, self.detail.as_deref());
        line.optional(r#","rule":"#, self.rule.as_deref());
        line.optional(r#","owner":"#, self.owner.as_deref());
        line.optional(r#","ticket":"#, self.ticket.as_deref());
        line.near_miss(r#","near_miss":"#, self.near_miss.as_ref());
        line.texts(r#","would_allow":["#, self.would_allow.iter().map(String::as_str));
        line.texts(r#","would_deny":["#, self.would_deny.iter().map(String::as_str));
        line.texts(r#","unenforced":["#, self.unenforced.iter().map(|reason| reason.as_str()));
        line.text(r#","story":"#, &tell(self));
        line.word(r#","checks":{"peer":""#, self.checks.peer.as_str());
        line.word(r#"","caller":""#, self.checks.caller.as_str());
        line.part(r#""},"peer":"#, self.peer.as_ref())?;
        line.part(r#","caller":"#, self.caller.as_ref())?;
        line.action(&self.action);
        line.connection(&self.connection);
        line.number(r#","status":"#, self.status.map(u64::from));
        line.optional(r#","upstream":"#, self.upstream.as_ref().map(Name::as_str));
        line.number(r#","request_bytes":"#, Some(self.request_bytes));
        line.number(r#","response_bytes":"#, Some(self.response_bytes));
        line.optional(r#","policy":"#, self.policy.as_deref());
        line.optional(r#","ended_by":"#, self.ended_by.as_deref());
        line.optional(r#","cache":"#, self.cache.map(Lookup::as_str));
        line.number(r#","decision_us":"#, self.decision_us);
        line.number(r#","total_us":"#, Some(self.total_us));
        line.optional(r#","trace":"#, self.trace.as_deref());
        line.fixed("}");
        Ok(())
    }
}

impl Line<'_> {
    fn fixed(&mut self, json: &'static str) {
        self.0.extend_from_slice(json.as_bytes());
    }

    fn text(&mut self, before: &'static str, text: &str) {
        self.fixed(before);
        write_text(text, self.0);
    }

    /// One of ours, between whose quotes nothing is escaped.
    fn word(&mut self, before: &'static str, word: &'static str) {
        self.fixed(before);
        self.fixed(word);
    }

    fn optional(&mut self, before: &'static str, text: Option<&str>) {
        match text {
            Some(text) => self.text(before, text),
            None => self.null(before),
        }
    }

    fn null(&mut self, before: &'static str) {
        self.word(before, "null");
    }

    /// A list, after its bracket.
    fn texts<'t>(&mut self, before: &'static str, texts: impl Iterator<Item = &'t str>) {
        self.fixed(before);
        for (at, text) in texts.enumerate() {
            self.text(if at == 0 { "" } else { "," }, text);
        }
        self.fixed("]");
    }

    fn number(&mut self, before: &'static str, number: Option<u64>) {
        match number {
            Some(number) => {
                self.fixed(before);
                write_number(number, self.0);
            }
            None => self.null(before),
        }
    }

    fn address(&mut self, before: &'static str, ip: Option<IpAddr>) {
        let Some(ip) = ip else { return self.null(before) };
        self.fixed(before);
        self.fixed("\"");
        match ip {
            IpAddr::V4(ip) => {
                for (at, octet) in ip.octets().into_iter().enumerate() {
                    self.fixed(if at == 0 { "" } else { "." });
                    write_number(octet.into(), self.0);
                }
            }
            IpAddr::V6(ip) => self.0.extend_from_slice(ip.to_string().as_bytes()),
        }
        self.fixed("\"");
    }

    fn part<T: Serialize>(&mut self, before: &'static str, part: Option<&Part<T>>) -> Result<(), Error> {
        match part {
            Some(part) => {
                self.fixed(before);
                part.write(self.0)?;
            }
            None => self.null(before),
        }
        Ok(())
    }

    fn near_miss(&mut self, before: &'static str, near: Option<&NearMissRecord>) {
        let Some(NearMissRecord { rule, lacks, seen }) = near else { return self.null(before) };
        self.fixed(before);
        self.text(r#"{"rule":"#, rule);
        self.text(r#","lacks":"#, &lacks.join("; "));
        self.text(r#","seen":"#, &seen.join("; "));
        self.fixed("}");
    }

    fn action(&mut self, action: &ActionRecord) {
        self.optional(r#","action":{"method":"#, action.method.as_deref());
        self.optional(r#","host":"#, action.host.as_ref().map(Host::as_str));
        self.optional(r#","path":"#, action.path.as_deref());
        self.word(r#","grpc":"#, if action.grpc { "true" } else { "false" });
        self.optional(r#","route":"#, action.route.as_ref().map(Name::as_str));
        self.fixed("}");
    }

    fn connection(&mut self, connection: &ConnectionRecord) {
        self.text(r#","connection":{"listener":"#, connection.listener.as_str());
        self.word(r#","protocol":""#, connection.protocol.as_str());
        self.address(r#"","peer_ip":"#, connection.peer_ip);
        self.address(r#","client_ip":"#, connection.client_ip);
        self.fixed("}");
    }
}
