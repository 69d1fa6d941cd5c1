//! One record per request, for allow and deny alike, and a record for whatever changes how requests
//! are judged.
//!
//! [`Audit::begin`] opens a [`Draft`], which cannot be lost: it is written when it is finished or
//! dropped. A record goes to the [`Sink`] as one line of JSON that no recorded text can break.

pub mod draft;
pub mod event;
pub mod line;
pub mod part;
pub mod reason;
pub mod record;
mod shadow;
pub mod sink;
pub mod story;
mod writer;

pub use draft::{Arrival, Cut, Draft};
pub use event::{Claimed, Event, RefusedHandshake};
pub use part::Part;
pub use reason::Reason;
pub use record::{Protocol, Signers, Verdict};
pub use sink::{AuditUnavailable, Output, Record, Sink, SinkSettings};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use ulid::Ulid;

use crate::clock::Clock;
use crate::identity::Name;
use crate::metrics::{CounterBy, Metrics};
use event::{EventRecord, HandshakeRecord, Head};
use shadow::ShadowOutcome;

/// Writes records, and counts what they say. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Audit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    proxy: Arc<str>,
    clock: Clock,
    sink: Sink,
    metrics: Arc<Metrics>,
    requests: CounterBy<(Verdict, Reason)>,
    handshakes_refused: CounterBy<Reason>,
    shadow: CounterBy<ShadowOutcome>,
    /// What ends from now on without an end of its own was cut by us.
    is_cut: AtomicBool,
}

impl Audit {
    /// `proxy` is this instance's name in every record.
    pub fn new(proxy: &Name, clock: Clock, sink: Sink, metrics: Arc<Metrics>) -> Audit {
        let requests = metrics.counter_by("requests", "Requests by verdict and reason");
        let handshakes_refused =
            metrics.counter_by("tls_handshakes_refused", "TLS handshakes refused by reason");
        let shadow =
            metrics.counter_by("shadow_outcomes", "What rules and routes in shadow made of requests");
        let proxy = proxy.as_str().into();
        let is_cut = AtomicBool::new(false);
        Audit(Arc::new(Inner { proxy, clock, sink, metrics, requests, handshakes_refused, shadow, is_cut }))
    }

    /// The drain is over: requests that are dropped after this were not left by their clients.
    pub fn cut(&self) {
        self.0.is_cut.store(true, Ordering::Relaxed);
    }

    /// Opens the record of a request whose head is complete.
    pub fn begin(&self, arrival: Arrival<'_>) -> Draft {
        Draft::new(self.clone(), arrival)
    }

    /// Records something that happened to the proxy.
    pub fn event(&self, event: &Event) {
        self.0.sink.slot().send(Box::new(EventRecord::new(self.head(), event)));
    }

    /// Records and counts a TLS handshake that was refused, once there is room for that.
    pub async fn handshake_refused(&self, refused: &RefusedHandshake) {
        self.0.handshakes_refused.inc(refused.reason);
        let record = Box::new(HandshakeRecord::new(self.head(), refused));
        self.0.sink.await_refusal().await.send(record);
    }

    /// The output of all records, for reopening and closing it.
    pub fn sink(&self) -> &Sink {
        &self.0.sink
    }

    fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    fn head(&self) -> Head {
        let time = self.0.clock.now();
        let ms = u64::try_from(time.unix_ms()).unwrap_or(0);
        let id = Ulid::from_parts(ms, Ulid::from_datetime(UNIX_EPOCH).random());
        Head { time, id, proxy: Arc::clone(&self.0.proxy) }
    }

    fn request_finished(&self, verdict: Verdict, reason: Reason, total: Duration) {
        self.0.requests.inc((verdict, reason));
        self.0.metrics.request_finished(total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::identity::{ActorKind, Caller, CertificateHash, Direction, Hop, Peer, PeerName, Signature};
    use crate::policy::condition::{RoleTerm, ServiceTerm};
    use crate::policy::role::{
        CarriedClients, IssuerFacts, PeerPattern, Role, RoleEntries, RoleEntry, Service,
    };
    use crate::policy::route::Route;
    use crate::policy::rule::{Effect, Mode, Rule};
    use crate::policy::{
        self, Action, Circumstances, Condition, IssuerId, NormalPath, Policy, PolicyHash, PolicyParts,
        RoleId, ServiceId, UpstreamId,
    };
    use http::{HeaderMap, Method, StatusCode};
    use record::tests::{audit_to, lines, name};

    const ID: &str = "spiffe://shop.example/storefront";

    /// One service, one role by scope, one route, one rule.
    fn policy() -> Policy {
        let facts = IssuerFacts {
            name: name("corp"),
            requires: vec!["sub".into()],
            subject: Some("sub".into()),
            client: None,
            scopes: Some("scope".into()),
            groups: None,
            roles: None,
            actors: vec![ActorKind::Human],
            actor_claims: Vec::new(),
            asserts: None,
        };
        let entry = RoleEntry {
            issuer: IssuerId(0),
            subject: Vec::new(),
            client: Vec::new(),
            scope: vec!["orders:read".into()],
            group: Vec::new(),
            role: Vec::new(),
            claim: Vec::new(),
            actor_subject: Vec::new(),
        };
        let storefront = Service {
            name: name("storefront"),
            identities: vec![PeerPattern::Spiffe(ID.parse().unwrap())],
            clients: CarriedClients::Any,
        };
        let route = Route {
            name: name("orders"),
            direction: Direction::Inbound,
            host: Vec::new(),
            path: "/**".parse().unwrap(),
            header: Vec::new(),
            upstream: UpstreamId(0),
            variants: Vec::new(),
            shadow_until: None,
        };
        let rule = Rule {
            name: "people read orders".to_owned(),
            effect: Effect::Allow,
            conditions: vec![
                Condition::Service(ServiceTerm::Named(vec![ServiceId(0)])),
                Condition::Role(RoleTerm::AnyOf(vec![RoleId(0)])),
            ],
            mode: Mode::Enforce,
            not_before: Timestamp::MIN,
            expires: Timestamp::MAX,
            owner: Some("team-orders".to_owned()),
            ticket: Some("SEC-1".to_owned()),
        };
        let parts = PolicyParts {
            issuers: vec![facts],
            services: vec![storefront],
            roles: vec![Role { name: name("order-reader"), entries: RoleEntries::AnyOf(vec![entry]) }],
            routes: vec![route],
            upstreams: vec![name("orders")],
            rules: vec![rule],
            redact: Vec::new(),
        };
        Policy::compile(parts, PolicyHash([7; 32]), Timestamp::MIN).unwrap().0
    }

    fn storefront() -> Signature<Peer> {
        let name = PeerName::Spiffe(ID.parse().unwrap());
        let certificate = CertificateHash([1; 32]);
        Signature::Verified(Arc::new(Peer { name, certificate, not_after: Timestamp::MAX, hop: Hop::Direct }))
    }

    fn alice(scope: &str) -> Signature<Caller> {
        Signature::Verified(Arc::new(Caller {
            issuer: name("corp"),
            subject: Some("alice".into()),
            client: None,
            scopes: vec![scope.into()],
            groups: Vec::new(),
            roles: Vec::new(),
            actor: ActorKind::Human,
            on_behalf_of: ActorKind::Human,
            chain: Vec::new(),
            expires: Timestamp::MAX,
            believed_until: None,
            authenticated_at: None,
            acr: None,
            confirmation: None,
            via: None,
            token_id: Some("canary-jti".into()),
            claims: serde_json::Map::from_iter([("secret".to_owned(), "canary-claim".into())]),
            token_hash: [0xca; 32],
        }))
    }

    /// What is recorded of a GET by these two, decided and acted upon as the exchange does.
    fn recorded(peer: &Signature<Peer>, caller: &Signature<Caller>) -> serde_json::Value {
        let dir = tempfile::tempdir().unwrap();
        let audit = audit_to(Output::File(dir.path().join("audit")), true);
        let (policy, now) = (policy(), Timestamp::from_unix_seconds(1_700_000_000));
        let (host, path) = ("orders.shop.example".parse().unwrap(), NormalPath::parse("/orders/7").unwrap());
        let action = Action { method: &Method::GET, host: &host, path: &path, headers: &HeaderMap::new() };
        let circumstances = Circumstances { hop: &Hop::Direct, peer_ip: None, client_ip: None };
        let mut draft = audit.begin(Arrival {
            method: Some(action.method),
            listener: &name("mesh"),
            protocol: Protocol::Http11,
            peer_ip: None,
            client_ip: None,
            cut: &Arc::default(),
        });
        draft.asked(&host, &path, false);
        draft.peer(Ok(peer));
        draft.caller(Ok(caller));
        let standing = policy.standing(peer, caller, now);
        let decision =
            policy::decide(&policy, &standing, &policy::Request { peer, caller, action, circumstances, now });
        draft.decided(&policy, &decision, crate::metrics::Lookup::Miss, Duration::from_micros(3));
        draft.signers(None, &policy);
        if let policy::Verdict::Permit(permit) = &decision.verdict {
            draft.forwarding(permit).unwrap();
            draft.answered(StatusCode::OK);
        } else {
            draft.answered(StatusCode::FORBIDDEN);
        }
        draft.finish();
        let mut records = lines(&audit, &dir.path().join("audit"));
        assert_eq!(records.len(), 1);
        records.remove(0)
    }

    #[test]
    fn what_is_recorded_is_what_was_decided() {
        let record = recorded(&storefront(), &alice("orders:read"));
        assert_eq!(
            record["story"],
            "storefront, for alice@corp (human), asked to GET /orders/7 on orders: allowed by \"people read orders\""
        );
        assert_eq!([&record["verdict"], &record["reason"]], ["allow", "allowed"]);
        assert_eq!([&record["owner"], &record["ticket"]], ["team-orders", "SEC-1"]);
        assert_eq!([&record["upstream"], &record["cache"]], ["orders", "miss"]);
        assert_eq!(record["caller"]["roles"], serde_json::json!(["order-reader"]));
        assert_eq!(record["policy"], format!("sha256:{}", "07".repeat(32)));
        assert!(!record.to_string().contains("canary") && !record.to_string().contains("caca"));

        let record = recorded(&storefront(), &alice("orders:write"));
        assert_eq!([&record["verdict"], &record["reason"]], ["deny", "scope_missing"]);
        assert_eq!([&record["rule"], &record["upstream"]], [&serde_json::Value::Null; 2]);
        assert_eq!(record["near_miss"]["rule"], "people read orders");
        assert_eq!(
            record["story"],
            "storefront, for alice@corp (human), asked to GET /orders/7 on orders: denied, because no rule allows \
             it; the nearest needs scope orders:read, and the token has scope orders:write"
        );

        let record = recorded(&Signature::Absent, &Signature::Absent);
        assert_eq!([&record["verdict"], &record["reason"]], ["deny", "peer_missing"]);
        assert_eq!(record["also"], serde_json::json!(["peer_missing", "token_missing"]));
        assert_eq!(record["checks"], serde_json::json!({"peer": "absent", "caller": "absent"}));
    }
}
