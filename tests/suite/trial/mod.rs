//! A configuration that is asked: `trial`, without a socket, and against the proxy that serves.

mod agreement;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign::clock::{Clock, Timestamp};
use countersign::trial::{Answer, Bearer, Claims, Presented, Question, Trial, head};
use serde_json::{Value, json};

use crate::world::World;

const SAMPLE: &str = include_str!("../../../config/sidecar.toml");
const NOW: &str = "2027-01-15T12:00:00Z";
const OWN: &str = "https://orders.shop.example/customers/alice/orders/7";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

async fn sample() -> Trial {
    let world = World::at(Clock::manual(now())).await;
    Trial::new(world.load_sample(SAMPLE), now()).unwrap()
}

fn claims(issuer: &str, claims: Value) -> Bearer {
    let Value::Object(claims) = claims else { panic!("{claims}") };
    Bearer::Claims(Claims { issuer: issuer.parse().unwrap(), claims, without: Vec::new() })
}

fn alice() -> Bearer {
    claims("corp", json!({ "sub": "alice", "uid": "1", "cid": "storefront-web", "scp": ["orders:read"] }))
}

fn ask(method: &str, url: &str) -> Question {
    Question::new(head(method, url, []).unwrap())
}

fn storefront(caller: Bearer, method: &str, url: &str) -> Question {
    Question { peer: Presented::Service("storefront".parse().unwrap()), caller, ..ask(method, url) }
}

/// Reason, status, challenge.
fn outcome(answer: &Answer) -> (&str, Option<u16>, Option<&str>) {
    (answer.reason().as_str(), answer.status().map(|status| status.as_u16()), answer.challenge())
}

#[tokio::test]
async fn a_question_is_answered_as_a_request_is() {
    let mut trial = sample().await;
    let answer = trial.ask(&storefront(alice(), "GET", OWN)).unwrap();
    assert_eq!(outcome(&answer), ("allowed", None, None));
    assert_eq!(answer.rule(), Some("people read their own orders through the storefront"));
    let onward = &answer.http().unwrap().onward.as_ref().unwrap().headers;
    assert_eq!(
        (&onward["x-auth-subject"], &onward["x-auth-service"]),
        (&"alice".parse().unwrap(), &"storefront".parse().unwrap())
    );
    assert!(!onward.contains_key("authorization"));

    let answer = trial.ask(&storefront(Bearer::Nothing, "GET", OWN)).unwrap();
    assert_eq!(outcome(&answer), ("token_missing", Some(401), Some("Bearer")));
    let answer = trial.ask(&Question { caller: alice(), ..ask("GET", OWN) }).unwrap();
    assert!(matches!(&answer, Answer::Handshake(refused) if refused.listener.as_str() == "mesh"));
    assert_eq!(outcome(&answer), ("peer_missing", None, None));
}

#[tokio::test]
async fn a_head_over_a_limit_is_refused_before_anybody_is_asked() {
    let mut trial = sample().await;
    let fields = vec![("x-field", "1"); 200];
    let question = Question::new(head("GET", OWN, fields).unwrap());
    let question = Question { peer: Presented::Service("storefront".parse().unwrap()), ..question };
    let answer = trial.ask(&question).unwrap();
    assert_eq!(outcome(&answer), ("limit_exceeded", Some(431), None));
    assert!(answer.case().is_none());
}

fn decoded(part: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(part).unwrap()
}
