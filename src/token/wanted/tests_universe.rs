//! Random policies over a small vocabulary, edits of them, and requests in the same words.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Map, Value, json};

use super::Issuers;
use crate::clock::Timestamp;
use crate::identity::*;
use crate::policy::claim::*;
use crate::policy::condition::*;
use crate::policy::difference::{Token, Witness};
use crate::policy::pattern::{Glob, MethodSet};
use crate::policy::role::*;
use crate::policy::route::{Route, Variant};
use crate::policy::rule::{Effect, Mode, Rule};
use crate::policy::*;
use crate::token::{ActorEntry, IssuerSettings, IssuerUrl, KeySettings, KeyUse, Preset};

pub const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
const DAY: Duration = Duration::from_secs(86_400);

/// A stream of choices (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((bits ^ (bits >> 31)) % limit as u64).unwrap()
    }

    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// One or two.
    fn some<T: Clone + PartialEq>(&mut self, from: &[T]) -> Vec<T> {
        let mut found = vec![self.pick(from)];
        if self.one_in(3) {
            let more = self.pick(from);
            if !found.contains(&more) {
                found.push(more);
            }
        }
        found
    }
}

/// A configuration, as far as it is compared.
#[derive(Clone)]
pub struct World {
    pub parts: PolicyParts,
    pub issuers: Vec<IssuerSettings>,
}

fn text(text: &str) -> Arc<str> {
    text.into()
}

fn glob(text: &str) -> Glob {
    text.parse().unwrap()
}

fn test(claim: &str, value: ClaimValue) -> ClaimTest {
    ClaimTest { claim: ClaimPath::top_level(claim), values: vec![value] }
}

fn top(claim: &str) -> Option<ClaimPath> {
    Some(ClaimPath::top_level(claim))
}

fn entry(kind: ActorKind, claim: &str, value: &str) -> ActorEntry {
    ActorEntry { kind, claim: vec![test(claim, ClaimValue::Text(glob(value)))], same: None }
}

fn issuer(name: &str, client: &str) -> IssuerSettings {
    let url = IssuerUrl::parse(&[format!("https://{name}.example")]).unwrap();
    let keys = KeySettings {
        source: crate::token::KeySource::File("none".into()),
        key_use: KeyUse::Signature,
        ca: None,
        credential: None,
        allow_http: false,
        allow_private_addresses: false,
        max_stale: DAY,
        document_bytes_max: 1,
    };
    let mut settings = Preset::Generic.fill(name.parse().unwrap(), url, vec![text("us")], keys);
    settings.claims.client = top(client);
    settings.claims.scopes = top("scp");
    settings.actors = vec![
        entry(ActorKind::Agent, client, "bot-*"),
        entry(ActorKind::Human, "uid", "*"),
        ActorEntry {
            kind: ActorKind::Service,
            claim: vec![],
            same: Some([ClaimPath::top_level("sub"), ClaimPath::top_level(client)]),
        },
    ];
    settings.requires = vec![text("sub")];
    settings
}

impl World {
    pub fn random(dice: &mut Dice) -> World {
        let mut issuers = vec![issuer("corp", "cid"), issuer("partner", "azp")];
        issuers.truncate(1 + dice.below(2));
        let upstreams = ["one", "two"].map(|name| name.parse().unwrap()).to_vec();
        let parts = PolicyParts { upstreams, ..PolicyParts::default() };
        let mut world = World { parts, issuers };
        for at in 0..2 + dice.below(2) {
            let service = world.service(dice, at);
            world.parts.services.push(service);
        }
        for at in 0..3 {
            let role = world.role(dice, at);
            world.parts.roles.push(role);
        }
        for at in 0..1 + dice.below(3) {
            let route = world.route(dice, at);
            world.parts.routes.push(route);
        }
        for at in 0..3 + dice.below(6) {
            let rule = world.rule(dice, at);
            world.parts.rules.push(rule);
        }
        world
    }

    /// As large ones are: rules of many services, roles and routes, a tenth of them denies and requires.
    pub fn large(dice: &mut Dice, rules: usize) -> World {
        let issuers = vec![issuer("corp", "cid")];
        let mut parts = PolicyParts { upstreams: vec!["one".parse().unwrap()], ..PolicyParts::default() };
        for at in 0..100_u32 {
            let id = format!("spiffe://shop.example/ns/team-{}/sa/service-{at}", at % 10);
            let clients = vec![ClientPattern { issuer: IssuerId(0), client: glob(&format!("client-{at}")) }];
            parts.services.push(Service {
                name: format!("service-{at}").parse().unwrap(),
                identities: vec![PeerPattern::Spiffe(id.parse().unwrap())],
                clients: CarriedClients::Listed(clients),
            });
            let scope = RoleEntry { scope: vec![text(&format!("scope-{at}"))], ..blank(0) };
            let group = RoleEntry { group: vec![text(&format!("group-{at}"))], ..blank(0) };
            let entries = RoleEntries::AnyOf(vec![scope, group]);
            parts.roles.push(Role { name: format!("role-{at}").parse().unwrap(), entries });
        }
        for at in 0..20 {
            parts.routes.push(Route {
                name: format!("route-{at}").parse().unwrap(),
                host: vec![format!("h{at}.example").parse().unwrap()],
                path: "/**".parse().unwrap(),
                header: vec![],
                upstream: UpstreamId(0),
                variants: vec![],
                shadow_until: None,
            });
        }
        for at in 0..rules {
            let path = match dice.below(4) {
                0 => format!("/things-{}/**", dice.below(200)),
                1 => format!("/things-{}/*", dice.below(200)),
                2 => format!("/things-{}/{{who}}/parts", dice.below(200)),
                _ => format!("/things-{}", dice.below(200)),
            };
            let mut conditions = vec![
                Condition::Route(RouteTerm::Named(vec![RouteId(dice.below(20) as u32)])),
                Condition::Path(vec![path.parse().unwrap()]),
                Condition::Method(MethodSet::new(dice.some(&["GET", "POST", "PUT", "DELETE"])).unwrap()),
                Condition::Role(RoleTerm::AnyOf(vec![RoleId(dice.below(100) as u32)])),
            ];
            if path.contains("who") {
                let claim = ClaimPath::top_level("sub");
                conditions.push(Condition::MatchClaim(vec![MatchClaim { segment: text("who"), claim }]));
            }
            let effect = match at % 20 {
                0 => Effect::Deny,
                1 => Effect::Require,
                _ => Effect::Allow,
            };
            if effect == Effect::Allow {
                let services = dice.some(&(0..100).map(ServiceId).collect::<Vec<_>>());
                conditions.push(Condition::Service(ServiceTerm::Named(services)));
            }
            if dice.one_in(3) {
                conditions.push(Condition::Actor(vec![ActorKind::Human]));
            }
            parts.rules.push(Rule {
                name: format!("rule {at:04}"),
                effect,
                conditions,
                mode: Mode::Enforce,
                not_before: Timestamp::MIN,
                expires: Timestamp::MAX,
                owner: None,
                ticket: None,
            });
        }
        World { parts, issuers }
    }

    /// As it is compared: what the policy knows of issuers follows from their settings.
    pub fn compiled(&self) -> Policy {
        let facts = self.issuers.iter().map(IssuerSettings::facts).collect();
        let parts = PolicyParts { issuers: facts, ..self.parts.clone() };
        Policy::compile_unchecked(parts, PolicyHash([self.parts.rules.len() as u8; 32]))
    }

    /// What it has, and what the other has in its place.
    pub fn print_against(&self, new: &World) {
        let short = |one: &dyn std::fmt::Debug| {
            let text = format!("{one:?}");
            let names = [
                "PathPattern",
                "SpiffePattern",
                "TrustDomain",
                "ClaimPath",
                "Literal",
                "segments",
                "Timestamp",
            ];
            let text = names.iter().fold(text, |text, name| text.replace(name, ""));
            text.replace("-9223372036854775808", "")
                .replace("9223372036854775807", "")
                .replace("owner: None, ticket: None", "")
        };
        let of = |world: &World| {
            let World { parts, issuers } = world;
            let mut lines: Vec<String> = parts.services.iter().map(|one| short(one)).collect();
            lines.extend(parts.roles.iter().map(|one| short(one)));
            lines.extend(parts.routes.iter().map(|one| short(one)));
            lines.extend(parts.rules.iter().map(|one| short(one)));
            lines.extend(issuers.iter().map(|one| short(&(&one.name, &one.claims, &one.actors))));
            lines
        };
        let (old, new) = (of(self), of(new));
        old.iter().for_each(|line| println!("  {}{line}", if new.contains(line) { "" } else { "- " }));
        new.iter().filter(|line| !old.contains(line)).for_each(|line| println!("  + {line}"));
    }

    pub fn edit(&mut self, dice: &mut Dice) -> &'static str {
        let at = dice.below(self.parts.rules.len().max(1));
        let next = self.parts.rules.len() + 100;
        match dice.below(12) {
            0 | 1 => {
                let rule = self.rule(dice, next);
                self.parts.rules.push(rule);
                "a rule is added"
            }
            2 if !self.parts.rules.is_empty() => {
                self.parts.rules.remove(at);
                "a rule is removed"
            }
            3 | 4 if !self.parts.rules.is_empty() => {
                let rule = &mut self.parts.rules[at];
                let said = rule.conditions.len();
                // an allow says both signatures, or it is an error
                let fixed = |condition: &Condition| {
                    rule.effect == Effect::Allow && ["service", "role"].contains(&condition.key())
                };
                let at = dice.below(said.max(1));
                if said > 2 && !fixed(&rule.conditions[at]) {
                    rule.conditions.remove(at);
                }
                "a condition is removed"
            }
            5 | 6 if !self.parts.rules.is_empty() => {
                let other = self.rule(dice, next);
                let rule = &mut self.parts.rules[at];
                if let Some(new) = other.conditions.first() {
                    rule.conditions.retain(|own| own.key() != new.key());
                    rule.conditions.push(new.clone());
                }
                (rule.not_before, rule.expires) = (other.not_before, other.expires);
                if rule.effect != Effect::Allow {
                    (rule.not_before, rule.expires) = (Timestamp::MIN, Timestamp::MAX);
                }
                "a rule is altered"
            }
            7 => {
                let at = dice.below(self.parts.roles.len());
                self.parts.roles[at] = self.role(dice, at);
                "a role is altered"
            }
            8 => {
                let at = dice.below(self.parts.services.len());
                self.parts.services[at] = self.service(dice, at);
                "a service is altered"
            }
            9 => {
                let at = dice.below(self.parts.routes.len());
                self.parts.routes[at] = self.route(dice, at);
                "a route is altered"
            }
            10 => {
                let at = dice.below(self.issuers.len());
                let issuer = &mut self.issuers[at];
                match dice.below(3) {
                    0 => issuer.claims.scopes = top("perms"),
                    1 => issuer.actors.push(entry(ActorKind::Human, "scp", "*")),
                    _ => drop(issuer.actors.remove(1)),
                }
                "an issuer is altered"
            }
            _ => {
                let rules = &mut self.parts.rules;
                if let Some(rule) = rules.get_mut(at) {
                    rule.mode = if rule.mode == Mode::Shadow { Mode::Enforce } else { Mode::Shadow };
                }
                "a rule is put in shadow, or enforced"
            }
        }
    }

    fn service(&self, dice: &mut Dice, at: usize) -> Service {
        let ids = ["spiffe://shop.example/web", "spiffe://shop.example/bots/*", "spiffe://shop.example/**"];
        let spiffe = dice.some(&ids).into_iter().map(|id| PeerPattern::Spiffe(id.parse().unwrap()));
        let mut identities: Vec<PeerPattern> = spiffe.collect();
        if dice.one_in(4) {
            let name = dice.pick(&["*.svc.example", "db.svc.example"]).parse().unwrap();
            identities.push(PeerPattern::Dns { name, trust_domain: "shop.example".parse().unwrap() });
        }
        let issuer = IssuerId(dice.below(self.issuers.len()) as u32);
        let listed = dice.some(&["web", "bot-*", "b*"]).into_iter();
        let clients = match dice.below(6) {
            0..=2 => CarriedClients::Any,
            3 => CarriedClients::Unstated,
            _ => CarriedClients::Listed(listed.map(|c| ClientPattern { issuer, client: glob(c) }).collect()),
        };
        Service { name: format!("service-{at}").parse().unwrap(), identities, clients }
    }

    fn role(&self, dice: &mut Dice, at: usize) -> Role {
        let issuer = dice.below(self.issuers.len()) as u32;
        let entries: Vec<RoleEntry> = (0..1 + dice.below(2)).map(|_| role_entry(dice, issuer)).collect();
        let entries = if dice.one_in(3) { RoleEntries::AllOf(entries) } else { RoleEntries::AnyOf(entries) };
        Role { name: format!("role-{at}").parse().unwrap(), entries }
    }

    fn route(&self, dice: &mut Dice, at: usize) -> Route {
        let host: &[&str] = dice.pick(&[&[][..], &[], &["a.example"], &["*.example"]]);
        let host = if at == 0 { &[] } else { host };
        let header = match dice.one_in(6) {
            true => vec![(HeaderName::from_static("x-next"), HeaderValue::from_static("1"))],
            false => vec![],
        };
        let variant = Variant { role: RoleId(dice.below(3) as u32), upstream: UpstreamId(1) };
        Route {
            name: format!("route-{at}").parse().unwrap(),
            host: host.iter().map(|host| host.parse().unwrap()).collect(),
            path: if at == 0 { "/**" } else { dice.pick(&["/**", "/a/**", "/a/x", "/{c}/b"]) }
                .parse()
                .unwrap(),
            header,
            upstream: UpstreamId(dice.below(2) as u32),
            variants: if dice.one_in(4) { vec![variant] } else { vec![] },
            shadow_until: dice.one_in(12).then(|| NOW.plus(DAY)),
        }
    }

    fn rule(&self, dice: &mut Dice, at: usize) -> Rule {
        let effect = dice.pick(&[Effect::Allow, Effect::Allow, Effect::Allow, Effect::Deny, Effect::Require]);
        let mut conditions = self.conditions(dice, effect);
        let services = self.parts.services.len() as u32;
        let term = match dice.below(7) {
            0..=2 => ServiceTerm::Any,
            3 | 4 => ServiceTerm::None,
            _ => ServiceTerm::Named(vec![ServiceId(dice.below(services as usize) as u32)]),
        };
        let role = match dice.below(9) {
            0..=2 => RoleTerm::Any,
            3 | 4 => RoleTerm::None,
            5 => RoleTerm::AllOf(dice.some(&[RoleId(0), RoleId(1)])),
            _ => RoleTerm::AnyOf(dice.some(&[RoleId(0), RoleId(1), RoleId(2)])),
        };
        if effect == Effect::Allow || dice.one_in(2) {
            conditions.push(Condition::Service(term));
        }
        // one that says nothing denies everything
        if effect == Effect::Allow || dice.one_in(2) || conditions.len() < 2 {
            conditions.push(Condition::Role(role));
        }
        let time = effect == Effect::Allow && dice.one_in(6);
        Rule {
            name: format!("rule {at:03}"),
            effect,
            conditions,
            mode: if dice.one_in(10) { Mode::Shadow } else { Mode::Enforce },
            not_before: if time && dice.one_in(2) { NOW.plus(DAY) } else { Timestamp::MIN },
            expires: if time { NOW.plus(3 * DAY) } else { Timestamp::MAX },
            owner: None,
            ticket: None,
        }
    }

    fn conditions(&self, dice: &mut Dice, effect: Effect) -> Vec<Condition> {
        let kinds = [ActorKind::Human, ActorKind::Service, ActorKind::Agent, ActorKind::Unknown];
        let mut found = Vec::new();
        // an allow with many conditions is fulfilled by hardly anything
        let rare = if effect == Effect::Allow { 12 } else { 5 };
        let mut add = |dice: &mut Dice, condition: &dyn Fn(&mut Dice) -> Condition| {
            if dice.one_in(rare) {
                let made = condition(dice);
                found.push(made);
            }
        };
        add(dice, &|dice| Condition::Actor(dice.some(&kinds)));
        add(dice, &|dice| Condition::OnBehalfOf(dice.some(&kinds)));
        add(dice, &|dice| Condition::Claim(dice.some(&claim_tests())));
        add(dice, &|dice| Condition::Acr(dice.some(&[text("mfa"), text("pwd")])));
        add(dice, &|dice| Condition::MaxAge(Duration::from_secs(dice.pick(&[60, 600]))));
        add(dice, &|dice| Condition::Issuer(vec![IssuerId(dice.below(self.issuers.len()) as u32)]));
        add(dice, &|dice| {
            Condition::Route(RouteTerm::Named(vec![RouteId(dice.below(self.parts.routes.len()) as u32)]))
        });
        let hosts = ["a.example", "b.example", "*.example"].map(|host| host.parse().unwrap());
        add(dice, &|dice| Condition::Host(dice.some(&hosts)));
        add(dice, &|dice| {
            Condition::Method(MethodSet::new(dice.some(&["GET", "POST", "HEAD", "PURGE"])).unwrap())
        });
        add(dice, &|_| Condition::Grpc(vec!["shop.Orders/*".parse().unwrap()]));
        add(dice, &|dice| Condition::Hop(vec![dice.pick(&[text("direct"), text("local"), text("direct")])]));
        let nets = ["10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/9", "10.128.0.0/9", "0.0.0.0/0"];
        let nets = nets.map(|net| net.parse().unwrap());
        add(dice, &|dice| Condition::PeerIp(dice.some(&nets)));
        add(dice, &|dice| Condition::ClientIp(dice.some(&nets)));
        let paths = ["/a", "/a/x", "/a/*", "/a/**", "/{c}/b", "/{c}/{d}", "/**", "/a/{c}/**", "/*/*/**"];
        match dice.below(6) {
            0 | 1 => {
                let claims = ["sub", "tags", "email", "level"];
                let path = dice.pick(&["/{c}/b", "/{c}/{d}", "/a/{c}/**", "/{d}/{c}"]);
                let pair = |segment: &str, claim: &str| MatchClaim {
                    segment: text(segment),
                    claim: ClaimPath::top_level(claim),
                };
                let mut tests = vec![pair("c", dice.pick(&claims))];
                if path.contains("{d}") && dice.one_in(2) {
                    tests.push(pair("d", dice.pick(&claims)));
                }
                found.push(Condition::Path(vec![path.parse().unwrap()]));
                found.push(Condition::MatchClaim(tests));
            }
            2..=4 => {
                let paths = dice.some(&paths);
                found.push(Condition::Path(paths.iter().map(|path| path.parse().unwrap()).collect()));
            }
            _ => {}
        }
        if effect != Effect::Allow && found.is_empty() {
            found.push(Condition::Path(vec![dice.pick(&paths).parse().unwrap()]));
        }
        found
    }
}

fn claim_tests() -> Vec<ClaimTest> {
    vec![
        test("tier", ClaimValue::Text(glob("gold"))),
        test("tier", ClaimValue::Text(glob("g*"))),
        test("tags", ClaimValue::Text(glob("a"))),
        test("level", ClaimValue::Integer(7)),
        test("staff", ClaimValue::Boolean(true)),
        ClaimTest {
            claim: ClaimPath(vec![text("realm"), text("roles")]),
            values: vec![ClaimValue::Text(glob("x")), ClaimValue::Text(glob("y*"))],
        },
        test("sub", ClaimValue::Text(glob("a*"))),
    ]
}

fn blank(issuer: u32) -> RoleEntry {
    RoleEntry {
        issuer: IssuerId(issuer),
        subject: vec![],
        client: vec![],
        scope: vec![],
        group: vec![],
        role: vec![],
        claim: vec![],
        actor_subject: vec![],
    }
}

fn role_entry(dice: &mut Dice, issuer: u32) -> RoleEntry {
    let mut entry = blank(issuer);
    for _ in 0..1 + dice.below(2) {
        match dice.below(9) {
            0 => entry.subject = dice.some(&[glob("alice"), glob("a*")]),
            1 => entry.client = dice.some(&[glob("web"), glob("bot-*")]),
            2 | 3 | 4 => entry.scope = dice.some(&[text("read"), text("write")]),
            5 => entry.group = dice.some(&[text("staff"), text("beta")]),
            6 => entry.role = vec![text("admin")],
            7 => entry.claim = dice.some(&claim_tests()),
            _ => entry.actor_subject = vec![glob("bot-*")],
        }
    }
    entry
}

/// A request, as both worlds read it. Half of them ask for what some rule speaks of.
pub fn request(
    dice: &mut Dice,
    worlds: &[&World; 2],
    pairs: &[Issuers<'_>],
    at: Timestamp,
) -> Option<Witness> {
    let rules = &worlds[dice.below(2)].parts.rules;
    let rule = match rules.is_empty() || dice.one_in(3) {
        true => None,
        false => Some(&rules[dice.below(rules.len())]),
    };
    let said = |fits: &dyn Fn(&Condition) -> bool| rule.is_none_or(|rule| rule.conditions.iter().all(fits));
    let dns = |names: &[&str]| PeerName::Dns {
        names: names.iter().map(|name| text(name)).collect(),
        trust_domain: "shop.example".parse().unwrap(),
    };
    let spiffe = |id: &str| PeerName::Spiffe(format!("spiffe://shop.example/{id}").parse().unwrap());
    let peer = match dice.below(9) {
        0 => None,
        1 | 2 => Some(spiffe("web")),
        3 | 4 => Some(spiffe("bots/b1")),
        5 => Some(spiffe(dice.pick(&["bots/b1/deep", "else"]))),
        6 => Some(PeerName::Spiffe("spiffe://away.example/web".parse().unwrap())),
        7 => Some(dns(&["db.svc.example", "x.svc.example"])),
        _ => Some(dns(&["x.svc.example"])),
    };
    let peer = peer.map_or(Signature::Absent, |name| {
        let (certificate, not_after, hop) = (CertificateHash([1; 32]), at.plus(DAY), Hop::Direct);
        Signature::Verified(Arc::new(Peer { name, certificate, not_after, hop }))
    });
    let token = match dice.one_in(7) {
        true => None,
        false => {
            let pair = dice.below(pairs.len());
            let claims = claims(dice, &pairs[pair], at);
            let callers = pairs[pair].callers(&claims, at).map(|caller| match caller {
                Ok(caller) => Ok(Signature::Verified(Arc::new(caller))),
                Err(error) => Err(error.code()),
            });
            if callers.iter().all(Result::is_err) {
                return None;
            }
            Some((pair, Token { claims, path: vec![], callers }))
        }
    };
    let paths = [
        "/",
        "/a",
        "/a/x",
        "/a/b",
        "/a/alice",
        "/alice/b",
        "/amy/b",
        "/alice/alice",
        "/alice/amy",
        "/a/alice/z",
        "/a/x/y/z",
        "/7/b",
        "/a/7",
        "/z/b",
        "/z/z",
        "/shop.Orders/Get",
        "/shop.Orders/Get",
        "/a/a",
        "/q/q/q",
    ];
    let methods = [Method::GET, Method::POST, Method::HEAD, Method::PUT, Method::TRACE];
    let methods: Vec<_> = methods
        .iter()
        .filter(|method| {
            said(&|condition| match condition {
                Condition::Method(methods) => methods.contains(method),
                Condition::Grpc(_) => **method == Method::POST,
                _ => true,
            })
        })
        .cloned()
        .collect();
    let paths: Vec<_> = paths
        .iter()
        .filter(|path| {
            let path = NormalPath::parse(path).unwrap();
            let segments: Vec<_> = path.segments().collect();
            said(&|condition| match condition {
                Condition::Path(patterns) => patterns.iter().any(|pattern| pattern.matches(&segments)),
                Condition::Grpc(calls) => calls.iter().any(|call| call.path().matches(&segments)),
                _ => true,
            })
        })
        .copied()
        .collect();
    let addresses = ["10.1.2.3", "10.2.2.2", "10.200.0.1", "192.0.2.1", "2001:db8::1"];
    let addresses = addresses.map(|address| address.parse::<std::net::IpAddr>().unwrap());
    let addresses: Vec<_> = addresses
        .iter()
        .filter(|ip| {
            said(&|condition| match condition {
                Condition::PeerIp(nets) | Condition::ClientIp(nets) => {
                    nets.iter().any(|net| net.contains(*ip))
                }
                _ => true,
            })
        })
        .copied()
        .collect();
    let hosts = ["a.example", "a.example", "b.example", "c.example", "x.org"]
        .map(|host| host.parse::<Host>().unwrap());
    let hosts: Vec<_> = hosts
        .iter()
        .filter(|host| {
            said(&|condition| match condition {
                Condition::Host(hosts) => hosts.iter().any(|pattern| pattern.matches(host)),
                _ => true,
            })
        })
        .cloned()
        .collect();
    if [methods.len(), paths.len(), addresses.len(), hosts.len()].contains(&0) {
        return None;
    }
    let mut headers = HeaderMap::new();
    if dice.one_in(2) {
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    }
    if dice.one_in(3) {
        headers.insert("x-next", HeaderValue::from_static("1"));
    }
    Some(Witness {
        peer,
        token,
        method: dice.pick(&methods),
        host: dice.pick(&hosts),
        path: NormalPath::parse(dice.pick(&paths)).unwrap(),
        headers,
        hop: if dice.one_in(12) { Hop::Local } else { Hop::Direct },
        address: Some(dice.pick(&addresses)),
        at,
    })
}

fn claims(dice: &mut Dice, issuers: &Issuers<'_>, at: Timestamp) -> Map<String, Value> {
    let iss = issuers.sides.into_iter().flatten().find_map(|issuer| issuer.url.issued(String::new));
    let now = at.unix_seconds();
    let mut claims = json!({
        "iss": iss, "aud": "us", "exp": now + 60,
        "sub": dice.pick(&["alice", "alice", "amy", "bot-1", "web", "zed"]),
    });
    let mut put = |dice: &mut Dice, name: &str, values: &[Value]| {
        let value = dice.pick(values);
        if !value.is_null() {
            claims[name] = value;
        }
    };
    let clients = [json!("web"), json!("web"), json!("bot-1"), json!("zed"), json!("alice"), json!(null)];
    put(dice, "cid", &clients);
    put(dice, "azp", &clients);
    put(dice, "uid", &[json!("1"), json!("1"), json!(null)]);
    let words =
        [json!("read"), json!("read write"), json!(["read", "write", "zz"]), json!("zz"), json!(null)];
    put(dice, "scp", &words);
    put(dice, "perms", &words);
    put(dice, "groups", &[json!(["staff"]), json!(["beta", "staff"]), json!(null)]);
    put(dice, "roles", &[json!(["admin"]), json!(null)]);
    put(dice, "tier", &[json!("gold"), json!("grey"), json!(["gold", "grey"]), json!(null)]);
    put(
        dice,
        "tags",
        &[json!(["a", "alice"]), json!("alice"), json!(["alice", "amy"]), json!("a"), json!(null)],
    );
    put(dice, "email", &[json!("alice"), json!("amy"), json!(null)]);
    put(dice, "level", &[json!(7), json!(8), json!(null)]);
    put(dice, "staff", &[json!(true), json!(null)]);
    put(dice, "realm", &[json!({ "roles": ["x"] }), json!({ "roles": "yy" }), json!(null)]);
    put(dice, "acr", &[json!("mfa"), json!("pwd"), json!("none"), json!(null)]);
    let ages = [30, 60, 61, 600, 601, -100];
    let login = json!(now - dice.pick(&ages));
    put(dice, "auth_time", &[login.clone(), login, json!(null)]);
    let act = [
        json!({ "sub": "bot-1" }),
        json!({ "sub": "bot-1", "cid": "bot-1", "azp": "bot-1" }),
        json!({ "sub": "zed", "uid": "1" }),
        json!({ "sub": "bot-1", "iss": "https://away.example" }),
    ];
    if dice.one_in(6) {
        put(dice, "act", &act);
    }
    claims.as_object().unwrap().clone()
}
