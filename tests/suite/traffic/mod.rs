//! What passes through, and how: one proxy between clients of both protocols and upstreams of every kind.
//!
//! The kind of upstream is chosen by the header `x-upstream`: none is HTTP/1.1 in the clear, `h2c` is
//! HTTP/2 in the clear, `tls` is HTTP/2 over mTLS.

mod bodies;
mod gone;
mod grpc;
mod heads;
mod limits;
mod memory;
mod onward;
mod refused_early;
mod rest;
mod routing;
mod websocket;

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request};
use serde_json::json;

use crate::world::certificates::Who;
use crate::world::client::{Answer, Protocol, bearer};
use crate::world::proxy::Proxy;
use crate::world::seen::Seen;
use crate::world::upstream::Upstream;
use crate::world::{Body, World};

/// Every kind of upstream, by its name in `x-upstream`; and the version that it then sees.
pub const ONWARD: [(&str, &str); 3] = [("", "HTTP/1.1"), ("h2c", "HTTP/2.0"), ("tls", "HTTP/2.0")];

/// Routes to all of them; whoever has both signatures may do anything.
const CONFIGURATION: &str = r#"
[upstream.h2c]
server = "h2c://@address@"

[upstream.tls]
server = "https://@tls@"
server_spiffe_id = "spiffe://shop.example/ns/prod/sa/backend"

[route.h2c]
host = "orders.shop.example"
path = "/**"
header = { x-upstream = "h2c" }
upstream = "h2c"

[route.tls]
host = "orders.shop.example"
path = "/**"
header = { x-upstream = "tls" }
upstream = "tls"

[[allow]]
name = "anything"
service = "storefront"
role = "order-reader"
route = "any"
"#;

/// A world with a second upstream behind mTLS.
pub struct Traffic {
    pub world: World,
    pub tls: Upstream,
}

impl Traffic {
    pub async fn new() -> Traffic {
        let world = World::new().await;
        let tls = world.certificates.mutual_server_config("backend");
        let tls = Upstream::start_with("127.0.0.1:0".parse().unwrap(), Some(tls)).await;
        Traffic { world, tls }
    }

    pub fn start(&self) -> Proxy<'_> {
        self.start_with("")
    }

    /// With more tables than the routes above.
    pub fn start_with(&self, more: &str) -> Proxy<'_> {
        self.world.start(&self.configuration(more))
    }

    /// What is written below the base configuration.
    pub fn configuration(&self, more: &str) -> String {
        let configuration = CONFIGURATION.replace("@address@", &self.world.upstream.address().to_string());
        format!("{}\n{more}", configuration.replace("@tls@", &self.tls.address().to_string()))
    }

    /// The double that serves this kind of upstream.
    pub fn upstream(&self, kind: &str) -> &Upstream {
        if kind == "tls" { &self.tls } else { &self.world.upstream }
    }

    /// With a caller's good token, on its way to this kind of upstream.
    pub fn signed(&self, kind: &str, mut request: Request<Body>) -> Request<Body> {
        request.headers_mut().insert(AUTHORIZATION, self.bearer());
        if !kind.is_empty() {
            request.headers_mut().insert("x-upstream", kind.parse().unwrap());
        }
        request
    }

    pub fn bearer(&self) -> HeaderValue {
        bearer(&self.world.issuer.token(json!({})))
    }
}

/// What the upstream saw, from its answer.
pub fn seen(answer: &Answer) -> Seen {
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_slice(&answer.body).unwrap()
}

/// For each protocol of the client a connection, and with it each kind of upstream.
pub async fn everywhere(proxy: &Proxy<'_>) -> Vec<(String, Arc<crate::world::client::Client>, &'static str)> {
    let mut ways = Vec::new();
    for protocol in Protocol::BOTH {
        for (kind, _) in ONWARD {
            let client = Arc::new(proxy.client(Who::Storefront, protocol).await);
            ways.push((format!("{protocol:?} to `{kind}`"), client, kind));
        }
    }
    assert_eq!(ways.len(), 6);
    ways
}
