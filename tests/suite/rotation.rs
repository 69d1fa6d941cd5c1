//! Leaf certificates and CAs that rotate under load, for each source of service identity: nobody's request
//! fails, and with a removed CA its connections go.
//!
//! All workloads rotate as they do with SPIRE or cert-manager: the new CA is believed by all before anybody shows
//! a certificate of it, and the old one is removed after everybody has one. Without `COUNTERSIGN_ROTATIONS` this
//! is a short run; `tests/rotation` is the one at length.

use std::env;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use countersign::cli::mint::{Authority, CaSpec, Minted};
use countersign::clock::{Clock, Stopwatch};
use futures_util::future::join_all;
use http::Request;
use http::header::{AUTHORIZATION, CONNECTION};
use rcgen::KeyPair;
use rustls::ClientConfig;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::world::aws::{Aws, CA_ARN, Ca};
use crate::world::certificates::{TRUST_DOMAIN, parsed, store};
use crate::world::client::{Client, Protocol, Raw, get};
use crate::world::consul::ConsulAgent;
use crate::world::process::Process;
use crate::world::proxy::HOST;
use crate::world::workload_api::WorkloadApi;
use crate::world::{Body, Error, World, soon};

const READ: &str =
    "\n[[allow]]\nname = \"read\"\nservice = \"storefront\"\nrole = \"order-reader\"\nmethod = \"GET\"\n";
const FILES: &str = r#"[identity]
certificate = "orders.pem"
private_key = "orders-key.pem"
[trust_domain."shop.example"]
ca = "shop-ca.pem"
"#;
const WORKLOAD_API: &str = r#"[identity]
source = "workload_api"
workload_api = "unix:@socket@"
[trust_domain."shop.example"]
"#;

const CONSUL: &str = r#"[identity]
source = "consul"
[identity.consul]
service = "orders"
address = "@agent@"
[trust_domain."shop.example"]
"#;

/// The longest life with which five renewals fit into a minute. The root is not followed but written by hand, both
/// of them while one takes the place of the other, as who operates this has to.
const AWS_PRIVATE_CA: &str = r#"[identity]
source = "aws_private_ca"
[identity.aws_private_ca]
certificate_authority_arn = "@arn@"
spiffe_id = "spiffe://shop.example/orders"
dns = ["orders.shop.example"]
validity = "12s"
endpoint = "@aws@"
[trust_domain."shop.example"]
ca = "shop-ca.pem"
"#;

/// Who asks at the same time; the first by a new connection each time.
const LANES: u64 = 8;

/// How often what rotates, and how fast is asked meanwhile.
struct Plan {
    rotations: u64,
    /// Requests a second, of all lanes together.
    rate: u64,
    /// Requests between two steps of a rotation.
    calm: u64,
}

impl Plan {
    /// For a source that takes up to so many seconds to come with another certificate.
    fn new(slow: u64) -> Plan {
        let number = |name, default| env::var(name).map_or(default, |text| text.parse().unwrap());
        let rotations = number("COUNTERSIGN_ROTATIONS", 2);
        let rate = number("COUNTERSIGN_ROTATION_RATE", 200);
        // Twice a rotation, and all of them in a minute.
        let at_length = rate * (60 / rotations - slow) / 2;
        let calm = if env::var_os("COUNTERSIGN_ROTATIONS").is_some() { at_length } else { 60 };
        Plan { rotations, rate, calm }
    }
}

/// What all clients go by at one time.
#[derive(Clone)]
struct Clients {
    /// Counts the certificates that clients had.
    number: u64,
    config: ClientConfig,
}

/// What all lanes together have seen.
#[derive(Default)]
struct Seen {
    answered: AtomicU64,
    /// Requests that were not answered, or not with 200.
    failed: AtomicU64,
    connections: AtomicU64,
    /// Connections that ended before a request was on them.
    unsent: AtomicU64,
}

/// A source under test, and how it is told of the next certificate and CAs.
enum Source {
    Files,
    WorkloadApi(WorkloadApi),
    Consul(ConsulAgent),
    AwsPrivateCa(Aws),
}

/// A CA that may come to be the root of AWS Private CA, for which its key is needed.
struct Root {
    authority: Authority,
    /// PEM.
    key: String,
}

impl Source {
    fn gives(&self, world: &World, issuer: &Root, believed: &[&Root]) {
        let cas: Vec<&Authority> = believed.iter().map(|root| &root.authority).collect();
        let pem = || cas.iter().map(|ca| ca.pem()).collect::<String>();
        let own = || self.own(world, &issuer.authority);
        match self {
            Source::Files => {
                let own = own();
                world.write("shop-ca.pem", &pem());
                world.write("orders.pem", &own.chain);
                world.write("orders-key.pem", &own.key);
            }
            Source::WorkloadApi(api) => api.gives(world.svid_response(&own(), &cas)),
            Source::Consul(agent) => agent.gives(&own(), TRUST_DOMAIN, &cas),
            Source::AwsPrivateCa(aws) => {
                world.write("shop-ca.pem", &pem());
                aws.issues_by(Ca::below_given(&issuer.authority.pem(), &issuer.key, &Clock::system()));
            }
        }
    }

    /// Who we are.
    fn own(&self, world: &World, ca: &Authority) -> Minted {
        let mut spec = world.certificates.workload(TRUST_DOMAIN, "orders");
        spec.dns = vec![HOST.to_owned()];
        if let Source::Consul(_) = self {
            spec.uris = vec![format!("spiffe://{TRUST_DOMAIN}/ns/default/dc/dc1/svc/orders")];
        }
        ca.issue(&spec).unwrap()
    }
}

#[tokio::test]
async fn files_rotate_without_a_failed_request() {
    let mut world = World::new().await;
    world.identity = Some(FILES.to_owned());
    rotate("files", &world, &Source::Files, 0).await;
}

#[tokio::test]
async fn the_workload_api_rotates_without_a_failed_request() {
    let mut world = World::new().await;
    let socket = world.workload_socket();
    world.identity = Some(WORKLOAD_API.replace("@socket@", socket.to_str().unwrap()));
    let api = WorkloadApi::start(&socket);
    rotate("workload_api", &world, &Source::WorkloadApi(api), 0).await;
}

#[tokio::test]
async fn consul_rotates_without_a_failed_request() {
    let mut world = World::new().await;
    let agent = ConsulAgent::start(None).await;
    world.identity = Some(CONSUL.replace("@agent@", &agent.url));
    rotate("consul", &world, &Source::Consul(agent), 0).await;
}

#[tokio::test]
async fn aws_private_ca_rotates_without_a_failed_request() {
    let first = Ca::new("of nobody", &Clock::system());
    let aws = Aws::start(first, Clock::system()).await;
    let mut world = World::new().await;
    world.identity = Some(AWS_PRIVATE_CA.replace("@aws@", &aws.url).replace("@arn@", CA_ARN));
    world.environment = aws.environment(&world);
    let source = Source::AwsPrivateCa(aws);
    rotate("aws_private_ca", &world, &source, 8).await;
}

async fn rotate(name: &str, world: &World, source: &Source, slow: u64) {
    let plan = Plan::new(slow);
    let mut ca = new_root(world, 0);
    source.gives(world, &ca, &[&ca]);
    let process = world.serve(READ).await;
    ready(&process).await;

    let (told, clients) = watch::channel(clients(world, 0, &ca, &[&ca]));
    let seen = Arc::new(Seen::default());
    let (asked, mut asking) = watch::channel(vec![(0, 0); LANES as usize]);
    let mut lanes = JoinSet::new();
    for lane in 0..LANES {
        let (clients, seen, asked) = (clients.clone(), seen.clone(), asked.clone());
        let period = Duration::from_secs(1) * LANES as u32 / plan.rate as u32;
        let token = format!("Bearer {}", world.issuer.token(json!({})));
        lanes.spawn(ask_on(process.address, lane, period, clients, token, seen, asked));
    }
    let since = Stopwatch::start();
    let mut lasted = Vec::new();
    for number in 1..=plan.rotations {
        let next = new_root(world, number);
        // Everybody believes both.
        source.gives(world, &ca, &[&ca, &next]);
        in_force(world, &process, &ca, &[(&ca, true), (&next, true)]).await;
        told.send_replace(self::clients(world, 2 * number - 1, &ca, &[&ca, &next]));
        followed(&mut asking, 2 * number - 1, plan.calm).await;
        let laggards = join_all((0..4).map(|at| laggard(world, &process, &told, at % 2 == 0))).await;
        // Everybody has a certificate of the new one.
        source.gives(world, &next, &[&ca, &next]);
        in_force(world, &process, &next, &[(&ca, true), (&next, true)]).await;
        told.send_replace(self::clients(world, 2 * number, &next, &[&ca, &next]));
        followed(&mut asking, 2 * number, plan.calm).await;
        // The old one is removed, and with it who did not follow.
        source.gives(world, &next, &[&next]);
        in_force(world, &process, &next, &[(&ca, false), (&next, true)]).await;
        let removed = Stopwatch::start();
        let ended = laggards.into_iter().map(async |(raw, is_idle)| {
            raw.rest().await;
            (is_idle, removed.elapsed())
        });
        lasted.extend(join_all(ended).await);
        ca = next;
    }
    let took = since.elapsed();
    lanes.shutdown().await;
    let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
    let answered = count(&seen.answered);
    let longest =
        |idle| lasted.iter().filter(|(is_idle, _)| *is_idle == idle).map(|(_, lasted)| lasted).max();
    println!(
        "{name}: leaf and CA rotated {} times in {took:.1?}; {answered} requests ({:.0} a second) over {} connections: \
         {} failed, {} connections ended before a request was on them; connections under a removed CA lasted {:.1?} \
         at most where they were idle, {:.1?} with an answer under way",
        plan.rotations,
        answered as f64 / took.as_secs_f64(),
        count(&seen.connections),
        count(&seen.failed),
        count(&seen.unsent),
        longest(true).unwrap(),
        longest(false).unwrap(),
    );
    assert_eq!(count(&seen.failed), 0);
    assert_eq!(lasted.len() as u64, 4 * plan.rotations);
}

fn new_root(world: &World, number: u64) -> Root {
    let key = KeyPair::generate().unwrap();
    let pem = key.serialize_pem();
    let spec = CaSpec::new(&format!("shop CA {number}"), world.certificates.validity);
    Root { authority: Authority::root_with_key(&spec, key).unwrap(), key: pem }
}

fn clients(world: &World, number: u64, ca: &Root, believed: &[&Root]) -> Clients {
    let storefront = world.certificates.workload(TRUST_DOMAIN, "storefront");
    let (chain, key) = parsed(&ca.authority.issue(&storefront).unwrap());
    let believed: Vec<&Authority> = believed.iter().map(|root| &root.authority).collect();
    let builder = ClientConfig::builder().with_root_certificates(store(&believed));
    Clients { number, config: builder.with_client_auth_cert(chain, key).unwrap() }
}

async fn ready(process: &Process<'_>) {
    let ready = async { while process.admin("/readyz").await.status != 200 {} };
    soon("readiness", ready).await;
}

/// Waits until the proxy shows a certificate of this issuer, and lets in who has one of these CAs, or does not.
async fn in_force(world: &World, process: &Process<'_>, issuer: &Root, let_in: &[(&Root, bool)]) {
    let token = format!("Bearer {}", world.issuer.token(json!({})));
    for (ca, is_let_in) in let_in {
        let config = clients(world, 0, ca, &[issuer]).config;
        let mut ticks = interval(Duration::from_millis(20));
        let told = async {
            while answers(process.address, config.clone(), &token).await != *is_let_in {
                ticks.tick().await;
            }
        };
        soon("certificate and CAs in force", told).await;
    }
}

async fn answers(address: SocketAddr, config: ClientConfig, token: &str) -> bool {
    let Ok(client) = Client::tls(address, HOST, config, Protocol::H1).await else { return false };
    client.ask(request(token)).await.is_ok_and(|answer| answer.status == 200)
}

/// Waits until all lanes ask as the clients of this number do, and so many more requests were asked.
async fn followed(asking: &mut watch::Receiver<Vec<(u64, u64)>>, number: u64, requests: u64) {
    let all = |asked: &Vec<(u64, u64)>| asked.iter().all(|(_, client)| *client == number);
    soon("everybody's new certificate", asking.wait_for(all)).await.unwrap();
    let sum = |asked: &Vec<(u64, u64)>| asked.iter().map(|(asked, _)| asked).sum::<u64>();
    let until = sum(&asking.borrow()) + requests;
    // Each by itself: at length all of them take longer than a test waits for anything.
    while sum(&asking.borrow()) < until {
        soon("requests", asking.changed()).await.unwrap();
    }
}

/// A connection that stays as it is, whatever its CA becomes: idle, or with an answer that has no end.
async fn laggard(
    world: &World,
    process: &Process<'_>,
    told: &watch::Sender<Clients>,
    is_idle: bool,
) -> (Raw, bool) {
    let config = told.borrow().config.clone();
    let mut raw = Raw::tls(process.address, HOST, config).await.unwrap();
    let (token, query) = (world.issuer.token(json!({})), if is_idle { "" } else { "?events=2" });
    let head =
        format!("GET /orders/7{query} HTTP/1.1\r\nhost: {HOST}\r\nauthorization: Bearer {token}\r\n\r\n");
    raw.send(head).await.unwrap();
    assert!(raw.head().await.unwrap().starts_with("HTTP/1.1 200"));
    (raw, is_idle)
}

fn request(token: &str) -> Request<Body> {
    let mut request = get("/orders/7");
    request.headers_mut().insert(AUTHORIZATION, token.parse().unwrap());
    request
}

/// Asks until dropped, one request a period: by HTTP/1.1 and one connection for as long as it lasts, or by a new
/// one each time. A connection that ended before a request was on it is replaced, as every client does.
async fn ask_on(
    address: SocketAddr,
    lane: u64,
    period: Duration,
    clients: watch::Receiver<Clients>,
    token: String,
    seen: Arc<Seen>,
    asked: watch::Sender<Vec<(u64, u64)>>,
) {
    let is_new_each_time = lane == 0;
    let mut open: Option<(u64, Client)> = None;
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Clients { number, config } = clients.borrow().clone();
        let known = open.take().filter(|(of, _)| *of == number && !is_new_each_time);
        let (was_known, client) = match known {
            Some((_, client)) => (true, Ok(client)),
            None => {
                seen.connections.fetch_add(1, Ordering::SeqCst);
                (false, Client::tls(address, HOST, config.clone(), Protocol::H1).await)
            }
        };
        let outcome = match client {
            Ok(client) => client.ask(request(&token)).await.map(|answer| (client, answer)),
            Err(error) => Err(error),
        };
        match outcome {
            Ok((client, answer)) if answer.status == 200 => {
                seen.answered.fetch_add(1, Ordering::SeqCst);
                if answer.headers.get(CONNECTION).is_none_or(|value| value != "close") {
                    open = Some((number, client));
                }
            }
            Ok((_, answer)) => {
                seen.failed.fetch_add(1, Ordering::SeqCst);
                println!("{answer:?}");
            }
            Err(error) if was_known && is_unsent(&error) => {
                seen.unsent.fetch_add(1, Ordering::SeqCst);
            }
            Err(error) => {
                seen.failed.fetch_add(1, Ordering::SeqCst);
                println!("lane {lane}: {error:?}");
            }
        }
        asked.send_modify(|asked| {
            let of_this_lane = &mut asked[lane as usize];
            *of_this_lane = (of_this_lane.0 + 1, number);
        });
    }
}

fn is_unsent(error: &Error) -> bool {
    error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled)
}
