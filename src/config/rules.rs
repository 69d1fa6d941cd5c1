//! Routes and rules as typed become routes and rules of the policy.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use ipnet::IpNet;
use url::Url;

use super::error::Diagnostics;
use super::file::File;
use super::file_policy::{self as typed, RoleNames, RuleMode};
use super::names::{Names, claim_tests, entries, items, refuse_reserved, stands_alone, texts};
use super::read::{Keyed, List};
use super::source::{At, Span};
use crate::clock::Timestamp;
use crate::identity::Name;
use crate::policy::condition::{Condition, MatchClaim, RoleTerm, RouteTerm, ServiceTerm};
use crate::policy::pattern::MethodSet;
use crate::policy::route::{Route, Variant};
use crate::policy::rule::{Effect, Mode, Rule};
use crate::policy::{IssuerId, RoleId, RouteId, ServiceId, UpstreamId};

/// What names in routes and rules can stand for.
pub struct Vocabulary {
    pub issuers: Names,
    pub services: Names,
    pub roles: Names,
    pub upstreams: Names,
}

/// A rule's effect and where it was typed.
pub type TypedRule<'f> = (Effect, &'f At<typed::Rule>);

pub fn routes(file: &File, known: &Vocabulary, found: &mut Diagnostics) -> (Names, Vec<Route>) {
    refuse_reserved("route", &file.route, found);
    let routes: Vec<_> = entries(&file.route)
        .iter()
        .map(|(name, table)| (name.value.to_string(), route(&name.value, &table.value, known, found)))
        .collect();
    Names::number("route", "unknown_route", routes)
}

fn route(name: &Name, typed: &typed::Route, known: &Vocabulary, found: &mut Diagnostics) -> Option<Route> {
    let upstream = find_upstream(&typed.upstream, known, found);
    let mut variants = Vec::new();
    for variant in items(&typed.variant) {
        let role = variant.value.role.as_ref();
        let role = role.and_then(|role| known.roles.find(role.value.as_str(), role.span, found));
        let upstream = find_upstream(&variant.value.upstream, known, found);
        variants.push(role.zip(upstream).map(|(role, upstream)| Variant { role: RoleId(role), upstream }));
    }
    let header = headers(&typed.header, found);
    if let Some(prefix) = &typed.strip_prefix
        && !is_plain_path(&prefix.value)
    {
        let message = format!("`{}` is no start of a path", prefix.value);
        found.error("bad_value", prefix.span, message, "write whole segments from `/` on, as `\"/api\"`");
    }
    for origin in typed.cors.iter().flat_map(|cors| items(&cors.value.origins)) {
        if !is_origin(&origin.value) {
            let message = format!("`{}` is no origin", origin.value);
            found.error(
                "bad_value",
                origin.span,
                message,
                "write scheme and host, as `\"https://shop.example\"`",
            );
        }
    }
    let path = match &typed.path {
        Some(path) => path.value.clone(),
        None => "/**".parse().ok()?,
    };
    Some(Route {
        name: name.clone(),
        host: items(&typed.host).iter().map(|host| host.value.clone()).collect(),
        path,
        header: header?,
        upstream: upstream?,
        variants: variants.into_iter().collect::<Option<_>>()?,
        shadow_until: typed.shadow_until.as_ref().map(|day| day.value.end()),
    })
}

/// Whole, non-empty segments without wildcards, since it is taken off byte for byte.
fn is_plain_path(text: &str) -> bool {
    text.strip_prefix('/').is_some_and(|rest| {
        rest.split('/')
            .all(|segment| !segment.is_empty() && !segment.contains(['*', '{', '}', '%', '?', '#', '\\']))
    })
}

/// As browsers send it (RFC 6454 §6.2): no path, no trailing slash, no wildcard.
fn is_origin(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| url.origin().is_tuple() && url.origin().ascii_serialization() == text)
}

fn find_upstream(name: &Option<At<Name>>, known: &Vocabulary, found: &mut Diagnostics) -> Option<UpstreamId> {
    let name = name.as_ref()?;
    known.upstreams.find(name.value.as_str(), name.span, found).map(UpstreamId)
}

fn headers(
    typed: &Option<At<Keyed<String, String>>>,
    found: &mut Diagnostics,
) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let mut headers = Vec::new();
    for (name, value) in entries(typed) {
        match (name.value.parse(), value.value.parse()) {
            (Ok(name), Ok(value)) => headers.push(Some((name, value))),
            (name_read, _) => {
                let span = if name_read.is_err() { name.span } else { value.span };
                let message = format!("`{}` is no header field that can be sent", name.value);
                found.error("bad_value", span, message, "write `header = { x-version = \"2\" }`");
                headers.push(None);
            }
        }
    }
    headers.into_iter().collect()
}

/// All rules by name; two of one name are an error.
pub fn typed_rules<'f>(file: &'f File, found: &mut Diagnostics) -> Vec<TypedRule<'f>> {
    let effects =
        [(Effect::Allow, &file.allow), (Effect::Deny, &file.deny), (Effect::Require, &file.require)];
    let mut rules: Vec<TypedRule<'f>> = effects
        .into_iter()
        .flat_map(|(effect, list)| items(list).iter().map(move |rule| (effect, rule)))
        .collect();
    let name = |rule: &TypedRule<'f>| rule.1.value.name.as_ref().map(|name| (name.value.as_str(), name.span));
    rules.sort_by_key(name);
    for pair in rules.windows(2) {
        if let [one, other] = pair
            && let (Some((name, first)), Some((other, second))) = (name(one), name(other))
            && name == other
        {
            let message = format!("a rule is called `{name}` already");
            let remedy = "give each rule its own name: records and denials cite it";
            found.conflict("duplicate_rule", (second, first), message, remedy);
        }
    }
    rules
}

/// `None` if something in it is an error: half a rule is wider than the rule.
pub fn rule(
    (effect, typed): TypedRule<'_>,
    known: &Vocabulary,
    routes: &Names,
    found: &mut Diagnostics,
) -> Option<Rule> {
    let rule = &typed.value;
    let read = rule.is_read();
    check_times(effect, rule, found);
    let conditions = conditions(rule, known, routes, found);
    if !read {
        return None;
    }
    Some(Rule {
        name: rule.name.as_ref()?.value.clone(),
        effect,
        conditions: conditions?,
        mode: match rule.mode.as_ref().map(|mode| mode.value) {
            Some(RuleMode::Shadow) => Mode::Shadow,
            Some(RuleMode::Enforce) | None => Mode::Enforce,
        },
        not_before: rule.not_before.as_ref().map_or(Timestamp::MIN, |day| day.value.start()),
        expires: rule.expires.as_ref().map_or(Timestamp::MAX, |day| day.value.end()),
        owner: rule.owner.as_ref().map(|owner| owner.value.clone()),
        ticket: rule.ticket.as_ref().map(|ticket| ticket.value.clone()),
    })
}

fn check_times(effect: Effect, rule: &typed::Rule, found: &mut Diagnostics) {
    let times = [("not_before", &rule.not_before), ("expires", &rule.expires)];
    for (key, day) in times {
        if let Some(day) = day
            && effect != Effect::Allow
        {
            let message = format!("`{key}` on a {} would open access by the clock", effect.as_str());
            let remedy = "take it out; put the times on the allow that is to begin or end";
            found.error("time_on_refusal", day.span, message, remedy);
        }
    }
    if let (Some(first), Some(last)) = (&rule.not_before, &rule.expires)
        && first.value.start() >= last.value.end()
    {
        let message = "this rule ends before it begins";
        found.conflict("contradiction", (last.span, first.span), message, "swap the two days");
    }
}

fn conditions(
    rule: &typed::Rule,
    known: &Vocabulary,
    routes: &Names,
    found: &mut Diagnostics,
) -> Option<Vec<Condition>> {
    let list = |list: &Option<At<List<_>>>| -> Vec<_> { items(list).iter().map(|item| item.value).collect() };
    let mut all = vec![
        rule.service.as_ref().map(|names| service_term(names, known, found).map(Condition::Service)),
        rule.issuer
            .as_ref()
            .map(|names| known.issuers.find_all(&names.value, IssuerId, found).map(Condition::Issuer)),
        rule.role.as_ref().map(|names| role_term(names, known, found).map(Condition::Role)),
        rule.actor.as_ref().map(|_| Some(Condition::Actor(list(&rule.actor)))),
        rule.on_behalf_of.as_ref().map(|_| Some(Condition::OnBehalfOf(list(&rule.on_behalf_of)))),
        rule.claim.as_ref().map(|_| Some(Condition::Claim(claim_tests(&rule.claim)))),
        rule.acr.as_ref().map(|_| Some(Condition::Acr(texts(&rule.acr)))),
        rule.max_age.as_ref().map(|age| Some(Condition::MaxAge(age.value.0))),
        rule.route.as_ref().map(|names| route_term(names, routes, found).map(Condition::Route)),
        rule.host.as_ref().map(|list| Some(Condition::Host(values(list)))),
        rule.method.as_ref().map(|list| methods(list, found).map(Condition::Method)),
        rule.path.as_ref().map(|list| Some(Condition::Path(values(list)))),
        rule.match_claim.as_ref().map(|pairs| Some(Condition::MatchClaim(match_claims(pairs)))),
        rule.grpc.as_ref().map(|list| Some(Condition::Grpc(values(list)))),
    ];
    all.push(rule.hop.as_ref().map(|list| hops(list, found).map(Condition::Hop)));
    all.push(rule.peer_ip.as_ref().map(|list| addresses(list, found).map(Condition::PeerIp)));
    all.push(rule.client_ip.as_ref().map(|list| addresses(list, found).map(Condition::ClientIp)));
    all.into_iter().flatten().collect()
}

fn values<T: Clone>(list: &At<List<T>>) -> Vec<T> {
    list.value.iter().map(|item| item.value.clone()).collect()
}

/// `any` or `none` where a list of names is that word alone.
fn word<'n>(names: &'n List<Name>, found: &mut Diagnostics) -> Result<Option<&'n str>, ()> {
    match names.as_slice() {
        [only] if only.value.is_reserved() => Ok(Some(only.value.as_str())),
        names => match names.iter().find(|name| name.value.is_reserved()) {
            Some(word) => {
                stands_alone(word.value.as_str(), word.span, found);
                Err(())
            }
            None => Ok(None),
        },
    }
}

fn service_term(names: &At<List<Name>>, known: &Vocabulary, found: &mut Diagnostics) -> Option<ServiceTerm> {
    match word(&names.value, found).ok()? {
        Some("any") => Some(ServiceTerm::Any),
        Some(_) => Some(ServiceTerm::None),
        None => known.services.find_all(&names.value, ServiceId, found).map(ServiceTerm::Named),
    }
}

fn role_term(names: &At<RoleNames>, known: &Vocabulary, found: &mut Diagnostics) -> Option<RoleTerm> {
    match &names.value {
        RoleNames::Any(names) => match word(names, found).ok()? {
            Some("any") => Some(RoleTerm::Any),
            Some(_) => Some(RoleTerm::None),
            None => known.roles.find_all(names, RoleId, found).map(RoleTerm::AnyOf),
        },
        RoleNames::All(names) => known.roles.find_all(names, RoleId, found).map(RoleTerm::AllOf),
    }
}

fn route_term(names: &At<List<Name>>, routes: &Names, found: &mut Diagnostics) -> Option<RouteTerm> {
    match word(&names.value, found).ok()? {
        Some("any") => Some(RouteTerm::Any),
        Some(word) => {
            let message = format!("`{word}` is no route");
            found.error("unknown_route", names.span, message, "name a route, or write `route = \"any\"`");
            None
        }
        None => routes.find_all(&names.value, RouteId, found).map(RouteTerm::Named),
    }
}

fn methods(list: &At<List<String>>, found: &mut Diagnostics) -> Option<MethodSet> {
    let one = |method: &At<String>, found: &mut Diagnostics| match MethodSet::new([method.value.as_str()]) {
        Ok(_) => true,
        Err(error) => {
            let message = format!("`{}` is no method for a rule: {error}", method.value);
            found.error("bad_value", method.span, message, "write methods in upper case, as `\"GET\"`");
            false
        }
    };
    let good = list.value.iter().fold(true, |good, method| one(method, found) && good);
    if good { MethodSet::new(list.value.iter().map(|method| method.value.as_str())).ok() } else { None }
}

fn match_claims(pairs: &At<Keyed<String, crate::policy::condition::ClaimPath>>) -> Vec<MatchClaim> {
    let pair = |(segment, claim): &(At<String>, At<_>)| MatchClaim {
        segment: segment.value.as_str().into(),
        claim: Clone::clone(&claim.value),
    };
    pairs.value.iter().map(pair).collect()
}

fn hops(list: &At<List<String>>, found: &mut Diagnostics) -> Option<Vec<Arc<str>>> {
    let mut hops = Vec::new();
    for hop in &list.value {
        if matches!(hop.value.as_str(), "direct" | "local") {
            hops.push(Some(hop.value.as_str().into()));
        } else {
            let message = format!("no hop is called `{}`", hop.value);
            found.error("unknown_hop", hop.span, message, "write `\"direct\"` or `\"local\"`");
            hops.push(None);
        }
    }
    hops.into_iter().collect()
}

/// Ranges as they were meant: an IPv4-mapped one would never match, and bits behind the prefix
/// are a slip of the pen in one or the other.
fn addresses(list: &At<List<IpNet>>, found: &mut Diagnostics) -> Option<Vec<IpNet>> {
    let mut ranges = Vec::new();
    for range in &list.value {
        let remedy = match range.value {
            IpNet::V6(net) if net.addr().to_ipv4_mapped().is_some() => {
                Some("write the IPv4 range: mapped addresses are IPv4 here".to_owned())
            }
            net if net.trunc() != net => Some(format!("write `{}`", net.trunc())),
            _ => None,
        };
        match remedy {
            Some(remedy) => {
                refuse_range(range.span, range.value, remedy, found);
                ranges.push(None);
            }
            None => ranges.push(Some(range.value)),
        }
    }
    ranges.into_iter().collect()
}

fn refuse_range(span: Span, range: IpNet, remedy: String, found: &mut Diagnostics) {
    found.error("bad_value", span, format!("`{range}` is no range of addresses"), remedy);
}
