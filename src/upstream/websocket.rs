//! The frames of a WebSocket (RFC 6455 §5.2), as far as a tunnel looks at them: where each ends, so that a last one
//! of ours can stand behind it.

/// What ends a tunnel, if its frames allow: a code of RFC 6455 §7.4.1 with a short reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close {
    pub code: u16,
    /// At most 123 bytes.
    pub reason: &'static str,
}

/// Where in the frames of one direction its bytes stand.
#[derive(Clone, Debug, Default)]
pub struct Frames {
    head: [u8; HEAD_BYTES_MAX],
    head_bytes: usize,
    payload_left: u64,
    /// A Close went by; nothing follows one.
    closed: bool,
}

/// Two bytes, a length of eight, a masking key.
const HEAD_BYTES_MAX: usize = 14;
const MASKED: u8 = 0x80;
const FINAL_CLOSE: u8 = 0x88;
const OPCODE: u8 = 0x0f;
const CLOSE: u8 = 0x08;
/// What a control frame holds (RFC 6455 §5.5), without the code.
const REASON_BYTES_MAX: usize = 123;

impl Close {
    /// 1008: the endpoint has received a message that violates its policy, and whatever no other code fits.
    pub const POLICY_VIOLATION: u16 = 1008;

    /// The frame; a client's is masked (RFC 6455 §5.3).
    pub fn frame(&self, mask: Option<[u8; 4]>) -> Vec<u8> {
        let reason = self.reason.as_bytes();
        let reason = &reason[..reason.len().min(REASON_BYTES_MAX)];
        let mut frame = vec![FINAL_CLOSE, (2 + reason.len()) as u8];
        let payload = self.code.to_be_bytes().into_iter().chain(reason.iter().copied());
        match mask {
            None => frame.extend(payload),
            Some(mask) => {
                frame[1] |= MASKED;
                frame.extend(mask);
                frame.extend(payload.zip(mask.into_iter().cycle()).map(|(byte, key)| byte ^ key));
            }
        }
        frame
    }
}

impl Frames {
    /// More of them, in whatever pieces.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, rest)) = bytes.split_first() {
            if self.payload_left > 0 {
                let passed = usize::try_from(self.payload_left).unwrap_or(usize::MAX).min(bytes.len());
                self.payload_left -= passed as u64;
                bytes = &bytes[passed..];
                continue;
            }
            self.head[self.head_bytes] = byte;
            self.head_bytes += 1;
            bytes = rest;
            if self.head_bytes == self.head_length() {
                self.payload_left = self.payload_length();
                self.closed |= self.head[0] & OPCODE == CLOSE;
                self.head_bytes = 0;
            }
        }
    }

    /// Whether a frame may follow.
    pub fn may_follow(&self) -> bool {
        self.head_bytes == 0 && self.payload_left == 0 && !self.closed
    }

    /// As far as it can be told; nothing is that has fewer than two bytes.
    fn head_length(&self) -> usize {
        let mask = if self.head[1] & MASKED != 0 { 4 } else { 0 };
        let length = match self.head[1] & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if self.head_bytes < 2 { HEAD_BYTES_MAX } else { 2 + length + mask }
    }

    fn payload_length(&self) -> u64 {
        let [_, second, a, b, c, d, e, f, g, h, ..] = self.head;
        match second & !MASKED {
            126 => u16::from_be_bytes([a, b]).into(),
            127 => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            length => length.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(opcode: u8, masked: bool, payload: usize) -> Vec<u8> {
        let mask = if masked { MASKED } else { 0 };
        let mut frame = match payload {
            0..126 => vec![opcode, mask | payload as u8],
            126..65_536 => [&[opcode, mask | 126][..], &(payload as u16).to_be_bytes()].concat(),
            _ => [&[opcode, mask | 127][..], &(payload as u64).to_be_bytes()].concat(),
        };
        frame.resize(frame.len() + if masked { 4 } else { 0 } + payload, 0x88);
        frame
    }

    #[test]
    fn the_ends_of_frames_are_seen_however_they_are_cut() {
        let mut cases = 0;
        for masked in [false, true] {
            let lengths = [0, 1, 125, 126, 300, 65_535, 65_536, 70_000, 0];
            // text, a fragment and its end, with RSV1 set as by an extension, pings between
            let opcodes = [0x81, 0x01, 0x00, 0x80, 0xc1, 0x89, 0x82, 0x8a, 0x81];
            let frames: Vec<_> = opcodes.into_iter().zip(lengths).map(|(o, l)| frame(o, masked, l)).collect();
            for piece in [1, 2, 3, 7, 100, 16_384] {
                let mut seen = Frames::default();
                for frame in &frames {
                    assert!(seen.may_follow());
                    let (last, before) = frame.split_last().unwrap();
                    for piece in before.chunks(piece) {
                        seen.pass(piece);
                        assert!(!seen.may_follow(), "within {} of {masked}", frame.len());
                    }
                    seen.pass(&[*last]);
                    cases += 1;
                }
                assert!(seen.may_follow());
                seen.pass(&frames.concat());
                assert!(seen.may_follow());
                seen.pass(&frame(FINAL_CLOSE, masked, 2));
                assert!(!seen.may_follow(), "nothing follows a Close");
            }
        }
        assert_eq!(cases, 2 * 6 * 9);
    }

    #[test]
    fn a_length_that_is_none_never_ends() {
        let mut seen = Frames::default();
        seen.pass(&[0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        seen.pass(&[0; 1000]);
        assert!(!seen.may_follow());
    }

    #[test]
    fn a_close_says_its_code_and_reason() {
        let close = Close { code: Close::POLICY_VIOLATION, reason: "token_expired" };
        let plain = close.frame(None);
        assert_eq!(plain, [&[0x88, 15, 0x03, 0xf0][..], b"token_expired"].concat());
        let masked = close.frame(Some([1, 2, 3, 4]));
        assert_eq!(masked[..6], [0x88, 0x80 | 15, 1, 2, 3, 4]);
        let unmasked: Vec<u8> =
            masked[6..].iter().zip([1, 2, 3, 4].into_iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        assert_eq!(unmasked, plain[2..]);
        let long = Close {
            code: 1008,
            reason: "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
        };
        assert_eq!(long.frame(None).len(), 2 + 125);
    }
}
