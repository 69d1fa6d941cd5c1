//! Identity from the SPIFFE Workload API: awaited, rotated, federated, and the last good kept whatever comes.

mod asked;
mod federated;

use std::time::Duration;

use countersign::cli::mint::{Authority, CaSpec, LeafSpec, Minted, Validity};
use countersign::clock::Clock;
use countersign::trial::{Presented, Question, Trial};
use http::header::AUTHORIZATION;
use http::{Request, Response};
use rustls::{AlertDescription, ClientConfig};
use serde_json::{Value, json};
use tonic::Status;

use crate::world::certificates::{TRUST_DOMAIN, Who, parsed, spiffe_id, store};
use crate::world::client::{Client, Protocol, alert_after, get};
use crate::world::listen::listen;
use crate::world::presented::in_force;
use crate::world::proxy::{HOST, Proxy};
use crate::world::signing::KEYS;
use crate::world::tls::now;
use crate::world::workload_api::{WorkloadApi, X509SvidResponse, svid};
use crate::world::{Body, World, full, sha256, soon};

const IDENTITY: &str = r#"[identity]
source = "workload_api"
workload_api = "unix:@socket@"

[trust_domain."shop.example"]
[trust_domain."partner.example"]
"#;

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

pub async fn world(clock: Clock) -> World {
    let mut world = World::at(clock).await;
    let socket = world.workload_socket();
    world.identity = Some(IDENTITY.replace("@socket@", socket.to_str().unwrap()));
    world
}

fn signed(world: &World) -> Request<Body> {
    let mut request = get("/orders/7");
    let token = format!("Bearer {}", world.issuer.token(json!({})));
    request.headers_mut().insert(AUTHORIZATION, token.parse().unwrap());
    request
}

/// Waits until `/readyz` says this, with these words.
pub async fn readiness(proxy: &Proxy<'_>, status: u16, words: &str) {
    let asking = async {
        loop {
            let answer = proxy.admin("/readyz").await;
            if answer.status == status && answer.json()["reasons"].to_string().contains(words) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    soon(&format!("readiness {status} {words}"), asking).await
}

/// What `/status` says of the source, once it is as wanted.
pub async fn identity(proxy: &Proxy<'_>, wanted: impl Fn(&Value) -> bool) -> Value {
    let asking = async {
        loop {
            let status = proxy.admin("/status").await.json();
            if wanted(&status["identity"]) {
                return status["identity"].clone();
            }
            tokio::task::yield_now().await;
        }
    };
    soon("the status of the source", asking).await
}

/// Waits until this certificate of ours is in force: its record is written a moment before.
pub async fn rotated(proxy: &Proxy<'_>, own: &Minted) {
    let hash = sha256(&parsed(own).0[0]);
    let found = |records: &[Value]| {
        let is_it = |record: &&Value| record["certificate"] == format!("sha256:{hash}");
        records.iter().find(is_it).cloned()
    };
    let record = proxy.records.until(found).await;
    assert_eq!((&record["event"], &record["name"]), (&json!("certificate_rotated"), &json!("identity")));
    in_force(proxy.address("mesh"), own).await;
}

/// Of `orders`, by the shop's CA, and what a Workload API says of it.
pub fn good(world: &World) -> (Minted, X509SvidResponse) {
    let own = world.certificates.server("orders");
    let response = world.svid_response(&own, &[&world.certificates.shop]);
    (own, response)
}

/// A client with this certificate, who believes these CAs.
fn client_of(minted: &Minted, cas: &[&Authority]) -> ClientConfig {
    let (chain, key) = parsed(minted);
    ClientConfig::builder().with_root_certificates(store(cas)).with_client_auth_cert(chain, key).unwrap()
}

fn ca(world: &World, name: &str) -> Authority {
    Authority::root(&CaSpec::new(name, world.certificates.validity)).unwrap()
}

#[tokio::test]
async fn until_the_first_svid_comes_connections_are_refused_and_counted() {
    let world = world(Clock::system()).await;
    let read = READ.replace("method =", "route = \"orders\"\nmethod =");
    let more = format!(
        r#"{read}
[listener.local]
address = "127.0.0.1:0"
allow_plaintext = true
client_certificate = "none"

[upstream.partner]
server = ["https://127.0.0.1:1"]
server_spiffe_id = "spiffe://shop.example/ns/prod/sa/orders"

[route.partner]
host = ["partner.shop.example"]
path = "/**"
upstream = "partner"

[[allow]]
name = "out"
service = "none"
role = "none"
route = "partner"
"#
    );
    let proxy = world.start(&more);
    readiness(&proxy, 503, "identity: our certificate is awaited from workload_api").await;
    assert_eq!(proxy.admin("/livez").await.status, 200);
    let config = world.certificates.client_config(Who::Storefront);
    Client::tls(proxy.address("mesh"), HOST, config, Protocol::H1).await.map(drop).unwrap_err();
    proxy.metrics_once("countersign_connections_before_certificate_total 1").await;
    let failing = identity(&proxy, |identity| identity["failure"].is_string()).await;
    assert_eq!((&failing["source"], &failing["awaited"]), (&json!("workload_api"), &json!(true)));

    let local = Client::plain(proxy.address("local"), Protocol::H1).await.unwrap();
    let mut out = get("/");
    out.headers_mut().insert("host", "partner.shop.example".parse().unwrap());
    let answer = local.ask(out).await.unwrap();
    let refused = answer.json();
    assert_eq!((answer.status.as_u16(), &refused["reason"]), (502, &json!("upstream_unavailable")));
    let detail = proxy.record_of(&answer).await["detail"].to_string();
    assert!(detail.contains("our own certificate has not come yet"), "{detail}");

    let api = WorkloadApi::start(&world.workload_socket());
    api.asked_again().await;
    let (own, response) = good(&world);
    api.gives(response);
    readiness(&proxy, 200, "[]").await;
    rotated(&proxy, &own).await;
    let client = proxy.client(Who::Storefront, Protocol::H2).await;
    assert_eq!(client.ask(signed(&world)).await.unwrap().status, 200);
    assert_eq!(identity(&proxy, |it| it["awaited"] == false).await["failure"], Value::Null);
    proxy.metrics_once("countersign_identity_updates_total 1").await;
}

#[tokio::test]
async fn keys_that_are_fetched_with_our_certificate_are_awaited_with_it() {
    let clock = Clock::manual(Clock::system().now());
    let world = world(clock.clone()).await;
    let tls = world.certificates.mutual_server_config("front");
    let keys = json!({ "keys": [KEYS[2].jwk()] }).to_string();
    let front = listen("127.0.0.1:0".parse().unwrap(), Some(tls), move |_| {
        let keys = keys.clone();
        async move { Ok(Response::new(full(keys))) }
    })
    .await;
    let proxy = world.start(&format!(
        r#"{READ}
[issuer.front]
preset = "countersign"
url = "https://front.shop.example"
audience = ["orders"]
jwks = "https://{}/keys"
server_spiffe_id = "spiffe://shop.example/ns/prod/sa/front"
allow_private_addresses = true
"#,
        front.address
    ));
    readiness(&proxy, 503, "our own certificate, with which they are fetched, is awaited").await;
    assert_eq!(front.connections(), 0);
    let api = WorkloadApi::start(&world.workload_socket());
    let (own, response) = good(&world);
    api.gives(response);
    readiness(&proxy, 200, "[]").await;
    rotated(&proxy, &own).await;
    let before = front.connections();
    assert!(before > 0);
    // With the next one they are fetched anew, and those that are held serve on.
    let (next, response) = good(&world);
    api.gives(response);
    rotated(&proxy, &next).await;
    soon("a fetch", async {
        while front.connections() == before {
            tokio::task::yield_now().await
        }
    })
    .await;
    readiness(&proxy, 200, "[]").await;
    // Once it is taken away, they are fetched with it no longer.
    api.refuses(Status::permission_denied("no identity issued"));
    identity(&proxy, |it| it["failure"].is_string()).await;
    clock.advance(Duration::from_secs(300));
    let failed = "our own certificate, with which they are fetched, is awaited";
    soon("a fetch that fails", async {
        while !proxy.admin("/status").await.json().to_string().contains(failed) {}
    })
    .await;
}

#[tokio::test]
async fn leaf_and_ca_rotate_and_a_removed_ca_vouches_for_nobody() {
    let world = world(Clock::system()).await;
    let api = WorkloadApi::start(&world.workload_socket());
    let (own, response) = good(&world);
    api.gives(response);
    let proxy = world.start(READ);
    readiness(&proxy, 200, "[]").await;
    rotated(&proxy, &own).await;
    let policy = proxy.admin("/status").await.json()["policy"].clone();

    let (own, response) = good(&world);
    api.gives(response);
    rotated(&proxy, &own).await;

    let (old, new) = (&world.certificates.shop, ca(&world, "the shop's next CA"));
    let mut spec = world.certificates.workload(TRUST_DOMAIN, "orders");
    spec.dns = vec![HOST.to_owned()];
    let next = new.issue(&spec).unwrap();
    api.gives(world.svid_response(&next, &[old, &new]));
    rotated(&proxy, &next).await;
    let storefront = world.certificates.workload(TRUST_DOMAIN, "storefront");
    let by_old = client_of(&old.issue(&storefront).unwrap(), &[old, &new]);
    let by_new = client_of(&new.issue(&storefront).unwrap(), &[old, &new]);
    let address = proxy.address("mesh");
    let connect =
        async |config: &ClientConfig| Client::tls(address, HOST, config.clone(), Protocol::H1).await.unwrap();
    let (open, busy) = (connect(&by_old).await, connect(&by_new).await);
    for client in [&open, &busy] {
        assert_eq!(client.ask(signed(&world)).await.unwrap().status, 200);
    }

    let last = new.issue(&spec).unwrap();
    api.gives(world.svid_response(&last, &[&new]));
    rotated(&proxy, &last).await;
    let answer = open.ask(signed(&world)).await.unwrap();
    assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (403, &json!("peer_untrusted")));
    soon("the end of a connection whose CA is gone", open.closed()).await;
    assert_eq!(alert_after(address, HOST, by_old, Protocol::H1).await, Some(AlertDescription::UnknownCA));
    assert_eq!(connect(&by_new).await.ask(signed(&world)).await.unwrap().status, 200);
    // The policy was not read again, nor was there a reload.
    assert_eq!(proxy.admin("/status").await.json()["policy"], policy);
    assert_eq!(
        proxy.records.until(|all| Some(all.iter().filter(|it| it["event"] == "policy_loaded").count())).await,
        0
    );
}

#[tokio::test]
async fn an_identity_that_is_denied_for_minutes_is_used_no_longer() {
    let clock = Clock::manual(Clock::system().now());
    let world = world(clock.clone()).await;
    let api = WorkloadApi::start(&world.workload_socket());
    let (own, response) = good(&world);
    api.gives(response);
    let proxy = world.start(READ);
    readiness(&proxy, 200, "[]").await;
    rotated(&proxy, &own).await;
    let client = proxy.client(Who::Storefront, Protocol::H2).await;

    let since = clock.now();
    api.refuses(Status::permission_denied("no identity issued"));
    identity(&proxy, |it| it["failure"].is_string()).await;
    clock.set(since.plus(Duration::from_secs(299)));
    for _ in 0..2 {
        api.asked_again().await;
    }
    in_force(proxy.address("mesh"), &own).await;
    assert_eq!(client.ask(signed(&world)).await.unwrap().status, 200);
    clock.set(since.plus(Duration::from_secs(300)));
    readiness(&proxy, 503, "awaited from workload_api: the Workload API has no identity for us").await;
    soon("the end of what it vouched for", client.closed()).await;
    let config = world.certificates.client_config(Who::Storefront);
    Client::tls(proxy.address("mesh"), HOST, config, Protocol::H1).await.map(drop).unwrap_err();

    let (own, response) = good(&world);
    api.gives(response);
    rotated(&proxy, &own).await;
    readiness(&proxy, 200, "[]").await;
}

#[tokio::test]
async fn whatever_else_comes_the_last_good_stays() {
    let clock = Clock::manual(Clock::system().now());
    let world = world(clock.clone()).await;
    let api = WorkloadApi::start(&world.workload_socket());
    let (own, first) = good(&world);
    api.gives(first.clone());
    let proxy = world.start(READ);
    readiness(&proxy, 200, "[]").await;
    rotated(&proxy, &own).await;
    let client = proxy.client(Who::Storefront, Protocol::H2).await;

    let certificates = &world.certificates;
    let (from, hour) = (certificates.validity.from, Duration::from_secs(3600));
    let orders = certificates.workload(TRUST_DOMAIN, "orders");
    let expired = LeafSpec { validity: Validity { from: from.minus(hour), to: from }, ..orders.clone() };
    let id = spiffe_id(TRUST_DOMAIN, "orders");
    let made = |spec: &LeafSpec| svid(&id, &certificates.shop.issue(spec).unwrap(), &[&certificates.shop]);
    let with = |change: &dyn Fn(&mut X509SvidResponse)| {
        let mut response = first.clone();
        change(&mut response);
        Ok(response)
    };
    let cases: [(&str, Result<X509SvidResponse, Status>); 13] = [
        ("gives no X.509-SVID", with(&|it| it.svids.clear())),
        ("certificates that are no DER", with(&|it| it.svids[0].x509_svid.truncate(100))),
        ("does not parse", with(&|it| it.svids[0].x509_svid = vec![0x30, 0])),
        ("does not fit", with(&|it| it.svids[0].x509_svid.clear())),
        ("of a kind that is not supported", with(&|it| it.svids[0].x509_svid_key.truncate(20))),
        ("does not fit", with(&|it| it.svids[0].x509_svid_key = made(&orders).x509_svid_key)),
        ("our certificate expired", with(&|it| it.svids[0] = made(&expired))),
        (
            "does not have this SPIFFE ID",
            with(&|it| it.svids[0].spiffe_id = spiffe_id(TRUST_DOMAIN, "other")),
        ),
        ("gives our own trust domain `shop.example` no CA at all", with(&|it| it.svids[0].bundle.clear())),
        ("certificates that are no DER", with(&|it| it.svids[0].bundle.truncate(50))),
        ("a certificate that is not a CA's", with(&|it| it.svids[0].bundle = made(&orders).x509_svid)),
        (
            "no identity for us: PERMISSION_DENIED (\"no identity issued\")",
            Err(Status::permission_denied("no identity issued")),
        ),
        ("is no Workload API, or a broken one: UNIMPLEMENTED", Err(Status::unimplemented("what?"))),
    ];
    let mut seen = 0;
    for (why, said) in cases {
        match said {
            Ok(response) => api.gives(response),
            Err(status) => api.refuses(status),
        }
        let told = identity(&proxy, |it| it["failure"].as_str().is_some_and(|told| told.contains(why))).await;
        assert_eq!(told["awaited"], false, "{why}");
        in_force(proxy.address("mesh"), &own).await;
        assert_eq!(client.ask(signed(&world)).await.unwrap().status, 200, "{why}");
        assert_eq!(proxy.admin("/readyz").await.status, 200, "{why}");
        api.gives(first.clone());
        identity(&proxy, |it| it["failure"].is_null()).await;
        // It goes well for some time, or the pauses would grow.
        clock.set(clock.now().plus(Duration::from_secs(60)));
        seen += 1;
    }
    assert_eq!(seen, 13);
    let metrics = proxy.metrics().await;
    let failures = metrics.lines().find_map(|line| line.strip_prefix("countersign_identity_failures_total "));
    assert!(failures.unwrap().parse::<u32>().unwrap() >= 13, "{failures:?}");

    // A stream that broke is asked for again; meanwhile nothing changes.
    drop(api);
    identity(&proxy, |it| it["failure"].as_str().is_some_and(|told| told.contains("cannot be reached")))
        .await;
    assert_eq!(client.ask(signed(&world)).await.unwrap().status, 200);
    let api = WorkloadApi::start(&world.workload_socket());
    let (own, response) = good(&world);
    api.gives(response);
    rotated(&proxy, &own).await;
}

#[tokio::test]
async fn who_is_without_the_api_until_his_certificate_ends_is_not_ready() {
    let clock = Clock::manual(now());
    let world = world(clock.clone()).await;
    let api = WorkloadApi::start(&world.workload_socket());
    let (own, response) = good(&world);
    api.gives(response);
    let proxy = world.start(READ);
    readiness(&proxy, 200, "[]").await;
    rotated(&proxy, &own).await;
    drop(api);
    let to = world.certificates.validity.to;
    let expiry = format!(
        "countersign_certificate_expiry_timestamp_seconds{{certificate=\"identity\"}} {}",
        to.unix_seconds()
    );
    proxy.metrics_once(&expiry).await;
    let cas = expiry.replace("certificate_expiry", "trust_domain_expiry");
    let cas = cas.replace("certificate=\"identity\"", &format!("trust_domain=\"{TRUST_DOMAIN}\""));
    proxy.metrics_once(&cas).await;
    clock.set(to.minus(Duration::from_secs(1)));
    assert_eq!(proxy.admin("/readyz").await.status, 200);
    clock.set(to);
    readiness(&proxy, 503, "certificate identity: expired at").await;
    readiness(&proxy, 503, "trust domain shop.example: all its CAs have expired").await;
}

#[tokio::test]
async fn of_several_svids_the_hint_says_which_is_ours() {
    let mut world = world(Clock::system()).await;
    let identity = world.identity.clone().unwrap();
    world.identity = Some(identity.replace("\n\n", "\nhint = \"internal\"\n\n"));
    let api = WorkloadApi::start(&world.workload_socket());
    let (_, mut response) = good(&world);
    let own = world.certificates.server("orders");
    let mut second = world.svid_response(&own, &[&world.certificates.shop]).svids.remove(0);
    second.hint = "internal".to_owned();
    api.gives(response.clone());
    let proxy = world.start(READ);
    let awaited = self::identity(&proxy, |it| it["failure"].is_string()).await;
    assert!(
        awaited["failure"].as_str().unwrap().contains("no X.509-SVID with the hint `internal`"),
        "{awaited}"
    );
    response.svids.push(second);
    api.gives(response);
    rotated(&proxy, &own).await;
}
