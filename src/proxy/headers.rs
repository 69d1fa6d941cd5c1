//! The one place where headers that speak of identity, origin or framing are stripped, and then set.
//!
//! Every request that is forwarded passes [`for_upstream`], whatever its route; so no spelling of a
//! client's `x-auth-subject` can reach an upstream, also where nothing is set in its place. Names with
//! characters other than `[A-Za-z0-9-]` were refused or dropped before, so there are no aliases left.

mod identity;
mod traceparent;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::BytesMut;
use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, COOKIE, FORWARDED, HOST, HeaderName, HeaderValue, TE};
use smallvec::SmallVec;

pub use identity::Identity;
use traceparent::TRACEPARENT;
pub use traceparent::{given_traceparent, new_traceparent};

use super::normalize::{connection_tokens, is_plain_name};

/// What another Countersign vouches for: read only from a trusted hop.
pub const ASSERTION: HeaderName = HeaderName::from_static("x-auth-assertion");
/// What an ALB says of who logged in there: likewise.
pub const USER_CLAIMS: HeaderName = HeaderName::from_static("x-amzn-oidc-data");
const DECISION: HeaderName = HeaderName::from_static("x-auth-decision");
const ENFORCED: HeaderName = HeaderName::from_static("x-auth-enforced");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Starts of names that only this proxy, or a hop in front of it that it trusts, may use.
const RESERVED_STARTS: [&str; 24] = [
    "x-auth-",
    "x-forwarded-",
    "x-original-",
    "x-envoy-",
    "x-client-cert",
    "client-cert",
    "x-ssl-client-",
    "ssl-client-",
    "x-remote-",
    "remote-",
    "x-webauth-",
    "x-authenticated-",
    "x-consumer-",
    "x-amzn-oidc-",
    "x-amzn-mtls-",
    "x-amzn-lattice-",
    "x-arr-",
    "x-authentik-",
    "x-pomerium-",
    "x-goog-authenticated-user-",
    "x-goog-iap-",
    "x-ms-client-principal",
    "cf-access-",
    "tailscale-user-",
];

/// Names that some upstream believes to come from its proxy: who the client is, or what it asked for. And the proof
/// that a token is in the right hands, which is made for us and for nobody behind us.
const RESERVED: [&str; 22] = [
    "dpop",
    "forwarded",
    "forwarded-for",
    "x-forwarded",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "fastly-client-ip",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-spiffe-id",
    "x-request-id",
    "x-rewrite-url",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-credential-identifier",
    "x-anonymous-consumer",
    "x-userinfo",
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
const SET_MAX: usize = 11;

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
    /// None for an upstream that is not told who asks, nor from where.
    pub who: Option<Arc<Identity>>,
    /// The same, signed.
    pub assertion: Option<&'a HeaderValue>,
    /// False where `shadow_until` alone let the request through.
    pub enforced: bool,
    pub origin: &'a Origin,
    /// As the client named it, in normal form.
    pub authority: &'a HeaderValue,
    pub traceparent: &'a str,
    /// Whether the traceparent is the client's own, so that its tracestate belongs to it.
    pub trace_continued: bool,
    pub authorization: Authorization,
}

/// What the upstream sees in `Authorization`.
#[derive(Clone, Debug)]
pub enum Authorization {
    Stripped,
    /// As the caller presented it.
    Forwarded,
    /// A token that this proxy got for the upstream, and not the caller's.
    Ours(HeaderValue),
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

    /// Of a client that came through a hop; `secure` if that says so, else as here.
    pub fn told(&self, client_ip: Option<IpAddr>, secure: Option<bool>) -> Origin {
        Origin::new(client_ip, secure.unwrap_or(self.is_secure()))
    }

    /// Whether the client spoke TLS.
    pub fn is_secure(&self) -> bool {
        self.scheme == "https"
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
    match &with.authorization {
        Authorization::Stripped => drop(headers.remove(AUTHORIZATION)),
        Authorization::Forwarded => {}
        Authorization::Ours(token) => drop(headers.insert(AUTHORIZATION, token.clone())),
    }
    if !with.trace_continued {
        headers.remove(TRACESTATE);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    headers.reserve(with.who.as_ref().map_or(0, |who| who.0.len()) + SET_MAX);
    headers.insert(HOST, with.authority.clone());
    // All that is written for this request alone, in one piece of memory.
    let mut room = BytesMut::with_capacity(ROOM_BYTES);
    let id = value(&mut room, &[with.id.as_bytes()]);
    set(headers, REQUEST_ID, id.clone());
    set(headers, TRACEPARENT, value(&mut room, &[with.traceparent.as_bytes()]));
    if let Some(who) = &with.who {
        set(headers, DECISION, id);
        set_identity(headers, who, with);
        set_origin(headers, with, &mut room);
    }
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
    for name in [HOST, CONTENT_LENGTH, AUTHORIZATION, COOKIE] {
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

fn set_identity(headers: &mut HeaderMap, who: &Identity, with: &Introduction<'_>) {
    for (name, value) in &who.0 {
        headers.insert(name.clone(), value.clone());
    }
    if let Some(assertion) = with.assertion {
        headers.insert(ASSERTION, assertion.clone());
    }
    if !with.enforced {
        headers.insert(ENFORCED, HeaderValue::from_static("false"));
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
