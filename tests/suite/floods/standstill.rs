//! Floods of connections that stand still, or nearly: in the handshake, in the head, before the answer.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::interval;
use tokio_rustls::client::TlsStream;

use super::{Arena, Flooded, Target, duration, from_many, small_or_full};
use crate::frames::notation;
use crate::world::certificates::Who;
use crate::world::client::{Protocol, secure_over};
use crate::world::frames::*;
use crate::world::proxy::HOST;
use crate::world::{World, soon};

/// Handshakes that are made at once, by the one who floods.
const AT_ONCE: usize = 64;

#[tokio::test]
async fn heads_that_come_byte_by_byte_are_ended_in_time() {
    let world = World::new().await;
    let limits = small_or_full("header_timeout = \"500ms\"\nidle_timeout = \"500ms\"", "");
    let arena = Arena::new(&world, limits).await;
    let connections = small_or_full(50, 5000);
    let flood = slow_heads(arena.target(Who::Storefront), connections);
    arena.flooded("slow heads", "header_timeout", flood).await;
    assert_eq!(arena.hits("header_timeout").await, connections as u64);
}

async fn slow_heads(target: Target, connections: usize) -> Flooded {
    let mut config = ClientConfig::clone(&target.config);
    config.alpn_protocols = vec![Protocol::H1.alpn()];
    let (config, address) = (&Arc::new(config), target.address);
    let open = |number| async move {
        let stream = from_many(number, address).await;
        secure_over(stream, HOST, Arc::clone(config)).await.unwrap()
    };
    let open = stream::iter(0..connections).map(open).buffer_unordered(AT_ONCE);
    let mut open: Vec<TlsStream<TcpStream>> = open.collect().await;
    let head = format!("GET /orders/1 HTTP/1.1\r\nhost: {HOST}\r\nx-slow: {}", "a".repeat(1000));
    let mut pause = interval(small_or_full(Duration::from_millis(20), Duration::from_secs(1)));
    let mut bytes = 0;
    for byte in head.as_bytes() {
        pause.tick().await;
        let mut still = Vec::new();
        for mut connection in open {
            let ended = {
                let mut answer = [0; 1];
                let reading = connection.read(&mut answer);
                tokio::select! {
                    biased;
                    ended = reading => { assert!(!matches!(ended, Ok(1..)), "an answer to half a head"); true }
                    () = std::future::ready(()) => false,
                }
            };
            if !ended && connection.write_all(&[*byte]).await.is_ok() && connection.flush().await.is_ok() {
                bytes += 1;
                still.push(connection);
            }
        }
        open = still;
        if open.is_empty() {
            break;
        }
    }
    assert!(open.is_empty(), "{} are still open", open.len());
    Flooded { sent: format!("{connections} connections, {bytes} bytes"), outcome: "all ended".to_owned() }
}

#[tokio::test]
async fn handshakes_that_stand_still_are_ended_in_time() {
    let world = World::new().await;
    let arena = Arena::new(&world, small_or_full("handshake_timeout = \"500ms\"", "")).await;
    let connections = small_or_full(50, 900);
    let address = arena.process.address;
    let flood = async move {
        let open = |number| async move {
            let mut stream = from_many(number, address).await;
            // a record that promises a ClientHello of 512 bytes, and its first
            stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await.unwrap();
            stream
        };
        let open: Vec<_> = stream::iter(0..connections).map(open).buffer_unordered(AT_ONCE).collect().await;
        for mut stream in open {
            // an alert, or a plain close
            let _ = soon("the end", stream.read_to_end(&mut Vec::new())).await;
        }
        Flooded { sent: format!("{connections} connections"), outcome: "all ended".to_owned() }
    };
    arena.flooded("stalled ClientHello", "handshake_timeout", flood).await;
    assert_eq!(arena.hits("handshake_timeout").await, connections as u64);
}

#[tokio::test]
async fn downloads_into_windows_that_stay_shut_are_ended_in_time() {
    let world = World::new().await;
    let arena = Arena::new(&world, small_or_full("idle_timeout = \"500ms\"", "idle_timeout = \"10s\"")).await;
    // fewer than `upstream_in_flight_max`: over that, others wait for an upstream
    let (connections, streams) = small_or_full((4, 50), (10, 100));
    let target = arena.target(Who::Storefront);
    let flood = async move {
        let mut open = Vec::new();
        for number in 0..connections {
            let stream = from_many(number, target.address).await;
            let mut frames = Frames::over(stream, HOST, Arc::clone(&target.config)).await.unwrap();
            let mut bytes = [PREFACE, &notation::bytes("SETTINGS: u16 4; u32 0")].concat();
            for stream in 0..streams {
                let mut head = request("GET", HOST, "/?download=100000000");
                head.extend(field(b"authorization", target.bearer.as_bytes()));
                bytes.extend(Frame::bytes(HEADERS, END_HEADERS | END_STREAM, 2 * stream + 1, &head));
            }
            frames.writer.send(&bytes).await.unwrap();
            open.push(frames);
        }
        let mut reset = 0;
        for mut frames in open {
            while let Some(frame) = frames.reader.next().await {
                assert!(frame.kind != DATA, "{frame:?}");
                reset += u32::from(frame.kind == RST_STREAM && frame.error() == "CANCEL");
            }
        }
        // where it takes long, the connections end for the pings that nobody answers here, and all with them
        assert!(duration().is_some() || reset == connections as u32 * streams);
        Flooded {
            sent: format!("{connections} connections, {streams} downloads on each"),
            outcome: format!("{reset} streams reset, all connections ended"),
        }
    };
    arena.flooded("zero windows", "idle_timeout", flood).await;
}
