//! What leaves while the configuration and our certificate change: streams end as those do that come in, and we are
//! who the certificate in force says.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign::cli::mint::Minted;
use countersign::clock::Clock;
use http::header::AUTHORIZATION;
use serde_json::{Value, json};
use tonic::Code;

use super::credentials::Desk;
use super::{PAYMENTS, application, for_alice, outward, payments, reason, told};
use crate::spiffe;
use crate::streams::asserted::{self, ASSERTION};
use crate::streams::{Kind, Stream, record};
use crate::world::certificates::parsed;
use crate::world::client::{Answer, Client, Protocol, get};
use crate::world::proxy::Proxy;
use crate::world::workload_api::WorkloadApi;
use crate::world::{World, sha256, sha256_of, soon};

const LEAVING: &str = r#"
[listener.egress]
address = "127.0.0.1:0"
mode    = "outbound"

[service.orders]
spiffe_id = "spiffe://shop.example/ns/prod/sa/orders"
client_id = [{ issuer = "corp", client = "storefront-web" }]

[route.out]
mode     = "outbound"
host     = "out.shop.example"
path     = "/**"
upstream = "orders"
upgrade  = "websocket"

[[allow]]
name    = "readers"
service = "orders"
role    = "order-reader"
route   = "any"
"#;

/// What we were told of somebody, we take when it is passed on.
const VOUCHED: &str = r#"
[issuer.front]
preset = "countersign"
url = "https://front.shop.example"
audience = ["orders"]
jwks = "front.jwks"

[role.vouched]
any_of = [{ issuer = "front", role = "order-reader" }]

[[allow]]
name = "vouched for"
service = "orders"
role = "vouched"
route = "any"
"#;

const FORBIDDEN: &str = r#"
[[deny]]
name    = "closed today"
route   = "any"
service = "orders"
"#;

const KINDS: [Kind; 2] = [Kind::WebSocket, Kind::Events];

/// One over each protocol, by a token that outlives all else.
async fn open_all(world: &World, proxy: &Proxy<'_>, kind: Kind) -> Vec<Stream> {
    let end = world.clock.now().plus(Duration::from_secs(1000 * 86_400));
    let token = format!("Bearer {}", world.issuer.token(json!({ "exp": end.unix_seconds() })));
    let mut streams = Vec::new();
    for protocol in Protocol::BOTH {
        let client = Client::plain_for(proxy.address("egress"), "out.shop.example", protocol).await.unwrap();
        streams.push(kind.open(&Arc::new(client), &token).await);
    }
    streams
}

async fn all_end(proxy: &Proxy<'_>, kind: Kind, streams: Vec<Stream>, reason: &str) {
    for (at, mut stream) in streams.into_iter().enumerate() {
        stream.ends(reason, Code::PermissionDenied).await;
        let record = record(proxy, kind.path(), at).await;
        assert_eq!((&record["verdict"], &record["reason"]), (&json!("allow"), &json!(reason)), "{record}");
        assert_eq!(
            (&record["rule"], &record["peer"]["hop"]),
            (&json!("readers"), &json!("local")),
            "{record}"
        );
    }
}

#[tokio::test]
async fn what_streams_out_ends_with_the_policy_that_permitted_it() {
    for kind in KINDS {
        let world = World::new().await;
        let proxy = world.start(LEAVING);
        let mut streams = open_all(&world, &proxy, kind).await;
        // With another certificate of ours we are who we were.
        let fresh = world.certificates.server("orders");
        world.write("orders.pem", &fresh.chain);
        world.write("orders-key.pem", &fresh.key);
        for more in ["[limit]\nheader_count_max = 99", ""] {
            proxy.reload(&format!("{LEAVING}{more}")).unwrap();
            for stream in &mut streams {
                stream.goes_on(&world).await;
            }
        }
        proxy.reload(&format!("{LEAVING}{FORBIDDEN}")).unwrap();
        all_end(&proxy, kind, streams, "denied_by_rule").await;
    }
}

#[tokio::test]
async fn what_streams_out_ends_with_our_certificate() {
    for kind in KINDS {
        let clock = Clock::manual(Clock::system().now());
        let world = World::at(clock.clone()).await;
        let proxy = world.start(LEAVING);
        let streams = open_all(&world, &proxy, kind).await;
        clock.advance(Duration::from_secs(400 * 86_400));
        all_end(&proxy, kind, streams, "peer_expired").await;
    }
}

/// The application was told of somebody by an assertion, or has a token, that is bound to the certificate before.
#[tokio::test]
async fn what_is_bound_to_our_certificate_serves_a_moment_longer_than_that() {
    let (clock, grace) = (Clock::manual(Clock::system().now()), Duration::from_secs(300));
    let world = World::at(clock.clone()).await;
    let another = || {
        let own = world.certificates.server("orders");
        world.write("orders.pem", &own.chain);
        world.write("orders-key.pem", &own.key);
        own
    };
    let own = another();
    asserted::certificate(&world);
    let configuration =
        LEAVING.replace("client_id = [", "client_id = [{ issuer = \"front\", client = \"*\" }, ") + VOUCHED;
    let proxy = world.start(&configuration);
    let client = Client::plain_for(proxy.address("egress"), "out.shop.example", Protocol::H2).await.unwrap();
    let client = Arc::new(client);
    let token = |lifetime| {
        let hash = URL_SAFE_NO_PAD.encode(sha256_of(&own.der));
        let end = clock.now().plus(lifetime).unix_seconds();
        format!("Bearer {}", world.issuer.token(json!({ "cnf": { "x5t#S256": hash }, "exp": end })))
    };
    let (lasting, ending) = (token(grace * 10), token(Duration::from_secs(1)));
    let said = asserted::assertion(&world, &own, json!({}));
    let presented = [(AUTHORIZATION.as_str(), &lasting), (ASSERTION, &said)];
    let mut streams = Vec::new();
    for (name, value) in presented {
        streams.push(Kind::Events.open_with(&client, name, value).await);
    }
    // Its end shows that all were looked at.
    let mut witness = Kind::Events.open(&client, &ending).await;
    let status = async |name: &'static str, value: &str| {
        let mut request = get("http://out.shop.example/orders/7");
        request.headers_mut().insert(name, value.parse().unwrap());
        client.ask(request).await.unwrap().status.as_u16()
    };
    clock.advance(Duration::from_secs(1));
    another();
    proxy.reload(&configuration).unwrap();
    clock.advance(Duration::from_secs(61));
    witness.ends("token_expired", Code::Unauthenticated).await;
    for (stream, (name, value)) in streams.iter_mut().zip(presented) {
        stream.goes_on(&world).await;
        assert_eq!(status(name, value).await, 200, "{name}");
    }
    let before = world.upstream.counts().requests;
    assert_eq!(status("authorization", &token(grace)).await, 401, "issued after the switch");
    clock.advance(grace);
    for stream in &mut streams {
        stream.ends("token_not_sender_constrained", Code::Unauthenticated).await;
    }
    assert_eq!(status("authorization", &lasting).await, 401, "the moment is over");
    assert_eq!(world.upstream.counts().requests, before);
}

#[tokio::test]
async fn what_streams_out_ends_where_the_listener_turns() {
    let world = World::new().await;
    let proxy = world.start(LEAVING);
    let streams = open_all(&world, &proxy, Kind::Events).await;
    let turned = "allow_plaintext = true\nclient_certificate = \"none\"";
    proxy.reload(&LEAVING.replacen("mode    = \"outbound\"", turned, 1)).unwrap();
    all_end(&proxy, Kind::Events, streams, "peer_missing").await;
}

/// The certificate of ours that a request went out by.
fn by(answer: &Answer) -> String {
    let seen: Value = answer.json();
    told(&seen, "x-forwarded-client-cert").unwrap().to_owned()
}

fn hash(own: &Minted) -> String {
    sha256(&parsed(own).0[0])
}

#[tokio::test]
async fn nothing_leaves_before_our_certificate_comes_and_then_by_the_one_in_force() {
    let world = spiffe::world(Clock::system()).await;
    let desk = Desk::open(Some(world.certificates.mutual_server_config("login"))).await;
    let payments = payments(&world).await;
    let credential = format!(
        "[upstream.payments.credential]\nkind = \"client_credentials\"\ntoken_endpoint = \"{}\"\nca = \"shop-ca.pem\"\n\
         allow_private_addresses = true\nclient_id = \"orders\"\nclient_authentication = \"tls_client_auth\"\n",
        desk.endpoint().replace("127.0.0.1", "localhost"),
    );
    let proxy = world.start(&(outward(&payments) + &credential));
    spiffe::readiness(&proxy, 503, "identity: our certificate is awaited from workload_api").await;
    let client = application(&proxy, Protocol::H1).await;
    let ask = || client.ask(for_alice(&world, get(&format!("http://{PAYMENTS}/a"))));
    let refused = ask().await.unwrap();
    assert_eq!((refused.status.as_u16(), reason(&refused)), (403, "peer_missing".to_owned()));
    let detail = proxy.record_of(&refused).await["detail"].to_string();
    assert!(detail.contains("our own certificate has not come yet"), "{detail}");
    assert_eq!((desk.asked().len(), payments.counts().requests), (0, 0));

    let api = WorkloadApi::start(&world.workload_socket());
    api.asked_again().await;
    let (first, response) = spiffe::good(&world);
    api.gives(response);
    spiffe::readiness(&proxy, 200, "[]").await;
    spiffe::rotated(&proxy, &first).await;
    let answer = ask().await.unwrap();
    assert_eq!(told(&answer.json(), AUTHORIZATION.as_str()), Some("Bearer issued-1"), "{answer:?}");
    assert!(by(&answer).contains(&hash(&first)), "{answer:?}");

    // What was obtained stays until it is obtained by the next certificate.
    let (second, response) = spiffe::good(&world);
    api.gives(response);
    spiffe::rotated(&proxy, &second).await;
    let asking = async {
        loop {
            let answer = ask().await.unwrap();
            assert!(by(&answer).contains(&hash(&second)), "{answer:?}");
            match told(&answer.json(), AUTHORIZATION.as_str()) {
                Some("Bearer issued-1") => tokio::task::yield_now().await,
                Some("Bearer issued-2") => return,
                other => panic!("{other:?}"),
            }
        }
    };
    soon("a token by the certificate in force", asking).await;
    assert_eq!(desk.asked().len(), 2);
}
