//! What else streams: uploads, downloads, to clients that take nothing; by whatever ends them. And what is not cut.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign::cli::mint::{LeafSpec, Validity};
use futures_util::stream;
use http::Request;
use http::header::AUTHORIZATION;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tonic::Code;

use super::{FORBIDDEN, KINDS, Streams, TOKEN_LIFETIME, record};
use crate::world::certificates::{TRUST_DOMAIN, Who};
use crate::world::client::{Client, Protocol, get, next_data};
use crate::world::proxy::HOST;
use crate::world::{Body, soon};

fn signed(mut request: Request<Body>, bearer: &str) -> Request<Body> {
    request.headers_mut().insert(AUTHORIZATION, bearer.parse().unwrap());
    request
}

#[tokio::test]
async fn an_upload_ends_with_its_token_and_its_client_is_told() {
    for protocol in Protocol::BOTH {
        let streams = Streams::new().await;
        let proxy = streams.start("");
        let client = proxy.client(Who::Storefront, protocol).await;
        let (to, body) = mpsc::channel::<Bytes>(1);
        let body =
            stream::unfold(body, |mut body| async { Some((Ok(Frame::data(body.recv().await?)), body)) });
        let request = Request::post("/upload").body(StreamBody::new(body).boxed_unsync()).unwrap();
        let request = signed(request, &streams.token(json!({})));
        let asking = tokio::spawn(async move { client.ask(request).await });
        to.send("some".into()).await.unwrap();
        streams.world.upstream.until(|now| now.requests == 1).await;
        streams.clock.advance(TOKEN_LIFETIME);
        let answer = soon("the refusal", asking).await.unwrap().unwrap();
        assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (401, &json!("token_expired")));
        assert!(answer.headers["www-authenticate"].to_str().unwrap().contains("invalid_token"));
        let record = record(&proxy, "/upload", 0).await;
        assert_eq!(record["reason"], "token_expired", "{record}");
        assert_eq!((&record["status"], &record["request_bytes"]), (&json!(401), &json!(4)), "{record}");
        streams.world.upstream.until(|now| now.abandoned == 1).await;
    }
}

#[tokio::test]
async fn a_download_that_its_client_does_not_take_ends_all_the_same() {
    for protocol in Protocol::BOTH {
        let streams = Streams::new().await;
        let proxy = streams.start("[limit]\nidle_timeout = \"1h\"\n");
        let client = proxy.client(Who::Storefront, protocol).await;
        let request = signed(get("/big?download=10000000000"), &streams.token(json!({})));
        let mut body = client.send(request).await.unwrap().into_body();
        next_data(&mut body).await.unwrap();
        proxy.reload(&streams.configuration(FORBIDDEN)).unwrap();
        // Nothing is read until the record says that it has ended.
        let record = record(&proxy, "/big", 0).await;
        assert_eq!((&record["reason"], &record["verdict"]), (&json!("denied_by_rule"), &json!("allow")));
        assert!(record["ended_by"].is_string(), "{record}");
        streams.world.upstream.until(|now| now.abandoned == 1).await;
        let rest = async { while let Ok(Some(_)) = next_data(&mut body).await {} };
        soon("the end", rest).await;
    }
}

#[tokio::test]
async fn a_request_that_was_sent_whole_has_its_answer() {
    for protocol in Protocol::BOTH {
        let streams = Streams::new().await;
        let proxy = streams.start("");
        let client = Arc::new(proxy.client(Who::Storefront, protocol).await);
        let request = signed(get("/slow?hold"), &streams.token(json!({})));
        let asking = tokio::spawn({
            let client = Arc::clone(&client);
            async move { client.ask(request).await }
        });
        streams.world.upstream.until(|now| now.requests == 1).await;
        // Something that streams shows that those that do have been judged again.
        let other = Arc::new(proxy.client(Who::Storefront, protocol).await);
        let mut stream = super::Kind::Events.open(&other, &streams.token(json!({}))).await;
        proxy.reload(&streams.configuration(FORBIDDEN)).unwrap();
        stream.ends("denied_by_rule", Code::PermissionDenied).await;
        streams.world.upstream.release();
        let answer = soon("the answer", asking).await.unwrap().unwrap();
        assert_eq!(answer.status, 200, "{protocol:?}");
        let record = record(&proxy, "/slow", 0).await;
        assert_eq!((&record["reason"], &record["ended_by"]), (&json!("allowed"), &Value::Null), "{record}");
    }
}

#[tokio::test]
async fn every_stream_ends_with_the_certificate_and_the_login_behind_it() {
    let hour = Duration::from_secs(3600);
    let mut cases = 0;
    for kind in KINDS {
        for (what, reason, code) in [
            ("certificate", "peer_expired", Code::PermissionDenied),
            ("login", "step_up_required", Code::Unauthenticated),
        ] {
            let streams = Streams::new().await;
            let now = streams.clock.now();
            let proxy = match what {
                "login" => streams.world.start(
                    &streams
                        .configuration("")
                        .replace("route = \"any\"\n", "route = \"any\"\nmax_age = \"30m\"\n"),
                ),
                _ => streams.start(""),
            };
            let storefront = streams.world.certificates.workload(TRUST_DOMAIN, "storefront");
            let ends = if what == "certificate" { now.plus(hour) } else { now.plus(3 * hour) };
            let spec = LeafSpec { validity: Validity { from: now.minus(hour), to: ends }, ..storefront };
            let certificate = streams.world.certificates.shop.issue(&spec).unwrap();
            let config = streams.world.certificates.client_config_with(Some(&certificate));
            let address = proxy.address("mesh");
            let client = Client::tls(address, HOST, config, Protocol::H2).await.unwrap();
            let claims = json!({"exp": now.plus(3 * hour).unix_seconds(), "auth_time": now.unix_seconds()});
            let mut stream = kind.open(&Arc::new(client), &streams.token(claims)).await;
            streams.clock.advance(hour);
            stream.ends(reason, code).await;
            let record = record(&proxy, kind.path(), 0).await;
            assert_eq!(record["reason"], reason, "{kind:?} {record}");
            cases += 1;
        }
    }
    assert_eq!(cases, 6);
}

#[tokio::test]
async fn events_and_calls_outlive_the_time_of_a_request() {
    let streams = Streams::new().await;
    let proxy = streams.start("[limit]\ntotal_timeout = \"200ms\"\n");
    let client = Arc::new(proxy.client(Who::Storefront, Protocol::H2).await);
    let bearer = streams.token(json!({}));
    let mut lasting = Vec::new();
    for kind in KINDS {
        lasting.push(kind.open(&client, &bearer).await);
    }
    // By now it is over: this began later.
    let request = signed(get("/plain?events=2&plain"), &bearer);
    let mut body = client.send(request).await.unwrap().into_body();
    next_data(&mut body).await.unwrap();
    assert!(soon("the end of what is none", next_data(&mut body)).await.is_err());
    for stream in &mut lasting {
        stream.goes_on(&streams.world).await;
    }
}

#[tokio::test]
async fn a_route_that_a_header_chose_is_judged_with_it() {
    let streams = Streams::new().await;
    let chosen = "[route.chosen]\nhost = \"orders.shop.example\"\npath = \"/events\"\n\
                  header = { x-canary = \"yes\" }\nupstream = \"orders\"\n";
    let proxy = streams.start(chosen);
    let client = Arc::new(proxy.client(Who::Storefront, Protocol::H2).await);
    let mut request = signed(get("/events?events=100"), &streams.token(json!({})));
    request.headers_mut().insert("x-canary", "yes".parse().unwrap());
    let mut body = client.send(request).await.unwrap().into_body();
    next_data(&mut body).await.unwrap();
    let other = super::Kind::WebSocket.open(&client, &streams.token(json!({}))).await;
    // without any other route for it, it is found only by its header
    let only = streams.configuration(chosen).replace("[route.socket]", "[route.socket]\n#");
    assert!(only.contains("[route.chosen]"));
    proxy.reload(&streams.configuration(&format!("{chosen}\n[limit]\nheader_count_max = 99"))).unwrap();
    streams.world.upstream.release();
    assert!(soon("an event", next_data(&mut body)).await.unwrap().is_some());
    drop(other);
    let record = {
        drop(body);
        record(&proxy, "/events", 0).await
    };
    assert_eq!((&record["action"]["route"], &record["reason"]), (&json!("chosen"), &json!("client_gone")));
}
