//! The one place where headers that speak of identity, origin or framing are stripped, and then set.
//!
//! Every request that is forwarded passes [`for_upstream`], whatever its route; so no spelling of a
//! client's `x-auth-subject` can reach an upstream, also where nothing is set in its place. Names with
//! characters other than `[A-Za-z0-9-]` were refused by `normalize`, so there are no aliases left.

use std::fmt::Write as _;
use std::net::IpAddr;

use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, COOKIE, FORWARDED, HOST, HeaderName, HeaderValue, TE};

use super::normalize::connection_tokens;
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
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Starts of names that only this proxy, or a hop in front of it that it trusts, may use.
const RESERVED_STARTS: [&str; 4] = ["x-auth-", "x-forwarded-", "x-amzn-oidc-", "x-amzn-mtls-"];

/// Names that some upstream believes to come from its proxy: who the client is, or what it asked for.
const RESERVED: [&str; 17] = [
    "forwarded",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "client-cert",
    "client-cert-chain",
    "x-client-cert",
    "x-ssl-client-cert",
    "x-spiffe-id",
    "x-request-id",
    "x-original-url",
    "x-original-uri",
    "x-rewrite-url",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-goog-iap-jwt-assertion",
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

/// What the upstream is told about a request besides the request itself.
#[derive(Clone, Copy, Debug)]
pub struct Introduction<'a> {
    /// The record's id.
    pub id: &'a str,
    pub peer: Option<&'a Peer>,
    pub services: &'a [Name],
    pub caller: Option<&'a Caller>,
    pub roles: &'a [Name],
    /// False where `shadow_until` alone let the request through.
    pub enforced: bool,
    /// Our own SPIFFE ID: XFCC's `By`.
    pub own: Option<&'a SpiffeId>,
    pub client_ip: Option<IpAddr>,
    /// As the client named it, in normal form.
    pub authority: &'a str,
    pub secure: bool,
    pub traceparent: &'a str,
    /// Whether the traceparent is the client's own, so that its tracestate belongs to it.
    pub trace_continued: bool,
    pub forward_authorization: bool,
}

/// Strips, then sets. Hop-by-hop headers go first, so that a client's `Connection: x-auth-subject`
/// cannot take away what is set afterwards.
pub fn for_upstream(headers: &mut HeaderMap, with: &Introduction<'_>) {
    let trailers = headers.get(TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    strip_hop_by_hop(headers);
    strip_reserved(headers);
    headers.remove(HOST);
    if !with.forward_authorization {
        headers.remove(AUTHORIZATION);
    }
    if !with.trace_continued {
        headers.remove(TRACESTATE);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    set_identity(headers, with);
    set_origin(headers, with);
}

/// A response may not speak of its own hop to the next one.
pub fn for_client(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
}

/// Trailers must not hold what framing, routing or authorization reads (RFC 9110 §6.5.1).
pub fn for_trailers(trailers: &mut HeaderMap) {
    strip_hop_by_hop(trailers);
    strip_reserved(trailers);
    for name in [HOST, CONTENT_LENGTH, AUTHORIZATION, COOKIE, HeaderName::from_static("dpop")] {
        trailers.remove(name);
    }
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = connection_tokens(headers)
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

fn strip_reserved(headers: &mut HeaderMap) {
    let reserved: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            RESERVED.contains(&name) || RESERVED_STARTS.iter().any(|start| name.starts_with(start))
        })
        .cloned()
        .collect();
    for name in reserved {
        headers.remove(name);
    }
}

fn set_identity(headers: &mut HeaderMap, with: &Introduction<'_>) {
    if !with.services.is_empty() {
        set(headers, SERVICE, &list(with.services.iter().map(Name::as_str), ','));
    }
    if let Some(caller) = with.caller {
        set(headers, ISSUER, caller.issuer.as_str());
        if let Some(subject) = &caller.subject {
            set(headers, SUBJECT, &escaped(subject));
        }
        if let Some(client) = &caller.client {
            set(headers, CLIENT, &escaped(client));
        }
        set(headers, ACTOR, caller.actor.as_str());
        if !with.roles.is_empty() {
            set(headers, ROLES, &list(with.roles.iter().map(Name::as_str), ','));
        }
        if !caller.scopes.is_empty() {
            set(headers, SCOPES, &list(caller.scopes.iter().map(|scope| &**scope), ' '));
        }
    }
    set(headers, DECISION, with.id);
    if !with.enforced {
        set(headers, ENFORCED, "false");
    }
    if let Some(peer) = with.peer {
        set(headers, XFCC, &client_certificate(peer, with.own));
    }
}

fn set_origin(headers: &mut HeaderMap, with: &Introduction<'_>) {
    let scheme = if with.secure { "https" } else { "http" };
    let mut forwarded = String::new();
    if let Some(ip) = with.client_ip {
        set(headers, FORWARDED_FOR, &ip.to_string());
        // RFC 7239 §6: IPv6 addresses in brackets and quotes.
        let _ = match ip {
            IpAddr::V4(ip) => write!(forwarded, "for={ip};"),
            IpAddr::V6(ip) => write!(forwarded, "for=\"[{ip}]\";"),
        };
    }
    let _ = write!(forwarded, "host=\"{}\";proto={scheme}", with.authority);
    set(headers, FORWARDED, &forwarded);
    set(headers, FORWARDED_PROTO, scheme);
    set(headers, FORWARDED_HOST, with.authority);
    set(headers, REQUEST_ID, with.id);
    set(headers, TRACEPARENT, with.traceparent);
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
fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    match HeaderValue::from_str(value) {
        Ok(value) => drop(headers.insert(name, value)),
        Err(_) => drop(headers.remove(name)),
    }
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

/// The client's `traceparent`, if it is one by W3C Trace Context §3.2 (version 00), else a new one.
/// The second value says whether it is the client's.
pub fn traceparent(headers: &HeaderMap, fresh: [u8; 24]) -> (String, bool) {
    let mut given = headers.get_all(TRACEPARENT).iter();
    if let (Some(value), None) = (given.next(), given.next())
        && let Ok(text) = value.to_str()
        && is_traceparent(text)
    {
        return (text.to_owned(), true);
    }
    let mut text = String::from("00-");
    for (at, byte) in fresh.iter().enumerate() {
        if at == 16 {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text.push_str("-00");
    (text, false)
}

fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |part: &str, len: usize| {
        part.len() == len && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let zero = |part: &str| part.bytes().all(|b| b == b'0');
    matches!(parts[..], ["00", trace, span, flags]
        if hex(trace, 32) && !zero(trace) && hex(span, 16) && !zero(span) && hex(flags, 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::identity::{ActorKind, CertificateHash, Hop};

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn peer() -> Peer {
        Peer {
            name: PeerName::Spiffe("spiffe://shop.example/web".parse().unwrap()),
            certificate: CertificateHash([0xab; 32]),
            not_after: Timestamp::MAX,
            hop: Hop::Direct,
        }
    }

    fn caller() -> Caller {
        Caller {
            issuer: name("corp"),
            subject: Some("auth0|ali ce\r\nx-auth-roles: admin".into()),
            client: Some("web,evil".into()),
            scopes: vec!["orders:read".into(), "a b".into()],
            groups: Vec::new(),
            roles: Vec::new(),
            actor: ActorKind::Human,
            on_behalf_of: ActorKind::Human,
            chain: Vec::new(),
            expires: Timestamp::MAX,
            authenticated_at: None,
            acr: None,
            confirmation: None,
            token_id: None,
            claims: serde_json::Map::new(),
            token_hash: [0; 32],
        }
    }

    fn introduction<'a>(
        peer: Option<&'a Peer>,
        caller: Option<&'a Caller>,
        names: &'a [Name],
    ) -> Introduction<'a> {
        Introduction {
            id: "01J",
            peer,
            services: names,
            caller,
            roles: names,
            enforced: true,
            own: None,
            client_ip: Some("2001:db8::1".parse().unwrap()),
            authority: "orders.example:8443",
            secure: true,
            traceparent: "00-1",
            trace_continued: false,
            forward_authorization: false,
        }
    }

    fn through(sent: &[(&'static str, &'static str)], with: &Introduction<'_>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(*name, HeaderValue::from_static(value));
        }
        for_upstream(&mut headers, with);
        headers
    }

    #[test]
    fn nothing_that_speaks_of_identity_passes_when_nobody_is_there() {
        let forged = [
            "x-auth-service",
            "x-auth-subject",
            "x-auth-anything",
            "x-forwarded-for",
            "x-forwarded-user",
            "x-forwarded-client-cert",
            "x-forwarded-prefix",
            "forwarded",
            "x-real-ip",
            "client-cert",
            "x-amzn-oidc-data",
            "x-amzn-mtls-clientcert",
            "x-original-url",
            "x-rewrite-url",
            "x-http-method-override",
            "x-request-id",
            "tracestate",
            "authorization",
            "proxy",
            "keep-alive",
            "proxy-authorization",
            "upgrade",
            "te",
        ];
        let sent: Vec<_> = forged.iter().map(|name| (*name, "forged")).collect();
        let headers = through(&sent, &introduction(None, None, &[]));
        let mut seen = 0;
        for name in forged {
            assert!(headers.get_all(name).iter().all(|value| value != "forged"), "{name}");
            seen += 1;
        }
        assert_eq!(seen, 23);
        let ours = [
            ("x-auth-decision", "01J"),
            ("x-request-id", "01J"),
            ("x-forwarded-for", "2001:db8::1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "orders.example:8443"),
            ("traceparent", "00-1"),
            ("forwarded", "for=\"[2001:db8::1]\";host=\"orders.example:8443\";proto=https"),
        ];
        for (name, value) in ours {
            assert_eq!(headers[name], value);
        }
        assert_eq!(headers.len(), ours.len());
    }

    #[test]
    fn values_from_claims_cannot_break_out_of_their_header() {
        let (peer, caller, names) = (peer(), caller(), [name("web"), name("api")]);
        let headers = through(&[], &introduction(Some(&peer), Some(&caller), &names));
        for (name, value) in [
            ("x-auth-service", "web,api"),
            ("x-auth-issuer", "corp"),
            ("x-auth-subject", "auth0|ali%20ce%0D%0Ax-auth-roles:%20admin"),
            ("x-auth-client", "web%2Cevil"),
            ("x-auth-actor", "human"),
            ("x-auth-roles", "web,api"),
            ("x-auth-scopes", "orders:read a%20b"),
        ] {
            assert_eq!(headers[name], value);
        }
        let xfcc = format!("Hash={};URI=spiffe://shop.example/web", "ab".repeat(32));
        assert_eq!(headers["x-forwarded-client-cert"], xfcc);
    }

    #[test]
    fn a_client_cannot_name_our_headers_as_its_hop_s() {
        let (peer, names) = (peer(), [name("web")]);
        let sent = [
            ("connection", "X-Auth-Service, close"),
            ("connection", "x-own"),
            ("x-own", "1"),
            ("x-kept", "1"),
        ];
        let headers = through(&sent, &introduction(Some(&peer), None, &names));
        assert_eq!(headers["x-auth-service"], "web");
        assert!(!headers.contains_key("x-own") && !headers.contains_key("connection"));
        assert_eq!(headers["x-kept"], "1");
    }

    #[test]
    fn only_trailers_survives_of_te_and_credentials_only_where_the_route_says_so() {
        let with = introduction(None, None, &[]);
        assert_eq!(through(&[("te", "Trailers")], &with)["te"], "trailers");
        assert!(!through(&[("te", "trailers, gzip")], &with).contains_key("te"));
        let with = Introduction { forward_authorization: true, enforced: false, ..with };
        let headers = through(&[("authorization", "Bearer x")], &with);
        assert_eq!(headers["authorization"], "Bearer x");
        assert_eq!(headers["x-auth-enforced"], "false");
    }

    #[test]
    fn a_trace_is_continued_only_if_it_is_one() {
        let given = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(TRACEPARENT, HeaderValue::from_static(value));
            }
            traceparent(&headers, [7; 24])
        };
        const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(given(&[GOOD]), (GOOD.to_owned(), true));
        let fresh = format!("00-{}-{}-00", "07".repeat(16), "07".repeat(8));
        let bad: [&[&str]; 6] = [
            &[],
            &[GOOD, GOOD],
            &["01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
            &["00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
            &["00-00000000000000000000000000000000-b7ad6b7169203331-01"],
            &["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x"],
        ];
        for values in bad {
            assert_eq!(given(values), (fresh.clone(), false), "{values:?}");
        }
    }
}
