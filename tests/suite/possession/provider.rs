//! Tokens that a real provider has bound, and opaque ones that it is asked about.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign::clock::Clock;
use serde_json::json;

use super::{Holder, presenting, with_proof};
use crate::provider::Provider;
use crate::world::World;
use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol};
use crate::world::proxy::{HOST, Proxy};

/// The batch job's certificate is one that the base configuration does not name.
const RULES: &str = r#"
[service.batch]
spiffe_id = "spiffe://shop.example/ns/prod/sa/nobody"
client_id = [{ issuer = "corp", client = "batch*" }]

[[allow]]
name = "batches read, with what is theirs"
service = "batch"
role = "order-reader"
sender_constrained = true
"#;

async fn world_of(provider: &Provider, clock: Clock) -> World {
    let mut world = World::at(clock).await;
    world.issuer.url = provider.issuer.clone();
    world
}

async fn outcome(
    proxy: &Proxy<'_>,
    client: &Client,
    request: http::Request<crate::world::Body>,
) -> (u16, String) {
    let answer = client.ask(request).await.unwrap();
    let record = proxy.record_of(&answer).await;
    (answer.status.as_u16(), record["reason"].as_str().unwrap().to_owned())
}

#[tokio::test]
#[ignore = "needs node and `npm ci` in tests/idp; tests/run runs it"]
async fn tokens_that_the_provider_has_bound_are_their_holders_alone() {
    let provider = Provider::start().await;
    let world = world_of(&provider, Clock::system()).await;
    let proxy = world.start(RULES);
    let minted = world.certificates.client(Who::Unnamed).unwrap();
    let config = world.certificates.client_config_with(Some(&minted));
    let batch = Client::tls(proxy.address("mesh"), HOST, config, Protocol::H2).await.unwrap();
    let thief = proxy.client(Who::Storefront, Protocol::H2).await;
    let allowed = (200, "allowed".to_owned());
    let refused = (401, "token_not_sender_constrained".to_owned());

    let pem = STANDARD.encode(&minted.chain);
    let token = provider.client_token_with("batch-mtls", "orders:read", &[("x-client-cert", &pem)]).await;
    assert_eq!(outcome(&proxy, &batch, presenting("Bearer", &token)).await, allowed);
    assert_eq!(outcome(&proxy, &thief, presenting("Bearer", &token)).await, refused);

    let [holder, other] = [(); 2].map(|()| Holder::new("ES256", &world.clock));
    let endpoint = json!({"htm": "POST", "htu": format!("{}/token", provider.issuer), "ath": null});
    let asking = holder.proof("", json!({}), endpoint);
    let token = provider.client_token_with("batch-dpop", "orders:read", &[("dpop", &asking)]).await;
    let proof = holder.proof(&token, json!({}), json!({}));
    assert_eq!(outcome(&proxy, &batch, with_proof(&token, &proof)).await, allowed);
    assert_eq!(outcome(&proxy, &batch, with_proof(&token, &proof)).await, refused, "a second time");
    assert_eq!(outcome(&proxy, &batch, holder.request(&token)).await, allowed);
    assert_eq!(outcome(&proxy, &batch, other.request(&token)).await, refused, "by another's key");
    assert_eq!(outcome(&proxy, &batch, presenting("Bearer", &token)).await, refused);

    let plain = provider.client_token("batch", "orders:read", None).await;
    assert_eq!(
        outcome(&proxy, &batch, presenting("Bearer", &plain)).await,
        refused,
        "the rule wants a bound one"
    );
    assert_eq!(world.upstream.counts().requests, 3);
}

#[tokio::test]
#[ignore = "needs node and `npm ci` in tests/idp; tests/run runs it"]
async fn the_provider_is_asked_about_opaque_tokens_until_it_has_revoked_them() {
    let provider = Provider::start().await;
    let clock = Clock::manual(Clock::system().now());
    let world = world_of(&provider, clock.clone()).await;
    world.write("secret", "batch-secret\n");
    let path = world.configuration(&RULES.replace("sender_constrained = true\n", ""));
    // what it says of a client's opaque token names no subject
    let text = std::fs::read_to_string(path).unwrap().replace(
        "requires = [\"sub\", \"client_id\"]\n",
        "requires = [\"client_id\"]\nclient_id = \"batch\"\nclient_secret = { file = \"secret\" }\nintrospection = {}\n",
    );
    world.write("countersign.toml", &text);
    let proxy = world.start_written();
    let batch = proxy.client(Who::Unnamed, Protocol::H2).await;
    let ask = async |token: &str| outcome(&proxy, &batch, presenting("Bearer", token)).await;
    let token = provider.client_token_with("batch", "orders:read", &[("x-format", "opaque")]).await;
    assert!(!token.contains('.'), "{token}");
    let allowed = (200, "allowed".to_owned());
    assert_eq!(ask(&token).await, allowed);
    assert_eq!(ask(&token).await, allowed);
    assert_eq!(ask(&token[1..]).await, (401, "token_revoked".to_owned()));

    provider.revoke("batch", &token).await;
    assert_eq!(ask(&token).await, allowed, "its word is believed for a moment");
    clock.advance(Duration::from_secs(30));
    assert_eq!(ask(&token).await, (401, "token_revoked".to_owned()));

    // bound to a key, and opaque
    let holder = Holder::new("EdDSA", &world.clock);
    let endpoint = json!({"htm": "POST", "htu": format!("{}/token", provider.issuer), "ath": null});
    let fields = [("dpop", holder.proof("", json!({}), endpoint)), ("x-format", "opaque".to_owned())];
    let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
    let token = provider.client_token_with("batch-dpop", "orders:read", &fields).await;
    assert_eq!(outcome(&proxy, &batch, holder.request(&token)).await, allowed);
    assert_eq!(ask(&token).await, (401, "token_not_sender_constrained".to_owned()));
    assert_eq!(world.upstream.counts().requests, 4);
}
