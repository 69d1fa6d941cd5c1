//! HTTP/2 as frames (RFC 9113 §4.1), for what no client library would send. Header blocks are written by
//! hand, as literals without indexing (RFC 7541 §6.2.2), so nothing here has a state.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::certificates::{Certificates, Who};
use super::client::{Protocol, secure_over};
use super::{Error, soon};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Of SETTINGS and PING; of DATA and HEADERS the same bit is `END_STREAM`.
pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const WITH_PRIORITY: u8 = 32;

/// RFC 9113 §7, by number.
pub const ERRORS: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn bytes(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        Frame::head(payload.len(), kind, flags, stream).into_iter().chain(payload.iter().copied()).collect()
    }

    /// The nine bytes before a payload.
    pub fn head(length: usize, kind: u8, flags: u8, stream: u32) -> Vec<u8> {
        let length = u32::try_from(length).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat()
    }

    /// The error of RST_STREAM or GOAWAY.
    pub fn error(&self) -> &'static str {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        ERRORS[usize::from(self.payload[at + 3])]
    }

    /// The status that a response's header block begins with, as h2 encodes it: by the static table
    /// (RFC 7541, appendix A), or as a literal with Huffman's code.
    pub fn status(&self) -> u16 {
        assert_eq!(self.kind, HEADERS);
        // changes of the table's size (RFC 7541 §6.3) may stand before it
        let changes = self.payload.iter().take_while(|byte| *byte & 0xe0 == 0x20).count();
        match self.payload[changes..] {
            [indexed @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
            [0x48, length, ref text @ ..] if length & 0x80 != 0 => digits(text, 3),
            [0x48, 3, ref text @ ..] => std::str::from_utf8(&text[..3]).unwrap().parse().unwrap(),
            _ => panic!("a header block that begins otherwise: {:02x?}", self.payload),
        }
    }
}

/// A number in Huffman's code, of which it is all that is needed here (RFC 7541, appendix B).
fn digits(text: &[u8], count: usize) -> u16 {
    let bit = |at: usize| u16::from(text[at / 8] >> (7 - at % 8) & 1);
    let (mut at, mut number) = (0, 0);
    for _ in 0..count {
        let mut take = |bits: usize| {
            at += bits;
            (at - bits..at).fold(0, |code, at| code << 1 | bit(at))
        };
        let code = take(5);
        // 0 to 2 have five bits, 3 to 9 have six
        number = number * 10 + if code < 3 { code } else { (code << 1 | take(1)) - 0b01_1001 + 3 };
    }
    number
}

/// An integer with a prefix of seven bits (RFC 7541 §5.1).
pub fn integer(value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let Some(mut rest) = value.checked_sub(127) else { return vec![value.try_into().unwrap()] };
    bytes.push(127);
    while rest >= 128 {
        bytes.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    bytes.push(rest.try_into().unwrap());
    bytes
}

/// A field as a literal without indexing and with a new name.
pub fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0], &integer(name.len())[..], name, &integer(value.len()), value].concat()
}

/// The pseudo-header fields of a sound request.
pub fn request(method: &str, authority: &str, path: &str) -> Vec<u8> {
    let fields = [(":method", method), (":scheme", "https"), (":authority", authority), (":path", path)];
    fields.iter().flat_map(|(name, value)| field(name.as_bytes(), value.as_bytes())).collect()
}

/// One connection, with ALPN `h2`; nothing is sent or answered on it by itself.
pub struct Frames {
    pub reader: Reader,
    pub writer: Writer,
}

pub struct Writer(WriteHalf<TlsStream<TcpStream>>);

pub struct Reader {
    stream: ReadHalf<TlsStream<TcpStream>>,
    read: Vec<u8>,
}

/// How `who` connects to speak HTTP/2.
pub fn h2_config(certificates: &Certificates, who: Who) -> Arc<ClientConfig> {
    let mut config = certificates.client_config(who);
    config.alpn_protocols = vec![Protocol::H2.alpn()];
    Arc::new(config)
}

impl Frames {
    pub async fn tls(address: SocketAddr, name: &str, config: Arc<ClientConfig>) -> Result<Frames, Error> {
        Frames::over(TcpStream::connect(address).await?, name, config).await
    }

    pub async fn over(stream: TcpStream, name: &str, config: Arc<ClientConfig>) -> Result<Frames, Error> {
        let (reader, writer) = tokio::io::split(secure_over(stream, name, config).await?);
        Ok(Frames { reader: Reader { stream: reader, read: Vec::new() }, writer: Writer(writer) })
    }

    /// Sends the preface with these settings, and nothing else.
    pub async fn open(&mut self, settings: &[u8]) -> io::Result<()> {
        self.writer.send(&[PREFACE, &Frame::bytes(SETTINGS, 0, 0, settings)].concat()).await
    }
}

impl Writer {
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await?;
        self.0.flush().await
    }
}

impl Reader {
    /// The next frame; nothing where the connection ends, cleanly or not.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let [a, b, c, kind, flags, s, t, u, v, ref rest @ ..] = self.read[..] {
                let length = u32::from_be_bytes([0, a, b, c]) as usize;
                if rest.len() >= length {
                    let payload = rest[..length].to_vec();
                    self.read.drain(..9 + length);
                    return Some(Frame { kind, flags, stream: u32::from_be_bytes([s, t, u, v]), payload });
                }
            }
            match soon("the next frame", self.stream.read_buf(&mut self.read)).await {
                Ok(1..) => {}
                _ => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_statuses_are_coded_as_rfc_7541_says() {
        assert_eq!(integer(10), [10]);
        assert_eq!(integer(127), [127, 0]);
        assert_eq!(integer(1337 + 96), [127, 154, 10]); // §C.1.2 with a longer prefix
        let status =
            |payload: &[u8]| Frame { kind: HEADERS, flags: 0, stream: 1, payload: payload.to_vec() }.status();
        assert_eq!(status(&[0x88]), 200);
        assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), 302); // §C.6.1
        assert_eq!(status(&[0x48, 3, b'4', b'3', b'1']), 431);
    }
}
