//! Listeners, our own certificate and the trust domains: what must come in pairs, what would leave a
//! door open, and what they become.

use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::elsewhere::Pem;
use super::error::Diagnostics;
use super::file::{ClientCertificate, File, Listener};
use super::hops;
use super::material::{Material, TypedTrustDomain};
use super::names::{entries, refuse_reserved};
use super::own_identity::{Issues, issues};
use super::source::{At, Span};
use crate::identity::{Direction, Name, TrustDomain};
use crate::tls::{ClientCertificates, Own, OwnCertificate, Trust, TrustDomainSettings};

/// `[listener.NAME]`.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    pub name: Name,
    pub address: SocketAddr,
    pub direction: Direction,
    /// `None` only with `allow_plaintext`, and where the local application sends its requests.
    pub tls: Option<ListenerTlsSettings>,
    /// With `proxy_protocol`: the addresses of the hops that speak it, and must. Never empty.
    pub proxy_hops: Option<Vec<IpNet>>,
}

/// Equal if and only if the mode, our certificate and key, the CAs and their lists are the same.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerTlsSettings {
    pub own: Own,
    pub clients: ClientCertificates,
}

/// All trust domains, where some are given and all can be read. A source of service
/// identity, if there is one, gives the CAs of those that name none.
pub fn trust(file: &File, material: &mut Material<'_>, found: &mut Diagnostics) -> Option<Arc<Trust>> {
    let mut issues = issues(file);
    let mut domains = Vec::new();
    for (name, typed) in entries(&file.trust_domain) {
        let ca = typed.value.ca.as_ref();
        if ca.is_none() && typed.value.gives("ca") {
            continue;
        }
        if ca.is_none()
            && let Some(message) = without_ca(&name.value, &mut issues)
        {
            found.error("missing_key", name.span, message, "add `ca = \"…\"`, its CA certificates as PEM");
            continue;
        }
        let crl = typed.value.crl.as_ref();
        let names_dns = entries(&file.service).iter().any(|(_, service)| {
            let domain = service.value.trust_domain.as_ref();
            service.value.gives("dns_name") && domain.is_some_and(|domain| domain.value == name.value)
        });
        let settings = TrustDomainSettings {
            name: name.value.clone(),
            ca: ca.map(|ca| material.source(&ca.value)),
            crl: crl.map(|crl| material.source(&crl.value)),
            allow_dns_names: names_dns,
        };
        domains.push(TypedTrustDomain { settings, name: name.span, ca, crl });
    }
    if domains.is_empty() { None } else { material.trust(&domains, found) }
}

/// Why a trust domain that names no CA can never have one.
fn without_ca(name: &TrustDomain, issues: &mut Issues) -> Option<String> {
    match issues {
        Issues::Any => None,
        Issues::None => Some(format!("trust domain `{name}` has no CA")),
        Issues::Own(Some(own)) if own != name => {
            let why = "the source of `[identity]` gives that of one trust domain alone";
            Some(format!("trust domain `{name}` has no CA: {why}, here `{own}`"))
        }
        Issues::Own(own) => {
            *own = Some(name.clone());
            None
        }
    }
}

/// All listeners, by name; fewer after an error.
pub fn listeners(
    file: &File,
    own: Option<&Own>,
    trust: Option<&Arc<Trust>>,
    material: &mut Material<'_>,
    found: &mut Diagnostics,
) -> Vec<ListenerSettings> {
    check(file, own.and_then(Own::known), found);
    let hops = hops::proxies(file, found);
    let mut listeners = Vec::new();
    for (name, typed) in entries(&file.listener) {
        let listener = &typed.value;
        let own = match (&listener.certificate, &listener.private_key) {
            (Some(certificate), Some(key)) => {
                material.own(certificate, key, listener.passphrase.as_ref(), found).map(Own::Known)
            }
            _ => own.cloned(),
        };
        let plaintext = listener.allow_plaintext.is_some_and(|allow| allow.value);
        let tls =
            own.zip(clients(listener, trust)).map(|(own, clients)| ListenerTlsSettings { own, clients });
        if let Some(proxy_protocol) = &listener.proxy_protocol
            && entries(&file.trusted_hop).is_empty()
        {
            let message = format!("nobody may speak the PROXY protocol to listener `{}`", name.value);
            let remedy =
                "add `[trusted_hop.…]` with `kind = \"proxy\"` and the `address` of the load balancer";
            found.error("missing_key", proxy_protocol.span, message, remedy);
        }
        let Some(address) = &listener.address else { continue };
        let direction = direction(listener);
        let plaintext = plaintext || direction == Direction::Outbound;
        if tls.is_some() || plaintext {
            listeners.push(ListenerSettings {
                name: name.value.clone(),
                address: address.value,
                direction,
                tls: tls.filter(|_| !plaintext),
                proxy_hops: listener.proxy_protocol.as_ref().map(|_| hops.clone()),
            });
        }
    }
    listeners
}

fn clients(listener: &Listener, trust: Option<&Arc<Trust>>) -> Option<ClientCertificates> {
    match listener.client_certificate.map(|mode| mode.value) {
        Some(ClientCertificate::None) => Some(ClientCertificates::Off),
        Some(ClientCertificate::Optional) => trust.cloned().map(ClientCertificates::Optional),
        Some(ClientCertificate::Required) | None => trust.cloned().map(ClientCertificates::Required),
    }
}

fn direction(listener: &Listener) -> Direction {
    listener.mode.map_or(Direction::Inbound, |mode| mode.value)
}

fn check(file: &File, presented: Option<&OwnCertificate>, found: &mut Diagnostics) {
    refuse_reserved("listener", &file.listener, found);
    let own = file.identity.as_ref().map(|identity| &identity.value);
    let has_own = own.is_some_and(|identity| identity.gives("certificate") || identity.gives("source"));
    for (name, listener) in entries(&file.listener) {
        if direction(&listener.value) == Direction::Outbound {
            check_outbound(name, &listener.value, has_own, presented, found);
            continue;
        }
        let keys = ("certificate", &listener.value.certificate, "private_key", &listener.value.private_key);
        check_pair(keys, |key| listener.value.gives(key), found);
        if let (Some(passphrase), false) = (&listener.value.passphrase, listener.value.gives("private_key")) {
            let message = "`passphrase` without its `private_key`";
            found.error("missing_key", passphrase.span, message, "add `private_key = \"…\"`");
        }
        check_tls(file, name, &listener.value, has_own, found);
    }
    check_addresses(file, found);
}

/// A certificate and its key come together or not at all.
pub fn check_pair(
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

/// The application speaks plain HTTP to it, as nobody else may: what it sends is ours by our own certificate.
fn check_outbound(
    name: &At<Name>,
    listener: &Listener,
    has_own: bool,
    presented: Option<&OwnCertificate>,
    found: &mut Diagnostics,
) {
    for key in [
        "certificate",
        "private_key",
        "passphrase",
        "client_certificate",
        "allow_plaintext",
        "proxy_protocol",
    ] {
        if let Some(span) = listener.span_of(key) {
            let message = format!("`{key}` says nothing of an outbound listener");
            let remedy = "take it out: the local application speaks plain HTTP there, over loopback alone";
            found.error("contradiction", span, message, remedy);
        }
    }
    if let Some(address) = &listener.address
        && !address.value.ip().to_canonical().is_loopback()
    {
        let message = format!("whoever reaches `{}` would speak as this workload", address.value);
        let remedy = "listen on loopback, as `127.0.0.1:9080`: an outbound listener asks for no certificate";
        found.error("outbound_exposed", address.span, message, remedy);
    }
    if !has_own {
        let message = format!("listener `{}` has no identity to speak with", name.value);
        let remedy = "add `[identity]` with a certificate that names a SPIFFE ID";
        found.error("missing_key", name.span, message, remedy);
    } else if presented.is_some_and(|own| own.spiffe_id.is_none()) {
        let message = format!("listener `{}` speaks as nobody: our certificate has no SPIFFE ID", name.value);
        let remedy = "have one issued for `[identity]` that names a SPIFFE ID as its only URI";
        found.error("no_spiffe_id", name.span, message, remedy);
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
    if asks && entries(&file.trust_domain).is_empty() {
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
