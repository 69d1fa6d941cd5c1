//! What is recorded besides requests: refused handshakes, and changes of what decides.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;
use ulid::Ulid;

use super::Reason;
use super::line::{bounded, bounded_list, write_json};
use super::record::{Verdict, shown};
use super::sink::Record;
use crate::clock::Timestamp;
use crate::identity::{CertificateHash, Name};
use crate::policy::PolicyHash;
use crate::revocation::Counts;

/// Something that happened to the proxy.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Started {
        version: &'static str,
        policy: PolicyHash,
    },
    Stopped,
    /// `old` is absent at the start; rules by name.
    PolicyLoaded {
        old: Option<PolicyHash>,
        new: PolicyHash,
        rules_added: Vec<String>,
        rules_removed: Vec<String>,
    },
    /// `name` is the certificate's place in the configuration, as `identity`.
    CertificateRotated {
        name: String,
        certificate: CertificateHash,
        not_after: Timestamp,
    },
    /// Key ids as the issuer publishes them.
    KeysRotated {
        issuer: Name,
        added: Vec<String>,
        removed: Vec<String>,
    },
    /// The revocation list that is in force from now on, by its entries.
    RevocationLoaded {
        counts: Counts,
        /// Entries that revoke nothing, and why.
        idle: Vec<String>,
    },
}

/// A TLS handshake that was refused.
#[derive(Clone, Debug)]
pub struct RefusedHandshake {
    pub listener: Name,
    pub peer_ip: Option<IpAddr>,
    pub client_ip: Option<IpAddr>,
    pub reason: Reason,
    /// What exactly was wrong.
    pub detail: String,
    /// What the certificate says of itself. Nobody vouches for it.
    pub claimed: Option<Claimed>,
}

/// An unverified certificate's words.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub spiffe_id: Option<String>,
    pub certificate: CertificateHash,
}

/// The fields that every event's line begins with.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Head {
    #[serde(serialize_with = "shown")]
    pub time: Timestamp,
    #[serde(serialize_with = "shown")]
    pub id: Ulid,
    pub proxy: Arc<str>,
}

#[derive(Debug, Serialize)]
pub(super) struct HandshakeRecord {
    event: &'static str,
    #[serde(flatten)]
    head: Head,
    verdict: Verdict,
    reason: Reason,
    detail: String,
    story: String,
    peer: Option<ClaimedRecord>,
    listener: Name,
    peer_ip: Option<IpAddr>,
    client_ip: Option<IpAddr>,
}

#[derive(Debug, Serialize)]
struct ClaimedRecord {
    verified: bool,
    spiffe_id: Option<String>,
    certificate: String,
}

#[derive(Debug, Serialize)]
pub(super) struct EventRecord {
    event: &'static str,
    #[serde(flatten)]
    head: Head,
    story: String,
    #[serde(flatten)]
    fields: EventFields,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum EventFields {
    Started { version: &'static str, policy: String },
    Stopped {},
    PolicyLoaded { old: Option<String>, new: String, rules_added: Vec<String>, rules_removed: Vec<String> },
    CertificateRotated { name: String, certificate: String, not_after: String },
    KeysRotated { issuer: Name, added: Vec<String>, removed: Vec<String> },
    RevocationLoaded { revoked: RevokedRecord, idle: Vec<String> },
}

/// How many of each are revoked.
#[derive(Debug, Serialize)]
struct RevokedRecord {
    tokens: usize,
    subjects: usize,
    clients: usize,
    workloads: usize,
    certificates: usize,
}

impl HandshakeRecord {
    pub(super) fn new(head: Head, refused: &RefusedHandshake) -> HandshakeRecord {
        let peer = refused.claimed.as_ref().map(|claimed| ClaimedRecord {
            verified: false,
            spiffe_id: claimed.spiffe_id.as_deref().map(bounded),
            certificate: claimed.certificate.to_string(),
        });
        HandshakeRecord {
            event: "handshake",
            head,
            verdict: Verdict::Deny,
            reason: refused.reason,
            detail: bounded(&refused.detail),
            story: super::story::handshake(refused),
            peer,
            listener: refused.listener.clone(),
            peer_ip: refused.peer_ip,
            client_ip: refused.client_ip,
        }
    }
}

impl EventRecord {
    pub(super) fn new(head: Head, event: &Event) -> EventRecord {
        let (name, story, fields) = match event {
            Event::Started { version, policy } => (
                "started",
                format!("started version {version} with policy {policy}"),
                EventFields::Started { version, policy: policy.to_string() },
            ),
            Event::Stopped => ("stopped", "stopped".to_owned(), EventFields::Stopped {}),
            Event::PolicyLoaded { old, new, rules_added, rules_removed } => (
                "policy_loaded",
                format!(
                    "policy {new} decides from now on: {} rules added, {} removed",
                    rules_added.len(),
                    rules_removed.len()
                ),
                EventFields::PolicyLoaded {
                    old: old.map(|hash| hash.to_string()),
                    new: new.to_string(),
                    rules_added: bounded_list(rules_added),
                    rules_removed: bounded_list(rules_removed),
                },
            ),
            Event::CertificateRotated { name, certificate, not_after } => (
                "certificate_rotated",
                format!("{name} presents certificate {certificate} from now on, valid until {not_after}"),
                EventFields::CertificateRotated {
                    name: bounded(name),
                    certificate: certificate.to_string(),
                    not_after: not_after.to_string(),
                },
            ),
            Event::KeysRotated { issuer, added, removed } => (
                "keys_rotated",
                format!("{issuer} changed its keys: {} added, {} removed", added.len(), removed.len()),
                EventFields::KeysRotated {
                    issuer: issuer.clone(),
                    added: bounded_list(added),
                    removed: bounded_list(removed),
                },
            ),
            Event::RevocationLoaded { counts, idle } => {
                let Counts { tokens, subjects, clients, workloads, certificates } = *counts;
                let revoked = RevokedRecord { tokens, subjects, clients, workloads, certificates };
                let mut story = format!(
                    "revoked from now on are {tokens} tokens, {subjects} subjects, {clients} clients, \
                     {workloads} workloads and {certificates} certificates"
                );
                let idle = bounded_list(idle);
                if !idle.is_empty() {
                    story += &bounded(&format!("; of the list, {}", idle.join("; ")));
                }
                ("revocation_loaded", story, EventFields::RevocationLoaded { revoked, idle })
            }
        };
        EventRecord { event: name, head, story, fields }
    }
}

impl Record for HandshakeRecord {
    fn write(&self, to: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        write_json(self, to)
    }
}

impl Record for EventRecord {
    fn write(&self, to: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        write_json(self, to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::line::line;
    use crate::audit::record::tests::name;
    use crate::audit::story;

    fn head() -> Head {
        Head {
            time: Timestamp::from_unix_ms(1_700_000_000_123),
            id: Ulid::from_parts(1_700_000_000_123, 7),
            proxy: "orders".into(),
        }
    }

    const HEAD: &str =
        r#""time":"2023-11-14T22:13:20.123Z","id":"01HF7YAT3V0000000000000007","proxy":"orders""#;

    #[test]
    fn a_refused_handshake_says_what_was_claimed_and_that_nobody_vouches_for_it() {
        let certificate = CertificateHash([0; 32]);
        let mut refused = RefusedHandshake {
            listener: name("mesh"),
            peer_ip: Some([192, 0, 2, 1].into()),
            client_ip: None,
            reason: Reason::PeerUntrusted,
            detail: "no configured CA issued it".to_owned(),
            claimed: Some(Claimed { spiffe_id: Some("spiffe://evil/x\n".into()), certificate }),
        };
        let story = r#"somebody who claims to be \"spiffe://evil/x\\n\" (not verified) was refused in the TLS handshake of mesh, because no configured CA vouches for the client certificate (no configured CA issued it)"#;
        let expected = format!(
            concat!(
                r#"{{"event":"handshake",{},"verdict":"deny","reason":"peer_untrusted","detail":"no configured CA issued it","story":"{}","#,
                r#""peer":{{"verified":false,"spiffe_id":"spiffe://evil/x\n","certificate":"sha256:{}"}},"#,
                r#""listener":"mesh","peer_ip":"192.0.2.1","client_ip":null}}"#,
                "\n"
            ),
            HEAD,
            story,
            "00".repeat(32)
        );
        let written = line(&HandshakeRecord::new(head(), &refused)).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), expected);

        (refused.claimed, refused.reason) = (None, Reason::PeerMissing);
        refused.detail = "nothing came".to_owned();
        assert_eq!(
            story::handshake(&refused),
            "somebody was refused in the TLS handshake of mesh, because no client certificate was presented where \
             one is needed (nothing came)"
        );
    }

    #[test]
    fn events_are_these_lines() {
        let hash = PolicyHash([0xab; 32]);
        let hex = "ab".repeat(32);
        let events = [
            (
                Event::Started { version: "1.2.3", policy: hash },
                "started",
                format!(
                    r#""story":"started version 1.2.3 with policy sha256:{hex}","version":"1.2.3","policy":"sha256:{hex}""#
                ),
            ),
            (Event::Stopped, "stopped", r#""story":"stopped""#.to_owned()),
            (
                Event::PolicyLoaded { old: None, new: hash, rules_added: vec!["a\u{1b}".into()], rules_removed: vec![] },
                "policy_loaded",
                format!(
                    r#""story":"policy sha256:{hex} decides from now on: 1 rules added, 0 removed","old":null,"new":"sha256:{hex}","rules_added":["a\u001b"],"rules_removed":[]"#
                ),
            ),
            (
                Event::KeysRotated { issuer: name("corp"), added: vec!["k2".into()], removed: vec![] },
                "keys_rotated",
                r#""story":"corp changed its keys: 1 added, 0 removed","issuer":"corp","added":["k2"],"removed":[]"#
                    .to_owned(),
            ),
            (
                Event::RevocationLoaded {
                    counts: Counts { tokens: 1, workloads: 2, ..Counts::default() },
                    idle: vec!["line 2: it revokes nothing: there is no issuer `crop`".into()],
                },
                "revocation_loaded",
                r#""story":"revoked from now on are 1 tokens, 0 subjects, 0 clients, 2 workloads and 0 certificates; of the list, line 2: it revokes nothing: there is no issuer `crop`","revoked":{"tokens":1,"subjects":0,"clients":0,"workloads":2,"certificates":0},"idle":["line 2: it revokes nothing: there is no issuer `crop`"]"#
                    .to_owned(),
            ),
        ];
        let mut seen = 0;
        for (event, kind, rest) in events {
            let written = String::from_utf8(line(&EventRecord::new(head(), &event)).unwrap()).unwrap();
            assert_eq!(written, format!("{{\"event\":\"{kind}\",{HEAD},{rest}}}\n"));
            seen += 1;
        }
        assert_eq!(seen, 5);
    }
}
