//! What ends while a connection lives is refused on that connection: no cache, and no handshake that is long
//! past, keeps a credential alive.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use countersign::cli::mint::{Authority, CaSpec, LeafSpec, Validity};
use countersign::clock::{Clock, Timestamp};
use futures_util::{SinkExt, StreamExt};
use rcgen::KeyPair;
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::world::certificates::{SERVER_NAMES, TRUST_DOMAIN, Who, parsed, spiffe_id};
use crate::world::client::{Client, Protocol, alert_after, get, with_token};
use crate::world::issuer::Answering;
use crate::world::proxy::{HOST, Proxy};
use crate::world::upstream::Upstream;
use crate::world::{World, soon};

const ALLOW: &str = r#"
[[allow]]
name = "readers"
service = "storefront"
role = "order-reader"
path = "/orders/**"

[[allow]]
name = "the freshly logged in"
service = "storefront"
role = "order-reader"
path = "/fresh"
max_age = "2m"
"#;

async fn ask(client: &Client, path: &str, token: &str) -> (u16, Value) {
    let answer = client.ask(with_token(get(path), token)).await.unwrap();
    (answer.status.as_u16(), answer.json()["reason"].clone())
}

#[tokio::test]
async fn a_credential_that_ends_is_refused_on_the_connection_that_it_opened() {
    for protocol in Protocol::BOTH {
        let clock = Clock::manual(Clock::system().now());
        let world = World::at(clock.clone()).await;
        let proxy = world.start(ALLOW);
        let client = proxy.client(Who::Storefront, protocol).await;
        let token = world.issuer.token(json!({"auth_time": clock.now().unix_seconds()}));
        for path in ["/orders/7", "/fresh"] {
            assert_eq!(ask(&client, path, &token).await, (200, Value::Null), "{path}");
        }

        clock.advance(Duration::from_secs(121));
        assert_eq!(ask(&client, "/orders/7", &token).await, (200, Value::Null));
        assert_eq!(ask(&client, "/fresh", &token).await, (401, json!("step_up_required")));

        // five minutes, and the leeway that the issuer's clock is given
        clock.advance(Duration::from_secs(300));
        assert_eq!(ask(&client, "/orders/7", &token).await, (401, json!("token_expired")));
        assert_eq!(ask(&client, "/orders/7", &world.issuer.token(json!({}))).await, (200, Value::Null));

        clock.advance(Duration::from_secs(24 * 3600));
        let reason = json!("peer_expired");
        assert_eq!(ask(&client, "/orders/7", &world.issuer.token(json!({}))).await, (403, reason));
        let config = world.certificates.client_config(Who::Storefront);
        assert!(alert_after(proxy.address("mesh"), HOST, config, protocol).await.is_some());
        assert_eq!(world.upstream.counts().requests, 4);
    }
}

#[tokio::test]
async fn a_certificate_that_ends_while_keys_are_waited_for_is_refused() {
    let clock = Clock::manual(Clock::system().now());
    let world = World::at(clock.clone()).await;
    world.issuer.jwks_answers(Answering::Held);
    let proxy = world.start(ALLOW);
    let client = proxy.client(Who::Storefront, Protocol::H1).await;
    let in_two_days = clock.now().plus(Duration::from_secs(48 * 3600)).unix_seconds();
    let token = world.issuer.token(json!({"exp": in_two_days}));
    let asking = tokio::spawn(async move { ask(&client, "/orders/7", &token).await });
    // the peer was seen before the token was
    proxy.metrics_once("countersign_cache_lookups_total{cache=\"tokens\",result=\"miss\"} 1").await;
    clock.advance(Duration::from_secs(24 * 3600 + 300));
    world.issuer.release();
    let answer = soon("the answer", asking).await.unwrap();
    assert_eq!(answer, (403, json!("peer_expired")));
    assert_eq!(world.upstream.counts().requests, 0);
}

#[tokio::test]
async fn a_rule_ends_with_its_last_day_also_where_its_permit_is_remembered() {
    const SECONDS_A_DAY: i64 = 24 * 3600;
    let clock = Clock::manual(Clock::system().now());
    let world = World::at(clock.clone()).await;
    let day = clock.now().to_string()[..10].to_owned();
    let proxy = world
        .start(&ALLOW.replace("path = \"/orders/**\"", &format!("path = \"/orders/**\"\nexpires = {day}")));
    let left = SECONDS_A_DAY - clock.now().unix_seconds().rem_euclid(SECONDS_A_DAY);
    let last_second = clock.now().plus(Duration::from_secs(u64::try_from(left).unwrap() - 1));
    let token = world.issuer.token(json!({"exp": last_second.unix_seconds() + 3600}));
    for protocol in Protocol::BOTH {
        clock.set(last_second);
        let client = proxy.client(Who::Storefront, protocol).await;
        let before = world.upstream.counts().requests;
        let ask = async || {
            let answer = client.ask(with_token(get("/orders/7"), &token)).await.unwrap();
            (answer.status.as_u16(), proxy.record_of(&answer).await)
        };
        ask().await;
        let (status, record) = ask().await;
        assert_eq!((status, &record["cache"]), (200, &json!("hit")), "{protocol:?} {record}");
        clock.advance(Duration::from_secs(1));
        let (status, record) = ask().await;
        assert_eq!((status, &record["reason"]), (403, &json!("no_rule")), "{protocol:?} {record}");
        assert_eq!(record["cache"], "miss", "{protocol:?} {record}");
        assert_eq!(world.upstream.counts().requests, before + 2);
    }
}

#[tokio::test]
async fn an_upstream_whose_certificate_has_ended_gets_no_request() {
    const SHORT: &str = "[upstream.short]\nserver = \"@\"\nserver_spiffe_id = \"spiffe://shop.example/ns/prod/sa/backend\"\n\
                         [route.short]\nhost = \"orders.shop.example\"\npath = \"/short/**\"\nupstream = \"short\"\n\
                         [[allow]]\nname = \"short\"\nservice = \"storefront\"\nrole = \"none\"\nroute = \"short\"\n";
    let clock = Clock::manual(Clock::system().now());
    let world = World::at(clock.clone()).await;
    let hour = Duration::from_secs(3600);
    let validity = Validity { from: clock.now().minus(hour), to: clock.now().plus(hour) };
    let dns = SERVER_NAMES.map(str::to_owned).to_vec();
    let backend = spiffe_id(TRUST_DOMAIN, "backend");
    let minted =
        world.certificates.shop.issue(&LeafSpec { dns, ..LeafSpec::workload(&backend, validity) }).unwrap();
    let (chain, key) = parsed(&minted);
    let mut tls = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let short = Upstream::start_with("127.0.0.1:0".parse().unwrap(), Some(Arc::new(tls))).await;
    let proxy = world.start(&SHORT.replace('@', &short.url));
    // One client's connection is one core's, and so is the pool of its upstreams' connections.
    let client = Arc::new(proxy.client(Who::Storefront, Protocol::H2).await);
    assert_eq!(client.ask(get("/short/1")).await.unwrap().status, 200);
    let holder = Arc::clone(&client);
    let held = tokio::spawn(async move { holder.ask(get("/short/2?hold")).await.unwrap().status });
    short.until(|now| now.requests == 2).await;
    assert_eq!(client.ask(get("/short/3")).await.unwrap().status, 200);
    assert_eq!(short.connections(), 2);
    clock.advance(2 * hour);
    // Not over the connection that is open and free either.
    let answer = client.ask(get("/short/4")).await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["reason"]),
        (502, &json!("upstream_identity_mismatch"))
    );
    let record = proxy.record_of(&answer).await;
    assert!(record["detail"].as_str().is_some_and(|detail| detail.contains("expired")), "{record}");
    // What was sent whole has its answer; its connection is then used no more.
    short.release();
    assert_eq!(soon("the held answer", held).await.unwrap(), 200);
    assert_eq!(client.ask(get("/short/5")).await.unwrap().status, 502);
    assert_eq!(short.counts().requests, 3);
}

const TUNNELS: &str = r#"
[service.partner]
spiffe_id = "spiffe://partner.example/ns/prod/sa/storefront"
client_id = "any"

[route.socket]
host = "orders.shop.example"
path = "/socket/**"
upstream = "orders"
upgrade = "websocket"

[[allow]]
name = "talkers"
service = ["storefront", "partner"]
role = "order-reader"
route = "socket"
"#;

/// What is left of a credential when a tunnel is opened by it.
const REST: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_tunnel_ends_with_the_token_the_certificate_or_the_list_behind_it() {
    let hour = Duration::from_secs(3600);
    let clock = Clock::manual(Timestamp::from_unix_seconds(Clock::system().now().unix_seconds()));
    let world = World::at(clock.clone()).await;
    let began = clock.now();
    let [token_ends, certificate_ends, list_ends] = [1, 2, 3].map(|hours| began.plus(hours * hour));
    let until = |to| Validity { from: began.minus(hour), to };
    world.write("shop.crl", &world.certificates.shop.crl(&[], until(list_ends)).unwrap());
    let storefront = world.certificates.workload(TRUST_DOMAIN, "storefront");
    let [short, long] = [certificate_ends, list_ends.plus(hour)].map(|ends| {
        world.certificates.shop.issue(&LeafSpec { validity: until(ends), ..storefront.clone() }).unwrap()
    });
    let token = |exp: Timestamp| world.issuer.token(json!({"exp": exp.unix_seconds()}));
    // the leeway that the issuer's clock is given
    let ending = token(token_ends.minus(Duration::from_secs(60)));
    let lasting = token(list_ends.plus(hour));
    let proxy = world.start(TUNNELS);
    let open = async |client: &Client, path: &str, token: &str| {
        client.websocket(with_token(get(path), token)).await.unwrap()
    };
    let mut cases = 0;
    for protocol in Protocol::BOTH {
        for (what, ends, certificate, token, (reason, detail)) in [
            ("token", token_ends, &long, &ending, ("token_expired", "expired")),
            ("certificate", certificate_ends, &short, &lasting, ("peer_expired", "out of date")),
            ("list", list_ends, &long, &lasting, ("peer_revoked", "the revocation list")),
        ] {
            clock.set(ends.minus(REST));
            let config = world.certificates.client_config_with(Some(certificate));
            let client = Client::tls(proxy.address("mesh"), HOST, config, protocol).await.unwrap();
            let partner = proxy.client(Who::Partner, protocol).await;
            let mut others = open(&partner, "/socket/others", &lasting).await;
            let path = format!("/socket/{what}");
            let mut tunnel = open(&client, &path, token).await;
            clock.set(ends);
            let cut = soon("the cut", tunnel.next()).await;
            let Some(Ok(Message::Close(Some(close)))) = cut else {
                panic!("{protocol:?}, {what}: {cut:?}");
            };
            assert_eq!((close.code, close.reason.as_str()), (CloseCode::Policy, reason), "{what}");
            let ours = |all: &[Value]| {
                let mut of_path = all.iter().filter(|record| record["action"]["path"] == json!(path));
                of_path.nth(usize::from(protocol == Protocol::H2)).cloned()
            };
            let record = proxy.records.until(ours).await;
            assert_eq!(
                (&record["verdict"], &record["reason"]),
                (&json!("allow"), &json!(reason)),
                "{record}"
            );
            assert!(record["detail"].as_str().is_some_and(|said| said.contains(detail)), "{record}");

            others.send(Message::text("still here")).await.unwrap();
            let heard = soon("an echo", others.next()).await.unwrap().unwrap();
            assert_eq!(heard, Message::text("still here"), "{protocol:?}, {what}");
            cases += 1;
        }
    }
    assert_eq!(cases, 6);
}

/// Waits until requests should be sent here, or not.
async fn readiness(proxy: &Proxy<'_>, status: u16) {
    let told = async {
        while proxy.admin("/readyz").await.status != status {
            tokio::task::yield_now().await;
        }
    };
    soon("readiness", told).await;
}

#[tokio::test]
async fn the_next_end_of_a_trust_domain_s_cas_is_told_and_without_any_left_of_ours_nobody_is_sent_here() {
    let clock = Clock::manual(Timestamp::from_unix_seconds(Clock::system().now().unix_seconds()));
    let world = World::at(clock.clone()).await;
    let (start, to) = (clock.now(), world.certificates.validity.to);
    let in_hours = |hours: u64| start.plus(Duration::from_secs(hours * 3600));
    let ca = |end| {
        let spec = CaSpec::new("partner CA", Validity { from: start, to: end });
        Authority::root(&spec).unwrap().pem()
    };
    // One key under one name, issued again: what ends first is not missed.
    let renewed = |end| {
        let key = KeyPair::from_pem(&world.certificates.shop_key.serialize_pem()).unwrap();
        let spec = CaSpec::new("shop CA", Validity { from: start, to: end });
        Authority::root_with_key(&spec, key).unwrap().pem()
    };
    world.write("partner-ca.pem", &(ca(in_hours(2)) + &ca(in_hours(1))));
    world.write("shop-ca.pem", &(world.certificates.shop.pem() + &renewed(in_hours(1))));
    let proxy = world.start(ALLOW);
    let gauge = async |trust_domain: &str, end: Timestamp| {
        let name = "countersign_trust_domain_expiry_timestamp_seconds";
        proxy.metrics_once(&format!("{name}{{trust_domain=\"{trust_domain}\"}} {}", end.unix_seconds())).await
    };
    let partner = |status: &Value| status["trust_domains"][0].clone();
    soon("the issuer's keys", async {
        while proxy.admin("/readyz").await.status != 200 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for (now, next) in [(start, 1), (in_hours(1), 2), (in_hours(2), 2), (in_hours(3), 2)] {
        clock.set(now);
        gauge("partner.example", in_hours(next)).await;
        gauge("shop.example", to).await;
        let told = partner(&proxy.admin("/status").await.json());
        let ends = (&told["next_not_after"], &told["last_not_after"]);
        assert_eq!(ends, (&json!(in_hours(next).to_string()), &json!(in_hours(2).to_string())), "{told}");
        assert_eq!((&told["own"], &told["cas"]), (&json!(false), &json!(2)));
        // Whom the partner sends is refused; everybody else is served.
        readiness(&proxy, 200).await;
    }
    clock.set(to);
    let told = proxy.admin("/readyz").await;
    assert_eq!(told.status, 503);
    let ours = format!("trust domain shop.example: all its CAs have expired, the last at {to}");
    assert!(told.json()["reasons"].as_array().unwrap().contains(&json!(ours)), "{told:?}");
}

#[tokio::test]
async fn a_revocation_list_that_runs_out_is_told_before_and_after_and_nobody_is_sent_here() {
    let clock = Clock::manual(Timestamp::from_unix_seconds(Clock::system().now().unix_seconds()));
    let world = World::at(clock.clone()).await;
    let start = clock.now();
    let end = start.plus(Duration::from_secs(3600));
    let list = |to| world.certificates.shop.crl(&[], Validity { from: start, to }).unwrap();
    world.write("shop.crl", &list(end));
    let proxy = world.start(ALLOW);
    let gauge = async |end: Timestamp| {
        let name = "countersign_trust_domain_crl_next_update_timestamp_seconds";
        let line = format!("{name}{{trust_domain=\"shop.example\"}} {}", end.unix_seconds());
        proxy.metrics_once(&line).await
    };
    let ours = async || proxy.admin("/status").await.json()["trust_domains"][1].clone();
    gauge(end).await;
    let told = ours().await;
    assert_eq!((&told["crl_next_update"], &told["idle"]), (&json!(end.to_string()), &json!([])), "{told}");
    readiness(&proxy, 200).await;

    clock.set(end);
    let why = format!("the revocation list of CA `CN=shop CA` should have been renewed at {end}");
    readiness(&proxy, 503).await;
    assert_eq!(ours().await["idle"], json!([why]));
    let reasons = proxy.admin("/readyz").await.json()["reasons"].clone();
    assert_eq!(reasons, json!([format!("trust domain shop.example: nobody is believed: {why}")]));

    // Another one is as good as the first.
    let next = end.plus(Duration::from_secs(3600));
    world.write("shop.crl", &list(next));
    proxy.reload(ALLOW).unwrap();
    gauge(next).await;
    assert_eq!(ours().await["idle"], json!([]));
    readiness(&proxy, 200).await;

    // That of a partner costs its own workloads alone.
    let partner = world.certificates.partner.crl(&[], Validity { from: start, to: end }).unwrap();
    world.write("partner.crl", &partner);
    let text = fs::read_to_string(world.folder.path().join("countersign.toml")).unwrap();
    let with_list = "ca = \"partner-ca.pem\"\ncrl = \"partner.crl\"";
    proxy.reload_from("countersign.toml", &text.replace("ca = \"partner-ca.pem\"", with_list));
    let idle = async {
        while proxy.admin("/status").await.json()["trust_domains"][0]["idle"] == json!([]) {
            tokio::task::yield_now().await;
        }
    };
    soon("what the partner's list does", idle).await;
    readiness(&proxy, 200).await;
}

/// One line, however often the status is taken; a start with a list that has run out goes on.
#[tokio::test]
async fn a_revocation_list_that_has_run_out_is_logged_once() {
    let world = World::new().await;
    let Validity { from, .. } = world.certificates.validity;
    let to = from.plus(Duration::from_secs(1));
    world.write("shop.crl", &world.certificates.shop.crl(&[], Validity { from, to }).unwrap());
    let process = world.serve(ALLOW).await;
    let says = "whoever a CA vouches for is refused";
    process.log_says(0, says).await;
    let lines = process.binary.log_lines();
    world.configuration(&format!("{ALLOW}# again"));
    process.log_says(lines, "configuration loaded").await;
    let log = process.binary.log().borrow().join("\n");
    assert_eq!(log.matches(says).count(), 1, "{log}");
}
