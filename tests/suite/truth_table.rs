//! Both signatures or nothing: every service × every caller of `tests/truth_table.toml`, over h1 and h2.

use std::collections::BTreeMap;

use countersign::clock::Clock;
use rustls::AlertDescription;
use serde_json::json;

use crate::world::World;
use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, alert_after, get, with_token};
use crate::world::issuer::Issuer;
use crate::world::proxy::{HOST, Proxy};
use crate::world::signing::forged;

/// Service → caller → expected outcome.
pub type Table = BTreeMap<String, BTreeMap<String, String>>;

pub const TABLE: &str = include_str!("../truth_table.toml");

pub const SERVICES: [(&str, Who); 7] = [
    ("good", Who::Storefront),
    ("other", Who::Partner),
    ("unnamed", Who::Unnamed),
    ("none", Who::NoCertificate),
    ("untrusted CA", Who::UntrustedCa),
    ("expired", Who::Expired),
    ("wrong trust domain", Who::WrongTrustDomain),
];

/// `@partner@` is the other issuer.
pub const POLICY: &str = r#"
[issuer.partner]
url = "@partner@"
audience = ["https://orders.shop.example"]
allow_http = true
requires = ["sub", "client_id"]

[service.partner]
spiffe_id = "spiffe://partner.example/ns/prod/sa/storefront"
client_id = "any"

[[allow]]
name = "the storefront reads orders for its callers"
service = "storefront"
role = "order-reader"
method = "GET"
path = "/orders/**"
"#;

/// Each caller's token.
pub fn callers(corp: &Issuer, partner: &Issuer) -> [(&'static str, Option<String>); 8] {
    let good = corp.token(json!({}));
    [
        ("other role", Some(corp.token(json!({"scope": "orders:write"})))),
        ("none", None),
        ("bad signature", Some(forged(&good))),
        ("expired", Some(corp.token(json!({"exp": corp.clock.now().unix_seconds() - 301})))),
        ("wrong audience", Some(corp.token(json!({"aud": "https://billing.shop.example"})))),
        ("other client", Some(corp.token(json!({"client_id": "assistant-7"})))),
        ("other issuer", Some(partner.token(json!({})))),
        ("good", Some(good)),
    ]
}

#[tokio::test]
async fn only_both_signatures_open_and_every_other_cell_says_why_it_does_not() {
    let expected: Table = toml::from_str(TABLE).unwrap();
    let world = World::new().await;
    let partner = Issuer::start(Clock::system()).await;
    let proxy = world.start(&POLICY.replace("@partner@", &partner.url));
    for protocol in Protocol::BOTH {
        let mut seen = Table::new();
        let mut opened = Vec::new();
        for (service, who) in SERVICES {
            for (caller, token) in callers(&world.issuer, &partner) {
                let before = world.upstream.counts().requests;
                let outcome = outcome(&proxy, "mesh", protocol, who, token.as_deref()).await;
                seen.entry(service.to_owned()).or_default().insert(caller.to_owned(), outcome);
                match world.upstream.counts().requests - before {
                    0 => {}
                    moved => opened.push((service, caller, moved)),
                }
            }
        }
        assert_eq!(seen.values().map(BTreeMap::len).sum::<usize>(), 56);
        assert_eq!(seen, expected, "{protocol:?}");
        assert_eq!(opened, [("good", "good", 1)], "{protocol:?}");
    }
}

/// No handshake stands in for the policy: where a certificate is optional, the allow asks for it.
#[tokio::test]
async fn where_a_certificate_is_optional_the_policy_still_wants_both() {
    const OPEN: &str = "[listener.open]\naddress = \"127.0.0.1:0\"\nclient_certificate = \"optional\"\n";
    let world = World::new().await;
    let partner = Issuer::start(Clock::system()).await;
    let proxy = world.start(&format!("{OPEN}{}", POLICY.replace("@partner@", &partner.url)));
    for protocol in Protocol::BOTH {
        let mut seen = BTreeMap::new();
        for (caller, token) in callers(&world.issuer, &partner) {
            let outcome = outcome(&proxy, "open", protocol, Who::NoCertificate, token.as_deref()).await;
            seen.insert(caller, outcome);
        }
        let expected = [
            ("good", "403 peer_missing"),
            ("other role", "403 peer_missing"),
            ("none", "403 peer_missing"),
            ("bad signature", "401 token_bad_signature"),
            ("expired", "401 token_expired"),
            ("wrong audience", "401 token_wrong_audience"),
            ("other client", "403 peer_missing"),
            ("other issuer", "403 peer_missing"),
        ];
        assert_eq!(seen, expected.map(|(caller, outcome)| (caller, outcome.to_owned())).into());
    }
    assert_eq!(world.upstream.counts().requests, 0);
    assert_eq!(
        outcome(&proxy, "open", Protocol::H2, Who::Expired, None).await,
        "certificate_expired peer_expired"
    );
    let good = world.issuer.token(json!({}));
    let both = outcome(&proxy, "open", Protocol::H2, Who::Storefront, Some(&good)).await;
    assert_eq!((&*both, world.upstream.counts().requests), ("200 allowed", 1));
}

/// Status and reason; or alert and reason, where the handshake ended.
async fn outcome(
    proxy: &Proxy<'_>,
    listener: &str,
    protocol: Protocol,
    who: Who,
    token: Option<&str>,
) -> String {
    let address = proxy.address(listener);
    let config = proxy.world.certificates.client_config(who);
    let handshakes = proxy.records.until(|all| Some(handshakes(all))).await;
    let request = get("/orders/7");
    let request = match token {
        Some(token) => with_token(request, token),
        None => request,
    };
    let client = Client::tls(address, HOST, config.clone(), protocol).await.unwrap();
    match client.ask(request).await {
        Ok(answer) => {
            let record = proxy.record_of(&answer).await;
            assert_eq!(record["status"], answer.status.as_u16());
            let checked = if who == Who::NoCertificate { "absent" } else { "ok" };
            assert_eq!(record["checks"]["peer"], checked);
            format!("{} {}", answer.status.as_u16(), record["reason"].as_str().unwrap())
        }
        Err(_) => {
            let records = proxy.events("handshake", handshakes + 1).await;
            let reason = records[handshakes]["reason"].as_str().unwrap().to_owned();
            // whom the certificate claims to be is said, and that nobody vouches for it
            let peer = &records[handshakes]["peer"];
            match who {
                Who::NoCertificate => assert!(peer.is_null(), "{peer}"),
                _ => assert_eq!((&peer["verified"], peer["spiffe_id"].is_string()), (&json!(false), true)),
            }
            let alert = alert_after(address, HOST, config, protocol).await;
            let again = proxy.events("handshake", handshakes + 2).await;
            assert_eq!(again[handshakes + 1]["reason"], reason);
            format!("{} {reason}", name(alert.unwrap()))
        }
    }
}

fn handshakes(records: &[serde_json::Value]) -> usize {
    records.iter().filter(|record| record["event"] == "handshake").count()
}

/// An alert as RFC 8446 §6 names it.
fn name(alert: AlertDescription) -> String {
    let mut name = String::new();
    let mut before = 'A';
    for c in format!("{alert:?}").chars() {
        if c.is_uppercase() && before.is_lowercase() {
            name.push('_');
        }
        name.push(c.to_ascii_lowercase());
        before = c;
    }
    name
}
