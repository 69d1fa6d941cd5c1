//! What is revoked is refused at once, and nothing else; by a list that changes by itself.

use std::fs;
use std::path::Path;
use std::time::Duration;

use countersign::clock::Clock;
use countersign::config::{RevocationSettings, load_revocations};
use countersign::identity::CertificateHash;
use http::header::AUTHORIZATION;
use serde_json::{Value, json};

use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, get};
use crate::world::program::run;
use crate::world::proxy::{Proxy, Records};
use crate::world::{World, soon};

const PROGRAM: &str = env!("CARGO_BIN_EXE_countersign");

const CONFIGURATION: &str = r#"
[revocation]
file = "revoked.toml"

[[allow]]
name = "readers"
service = ["storefront", "assistant"]
role = "order-reader"
path = "/orders/**"
"#;

fn list(world: &World, entries: &str) {
    world.write("revoked.toml", &format!("version = 1\n{entries}"));
}

fn entry(keys: &str) -> String {
    format!("[[revoked]]\n{keys}\n")
}

async fn ask(client: &Client, token: &str) -> (u16, Value) {
    let mut request = get("/orders/7");
    request.headers_mut().insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    let answer = client.ask(request).await.unwrap();
    let reason = if answer.status == 200 { Value::Null } else { answer.json()["reason"].clone() };
    (answer.status.as_u16(), reason)
}

/// Writes a list and waits until it is in force: the `nth` that is.
async fn in_force(proxy: &Proxy<'_>, entries: &str, nth: usize) -> Value {
    list(proxy.world, entries);
    proxy.events("revocation_loaded", nth).await.pop().unwrap()
}

#[tokio::test]
async fn an_entry_revokes_what_it_names_and_nothing_beside_it() {
    for protocol in Protocol::BOTH {
        let clock = Clock::manual(Clock::system().now());
        let world = World::at(clock.clone()).await;
        list(&world, "");
        let proxy = world.start(CONFIGURATION);
        let client = proxy.client(Who::Storefront, protocol).await;
        let [alice, bob, bot, nameless] = [
            json!({}),
            json!({"sub": "bob", "jti": "8e2b"}),
            json!({"sub": "carol", "jti": "9", "act": {"sub": "bot", "act": {"sub": "helper"}}}),
            json!({"sub": "dora", "jti": null}),
        ]
        .map(|claims| world.issuer.token(claims));
        assert_eq!(ask(&client, &alice).await, (200, Value::Null));
        let certificate = proxy.records(1).await[0]["peer"]["certificate"].as_str().unwrap().to_owned();
        let digits = certificate.strip_prefix("sha256:").unwrap().to_uppercase();
        let pairs: Vec<_> = digits.as_bytes().chunks(2).map(|two| str::from_utf8(two).unwrap()).collect();
        let by_hash = format!("certificate = \"{}\"", pairs.join(":"));
        let storefront = "spiffe_id = \"spiffe://shop.example/ns/prod/sa/storefront\"";

        let (refused, revoked) = ((401, json!("token_revoked")), (403, json!("peer_revoked")));
        let passes = (200, Value::Null);
        let mut nth = 1;
        for (keys, expected_of_alice, expected_of_bob, says) in [
            ("issuer = \"corp\"\njti = \"7f3a\"", &refused, &passes, "`jti`"),
            ("issuer = \"corp\"\nsubject = \"alice\"", &refused, &passes, "subject"),
            ("issuer = \"corp\"\nsubject = \"Alice\"", &passes, &passes, ""),
            ("issuer = \"corp\"\nclient = \"storefront-web\"", &refused, &refused, "client"),
            ("issuer = \"corp\"\nclient = \"alice\"", &passes, &passes, ""),
            ("issuer = \"elsewhere\"\nsubject = \"alice\"", &passes, &passes, ""),
            (storefront, &revoked, &revoked, "SPIFFE ID"),
            ("spiffe_id = \"spiffe://shop.example/ns/prod/sa/orders\"", &passes, &passes, ""),
            (&by_hash, &revoked, &revoked, "certificate"),
        ] {
            nth += 1;
            in_force(&proxy, &entry(&format!("{keys}\nreason = \"lost\"")), nth).await;
            for (token, expected) in [(&alice, expected_of_alice), (&bob, expected_of_bob)] {
                let (before, count) = (world.upstream.counts().requests, proxy.records(0).await.len());
                assert_eq!(ask(&client, token).await, *expected, "{protocol:?} {keys}");
                let record = proxy.records(count + 1).await.pop().unwrap();
                let forwarded = u64::from(*expected == passes);
                assert_eq!(world.upstream.counts().requests, before + forwarded, "{keys}");
                if *expected == passes {
                    continue;
                }
                // whoever it is, the record says so
                assert_eq!(record["peer"]["service"], "storefront", "{record}");
                assert!(record["caller"]["subject"].is_string(), "{record}");
                let check = if *expected == revoked { "peer" } else { "caller" };
                assert_eq!(record["checks"][check], record["reason"], "{record}");
                let detail = record["detail"].as_str().unwrap();
                assert!(detail.contains(says) && detail.ends_with("revocation list: lost"), "{record}");
            }
        }

        nth += 1;
        let event = in_force(
            &proxy,
            &[
                entry("issuer = \"corp\"\nsubject = \"helper\""),
                entry("issuer = \"corp\"\njti = \"none\""),
                entry(&format!("issuer = \"corp\"\nsubject = \"bob\"\nuntil = {}", clock.now().plus(HOUR))),
            ]
            .concat(),
            nth,
        )
        .await;
        assert_eq!((&event["revoked"]["subjects"], &event["revoked"]["tokens"]), (&json!(2), &json!(1)));
        assert_eq!(ask(&client, &bot).await, refused, "whoever acts in it");
        assert_eq!(ask(&client, &nameless).await, passes);
        assert_eq!(ask(&client, &bob).await, refused);
        clock.advance(HOUR);
        let later = world.issuer.token(json!({"sub": "bob"}));
        assert_eq!(ask(&client, &later).await, passes, "until its end");
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn both_that_are_revoked_are_told_and_the_service_comes_first() {
    let world = World::new().await;
    let storefront = "spiffe_id = \"spiffe://shop.example/ns/prod/sa/storefront\"";
    list(&world, &[entry(storefront), entry("issuer = \"corp\"\nsubject = \"alice\"")].concat());
    let proxy = world.start(CONFIGURATION);
    let client = proxy.client(Who::Storefront, Protocol::H1).await;
    assert_eq!(ask(&client, &world.issuer.token(json!({}))).await, (403, json!("peer_revoked")));
    let record = proxy.records(1).await.pop().unwrap();
    assert_eq!(record["also"], json!(["peer_revoked", "token_revoked"]), "{record}");
    // a bad token does not hide it
    assert_eq!(ask(&client, "no.token.at-all").await, (403, json!("peer_revoked")));
    assert_eq!(world.upstream.counts().requests, 0);
}

/// A configuration may have been read before the list changed last.
#[tokio::test]
async fn a_reload_brings_no_older_list_back() {
    let world = World::new().await;
    list(&world, "");
    let proxy = world.start(CONFIGURATION);
    let before = world.load();
    in_force(&proxy, &entry("issuer = \"corp\"\nsubject = \"alice\""), 2).await;
    proxy.server.reload(before).unwrap();
    let client = proxy.client(Who::Storefront, Protocol::H1).await;
    assert_eq!(ask(&client, &world.issuer.token(json!({}))).await, (401, json!("token_revoked")));
    in_force(&proxy, &entry("issuer = \"corp\"\nsubject = \"bob\""), 3).await;
    let loaded = proxy.events("revocation_loaded", 3).await;
    let counts: Vec<_> = loaded.iter().map(|event| event["revoked"]["subjects"].clone()).collect();
    assert_eq!(counts, [0, 1, 1]);
    assert_eq!(ask(&client, &world.issuer.token(json!({}))).await, (200, Value::Null));
}

/// Whatever else is wrong meanwhile.
#[tokio::test]
async fn a_broken_list_keeps_the_last_good_one_and_a_broken_configuration_keeps_none_from_taking_effect() {
    let world = World::new().await;
    list(&world, &entry("issuer = \"corp\"\nsubject = \"mallory\""));
    let process = world.serve(CONFIGURATION).await;
    let client = process.client(Who::Storefront, Protocol::H2).await;
    let [alice, mallory] = [json!({}), json!({"sub": "mallory"})].map(|claims| world.issuer.token(claims));
    let refused = (401, json!("token_revoked"));
    assert_eq!(ask(&client, &mallory).await, refused);
    assert_eq!(ask(&client, &alice).await.0, 200);

    for broken in ["version = 1\n[[revoked]]\nsubject = \"alice\"\n", "version = 1\n[[revoked", ""] {
        let lines = process.binary.log_lines();
        world.write("revoked.toml", broken);
        process.log_says(lines, "the last good one stays in force").await;
        assert_eq!(process.metric("countersign_revocation_list_last_read_success").await, 0.0);
        let failure = async {
            loop {
                let status = process.admin("/status").await.json()["revocation"].clone();
                let Some(why) = status["failure"]["why"].as_str() else { continue };
                if why.contains("revoked.toml:") && status["entries"] == 1 {
                    return;
                }
            }
        };
        soon("the failure on the status page", failure).await;
        assert_eq!(ask(&client, &mallory).await, refused, "{broken}");
        assert_eq!(ask(&client, &alice).await.0, 200, "{broken}");
    }
    let lines = process.binary.log_lines();
    fs::remove_file(world.folder.path().join("revoked.toml")).unwrap();
    process.log_says(lines, "the last good one stays in force").await;
    assert_eq!(ask(&client, &mallory).await, refused);

    let lines = process.binary.log_lines();
    let sound = fs::read_to_string(world.folder.path().join("countersign.toml")).unwrap();
    world.write("countersign.toml", "[[allow");
    process.log_says(lines, "the present one stays").await;
    list(&world, &entry("issuer = \"corp\"\nsubject = \"alice\""));
    let revoked = async {
        while ask(&client, &alice).await != refused {
            tokio::task::yield_now().await;
        }
    };
    soon("the revocation", revoked).await;
    assert_eq!(process.metric("countersign_revocation_list_last_read_success").await, 1.0);
    assert_eq!(process.metric("countersign_revocations{kind=\"subject\"}").await, 1.0);
    assert_eq!(ask(&client, &mallory).await.0, 200, "taken out of the list");

    let lines = process.binary.log_lines();
    world.write("countersign.toml", &sound);
    process.log_says(lines, "configuration loaded").await;
    assert_eq!(ask(&client, &alice).await, refused);
}

#[tokio::test]
async fn nothing_starts_without_its_list() {
    let world = World::new().await;
    let config = world.configuration(CONFIGURATION);
    let config = config.to_str().unwrap();
    let mut cases = 0;
    for (text, says) in [
        (None, "cannot be read"),
        (Some("version = 1\n[[revoked]]\nsubject = \"alice\"\n"), "revoked.toml:2:1"),
        (Some("version = 2\n"), "no version"),
    ] {
        if let Some(text) = text {
            world.write("revoked.toml", text);
        }
        for command in ["run", "check"] {
            let output = run(PROGRAM, &[command, "-c", config], "").await;
            assert_eq!(output.code, Some(78), "{command}: {output:?}");
            let said = format!("{}{}", output.stdout, output.stderr);
            assert!(said.contains(says), "{command}: {said}");
            cases += 1;
        }
    }
    assert_eq!(cases, 6);
}

fn settings(file: &Path) -> RevocationSettings {
    let (issuers, trust_domains) = (vec!["corp".parse().unwrap()], vec!["shop.example".parse().unwrap()]);
    RevocationSettings { file: file.to_owned(), issuers, trust_domains }
}

/// However a person in a hurry has it.
#[test]
fn a_fingerprint_is_taken_as_openssl_and_records_print_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("revoked.toml");
    let (lower, upper) = ("0f".repeat(32), vec!["0F"; 32].join(":"));
    let mut cases = 0;
    for written in [
        lower.clone(),
        format!("sha256:{lower}"),
        upper.clone(),
        format!("sha256 Fingerprint={upper}"),
        format!("SHA256 Fingerprint={upper}"),
        format!("sha256 fingerprint={}", upper.to_lowercase()),
    ] {
        fs::write(&file, format!("version = 1\n{}", entry(&format!("certificate = \"{written}\"")))).unwrap();
        let list = load_revocations(&settings(&file), Clock::system().now()).unwrap();
        let holder = CertificateHash([0x0f; 32]);
        assert!(list.holder(&holder, None, Clock::system().now()).is_some(), "{written}");
        cases += 1;
    }
    assert_eq!(cases, 6);
    let sha1 = vec!["0F"; 20].join(":");
    fs::write(
        &file,
        format!("version = 1\n{}", entry(&format!("certificate = \"SHA1 Fingerprint={sha1}\""))),
    )
    .unwrap();
    let said = load_revocations(&settings(&file), Clock::system().now()).unwrap_err().to_text(false);
    assert!(said.contains("-fingerprint -sha256"), "{said}");
}

/// In the log, on the status page and in the record; and the others take effect.
#[tokio::test]
async fn an_entry_that_revokes_nothing_is_told_loudly_and_keeps_no_other_out() {
    let world = World::new().await;
    list(&world, "");
    let process = world.serve(CONFIGURATION).await;
    let client = process.client(Who::Storefront, Protocol::H2).await;
    let alice = world.issuer.token(json!({}));
    assert_eq!(ask(&client, &alice).await.0, 200);
    let entries = [
        entry("issuer = \"crop\"\nsubject = \"mallory\""),
        entry("issuer = \"corp\"\nsubject = \"alice\""),
        entry("spiffe_id = \"spiffe://shop.exmaple/ns/prod/sa/storefront\""),
    ];
    let lines = process.binary.log_lines();
    list(&world, &entries.concat());
    let issuer = "there is no issuer `crop`, did you mean `corp`?";
    let domain = "there is no trust domain `shop.exmaple`, did you mean `shop.example`?";
    let told = process.log_says(lines, issuer).await;
    assert!(told["level"] == "WARN" && told["place"].as_str().unwrap().ends_with("revoked.toml:2"), "{told}");
    process.log_says(lines, domain).await;
    let status = async {
        loop {
            let status = process.admin("/status").await.json()["revocation"].clone();
            if status["entries"] == 1 {
                return status;
            }
        }
    };
    let status = soon("the status", status).await;
    let lines = |status: &Value| {
        let idle = status["idle"].as_array().unwrap().iter();
        idle.map(|it| it.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let idle =
        [format!("line 2: it revokes nothing: {issuer}"), format!("line 8: it revokes nothing: {domain}")];
    assert_eq!(lines(&status), idle);
    assert!(status["since"].is_string() && status["failure"].is_null(), "{status}");
    assert_eq!(ask(&client, &alice).await, (401, json!("token_revoked")));
    assert_eq!(process.metric("countersign_revocations{kind=\"subject\"}").await, 1.0);
    assert_eq!(process.metric("countersign_revocations{kind=\"workload\"}").await, 0.0);
    let records = Records::of(world.folder.path().join("audit.jsonl"));
    let is_loaded = |event: &&Value| event["revoked"]["subjects"] == 1;
    let loaded = records.until(|all| all.iter().find(is_loaded).cloned()).await;
    assert_eq!(lines(&loaded), idle);
    let story = loaded["story"].as_str().unwrap();
    assert!(story.contains("0 certificates; of the list, line 2: it revokes nothing"), "{story}");
}

#[test]
fn what_is_no_entry_is_told_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("revoked.toml");
    let settings = settings(&file);
    let now = Clock::system().now();
    let mut cases = 0;
    for (keys, code) in [
        ("", "bad_entry"),
        ("reason = \"x\"", "bad_entry"),
        ("issuer = \"corp\"", "bad_entry"),
        ("jti = \"x\"", "bad_entry"),
        ("client = \"x\"", "bad_entry"),
        ("issuer = \"corp\"\njti = \"x\"\nsubject = \"y\"", "bad_entry"),
        ("issuer = \"corp\"\nspiffe_id = \"spiffe://a.example/x\"", "bad_entry"),
        ("issuer = \"corp\"\njti = \"\"", "empty"),
        ("issuer = \"corp\"\njti = 7", "wrong_type"),
        ("spiffe_id = \"spiffe://a.example/*\"", "bad_value"),
        ("spiffe_id = \"storefront\"", "bad_value"),
        ("certificate = \"sha256:00\"", "bad_value"),
        ("certificate = \"zz\"", "bad_value"),
        ("issuer = \"corp\"\nsubject = \"x\"\nuntil = \"soon\"", "bad_value"),
        ("issuer = \"corp\"\nuser = \"x\"", "unknown_key"),
    ] {
        fs::write(&file, format!("version = 1\n[[revoked]]\n{keys}\n")).unwrap();
        let report = load_revocations(&settings, now).unwrap_err();
        let told: Vec<_> = report.diagnostics().iter().map(|found| found.code).collect();
        assert!(told.contains(&code), "{keys}: {}", report.to_text(false));
        cases += 1;
    }
    assert_eq!(cases, 15);
    fs::write(&file, "version = 1\n").unwrap();
    assert!(load_revocations(&settings, now).unwrap().is_empty());
}

#[tokio::test]
async fn a_question_is_answered_as_the_list_says() {
    let world = World::new().await;
    list(&world, &entry("issuer = \"corp\"\nsubject = \"alice\"\nreason = \"INC-1\""));
    let config = world.configuration(CONFIGURATION);
    let explain = async |claims: &str| {
        let arguments =
            ["explain", "-c", config.to_str().unwrap(), "--service", "storefront", "--claims", claims];
        let arguments = [&arguments[..], &["GET", "https://orders.shop.example/orders/7"]].concat();
        let output = run(PROGRAM, &arguments, "").await;
        assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{}", output.stdout);
        output.stdout
    };
    let claims = |subject: &str| {
        json!({"sub": subject, "client_id": "storefront-web", "scope": "orders:read", "uid": "1"}).to_string()
    };
    let of_alice = explain(&claims("alice")).await;
    for said in ["token_revoked", "revocation", "INC-1"] {
        assert!(of_alice.contains(said), "{of_alice}");
    }
    let of_bob = explain(&claims("bob")).await;
    assert!(of_bob.contains("on no revocation list") && !of_bob.contains("token_revoked"), "{of_bob}");
}

#[tokio::test]
async fn the_list_has_a_schema() {
    let schema = run(PROGRAM, &["schema", "--revocation"], "").await;
    let schema: Value = serde_json::from_str(&schema.stdout).unwrap();
    let entry = &schema["$defs"]["RevokedEntry"]["properties"];
    for key in ["jti", "subject", "client", "spiffe_id", "certificate", "issuer", "until", "reason"] {
        assert!(entry[key]["description"].is_string(), "{key}: {schema:#}");
    }
}
