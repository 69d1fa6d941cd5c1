//! Certificates and CAs that change while requests are served.

use std::sync::Arc;
use std::time::Duration;

use countersign::cli::mint::{Authority, CaSpec, Validity};
use countersign::clock::Stopwatch;
use http::HeaderValue;
use rustix::process::Signal;
use rustls::AlertDescription;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, Raw, alert_after, bearer, get, with_token};
use crate::world::frames::{
    ACK, END_HEADERS, END_STREAM, Frame, Frames, GOAWAY, HEADERS, PING, field, h2_config, request,
};
use crate::world::process::Process;
use crate::world::proxy::{HOST, Records};
use crate::world::{Error, World, sha256, soon};

const READ: &str = r#"
[service.partner]
spiffe_id = "spiffe://partner.example/ns/prod/sa/storefront"
client_id = [{ issuer = "corp", client = "storefront-web" }]

[[allow]]
name = "read"
service = ["storefront", "partner"]
role = "order-reader"
method = "GET"
"#;

/// SHA-256 of the certificate that a new connection is shown.
async fn presented(process: &Process<'_>) -> String {
    let mut config = process.world.certificates.client_config(Who::Storefront);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(process.address).await.unwrap();
    let name = ServerName::try_from(HOST).unwrap();
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let stream = soon("a TLS handshake", connecting).await.unwrap();
    sha256(&stream.get_ref().1.peer_certificates().unwrap()[0])
}

/// Puts a fresh certificate in place, the certificate first; its SHA-256.
fn replace_identity(world: &World) -> String {
    let identity = world.certificates.server("orders");
    world.write("orders.pem", &identity.chain);
    world.write("orders-key.pem", &identity.key);
    sha256(&CertificateDer::from_pem_slice(identity.chain.as_bytes()).unwrap())
}

/// Another CA in the place of the partner's: what that one has signed is trusted no more.
fn replace_partner_ca(world: &World) {
    let now = world.clock.now();
    let hour = Duration::from_secs(3600);
    let validity = Validity { from: now.minus(hour), to: now.plus(hour) };
    let other = Authority::root(&CaSpec::new("another partner CA", validity)).unwrap();
    world.write("partner-ca.pem", &other.pem());
}

/// Asks until told to end. A connection that ended before a request was sent is replaced, as every client
/// does; anything else that is not an answer is a failure.
async fn ask_until_told(
    address: std::net::SocketAddr,
    config: rustls::ClientConfig,
    protocol: Protocol,
    token: String,
    done: watch::Sender<usize>,
    told: watch::Receiver<bool>,
) {
    let connect = || Client::tls(address, HOST, config.clone(), protocol);
    let mut client = connect().await.unwrap();
    while !*told.borrow() {
        match client.ask(with_token(get("/orders/7"), &token)).await {
            Ok(answer) => {
                assert_eq!(answer.status, 200, "{answer:?}");
                done.send_modify(|done| *done += 1);
            }
            Err(error) if is_unsent(&error) => client = connect().await.unwrap(),
            Err(error) => panic!("{protocol:?}: {error:?}"),
        }
    }
}

/// The connection ended before the request was on it; or the request crossed a GOAWAY that says that it was
/// not looked at, and is to be asked again (RFC 9113 §6.8).
fn is_unsent(error: &Error) -> bool {
    let Some(error) = error.downcast_ref::<hyper::Error>() else { return false };
    let said = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    let crossed = |said: &h2::Error| said.is_go_away() && said.reason() == Some(h2::Reason::NO_ERROR);
    error.is_canceled() || said.is_some_and(crossed)
}

#[tokio::test]
async fn a_new_certificate_is_served_without_a_failed_request() {
    let world = World::new().await;
    let process = world.serve(READ).await;
    let (done, mut doing) = watch::channel(0);
    let (tell, told) = watch::channel(false);
    let mut asking = JoinSet::new();
    for at in 0..16 {
        let config = world.certificates.client_config(Who::Storefront);
        let protocol = Protocol::BOTH[at % 2];
        asking.spawn(ask_until_told(
            process.address,
            config,
            protocol,
            world.issuer.token(json!({})),
            done.clone(),
            told.clone(),
        ));
    }
    let records = Records::of(world.folder.path().join("audit.jsonl"));
    for _ in 0..3 {
        let until = *doing.borrow() + 100;
        soon("requests", doing.wait_for(|done| *done >= until)).await.unwrap();
        let fresh = replace_identity(&world);
        let rotated = records.until(|all| {
            let rotated = all.iter().find(|record| {
                record["event"] == "certificate_rotated" && record["certificate"] == format!("sha256:{fresh}")
            });
            rotated.cloned()
        });
        assert_eq!(rotated.await["name"], "identity");
        // The record is written a moment before what it tells of is in force.
        soon("the fresh certificate", async { while presented(&process).await != fresh {} }).await;
    }
    let until = *doing.borrow() + 100;
    soon("requests", doing.wait_for(|done| *done >= until)).await.unwrap();
    tell.send(true).unwrap();
    while let Some(ended) = asking.join_next().await {
        ended.unwrap();
    }
    process.binary.signal(Signal::TERM);
    assert!(process.binary.ended().await.success());
}

#[tokio::test]
async fn a_broken_certificate_keeps_the_last_good_one() {
    let world = World::new().await;
    let process = world.serve(READ).await;
    let good = presented(&process).await;
    let client = process.client(Who::Storefront, Protocol::H2).await;
    world.write("orders.pem", "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n");
    process.log_says(0, "the present one stays").await;
    process.log_says(0, "orders.pem").await;
    assert_eq!(process.metric("countersign_config_last_reload_success").await, 0.0);
    assert_eq!(presented(&process).await, good);
    assert_eq!(client.ask(world.signed(get("/orders/7"))).await.unwrap().status, 200);
    let fresh = replace_identity(&world);
    process.log_says(0, "configuration loaded").await;
    assert_eq!(presented(&process).await, fresh);
    assert_eq!(process.metric("countersign_config_last_reload_success").await, 1.0);
}

#[tokio::test]
async fn who_came_by_a_removed_ca_is_refused_on_open_connections_and_new_ones() {
    let world = World::new().await;
    let process = world.serve(READ).await;
    let token = world.issuer.token(json!({}));
    let open = process.client(Who::Partner, Protocol::H1).await;
    assert_eq!(open.ask(with_token(get("/orders/7"), &token)).await.unwrap().status, 200);
    let mut idle = Vec::new();
    for _ in 0..2 {
        let config = world.certificates.client_config(Who::Partner);
        let mut raw = Raw::tls(process.address, HOST, config).await.unwrap();
        let head = format!("GET /orders/7 HTTP/1.1\r\nhost: {HOST}\r\nauthorization: Bearer {token}\r\n\r\n");
        raw.send(head).await.unwrap();
        assert!(raw.head().await.unwrap().starts_with("HTTP/1.1 200"));
        idle.push(raw);
    }
    replace_partner_ca(&world);
    process.log_says(0, "configuration loaded").await;
    let answer = open.ask(with_token(get("/orders/7"), &token)).await.unwrap();
    let since = Stopwatch::start();
    assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (403, &json!("peer_untrusted")));
    assert_eq!(answer.headers["connection"], "close");
    for raw in idle {
        raw.rest().await;
    }
    println!("idle connections of a removed CA ended {:?} after the first refusal", since.elapsed());
    let config = world.certificates.client_config(Who::Partner);
    assert_eq!(
        alert_after(process.address, HOST, config, Protocol::H1).await,
        Some(AlertDescription::UnknownCA)
    );
    // those of other CAs are not concerned
    assert_eq!(
        process
            .client(Who::Storefront, Protocol::H2)
            .await
            .ask(with_token(get("/orders/7"), &token))
            .await
            .unwrap()
            .status,
        200
    );
}

/// GOAWAY, and the end: at once where the client does as HTTP/2 asks of it, within a second where it does nothing.
#[tokio::test]
async fn http2_connections_at_rest_end_with_the_ca_that_vouched_for_them() {
    let world = World::new().await;
    let process = world.serve(READ).await;
    let bearer = bearer(&world.issuer.token(json!({})));
    let open = async |who| {
        let config = h2_config(&world.certificates, who);
        let mut frames = Frames::tls(process.address, HOST, config).await.unwrap();
        frames.open(&[]).await.unwrap();
        ask_over(&mut frames, 1, &bearer).await;
        frames
    };
    let (willing, silent) = (open(Who::Partner).await, open(Who::Partner).await);
    let mut of_another_ca = open(Who::Storefront).await;
    replace_partner_ca(&world);
    process.log_says(0, "configuration loaded").await;
    let since = Stopwatch::start();
    for (mut frames, answers) in [(willing, true), (silent, false)] {
        let mut kinds = Vec::new();
        while let Some(frame) = frames.reader.next().await {
            if frame.kind == GOAWAY {
                assert_eq!(frame.error(), "NO_ERROR");
            } else if frame.kind == PING && answers {
                frames.writer.send(&Frame::bytes(PING, ACK, 0, &frame.payload)).await.unwrap();
            }
            kinds.push(frame.kind);
        }
        println!("answers pings: {answers}; frames {kinds:?}; ended {:?} after the reload", since.elapsed());
        assert!(kinds.contains(&GOAWAY), "answers pings: {answers}");
    }
    // It was asked to end as well, under the new configuration, but nobody cuts it.
    ask_over(&mut of_another_ca, 3, &bearer).await;
}

/// One request, which is answered with 200.
async fn ask_over(frames: &mut Frames, stream: u32, bearer: &HeaderValue) {
    let head = [request("GET", HOST, "/orders/7"), field(b"authorization", bearer.as_bytes())].concat();
    frames.writer.send(&Frame::bytes(HEADERS, END_STREAM | END_HEADERS, stream, &head)).await.unwrap();
    let mut status = None;
    loop {
        let frame = frames.reader.next().await.unwrap();
        if frame.stream == stream && frame.kind == HEADERS {
            status = Some(frame.status());
        }
        if frame.stream == stream && frame.flags & END_STREAM != 0 {
            return assert_eq!(status, Some(200));
        }
    }
}
