//! Listeners, our own certificate and the trust domains, as typed: what must come in pairs, and
//! what would leave a door open.

use std::net::SocketAddr;

use super::error::Diagnostics;
use super::file::{ClientCertificate, File, Listener};
use super::names::{entries, refuse_reserved};
use super::source::{At, Span};
use super::value::Pem;
use crate::identity::Name;

pub fn check(file: &File, found: &mut Diagnostics) {
    refuse_reserved("listener", &file.listener, found);
    let own = file.identity.as_ref().map(|identity| &identity.value);
    if let Some(identity) = own {
        let keys = ("certificate", &identity.certificate, "private_key", &identity.private_key);
        check_pair(keys, |key| identity.gives(key), found);
    }
    let has_own = own.is_some_and(|identity| identity.gives("certificate"));
    for (name, listener) in entries(&file.listener) {
        let keys = ("certificate", &listener.value.certificate, "private_key", &listener.value.private_key);
        check_pair(keys, |key| listener.value.gives(key), found);
        check_tls(file, name, &listener.value, has_own, found);
    }
    check_addresses(file, found);
}

/// A certificate and its key come together or not at all.
fn check_pair(
    (one, certificate, other, private_key): (&str, &Option<At<Pem>>, &str, &Option<At<Pem>>),
    gives: impl Fn(&str) -> bool,
    found: &mut Diagnostics,
) {
    for (given, key, missing) in [(certificate, one, other), (private_key, other, one)] {
        if let Some(given) = given
            && !gives(missing)
        {
            let message = format!("`{key}` without its `{missing}`");
            found.error("missing_key", given.span, message, format!("add `{missing} = \"…\"`"));
        }
    }
}

fn check_tls(file: &File, name: &At<Name>, listener: &Listener, has_own: bool, found: &mut Diagnostics) {
    let plaintext = listener.allow_plaintext.as_ref().filter(|allow| allow.value);
    match (plaintext, &listener.client_certificate) {
        (Some(plaintext), Some(mode)) if mode.value != ClientCertificate::None => {
            return found.conflict(
                "contradiction",
                (plaintext.span.max(mode.span), plaintext.span.min(mode.span)),
                "no client certificate comes over plain text",
                "take `allow_plaintext` out, or write `client_certificate = \"none\"`",
            );
        }
        (Some(_), _) => return,
        (None, _) => {}
    }
    if !has_own && !listener.gives("certificate") {
        found.error(
            "missing_key",
            name.span,
            format!("listener `{}` has no certificate to present", name.value),
            "add `[identity]` with `certificate` and `private_key`",
        );
    }
    let asks = listener.client_certificate.as_ref().is_none_or(|mode| mode.value != ClientCertificate::None);
    if asks && entries(&file.trust_domain).is_empty() && !file.gives("trust_domain") {
        found.error(
            "missing_key",
            listener.client_certificate.as_ref().map_or(name.span, |mode| mode.span),
            "client certificates are asked for, and no CA vouches for any",
            "add `[trust_domain.\"…\"]` with its `ca`, or write `client_certificate = \"none\"`",
        );
    }
}

fn check_addresses(file: &File, found: &mut Diagnostics) {
    let mut addresses: Vec<(SocketAddr, Span)> = Vec::new();
    let admin = file.admin.as_ref().map(|admin| &admin.value);
    let admin = admin.into_iter().flat_map(|admin| [&admin.address, &admin.health_address]);
    let listeners = entries(&file.listener).iter().map(|(_, listener)| &listener.value.address);
    for address in listeners.chain(admin).flatten() {
        let same = |(other, _): &&(SocketAddr, Span)| {
            let anywhere = other.ip().is_unspecified() || address.value.ip().is_unspecified();
            other.port() == address.value.port()
                && address.value.port() != 0
                && (other.ip() == address.value.ip() || anywhere)
        };
        if let Some((_, earlier)) = addresses.iter().find(same) {
            let places = (address.span.max(*earlier), address.span.min(*earlier));
            let message = format!("`{}` is taken already", address.value);
            found.conflict("address_twice", places, message, "give each its own port");
        }
        addresses.push((address.value, address.span));
    }
}
