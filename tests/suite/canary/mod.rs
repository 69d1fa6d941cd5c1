//! A canary in every place where a secret can stand, and the program at its most talkative: none is found in
//! anything that it says.

mod shown;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use futures_util::{SinkExt, StreamExt};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::world::binary::Binary;
use crate::world::certificates::Who;
use crate::world::client::{Answer, Client, Protocol, Raw, get, post};
use crate::world::issuer::AUDIENCE;
use crate::world::listen::{Listening, listen};
use crate::world::proxy::{HOST, Records};
use crate::world::signing::{KEYS, forged};
use crate::world::{Body, World, full, hex, soon};

const POLICY: &str = r#"
[log]
level = "trace"
format = "json"

[issuer.by-file]
url = "@keys@"
jwks = "@keys@/by-file"
audience = ["https://orders.shop.example"]
allow_http = true
jwks_credential = { file = "credential" }

[upstream.shown]
server = "@upstream@"
[upstream.shown.credential]
kind = "client_credentials"
token_endpoint = "@keys@/token"
allow_http = true
client_id = "orders"
client_authentication = "client_secret_post"
client_secret = { file = "client-secret" }

[upstream.exchanged]
server = "@upstream@"
[upstream.exchanged.credential]
kind = "exchange"
token_endpoint = "@keys@/token"
allow_http = true
client_id = "orders"
client_secret = { file = "client-secret" }
actor_token = "client_credentials"

[route.shown]
host = "orders.shop.example"
path = "/shown"
upstream = "shown"
[route.exchanged]
host = "orders.shop.example"
path = "/exchanged"
upstream = "exchanged"

[issuer.by-environment]
url = "@keys@/other"
jwks = "@keys@/by-environment"
audience = ["https://orders.shop.example"]
allow_http = true
jwks_credential = { env = "CANARY_CREDENTIAL" }

[service.partner]
spiffe_id = "spiffe://partner.example/ns/prod/sa/storefront"
client_id = "any"

[route.socket]
host = "orders.shop.example"
path = "/socket"
upstream = "orders"
upgrade = ["websocket"]

[[allow]]
name = "readers"
service = "storefront"
role = "order-reader"
route = ["orders", "socket", "shown", "exchanged"]

[[allow]]
name = "partners"
service = "partner"
role = "any"
route = "orders"
path = "/partners"
"#;

/// A piece of a path, which is no secret and must be found in the records.
const CONTROL: &str = "control-5d1c";

/// Secrets by where they stand.
#[derive(Default)]
pub struct Canaries {
    secrets: BTreeMap<String, String>,
    /// Said before each place that is planted.
    round: &'static str,
}

impl Canaries {
    /// A new one for this place: letters and digits, so that no escaping changes it.
    pub fn plant(&mut self, place: &str) -> String {
        let canary = format!("CANARY{:04}{}", self.secrets.len(), hex(place));
        self.add(place, canary.clone());
        canary
    }

    pub fn add(&mut self, place: &str, secret: String) {
        assert!(secret.len() >= 16, "{place}: too short to be sure");
        let place = format!("{}{place}", self.round);
        assert!(self.secrets.insert(place.clone(), secret).is_none(), "{place} twice");
    }

    /// Places whose secret stands in `text`, in one of the ways in which programs print bytes.
    pub fn found_in(&self, text: &str) -> Vec<&str> {
        let stands = |secret: &str| {
            // base64 of the middle comes out alike only from the same offset, so all three are looked for
            let coded = (0..3).map(|offset| STANDARD_NO_PAD.encode(&secret[offset..secret.len() - 4]));
            let coded = coded.map(|coded| coded[..coded.len() - 3].to_owned());
            let decimals = format!("{:?}", &secret.as_bytes()[..12]);
            let mut shapes =
                vec![secret.to_owned(), hex(secret), decimals.trim_matches(['[', ']']).to_owned()];
            shapes.extend(coded);
            shapes.iter().any(|shape| text.contains(shape.as_str()))
        };
        self.secrets.iter().filter(|(_, secret)| stands(secret)).map(|(place, _)| place.as_str()).collect()
    }

    /// Of each: what it is, its text, and what must be found there.
    fn are_unsaid<const N: usize>(&self, said: [(&str, String, &str); N]) {
        for (what, text, control) in said {
            println!("{what}: {} bytes searched for {} secrets", text.len(), self.secrets.len());
            assert!(text.contains(control), "{what}: `{control}` must be found");
            assert_eq!(self.found_in(&text), [""; 0], "{what}");
        }
    }
}

/// Key sets that are given out only for the right credential.
/// The same server issues a token to whoever asks for one.
async fn key_server(by_file: String, by_environment: String, issued: String) -> (Listening, Arc<AtomicU64>) {
    let given = Arc::new(AtomicU64::new(0));
    let count = given.clone();
    let listening = listen("127.0.0.1:0".parse().unwrap(), None, move |request| {
        let token = (request.uri().path() == "/token").then(|| {
            let kind = "urn:ietf:params:oauth:token-type:access_token";
            json!({"access_token": issued, "token_type": "Bearer", "expires_in": 300, "issued_token_type": kind})
        });
        let wanted = if request.uri().path() == "/by-file" { &by_file } else { &by_environment };
        let granted =
            request.headers().get(AUTHORIZATION).is_some_and(|sent| sent == &format!("Bearer {wanted}"));
        count.fetch_add(u64::from(granted), Ordering::SeqCst);
        let keys = json!({"keys": KEYS.iter().map(|key| key.jwk()).collect::<Vec<_>>()});
        let answer = Response::builder().status(if granted || token.is_some() { 200 } else { 401 });
        async move { Ok(answer.body(full(token.unwrap_or(keys).to_string()))?) }
    })
    .await;
    (listening, given)
}

fn with(mut request: Request<Body>, fields: &[(&'static str, &str)]) -> Request<Body> {
    for (name, value) in fields {
        request.headers_mut().append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    request
}

/// Requests that are allowed, refused and broken, each with canaries wherever there is room for one.
fn requests(world: &World, canaries: &mut Canaries) -> Vec<(Request<Body>, u16)> {
    let mut claims =
        json!({"email": canaries.plant("a claim that no rule reads"), "jti": canaries.plant("jti")});
    let good = world.issuer.token(claims.clone());
    claims["scope"] = "orders:write".into();
    let poor = world.issuer.token(claims.clone());
    claims["exp"] = 1.into();
    let expired = world.issuer.token(claims);
    canaries.add("a good token", good.clone());
    canaries.add("a good token's signature", good.rsplit_once('.').unwrap().1.to_owned());
    canaries.add("a good token's claims", good.split('.').nth(1).unwrap().to_owned());
    canaries.add("a token without the scope", poor.clone());
    canaries.add("an expired token", expired.clone());
    canaries.add("a token with a bad signature", forged(&good));
    let garbage = canaries.plant("no token at all");
    let nested = format!(
        "{}.{}.x",
        URL_SAFE_NO_PAD.encode(format!("{{\"alg\":\"{}\"}}", canaries.plant("alg"))),
        garbage
    );
    let basic = canaries.plant("Basic");
    let bearer = |token: &str| format!("Bearer {token}");

    let trailers = HeaderMap::from_iter([(
        HeaderName::from_static("x-secret"),
        canaries.plant("a trailer").parse::<HeaderValue>().unwrap(),
    )]);
    let frames =
        [Ok(Frame::data(canaries.plant("a body with trailers").into())), Ok(Frame::trailers(trailers))];
    let trailed = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
    let trailed = Request::post("/trailed").header("trailer", "x-secret").body(trailed).unwrap();
    let forgeries = [
        ("x-auth-subject", canaries.plant("x-auth-subject")),
        ("x-forwarded-client-cert", canaries.plant("XFCC")),
        ("x-request-id", canaries.plant("x-request-id")),
        ("tracestate", canaries.plant("tracestate")),
    ];
    let forgeries: Vec<_> = forgeries.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let secrets = [
        ("cookie", format!("session={}", canaries.plant("Cookie"))),
        ("proxy-authorization", bearer(&canaries.plant("Proxy-Authorization"))),
        ("x-api-key", canaries.plant("X-Api-Key")),
        ("dpop", canaries.plant("DPoP")),
        ("referer", format!("https://shop.example/?code={}", canaries.plant("a code in Referer"))),
    ];
    let secrets: Vec<_> = secrets.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let query = |path: &str, canary: String| format!("{path}?q={canary}");
    let by = |request, token: &str| with(request, &[("authorization", &bearer(token))]);

    let mut all = vec![
        (
            by(get(&query(&format!("/{CONTROL}"), canaries.plant("the query of an allowed request"))), &good),
            200,
        ),
        (by(post("/body", canaries.plant("a body that is forwarded")), &good), 200),
        (by(trailed, &good), 200),
        (by(get(&format!("/answer?header=set-cookie:{}", canaries.plant("Set-Cookie"))), &good), 200),
        (by(get(&query("/down?hangup&x", canaries.plant("the query when the upstream fails"))), &good), 502),
        (get(&query("/none", canaries.plant("the query of a refused request"))), 401),
        (get(&format!("/q?access_token={}", canaries.plant("access_token"))), 400),
        (get(&format!("/../{}?q={}", "dots", canaries.plant("the query of a malformed request"))), 400),
        (by(post("/poor", canaries.plant("a body that is refused")), &poor), 403),
        (by(get("/expired"), &expired), 401),
        (by(get("/forged"), &forged(&good)), 401),
        (by(get("/garbage"), &garbage), 401),
        (by(get("/nested"), &nested), 401),
        (with(get("/basic"), &[("authorization", &format!("Basic {basic}"))]), 401),
        (with(get("/dpop"), &[("authorization", &format!("DPoP {}", canaries.plant("a DPoP token")))]), 401),
        (with(by(get("/two"), &good), &[("authorization", &bearer(&canaries.plant("a second token")))]), 400),
        (with(get("/name"), &[("x_secret", &canaries.plant("a field with a refused name"))]), 400),
    ];
    all.extend([(by(get("/shown"), &good), 200), (by(get("/exchanged"), &good), 200)]);
    all.extend([(by(get("/everything"), &good), 200), (get("/everything"), 401)]);
    all.into_iter().map(|(request, status)| (with(with(request, &secrets), &forgeries), status)).collect()
}

/// All that was told to a client.
fn told(answer: &Answer) -> String {
    format!("{:?} {}", answer.headers, String::from_utf8_lossy(&answer.body))
}

/// Reads `path` on the admin listener, whatever it answers.
async fn admin(binary: &Binary, path: &str) -> String {
    let address = binary.address("page", "admin").await;
    told(&Client::plain(address, Protocol::H1).await.unwrap().ask(get(path)).await.unwrap())
}

#[tokio::test]
async fn no_secret_is_ever_said_aloud() {
    let mut canaries = Canaries::default();
    let world = World::new().await;
    let (by_file, by_environment) =
        (canaries.plant("a credential in a file"), canaries.plant("a credential's variable"));
    world.write("credential", &format!("{by_file}\n"));
    let (key_server, given) =
        key_server(by_file, by_environment.clone(), canaries.plant("a token for upstreams")).await;
    world.write("client-secret", &canaries.plant("a client's secret"));
    let policy = POLICY.replace("@keys@", &format!("http://{}", key_server.address));
    let configuration = world.configuration(&policy);
    let key = fs::read_to_string(world.folder.path().join("orders-key.pem")).unwrap();
    canaries.add("the private key", key.lines().nth(1).unwrap().to_owned());

    let records = Records::of(world.folder.path().join("audit.jsonl"));
    let binary = world.run(&[("CANARY_CREDENTIAL", &by_environment)]);
    let mesh = binary.address("listener", "mesh").await;
    let connect = async |who, protocol| {
        Client::tls(mesh, HOST, world.certificates.client_config(who), protocol).await.unwrap()
    };
    let mut answers = String::new();
    let mut asked = 0;
    for (protocol, round) in [(Protocol::H1, "h1: "), (Protocol::H2, "h2: ")] {
        canaries.round = round;
        for (request, status) in requests(&world, &mut canaries) {
            let path = request.uri().path().to_owned();
            let answer = connect(Who::Storefront, protocol).await.ask(request).await.unwrap();
            assert_eq!(answer.status, status, "{path}: {answer:?}");
            if status != 200 {
                answers.push_str(&told(&answer));
            }
            asked += 1;
        }
    }
    canaries.round = "";
    assert_eq!(asked, 2 * 21);

    // the credentials were used: tokens of their issuers are good
    let partner = connect(Who::Partner, Protocol::H2).await;
    let keys = format!("http://{}", key_server.address);
    for issuer in [keys.clone(), format!("{keys}/other")] {
        let token = world.issuer.token(json!({"iss": issuer, "aud": AUDIENCE}));
        let request = with(get("/partners"), &[("authorization", &format!("Bearer {token}"))]);
        assert_eq!(partner.ask(request).await.unwrap().status, 200, "{issuer}");
    }
    assert_eq!(given.load(Ordering::SeqCst), 2);

    // what is said in a tunnel, and bytes that are no request
    let bearer = format!("Bearer {}", world.issuer.token(json!({})));
    let client = connect(Who::Storefront, Protocol::H1).await;
    let mut socket = client.websocket(with(get("/socket"), &[("authorization", &bearer)])).await.unwrap();
    let message = Message::text(canaries.plant("a message in a tunnel"));
    socket.send(message.clone()).await.unwrap();
    assert_eq!(soon("an echo", socket.next()).await.unwrap().unwrap(), message);
    drop(socket);
    let config = world.certificates.client_config(Who::Storefront);
    let mut raw = Raw::tls(mesh, HOST, config).await.unwrap();
    let broken = canaries.plant("a broken head");
    raw.send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nauthorization: Bearer {broken}\r\n{broken}\r\n\r\n"))
        .await
        .unwrap();
    answers.push_str(&String::from_utf8_lossy(&raw.rest().await));

    // a configuration that is refused shows its lines, but no secret
    let inline = canaries.plant("a secret inside a configuration");
    let text = fs::read_to_string(&configuration).unwrap();
    let text = text
        .replace("jwks_credential = { file = \"credential\" }", &format!("jwks_credential = \"{inline}\""));
    world.write("countersign.toml", &text);
    binary
        .logged(|line| line["message"].as_str().is_some_and(|text| text.contains("cannot be loaded")))
        .await;
    binary.logged(|line| line["code"] == "inline_secret").await;

    let mut metrics = String::new();
    for path in ["/metrics", "/status", "/livez", "/readyz", "/nothing"] {
        metrics.push_str(&admin(&binary, path).await);
    }
    let requests = asked + 3;
    records
        .until(|all| {
            (all.iter().filter(|record| record["event"] == "request").count() >= requests).then_some(())
        })
        .await;
    let audit = fs::read_to_string(world.folder.path().join("audit.jsonl")).unwrap();
    let (log, stdout) = binary.end().await;

    let said = [
        ("log", log, "\"level\":\"TRACE\""),
        ("standard output", stdout, ""),
        ("audit records", audit, CONTROL),
        ("metrics, status and probes", metrics, "countersign_requests_total"),
        ("refusals", answers, "token_bad_signature"),
    ];
    canaries.are_unsaid(said);
}

#[test]
fn a_secret_is_found_however_it_is_printed() {
    let mut canaries = Canaries::default();
    let secret = canaries.plant("here");
    let around = |text: String| format!("x{text}y");
    let coded = |before: &str| STANDARD_NO_PAD.encode(format!("{before}{secret}after"));
    for text in [
        secret.clone(),
        hex(&secret),
        format!("{:?}", around(secret.clone()).as_bytes()),
        coded(""),
        coded("1"),
        coded("12"),
        format!("{:?}", bytes::Bytes::from(secret.clone())),
    ] {
        assert_eq!(canaries.found_in(&around(text.clone())), ["here"], "{text}");
    }
    assert_eq!(canaries.found_in(&secret[4..]), [""; 0]);
}
