//! Signals under load: a bad configuration, and the end.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::Value;

use super::{ANYTHING, Healthy};
use crate::world::World;
use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, get};
use crate::world::soon;

#[tokio::test]
async fn a_bad_file_and_a_signal_under_load_change_nothing_for_anybody() {
    let world = World::new().await;
    let process = world.serve(ANYTHING).await;
    let healthy = Healthy::of_process(&process).await;
    let good = fs::read_to_string(world.folder.path().join("countersign.toml")).unwrap();
    let pem = fs::read_to_string(world.folder.path().join("shop-ca.pem")).unwrap();
    let ways: [(&str, &str, String); 4] = [
        ("no TOML", "countersign.toml", format!("{good}\n[[[")),
        ("an unknown key", "countersign.toml", format!("{good}\n[limits]\nx = 1\n")),
        ("a role that is none", "countersign.toml", good.replace("order-reader\"\nroute", "nobody\"\nroute")),
        ("no CA", "shop-ca.pem", "-----BEGIN CERTIFICATE-----\n".to_owned()),
    ];
    healthy
        .beside("SIGHUP with a bad file (4 ways)", async |_| {
            for (way, file, text) in &ways {
                let lines = process.binary.log_lines();
                world.write(file, text);
                process.binary.signal(Signal::HUP);
                process.log_says(lines, "the present one stays").await;
                assert_eq!(process.metric("countersign_config_last_reload_success").await, 0.0, "{way}");
                assert_eq!(process.metric("countersign_policy_generation").await, 1.0, "{way}");
                world.write(file, if file.ends_with("pem") { &pem } else { &good });
            }
        })
        .await;
}

/// Clients of each protocol.
const CLIENTS: usize = 4;

#[tokio::test]
async fn told_to_end_under_load_every_request_is_answered_whole_or_was_never_begun() {
    let world = World::new().await;
    let process = world.serve(ANYTHING).await;
    let answered = AtomicU64::new(0);
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        for protocol in Protocol::BOTH {
            clients.push((protocol, process.client(Who::Storefront, protocol).await));
        }
    }
    let token = super::lasting(&world);
    let load = join_all(clients.iter().map(|(protocol, client): &(Protocol, Client)| {
        let (token, answered) = (&token, &answered);
        async move {
            loop {
                let mut request = get("/orders/1");
                request.headers_mut().insert(http::header::AUTHORIZATION, token.clone());
                match client.ask(request).await {
                    Ok(answer) => {
                        assert_eq!(answer.status, 200, "{answer:?}");
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => break (*protocol, error),
                }
            }
        }
    }));
    let signal = async {
        while answered.load(Ordering::Relaxed) < 400 {
            tokio::task::yield_now().await;
        }
        process.binary.signal(Signal::TERM);
        answered.load(Ordering::Relaxed)
    };
    let (ended, before) = soon("the end of the load", async { tokio::join!(load, signal) }).await;
    for (protocol, error) in ended {
        let unsent = error.downcast_ref::<hyper::Error>().is_some_and(|error| !error.is_incomplete_message());
        assert!(unsent, "{protocol:?}: {error:?}");
    }
    let status = process.binary.ended().await;
    assert!(status.success(), "{status}");
    let answered = answered.into_inner();
    let text = fs::read_to_string(world.folder.path().join("audit.jsonl")).unwrap();
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let requests: Vec<_> = records.iter().filter(|record| record["event"] == "request").collect();
    assert!(requests.iter().all(|record| record["reason"] == "allowed"), "{requests:?}");
    println!("SIGTERM after {before} answers: {answered} answered, {} recorded, 0 lost", requests.len());
    assert_eq!((requests.len() as u64, world.upstream.counts().requests), (answered, answered));
}
