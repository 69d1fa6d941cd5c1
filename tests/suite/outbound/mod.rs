//! What the local application sends: it speaks plain HTTP on loopback, and goes out as this workload.

mod credentials;
mod live;
mod modes;
mod real_provider;
mod table;
mod third_party;

use std::sync::Arc;

use countersign::clock::Clock;
use http::Request;
use serde_json::{Value, json};

use crate::examples::{beside, countersign, shipped};
use crate::world::certificates::{TRUST_DOMAIN, Who, spiffe_id};
use crate::world::client::{Answer, Client, Protocol, Raw, get, post};
use crate::world::grpc::{say, words};
use crate::world::proxy::{HOST, Proxy};
use crate::world::upstream::Upstream;
use crate::world::{Body, World};

/// Payments is another workload, reached over mTLS; `stray` is the same server under another's name.
const OUTWARD: &str = r#"
[listener.egress]
address = "127.0.0.1:0"
mode    = "outbound"

[service.orders]
spiffe_id = "spiffe://shop.example/ns/prod/sa/orders"
client_id = [{ issuer = "corp", client = "storefront-web" }, { issuer = "corp", client = "assistant-*" }]

[upstream.payments]
server           = "@payments@"
server_spiffe_id = "spiffe://shop.example/ns/prod/sa/payments"
[upstream.stray]
server           = "@payments@"
server_spiffe_id = "spiffe://shop.example/ns/prod/sa/ledger"

[route.payments]
mode     = "outbound"
host     = "payments.shop.example"
upstream = "payments"
[route.stray]
mode     = "outbound"
host     = "ledger.shop.example"
upstream = "stray"

[[allow]]
name    = "orders asks payments for people"
route   = ["payments", "stray"]
service = "orders"
role    = "order-reader"
method  = ["GET", "POST"]
path    = ["/a", "/charges"]
[[allow]]
name    = "orders and payments talk"
host    = "payments.shop.example"
service = "orders"
role    = "order-reader"
grpc    = "echo.Echo/Say"
[[allow]]
name    = "whoever is named reads"
route   = "any"
service = "any"
role    = "any"
method  = "GET"
"#;

const PAYMENTS: &str = "payments.shop.example";

async fn payments(world: &World) -> Upstream {
    let tls = world.certificates.mutual_server_config("payments");
    Upstream::start_with("127.0.0.1:0".parse().unwrap(), Some(tls)).await
}

fn outward(payments: &Upstream) -> String {
    OUTWARD.replace("@payments@", &payments.url)
}

async fn application(proxy: &Proxy<'_>, protocol: Protocol) -> Client {
    Client::plain(proxy.address("egress"), protocol).await.unwrap()
}

/// A request of the application, which passes its caller's token on.
fn for_alice(world: &World, mut request: Request<Body>) -> Request<Body> {
    let token = format!("Bearer {}", world.issuer.token(json!({ "uid": "1" })));
    request.headers_mut().insert("authorization", token.parse().unwrap());
    request
}

fn told<'a>(answer: &'a Value, name: &str) -> Option<&'a str> {
    answer["headers"].as_array().unwrap().iter().find(|header| header[0] == name)?[1].as_str()
}

#[tokio::test]
async fn the_application_goes_out_as_this_workload_in_whatever_it_speaks() {
    let world = World::new().await;
    let payments = payments(&world).await;
    let proxy = world.start(&outward(&payments));
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for protocol in Protocol::BOTH {
        let client = application(&proxy, protocol).await;
        let mut request = for_alice(&world, post(&format!("http://{PAYMENTS}/charges?now"), "17"));
        for (name, value) in
            [("traceparent", trace), ("x-auth-subject", "mallory"), ("x-forwarded-for", "1.2.3.4")]
        {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let answer = client.ask(request).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let (seen, record) = (answer.json(), proxy.record_of(&answer).await);
        assert_eq!(
            (seen["uri"].as_str().unwrap().ends_with("/charges?now"), seen["body"].as_str()),
            (true, Some("17"))
        );
        for (name, value) in [
            ("x-auth-service", "orders"),
            ("x-auth-subject", "alice"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", PAYMENTS),
            ("traceparent", trace),
        ] {
            assert_eq!(told(&seen, name), Some(value), "{name}");
        }
        assert_eq!(told(&seen, "authorization"), None);
        assert!(told(&seen, "x-forwarded-client-cert").unwrap().contains(&spiffe_id(TRUST_DOMAIN, "orders")));
        assert_eq!(
            (
                &record["connection"]["listener"],
                &record["peer"]["hop"],
                &record["rule"],
                &record["peer"]["service"]
            ),
            (&json!("egress"), &json!("local"), &json!("orders asks payments for people"), &json!("orders"))
        );
        assert_eq!(record["peer"]["spiffe_id"], spiffe_id(TRUST_DOMAIN, "orders"));
        assert_eq!(record["caller"]["subject"], "alice");
    }
    let client = Client::plain_for(proxy.address("egress"), PAYMENTS, Protocol::H2).await.unwrap();
    let mut call = tonic::Request::new(words("hello"));
    let token = format!("Bearer {}", world.issuer.token(json!({ "uid": "1" })));
    call.metadata_mut().insert("authorization", token.parse().unwrap());
    let said = say(&Arc::new(client), call).await.unwrap();
    assert_eq!(said.get_ref().text, "hello");
    assert_eq!(proxy.records(3).await[2]["rule"], "orders and payments talk");
    assert_eq!(payments.counts().requests, 3);
}

/// As a client does that was told `http_proxy`.
#[tokio::test]
async fn a_request_may_name_its_host_in_its_target() {
    let world = World::new().await;
    let payments = payments(&world).await;
    let proxy = world.start(&outward(&payments));
    let token = world.issuer.token(json!({ "uid": "1" }));
    for (host, status) in [(PAYMENTS, "200"), ("orders.shop.example", "400"), ("", "400")] {
        let mut raw = Raw::plain(proxy.address("egress")).await.unwrap();
        let head = format!(
            "GET http://{PAYMENTS}/a HTTP/1.1\r\nHost: {host}\r\nProxy-Connection: keep-alive\r\n\
             Authorization: Bearer {token}\r\n\r\n"
        );
        raw.send(head).await.unwrap();
        let answer = raw.head().await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{host}: {answer}");
    }
    let mut raw = Raw::plain(proxy.address("egress")).await.unwrap();
    raw.send(format!("CONNECT {PAYMENTS}:443 HTTP/1.1\r\nHost: {PAYMENTS}:443\r\n\r\n")).await.unwrap();
    assert!(raw.head().await.unwrap().starts_with("HTTP/1.1 400"));
    assert_eq!(payments.counts().requests, 1);
}

#[tokio::test]
async fn who_answers_must_be_whom_the_route_names() {
    let world = World::new().await;
    let payments = payments(&world).await;
    let proxy = world.start(&outward(&payments));
    let client = application(&proxy, Protocol::H1).await;
    let answer = client.ask(for_alice(&world, get("http://ledger.shop.example/a"))).await.unwrap();
    assert_eq!((answer.status.as_u16(), reason(&answer)), (502, "upstream_identity_mismatch".to_owned()));
    let record = proxy.record_of(&answer).await;
    assert!(record["detail"].as_str().unwrap().contains("which is not expected there"), "{record}");
    assert_eq!(payments.counts().requests, 0);
}

fn reason(answer: &Answer) -> String {
    answer.json()["reason"].as_str().unwrap().to_owned()
}

/// A rule may speak of all routes; a request has those of its own side all the same.
#[tokio::test]
async fn no_request_takes_a_route_of_the_other_side() {
    let world = World::new().await;
    let payments = payments(&world).await;
    let mut both = world.certificates.workload(TRUST_DOMAIN, "orders");
    both.dns = vec![HOST.to_owned(), PAYMENTS.to_owned()];
    let both = world.certificates.shop.issue(&both).unwrap();
    world.write("orders.pem", &both.chain);
    world.write("orders-key.pem", &both.key);
    let month = world.clock.now().plus(std::time::Duration::from_secs(30 * 86_400)).to_string();
    let shadow = format!("upstream = \"payments\"\nshadow_until = \"{}\"", &month[..10]);
    let proxy = world.start(&outward(&payments).replacen("upstream = \"payments\"", &shadow, 1));
    let config = world.certificates.client_config(Who::Storefront);
    // Who comes from outside may ask for any host that our certificate has.
    let outside = Client::tls(proxy.address("mesh"), PAYMENTS, config, Protocol::H1).await.unwrap();
    let inside = application(&proxy, Protocol::H1).await;
    let asked = [
        (&outside, PAYMENTS, 404, "no_route"),
        (&inside, HOST, 404, "no_route"),
        (&inside, "else.shop.example", 404, "no_route"),
        (&inside, PAYMENTS, 200, "allowed"),
    ];
    for (client, host, status, expected) in asked {
        let answer = client.ask(for_alice(&world, get(&format!("http://{host}/a")))).await.unwrap();
        let record = proxy.record_of(&answer).await;
        assert_eq!(
            (answer.status.as_u16(), &record["reason"]),
            (status, &json!(expected)),
            "{host} {record}"
        );
    }
    assert_eq!((payments.counts().requests, world.upstream.counts().requests), (1, 0));
}

#[tokio::test]
async fn whoever_has_no_token_or_another_client_s_goes_nowhere() {
    let world = World::new().await;
    let payments = payments(&world).await;
    let proxy = world.start(&outward(&payments));
    let client = application(&proxy, Protocol::H1).await;
    let url = format!("http://{PAYMENTS}/a");
    let with = |claims: Value| {
        let mut request = get(&url);
        let token = format!("Bearer {}", world.issuer.token(claims));
        request.headers_mut().insert("authorization", token.parse().unwrap());
        request
    };
    let asked = [
        (get(&url), 401, "token_missing"),
        (with(json!({ "client_id": "other" })), 403, "token_not_issued_to_service"),
        (with(json!({ "client_id": "assistant-7" })), 403, "actor_not_allowed"),
        (with(json!({ "exp": 1 })), 401, "token_expired"),
    ];
    for (request, status, expected) in asked {
        let answer = client.ask(request).await.unwrap();
        assert_eq!((answer.status.as_u16(), reason(&answer)), (status, expected.to_owned()));
    }
    assert_eq!(payments.counts().requests, 0);
}

/// A certificate that has ended is nobody's any more, also for whom it was issued to.
#[tokio::test]
async fn an_expired_certificate_of_our_own_speaks_for_nobody() {
    let clock = Clock::manual(Clock::system().now());
    let world = World::at(clock.clone()).await;
    let payments = payments(&world).await;
    let proxy = world.start(&outward(&payments));
    let client = application(&proxy, Protocol::H1).await;
    clock.set(clock.now().plus(std::time::Duration::from_secs(400 * 86_400)));
    let answer = client.ask(for_alice(&world, get(&format!("http://{PAYMENTS}/a")))).await.unwrap();
    assert_eq!((answer.status.as_u16(), reason(&answer)), (403, "peer_expired".to_owned()));
    assert_eq!(payments.counts().requests, 0);
}

/// What an outbound listener cannot have, each with what is wrong; `@own@` is where `[identity]` stands.
#[tokio::test]
async fn an_outbound_listener_is_on_loopback_and_says_nothing_of_tls() {
    let world = World::new().await;
    let payments = payments(&world).await;
    let whole = outward(&payments);
    let with =
        |line: &str| whole.replacen("mode    = \"outbound\"", &format!("mode    = \"outbound\"\n{line}"), 1);
    let at =
        |address: &str| whole.replacen("address = \"127.0.0.1:0\"", &format!("address = \"{address}\""), 1);
    let cases = [
        (at("0.0.0.0:0"), "outbound_exposed"),
        (at("10.0.0.1:9080"), "outbound_exposed"),
        (at("[::]:9080"), "outbound_exposed"),
        (with("certificate = \"orders.pem\"\nprivate_key = \"orders-key.pem\""), "contradiction"),
        (with("passphrase = { file = \"x\" }"), "contradiction"),
        (with("client_certificate = \"none\""), "contradiction"),
        (with("client_certificate = \"required\""), "contradiction"),
        (with("allow_plaintext = true"), "contradiction"),
        (with("proxy_protocol = \"v2\""), "contradiction"),
        (
            whole.replacen("hop = ", "", 1)
                + "[[allow]]\nname = \"x\"\nservice = \"orders\"\nrole = \"any\"\nroute = \"orders\"\nhop = \"local\"",
            "never_holds",
        ),
        (
            whole.clone()
                + "[[allow]]\nname = \"x\"\nservice = \"orders\"\nrole = \"any\"\nroute = \"payments\"\nhop = \"direct\"",
            "never_holds",
        ),
    ];
    let mut seen = 0;
    for (text, code) in &cases {
        world.configuration(text);
        let report = world.try_load().err().unwrap_or_else(|| panic!("loads: {text}"));
        assert!(report.contains(code), "{code}: {report}");
        seen += 1;
    }
    assert_eq!(seen, 11);
    for good in [at("127.0.0.9:0"), at("[::1]:0"), at("[::ffff:127.0.0.1]:0"), whole.clone()] {
        world.configuration(&good);
        assert_eq!(world.try_load().err(), None);
    }
    // Issued for a name alone: nobody whom a rule could speak of.
    let named = world.certificates.client(Who::DnsNameOnly).unwrap();
    world.write("orders.pem", &named.chain);
    world.write("orders-key.pem", &named.key);
    world.configuration(&whole);
    let report = world.try_load().unwrap_err();
    assert!(report.contains("no_spiffe_id"), "{report}");
}

#[tokio::test]
async fn an_upstream_is_no_link_local_or_metadata_address() {
    let world = World::new().await;
    let mut seen = 0;
    for server in [
        "http://169.254.169.254",
        "http://169.254.170.2:80",
        "h2c://169.254.169.254",
        "http://[fe80::1]:8080",
        "h2c://[fd00:ec2::254]:80",
        "http://[fd00:ec2::254]",
        "http://[::ffff:169.254.169.254]",
        "http://2852039166",
        "http://0xa9.0xfe.0xa9.0xfe",
    ] {
        world.configuration(&format!("[upstream.metadata]\nserver = \"{server}\""));
        let report = world.try_load().err().unwrap_or_else(|| panic!("{server} loads"));
        assert!(report.contains("is never dialled"), "{report}");
        seen += 1;
    }
    assert_eq!(seen, 9);
}

/// The example judges what leaves as its tests say; each allow of it is tested, and what they pass over is inbound.
#[test]
fn the_example_lets_the_application_and_agents_reach_what_it_says() {
    let folder = beside("sidecar-outbound.toml");
    let tests = "sidecar-outbound.test.toml";
    std::fs::write(folder.path().join(tests), shipped(tests)).unwrap();
    let (code, said) =
        countersign(&["test", "-c", "sidecar-outbound.toml", tests, "--format", "json"], &folder);
    assert_eq!(code, Some(0), "{said}");
    let said: Value = serde_json::from_str(&said).unwrap();
    println!("{}", said["summary"]);
}
