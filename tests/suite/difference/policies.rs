//! Random configurations, kept in pieces, and edits of one piece.

use std::fmt::Write as _;

use fastrand::Rng;

/// What all of them share.
const HEAD: &str = r#"
version = 1
[proxy]
name = "orders"
[admin]
address = "127.0.0.1:0"
health_address = "127.0.0.1:0"
[identity]
certificate = "orders.pem"
private_key = "orders-key.pem"
[trust_domain."shop.example"]
ca = "shop-ca.pem"
[trust_domain."partner.example"]
ca = "partner-ca.pem"
[listener.mesh]
address = "127.0.0.1:0"
client_certificate = "optional"
[trusted_hop.edge]
kind = "proxy"
address = "192.0.2.0/24"
[upstream.one]
server = ["http://127.0.0.1:8081"]
[upstream.two]
server = ["http://127.0.0.1:8082"]
"#;

const RULES_MAX: usize = 7;

/// One table, or rule, as TOML.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Piece {
    kind: Kind,
    name: String,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Listener,
    Issuer,
    Service,
    Role,
    Route,
    Rule,
}

/// A configuration that may be edited.
#[derive(Clone, Debug)]
pub struct Pieces(Vec<Piece>);

impl Pieces {
    pub fn text(&self) -> String {
        let pieces = self.0.iter().map(|piece| piece.text.as_str());
        [HEAD].into_iter().chain(pieces).collect::<Vec<_>>().join("\n")
    }

    /// Whatever loads; what does not is left out piece by piece.
    pub fn random(random: &mut Rng, loads: &dyn Fn(&str) -> bool) -> Pieces {
        let mut pieces = Pieces(vec![issuer("corp", random)]);
        if random.u8(..3) == 0 {
            pieces.0.push(issuer("away", random));
        }
        let sends = random.u8(..4) == 0;
        if sends {
            pieces.0.extend([outbound(), route("out", random)]);
        }
        pieces.0.extend(SERVICES.iter().map(|name| service(name, random)));
        pieces.0.extend(ROLES.iter().map(|name| role(name, random)));
        pieces.0.push(route("main", random));
        assert!(loads(&pieces.text()), "{}", pieces.text());
        let routes = ROUTES.iter().map(|name| route(name, random)).collect::<Vec<_>>();
        let kinds = "[\"human\", \"service\", \"agent\", \"unknown\"]";
        let broad = format!(
            "[[allow]]\nname = \"broad\"\nservice = \"any\"\nrole = \"any\"\nactor = {kinds}\non_behalf_of = {kinds}\nroute = \"any\"\n"
        );
        let broad = Piece { kind: Kind::Rule, name: "broad".into(), text: broad };
        let count = random.usize(2..=RULES_MAX);
        let rules = (random.u8(..4) != 0).then_some(broad).into_iter();
        let rules = rules.chain((0..count).map(|at| rule(&format!("rule {at}"), random)).collect::<Vec<_>>());
        for piece in routes.into_iter().chain(rules) {
            pieces.0.push(piece);
            if !loads(&pieces.text()) {
                pieces.0.pop();
            }
        }
        pieces
    }

    /// Another that loads, and what was done to it.
    pub fn edited(&self, random: &mut Rng, loads: &dyn Fn(&str) -> bool) -> (Pieces, String) {
        loop {
            let mut new = self.clone();
            let mut told = String::new();
            for _ in 0..random.usize(1..=2) {
                let _ = write!(told, "{} ", new.edit(random));
            }
            if new.text() != self.text() && loads(&new.text()) {
                return (new, told);
            }
        }
    }

    fn edit(&mut self, random: &mut Rng) -> &'static str {
        let at = random.usize(..self.0.len());
        let Piece { kind, name, text } = self.0[at].clone();
        match random.u8(..8) {
            0 if kind != Kind::Issuer && kind != Kind::Listener => {
                self.0.remove(at);
                "removed"
            }
            1 | 2 => {
                self.0.push(rule(&format!("more {}", random.u8(..4)), random));
                "added"
            }
            3 => {
                self.0.push(route("extra", random));
                "route"
            }
            4 | 5 => {
                // one line of it
                let lines: Vec<&str> = text.lines().collect();
                let line = random.usize(1..lines.len());
                let fresh = made(kind, &name, random).text;
                let key = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
                let other = fresh.lines().find(|other| key(other) == key(lines[line])).unwrap_or("");
                let mut lines: Vec<&str> = lines;
                lines[line] = other;
                self.0[at].text = lines.join("\n");
                "line"
            }
            _ => {
                self.0[at] = made(kind, &name, random);
                "another"
            }
        }
    }
}

const SERVICES: [&str; 4] = ["storefront", "assistant", "wide", "dns"];
const ROLES: [&str; 4] = ["reader", "staff", "both", "bot"];
const ROUTES: [&str; 2] = ["api", "beta"];

fn made(kind: Kind, name: &str, random: &mut Rng) -> Piece {
    match kind {
        Kind::Listener => outbound(),
        Kind::Issuer => issuer(name, random),
        Kind::Service => service(name, random),
        Kind::Role => role(name, random),
        Kind::Route => route(name, random),
        Kind::Rule => rule(name, random),
    }
}

pub fn sends(configuration: &str) -> bool {
    configuration.contains(&outbound().text)
}

/// For what the local application sends; the route `out` is its own.
fn outbound() -> Piece {
    let text = "[listener.out]\naddress = \"127.0.0.1:0\"\nmode = \"outbound\"\n";
    Piece { kind: Kind::Listener, name: "out".into(), text: text.into() }
}

fn issuer(name: &str, random: &mut Rng) -> Piece {
    let mut text = format!("[issuer.{name}]\nurl = \"https://{name}.example\"\n");
    line(&mut text, "audience", one(random, &[r#"["us"]"#, r#"["us"]"#, r#"["us", "them"]"#]));
    let all =
        r#"["sub", "client_id", "scope", "groups", "tier", "acr", "auth_time", "aud", "azp", "uid", "gty"]"#;
    let some = r#"["sub", "client_id", "tier"]"#;
    line(&mut text, "requires", one(random, &[all, some]));
    if random.u8(..8) == 0 {
        line(&mut text, "only", r#"{ tier = ["gold", "silver"] }"#);
    }
    let _ = writeln!(text, "[issuer.{name}.claims]");
    line(&mut text, "scopes", "\"scope\"");
    line(&mut text, "groups", one(random, &["\"groups\"", "\"groups\"", "\"tags\""]));
    line(&mut text, "roles", one(random, &["[\"realm\", \"roles\"]", "\"roles\""]));
    line(&mut text, "client", "\"client_id\"");
    let entries = [
        "kind = \"human\"\nclaim = { uid = \"*\" }",
        "kind = \"human\"\nclaim = { tier = \"gold\" }",
        "kind = \"service\"\nclaim = { gty = \"cc\" }",
        "kind = \"service\"\nclaim = { gty = [\"cc\", \"pw\"], tier = \"silver\" }",
        "kind = \"agent\"\nclaim = { client_id = \"assistant-*\" }",
        "kind = \"agent\"\nclaim = { sub = \"bot-*\" }",
    ];
    for entry in entries {
        if random.u8(..5) < 3 {
            let _ = writeln!(text, "[[issuer.{name}.actor]]\n{entry}");
        }
    }
    Piece { kind: Kind::Issuer, name: name.to_owned(), text }
}

fn service(name: &str, random: &mut Rng) -> Piece {
    let mut text = format!("[service.{name}]\n");
    let names: &[&str] = match name {
        "storefront" => &["spiffe://shop.example/ns/prod/sa/web", "spiffe://shop.example/ns/*/sa/web"],
        "assistant" => &[
            "spiffe://shop.example/ns/prod/sa/bot",
            "spiffe://shop.example/ns/prod/sa/*",
            "spiffe://shop.example/ns/prod/**",
        ],
        "wide" => &[
            "spiffe://shop.example/ns/**",
            "spiffe://shop.example/**",
            "spiffe://partner.example/**",
            "spiffe://shop.example/ns/*/sa/**",
        ],
        _ => &["a.svc.example", "*.svc.example"],
    };
    let identity = format!("\"{}\"", one(random, names));
    if name == "dns" {
        line(&mut text, "dns_name", &identity);
        line(&mut text, "trust_domain", "\"shop.example\"");
    } else {
        line(&mut text, "spiffe_id", &identity);
    }
    let web = r#"[{ issuer = "corp", client = "web" }]"#;
    let both = r#"[{ issuer = "corp", client = "web" }, { issuer = "corp", client = "assistant-*" }]"#;
    let clients = ["\"any\"", "\"any\"", "\"any\"", web, both];
    line(&mut text, "client_id", one(random, &clients));
    Piece { kind: Kind::Service, name: name.to_owned(), text }
}

fn role(name: &str, random: &mut Rng) -> Piece {
    let entries = [
        r#"scope = "read""#,
        r#"scope = ["write", "admin"]"#,
        r#"group = "staff""#,
        r#"group = ["beta", "staff"]"#,
        r#"role = "boss""#,
        r#"subject = "alice""#,
        r#"subject = "bot-*""#,
        r#"client = "assistant-*""#,
        r#"client = ["web", "batch"]"#,
        r#"claim = { tier = "gold" }"#,
        r#"claim = { tier = ["gold", "silver"], level = 7 }"#,
        r#"claim = { level = [7, 8] }"#,
        r#"claim = { tags = "a*" }"#,
        r#"claim = { vip = true }"#,
        r#"claim = { sub = "alice" }, scope = "read""#,
        r#"claim = { scope = "read" }"#,
        r#"claim = { aud = "them" }"#,
        r#"actor_subject = "bot-1""#,
        r#"actor_subject = "bot-*", group = "staff""#,
        r#"claim = { client_id = "web" }"#,
    ];
    let issuer = "corp";
    let mut one_entry = || format!("{{ issuer = \"{issuer}\", {} }}", one(random, &entries));
    let (first, second) = (one_entry(), one_entry());
    let key = one(random, &["any_of", "any_of", "any_of", "all_of"]);
    let list = if random.bool() { format!("[{first}, {second}]") } else { format!("[{first}]") };
    Piece { kind: Kind::Role, name: name.to_owned(), text: format!("[role.{name}]\n{key} = {list}\n") }
}

fn route(name: &str, random: &mut Rng) -> Piece {
    let mut text = format!("[route.{name}]\n");
    if name == "out" {
        line(&mut text, "mode", "\"outbound\"");
    }
    let hosts = [
        r#"["shop.example"]"#,
        r#"["shop.example"]"#,
        r#"["*.shop.example"]"#,
        r#"["shop.example", "*.b.example"]"#,
    ];
    if name == "main" {
        line(&mut text, "host", one(random, &hosts[..2]));
        line(&mut text, "path", "\"/**\"");
    } else {
        let away = [r#"["out.example"]"#, r#"["out.example", "*.c.example"]"#];
        line(&mut text, "host", one(random, if name == "out" { &away } else { &hosts }));
        let paths =
            ["\"/api/**\"", "\"/api/*/**\"", "\"/api\"", "\"/**\"", "\"/api/alice/**\"", "\"/s.T/**\""];
        line(&mut text, "path", one(random, &paths));
        let headers = [r#"{ x-next = "1" }"#, r#"{ content-type = "application/grpc+proto" }"#];
        if random.u8(..4) == 0 {
            line(&mut text, "header", one(random, &headers));
        }
    }
    line(&mut text, "upstream", one(random, &["\"one\"", "\"one\"", "\"two\""]));
    sometimes(&mut text, random, 10, "shadow_until", &["2027-02-15", "2027-02-01"]);
    if random.u8(..3) == 0 {
        let _ = writeln!(text, "[[route.{name}.variant]]");
        line(&mut text, "role", one(random, &["\"reader\"", "\"staff\"", "\"bot\""]));
        line(&mut text, "upstream", one(random, &["\"one\"", "\"two\""]));
    }
    Piece { kind: Kind::Route, name: name.to_owned(), text }
}

fn rule(name: &str, random: &mut Rng) -> Piece {
    let effect = one(random, &["allow", "allow", "allow", "allow", "deny", "require"]);
    let mut text = format!("[[{effect}]]\nname = \"{name}\"\n");
    let is_allow = effect == "allow";
    let some = if is_allow { 1 } else { 3 };
    let named =
        ["\"any\"", "\"any\"", "\"storefront\"", "\"wide\"", "[\"assistant\", \"dns\"]", "\"assistant\""];
    match random.u8(..10) {
        0 if effect != "require" => line(&mut text, "service", "\"none\""),
        _ => sometimes(&mut text, random, some, "service", &named),
    }
    let named = [
        "\"any\"",
        "\"any\"",
        "\"reader\"",
        "[\"reader\", \"staff\"]",
        "{ all = [\"reader\", \"staff\"] }",
        "\"both\"",
        "\"bot\"",
    ];
    let waives = effect != "require" && random.u8(..10) == 0;
    match waives {
        true => line(&mut text, "role", "\"none\""),
        false => sometimes(&mut text, random, some + 1, "role", &named),
    }
    if is_allow && !waives && !text.contains("\nrole") {
        line(&mut text, "role", "\"any\"");
    }
    let mut reads_claims = false;
    if !waives {
        let kinds = [
            "\"human\"",
            "[\"human\", \"service\"]",
            "\"agent\"",
            "\"unknown\"",
            "[\"agent\", \"human\", \"unknown\"]",
            "\"service\"",
        ];
        sometimes(&mut text, random, 3, "actor", &kinds);
        let whom = ["\"human\"", "[\"human\", \"agent\", \"service\", \"unknown\"]", "\"unknown\""];
        sometimes(&mut text, random, 4, "on_behalf_of", &whom);
        let claims = [
            "{ tier = \"gold\" }",
            "{ tier = [\"gold\", \"silver\"], level = 7 }",
            "{ aud = \"them\" }",
            "{ azp = [\"web\", \"other\"] }",
            "{ tags = \"a*\" }",
            "{ vip = true }",
            "{ uid = \"u1\" }",
            "{ groups = \"staff\" }",
        ];
        if random.u8(..5) == 0 {
            line(&mut text, "claim", one(random, &claims));
            reads_claims = true;
        }
        sometimes(&mut text, random, 8, "acr", &["\"mfa\"", "[\"mfa\", \"phr\"]"]);
        sometimes(&mut text, random, 8, "sender_constrained", &["true"]);
        sometimes(&mut text, random, 8, "max_age", &["\"15m\"", "\"2d\""]);
    }
    let routes = [
        "route = \"any\"",
        "route = \"main\"",
        "host = \"shop.example\"",
        "host = [\"*.shop.example\", \"shop.example\"]",
        "route = [\"main\", \"api\"]",
    ];
    let _ = writeln!(text, "{}", one(random, &routes));
    let methods =
        ["\"GET\"", "[\"GET\", \"POST\"]", "[\"PUT\", \"DELETE\"]", "\"HEAD\"", "[\"POST\", \"PURGE\"]"];
    let grpc = random.u8(..12) == 0;
    if grpc {
        line(&mut text, "grpc", one(random, &["\"s.T/Get\"", "\"s.T/*\""]));
    } else {
        sometimes(&mut text, random, 3, "method", &methods);
    }
    if !waives && random.u8(..5) == 0 {
        let paths = [
            "\"/api/{c}/**\"",
            "[\"/api/{c}/**\", \"/{c}\"]",
            "[\"/api/{c}/**\", \"/api/*/{c}/**\"]",
            "\"/api/{c}\"",
        ];
        line(&mut text, "path", one(random, &paths));
        let claims = ["sub", "tags", "groups", "client_id", "scope", "level"];
        line(&mut text, "match_claim", &format!("{{ c = \"{}\" }}", one(random, &claims)));
        reads_claims = true;
    } else if !grpc || random.u8(..8) == 0 {
        let paths = [
            "\"/api/**\"",
            "\"/api/*\"",
            "\"/api/*/**\"",
            "\"/api\"",
            "[\"/\", \"/api/alice/x\"]",
            "\"/api/alice/**\"",
        ];
        sometimes(&mut text, random, 2, "path", &paths);
    }
    if reads_claims || random.u8(..8) == 0 {
        line(&mut text, "issuer", "\"corp\"");
    }
    sometimes(
        &mut text,
        random,
        8,
        "peer_ip",
        &["\"10.0.0.0/8\"", "[\"10.1.0.0/16\", \"192.0.2.0/24\"]", "\"10.1.2.3/32\""],
    );
    sometimes(&mut text, random, 12, "client_ip", &["\"10.0.0.0/9\"", "\"0.0.0.0/0\""]);
    sometimes(&mut text, random, 12, "hop", &["\"direct\"", "\"local\""]);
    sometimes(&mut text, random, 12, "mode", &["\"shadow\""]);
    if is_allow {
        sometimes(&mut text, random, 10, "expires", &["2027-02-15", "2020-01-01"]);
        sometimes(&mut text, random, 10, "not_before", &["2027-02-15", "2020-01-01"]);
    }
    Piece { kind: Kind::Rule, name: name.to_owned(), text }
}

/// Once in so many times.
fn sometimes(text: &mut String, random: &mut Rng, times: u8, key: &str, values: &[&str]) {
    if random.u8(..times) == 0 {
        line(text, key, one(random, values));
    }
}

fn line(text: &mut String, key: &str, value: &str) {
    let _ = writeln!(text, "{key} = {value}");
}

pub fn one<'v>(random: &mut Rng, values: &[&'v str]) -> &'v str {
    values[random.usize(..values.len())]
}
