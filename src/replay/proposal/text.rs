//! The proposal as TOML that a person can review: each rule with what it rests on, and what it would allow beyond that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use toml::Value;

use super::doubt::{beyond, look_twice};
use super::rule::{Actor, Need, Peer, Rule, grpc_name};
use super::shape::{Segment, Shape};
use crate::audit::line::is_misleading;
use crate::config::Config;
use crate::policy::role::CarriedClients;

/// What is proposed.
#[derive(Debug)]
pub struct Proposal {
    /// To stand in a file beside the configuration.
    pub toml: String,
    pub rules: Vec<RuleAbout>,
}

/// What a rule rests on.
#[derive(Debug)]
pub struct RuleAbout {
    pub name: String,
    pub requests: u64,
    pub callers: usize,
    pub first: String,
    pub last: String,
    /// What it would allow that was not seen.
    pub beyond: Vec<String>,
    /// What may be a mistake or an attack that happened, and should then not be allowed.
    pub look_twice: Vec<String>,
}

/// Names that are taken, and those that were given.
struct Names<'c> {
    config: Option<&'c Config>,
    services: BTreeMap<Peer, String>,
    roles: BTreeMap<(String, Need), String>,
    rules: BTreeSet<String>,
}

/// `config` is what the rules would stand beside, where it is known.
pub fn write(rules: &[Rule<'_>], config: Option<&Config>) -> Proposal {
    let mut names = Names {
        config,
        services: BTreeMap::new(),
        roles: BTreeMap::new(),
        rules: config
            .iter()
            .flat_map(|config| config.policy.parts().rules.iter().map(|rule| rule.name.clone()))
            .collect(),
    };
    let mut tables = String::new();
    let mut text = String::new();
    let mut about = Vec::new();
    services(rules, &mut names, &mut tables);
    for rule in rules {
        role(rule, &mut names, &mut tables);
        about.push(one(rule, rules, &mut names, &mut text));
    }
    Proposal { toml: format!("version = 1\n{tables}{text}"), rules: about }
}

/// A `[service]` for each peer that none names, and the clients of those that do not say whose tokens they carry.
fn services(rules: &[Rule<'_>], names: &mut Names<'_>, to: &mut String) {
    let mut clients: BTreeMap<&Peer, BTreeSet<Option<(&str, &str)>>> = BTreeMap::new();
    for rule in rules {
        for peer in &rule.services {
            let of_peer = clients.entry(peer).or_default();
            let callers = rule.wishes().filter_map(|wish| wish.past.caller.as_ref());
            of_peer.extend(callers.map(|caller| Some((caller.issuer.as_str(), caller.client()?.as_str()))));
        }
    }
    for (peer, clients) in clients {
        let name = match peer {
            Peer::Nobody => continue,
            Peer::Named(name) if names.says_clients(name) || clients.is_empty() => continue,
            Peer::Named(name) => name.clone(),
            Peer::Unnamed { .. } => names.new_service(peer),
        };
        let _ = writeln!(to, "\n[service.{name}]");
        if let Peer::Unnamed { spiffe_id, dns_names, trust_domain } = peer {
            let _ = match spiffe_id {
                Some(id) => writeln!(to, "spiffe_id = {}", quoted(id)),
                None => {
                    writeln!(
                        to,
                        "dns_name = {}\ntrust_domain = {}",
                        list(dns_names.iter()),
                        quoted(trust_domain)
                    )
                }
            };
        }
        if clients.contains(&None) {
            let _ = writeln!(to, "client_id = \"any\"    # some of its tokens name no client");
        } else if !clients.is_empty() {
            let one =
                |(issuer, client)| format!("{{ issuer = {}, client = {} }}", quoted(issuer), quoted(client));
            let all: Vec<String> = clients.into_iter().flatten().map(one).collect();
            let _ = writeln!(to, "client_id = [{}]", all.join(", "));
        }
    }
}

/// A `[role]` for what the callers have, where no configured one says it.
fn role(rule: &Rule<'_>, names: &mut Names<'_>, to: &mut String) {
    let Some(Actor { issuer, .. }) = &rule.kind.caller else { return };
    let (key, value) = match &rule.need {
        Need::NoToken | Need::Role(_) | Need::Any => return,
        Need::Scope(value) => ("scope", value),
        Need::Group(value) => ("group", value),
        Need::TokenRole(value) => ("role", value),
        Need::Client(value) => ("client", value),
    };
    let place = (issuer.clone(), rule.need.clone());
    if names.roles.contains_key(&place) {
        return;
    }
    let taken = |name: &str| {
        names.roles.values().any(|other| other == name)
            || names.config.is_some_and(|config| {
                config.policy.parts().roles.iter().any(|role| role.name.as_str() == name)
            })
    };
    let name = free(&word(value, "caller"), taken);
    let _ = writeln!(to, "\n[role.{name}]");
    let _ = writeln!(to, "any_of = [{{ issuer = {}, {key} = {} }}]", quoted(issuer), quoted(value));
    names.roles.insert(place, name);
}

fn one(rule: &Rule<'_>, all: &[Rule<'_>], names: &mut Names<'_>, to: &mut String) -> RuleAbout {
    let services: Vec<String> = rule.services.iter().map(|peer| names.service(peer)).collect();
    let patterns: Vec<String> = rule.shapes.iter().map(Shape::pattern).collect();
    let calls = rule.kind.grpc.then(|| calls(rule)).flatten();
    let what = match (&calls, &patterns[..]) {
        (Some(calls), _) => calls.join(" and "),
        (None, [only]) => format!("{} {only}", methods(rule).join(" ")),
        (None, all) => format!("{} {} and {} more", methods(rule).join(" "), all[0], all.len() - 1),
    };
    let who = rule
        .kind
        .caller
        .as_ref()
        .map_or_else(|| "anybody".to_owned(), |actor| format!("{} callers", actor.kind));
    let name =
        free(&format!("{} for {who}: {what}", services.join(" and ")), |name| names.rules.contains(name));
    names.rules.insert(name.clone());
    let (first, last) = rule.seen().map_or_else(Default::default, |(a, b)| (a.to_string(), b.to_string()));
    let about = RuleAbout {
        name,
        requests: rule.requests(),
        callers: rule.callers(),
        first,
        last,
        beyond: beyond(rule),
        look_twice: look_twice(rule, all),
    };

    let _ = writeln!(
        to,
        "\n# {} {}, {} to {}.",
        many(about.requests, "request"),
        match about.callers {
            0 => "without a token".to_owned(),
            callers => format!("of {}", many(callers as u64, "caller")),
        },
        about.first,
        about.last
    );
    for words in &about.look_twice {
        let _ = writeln!(to, "# Look twice: {}.", plain(words));
    }
    for words in &about.beyond {
        let _ = writeln!(to, "# Beyond that: {}.", plain(words));
    }
    if !rule.also.is_empty() {
        let also: Vec<String> = rule.also.iter().map(Need::to_string).collect();
        let _ = writeln!(to, "# All of these callers have also: {}.", plain(&also.join(", ")));
    }
    let _ = writeln!(to, "[[allow]]\nname = {}", quoted(&about.name));
    if !rule.kind.routes.is_empty() {
        let _ = writeln!(to, "route = {}", list(rule.kind.routes.iter()));
    }
    let _ = writeln!(to, "service = {}", list(services.iter()));
    let _ = writeln!(to, "role = {}", quoted(&names.role(rule)));
    if let Some(actor) = &rule.kind.caller {
        let owns = rule.shapes.iter().any(|shape| !shape.owned().is_empty());
        if owns && names.spans_issuers(&rule.need) || rule.need == Need::Any {
            let _ = writeln!(to, "issuer = {}", quoted(&actor.issuer));
        }
        let _ = writeln!(to, "actor = {}", quoted(&actor.kind));
        if let Some(other) = &actor.on_behalf_of {
            let _ = writeln!(to, "on_behalf_of = {}", quoted(other));
        }
    }
    if let Some(calls) = calls {
        let _ = writeln!(to, "grpc = {}", list(calls.iter()));
        return about;
    }
    let _ = writeln!(to, "method = {}", list(methods(rule).iter()));
    let _ = writeln!(to, "path = {}", list(patterns.iter()));
    let owned = rule.shapes.first().map(Shape::owned).unwrap_or_default();
    if !owned.is_empty() {
        let pairs = owned.iter().map(|(segment, claim)| format!("{segment} = {}", list(claim.iter())));
        let _ = writeln!(to, "match_claim = {{ {} }}", pairs.collect::<Vec<_>>().join(", "));
    }
    about
}

fn methods<'r>(rule: &'r Rule<'_>) -> Vec<&'r str> {
    rule.methods.iter().map(String::as_str).collect()
}

/// The gRPC methods that the paths are, if all of them are some.
fn calls(rule: &Rule<'_>) -> Option<Vec<String>> {
    let literal = |segment: &Segment| match segment {
        Segment::Literal(literal) => Some(literal.clone()),
        Segment::Own { .. } => None,
        Segment::Any => Some("*".to_owned()),
    };
    let call = |shape: &Shape<'_>| {
        let segments = shape.segments.iter().map(literal).collect::<Option<Vec<_>>>()?;
        match &segments[..] {
            [service, method] if method == "*" => {
                grpc_name(&[service.clone(), "M".to_owned()]).map(|_| format!("{service}/*"))
            }
            segments => grpc_name(segments),
        }
    };
    rule.shapes.iter().map(call).collect()
}

impl Names<'_> {
    /// Whether the configuration says whose tokens this service carries; unknown is as good as said.
    fn says_clients(&self, name: &str) -> bool {
        let Some(config) = self.config else { return true };
        let service = config.policy.parts().services.iter().find(|service| service.name.as_str() == name);
        service.is_none_or(|service| !matches!(service.clients, CarriedClients::Unstated))
    }

    fn new_service(&mut self, peer: &Peer) -> String {
        let last = match peer {
            Peer::Unnamed { spiffe_id: Some(id), .. } => id.rsplit('/').next().unwrap_or_default(),
            Peer::Unnamed { dns_names, .. } => dns_names.first().map_or("", String::as_str),
            Peer::Nobody | Peer::Named(_) => "",
        };
        let taken = |name: &str| {
            self.services.values().any(|other| other == name)
                || self.config.is_some_and(|config| {
                    config.policy.parts().services.iter().any(|service| service.name.as_str() == name)
                })
        };
        let name = free(&word(last, "workload"), taken);
        self.services.insert(peer.clone(), name.clone());
        name
    }

    fn service(&self, peer: &Peer) -> String {
        match peer {
            Peer::Nobody => "none".to_owned(),
            Peer::Named(name) => name.clone(),
            Peer::Unnamed { .. } => self.services.get(peer).cloned().unwrap_or_default(),
        }
    }

    fn role(&self, rule: &Rule<'_>) -> String {
        match (&rule.need, &rule.kind.caller) {
            (Need::NoToken, _) | (_, None) => "none".to_owned(),
            (Need::Any, _) => "any".to_owned(),
            (Need::Role(name), _) => name.clone(),
            (need, Some(actor)) => {
                self.roles.get(&(actor.issuer.clone(), need.clone())).cloned().unwrap_or_default()
            }
        }
    }

    /// Whether callers of several issuers can have this, so that a claim would mean nothing.
    fn spans_issuers(&self, need: &Need) -> bool {
        let Need::Role(name) = need else { return false };
        let Some(config) = self.config else { return true };
        let role = config.policy.parts().roles.iter().find(|role| role.name.as_str() == name);
        let issuers: BTreeSet<_> =
            role.into_iter().flat_map(|role| role.entries()).map(|entry| entry.issuer).collect();
        issuers.len() > 1
    }
}

impl std::fmt::Display for Need {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Need::NoToken => f.write_str("no token"),
            Need::Role(name) => write!(f, "role {name}"),
            Need::Scope(scope) => write!(f, "scope {scope}"),
            Need::Group(group) => write!(f, "group {group}"),
            Need::TokenRole(role) => write!(f, "token role {role}"),
            Need::Client(client) => write!(f, "client {client}"),
            Need::Any => f.write_str("a token"),
        }
    }
}

/// The first of `name`, `name-2`, `name-3` that is free.
fn free(name: &str, taken: impl Fn(&str) -> bool) -> String {
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    std::iter::once(name.to_owned()).chain(numbered).find(|name| !taken(name)).unwrap_or_default()
}

/// A name as tables have it.
fn word(text: &str, otherwise: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let name: String = text.chars().map(plain).take(48).collect();
    match name.trim_matches('-') {
        "" | "any" | "none" => otherwise.to_owned(),
        name => name.to_owned(),
    }
}

fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// As `3 requests`.
fn many(count: u64, what: &str) -> String {
    if count == 1 { format!("one {what}") } else { format!("{count} {what}s") }
}

/// One alone, or several in brackets.
fn list<T: AsRef<str>>(texts: impl ExactSizeIterator<Item = T>) -> String {
    let mut all: Vec<String> = texts.map(|text| quoted(text.as_ref())).collect();
    if all.len() == 1 { all.swap_remove(0) } else { format!("[{}]", all.join(", ")) }
}

/// Nothing from outside ends a comment.
fn plain(text: &str) -> String {
    text.replace(is_misleading, "\u{fffd}")
}
