//! Tokens beside what a load balancer says of who logged in there.

use std::sync::Arc;
use std::time::Duration;

use countersign::clock::Clock;
use http::header::AUTHORIZATION;
use serde_json::json;
use tonic::Code;

use super::balancer::{Keys, SAID};
use super::*;
use crate::streams::{Kind, record};
use crate::world::client::with_token;

#[tokio::test]
async fn a_stream_ends_with_the_token_beside_what_the_load_balancer_said() {
    let world = World::at(Clock::manual(Clock::system().now())).await;
    let keys = Keys::start().await;
    let proxy = world.start(&keys.by_address("127.0.0.1/32"));
    let behind = Arc::new(Client::plain_for(proxy.address("behind"), HOST, Protocol::H2).await.unwrap());
    let said = keys.said(&world, json!({}), json!({}));
    let ends = world.clock.now().plus(Duration::from_secs(30)).unix_seconds();
    let token = format!("Bearer {}", world.issuer.token(json!({ "exp": ends })));
    let fields = [(SAID, &*said), (AUTHORIZATION.as_str(), &*token)];
    let mut stream = Kind::Events.open_presenting(&behind, &fields).await;
    let mut alone = Kind::Events.open_with(&behind, SAID, &said).await;
    // With the leeway; what the load balancer said holds for longer.
    world.clock.advance(Duration::from_secs(90));
    stream.ends("token_expired", Code::Unauthenticated).await;
    let record = record(&proxy, Kind::Events.path(), 0).await;
    assert_eq!((&record["reason"], &record["caller"]["issuer"]), (&json!("token_expired"), &json!("people")));
    alone.goes_on(&world).await;
}

const SERVICE: &str = r#"
[service.desk]
spiffe_id = "spiffe://shop.example/ns/prod/sa/nobody"
client_id = [{ issuer = "people", client = "web" }, { issuer = "corp", client = "storefront-web" }]
"#;

#[tokio::test]
async fn a_token_beside_a_log_in_is_one_that_its_service_may_carry() {
    let world = World::new().await;
    let keys = Keys::start().await;
    let rules = keys.by_address("127.0.0.1/32").replace("mutual_authentication = \"off\"\n", "");
    let rules = rules.replace("service = \"none\"", "service = \"desk\"");
    let proxy = world.start(&format!("{rules}{SERVICE}"));
    let behind = proxy.behind(Protocol::H1).await;
    let told = Form::AlbChain.of(&client(&world, Who::Unnamed)).remove(0);
    let said = (SAID, keys.said(&world, json!({}), json!({})));
    for (claims, expected) in [
        (json!({}), None),
        (json!({ "client_id": "another" }), Some(expect(403, "token_not_issued_to_service"))),
    ] {
        let before = world.upstream.counts().requests;
        let request =
            with_token(passed("/orders/7", &vec![told.clone(), said.clone()]), &world.issuer.token(claims));
        let answer = behind.ask(request).await.unwrap();
        match &expected {
            Some(expected) => assert_eq!(&refusal(&answer), expected),
            None => assert_eq!(seen(&answer).header("x-auth-subject"), ["alice"]),
        }
        assert_eq!(world.upstream.counts().requests - before, u64::from(expected.is_none()));
    }
}
