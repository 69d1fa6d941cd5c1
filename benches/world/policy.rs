//! The configurations that are measured: the same names and the same request, among more or fewer others.

use std::fmt::Write as _;
use std::net::SocketAddr;

/// How much stands beside the one rule and the one route that the measured request meets.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub rules: usize,
    /// Whether each rule has a path of its own; else all have one, and who asks tells them apart.
    pub own_paths: bool,
    pub routes: usize,
    pub workers: usize,
    /// What is added below all that.
    pub more: &'static str,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape { rules: 20, own_paths: true, routes: 1, workers: 1, more: "" }
    }
}

/// What the measured request asks for.
pub const PATH: &str = "/tenants/acme/orders/2026/7";
/// What no rule allows.
pub const FORBIDDEN: &str = "/tenants/acme/invoices/7";
/// What the upstream answers with [`super::upstream::LARGE_BYTES`].
pub const LARGE: &str = "/tenants/acme/orders/large";

const NAMES: usize = 10;

const BASE: &str = r#"
version = 1

[proxy]
name = "orders"
workers = @workers@

[admin]
address = "127.0.0.1:0"

[identity]
certificate = "orders.pem"
private_key = "orders-key.pem"

[trust_domain."shop.example"]
ca = "shop-ca.pem"

[listener.mesh]
address = "127.0.0.1:0"
client_certificate = "required"

[issuer.corp]
url = "https://login.shop.example"
jwks = "http://@upstream@/jwks"
allow_http = true
audience = ["https://orders.shop.example"]
algorithms = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]
requires = ["sub", "client_id"]
[[issuer.corp.actor]]
kind = "human"
claim = { uid = "*" }
[[issuer.corp.actor]]
kind = "agent"
claim = { client_id = "assistant-*" }

[service.storefront]
spiffe_id = "spiffe://shop.example/ns/prod/sa/storefront"
client_id = ["storefront-web"]

[role.order-reader]
any_of = [
  { issuer = "corp", scope = "orders:read" },
  { issuer = "corp", group = "support" },
]

[upstream.orders]
server = ["http://@upstream@"]

[audit]
output = "audit.jsonl"

[[allow]]
name = "orders are read by their tenant"
route = "orders"
service = "storefront"
role = "order-reader"
actor = "human"
method = ["GET", "POST"]
path = "/tenants/{tenant}/orders/**"
match_claim = { tenant = "tenant" }

[[require]]
name = "refunds need step-up"
route = "any"
path = "/tenants/*/orders/*/refund"
acr = "mfa"

[[deny]]
name = "agents never write"
route = "any"
actor = "agent"
method = ["POST", "PUT", "PATCH", "DELETE"]
"#;

impl Shape {
    /// The proxy fetches the issuer's keys from the upstream.
    pub fn configuration(&self, upstream: SocketAddr) -> String {
        let mut text = BASE.replace("@upstream@", &upstream.to_string());
        text = text.replace("@workers@", &self.workers.to_string());
        for at in 0..NAMES {
            let id = format!("spiffe://shop.example/ns/prod/sa/service-{at}");
            writeln!(text, "[service.service-{at}]\nspiffe_id = \"{id}\"\nclient_id = [\"client-{at}\"]")
                .unwrap();
            let entry = format!("{{ issuer = \"corp\", scope = \"scope-{at}\" }}");
            writeln!(text, "[role.role-{at}]\nany_of = [{entry}]").unwrap();
        }
        for at in 0..self.rules - 3 {
            let resource = if self.own_paths { format!("resource-{at}") } else { "orders".to_owned() };
            let (service, role) = (at % NAMES, at / NAMES % NAMES);
            // half of the names stand before the measured rule's, half behind
            let name = if at % 2 == 0 { "a resource" } else { "the resource" };
            writeln!(
                text,
                "[[allow]]\nname = \"{name} {at}\"\nroute = \"orders\"\nservice = \"service-{service}\"\nrole = \"role-{role}\"\n\
                 actor = \"human\"\nmethod = [\"GET\", \"POST\"]\npath = \"/tenants/{{tenant}}/{resource}/**\"\n\
                 match_claim = {{ tenant = \"tenant\" }}"
            )
            .unwrap();
        }
        writeln!(text, "[route.orders]\npath = \"/**\"\nupstream = \"orders\"").unwrap();
        for at in 1..self.routes {
            let place = match at % 2 {
                0 => format!("host = [\"service-{at}.shop.example\"]\npath = \"/**\""),
                _ => format!("path = \"/service-{at}/**\""),
            };
            writeln!(text, "[route.service-{at}]\n{place}\nupstream = \"orders\"").unwrap();
        }
        text + self.more
    }
}
