//! What upstreams are shown where a real provider issues it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::credentials::by;
use super::{reason, told};
use crate::provider::Provider;
use crate::world::World;
use crate::world::certificates::TRUST_DOMAIN;
use crate::world::client::{Client, Protocol};
use crate::world::proxy::HOST;

fn claims(bearer: &str) -> Value {
    let part = bearer.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// At a real provider: a person's token becomes one for the upstream in which this proxy acts for them, and a
/// token of our own is got by secret and by a signed assertion.
#[tokio::test]
#[ignore = "needs node and `npm ci` in tests/idp; tests/run runs it"]
async fn a_real_provider_issues_what_upstreams_are_shown() {
    let world = World::new().await;
    let key = rcgen::KeyPair::generate().unwrap();
    world.write("client-key.pem", &key.serialize_pem());
    world.write("client-secret", "batch-secret\n");
    let (x, y) = key.public_key_raw()[1..].split_at(32);
    let [x, y] = [x, y].map(|part| URL_SAFE_NO_PAD.encode(part));
    let jwk = json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": "orders-1", "alg": "ES256", "use": "sig" });
    let provider = Provider::start_knowing(&json!({ "keys": [jwk] })).await;
    let more = r#"
[issuer.real]
url        = "@issuer@"
audience   = ["https://orders.shop.example"]
allow_http = true
[[issuer.real.actor]]
kind  = "human"
claim = { groups = "eng" }

[service.web]
spiffe_id = "spiffe://shop.example/ns/prod/sa/web"
client_id = [{ issuer = "real", client = "storefront-web" }]

[upstream.exchanged]
server = "@upstream@"
[upstream.exchanged.credential]
kind          = "exchange"
issuer        = "real"
client_id     = "orders"
client_secret = { file = "client-secret" }
audience      = ["https://payments.shop.example"]
scope         = ["charge"]
actor_token   = "client_credentials"
[upstream.refused]
server = "@upstream@"
[upstream.refused.credential]
kind          = "exchange"
issuer        = "real"
client_id     = "orders"
client_secret = { file = "client-secret" }
audience      = ["https://forbidden.shop.example"]
[upstream.own]
server = "@upstream@"
[upstream.own.credential]
kind        = "client_credentials"
issuer      = "real"
client_id   = "orders-jwt"
private_key = "client-key.pem"
key_id      = "orders-1"
resource    = ["https://payments.shop.example"]
scope       = ["orders:read"]

[route.exchanged]
host     = "orders.shop.example"
path     = "/exchanged"
upstream = "exchanged"
[route.refused]
host     = "orders.shop.example"
path     = "/refused"
upstream = "refused"
[route.own]
host     = "orders.shop.example"
path     = "/own"
upstream = "own"
[[allow]]
name    = "people"
route   = "any"
service = "web"
role    = "any"
actor   = ["human", "unknown"]
"#;
    let proxy = world.start(&more.replace("@issuer@", &provider.issuer));
    let web = world.certificates.shop.issue(&world.certificates.workload(TRUST_DOMAIN, "web")).unwrap();
    let config = world.certificates.client_config_with(Some(&web));
    let client = Client::tls(proxy.address("mesh"), HOST, config, Protocol::H2).await.unwrap();
    let person = provider.person_token("alice", "orders:read").await.unwrap();
    let mut shown = Vec::new();
    for _ in 0..3 {
        let answer = client.ask(by("/exchanged", &person)).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        shown.push(told(&answer.json(), "authorization").unwrap().to_owned());
    }
    let token = claims(&shown[0]);
    println!("exchanged: {token}");
    assert!(shown.iter().all(|other| *other == shown[0]), "one exchange for the three");
    assert_eq!((&token["sub"], &token["aud"]), (&json!("alice"), &json!("https://payments.shop.example")));
    assert_eq!((&token["act"]["sub"], &token["scope"]), (&json!("orders"), &json!("charge")));
    assert_ne!(claims(&person)["aud"], token["aud"]);

    let answer = client.ask(by("/refused", &person)).await.unwrap();
    assert_eq!((answer.status.as_u16(), reason(&answer)), (403, "token_not_exchanged".to_owned()));
    let record = proxy.record_of(&answer).await;
    assert!(record["detail"].as_str().unwrap().contains("`invalid_target`"), "{record}");

    let answer = client.ask(by("/own", &person)).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let token = claims(told(&answer.json(), "authorization").unwrap());
    println!("our own: {token}");
    assert_eq!(
        (&token["client_id"], &token["aud"]),
        (&json!("orders-jwt"), &json!("https://payments.shop.example"))
    );
    assert_eq!(world.upstream.counts().requests, 4);
}
