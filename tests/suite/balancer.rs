//! Behind a load balancer: its probes, its health checks, and its clients as the PROXY protocol tells them.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, interval};

use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, Raw, get, next_data};
use crate::world::program::run;
use crate::world::proxy::{HOST, Proxy};
use crate::world::{World, soon};
use rustix::process::Signal;

const PROBES: u64 = 100;
const PROBE_PERIOD: Duration = Duration::from_millis(100);

const ANYTHING: &str = "[[allow]]\nname = \"anything\"\nservice = \"storefront\"\nrole = \"order-reader\"\n";

/// A listener that a balancer at this address speaks the PROXY protocol to.
fn behind(balancer: &str) -> String {
    format!(
        "[listener.balanced]\naddress = \"127.0.0.1:0\"\nclient_certificate = \"required\"\n\
         proxy_protocol = \"v2\"\n[trusted_hop.balancer]\nkind = \"proxy\"\naddress = \"{balancer}\"\n"
    )
}

/// The header of version 2 for TCP over IPv4.
fn header(client: Ipv4Addr) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    bytes.extend(client.octets());
    bytes.extend([10, 0, 0, 1]);
    bytes.extend(40_000u16.to_be_bytes());
    bytes.extend(443u16.to_be_bytes());
    bytes
}

impl World {
    async fn behind(&self, proxy: &Proxy<'_>, client: Ipv4Addr, protocol: Protocol) -> Client {
        let config = self.certificates.client_config(Who::Storefront);
        Client::behind(&header(client), proxy.address("balanced"), HOST, config, protocol).await.unwrap()
    }
}

#[tokio::test]
async fn probes_are_counted_and_not_recorded() {
    let world = World::new().await;
    let proxy = world.start(&format!(
        "{ANYTHING}{}[listener.plain]\naddress = \"127.0.0.1:0\"\nallow_plaintext = true",
        behind("127.0.0.1/32")
    ));
    let mut ticks = interval(PROBE_PERIOD);
    for number in 0..PROBES {
        ticks.tick().await;
        let listener = ["mesh", "balanced", "plain"][number as usize % 3];
        let mut probe = TcpStream::connect(proxy.address(listener)).await.unwrap();
        tokio::io::AsyncWriteExt::shutdown(&mut probe).await.unwrap();
        // The other side has taken notice.
        assert_eq!(soon("the end", probe.read(&mut [0; 8])).await.unwrap(), 0, "{listener}");
    }
    proxy.metrics_once(&format!("countersign_probes_total {PROBES}")).await;
    // Records are written in order: before this one stands none but the start.
    let client = proxy.client(Who::Storefront, Protocol::H1).await;
    assert_eq!(client.ask(world.signed(get("/orders/1"))).await.unwrap().status, 200);
    let events = proxy.records.until(|all| (all.len() > 1).then(|| all.to_vec())).await;
    let events: Vec<_> = events.iter().map(|record| record["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["started", "request"]);
}

/// How a page of the health listener is answered.
async fn answer(health: SocketAddr, page: &str) -> u16 {
    let client = Client::plain(health, Protocol::H1).await.unwrap();
    client.ask(get(page)).await.unwrap().status.as_u16()
}

/// Waits until it is answered with this status.
async fn turns(health: SocketAddr, page: &str, status: u16) {
    let turned = async {
        while answer(health, page).await != status {
            tokio::task::yield_now().await;
        }
    };
    soon(&format!("{page} {status}"), turned).await;
}

#[tokio::test]
async fn health_turns_at_once_on_sigterm_and_what_is_under_way_is_finished() {
    let world = World::new().await;
    let file = world.configuration(ANYTHING);
    let process = world.run(&[]);
    let health = process.address("page", "health").await;
    let text = fs::read_to_string(file).unwrap();
    let known = format!("health_address = \"{health}\"");
    let file = world.write("known.toml", &text.replace("health_address = \"127.0.0.1:0\"", &known));
    let healthcheck = async || {
        let arguments = ["healthcheck", "-c", file.to_str().unwrap()];
        run(env!("CARGO_BIN_EXE_countersign"), &arguments, "").await
    };
    let mesh = process.address("listener", "mesh").await;
    let client = async |protocol| {
        let config = world.certificates.client_config(Who::Storefront);
        Client::tls(mesh, HOST, config, protocol).await.unwrap()
    };
    assert_eq!(answer(health, "/livez").await, 200);
    let (h1, h2) = (client(Protocol::H1).await, client(Protocol::H2).await);
    let mut feeds = Vec::new();
    for client in [&h1, &h2] {
        let mut feed = client.send(world.signed(get("/feed?events=2"))).await.unwrap().into_body();
        assert_eq!(next_data(&mut feed).await.unwrap().unwrap(), "data: 0\n\n");
        feeds.push(feed);
    }
    turns(health, "/readyz", 200).await;
    assert_eq!(healthcheck().await.code, Some(0));

    process.signal(Signal::TERM);
    let told = Instant::now();
    turns(health, "/readyz", 503).await;
    assert!(told.elapsed() < Duration::from_secs(1), "{:?}", told.elapsed());
    assert_eq!(answer(health, "/livez").await, 200);
    for feed in &mut feeds {
        world.upstream.release();
        world.upstream.release();
        assert_eq!(next_data(feed).await.unwrap().unwrap(), "data: 1\n\n");
        assert_eq!(next_data(feed).await.unwrap(), None);
    }
    assert_eq!(process.ended().await.code(), Some(0));
    let unhealthy = healthcheck().await;
    assert_eq!(unhealthy.code, Some(1), "{unhealthy:?}");
}

#[tokio::test]
async fn a_client_behind_the_balancer_is_judged_by_its_own_address() {
    let world = World::new().await;
    let rules = ["peer_ip", "client_ip"].map(|key| {
        format!("{}path = \"/{key}\"\n{key} = \"203.0.113.0/24\"\n", ANYTHING.replace("anything", key))
    });
    let proxy = world.start(&format!("{}{}", rules.concat(), behind("127.0.0.0/8")));
    for protocol in Protocol::BOTH {
        let (mut allowed, mut denied) = (0, 0);
        for path in ["/peer_ip", "/client_ip"] {
            let inside = world.behind(&proxy, Ipv4Addr::new(203, 0, 113, 7), protocol).await;
            let answer = inside.ask(world.signed(get(path))).await.unwrap();
            assert_eq!(answer.status, 200, "{path}");
            let record = proxy.record_of(&answer).await;
            assert_eq!(record["connection"]["client_ip"], "203.0.113.7", "{record}");
            allowed += 1;
            let outside = world.behind(&proxy, Ipv4Addr::new(198, 51, 100, 7), protocol).await;
            assert_eq!(outside.ask(world.signed(get(path))).await.unwrap().status, 403, "{path}");
            let direct = proxy.client(Who::Storefront, protocol).await;
            assert_eq!(direct.ask(world.signed(get(path))).await.unwrap().status, 403, "{path}");
            denied += 2;
        }
        assert_eq!((allowed, denied), (2, 4));
    }
}

#[tokio::test]
async fn a_client_behind_the_balancer_is_limited_by_its_own_address() {
    let world = World::new().await;
    let limit = "[limit]\nconnections_per_peer_max = 1\n";
    let proxy = world.start(&format!("{ANYTHING}{}{limit}", behind("127.0.0.1/32")));
    let [one, other] = [Ipv4Addr::new(203, 0, 113, 7), Ipv4Addr::new(203, 0, 113, 8)];
    let first = world.behind(&proxy, one, Protocol::H1).await;
    assert_eq!(first.ask(world.signed(get("/1"))).await.unwrap().status, 200);
    let second = world.behind(&proxy, other, Protocol::H1).await;
    assert_eq!(second.ask(world.signed(get("/2"))).await.unwrap().status, 200);
    let config = world.certificates.client_config(Who::Storefront);
    let address = proxy.address("balanced");
    assert!(Client::behind(&header(one), address, HOST, config, Protocol::H1).await.is_err());
    assert_eq!(first.ask(world.signed(get("/3"))).await.unwrap().status, 200);
    proxy.metrics_once("countersign_limits_hit_total{limit=\"connections_per_peer_max\"} 1").await;
}

#[tokio::test]
async fn only_the_balancer_speaks_for_clients_and_it_must() {
    let world = World::new().await;
    let proxy = world.start(&format!("{ANYTHING}{}", behind("127.0.0.1/32")));
    let config = || world.certificates.client_config(Who::Storefront);
    let address = proxy.address("balanced");
    assert!(Client::tls(address, HOST, config(), Protocol::H1).await.is_err(), "no header");
    let mut raw = Raw::plain(address).await.unwrap();
    raw.send("PROXY TCP4 203.0.113.7 10.0.0.1 1 2\r\n").await.unwrap();
    assert_eq!(raw.rest().await, b"", "version 1");
    // Where no hop is trusted, a header is no ClientHello.
    let mesh = proxy.address("mesh");
    let client = Ipv4Addr::new(203, 0, 113, 7);
    assert!(Client::behind(&header(client), mesh, HOST, config(), Protocol::H1).await.is_err());

    let elsewhere = World::new().await;
    let proxy = elsewhere.start(&format!("{ANYTHING}{}", behind("192.0.2.1/32")));
    let config = elsewhere.certificates.client_config(Who::Storefront);
    let address = proxy.address("balanced");
    assert!(Client::behind(&header(client), address, HOST, config, Protocol::H1).await.is_err());
}

#[tokio::test]
async fn behind_a_balancer_each_client_has_its_own_number_of_connections() {
    let world = World::new().await;
    let limit = "[limit]\nconnections_per_peer_max = 1\n";
    let proxy = world.start(&format!("{ANYTHING}{}{limit}", behind("127.0.0.1/32")));
    let mut clients = Vec::new();
    for last in 1..=3 {
        let client = world.behind(&proxy, Ipv4Addr::new(203, 0, 113, last), Protocol::H1).await;
        assert_eq!(client.ask(world.signed(get("/orders/1"))).await.unwrap().status, 200, "{last}");
        clients.push(client);
    }
    let mut second = Raw::plain(proxy.address("balanced")).await.unwrap();
    second.send(header(Ipv4Addr::new(203, 0, 113, 1))).await.unwrap();
    assert_eq!(second.rest().await, b"");
    proxy.metrics_once("countersign_limits_hit_total{limit=\"connections_per_peer_max\"} 1").await;
    for client in &clients {
        assert_eq!(client.ask(world.signed(get("/orders/1"))).await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn handshakes_that_one_client_leaves_standing_keep_nobody_else_out() {
    let world = World::new().await;
    let limit = "[limit]\nhandshakes_max = 3\nhandshakes_per_peer_max = 2\n";
    let proxy = world.start(&format!("{ANYTHING}{}{limit}", behind("127.0.0.1/32")));
    let mut stalled = Vec::new();
    for _ in 0..3 {
        let mut raw = Raw::plain(proxy.address("balanced")).await.unwrap();
        raw.send(header(Ipv4Addr::new(203, 0, 113, 1))).await.unwrap();
        stalled.push(raw);
    }
    proxy.metrics_once("countersign_limits_hit_total{limit=\"handshakes_per_peer_max\"} 1").await;
    let client = world.behind(&proxy, Ipv4Addr::new(203, 0, 113, 2), Protocol::H1).await;
    assert_eq!(client.ask(world.signed(get("/orders/1"))).await.unwrap().status, 200);
    // What has ended makes room for the next of the same client.
    drop(stalled);
    let again = async {
        loop {
            let config = world.certificates.client_config(Who::Storefront);
            let (header, address) = (header(Ipv4Addr::new(203, 0, 113, 1)), proxy.address("balanced"));
            if Client::behind(&header, address, HOST, config, Protocol::H1).await.is_ok() {
                return;
            }
        }
    };
    soon("handshakes again", again).await;
}

#[tokio::test]
async fn who_asks_nothing_of_the_health_pages_keeps_no_probe_waiting() {
    let world = World::new().await;
    let proxy = world.start(ANYTHING);
    let health = proxy.server.addresses().health.unwrap();
    let mut silent = Vec::new();
    let probes = async {
        // Each would wait until the silent ones are given up.
        for _ in 0..3 {
            for _ in 0..100 {
                silent.push(TcpStream::connect(health).await.unwrap());
            }
            let probe = Client::plain(health, Protocol::H1).await.unwrap();
            assert_eq!(probe.ask(get("/livez")).await.unwrap().status, 200);
        }
    };
    soon("answers to probes", probes).await;
}

#[tokio::test]
async fn bad_proxy_headers_are_counted_and_seldom_logged() {
    const BAD: usize = 100;
    let world = World::new().await;
    let process = world.serve(&format!("{ANYTHING}{}", behind("127.0.0.1/32"))).await;
    let balanced = process.binary.address("listener", "balanced").await;
    for _ in 0..BAD {
        let mut raw = Raw::plain(balanced).await.unwrap();
        raw.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        raw.rest().await;
    }
    assert_eq!(process.metric("countersign_proxy_headers_refused_total").await, BAD as f64);
    let (log, _) = process.binary.end().await;
    let said = log.lines().filter(|line| line.contains("connection refused")).count();
    // One for each of two cores, and a few more if this takes a minute.
    assert!((1..=12).contains(&said), "{said}");
}
