//! The CAs of the operating system's store: read once for each configuration that is loaded, in which nobody waits
//! who asks how the proxy is.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use http::Request;
use rustix::fs::{CWD, Mode, OFlags, mkfifoat, open};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::world::certificates::Who;
use crate::world::client::{Protocol, get};
use crate::world::process::Process;
use crate::world::upstream::Upstream;
use crate::world::{Body, World, soon};

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
