//! The audit output: full, or slower than a flood.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;

use countersign::server::Server;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use rustix::fs::{CWD, Mode, mkfifoat};
use serde_json::Value;

use super::{ANYTHING, Healthy, outcome};
use crate::world::certificates::Who;
use crate::world::client::{Protocol, get};
use crate::world::proxy::{Proxy, Records};
use crate::world::{World, soon};

/// A proxy that records to `trail` in the world's folder, whatever that is.
fn start<'w>(world: &'w World, audit: &str, more: &str) -> Proxy<'w> {
    let file = world.configuration(more);
    let text = fs::read_to_string(file).unwrap();
    world.write("countersign.toml", &text.replace("output = \"audit.jsonl\"", audit));
    let records = Records::of(world.folder.path().join("audit.jsonl"));
    let server = Server::start(world.load(), world.clock.clone());
    Proxy { world, server: server.unwrap_or_else(|error| panic!("{error}")), records }
}

/// Mends the disk under `trail`.
fn mend(world: &World, proxy: &Proxy<'_>) {
    fs::remove_file(world.folder.path().join("trail")).unwrap();
    proxy.server.reopen_audit();
}

#[tokio::test]
async fn on_a_full_disk_requests_go_on_unless_records_are_required() {
    let world = World::new().await;
    symlink("/dev/full", world.folder.path().join("trail")).unwrap();
    let proxy = start(&world, "output = \"trail\"", &format!("{ANYTHING}[limit]\naudit_queue_max = 10\n"));
    let healthy = Healthy::of(&proxy).await;
    healthy
        .beside("disk full under the audit file, not required", async |_| {
            proxy.metrics_once("countersign_audit_failing 1").await;
        })
        .await;
    let metrics = proxy.metrics().await;
    assert!(!metrics.contains("countersign_audit_records_dropped_total 0\n"), "{metrics}");
    mend(&world, &proxy);
    proxy.metrics_once("countersign_audit_failing 0").await;
    let kept = || fs::read_to_string(world.folder.path().join("trail")).unwrap().lines().count();
    // the first that is written ends the failure
    let all_kept = async {
        while kept() < 10 {
            tokio::task::yield_now().await;
        }
    };
    soon("what was kept while the disk was full", all_kept).await;
    healthy.ask(0).await;
}

#[tokio::test]
async fn on_a_full_disk_nothing_is_forwarded_where_records_are_required() {
    let world = World::new().await;
    symlink("/dev/full", world.folder.path().join("trail")).unwrap();
    let proxy = start(&world, "output = \"trail\"\nrequired = true", ANYTHING);
    proxy.metrics_once("countersign_audit_failing 1").await;
    let asked = world.upstream.counts().requests;
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        for _ in 0..10 {
            let answer = client.ask(world.signed(get("/orders/1"))).await.unwrap();
            assert_eq!(outcome(&answer), (503, "audit_unavailable".to_owned()), "{protocol:?}");
        }
    }
    assert_eq!(world.upstream.counts().requests, asked);
    mend(&world, &proxy);
    proxy.metrics_once("countersign_audit_failing 0").await;
    let healthy = Healthy::of(&proxy).await;
    healthy.ask(0).await;
}

#[tokio::test]
async fn a_flood_of_refusals_is_slowed_by_its_records_and_refuses_nobody_else() {
    const FLOOD: usize = 300;
    let world = World::new().await;
    let trail = world.folder.path().join("trail");
    mkfifoat(CWD, &trail, Mode::RUSR | Mode::WUSR).unwrap();
    let limits =
        "[limit]\naudit_queue_max = 60\naudit_wait_timeout = \"30s\"\nstreams_per_connection_max = 1000\n";
    let proxy = start(&world, "output = \"trail\"\nrequired = true", &format!("{ANYTHING}{limits}"));
    // Nobody reads: the disk stands still when the pipe is full.
    let pipe = File::open(&trail).unwrap();
    let flooding = proxy.client(Who::Storefront, Protocol::H2).await;
    let mut flood = FuturesUnordered::new();
    for _ in 0..FLOOD {
        flood.push(flooding.ask(get("/orders/no-token")));
    }
    let mut answered = 0;
    let healthy = Healthy::of(&proxy).await;
    // One after the other, the flood stops being answered; the healthy client is all the same.
    for at in 0..40 {
        healthy.ask(at).await;
        while let Some(Some(answer)) = flood.next().now_or_never() {
            assert_eq!(answer.unwrap().status, 401);
            answered += 1;
        }
    }
    println!("{answered} of {FLOOD} refusals were answered while the output stood still");
    assert!(answered < FLOOD - 60, "{answered}");
    let reading = std::thread::spawn(move || {
        let mut refused = 0;
        for line in BufReader::new(pipe).lines() {
            let record: Value = serde_json::from_str(&line.unwrap()).unwrap();
            refused += usize::from(record["action"]["path"] == "/orders/no-token");
            if record["event"] == "stopped" {
                break;
            }
        }
        refused
    });
    while let Some(answer) = soon("the rest of the flood", flood.next()).await {
        assert_eq!(answer.unwrap().status, 401);
        answered += 1;
    }
    let metrics = proxy.metrics().await;
    assert!(metrics.contains("countersign_audit_records_dropped_total 0\n"), "{metrics}");
    drop(proxy);
    assert_eq!((answered, reading.join().unwrap()), (FLOOD, FLOOD));
}
