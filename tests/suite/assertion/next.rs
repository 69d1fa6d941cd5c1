//! The next Countersign takes an assertion as its caller: from a hop that it trusts, bound to that, and only there.

use countersign::cli::mint::Minted;
use countersign::clock::Clock;
use serde_json::{Value, json};

use super::{KEYS, ask, asserted};
use crate::world::World;
use crate::world::certificates::Who;
use crate::world::client::{Answer, Client, Protocol, get};
use crate::world::proxy::{HOST, Proxy};
use crate::world::seen::Seen;
use crate::world::upstream::Upstream;

/// In front: everything goes to the next one, with our own certificate.
const FRONT: &str = r#"
[assertion]
issuer = "https://front.shop.example"

[listener.keys]
address = "127.0.0.1:0"
client_certificate = "none"

[upstream.next]
server = ["https://@next@"]
server_spiffe_id = "spiffe://shop.example/ns/prod/sa/next"
assertion_audience = "next"

[upstream.astray]
server = ["https://@next@"]
server_spiffe_id = "spiffe://shop.example/ns/prod/sa/next"
assertion_audience = "elsewhere"

[upstream.loose]
server = ["@upstream@"]
assertion_audience = "next"

[upstream.bound]
server = ["https://@double@"]
server_spiffe_id = "spiffe://shop.example/ns/prod/sa/next"
assertion_audience = "next"

[route.loose]
host = "orders.shop.example"
path = "/loose/**"
upstream = "loose"

[route.bound]
host = "orders.shop.example"
path = "/bound/**"
upstream = "bound"

[route.next]
host = "orders.shop.example"
path = "/next/**"
upstream = "next"
forward_authorization = true

[route.astray]
host = "orders.shop.example"
path = "/astray/**"
upstream = "astray"

[[allow]]
name = "readers"
service = "storefront"
role = "order-reader"
route = ["orders", "next", "astray", "loose", "bound"]

[[allow]]
name = "anyone of ours"
service = "any"
role = "none"
route = "next"
path = "/next/public"
"#;

/// Behind it: its people are whom the front vouches for.
const NEXT: &str = r#"
version = 1

[proxy]
name = "next"

[admin]
address = "127.0.0.1:0"

[identity]
certificate = "next.pem"
private_key = "next-key.pem"

[trust_domain."shop.example"]
ca = "shop-ca.pem"

[listener.mesh]
address = "127.0.0.1:0"

[trusted_hop.front]
kind = "countersign"
spiffe_id = "spiffe://shop.example/ns/prod/sa/orders"

[issuer.front]
preset = "countersign"
url = "https://front.shop.example"
audience = ["next"]
jwks = "front.jwks"

[issuer.corp]
url = "@issuer@"
audience = ["https://orders.shop.example"]
allow_http = true

[service.front]
spiffe_id = "spiffe://shop.example/ns/prod/sa/orders"
client_id = [{ issuer = "front", client = "storefront-*" }, { issuer = "corp", client = "*" }]

[service.storefront]
spiffe_id = "spiffe://shop.example/ns/prod/sa/storefront"
client_id = [{ issuer = "front", client = "storefront-*" }, { issuer = "corp", client = "*" }]

[role.reader]
any_of = [{ issuer = "front", role = "order-reader" }, { issuer = "corp", scope = "orders:read" }]

[upstream.orders]
server = ["@upstream@"]

[route.orders]
host = "orders.shop.example"
path = "/**"
upstream = "orders"

[[allow]]
name = "people whom the front knows"
service = "any"
role = "reader"
actor = "human"

[[allow]]
name = "whoever comes through the front"
service = "front"
role = "none"
path = "/next/public"

[audit]
output = "next.jsonl"
"#;

/// Two proxies, one behind the other.
pub struct Chain<'w> {
    pub front: Proxy<'w>,
    pub next: Proxy<'w>,
    /// Stands where the next one could, and sees what it would see.
    double: Upstream,
}

impl World {
    pub async fn chain(&self) -> Chain<'_> {
        self.chain_with("jwks = \"front.jwks\"", "").await
    }

    /// Where the next one gets the front's keys as `keys` says, `@front@` being that one's address, with more said to
    /// it.
    pub async fn chain_with(&self, keys: &str, more: &str) -> Chain<'_> {
        let minted = self.certificates.server("next");
        self.write("next.pem", &minted.chain);
        self.write("next-key.pem", &minted.key);
        let tls = self.certificates.mutual_server_config("next");
        let double = Upstream::start_with("127.0.0.1:0".parse().unwrap(), Some(tls)).await;
        let front =
            |next: String| FRONT.replace("@next@", &next).replace("@double@", &double.address().to_string());
        // The keys of the one are a file of the other, and the address of the other is a line of the one.
        let proxy = self.start(&front("127.0.0.1:1".to_owned()));
        let anybody = self.certificates.client_config(Who::NoCertificate);
        let published = Client::tls(proxy.address("keys"), HOST, anybody, Protocol::H1).await.unwrap();
        let published = published.ask(get(KEYS)).await.unwrap();
        self.write("front.jwks", std::str::from_utf8(&published.body).unwrap());
        let text = NEXT.replace("jwks = \"front.jwks\"", keys);
        let text = format!("{text}{more}").replace("@front@", &proxy.address("mesh").to_string());
        let text = text.replace("@upstream@", &self.upstream.url).replace("@issuer@", &self.issuer.url);
        let next = self.start_from("next.toml", &text, "next.jsonl");
        proxy.reload(&front(next.address("mesh").to_string())).unwrap();
        Chain { front: proxy, next, double }
    }
}

pub fn told(answer: &Answer) -> Seen {
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_slice(&answer.body).unwrap()
}

#[tokio::test]
async fn the_next_countersign_knows_the_person_and_the_way_that_the_request_came() {
    let world = World::new().await;
    let Chain { front, next, .. } = world.chain().await;
    let client = front.client(Who::Storefront, Protocol::H1).await;
    let mut request = ask(&world, "/next/7", json!({ "uid": "1" }));
    request.headers_mut().insert("x-auth-subject", "mallory".parse().unwrap());
    let seen = told(&client.ask(request).await.unwrap());
    assert_eq!(seen.header("x-auth-subject"), ["alice"]);
    assert_eq!(seen.header("x-auth-service"), ["front"]);
    assert!(seen.header("x-auth-assertion").is_empty(), "the next one vouches for nobody");
    let record = next.records(1).await.remove(0);
    assert_eq!(record["rule"], "people whom the front knows");
    assert_eq!(record["peer"]["spiffe_id"], "spiffe://shop.example/ns/prod/sa/orders");
    assert_eq!(record["caller"]["issuer"], "front");
    assert_eq!(record["caller"]["subject"], "alice");
    assert_eq!(record["caller"]["actor"], "human");
    assert_eq!(record["caller"]["via"], json!(["spiffe://shop.example/ns/prod/sa/storefront"]));
    assert_eq!(record["caller"]["subject_issuer"], json!(world.issuer.url));
    let story = format!(
        "front, for alice@front (human), named by {}, by way of spiffe://shop.example/ns/prod/sa/storefront, asked to",
        world.issuer.url
    );
    assert!(record["story"].as_str().unwrap().starts_with(&story), "{}", record["story"]);
    // nobody's assertion is nobody's signature
    let seen = told(&client.ask(get("/next/public")).await.unwrap());
    assert!(seen.header("x-auth-subject").is_empty());
    let record = next.records(2).await.remove(1);
    assert_eq!(
        (&record["rule"], &record["caller"]),
        (&json!("whoever comes through the front"), &Value::Null)
    );
}

/// What an assertion, as the front signs it, is worth elsewhere.
#[tokio::test]
async fn a_tampered_or_stolen_or_re_aimed_assertion_is_refused() {
    let world = World::at(Clock::manual(Clock::system().now())).await;
    let Chain { front, next, double } = world.chain().await;
    let client = front.client(Who::Storefront, Protocol::H1).await;
    let astray = client.ask(ask(&world, "/astray/7", json!({ "uid": "1" }))).await.unwrap();
    let record = next.records(1).await.remove(0);
    assert_eq!(
        (astray.status.as_u16(), &record["reason"]),
        (401, &json!("token_wrong_audience")),
        "{record}"
    );

    let alice = |path: &str| ask(&world, path, json!({ "uid": "1" }));
    let loose = asserted(&client, alice("/loose/7")).await;
    let bound = asserted(&client, alice("/bound/7")).await;
    assert_eq!(double.counts().requests, 1);
    let [head, claims, signature] = bound.split('.').collect::<Vec<_>>()[..] else { panic!("{bound}") };
    let other_claims = claims.replacen("ey", "eZ", 1);
    let others = loose.rsplit('.').next().unwrap();

    let connect = async |minted: &Minted| {
        let config = world.certificates.client_config_with(Some(minted));
        Client::tls(next.address("mesh"), HOST, config, Protocol::H1).await.unwrap()
    };
    let read = |name: &str| std::fs::read_to_string(world.folder.path().join(name)).unwrap();
    let as_front =
        connect(&Minted { chain: read("orders.pem"), key: read("orders-key.pem"), der: Vec::new() }).await;
    let namesake = connect(&world.certificates.server("orders")).await;
    let stranger = next.client(Who::Storefront, Protocol::H1).await;

    let before = world.upstream.counts().requests;
    let bobs = format!("Bearer {}", world.issuer.token(json!({ "uid": "1", "sub": "bob" })));
    let own = |claims: Value| world.issuer.token(claims);
    let assertion = |value: &str| vec![("x-auth-assertion", value.to_owned())];
    let cases = [
        ("from who is no trusted hop", &stranger, assertion(&bound), "token_missing"),
        ("from another holder of its name", &namesake, assertion(&bound), "token_not_sender_constrained"),
        ("bound to nobody", &as_front, assertion(&loose), "token_not_sender_constrained"),
        (
            "as a bearer token",
            &as_front,
            vec![("authorization", format!("Bearer {bound}"))],
            "token_type_refused",
        ),
        (
            "other claims",
            &as_front,
            assertion(&format!("{head}.{other_claims}.{signature}")),
            "token_malformed",
        ),
        (
            "another's signature",
            &as_front,
            assertion(&format!("{head}.{claims}.{others}")),
            "token_bad_signature",
        ),
        ("a provider's token", &as_front, assertion(&own(json!({ "uid": "1" }))), "token_type_refused"),
        ("nothing", &as_front, assertion(""), "token_malformed"),
        (
            "beside another subject's token",
            &as_front,
            vec![("x-auth-assertion", bound.clone()), ("authorization", bobs.clone())],
            "token_malformed",
        ),
    ];
    let mut n = 1;
    for (what, client, headers, reason) in cases {
        let mut request = get("/next/7");
        for (name, value) in headers {
            request.headers_mut().append(name, value.parse().unwrap());
        }
        let answer = client.ask(request).await.unwrap();
        n += 1;
        let record = next.records(n).await.remove(n - 1);
        assert_eq!((answer.status.as_u16(), &record["reason"]), (401, &json!(reason)), "{what}: {record}");
        assert_eq!(world.upstream.counts().requests, before, "{what}");
    }
    assert_eq!(n, 10);

    let mut two = get("/next/7");
    two.headers_mut().append("x-auth-assertion", bound.parse().unwrap());
    two.headers_mut().append("x-auth-assertion", bound.parse().unwrap());
    assert_eq!(as_front.ask(two).await.unwrap().status, 400);
    let mut good = get("/next/7");
    good.headers_mut().append("x-auth-assertion", bound.parse().unwrap());
    assert_eq!(told(&as_front.ask(good).await.unwrap()).header("x-auth-subject"), ["alice"]);
    // gone a minute later, and the leeway
    world.clock.advance(std::time::Duration::from_secs(121));
    let mut late = get("/next/7");
    late.headers_mut().append("x-auth-assertion", bound.parse().unwrap());
    let answer = as_front.ask(late).await.unwrap();
    assert_eq!(next.record_of(&answer).await["reason"], "token_expired");
}
