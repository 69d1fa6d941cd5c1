//! Many streams and one change: all are judged again, and other requests are served meanwhile.

use std::sync::Arc;
use std::time::Duration;

use countersign::clock::Stopwatch;
use http::header::AUTHORIZATION;
use serde_json::{Value, json};

use super::{FORBIDDEN, Streams};
use crate::world::certificates::Who;
use crate::world::client::{Protocol, get, next_data};
use crate::world::soon;

/// On each of as many connections.
const STREAMS: usize = 50;
const CONNECTIONS: usize = 10;

#[tokio::test]
async fn a_change_reaches_every_stream_while_others_are_served() {
    let streams = Streams::new().await;
    let open = "\n[[allow]]\nname = \"pings\"\nservice = \"any\"\nrole = \"none\"\npath = \"/ping\"\nroute = \"orders\"\n";
    let proxy = streams.start(open);
    let mut bodies = Vec::new();
    for number in 0..CONNECTIONS {
        let client = Arc::new(proxy.client(Who::Storefront, Protocol::H2).await);
        for at in 0..STREAMS {
            let mut request = get(&format!("/events/{number}/{at}?events=2"));
            let token = streams.token(json!({"jti": format!("{number}-{at}")}));
            request.headers_mut().insert(AUTHORIZATION, token.parse().unwrap());
            let mut body = client.send(request).await.unwrap().into_body();
            next_data(&mut body).await.unwrap();
            bodies.push((Arc::clone(&client), body));
        }
    }
    let pinger = proxy.client(Who::Assistant, Protocol::H1).await;
    let closed = format!("{open}{FORBIDDEN}");
    proxy.reload(&streams.configuration(&closed)).unwrap();
    let (happened, mut slowest) = (Stopwatch::start(), Duration::ZERO);
    let pings = async {
        loop {
            let asked = Stopwatch::start();
            assert_eq!(pinger.ask(get("/ping")).await.unwrap().status, 200);
            slowest = slowest.max(asked.elapsed());
        }
    };
    let ends = async {
        for (_, body) in &mut bodies {
            assert!(soon("the end", next_data(body)).await.is_err());
        }
    };
    tokio::select! {
        () = pings => {}
        () = ends => {}
    }
    println!("{} streams ended within {:?}; the slowest ping {slowest:?}", bodies.len(), happened.elapsed());
    // Records of the pings stand among them.
    let ended = |records: &[Value]| {
        let denied = records.iter().filter(|record| record["reason"] == "denied_by_rule").count();
        (denied == STREAMS * CONNECTIONS).then_some(())
    };
    proxy.records.until(ended).await;
}
