//! `[trusted_hop.NAME]`: whose word on somebody else is taken.

use ipnet::IpNet;

use super::error::Diagnostics;
use super::file::{File, HopKind as Typed, TrustedHop as Table};
use super::names::{entries, items, known_trust_domain, refuse_reserved};
use super::ranges::range;
use super::source::At;
use crate::identity::Name;
use crate::proxy::hop::{HopKind, TrustedHop};

/// The addresses of all hops that speak the PROXY protocol.
pub fn proxies(file: &File, found: &mut Diagnostics) -> Vec<IpNet> {
    let is_proxy = |hop: &Table| hop.kind.is_some_and(|kind| kind.value == Typed::Proxy);
    let proxies = entries(&file.trusted_hop).iter().filter(|(_, hop)| is_proxy(&hop.value));
    let addresses = proxies.flat_map(|(_, hop)| items(&hop.value.address));
    addresses.filter_map(|address| range(address, found)).collect()
}

/// Those that tell of others within requests.
pub fn hops(file: &File, found: &mut Diagnostics) -> Vec<TrustedHop> {
    refuse_reserved("hop", &file.trusted_hop, found);
    let mut hops = Vec::new();
    for (name, hop) in entries(&file.trusted_hop) {
        check(name, &hop.value, file, found);
        let kind = match hop.value.kind.map(|kind| kind.value) {
            Some(Typed::Countersign) => HopKind::Countersign,
            Some(Typed::Proxy) | None => continue,
        };
        let spiffe_ids = items(&hop.value.spiffe_id).iter().map(|id| id.value.clone()).collect();
        hops.push(TrustedHop { name: name.value.clone(), kind, spiffe_ids });
    }
    hops
}

/// Each kind of hop is known by one thing, and by that alone.
fn check(name: &At<Name>, hop: &Table, file: &File, found: &mut Diagnostics) {
    let missing = |what: &str, remedy: &str, found: &mut Diagnostics| {
        found.error("missing_key", name.span, format!("hop `{}` has no {what}", name.value), remedy);
    };
    let contradiction = |span, key: &str, found: &mut Diagnostics| {
        let message = format!("a hop of this kind is not known by its `{key}`");
        found.error("contradiction", span, message, "take it out");
    };
    match hop.kind.map(|kind| kind.value) {
        Some(Typed::Proxy) => {
            if !hop.gives("address") {
                missing("address that it comes from", "add `address = [\"10.0.0.0/8\"]`", found);
            }
            if let Some(id) = &hop.spiffe_id {
                contradiction(id.span, "spiffe_id", found);
            }
        }
        Some(Typed::Countersign) => {
            if !hop.gives("spiffe_id") {
                missing("SPIFFE ID that it is known by", "add `spiffe_id = \"spiffe://…\"`", found);
            }
            if let Some(address) = &hop.address {
                contradiction(address.span, "address", found);
            }
        }
        None => {}
    }
    for id in items(&hop.spiffe_id) {
        known_trust_domain(file, id.value.trust_domain(), id.span, found);
    }
}
