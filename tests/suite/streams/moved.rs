//! What was permitted to go to one place ends where it would go to another by now, or would not be carried.

use serde_json::json;
use tonic::Code;

use super::{CONFIGURATION, KINDS, Kind, Streams, open_all, record};

/// The same server under another name.
const OTHER: &str = "[upstream.orders-next]\nserver = [\"@upstream@\"]\n";
const SOCKET: &str = "upstream = \"orders\"\nupgrade = \"websocket\"\n";

#[tokio::test]
async fn a_stream_ends_where_its_route_leads_elsewhere() {
    let elsewhere = |route: &str| format!("{route}upstream = \"orders-next\"\n");
    let varied = |route: &str, name: &str| {
        let variant = "role = \"order-reader\"\nupstream = \"orders-next\"\n";
        format!("{route}[[route.{name}.variant]]\n{variant}")
    };
    let without = SOCKET.replace("upgrade = \"websocket\"\n", "");
    let cases = [
        ("another upstream", SOCKET, elsewhere("upgrade = \"websocket\"\n")),
        ("a variant", SOCKET, varied(SOCKET, "socket")),
        ("no upgrade", SOCKET, without),
    ];
    let mut seen = 0;
    for (what, before, after) in cases {
        assert!(CONFIGURATION.contains(before), "{what}");
        let streams = Streams::new().await;
        let more = OTHER.replace("@upstream@", &streams.world.upstream.url);
        let proxy = streams.start(&more);
        let opened = open_all(&proxy, Kind::WebSocket, &streams.token(json!({}))).await;
        let mut others = open_all(&proxy, Kind::Events, &streams.token(json!({}))).await;
        proxy.reload(&streams.configuration(&more).replace(before, &after)).unwrap();
        for (at, mut stream) in opened.into_iter().enumerate() {
            stream.ends("no_route", Code::Unimplemented).await;
            let record = record(&proxy, Kind::WebSocket.path(), at).await;
            let told = (&record["verdict"], &record["reason"], &record["upstream"]);
            assert_eq!(told, (&json!("allow"), &json!("no_route"), &json!("orders")), "{what} {record}");
            seen += 1;
        }
        for other in &mut others {
            other.goes_on(&streams.world).await;
        }
    }
    assert_eq!(seen, 3 * 2);
}

#[tokio::test]
async fn a_stream_goes_on_where_it_goes_by_another_route() {
    let streams = Streams::new().await;
    let proxy = streams.start("");
    let token = streams.token(json!({}));
    let mut all = Vec::new();
    for kind in KINDS {
        all.extend(open_all(&proxy, kind, &token).await);
    }
    let renamed = streams.configuration("").replace("[route.socket]", "[route.tunnels]");
    proxy.reload(&renamed).unwrap();
    for stream in &mut all {
        stream.goes_on(&streams.world).await;
    }
}
