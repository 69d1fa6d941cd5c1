//! What `countersign run` does when it is told to: open its audit file anew, end in peace, end at once;
//! and what a reload may not change.

use std::collections::BTreeSet;
use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, get};
use crate::world::process::Process;
use crate::world::proxy::{Records, decision_of};
use crate::world::{World, soon};

const READ: &str = r#"
[[allow]]
name = "read"
service = "storefront"
role = "order-reader"
method = "GET"
"#;

fn records(world: &World, file: &str) -> Vec<Value> {
    let text = fs::read_to_string(world.folder.path().join(file)).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// Clients of both protocols, each with a request that the upstream holds.
async fn held(process: &Process<'_>) -> Vec<tokio::task::JoinHandle<Result<u16, String>>> {
    let mut asking = Vec::new();
    for protocol in Protocol::BOTH {
        let client: Client = process.client(Who::Storefront, protocol).await;
        let request = process.world.signed(get("/orders/7?hold"));
        asking.push(tokio::spawn(async move {
            let answer = client.ask(request).await.map_err(|error| error.to_string())?;
            Ok(answer.status.as_u16())
        }));
    }
    process.world.upstream.until(|counts| counts.requests == 2).await;
    asking
}

#[tokio::test]
async fn an_audit_file_moved_away_is_followed_by_a_new_one_and_no_line_is_lost() {
    let world = World::new().await;
    let process = world.serve(READ).await;
    let clients = [
        process.client(Who::Storefront, Protocol::H1).await,
        process.client(Who::Storefront, Protocol::H2).await,
    ];
    let mut answered = BTreeSet::new();
    let mut ask = async |times: usize| {
        for at in 0..times {
            let answer = clients[at % 2].ask(world.signed(get("/orders/7"))).await.unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            answered.insert(decision_of(&answer));
        }
    };
    ask(50).await;
    let path = world.folder.path().join("audit.jsonl");
    fs::rename(&path, world.folder.path().join("audit.1.jsonl")).unwrap();
    ask(50).await;
    process.binary.signal(Signal::HUP);
    let anew = Records::of(path.clone());
    ask(50).await;
    process.log_says(0, "configuration loaded").await;
    ask(50).await;
    anew.until(|records| (!records.is_empty()).then_some(())).await;
    process.binary.signal(Signal::TERM);
    assert!(process.binary.ended().await.success());
    let (old, new) = (records(&world, "audit.1.jsonl"), records(&world, "audit.jsonl"));
    assert!(old.len() > 50 && new.len() > 50, "{} and {}", old.len(), new.len());
    assert_eq!(new.last().unwrap()["event"], "stopped");
    let requests: Vec<_> = old.iter().chain(&new).filter(|record| record["event"] == "request").collect();
    let ids = requests.iter().map(|record| record["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!((requests.len(), answered.len()), (200, 200));
    assert_eq!(answered, ids);
}

#[tokio::test]
async fn told_to_end_it_answers_what_is_under_way_and_takes_nothing_new() {
    let world = World::new().await;
    let process = world.serve(READ).await;
    let asking = held(&process).await;
    process.binary.signal(Signal::TERM);
    process.log_says(0, "draining").await;
    let refused = async { while TcpStream::connect(process.address).await.is_ok() {} };
    soon("connections to be refused", refused).await;
    let ready = process.admin("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.json()["reasons"][0].as_str().unwrap().starts_with("draining"), "{ready:?}");
    for _ in 0..2 {
        world.upstream.release();
    }
    for asked in asking {
        assert_eq!(asked.await.unwrap(), Ok(200));
    }
    let status = process.binary.ended().await;
    assert!(status.success(), "{status}");
    let records = records(&world, "audit.jsonl");
    assert_eq!(records.iter().filter(|record| record["status"] == 200).count(), 2);
    assert_eq!(records.last().unwrap()["event"], "stopped");
}

#[tokio::test]
async fn told_twice_it_cuts_what_is_under_way_and_records_that() {
    let world = World::new().await;
    let process = world.serve(READ).await;
    let asking = held(&process).await;
    process.binary.signal(Signal::TERM);
    process.log_says(0, "draining").await;
    process.binary.signal(Signal::TERM);
    let status = process.binary.ended().await;
    assert!(status.success(), "{status}");
    for asked in asking {
        assert!(asked.await.unwrap().is_err());
    }
    let records = records(&world, "audit.jsonl");
    let cut: Vec<_> = records.iter().filter(|record| record["event"] == "request").collect();
    assert_eq!(cut.len(), 2, "{records:#?}");
    for record in cut {
        assert_eq!(record["verdict"], "allow", "{record}");
        assert_eq!(record["rule"], "read", "{record}");
        assert_eq!(record["reason"], "limit_exceeded", "{record}");
    }
    assert_eq!(records.last().unwrap()["event"], "stopped");
}

#[tokio::test]
async fn what_is_set_up_once_is_not_changed_by_a_reload_and_the_log_says_so() {
    let world = World::new().await;
    let process = world.serve(READ).await;
    let client = process.client(Who::Storefront, Protocol::H1).await;
    let path = world.configuration(READ);
    let text = fs::read_to_string(&path).unwrap();
    let own = "address = \"127.0.0.1:0\"";
    let moved = "address = \"127.0.0.1:1\"";
    // what is there, what takes its place, what the log says, whether the rest is taken
    let changes = [
        (&format!("{own}\nclient_cert"), &format!("{moved}\nclient_cert"), "listeners were", false),
        (&"[listener.mesh]".to_owned(), &"[listener.other]".to_owned(), "listeners were", false),
        (&format!("[admin]\n{own}"), &format!("[admin]\n{moved}"), "with a restart", true),
        (&"workers = 2".to_owned(), &"workers = 1".to_owned(), "with a restart", true),
        (&"\"audit.jsonl\"".to_owned(), &"\"other.jsonl\"".to_owned(), "with a restart", true),
    ];
    let mut seen = 0;
    for (from, to, words, taken) in changes {
        let lines = process.binary.log_lines();
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        world.write("countersign.toml", &changed);
        let said = |event: &Value| event.to_string().contains(words);
        process.binary.logged_after(lines, said).await;
        let end = if taken { "configuration loaded" } else { "the present one stays" };
        process.log_says(lines, end).await;
        let success = process.metric("countersign_config_last_reload_success").await;
        assert_eq!(success, f64::from(u8::from(taken)), "{from}");
        assert_eq!(client.ask(world.signed(get("/orders/7"))).await.unwrap().status, 200);
        seen += 1;
    }
    assert_eq!(seen, 5);
    let lines = process.binary.log_lines();
    world.write("countersign.toml", &text);
    process.log_says(lines, "configuration loaded").await;
    assert_eq!(process.metric("countersign_config_last_reload_success").await, 1.0);
}

/// One event for each error, and the status page has the first.
#[tokio::test]
async fn what_keeps_a_configuration_from_being_taken_is_told_once_where_operators_look() {
    let world = World::new().await;
    let process = world.serve(READ).await;
    let text = fs::read_to_string(world.folder.path().join("countersign.toml")).unwrap();
    let broken = text.replace("\"shop-ca.pem\"", "\"lost.pem\"").replace("workers = 2", "wrokers = 2");
    let moved = text.replacen("address = \"127.0.0.1:0\"\nclient", "address = \"127.0.0.1:1\"\nclient", 1);
    let line = 1 + broken.lines().position(|line| line.starts_with("wrokers")).unwrap();
    let status = async || process.admin("/status").await.json()["configuration"].clone();
    let why = async |words: &str| {
        let told = async {
            loop {
                let status = status().await;
                if status["failure"]["why"].as_str().is_some_and(|why| why.contains(words)) {
                    return status;
                }
            }
        };
        soon("the failure on the status page", told).await
    };
    let since = status().await["since"].clone();
    assert!(since.is_string() && status().await["failure"].is_null());

    let lines = process.binary.log_lines();
    world.write("countersign.toml", &broken);
    process.log_says(lines, "the present one stays").await;
    let log = process.binary.log().borrow()[lines..].join("\n");
    let events = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut told: Vec<_> = events.filter(|event| event["code"].is_string()).collect();
    told.sort_by_key(|event| event["code"].to_string());
    assert_eq!(told.len(), 2, "{log}");
    assert_eq!((&told[0]["code"], &told[1]["code"]), (&json!("missing_file"), &json!("unknown_key")));
    assert!(told[1]["place"].as_str().unwrap().ends_with(&format!("countersign.toml:{line}:1")), "{told:?}");
    assert_eq!(told[1]["message"], "unknown key `wrokers`");
    assert_eq!(told[1]["help"], "did you mean `workers`?");
    let failed = why("unknown key `wrokers`, and 1 more").await;
    assert_eq!(failed["since"], since);
    assert!(failed["failure"]["at"].as_str() > since.as_str(), "{failed}");

    world.write("countersign.toml", &moved);
    why("listeners were added").await;
    let lines = process.binary.log_lines();
    world.write("countersign.toml", &text);
    process.log_says(lines, "configuration loaded").await;
    let cured = async { while !status().await["failure"].is_null() {} };
    soon("the status page", cured).await;
    assert!(status().await["since"].as_str() > since.as_str());
}

#[tokio::test]
async fn a_broken_configuration_is_put_right_in_the_files_that_it_names_too() {
    let world = World::new().await;
    let process = world.serve(READ).await;
    let identity = world.certificates.server("orders");
    world.write("other-key.pem", &identity.key);
    // where nothing can be watched
    let nowhere = world.folder.path().join("nowhere/shop-ca.pem");
    let text = fs::read_to_string(world.configuration(READ)).unwrap();
    let other =
        text.replace("\"orders.pem\"", "\"other.pem\"").replace("\"orders-key.pem\"", "\"other-key.pem\"");
    let lost = other.replace("\"shop-ca.pem\"", &format!("{:?}", nowhere.display().to_string()));
    assert!(lost != other && other != text);
    for broken in [&lost, &other] {
        let lines = process.binary.log_lines();
        world.write("countersign.toml", broken);
        process.log_says(lines, "the present one stays").await;
    }
    let lines = process.binary.log_lines();
    world.write("other.pem", &identity.chain);
    process.log_says(lines, "configuration loaded").await;
    let success = process.metric("countersign_config_last_reload_success").await;
    assert_eq!(success, 1.0);
}
