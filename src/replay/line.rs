//! One line of an audit log, read back: what was asked, by whom, and what was decided then.

use std::borrow::Cow;
use std::net::IpAddr;

use http::Method;
use serde::Deserialize;

use super::signers::{CallerLine, PeerLine};
use super::why::Why;
use crate::audit::Reason;
use crate::audit::line::TEXT_BYTES_MAX;
use crate::clock::Timestamp;
use crate::identity::Hop;
use crate::policy::{Host, NormalPath};

/// A line that tells of a request.
#[derive(Debug)]
pub enum Line<'a> {
    Decided(Box<Past<'a>>),
    /// Answered or refused before any decision: that is not for a policy to change.
    Undecided(Undecided<'a>),
}

/// A request that a policy has decided upon.
#[derive(Debug)]
pub struct Past<'a> {
    pub time: Timestamp,
    pub id: Cow<'a, str>,
    pub outcome: Outcome,
    /// The rule that it rested on.
    pub rule: Option<Cow<'a, str>>,
    pub reason: Cow<'a, str>,
    /// The hash of the policy that decided.
    pub policy: Cow<'a, str>,
    pub peer: Option<PeerLine>,
    pub caller: Option<CallerLine>,
    pub method: Method,
    pub host: Host,
    pub path: NormalPath,
    /// Whether its content type was gRPC's.
    pub grpc: bool,
    pub route: Option<Cow<'a, str>>,
    pub peer_ip: Option<IpAddr>,
    pub client_ip: Option<IpAddr>,
    /// Who brought it, whether or not that told whose it was.
    pub hop: Hop,
}

#[derive(Debug)]
pub struct Undecided<'a> {
    pub time: Timestamp,
    pub reason: Cow<'a, str>,
}

/// What a policy makes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    Allowed,
    /// `shadow_until` alone lets it through.
    Unenforced,
    Denied,
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow, default)]
    time: Option<&'a str>,
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    reason: Option<Cow<'a, str>>,
    #[serde(default)]
    rule: Option<Cow<'a, str>>,
    #[serde(default)]
    unenforced: Option<Vec<String>>,
    #[serde(default)]
    checks: Option<Checks>,
    #[serde(default)]
    peer: Option<PeerLine>,
    #[serde(default)]
    caller: Option<CallerLine>,
    #[serde(borrow, default)]
    action: Option<Action<'a>>,
    #[serde(default)]
    connection: Option<Connection>,
    #[serde(default)]
    upstream: Option<Cow<'a, str>>,
    #[serde(default)]
    policy: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Checks {
    peer: String,
    caller: String,
}

#[derive(Deserialize)]
struct Action<'a> {
    #[serde(default)]
    method: Option<Cow<'a, str>>,
    #[serde(default)]
    host: Option<Cow<'a, str>>,
    #[serde(default)]
    path: Option<Cow<'a, str>>,
    #[serde(default)]
    grpc: Option<bool>,
    #[serde(default)]
    route: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Connection {
    peer_ip: Option<IpAddr>,
    client_ip: Option<IpAddr>,
    #[serde(default)]
    hop: Option<HopLine>,
}

#[derive(Deserialize)]
struct HopLine {
    name: String,
}

/// Only what kind of line it is.
#[derive(Deserialize)]
struct Kind {
    event: String,
}

impl Line<'_> {
    /// Reads a line without its line feed.
    ///
    /// # Errors
    /// Why it is no request, or none that can be repeated.
    pub fn read(line: &[u8]) -> Result<Line<'_>, Why> {
        let fields: Fields<'_> = match serde_json::from_slice(line) {
            Ok(fields) => fields,
            // Other events have other fields under the same names.
            Err(_) => {
                return Err(match serde_json::from_slice::<Kind>(line) {
                    Ok(kind) if kind.event != "request" => Why::Event(kind.event),
                    Ok(_) => Why::Form("a field of another type"),
                    Err(_) => Why::NotJson,
                });
            }
        };
        if fields.event != "request" {
            return Err(Why::Event(fields.event.into_owned()));
        }
        let time: Timestamp = fields.time.and_then(|time| time.parse().ok()).ok_or(Why::Form("time"))?;
        let reason = fields.reason.ok_or(Why::Form("reason"))?;
        let Some(policy) = fields.policy else { return Ok(Line::Undecided(Undecided { time, reason })) };
        let checks = fields.checks.ok_or(Why::Form("checks"))?;
        check(&checks.peer, fields.peer.is_some()).ok_or(Why::Form("peer"))?;
        check(&checks.caller, fields.caller.is_some()).ok_or(Why::Form("caller"))?;
        let action = fields.action.ok_or(Why::Form("action"))?;
        let connection = fields.connection.ok_or(Why::Form("connection"))?;
        // Only a permit names where it goes, whatever became of it.
        let outcome = match (fields.upstream, fields.unenforced.ok_or(Why::Form("unenforced"))?.is_empty()) {
            (Some(_), true) => Outcome::Allowed,
            (Some(_), false) => Outcome::Unenforced,
            (None, _) => Outcome::Denied,
        };
        let path = action.path.ok_or(Why::Form("action.path"))?;
        if path.len() > TEXT_BYTES_MAX {
            return Err(Why::Cut("the path"));
        }
        Ok(Line::Decided(Box::new(Past {
            time,
            id: fields.id.ok_or(Why::Form("id"))?,
            outcome,
            rule: fields.rule,
            reason,
            policy,
            peer: fields.peer,
            caller: fields.caller,
            method: method(&action.method.ok_or(Why::Form("action.method"))?)?,
            host: action.host.and_then(|host| host.parse().ok()).ok_or(Why::Form("action.host"))?,
            path: NormalPath::parse(&path).map_err(|_| Why::Form("action.path"))?,
            grpc: action.grpc.ok_or(Why::Form("action.grpc"))?,
            route: action.route,
            peer_ip: connection.peer_ip,
            client_ip: connection.client_ip,
            hop: match connection.hop {
                Some(hop) => Hop::Trusted(hop.name.parse().map_err(|_| Why::Form("connection.hop"))?),
                None => Hop::Direct,
            },
        })))
    }
}

impl Past<'_> {
    /// The decision's own reason, whatever became of the request afterwards.
    pub fn decided_because(&self) -> &str {
        match self.outcome {
            Outcome::Allowed => Reason::Allowed.as_str(),
            Outcome::Unenforced => Reason::Unenforced.as_str(),
            Outcome::Denied => &self.reason,
        }
    }

    /// The same, for longer than its line.
    pub fn into_owned(self) -> Past<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        Past {
            id: owned(self.id),
            rule: self.rule.map(owned),
            reason: owned(self.reason),
            policy: owned(self.policy),
            route: self.route.map(owned),
            ..self
        }
    }
}

/// What is said of a signature that stood before a decision: that it was good, with whose it was, or absent.
fn check(outcome: &str, is_there: bool) -> Option<()> {
    matches!((outcome, is_there), ("ok", true) | ("absent", false)).then_some(())
}

/// As it was judged.
fn method(text: &str) -> Result<Method, Why> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Why::Cut("the method"));
    }
    match text.parse().map_err(|_| Why::Form("action.method"))? {
        // the one CONNECT that gets to a decision is the handshake of a WebSocket (RFC 8441)
        Method::CONNECT => Ok(Method::GET),
        method => Ok(method),
    }
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Allowed => "allow",
            Outcome::Unenforced => "unenforced",
            Outcome::Denied => "deny",
        }
    }
}
