//! `countersign test` and `explain` of people who log in at an ALB.

use countersign::clock::{Clock, Timestamp};
use countersign::identity::Hop;
use countersign::trial::{Bearer, Question, Trial, head};
use serde_json::json;

use super::balancer::{KID, Keys, SAID, SIGNER, pem};
use super::*;
use crate::world::program::{Output, run};

const PROGRAM: &str = env!("CARGO_BIN_EXE_countersign");
const URL: &str = "https://orders.shop.example/orders/7";
const OTHER_SIGNER: &str = "arn:aws:elasticloadbalancing:eu-central-1:1:loadbalancer/app/theirs/1";

/// What a test says of a caller, and what the load balancer then says: over its header, and over what the provider says.
fn log_ins(now: Timestamp) -> Vec<(String, Value, Value)> {
    let none = || json!({});
    let ago = |seconds: i64| {
        let exp = json!({ "exp": now.unix_seconds() - seconds });
        (format!("ago = {{ exp = \"{seconds}s\" }}"), exp.clone(), exp)
    };
    let unproven = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let cases = [
        ("email = \"alice@shop.example\"", none(), none()),
        ("sub = \"bob\", name = \"Bob\"", none(), json!({ "sub": "bob", "name": "Bob" })),
        ("client_id = \"mobile\"", json!({ "client": "mobile" }), none()),
        ("without = \"client_id\"", json!({ "client": null }), none()),
        ("aud = \"web\"", none(), json!({ "aud": "web" })),
        ("aud = \"mobile\"", none(), json!({ "aud": "mobile" })),
        (&format!("signer = \"{OTHER_SIGNER}\""), json!({ "signer": OTHER_SIGNER }), none()),
        (&format!("signer = [\"{SIGNER}\"]"), json!({ "signer": [SIGNER] }), none()),
        ("without = \"signer\"", json!({ "signer": null }), none()),
        (
            "iss = \"https://login.example\"",
            json!({ "iss": "https://login.example" }),
            json!({ "iss": null }),
        ),
        ("without = \"iss\"", json!({ "iss": null }), json!({ "iss": null })),
        ("without = \"exp\"", json!({ "exp": null }), json!({ "exp": null })),
        ("without = \"sub\"", none(), json!({ "sub": null })),
        ("nbf = 4000000000", none(), json!({ "nbf": 4_000_000_000_u32 })),
        ("token_use = \"id\"", none(), json!({ "token_use": "id" })),
        ("act = { sub = \"bot\" }", none(), json!({ "act": { "sub": "bot" } })),
        ("acr = 7", none(), json!({ "acr": 7 })),
        ("dpop = true", none(), json!({ "cnf": { "jkt": unproven } })),
        ("certificate_bound = true", none(), json!({ "cnf": { "x5t#S256": unproven } })),
    ];
    let cases = cases.map(|(caller, header, claims)| (caller.to_owned(), header, claims));
    cases.into_iter().chain([ago(59), ago(60)]).collect()
}

struct Asked {
    world: World,
    keys: Keys,
}

impl Asked {
    /// Behind a load balancer.
    async fn new() -> Asked {
        let asked =
            Asked { world: World::at(Clock::manual(Clock::system().now())).await, keys: Keys::start().await };
        asked.world.configuration(&asked.keys.by_address("127.0.0.1/32"));
        asked
    }

    async fn run(&self, command: &str, arguments: &[&str], stdin: &str) -> Output {
        let config = self.world.folder.path().join("countersign.toml");
        run(PROGRAM, &[&[command, "-c", config.to_str().unwrap()], arguments].concat(), stdin).await
    }

    async fn explain(&self, arguments: &[&str], stdin: &str) -> Value {
        let (at, rest) = (self.world.clock.now().to_string(), ["--format", "json", "GET", URL]);
        let output = self.run("explain", &[&["--at", &at], arguments, &rest].concat(), stdin).await;
        assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{}", output.stdout);
        serde_json::from_str(&output.stdout).unwrap()
    }
}

#[tokio::test]
async fn a_policy_behind_a_load_balancer_is_tested_as_it_judges() {
    let asked = Asked::new().await;
    let (world, keys, now) = (&asked.world, &asked.keys, asked.world.clock.now());
    let proxy = world.start(&keys.by_address("127.0.0.1/32"));
    let behind = proxy.behind(Protocol::H1).await;
    let mut trial = Trial::new(world.load(), now).unwrap();
    trial.give_key(&"people".parse().unwrap(), KID, pem(&keys.key).as_bytes()).unwrap();
    let alice = "[caller.alice]\nissuer = \"people\"\nsub = \"alice\"\n";
    let (mut tests, mut allowed) = (alice.to_owned(), 0);
    let cases = log_ins(now);
    for (caller, header, claims) in &cases {
        let said = keys.said(world, header.clone(), claims.clone());
        let answer = behind.ask(passed("/orders/7", &vec![(SAID, said.clone())])).await.unwrap();
        let record = proxy.record_of(&answer).await;
        let (reason, rule) = (record["reason"].as_str().unwrap(), record["rule"].as_str().unwrap_or("none"));
        // With the text itself.
        let edge = Hop::Trusted("edge".parse().unwrap());
        let question = Question {
            caller: Bearer::UserClaims(said),
            hop: edge,
            ..Question::new(head("GET", URL, []).unwrap())
        };
        let told = trial.ask(&question).unwrap();
        assert_eq!((told.reason().as_str(), told.rule().unwrap_or("none")), (reason, rule), "{caller}");
        // And by what a person says of it.
        let status = if reason == "allowed" {
            allowed += 1;
            String::new()
        } else {
            format!(", status = {}", answer.status.as_u16())
        };
        tests.push_str(&format!(
            "[[test]]\nname = '{caller}'\nat = {now}\nhop = \"edge\"\nrequest = \"GET {URL}\"\n\
             caller = {{ like = \"alice\", {caller} }}\n\
             expect = {{ reason = \"{reason}\", rule = \"{rule}\"{status} }}\n"
        ));
    }
    assert_eq!((cases.len(), allowed), (21, 4));
    // Whose word is not taken, and beside what the test itself brings.
    tests.push_str(&format!(
        "[[test]]\nname = \"from elsewhere\"\nat = {now}\nrequest = \"GET {URL}\"\ncaller = \"alice\"\n\
         expect = {{ reason = \"token_missing\", status = 401 }}\n\
         [[test]]\nname = \"two\"\nat = {now}\nhop = \"edge\"\nrequest = \"GET {URL}\"\ncaller = \"alice\"\n\
         header = {{ {SAID} = \"another\" }}\nexpect = {{ reason = \"request_malformed\", status = 400 }}\n\
         [[test]]\nname = \"it goes no further\"\nat = {now}\nhop = \"edge\"\nrequest = \"GET {URL}\"\n\
         caller = \"alice\"\nexpect = {{ header = {{ {SAID} = false, x-auth-subject = \"alice\" }} }}\n"
    ));
    let tests = world.write("log_in.test.toml", &tests);
    let output = asked.run("test", &[tests.to_str().unwrap()], "").await;
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    assert!(output.stdout.starts_with("24 passed, 0 failed"), "{}", output.stdout);
}

/// What one step of the token's way came to, with its words.
fn step(told: &Value, name: &str) -> (String, String) {
    let step = told["token"]["steps"].as_array().unwrap().iter().find(|step| step["step"] == name).unwrap();
    (step["outcome"].as_str().unwrap().to_owned(), step["words"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_log_in_is_explained_as_far_as_it_gets() {
    let asked = Asked::new().await;
    let by_claims = |claims| ["--hop", "edge", "--issuer", "people", "--claims", claims];
    let told = asked.explain(&by_claims(r#"{"sub": "alice"}"#), "").await;
    assert_eq!((&told["verdict"], &told["rule"]), (&json!("allow"), &json!("people")));
    let caller = &told["caller"];
    assert_eq!((&caller["subject"], &caller["client"]), (&json!("alice"), &json!("web")));
    let told = asked.explain(&by_claims(r#"{"sub": "alice", "signer": "another"}"#), "").await;
    assert_eq!(told["reason"], "token_issuer_unknown");
    let (outcome, words) = step(&told, "issuer");
    assert!(outcome == "refused" && words.contains("`signer` is no load balancer of ours"), "{words}");
    assert_eq!(step(&told, "type").0, "not_reached");

    // From anywhere else nobody looks at it.
    let elsewhere = ["--no-certificate", "--issuer", "people", "--claims", r#"{"sub": "alice"}"#];
    let told = asked.explain(&elsewhere, "").await;
    assert_eq!((&told["token"], &told["unread"]), (&Value::Null, &json!(SAID)));
    assert_eq!(told["reason"], "token_missing");
    assert!(told["notes"].to_string().contains("kind alb"), "{}", told["notes"]);
}

#[tokio::test]
async fn a_log_in_as_it_is_is_explained_and_kept_secret() {
    let asked = Asked::new().await;
    let (world, keys) = (&asked.world, &asked.keys);
    let said = keys.said(world, json!({}), json!({}));
    let key = world.write(KID, &pem(&keys.key));
    let keys_given = format!("people={}", key.to_str().unwrap());
    let file = world.write("said.txt", &format!("{SAID}: {said}\n"));
    let file = file.to_str().unwrap();

    let as_it_is = ["--hop", "edge", "--oidc-data", file, "--keys", &keys_given];
    let told = asked.explain(&as_it_is, "").await;
    assert_eq!((&told["verdict"], &told["token"]["signature_checked"]), (&json!("allow"), &json!(true)));
    assert!(
        told["token"]["steps"].as_array().unwrap().iter().all(|step| step["outcome"] == "ok"),
        "{told:#}"
    );
    let forged = keys.said(world, json!({}), json!({ "sub": "bob" }));
    let [header, claims, _] = forged.split('.').collect::<Vec<_>>()[..] else { panic!("{forged}") };
    let forged = format!("{header}.{claims}.{}", said.rsplit_once('.').unwrap().1);
    let told = asked.explain(&["--hop", "edge", "--oidc-data", "-", "--keys", &keys_given], &forged).await;
    assert_eq!(
        (&told["reason"], step(&told, "signature").0.as_str()),
        (&json!("token_bad_signature"), "refused")
    );
    // By a key that is not among those given.
    let other = keys.said(world, json!({ "kid": KID.replace('c', "d") }), json!({}));
    let told = asked.explain(&["--hop", "edge", "--oidc-data", "-", "--keys", &keys_given], &other).await;
    assert_eq!((&told["reason"], step(&told, "key").0.as_str()), (&json!("token_key_unknown"), "refused"));
    // Without any, it is said that nobody looked.
    let told = asked.explain(&["--hop", "edge", "--oidc-data", "-"], &forged).await;
    assert_eq!((&told["verdict"], &told["token"]["signature_checked"]), (&json!("allow"), &json!(false)));
    assert!(told["notes"].to_string().contains("NOT CHECKED"), "{}", told["notes"]);
    // It is no bearer token.
    let told = asked.explain(&["--hop", "edge", "--token", file], "").await;
    assert_eq!(told["reason"], "token_malformed", "{told:#}");
    let misnamed = format!("people={}", world.write("key.pem", &pem(&keys.key)).to_str().unwrap());
    let as_it_is = ["--hop", "edge", "--oidc-data", file, "--keys", &misnamed, "GET", URL];
    let output = asked.run("explain", &as_it_is, "").await;
    assert_eq!(output.code, Some(2));
    assert!(output.stderr.contains("has not the form of a UUID"), "{}", output.stderr);

    let field = format!("X-Amzn-Oidc-Data: {said}");
    for (arguments, instead) in [
        (["--oidc-data", said.as_str(), "--hop", "edge"], "--oidc-data takes a file, `-` or env:NAME"),
        (["-H", field.as_str(), "--hop", "edge"], "give --oidc-data"),
    ] {
        let output = asked.run("explain", &[&arguments, &["GET", URL][..]].concat(), "").await;
        assert_eq!(output.code, Some(2), "{}", output.stdout);
        assert!(output.stderr.contains(instead), "{}", output.stderr);
        let shown = format!("{}{}", output.stdout, output.stderr);
        assert!(said.split('.').all(|part| !shown.contains(part)), "{shown}");
    }
}
