//! A request's place in a trace: the `traceparent` of W3C Trace Context.

use http::HeaderMap;
use http::header::HeaderName;

pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The client's `traceparent`, if it is one by W3C Trace Context §3.2 (version 00).
pub fn given_traceparent(headers: &HeaderMap) -> Option<&str> {
    let mut given = headers.get_all(TRACEPARENT).iter();
    let (Some(value), None) = (given.next(), given.next()) else { return None };
    value.to_str().ok().filter(|text| is_traceparent(text))
}

/// A `traceparent` for a request that came without one; neither id may be zero.
pub fn new_traceparent(trace: u128, span: u64) -> String {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    let (trace, span) = (trace.max(1).to_be_bytes(), span.max(1).to_be_bytes());
    for (place, id) in [(3..35, &trace[..]), (36..52, &span[..])] {
        // It fails for a length that is not the id's.
        let _ = hex::encode_to_slice(id, &mut text[place]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn is_traceparent(text: &str) -> bool {
    let mut parts = text.split('-');
    let mut next = || parts.next();
    let hex = |part: &str, len: usize| {
        part.len() == len && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let zero = |part: &str| part.bytes().all(|b| b == b'0');
    matches!((next(), next(), next(), next(), next()), (Some("00"), Some(trace), Some(span), Some(flags), None)
        if hex(trace, 32) && !zero(trace) && hex(span, 16) && !zero(span) && hex(flags, 2))
}
