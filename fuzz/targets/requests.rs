//! What a client writes: heads, paths, credentials, and what a load balancer says before them.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use countersign::policy::pattern::{Glob, HostPattern, PathPattern};
use countersign::policy::{Host, NormalPath};
use countersign::proxy::normalize::Asked;
use countersign::proxy::proxy_protocol;
use countersign::token::Credential;
use http::header::{AUTHORIZATION, HOST, HeaderMap};
use http::request::Parts;
use http::{HeaderValue, Request, Response, Version};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use url::Url;

use super::complete;

/// A connection's bytes: of each head that hyper hands over and that is taken, exactly what was judged is
/// what an upstream reads.
pub fn head(data: &[u8]) {
    let heads = heads(data);
    for head in &heads {
        let Ok(asked) = Asked::read(head, None) else { continue };
        assert_eq!(head.headers.get_all(HOST).iter().count(), 1);
        assert!(is_plain(asked.host.as_str()), "{}", asked.host);
        assert!(head.headers.keys().all(|name| !name.as_str().contains(['_', '.'])));
        let target =
            asked.target(&asked.path, head.uri.path_and_query()).expect("what was judged can be sent");
        let judged = asked.query.iter().fold(asked.path.to_string(), |path, query| format!("{path}?{query}"));
        assert_eq!(target.as_str(), judged);
        let forwarded = Request::builder()
            .method(asked.method.clone())
            .uri(target)
            .version(Version::HTTP_11)
            .header(HOST, &asked.authority)
            .body(())
            .expect("what was judged can be sent");
        let again = Asked::read(&forwarded.into_parts().0, None).expect("what was judged is taken");
        assert_eq!(again.method, asked.method);
        assert_eq!((&again.host, &again.authority), (&asked.host, &asked.authority));
        assert_eq!((&again.path, &again.query), (&asked.path, &asked.query));
        assert!(Asked::read(head, Some(&asked.host)).is_ok());
        let other: Host = "somebody.else".parse().expect("a host");
        assert!(asked.host == other || Asked::read(head, Some(&other)).is_err());
    }
    if let [only] = &heads[..]
        && Asked::read(only, None).is_ok()
    {
        assert_eq!(host_lines(data), 1);
    }
}

/// A name, or an address in brackets that is spelled as everybody spells it.
fn is_plain(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inside) => inside.parse().is_ok_and(|address: Ipv6Addr| address.to_string() == inside),
        None => host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
    }
}

/// As the proxy's own connections read them.
fn heads(data: &[u8]) -> Vec<Parts> {
    let heads = RefCell::new(Vec::new());
    let service = service_fn(async |request: Request<Incoming>| {
        heads.borrow_mut().push(request.into_parts().0);
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let io = TokioIo::new(tokio::io::join(data, tokio::io::sink()));
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None).max_headers(100).max_header_size(64 * 1024);
    // an error is an answer of hyper's own
    _ = complete(builder.serve_connection(io, service));
    heads.into_inner()
}

/// In the first head, as one who knows nothing but lines counts them.
fn host_lines(data: &[u8]) -> usize {
    let lines = data.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let head = lines.skip_while(|line| line.is_empty()).take_while(|line| !line.is_empty());
    head.filter(|line| line.len() >= 5 && line[..5].eq_ignore_ascii_case(b"host:")).count()
}

/// A path as it stands in a request line: its normal form is its own, says what was asked, and is a path
/// that two other readers of URLs read unchanged.
pub fn path(data: &[u8]) {
    let Ok(raw) = std::str::from_utf8(data) else { return };
    let Ok(path) = NormalPath::parse(raw) else { return };
    assert_eq!(NormalPath::parse(path.as_str()).as_ref(), Ok(&path));
    let asked: Vec<_> = raw.split('/').filter(|segment| !segment.is_empty()).map(decoded).collect();
    assert_eq!(path.segments().collect::<Vec<_>>(), asked);
    for segment in &asked {
        assert!(!["", ".", ".."].contains(&segment.as_str()));
        assert!(!segment.contains(|c: char| c == '/' || c == '\\' || c.is_ascii_control()));
    }
    let browser = Url::parse(&format!("http://a.example{path}")).expect("a URL");
    assert_eq!(browser.path(), path.as_str());
    if path.as_str().len() < usize::from(u16::MAX) {
        let uri: http::Uri = path.as_str().parse().expect("a URI");
        assert_eq!(uri.path(), path.as_str());
    }
    if let Some(first) = path.as_str()[1..].split('/').next() {
        let prefix = NormalPath::parse(&format!("/{first}")).expect("a segment of a path is a path");
        let rest = path.strip_prefix(&prefix).expect("it starts with its first segment");
        let whole: Vec<_> = prefix.segments().chain(rest.segments()).map(|it| it.into_owned()).collect();
        assert_eq!(whole, asked);
    }
}

fn decoded(segment: &str) -> String {
    percent_decode_str(segment).decode_utf8().expect("UTF-8 in a path that is taken").into_owned()
}

/// A pattern, and on the second line what it is held against: paths, hosts and words each match exactly
/// as a plain matcher says, and no pattern lies within another that takes less.
pub fn pattern(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.split('\n');
    let (Some(pattern), Some(subject)) = (lines.next(), lines.next()) else { return };
    let other = lines.next().unwrap_or("");
    if let (Ok(parsed), Ok(path)) = (pattern.parse::<PathPattern>(), NormalPath::parse(subject)) {
        let segments: Vec<_> = path.segments().collect();
        let wanted: Vec<&str> = pattern.split('/').filter(|it| !it.is_empty()).collect();
        let found: Vec<&str> = segments.iter().map(|it| &**it).collect();
        let matches = parsed.matches(&segments);
        assert_eq!(matches, plainly_matches(&wanted, &found));
        assert_eq!(parsed.to_string().parse().as_ref(), Ok(&parsed));
        if let Ok(other) = other.parse::<PathPattern>() {
            let both = matches && other.matches(&segments);
            assert!(!both || (parsed.overlaps(&other) && other.overlaps(&parsed)));
            assert!(!parsed.is_within(&other) || !matches || other.matches(&segments));
        }
    }
    if let (Ok(parsed), Ok(host)) = (pattern.parse::<HostPattern>(), subject.parse::<Host>()) {
        let plain = pattern.to_ascii_lowercase();
        let plain = plain.strip_suffix('.').unwrap_or(&plain);
        let matches = match plain.strip_prefix("*.") {
            Some(parent) => host.as_str().split_once('.').is_some_and(|(_, rest)| rest == parent),
            None => host.as_str() == plain.parse::<Host>().expect("a host").as_str(),
        };
        assert_eq!(parsed.matches(&host), matches);
    }
    if let Ok(parsed) = pattern.parse::<Glob>() {
        let start = pattern.trim_end_matches('*');
        let matches = if start == pattern { subject == start } else { subject.starts_with(start) };
        assert_eq!(parsed.matches(subject), matches);
    }
}

/// Segment by segment.
fn plainly_matches(wanted: &[&str], found: &[&str]) -> bool {
    match (wanted, found) {
        ([], []) | (["**"], _) => true,
        ([first, wanted @ ..], [segment, found @ ..]) => {
            let any = *first == "*" || first.starts_with('{');
            (any || first == segment) && plainly_matches(wanted, found)
        }
        _ => false,
    }
}

/// Values of `Authorization`, one a line: a token is read only where there is exactly one, whole.
pub fn authorization(data: &[u8]) {
    let mut headers = HeaderMap::new();
    let mut fields = Vec::new();
    for line in data.split(|byte| *byte == b'\n') {
        let Ok(value) = HeaderValue::from_bytes(line) else { return };
        headers.append(AUTHORIZATION, value);
        fields.push(line);
    }
    match Credential::from_headers(&headers) {
        Ok(Credential::Absent) => panic!("a field was there"),
        Ok(credential @ (Credential::Bearer(token) | Credential::Dpop(token))) => {
            let [only] = fields[..] else { panic!("one field of several was read") };
            let is_bearer = matches!(credential, Credential::Bearer(_));
            let scheme = if is_bearer { &b"Bearer "[..] } else { b"DPoP " };
            assert!(only[..scheme.len()].eq_ignore_ascii_case(scheme));
            assert_eq!(&only[scheme.len()..], token.as_bytes());
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
            assert!(!token.trim_end_matches('=').is_empty() && token.bytes().all(plain));
        }
        Err(error) => assert!(!error.to_string().contains("canary")),
    }
}

/// The first bytes of a connection from a load balancer: who its client is stands where version 2 of the
/// protocol says, and not one byte after the header is taken.
pub fn proxy_header(data: &[u8]) {
    let hop: SocketAddr = "127.0.0.1:9".parse().expect("an address");
    let trusted = ["127.0.0.0/8".parse().expect("a range")];
    let mut unread = data;
    let Ok(client) = complete(proxy_protocol::read(&mut unread, hop, &trusted)) else { return };
    assert_eq!(&data[..12], b"\r\n\r\n\0\r\nQUIT\n");
    assert_eq!(data[12] >> 4, 2);
    let length = usize::from(u16::from_be_bytes([data[14], data[15]]));
    assert_eq!(unread.len(), data.len() - 16 - length);
    let rest = &data[16..16 + length];
    let told = match (data[12] & 0xf, data[13] >> 4) {
        (1, 1) => Some(address(Ipv4Addr::from(part(rest, 0)).into(), part(rest, 8))),
        (1, 2) => Some(address(Ipv6Addr::from(part(rest, 0)).into(), part(rest, 32))),
        _ => None,
    };
    assert_eq!(client, told.unwrap_or(hop));
}

fn part<const BYTES: usize>(rest: &[u8], at: usize) -> [u8; BYTES] {
    rest[at..at + BYTES].try_into().expect("the address is there")
}

fn address(ip: IpAddr, port: [u8; 2]) -> SocketAddr {
    SocketAddr::new(ip, u16::from_be_bytes(port))
}
