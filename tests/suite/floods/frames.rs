//! Floods of HTTP/2 frames: each connection sends as fast as it may, and comes again when it is ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Arena, Flooded, Target, duration, from_many, small_or_full};
use crate::frames::notation;
use crate::world::certificates::Who;
use crate::world::frames::*;
use crate::world::proxy::HOST;
use crate::world::{World, soon};

/// The flood, the limit that ends it, what opens it, what follows, and how many frames that is. Each is more
/// than one connection may send.
const FLOODS: [(&str, &str, &str, &str, u64); 10] = [
    (
        "rapid reset",
        "resets_per_connection_max",
        "SETTINGS",
        "EACH 500: HEADERS end: get | RST_STREAM: u32 8",
        1000,
    ),
    (
        "MadeYouReset",
        "resets_per_connection_max",
        "SETTINGS",
        "EACH 500: HEADERS: post | WINDOW_UPDATE @own: u32 2147483647",
        1000,
    ),
    ("CONTINUATION", "header_bytes_max", "HEADERS end more: get", "500 * CONTINUATION more: x-a=1", 500),
    ("empty DATA", "control_frames_per_connection_max", "HEADERS: post", "2000 * DATA", 2000),
    ("PING", "control_frames_per_connection_max", "SETTINGS", "4000 * PING: zeros 8", 4000),
    ("SETTINGS", "control_frames_per_connection_max", "SETTINGS", "4000 * SETTINGS: u16 4; u32 9", 4000),
    ("WINDOW_UPDATE", "control_frames_per_connection_max", "SETTINGS", "4000 * WINDOW_UPDATE: u32 1", 4000),
    ("PRIORITY", "control_frames_per_connection_max", "SETTINGS", "4000 * PRIORITY @3: u32 0; u8 1", 4000),
    (
        "header bomb",
        "header_bytes_max",
        "SETTINGS",
        "HEADERS end: get; hex 40 03 782d61 7f de 1e; 4061 * text a; 12000 * hex be",
        1,
    ),
    (
        "cookie crumbs",
        "header_bytes_max",
        "SETTINGS",
        "HEADERS end: get; hex 40 06 636f6f6b6965 03 613d31; 10000 * hex be",
        1,
    ),
];

#[tokio::test]
async fn floods_of_frames_are_ended_and_cost_nobody_else_an_answer() {
    let world = World::new().await;
    let arena = Arena::new(&world, "").await;
    for (name, limit, first, then, frames) in FLOODS {
        arena.flooded(name, limit, flood(arena.target(Who::Storefront), first, then, frames)).await;
    }
}

async fn flood(target: Target, first: &'static str, then: &'static str, frames: u64) -> Flooded {
    let flood = [&notation::bytes("SETTINGS")[..], &notation::bytes(first), &notation::bytes(then)].concat();
    let flood: Arc<[u8]> = [PREFACE, &flood].concat().into();
    let (sent, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let until = duration().map(|duration| Instant::now() + duration);
    let mut clients = JoinSet::new();
    for number in 0..small_or_full(2, 8) {
        let (config, flood) = (Arc::clone(&target.config), Arc::clone(&flood));
        let (sent, ended, address) = (Arc::clone(&sent), Arc::clone(&ended), target.address);
        clients.spawn(async move {
            for connection in 0.. {
                if until.map_or(connection == 2, |until| Instant::now() > until) {
                    break;
                }
                let stream = from_many(number, address).await;
                let Frames { mut reader, mut writer } =
                    Frames::over(stream, HOST, Arc::clone(&config)).await.unwrap();
                let reading = tokio::spawn(async move { while reader.next().await.is_some() {} });
                // the end may come before all of it is sent
                let _ = writer.send(&flood).await;
                sent.fetch_add(frames, Ordering::Relaxed);
                soon("the end of the flood", reading).await.unwrap();
                ended.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    Flooded {
        sent: format!("{} frames", sent.load(Ordering::Relaxed)),
        outcome: format!("{} connections ended", ended.load(Ordering::Relaxed)),
    }
}
