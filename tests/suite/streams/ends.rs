//! Nine ends: a WebSocket, server-sent events and a gRPC stream, by expiry, by revocation, by policy.

use countersign::clock::Stopwatch;
use serde_json::json;
use tonic::Code;

use super::{FORBIDDEN, Kind, Streams, TOKEN_LIFETIME, all_end, open_all};

async fn expiry_ends(kind: Kind) {
    let streams = Streams::new().await;
    let proxy = streams.start("");
    let (ending, lasting) = (json!({}), json!({"exp": streams.clock.now().unix_seconds() + 36_000}));
    let mut others = open_all(&proxy, kind, &streams.token(lasting)).await;
    let opened = open_all(&proxy, kind, &streams.token(ending)).await;
    streams.clock.advance(TOKEN_LIFETIME);
    let happened = Stopwatch::start();
    all_end((kind, &proxy), opened, ("token_expired", Code::Unauthenticated), happened).await;
    for other in &mut others {
        other.goes_on(&streams.world).await;
    }
}

async fn a_policy_ends(kind: Kind) {
    let streams = Streams::new().await;
    let proxy = streams.start("");
    let mut opened = open_all(&proxy, kind, &streams.token(json!({}))).await;
    // one that permits it goes on with it
    proxy.reload(&streams.configuration("[limit]\nheader_count_max = 99")).unwrap();
    for stream in &mut opened {
        stream.goes_on(&streams.world).await;
    }
    proxy.reload(&streams.configuration(FORBIDDEN)).unwrap();
    let happened = Stopwatch::start();
    all_end((kind, &proxy), opened, ("denied_by_rule", Code::PermissionDenied), happened).await;
    let record = super::record(&proxy, kind.path(), 0).await;
    assert!(record["detail"].as_str().unwrap().ends_with("(\"closed today\")"), "{record}");
    assert_ne!(record["ended_by"], record["policy"], "{record}");
}

async fn revocation_ends(kind: Kind) {
    let streams = Streams::new().await;
    streams.world.write("revoked.toml", "version = 1\n");
    let proxy = streams.start("[revocation]\nfile = \"revoked.toml\"");
    let mut others = open_all(&proxy, kind, &streams.token(json!({"sub": "bob"}))).await;
    let opened = open_all(&proxy, kind, &streams.token(json!({}))).await;
    let list = "[[revoked]]\nissuer = \"corp\"\nsubject = \"alice\"\nreason = \"INC-4711\"\n";
    let happened = Stopwatch::start();
    streams.world.write("revoked.toml", &format!("version = 1\n{list}"));
    all_end((kind, &proxy), opened, ("token_revoked", Code::Unauthenticated), happened).await;
    let record = super::record(&proxy, kind.path(), 0).await;
    assert!(record["detail"].as_str().unwrap().ends_with("is on the revocation list: INC-4711"), "{record}");
    for other in &mut others {
        other.goes_on(&streams.world).await;
    }
}

#[tokio::test]
async fn a_websocket_ends_with_its_token() {
    expiry_ends(Kind::WebSocket).await;
}

#[tokio::test]
async fn server_sent_events_end_with_their_token() {
    expiry_ends(Kind::Events).await;
}

#[tokio::test]
async fn a_grpc_stream_ends_with_its_token() {
    expiry_ends(Kind::Grpc).await;
}

#[tokio::test]
async fn a_websocket_ends_with_its_revocation() {
    revocation_ends(Kind::WebSocket).await;
}

#[tokio::test]
async fn server_sent_events_end_with_their_revocation() {
    revocation_ends(Kind::Events).await;
}

#[tokio::test]
async fn a_grpc_stream_ends_with_its_revocation() {
    revocation_ends(Kind::Grpc).await;
}

#[tokio::test]
async fn a_websocket_ends_with_a_policy_that_forbids_it() {
    a_policy_ends(Kind::WebSocket).await;
}

#[tokio::test]
async fn server_sent_events_end_with_a_policy_that_forbids_them() {
    a_policy_ends(Kind::Events).await;
}

#[tokio::test]
async fn a_grpc_stream_ends_with_a_policy_that_forbids_it() {
    a_policy_ends(Kind::Grpc).await;
}
