//! Many small frames, and many resets, that are none too many: nobody who works is held to a limit on those
//! who do not. And the other way round, floods that are spread out.

use super::{Outcome, POLICY, outcome};
use crate::world::World;
use crate::world::frames::*;
use crate::world::proxy::HOST;
use crate::world::soon;

const SMALL_LIMITS: &str = "resets_per_connection_max = 10\ncontrol_frames_per_connection_max = 20";

#[tokio::test]
async fn a_fast_download_through_small_windows_with_measuring_pings_is_no_flood() {
    const BYTES: usize = 4 << 20;
    let world = World::new().await;
    let proxy = world.start(&format!("{POLICY}\n{SMALL_LIMITS}"));
    let Frames { mut reader, mut writer } = proxy.frames().await;
    let window = [&[0, 4][..], &16384u32.to_be_bytes()].concat();
    let head = request("GET", HOST, &format!("/?download={BYTES}"));
    let asked = [
        PREFACE,
        &Frame::bytes(SETTINGS, 0, 0, &window),
        &Frame::bytes(HEADERS, END_HEADERS | END_STREAM, 1, &head),
    ];
    writer.send(&asked.concat()).await.unwrap();
    let (mut taken, mut frames) = (0, 0);
    while taken < BYTES {
        let frame = reader.next().await.expect("the connection goes on");
        assert!(!matches!(frame.kind, GOAWAY | RST_STREAM), "{frame:?}");
        if frame.kind != DATA || frame.payload.is_empty() {
            continue;
        }
        taken += frame.payload.len();
        // both windows again for each 4 KiB or part of it, as some clients do, and a ping to measure
        let mut answer = Frame::bytes(PING, 0, 0, &[0; 8]);
        for piece in frame.payload.chunks(4096) {
            for stream in [0, 1] {
                let more = u32::try_from(piece.len()).unwrap().to_be_bytes();
                answer.extend(Frame::bytes(WINDOW_UPDATE, 0, stream, &more));
                frames += 1;
            }
        }
        frames += 1;
        writer.send(&answer).await.unwrap();
    }
    println!("{BYTES} bytes with {frames} frames of the client's");
    assert!(frames > 2 * BYTES / 4096);
    assert_eq!(proxy.hits("control_frames_per_connection_max").await, 0);
}

#[tokio::test]
async fn an_upload_in_small_pieces_with_pings_is_no_flood() {
    let world = World::new().await;
    let proxy = world.start(&format!("{POLICY}\n{SMALL_LIMITS}"));
    let Frames { mut reader, mut writer } = proxy.frames().await;
    let mut bytes = [PREFACE, &Frame::bytes(SETTINGS, 0, 0, &[])].concat();
    bytes.extend(Frame::bytes(HEADERS, END_HEADERS, 1, &request("POST", HOST, "/")));
    for _ in 0..200 {
        bytes.extend(Frame::bytes(DATA, 0, 1, &[b'a'; 300]));
        bytes.extend(Frame::bytes(PING, 0, 0, &[0; 8]));
    }
    bytes.extend(Frame::bytes(DATA, END_STREAM, 1, b"z"));
    writer.send(&bytes).await.unwrap();
    assert_eq!(outcome(&mut reader, 1).await.named(), "served");
}

#[tokio::test]
async fn resets_of_what_was_answered_are_no_flood() {
    let world = World::new().await;
    let proxy = world.start(&format!("{POLICY}\n{SMALL_LIMITS}"));
    let Frames { mut reader, mut writer } = proxy.frames().await;
    writer.send(&[PREFACE, &Frame::bytes(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    for number in 0..50 {
        let stream = 2 * number + 1;
        // an answer that goes on, which the client leaves after its head, as one does with events
        let head = request("GET", HOST, "/?events=2");
        writer.send(&Frame::bytes(HEADERS, END_HEADERS | END_STREAM, stream, &head)).await.unwrap();
        loop {
            let frame = reader.next().await.expect("the connection goes on");
            assert!(!matches!(frame.kind, GOAWAY | RST_STREAM), "{frame:?}");
            if frame.stream == stream && frame.kind == DATA {
                break;
            }
        }
        writer.send(&Frame::bytes(RST_STREAM, 0, stream, &8u32.to_be_bytes())).await.unwrap();
    }
    assert_eq!(proxy.hits("resets_per_connection_max").await, 0);
    world.upstream.until(|counts| counts.abandoned == 50).await;
}

#[tokio::test]
async fn resets_of_what_already_reached_the_upstream_are_counted_as_well() {
    let world = World::new().await;
    let proxy = world.start(&format!("{POLICY}\n{SMALL_LIMITS}"));
    let Frames { mut reader, mut writer } = proxy.frames().await;
    writer.send(&[PREFACE, &Frame::bytes(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    let ended = tokio::spawn(async move { outcome(&mut reader, u32::MAX).await });
    let mut sent = 0;
    for number in 0..200 {
        if ended.is_finished() {
            break;
        }
        let stream = 2 * number + 1;
        let head = request("GET", HOST, "/?hold");
        if writer.send(&Frame::bytes(HEADERS, END_HEADERS | END_STREAM, stream, &head)).await.is_err() {
            break;
        }
        let arrived = world.upstream.until(|counts| counts.requests > u64::from(number));
        tokio::select! {
            () = arrived => {}
            // the one that came too late
            () = async { while !ended.is_finished() { tokio::task::yield_now().await } } => break,
        }
        let _ = writer.send(&Frame::bytes(RST_STREAM, 0, stream, &8u32.to_be_bytes())).await;
        sent += 1;
    }
    assert_eq!(soon("the end", ended).await.unwrap(), Outcome::GoAway("ENHANCE_YOUR_CALM"));
    assert!((11..100).contains(&sent), "{sent}");
    assert_eq!(proxy.hits("resets_per_connection_max").await, 1);
    world.upstream.until(|counts| counts.abandoned == counts.requests).await;
}

#[tokio::test]
async fn a_window_that_stays_shut_ends_each_stream_also_of_refusals() {
    const STREAMS: u32 = 20;
    let world = World::new().await;
    let proxy = world.start(&format!("{POLICY}\nidle_timeout = \"300ms\""));
    let Frames { mut reader, mut writer } = proxy.frames().await;
    let mut bytes = [PREFACE, &Frame::bytes(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])].concat();
    for number in 0..STREAMS {
        // half of them are refused, with a body of ours
        let path = if number % 2 == 0 { "/a/../b" } else { "/?download=1000000" };
        let head = request("GET", HOST, path);
        bytes.extend(Frame::bytes(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &head));
    }
    writer.send(&bytes).await.unwrap();
    let mut reset = Vec::new();
    while let Some(frame) = reader.next().await {
        assert!(frame.kind != DATA, "{frame:?}");
        if frame.kind == RST_STREAM {
            assert_eq!(frame.error(), "CANCEL");
            reset.push(frame.stream);
        }
    }
    reset.sort_unstable();
    assert_eq!(reset, (0..STREAMS).map(|number| 2 * number + 1).collect::<Vec<_>>());
    assert_eq!(proxy.hits("idle_timeout").await, u64::from(STREAMS));
    assert_eq!(proxy.errors("stream", "cancel").await, u64::from(STREAMS));
}
