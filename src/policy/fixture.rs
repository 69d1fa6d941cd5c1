//! The sample policy of the documentation, its people and workloads, and a short way to write rules.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};

use super::claim::*;
use super::condition::*;
use super::pattern::{Glob, MethodSet};
use super::role::*;
use super::route::{Route, Variant};
use super::rule::{Effect, Mode, Rule};
use super::*;
use crate::clock::Timestamp;
use crate::identity::*;

pub const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
pub const HASH: PolicyHash = PolicyHash([7; 32]);
pub const ABSENT: Signature<Caller> = Signature::Absent;
pub const NO_PEER: Signature<Peer> = Signature::Absent;
pub const OWN: &str = "/customers/alice/orders/7";
pub const REFUND: &str = "/customers/alice/orders/7/refund";

pub fn permits(decision: &Decision) -> bool {
    matches!(decision.verdict, Verdict::Permit(_))
}

pub fn rule_name<'p>(policy: &'p Policy, decision: &Decision) -> Option<&'p str> {
    decision.evidence.rule.map(|id| policy.rule(id).name.as_str())
}

pub fn text(text: &str) -> Arc<str> {
    text.into()
}

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub fn globs(texts: &[&str]) -> Vec<Glob> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

pub fn paths(texts: &[&str]) -> Condition {
    Condition::Path(texts.iter().map(|text| text.parse().unwrap()).collect())
}

pub fn hosts(texts: &[&str]) -> Condition {
    Condition::Host(texts.iter().map(|text| text.parse().unwrap()).collect())
}

pub fn methods(texts: &[&str]) -> Condition {
    Condition::Method(MethodSet::new(texts.iter().copied()).unwrap())
}

pub fn grpc(texts: &[&str]) -> Condition {
    Condition::Grpc(texts.iter().map(|text| text.parse().unwrap()).collect())
}

pub fn service(ids: &[u32]) -> Condition {
    Condition::Service(ServiceTerm::Named(ids.iter().copied().map(ServiceId).collect()))
}

pub fn role(ids: &[u32]) -> Condition {
    Condition::Role(RoleTerm::AnyOf(ids.iter().copied().map(RoleId).collect()))
}

pub fn route(ids: &[u32]) -> Condition {
    Condition::Route(RouteTerm::Named(ids.iter().copied().map(RouteId).collect()))
}

pub fn match_claim(segment: &str, claim: &str) -> Condition {
    Condition::MatchClaim(vec![MatchClaim { segment: text(segment), claim: ClaimPath::top_level(claim) }])
}

pub fn claim(name: &str, value: &str) -> ClaimTest {
    let values = vec![ClaimValue::Text(value.parse().unwrap())];
    ClaimTest { claim: ClaimPath::top_level(name), values }
}

pub const ANY_SERVICE: Condition = Condition::Service(ServiceTerm::Any);
pub const NO_SERVICE: Condition = Condition::Service(ServiceTerm::None);
pub const ANY_ROLE: Condition = Condition::Role(RoleTerm::Any);
pub const NO_ROLE: Condition = Condition::Role(RoleTerm::None);

pub fn actor(kinds: &[ActorKind]) -> Condition {
    Condition::Actor(kinds.to_vec())
}

pub fn on_behalf_of(kinds: &[ActorKind]) -> Condition {
    Condition::OnBehalfOf(kinds.to_vec())
}

pub fn max_age(seconds: u64) -> Condition {
    Condition::MaxAge(Duration::from_secs(seconds))
}

pub fn rule(effect: Effect, name: &str, conditions: Vec<Condition>) -> Rule {
    Rule {
        name: name.to_owned(),
        effect,
        conditions,
        mode: Mode::Enforce,
        not_before: Timestamp::MIN,
        expires: Timestamp::MAX,
        owner: None,
        ticket: None,
    }
}

pub fn allow(name: &str, conditions: Vec<Condition>) -> Rule {
    rule(Effect::Allow, name, conditions)
}

/// An allow for everyone verified, with more conditions.
pub fn open(more: Vec<Condition>) -> Rule {
    let mut conditions = vec![ANY_SERVICE, ANY_ROLE];
    conditions.extend(more);
    allow("open", conditions)
}

pub fn deny(name: &str, conditions: Vec<Condition>) -> Rule {
    rule(Effect::Deny, name, conditions)
}

pub fn require(name: &str, conditions: Vec<Condition>) -> Rule {
    rule(Effect::Require, name, conditions)
}

pub fn entry(issuer: u32) -> RoleEntry {
    RoleEntry {
        issuer: IssuerId(issuer),
        subject: vec![],
        client: vec![],
        scope: vec![],
        group: vec![],
        role: vec![],
        claim: vec![],
        actor_subject: vec![],
    }
}

pub fn carries(clients: &[&str]) -> CarriedClients {
    let listed = globs(clients).into_iter().map(|client| ClientPattern { issuer: IssuerId(0), client });
    CarriedClients::Listed(listed.collect())
}

pub fn workload(workload: &str, clients: CarriedClients) -> Service {
    let id = format!("spiffe://shop.example/ns/prod/sa/{workload}");
    let identities = vec![PeerPattern::Spiffe(id.parse().unwrap())];
    Service { name: name(workload), identities, clients }
}

pub fn issuer(named: &str) -> IssuerFacts {
    IssuerFacts {
        name: name(named),
        requires: vec![text("sub"), text("cid")],
        subject: Some(text("sub")),
        client: Some(text("cid")),
        scopes: Some(text("scp")),
        groups: Some(text("groups")),
        roles: None,
        actors: vec![ActorKind::Human, ActorKind::Agent],
        actor_claims: vec![text("uid")],
        asserts: None,
    }
}

/// Services: 0 storefront, 1 assistant. Roles: 0 order-reader, 1 beta-tester. One issuer, corp; one
/// route, orders, with a variant.
pub fn tables() -> PolicyParts {
    let by_scope = RoleEntry { scope: vec![text("orders:read")], ..entry(0) };
    let by_group = RoleEntry { group: vec![text("support")], ..entry(0) };
    let beta = RoleEntry { group: vec![text("beta")], ..entry(0) };
    PolicyParts {
        issuers: vec![issuer("corp")],
        services: vec![
            workload("storefront", carries(&["storefront-web"])),
            workload("assistant", carries(&["assistant-*"])),
        ],
        roles: vec![
            Role { name: name("order-reader"), entries: RoleEntries::AnyOf(vec![by_scope, by_group]) },
            Role { name: name("beta-tester"), entries: RoleEntries::AnyOf(vec![beta]) },
        ],
        routes: vec![Route {
            name: name("orders"),
            direction: Direction::Inbound,
            host: vec!["orders.shop.example".parse().unwrap()],
            path: "/**".parse().unwrap(),
            header: vec![],
            upstream: UpstreamId(0),
            variants: vec![Variant { role: RoleId(1), upstream: UpstreamId(1) }],
            shadow_until: None,
        }],
        upstreams: vec![name("orders"), name("orders-next")],
        rules: vec![],
        redact: vec![],
    }
}

pub const ORDERS: &str = "/customers/{customer}/orders/**";

pub fn sample() -> PolicyParts {
    use ActorKind::{Agent, Human};
    let rules = vec![
        allow(
            "people read their own orders through the storefront",
            vec![
                service(&[0]),
                role(&[0]),
                actor(&[Human]),
                methods(&["GET"]),
                paths(&[ORDERS]),
                match_claim("customer", "sub"),
            ],
        ),
        allow(
            "assistants read orders for their person",
            vec![
                service(&[1]),
                role(&[0]),
                actor(&[Agent]),
                on_behalf_of(&[Human]),
                methods(&["GET"]),
                paths(&[ORDERS]),
                match_claim("customer", "sub"),
            ],
        ),
        allow(
            "people refund their own orders",
            vec![
                service(&[0]),
                role(&[0]),
                actor(&[Human]),
                methods(&["POST"]),
                paths(&["/customers/{customer}/orders/*/refund"]),
                match_claim("customer", "sub"),
            ],
        ),
        require(
            "refunds need step-up",
            vec![paths(&["/customers/*/orders/*/refund"]), Condition::Acr(vec![text("mfa")]), max_age(900)],
        ),
        deny("agents never write", vec![actor(&[Agent]), methods(&["POST", "PUT", "PATCH", "DELETE"])]),
    ];
    PolicyParts { rules, ..tables() }
}

pub fn with_rules(rules: Vec<Rule>) -> PolicyParts {
    PolicyParts { rules, ..tables() }
}

pub fn compile(parts: PolicyParts) -> Policy {
    match Policy::compile(parts, HASH, NOW) {
        Ok((policy, _)) => policy,
        Err(errors) => panic!("{errors:#?}"),
    }
}

pub fn error_codes(parts: PolicyParts) -> Vec<&'static str> {
    let errors = Policy::compile(parts, HASH, NOW).err().unwrap_or_default();
    errors.iter().for_each(|error| {
        assert!(!error.remedy.is_empty() && !error.message.is_empty(), "{error:?}");
        assert_eq!(error.severity, Severity::Error);
    });
    errors.iter().map(|error| error.code).collect()
}

pub fn finding_codes(parts: PolicyParts) -> Vec<(&'static str, Severity)> {
    let (_, findings) = Policy::compile(parts, HASH, NOW).unwrap();
    assert!(
        findings.iter().all(|finding| lint::Code::ALL.iter().any(|code| code.as_str() == finding.code)),
        "{findings:?}"
    );
    findings.iter().map(|finding| (finding.code, finding.severity)).collect()
}

pub fn peer(workload: &str) -> Signature<Peer> {
    let id = format!("spiffe://shop.example/ns/prod/sa/{workload}");
    Signature::Verified(Arc::new(Peer {
        name: PeerName::Spiffe(id.parse().unwrap()),
        certificate: CertificateHash([1; 32]),
        not_after: NOW.plus(Duration::from_secs(7_200)),
        hop: Hop::Direct,
    }))
}

/// Of alice, a person of `corp`, through the storefront's client, who may read orders.
pub fn alice() -> Caller {
    let claims = json!({ "sub": "alice", "cid": "storefront-web", "tier": "gold" });
    let Value::Object(claims) = claims else { unreachable!() };
    Caller {
        issuer: name("corp"),
        subject: Some(text("alice")),
        client: Some(text("storefront-web")),
        scopes: vec![text("orders:read")],
        groups: vec![],
        roles: vec![],
        actor: ActorKind::Human,
        on_behalf_of: ActorKind::Human,
        chain: vec![],
        expires: NOW.plus(Duration::from_secs(3_600)),
        believed_until: None,
        authenticated_at: Some(NOW.minus(Duration::from_secs(60))),
        acr: Some(text("mfa")),
        confirmation: None,
        via: None,
        token_id: None,
        claims,
        token_hash: [2; 32],
    }
}

/// Of an assistant that acts for alice.
pub fn assistant() -> Caller {
    Caller {
        client: Some(text("assistant-1")),
        actor: ActorKind::Agent,
        chain: vec![Delegate { subject: text("assistant-1"), issuer: None }],
        ..alice()
    }
}

pub fn signed(caller: Caller) -> Signature<Caller> {
    Signature::Verified(Arc::new(caller))
}

/// A request; what a test does not set is a GET of alice's orders.
#[derive(Debug)]
pub struct Ask {
    pub method: &'static str,
    pub host: &'static str,
    pub path: String,
    pub headers: HeaderMap,
    pub client_ip: Option<std::net::IpAddr>,
    pub now: Timestamp,
}

pub fn get(path: &str) -> Ask {
    Ask {
        method: "GET",
        host: "orders.shop.example",
        path: path.to_owned(),
        headers: HeaderMap::new(),
        client_ip: None,
        now: NOW,
    }
}

pub fn post(path: &str) -> Ask {
    Ask { method: "POST", ..get(path) }
}

impl Ask {
    pub fn with_header(mut self, name: &'static str, value: &'static str) -> Ask {
        self.headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        self
    }

    pub fn judged(&self, policy: &Policy, peer: &Signature<Peer>, caller: &Signature<Caller>) -> Decision {
        let standing = policy.standing(peer, caller, self.now);
        self.asked(peer, caller, |request| decide(policy, &standing, request))
    }

    pub fn asked<T>(
        &self,
        peer: &Signature<Peer>,
        caller: &Signature<Caller>,
        then: impl FnOnce(&Request<'_>) -> T,
    ) -> T {
        let method = Method::from_bytes(self.method.as_bytes()).unwrap();
        let (host, path) = (self.host.parse().unwrap(), NormalPath::parse(&self.path).unwrap());
        then(&Request {
            peer,
            caller,
            action: Action { method: &method, host: &host, path: &path, headers: &self.headers },
            circumstances: Circumstances {
                hop: &Hop::Direct,
                peer_ip: self.client_ip,
                client_ip: self.client_ip,
            },
            now: self.now,
        })
    }
}

pub fn causes(decision: &Decision) -> &[Cause] {
    match &decision.verdict {
        Verdict::Permit(_) => &[],
        Verdict::Denial(denial) => &denial.causes,
    }
}

pub fn challenge(decision: &Decision) -> Challenge {
    match &decision.verdict {
        Verdict::Permit(_) => panic!("permitted"),
        Verdict::Denial(denial) => denial.challenge.clone(),
    }
}
