//! The client's address, and how it spoke to the hop in front.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

use super::certificate::only;
use super::{KnownBy, TrustedHop};
use crate::audit::Reason;
use crate::proxy::refusal::Refusal;

pub const FORWARDED_FOR: &str = "x-forwarded-for";
pub const FORWARDED_PROTO: &str = "x-forwarded-proto";

/// The client of a trusted hop: the last address in `X-Forwarded-For` that is not a hop's own, for each hop appends
/// where it was asked from, and what stands further to the left is only said by the client. `None` if the hop does
/// not tell: its own address is nobody's who asks.
pub fn client_address(hops: &[TrustedHop], headers: &HeaderMap) -> Result<Option<IpAddr>, Refusal> {
    let Some(told) = only(headers, FORWARDED_FOR)? else { return Ok(None) };
    let unreadable = || Refusal::of(Reason::RequestMalformed).because("no address in `x-forwarded-for`");
    let mut last = None;
    for text in told.to_str().map_err(|_| unreadable())?.rsplit(',') {
        let client = address(text.trim_matches([' ', '\t'])).ok_or_else(unreadable)?;
        last = Some(client);
        let is_hop = |hop: &TrustedHop| match &hop.known_by {
            KnownBy::Address(ranges) => ranges.iter().any(|range| range.contains(&client)),
            KnownBy::SpiffeId(_) => false,
        };
        if !hops.iter().any(is_hop) {
            break;
        }
    }
    Ok(last)
}

/// Whether the client spoke TLS, if a trusted hop says so clearly.
pub fn spoke_tls(headers: &HeaderMap) -> Option<bool> {
    match only(headers, FORWARDED_PROTO).ok()??.as_bytes() {
        b"https" => Some(true),
        b"http" => Some(false),
        _ => None,
    }
}

/// With or without a port, as load balancers are told to write it.
fn address(text: &str) -> Option<IpAddr> {
    let in_brackets = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let alone = in_brackets.unwrap_or(text).parse::<IpAddr>().ok();
    let address = alone.or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))?;
    Some(address.to_canonical())
}
