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
