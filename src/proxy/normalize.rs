//! A request's head becomes one normal form of what is asked, or is refused.
//!
//! hyper hands over heads that RFC 9110 and 9112 forbid (no Host, two Hosts, a target that contradicts
//! Host, odd transfer codings, `_` in names). What it hands over is judged here, before anything else
//! reads it; the [`Asked`] that comes out is what the policy judges and what is forwarded.

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::{InvalidUri, PathAndQuery};
use http::{HeaderMap, Method, Version};
use hyper::ext::Protocol;
use url::form_urlencoded;

use crate::policy::action::HostError;
use crate::policy::pattern::standard_method;
use crate::policy::{Action, Host, NormalPath, PathError};
use crate::token;

/// What is asked, in the one form that is judged, recorded and forwarded.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `GET` for a WebSocket handshake over HTTP/2 (RFC 8441).
    pub method: Method,
    pub host: Host,
    /// Host and port, as they go upstream.
    pub authority: HeaderValue,
    pub path: NormalPath,
    /// As it came, without `?`; never judged.
    pub query: Option<String>,
    pub kind: Kind,
}

/// What becomes of field names that some server takes for others: those with a character other than letters,
/// digits and `-`. In trailers they are dropped in any case, as every trailer may be (RFC 9110 §6.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OddNames {
    /// Their request is.
    Refuse,
    /// Nobody sees them, neither the policy nor an upstream.
    Drop,
}

/// What kind of exchange the head asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Plain,
    /// A WebSocket handshake, by HTTP/1.1 upgrade or HTTP/2 extended CONNECT.
    WebSocket,
}

/// Why a head is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("{0}")]
    Malformed(&'static str),
    #[error("the path is not in a form that can be judged: {0}")]
    Path(#[from] PathError),
    #[error("the host is not one that can be judged: {0}")]
    Host(#[from] HostError),
    #[error("the connection was made for `{server_name}`, the request asks for `{host}`")]
    Misdirected { server_name: Host, host: Host },
}

impl Asked {
    /// Reads a head. `server_name` is the name the client asked for in its TLS handshake (SNI), which
    /// the request's host must agree with (RFC 9110 §7.4).
    pub fn read(head: &Parts, server_name: Option<&Host>) -> Result<Asked, HeadError> {
        check_names(&head.headers)?;
        check_connection(&head.headers)?;
        let (host, authority) = authority(head)?;
        if let Some(server_name) = server_name
            && *server_name != host
        {
            return Err(HeadError::Misdirected { server_name: server_name.clone(), host });
        }
        check_framing(head)?;
        check_scheme(head)?;
        let (method, kind) = kind(head)?;
        let path = NormalPath::parse(head.uri.path())?;
        let query = head.uri.query().map(checked_query).transpose()?;
        Ok(Asked { method, host, authority, path, query, kind })
    }

    /// What the policy judges.
    pub fn action<'a>(&'a self, headers: &'a HeaderMap) -> Action<'a> {
        Action { method: &self.method, host: &self.host, path: &self.path, headers }
    }

    /// As its client sees it: what a proof of possession is made for.
    pub fn seen<'a>(&'a self, headers: &'a HeaderMap, secure: bool) -> token::Target<'a> {
        token::Target { headers, method: &self.method, secure, authority: &self.authority, path: &self.path }
    }

    /// The path and query that go upstream, `path` being the judged one or its rewritten form; `given` is what
    /// came, most often the same.
    pub fn target(
        &self,
        path: &NormalPath,
        given: Option<&PathAndQuery>,
    ) -> Result<PathAndQuery, InvalidUri> {
        let is_same = |given: &&PathAndQuery| match (given.as_str().split_once('?'), &self.query) {
            (Some((given, given_query)), Some(query)) => given == path.as_str() && given_query == query,
            (None, None) => given.as_str() == path.as_str(),
            _ => false,
        };
        match (given.filter(is_same), &self.query) {
            (Some(given), _) => Ok(given.clone()),
            (None, Some(query)) => PathAndQuery::try_from(format!("{path}?{query}")),
            (None, None) => PathAndQuery::try_from(path.as_str()),
        }
    }
}

/// Names that some servers behind us would read as another name (`x_user`, `x.user`) are refused, so
/// that no header is stripped under one spelling and believed under another.
fn check_names(headers: &HeaderMap) -> Result<(), HeadError> {
    if headers.keys().all(|name| is_plain_name(name.as_str())) {
        Ok(())
    } else {
        Err(HeadError::Malformed("a header name has a character other than letters, digits and `-`"))
    }
}

/// Whether no server takes this name for another.
pub(super) fn is_plain_name(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// What is judged goes on, so `Connection` may not have it taken away behind the judgement (RFC 9110 §7.6.1
/// forbids it for fields that are meant for everybody on the way).
fn check_connection(headers: &HeaderMap) -> Result<(), HeadError> {
    let judged = [HOST, AUTHORIZATION, CONTENT_TYPE, CONTENT_LENGTH];
    if connection_tokens(headers)
        .any(|token| judged.iter().any(|name| token.eq_ignore_ascii_case(name.as_str())))
    {
        return Err(HeadError::Malformed("`Connection` names a field that is not of one hop alone"));
    }
    Ok(())
}

/// The one authority that a request names; several ways of naming it must agree.
fn authority(head: &Parts) -> Result<(Host, HeaderValue), HeadError> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let from_header = match (hosts.next(), hosts.next()) {
        (Some(host), None) => {
            let text = host.to_str().map_err(|_| HeadError::Host(HostError::Character))?;
            Some((text, Host::with_port(text)?))
        }
        (None, _) => None,
        (Some(_), Some(_)) => return Err(HeadError::Malformed("there is more than one Host")),
    };
    let from_target = match head.uri.authority() {
        Some(authority) => Some((authority.as_str(), Host::with_port(authority.as_str())?)),
        None => None,
    };
    let (text, (host, port)) = match (from_target, from_header) {
        (Some((_, target)), Some((_, header))) if target != header => {
            return Err(HeadError::Malformed("the target's authority and Host differ"));
        }
        // RFC 9112 §3.2: an HTTP/1.1 request without Host is malformed, whatever its target says.
        (Some(_), None) if head.version < Version::HTTP_2 => {
            return Err(HeadError::Malformed("there is no Host"));
        }
        (Some(authority), _) | (None, Some(authority)) => authority,
        (None, None) => return Err(HeadError::Malformed("there is no Host")),
    };
    let authority = match port {
        Some(_) if is_normal(text, &host) => HeaderValue::from_str(text),
        Some(port) => HeaderValue::from_str(&format!("{host}:{port}")),
        None => HeaderValue::from_str(host.as_str()),
    };
    Ok((host, authority.map_err(|_| HeadError::Host(HostError::Character))?))
}

/// Whether this `host:port` is written in its one form.
fn is_normal(text: &str, host: &Host) -> bool {
    let port = text.strip_prefix(host.as_str()).and_then(|rest| rest.strip_prefix(':'));
    port.is_some_and(|port| !port.starts_with('0'))
}

/// One framing, or none. What hyper resolves by itself (a length beside `chunked`) it frames anew and
/// closes the connection afterwards.
fn check_framing(head: &Parts) -> Result<(), HeadError> {
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => {}
        (Some(coding), None)
            if head.version == Version::HTTP_11 && coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {}
        _ => return Err(HeadError::Malformed("the transfer coding is not exactly `chunked`")),
    }
    let mut lengths = head.headers.get_all(CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(()),
        // RFC 9110 §8.6; h2 takes none for a zero.
        (Some(length), None) if !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit) => {
            Ok(())
        }
        (Some(_), None) => Err(HeadError::Malformed("the Content-Length is no number")),
        (Some(_), Some(_)) => Err(HeadError::Malformed("there is more than one Content-Length")),
    }
}

/// Either of HTTP's own: what stands before us may have ended TLS, or begun it.
fn check_scheme(head: &Parts) -> Result<(), HeadError> {
    match head.uri.scheme_str() {
        None | Some("http" | "https") => Ok(()),
        Some(_) => Err(HeadError::Malformed("the scheme is not HTTP's")),
    }
}

fn kind(head: &Parts) -> Result<(Method, Kind), HeadError> {
    // RFC 9110 §9.1: `delete` is not DELETE, but to some servers it is, and no rule can name it.
    if standard_method(&head.method).is_some_and(|standard| standard != head.method) {
        return Err(HeadError::Malformed("the method is a standard one in other letters"));
    }
    if head.method == Method::CONNECT {
        return match head.extensions.get::<Protocol>() {
            Some(protocol) if protocol.as_str() == "websocket" => Ok((Method::GET, Kind::WebSocket)),
            _ => Err(HeadError::Malformed(
                "CONNECT is not served: call `http://…`, an outbound listener makes the TLS connection itself",
            )),
        };
    }
    if head.version == Version::HTTP_11 && asks_for_upgrade(&head.headers) {
        let mut upgrades = head.headers.get_all(UPGRADE).iter();
        let websocket = matches!((upgrades.next(), upgrades.next()),
            (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"websocket"));
        if websocket {
            if head.method != Method::GET {
                return Err(HeadError::Malformed("a WebSocket handshake is a GET"));
            }
            if head.headers.contains_key(TRANSFER_ENCODING) || has_length(&head.headers) {
                return Err(HeadError::Malformed("a WebSocket handshake has no body"));
            }
            return Ok((Method::GET, Kind::WebSocket));
        }
    }
    Ok((head.method.clone(), Kind::Plain))
}

fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE) && connection_tokens(headers).any(|t| t.eq_ignore_ascii_case("upgrade"))
}

fn has_length(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0")
}

/// The names in `Connection` (RFC 9110 §7.6.1), as they came.
pub fn connection_tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

/// RFC 3986 §3.4, and nothing else: a raw byte that one server reads as a delimiter and another does not
/// has no place behind the `?`. Nor has a token (RFC 6750 §2.3): one that is not read here would be read, and
/// logged, by whoever comes after.
fn checked_query(query: &str) -> Result<String, HeadError> {
    let fits = |b: u8| (0x21..=0x7e).contains(&b) && !b"\"<>#\\^`{|}".contains(&b);
    // Browsers send `|`, `^`, `` ` ``, `{` and `}` raw in queries; they delimit nothing.
    let tolerated = |b: u8| b"^`{|}".contains(&b);
    if !query.bytes().all(|b| fits(b) || tolerated(b)) {
        return Err(HeadError::Malformed("the query has a raw character that must be percent-encoded"));
    }
    // `;` parts parameters on some servers, as `&` does on all.
    let mut parameters = query.split(';').flat_map(|part| form_urlencoded::parse(part.as_bytes()));
    if parameters.any(|(name, _)| name == "access_token") {
        return Err(HeadError::Malformed(
            "there is an `access_token` in the query: send it in `Authorization`",
        ));
    }
    Ok(query.to_owned())
}
