//! An issuer that is down, slow or lying: its last good keys serve on, and nobody waits who need not.

use countersign::clock::Clock;
use countersign::token::UNKNOWN_KEY_REST;
use http::StatusCode;
use serde_json::json;

use super::{ANYTHING, Healthy, outcome};
use crate::world::World;
use crate::world::certificates::Who;
use crate::world::client::{Protocol, get, with_token};
use crate::world::issuer::Answering;
use crate::world::signing::KEYS;

#[tokio::test]
async fn an_issuer_that_is_down_slow_or_lying_holds_up_only_tokens_of_keys_nobody_knows() {
    let clock = Clock::manual(Clock::system().now());
    let world = World::at(clock.clone()).await;
    let proxy = world.start(ANYTHING);
    let healthy = Healthy::of(&proxy).await;
    let html = || Answering::Text { content_type: "text/html", body: "<html>maintenance</html>".to_owned() };
    let text = |body: &str| Answering::Text { content_type: "application/json", body: body.to_owned() };
    let ways = [
        ("down", Answering::HangUp),
        ("failing", Answering::Status(StatusCode::INTERNAL_SERVER_ERROR)),
        ("redirecting", Answering::Redirect("http://127.0.0.1:1/jwks".to_owned())),
        ("a page", html()),
        ("no keys", text("{\"keys\":[]}")),
        ("half a document", text("{\"keys\":[{\"kty\":\"RSA\",")),
        ("too long", Answering::Huge { bytes: 1 << 20 }),
        ("slow", Answering::Held),
    ];
    healthy
        .beside("issuer: down, slow or lying (8 ways)", async |round| {
            let client = proxy.client(Who::Storefront, Protocol::BOTH[round % 2]).await;
            for (way, answering) in &ways {
                world.issuer.jwks_answers(answering.clone());
                clock.advance(UNKNOWN_KEY_REST);
                let before = world.issuer.fetches().jwks;
                let unknown = world.issuer.token_by(&KEYS[0], json!({"kid": "never-seen"}), json!({}));
                let request = with_token(get("/orders/7"), &unknown);
                let release = async {
                    if *way == "slow" {
                        while world.issuer.fetches().jwks == before {
                            tokio::task::yield_now().await;
                        }
                        healthy.goes_on(10).await;
                        world.issuer.release();
                    }
                };
                let (answer, ()) = tokio::join!(client.ask(request), release);
                assert_eq!(outcome(&answer.unwrap()), (401, "token_key_unknown".to_owned()), "{way}");
                assert!(world.issuer.fetches().jwks > before, "{way}");
            }
        })
        .await;
}
