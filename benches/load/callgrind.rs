//! Instructions of the proxy in user space, counted by valgrind: what a busy machine does not change.

use std::fs;
use std::process::Command;

use crate::proxy::Proxy;
use crate::scenario::{Clients, Kind, Load};
use crate::world::World;
use crate::world::policy::Shape;

/// Instructions for each of `requests`.
pub async fn per_request(world: &World, shape: &Shape, kind: Kind, requests: usize) -> u64 {
    let counts = world.folder.path().join("callgrind.out");
    let output = format!("--callgrind-out-file={}", counts.display());
    let wrapper = ["valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no", &output];
    let proxy = Proxy::start(world, shape, &wrapper).await;
    let mut load = Load::prepare(world, &proxy, kind, Clients::few(kind), requests).await;
    count(&proxy, "on");
    load.go(requests).await;
    count(&proxy, "off");
    drop(load);
    proxy.stop().await;
    let text = fs::read_to_string(&counts).unwrap();
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")).unwrap();
    total.trim().parse::<u64>().unwrap() / requests as u64
}

fn count(proxy: &Proxy, switch: &str) {
    let told = Command::new("callgrind_control").args(["-i", switch, &proxy.pid().to_string()]).output();
    let told = told.unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
}
