//! Opaque tokens, of which their issuer says something else from one moment to the next.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use countersign::clock::Clock;
use futures_util::future::{join, join_all};
use http::Response;
use http::header::AUTHORIZATION;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::possession::{Holder, presenting, with_proof};
use crate::streams::asserted::{self, ASSERTION, FRONT};
use crate::streams::{self, Kind, Stream};
use crate::world::certificates::{TRUST_DOMAIN, Who};
use crate::world::client::{Answer, Client, Protocol, get, with_token};
use crate::world::issuer::{AUDIENCE, Answering};
use crate::world::listen::{Listening, listen};
use crate::world::proxy::{HOST, Proxy};
use crate::world::{World, full, soon};

/// For how long an answer is believed.
const BELIEVED: Duration = Duration::from_secs(30);
/// After that, what is believed is asked about again.
const ASKED_AGAIN: Duration = Duration::from_millis(22_500);

/// An issuer that is asked about its tokens, and a service whose users come with them.
const CONFIGURATION: &str = r#"
[issuer.desk]
url           = "https://desk.example"
jwks          = "@issuer@/jwks"
audience      = ["@audience@"]
allow_http    = true
client_id     = "orders"
client_secret = { file = "secret" }
introspection = { endpoint = "http://@desk@/introspect" }

[service.batch]
spiffe_id = "spiffe://shop.example/ns/prod/sa/nobody"
client_id = [{ issuer = "desk", client = "batch" }]

[role.desk-reader]
any_of = [{ issuer = "desk", scope = "orders:read" }]

[[allow]]
name = "batches"
service = "batch"
role = "desk-reader"
route = "any"

[[allow]]
name = "readers"
service = "storefront"
role = "order-reader"
route = "any"
"#;

/// Answers about any token what it was told to, when it may.
struct Desk {
    listening: Listening,
    said: Arc<Mutex<Value>>,
    asked: Arc<AtomicU64>,
    open: watch::Sender<bool>,
    /// What is asked about tokens that begin as [`MADE_UP`] has no answer while it is not.
    made_up_open: watch::Sender<bool>,
}

const MADE_UP: &str = "made-up-";

impl Desk {
    async fn open() -> Desk {
        let said = Arc::new(Mutex::new(json!({})));
        let (asked, open) = (Arc::<AtomicU64>::default(), watch::Sender::new(true));
        let made_up_open = watch::Sender::new(true);
        let (answers, counts, gates) =
            (said.clone(), asked.clone(), [&open, &made_up_open].map(|open| open.subscribe()));
        let listening = listen("127.0.0.1:0".parse().unwrap(), None, move |request| {
            let (said, [mut gate, mut made_up]) = (answers.clone(), gates.clone());
            counts.fetch_add(1, Ordering::SeqCst);
            async move {
                gate.wait_for(|open| *open).await?;
                let form = request.into_body().collect().await?.to_bytes();
                if form.starts_with(format!("token={MADE_UP}").as_bytes()) {
                    made_up.wait_for(|open| *open).await?;
                }
                let said = said.lock().unwrap().to_string();
                Ok(Response::new(full(said)))
            }
        })
        .await;
        Desk { listening, said, asked, open, made_up_open }
    }

    fn says(&self, claims: Value) {
        *self.said.lock().unwrap() = claims;
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    async fn was_asked(&self, times: u64) {
        let enough = async {
            while self.asked() < times {
                tokio::task::yield_now().await;
            }
        };
        soon("a question", enough).await;
    }
}

struct Office {
    world: World,
    clock: Clock,
    desk: Desk,
}

impl Office {
    async fn new() -> Office {
        let clock = Clock::manual(Clock::system().now());
        let office = Office { world: World::at(clock.clone()).await, clock, desk: Desk::open().await };
        office.world.write("secret", "s3cret\n");
        asserted::certificate(&office.world);
        office.desk.says(office.active(json!({})));
        office
    }

    fn active(&self, changes: Value) -> Value {
        let mut claims = json!({ "active": true, "aud": AUDIENCE, "sub": "alice",
            "client_id": "batch", "scope": "orders:read", "exp": self.clock.now().unix_seconds() + 36_000 });
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        claims
    }

    fn configuration(&self, more: &str) -> String {
        format!("{CONFIGURATION}{more}")
            .replace(
                "issuer = \"front\", client = \"storefront-web\"",
                "issuer = \"front\", client = \"batch\"",
            )
            .replace("@desk@", &self.desk.listening.address.to_string())
            .replace("@audience@", AUDIENCE)
    }

    fn start(&self) -> Proxy<'_> {
        self.world.start(&self.configuration(FRONT))
    }

    /// Of somebody whom a front vouches for, and who has this token of the desk's too.
    async fn open_beside_an_assertion(&self, proxy: &Proxy<'_>, bearer: &str) -> Stream {
        let certificate = asserted::certificate(&self.world);
        let said = asserted::assertion(
            &self.world,
            &certificate,
            json!({ "subject_issuer": "https://desk.example", "client_id": "batch" }),
        );
        let config = self.world.certificates.client_config_with(Some(&certificate));
        let front = Client::tls(proxy.address("mesh"), HOST, config, Protocol::H2).await.unwrap();
        let fields = [(ASSERTION, &*said), (AUTHORIZATION.as_str(), bearer)];
        Kind::Events.open_presenting(&Arc::new(front), &fields).await
    }
}

async fn client(proxy: &Proxy<'_>) -> Arc<Client> {
    Arc::new(proxy.client(Who::Unnamed, Protocol::H2).await)
}

async fn ask(client: &Client, token: &str) -> (u16, Value) {
    let answer = client.ask(with_token(get("/orders/7"), token)).await.unwrap();
    (answer.status.as_u16(), reason(&answer))
}

fn reason(answer: &Answer) -> Value {
    if answer.status == 200 { Value::Null } else { answer.json()["reason"].clone() }
}

#[tokio::test]
async fn what_the_issuer_says_anew_of_a_token_is_what_counts() {
    let office = Office::new().await;
    let proxy = office.start();
    let (one, other) = (client(&proxy).await, client(&proxy).await);
    let allowed = (200, Value::Null);
    assert_eq!(ask(&one, "token").await, allowed);
    assert_eq!(ask(&one, "token").await, allowed);
    office.desk.says(office.active(json!({ "scope": "orders:write" })));
    assert_eq!(ask(&one, "token").await, allowed, "it is believed for a moment");
    office.clock.advance(BELIEVED);
    for client in [&one, &other] {
        assert_eq!(ask(client, "token").await, (403, json!("scope_missing")));
    }
    office.desk.says(office.active(json!({ "sub": "bob" })));
    office.clock.advance(BELIEVED);
    for client in [&one, &other] {
        let answer = client.ask(with_token(get("/orders/7"), "token")).await.unwrap();
        let told: Vec<_> = answer.json()["headers"].as_array().unwrap().clone();
        assert!(told.contains(&json!(["x-auth-subject", "bob"])), "{told:?}");
    }
    assert_eq!((office.desk.asked(), office.world.upstream.counts().requests), (3, 5));
}

#[tokio::test]
async fn a_stream_ends_once_its_issuer_says_so() {
    let office = Office::new().await;
    let proxy = office.start();
    let client = client(&proxy).await;
    let mut stream = Kind::Events.open(&client, "Bearer token").await;
    let mut beside = office.open_beside_an_assertion(&proxy, "Bearer another").await;
    assert_eq!(office.desk.asked(), 2);
    office.clock.advance(BELIEVED);
    office.desk.was_asked(4).await;
    stream.goes_on(&office.world).await;
    beside.goes_on(&office.world).await;
    office.desk.says(json!({ "active": false }));
    office.clock.advance(BELIEVED);
    for (at, stream) in [&mut stream, &mut beside].into_iter().enumerate() {
        stream.ends("token_revoked", tonic::Code::Unauthenticated).await;
        let record = streams::record(&proxy, Kind::Events.path(), at).await;
        assert_eq!((&record["verdict"], &record["reason"]), (&json!("allow"), &json!("token_revoked")));
    }
}

#[tokio::test]
async fn a_stream_goes_on_while_its_issuer_fails_and_ends_when_what_it_said_is_over() {
    let office = Office::new().await;
    let proxy = office.start();
    let client = client(&proxy).await;
    let mut stream = Kind::Events.open(&client, "Bearer token").await;
    office.desk.says(json!("no word"));
    office.clock.advance(ASKED_AGAIN);
    office.desk.was_asked(2).await;
    stream.goes_on(&office.world).await;
    office.clock.advance(Duration::from_secs(1));
    office.desk.was_asked(3).await;
    stream.goes_on(&office.world).await;
    office.clock.advance(BELIEVED - ASKED_AGAIN - Duration::from_secs(1));
    stream.ends("issuer_unavailable", tonic::Code::Unavailable).await;
}

#[tokio::test]
async fn a_reload_asks_nobody_about_what_is_believed_and_judges_it_anew() {
    let office = Office::new().await;
    let proxy = office.start();
    let client = client(&proxy).await;
    let mut stream = Kind::Events.open(&client, "Bearer token").await;
    office.desk.open.send_replace(false);
    let reload = |more: &str| proxy.reload(&office.configuration(more)).unwrap();
    for limits in ["header_count_max = 99", "introspection_pending_max = 2000"] {
        reload(&format!("[limit]\n{limits}"));
        assert_eq!(ask(&client, "token").await, (200, Value::Null), "{limits}");
        stream.goes_on(&office.world).await;
    }
    reload("[[deny]]\nname = \"closed\"\nservice = \"batch\"\nroute = \"any\"");
    stream.ends("denied_by_rule", tonic::Code::PermissionDenied).await;
    assert_eq!(ask(&client, "token").await, (403, json!("denied_by_rule")));
    assert_eq!(office.desk.asked(), 1);

    // what it said is read as it is read now, and believed no longer
    office.desk.open.send_replace(true);
    let text = office.configuration("").replace(AUDIENCE, "https://other.example");
    proxy.reload(&text).unwrap();
    assert_eq!(ask(&client, "token").await, (401, json!("token_wrong_audience")));
    office.desk.says(office.active(json!({ "aud": "https://other.example" })));
    office.clock.advance(BELIEVED);
    assert_eq!(ask(&client, "token").await, (200, Value::Null));
    let asked = office.desk.asked();
    office.desk.says(json!({ "active": false }));
    office.clock.advance(ASKED_AGAIN - Duration::from_secs(1));
    proxy.reload(&text).unwrap();
    assert_eq!(ask(&client, "token").await, (200, Value::Null));
    office.clock.advance(Duration::from_secs(1));
    assert_eq!(ask(&client, "token").await, (401, json!("token_revoked")));
    assert_eq!(office.desk.asked(), asked + 1);
}

#[tokio::test]
async fn a_stream_waits_for_its_issuer_as_a_request_does() {
    let office = Office::new().await;
    let proxy = office.start();
    let (batch, storefront) = (client(&proxy).await, proxy.client(Who::Storefront, Protocol::H2).await);
    let mut stream = Kind::Events.open(&batch, "Bearer token").await;
    let mut beside = office.open_beside_an_assertion(&proxy, "Bearer another").await;
    let lasting = office.world.issuer.token(json!({ "exp": office.clock.now().unix_seconds() + 36_000 }));
    let mut by_key = Kind::Events.open(&Arc::new(storefront), &format!("Bearer {lasting}")).await;
    office.desk.open.send_replace(false);
    office.clock.advance(BELIEVED);
    office.desk.was_asked(4).await;
    // the end of a stream whose issuer's keys are not to be had shows that time has passed
    office.world.issuer.jwks_answers(Answering::Held);
    office.world.configuration(&office.configuration(FRONT));
    let path = office.world.folder.path().join("countersign.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let url = format!("[issuer.corp]\nurl = \"{}\"\n", office.world.issuer.url);
    let fetched = format!("{url}jwks = \"{}\"\n", office.world.issuer.jwks_url());
    assert!(text.contains(&url));
    office.world.write("countersign.toml", &text.replace(&url, &fetched));
    proxy.server.reload(office.world.load()).unwrap();
    by_key.ends("issuer_unavailable", tonic::Code::Unavailable).await;
    stream.goes_on(&office.world).await;
    beside.goes_on(&office.world).await;
    office.desk.open.send_replace(true);
    stream.goes_on(&office.world).await;
    beside.goes_on(&office.world).await;
    assert!(office.desk.asked() >= 4);
}

#[tokio::test]
async fn streams_are_asked_about_however_few_first_seen_tokens_may_wait() {
    let office = Office::new().await;
    let few = office.configuration("[limit]\nintrospection_pending_max = 1");
    let proxy = office.world.start(&few);
    let client = client(&proxy).await;
    let mut open = Vec::new();
    for token in ["Bearer one", "Bearer two", "Bearer three"] {
        open.push(Kind::Events.open(&client, token).await);
    }
    office.desk.open.send_replace(false);
    // Of a place that was never asked, which has said nothing of them.
    proxy.reload(&few.replace("/introspect\"", "/introspect-anew\"")).unwrap();
    office.desk.was_asked(6).await;
    let waiting = ask(&client, "first-seen");
    let soundly = async {
        office.desk.was_asked(7).await;
        assert_eq!(ask(&client, "first-seen-2").await, (429, json!("limit_exceeded")));
        for stream in &mut open {
            stream.goes_on(&office.world).await;
        }
        office.desk.open.send_replace(true);
    };
    assert_eq!(join(waiting, soundly).await.0, (200, Value::Null));
    for stream in &mut open {
        stream.goes_on(&office.world).await;
    }
    // And no longer than it may.
    office.desk.says(json!("no word"));
    office.clock.advance(BELIEVED);
    for stream in &mut open {
        stream.ends("issuer_unavailable", tonic::Code::Unavailable).await;
    }
}

/// Whoever waited for the provider's word on a made-up one would not be answered.
#[tokio::test]
async fn sound_tokens_do_not_wait_for_what_is_asked_about_made_up_ones() {
    let office = Office::new().await;
    let proxy = office.world.start(&office.configuration("[limit]\nintrospection_pending_max = 200"));
    let (attacker, sound) = (client(&proxy).await, client(&proxy).await);
    let elsewhere = proxy.client(Who::Storefront, Protocol::H2).await;
    let mut stream = Kind::Events.open(&sound, "Bearer stream").await;
    let known: Vec<String> = (0..50).map(|at| format!("sound-{at}")).collect();
    for token in &known {
        assert_eq!(ask(&sound, token).await, (200, Value::Null));
    }
    let requests = office.world.upstream.counts().requests;
    office.clock.advance(BELIEVED);
    office.desk.made_up_open.send_replace(false);
    let made_up: Vec<String> = (0..100).map(|at| format!("{MADE_UP}{at}")).collect();
    let flood = join_all(made_up.iter().map(|token| ask(&attacker, token)));
    let soundly = async {
        // One peer's part of those that wait is full.
        proxy.metrics_once("countersign_limits_hit_total{limit=\"introspection_pending_max\"} 50").await;
        for token in &known {
            // Also from who floods.
            assert_eq!(ask(&attacker, token).await, (200, Value::Null), "{token}");
        }
        stream.goes_on(&office.world).await;
        let (status, reason) = ask(&elsewhere, "first-seen").await;
        assert_eq!((status, reason), (403, json!("token_not_issued_to_service")), "another peer's is judged");
        assert_eq!(
            ask(&attacker, "first-seen-2").await,
            (429, json!("limit_exceeded")),
            "of the peer that floods"
        );
        office.desk.says(json!({ "active": false }));
        office.desk.made_up_open.send_replace(true);
    };
    let (answers, ()) = join(flood, soundly).await;
    let count = |status| answers.iter().filter(|answer| answer.0 == status).count();
    assert_eq!((count(429), count(401)), (50, 50), "{answers:?}");
    assert!(office.world.upstream.counts().requests >= requests + 50);
}

#[tokio::test]
async fn for_a_peer_that_is_refused_nobody_is_asked_and_no_proof_is_used_up() {
    let office = Office::new().await;
    let holder = Holder::new("ES256", &office.clock);
    let proxy = office.start();
    let good = client(&proxy).await;
    let mut short = office.world.certificates.workload(TRUST_DOMAIN, "nobody");
    short.validity.to = office.clock.now().plus(BELIEVED);
    let short = office.world.certificates.shop.issue(&short).unwrap();
    let config = office.world.certificates.client_config_with(Some(&short));
    let ended = Client::tls(proxy.address("mesh"), HOST, config, Protocol::H2).await.unwrap();
    assert_eq!(ask(&ended, "before").await, (200, Value::Null));
    office.clock.advance(BELIEVED);
    let answer = ended.ask(presenting("Bearer", "token")).await.unwrap();
    let record = proxy.record_of(&answer).await;
    assert_eq!((answer.status.as_u16(), &record["checks"]["caller"]), (403, &json!("not_reached")));
    assert_eq!(office.desk.asked(), 1);
    // a JWT is only looked at
    let answer = ended.ask(presenting("Bearer", &office.world.issuer.token(json!({})))).await.unwrap();
    assert_eq!(proxy.record_of(&answer).await["checks"]["caller"], "ok");

    let token = holder.token(&office.world.issuer);
    let proof = holder.proof(&token, json!({}), json!({}));
    for (client, expected) in
        [(&ended, "not_reached"), (&*good, "ok"), (&*good, "token_not_sender_constrained")]
    {
        let answer = client.ask(with_proof(&token, &proof)).await.unwrap();
        assert_eq!(proxy.record_of(&answer).await["checks"]["caller"], expected);
    }
}
