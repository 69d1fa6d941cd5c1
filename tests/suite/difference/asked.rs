//! Random requests of whatever the configurations speak of.

use countersign::clock::Timestamp;
use countersign::identity::{Hop, PeerName};
use countersign::trial::{Bearer, Bound, Claims, Presented, Question, head};
use fastrand::Rng;
use serde_json::{Value, json};

use super::policies::one;

/// In January and in March of 2027: before and after what rules say begins, or ends.
pub const TIMES: [i64; 2] = [1_800_000_000, 1_805_000_000];

/// Of what the local application sends too, where there is an outbound listener.
pub fn question(random: &mut Rng, sends: bool) -> Question {
    let spiffe = |id: &str| Presented::Named(PeerName::Spiffe(id.parse().unwrap()));
    let dns = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).into()).collect();
        Presented::Named(PeerName::Dns { names, trust_domain: "shop.example".parse().unwrap() })
    };
    let peer = match random.u8(..16) {
        0 => Presented::Nothing,
        1..4 => spiffe("spiffe://shop.example/ns/prod/sa/bot"),
        4 => spiffe("spiffe://shop.example/ns/test/sa/web"),
        5 => spiffe("spiffe://shop.example/ns/prod/sa/other"),
        6 => spiffe("spiffe://shop.example/ns/prod/sa/a/b/c"),
        7 => spiffe("spiffe://shop.example/ns"),
        8 => spiffe("spiffe://partner.example/x"),
        9 => dns(&["a.svc.example"]),
        10 => dns(&["b.svc.example", "else.example"]),
        _ => spiffe("spiffe://shop.example/ns/prod/sa/web"),
    };
    let at = TIMES[usize::from(random.u8(..4) == 0)];
    let at = Timestamp::from_unix_seconds(at);
    let issuer = if random.u8(..8) == 0 { "away" } else { "corp" };
    let claims = claims(at.unix_seconds(), random).as_object().unwrap().clone();
    let claims = Claims {
        issuer: issuer.parse().unwrap(),
        claims,
        without: Vec::new(),
        bound: (random.u8(..4) == 0).then_some(Bound::Key),
    };
    let caller = if random.u8(..10) == 0 { Bearer::Nothing } else { Bearer::Claims(claims) };
    let method =
        one(random, &["GET", "GET", "GET", "POST", "POST", "HEAD", "PUT", "DELETE", "PURGE", "LINK"]);
    let host = one(
        random,
        &[
            "shop.example",
            "shop.example",
            "shop.example",
            "shop.example",
            "shop.example",
            "a.shop.example",
            "a.b.example",
            "no.example",
        ],
    );
    let paths = [
        "/api/alice/x",
        "/api/alice/x",
        "/api/alice",
        "/api",
        "/",
        "/alice",
        "/api/staff",
        "/api/bob/alice",
        "/api/7/x",
        "/api/a1/x/y/z",
        "/s.T/Get",
        "/s.T/Get",
        "/s.T/Put",
        "/x/y",
        "/api/web/read",
        "/api/read",
    ];
    let path = one(random, &paths);
    let hop = match random.u8(..12) {
        0 | 2 | 3 if sends => Hop::Local,
        1 => Hop::Trusted("edge".parse().unwrap()),
        _ => Hop::Direct,
    };
    let host = match hop {
        Hop::Local => one(random, &["out.example", "out.example", "a.c.example", host]),
        _ => host,
    };
    let mut fields = Vec::new();
    match random.u8(..6) {
        0 => fields.push(("content-type", "application/grpc")),
        1 => fields.push(("content-type", "application/grpc+proto")),
        _ => {}
    }
    if random.u8(..4) == 0 {
        fields.push(("x-next", "1"));
    }
    let addresses = ["10.1.2.3", "10.1.9.9", "10.200.0.1", "192.0.2.1", "203.0.113.9", "2001:db8::1"];
    let address = |random: &mut Rng| one(random, &addresses).parse().unwrap();
    Question {
        peer,
        caller,
        hop,
        peer_ip: Some(address(random)),
        client_ip: Some(address(random)),
        at: Some(at),
        ..Question::new(head(method, &format!("https://{host}{path}"), fields).unwrap())
    }
}

fn claims(now: i64, random: &mut Rng) -> Value {
    let mut claims = json!({ "tier": "gold" });
    let mut put = |random: &mut Rng, name: &str, values: &[Value]| {
        let value = &values[random.usize(..values.len())];
        if !value.is_null() {
            claims[name] = value.clone();
        }
    };
    let none = || Value::Null;
    put(random, "sub", &[json!("alice"), json!("alice"), json!("bob"), json!("bot-1"), json!("web")]);
    put(
        random,
        "client_id",
        &[json!("web"), json!("web"), json!("web"), json!("assistant-1"), json!("batch")],
    );
    put(
        random,
        "aud",
        &[none(), none(), json!("them"), json!(["us", "them"]), json!(["us", "x"]), none(), none(), none()],
    );
    let words = [
        json!("read"),
        json!("read write"),
        json!(["read", "write"]),
        json!(["read", "alice"]),
        json!("admin"),
        json!(""),
    ];
    put(random, "scope", &words);
    let groups = [
        json!(["staff"]),
        json!(["staff", "beta"]),
        json!(["alice"]),
        json!([]),
        json!({ "staff": {}, "alice": 1 }),
    ];
    put(random, "groups", &groups);
    put(
        random,
        "tags",
        &[json!(["a1", "staff"]), json!("alice"), json!(["alice", "x"]), json!(["staff"]), none()],
    );
    put(random, "roles", &[json!(["boss"]), none()]);
    put(random, "realm", &[json!({ "roles": ["boss"] }), none()]);
    put(
        random,
        "tier",
        &[json!("gold"), json!("gold"), json!("silver"), json!("tin"), json!(["gold", "silver"])],
    );
    put(random, "level", &[json!(7), json!("8"), json!([7, 9]), none()]);
    put(random, "vip", &[json!(true), json!([true, "x"]), json!("true"), none()]);
    put(random, "acr", &[json!("mfa"), json!("mfa"), json!("pwd")]);
    put(random, "azp", &[json!("web"), json!(["web", "other"]), json!("x")]);
    put(random, "uid", &[json!("u1"), json!("u1"), json!("u1"), json!("u2"), json!("u2"), none()]);
    put(random, "gty", &[json!("cc"), json!("pw"), json!("x"), json!("x"), json!("x"), none()]);
    let logins = [60, 60, 900, 901, 100_000, 400_000, -60].map(|age| json!(now - age));
    put(random, "auth_time", &logins);
    if random.u8(..6) == 0 {
        let acts = [
            json!({ "sub": "bot-1" }),
            json!({ "sub": "bot-1", "client_id": "assistant-2" }),
            json!({ "sub": "zed", "uid": "u1" }),
            json!({ "sub": "zed", "gty": "cc", "uid": "u1" }),
            json!({ "sub": "bot-1", "iss": "https://elsewhere.example" }),
            json!({ "sub": "zed", "act": { "sub": "bot-1" } }),
        ];
        put(random, "act", &acts);
    }
    claims
}
