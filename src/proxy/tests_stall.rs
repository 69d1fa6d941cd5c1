//! Clients that stand still, on a clock that a test moves.

use std::future::poll_fn;
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf, duplex, join, sink};
use tokio::time::Instant;

use super::limits::Limits;
use super::stall::*;
use super::watched::Watched;

const IDLE: Duration = Duration::from_secs(60);

fn limits() -> Limits {
    Limits {
        connections_max: 1,
        connections_per_peer_max: 1,
        handshakes_max: 1,
        handshakes_per_peer_max: 1,
        handshake_timeout: IDLE,
        header_bytes_max: 1,
        header_count_max: 1,
        header_timeout: Duration::from_secs(10),
        body_bytes_max: 1,
        token: crate::token::TokenLimits {
            token_bytes_max: 1,
            json_depth_max: 1,
            json_values_max: 1,
            scope_count_max: 1,
            group_count_max: 1,
            delegation_depth_max: 1,
            dpop_proofs_max: 1,
            introspection_pending_max: 1,
        },
        requests_per_client_max: 1,
        upstream_in_flight_max: 1,
        upstream_pending_max: 1,
        streams_per_connection_max: 1,
        resets_per_connection_max: 1,
        control_frames_per_connection_max: 1,
        idle_timeout: IDLE,
        total_timeout: IDLE,
        connection_age_max: IDLE,
        drain_timeout: IDLE,
    }
}

/// What the client is accused of, and after how many seconds from now.
async fn stall(pulse: &Arc<Pulse>) -> (Stall, u64) {
    let began = Instant::now();
    let stall = pulse.stalls(&Watch::default(), &limits()).await;
    (stall, began.elapsed().as_secs())
}

#[tokio::test(start_paused = true)]
async fn rest_heads_and_answers_have_each_their_time() {
    let pulse = Pulse::new();
    let (mut client, io) = duplex(16);
    let mut io = Watched::http1(io, &pulse, Bytes::new());
    assert_eq!(stall(&pulse).await, (Stall::Idle, 60));
    client.write_all(b"GET").await.unwrap();
    io.read_exact(&mut [0; 3]).await.unwrap();
    assert_eq!(stall(&pulse).await, (Stall::Head, 10));
    let busy = pulse.busy(false);
    assert!(tokio::time::timeout(IDLE * 9, stall(&pulse)).await.is_err());
    let sending = tokio::time::timeout(Duration::from_secs(20), io.write_all(&[0; 32]));
    assert!(sending.await.is_err());
    assert_eq!(stall(&pulse).await, (Stall::Answer, 40));
    client.read_exact(&mut [0; 16]).await.unwrap();
    io.write_all(&[0; 1]).await.unwrap();
    drop(busy);
    assert_eq!(stall(&pulse).await, (Stall::Rest, 1));
    assert_eq!(stall(&pulse).await, (Stall::Idle, 59));
}

#[tokio::test(start_paused = true)]
async fn a_connection_rests_only_between_requests() {
    let pulse = Pulse::new();
    let (mut client, io) = duplex(16);
    let mut io = Watched::http1(io, &pulse, Bytes::new());
    // none came yet
    assert_eq!(stall(&pulse).await, (Stall::Idle, 60));
    drop(pulse.busy(false));
    assert_eq!(stall(&pulse).await, (Stall::Rest, 1));
    assert_eq!(stall(&pulse).await, (Stall::Idle, 59));
    // answered before its body was there
    let busy = pulse.busy(true);
    let upload = pulse.upload();
    drop(busy);
    assert_eq!(stall(&pulse).await, (Stall::Idle, 60));
    upload.ended();
    assert_eq!(stall(&pulse).await.0, Stall::Rest);
    // another's end is told late
    drop(pulse.busy(true));
    upload.ended();
    assert_eq!(stall(&pulse).await, (Stall::Idle, 60));
    // a head has begun
    drop(pulse.busy(false));
    client.write_all(b"G").await.unwrap();
    io.read_exact(&mut [0]).await.unwrap();
    assert_eq!(stall(&pulse).await, (Stall::Head, 10));
    // an answer is not all out
    drop(pulse.busy(false));
    let sending = tokio::time::timeout(Duration::from_secs(20), io.write_all(&[0; 32]));
    assert!(sending.await.is_err());
    assert_eq!(stall(&pulse).await, (Stall::Answer, 40));
    client.read_exact(&mut [0; 16]).await.unwrap();
    io.write_all(&[0; 1]).await.unwrap();
    assert_eq!(stall(&pulse).await.0, Stall::Rest);
    // it is being closed
    drop(pulse.busy(true));
    let closing = tokio::time::timeout(Duration::from_secs(1), io.shutdown());
    assert!(closing.await.is_err());
    pulse.upload().ended();
    assert_eq!(stall(&pulse).await, (Stall::Idle, 59));
}

#[tokio::test(start_paused = true)]
async fn what_was_read_and_not_used_is_read_again() {
    let pulse = Pulse::new();
    let (mut client, io) = duplex(64);
    let mut io = Watched::http1(io, &pulse, Bytes::from_static(b"one"));
    io.put_back(b"zero ");
    assert!(pulse.is_in_head());
    poll_fn(|cx| io.poll_start(cx)).await;
    let mut all = Vec::new();
    client.write_all(b" two").await.unwrap();
    client.shutdown().await.unwrap();
    io.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"zero one two");
    // its end is there twice
    poll_fn(|cx| io.poll_start(cx)).await;
    assert_eq!(io.read(&mut [0]).await.unwrap(), 0);
}

/// Fails once, as a socket that was reset.
struct Reset(bool);

impl AsyncRead for Reset {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let failed = mem::replace(&mut self.0, true);
        Poll::Ready(if failed { Ok(()) } else { Err(io::ErrorKind::ConnectionReset.into()) })
    }
}

#[tokio::test]
async fn an_error_that_ends_a_rest_is_told_to_who_reads_next() {
    let mut io = Watched::http1(join(Reset(false), sink()), &Pulse::new(), Bytes::new());
    poll_fn(|cx| io.poll_start(cx)).await;
    assert_eq!(io.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(io.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_may_wait_for_an_upstream_but_not_for_its_client() {
    let began = Instant::now();
    let waiting = tokio::time::timeout(IDLE * 9, std::future::pending::<()>());
    assert_eq!(stream(async { waiting.await.unwrap_or_default() }, IDLE).await, Ok(()));
    assert_eq!(began.elapsed(), IDLE * 9);
    let handing = |deadline: Option<Duration>| async move {
        Watch::handed(deadline.map(|deadline| Instant::now() + deadline));
        std::future::pending().await
    };
    let (late, early) = ((IDLE.as_secs(), Stall::Answer), (IDLE.as_secs() / 2, Stall::Whole));
    for (deadline, ends) in [(None, late), (Some(IDLE * 9), late), (Some(IDLE / 2), early)] {
        let began = Instant::now();
        let ended = stream(handing(deadline), IDLE).await.unwrap_err();
        assert_eq!((began.elapsed().as_secs(), ended), ends);
    }
}
