//! What the trial answers is what the proxy does: the same requests, asked and sent through real sockets. Of both,
//! the whole record is compared, the answer's head, and what the upstream is told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use countersign::audit::Record;
use countersign::clock::Clock;
use countersign::trial::{Answer, Bearer, Claims, Presented, Question, Trial, head};
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Request};
use serde_json::{Value, json};

use crate::world::certificates::{Who, parsed};
use crate::world::client::{self, Client, Protocol};
use crate::world::proxy::{HOST, Proxy};
use crate::world::signing::{KEYS, forged};
use crate::world::{World, full};

/// `@until@` is a day in a month.
const POLICY: &str = r#"
[listener.open]
address = "127.0.0.1:0"
client_certificate = "optional"

[route.api]
host = "orders.shop.example"
path = "/api/**"
upstream = "orders"
strip_prefix = "/api"
body_bytes_max = "10B"
cors = { origins = ["https://app.shop.example"] }
[route.rollout]
host = "orders.shop.example"
path = "/rollout/**"
upstream = "orders"
shadow_until = "@until@"

[service.partner]
spiffe_id = "spiffe://partner.example/ns/*/sa/storefront"
client_id = "any"

[[allow]]
name        = "people read their own orders"
route       = "orders"
service     = "storefront"
role        = "order-reader"
actor       = "human"
method      = "GET"
path        = "/customers/{customer}/orders/**"
match_claim = { customer = "sub" }

[[allow]]
name         = "assistants read for people"
route        = "orders"
service      = "assistant"
role         = "order-reader"
actor        = "agent"
on_behalf_of = "human"
path         = "/customers/{customer}/orders/**"
match_claim  = { customer = "sub" }

[[allow]]
name    = "whoever is named does things"
route   = "any"
service = "any"
role    = "any"
path    = ["/things/**", "/api/**"]

[[allow]]
name    = "anybody looks at the status"
route   = "any"
service = "none"
role    = "none"
method  = "GET"
path    = "/status"

[[allow]]
name    = "calls"
route   = "orders"
service = "storefront"
role    = "any"
grpc    = "shop.Orders/Get"

[[allow]]
name    = "what might come"
mode    = "shadow"
route   = "any"
service = "any"
role    = "order-reader"

[[require]]
name    = "secrets need step-up"
route   = "any"
path    = "/things/secret"
acr     = "mfa"
max_age = "15m"

[[deny]]
name   = "agents never write"
route  = "any"
actor  = "agent"
method = ["POST", "DELETE"]
"#;

/// Method, path, header fields, body.
type Sent = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str);

const REQUESTS: [Sent; 27] = [
    ("GET", "/customers/alice/orders/7", &[], ""),
    (
        "GET",
        "/customers/al%69ce/orders/7?page=2",
        &[("x-auth-subject", "mallory"), ("x-forwarded-for", "10.0.0.1")],
        "",
    ),
    ("HEAD", "/customers/alice/orders/7", &[], ""),
    ("GET", "/customers/bob/orders/7", &[("accept", "text/html")], ""),
    ("DELETE", "/customers/alice/orders/7", &[], ""),
    ("POST", "/customers/alice/orders", &[], "x"),
    ("GET", "/customers/../status", &[], ""),
    ("GET", "/customers;a/alice", &[], ""),
    ("GET", "/things/1", &[], ""),
    ("GET", "/things/secret", &[], ""),
    ("POST", "/things/1", &[], "{}"),
    ("get", "/things/1", &[], ""),
    ("GET", "/things/1", &[("x_user", "alice")], ""),
    ("GET", "/things/1", &[("authorization", "Basic YTpi")], ""),
    ("GET", "/things/1?access_token=x", &[], ""),
    ("GET", "/things/1", &[("connection", "upgrade"), ("upgrade", "websocket")], ""),
    ("GET", "/status", &[], ""),
    ("GET", "/nowhere", &[], ""),
    ("GET", "/api/things/1", &[("origin", "https://app.shop.example")], ""),
    (
        "OPTIONS",
        "/api/things/1",
        &[("origin", "https://app.shop.example"), ("access-control-request-method", "PUT")],
        "",
    ),
    (
        "OPTIONS",
        "/api/things/1",
        &[("origin", "https://evil.example"), ("access-control-request-method", "PUT")],
        "",
    ),
    ("POST", "/api/things/1", &[], "0123456789"),
    ("POST", "/api/things/1", &[], "0123456789a"),
    ("POST", "/shop.Orders/Get", &[("content-type", "application/grpc")], ""),
    ("POST", "/shop.Orders/Get", &[], ""),
    ("GET", "/rollout/1", &[], ""),
    ("POST", "/rollout/1", &[], ""),
];

fn tokens(world: &World) -> Vec<(&'static str, Option<String>)> {
    let now = world.clock.now().unix_seconds();
    let issued = |claims: Value| Some(world.issuer.token(claims));
    vec![
        ("none", None),
        ("alice", issued(json!({ "uid": "1" }))),
        ("alice, just logged in", issued(json!({ "uid": "1", "acr": "mfa", "auth_time": now - 60 }))),
        ("alice without scope", issued(json!({ "uid": "1", "scope": null }))),
        (
            "an agent for alice",
            issued(json!({ "uid": "1", "client_id": "assistant-7", "act": { "sub": "bot" } })),
        ),
        ("an agent", issued(json!({ "client_id": "assistant-7" }))),
        ("without a subject", issued(json!({ "sub": null }))),
        (
            "bound to a certificate",
            issued(json!({ "cnf": { "x5t#S256": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" } })),
        ),
        ("forged", issued(json!({ "uid": "1" })).map(|token| forged(&token))),
    ]
}

/// One request: what is asked of both.
struct Asked {
    listener: &'static str,
    who: Who,
    token: Option<String>,
    request: (&'static str, &'static str, Vec<(&'static str, String)>, &'static str),
    traceparent: String,
}

/// What came of it, as far as it does not depend on when and where.
#[derive(Debug, PartialEq)]
struct Came {
    record: Value,
    status: Option<u16>,
    challenge: Option<String>,
    /// To which page the answer may be shown.
    readable_by: Option<String>,
    told: BTreeMap<String, String>,
}

#[tokio::test]
async fn the_trial_and_the_proxy_agree_on_every_request() {
    let clock = Clock::manual(Clock::system().now());
    let world = World::at(clock.clone()).await;
    let month = clock.now().plus(Duration::from_secs(30 * 86_400)).to_string();
    let proxy = world.start(&POLICY.replace("@until@", &month[..10]));
    let mut trial = Trial::new(world.load(), clock.now()).unwrap();
    let keys: Vec<_> = KEYS.iter().map(|key| key.jwk()).collect();
    trial.give_keys(&"corp".parse().unwrap(), json!({ "keys": keys }).to_string().as_bytes()).unwrap();

    let mut all = Vec::new();
    let peers = [
        ("mesh", Who::Storefront),
        ("mesh", Who::Assistant),
        ("mesh", Who::Unnamed),
        ("open", Who::NoCertificate),
        ("open", Who::Partner),
    ];
    let tokens = tokens(&world);
    for (listener, who) in peers {
        for (_, token) in &tokens {
            for (method, path, fields, body) in REQUESTS {
                let fields = fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
                all.push((listener, who, token.clone(), (method, path, fields, body)));
            }
        }
    }
    let asked = all.into_iter().enumerate().map(|(at, (listener, who, token, request))| {
        let traceparent = format!("00-{:032x}-00000000000000ff-01", at + 1);
        Asked { listener, who, token, request, traceparent }
    });
    let asked: Vec<Asked> = asked.collect();
    let live = sent(&proxy, &asked).await;

    let (mut allowed, mut reasons) = (0, BTreeSet::new());
    for (asked, live) in asked.iter().zip(&live) {
        let what = || format!("{} {:?} {:?} {:?}", asked.listener, asked.who, asked.token, asked.request);
        for caller in bearers(asked) {
            let answer = trial.ask(&question(&world, asked, caller)).unwrap();
            assert_eq!(came_of(&answer), *live, "{}", what());
        }
        allowed += usize::from(live.record["verdict"] == "allow");
        reasons.insert(live.record["reason"].as_str().unwrap().to_owned());
    }
    println!("{} requests, {allowed} allowed, {} reasons: {reasons:?}", asked.len(), reasons.len());
    assert_eq!((asked.len(), allowed, reasons.len()), (5 * 9 * 27, 150, 20));
}

/// The certificates of all workloads there are, sound and hostile.
#[tokio::test]
async fn the_trial_and_the_proxy_agree_on_every_certificate() {
    let clock = Clock::manual(Clock::system().now());
    let world = World::at(clock.clone()).await;
    let proxy = world.start("");
    let mut trial = Trial::new(world.load(), clock.now()).unwrap();
    let (mut refused, mut reasons) = (0, BTreeSet::new());
    for who in Who::ALL {
        // The same certificate for both.
        let minted = world.certificates.client(who);
        let config = world.certificates.client_config_with(minted.as_ref());
        let chain = minted.as_ref().map(|minted| parsed(minted).0);
        let client = Client::tls(proxy.address("mesh"), HOST, config, Protocol::H1).await;
        let served = match client {
            Ok(client) => client.ask(client::get("/")).await.is_ok(),
            Err(_) => false,
        };
        let peer = chain.map_or(Presented::Nothing, Presented::Chain);
        let question =
            Question { peer, ..Question::new(head("GET", &format!("https://{HOST}/"), []).unwrap()) };
        match trial.ask(&question).unwrap() {
            Answer::Http(_) => assert!(served, "{who:?}"),
            Answer::Handshake(trial) => {
                assert!(!served, "{who:?}");
                refused += 1;
                let live = proxy.events("handshake", refused).await.pop().unwrap();
                let claimed = trial.claimed.as_ref();
                let spiffe_id = claimed.and_then(|claimed| claimed.spiffe_id.as_deref());
                let certificate = claimed.map(|claimed| claimed.certificate.to_string());
                assert_eq!(live["reason"], trial.reason.as_str(), "{who:?}");
                assert_eq!(live["detail"], trial.detail, "{who:?}");
                assert_eq!(live["peer"]["spiffe_id"].as_str(), spiffe_id, "{who:?} {live}");
                assert_eq!(live["peer"]["certificate"].as_str(), certificate.as_deref(), "{who:?} {live}");
                reasons.insert(trial.reason.as_str());
            }
        }
    }
    println!("{refused} of {} are refused: {reasons:?}", Who::ALL.len());
    assert_eq!((Who::ALL.len(), refused, reasons.len()), (23, 19, 6));
}

/// The ways in which a trial can be asked with this token: as it is, and if it is sound but for its claims, by
/// these, and on trust.
fn bearers(asked: &Asked) -> Vec<Bearer> {
    let Some(token) = &asked.token else { return vec![Bearer::Nothing] };
    let mut bearers = vec![Bearer::Token(token.clone())];
    let (message, signature) = token.rsplit_once('.').unwrap();
    if KEYS[0].sign(message.as_bytes()) == super::decoded(signature) {
        bearers.push(Bearer::TokenOnTrust(token.clone()));
        let claims: Value =
            serde_json::from_slice(&super::decoded(message.split_once('.').unwrap().1)).unwrap();
        let given = claims.as_object().unwrap().clone();
        let completed = ["iss", "aud", "iat", "exp", "jti"].map(str::to_owned);
        let without = completed.into_iter().filter(|name| !given.contains_key(name)).collect();
        bearers.push(Bearer::Claims(Claims {
            issuer: "corp".parse().unwrap(),
            claims: given,
            without,
            bound: None,
        }));
    }
    bearers
}

fn question(world: &World, asked: &Asked, caller: Bearer) -> Question {
    let (method, path, fields, body) = &asked.request;
    let length = body.len().to_string();
    let mut all: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    all.push(("traceparent", &asked.traceparent));
    if !body.is_empty() {
        all.push(("content-length", &length));
    }
    let loopback = "127.0.0.1".parse().unwrap();
    Question {
        peer: match world.certificates.client(asked.who) {
            // Of the same content, though not the same certificate as was sent.
            Some(minted) => Presented::Chain(parsed(&minted).0),
            None => Presented::Nothing,
        },
        caller,
        listener: Some(asked.listener.parse().unwrap()),
        peer_ip: Some(loopback),
        ..Question::new(head(method, &format!("https://{HOST}{path}"), all).unwrap())
    }
}

/// What became of all of them, sent one after another.
async fn sent(proxy: &Proxy<'_>, all: &[Asked]) -> Vec<Came> {
    let mut answers = Vec::new();
    let mut client: Option<((&str, Who), Client)> = None;
    for asked in all {
        let place = (asked.listener, asked.who);
        let (method, path, fields, body) = &asked.request;
        let mut request = Request::builder().method(*method).uri(*path);
        for (name, value) in fields {
            request = request.header(*name, value);
        }
        request = request.header("traceparent", &asked.traceparent);
        if let Some(token) = &asked.token {
            request = request.header(AUTHORIZATION, client::bearer(token));
        }
        let known = client.take().filter(|(other, client)| *other == place && !client.is_closed());
        let (_, connection) = match known {
            Some(known) => known,
            None => (place, proxy.client_of(asked.listener, asked.who, Protocol::H1).await),
        };
        let answer = connection.ask(request.body(full(*body)).unwrap()).await.unwrap();
        let is_last = answer.headers.get("connection").is_some_and(|value| value == "close");
        client = (!is_last).then_some((place, connection));
        answers.push(answer);
    }
    let records = proxy.records(all.len()).await;
    let by_trace: BTreeMap<&str, &Value> =
        records.iter().map(|record| (record["trace"].as_str().unwrap(), record)).collect();
    all.iter().zip(answers).map(|(asked, answer)| came(by_trace[&*asked.traceparent], answer)).collect()
}

fn came(record: &Value, answer: client::Answer) -> Came {
    let passed_on = !record["upstream"].is_null() && record["verdict"] == "allow";
    let header = |name: &HeaderName| answer.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let told = match passed_on && !answer.body.is_empty() {
        true => answer.json()["headers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pair| {
                let text = |at: usize| pair[at].as_str().unwrap().to_owned();
                (text(0), text(1))
            })
            .collect(),
        false => BTreeMap::new(),
    };
    Came {
        record: timeless(record.clone()),
        status: (!passed_on).then_some(answer.status.as_u16()),
        challenge: if passed_on { None } else { header(&WWW_AUTHENTICATE) },
        readable_by: if passed_on { None } else { header(&ACCESS_CONTROL_ALLOW_ORIGIN) },
        told: identity(told),
    }
}

fn came_of(answer: &Answer) -> Came {
    let answered = answer.http().unwrap();
    let mut line = Vec::new();
    answered.record.write(&mut line).unwrap();
    let record: Value = serde_json::from_slice(&line).unwrap();
    let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
    let refused = answered.answer.as_ref();
    let readable_by = refused.and_then(|answer| answer.headers.get(ACCESS_CONTROL_ALLOW_ORIGIN));
    // To these the upstream says nothing back.
    let silent =
        |head: &&http::request::Parts| head.method == "HEAD" || head.uri.path().starts_with("/shop.");
    let onward = answered.onward.as_ref().filter(|head| !silent(head));
    let told = onward.into_iter().flat_map(|head| &head.headers);
    Came {
        record: timeless(record),
        status: answer.status().map(|status| status.as_u16()),
        challenge: answer.challenge().map(str::to_owned),
        readable_by: readable_by.map(text),
        told: identity(told.map(|(name, value)| (name.to_string(), text(value))).collect()),
    }
}

/// Without what differs between any two requests that are the same, and without what an upstream answered.
fn timeless(mut record: Value) -> Value {
    for name in ["id", "time", "cache", "decision_us", "total_us", "request_bytes", "response_bytes"] {
        record[name] = Value::Null;
    }
    if record["verdict"] == "allow" && record["reason"] != "preflight" {
        record["status"] = Value::Null;
    }
    if let Some(peer) = record["peer"].as_object_mut() {
        peer.remove("certificate");
    }
    record
}

/// What an upstream is told of who asks and from where.
fn identity(mut headers: BTreeMap<String, String>) -> BTreeMap<String, String> {
    headers.retain(|name, _| {
        let spoken_of =
            name.starts_with("x-") || ["forwarded", "host", "authorization"].contains(&name.as_str());
        spoken_of && !["x-auth-decision", "x-request-id"].contains(&name.as_str())
    });
    // It has the certificate's hash.
    if let Some(xfcc) = headers.get_mut("x-forwarded-client-cert") {
        *xfcc = xfcc.split(';').filter(|part| !part.starts_with("Hash=")).collect::<Vec<_>>().join(";");
    }
    headers
}
