//! Assertions: what an upstream is told of who asks, signed by the proxy, and what the next Countersign makes of it.

mod address;
mod asked;
mod fetched;
mod languages;
mod next;
mod rests;

use std::time::Duration;

use countersign::clock::Clock;
use countersign::trial::{Question, Trial, head};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Value, json};

use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, get};
use crate::world::proxy::{HOST, Proxy};
use crate::world::seen::Seen;
use crate::world::{Body, World};

pub const KEYS: &str = "/.well-known/countersign/jwks.json";

/// Two routes to two upstreams, which are one; anyone of ours gets something without a token.
const ASSERTED: &str = r#"
[assertion]
issuer = "https://orders.shop.example"
claims = ["tenant"]

[upstream.other]
server = ["@upstream@"]
assertion_audience = "https://other.shop.example"

[route.other]
host = "orders.shop.example"
path = "/other/**"
upstream = "other"

[route.public]
host = "orders.shop.example"
path = "/public/**"
upstream = "orders"

[[allow]]
name = "readers"
service = "storefront"
role = "order-reader"
route = ["orders", "other"]

[[allow]]
name = "assistants"
service = "assistant"
role = "order-reader"
actor = "agent"
on_behalf_of = ["human", "unknown"]
route = "orders"

[[allow]]
name = "anyone of ours"
service = "any"
role = "none"
route = "public"
"#;

/// A request with a token of these claims.
pub fn ask(world: &World, path: &str, claims: Value) -> http::Request<Body> {
    let mut request = get(path);
    let value = format!("Bearer {}", world.issuer.token(claims)).parse().unwrap();
    request.headers_mut().insert("authorization", value);
    request
}

/// The assertion that an upstream saw.
pub async fn asserted(client: &Client, request: http::Request<Body>) -> String {
    let answer = client.ask(request).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen: Seen = serde_json::from_slice(&answer.body).unwrap();
    let [assertion] = seen.header("x-auth-assertion")[..] else { panic!("{:?}", seen.headers) };
    assertion.to_owned()
}

/// What a library makes of it that knows nothing of us, with the keys that the proxy publishes.
async fn verified(proxy: &Proxy<'_>, assertion: &str, audience: &str) -> Value {
    let published = proxy.client(Who::Storefront, Protocol::H1).await.ask(get(KEYS)).await.unwrap();
    assert_eq!(published.status, 200);
    assert_eq!(published.headers["content-type"], "application/jwk-set+json");
    let keys: JwkSet = serde_json::from_slice(&published.body).unwrap();
    let header = decode_header(assertion).unwrap();
    assert_eq!((header.alg, header.typ.as_deref()), (Algorithm::ES256, Some("countersign+jwt")));
    let key = DecodingKey::from_jwk(keys.find(&header.kid.unwrap()).unwrap()).unwrap();
    let mut rules = Validation::new(Algorithm::ES256);
    rules.set_audience(&[audience]);
    rules.set_issuer(&["https://orders.shop.example"]);
    rules.set_required_spec_claims(&["exp", "aud", "iss"]);
    decode::<Value>(assertion, &key, &rules).unwrap().claims
}

#[tokio::test]
async fn an_upstream_verifies_who_asks_with_any_library() {
    let world = World::new().await;
    let proxy = world.start(ASSERTED);
    let client = proxy.client(Who::Storefront, Protocol::H1).await;
    let login = world.clock.now().unix_seconds() - 60;
    let claims =
        json!({ "uid": "1", "acr": "mfa", "auth_time": login, "groups": ["support"], "tenant": "t-7" });
    let assertion = asserted(&client, ask(&world, "/orders/7", claims)).await;
    let told = verified(&proxy, &assertion, "orders").await;
    let record = proxy.records(1).await.remove(0);
    let expected = json!({
        "iss": "https://orders.shop.example",
        "aud": "orders",
        "iat": told["iat"],
        "exp": told["iat"].as_i64().unwrap() + 60,
        "caller_exp": told["iat"].as_i64().unwrap() + 360,
        "decision": record["id"],
        "sub": "alice",
        "subject_issuer": world.issuer.url,
        "client_id": "storefront-web",
        "scope": "orders:read",
        "groups": ["support"],
        "roles": ["order-reader"],
        "acr": "mfa",
        "auth_time": login,
        "actor": "human",
        "on_behalf_of": "human",
        "tenant": "t-7",
        "peer": {
            "service": ["storefront"],
            "spiffe_id": "spiffe://shop.example/ns/prod/sa/storefront",
            "x5t#S256": told["peer"]["x5t#S256"],
            "hop": "direct",
        },
        "via": ["spiffe://shop.example/ns/prod/sa/storefront"],
    });
    assert_eq!(told, expected);

    // aimed at the upstream that it goes to
    let other = asserted(&client, ask(&world, "/other/7", json!({}))).await;
    assert_eq!(
        verified(&proxy, &other, "https://other.shop.example").await["aud"],
        "https://other.shop.example"
    );

    // who acts, and for whom
    let assistant = proxy.client(Who::Assistant, Protocol::H2).await;
    let act = json!({ "sub": "assistant-7", "iss": world.issuer.url, "act": { "sub": "x", "iss": "https://else" } });
    let claims = json!({ "uid": "1", "client_id": "assistant-7", "act": act });
    let told =
        verified(&proxy, &asserted(&assistant, ask(&world, "/orders/7", claims)).await, "orders").await;
    assert_eq!((&told["actor"], &told["on_behalf_of"]), (&json!("agent"), &json!("human")));
    let expected = json!({ "sub": "assistant-7", "act": { "sub": "x", "iss": "https://else" } });
    assert_eq!(told["act"], expected);

    // no caller: the service alone
    let told = verified(&proxy, &asserted(&client, get("/public/7")).await, "orders").await;
    assert_eq!(told["actor"], "none");
    for name in ["sub", "on_behalf_of", "subject_issuer", "roles", "scope"] {
        assert_eq!(told[name], Value::Null, "{name}");
    }
    assert_eq!(told["peer"]["service"], json!(["storefront"]));
}

#[tokio::test]
async fn an_assertion_is_sent_again_while_all_that_it_says_holds() {
    let world = World::at(Clock::manual(Clock::system().now())).await;
    let proxy = world.start(ASSERTED);
    let client = proxy.client(Who::Storefront, Protocol::H1).await;
    let token = world.issuer.token(json!({}));
    let with_token = |path: &str| {
        let mut request = get(path);
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request
    };
    let alice = async || asserted(&client, with_token("/orders/7")).await;
    let first = alice().await;
    assert_eq!(alice().await, first, "the same two, the same upstream");
    let others = [
        asserted(&client, ask(&world, "/orders/7", json!({ "sub": "bob" }))).await,
        asserted(&client, with_token("/other/7")).await,
        asserted(&client, get("/public/7")).await,
    ];
    assert!(others.iter().all(|other| *other != first));
    // That of the last upstream is kept: this is signed anew.
    let again = alice().await;
    world.clock.advance(Duration::from_millis(29_999));
    assert_eq!(alice().await, again);
    world.clock.advance(Duration::from_millis(1));
    let later = alice().await;
    assert_ne!(later, again);
    let ends = |assertion: &str| {
        let claims = assertion.split('.').nth(1).unwrap();
        let claims =
            base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, claims).unwrap();
        serde_json::from_slice::<Value>(&claims).unwrap()["exp"].as_i64().unwrap()
    };
    assert_eq!(ends(&later) - ends(&again), 30);
    // never longer than the token that it rests on
    let ended = world.clock.now().unix_seconds() - 50;
    let short = asserted(&client, ask(&world, "/orders/7", json!({ "exp": ended }))).await;
    assert_eq!(ends(&short), ended + 60, "the issuer's leeway is all that is left of it");
    proxy.reload(ASSERTED).unwrap();
    assert_ne!(alice().await, later, "another generation may call them otherwise");
    assert_eq!(verified(&proxy, &later, "orders").await["sub"], "alice", "and the keys are the same");
}

#[tokio::test]
async fn the_keys_are_for_everybody_and_for_reading() {
    let world = World::new().await;
    let listener = "[listener.keys]\naddress = \"127.0.0.1:0\"\nclient_certificate = \"none\"\n";
    let proxy = world.start(&format!("{ASSERTED}\n{listener}"));
    let config = world.certificates.client_config(Who::NoCertificate);
    let anybody = Client::tls(proxy.address("keys"), HOST, config, Protocol::H2).await.unwrap();
    let published = anybody.ask(get(KEYS)).await.unwrap();
    assert_eq!(published.status, 200);
    assert!(!String::from_utf8_lossy(&published.body).contains("\"d\""));
    let mut posted = get(KEYS);
    *posted.method_mut() = http::Method::POST;
    let answer = anybody.ask(posted).await.unwrap();
    assert_eq!(answer.status, 405, "{answer:?}");
    assert_eq!((answer.status.as_u16(), &answer.headers["allow"]), (405, &"GET, HEAD".parse().unwrap()));
    let records = proxy.records(2).await;
    assert_eq!((&records[0]["verdict"], &records[0]["rule"]), (&json!("allow"), &Value::Null));
    let story = records[0]["story"].as_str().unwrap();
    assert!(story.ends_with("answered by the proxy itself, which tells this to everybody"), "{story}");
    assert_eq!(world.upstream.counts().requests, 0);
    // who only asks what would become of it is told the same
    let mut trial = Trial::new(world.load(), world.clock.now()).unwrap();
    let mut asked = |method| {
        let url = format!("https://{HOST}{KEYS}");
        let answer = trial.ask(&Question::new(head(method, &url, []).unwrap())).unwrap();
        answer.status().map(|status| status.as_u16())
    };
    assert_eq!([asked("GET"), asked("POST")], [Some(200), Some(405)]);
    // without `[assertion]` it is a path like any other
    proxy.reload(listener).unwrap();
    let answer = proxy.client(Who::Storefront, Protocol::H1).await.ask(get(KEYS)).await.unwrap();
    assert_eq!(answer.status, 403);
}
