//! An upstream that is not of the house is not told who asks; what the application forges reaches nobody all the same.

use countersign::trial::{Bearer, Presented, Question, Trial, head};
use futures_util::StreamExt;
use http::{HeaderName, HeaderValue, Request};
use serde_json::json;

use crate::heads::forged::NAMES;
use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, Raw, get};
use crate::world::proxy::HOST;
use crate::world::seen::Seen;
use crate::world::{Body, World, soon};

/// The same server twice, each by a route in and one out: as one of the house, and as somebody else.
const VENDOR: &str = r#"
[limit]
header_count_max = 200

[assertion]
issuer = "https://orders.shop.example"

[listener.egress]
address = "127.0.0.1:0"
mode    = "outbound"

[service.orders]
spiffe_id = "spiffe://shop.example/ns/prod/sa/orders"
client_id = [{ issuer = "corp", client = "storefront-web" }]

[upstream.vendor]
server           = "@upstream@"
identity_headers = false

[route.vendor-in]
host     = "orders.shop.example"
path     = "/vendor/**"
upstream = "vendor"
upgrade  = ["websocket"]
[route.house-out]
mode     = "outbound"
host     = "orders.shop.example"
path     = "/house/**"
upstream = "orders"
[route.vendor-out]
mode     = "outbound"
host     = "orders.shop.example"
path     = "/vendor/**"
upstream = "vendor"
upgrade  = ["websocket"]

[[allow]]
name    = "whoever has a token"
route   = "any"
service = "any"
role    = "order-reader"
"#;

/// With every name forged that an upstream might believe.
fn forging(world: &World, path: &str) -> Request<Body> {
    let mut request = world.signed(get(&format!("http://{HOST}{path}")));
    for name in NAMES {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        request.headers_mut().append(name, HeaderValue::from_static("forged"));
    }
    request.headers_mut().insert("x-harmless", HeaderValue::from_static("kept"));
    request
}

const OF_WHO_ASKS: [&str; 8] = [
    "x-auth-service",
    "x-auth-issuer",
    "x-auth-subject",
    "x-auth-decision",
    "x-auth-assertion",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "forwarded",
];

fn names(seen: &Seen) -> Vec<&str> {
    let mut names: Vec<_> = seen.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn who_asks_is_no_business_of_a_third_party() {
    let world = World::new().await;
    let proxy = world.start(VENDOR);
    let mut cases = 0;
    for protocol in Protocol::BOTH {
        let inbound = proxy.client(Who::Storefront, protocol).await;
        let outbound = Client::plain_for(proxy.address("egress"), HOST, protocol).await.unwrap();
        for client in [&inbound, &outbound] {
            // One after the other: what is kept of the one who asks is the same for both.
            for (path, is_told) in [("/house/7", true), ("/vendor/7", false), ("/house/7", true)] {
                let answer = client.ask(forging(&world, path)).await.unwrap();
                assert_eq!(answer.status, 200, "{answer:?}");
                let seen: Seen = serde_json::from_slice(&answer.body).unwrap();
                assert!(seen.headers.iter().all(|(_, value)| !value.contains("forged")), "{seen:?}");
                if is_told {
                    for name in OF_WHO_ASKS {
                        assert_eq!(seen.header(name).len(), 1, "{name}: {seen:?}");
                    }
                } else {
                    assert_eq!(names(&seen), ["host", "traceparent", "x-harmless", "x-request-id"]);
                    let [id] = seen.header("x-request-id")[..] else { panic!("{seen:?}") };
                    let record = proxy.record(id).await;
                    assert_eq!(
                        (&record["verdict"], &record["caller"]["subject"]),
                        (&json!("allow"), &json!("alice"))
                    );
                }
                cases += 1;
            }
            let mut socket = client.websocket(forging(&world, "/vendor/7?seen")).await.unwrap();
            let first = soon("what the upstream saw", socket.next()).await.unwrap().unwrap();
            let seen: Seen = serde_json::from_str(first.to_text().unwrap()).unwrap();
            let told = ["x-auth-", "x-forwarded-", "forwarded"];
            let is_told = |name: &&str| told.iter().any(|start| name.starts_with(start));
            assert!(!names(&seen).iter().any(is_told), "{seen:?}");
            cases += 1;
        }
    }
    assert_eq!(cases, 16);

    // who only asks what would go there is told the same
    let mut trial = Trial::new(world.load(), world.clock.now()).unwrap();
    for (path, is_told) in [("/house/7", true), ("/vendor/7", false)] {
        let asked = head("GET", &format!("https://{HOST}{path}"), []).unwrap();
        let peer = Presented::Service("storefront".parse().unwrap());
        let caller = Bearer::TokenOnTrust(world.issuer.token(json!({})));
        let question = Question { peer, caller, ..Question::new(asked) };
        let answer = trial.ask(&question).unwrap();
        let onward = answer.http().unwrap().onward.as_ref().unwrap();
        assert_eq!(OF_WHO_ASKS.iter().any(|name| onward.headers.contains_key(*name)), is_told, "{onward:?}");
    }
}

#[tokio::test]
async fn what_contradicts_an_assertion_does_not_load() {
    let world = World::new().await;
    let untold = "identity_headers = false";
    let audience = "assertion_audience = \"vendor\"";
    let cases = [
        (VENDOR.to_owned(), None),
        (VENDOR.replace(untold, audience), None),
        (VENDOR.replace(untold, &format!("{untold}\n{audience}")), Some("contradiction")),
        (VENDOR.replace("[assertion]", "[assertion]\nclaims = [\"sub\"]"), Some("contradiction")),
        (format!("[upstream.vendor]\nserver = \"@upstream@\"\n{audience}"), Some("missing_key")),
    ];
    for (text, code) in cases {
        world.configuration(&text);
        match (world.try_load().err(), code) {
            (None, None) => {}
            (Some(said), Some(code)) if said.contains(code) => {}
            (said, code) => panic!("{code:?}: {said:?}"),
        }
    }
}

/// The application that was told `https_proxy`, or `https://`, learns what to do instead.
#[tokio::test]
async fn an_application_that_makes_the_tls_connection_itself_is_told_who_does() {
    let world = World::new().await;
    let proxy = world.start(VENDOR);
    let address = proxy.address("egress");
    let mut tunnel = Raw::plain(address).await.unwrap();
    tunnel.send(format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n")).await.unwrap();
    assert!(tunnel.head().await.unwrap().starts_with("HTTP/1.1 400"));
    let config = world.certificates.client_config(Who::NoCertificate);
    assert!(Raw::tls(address, HOST, config).await.is_err());
    let records = proxy.records(2).await;
    for (record, what) in
        records.iter().zip(["CONNECT is not served", "the client speaks TLS to a plain-text port"])
    {
        let how = "call `http://…`, an outbound listener makes the TLS connection itself";
        assert_eq!(record["detail"], format!("{what}: {how}"), "{record}");
        assert_eq!(
            (&record["reason"], &record["status"]),
            (&json!("request_malformed"), &json!(400)),
            "{record}"
        );
    }
    assert_eq!(world.upstream.counts().requests, 0);
}
