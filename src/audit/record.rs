//! What is written down: the record of a request, field by field as it stands in the line.
//!
//! Allow and deny have the same fields; what is absent is `null` or an empty list. Nothing here can
//! hold a token, a cookie, a key or a query: there is no field for one.

mod json;
mod signers;

pub use signers::{CallerRecord, PeerRecord, Signers, hashed};

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use ulid::Ulid;

use super::Reason;
use super::part::Part;
use crate::clock::Timestamp;
use crate::identity::{CertificateHash, Name};
use crate::metrics::{Label, Lookup};
use crate::policy::Host;

/// One line for one request.
#[derive(Clone, Debug)]
pub struct RequestRecord {
    /// When the request's head was complete.
    pub time: Timestamp,
    pub id: Ulid,
    pub proxy: Arc<str>,
    pub verdict: Verdict,
    pub reason: Reason,
    /// Where several reasons apply, all of them; else empty.
    pub also: Vec<Reason>,
    /// What exactly was wrong with what was presented, or went wrong upstream; never a secret.
    pub detail: Option<String>,
    /// The allow that permitted, or the deny or require that denied; `owner` and `ticket` are its.
    pub rule: Option<String>,
    pub owner: Option<String>,
    pub ticket: Option<String>,
    pub near_miss: Option<NearMissRecord>,
    /// Rules in shadow mode that would have allowed, or denied.
    pub would_allow: Vec<String>,
    pub would_deny: Vec<String>,
    /// Why it would have been denied if `shadow_until` had not let it through.
    pub unenforced: Vec<Reason>,
    pub checks: Checks,
    pub peer: Option<Part<PeerRecord>>,
    pub caller: Option<Part<CallerRecord>>,
    pub action: ActionRecord,
    pub connection: ConnectionRecord,
    /// Of the answer's head; absent if there was none.
    pub status: Option<u16>,
    pub upstream: Option<Name>,
    /// Body bytes.
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// The hash of the policy that decided.
    pub policy: Option<Arc<str>>,
    /// The hash of the policy under which it was permitted no longer while it streamed.
    pub ended_by: Option<Arc<str>>,
    /// Whether the decision cache had the standing.
    pub cache: Option<Lookup>,
    pub decision_us: Option<u64>,
    /// From the request's head to the end of its answer.
    pub total_us: u64,
    /// W3C `traceparent`: as sent upstream, or of a refused request as it came.
    pub trace: Option<String>,
}

/// Whether the request was passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Allow,
    Deny,
}

/// What became of both signatures, whichever failed first.
#[derive(Clone, Copy, Debug)]
pub struct Checks {
    pub peer: Check,
    pub caller: Check,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    Ok,
    Absent,
    NotReached,
    Failed(Reason),
}

/// The nearest rule; several failing conditions are joined with `; `.
#[derive(Clone, Debug, PartialEq)]
pub struct NearMissRecord {
    pub rule: String,
    /// As `role order-reader: scope orders:read or group support`.
    pub lacks: Vec<String>,
    /// As `the token has scope orders:write`.
    pub seen: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ActionRecord {
    /// Absent if the head could not be read.
    pub method: Option<String>,
    /// In normal form; absent if there is none.
    pub host: Option<Host>,
    pub path: Option<String>,
    /// Whether its content type is gRPC's.
    pub grpc: bool,
    pub route: Option<Name>,
}

/// How the request came.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionRecord {
    pub listener: Name,
    pub protocol: Protocol,
    /// The other end of the connection, and the client as trusted hops tell it.
    pub peer_ip: Option<IpAddr>,
    pub client_ip: Option<IpAddr>,
    /// The trusted hop at the other end, where it tells who its clients are.
    pub hop: Option<HopRecord>,
}

/// A hop that is not who asks.
#[derive(Clone, Debug, PartialEq)]
pub struct HopRecord {
    pub name: Name,
    /// Its own, if it has shown one.
    pub certificate: Option<CertificateHash>,
}

/// What the client spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http10,
    Http11,
    Http2,
}

impl Check {
    pub fn as_str(self) -> &'static str {
        match self {
            Check::Ok => "ok",
            Check::Absent => "absent",
            Check::NotReached => "not_reached",
            Check::Failed(reason) => reason.as_str(),
        }
    }
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Http10 => "http/1.0",
            Protocol::Http11 => "http/1.1",
            Protocol::Http2 => "h2",
        }
    }
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
        }
    }
}

impl Label for Verdict {
    const COUNT: usize = 2;

    fn all() -> Vec<Verdict> {
        vec![Verdict::Allow, Verdict::Deny]
    }

    fn labels(self) -> Vec<(&'static str, &'static str)> {
        vec![("verdict", self.as_str())]
    }

    fn position(self) -> usize {
        self as usize
    }
}

/// Serializes what [`fmt::Display`] shows.
pub(super) fn shown<S: Serializer>(value: &impl fmt::Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::audit::sink::{Output, Sink, SinkSettings};
    use crate::audit::{Audit, Record as _};
    use crate::clock::Clock;
    use crate::identity::ActorKind;
    use crate::metrics::Metrics;

    pub fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    /// With a queue of one record.
    pub fn audit_to(output: Output, required: bool) -> Audit {
        let metrics = Arc::new(Metrics::new());
        let settings = SinkSettings { output, required, queue_records_max: 1, wait_max: Duration::ZERO };
        let sink = Sink::start(settings, Arc::clone(&metrics)).unwrap();
        let clock = Clock::manual(Timestamp::from_unix_seconds(1_700_000_000));
        Audit::new(&name("orders"), clock, sink, metrics)
    }

    /// All that was recorded, once it is written.
    pub fn lines(audit: &Audit, path: &Path) -> Vec<serde_json::Value> {
        audit.sink().close(Duration::from_secs(20)).unwrap();
        fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The denial of the contract's example.
    pub fn denied() -> RequestRecord {
        RequestRecord {
            time: Timestamp::from_unix_ms(1_700_000_000_123),
            id: Ulid::from_parts(1_700_000_000_123, 7),
            proxy: "orders".into(),
            verdict: Verdict::Deny,
            reason: Reason::ScopeMissing,
            also: Vec::new(),
            detail: None,
            rule: None,
            owner: None,
            ticket: None,
            near_miss: Some(NearMissRecord {
                rule: "people read their own orders through the storefront".into(),
                lacks: vec!["role order-reader: scope orders:read or group support".into()],
                seen: vec!["the token has scope orders:write".into()],
            }),
            would_allow: Vec::new(),
            would_deny: Vec::new(),
            unenforced: Vec::new(),
            checks: Checks { peer: Check::Ok, caller: Check::Ok },
            peer: Some(Part::new(PeerRecord {
                service: Some("storefront".into()),
                spiffe_id: Some("spiffe://shop.example/ns/prod/sa/storefront".into()),
                dns_names: Vec::new(),
                trust_domain: "shop.example".into(),
                certificate: "sha256:00ff".into(),
                hop: "direct".into(),
            })),
            caller: Some(Part::new(CallerRecord {
                issuer: name("corp"),
                subject: Some("alice".into()),
                client: Some("storefront-web".into()),
                actor: ActorKind::Human,
                on_behalf_of: ActorKind::Human,
                chain: Vec::new(),
                subject_issuer: None,
                via: Vec::new(),
                roles: Vec::new(),
                scopes: vec!["orders:write".into()],
                groups: Vec::new(),
                token_roles: Vec::new(),
                acr: None,
                auth_time: Some("2023-11-14T22:00:00.000Z".into()),
                bound: "none",
                claims: serde_json::Map::from_iter([("sub".to_owned(), "alice".into())]),
                redacted: Vec::new(),
            })),
            action: ActionRecord {
                method: Some("GET".into()),
                host: Some("orders.shop.example".parse().unwrap()),
                path: Some("/customers/alice/orders/7".into()),
                grpc: false,
                route: Some(name("orders")),
            },
            connection: ConnectionRecord {
                listener: name("mesh"),
                protocol: Protocol::Http2,
                peer_ip: Some([192, 0, 2, 1].into()),
                client_ip: Some([192, 0, 2, 1].into()),
                hop: None,
            },
            status: Some(403),
            upstream: None,
            request_bytes: 0,
            response_bytes: 154,
            policy: Some("sha256:ab".into()),
            ended_by: None,
            cache: Some(Lookup::Hit),
            decision_us: Some(3),
            total_us: 212,
            trace: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        }
    }

    /// The same request, with the scope that was missing.
    pub fn allowed() -> RequestRecord {
        let mut record = RequestRecord {
            verdict: Verdict::Allow,
            reason: Reason::Allowed,
            rule: Some("people read their own orders through the storefront".into()),
            owner: Some("team-orders".into()),
            near_miss: None,
            status: Some(200),
            upstream: Some(name("orders")),
            ..denied()
        };
        record.caller = record.caller.map(|caller| {
            let (roles, scopes) = (vec![name("order-reader")], vec!["orders:read".into()]);
            Part::new(CallerRecord { roles, scopes, ..CallerRecord::clone(&caller) })
        });
        record
    }

    fn line(record: &RequestRecord) -> String {
        let mut line = Vec::new();
        record.write(&mut line).unwrap();
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_denial_is_this_line() {
        let expected = concat!(
            r#"{"event":"request","time":"2023-11-14T22:13:20.123Z","id":"01HF7YAT3V0000000000000007","#,
            r#""proxy":"orders","verdict":"deny","reason":"scope_missing","also":[],"detail":null,"rule":null,"owner":null,"#,
            r#""ticket":null,"near_miss":{"rule":"people read their own orders through the storefront","#,
            r#""lacks":"role order-reader: scope orders:read or group support","#,
            r#""seen":"the token has scope orders:write"},"would_allow":[],"would_deny":[],"unenforced":[],"#,
            r#""story":"storefront, for alice@corp (human), asked to GET /customers/alice/orders/7 on orders: "#,
            r#"denied, because no rule allows it; the nearest needs scope orders:read or group support, and "#,
            r#"the token has scope orders:write","checks":{"peer":"ok","caller":"ok"},"#,
            r#""peer":{"service":"storefront","spiffe_id":"spiffe://shop.example/ns/prod/sa/storefront","#,
            r#""dns_names":[],"trust_domain":"shop.example","certificate":"sha256:00ff","hop":"direct"},"#,
            r#""caller":{"issuer":"corp","subject":"alice","client":"storefront-web","actor":"human","#,
            r#""on_behalf_of":"human","chain":[],"subject_issuer":null,"via":[],"roles":[],"scopes":["orders:write"],"groups":[],"#,
            r#""token_roles":[],"acr":null,"auth_time":"2023-11-14T22:00:00.000Z","bound":"none","claims":{"sub":"alice"},"redacted":[]},"#,
            r#""action":{"method":"GET","host":"orders.shop.example","path":"/customers/alice/orders/7","#,
            r#""grpc":false,"route":"orders"},"connection":{"listener":"mesh","protocol":"h2","peer_ip":"192.0.2.1","#,
            r#""client_ip":"192.0.2.1","hop":null},"status":403,"upstream":null,"request_bytes":0,"response_bytes":154,"#,
            r#""policy":"sha256:ab","ended_by":null,"cache":"hit","decision_us":3,"total_us":212,"#,
            r#""trace":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}"#,
        );
        assert_eq!(line(&denied()), expected);
    }

    #[test]
    fn an_allow_is_this_line_with_the_same_fields() {
        let written = line(&allowed());
        let expected = concat!(
            r#"{"event":"request","time":"2023-11-14T22:13:20.123Z","id":"01HF7YAT3V0000000000000007","#,
            r#""proxy":"orders","verdict":"allow","reason":"allowed","also":[],"detail":null,"#,
            r#""rule":"people read their own orders through the storefront","owner":"team-orders","#,
            r#""ticket":null,"near_miss":null,"would_allow":[],"would_deny":[],"unenforced":[],"#,
            r#""story":"storefront, for alice@corp (human), asked to GET /customers/alice/orders/7 on orders: "#,
            r#"allowed by \"people read their own orders through the storefront\"","#,
        );
        assert_eq!(&written[..expected.len()], expected);
        let fields = |record: &RequestRecord| match serde_json::from_str(&line(record)).unwrap() {
            serde_json::Value::Object(fields) => fields.keys().cloned().collect::<Vec<_>>(),
            other => panic!("{other}"),
        };
        assert_eq!(fields(&allowed()), fields(&denied()));
        assert_eq!(fields(&allowed()).len(), 31);
    }
}
