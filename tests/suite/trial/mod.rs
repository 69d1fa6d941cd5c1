//! A configuration that is asked: `trial`, without a socket, and against the proxy that serves.

mod agreement;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign::audit::Reason;
use countersign::audit::record::Check;
use countersign::clock::{Clock, Timestamp};
use countersign::identity::{Hop, PeerName};
use countersign::token::Algorithm;
use countersign::trial::{Answer, Bearer, Bound, Claims, Presented, Question, Trial, head};
use serde_json::{Value, json};

use crate::world::World;
use crate::world::signing::{KEYS, forged};

const SAMPLE: &str = include_str!("../../../config/sidecar.toml");
const NOW: &str = "2027-01-15T12:00:00Z";
const OWN: &str = "https://orders.shop.example/customers/alice/orders/7";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

async fn sample() -> Trial {
    let world = World::at(Clock::manual(now())).await;
    Trial::new(world.load_sample(SAMPLE), now()).unwrap()
}

fn claims(issuer: &str, claims: Value) -> Bearer {
    let Value::Object(claims) = claims else { panic!("{claims}") };
    Bearer::Claims(Claims { issuer: issuer.parse().unwrap(), claims, without: Vec::new(), bound: None })
}

fn alice() -> Bearer {
    claims("corp", json!({ "sub": "alice", "uid": "1", "cid": "storefront-web", "scp": ["orders:read"] }))
}

fn ask(method: &str, url: &str) -> Question {
    Question::new(head(method, url, []).unwrap())
}

fn storefront(caller: Bearer, method: &str, url: &str) -> Question {
    Question { peer: Presented::Service("storefront".parse().unwrap()), caller, ..ask(method, url) }
}

/// Reason, status, challenge.
fn outcome(answer: &Answer) -> (&str, Option<u16>, Option<&str>) {
    (answer.reason().as_str(), answer.status().map(|status| status.as_u16()), answer.challenge())
}

#[tokio::test]
async fn a_question_is_answered_as_a_request_is() {
    let mut trial = sample().await;
    let answer = trial.ask(&storefront(alice(), "GET", OWN)).unwrap();
    assert_eq!(outcome(&answer), ("allowed", None, None));
    assert_eq!(answer.rule(), Some("people read their own orders through the storefront"));
    let onward = &answer.http().unwrap().onward.as_ref().unwrap().headers;
    assert_eq!(
        (&onward["x-auth-subject"], &onward["x-auth-service"]),
        (&"alice".parse().unwrap(), &"storefront".parse().unwrap())
    );
    assert!(!onward.contains_key("authorization"));

    let answer = trial.ask(&storefront(Bearer::Nothing, "GET", OWN)).unwrap();
    assert_eq!(outcome(&answer), ("token_missing", Some(401), Some("Bearer")));
    let answer = trial.ask(&Question { caller: alice(), ..ask("GET", OWN) }).unwrap();
    assert!(matches!(&answer, Answer::Handshake(refused) if refused.listener.as_str() == "mesh"));
    assert_eq!(outcome(&answer), ("peer_missing", None, None));
}

#[tokio::test]
async fn a_head_over_a_limit_is_refused_before_anybody_is_asked() {
    let mut trial = sample().await;
    let fields = vec![("x-field", "1"); 200];
    let question = Question::new(head("GET", OWN, fields).unwrap());
    let question = Question { peer: Presented::Service("storefront".parse().unwrap()), ..question };
    let answer = trial.ask(&question).unwrap();
    assert_eq!(outcome(&answer), ("limit_exceeded", Some(431), None));
    assert!(answer.case().is_none());
}

fn decoded(part: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(part).unwrap()
}

/// A trial of the world's base configuration and `more`.
async fn trial(more: &str) -> Trial {
    let world = World::at(Clock::manual(now())).await;
    world.configuration(more);
    Trial::new(world.load(), now()).unwrap()
}

#[tokio::test]
async fn a_token_that_cannot_be_exchanged_is_known_before_anybody_is_asked() {
    let exchanged = r#"
        [upstream.exchanged]
        server = "@upstream@"
        credential = { kind = "exchange", token_endpoint = "@issuer@/token", allow_http = true, client_id = "orders", client_authentication = "tls_client_auth" }
        [route.exchanged]
        host = "away.example"
        upstream = "exchanged"
        [[allow]]
        name = "readers"
        service = "storefront"
        role = "order-reader"
        actor = ["human", "unknown"]
        route = "any"
    "#;
    let mut trial = trial(exchanged).await;
    for (host, bound, reason) in [
        ("away.example", None, "allowed"),
        ("away.example", Some(Bound::Key), "token_not_exchanged"),
        ("orders.shop.example", Some(Bound::Key), "allowed"),
    ] {
        let Bearer::Claims(claims) =
            claims("corp", json!({ "sub": "alice", "client_id": "storefront-web", "scope": "orders:read" }))
        else {
            panic!("claims")
        };
        let caller = Bearer::Claims(Claims { bound, ..claims });
        let answer = trial.ask(&storefront(caller, "GET", &format!("https://{host}/7"))).unwrap();
        assert_eq!(answer.reason().as_str(), reason, "{host} {bound:?}");
    }
}

fn caller_check(answer: &Answer) -> Check {
    answer.record().unwrap().checks.caller
}

#[tokio::test]
async fn every_algorithm_signs_and_is_verified() {
    for algorithm in Algorithm::ALL {
        let issuer = format!(
            "[issuer.other]\nurl = \"https://other.example\"\naudience = \"a\"\nalgorithms = \"{algorithm}\"\n"
        );
        let mut trial = trial(&issuer).await;
        let caller = claims("other", json!({ "sub": "alice" }));
        let answer = trial.ask(&storefront(caller, "GET", OWN)).unwrap();
        assert_eq!(caller_check(&answer), Check::Ok, "{algorithm} {:?}", answer.detail());
    }
}

/// Preset, what else its issuer says, and the claims by which its tokens are taken.
const PRESETS: [(&str, &str, &str); 12] = [
    ("okta", "", r#"{"sub": "a", "cid": "web"}"#),
    ("auth0", "", r#"{"sub": "auth0|1"}"#),
    ("entra", "", r#"{"azp": "web", "scp": "x"}"#),
    ("cognito", "", r#"{"sub": "a"}"#),
    ("keycloak", "", r#"{"sub": "a", "sid": "1"}"#),
    ("google", "only = { hd = \"shop.example\" }", r#"{"sub": "a"}"#),
    ("kubernetes", "", r#"{"sub": "system:serviceaccount:default:web"}"#),
    ("github", "only = { repository_owner_id = \"1\" }", r#"{"sub": "repo:shop/web", "repository_id": "7"}"#),
    (
        "spiffe",
        "url = \"spiffe://other.example\"\njwks = \"https://bundle.example\"",
        r#"{"sub": "spiffe://other.example/web"}"#,
    ),
    ("generic", "", r#"{"sub": "a"}"#),
    ("generic", "token_type = \"at+jwt\"", r#"{"sub": "a", "client_id": "web"}"#),
    (
        "entra",
        "url = \"https://login.microsoftonline.com/{tid}/v2.0\"\nonly = { tid = [\"t-1\"] }",
        r#"{"azp": "web"}"#,
    ),
];

#[tokio::test]
async fn claims_by_hand_are_taken_as_each_provider_s_own() {
    let mut seen = 0;
    for (preset, more, given) in PRESETS {
        let url = if more.contains("url = ") { "" } else { "url = \"https://other.example\"\n" };
        let mut trial =
            trial(&format!("[issuer.other]\n{url}audience = \"web\"\npreset = \"{preset}\"\n{more}\n")).await;
        let given: Value = serde_json::from_str(given).unwrap();
        let answer = trial.ask(&storefront(claims("other", given.clone()), "GET", OWN)).unwrap();
        assert_eq!(caller_check(&answer), Check::Ok, "{preset} {more}: {:?}", answer.detail());
        // Nothing is added that a token needs and its issuer does not put into each.
        let without = ["exp", "iat"].map(str::to_owned);
        for name in without {
            let Bearer::Claims(whole) = claims("other", given.clone()) else { panic!() };
            let caller = Bearer::Claims(Claims { without: vec![name.clone()], ..whole });
            let answer = trial.ask(&storefront(caller, "GET", OWN)).unwrap();
            let refused = caller_check(&answer) == Check::Failed(Reason::TokenMalformed);
            assert_eq!(refused, name == "exp" || more.contains("at+jwt"), "{preset} without {name}");
        }
        seen += 1;
    }
    assert_eq!(seen, 12);
}

#[tokio::test]
async fn what_a_listener_does_about_certificates_counts() {
    let listeners = "[listener.open]\naddress = \"127.0.0.1:0\"\nclient_certificate = \"optional\"\n\
                     [listener.blind]\naddress = \"127.0.0.1:0\"\nclient_certificate = \"none\"\n\
                     [listener.plain]\naddress = \"127.0.0.1:0\"\nallow_plaintext = true\n";
    let mut trial = trial(listeners).await;
    let named = |id: &str| Presented::Named(PeerName::Spiffe(id.parse().unwrap()));
    let storefront = named("spiffe://shop.example/ns/prod/sa/storefront");
    let stranger = named("spiffe://nowhere.example/storefront");
    let mut seen = 0;
    for (listener, peer, expected) in [
        (None, Presented::Nothing, Ok(("blind", Check::Absent))),
        (Some("mesh"), Presented::Nothing, Err("peer_missing")),
        (Some("open"), Presented::Nothing, Ok(("open", Check::Absent))),
        (None, storefront.clone(), Ok(("mesh", Check::Ok))),
        (Some("open"), storefront.clone(), Ok(("open", Check::Ok))),
        // Nobody asks for it there.
        (Some("blind"), storefront.clone(), Ok(("blind", Check::Absent))),
        (Some("plain"), storefront, Ok(("plain", Check::Absent))),
        (None, stranger.clone(), Err("peer_untrusted")),
        (Some("open"), stranger.clone(), Err("peer_untrusted")),
        (Some("plain"), stranger, Ok(("plain", Check::Absent))),
    ] {
        let listener = listener.map(|name| name.parse().unwrap());
        let answer = trial.ask(&Question { listener, peer, ..ask("GET", OWN) }).unwrap();
        let came = match &answer {
            Answer::Handshake(refused) => Err(refused.reason.as_str()),
            Answer::Http(answered) => {
                Ok((answered.record.connection.listener.as_str(), answered.record.checks.peer))
            }
        };
        assert_eq!(came, expected, "case {seen}");
        seen += 1;
    }
    assert_eq!(seen, 10);
}

#[tokio::test]
async fn a_service_s_name_stands_for_a_workload_that_it_names() {
    let services = "[service.batch]\nspiffe_id = \"spiffe://shop.example/ns/*/sa/batch/**\"\n\
                    [service.legacy]\ndns_name = \"*.legacy.example\"\ntrust_domain = \"partner.example\"\n\
                    [[allow]]\nname = \"all\"\nservice = \"any\"\nrole = \"none\"\n";
    let mut trial = trial(services).await;
    for (service, id) in [
        ("batch", "spiffe://shop.example/ns/any/sa/batch/any"),
        ("legacy", "any.legacy.example"),
        ("storefront", "spiffe://shop.example/ns/prod/sa/storefront"),
    ] {
        let peer = Presented::Service(service.parse().unwrap());
        let answer = trial.ask(&Question { peer, ..ask("GET", OWN) }).unwrap();
        assert_eq!((answer.reason().as_str(), answer.rule()), ("allowed", Some("all")), "{service}");
        let peer = answer.case().unwrap().signatures.peer.verified().unwrap();
        assert_eq!(peer.name.to_string(), id);
    }
}

#[tokio::test]
async fn questions_come_in_any_order_and_of_any_time() {
    let world = World::at(Clock::manual(now())).await;
    let mut trial = Trial::new(world.load_sample(SAMPLE), now()).unwrap();
    let keys: Vec<_> = KEYS.iter().map(|key| key.jwk()).collect();
    let corp = "corp".parse().unwrap();
    let claims = json!({ "iss": "https://login.example.com", "uid": "1", "cid": "storefront-web", "scp": ["orders:read"] });
    let token = world.issuer.token(claims);
    let answer = trial.ask(&storefront(Bearer::Token(token.clone()), "GET", OWN)).unwrap();
    assert_eq!(outcome(&answer), ("issuer_unavailable", Some(503), None), "its keys are not here");
    trial.give_keys(&corp, json!({ "keys": keys }).to_string().as_bytes()).unwrap();
    let year = Duration::from_secs(365 * 86_400);
    let (before, after) = (now().minus(year), now().plus(year));
    let mut seen = 0;
    for (at, expected) in [
        (after, "token_expired"),
        (now(), "allowed"),
        (before, "token_not_yet_valid"),
        (after, "token_expired"),
        (now(), "allowed"),
        (after, "token_expired"),
    ] {
        let question = storefront(Bearer::Token(token.clone()), "GET", OWN);
        let answer = trial.ask(&Question { at: Some(at), ..question }).unwrap();
        assert_eq!(answer.reason().as_str(), expected, "{at}");
        // Made up, it is of its time.
        let answer = trial.ask(&Question { at: Some(at), ..storefront(alice(), "GET", OWN) }).unwrap();
        assert_eq!(answer.reason().as_str(), "allowed", "{at}");
        seen += 1;
    }
    assert_eq!(seen, 6);
}

#[tokio::test]
async fn on_trust_nothing_is_believed_but_the_signature() {
    let world = World::at(Clock::manual(now())).await;
    let mut trial = Trial::new(world.load_sample(SAMPLE), now()).unwrap();
    let iss = "https://login.example.com";
    let sound = || json!({ "iss": iss, "uid": "1", "cid": "storefront-web", "scp": ["orders:read"] });
    let with = |name: &str, value: Value| {
        let mut claims = sound();
        claims[name] = value;
        world.issuer.token(claims)
    };
    let by = |algorithm: &str| {
        let key = KEYS.iter().find(|key| key.algorithm == algorithm).unwrap();
        world.issuer.token_by(key, json!({}), sound())
    };
    let mut seen = 0;
    for (token, expected) in [
        (forged(&world.issuer.token(sound())), "allowed"),
        (by("ES256"), "allowed"),
        (by("EdDSA"), "token_algorithm_refused"),
        (world.issuer.token_by(&KEYS[0], json!({ "kid": null }), sound()), "allowed"),
        (world.issuer.token_by(&KEYS[0], json!({ "alg": "none" }), sound()), "token_algorithm_refused"),
        (world.issuer.token_by(&KEYS[0], json!({ "alg": "HS256" }), sound()), "token_algorithm_refused"),
        (world.issuer.token_by(&KEYS[0], json!({ "jwk": {} }), sound()), "token_malformed"),
        (world.issuer.token_by(&KEYS[0], json!({ "typ": "logout+jwt" }), sound()), "token_type_refused"),
        (with("exp", (now().unix_seconds() - 3600).into()), "token_expired"),
        (with("aud", "https://other.example".into()), "token_wrong_audience"),
        (with("iss", "https://other.example".into()), "token_issuer_unknown"),
        (with("cid", Value::Null), "token_type_refused"),
        ("no.token.atall".to_owned(), "token_malformed"),
    ] {
        let answer = trial.ask(&storefront(Bearer::TokenOnTrust(token.clone()), "GET", OWN)).unwrap();
        assert_eq!(answer.reason().as_str(), expected, "{token}: {:?}", answer.detail());
        seen += 1;
    }
    assert_eq!(seen, 13);
}

#[tokio::test]
async fn what_is_not_there_cannot_be_asked_about() {
    let mut trial = sample().await;
    let service = Question { peer: Presented::Service("absent".parse().unwrap()), ..ask("GET", OWN) };
    let listener = Question { listener: Some("absent".parse().unwrap()), ..ask("GET", OWN) };
    let hop = Question { hop: Hop::Trusted("absent".parse().unwrap()), ..ask("GET", OWN) };
    let issuer = storefront(claims("absent", json!({})), "GET", OWN);
    let token = storefront(Bearer::Token("a\nb".to_owned()), "GET", OWN);
    for (question, expected) in [
        (service, "there is no service `absent`"),
        (listener, "there is no listener `absent`"),
        (
            hop,
            "there is no hop `absent`: it is `direct`, `local`, or a `[trusted_hop]` that tells who is behind it",
        ),
        (issuer, "there is no issuer `absent`"),
        (token, "what stands in `Authorization` cannot be sent"),
    ] {
        assert_eq!(trial.ask(&question).unwrap_err().to_string(), expected);
    }
    for (method, url) in [("GET", "/orders"), ("GET", "https://a b/"), ("G T", OWN), ("GET", "")] {
        assert!(head(method, url, []).is_err(), "{method} {url}");
    }
    assert!(head("GET", OWN, [("x y", "1")]).is_err());
}
