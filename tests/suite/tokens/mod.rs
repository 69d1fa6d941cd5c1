//! Tokens as an attacker writes them, over a running proxy: each is refused for its own reason, nothing of
//! it is said back, and the upstream never hears of it. What needs a signature has one by the issuer's own
//! key, so that the signature is not what refuses it.

mod algorithms;
mod bearer;
mod claims;
mod headers;
mod issuers;
mod texts;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign::clock::{Clock, Timestamp};
use http::header::WWW_AUTHENTICATE;
use serde_json::{Value, json};

use crate::refusals::assert_says_no_more;
use crate::world::certificates::Who;
use crate::world::client::{Answer, Client, Protocol, get, with_token};
use crate::world::issuer::Issuer;
use crate::world::listen::{Listening, listen};
use crate::world::proxy::Proxy;
use crate::world::signing::KEYS;
use crate::world::{Error, World};

/// Any sound token of the storefront's client opens everything.
const ALLOW: &str = r#"
[[allow]]
name = "all"
service = "storefront"
role = "any"
"#;

/// What a case of a token says that is bound to a key.
const BOUND_TO_A_KEY: &str = "cnf {\"jkt\":\"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I\"}";
const DPOP_CHALLENGE: &str =
    r#"DPoP error="invalid_token", algs="RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 EdDSA""#;

/// One token, and the reason it is refused for.
struct Case {
    what: String,
    token: String,
    reason: &'static str,
}

fn case(what: impl ToString, token: impl Into<String>, reason: &'static str) -> Case {
    Case { what: what.to_string(), token: token.into(), reason }
}

/// What cases are made of.
struct Forge<'w> {
    issuer: &'w Issuer,
    /// Of a sound token.
    claims: Value,
    /// Where a server listens that nobody may ask anything.
    trap: String,
}

impl Forge<'_> {
    /// The text of sound claims without `name`, and with this text of members behind them.
    fn claims_and(&self, name: &str, more: &str) -> String {
        let mut claims = self.claims.clone();
        claims.as_object_mut().unwrap().remove(name);
        format!("{},{more}}}", claims.to_string().trim_end_matches('}'))
    }

    /// By the issuer's first key, over this header and sound claims.
    fn under(&self, header: &str) -> String {
        KEYS[0].token(header, self.claims.to_string())
    }

    /// By the issuer's first key, over a sound header and these claims.
    fn over(&self, claims: impl AsRef<[u8]>) -> String {
        KEYS[0].token(json!({"alg": "RS256", "typ": "at+jwt", "kid": "RS256"}).to_string(), claims)
    }
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The second part of a token.
fn claims_of(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

async fn trap() -> Listening {
    listen("127.0.0.1:0".parse().unwrap(), None, |_| async { Err(Error::from("nobody asks here")) }).await
}

async fn ask(client: &Client, token: &str) -> Answer {
    client.ask(with_token(get("/orders/7"), token)).await.unwrap()
}

/// The answer, its challenge and the record have exactly this reason, and nothing reached the upstream.
async fn assert_refused(proxy: &Proxy<'_>, answer: &Answer, reason: &str, what: &str) {
    let (status, challenge) = match reason {
        "limit_exceeded" => (431, None),
        "request_malformed" => (400, Some(r#"Bearer error="invalid_request""#)),
        // where a proof could be given
        _ if what.ends_with(BOUND_TO_A_KEY) => (401, Some(DPOP_CHALLENGE)),
        _ => (401, Some(r#"Bearer error="invalid_token""#)),
    };
    assert_says_no_more(proxy, answer, what).await;
    let said = answer.headers.get(WWW_AUTHENTICATE).map(|value| value.to_str().unwrap());
    assert_eq!((answer.status.as_u16(), said), (status, challenge), "{what}");
    let record = proxy.record_of(answer).await;
    assert_eq!((&record["reason"], &record["verdict"]), (&json!(reason), &json!("deny")), "{what}: {record}");
    assert_eq!((&record["checks"]["caller"], &record["caller"]), (&json!(reason), &Value::Null), "{what}");
    assert_eq!(proxy.world.upstream.counts().requests, 0, "{what}");
}

/// On a whole second, so that a token's times can be met exactly.
fn whole_second() -> Clock {
    Clock::manual(Timestamp::from_unix_seconds(Clock::system().now().unix_seconds()))
}

#[tokio::test]
async fn no_hostile_token_reaches_the_upstream() {
    let world = World::at(whole_second()).await;
    let trap = trap().await;
    let forge = Forge {
        issuer: &world.issuer,
        claims: claims_of(&world.issuer.token(json!({}))),
        trap: format!("http://{}/keys", trap.address),
    };
    let tables = [
        ("algorithms", algorithms::cases(&forge)),
        ("headers", headers::cases(&forge)),
        ("texts", texts::cases(&forge)),
        ("claims", claims::cases(&forge)),
    ];
    let counts: Vec<_> = tables.iter().map(|(table, cases)| (*table, cases.len())).collect();
    assert_eq!(counts, [("algorithms", 119), ("headers", 81), ("texts", 84), ("claims", 132)]);
    let proxy = world.start(ALLOW);
    let mut reasons = BTreeMap::new();
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        for (table, cases) in &tables {
            for case in cases {
                let what = format!("{protocol:?}, {table}: {}", case.what);
                assert_refused(&proxy, &ask(&client, &case.token).await, case.reason, &what).await;
                *reasons.entry(case.reason).or_insert(0) += 1;
            }
        }
    }
    println!("{reasons:?}");
    assert_eq!(trap.connections(), 0, "no address in a token is ever asked");
    assert_eq!(world.issuer.fetches().jwks, 1, "nor the issuer more than once");

    let client = proxy.client(Who::Storefront, Protocol::H2).await;
    let sound = claims::sound(&forge);
    for case in &sound {
        assert_eq!(ask(&client, &case.token).await.status, 200, "{}", case.what);
    }
    assert_eq!(sound.len(), 17);
    assert_eq!(world.upstream.counts().requests, 17);
}
