//! Frames as words, for the corpus in `tests/heads/http2`.
//!
//! ```text
//! [N *] KIND [@STREAM] [FLAG …] [: PAYLOAD]
//! EACH N: LINE [| LINE …]
//! ```
//!
//! EACH has its lines once for each of N streams, which is `@own` where a kind has another. KIND is a frame's name, `FRAME 0x2a` for one without, or `RAW` for bytes without a frame's head. The
//! stream is 1, or 0 where a kind wants it. A flag is `end`, `ack`, `more` (no END_HEADERS), `padded`,
//! `priority`, `flag=N` for bits without a name, or `length=N` for a head that says another length. A payload is a list of terms, with `; `
//! between them: `get` or `post` (the pseudo-header fields of a sound request), `held` or `upload`
//! (the same, not answered before the upstream is told to), `NAME=VALUE` (a field),
//! `hex …`, `text …`, `zeros N`, `u8 N`, `u16 N`, `u32 N`, each also as `N * TERM`. In names and values `\r`, `\n`, `\0`
//! and `\xNN` are what they are elsewhere, and `HOST` is the proxy's name.

use crate::world::frames::*;
use crate::world::proxy::HOST;

/// The path of `get` and `post`.
pub const PATH: &str = "/orders/1";

pub fn bytes(line: &str) -> Vec<u8> {
    parse(line, 1).unwrap_or_else(|what| panic!("{what}: {line}"))
}

/// `own` is the stream of a frame that does not say one.
fn parse(line: &str, own: u32) -> Result<Vec<u8>, String> {
    if let Some((count, lines)) = line.strip_prefix("EACH ").and_then(|each| each.split_once(": ")) {
        let frames = |number| lines.split(" | ").map(move |line| parse(line, 2 * number + 1));
        return Ok((0..number(count)?).flat_map(frames).collect::<Result<Vec<_>, _>>()?.concat());
    }
    let (times, line) = counted(line);
    if times != 1 {
        return Ok(parse(line, own)?.repeat(times));
    }
    let (head, terms) = line.split_once(": ").map_or((line, ""), |(head, terms)| (head, terms));
    let mut words = head.split(' ');
    let name = words.next().unwrap_or_default();
    let (kind, mut stream) = match name {
        "RAW" => return payload(terms),
        "FRAME" => (hex(words.next().unwrap_or_default().trim_start_matches("0x"))?[0], own),
        "DATA" => (DATA, own),
        "HEADERS" => (HEADERS, own),
        "PRIORITY" => (PRIORITY, own),
        "RST_STREAM" => (RST_STREAM, own),
        "SETTINGS" => (SETTINGS, 0),
        "PUSH_PROMISE" => (PUSH_PROMISE, own),
        "PING" => (PING, 0),
        "GOAWAY" => (GOAWAY, 0),
        "WINDOW_UPDATE" => (WINDOW_UPDATE, 0),
        "CONTINUATION" => (CONTINUATION, own),
        other => return Err(format!("no frame is called {other}")),
    };
    let mut flags = if matches!(kind, HEADERS | PUSH_PROMISE | CONTINUATION) { END_HEADERS } else { 0 };
    let payload = payload(terms)?;
    let mut length = payload.len();
    for word in words {
        match word {
            "end" => flags |= END_STREAM,
            "ack" => flags |= ACK,
            "more" => flags &= !END_HEADERS,
            "padded" => flags |= PADDED,
            "priority" => flags |= WITH_PRIORITY,
            other => match other.split_at_checked(1) {
                Some(("@", "own")) => stream = own,
                Some(("@", id)) => stream = number(id)?,
                _ => match other.split_once('=') {
                    Some(("flag", bits)) => {
                        flags |= u8::try_from(number(bits)?).map_err(|_| "too many bits")?
                    }
                    Some(("length", other)) => length = number(other)? as usize,
                    _ => return Err(format!("what is {other}")),
                },
            },
        }
    }
    Ok([Frame::head(length, kind, flags, stream), payload].concat())
}

fn payload(terms: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    for term in terms.split("; ").filter(|term| !term.is_empty()) {
        let (times, term) = counted(term);
        bytes.extend(one(term)?.repeat(times));
    }
    Ok(bytes)
}

/// `N * WHAT`, or once.
fn counted(text: &str) -> (usize, &str) {
    let counted = text.split_once(" * ").and_then(|(times, what)| Some((times.parse().ok()?, what)));
    counted.unwrap_or((1, text))
}

fn one(term: &str) -> Result<Vec<u8>, String> {
    let term = &term.replace("HOST", HOST);
    let (word, rest) = term.split_once(' ').unwrap_or((term, ""));
    Ok(match word {
        "get" => request("GET", HOST, PATH),
        "post" => request("POST", HOST, PATH),
        "held" => request("GET", HOST, "/?hold"),
        "upload" => request("POST", HOST, "/?hold"),
        "hex" => hex(&rest.replace(' ', ""))?,
        "text" => unescaped(rest)?,
        "zeros" => vec![0; number(rest)? as usize],
        "u8" => vec![number(rest)?.try_into().map_err(|_| "too large")?],
        "u16" => u16::try_from(number(rest)?).map_err(|_| "too large")?.to_be_bytes().to_vec(),
        "u32" => number(rest)?.to_be_bytes().to_vec(),
        _ => {
            let (name, value) = term.split_once('=').ok_or(format!("no term: {term}"))?;
            field(&unescaped(name)?, &unescaped(value)?)
        }
    })
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("no number: {text}"))
}

fn hex(text: &str) -> Result<Vec<u8>, String> {
    let pair = |at| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    (0..text.len()).step_by(2).map(|at| pair(at).ok_or(format!("not hex: {text}"))).collect()
}

fn unescaped(text: &str) -> Result<Vec<u8>, String> {
    let mut pieces = text.split('\\');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        let (byte, used) = match piece.as_bytes() {
            [b'r', ..] => (b'\r', 1),
            [b'n', ..] => (b'\n', 1),
            [b't', ..] => (b'\t', 1),
            [b'0', ..] => (0, 1),
            [b'x', ..] => (hex(piece.get(1..3).ok_or("half a byte")?)?[0], 3),
            _ => return Err(format!("no escape: \\{piece}")),
        };
        bytes.push(byte);
        bytes.extend(&piece.as_bytes()[used..]);
    }
    Ok(bytes)
}

#[test]
fn words_become_frames() {
    let head = |length, kind, flags, stream| Frame::head(length, kind, flags, stream);
    for (line, frame) in [
        ("PING ack: zeros 8", [head(8, 6, 1, 0), vec![0; 8]].concat()),
        ("DATA @3 end padded: u8 2; text ab; zeros 2", [head(5, 0, 9, 3), b"\x02ab\0\0".to_vec()].concat()),
        ("HEADERS more: x=\\r\\x7f", [head(6, 1, 0, 1), b"\0\x01x\x02\r\x7f".to_vec()].concat()),
        ("SETTINGS length=7: u16 4; u32 256", [head(7, 4, 0, 0), vec![0, 4, 0, 0, 1, 0]].concat()),
        ("FRAME 0x2a: 2 * hex 0a0b", [head(4, 42, 0, 1), vec![10, 11, 10, 11]].concat()),
        ("RAW: text x", b"x".to_vec()),
    ] {
        assert_eq!(bytes(line), frame, "{line}");
    }
    for nonsense in ["PONG", "PING @x: zeros 8", "PING: hex 0", "DATA: text \\q", "DATA far"] {
        assert!(parse(nonsense, 1).is_err(), "{nonsense}");
    }
}
