//! A clock that is ten minutes off, and one that jumps back.

use std::time::Duration;

use countersign::clock::Clock;
use serde_json::json;

use super::{ANYTHING, outcome};
use crate::world::World;
use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, get, with_token};

const OFF: Duration = Duration::from_secs(600);

async fn ask(client: &Client, token: &str) -> (u16, String) {
    outcome(&client.ask(with_token(get("/orders/7"), token)).await.unwrap())
}

fn refused(reason: &str) -> (u16, String) {
    (401, reason.to_owned())
}

#[tokio::test]
async fn a_clock_that_is_ten_minutes_off_refuses_and_says_in_which_direction() {
    let (fine, no_reason) = (200, String::new());
    for protocol in Protocol::BOTH {
        let right = Clock::system().now();
        let clock = Clock::manual(right);
        let world = World::at(clock.clone()).await;
        let proxy = world.start(ANYTHING);
        let client = proxy.client(Who::Storefront, protocol).await;
        // Of five minutes, as an issuer whose clock is right makes them.
        let short = world.issuer.token(json!({}));
        let hour = right.plus(Duration::from_secs(3600)).unix_seconds();
        let long = world.issuer.token(json!({"exp": hour}));
        assert_eq!(ask(&client, &short).await, (fine, no_reason.clone()));

        // Fast: what lives shorter than that is over.
        clock.set(right.plus(OFF));
        assert_eq!(ask(&client, &short).await, refused("token_expired"));
        assert_eq!(ask(&client, &long).await, (fine, no_reason.clone()));
        let at_last = proxy.records(3).await;
        assert_eq!(
            at_last[1]["story"].as_str().map(|story| story.contains("time is over")),
            Some(true),
            "{}",
            at_last[1]["story"]
        );

        // Slow: what was made just now is not yet valid, remembered or not.
        clock.set(right.minus(OFF));
        for token in [&short, &long, &world.issuer.token(json!({"exp": hour, "iat": right.unix_seconds()}))] {
            assert_eq!(ask(&client, token).await, refused("token_not_yet_valid"), "{protocol:?}");
        }
        assert_eq!(world.upstream.counts().requests, 2);
    }
}
