//! What is asked of a [`Trial`](super::Trial): who carries a request, for whom, what it asks for, and when.

use std::net::IpAddr;

use http::header::{HOST, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Uri, Version};
use rustls::pki_types::CertificateDer;
use serde_json::{Map, Value};

use crate::clock::Timestamp;
use crate::identity::{Hop, Name, PeerName};

/// One request that did not come. [`Question::new`] is one with neither signature, to start from.
#[derive(Clone, Debug)]
pub struct Question {
    pub peer: Presented,
    pub caller: Bearer,
    /// As a client sends it: [`head`] makes one.
    pub head: Parts,
    /// Which `[listener]` it comes to; without, the first one that deals with such a peer: one that takes clients
    /// without a certificate for a question without one, one that asks for certificates for all others.
    pub listener: Option<Name>,
    /// How the peer's certificate was learned. Through another Countersign it is that one's own.
    pub hop: Hop,
    pub peer_ip: Option<IpAddr>,
    /// Without: the peer's.
    pub client_ip: Option<IpAddr>,
    /// Without: when the trial was made.
    pub at: Option<Timestamp>,
}

/// What a client presents in its TLS handshake.
#[derive(Clone, Debug)]
pub enum Presented {
    Nothing,
    /// A good certificate of the workload that this `[service]` names; wildcards stand for [`STAND_IN`].
    Service(Name),
    /// A good certificate with this name, issued by a CA of its trust domain.
    Named(PeerName),
    /// These certificates, leaf first, which are verified as in a handshake.
    Chain(Vec<CertificateDer<'static>>),
}

/// By what a request presents its caller, besides the header fields that it is asked with.
#[derive(Clone, Debug)]
pub enum Bearer {
    Nothing,
    /// A token that is signed on the spot; of an issuer that is another Countersign an assertion, and of one that is a
    /// load balancer what that says of who logged in there, each in its own header.
    Claims(Claims),
    /// A token as it is, verified with its issuer's own keys; `issuer_unavailable` where the trial has none.
    Token(String),
    /// A token as it is, whose signature nobody looks at: all else of it is verified as ever. Whoever asks so must
    /// say so: anybody can write such a token.
    TokenOnTrust(String),
    /// An assertion as it is, in the header of assertions, verified as a token is.
    Assertion(String),
    /// The same as [`Bearer::TokenOnTrust`] is to a token.
    AssertionOnTrust(String),
    /// What a load balancer said of who logged in there, as it is, in its header and verified as ever.
    UserClaims(String),
    /// The same as [`Bearer::TokenOnTrust`] is to a token.
    UserClaimsOnTrust(String),
}

/// What a token says.
#[derive(Clone, Debug)]
pub struct Claims {
    /// The `[issuer]` that signs it.
    pub issuer: Name,
    /// Added to, and in place of, those that this issuer puts into each of its tokens.
    pub claims: Map<String, Value>,
    /// Names of claims to leave away, also those that the issuer would put.
    pub without: Vec<String>,
    /// Without: an assertion to the peer's certificate, unless its claims say otherwise, and a token to nothing.
    pub bound: Option<Bound>,
}

/// What a token is bound to (`cnf`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    Nothing,
    /// The certificate of whoever carries it (RFC 8705); where there is none, that of somebody else.
    Certificate,
    /// A key, which the request proves to have (RFC 9449).
    Key,
}

/// In place of a wildcard in a service's identity.
pub const STAND_IN: &str = "any";

/// Why something cannot be sent as a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsendable {
    #[error("`{0}` is no method")]
    Method(String),
    #[error("`{0}` is no URL with a host, as `https://orders.example/7`")]
    Url(String),
    #[error("`{0}` is no header field")]
    Header(String),
}

impl Question {
    pub fn new(head: Parts) -> Question {
        Question {
            peer: Presented::Nothing,
            caller: Bearer::Nothing,
            head,
            listener: None,
            hop: Hop::Direct,
            peer_ip: None,
            client_ip: None,
            at: None,
        }
    }
}

/// The head of an HTTP/1.1 request for a URL, as it comes out of the parser of heads. A `Host` among `fields`
/// stands in place of the URL's.
pub fn head<'f>(
    method: &str,
    url: &str,
    fields: impl IntoIterator<Item = (&'f str, &'f str)>,
) -> Result<Parts, Unsendable> {
    let method: Method = method.parse().map_err(|_| Unsendable::Method(method.to_owned()))?;
    let no_url = || Unsendable::Url(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| no_url())?;
    let authority = uri.authority().ok_or_else(no_url)?;
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let request = Request::builder().method(method).uri(target).version(Version::HTTP_11).body(());
    let (mut head, ()) = request.map_err(|_| no_url())?.into_parts();
    for (name, value) in fields {
        let no_field = || Unsendable::Header(format!("{name}: {value}"));
        let name: HeaderName = name.parse().map_err(|_| no_field())?;
        head.headers.append(name, HeaderValue::from_str(value).map_err(|_| no_field())?);
    }
    if !head.headers.contains_key(HOST) {
        head.headers.insert(HOST, HeaderValue::from_str(authority.as_str()).map_err(|_| no_url())?);
    }
    Ok(head)
}
