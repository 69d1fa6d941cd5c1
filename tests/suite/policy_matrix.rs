//! The whole of the sample policy on one page: service × role × actor × action, as a text that a person reads
//! in a diff. `BLESS=1 cargo test policy_matrix` writes it anew.

use std::fmt::Write as _;

use countersign::clock::{Clock, Timestamp};
use serde_json::{Map, Value, json};

use crate::world::World;
use crate::world::court::{Asked, Court};

const SAMPLE: &str = include_str!("../../config/sidecar.toml");
const MATRIX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/policy/matrix.txt");
const NOW: &str = "2027-01-15T12:00:00Z";
const MINUTE_SECONDS: i64 = 60;

/// `nobody` has a good certificate that no `[service]` names.
const SERVICES: [&str; 3] = ["storefront", "assistant", "nobody"];

const ROLES: [&str; 4] = ["no role", "order-reader by scope", "order-reader by group", "beta-tester too"];

const ACTORS: [&str; 6] =
    ["no token", "a person", "a service", "an agent for a person", "an agent for nobody", "unknown"];

/// What is asked as, and what that is.
const ACTIONS: [(&str, &str); 6] = [
    ("read own order", "GET /customers/alice/orders/7"),
    ("read other's order", "GET /customers/bob/orders/7"),
    ("refund, just logged in", "POST /customers/alice/orders/7/refund"),
    ("refund, old login", "POST /customers/alice/orders/7/refund"),
    ("place an order", "POST /customers/alice/orders"),
    ("read anything else", "GET /status"),
];

/// The claims by which `issuer.corp` shows them (preset okta).
fn token(role: &str, actor: &str, action: &str, now: Timestamp) -> Option<Map<String, Value>> {
    let age_minutes = if action == "refund, old login" { 16 } else { 1 };
    let mut claims = json!({
        "cid": "storefront-web",
        "client_id": false,
        "acr": "mfa",
        "auth_time": now.unix_seconds() - age_minutes * MINUTE_SECONDS,
    });
    match role {
        "no role" => {}
        "order-reader by scope" => claims["scp"] = json!(["openid", "orders:read"]),
        "order-reader by group" => claims["groups"] = json!(["support"]),
        "beta-tester too" => {
            claims["scp"] = json!(["orders:read"]);
            claims["groups"] = json!(["beta"]);
        }
        _ => panic!("`{role}` has no claims"),
    }
    match actor {
        "no token" => return None,
        "a person" => claims["uid"] = json!("00u1"),
        "a service" => claims["sub"] = json!("storefront-web"),
        "an agent for a person" => {
            claims["uid"] = json!("00u1");
            claims["cid"] = json!("assistant-7");
        }
        "an agent for nobody" => claims["cid"] = json!("assistant-7"),
        "unknown" => {}
        _ => panic!("`{actor}` has no claims"),
    }
    claims.as_object().cloned()
}

#[tokio::test]
async fn the_sample_decides_as_the_golden_matrix_says() {
    let clock = Clock::manual(NOW.parse().unwrap());
    let world = World::at(clock.clone()).await;
    let mut court = Court::new(&world, world.load_sample(SAMPLE), "https://login.example.com");
    let mut text = String::from(
        "# Who may do what under config/sidecar.toml; `BLESS=1 cargo test policy_matrix` writes this file anew.\n",
    );
    let mut cells = 0;
    for service in SERVICES {
        for actor in ACTORS {
            for role in ROLES {
                if actor == "no token" && role != "no role" {
                    continue;
                }
                writeln!(text, "\n{service}, {actor}, {role}").unwrap();
                for (name, what) in ACTIONS {
                    let asked = Asked {
                        service: Some(service.to_owned()),
                        token: token(role, actor, name, clock.now()),
                        what: what.to_owned(),
                        ..Asked::default()
                    };
                    let judged = court.judge(&asked);
                    let rule = judged.rule.map(|rule| format!(": {rule}")).unwrap_or_default();
                    let outcome = match judged.upstream {
                        Some(upstream) => format!("ALLOW to {upstream}{rule}"),
                        None => format!("{}{rule}", judged.reason),
                    };
                    writeln!(text, "    {name:24}{outcome}").unwrap();
                    cells += 1;
                }
            }
        }
    }
    assert_eq!(cells, 3 * (1 + 5 * 4) * 6);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(MATRIX, &text).unwrap();
    }
    let golden = std::fs::read_to_string(MATRIX).unwrap_or_default();
    let differing = |(golden, now): (&str, &str)| (golden != now).then(|| format!("- {golden}\n+ {now}\n"));
    let changed: String = golden.lines().zip(text.lines()).filter_map(differing).collect();
    assert!(golden == text, "the matrix has changed; if it should, write it anew with BLESS=1\n{changed}");
}
