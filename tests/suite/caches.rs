//! What is remembered of a decision is remembered for exactly what was judged: with any one thing changed it is
//! decided anew, and nothing is remembered longer than what it rests on.

use std::time::Duration;

use countersign::cli::mint::Validity;
use countersign::clock::Clock;
use futures_util::future::join_all;
use http::header::CONTENT_TYPE;
use http::{Method, Request};
use serde_json::{Value, json};

use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, get, post, with_token};
use crate::world::issuer::Answering;
use crate::world::proxy::{HOST, Proxy};
use crate::world::signing::{KEYS, Key};
use crate::world::upstream::Upstream;
use crate::world::{Body, World, full, soon};

/// One rule that reads everything.
const POLICY: &str = r#"
[role.clerk]
all_of = [
  { issuer = "corp", scope = "orders:read" },
  { issuer = "corp", group = "staff" },
  { issuer = "corp", role = "clerk" },
]

[[allow]]
name = "clerks read their customer's orders"
service = "storefront"
role = "clerk"
actor = "human"
claim = { tier = "gold" }
acr = "mfa"
max_age = "15m"
host = "orders.shop.example"
method = "GET"
path = "/customers/{customer}/orders"
match_claim = { customer = "sub" }
"#;

fn claims(world: &World, changes: Value) -> Value {
    let mut claims = json!({
        "uid": "u1", "groups": ["staff"], "roles": ["clerk"], "tier": "gold", "acr": "mfa",
        "auth_time": world.clock.now().unix_seconds(),
    });
    claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    claims
}

/// Status, reason and whether the standing was remembered.
async fn outcome(proxy: &Proxy<'_>, client: &Client, request: Request<Body>) -> (u16, String, Value) {
    let answer = client.ask(request).await.unwrap();
    let record = proxy.record_of(&answer).await;
    (answer.status.as_u16(), record["reason"].as_str().unwrap().to_owned(), record["cache"].clone())
}

const OWN: &str = "/customers/alice/orders";

/// Asks twice, so that the second answer comes from memory.
async fn prime(proxy: &Proxy<'_>, client: &Client, token: &str) {
    for cache in ["miss", "hit"] {
        let allowed = (200, "allowed".to_owned(), json!(cache));
        assert_eq!(outcome(proxy, client, with_token(get(OWN), token)).await, allowed);
    }
}

#[tokio::test]
async fn with_any_one_thing_changed_it_is_decided_anew() {
    let world = World::new().await;
    let proxy = world.start(POLICY);
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        // another jti, so that it is not the other protocol's token
        let jti = format!("{protocol:?}");
        let base = claims(&world, json!({"jti": jti}));
        let token = world.issuer.token(base.clone());
        prime(&proxy, &client, &token).await;
        let allowed = world.upstream.counts().requests;

        let mut seen = 0;
        let old = world.clock.now().minus(Duration::from_secs(16 * 60)).unix_seconds();
        for (changes, status, reason) in [
            (json!({"sub": "bob"}), 403, "claim_mismatch"),
            (json!({"client_id": "another"}), 403, "token_not_issued_to_service"),
            (json!({"scope": "orders:write"}), 403, "scope_missing"),
            (json!({"groups": ["guests"]}), 403, "role_missing"),
            (json!({"roles": ["guest"]}), 403, "role_missing"),
            (json!({"tier": "silver"}), 403, "claim_mismatch"),
            (json!({"uid": null}), 403, "actor_not_allowed"),
            (json!({"act": {"sub": "agent-7"}}), 403, "actor_not_allowed"),
            (json!({"act": {"sub": "agent-7", "act": {"sub": "agent-8"}}}), 403, "actor_not_allowed"),
            (json!({"acr": "pwd"}), 401, "step_up_required"),
            (json!({"auth_time": old}), 401, "step_up_required"),
            (json!({"iss": "https://other.example"}), 401, "token_issuer_unknown"),
            (json!({"aud": "https://other.example"}), 401, "token_wrong_audience"),
        ] {
            let changed = claims(&world, json!({"jti": jti}));
            let mut changed = changed.as_object().unwrap().clone();
            changed.extend(changes.as_object().unwrap().clone());
            let changed = world.issuer.token(changed.into());
            let (got, why, cache) = outcome(&proxy, &client, with_token(get(OWN), &changed)).await;
            assert_eq!((got, why.as_str()), (status, reason), "{changes}");
            assert_ne!(cache, "hit", "{changes}");
            seen += 1;
        }
        assert_eq!(seen, 13);
        // the same claims in other bytes are another token
        let again = world.issuer.token_by(&KEYS[0], json!({"typ": "JWT"}), base);
        assert_eq!(outcome(&proxy, &client, with_token(get(OWN), &again)).await.2, "miss");

        // the standing is the same, and is not all that is judged
        let post = Request::builder().method(Method::POST).uri(OWN).body(full("")).unwrap();
        for (request, status, reason) in [
            (post, 403, "no_rule"),
            (get("/customers/bob/orders"), 403, "claim_mismatch"),
            (get("/customers/alice"), 403, "no_rule"),
        ] {
            let uri = request.uri().clone();
            let (got, why, _) = outcome(&proxy, &client, with_token(request, &token)).await;
            assert_eq!((got, why.as_str()), (status, reason), "{uri}");
        }
        // on a connection of its own, which ends with it
        let elsewhere = get("https://localhost/customers/alice/orders");
        let lost = proxy.client(Who::Storefront, protocol).await;
        assert_eq!(outcome(&proxy, &lost, with_token(elsewhere, &token)).await.1, "misdirected");
        // on one that was made for no name, which any host may be asked for on
        let mut nameless = world.certificates.client_config(Who::Storefront);
        nameless.enable_sni = false;
        let nameless = Client::tls(proxy.address("mesh"), HOST, nameless, protocol).await.unwrap();
        for (host, status, reason) in [(HOST, 200, "allowed"), ("other.example", 404, "no_route")] {
            let request = get(&format!("https://{host}{OWN}"));
            let (got, why, _) = outcome(&proxy, &nameless, with_token(request, &token)).await;
            assert_eq!((got, why.as_str()), (status, reason), "{host}");
        }
        let without = client.ask(get(OWN)).await.unwrap();
        assert_eq!(without.status, 401, "the caller is not remembered for the connection");
        assert_eq!(world.upstream.counts().requests, allowed + 2);

        // the same token in other hands; the same service by another certificate
        for (who, status, reason, cache) in [
            (Who::Assistant, 403, "token_not_issued_to_service", json!("miss")),
            (Who::Unnamed, 403, "peer_unknown", json!("miss")),
            (Who::Storefront, 200, "allowed", json!("miss")),
        ] {
            let other = proxy.client(who, protocol).await;
            let expected = (status, reason.to_owned(), cache);
            assert_eq!(outcome(&proxy, &other, with_token(get(OWN), &token)).await, expected, "{who:?}");
        }
        assert_eq!(outcome(&proxy, &client, with_token(get(OWN), &token)).await.2, "hit");
    }
}

#[tokio::test]
async fn what_is_remembered_ends_with_what_it_rests_on() {
    let clock = Clock::manual(Clock::system().now());
    let world = World::at(clock.clone()).await;
    let (now, hour) = (clock.now(), Duration::from_secs(3600));
    let validity = Validity { from: now.minus(hour), to: now.plus(100 * hour) };
    world.write("shop.crl", &world.certificates.shop.crl(&[], validity).unwrap());
    let proxy = world.start(POLICY);
    let client = proxy.client(Who::Revoked, Protocol::H2).await;
    let token = world.issuer.token(claims(&world, json!({})));
    prime(&proxy, &client, &token).await;
    let ask = async |client: &Client, token: &str| outcome(&proxy, client, with_token(get(OWN), token)).await;
    let refused = |status: u16, reason: &str| (status, reason.to_owned());

    // another policy
    proxy
        .reload(
            &POLICY
                .replace("role = \"clerk\"\nactor", "role = \"order-reader\"\nactor")
                .replace("gold", "none"),
        )
        .unwrap();
    let (status, reason, cache) = ask(&client, &token).await;
    assert_eq!((status, reason), refused(403, "claim_mismatch"));
    assert_eq!(cache, "miss");
    proxy.reload(POLICY).unwrap();
    prime(&proxy, &client, &token).await;

    // other bounds for tokens
    proxy.reload(&format!("{POLICY}\n[limit]\ntoken_bytes_max = \"256B\"")).unwrap();
    assert_eq!(ask(&client, &token).await.1, "limit_exceeded");
    proxy.reload(POLICY).unwrap();
    prime(&proxy, &client, &token).await;
    let long = json!({"exp": clock.now().plus(hour).unix_seconds()});
    let long = world.issuer.token(claims(&world, long));
    prime(&proxy, &client, &long).await;

    // a login that grows old, and a token that ends, which no clock brings back
    clock.advance(Duration::from_secs(15 * 60 + 1));
    assert_eq!(ask(&client, &long).await.1, "step_up_required");
    assert_eq!(ask(&client, &token).await.1, "token_expired");
    clock.set(now);
    prime(&proxy, &client, &world.issuer.token(claims(&world, json!({"jti": "2"})))).await;

    // the key that signed it, swapped for another of the same name
    let swapped = Key::new("RS256", "RS256");
    world.issuer.publish(std::slice::from_ref(&swapped));
    clock.advance(Duration::from_secs(11));
    let unknown = world.issuer.token_by(&Key::new("unheard-of", "RS256"), json!({}), json!({}));
    assert_eq!(ask(&client, &unknown).await.1, "token_key_unknown");
    assert_eq!(ask(&client, &token).await.1, "token_bad_signature");
    let rotated = &proxy.events("keys_rotated", 1).await[0];
    let removed = rotated["removed"].as_array().unwrap();
    assert!(rotated["added"] == json!(["RS256"]) && removed.contains(&json!("RS256")), "{rotated}");
    let token = world.issuer.token_by(&swapped, json!({}), claims(&world, json!({})));
    prime(&proxy, &client, &token).await;

    // the certificate, on the connection that it opened
    let before = world.upstream.counts().requests;
    world.write("shop.crl", &world.certificates.crl());
    proxy.reload(POLICY).unwrap();
    assert_eq!(ask(&client, &token).await.1, "peer_revoked");
    assert_eq!(world.upstream.counts().requests, before);
}

/// Two routes for the same paths, and calls.
const LANES: &str = r#"
[upstream.canary]
server = "@canary@"

[route.canary]
host = "orders.shop.example"
path = "/**"
header = { x-lane = "canary" }
upstream = "canary"

[[allow]]
name = "calls"
service = "storefront"
role = "any"
route = ["orders", "canary"]
grpc = "shop.v1.Orders/*"

[[deny]]
name = "nobody deletes"
route = "any"
grpc = "shop.v1.Orders/Delete"
"#;

#[tokio::test]
async fn what_is_remembered_chooses_neither_the_route_nor_the_form_of_an_answer() {
    let world = World::new().await;
    let canary = Upstream::start().await;
    let proxy = world.start(&LANES.replace("@canary@", &canary.url));
    let (grpc, plain) = ("application/grpc", "application/json");
    let (mut records, mut by_orders, mut by_canary) = (0, 0, 0);
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        let token = world.issuer.token(json!({"jti": format!("{protocol:?}")}));
        for (at, (method, content_type, lane, route, reason)) in [
            ("Get", grpc, "", "orders", "allowed"),
            ("Get", plain, "", "orders", "no_rule"),
            ("Get", grpc, "", "orders", "allowed"),
            ("Delete", grpc, "", "orders", "denied_by_rule"),
            ("Delete", plain, "", "orders", "denied_by_rule"),
            ("Delete", grpc, "", "orders", "denied_by_rule"),
            ("Get", grpc, "canary", "canary", "allowed"),
            ("Get", grpc, "", "orders", "allowed"),
            ("Get", plain, "canary", "canary", "no_rule"),
            ("Get", grpc, "other", "orders", "allowed"),
        ]
        .into_iter()
        .enumerate()
        {
            let mut request = post(&format!("/shop.v1.Orders/{method}"), "");
            request.headers_mut().insert(CONTENT_TYPE, content_type.parse().unwrap());
            if !lane.is_empty() {
                request.headers_mut().insert("x-lane", lane.parse().unwrap());
            }
            let answer = client.ask(with_token(request, &token)).await.unwrap();
            let what = format!("{protocol:?}, {at}: {answer:?}");
            records += 1;
            let record = &proxy.records(records).await[records - 1];
            assert_eq!(record["cache"], if at == 0 { "miss" } else { "hit" }, "{what}");
            assert_eq!([&record["action"]["route"], &record["reason"]], [route, reason], "{what}");
            let form = answer.headers[CONTENT_TYPE].to_str().unwrap();
            let status = answer.headers.get("grpc-status").map(|status| status.to_str().unwrap());
            match (reason, content_type == grpc) {
                ("allowed", _) if route == "canary" => by_canary += 1,
                ("allowed", _) => by_orders += 1,
                (_, true) => {
                    assert_eq!((answer.status.as_u16(), form, status), (200, grpc, Some("7")), "{what}")
                }
                (_, false) => {
                    let problem = "application/problem+json";
                    assert_eq!((answer.status.as_u16(), form, status), (403, problem, None), "{what}");
                }
            }
            let reached = [&world.upstream, &canary].map(|upstream| upstream.counts().requests);
            assert_eq!(reached, [by_orders, by_canary], "{what}");
        }
    }
    assert_eq!((records, by_orders, by_canary), (20, 8, 2));
}

/// Two tokens of equal length can differ in memory by a factor of a hundred.
const HEAVY_OBJECTS: usize = 1400;
const HEAVY_TOKENS: usize = 100;
const GROWTH_KIB_MAX: u64 = 48 << 10;

#[tokio::test]
async fn tokens_take_no_more_memory_than_they_were_given() {
    let world = World::new().await;
    let caches = "[cache]\ntoken_bytes_max = \"8MiB\"\n[limit]\nstreams_per_connection_max = 200\n";
    let allow = "[[allow]]\nname = \"all\"\nservice = \"storefront\"\nrole = \"any\"\n";
    let process = world.serve(&format!("{allow}{caches}")).await;
    let client = process.client(Who::Storefront, Protocol::H2).await;
    let heavy = |kid: &str, at: usize| {
        let claims = json!({"sub": format!("user-{at}"), "x": vec![json!({"a": 1}); HEAVY_OBJECTS]});
        with_token(get("/orders/7"), &world.issuer.token_by(&KEYS[0], json!({"kid": kid}), claims))
    };
    assert_eq!(client.ask(heavy("RS256", 2 * HEAVY_TOKENS)).await.unwrap().status, 200);
    let before = process.binary.memory_kib("VmRSS");
    // each on its own connection, which keeps none of them either
    let clients = (0..2 * HEAVY_TOKENS).map(|_| process.client(Who::Storefront, Protocol::H1));
    let clients = join_all(clients).await;
    for (at, client) in clients.iter().enumerate() {
        assert_eq!(client.ask(heavy("RS256", at)).await.unwrap().status, 200);
    }
    let remembered = process.binary.memory_kib("VmHWM").saturating_sub(before);
    println!("{} tokens in a cache of 8 MiB: {remembered} KiB more than {before} KiB", clients.len());
    assert!(remembered < 2 * GROWTH_KIB_MAX, "{remembered} KiB");
    drop(client);

    // and as many that wait for a key, which they never get
    world.issuer.jwks_answers(Answering::Held);
    let cold = world.serve(allow).await;
    let before = cold.binary.memory_kib("VmRSS");
    let clients = join_all((0..4).map(|_| cold.client(Who::Storefront, Protocol::H2))).await;
    let waiting = (0..HEAVY_TOKENS).map(|at| clients[at % 4].ask(heavy("RS256", at)));
    let held = async {
        let mut seen = 0;
        while seen < 1000 {
            seen += usize::from(cold.admin("/livez").await.status == 200);
        }
        let growth = cold.binary.memory_kib("VmHWM").saturating_sub(before);
        println!("{HEAVY_TOKENS} tokens that wait for keys: {growth} KiB more than {before} KiB");
        assert!(growth < GROWTH_KIB_MAX, "{growth} KiB");
        world.issuer.jwks_answers(Answering::Well);
        world.issuer.release();
    };
    let (answers, ()) = soon("the keys", futures_util::future::join(join_all(waiting), held)).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap().status == 200));
}
