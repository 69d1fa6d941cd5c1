//! WebSockets: by upgrade and by extended CONNECT (RFC 8441), only where the route has them, and cut when
//! the drain ends.

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

use super::Traffic;
use crate::world::certificates::Who;
use crate::world::client::{Protocol, get};
use crate::world::soon;

const SOCKET: &str = "[route.socket]\nhost = \"orders.shop.example\"\npath = \"/socket/**\"\n\
                      upstream = \"orders\"\nupgrade = \"websocket\"\n";

#[tokio::test]
async fn what_is_said_comes_back_and_is_counted() {
    let traffic = Traffic::new().await;
    let proxy = traffic.start_with(SOCKET);
    for (number, protocol) in Protocol::BOTH.into_iter().enumerate() {
        let client = proxy.client(Who::Storefront, protocol).await;
        let mut socket = client.websocket(traffic.signed("", get("/socket/1"))).await.unwrap();
        let long = "x".repeat(100_000);
        for said in ["hello", &long, "bye"] {
            socket.send(Message::text(said)).await.unwrap();
            let heard = soon("an echo", socket.next()).await.unwrap().unwrap();
            assert_eq!(heard, Message::text(said), "{protocol:?}");
        }
        socket.close(None).await.unwrap();
        while let Some(Ok(_)) = soon("the end", socket.next()).await {}
        drop(socket);
        let record = &proxy.records(number + 1).await[number];
        assert_eq!(record["reason"], "allowed", "{record}");
        assert_eq!(record["status"], if protocol == Protocol::H1 { 101 } else { 200 }, "{record}");
        for bytes in ["request_bytes", "response_bytes"] {
            assert!(record[bytes].as_u64().unwrap() > 100_000, "{record}");
        }
    }
}

#[tokio::test]
async fn there_is_none_without_a_route_that_upgrades_and_without_both_signatures() {
    let traffic = Traffic::new().await;
    let proxy = traffic.start_with(SOCKET);
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        let refused = client.websocket(traffic.signed("", get("/orders/1"))).await.unwrap_err().unwrap();
        assert_eq!(refused.status, 403, "{protocol:?}");
        let client = proxy.client(Who::Storefront, protocol).await;
        let refused = client.websocket(get("/socket/1")).await.unwrap_err().unwrap();
        assert_eq!((refused.status.as_u16(), &refused.json()["reason"]), (401, &"token_missing".into()));
    }
    assert_eq!(traffic.world.upstream.counts().requests, 0);
}

#[tokio::test]
async fn an_upstream_that_refuses_the_handshake_is_heard() {
    let traffic = Traffic::new().await;
    let proxy = traffic.start_with(&SOCKET.replace("\"orders\"\nup", "\"elsewhere\"\nup").replace(
        "[route",
        &format!("[upstream.elsewhere]\nserver = \"{}\"\n[route", traffic.world.issuer.url),
    ));
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        let refused = client.websocket(traffic.signed("", get("/socket/1"))).await.unwrap_err().unwrap();
        assert_eq!(refused.status, 404, "{protocol:?}");
    }
}

#[tokio::test]
async fn a_drain_waits_for_sockets_until_its_deadline_and_then_cuts_them() {
    for protocol in Protocol::BOTH {
        let traffic = Traffic::new().await;
        let proxy = traffic.start_with(&format!("{SOCKET}\n[limit]\ndrain_timeout = \"300ms\""));
        let client = proxy.client(Who::Storefront, protocol).await;
        let mut socket = client.websocket(traffic.signed("", get("/socket/1"))).await.unwrap();
        let (server, records) = (proxy.server, proxy.records);
        let drained = tokio::task::spawn_blocking(move || server.drain());
        socket.send(Message::text("still here")).await.unwrap();
        assert_eq!(soon("an echo", socket.next()).await.unwrap().unwrap(), Message::text("still here"));
        assert!(!matches!(soon("the cut", socket.next()).await, Some(Ok(_))), "{protocol:?}");
        soon("the drain", drained).await.unwrap();
        let of_request =
            |all: &[serde_json::Value]| all.iter().find(|one| one["event"] == "request").cloned();
        let record = records.until(of_request).await;
        assert_eq!((&record["reason"], &record["verdict"]), (&"allowed".into(), &"allow".into()), "{record}");
        assert!(record["response_bytes"].as_u64().unwrap() > 0, "{record}");
    }
}
