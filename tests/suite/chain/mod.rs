//! Three services, each behind a Countersign of its own, and a person's request through all of them: client → front →
//! orders → payments. The orders service calls on by itself: it speaks plain HTTP to its own Countersign, and takes the
//! assertion along that it was given.
//!
//! There are six certificates: each of the three shows one at its listeners, and goes out with another, that of
//! `[identity]`. An assertion is bound to the latter.

mod misuse;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};

use countersign::cli::mint::Minted;
use http::{HeaderMap, Request, Response};
use serde_json::{Value, json};

use crate::provider::Provider;
use crate::world::certificates::{TRUST_DOMAIN, Who, spiffe_id};
use crate::world::client::{Answer, Client, Protocol, get, with_token};
use crate::world::listen::{Listening, listen};
use crate::world::proxy::{HOST, Proxy};
use crate::world::seen::Seen;
use crate::world::upstream::Upstream;
use crate::world::{Body, World, full};

const FRONT: &str = include_str!("front.toml");
const ORDERS: &str = include_str!("orders.toml");
const PAYMENTS: &str = include_str!("payments.toml");

const PAYMENTS_HOST: &str = "payments.shop.example";
const PATH: &str = "/customers/alice/7";

/// What the real provider issues, or its double.
struct Tokens {
    issuer: String,
    alice: String,
    bob: String,
}

/// Behind the last one stands the world's upstream.
struct Chain<'w> {
    world: &'w World,
    front: Proxy<'w>,
    orders: Proxy<'w>,
    payments: Proxy<'w>,
    application: Application,
    /// Another workload that the orders service calls, and which sees what it is told.
    archive: Upstream,
}

/// The orders service.
struct Application {
    listening: Listening,
    /// Where its own Countersign takes what it sends.
    egress: Arc<OnceLock<SocketAddr>>,
    told: Arc<Mutex<HeaderMap>>,
}

impl Application {
    async fn start() -> Application {
        let (egress, told) = (Arc::new(OnceLock::<SocketAddr>::new()), Arc::new(Mutex::default()));
        let (onward, heard) = (Arc::clone(&egress), Arc::clone(&told));
        let listening = listen("127.0.0.1:0".parse().unwrap(), None, move |request| {
            let (onward, heard) = (Arc::clone(&onward), Arc::clone(&heard));
            async move {
                let headers: HeaderMap = request.headers().clone();
                let mut asked = get(request.uri().path());
                for name in ["x-auth-assertion", "traceparent"] {
                    if let Some(value) = headers.get(name) {
                        asked.headers_mut().insert(name, value.clone());
                    }
                }
                *heard.lock().unwrap() = headers;
                let own = onward.get().ok_or("nowhere to go")?;
                let answer = Client::plain_for(*own, PAYMENTS_HOST, Protocol::H1).await?.ask(asked).await?;
                Ok(Response::builder().status(answer.status).body(full(answer.body))?)
            }
        });
        Application { listening: listening.await, egress, told }
    }

    /// The assertion that it was given last.
    fn assertion(&self) -> String {
        self.told.lock().unwrap()["x-auth-assertion"].to_str().unwrap().to_owned()
    }
}

impl Tokens {
    fn of(world: &World) -> Tokens {
        let token = |who: &str| world.issuer.token(json!({ "sub": who }));
        Tokens { issuer: world.issuer.url.clone(), alice: token("alice"), bob: token("bob") }
    }

    async fn from(provider: &Provider) -> Tokens {
        let token = async |who: &str| provider.person_token(who, "orders:read").await.unwrap();
        Tokens { issuer: provider.issuer.clone(), alice: token("alice").await, bob: token("bob").await }
    }
}

impl World {
    /// At its listener `payments` shows the certificate of `shown`.
    async fn three(&self, tokens: &Tokens, shown: &str) -> Chain<'_> {
        let mint = |file: &str, workload: &str, dns: &[&str]| {
            let mut spec = self.certificates.workload(TRUST_DOMAIN, workload);
            spec.dns = dns.iter().map(|&name| name.to_owned()).collect();
            let minted = self.certificates.shop.issue(&spec).unwrap();
            self.write(&format!("{file}.pem"), &minted.chain);
            self.write(&format!("{file}-key.pem"), &minted.key);
        };
        for workload in ["front", "orders", "payments"] {
            mint(workload, workload, &[]);
        }
        mint("front-listener", "front", &["localhost", HOST]);
        mint("orders-listener", "orders", &["localhost", HOST]);
        mint("payments-listener", shown, &["localhost", PAYMENTS_HOST]);

        let nowhere: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let tls = self.certificates.mutual_server_config("archive");
        let archive = Upstream::start_with("127.0.0.1:0".parse().unwrap(), Some(tls)).await;
        let application = Application::start().await;
        let fronts = |orders: SocketAddr| {
            FRONT.replace("@issuer@", &tokens.issuer).replace("@orders@", &orders.port().to_string())
        };
        let in_between = |front: SocketAddr, payments: SocketAddr| {
            ORDERS
                .replace("@issuer@", &tokens.issuer)
                .replace("@application@", &format!("http://{}", application.listening.address))
                .replace("@front@", &front.port().to_string())
                .replace("@payments@", &payments.port().to_string())
                .replace("@archive@", &archive.address().to_string())
        };
        // Each goes to the next, and fetches the keys of the one before.
        let front = self.start_from("front.toml", &fronts(nowhere), "front.jsonl");
        let internet = front.address("internet");
        let orders = self.start_from("orders.toml", &in_between(internet, nowhere), "orders.jsonl");
        let keys = orders.address("mesh").port().to_string();
        let last = PAYMENTS.replace("@issuer@", &tokens.issuer).replace("@application@", &self.upstream.url);
        let payments = self.start_from("payments.toml", &last.replace("@keys@", &keys), "payments.jsonl");
        orders.reload_from("orders.toml", &in_between(internet, payments.address("mesh")));
        front.reload_from("front.toml", &fronts(orders.address("mesh")));
        application.egress.set(orders.address("egress")).unwrap();
        Chain { world: self, front, orders, payments, application, archive }
    }
}

impl Chain<'_> {
    /// What a person gets who asks the front.
    async fn ask(&self, token: &str, path: &str, protocol: Protocol) -> Answer {
        let config = self.world.certificates.client_config(Who::NoCertificate);
        let client = Client::tls(self.front.address("internet"), HOST, config, protocol).await.unwrap();
        client.ask(with_token(get(path), token)).await.unwrap()
    }

    /// What the orders service may send: it speaks to its own Countersign.
    async fn the_application_asks(&self, host: &str, fields: &[(&'static str, &str)]) -> Answer {
        let client = Client::plain_for(self.orders.address("egress"), host, Protocol::H1).await.unwrap();
        client.ask(with_fields(fields)).await.unwrap()
    }

    /// What a workload with this certificate gets that speaks to the last one itself.
    async fn past_the_sidecar(&self, own: &Minted, fields: &[(&'static str, &str)]) -> Answer {
        let config = self.world.certificates.client_config_with(Some(own));
        let client = Client::tls(self.payments.address("mesh"), PAYMENTS_HOST, config, Protocol::H1);
        client.await.unwrap().ask(with_fields(fields)).await.unwrap()
    }

    /// The same over a connection that was made for its address.
    async fn by_its_address(&self, own: &Minted, fields: &[(&'static str, &str)]) -> Answer {
        let config = self.world.certificates.client_config_with(Some(own));
        let client = Client::tls(self.payments.address("mesh"), "localhost", config, Protocol::H1);
        let mut request = with_fields(fields);
        request.headers_mut().insert("host", PAYMENTS_HOST.parse().unwrap());
        client.await.unwrap().ask(request).await.unwrap()
    }

    /// With which the orders service's Countersign goes out.
    fn certificate_of_orders(&self) -> Minted {
        let read = |name: &str| std::fs::read_to_string(self.world.folder.path().join(name)).unwrap();
        Minted { chain: read("orders.pem"), key: read("orders-key.pem"), der: Vec::new() }
    }
}

fn trace_of(record: &Value) -> Option<&str> {
    record["trace"].as_str()?.split('-').nth(1)
}

/// The record of the request of this trace that came to a listener.
async fn came(proxy: &Proxy<'_>, listener: &str, trace: &str) -> Value {
    let is_it = |it: &&Value| it["connection"]["listener"] == listener && trace_of(it) == Some(trace);
    proxy.records.until(|all| all.iter().find(is_it).cloned()).await
}

fn with_fields(fields: &[(&'static str, &str)]) -> Request<Body> {
    let mut request = get(PATH);
    for (name, value) in fields {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn the_last_of_three_knows_the_person_and_the_way() {
    let world = World::new().await;
    goes_through(&world, &Tokens::of(&world)).await;
}

#[tokio::test]
#[ignore = "needs node and `npm ci` in tests/idp; tests/run runs it"]
async fn the_last_of_three_knows_the_person_of_a_real_provider() {
    let world = World::new().await;
    let provider = Provider::start().await;
    goes_through(&world, &Tokens::from(&provider).await).await;
}

async fn goes_through(world: &World, tokens: &Tokens) {
    let chain = world.three(tokens, "payments").await;
    for (n, protocol) in (1..).zip(Protocol::BOTH) {
        let answer = chain.ask(&tokens.alice, PATH, protocol).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let seen: Seen = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(seen.header("x-auth-subject"), ["alice"]);
        assert_eq!(seen.header("x-auth-service"), ["orders"]);
        for name in ["authorization", "x-auth-assertion"] {
            assert!(seen.header(name).is_empty(), "the last one passes no credential on: {name}");
        }

        let last = chain.payments.records(n).await.remove(n - 1);
        assert_eq!(last["rule"], "people see what they paid");
        assert_eq!(last["peer"]["spiffe_id"], spiffe_id(TRUST_DOMAIN, "orders"));
        assert_eq!((&last["peer"]["hop"], &last["caller"]["issuer"]), (&json!("direct"), &json!("orders")));
        assert_eq!(
            (&last["caller"]["subject"], &last["caller"]["actor"]),
            (&json!("alice"), &json!("human"))
        );
        assert_eq!(last["caller"]["via"], json!([spiffe_id(TRUST_DOMAIN, "front")]));

        let trace = trace_of(&last).unwrap();
        let first = came(&chain.front, "internet", trace).await;
        let inward = came(&chain.orders, "mesh", trace).await;
        let outward = came(&chain.orders, "egress", trace).await;
        for record in [&first, &inward, &outward] {
            assert_eq!(
                (&record["verdict"], &record["caller"]["subject"]),
                (&json!("allow"), &json!("alice"))
            );
        }
        assert_eq!((&first["peer"], &first["caller"]["issuer"]), (&Value::Null, &json!("corp")));
        assert_eq!(inward["peer"]["spiffe_id"], spiffe_id(TRUST_DOMAIN, "front"));
        assert_eq!((&inward["caller"]["issuer"], &inward["caller"]["via"]), (&json!("front"), &json!([])));
        assert_eq!((&outward["peer"]["hop"], &outward["caller"]["issuer"]), (&json!("local"), &json!("own")));
        assert_eq!(outward["caller"]["via"], json!([spiffe_id(TRUST_DOMAIN, "front")]));
    }
    assert_eq!(world.upstream.counts().requests, 2);
}
