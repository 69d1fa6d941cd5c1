//! What vouched for a peer is taken away while its connections live: nothing goes on that rests on it, and
//! nothing else ends.

use std::time::Duration;

use countersign::cli::mint::{Authority, CaSpec, Validity};
use countersign::clock::Clock;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, WebSocket, alert_after, get, next_data};
use crate::world::proxy::HOST;
use crate::world::{World, soon};

const CONFIGURATION: &str = r#"
[service.partner]
spiffe_id = "spiffe://partner.example/ns/prod/sa/storefront"
client_id = "any"

[route.socket]
host = "orders.shop.example"
path = "/socket"
upstream = "orders"
upgrade = "websocket"

[[allow]]
name = "anything"
service = ["storefront", "partner"]
role = "none"
route = "any"
"#;

async fn echoes(socket: &mut WebSocket) -> bool {
    // It may be cut in the middle of it.
    _ = socket.send(Message::text("hello")).await;
    matches!(soon("an echo or the end", socket.next()).await, Some(Ok(Message::Text(said))) if said == "hello")
}

fn ended(records: &[Value], socket: usize) -> Vec<&Value> {
    let of_sockets = records.iter().filter(|record| record["action"]["path"] == "/socket");
    of_sockets.take(socket).collect()
}

/// A Close of 1008.
fn is_close(heard: Option<Result<Message, tungstenite::Error>>) -> bool {
    matches!(heard, Some(Ok(Message::Close(Some(close)))) if u16::from(close.code) == 1008)
}

#[tokio::test]
async fn a_tunnel_ends_with_what_vouched_for_its_peer_and_with_nothing_else() {
    for protocol in Protocol::BOTH {
        let world = World::new().await;
        let proxy = world.start(CONFIGURATION);
        let (partner, storefront) =
            (proxy.client(Who::Partner, protocol).await, proxy.client(Who::Storefront, protocol).await);
        let mut of_partner = partner.websocket(get("/socket")).await.unwrap();
        let mut of_storefront = storefront.websocket(get("/socket")).await.unwrap();
        assert!(echoes(&mut of_partner).await && echoes(&mut of_storefront).await);

        let other = Authority::root(&CaSpec::new("another CA", world.certificates.validity)).unwrap();
        world.write("partner-ca.pem", &other.pem());
        proxy.reload(CONFIGURATION).unwrap();
        assert!(is_close(soon("the cut", of_partner.next()).await), "{protocol:?}");
        let records = proxy.records(1).await;
        assert_eq!(ended(&records, 1)[0]["reason"], "peer_untrusted", "{protocol:?}: {records:?}");
        assert!(echoes(&mut of_storefront).await, "{protocol:?}");

        // serial number 1 is what the storefront's certificate has
        let list = world.certificates.shop.crl(&[1], world.certificates.validity).unwrap();
        world.write("shop.crl", &list);
        proxy.reload(CONFIGURATION).unwrap();
        assert!(is_close(soon("the cut", of_storefront.next()).await), "{protocol:?}");
        let records = proxy.records(2).await;
        assert_eq!(ended(&records, 2)[1]["reason"], "peer_revoked", "{protocol:?}: {records:?}");
        assert_eq!(world.upstream.counts().requests, 2);
    }
}

#[tokio::test]
async fn a_list_that_ends_refuses_until_a_fresh_one_comes() {
    let clock = Clock::manual(Clock::system().now());
    let world = World::at(clock.clone()).await;
    let hour = Duration::from_secs(3600);
    let list = |lasts: Duration| {
        let validity = Validity { from: clock.now().minus(hour), to: clock.now().plus(lasts) };
        world.write("shop.crl", &world.certificates.shop.crl(&[], validity).unwrap());
    };
    list(hour);
    let proxy = world.start(CONFIGURATION);
    let config = || world.certificates.client_config(Who::Storefront);
    for protocol in Protocol::BOTH {
        let open = proxy.client(Who::Storefront, protocol).await;
        assert_eq!(open.ask(get("/1")).await.unwrap().status, 200, "{protocol:?}");
        clock.advance(2 * hour);
        let answer = open.ask(get("/1")).await.unwrap();
        assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (403, &json!("peer_revoked")));
        let alert = alert_after(proxy.address("mesh"), HOST, config(), protocol).await;
        assert_eq!(alert, Some(rustls::AlertDescription::CertificateRevoked), "{protocol:?}");
        list(hour);
        proxy.reload(CONFIGURATION).unwrap();
        let again = Client::tls(proxy.address("mesh"), HOST, config(), protocol).await.unwrap();
        assert_eq!(again.ask(get("/1")).await.unwrap().status, 200, "{protocol:?}");
    }
    assert_eq!(world.upstream.counts().requests, 4);
}

/// What is under way on a connection, by path: a feed that stands still, and a request that waits for its answer.
const UNDER_WAY: [&str; 2] = ["/feed?events=2", "/slow?hold"];

#[tokio::test]
async fn answers_under_way_end_with_what_vouched_for_their_peer() {
    for protocol in Protocol::BOTH {
        for under_way in UNDER_WAY {
            let world = World::new().await;
            let proxy = world.start(CONFIGURATION);
            let ask = |client: Client| {
                tokio::spawn(async move {
                    let mut body = client.send(get(under_way)).await.map_err(drop)?.into_body();
                    while next_data(&mut body).await.map_err(drop)?.is_some() {}
                    Ok::<(), ()>(())
                })
            };
            let of_partner = ask(proxy.client(Who::Partner, protocol).await);
            let of_storefront = ask(proxy.client(Who::Storefront, protocol).await);
            world.upstream.until(|now| now.requests == 2).await;

            let other = Authority::root(&CaSpec::new("another CA", world.certificates.validity)).unwrap();
            world.write("partner-ca.pem", &other.pem());
            proxy.reload(CONFIGURATION).unwrap();
            let cut = soon("the cut", of_partner).await.unwrap();
            assert_eq!(cut, Err(()), "{protocol:?} {under_way}");
            let record = &proxy.records(1).await[0];
            assert_eq!(record["reason"], "peer_untrusted", "{protocol:?} {under_way}: {record}");
            world.upstream.until(|now| now.abandoned == 1).await;

            // serial number 1 is what the storefront's certificate has
            let list = world.certificates.shop.crl(&[1], world.certificates.validity).unwrap();
            world.write("shop.crl", &list);
            proxy.reload(CONFIGURATION).unwrap();
            let cut = soon("the cut", of_storefront).await.unwrap();
            assert_eq!(cut, Err(()), "{protocol:?} {under_way}");
            let record = &proxy.records(2).await[1];
            assert_eq!(record["reason"], "peer_revoked", "{protocol:?} {under_way}: {record}");
            assert_eq!(world.upstream.counts().requests, 2);
        }
    }
}
