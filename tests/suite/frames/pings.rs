//! Who is still there: a client that waits for an answer is asked by PING (RFC 9113 §6.7).

use tokio_util::sync::CancellationToken;

use super::{POLICY, notation};
use crate::world::World;
use crate::world::frames::*;

#[tokio::test]
async fn a_client_that_answers_no_ping_is_let_go_and_its_request_with_it() {
    let world = World::new().await;
    // When it is asked, and how long it has to answer.
    let proxy = world.start(&format!("{POLICY}\nidle_timeout = \"200ms\"\nhandshake_timeout = \"2s\""));
    let ended = CancellationToken::new();
    let (mut silent, mut living) = (proxy.frames().await, proxy.frames().await);
    for frames in [&mut silent, &mut living] {
        frames.open(&[]).await.unwrap();
        frames.writer.send(&notation::bytes("HEADERS end: held")).await.unwrap();
    }
    world.upstream.until(|now| now.requests == 2).await;

    let dies = async {
        let (mut asked, mut answers) = (0, 0);
        while let Some(frame) = silent.reader.next().await {
            asked += usize::from(frame.kind == PING && frame.flags & ACK == 0);
            answers += usize::from(frame.kind == HEADERS);
        }
        assert!(asked > 0 && answers == 0, "{asked} pings, {answers} answers");
        world.upstream.until(|now| now.abandoned == 1).await;
        ended.cancel();
        world.upstream.release();
    };
    let lives = async {
        let mut asked = 0;
        loop {
            let frame = living.reader.next().await.unwrap();
            match frame.kind {
                PING if frame.flags & ACK == 0 => {
                    asked += 1;
                    living.writer.send(&Frame::bytes(PING, ACK, 0, &frame.payload)).await.unwrap();
                }
                HEADERS => break assert_eq!(frame.status(), 200),
                GOAWAY | RST_STREAM => panic!("{frame:?}"),
                _ => {}
            }
        }
        assert!(ended.is_cancelled() && asked > 1, "{asked} pings");
    };
    tokio::join!(dies, lives);
    let records = proxy.records(2).await;
    assert_eq!([&records[0]["reason"], &records[1]["reason"]], ["client_gone", "allowed"], "{records:?}");
}
