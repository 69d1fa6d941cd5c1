//! The headers that tell an upstream who asks.

use std::fmt::Write as _;

use http::header::{HeaderName, HeaderValue};

use crate::identity::{Caller, Name, Peer, PeerName, SpiffeId};

const SERVICE: HeaderName = HeaderName::from_static("x-auth-service");
const ISSUER: HeaderName = HeaderName::from_static("x-auth-issuer");
const SUBJECT: HeaderName = HeaderName::from_static("x-auth-subject");
const CLIENT: HeaderName = HeaderName::from_static("x-auth-client");
const ACTOR: HeaderName = HeaderName::from_static("x-auth-actor");
const ROLES: HeaderName = HeaderName::from_static("x-auth-roles");
const SCOPES: HeaderName = HeaderName::from_static("x-auth-scopes");
const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// The headers that tell an upstream who asks: the same for all requests that rest on the same standing.
#[derive(Clone, Debug, Default)]
pub struct Identity(pub(super) Vec<(HeaderName, HeaderValue)>);

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
