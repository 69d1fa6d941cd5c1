//! What looks wrong around the policy: listeners, trust domains and hops that serve nothing, and what is open to
//! a network that should not be.

use std::net::SocketAddr;

use super::error::{Diagnostic, Diagnostics};
use super::file::{ClientCertificate, File, HopKind, Listener, TrustedHop};
use super::hops;
use super::lints::{self, Subject};
use super::names::{entries, items};
use super::source::{At, Span};
use crate::clock::Timestamp;
use crate::identity::{Direction, Name, TrustDomain};
use crate::policy::condition::{RoleTerm, ServiceTerm};
use crate::policy::lint::Code;
use crate::policy::route::Route;
use crate::policy::rule::Effect;
use crate::policy::{PolicyParts, RouteId, UpstreamId};
use crate::tls::OwnCertificate;
use crate::upstream::credential::CredentialKind;

/// Ranges that are wider than a network of one owner is.
const WIDEST_IPV4: u8 = 8;
const WIDEST_IPV6: u8 = 32;

pub(super) struct Look<'a> {
    pub file: &'a File,
    pub found: &'a mut Diagnostics,
}

/// Adds what is found, but for what the file allows.
pub fn look(
    file: &File,
    own: Option<&OwnCertificate>,
    parts: &PolicyParts,
    now: Timestamp,
    found: &mut Diagnostics,
) {
    let mut look = Look { file, found };
    look.admin();
    look.trust_domains();
    look.hops();
    look.listeners(parts, now);
    look.directions(parts, own);
    look.exchanges(parts);
}

impl Look<'_> {
    /// Whether a caller who is waived is wanted after all.
    fn exchanges(&mut self, parts: &PolicyParts) {
        for (name, upstream) in entries(&self.file.upstream) {
            let credential = upstream.value.credential.as_ref().and_then(|credential| credential.value.kind);
            let Some(kind) = credential.filter(|kind| kind.value == CredentialKind::Exchange) else {
                continue;
            };
            let leads_there = |id: UpstreamId| parts.upstreams[id.index()] == name.value;
            let led = |route: &Route| {
                leads_there(route.upstream)
                    || route.variants.iter().any(|variant| leads_there(variant.upstream))
            };
            let waiving = parts
                .rules
                .iter()
                .filter(|rule| rule.effect == Effect::Allow && rule.role() == Some(&RoleTerm::None));
            let found = waiving
                .flat_map(|rule| parts.routes.iter().zip((0..).map(RouteId)).map(move |it| (rule, it)));
            let found = found.filter(|(rule, (route, id))| led(route) && parts.may_reach(rule, *id));
            if let Some((rule, (route, _))) = found.take(1).next() {
                let message = format!(
                    "`{}` asks for no token on route `{}`, and upstream `{}` takes one that the caller's is exchanged for: who has none is refused",
                    rule.name, route.name, name.value
                );
                let remedy = "ask for a `role` there, or show the upstream a token of this proxy, by `client_credentials`";
                let subject = Some(Subject::Upstream(&name.value));
                self.add(Code::ExchangeWithoutCaller, kind.span, subject, message, remedy);
            }
        }
    }

    pub(super) fn add(
        &mut self,
        code: Code,
        span: Span,
        subject: Option<Subject<'_>>,
        message: String,
        remedy: &str,
    ) {
        if !lints::is_allowed(self.file, code.as_str(), subject) {
            let (severity, code, remedy) = (code.severity(), code.as_str(), remedy.to_owned());
            self.found.push(Diagnostic { severity, code, span, message, remedy, related: None });
        }
    }

    fn admin(&mut self) {
        let Some(address) = self.file.admin.as_ref().and_then(|admin| admin.value.address.as_ref()) else {
            return;
        };
        if !is_loopback(address) {
            let message = format!(
                "`{}` shows metrics and status to the network, without asking who reads",
                address.value
            );
            let remedy = "listen on loopback; `health_address` is for load balancers, and shows neither";
            self.add(Code::AdminExposed, address.span, None, message, remedy);
        }
    }

    fn trust_domains(&mut self) {
        for (name, _) in entries(&self.file.trust_domain) {
            if !is_named(self.file, &name.value) {
                let message = format!(
                    "trust domain `{}` is never used: no service and no upstream is of it",
                    name.value
                );
                let remedy = "remove it, or name its workloads: whom no `[service]` names is refused";
                self.add(
                    Code::NameUnused,
                    name.span,
                    Some(Subject::TrustDomain(&name.value)),
                    message,
                    remedy,
                );
            }
        }
    }

    fn hops(&mut self) {
        let asked = entries(&self.file.listener).iter().any(|(_, it)| it.value.proxy_protocol.is_some());
        let speaks = |hop: &At<TrustedHop>| hop.value.kind.is_some_and(|kind| kind.value == HopKind::Proxy);
        for (name, _) in entries(&self.file.trusted_hop).iter().filter(|(_, hop)| !asked && speaks(hop)) {
            let message = format!("hop `{}` is never used: no listener has `proxy_protocol`", name.value);
            let remedy = "remove it, or add `proxy_protocol = \"v2\"` to the listener that it connects to";
            self.add(Code::NameUnused, name.span, Some(Subject::TrustedHop(&name.value)), message, remedy);
        }
        let telling = |hop: &At<TrustedHop>| hops::tells_of_others(&hop.value);
        for (name, hop) in entries(&self.file.trusted_hop).iter().filter(|(_, hop)| telling(hop)) {
            self.hop_that_tells(name, &hop.value);
        }
    }

    fn hop_that_tells(&mut self, name: &At<Name>, hop: &TrustedHop) {
        let subject = Some(Subject::TrustedHop(&name.value));
        let sees_it = |listener: &Listener| match &hop.address {
            // Who comes by the PROXY protocol, or must show a certificate, is not known by its address.
            Some(_) => !demands_certificates(listener) && listener.proxy_protocol.is_none(),
            None => asks_for_certificates(listener),
        };
        if !entries(&self.file.listener).iter().any(|(_, listener)| sees_it(&listener.value)) {
            let (message, remedy) = match &hop.address {
                Some(_) => (
                    "every listener demands a certificate or the PROXY protocol",
                    "let it come to a listener with `client_certificate = \"none\"` or `\"optional\"`",
                ),
                None => (
                    "no listener asks for certificates",
                    "let it come to a listener with `client_certificate`, and show its own",
                ),
            };
            let message = format!("hop `{}` is never used: {message}", name.value);
            self.add(Code::NameUnused, name.span, subject, message, remedy);
        }
        for range in items(&hop.address) {
            let widest = if range.value.addr().is_ipv4() { WIDEST_IPV4 } else { WIDEST_IPV6 };
            if range.value.prefix_len() < widest {
                let message = format!("whoever comes from `{}` may say who asks", range.value);
                let remedy = "give the subnets of the load balancer alone";
                self.add(Code::HopWide, range.span, subject, message, remedy);
            }
        }
    }

    fn listeners(&mut self, parts: &PolicyParts, now: Timestamp) {
        let waived = parts
            .rules
            .iter()
            .any(|rule| rule.effect == Effect::Allow && rule.service() == Some(&ServiceTerm::None));
        let in_shadow = parts.routes.iter().any(|route| route.shadow_until.is_some_and(|until| until > now));
        let is_told = hops::told(self.file).next().is_some();
        // Whoever verifies what we assert fetches our keys.
        let gives_keys = self.file.assertion.is_some();
        for (name, listener) in entries(&self.file.listener) {
            let subject = Some(Subject::Listener(&name.value));
            let listener = &listener.value;
            if is_outbound(listener) {
                continue;
            }
            if !asks_for_certificates(listener) && !waived && !in_shadow && !is_told && !gives_keys {
                let span = listener.client_certificate.map_or(name.span, |mode| mode.span);
                let message = format!(
                    "listener `{}` takes no certificates, and every allow wants one: all that comes in there is refused",
                    name.value
                );
                let remedy = "ask for certificates there, or write an allow with `service = \"none\"`";
                self.add(Code::ListenerClosed, span, subject, message, remedy);
            }
            if let (Some(allow), Some(address)) = (&listener.allow_plaintext, &listener.address)
                && allow.value
                && !is_loopback(address)
            {
                let message =
                    format!("listener `{}` takes tokens in plain text from beyond this machine", name.value);
                let remedy = "take `allow_plaintext` out, or listen on loopback";
                self.add(Code::PlaintextExposed, allow.span, subject, message, remedy);
            }
        }
    }
}

pub(super) fn is_outbound(listener: &Listener) -> bool {
    listener.mode.is_some_and(|mode| mode.value == Direction::Outbound)
}

fn is_loopback(address: &At<SocketAddr>) -> bool {
    address.value.ip().to_canonical().is_loopback()
}

/// Whether somebody of the trust domain is named: who comes, or where requests go.
fn is_named(file: &File, domain: &TrustDomain) -> bool {
    let services = entries(&file.service).iter().map(|(_, service)| &service.value);
    let mut of_services = services.flat_map(|service| {
        let spiffe = items(&service.spiffe_id).iter().map(|id| id.value.trust_domain());
        spiffe.chain(service.trust_domain.as_ref().map(|domain| &domain.value))
    });
    let upstreams = entries(&file.upstream).iter().flat_map(|(_, it)| items(&it.value.server_spiffe_id));
    of_services.any(|own| own == domain) || upstreams.into_iter().any(|id| id.value.trust_domain() == domain)
}

fn demands_certificates(listener: &Listener) -> bool {
    let mode = listener.client_certificate.map(|mode| mode.value);
    asks_for_certificates(listener) && mode != Some(ClientCertificate::Optional)
}

fn asks_for_certificates(listener: &Listener) -> bool {
    let plaintext = listener.allow_plaintext.is_some_and(|allow| allow.value);
    let off = listener.client_certificate.is_some_and(|mode| mode.value == ClientCertificate::None);
    !plaintext && !off
}
