//! Nothing is collected on its way: what ten large bodies at once cost in memory.

use aws_lc_rs::digest;
use futures_util::future::join_all;

use super::{Traffic, seen};
use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, get, next_data, post};
use crate::world::proxy::HOST;
use crate::world::upstream::pattern;
use crate::world::{hex, sha256};
use rustix::process::Signal;

const BODY_BYTES: usize = 10 << 20;
const AT_ONCE: usize = 10;
/// What may be under way at one moment, of the 200 MiB that pass: windows, buffers and sockets.
const GROWTH_KIB_MAX: u64 = 64 << 10;

#[tokio::test]
async fn ten_bodies_at_once_both_ways_leave_little_behind() {
    let traffic = Traffic::new().await;
    traffic.world.configuration(&traffic.configuration(""));
    let process = traffic.world.run(&[]);
    let mesh = process.address("listener", "mesh").await;
    let body = pattern(BODY_BYTES);
    let hash = sha256(&body);
    for protocol in Protocol::BOTH {
        let mut clients = Vec::new();
        for _ in 0..AT_ONCE {
            let config = traffic.world.certificates.client_config(Who::Storefront);
            let client = Client::tls(mesh, HOST, config, protocol).await.unwrap();
            seen(&client.ask(traffic.signed("", get("/warm"))).await.unwrap());
            clients.push(client);
        }
        let before = process.memory_kib("VmRSS");
        let hashes = join_all(clients.iter().map(|client| download(&traffic, client))).await;
        assert!(hashes.iter().all(|other| *other == hash), "{protocol:?}");
        let up = clients.iter().map(|client| client.ask(traffic.signed("", post("/up", body.clone()))));
        for answer in join_all(up).await {
            assert_eq!(seen(&answer.unwrap()).body_sha256, hash, "{protocol:?}");
        }
        let growth = process.memory_kib("VmHWM").saturating_sub(before);
        println!(
            "{protocol:?}: {AT_ONCE} bodies of 10 MiB at once, each way: at most {growth} KiB more than {before} KiB"
        );
        assert!(growth < GROWTH_KIB_MAX, "{protocol:?}: {growth} KiB");
    }
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await.code(), Some(0));
}

/// The hash of what came, of which nothing is kept.
async fn download(traffic: &Traffic, client: &Client) -> String {
    let asked = traffic.signed("", get(&format!("/down?download={BODY_BYTES}")));
    let mut body = client.send(asked).await.unwrap().into_body();
    let mut hash = digest::Context::new(&digest::SHA256);
    while let Some(data) = next_data(&mut body).await.unwrap() {
        hash.update(&data);
    }
    hex(hash.finish())
}
