//! `countersign explain`: what it says is what happens, it keeps secrets, and it tells a record too.
//! `agreement` holds it against the live proxy, on random requests.

use std::collections::BTreeMap;
use std::path::PathBuf;

use countersign::cli::explain::{self, Account, Which};
use countersign::clock::Clock;
use countersign::trial::{Bearer, Presented, Question, Trial, head};
use serde_json::{Value, json};

use crate::truth_table::{POLICY, SERVICES, TABLE, Table, callers};
use crate::world::World;
use crate::world::certificates::{Who, parsed};
use crate::world::issuer::Issuer;
use crate::world::program::{Output, run};
use crate::world::proxy::HOST;
use crate::world::signing::KEYS;

const PROGRAM: &str = env!("CARGO_BIN_EXE_countersign");
const URL: &str = "https://orders.shop.example/orders/7";
const ALLOW: &str = "[[allow]]\nname = \"readers read\"\nservice = \"storefront\"\nrole = \"order-reader\"\n\
    actor = \"human\"\nmethod = \"GET\"\npath = \"/orders/**\"\n";

fn jwks() -> String {
    json!({ "keys": KEYS.iter().map(|key| key.jwk()).collect::<Vec<_>>() }).to_string()
}

/// The program, on a world's configuration.
struct Explain {
    config: PathBuf,
}

impl Explain {
    async fn run(&self, arguments: &[&str], stdin: &str) -> Output {
        let config = self.config.to_str().unwrap();
        run(PROGRAM, &[&["explain", "-c", config], arguments].concat(), stdin).await
    }

    async fn text(&self, arguments: &[&str], stdin: &str) -> String {
        let output = self.run(arguments, stdin).await;
        assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{}", output.stdout);
        output.stdout
    }

    async fn json(&self, arguments: &[&str], stdin: &str) -> Value {
        let text = self.text(&[arguments, &["--format", "json"]].concat(), stdin).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

/// Every cell of the truth table, which the live proxy is held against, too: 7 certificates × 8 tokens.
#[tokio::test]
async fn every_cell_of_the_truth_table_is_explained_as_it_happens() {
    let expected: Table = toml::from_str(TABLE).unwrap();
    let world = World::new().await;
    let partner = Issuer::start(Clock::system()).await;
    world.configuration(&POLICY.replace("@partner@", &partner.url));
    let mut trial = Trial::new(world.load(), world.clock.now()).unwrap();
    for issuer in ["corp", "partner"] {
        trial.give_keys(&issuer.parse().unwrap(), jwks().as_bytes()).unwrap();
    }
    let mut seen = 0;
    for (service, who) in SERVICES {
        let chain = world.certificates.client(who).map(|minted| parsed(&minted).0);
        for (caller, token) in callers(&world.issuer, &partner) {
            let question = Question {
                peer: chain.clone().map_or(Presented::Nothing, Presented::Chain),
                caller: token.clone().map_or(Bearer::Nothing, Bearer::Token),
                listener: Some("mesh".parse().unwrap()),
                ..Question::new(head("GET", URL, []).unwrap())
            };
            let account = explain::account(&mut trial, question, String::new(), Which::Reaching).unwrap();
            // where it is passed on, the upstream answers; where the handshake ends, an alert
            let (answer, reason) = expected[service][caller].split_once(' ').unwrap();
            let status = answer.parse().ok().filter(|status| *status != 200);
            assert_eq!((account.reason.as_str(), account.status), (reason, status), "{service}, {caller}");
            assert_eq!(account.in_handshake, answer.parse::<u16>().is_err());
            is_whole(&account);
            if let Some(token) = token {
                let signature = token.rsplit('.').next().unwrap();
                assert!(!json!(account).to_string().contains(signature));
            }
            seen += 1;
        }
    }
    assert_eq!((seen, HOST), (56, "orders.shop.example"));
}

/// What the parts of an account say goes together.
fn is_whole(account: &Account) {
    let account = json!(account);
    let rules = account["rules"]["told"].as_array().cloned().unwrap_or_default();
    let decided = rules.iter().filter(|rule| rule["decided"] == true).count();
    assert_eq!(decided, usize::from(account["rule"].is_string() && account["rules"].is_object()));
    for rule in &rules {
        let conditions = rule["conditions"].as_array().unwrap();
        let all = conditions.iter().all(|condition| condition["holds"] == true);
        assert_eq!(all, rule["outcome"] == "holds" || rule["outcome"] == "met", "{rule:#}");
    }
    if let Some(lacks) = account["near_miss"]["lacks"].as_array() {
        let near = rules.iter().find(|rule| rule["name"] == account["near_miss"]["rule"]).unwrap();
        let told = near["conditions"].as_array().unwrap().iter().filter(|it| it["holds"] == false);
        let told: Vec<_> = told.map(|it| (&it["wanted"], &it["seen"])).collect();
        for lack in lacks.iter().filter(|lack| lack["seen"] != "no token was presented") {
            assert!(told.contains(&(&lack["wanted"], &lack["seen"])), "{near:#}");
        }
    }
    let steps = account["token"]["steps"].as_array().cloned().unwrap_or_default();
    let refused: Vec<_> = steps.iter().filter(|step| step["outcome"] == "refused").collect();
    let bad_token = account["reason"].as_str().unwrap().starts_with("token_") && account["caller"].is_null();
    assert!(refused.len() <= 1 && (steps.is_empty() || !bad_token || refused.len() == 1), "{steps:#?}");
}

#[tokio::test]
async fn a_token_is_read_from_where_nobody_looks_and_never_shown() {
    let world = World::new().await;
    let explain = Explain { config: world.configuration(ALLOW) };
    let token = world.issuer.token(json!({ "uid": "1" }));
    let secret = token.rsplit('.').next().unwrap();
    let file = world.write("token", &token).to_str().unwrap().to_owned();
    let keys = format!("corp={}", world.write("keys.json", &jwks()).display());
    let from = |place: &'static str| ["--service", "storefront", "--token", place, "GET", URL];

    // the keys are elsewhere, and it says so
    let account = explain.json(&from("-"), &format!("Authorization: Bearer {token}\n")).await;
    assert_eq!(account["reason"], "allowed");
    assert_eq!(account["token"]["signature_checked"], false);
    let unchecked = account["notes"][0].as_str().unwrap();
    assert!(unchecked.contains("NOT CHECKED") && unchecked.contains("--keys corp=FILE"), "{unchecked}");
    let text = explain.text(&from("-"), &token).await;
    assert!(text.starts_with("ALLOWED, IF THE TOKEN'S SIGNATURE IS GOOD\n"), "{text}");
    let steps: BTreeMap<_, _> = account["token"]["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| (step["step"].as_str().unwrap(), step["outcome"].as_str().unwrap()))
        .collect();
    assert_eq!((steps["key"], steps["signature"], steps["times"]), ("not_checked", "not_checked", "ok"));

    // with the keys, it is verified like any other
    let given = ["--service", "storefront", "--token", &file, "--keys", &keys, "GET", URL];
    let account = explain.json(&given, "").await;
    assert_eq!((&account["token"]["signature_checked"], &account["notes"]), (&json!(true), &json!([])));
    let forged = crate::world::signing::forged(&token);
    let account = explain
        .json(&["--service", "storefront", "--token", "-", "--keys", &keys, "GET", URL], &forged)
        .await;
    assert_eq!((&account["reason"], &account["status"]), (&json!("token_bad_signature"), &json!(401)));

    // as an argument it is refused, and not said again
    let mut seen = 0;
    for arguments in [
        ["--service", "storefront", "--token", &token, "GET", URL],
        ["--no-certificate", "--no-token", "-H", &format!("Authorization: Bearer {token}"), "GET", URL],
    ] {
        let output = explain.run(&arguments, "").await;
        assert_eq!(output.code, Some(2), "{output:?}");
        assert!(!output.stderr.contains(secret) && output.stdout.is_empty(), "{}", output.stderr);
        assert!(output.stderr.contains("--token"), "{}", output.stderr);
        seen += 1;
    }
    for arguments in [&given[..], &[&given[..], &["--all", "--format", "json"]].concat()] {
        assert!(!explain.text(arguments, "").await.contains(secret));
        seen += 1;
    }
    assert_eq!(seen, 4);
}

#[tokio::test]
async fn a_peer_is_given_by_name_or_by_certificate() {
    let world = World::new().await;
    let explain = Explain { config: world.configuration(ALLOW) };
    let file = |who: Who, name: &str| {
        let minted = world.certificates.client(who).unwrap();
        world.write(name, &minted.chain).to_str().unwrap().to_owned()
    };
    let (good, expired) = (file(Who::Storefront, "good.pem"), file(Who::Expired, "expired.pem"));
    let id = "spiffe://shop.example/ns/prod/sa/storefront";
    let claims = r#"{"sub": "alice", "uid": "1", "client_id": "storefront-web", "scope": "orders:read"}"#;
    let mut seen = 0;
    for (peer, reason, name) in [
        (["--service", "storefront"], "allowed", id),
        (["--spiffe-id", id], "allowed", id),
        (["--certificate", &good], "allowed", id),
        (["--certificate", &expired], "peer_expired", id),
        (["--spiffe-id", "spiffe://shop.example/x"], "peer_unknown", "spiffe://shop.example/x"),
        (["--spiffe-id", "spiffe://other.example/x"], "peer_untrusted", "spiffe://other.example/x"),
    ] {
        let account = explain.json(&[&peer[..], &["--claims", claims, "GET", URL]].concat(), "").await;
        assert_eq!((&account["reason"], &account["peer"]["name"]), (&json!(reason), &json!(name)));
        seen += 1;
    }
    assert_eq!(seen, 6);
    // by DNS names where some service has one: under its trust domain, and as a certificate can have them
    let probe = format!(
        "{ALLOW}[service.probe]\ndns_name = \"*.probe.example\"\ntrust_domain = \"shop.example\"\nclient_id = \"any\"\n"
    );
    let explain = Explain { config: world.configuration(&probe.replace("\"storefront\"\n", "\"probe\"\n")) };
    let mut seen = 0;
    for (names, domain, reason) in [
        (&["A.probe.example"][..], "shop.example", Some("allowed")),
        (&["else.example", "a.probe.example"], "shop.example", Some("allowed")),
        (&["else.example"], "shop.example", Some("peer_unknown")),
        (&["a.probe.example"], "partner.example", Some("peer_malformed")),
        (&["a.probe.example"], "other.example", Some("peer_untrusted")),
        (&["a b"], "shop.example", None),
        (&["a.probe.example"], "Shop", None),
    ] {
        let mut asked = vec!["--trust-domain", domain, "--claims", claims, "GET", URL, "--format", "json"];
        names.iter().for_each(|name| asked.extend(["--dns-name", name]));
        let output = explain.run(&asked, "").await;
        let account: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
        assert_eq!(account["reason"].as_str(), reason, "{names:?} {domain} {output:?}");
        assert_eq!(output.code, Some(if reason.is_some() { 0 } else { 2 }), "{output:?}");
        if reason == Some("allowed") {
            assert_eq!(account["peer"]["name"], names.join(", ").to_ascii_lowercase());
        }
        seen += 1;
    }
    assert_eq!(seen, 7);
    // whatever a variable holds, it is read from there
    let account = explain.json(&["--certificate", &good, "--token", "env:PATH", "GET", URL], "").await;
    assert_eq!(account["reason"], "token_malformed");
}

#[tokio::test]
async fn what_a_token_says_moves_no_cursor() {
    let world = World::new().await;
    let explain = Explain { config: world.configuration(&ALLOW.replace("order-reader", "any")) };
    let subject = "a\u{1b}[31m\u{202e}\r\nSPOOFED";
    let claims = json!({ "sub": subject, "uid": subject, "client_id": "storefront-web", "scope": subject });
    let claims = claims.to_string();
    let asked = ["--service", "storefront", "--claims", &claims, "GET", URL];
    let text = explain.text(&asked, "").await;
    let shown = explain.text(&[&asked[..], &["--format", "json"]].concat(), "").await;
    for text in [&text, &shown] {
        assert!(
            text.contains("31m") && !text.lines().any(|line| line.trim_start().starts_with("SPOOFED")),
            "{text}"
        );
        assert!(!text.contains(['\u{1b}', '\u{202e}', '\r']), "{text:?}");
    }
    let account: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(account["caller"]["subject"], subject);
}

#[tokio::test]
async fn what_cannot_be_asked_is_wrong_usage_and_what_cannot_be_loaded_is_78() {
    let world = World::new().await;
    let explain = Explain { config: world.configuration(ALLOW) };
    let mut seen = 0;
    for (arguments, words) in [
        (&["--no-token", "GET", URL][..], "who carries it?"),
        (&["--no-certificate", "GET", URL], "for whom?"),
        (&["--service", "nobody", "--no-token", "GET", URL], "there is no service `nobody`"),
        (&["--no-certificate", "--claims", "{}", "--issuer", "none-such", "GET", URL], "`none-such`"),
        (&["--no-certificate", "--claims", "[]", "GET", URL], "[]"),
        (&["--no-certificate", "--no-token", "GET", "/orders"], "`/orders`"),
        (&["--no-certificate", "--no-token", "-H", "x", "GET", URL], "name: value"),
        (&["--no-certificate", "--token", "env:NO_SUCH_VARIABLE", "GET", URL], "NO_SUCH_VARIABLE"),
        (&["--spiffe-id", "storefront", "--no-token", "GET", URL], "spiffe://"),
        (&["--service", "storefront", "--no-certificate", "--no-token", "GET", URL], "cannot be used"),
        (&["--record", "-", "GET", URL], "cannot be used"),
        (&["--record", "-"], "there is no line"),
    ] {
        let output = explain.run(arguments, "").await;
        assert_eq!(output.code, Some(2), "{arguments:?} {output:?}");
        assert!(output.stderr.contains(words), "{arguments:?} {}", output.stderr);
        seen += 1;
    }
    assert_eq!(seen, 12);
    world.write("countersign.toml", "version = 7");
    let output = explain.run(&["--no-certificate", "--no-token", "GET", URL], "").await;
    assert_eq!(output.code, Some(78), "{output:?}");
}

#[tokio::test]
async fn a_record_is_told_and_judged_again() {
    let world = World::new().await;
    let proxy = world.start(ALLOW);
    let client = proxy.client(Who::Storefront, crate::world::client::Protocol::H2).await;
    let ask = async |claims: Value| {
        let mut request = crate::world::client::get("/orders/7");
        let token = format!("Bearer {}", world.issuer.token(claims));
        request.headers_mut().insert("authorization", token.parse().unwrap());
        let answer = client.ask(request).await.unwrap();
        proxy.record_of(&answer).await.to_string()
    };
    let allowed = ask(json!({ "uid": "1" })).await;
    let denied = ask(json!({ "uid": "1", "scope": "orders:write" })).await;
    let expired = ask(json!({ "exp": 1 })).await;
    let explain = Explain { config: world.folder.path().join("countersign.toml") };

    for (line, outcome) in [(&allowed, "allow"), (&denied, "deny")] {
        let account = explain.json(&["--record", "-"], line).await;
        let record: Value = serde_json::from_str(line).unwrap();
        assert_eq!(account["recorded"]["story"], record["story"]);
        assert_eq!((&account["same_policy"], &account["now"]["same"]), (&json!(true), &json!(true)));
        assert_eq!(account["now"]["outcome"], outcome);
        assert_eq!(account["now"]["rules"]["told"][0]["name"], "readers read");
    }
    let text = explain.text(&["--record", "-"], &denied).await;
    assert!(
        text.starts_with("DENIED  403  scope_missing\nstorefront, for alice@corp (human), asked to"),
        "{text}"
    );
    assert!(text.contains("\nNOW  it would end the same\n"), "{text}");

    let account = explain.json(&["--record", "-"], &expired).await;
    assert_eq!((&account["recorded"]["reason"], &account["now"]), (&json!("token_expired"), &Value::Null));
    assert_eq!(account["not_judged"], "it ended before any rule was asked");

    // under another policy
    world.configuration(&ALLOW.replace("order-reader", "any"));
    let account = explain.json(&["--record", "-"], &denied).await;
    assert_eq!((&account["same_policy"], &account["now"]["same"]), (&json!(false), &json!(false)));
    assert_eq!(
        (&account["now"]["outcome"], &account["now"]["rule"]),
        (&json!("allow"), &json!("readers read"))
    );

    world.configuration(&ALLOW.replace("readers read", "another name"));
    let account = explain.json(&["--record", "-"], &allowed).await;
    assert_eq!((&account["now"]["same"], &account["now"]["rule"]), (&json!(false), &json!("another name")));

    let started = proxy.events("started", 1).await[0].to_string();
    let text = explain.text(&["--record", "-"], &started).await;
    assert!(text.starts_with("STARTED\n") && text.contains("a record of another event: started"), "{text}");
    let handshake = r#"{"event":"handshake","time":"2027-01-15T12:00:00.000Z","verdict":"deny",
        "reason":"peer_expired","detail":"its chain expired","story":"somebody was refused"}"#
        .replace('\n', "");
    let text = explain.text(&["--record", "-"], &handshake).await;
    assert!(text.starts_with("DENIED  peer_expired\nsomebody was refused\n"), "{text}");
    assert!(text.contains("renew the certificate, and compare the clocks"), "{text}");
    let output = explain.run(&["--record", "-"], &format!("{allowed}\n{denied}\n")).await;
    assert_eq!(output.code, Some(2));
    assert!(output.stderr.contains("2 lines"), "{}", output.stderr);
}
