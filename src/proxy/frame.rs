//! HTTP/2 frames as they pass: their heads, and as much of a payload as is looked at (RFC 9113 §4.1).

use super::http2_error::ErrorCode;

const HEAD_BYTES: usize = 9;
/// A GOAWAY with the words that h2 puts into it.
const SHOWN_BYTES: usize = 48;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const GOAWAY: u8 = 7;
pub const END_STREAM: u8 = 1;
const PADDED: u8 = 8;

/// One frame.
pub struct Frame<'a> {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub length: usize,
    /// Its payload's start.
    pub shown: &'a [u8],
}

impl Frame<'_> {
    pub fn ends_stream(&self) -> bool {
        self.flags & END_STREAM != 0
    }

    /// Of DATA, without its padding (RFC 9113 §6.1).
    pub fn content_bytes(&self) -> usize {
        match self.shown {
            [padding, ..] if self.flags & PADDED != 0 => {
                self.length.saturating_sub(1 + usize::from(*padding))
            }
            _ => self.length,
        }
    }

    /// The error code that stands `at` these bytes of the payload.
    pub fn code(&self, at: usize) -> Option<ErrorCode> {
        let bytes = self.shown.get(at..at + 4)?.try_into().ok()?;
        ErrorCode::read(u32::from_be_bytes(bytes))
    }
}

/// Cuts bytes into frames as they pass, in whatever pieces they come.
#[derive(Debug)]
pub struct Cutter {
    /// A head, and what is shown of its payload.
    start: [u8; HEAD_BYTES + SHOWN_BYTES],
    seen_bytes: usize,
    /// What is still to come of a payload that was shown.
    rest_bytes: usize,
}

impl Cutter {
    pub fn after(preface_bytes: usize) -> Cutter {
        Cutter { start: [0; _], seen_bytes: 0, rest_bytes: preface_bytes }
    }

    pub fn is_between_frames(&self) -> bool {
        self.seen_bytes == 0 && self.rest_bytes == 0
    }

    fn length(&self) -> usize {
        let [a, b, c, ..] = self.start;
        usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)
    }

    /// How much is wanted of this frame before it is told.
    fn wanted_bytes(&self) -> usize {
        if self.seen_bytes < HEAD_BYTES { HEAD_BYTES } else { HEAD_BYTES + self.length().min(SHOWN_BYTES) }
    }

    pub fn cut<E>(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(&Frame<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            if self.rest_bytes > 0 {
                let passed = self.rest_bytes.min(bytes.len());
                self.rest_bytes -= passed;
                bytes = bytes.get(passed..).unwrap_or_default();
                continue;
            }
            let taken = (self.wanted_bytes() - self.seen_bytes).min(bytes.len());
            let (now, later) = bytes.split_at(taken);
            if let Some(place) = self.start.get_mut(self.seen_bytes..self.seen_bytes + taken) {
                place.copy_from_slice(now);
            }
            self.seen_bytes += taken;
            bytes = later;
            if self.seen_bytes >= HEAD_BYTES && self.seen_bytes == self.wanted_bytes() {
                let length = self.length();
                self.rest_bytes = length - length.min(SHOWN_BYTES);
                let seen = std::mem::take(&mut self.seen_bytes);
                let [_, _, _, kind, flags, s, t, u, v, ..] = self.start;
                let stream = u32::from_be_bytes([s & 0x7f, t, u, v]);
                let shown = self.start.get(HEAD_BYTES..seen).unwrap_or_default();
                each(&Frame { kind, flags, stream, length, shown })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, 0], &stream.to_be_bytes(), payload].concat()
    }

    #[test]
    fn frames_are_told_whole_however_they_are_cut() {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        for (kind, stream, length) in
            [(4, 0, 0), (1, 0x8000_0001, 40), (0, 1, 5000), (3, 1, 4), (0, 1, 70_000), (7, 0, 48)]
        {
            bytes.extend(bytes_of(kind, stream, &vec![kind; length]));
        }
        for piece in [1, 2, 9, 10, 100, bytes.len()] {
            let mut cutter = Cutter::after(24);
            let mut told = Vec::new();
            for bytes in bytes.chunks(piece) {
                let each = |frame: &Frame<'_>| {
                    assert!(frame.shown.iter().all(|byte| *byte == frame.kind));
                    told.push((frame.kind, frame.stream, frame.length, frame.shown.len()));
                    Ok::<_, ()>(())
                };
                cutter.cut(bytes, each).unwrap();
            }
            let expected = [
                (4, 0, 0, 0),
                (1, 1, 40, 40),
                (0, 1, 5000, 48),
                (3, 1, 4, 4),
                (0, 1, 70_000, 48),
                (7, 0, 48, 48),
            ];
            assert_eq!(told, expected, "in pieces of {piece}");
            assert!(cutter.is_between_frames());
        }
        // only where the next byte begins one
        let mut cutter = Cutter::after(0);
        let frame = bytes_of(0, 1, &[0; 60]);
        let between = frame.iter().map(|byte| {
            cutter.cut(&[*byte], |_| Ok::<_, ()>(())).unwrap();
            cutter.is_between_frames()
        });
        assert_eq!(between.collect::<Vec<_>>(), [vec![false; 68], vec![true]].concat());
    }

    #[test]
    fn padding_is_no_content() {
        let data = |flags, shown| Frame { kind: DATA, flags, stream: 1, length: 4, shown }.content_bytes();
        assert_eq!(data(0, &[3, 0, 0, 0]), 4);
        assert_eq!(data(PADDED, &[3, 0, 0, 0]), 0);
        assert_eq!(data(PADDED, &[1, 0, 0, 0]), 2);
    }
}
