//! Random requests: who carries them and how they come, for whom, and what they ask.

use countersign::clock::Timestamp;
use fastrand::Rng;
use serde_json::{Value, json};

use super::rules::one;
use crate::world::certificates::Who;

/// One request, as it is sent and as it is asked about.
#[derive(Clone, Debug)]
pub struct Asked {
    pub way: Way,
    /// Of whom the certificate is that is presented, or told; on the way out there is none.
    pub who: Who,
    /// Over a sound token's claims; `None` is no token at all.
    pub claims: Option<Value>,
    pub binding: Binding,
    /// Another's signature.
    pub forged: bool,
    /// What another Countersign says of its caller, and what it is bound to.
    pub assertion: Option<(Value, Binding)>,
    /// Over a sound log-in what a load balancer says: of itself by `client`, `signer` and `exp`, and what the provider
    /// says.
    pub log_in: Option<Value>,
    /// By a hop.
    pub client_ip: Option<&'static str>,
    pub method: &'static str,
    pub host: &'static str,
    pub path: &'static str,
    pub content_type: Option<&'static str>,
    pub at: Timestamp,
}

/// How it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Way {
    /// With a certificate of its own, or without.
    Direct,
    /// Through a hop that tells whose certificate it was shown.
    Told,
    /// The same, but what it tells is no certificate.
    Mistold,
    /// Through a load balancer that asks nobody for a certificate.
    Browser,
    /// From the local application.
    Local,
}

/// What a token is bound to, and whether that is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Binding {
    Nothing,
    /// The certificate of whoever carries it.
    Certificate,
    OtherCertificate,
    Key,
    /// As a bearer token.
    KeyUnproven,
    /// By another key, or for another request.
    KeyMisproven,
}

/// Whom the open listener lets in.
pub const PEERS: [Who; 5] = [Who::Storefront, Who::Assistant, Who::Partner, Who::Unnamed, Who::NoCertificate];

pub fn request(at: Timestamp, random: &mut Rng) -> Asked {
    let now = at.unix_seconds();
    let who = match random.u8(..20) {
        0 => Who::Unnamed,
        1..3 => Who::NoCertificate,
        3..7 => Who::Partner,
        7..11 => Who::Assistant,
        _ => Who::Storefront,
    };
    let way = match random.u8(..40) {
        0..20 => Way::Direct,
        20..27 => Way::Told,
        27 => Way::Mistold,
        28..33 => Way::Browser,
        _ => Way::Local,
    };
    let who = if matches!(way, Way::Local | Way::Browser) { Who::NoCertificate } else { who };
    // Seldom of somebody whose word is not taken.
    let is_believed = way == Way::Local || (way == Way::Direct && who == Who::Partner);
    let is_asserted = random.u8(..20) < if is_believed { 12 } else { 1 };
    let is_logged_in = random.u8(..20)
        < match way {
            Way::Browser => 18,
            Way::Told => 12,
            Way::Direct | Way::Mistold | Way::Local => 1,
        };
    Asked {
        way,
        who,
        binding: binding(random),
        assertion: is_asserted.then(|| (asserted(now, random), bound(random))),
        client_ip: match way {
            Way::Told | Way::Browser => one(random, &[None, Some("127.0.0.1"), Some("192.0.2.7")]),
            _ => None,
        },
        log_in: is_logged_in.then(|| log_in(now, random)),
        claims: (random.u8(..12) >= if is_asserted || is_logged_in { 9 } else { 1 })
            .then(|| claims(who, now, random)),
        forged: random.u8(..40) == 0,
        method: seldom(random, &["GET", "GET", "GET", "POST"], &["HEAD", "PUT", "DELETE", "PURGE", "TRACE"]),
        host: match way {
            Way::Local if random.u8(..8) != 0 => "away.example",
            _ => seldom(random, &["orders.shop.example", "orders.shop.example", "a.reports.example"], &HOSTS),
        },
        path: seldom(random, &["/customers/alice/orders/7", "/terms", "/shop.Orders/Get"], &PATHS),
        content_type: (random.u8(..3) == 0).then_some("application/grpc"),
        at,
    }
}

const HOSTS: [&str; 3] = ["ORDERS.shop.example.", "b.reports.example", "no.example"];
const PATHS: [&str; 10] = [
    "/",
    "/terms/",
    "/customers/alice/orders/7?page=2",
    "/customers/%61lice",
    "/customers/bob/orders/7",
    "/alice",
    "/17",
    "/shop.Orders/Put",
    "/customers/../terms",
    "/customers/a%2Fb",
];

fn binding(random: &mut Rng) -> Binding {
    match random.u8(..40) {
        0..26 => Binding::Nothing,
        26..34 => Binding::Certificate,
        34 => Binding::OtherCertificate,
        35..39 => Binding::Key,
        _ => one(random, &[Binding::KeyUnproven, Binding::KeyMisproven]),
    }
}

/// Of an assertion.
fn bound(random: &mut Rng) -> Binding {
    match random.u8(..20) {
        0 => Binding::Nothing,
        1 => Binding::OtherCertificate,
        _ => Binding::Certificate,
    }
}

/// Over a sound token's claims what a Countersign in front says in place of them.
fn asserted(now: i64, random: &mut Rng) -> Value {
    let mut claims = json!({
        "iss": "https://front.shop.example",
        "aud": "orders",
        "jti": null,
        "actor": "human",
        "on_behalf_of": "human",
        "via": ["spiffe://shop.example/ns/prod/sa/storefront"],
    });
    let mut put = |name: &str, value: Value| claims[name] = value;
    if random.bool() {
        put("roles", json!(["order-reader"]));
    }
    if random.u8(..3) == 0 {
        put("groups", json!(["support"]));
    }
    if random.u8(..4) == 0 {
        put("client_id", "assistant-7".into());
    }
    if random.u8(..3) == 0 {
        put("acr", "mfa".into());
        put("auth_time", (now - 60).into());
    }
    match random.u8(..12) {
        0 => put("actor", "none".into()),
        1 => put("actor", "agent".into()),
        2 => put("act", json!({ "sub": "assistant-7" })),
        3 => put("on_behalf_of", "service".into()),
        4 => put("on_behalf_of", Value::Null),
        5 => put("sub", "bob".into()),
        _ => {}
    }
    match random.u8(..40) {
        0 => put("aud", "elsewhere".into()),
        1 => put("exp", (now - 4_000).into()),
        2 => put("actor", Value::Null),
        3 => put("via", "storefront".into()),
        _ => {}
    }
    claims
}

fn log_in(now: i64, random: &mut Rng) -> Value {
    let mut said = json!({ "client": "storefront-web" });
    let mut put = |name: &str, value: Value| said[name] = value;
    if random.u8(..3) == 0 {
        put("sub", "bob".into());
    }
    if random.bool() {
        put("groups", json!(["support"]));
    }
    if random.u8(..3) != 0 {
        put("acr", one(random, &["mfa", "pwd"]).into());
        put("auth_time", (now - one(random, &[60, 3_600])).into());
    }
    if random.u8(..3) == 0 {
        put("tier", one(random, &["gold", "tin"]).into());
        put("accounts", json!(["alice"]));
    }
    match random.u8(..16) {
        0 => put("client", "assistant-7".into()),
        1 => put("act", json!({ "sub": "assistant-7" })),
        2 => put("acr", 7.into()),
        _ => {}
    }
    match random.u8(..40) {
        0 => put("client", "mobile".into()),
        1 => put("signer", "arn:aws:elasticloadbalancing:eu-central-1:1:loadbalancer/app/theirs/1".into()),
        2 => put("exp", (now - 60).into()),
        3 => put("sub", Value::Null),
        4 => put("cnf", json!({ "jkt": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" })),
        5 => put("aud", "elsewhere".into()),
        _ => {}
    }
    said
}

/// One of the first most often.
fn seldom<'v>(random: &mut Rng, often: &[&'v str], other: &[&'v str]) -> &'v str {
    let chosen = if random.u8(..6) == 0 { other } else { often };
    one(random, chosen)
}

fn claims(who: Who, now: i64, random: &mut Rng) -> Value {
    let own_client = if who == Who::Assistant { "assistant-7" } else { "storefront-web" };
    let mut claims = json!({ "client_id": own_client });
    let mut put = |name: &str, value: Value| claims[name] = value;
    if random.u8(..10) == 0 {
        put("client_id", one(random, &["storefront-web", "assistant-7", "batch"]).into());
    }
    if random.u8(..3) == 0 {
        put("sub", "bob".into());
    }
    if random.u8(..3) != 0 {
        put("uid", "00u1".into());
    }
    if random.u8(..8) == 0 {
        put("gty", "client-credentials".into());
    }
    let scopes = ["orders:write", "orders:read orders:admin", ""];
    put("scope", seldom(random, &["orders:read", "orders:read orders:write"], &scopes).into());
    if random.bool() {
        put("groups", json!(["support", "beta"]));
    }
    if random.bool() {
        put("tier", one(random, &["gold", "silver", "tin"]).into());
        put("level", random.i32(6..9).into());
    }
    if random.bool() {
        put("accounts", json!(["alice", 17, true]));
    }
    if random.u8(..3) != 0 {
        put("acr", one(random, &["mfa", "mfa", "pwd"]).into());
    }
    if random.bool() {
        let ages = [60, 60, 3_600, 86_400 * 3, -600];
        put("auth_time", (now - ages[random.usize(..ages.len())]).into());
    }
    match random.u8(..20) {
        0 => put("act", json!({ "sub": "assistant-7" })),
        1 => put("act", json!({ "sub": "assistant-8", "act": { "sub": "batch" } })),
        2 => put("act", json!({ "sub": "assistant-7", "iss": "https://elsewhere.example" })),
        _ => {}
    }
    // what is wrong with a token before any rule
    match random.u8(..80) {
        0 => put("exp", (now - 4_000).into()),
        1 => put("aud", "https://elsewhere.example".into()),
        2 => put("sub", Value::Null),
        3 => put("groups", json!({ "support": 1 })),
        4 => put("groups", json!([7])),
        _ => {}
    }
    claims
}
