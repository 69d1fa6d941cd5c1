//! What upstreams are shown: a token of this proxy's, or one that the caller's is exchanged for, and never both.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use countersign::clock::Clock;
use http::{Request, Response};
use http_body_util::BodyExt;
use rustls::ServerConfig;
use serde_json::json;
use url::form_urlencoded;

use super::{reason, told};
use crate::encrypted_keys::{PASSPHRASE, section};
use crate::possession::Holder;
use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, get};
use crate::world::listen::{Listening, listen};
use crate::world::proxy::{HOST, Proxy};
use crate::world::{Body, World, full, soon};

/// The fields of one request.
type Form = Vec<(String, String)>;

const SECOND: Duration = Duration::from_secs(1);

/// A token endpoint that gives out numbered tokens, or refuses.
pub struct Desk {
    listening: Listening,
    asked: Arc<Mutex<Vec<Form>>>,
    refuses: Arc<AtomicBool>,
    scheme: &'static str,
}

impl Desk {
    pub async fn open(tls: Option<Arc<ServerConfig>>) -> Desk {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let asked: Arc<Mutex<Vec<Form>>> = Arc::default();
        let refuses = Arc::new(AtomicBool::new(false));
        let (seen, refusing) = (asked.clone(), refuses.clone());
        let listening = listen("127.0.0.1:0".parse().unwrap(), tls, move |request| {
            let (seen, refusing) = (seen.clone(), refusing.clone());
            async move {
                let body = request.into_body().collect().await?.to_bytes();
                let form: Vec<_> = form_urlencoded::parse(&body).into_owned().collect();
                let number = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(form);
                    seen.len()
                };
                if refusing.load(Ordering::SeqCst) {
                    let refusal = json!({ "error": "invalid_grant", "error_description": "private" });
                    return Ok(Response::builder().status(400).body(full(refusal.to_string()))?);
                }
                let token = json!({ "access_token": format!("issued-{number}"), "token_type": "Bearer",
                    "expires_in": 300, "issued_token_type": "urn:ietf:params:oauth:token-type:access_token" });
                Ok(Response::new(full(token.to_string())))
            }
        })
        .await;
        Desk { listening, asked, refuses, scheme }
    }

    pub fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}/token", self.scheme, self.listening.address.port())
    }

    pub fn asked(&self) -> Vec<Form> {
        self.asked.lock().unwrap().clone()
    }
}

/// One route for each kind, to one upstream that says back what it saw.
const SHOWN: &str = r#"
[upstream.own]
server = "@upstream@"
[upstream.own.credential]
kind           = "client_credentials"
token_endpoint = "@endpoint@"
allow_http     = true
client_id      = "orders"
client_secret  = { file = "client-secret" }
scope          = ["charge"]

[upstream.exchanged]
server = "@upstream@"
[upstream.exchanged.credential]
kind           = "exchange"
token_endpoint = "@endpoint@"
allow_http     = true
client_id      = "orders"
client_secret  = { file = "client-secret" }
audience       = ["payments"]

[upstream.forwarded]
server     = "@upstream@"
credential = { kind = "forward" }
[upstream.nothing]
server     = "@upstream@"
credential = { kind = "none" }

[route.own]
host     = "orders.shop.example"
path     = "/own"
upstream = "own"
[route.exchanged]
host     = "orders.shop.example"
path     = "/exchanged"
upstream = "exchanged"
[route.forwarded]
host     = "orders.shop.example"
path     = "/forwarded"
upstream = "forwarded"
[route.nothing]
host     = "orders.shop.example"
path     = "/nothing"
upstream = "nothing"

[[allow]]
name    = "reads"
route   = "any"
service = "storefront"
role    = "any"
[[allow]]
name    = "reads without a token"
route   = ["own", "exchanged", "forwarded"]
service = "storefront"
role    = "none"
"#;

fn configured(world: &World, desk: &Desk) -> String {
    world.write("client-secret", "a client's secret\n");
    SHOWN.replace("@endpoint@", &desk.endpoint())
}

async fn storefront(proxy: &Proxy<'_>) -> Client {
    proxy.client(Who::Storefront, Protocol::H2).await
}

pub fn by(path: &str, token: &str) -> Request<Body> {
    let mut request = get(path);
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

#[tokio::test]
async fn an_upstream_is_shown_what_it_is_configured_to_be_and_nothing_beside() {
    let (world, desk) = (World::new().await, Desk::open(None).await);
    let proxy = world.start(&configured(&world, &desk));
    let client = storefront(&proxy).await;
    let token = |person: &str| world.issuer.token(json!({ "sub": person, "uid": "1" }));
    let (alice, bob) = (token("alice"), token("bob"));
    let forwarded = format!("Bearer {alice}");
    let mut exchanged = Vec::new();
    for _ in 0..5 {
        for (path, token, expected) in [
            ("/own", &alice, Some("Bearer issued-1")),
            ("/own", &bob, Some("Bearer issued-1")),
            ("/forwarded", &alice, Some(forwarded.as_str())),
            ("/nothing", &alice, None),
            ("/other", &alice, None),
        ] {
            let answer = client.ask(by(path, token)).await.unwrap();
            assert_eq!(answer.status, 200, "{path} {answer:?}");
            let seen = answer.json();
            assert_eq!(told(&seen, "authorization"), expected, "{path}");
            let all = seen["headers"].as_array().unwrap().iter().filter(|it| it[0] == "authorization");
            assert_eq!(all.count(), usize::from(expected.is_some()), "{path}");
        }
        for (person, token) in [("alice", &alice), ("bob", &bob)] {
            let answer = client.ask(by("/exchanged", token)).await.unwrap();
            exchanged.push((person, told(&answer.json(), "authorization").unwrap().to_owned()));
        }
    }
    exchanged.sort();
    exchanged.dedup();
    assert_eq!(exchanged, [("alice", "Bearer issued-2".to_owned()), ("bob", "Bearer issued-3".to_owned())]);
    let asked = desk.asked();
    assert_eq!(asked.len(), 3, "one token of our own, and one for each of two callers: {asked:?}");
    let subjects: Vec<_> =
        asked.iter().flatten().filter(|(name, _)| name == "subject_token").map(|(_, token)| token).collect();
    assert_eq!(subjects, [&alice, &bob]);

    // Nothing that mattered was changed, so nothing is asked for anew.
    proxy.reload(&(configured(&world, &desk) + "\n[log]\nlevel = \"debug\"\n")).unwrap();
    let answer = client.ask(by("/own", &alice)).await.unwrap();
    assert_eq!(told(&answer.json(), "authorization"), Some("Bearer issued-1"));
    assert_eq!(desk.asked().len(), 3);

    let metrics = proxy.metrics().await;
    for line in [
        r#"countersign_upstream_credential_fetches_total{upstream="own"} 1"#,
        r#"countersign_upstream_credential_fetches_total{upstream="exchanged"} 2"#,
        r#"countersign_upstream_credential_failures_total{upstream="own"} 0"#,
        r#"countersign_upstream_credential_hits_total{upstream="exchanged"} 8"#,
        r#"countersign_upstream_credential_misses_total{upstream="exchanged"} 2"#,
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let status = proxy.admin("/status").await.json();
    let kinds: Vec<_> = status["credentials"].as_array().unwrap().iter().map(|it| &it["kind"]).collect();
    assert_eq!(kinds, ["exchange", "client_credentials"]);
    assert!(
        status["credentials"][1]["expires"].is_string() && status["credentials"][1]["refresh"].is_string()
    );
    assert!(!status.to_string().contains("issued-"));
}

#[tokio::test]
async fn a_refused_exchange_refuses_the_request() {
    let (world, desk) = (World::new().await, Desk::open(None).await);
    let proxy = world.start(&configured(&world, &desk));
    let client = storefront(&proxy).await;
    desk.refuses.store(true, Ordering::SeqCst);
    let token = world.issuer.token(json!({ "uid": "1" }));
    for _ in 0..5 {
        let answer = client.ask(by("/exchanged", &token)).await.unwrap();
        assert_eq!((answer.status.as_u16(), reason(&answer)), (403, "token_not_exchanged".to_owned()));
        let record = proxy.record_of(&answer).await;
        assert_eq!((&record["verdict"], &record["rule"]), (&json!("deny"), &json!("reads")), "{record}");
        assert!(record["detail"].as_str().unwrap().contains("`invalid_grant`"), "{record}");
        assert!(!record.to_string().contains("private"));
    }
    let answer = client.ask(get("/exchanged")).await.unwrap();
    assert_eq!((answer.status.as_u16(), reason(&answer)), (401, "token_missing".to_owned()));
    let exchanges = desk.asked().iter().flatten().filter(|(name, _)| name == "subject_token").count();
    assert_eq!((exchanges, world.upstream.counts().requests), (1, 0));
}

#[tokio::test]
async fn without_a_token_of_our_own_nothing_is_forwarded() {
    let clock = Clock::manual(Clock::system().now());
    let (world, desk) = (World::at(clock.clone()).await, Desk::open(None).await);
    let proxy = world.start(&configured(&world, &desk));
    let client = storefront(&proxy).await;
    assert_eq!(client.ask(get("/own")).await.unwrap().status, 200);
    desk.refuses.store(true, Ordering::SeqCst);
    clock.advance(SECOND * 290);
    let answer = client.ask(get("/own")).await.unwrap();
    assert_eq!(told(&answer.json(), "authorization"), Some("Bearer issued-1"), "the last good one serves");
    clock.advance(SECOND * 10);
    for _ in 0..5 {
        let answer = client.ask(get("/own")).await.unwrap();
        assert_eq!((answer.status.as_u16(), reason(&answer)), (503, "issuer_unavailable".to_owned()));
        let story = proxy.record_of(&answer).await["story"].as_str().unwrap().to_owned();
        assert!(story.contains("or a token for the upstream (no token for the upstream: "), "{story}");
        assert!(!story.contains("could not be fetched"), "{story}");
    }
    assert_eq!((desk.asked().len(), world.upstream.counts().requests), (2, 2));
    desk.refuses.store(false, Ordering::SeqCst);
    clock.advance(SECOND);
    let answer = client.ask(get("/own")).await.unwrap();
    assert_eq!(told(&answer.json(), "authorization"), Some("Bearer issued-3"));
}

/// A token endpoint that takes nobody without a certificate of the shop's.
#[tokio::test]
async fn our_certificate_is_what_the_token_endpoint_knows_us_by() {
    let world = World::new().await;
    let desk = Desk::open(Some(world.certificates.mutual_server_config("login"))).await;
    let endpoint = desk.endpoint().replace("127.0.0.1", "localhost");
    let by_certificate = SHOWN
        .replace("@endpoint@", &endpoint)
        .replace("allow_http     = true", "ca = \"shop-ca.pem\"\nallow_private_addresses = true")
        .replace(
            "client_secret  = { file = \"client-secret\" }",
            "client_authentication = \"tls_client_auth\"",
        );
    let proxy = world.start(&by_certificate);
    let client = storefront(&proxy).await;
    let answer = client.ask(get("/own")).await.unwrap();
    assert_eq!(told(&answer.json(), "authorization"), Some("Bearer issued-1"), "{answer:?}");
    assert!(desk.asked()[0].contains(&("client_id".to_owned(), "orders".to_owned())));

    // With another certificate it is asked anew, with that one; what it gave before serves until then.
    let fresh = world.certificates.server("orders");
    world.write("orders.pem", &fresh.chain);
    world.write("orders-key.pem", &fresh.key);
    desk.refuses.store(true, Ordering::SeqCst);
    proxy.reload(&by_certificate).unwrap();
    let asked = async {
        while desk.asked().len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    soon("a request by the other certificate", asked).await;
    let client = storefront(&proxy).await;
    let answer = client.ask(get("/own")).await.unwrap();
    assert_eq!(told(&answer.json(), "authorization"), Some("Bearer issued-1"), "{answer:?}");
}

/// Whoever holds the key that a token is bound to, this proxy does not.
#[tokio::test]
async fn a_token_that_comes_with_a_proof_is_not_exchanged() {
    let (world, desk) = (World::new().await, Desk::open(None).await);
    let proxy = world.start(&configured(&world, &desk));
    let client = storefront(&proxy).await;
    let holder = Holder::new("ES256", &world.clock);
    let token = holder.token(&world.issuer);
    for (path, status) in [("/exchanged", 403), ("/own", 200)] {
        let proof = holder.proof(&token, json!({}), json!({ "htu": format!("https://{HOST}{path}") }));
        let mut request = get(path);
        for (name, value) in [("authorization", format!("DPoP {token}")), ("dpop", proof)] {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let answer = client.ask(request).await.unwrap();
        assert_eq!(answer.status, status, "{path} {answer:?}");
        let record = proxy.record_of(&answer).await;
        if status == 403 {
            assert_eq!(record["reason"], "token_not_exchanged");
            assert!(record["detail"].as_str().unwrap().contains("`Authorization: Bearer`"), "{record}");
        }
    }
    assert_eq!(world.upstream.counts().requests, 1);
}

#[tokio::test]
async fn a_credential_that_cannot_be_is_an_error_that_says_why() {
    let (world, desk) = (World::new().await, Desk::open(None).await);
    let whole = configured(&world, &desk);
    let change = |from: &str, to: &str| {
        assert!(whole.contains(from), "{from}");
        whole.replacen(from, to, 1)
    };
    let endpoint = format!("token_endpoint = \"{}\"", desk.endpoint());
    let endpoint = endpoint.as_str();
    world.write("encrypted.pem", section("PBKDF2 with SHA-256, AES-256"));
    world.write("passphrase", PASSPHRASE);
    world.write("wrong", "wrong");
    let secret = "client_secret  = { file = \"client-secret\" }";
    let cases = [
        (
            change("path     = \"/own\"", "path     = \"/own\"\nforward_authorization = true"),
            "both say what stands",
        ),
        (
            change("{ kind = \"forward\" }", "{ kind = \"forward\", client_id = \"x\" }"),
            "says nothing of the kind `forward`",
        ),
        (
            change("{ kind = \"none\" }", "{ kind = \"none\", scope = \"x\" }"),
            "says nothing of the kind `none`",
        ),
        (
            change("scope          = [\"charge\"]", "actor_token = \"none\""),
            "says nothing of the kind `client_credentials`",
        ),
        (change("{ kind = \"none\" }", "{ kind = \"nothing\" }"), "unknown_word"),
        (change("{ kind = \"none\" }", "{}"), "missing_key"),
        (change(endpoint, ""), "nobody is named to get a token from"),
        (change(endpoint, "token_endpoint = \"http://login.example/token\""), "insecure_fetch"),
        (change(endpoint, "token_endpoint = \"http://10.0.0.1/token\""), "insecure_fetch"),
        (change("allow_http     = true\n", ""), "insecure_fetch"),
        (
            change(endpoint, "token_endpoint = \"https://me@login.example/token\""),
            "no URL of a token endpoint",
        ),
        (change(endpoint, "token_endpoint = \"login.example\""), "no URL of a token endpoint"),
        (change(endpoint, &format!("{endpoint}\nissuer = \"corp\"")), "beside `issuer`"),
        (change(endpoint, "issuer = \"nobody\""), "unknown_issuer"),
        (change("client_id      = \"orders\"\n", ""), "not told who asks"),
        (change(secret, ""), "cannot know that it is us"),
        (change(secret, "client_secret = \"in the file\""), "inline_secret"),
        (change(secret, "client_secret = { file = \"nowhere\" }"), "missing_file"),
        (change(secret, "client_authentication = \"private_key_jwt\""), "without its `private_key`"),
        (change(secret, "private_key = \"shop-ca.pem\""), "bad_pem"),
        (change(secret, "private_key = \"encrypted.pem\""), "add `passphrase ="),
        (
            change(secret, "private_key = \"encrypted.pem\"\npassphrase = { file = \"wrong\" }"),
            "bad_passphrase",
        ),
        (
            change(secret, &format!("{secret}\npassphrase = {{ file = \"passphrase\" }}")),
            "not what this proxy is known by",
        ),
        (
            change(secret, &format!("{secret}\nprivate_key = \"orders-key.pem\"")),
            "not what this proxy is known by",
        ),
        (
            change(secret, &format!("{secret}\nclient_authentication = \"tls_client_auth\"")),
            "not what this proxy is known by",
        ),
        (change("scope          = [\"charge\"]", "scope = \"a b\""), "is no scope"),
        (change("scope          = [\"charge\"]", "resource = \"payments\""), "is no absolute URI"),
    ];
    let mut seen = 0;
    for (text, expected) in &cases {
        world.configuration(text);
        let report = world.try_load().err().unwrap_or_else(|| panic!("{expected}: loads"));
        assert!(report.contains(expected), "{expected}: {report}");
        assert!(!report.contains("a client's secret") && !report.contains("in the file\""), "{report}");
        seen += 1;
    }
    assert_eq!(seen, 27);
    let encrypted = "private_key = \"encrypted.pem\"\npassphrase = { file = \"passphrase\" }";
    world.configuration(&change(secret, encrypted));
    assert_eq!(world.try_load().err(), None);
    world.configuration(&change(secret, "private_key = \"orders-key.pem\"\nkey_id = \"a\""));
    assert_eq!(world.try_load().err(), None);
    world.configuration(&change(&format!("{endpoint}\nallow_http     = true"), "issuer = \"corp\""));
    assert_eq!(world.try_load().err(), None);
}
