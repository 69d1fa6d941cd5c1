//! The CAs of the operating system's store: read once for each configuration that is loaded, in which nobody waits
//! who asks how the proxy is.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::join_all;
use http::{Request, Response};
use http_body_util::BodyExt;
use rustix::fs::{CWD, Mode, OFlags, mkfifoat, open};
use rustix::io::Errno;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, get, with_token};
use crate::world::issuer::{AUDIENCE, Issuer};
use crate::world::listen::listen;
use crate::world::process::Process;
use crate::world::signing::KEYS;
use crate::world::upstream::Upstream;
use crate::world::{Body, World, full, soon};

const CONFIGURATION: &str = r#"
[revocation]
file = "revoked.toml"

[issuer.other]
url = "https://login.other.example"
audience = ["https://orders.shop.example"]

[upstream.named]
server = ["https://localhost:@port@"]

[upstream.named-too]
server = ["https://localhost:@port@"]
credential = { kind = "client_credentials", issuer = "other", client_id = "orders", client_secret = { file = "orders-key.pem" } }

[route.named]
host = ["orders.shop.example"]
path = "/named"
upstream = "named"

[route.named-too]
host = ["orders.shop.example"]
path = "/named-too"
upstream = "named-too"

[[allow]]
name = "any"
service = "storefront"
role = "any"
route = "any"
"#;

/// A pipe in the place of the system's store: who reads it waits until a test has written.
struct Store(PathBuf);

impl Store {
    fn new(world: &mut World) -> Store {
        let path = world.folder.path().join("system-cas.pem");
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        world.environment.push(("SSL_CERT_FILE", path.to_str().unwrap().to_owned()));
        Store(path)
    }

    /// Once somebody reads it: until then it cannot be opened like this.
    async fn read(&self) -> File {
        let opened = async {
            loop {
                let pipe = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                match open(&self.0, pipe, Mode::empty()) {
                    Ok(pipe) => return File::from(pipe),
                    Err(Errno::NXIO) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        soon("a reader of the store", opened).await
    }
}

async fn generation(process: &Process<'_>, number: f64) {
    let loaded = async {
        while process.metric("countersign_policy_generation").await != number {
            tokio::task::yield_now().await;
        }
    };
    soon("another generation", loaded).await;
}

fn named(world: &World) -> Request<Body> {
    world.signed(get("/named"))
}

fn revoked(folder: &Path, text: &str) {
    fs::write(folder.join("revoked.toml"), text).unwrap();
}

#[tokio::test]
async fn the_system_s_cas_are_read_once_a_load_and_nobody_waits_for_it() {
    let mut world = World::new().await;
    let store = Store::new(&mut world);
    let (shop, partner) = (world.certificates.shop.pem(), world.certificates.partner.pem());
    let server = world.certificates.server_config("named");
    let upstream = Upstream::start_with(([127, 0, 0, 1], 0).into(), Some(server)).await;
    let folder = world.folder.path();
    revoked(folder, "version = 1\n");
    let configuration = CONFIGURATION.replace("@port@", &upstream.address().port().to_string());
    // Read a second time, it would be waited for.
    let (process, ()) = tokio::join!(world.serve(&configuration), async {
        store.read().await.write_all(shop.as_bytes()).unwrap();
    });
    let client = process.client(Who::Storefront, Protocol::H2).await;
    assert_eq!(client.ask(named(&world)).await.unwrap().status, 200);
    assert_eq!(upstream.connections(), 1);

    process.binary.signal(Signal::HUP);
    store.read().await.write_all(shop.as_bytes()).unwrap();
    generation(&process, 2.0).await;
    assert_eq!(client.ask(named(&world)).await.unwrap().status, 200);
    assert_eq!(upstream.connections(), 1, "nothing changed, and yet it was dialled anew");

    process.binary.signal(Signal::HUP);
    let mut reading = store.read().await;
    // While that is being loaded, the status is taken, and who has other news waits without being waited for.
    let _another = process.client(Who::Storefront, Protocol::H2).await;
    let is_read = "countersign_revocation_list_last_read_success";
    for (list, series, value) in [
        ("version =", is_read, 0.0),
        ("version = 1\n[[revoked]]\nsubject = \"mallory\"\nissuer = \"corp\"\n", is_read, 1.0),
        ("", "countersign_connections_open", 2.0),
    ] {
        if !list.is_empty() {
            revoked(folder, list);
        }
        let told = async {
            while process.metric(series).await != value {
                tokio::task::yield_now().await;
            }
        };
        soon(series, told).await;
        assert_eq!(process.admin("/livez").await.status, 200);
        assert_eq!(process.metric("countersign_policy_generation").await, 2.0);
        assert_eq!(client.ask(named(&world)).await.unwrap().status, 200);
    }
    assert_eq!(process.metrics().await.value("countersign_revocations{kind=\"subject\"}"), Some(0.0));

    reading.write_all(partner.as_bytes()).unwrap();
    drop(reading);
    // What was loaded, and then what waited.
    generation(&process, 4.0).await;
    assert_eq!(process.metrics().await.value("countersign_revocations{kind=\"subject\"}"), Some(1.0));
    let asked = upstream.counts().requests;
    let client = process.client(Who::Storefront, Protocol::H2).await;
    assert_eq!(client.ask(named(&world)).await.unwrap().status, 502);
    assert_eq!(upstream.counts().requests, asked);
}

/// Whoever is asked for something here is believed by the system's CAs.
const ASKED: &str = r#"
[issuer.other]
url = "https://login.other.example"
jwks = "https://localhost:@other@/jwks"
audience = ["@audience@"]
allow_private_addresses = true

[issuer.desk]
url = "https://desk.example"
jwks = "@issuer@/jwks"
audience = ["@audience@"]
allow_http = true
client_id = "orders"
client_secret = { file = "secret" }
introspection = { endpoint = "http://@desk@/introspect" }

[service.batch]
spiffe_id = "spiffe://shop.example/ns/prod/sa/nobody"
client_id = [{ issuer = "other", client = "batch" }, { issuer = "desk", client = "batch" }]

[upstream.exchanged]
server = "@upstream@"
[upstream.exchanged.credential]
kind = "exchange"
token_endpoint = "http://@desk@/token"
allow_http = true
client_id = "orders"
client_secret = { file = "secret" }
audience = ["payments"]

[route.exchanged]
host = ["orders.shop.example"]
path = "/exchanged"
upstream = "exchanged"

[[allow]]
name = "any"
service = "batch"
role = "any"
route = "any"
"#;

async fn until(process: &Process<'_>, series: &str, is_there: impl Fn(f64) -> bool) {
    let there = async {
        while !process.metrics().await.value(series).is_some_and(&is_there) {
            tokio::task::yield_now().await;
        }
    };
    soon(series, there).await;
}

async fn status(client: &Client, path: &str, token: &str) -> u16 {
    client.ask(with_token(get(path), token)).await.unwrap().status.as_u16()
}

#[tokio::test]
async fn what_was_got_under_cas_that_are_gone_serves_until_it_is_got_anew() {
    let mut world = World::new().await;
    let store = world.write("system-cas.pem", &world.certificates.shop.pem());
    world.environment.push(("SSL_CERT_FILE", store.to_str().unwrap().to_owned()));
    world.write("secret", "s3cret\n");
    let other =
        Issuer::start_with(world.clock.clone(), Some(world.certificates.server_config("named"))).await;
    other.publish(&KEYS[..1]);
    let asked = Arc::<AtomicU64>::default();
    let (count, end) = (asked.clone(), world.clock.now().unix_seconds() + 3600);
    let desk = listen(([127, 0, 0, 1], 0).into(), None, move |request| {
        let answers = count.fetch_add(1, Ordering::SeqCst) < 2;
        async move {
            let _ = request.into_body().collect().await?;
            let said = json!({ "active": true, "aud": AUDIENCE, "sub": "alice", "client_id": "batch", "exp": end,
                "access_token": "issued", "token_type": "Bearer", "expires_in": 300,
                "issued_token_type": "urn:ietf:params:oauth:token-type:access_token" });
            if answers { Ok(Response::new(full(said.to_string()))) } else { Err("it is down".into()) }
        }
    })
    .await;
    let configuration = ASKED
        .replace("@other@", &other.address().port().to_string())
        .replace("@desk@", &desk.address.to_string())
        .replace("@audience@", AUDIENCE)
        .replace("@upstream@", &world.upstream.url)
        .replace("@issuer@", &world.issuer.url);
    let process = world.serve(&configuration).await;
    let client = process.client(Who::Unnamed, Protocol::H2).await;
    let claims = json!({ "iss": "https://login.other.example", "client_id": "batch" });
    let token_by = |at: usize| other.token_by(&KEYS[at], json!({}), claims.clone());
    let token = token_by(0);
    let wanted = async || {
        let requests = [("/orders/7", &*token), ("/orders/7", "opaque"), ("/exchanged", &*token)];
        let answers = requests.map(|(path, token)| status(&client, path, token));
        (join_all(answers).await, asked.load(Ordering::SeqCst), other.fetches().jwks)
    };
    let all_good = (vec![200; 3], 2, 1);
    assert_eq!(wanted().await, all_good);

    // Another key from now on, which is not fetched from a server that nobody vouches for.
    other.publish(&KEYS[2..3]);
    world.write("system-cas.pem", &world.certificates.partner.pem());
    process.binary.signal(Signal::HUP);
    generation(&process, 2.0).await;
    let failures = "countersign_issuer_fetch_failures_total{issuer=\"other\"}";
    until(&process, failures, |count| count >= 1.0).await;
    assert_eq!(wanted().await, all_good);
    assert_eq!(status(&client, "/orders/7", &token_by(2)).await, 401);

    world.write("system-cas.pem", &world.certificates.shop.pem());
    process.binary.signal(Signal::HUP);
    generation(&process, 3.0).await;
    let token = token_by(2);
    let fetched = async { while status(&client, "/orders/7", &token).await != 200 {} };
    soon("the other key", fetched).await;
    assert_eq!(wanted().await, (vec![401, 200, 401], 2, 2));
}

#[tokio::test]
async fn a_list_that_changes_while_a_configuration_is_loaded_is_not_put_back_by_it() {
    let mut world = World::new().await;
    let store = Store::new(&mut world);
    let shop = world.certificates.shop.pem();
    let folder = world.folder.path();
    revoked(folder, "version = 1\n");
    let configuration = CONFIGURATION.replace("@port@", "1");
    let (process, ()) = tokio::join!(world.serve(&configuration), async {
        store.read().await.write_all(shop.as_bytes()).unwrap();
    });
    // Whom the list may name is another: it is read anew. The file is watched.
    world.configuration(
        &configuration.replace("issuer.other", "issuer.another").replace("\"other", "\"another"),
    );
    let mut reading = store.read().await;
    for (list, is_read) in
        [("version =", 0.0), ("version = 1\n[[revoked]]\nsubject = \"mallory\"\nissuer = \"corp\"\n", 1.0)]
    {
        revoked(folder, list);
        let series = "countersign_revocation_list_last_read_success";
        until(&process, series, |value| value == is_read).await;
    }
    reading.write_all(shop.as_bytes()).unwrap();
    drop(reading);
    until(&process, "countersign_revocations{kind=\"subject\"}", |count| count == 1.0).await;
    let loaded = || {
        let records = fs::read_to_string(folder.join("audit.jsonl")).unwrap();
        let records = records.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let loaded = records.filter(|record| record["event"] == "revocation_loaded");
        loaded.map(|record| record["revoked"]["subjects"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let told = async {
        while !loaded().contains(&1) {
            tokio::task::yield_now().await;
        }
    };
    soon("a record of it", told).await;
    assert_eq!(loaded(), [0, 1], "for a moment the list was the older one");
}
