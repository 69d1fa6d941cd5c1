//! The one place where headers that speak of identity, origin or framing are stripped, and then set.
//!
//! Every request that is forwarded passes [`for_upstream`], whatever its route; so no spelling of a
//! client's `x-auth-subject` can reach an upstream, also where nothing is set in its place. Names with
//! characters other than `[A-Za-z0-9-]` were refused or dropped before, so there are no aliases left.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::BytesMut;
use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, COOKIE, FORWARDED, HOST, HeaderName, HeaderValue, TE};

use smallvec::SmallVec;

use super::normalize::{connection_tokens, is_plain_name};
use crate::identity::{Caller, Name, Peer, PeerName, SpiffeId};

const SERVICE: HeaderName = HeaderName::from_static("x-auth-service");
const ISSUER: HeaderName = HeaderName::from_static("x-auth-issuer");
const SUBJECT: HeaderName = HeaderName::from_static("x-auth-subject");
const CLIENT: HeaderName = HeaderName::from_static("x-auth-client");
const ACTOR: HeaderName = HeaderName::from_static("x-auth-actor");
const ROLES: HeaderName = HeaderName::from_static("x-auth-roles");
const SCOPES: HeaderName = HeaderName::from_static("x-auth-scopes");
const DECISION: HeaderName = HeaderName::from_static("x-auth-decision");
const ENFORCED: HeaderName = HeaderName::from_static("x-auth-enforced");
const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Starts of names that only this proxy, or a hop in front of it that it trusts, may use.
const RESERVED_STARTS: [&str; 13] = [
    "x-auth-",
    "x-forwarded-",
    "x-original-",
    "x-envoy-",
    "x-ssl-client-",
    "x-webauth-",
    "x-amzn-oidc-",
    "x-amzn-mtls-",
    "x-goog-authenticated-user-",
    "x-goog-iap-",
    "x-ms-client-principal",
    "cf-access-",
    "tailscale-user-",
];

/// Names that some upstream believes to come from its proxy: who the client is, or what it asked for.
const RESERVED: [&str; 26] = [
    "forwarded",
    "forwarded-for",
    "x-forwarded",
    "remote-user",
    "remote-groups",
    "remote-email",
    "remote-name",
    "x-remote-user",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "fastly-client-ip",
    "x-azure-clientip",
    "x-azure-socketip",
    "client-cert",
    "client-cert-chain",
    "x-client-cert",
    "x-spiffe-id",
    "x-request-id",
    "x-rewrite-url",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
];

/// Headers of one hop (RFC 9110 §7.6.1), and httpoxy's. `Trailer` stays: it announces what comes.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "transfer-encoding",
    "upgrade",
    "proxy",
];

/// Room for most requests' own values.
const ROOM_BYTES: usize = 256;

/// Headers that are set for each request besides.
const SET_MAX: usize = 10;

/// The headers that tell an upstream who asks: the same for all requests that rest on the same standing.
#[derive(Clone, Debug, Default)]
pub struct Identity(Vec<(HeaderName, HeaderValue)>);

/// Where requests come from: the same for all of a client's on one connection.
#[derive(Clone, Debug)]
pub struct Origin {
    scheme: &'static str,
    forwarded_for: Option<HeaderValue>,
    /// `Forwarded` (RFC 7239) up to the host.
    forwarded_start: String,
}

/// What the upstream is told about a request besides the request itself.
#[derive(Clone, Debug)]
pub struct Introduction<'a> {
    /// The record's id.
    pub id: &'a str,
    pub who: Arc<Identity>,
    /// False where `shadow_until` alone let the request through.
    pub enforced: bool,
    pub origin: &'a Origin,
    /// As the client named it, in normal form.
    pub authority: &'a HeaderValue,
    pub traceparent: &'a str,
    /// Whether the traceparent is the client's own, so that its tracestate belongs to it.
    pub trace_continued: bool,
    pub forward_authorization: bool,
}

impl Identity {
    /// `own` is our own SPIFFE ID: XFCC's `By`.
    pub fn new(
        peer: Option<&Peer>,
        services: &[Name],
        caller: Option<&Caller>,
        roles: &[Name],
        own: Option<&SpiffeId>,
    ) -> Identity {
        let mut headers = Vec::new();
        let mut tell = |name, value: String| {
            // Built from visible ASCII, so it always is one header value; copied, as it is kept for long and
            // should have no room to spare.
            headers.extend(HeaderValue::from_str(&value).ok().map(|value| (name, value)));
        };
        if !services.is_empty() {
            tell(SERVICE, list(services.iter().map(Name::as_str), ','));
        }
        if let Some(caller) = caller {
            tell(ISSUER, caller.issuer.to_string());
            if let Some(subject) = &caller.subject {
                tell(SUBJECT, escaped(subject));
            }
            if let Some(client) = &caller.client {
                tell(CLIENT, escaped(client));
            }
            tell(ACTOR, caller.actor.to_string());
            if !roles.is_empty() {
                tell(ROLES, list(roles.iter().map(Name::as_str), ','));
            }
            if !caller.scopes.is_empty() {
                tell(SCOPES, list(caller.scopes.iter().map(|scope| &**scope), ' '));
            }
        }
        if let Some(peer) = peer {
            tell(XFCC, client_certificate(peer, own));
        }
        Identity(headers)
    }

    /// What its names and values take.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
    }
}

impl Origin {
    /// `secure` if the client spoke TLS.
    pub fn new(client_ip: Option<IpAddr>, secure: bool) -> Origin {
        let forwarded_for = client_ip.and_then(|ip| HeaderValue::from_str(&ip.to_string()).ok());
        let forwarded_start = match client_ip {
            Some(IpAddr::V4(ip)) => format!("for={ip};host=\""),
            // RFC 7239 §6: in brackets and quotes.
            Some(IpAddr::V6(ip)) => format!("for=\"[{ip}]\";host=\""),
            None => "host=\"".to_owned(),
        };
        Origin { scheme: if secure { "https" } else { "http" }, forwarded_for, forwarded_start }
    }
}

/// Strips, then sets. Hop-by-hop headers go first, so that a client's `Connection: x-auth-subject`
/// cannot take away what is set afterwards.
pub fn for_upstream(headers: &mut HeaderMap, with: &Introduction<'_>) {
    // Of what the client takes only this concerns the upstream too (RFC 9110 §10.1.4).
    let trailers = headers
        .get_all(TE)
        .iter()
        .filter_map(|te| te.to_str().ok())
        .any(|te| te.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("trailers")));
    strip_named(headers);
    strip(headers, |name| is_hop_by_hop(name) || is_reserved(name));
    join_cookies(headers);
    rewrite_length(headers);
    if !with.forward_authorization {
        headers.remove(AUTHORIZATION);
    }
    if !with.trace_continued {
        headers.remove(TRACESTATE);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    headers.reserve(with.who.0.len() + SET_MAX);
    headers.insert(HOST, with.authority.clone());
    for (name, value) in &with.who.0 {
        headers.insert(name.clone(), value.clone());
    }
    // All that is written for this request alone, in one piece of memory.
    let mut room = BytesMut::with_capacity(ROOM_BYTES);
    let id = value(&mut room, &[with.id.as_bytes()]);
    set(headers, DECISION, id.clone());
    set(headers, REQUEST_ID, id);
    if !with.enforced {
        headers.insert(ENFORCED, HeaderValue::from_static("false"));
    }
    set_origin(headers, with, &mut room);
}

/// A response may not speak of its own hop to the next one.
pub fn for_client(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    rewrite_length(headers);
}

/// Trailers must not hold what framing, routing or authorization reads (RFC 9110 §6.5.1), nor what some
/// server reads as that: `normalize` saw the head alone.
pub fn for_trailers(trailers: &mut HeaderMap) {
    strip_named(trailers);
    strip(trailers, |name| !is_plain_name(name) || is_hop_by_hop(name) || is_reserved(name));
    for name in [HOST, CONTENT_LENGTH, AUTHORIZATION, COOKIE, HeaderName::from_static("dpop")] {
        trailers.remove(name);
    }
}

/// Takes away what some server would read under another name.
pub fn strip_odd_names(headers: &mut HeaderMap) {
    strip(headers, |name| !is_plain_name(name));
}

/// HTTP/2 sends cookies in crumbs; elsewhere they are one field (RFC 9113 §8.2.3), of which a server behind us
/// may read only the first.
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(COOKIE, whole);
    }
}

/// How many fields a request has. The crumbs of a cookie are one: browsers cut it into as many as it has parts
/// (RFC 9113 §8.2.3), and its bytes have a bound of their own.
pub fn field_count(headers: &HeaderMap) -> usize {
    let crumbs = headers.get_all(COOKIE).iter().count();
    headers.len() - crumbs.saturating_sub(1)
}

/// In its one form: `010`, which is ten (RFC 9112 §6.2), is eight to some.
fn rewrite_length(headers: &mut HeaderMap) {
    let is_padded = |length: &&HeaderValue| length.len() > 1 && length.as_bytes().starts_with(b"0");
    let padded = headers.get(CONTENT_LENGTH).filter(is_padded);
    if let Some(length) = padded.and_then(|length| length.to_str().ok()?.parse::<u64>().ok()) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    strip_named(headers);
    strip(headers, is_hop_by_hop);
}

/// Takes away what `Connection` names.
fn strip_named(headers: &mut HeaderMap) {
    let named: SmallVec<[HeaderName; 4]> = connection_tokens(headers)
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
}

fn is_hop_by_hop(name: &str) -> bool {
    HOP_BY_HOP.contains(&name)
}

fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || RESERVED_STARTS.iter().any(|start| name.starts_with(start))
}

fn strip(headers: &mut HeaderMap, is_meant: impl Fn(&str) -> bool) {
    let meant: SmallVec<[HeaderName; 8]> =
        headers.keys().filter(|name| is_meant(name.as_str())).cloned().collect();
    for name in meant {
        headers.remove(name);
    }
}

fn set_origin(headers: &mut HeaderMap, with: &Introduction<'_>, room: &mut BytesMut) {
    let Introduction { origin, authority, .. } = with;
    if let Some(forwarded_for) = &origin.forwarded_for {
        headers.insert(FORWARDED_FOR, forwarded_for.clone());
    }
    let forwarded =
        [origin.forwarded_start.as_bytes(), authority.as_bytes(), b"\";proto=", origin.scheme.as_bytes()];
    set(headers, FORWARDED, value(room, &forwarded));
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(origin.scheme));
    headers.insert(FORWARDED_HOST, HeaderValue::clone(authority));
    set(headers, TRACEPARENT, value(room, &[with.traceparent.as_bytes()]));
}

/// Envoy's `x-forwarded-client-cert` with one element.
fn client_certificate(peer: &Peer, own: Option<&SpiffeId>) -> String {
    let mut text = String::new();
    if let Some(own) = own {
        let _ = write!(text, "By={own};");
    }
    let hash = peer.certificate.to_string();
    let _ = write!(text, "Hash={}", hash.strip_prefix("sha256:").unwrap_or(&hash));
    let _ = match &peer.name {
        PeerName::Spiffe(id) => write!(text, ";URI={id}"),
        PeerName::Dns { names, .. } => {
            names.iter().try_for_each(|name| write!(text, ";DNS={}", escaped(name)))
        }
    };
    text
}

/// Every value set here is built from visible ASCII, so it always is one header value.
fn set(headers: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>) {
    match value {
        Some(value) => drop(headers.insert(name, value)),
        None => drop(headers.remove(name)),
    }
}

/// A value of these parts, written behind what is in `room`.
fn value(room: &mut BytesMut, parts: &[&[u8]]) -> Option<HeaderValue> {
    parts.iter().for_each(|part| room.extend_from_slice(part));
    HeaderValue::from_maybe_shared(room.split().freeze()).ok()
}

/// Visible ASCII stays; every other byte, `%` and `,` are percent-encoded, so that a value can neither
/// end its header nor look like two members of a list.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'%' | b',' => drop(write!(text, "%{byte:02X}")),
            0x21..=0x7e => text.push(char::from(byte)),
            _ => drop(write!(text, "%{byte:02X}")),
        }
    }
    text
}

fn list<'a>(members: impl Iterator<Item = &'a str>, separator: char) -> String {
    let mut text = String::new();
    for member in members {
        if !text.is_empty() {
            text.push(separator);
        }
        text.push_str(&escaped(member));
    }
    text
}

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
