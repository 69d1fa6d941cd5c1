//! Random policies over a small vocabulary, edits of them, and requests in the same words.

pub use super::tests_requests::{approach, request, seeds};

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::clock::Timestamp;
use crate::identity::*;
use crate::policy::claim::*;
use crate::policy::condition::*;
use crate::policy::pattern::{Glob, MethodSet};
use crate::policy::role::*;
use crate::policy::route::{Route, Variant};
use crate::policy::rule::{Effect, Mode, Rule};
use crate::policy::*;
use crate::token::{ActorEntry, IssuerSettings, IssuerUrl, KeySettings, KeyUse, Preset};

/// Not at the start of a second, as hardly any moment is.
pub const NOW: Timestamp = Timestamp::from_unix_ms(1_800_000_000_250);
pub const DAY: Duration = Duration::from_secs(86_400);

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
    pub fn some<T: Clone + PartialEq>(&mut self, from: &[T]) -> Vec<T> {
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

pub fn text(text: &str) -> Arc<str> {
    text.into()
}

pub fn glob(text: &str) -> Glob {
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

pub fn issuer(name: &str, client: &str) -> IssuerSettings {
    let url = IssuerUrl::parse(&[format!("https://{name}.example")]).unwrap();
    let keys = KeySettings {
        source: crate::token::KeySource::File("none".into()),
        key_use: KeyUse::Signature,
        ca: None,
        server_spiffe_ids: Vec::new(),
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
            direction: if at > 0 && dice.one_in(16) { Direction::Outbound } else { Direction::Inbound },
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
        // a require that demands an absence is an error
        let (term, role) = match effect {
            Effect::Require => (
                if term == ServiceTerm::None { ServiceTerm::Any } else { term },
                if role == RoleTerm::None { RoleTerm::Any } else { role },
            ),
            Effect::Allow | Effect::Deny => (term, role),
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
        add(dice, &|_| Condition::SenderConstrained);
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
        add(dice, &|dice| {
            Condition::Hop(vec![dice.pick(&[text("direct"), text("local"), text("alb"), text("direct")])])
        });
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

pub fn blank(issuer: u32) -> RoleEntry {
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
            2..=4 => entry.scope = dice.some(&[text("read"), text("write")]),
            5 => entry.group = dice.some(&[text("staff"), text("beta")]),
            6 => entry.role = vec![text("admin")],
            7 => entry.claim = dice.some(&claim_tests()),
            _ => entry.actor_subject = vec![glob("bot-*")],
        }
    }
    entry
}
