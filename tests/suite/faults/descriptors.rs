//! File descriptors used up: what is connected goes on, what is not waits, and nothing spins.

use std::fs;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::net::TcpStream;

use super::{ANYTHING, Healthy, outcome};
use crate::world::World;
use crate::world::certificates::Who;
use crate::world::client::{Protocol, get};
use crate::world::proxy::HOST;
use crate::world::upstream::Upstream;

/// More than it can take, fewer than the kernel keeps waiting.
const WAITING: usize = 40;

fn open_files(pid: Pid) -> u64 {
    fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).unwrap().count() as u64
}

/// Sets the soft limit, which is the one that counts.
fn allow(pid: Pid, files: u64) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(files), maximum }).unwrap();
}

/// Processor time so far, in ticks of the kernel (of 10 ms, mostly).
fn ticks(pid: Pid) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test]
async fn without_descriptors_what_is_connected_goes_on_and_others_wait() {
    let world = World::new().await;
    let other = Upstream::start().await;
    let process = world
        .serve(&format!(
            "{ANYTHING}[upstream.other]\nserver = \"{}\"\n[route.other]\nhost = \"{HOST}\"\npath = \"/other\"\n\
             upstream = \"other\"\n",
            other.url
        ))
        .await;
    let healthy = Healthy::of_process(&process).await;
    let client = process.client(Who::Storefront, Protocol::H2).await;
    // What it connects to for these is connected now.
    for at in 0..2 {
        healthy.ask(at).await;
    }
    assert_eq!(client.ask(world.signed(get("/orders/1"))).await.unwrap().status, 200);
    let pid = process.binary.pid();
    allow(pid, open_files(pid));
    let mut waiting = Vec::new();
    for _ in 0..WAITING {
        waiting.push(TcpStream::connect(process.address).await.unwrap());
    }
    process.log_says(0, "no connection can be accepted").await;
    let before = ticks(pid);
    healthy
        .beside("file descriptors used up", async |_| {
            let answer = client.ask(world.signed(get("/other"))).await.unwrap();
            assert_eq!(outcome(&answer), (502, "upstream_unavailable".to_owned()));
        })
        .await;
    println!("{} ticks of processor time", ticks(pid) - before);
    assert_eq!(other.counts().requests, 0);

    allow(pid, 1024);
    drop(waiting);
    let failures = process.metric("countersign_accept_failures_total").await;
    println!("{failures} failed accepts");
    assert!(failures > 0.0);
    assert_eq!(process.metric("countersign_audit_records_dropped_total").await, 0.0);
    let again = process.client(Who::Storefront, Protocol::H1).await;
    assert_eq!(again.ask(world.signed(get("/other"))).await.unwrap().status, 200);
    let (log, _) = process.binary.end().await;
    let said = log.lines().filter(|line| line.contains("no connection can be accepted")).count();
    // One for each core, and a few more if all this takes a minute.
    assert!((1..=12).contains(&said), "{said}");
}
