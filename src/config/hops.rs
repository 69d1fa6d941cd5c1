//! `[trusted_hop.NAME]`: whose word on somebody else is taken.

use ipnet::IpNet;

use super::error::Diagnostics;
use super::file::{File, HopKind as Typed, MutualAuthentication, TrustedHop as Table};
use super::names::{entries, items, known_trust_domain, refuse_reserved};
use super::ranges::range;
use super::source::{At, Span};
use crate::identity::{Name, SpiffePattern};
use crate::policy::cells::Shape;
use crate::proxy::hop::{CertificateHeader, HopKind, KnownBy, TrustedHop};

/// The ways in which a peer is learned that is told by no hop.
pub const WITHOUT_HOP: [&str; 2] = ["direct", "local"];

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
    let (mut ranges, mut ids) = (Vec::new(), Vec::new());
    for (name, hop) in entries(&file.trusted_hop) {
        check(name, &hop.value, file, found);
        let Some(kind) = kind(&hop.value) else { continue };
        let spiffe_ids = spiffe_ids(&hop.value, &mut ids, found);
        let known_by = if spiffe_ids.is_empty() {
            KnownBy::Address(addresses(&hop.value, &mut ranges, found))
        } else {
            KnownBy::SpiffeId(spiffe_ids)
        };
        hops.push(TrustedHop { name: name.value.clone(), kind, known_by });
    }
    hops
}

/// The names of those that tell their own client's certificate.
pub fn told(file: &File) -> impl Iterator<Item = &Name> {
    let hops = entries(&file.trusted_hop).iter().filter(|(_, hop)| tells_certificates(&hop.value));
    hops.map(|(name, _)| &name.value)
}

/// Whether it tells its own client's certificate.
pub fn tells_certificates(hop: &Table) -> bool {
    matches!(kind(hop), Some(HopKind::Certificate(header)) if !header.names().is_empty())
}

/// Whether it tells within requests of whom it speaks for.
pub fn tells_of_others(hop: &Table) -> bool {
    matches!(kind(hop), Some(HopKind::Certificate(_)))
}

/// Whether some hop is a load balancer at which people may log in.
pub fn has_alb(file: &File) -> bool {
    let mut kinds = entries(&file.trusted_hop).iter().filter_map(|(_, hop)| hop.value.kind);
    kinds.any(|kind| kind.value == Typed::Alb)
}

/// `None` for those that tell nothing within requests.
fn kind(hop: &Table) -> Option<HopKind> {
    let mode = hop.mutual_authentication.as_ref().map(|it| it.value);
    let alb = match mode.unwrap_or(MutualAuthentication::Passthrough) {
        MutualAuthentication::Passthrough => CertificateHeader::AlbChain,
        MutualAuthentication::Verify => CertificateHeader::AlbLeaf,
        MutualAuthentication::Off => CertificateHeader::AlbNone,
    };
    Some(match hop.kind?.value {
        Typed::Proxy => return None,
        Typed::Countersign => HopKind::Countersign,
        Typed::Alb => HopKind::Certificate(alb),
        Typed::Envoy => HopKind::Certificate(CertificateHeader::Envoy),
        Typed::Rfc9440 => HopKind::Certificate(CertificateHeader::Rfc9440),
    })
}

/// Its ranges, which share no address with those of others: one connection is of one hop.
fn addresses(hop: &Table, others: &mut Vec<(IpNet, Span)>, found: &mut Diagnostics) -> Vec<IpNet> {
    let mut own = Vec::new();
    for typed in items(&hop.address) {
        let Some(net) = range(typed, found) else { continue };
        if let Some((other, span)) =
            others.iter().find(|(other, _)| other.contains(&net) || net.contains(other))
        {
            let message = format!("`{net}` has addresses of `{other}`, which is another hop's");
            let remedy = "give each hop its own ranges: which header is read goes by them";
            found.conflict("contradiction", (typed.span.max(*span), typed.span.min(*span)), message, remedy);
        }
        own.push((net, typed.span));
    }
    others.extend(&own);
    own.into_iter().map(|(net, _)| net).collect()
}

/// Its SPIFFE IDs, none of which is that of another hop, either.
fn spiffe_ids<'f>(
    hop: &'f Table,
    others: &mut Vec<&'f At<SpiffePattern>>,
    found: &mut Diagnostics,
) -> Vec<SpiffePattern> {
    let own = items(&hop.spiffe_id);
    for id in own {
        let meets = |other: &&&At<SpiffePattern>| {
            other.value.trust_domain() == id.value.trust_domain()
                && Shape::of_spiffe(&other.value).overlaps(&Shape::of_spiffe(&id.value))
        };
        if let Some(other) = others.iter().find(meets) {
            let message =
                format!("`{}` has workloads of `{}`, which is another hop's", id.value, other.value);
            let remedy = "give each hop its own SPIFFE IDs: what is read of its word goes by them";
            found.conflict(
                "contradiction",
                (id.span.max(other.span), id.span.min(other.span)),
                message,
                remedy,
            );
        }
    }
    others.extend(own);
    own.iter().map(|id| id.value.clone()).collect()
}

/// Each hop is known by one thing, and by that alone.
fn check(name: &At<Name>, hop: &Table, file: &File, found: &mut Diagnostics) {
    const ADDRESS: &str = "add `address = [\"10.0.0.0/24\"]`";
    const SPIFFE_ID: &str = "add `spiffe_id = \"spiffe://…\"`";
    let missing = |what: &str, remedy: &str, found: &mut Diagnostics| {
        found.error("missing_key", name.span, format!("hop `{}` has no {what}", name.value), remedy);
    };
    let contradiction = |span, message: &str, found: &mut Diagnostics| {
        found.error("contradiction", span, message, "take it out");
    };
    if WITHOUT_HOP.contains(&name.value.as_str()) {
        let message = format!("`{}` is how a peer is called that no hop tells", name.value);
        found.error("reserved_name", name.span, message, "give the hop another name");
    }
    let not_by = |key: &str| format!("a hop of this kind is not known by its `{key}`");
    let Some(kind) = hop.kind.map(|kind| kind.value) else { return };
    match kind {
        Typed::Proxy | Typed::Alb => {
            if !hop.gives("address") {
                missing("address that it comes from", ADDRESS, found);
            }
            if let Some(id) = &hop.spiffe_id {
                contradiction(id.span, &not_by("spiffe_id"), found);
            }
        }
        Typed::Countersign => {
            if !hop.gives("spiffe_id") {
                missing("SPIFFE ID that it is known by", SPIFFE_ID, found);
            }
            if let Some(address) = &hop.address {
                contradiction(address.span, &not_by("address"), found);
            }
        }
        Typed::Envoy | Typed::Rfc9440 => match (&hop.address, &hop.spiffe_id) {
            (Some(address), Some(id)) => found.conflict(
                "contradiction",
                (address.span.max(id.span), address.span.min(id.span)),
                "a hop is known by its address or by its own certificate",
                "take `address` out: the certificate says more",
            ),
            _ if !hop.gives("address") && !hop.gives("spiffe_id") => {
                missing("SPIFFE ID or address that it is known by", SPIFFE_ID, found);
            }
            _ => {}
        },
    }
    if let Some(mode) = &hop.mutual_authentication
        && kind != Typed::Alb
    {
        contradiction(mode.span, "`mutual_authentication` is said of load balancers of kind `alb`", found);
    }
    if tells_certificates(hop) && entries(&file.trust_domain).is_empty() {
        let remedy =
            "add `[trust_domain.\"…\"]` with its `ca`: certificates that a hop tells are verified here";
        missing("CA that vouches for what it tells", remedy, found);
    }
    for id in items(&hop.spiffe_id) {
        known_trust_domain(file, id.value.trust_domain(), id.span, found);
    }
}
