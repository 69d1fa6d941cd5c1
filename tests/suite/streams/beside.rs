//! What streams to a caller whom a front vouches for: by what its own request presented, a token beside the assertion
//! included, and as that is read by what is in force.

use http::Request;
use http::header::AUTHORIZATION;
use serde_json::{Value, json};
use std::time::Duration;
use tonic::Code;

use super::asserted::{ASSERTION, Front};
use super::{KINDS, Kind, Stream, TOKEN_LIFETIME, record};
use crate::world::Body;
use crate::world::client::{Protocol, get};

/// So long that an assertion has ended.
const LATER: Duration = Duration::from_secs(130);

fn with(fields: &[(&'static str, &str)]) -> Request<Body> {
    let mut request = get("/orders/7");
    for (name, value) in fields {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    request
}

/// A front has one connection for all its people.
#[tokio::test]
async fn the_token_of_another_request_is_nobody_s_here() {
    let front = Front::new().await;
    let proxy = front.start();
    let client = front.connect(&proxy, Protocol::H2).await;
    let (alice, token) = (front.says(json!({})), front.streams.token(json!({})));
    let mut bobs: Vec<Stream> = Vec::new();
    for kind in KINDS {
        let hers = with(&[(ASSERTION, &alice), (AUTHORIZATION.as_str(), &token)]);
        assert_eq!(client.ask(hers).await.unwrap().status, 200);
        bobs.push(kind.open_with(&client, ASSERTION, &front.says(json!({ "sub": "bob" }))).await);
    }
    // Its end shows that all of this connection were looked at.
    let mut witness = Kind::Events.open(&client, &token).await;
    front.streams.clock.advance(TOKEN_LIFETIME);
    witness.ends("token_expired", Code::Unauthenticated).await;
    for stream in &mut bobs {
        stream.goes_on(&front.streams.world).await;
    }
}

#[tokio::test]
async fn a_token_beside_an_assertion_ends_what_it_was_shown_for() {
    let front = Front::new().await;
    let proxy = front.start();
    let client = front.connect(&proxy, Protocol::H2).await;
    let (said, token) = (front.says(json!({})), front.streams.token(json!({})));
    let mut streams: Vec<Stream> = Vec::new();
    for kind in KINDS {
        let fields = [(ASSERTION, &*said), (AUTHORIZATION.as_str(), &*token)];
        streams.push(kind.open_presenting(&client, &fields).await);
    }
    let mut alone = Kind::Events.open_with(&client, ASSERTION, &said).await;
    let ends = front.streams.clock.now().plus(LATER).unix_seconds() - 60;
    let mut witness = Kind::Events.open(&client, &front.streams.token(json!({ "exp": ends }))).await;
    front.streams.clock.advance(LATER);
    witness.ends("token_expired", Code::Unauthenticated).await;
    for stream in &mut streams {
        stream.goes_on(&front.streams.world).await;
    }
    front.streams.clock.advance(TOKEN_LIFETIME - LATER);
    for stream in &mut streams {
        stream.ends("token_expired", Code::Unauthenticated).await;
    }
    alone.goes_on(&front.streams.world).await;
}

/// What a reload says of the front otherwise, and why its people are refused then.
const READ_OTHERWISE: [(&str, &str, &str, &str); 5] = [
    (
        "whose people it may vouch for",
        "preset = \"countersign\"",
        "preset = \"countersign\"\nonly = { subject_issuer = \"https://partner.example\" }",
        "token_issuer_unknown",
    ),
    (
        "its name",
        "url = \"https://front.shop.example\"",
        "url = \"https://other.shop.example\"",
        "token_issuer_unknown",
    ),
    ("ours", "audience = [\"orders\"]", "audience = [\"reports\"]", "token_wrong_audience"),
    (
        "what it must say",
        "preset = \"countersign\"",
        "preset = \"countersign\"\nrequires = [\"tenant\"]",
        "token_malformed",
    ),
    (
        "where the roles stand",
        "jwks = \"front.jwks\"",
        "jwks = \"front.jwks\"\nclaims = { roles = \"groups\" }",
        "role_missing",
    ),
];

#[tokio::test]
async fn what_was_vouched_for_is_read_as_a_new_request_s_would_be() {
    let mut seen = 0;
    for (what, before, after, reason) in READ_OTHERWISE {
        let front = Front::new().await;
        let proxy = front.start();
        let client = front.connect(&proxy, Protocol::H2).await;
        let mut stream = Kind::WebSocket.open_with(&client, ASSERTION, &front.says(json!({}))).await;
        let whole = front.configuration("");
        assert!(whole.contains(before), "{what}");
        proxy.reload(&whole.replace(before, after)).unwrap();
        let anew = client.ask(with(&[(ASSERTION, &front.says(json!({})))])).await.unwrap();
        let refused: Value = anew.json();
        stream.ends(refused["reason"].as_str().unwrap(), Code::Unauthenticated).await;
        let record = record(&proxy, Kind::WebSocket.path(), 0).await;
        assert_eq!(
            (&refused["reason"], &record["reason"]),
            (&json!(reason), &json!(reason)),
            "{what} {record}"
        );
        seen += 1;
    }
    assert_eq!(seen, 5);
}

#[tokio::test]
async fn a_token_beside_an_assertion_is_of_the_client_that_this_tells() {
    let front = Front::new().await;
    let proxy = front.start();
    let client = front.connect(&proxy, Protocol::H2).await;
    let said = front.says(json!({}));
    for (claims, status) in [(json!({}), 200), (json!({ "client_id": "reports" }), 403)] {
        let token = front.streams.token(claims);
        let answer = client.ask(with(&[(ASSERTION, &said), (AUTHORIZATION.as_str(), &token)])).await.unwrap();
        assert_eq!(answer.status, status);
        if status == 403 {
            assert_eq!(answer.json()["reason"], "token_not_issued_to_service");
        }
    }
}

const OFFICE: &str = r#"
[[allow]]
name = "from the office"
service = "front"
role = "none"
route = "socket"
client_ip = "203.0.113.0/24"
"#;

#[tokio::test]
async fn what_a_front_said_of_its_client_holds_as_long_as_it_is_believed() {
    let front = Front::new().await;
    let proxy = front.streams.world.start(&front.configuration(OFFICE));
    let client = front.connect(&proxy, Protocol::H1).await;
    let mut stream = Kind::WebSocket.open_with(&client, "x-forwarded-for", "203.0.113.7").await;
    proxy.reload(&front.configuration(&format!("{OFFICE}\n[limit]\nheader_count_max = 99"))).unwrap();
    stream.goes_on(&front.streams.world).await;
    let hop = "[trusted_hop.front]\nkind = \"countersign\"\nspiffe_id = \"spiffe://shop.example/ns/prod/sa/front\"\n";
    let whole = front.configuration(OFFICE);
    assert!(whole.contains(hop));
    proxy.reload(&whole.replace(hop, "")).unwrap();
    stream.ends("service_not_allowed", Code::PermissionDenied).await;
}
