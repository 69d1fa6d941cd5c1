//! Random policies that load: tables that all of them share, and rules that `check` has no error for.

use std::fmt::Write as _;

use fastrand::Rng;

use crate::world::World;

/// Laid over the world's base configuration; `@edge@` is how the hop tells certificates.
pub const TABLES: &str = r#"
[listener.open]
address = "127.0.0.1:0"
client_certificate = "optional"

[listener.egress]
address = "127.0.0.1:0"
mode = "outbound"

[listener.behind]
address = "127.0.0.1:0"
allow_plaintext = true

[trusted_hop.edge]
address = "127.0.0.9/32"
@edge@

[trusted_hop.front]
kind = "countersign"
spiffe_id = "spiffe://partner.example/ns/prod/sa/storefront"

[trusted_hop.balancer]
kind = "alb"
mutual_authentication = "off"
address = "127.0.0.8/32"

[issuer.people]
preset = "alb"
url = "@issuer@"
signer = "@signer@"
audience = ["storefront-web", "assistant-7"]
jwks = "@keys@"
allow_http = true

[issuer.front]
preset = "countersign"
url = "https://front.shop.example"
audience = ["orders"]
jwks = "front.jwks"

[service.partner]
spiffe_id = "spiffe://partner.example/ns/prod/sa/*"
client_id = "any"

[service.shop]                       # a second name for what others name too
spiffe_id = "spiffe://shop.example/ns/prod/**"
client_id = [
    { issuer = "corp", client = "storefront-web" },
    { issuer = "corp", client = "assistant-*" },
    { issuer = "front", client = "storefront-web" },
    { issuer = "people", client = "storefront-web" },
]

[issuer.corp.claims]
groups = "groups"

[role.support]
any_of = [
    { issuer = "corp", group = "support" },
    { issuer = "corp", claim = { tier = "gold" } },
    { issuer = "front", group = "support" },
]

[role.vouched]
any_of = [{ issuer = "front", role = "order-reader" }, { issuer = "people", group = "support" }]

[role.lead]
all_of = [{ issuer = "corp", group = "support" }, { issuer = "corp", scope = ["orders:write", "orders:admin"] }]

[role.bot]
any_of = [
    { issuer = "corp", client = "assistant-*" },
    { issuer = "corp", actor_subject = "assistant-7" },
    { issuer = "front", actor_subject = "assistant-7" },
    { issuer = "people", client = "assistant-*" },
]

[upstream.second]
server = ["@upstream@"]

[route.away]
mode = "outbound"
host = ["away.example"]
path = "/**"
upstream = "second"

[route.reports]
host = ["*.reports.example"]
path = "/**"
upstream = "second"
[[route.reports.variant]]
role = "lead"
upstream = "orders"
"#;

/// How many rules a policy has at most.
const RULES_MAX: usize = 12;

/// Rules as TOML, each of which the configuration loads with.
pub fn policy(world: &World, tables: &str, random: &mut Rng) -> String {
    // without any such, hardly anything is allowed
    let broad = "[[allow]]\nname = \"all people\"\nservice = \"any\"\nrole = \"any\"\nroute = \"any\"\n";
    let browsers =
        broad.replace("all people", "all browsers").replace("service = \"any\"", "service = \"none\"");
    let mut rules: String = [broad, &browsers].into_iter().filter(|_| random.bool()).collect();
    for number in 0..random.usize(4..=RULES_MAX) {
        let more = rule(number, random);
        world.configuration(&format!("{tables}{rules}{more}"));
        if world.try_load().is_ok() {
            rules.push_str(&more);
        }
    }
    rules
}

fn rule(number: usize, random: &mut Rng) -> String {
    let effect = one(random, &["allow", "allow", "allow", "allow", "allow", "allow", "deny", "require"]);
    let mut rule = format!("[[{effect}]]\nname = \"rule {number}\"\n");
    let is_allow = effect == "allow";
    if is_allow || random.u8(..3) == 0 {
        let waived = if is_allow && random.u8(..8) == 0 { Some("\"none\"") } else { None };
        let named =
            [r#""storefront""#, r#"["storefront", "assistant"]"#, r#""any""#, r#""shop""#, r#""partner""#];
        line(&mut rule, "service", waived.unwrap_or_else(|| one(random, &named)));
    }
    let waives = is_allow && random.u8(..8) == 0;
    if waives {
        line(&mut rule, "role", "\"none\"");
    } else if is_allow || random.u8(..2) == 0 {
        let named = [
            r#""any""#,
            r#""any""#,
            r#"["order-reader", "vouched"]"#,
            r#"["order-reader", "support", "vouched"]"#,
            r#"{ all = ["order-reader", "support"] }"#,
            r#""lead""#,
            r#""bot""#,
        ];
        line(&mut rule, "role", one(random, &named));
    }
    if !waives {
        of_caller(&mut rule, effect, random);
    }
    let routes = [
        r#"route = ["orders", "away"]"#,
        r#"route = "any""#,
        r#"route = "any""#,
        r#"host = "*.reports.example""#,
    ];
    let hosts = [
        r#"host = ["orders.shop.example", "a.reports.example", "away.example"]"#,
        r#"route = ["orders", "reports", "away"]"#,
    ];
    let _ = writeln!(rule, "{}", one(random, &[&routes[..], &hosts[..]].concat()));
    sometimes(
        &mut rule,
        random,
        if is_allow { 4 } else { 1 },
        "method",
        &[r#""GET""#, r#"["GET", "POST"]"#, r#"["PUT", "DELETE"]"#],
    );
    if random.u8(..14) == 0 {
        line(&mut rule, "grpc", one(random, &[r#""shop.Orders/Get""#, r#""shop.Orders/*""#]));
    } else if !waives && random.u8(..6) == 0 {
        line(&mut rule, "path", r#"["/customers/{customer}/**", "/{customer}"]"#);
        line(
            &mut rule,
            "match_claim",
            one(random, &[r#"{ customer = "sub" }"#, r#"{ customer = "accounts" }"#]),
        );
        if !rule.contains("\nissuer = ") {
            line(&mut rule, "issuer", "\"corp\"");
        }
    } else {
        let paths = [r#""/customers/**""#, r#""/customers/*/orders/7""#, r#"["/", "/terms"]"#, r#""/**""#];
        sometimes(&mut rule, random, 2, "path", &paths);
    }
    sometimes(&mut rule, random, 12, "peer_ip", &[r#""127.0.0.0/8""#, r#"["10.0.0.0/8", "::1/128"]"#]);
    sometimes(&mut rule, random, 10, "client_ip", &[r#""127.0.0.1/32""#, r#""192.0.2.0/24""#]);
    sometimes(
        &mut rule,
        random,
        10,
        "hop",
        &["\"direct\"", "[\"direct\", \"local\"]", "[\"edge\", \"direct\"]", "[\"balancer\", \"edge\"]"],
    );
    sometimes(&mut rule, random, 12, "mode", &["\"shadow\""]);
    if is_allow {
        sometimes(&mut rule, random, 10, "expires", &["2199-12-31", "2020-01-01"]);
        sometimes(&mut rule, random, 12, "not_before", &["2020-01-01", "2199-12-31"]);
    }
    rule
}

fn of_caller(rule: &mut String, effect: &str, random: &mut Rng) {
    let kinds = [r#""human""#, r#"["human", "service"]"#, r#""agent""#, r#"["agent", "human", "unknown"]"#];
    sometimes(rule, random, 3, "actor", &kinds);
    sometimes(
        rule,
        random,
        5,
        "on_behalf_of",
        &[r#""human""#, r#"["human", "agent", "service", "unknown"]"#],
    );
    if effect != "deny" && random.u8(..6) == 0 {
        line(rule, "issuer", "\"corp\"");
        line(
            rule,
            "claim",
            one(random, &[r#"{ tier = "gold" }"#, r#"{ level = 7, tier = ["gold", "silver"] }"#]),
        );
    }
    if effect != "deny" {
        sometimes(rule, random, 10, "sender_constrained", &["true"]);
    }
    sometimes(rule, random, 9, "acr", &[r#""mfa""#, r#"["mfa", "phr"]"#]);
    sometimes(rule, random, 9, "max_age", &["\"15m\"", "\"2d\""]);
}

/// Once in so many times.
fn sometimes(rule: &mut String, random: &mut Rng, times: u8, key: &str, values: &[&str]) {
    if random.u8(..times) == 0 {
        line(rule, key, one(random, values));
    }
}

fn line(rule: &mut String, key: &str, value: &str) {
    let _ = writeln!(rule, "{key} = {value}");
}

pub fn one<T: Copy>(random: &mut Rng, values: &[T]) -> T {
    values[random.usize(..values.len())]
}
