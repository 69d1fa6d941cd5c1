//! Whether what comes in, and what the local application sends, has somewhere to go, and comes from whom the rules
//! speak of. Whoever sends out is ourselves.

use super::file::{File, Listener};
use super::file_policy::Rule as TypedRule;
use super::lints::Subject;
use super::names::{entries, items};
use super::source::At;
use super::surroundings::{Look, is_outbound};
use crate::identity::{Direction, Peer};
use crate::policy::condition::ServiceTerm;
use crate::policy::lint::Code;
use crate::policy::role::PeerPattern;
use crate::policy::rule::{Effect, Rule};
use crate::policy::{PolicyParts, RouteId};
use crate::tls::OwnCertificate;

impl Look<'_> {
    /// Whether what comes in somewhere has somewhere to go, and the other way around.
    pub fn directions(&mut self, parts: &PolicyParts, own: Option<&OwnCertificate>) {
        let listeners = entries(&self.file.listener);
        for (route, (name, typed)) in parts.routes.iter().zip(entries(&self.file.route)) {
            let served = |listener: &Listener| is_outbound(listener) == outbound(route.direction);
            if listeners.is_empty() || listeners.iter().any(|(_, listener)| served(&listener.value)) {
                continue;
            }
            let (span, kind) = match &typed.value.mode {
                Some(mode) if outbound(mode.value) => (mode.span, "outbound"),
                _ => (name.span, "inbound"),
            };
            let message = format!("route `{}` is never used: no listener is {kind}", name.value);
            let remedy = "give it the `mode` of the listener that its requests come to, or add a listener";
            self.add(Code::NameUnused, span, Some(Subject::Route(&name.value)), message, remedy);
        }
        let ourselves = own.and_then(OwnCertificate::as_local_peer);
        if let Some(ourselves) =
            ourselves.as_ref().filter(|_| listeners.iter().any(|(_, it)| is_outbound(&it.value)))
        {
            self.senders(parts, ourselves);
        }
        for (name, _) in listeners.iter().filter(|(_, listener)| is_outbound(&listener.value)) {
            let subject = Some(Subject::Listener(&name.value));
            if !parts.routes.iter().any(|route| outbound(route.direction)) {
                let message = format!("listener `{}` leads nowhere: no route is outbound", name.value);
                let remedy = "add `mode = \"outbound\"` to the routes that the local application may ask for";
                self.add(Code::ListenerClosed, name.span, subject, message, remedy);
            }
            let Some(ourselves) = &ourselves else { continue };
            let names = |identity: &PeerPattern| identity.matches(&ourselves.name);
            if !parts.services.iter().any(|service| service.identities.iter().any(names)) {
                let message = format!(
                    "listener `{}` speaks as `{}`, which no service names: all that comes in there is refused",
                    name.value, ourselves.name
                );
                let remedy = "add a `[service.NAME]` with this `spiffe_id`, for rules to speak of";
                self.add(Code::ListenerClosed, name.span, subject, message, remedy);
            }
        }
    }

    /// Whether rules for what goes out speak of us, and routes that are for us alone go out.
    fn senders(&mut self, parts: &PolicyParts, ourselves: &Peer) {
        let is_us = |rule: &Rule| services_are(rule, parts, ourselves);
        for rule in parts.rules.iter().filter(|rule| is_us(rule).is_some_and(|(some, _)| !some)) {
            let mut reached = routes_of(rule, parts).map(|id| parts.routes[id.index()].direction).peekable();
            if reached.peek().is_none() || !reached.all(outbound) {
                continue;
            }
            let Some(typed) = typed(self.file, &rule.name) else { continue };
            let span = typed.value.span_of("service").unwrap_or(typed.span);
            let message = format!(
                "`{}` never holds: what goes out comes from `{}`, and its `service` is another",
                rule.name, ourselves.name
            );
            let remedy = "name ourselves, or the inbound routes that were meant";
            self.add(Code::RuleElsewhere, span, Some(Subject::Rule(&rule.name)), message, remedy);
        }
        for ((name, typed), id) in entries(&self.file.route).iter().zip((0..).map(RouteId)) {
            let route = &parts.routes[id.index()];
            let upstream = &parts.upstreams[route.upstream.index()];
            let to_a_workload = entries(&self.file.upstream).iter().any(|(name, typed)| {
                name.value == *upstream && !items(&typed.value.server_spiffe_id).is_empty()
            });
            let mut allows = parts
                .rules
                .iter()
                .filter(|rule| rule.effect == Effect::Allow && parts.may_reach(rule, id))
                .peekable();
            let for_us_alone =
                allows.peek().is_some() && allows.all(|rule| is_us(rule).is_some_and(|(_, all)| all));
            if !outbound(route.direction) && to_a_workload && for_us_alone {
                let message = format!(
                    "route `{}` is for ourselves alone, and leads to another workload, yet takes what others send",
                    name.value
                );
                let span = typed.value.mode.map_or(name.span, |mode| mode.span);
                let remedy = "add `mode = \"outbound\"`, for what the local application sends";
                self.add(Code::RouteInbound, span, Some(Subject::Route(&name.value)), message, remedy);
            }
        }
    }
}

fn outbound(direction: Direction) -> bool {
    direction == Direction::Outbound
}

fn routes_of<'p>(rule: &'p Rule, parts: &'p PolicyParts) -> impl Iterator<Item = RouteId> {
    (0..).map(RouteId).take(parts.routes.len()).filter(move |id| parts.may_reach(rule, *id))
}

/// Whether some of the services that a rule names are us, and whether all are; `None` where it names none.
fn services_are(rule: &Rule, parts: &PolicyParts, ourselves: &Peer) -> Option<(bool, bool)> {
    let Some(ServiceTerm::Named(named)) = rule.service() else { return None };
    let names = |identity: &PeerPattern| identity.matches(&ourselves.name);
    let mut are = named.iter().map(|id| parts.services[id.index()].identities.iter().any(names));
    Some((are.clone().any(|is| is), are.all(|is| is)))
}

fn typed<'f>(file: &'f File, name: &str) -> Option<&'f At<TypedRule>> {
    let mut all = [&file.allow, &file.deny, &file.require].into_iter().flat_map(items);
    all.find(|rule| rule.value.name.as_ref().is_some_and(|typed| typed.value == name))
}
