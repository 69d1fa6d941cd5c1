//! Identity from a Consul agent: awaited, rotated, and the last good kept whatever comes.

mod access;

use std::time::Duration;

use countersign::cli::mint::{Authority, CaSpec, LeafSpec, Minted, Validity};
use countersign::clock::Clock;
use http::Request;
use http::header::AUTHORIZATION;
use rustls::{AlertDescription, ClientConfig};
use serde_json::{Value, json};

use crate::spiffe::{identity, readiness, rotated};
use crate::world::certificates::{SERVER_NAMES, parsed, store};
use crate::world::client::{Client, Protocol, alert_after, get};
use crate::world::consul::{CLUSTER, ConsulAgent, Failing, leaf, roots};
use crate::world::presented::in_force;
use crate::world::proxy::{HOST, Proxy};
use crate::world::tls::now;
use crate::world::{Body, World, soon};

const IDENTITY: &str = r#"[identity]
source = "consul"
[identity.consul]
service = "orders"
address = "@agent@"
# more

[trust_domain."7f42f496-fbc7-8692-05ed-334aa5340c1e.consul"]
[trust_domain."shop.example"]
ca = "shop-ca.pem"
[trust_domain."partner.example"]
ca = "partner-ca.pem"
"#;

const READ: &str = r#"
[service.web]
spiffe_id = [
    "spiffe://7f42f496-fbc7-8692-05ed-334aa5340c1e.consul/ns/*/dc/*/svc/web",
    "spiffe://7f42f496-fbc7-8692-05ed-334aa5340c1e.consul/ap/*/ns/*/dc/*/svc/web",
]
client_id = [{ issuer = "corp", client = "storefront-web" }]

[[allow]]
name = "read"
service = "web"
role = "order-reader"
method = "GET"
"#;

/// A world whose proxy asks this agent.
async fn world(clock: Clock, agent: &ConsulAgent, more: &str) -> World {
    let mut world = World::at(clock).await;
    world.identity = Some(IDENTITY.replace("@agent@", &agent.url).replace("# more", more));
    world
}

fn spec(world: &World, path: &str) -> LeafSpec {
    let id = format!("spiffe://{CLUSTER}/{path}");
    let mut spec = LeafSpec::workload(&id, world.certificates.validity);
    // Those of Consul have none; clients of tests go by them.
    spec.dns = SERVER_NAMES.map(str::to_owned).to_vec();
    spec
}

fn ca(world: &World, name: &str) -> Authority {
    Authority::root(&CaSpec::new(name, world.certificates.validity)).unwrap()
}

fn own(world: &World, ca: &Authority) -> Minted {
    ca.issue(&spec(world, "ns/default/dc/dc1/svc/orders")).unwrap()
}

/// A client with the certificate of this workload, who believes these CAs.
fn client_of(world: &World, path: &str, by: &Authority, cas: &[&Authority]) -> ClientConfig {
    let (chain, key) = parsed(&by.issue(&spec(world, path)).unwrap());
    ClientConfig::builder().with_root_certificates(store(cas)).with_client_auth_cert(chain, key).unwrap()
}

const WEB: &str = "ns/default/dc/dc1/svc/web";

fn signed(world: &World) -> Request<Body> {
    let mut request = get("/orders/7");
    let token = format!("Bearer {}", world.issuer.token(json!({})));
    request.headers_mut().insert(AUTHORIZATION, token.parse().unwrap());
    request
}

async fn connect(proxy: &Proxy<'_>, config: &ClientConfig) -> Client {
    Client::tls(proxy.address("mesh"), HOST, config.clone(), Protocol::H1).await.unwrap()
}

/// Waits until the agent was asked in this way `n` times.
async fn asked(agent: &ConsulAgent, n: usize, how: &str) {
    let asking = async {
        while agent.asked().iter().filter(|asked| asked.contains(how)).count() < n {
            tokio::task::yield_now().await;
        }
    };
    soon(how, asking).await;
}

#[tokio::test]
async fn the_first_certificate_is_awaited_and_services_are_known_by_whole_segments() {
    let agent = ConsulAgent::start(None).await;
    let world = world(Clock::system(), &agent, "").await;
    let ca = ca(&world, "Consul CA");
    let proxy = world.start(READ);
    readiness(&proxy, 503, "our certificate is awaited from consul").await;
    let failing = identity(&proxy, |it| it["failure"].is_string()).await;
    assert!(failing["failure"].as_str().unwrap().contains("answers with status 500"), "{failing}");

    let own = own(&world, &ca);
    agent.gives(&own, CLUSTER, &[&ca]);
    readiness(&proxy, 200, "").await;
    rotated(&proxy, &own).await;
    let mut seen = 0;
    for (path, status) in [
        (WEB, 200),
        ("ns/shop/dc/dc2/svc/web", 200),
        ("ap/edge/ns/shop/dc/dc1/svc/web", 200),
        ("ns/default/dc/dc1/svc/web2", 403),
        ("ns/default/dc/dc1/svc/other/web", 403),
        ("agent/client/dc/dc1/id/web", 403),
    ] {
        let client = connect(&proxy, &client_of(&world, path, &ca, &[&ca])).await;
        assert_eq!(client.ask(signed(&world)).await.unwrap().status, status, "{path}");
        seen += 1;
    }
    assert_eq!(seen, 6);
    assert_eq!(world.upstream.counts().requests, 3);
}

#[tokio::test]
async fn leaf_and_ca_rotate_with_an_overlap() {
    let agent = ConsulAgent::start(None).await;
    let world = world(Clock::system(), &agent, "").await;
    let (old, new) = (ca(&world, "Consul CA"), ca(&world, "Consul CA, the next one"));
    let first = own(&world, &old);
    agent.gives(&first, CLUSTER, &[&old]);
    let proxy = world.start(READ);
    readiness(&proxy, 200, "").await;
    rotated(&proxy, &first).await;

    // The wait's end is no news; then there is a new leaf.
    asked(&agent, 2, "index=").await;
    agent.waits_end();
    asked(&agent, 4, "index=").await;
    proxy.metrics_once("countersign_identity_updates_total 1").await;
    let next = own(&world, &old);
    agent.gives(&next, CLUSTER, &[&old]);
    rotated(&proxy, &next).await;

    let next = own(&world, &new);
    agent.gives(&next, CLUSTER, &[&old, &new]);
    rotated(&proxy, &next).await;
    let both = [&old, &new];
    let (by_old, by_new) = (client_of(&world, WEB, &old, &both), client_of(&world, WEB, &new, &both));
    let is_believed = async |config: &ClientConfig| {
        let ask = async {
            loop {
                // News of the roots and of the leaf are two.
                let Ok(client) = Client::tls(proxy.address("mesh"), HOST, config.clone(), Protocol::H1).await
                else {
                    continue;
                };
                if let Ok(answer) = client.ask(signed(&world)).await {
                    assert_eq!(answer.status, 200);
                    return client;
                }
            }
        };
        soon("who is believed", ask).await
    };
    let (open, _) = (is_believed(&by_old).await, is_believed(&by_new).await);

    agent.gives(&next, CLUSTER, &[&new]);
    soon("the end of a connection whose CA is gone", open.closed()).await;
    let refused = alert_after(proxy.address("mesh"), HOST, by_old, Protocol::H1).await;
    assert_eq!(refused, Some(AlertDescription::UnknownCA));
    is_believed(&by_new).await;
}

#[tokio::test]
async fn an_index_that_goes_backwards_is_waited_after_no_longer() {
    let agent = ConsulAgent::start(None).await;
    let world = world(Clock::system(), &agent, "").await;
    let ca = ca(&world, "Consul CA");
    let first = own(&world, &ca);
    agent.restored(1000);
    agent.gives(&first, CLUSTER, &[&ca]);
    let proxy = world.start(READ);
    rotated(&proxy, &first).await;
    // For each of these, what comes next has an index that is lower than the one before.
    for (before, index) in [(1010, 500), (510, 20), (30, 0)] {
        asked(&agent, 1, &format!("leaf/orders?index={before}&wait=60s")).await;
        agent.restored(index);
        let next = own(&world, &ca);
        agent.gives(&next, CLUSTER, &[&ca]);
        rotated(&proxy, &next).await;
    }
    assert!(!agent.asked().iter().any(|asked| asked.contains("index=0")));
    identity(&proxy, |it| it["failure"].is_null()).await;
}

#[tokio::test]
async fn whatever_else_comes_the_last_good_stays() {
    let agent = ConsulAgent::start(None).await;
    let clock = Clock::manual(Clock::system().now());
    let world = world(clock.clone(), &agent, "namespace = \"default\"\ndatacenter = \"dc1\"").await;
    let ca = ca(&world, "Consul CA");
    let own = own(&world, &ca);
    let (good_leaf, good_roots) = (leaf(&own), roots(CLUSTER, &[&ca]));
    agent.gives(&own, CLUSTER, &[&ca]);
    let proxy = world.start(READ);
    readiness(&proxy, 200, "").await;
    rotated(&proxy, &own).await;
    let client = connect(&proxy, &client_of(&world, WEB, &ca, &[&ca])).await;

    let Validity { from, .. } = world.certificates.validity;
    let orders = spec(&world, "ns/default/dc/dc1/svc/orders");
    let expired = LeafSpec {
        validity: Validity { from: from.minus(Duration::from_secs(3600)), to: from },
        ..orders.clone()
    };
    let nameless = LeafSpec { uris: Vec::new(), ..orders.clone() };
    let of = |spec: &LeafSpec| leaf(&ca.issue(spec).unwrap());
    let service = |path: &str| of(&spec(&world, path));
    let with = |base: &Value, key: &str, value: Value| {
        let mut changed = base.clone();
        changed[key] = value;
        changed
    };
    let leaves = [
        ("which is not service `orders`", service("ns/default/dc/dc1/svc/other")),
        ("which is not service `orders`", service("ns/default/dc/dc2/svc/orders")),
        ("which is not service `orders`", service("ns/other/dc/dc1/svc/orders")),
        ("which is not service `orders`", service("agent/client/dc/dc1/id/orders")),
        ("without a SPIFFE ID", of(&nameless)),
        ("our certificate expired", of(&expired)),
        ("does not fit", with(&good_leaf, "CertPEM", of(&orders)["CertPEM"].clone())),
        ("does not fit", with(&good_leaf, "CertPEM", json!(""))),
        ("(the certificate)", with(&good_leaf, "CertPEM", json!("-----BEGIN CERTIFICATE-----\nx"))),
        ("(the certificate)", with(&good_leaf, "CertPEM", json!(7))),
        ("(the key)", with(&good_leaf, "PrivateKeyPEM", json!(""))),
        ("(the certificate)", json!({"CertPEM": good_leaf["CertPEM"]})),
        ("(the certificate)", json!([])),
    ];
    let said = [
        ("the cluster's trust domain is `other.consul`", roots("other.consul", &[&ca])),
        ("which is no trust domain", roots("UPPER.consul", &[&ca])),
        ("gives as roots no CA at all", roots(CLUSTER, &[])),
        (
            "a certificate that is not a CA's",
            with(&good_roots, "Roots", json!([{"RootCert": good_leaf["CertPEM"]}])),
        ),
        ("(the roots)", with(&good_roots, "Roots", json!([{"RootCert": "-----BEGIN CERTIFICATE-----\nx"}]))),
        ("(the roots)", with(&good_roots, "Roots", json!([{}]))),
    ];
    let failing = [
        ("answers with status 500", Failing::Status(500)),
        ("answers with status 503", Failing::Status(503)),
        ("answers with status 404", Failing::Status(404)),
        ("refuses with status 403", Failing::Status(403)),
        ("refuses with status 401", Failing::Status(401)),
        ("is a redirect", Failing::Status(302)),
        ("does not parse", Failing::Text("<html>".to_owned())),
        ("longer than", Failing::Text(" ".repeat(2 << 20))),
        ("broke off", Failing::HangUp),
    ];
    let leaves = leaves.map(|(why, leaf)| (why, Ok((leaf, good_roots.clone()))));
    let said = said.map(|(why, roots)| (why, Ok((good_leaf.clone(), roots))));
    let failing = failing.map(|(why, how)| (why, Err(how)));
    let mut seen = 0;
    for (why, said) in leaves.into_iter().chain(said).chain(failing) {
        match said {
            Ok((leaf, roots)) => agent.says(leaf, roots),
            Err(how) => agent.fails(how),
        }
        let told = identity(&proxy, |it| it["failure"].as_str().is_some_and(|told| told.contains(why))).await;
        assert_eq!(told["awaited"], false, "{why}");
        in_force(proxy.address("mesh"), &own).await;
        assert_eq!(client.ask(signed(&world)).await.unwrap().status, 200, "{why}");
        assert_eq!(proxy.admin("/readyz").await.status, 200, "{why}");
        agent.says(good_leaf.clone(), good_roots.clone());
        identity(&proxy, |it| it["failure"].is_null()).await;
        // It goes well for some time, or the pauses would grow.
        clock.set(clock.now().plus(Duration::from_secs(60)));
        seen += 1;
    }
    assert_eq!(seen, 28);
    let wanted = "/v1/agent/connect/ca/leaf/orders?ns=default&dc=dc1";
    assert!(agent.asked().iter().any(|asked| asked == wanted));
}

#[tokio::test]
async fn who_is_without_the_agent_until_his_certificate_ends_is_not_ready() {
    let clock = Clock::manual(now());
    let agent = ConsulAgent::start(None).await;
    let world = world(clock.clone(), &agent, "").await;
    let ca = ca(&world, "Consul CA");
    let own = own(&world, &ca);
    agent.gives(&own, CLUSTER, &[&ca]);
    let proxy = world.start(READ);
    rotated(&proxy, &own).await;
    drop(agent);
    identity(&proxy, |it| it["failure"].as_str().is_some_and(|told| told.contains("could not connect")))
        .await;
    let to = world.certificates.validity.to;
    let gauge = "countersign_certificate_expiry_timestamp_seconds{certificate=\"identity\"}";
    proxy.metrics_once(&format!("{gauge} {}", to.unix_seconds())).await;
    let gauge = format!("countersign_trust_domain_expiry_timestamp_seconds{{trust_domain=\"{CLUSTER}\"}}");
    proxy.metrics_once(&format!("{gauge} {}", to.unix_seconds())).await;
    clock.set(to.minus(Duration::from_secs(1)));
    assert_eq!(proxy.admin("/readyz").await.status, 200);
    clock.set(to);
    readiness(&proxy, 503, "certificate identity: expired at").await;
    readiness(&proxy, 503, "all its CAs have expired").await;
}
