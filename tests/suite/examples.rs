//! The configurations that are shipped load, and the sample of the docs serves and judges.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use countersign::cli::mint::{Authority, CaSpec, LeafSpec, Validity};
use countersign::clock::Clock;
use countersign::config;
use countersign::server::Server;
use http::{Method, Request};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, bearer};
use crate::world::upstream::Upstream;
use crate::world::{World, full};

pub fn shipped(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)).unwrap()
}

/// The certificates that the examples expect, beside the example itself.
pub fn beside(name: &str) -> TempDir {
    let now = Clock::system().now();
    let day = Duration::from_secs(86_400);
    let validity = Validity { from: now.minus(day), to: now.plus(day) };
    let shop = Authority::root(&CaSpec::new("shop CA", validity)).unwrap();
    let partner = Authority::root(&CaSpec::new("partner CA", validity)).unwrap();
    let own = shop.issue(&LeafSpec::workload("spiffe://shop.example/ns/prod/sa/orders", validity)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("certs")).unwrap();
    for (file, text) in [
        ("orders.pem", &own.chain),
        ("orders-key.pem", &own.key),
        ("front.pem", &own.chain),
        ("front-key.pem", &own.key),
        ("shop-ca.pem", &shop.pem()),
        ("shop.crl", &shop.crl(&[], validity).unwrap()),
        ("partner-ca.pem", &partner.pem()),
        ("partner.crl", &partner.crl(&[], validity).unwrap()),
    ] {
        fs::write(folder.path().join("certs").join(file), text).unwrap();
    }
    fs::write(folder.path().join(name), shipped(name)).unwrap();
    folder
}

pub fn countersign(arguments: &[&str], folder: &TempDir) -> (Option<i32>, String) {
    let read = |name: &str| fs::read_to_string(folder.path().join("certs").join(name)).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_countersign"))
        .args(arguments)
        .current_dir(folder.path())
        .env("IDENTITY_CERTIFICATE", read("orders.pem"))
        .env("IDENTITY_PRIVATE_KEY", read("orders-key.pem"))
        .env("TRUST_DOMAIN_CA", read("shop-ca.pem"))
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn every_example_is_checked_and_nothing_is_found() {
    let mut seen = 0;
    for entry in Path::new(env!("CARGO_MANIFEST_DIR")).join("config").read_dir().unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".test.toml") {
            continue;
        }
        let (code, answer) = countersign(&["check", "-c", &name, "--format", "json"], &beside(&name));
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let found: Vec<_> = answer["diagnostics"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|diagnostic| diagnostic["severity"] != "information")
            .collect();
        assert!(code == Some(0) && found.is_empty(), "{name}: {code:?} {answer:#}");
        assert!(answer["policy"].as_str().unwrap().starts_with("sha256:"));
        seen += 1;
    }
    assert_eq!(seen, 4);
}

#[test]
fn check_tells_by_its_exit_code_what_there_is_to_do() {
    let folder = beside("sidecar.toml");
    let check =
        |arguments: &[&str]| countersign(&[&["check", "-c", "sidecar.toml"], arguments].concat(), &folder);
    let (code, answer) = check(&["--resolved"]);
    let resolved: toml::Table = answer.parse().unwrap();
    assert_eq!(code, Some(0));
    assert_eq!(resolved["issuer"]["corp"]["claims"]["subject"].as_str(), Some("sub"));
    assert_eq!(resolved["cache"]["decision_time_max"].as_str(), Some("300s"));

    let text = shipped("sidecar.toml");
    let path = folder.path().join("sidecar.toml");
    fs::write(&path, text.replace(r#"["storefront-web"]"#, r#""any""#)).unwrap();
    let (code, answer) = check(&[]);
    assert_eq!(code, Some(1), "{answer}");
    assert!(answer.contains("client_id = \"any\"") && answer.contains("help"), "{answer}");

    fs::write(&path, text.replace("[[deny]]", "[[deny]]\nexpires = 2027-01-01").replace("GET", "get"))
        .unwrap();
    let (code, answer) = check(&["--format", "json"]);
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let codes: Vec<_> =
        answer["diagnostics"].as_array().unwrap().iter().map(|it| it["code"].as_str()).collect();
    assert_eq!((code, answer["loads"].as_bool()), (Some(78), Some(false)));
    assert_eq!(codes, [Some("bad_value"), Some("bad_value"), Some("rule_time")]);
    for diagnostic in answer["diagnostics"].as_array().unwrap() {
        let line = diagnostic["line"].as_u64().unwrap() as usize;
        let shown = fs::read_to_string(&path).unwrap().lines().nth(line - 1).unwrap().to_owned();
        assert_eq!(diagnostic["text"].as_str(), Some(&*shown));
        assert!(
            diagnostic["column"].as_u64() >= Some(1) && !diagnostic["remedy"].as_str().unwrap().is_empty()
        );
    }

    let (code, schema) = countersign(&["schema"], &folder);
    assert_eq!((code, serde_json::from_str::<Value>(&schema).unwrap()), (Some(0), config::schema()));
}

/// What an environment changes of the sample: where things listen, and who the issuer is.
const SITE: &str = r#"
version = 1
[proxy]
workers = 1
[admin]
address        = "127.0.0.1:0"
health_address = "127.0.0.1:0"
[listener.mesh]
address = "127.0.0.1:0"
[issuer.corp]
url        = "@issuer@"
allow_http = true
[upstream.orders]
server = "@upstream@"
[upstream.orders-next]
server = "@next@"
[audit]
output = "audit.jsonl"
"#;

#[tokio::test]
async fn the_sample_judges_requests() {
    let world = World::new().await;
    let next = Upstream::start().await;
    let certs = world.folder.path().join("certs");
    fs::create_dir(&certs).unwrap();
    for name in ["orders.pem", "orders-key.pem", "shop-ca.pem", "shop.crl"] {
        fs::copy(world.folder.path().join(name), certs.join(name)).unwrap();
    }
    let site = SITE.replace("@issuer@", &world.issuer.url);
    let site = site.replace("@upstream@", &world.upstream.url).replace("@next@", &next.url);
    let files = [world.write("sidecar.toml", &shipped("sidecar.toml")), world.write("site.toml", &site)];
    let clock = world.issuer.clock.clone();
    let config = config::load(&files, &|_| None, clock.now());
    let config = config.unwrap_or_else(|report| panic!("{}", report.to_text(false)));
    let server = Server::start(config, clock.clone()).unwrap();
    let address = *server.addresses().listeners.values().next().unwrap();

    let alice = json!({ "cid": "storefront-web", "uid": "1", "scp": ["orders:read"], "scope": null });
    let assistant = json!({ "cid": "assistant-7", "uid": "1", "scp": ["orders:read"] });
    let other = json!({ "cid": "storefront-web", "uid": "1", "scp": ["orders:write"] });
    let machine = json!({ "cid": "storefront-web", "sub": "storefront-web", "scp": ["orders:read"] });
    let beta = json!({ "cid": "storefront-web", "uid": "1", "groups": ["beta", "support"] });
    let now = clock.now().unix_seconds();
    let mut fresh = alice.clone();
    (fresh["acr"], fresh["auth_time"]) = (json!("mfa"), json!(now - 60));
    let mut stale = fresh.clone();
    stale["auth_time"] = json!(now - 3600);
    let (own, refund) = ("/customers/alice/orders/7", "/customers/alice/orders/7/refund");
    let get = Method::GET;
    let cases: [(Who, Option<&Value>, Method, &str, u16); 18] = [
        (Who::Storefront, Some(&alice), get.clone(), own, 200),
        (Who::Storefront, Some(&alice), Method::HEAD, own, 200),
        (Who::Storefront, Some(&alice), get.clone(), "/customers/bob/orders/7", 403),
        (Who::Storefront, Some(&alice), get.clone(), "/customers", 403),
        (Who::Storefront, Some(&alice), Method::DELETE, own, 403),
        (Who::Storefront, Some(&other), get.clone(), own, 403),
        (Who::Storefront, Some(&machine), get.clone(), own, 403),
        (Who::Storefront, Some(&assistant), get.clone(), own, 403),
        (Who::Storefront, None, get.clone(), own, 401),
        (Who::Unnamed, Some(&alice), get.clone(), own, 403),
        (Who::Assistant, Some(&assistant), get.clone(), own, 200),
        (Who::Assistant, Some(&alice), get.clone(), own, 403),
        (Who::Assistant, Some(&assistant), get.clone(), "/customers/bob/orders/7", 403),
        (Who::Assistant, Some(&assistant), Method::POST, refund, 403),
        (Who::Storefront, Some(&alice), Method::POST, refund, 401),
        (Who::Storefront, Some(&stale), Method::POST, refund, 401),
        (Who::Storefront, Some(&fresh), Method::POST, refund, 200),
        (Who::Storefront, Some(&beta), get, own, 200),
    ];
    let mut forwarded = 0;
    for (at, (who, claims, method, path, status)) in cases.into_iter().enumerate() {
        let config = world.certificates.client_config(who);
        let client = Client::tls(address, "orders.shop.example", config, Protocol::H1).await.unwrap();
        let mut request = Request::builder().method(method).uri(path);
        if let Some(claims) = claims {
            request = request.header("authorization", bearer(&world.issuer.token(claims.clone())));
        }
        let answer = client.ask(request.body(full("")).unwrap()).await.unwrap();
        assert_eq!(answer.status, status, "case {at}: {answer:?}");
        forwarded += u64::from(answer.status == 200);
    }
    assert_eq!((world.upstream.counts().requests, next.counts().requests), (forwarded - 1, 1));
    tokio::task::spawn_blocking(move || server.drain()).await.unwrap();
}

/// As `countersign … | head` does: whoever reads may stop, which neither fails nor is told as a fault.
#[test]
fn every_command_may_lose_its_reader() {
    let folder = beside("sidecar.toml");
    fs::write(folder.path().join("sidecar.test.toml"), shipped("sidecar.test.toml")).unwrap();
    fs::write(folder.path().join("audit.jsonl"), "").unwrap();
    let asked = ["--no-certificate", "--no-token", "GET", "https://orders.shop.example/"];
    let commands: [(&str, &[&str]); 9] = [
        ("check", &["-c", "sidecar.toml", "--resolved"]),
        ("test", &["-c", "sidecar.toml", "sidecar.test.toml", "--format", "json"]),
        ("explain", &[&["-c", "sidecar.toml"], &asked[..]].concat()),
        ("diff", &["sidecar.toml", "sidecar.toml"]),
        ("replay", &["-c", "sidecar.toml", "audit.jsonl"]),
        ("propose", &["-c", "sidecar.toml", "audit.jsonl"]),
        ("schema", &[]),
        ("completions", &["bash"]),
        ("man", &[]),
    ];
    for (command, arguments) in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut child = Command::new(env!("CARGO_BIN_EXE_countersign"));
        child.arg(command).args(arguments).current_dir(folder.path()).stdout(writer);
        let output = child.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !errors.contains("panicked"), "{command}: {errors}");
    }
}
