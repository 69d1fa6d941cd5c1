//! Upstreams: where requests may go, and who must be there; likewise at issuers that are workloads.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use url::{Host, Url};

use super::credentials::credential;
use super::elsewhere::Pem;
use super::error::Diagnostics;
use super::file::{File, Upstream};
use super::material::{Material, TypedTrustDomain};
use super::names::{Names, entries, items, known_trust_domain, refuse_reserved};
use super::settings::seconds;
use super::source::At;
use crate::fetch::address::is_metadata;
use crate::identity::{Name, SpiffePattern};
use crate::tls::client::ExpectedServer;
use crate::tls::{Own, Roots, Trust, TrustDomainSettings};
use crate::token::IssuerSettings;
use crate::upstream::credential::CredentialSettings;

/// `[upstream.NAME]`, as far as it needs no live connection.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    pub name: Name,
    /// URL and weight of each; never none.
    pub servers: Vec<(String, NonZeroU32)>,
    pub tls: UpstreamTls,
    /// The `aud` of assertions.
    pub audience: Arc<str>,
    /// Whether it is told who asks.
    pub identity_headers: bool,
    pub connect_timeout: Duration,
    pub first_byte_timeout: Duration,
    pub idle_timeout: Duration,
    pub eject_after_failures: u32,
    pub credential: CredentialSettings,
}

/// How https servers are verified. Equal if and only if whom we expect, whom we trust and what we
/// present are the same.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamTls {
    pub expected: ExpectedServer,
    /// Presented to servers that `ca` or `server_spiffe_id` vouches for, never to public ones.
    pub own: Option<Own>,
}

/// An issuer's server that is known by its SPIFFE ID.
#[derive(Clone, Debug)]
pub struct IssuerServer {
    pub issuer: Name,
    pub tls: UpstreamTls,
}

/// All upstreams, by name; fewer after an error.
pub fn upstreams(
    file: &File,
    own: Option<&Own>,
    trust: Option<&Arc<Trust>>,
    issuers: (&Names, &[IssuerSettings]),
    material: &mut Material<'_>,
    found: &mut Diagnostics,
) -> Vec<UpstreamConfig> {
    refuse_reserved("upstream", &file.upstream, found);
    let mut upstreams = Vec::new();
    for (name, typed) in entries(&file.upstream) {
        let typed = &typed.value;
        check_servers(typed, found);
        for id in items(&typed.server_spiffe_id) {
            if !typed.gives("ca") {
                known_trust_domain(file, id.value.trust_domain(), id.span, found);
            }
        }
        let credential = credential(typed, own, issuers, material, found);
        let Some(expected) = expected(typed, trust, material, found) else { continue };
        let Some(credential) = credential else { continue };
        let known_to_us = typed.gives("ca") || typed.gives("server_spiffe_id");
        upstreams.push(UpstreamConfig {
            name: name.value.clone(),
            servers: servers(typed),
            tls: UpstreamTls { expected, own: own.filter(|_| known_to_us).cloned() },
            audience: audience(typed).unwrap_or(name.value.as_str()).into(),
            identity_headers: typed.identity_headers.is_none_or(|told| told.value),
            connect_timeout: seconds(&typed.connect_timeout, 5),
            first_byte_timeout: seconds(&typed.first_byte_timeout, 30),
            idle_timeout: seconds(&typed.idle_timeout, 60),
            eject_after_failures: typed.eject_after_failures.map_or(5, |failures| failures.value),
            credential,
        });
    }
    upstreams
}

fn audience(typed: &Upstream) -> Option<&str> {
    Some(typed.assertion_audience.as_ref()?.value.as_str())
}

fn servers(typed: &Upstream) -> Vec<(String, NonZeroU32)> {
    let weights = items(&typed.weight).iter().filter_map(|weight| NonZeroU32::new(weight.value));
    let weights = weights.chain(std::iter::repeat(NonZeroU32::MIN));
    items(&typed.server).iter().map(|server| server.value.clone()).zip(weights).collect()
}

fn expected(
    typed: &Upstream,
    trust: Option<&Arc<Trust>>,
    material: &mut Material<'_>,
    found: &mut Diagnostics,
) -> Option<ExpectedServer> {
    let spiffe_ids = items(&typed.server_spiffe_id);
    let encrypted = items(&typed.server).iter().any(|server| server.value.starts_with("https:"));
    match &typed.ca {
        ca if !spiffe_ids.is_empty() => workload(ca.as_ref(), spiffe_ids, trust, material, found),
        Some(ca) => Some(ExpectedServer::Named(Some(material.server_ca(ca, found)?))),
        None if encrypted => Some(ExpectedServer::Named(None)),
        // Nobody: where no server speaks TLS, the system's CAs need not be there.
        None => Some(ExpectedServer::Named(Some(Roots::none()))),
    }
}

/// A server that is known by its SPIFFE ID, which `ca` vouches for, else its trust domain.
fn workload(
    ca: Option<&At<Pem>>,
    spiffe_ids: &[At<SpiffePattern>],
    trust: Option<&Arc<Trust>>,
    material: &mut Material<'_>,
    found: &mut Diagnostics,
) -> Option<ExpectedServer> {
    let patterns = spiffe_ids.iter().map(|id| id.value.clone()).collect();
    let Some(ca) = ca else {
        return Some(ExpectedServer::Workload { trust: Arc::clone(trust?), spiffe_ids: patterns });
    };
    let first = spiffe_ids.first()?;
    let name = first.value.trust_domain();
    if let Some(other) = spiffe_ids.iter().find(|id| id.value.trust_domain() != name) {
        let message = "one `ca` cannot vouch for two trust domains";
        let remedy = "take `ca` out, and add a `[trust_domain]` for each";
        found.error("contradiction", other.span, message, remedy);
        return None;
    }
    let settings = TrustDomainSettings {
        name: name.clone(),
        ca: Some(material.source(&ca.value)),
        crl: None,
        allow_dns_names: false,
    };
    let typed = TypedTrustDomain { settings, name: first.span, ca: Some(ca), crl: None };
    let trust = material.trust(&[typed], found)?;
    Some(ExpectedServer::Workload { trust, spiffe_ids: patterns })
}

/// The servers of issuers that are known by their SPIFFE IDs.
pub fn issuer_servers(
    file: &File,
    own: Option<&Own>,
    trust: Option<&Arc<Trust>>,
    material: &mut Material<'_>,
    found: &mut Diagnostics,
) -> Vec<IssuerServer> {
    let mut servers = Vec::new();
    for (name, typed) in entries(&file.issuer) {
        let (typed, ids) = (&typed.value, items(&typed.value.server_spiffe_id));
        let Some(first) = ids.first() else { continue };
        for id in ids.iter().filter(|_| !typed.gives("ca")) {
            known_trust_domain(file, id.value.trust_domain(), id.span, found);
        }
        if let Some(asked) = &typed.introspection {
            let message = "what is asked about tokens there is asked of a server that is known by its name";
            let places = (asked.span.max(first.span), asked.span.min(first.span));
            found.conflict("contradiction", places, message, "take `server_spiffe_id` out");
        }
        if let Some(expected) = workload(typed.ca.as_ref(), ids, trust, material, found) {
            let tls = UpstreamTls { expected, own: own.cloned() };
            servers.push(IssuerServer { issuer: name.value.clone(), tls });
        }
    }
    servers
}

fn check_servers(upstream: &Upstream, found: &mut Diagnostics) {
    for server in items(&upstream.server) {
        check_server(server, upstream, found);
    }
    if let (Some(servers), Some(weights)) = (&upstream.server, &upstream.weight)
        && servers.value.len() != weights.value.len()
    {
        let (servers, weights_given) = (servers.value.len(), weights.value.len());
        let message = format!("{weights_given} weights for {servers} servers");
        found.error("contradiction", weights.span, message, "give one weight for each server, in order");
    }
}

fn check_server(server: &At<String>, upstream: &Upstream, found: &mut Diagnostics) {
    let refuse = |why: &str, found: &mut Diagnostics| {
        let message = format!("`{}` is no server: {why}", server.value);
        let remedy = "write `http://host:port`, `h2c://host:port` or `https://host:port`";
        found.error("bad_value", server.span, message, remedy);
    };
    let url = match Url::parse(&server.value) {
        Ok(url) => url,
        Err(error) => return refuse(&error.to_string(), found),
    };
    let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
    let anonymous = url.username().is_empty() && url.password().is_none();
    let literal = match url.host() {
        Some(Host::Ipv4(ip)) => Some(IpAddr::from(ip)),
        Some(Host::Ipv6(ip)) => Some(IpAddr::from(ip)),
        // `h2c://` is not one of the schemes of which `url` reads addresses.
        Some(Host::Domain(name)) => name.parse().ok(),
        None => None,
    };
    match url.scheme() {
        _ if literal.is_some_and(is_metadata) => {
            refuse("a link-local or metadata address is never dialled", found);
        }
        _ if !url.has_host() => refuse("it names no host", found),
        _ if !bare || !anonymous => refuse("it has more than a host and a port", found),
        "https" => {}
        "http" | "h2c" => {
            if let Some(id) = &upstream.server_spiffe_id {
                let message = format!("`{}` shows no certificate to compare with", server.value);
                found.error("contradiction", id.span, message, "write `https://…`, or take it out");
            }
        }
        scheme => refuse(&format!("`{scheme}` is not spoken"), found),
    }
}
