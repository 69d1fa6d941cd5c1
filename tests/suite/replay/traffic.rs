//! Requests of all sorts by all sorts, drawn at random, and a policy that reads whatever a policy can.

use std::time::Duration;

use countersign::clock::Clock;
use fastrand::Rng;
use http::{HeaderValue, Method, Request};
use serde_json::{Value, json};

use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, get, with_token};
use crate::world::proxy::Proxy;
use crate::world::{Body, full};

/// Added to the base configuration.
const POLICY: &str = r#"
[listener.open]
address = "127.0.0.1:0"
client_certificate = "optional"

[issuer.corp.claims]
groups = "groups"
roles = ["realm", "roles"]

[role.supporter]
any_of = [
  { issuer = "corp", group = "support" },
  { issuer = "corp", role = "helper", subject = "alice" },
  { issuer = "corp", claim = { tier = "gold" }, subject = "b*" },
]
[role.helped]
any_of = [{ issuer = "corp", actor_subject = "assistant-7" }]

[route.shadowed]
host = ["orders.shop.example"]
path = "/shadow/**"
upstream = "orders"
shadow_until = "@soon@"
[route.canary]
host = ["orders.shop.example"]
path = "/**"
header = { x-canary = "1" }
upstream = "orders"

[[allow]]
name = "people read their own"
route = ["orders", "canary"]
service = "storefront"
role = "order-reader"
actor = "human"
method = "GET"
path = "/customers/{customer}/**"
match_claim = { customer = "sub" }
[[allow]]
name = "supporters read all"
route = "any"
service = "any"
role = "supporter"
method = ["GET", "POST"]
path = ["/customers/*/orders", "/shadow/orders"]
[[allow]]
name = "agents that are named"
route = ["orders", "canary"]
service = ["assistant", "storefront"]
role = "helped"
actor = ["agent", "human", "unknown"]
on_behalf_of = ["human", "unknown"]
path = "/customers/**"
[[allow]]
name = "gold and fresh"
route = ["orders", "canary"]
service = "storefront"
role = "order-reader"
claim = { tier = ["gold", 7] }
max_age = "10m"
path = "/gold/**"
[[allow]]
name = "calls"
route = ["orders", "canary"]
service = "any"
role = "any"
grpc = "shop.Orders/*"
[[allow]]
name = "open to all"
route = ["orders", "canary"]
service = "none"
role = "none"
path = "/public/**"
client_ip = "127.0.0.0/8"
[[allow]]
name = "some day"
mode = "shadow"
route = ["orders", "canary"]
service = "storefront"
role = "any"
path = "/gold/**"
[[require]]
name = "writes want a strong login"
route = "any"
method = "POST"
path = "/customers/**"
acr = "mfa"
[[deny]]
name = "no unknown actors in the vault"
route = "any"
path = "/customers/*/vault/**"
service = "assistant"
"#;

/// The policy, whose shadow ends soon.
pub fn policy(clock: &Clock) -> String {
    let month = Duration::from_secs(30 * 86_400);
    POLICY.replace("\"@soon@\"", &clock.now().plus(month).to_string()[..10])
}

pub struct Traffic<'p> {
    proxy: &'p Proxy<'p>,
    clients: Vec<Client>,
    random: Rng,
}

impl<'p> Traffic<'p> {
    /// The same requests for the same seed.
    pub async fn of(proxy: &'p Proxy<'p>, seed: u64) -> Traffic<'p> {
        let mut clients = Vec::new();
        for (listener, who, protocol) in [
            ("mesh", Who::Storefront, Protocol::H2),
            ("mesh", Who::Storefront, Protocol::H1),
            ("mesh", Who::Assistant, Protocol::H2),
            ("mesh", Who::Unnamed, Protocol::H2),
            ("open", Who::NoCertificate, Protocol::H1),
            ("open", Who::Storefront, Protocol::H2),
        ] {
            clients.push(proxy.client_of(listener, who, protocol).await);
        }
        Traffic { proxy, clients, random: Rng::with_seed(seed) }
    }

    /// One more request, whatever comes of it.
    pub async fn ask(&mut self) {
        if self.random.bool() {
            return self.ask_well().await;
        }
        let request = self.request();
        let client = self.random.choice(&self.clients).unwrap();
        client.ask(request).await.unwrap();
    }

    /// One that most often is allowed.
    async fn ask_well(&mut self) {
        let (subject, tier) = (self.pick(&["alice", "bob", "carol"]), self.pick(&["gold", "silver"]));
        let path = match self.random.u8(..4) {
            0 => "/gold/1".to_owned(),
            _ => format!("/customers/{subject}/orders/{}", self.random.u8(..)),
        };
        let login = self.proxy.world.clock.now().unix_seconds() - 30;
        let claims = json!({ "sub": subject, "uid": "00u1", "tier": tier, "auth_time": login });
        let request = with_token(get(&path), &self.proxy.world.issuer.token(claims));
        self.clients[self.random.usize(..2)].ask(request).await.unwrap();
    }

    fn request(&mut self) -> Request<Body> {
        let paths = [
            "/customers/alice/orders",
            "/customers/alice/orders/7",
            "/customers/b%6Fb/orders",
            "/customers/bob/vault/1",
            "/customers/zo%C3%AB/orders/",
            "/shadow/orders",
            "/shadow/7/items",
            "/gold/1",
            "/gold/mine/2",
            "/public/page",
            "/shop.Orders/Get",
            "/nowhere",
        ];
        let path = self.pick(&paths);
        let method = self.pick(&[Method::GET, Method::GET, Method::HEAD, Method::POST, Method::DELETE]);
        let mut request = Request::builder().method(method).uri(path).body(full("")).unwrap();
        if path.starts_with("/shop.") && self.random.u8(..4) > 0 {
            *request.method_mut() = Method::POST;
            request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc+proto"));
        }
        if self.random.u8(..5) == 0 {
            request.headers_mut().insert("x-canary", HeaderValue::from_static("1"));
        }
        let token = match self.random.u8(..12) {
            0 => return request,
            1 => "rubbish".to_owned(),
            2 => self.proxy.world.issuer.token(json!({ "exp": 1 })),
            _ => self.proxy.world.issuer.token(self.claims()),
        };
        with_token(request, &token)
    }

    fn claims(&mut self) -> Value {
        let now = self.proxy.world.clock.now().unix_seconds();
        let mut claims = json!({
            "sub": self.pick(&["alice", "bob", "zoë", "auth0|eve"]),
            "client_id": self.pick(&["storefront-web", "storefront-web", "assistant-7", "other"]),
            "scope": self.pick(&["orders:read", "orders:read profile", "profile"]),
        });
        let mut say = |name: &str, values: &[Value], random: &mut Rng| match random.u8(..2) {
            0 => {}
            _ => claims[name] = random.choice(values).unwrap().clone(),
        };
        let random = &mut self.random;
        say("uid", &[json!("00u1"), json!("00u1"), json!("bot-1")], random);
        say("groups", &[json!(["support", "staff"]), json!("support"), json!([]), json!(["other"])], random);
        say("realm", &[json!({ "roles": ["helper"] }), json!({}), json!({ "roles": [] })], random);
        say(
            "tier",
            &[json!("gold"), json!(7), json!(["silver", "gold"]), json!({ "gold": 1 }), json!(7.5)],
            random,
        );
        say("auth_time", &[json!(now - 30), json!(now - 3600)], random);
        say("acr", &[json!("mfa"), json!("pwd")], random);
        let act =
            [json!({ "sub": "assistant-7" }), json!({ "sub": "assistant-7", "iss": "https://else.example" })];
        if random.u8(..3) == 0 {
            say("act", &act, random);
        }
        claims
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        self.random.choice(from).unwrap().clone()
    }
}
