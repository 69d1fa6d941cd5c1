//! Random requests: who carries them, for whom, and what they ask.

use fastrand::Rng;
use serde_json::{Value, json};

use super::rules::one;
use crate::world::certificates::Who;

/// One request, as it is sent and as it is asked about.
#[derive(Clone, Debug)]
pub struct Asked {
    pub who: Who,
    /// Over a sound token's claims; `None` is no token at all.
    pub claims: Option<Value>,
    /// Another's signature.
    pub forged: bool,
    pub method: &'static str,
    pub host: &'static str,
    pub path: &'static str,
    pub content_type: Option<&'static str>,
}

/// Whom the open listener lets in.
pub const PEERS: [Who; 5] = [Who::Storefront, Who::Assistant, Who::Partner, Who::Unnamed, Who::NoCertificate];

pub fn request(now: i64, random: &mut Rng) -> Asked {
    let who = match random.u8(..20) {
        0 => Who::Unnamed,
        1..3 => Who::NoCertificate,
        3..6 => Who::Partner,
        6..11 => Who::Assistant,
        _ => Who::Storefront,
    };
    Asked {
        who,
        claims: (random.u8(..12) != 0).then(|| claims(who, now, random)),
        forged: random.u8(..40) == 0,
        method: seldom(random, &["GET", "GET", "GET", "POST"], &["HEAD", "PUT", "DELETE", "PURGE", "TRACE"]),
        host: seldom(random, &["orders.shop.example", "orders.shop.example", "a.reports.example"], &HOSTS),
        path: seldom(random, &["/customers/alice/orders/7", "/terms", "/shop.Orders/Get"], &PATHS),
        content_type: (random.u8(..3) == 0).then_some("application/grpc"),
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

/// One of the first most often.
fn seldom<'v>(random: &mut Rng, often: &[&'v str], other: &[&'v str]) -> &'v str {
    let chosen = if random.u8(..4) == 0 { other } else { often };
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
