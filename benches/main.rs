//! What single steps of a request cost, and a whole one in this process: `cargo bench`.

#![forbid(unsafe_code)]

#[allow(dead_code, reason = "the load asks for more of it")]
mod world;

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use countersign::audit::{Arrival, Audit, Output, Protocol as Spoken, Sink, SinkSettings};
use countersign::clock::{Clock, Timestamp};
use countersign::config::{self, Config};
use countersign::identity::{Caller, CertificateHash, Hop, Peer, PeerName, Signature};
use countersign::metrics::{Lookup, Metrics};
use countersign::policy::{self, Action, Circumstances, Policy, Request, Verdict};
use countersign::proxy::normalize::Asked;
use countersign::server::Server;
use countersign::tls::client::{ExpectedServer, client_config};
use countersign::tls::{Alpn, Roots};
use countersign::token::{Credential, Issuer, IssuerKeys, Shown, Verifier};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use tokio::runtime::Runtime;

use world::client::{Ask, Client, Protocol};
use world::policy::{FORBIDDEN, PATH, Shape};
use world::signing::Algorithm;
use world::{HOST, SPIFFE_ID, World};

const RULES: [usize; 2] = [20, 2_000];

/// What the steps before the decision found of one request.
struct Asking {
    asked: Asked,
    headers: HeaderMap,
    peer: Signature<Peer>,
    caller: Signature<Caller>,
    now: Timestamp,
}

impl Asking {
    fn new(world: &World, path: &str) -> Asking {
        let name = PeerName::Spiffe(SPIFFE_ID.parse().unwrap());
        let certificate = CertificateHash([1; 32]);
        let peer = Peer { name, certificate, not_after: Timestamp::MAX, hop: Hop::Direct };
        let head = head(&world.issuer.token(Algorithm::Rs256, 0), path);
        let config = load(world, &Shape::default());
        let runtime = runtime();
        let verifier = runtime.block_on(verifier(config));
        let credential = Credential::from_headers(&head.headers).unwrap();
        let caller = runtime.block_on(verifier.verify(credential, &Shown::on(None))).unwrap();
        let asked = Asked::read(&head, None).unwrap();
        let now = Clock::system().now();
        Asking { asked, headers: head.headers, peer: Signature::Verified(Arc::new(peer)), caller, now }
    }

    fn request(&self) -> Request<'_> {
        Request {
            peer: &self.peer,
            caller: &self.caller,
            action: self.asked.action(&self.headers),
            circumstances: Circumstances { hop: &Hop::Direct, peer_ip: None, client_ip: None },
            now: self.now,
        }
    }
}

/// With a standing at hand, and without.
fn decide(criterion: &mut Criterion) {
    let world = World::new();
    let mut group = criterion.benchmark_group("decide");
    for (verdict, path) in [("permit", PATH), ("deny", FORBIDDEN)] {
        let asking = Asking::new(&world, path);
        for rules in RULES {
            let policy = load(&world, &Shape { rules, ..Shape::default() }).policy;
            let standing = || policy.standing(&asking.peer, &asking.caller, asking.now);
            let known = standing();
            let decided = policy::decide(&policy, &known, &asking.request());
            assert_eq!(matches!(decided.verdict, Verdict::Permit(_)), verdict == "permit");
            group.bench_function(format!("{verdict}, {rules} rules, hit"), |bencher| {
                bencher.iter(|| policy::decide(&policy, black_box(&known), &asking.request()));
            });
            group.bench_function(format!("{verdict}, {rules} rules, miss"), |bencher| {
                bencher.iter(|| policy::decide(&policy, black_box(&standing()), &asking.request()));
            });
        }
    }
}

/// Nothing is remembered, so each time is the first.
fn verify(criterion: &mut Criterion) {
    let world = World::new();
    let runtime = runtime();
    let verifier = runtime.block_on(verifier(load(&world, &Shape { more: NO_MEMORY, ..Shape::default() })));
    let mut group = criterion.benchmark_group("verify");
    for algorithm in Algorithm::ALL {
        let headers = head(&world.issuer.token(algorithm, 0), PATH).headers;
        group.bench_function(algorithm.as_str(), |bencher| {
            bencher.iter(|| {
                let credential = Credential::from_headers(black_box(&headers)).unwrap();
                runtime.block_on(verifier.verify(credential, &Shown::on(None))).unwrap()
            });
        });
    }
    assert_eq!(verifier.entries().0, 0);
}

const NO_MEMORY: &str = "[cache]\ntoken_bytes_max = 1\n";

fn normal_form(criterion: &mut Criterion) {
    let world = World::new();
    let token = world.issuer.token(Algorithm::Rs256, 0);
    let host = HOST.parse().unwrap();
    let mut group = criterion.benchmark_group("normal form");
    for (name, path) in [("plain", PATH), ("with escapes", "/tenants/%61cme/orders/m%C3%BCller/a%20b?x=1")] {
        let head = head(&token, path);
        group.bench_function(name, |bencher| bencher.iter(|| Asked::read(black_box(&head), Some(&host))));
    }
}

/// From the head of a request to its line in the queue; who writes that is another thread.
fn audit_line(criterion: &mut Criterion) {
    let world = World::new();
    let policy = load(&world, &Shape::default()).policy;
    let mut group = criterion.benchmark_group("audit line");
    for (verdict, path) in [("permit", PATH), ("deny", FORBIDDEN)] {
        let asking = Asking::new(&world, path);
        let audit = audit();
        let standing = policy.standing(&asking.peer, &asking.caller, asking.now);
        group.bench_function(verdict, |bencher| {
            bencher.iter_batched(
                || policy::decide(&policy, &standing, &asking.request()),
                |decision| record(&audit, &policy, &asking, &decision),
                BatchSize::SmallInput,
            );
        });
    }
}

fn record(audit: &Audit, policy: &Policy, asking: &Asking, decision: &policy::Decision) {
    let Action { method, host, path, .. } = asking.asked.action(&asking.headers);
    let mut draft = audit.begin(Arrival {
        method: Some(method),
        listener: &"mesh".parse().unwrap(),
        protocol: Spoken::Http11,
        peer_ip: None,
        client_ip: None,
        cut: &Arc::default(),
    });
    draft.asked(host, path, false);
    draft.peer(Ok(&asking.peer));
    draft.caller(Ok(&asking.caller));
    draft.decided(policy, decision, Lookup::Hit, Duration::from_micros(3));
    draft.signers(None, policy);
    if let Verdict::Permit(permit) = &decision.verdict {
        draft.forwarding(permit).unwrap();
        draft.answered(StatusCode::OK);
    } else {
        draft.answered(StatusCode::FORBIDDEN);
    }
    draft.finish();
}

/// A proxy in this process over loopback with mTLS, its client and its upstream included.
fn full_path(criterion: &mut Criterion) {
    let world = World::new();
    let server = Server::start(load(&world, &Shape::default()), Clock::system()).unwrap();
    let address = server.addresses().listeners["mesh"];
    let token = world.issuer.token(Algorithm::Rs256, 0);
    let runtime = runtime();
    let mut group = criterion.benchmark_group("full path");
    for (name, protocol) in [("hot h1", Protocol::H1), ("hot h2", Protocol::H2)] {
        let mut client = runtime.block_on(connect(address, &world, protocol));
        let mut ask = || runtime.block_on(client.ask(&Ask::get(PATH), &token));
        assert_eq!(ask(), StatusCode::OK);
        group.bench_function(name, |bencher| bencher.iter(&mut ask));
    }
}

async fn connect(address: SocketAddr, world: &World, protocol: Protocol) -> Client {
    Client::connect(address, &world.tls, protocol).await
}

fn load(world: &World, shape: &Shape) -> Config {
    let now = Clock::system().now();
    let loaded = config::load(&[world.configuration(shape)], &|_| None, now);
    loaded.unwrap_or_else(|report| panic!("{}", report.to_text(false)))
}

/// With its issuer's keys fetched.
async fn verifier(config: Config) -> Verifier {
    let (clock, metrics) = (Clock::system(), Metrics::new());
    let settings = config.issuers.into_iter().next().unwrap();
    let tls =
        client_config(&ExpectedServer::Named(Some(Roots::none())), None, &[Alpn::Http1], &clock).unwrap();
    let keys = IssuerKeys::new(settings.keys.clone(), &tls, metrics.issuer("corp"), clock.clone());
    keys.refresh().await.unwrap();
    let issuers = vec![Issuer { settings, keys: Arc::new(keys), introspection: None }];
    let (limits, metrics) = (config.limits.token, metrics.tokens.clone());
    Verifier::new(issuers, limits, config.tokens, Arc::default(), metrics, clock).unwrap()
}

/// What does not find room in the queue is lost, which costs its request no less.
fn audit() -> Audit {
    let metrics = Arc::new(Metrics::new());
    let settings = SinkSettings {
        output: Output::File("/dev/null".into()),
        required: false,
        queue_records_max: 8192,
        wait_max: Duration::ZERO,
    };
    let sink = Sink::start(settings, Arc::clone(&metrics)).unwrap();
    Audit::new(&"orders".parse().unwrap(), Clock::system(), sink, metrics)
}

fn head(token: &str, path: &str) -> Parts {
    let request = http::Request::get(path)
        .header("host", HOST)
        .header("authorization", format!("Bearer {token}"))
        .header("user-agent", "parts/1")
        .header("accept", "application/json")
        .header("x-request-id", "7f1e6a52-4c1b-4c55-9a55-0d9a3a5f2b11");
    request.body(()).unwrap().into_parts().0
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

criterion_group! {
    name = parts;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = decide, verify, normal_form, audit_line, full_path
}
criterion_main!(parts);
