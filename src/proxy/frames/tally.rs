//! What one connection's frames come to: how many of each kind it may still send, and what h2's answers tell of its
//! refusals.

use std::time::Duration;

use tokio::time::Instant;

use crate::metrics::Limit;
use crate::proxy::frame::{DATA, Frame, GOAWAY, HEADERS, RST_STREAM};
use crate::proxy::http2_error::{Ended, ErrorCode};

/// An allowance that was used up is whole again after this long.
const RENEWAL: Duration = Duration::from_secs(10);
/// What a frame with content allows besides it: a WINDOW_UPDATE for its stream and for its connection, and
/// a PING that measures.
const EARNED_BY_FRAME: usize = 3;
/// Some clients open their windows again for each 4 KiB that they took, so this leaves room twice over.
const BYTES_THAT_EARN: usize = 1024;

/// So many at once, and as many again within [`RENEWAL`], besides what is earned.
#[derive(Debug)]
struct Allowance {
    limit: Limit,
    max: usize,
    left: usize,
    renewed: Instant,
}

impl Allowance {
    fn new(limit: Limit, max: usize) -> Allowance {
        Allowance { limit, max, left: max, renewed: Instant::now() }
    }

    fn earn(&mut self, count: usize) {
        self.left = self.left.saturating_add(count).min(self.max);
    }

    fn spend(&mut self) -> Result<(), Limit> {
        // The clock is read only where there is need.
        if self.left == 0 {
            let since = self.renewed.elapsed().min(RENEWAL);
            self.earn(self.max * since.as_millis() as usize / RENEWAL.as_millis() as usize);
            if self.left > 0 {
                self.renewed = Instant::now();
            }
        }
        self.left = self.left.checked_sub(1).ok_or(self.limit)?;
        Ok(())
    }
}

/// What one connection's frames come to.
pub struct Tally {
    /// Frames that carry neither a request nor a body.
    control: Allowance,
    resets: Allowance,
    /// Streams whose answer has begun and not ended.
    answering: Vec<u32>,
    /// The highest that the client opened.
    pub last_stream: u32,
}

impl Tally {
    pub fn new(control_frames_max: usize, resets_max: usize) -> Tally {
        Tally {
            control: Allowance::new(Limit::ControlFramesPerConnectionMax, control_frames_max),
            resets: Allowance::new(Limit::ResetsPerConnectionMax, resets_max),
            answering: Vec::new(),
            last_stream: 0,
        }
    }

    pub fn received(&mut self, frame: &Frame<'_>) -> Result<(), Limit> {
        match frame.kind {
            HEADERS => {
                self.last_stream = self.last_stream.max(frame.stream);
                self.control.earn(EARNED_BY_FRAME);
            }
            DATA if frame.content_bytes() > 0 => self.carried(frame),
            DATA if frame.ends_stream() => {}
            RST_STREAM => {
                self.answering.retain(|stream| *stream != frame.stream);
                self.resets.spend()?;
            }
            _ => self.control.spend()?,
        }
        Ok(())
    }

    fn carried(&mut self, frame: &Frame<'_>) {
        self.control.earn(EARNED_BY_FRAME + frame.length / BYTES_THAT_EARN);
    }

    /// What it tells of a refusal by h2: what was ended and by which error, and the limit that was hit.
    pub fn sent(&mut self, frame: &Frame<'_>) -> (Option<(Ended, ErrorCode)>, Option<Limit>) {
        let told = match frame.kind {
            HEADERS if self.answering.contains(&frame.stream) => (None, None), // trailers
            HEADERS => {
                self.resets.earn(1);
                if !frame.ends_stream() {
                    self.answering.push(frame.stream);
                }
                let refused = frame.ends_stream() && is_status_alone(frame);
                (None, refused.then_some(Limit::HeaderBytesMax))
            }
            DATA => {
                self.carried(frame);
                (None, None)
            }
            RST_STREAM => {
                let code = frame.code(0);
                let refused = code == Some(ErrorCode::RefusedStream);
                (code.map(|code| (Ended::Stream, code)), refused.then_some(Limit::StreamsPerConnectionMax))
            }
            GOAWAY => {
                let code = frame.code(4);
                let words = frame.shown.get(8..).unwrap_or_default();
                (code.map(|code| (Ended::Connection, code)), code.and_then(|code| limit_of(code, words)))
            }
            _ => (None, None),
        };
        if frame.kind == RST_STREAM || matches!(frame.kind, HEADERS | DATA) && frame.ends_stream() {
            self.answering.retain(|stream| *stream != frame.stream);
        }
        told
    }
}

/// Whether a head has `:status` and nothing else: hyper dates all of its own, so it is h2's 431, of a request
/// that is over `header_bytes_max`. Either an index (RFC 7541 §6.1) or a literal by the index of `:status`.
fn is_status_alone(frame: &Frame<'_>) -> bool {
    match frame.shown {
        [_] => true,
        [0x48, length, ..] => frame.length == 2 + usize::from(length & 0x7f),
        _ => false,
    }
}

/// The limit of ours that h2 held a connection to, by the words that it says goodbye with.
fn limit_of(code: ErrorCode, words: &[u8]) -> Option<Limit> {
    match (code, words) {
        (ErrorCode::EnhanceYourCalm, b"too_many_resets" | b"too_many_internal_resets") => {
            Some(Limit::ResetsPerConnectionMax)
        }
        (ErrorCode::EnhanceYourCalm, b"too_many_continuations" | b"header_list_way_too_large")
        | (ErrorCode::CompressionError, _) => Some(Limit::HeaderBytesMax),
        (ErrorCode::EnhanceYourCalm, b"too_many_data_frames") => Some(Limit::ControlFramesPerConnectionMax),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::frame::END_STREAM;

    #[tokio::test(start_paused = true)]
    async fn an_allowance_comes_back_with_time_and_with_what_is_carried() {
        let mut allowance = Allowance::new(Limit::ResetsPerConnectionMax, 100);
        let spend = |allowance: &mut Allowance| (0..1000).take_while(|_| allowance.spend().is_ok()).count();
        assert_eq!(spend(&mut allowance), 100);
        tokio::time::advance(RENEWAL / 4).await;
        assert_eq!(spend(&mut allowance), 25);
        tokio::time::advance(RENEWAL * 9).await;
        assert_eq!(spend(&mut allowance), 100);
        allowance.earn(7);
        assert_eq!(spend(&mut allowance), 7);
        allowance.earn(1000);
        assert_eq!(spend(&mut allowance), 100);
        // half of one is kept until it is whole, however often it is asked for
        for spent in [0, 1, 0, 1] {
            tokio::time::advance(RENEWAL / 200).await;
            assert_eq!(spend(&mut allowance), spent);
        }
    }

    const PING: u8 = 6;

    fn frame(kind: u8, flags: u8, stream: u32, shown: &[u8]) -> Frame<'_> {
        Frame { kind, flags, stream, length: shown.len(), shown }
    }

    /// How many of this frame are taken before the limit.
    fn taken(tally: &mut Tally, kind: u8) -> usize {
        (0..100).take_while(|_| tally.received(&frame(kind, 0, 1, &[0; 8])).is_ok()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn control_frames_are_earned_by_what_carries_something() {
        let mut tally = Tally::new(10, 2);
        assert_eq!(taken(&mut tally, PING), 10);
        let bytes = [0; 4000];
        let mut seen = 0;
        for (received, earned) in [
            (frame(HEADERS, 0, 5, &[]), 3),
            (frame(DATA, 0, 1, &bytes[..1]), 3),
            (frame(DATA, 0, 1, &bytes[..1024]), 4),
            (frame(DATA, END_STREAM, 1, &bytes), 6),
            (frame(DATA, END_STREAM, 1, &[]), 0),
            (frame(DATA, END_STREAM | 8, 1, &[3, 0, 0, 0]), 0),
        ] {
            assert_eq!(tally.received(&received), Ok(()));
            assert_eq!(taken(&mut tally, PING), earned, "{seen}");
            seen += 1;
        }
        assert_eq!(seen, 6);
        let nothing = frame(DATA, 0, 1, &[]);
        assert_eq!(tally.received(&nothing), Err(Limit::ControlFramesPerConnectionMax));
        tally.sent(&frame(DATA, 0, 1, &bytes[..2048]));
        assert_eq!(taken(&mut tally, PING), 5);
        assert_eq!(tally.received(&frame(HEADERS, 0, 3, &[])), Ok(()));
        assert_eq!(tally.last_stream, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reset_is_earned_by_each_answer_once() {
        let mut tally = Tally::new(10, 2);
        assert_eq!(taken(&mut tally, RST_STREAM), 2);
        let reset = frame(RST_STREAM, 0, 1, &[0; 4]);
        assert_eq!(tally.received(&reset), Err(Limit::ResetsPerConnectionMax));
        let head = |stream| frame(HEADERS, 0, stream, &[0; 9]);
        let end = |kind, stream| frame(kind, END_STREAM, stream, &[0; 9]);
        let mut seen = 0;
        for (sent, earned) in [
            (head(3), 1),
            (frame(DATA, 0, 3, &[0]), 0),
            (head(5), 1),
            (end(DATA, 5), 0),
            (end(HEADERS, 3), 0), // trailers
            (head(3), 1),         // which ended it
            (head(5), 1),
            (frame(RST_STREAM, 0, 5, &[0; 4]), 0),
            (head(5), 1),
            (end(HEADERS, 7), 1),
            (end(PING, 3), 0),
            (head(3), 0),
        ] {
            tally.sent(&sent);
            assert_eq!(taken(&mut tally, RST_STREAM), earned, "{seen}");
            seen += 1;
        }
        assert_eq!(seen, 12);
        let _ = tally.received(&frame(RST_STREAM, 0, 3, &[0; 4]));
        tally.sent(&head(3));
        assert_eq!(taken(&mut tally, RST_STREAM), 1, "its client had reset it");
    }

    #[tokio::test(start_paused = true)]
    async fn what_h2_refuses_is_told_by_what_it_sends() {
        let goaway = |code: u8, words: &[u8]| [&[0, 0, 0, 1, 0, 0, 0, code], words].concat();
        let by = |ended, code| Some((ended, code));
        let (resets, control, head) = (
            Some(Limit::ResetsPerConnectionMax),
            Some(Limit::ControlFramesPerConnectionMax),
            Some(Limit::HeaderBytesMax),
        );
        let calm = by(Ended::Connection, ErrorCode::EnhanceYourCalm);
        let mut seen = 0;
        for (kind, flags, payload, told) in [
            (HEADERS, END_STREAM, vec![0xbe], (None, head)),
            (HEADERS, END_STREAM, vec![0x88, 0xbe], (None, None)),
            (HEADERS, 0, vec![0xbe], (None, None)),
            (DATA, END_STREAM, vec![0xbe], (None, None)),
            (PING, 0, vec![0, 0, 0, 7, 0, 0, 0, 7], (None, None)),
            (RST_STREAM, 0, vec![0, 0, 0, 0], (None, None)),
            (RST_STREAM, 0, vec![0, 0, 0, 8], (by(Ended::Stream, ErrorCode::Cancel), None)),
            (
                RST_STREAM,
                0,
                vec![0, 0, 0, 7],
                (by(Ended::Stream, ErrorCode::RefusedStream), Some(Limit::StreamsPerConnectionMax)),
            ),
            (GOAWAY, 0, goaway(0, b""), (None, None)),
            (GOAWAY, 0, goaway(1, b"x"), (by(Ended::Connection, ErrorCode::ProtocolError), None)),
            (GOAWAY, 0, goaway(9, b""), (by(Ended::Connection, ErrorCode::CompressionError), head)),
            (GOAWAY, 0, goaway(11, b"too_many_resets"), (calm, resets)),
            (GOAWAY, 0, goaway(11, b"too_many_internal_resets"), (calm, resets)),
            (GOAWAY, 0, goaway(11, b"too_many_continuations"), (calm, head)),
            (GOAWAY, 0, goaway(11, b"header_list_way_too_large"), (calm, head)),
            (GOAWAY, 0, goaway(11, b"too_many_data_frames"), (calm, control)),
            (GOAWAY, 0, goaway(11, b"something else"), (calm, None)),
        ] {
            let mut tally = Tally::new(10, 2);
            assert_eq!(tally.sent(&frame(kind, flags, 1, &payload)), told, "{kind} {payload:?}");
            seen += 1;
        }
        assert_eq!(seen, 17);
    }

    #[test]
    fn a_status_alone_is_h2_s() {
        let alone = |length, shown| {
            is_status_alone(&Frame { kind: HEADERS, flags: END_STREAM, stream: 1, length, shown })
        };
        assert!(alone(5, &[0x48, 0x83, 1, 2, 3]));
        assert!(alone(1, &[0xbe]));
        assert!(!alone(2, &[0x88, 0xbe]));
        assert!(!alone(6, &[0x48, 0x83, 1, 2, 3, 0xbe]));
    }
}
