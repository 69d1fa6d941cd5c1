//! `countersign test` and `explain` of requests that another Countersign vouches for, and of tokens that are bound.

use countersign::clock::Clock;
use serde_json::{Value, json};

use super::ask;
use super::next::Chain;
use crate::world::World;
use crate::world::certificates::Who;
use crate::world::client::Protocol;
use crate::world::program::{Output, run};

const PROGRAM: &str = env!("CARGO_BIN_EXE_countersign");

/// Behind a front whose keys nobody fetches here.
const BEHIND: &str = r#"
[listener.open]
address = "127.0.0.1:0"
client_certificate = "optional"

[trusted_hop.front]
kind = "countersign"
spiffe_id = "spiffe://shop.example/ns/prod/sa/front"

[issuer.front]
preset = "countersign"
url = "https://front.shop.example"
audience = ["orders"]

[service.front]
spiffe_id = "spiffe://shop.example/ns/prod/sa/front"
client_id = [{ issuer = "front", client = "storefront-*" }]

[role.reader]
any_of = [{ issuer = "front", role = "order-reader" }]

[[allow]]
name = "people whom the front knows"
service = "front"
role = "reader"
actor = "human"
sender_constrained = true
route = "orders"

[[allow]]
name = "whoever comes through the front"
service = "front"
role = "none"
path = "/public/**"
route = "orders"

[[allow]]
name = "whoever is near"
service = "front"
role = "none"
path = "/near/**"
client_ip = ["127.0.0.0/8", "10.0.0.0/8"]
route = "orders"

[[allow]]
name = "readers with bound tokens"
service = "storefront"
role = "order-reader"
sender_constrained = true
actor = ["human", "unknown"]
route = "orders"
"#;

const TESTS: &str = r#"
[caller.alice]
issuer = "front"
sub = "alice"
client_id = "storefront-web"
roles = ["order-reader"]
actor = "human"
bound = "key"
via = ["spiffe://shop.example/ns/prod/sa/storefront"]

[caller.reader]
issuer = "corp"
sub = "alice"
client_id = "storefront-web"
scope = "orders:read"

[[test]]
name = "whom the front vouches for"
caller = "alice"
request = "GET https://orders.shop.example/orders/7"
[[test.case]]
name = "by the hop's name"
hop = "front"
expect = { rule = "people whom the front knows", header = { x-auth-subject = "alice", x-auth-service = "front", x-auth-assertion = false } }
[[test.case]]
name = "by its own service"
service = "front"
expect = { rule = "people whom the front knows" }
[[test.case]]
name = "from anybody else"
service = "storefront"
expect = { reason = "token_missing", status = 401 }
[[test.case]]
name = "from nobody"
listener = "open"
expect = { reason = "peer_missing", also = "token_missing", status = 403 }
[[test.case]]
name = "bound to nothing"
hop = "front"
caller = [{ like = "alice", certificate_bound = false }, { like = "alice", without = ["cnf"] }]
expect = { reason = "token_not_sender_constrained", status = 401 }
[[test.case]]
name = "bound to what is not the front's"
hop = "front"
caller = [{ like = "alice", cnf = { "x5t#S256" = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" } }, { like = "alice", dpop = true }]
expect = { verdict = "deny", status = 401 }
[[test.case]]
name = "whose own token was bound to nothing"
hop = "front"
caller = { like = "alice", without = ["bound"] }
expect = { reason = "token_not_sender_constrained", status = 401 }
[[test.case]]
name = "for another audience"
hop = "front"
caller = { like = "alice", aud = "elsewhere" }
expect = { reason = "token_wrong_audience", status = 401 }
[[test.case]]
name = "over a minute old"
hop = "front"
caller = { like = "alice", ago = { exp = "61s" } }
expect = { reason = "token_expired", status = 401 }
[[test.case]]
name = "who acts is not said"
hop = "front"
caller = [{ like = "alice", without = ["actor"] }, { like = "alice", act = { sub = "assistant-7" } }]
expect = { verdict = "deny" }
[[test.case]]
name = "an agent of hers"
hop = "front"
caller = { like = "alice", actor = "agent", on_behalf_of = "human", act = { sub = "assistant-7" } }
expect = { reason = "actor_not_allowed", status = 403 }
[[test.case]]
name = "nobody at all"
hop = "front"
caller = { issuer = "front", actor = "none" }
request = "GET https://orders.shop.example/public/7"
expect = { rule = "whoever comes through the front", header = { x-auth-subject = false } }

[[test]]
name = "where the front's client is"
hop = "front"
request = "GET https://orders.shop.example/near/7"
[[test.case]]
name = "as it tells"
client_ip = "10.1.2.3"
expect = { rule = "whoever is near" }
[[test.case]]
name = "on its own machine, which says nothing"
client_ip = "127.0.0.1"
expect = { verdict = "deny" }

[[test]]
name = "a token that is bound"
request = "GET https://orders.shop.example/orders/7"
[[test.case]]
name = "to who carries it, or to a key"
service = "storefront"
caller = [{ like = "reader", certificate_bound = true }, { like = "reader", dpop = true }]
expect = { rule = "readers with bound tokens" }
[[test.case]]
name = "to nothing, also where it was"
service = "storefront"
caller = ["reader", { like = "reader", certificate_bound = false }]
expect = { reason = "token_not_sender_constrained", near_miss = "readers with bound tokens" }
[[test.case]]
name = "to a certificate that is not there"
listener = "open"
caller = { like = "reader", certificate_bound = true }
expect = { reason = "token_not_sender_constrained", status = 401 }
"#;

struct Behind {
    world: World,
}

impl Behind {
    async fn new() -> Behind {
        let world = World::at(Clock::system()).await;
        world.configuration(BEHIND);
        Behind { world }
    }

    fn path(&self, name: &str) -> String {
        self.world.folder.path().join(name).to_str().unwrap().to_owned()
    }

    async fn run(&self, command: &str, arguments: &[&str], stdin: &str) -> Output {
        let config = self.path("countersign.toml");
        run(PROGRAM, &[&[command, "-c", &config], arguments].concat(), stdin).await
    }

    async fn test(&self, tests: &str) -> Output {
        let tests = self.world.write("behind.test.toml", tests);
        self.run("test", &[tests.to_str().unwrap()], "").await
    }

    async fn explain(&self, arguments: &[&str], stdin: &str) -> Value {
        let output = self.run("explain", &[arguments, &["--format", "json"]].concat(), stdin).await;
        assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{}", output.stdout);
        serde_json::from_str(&output.stdout).unwrap()
    }
}

const REQUEST: [&str; 2] = ["GET", "https://orders.shop.example/orders/7"];
const ALICE: &str = r#"{"sub": "alice", "client_id": "storefront-web", "roles": ["order-reader"], "actor": "human", "bound": "key"}"#;

#[tokio::test]
async fn a_policy_behind_another_countersign_is_tested() {
    let behind = Behind::new().await;
    let output = behind.test(TESTS).await;
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    assert!(output.stdout.starts_with("22 passed, 0 failed"), "{}", output.stdout);

    let one = |caller: &str, who: &str| {
        let alice = TESTS.split("[[test]]").next().unwrap();
        format!(
            "{alice}\n[[test]]\nname = \"one\"\n{who}\ncaller = {caller}\nrequest = \"GET https://orders.shop.example/\"\n\
             expect = {{ verdict = \"allow\" }}\n"
        )
    };
    let other = behind.test(&one("\"alice\"", "hop = \"front\"\nservice = \"storefront\"")).await;
    assert_eq!(other.code, Some(1), "{}", other.stderr);
    assert!(
        other.stdout.contains("through hop `front` comes that hop's own certificate"),
        "{}",
        other.stdout
    );
    let both = behind.test(&one("{ like = \"reader\", dpop = true, certificate_bound = true }", "")).await;
    assert_eq!(both.code, Some(78));
    assert!(both.stderr.contains("a token is bound to a key or to a certificate"), "{}", both.stderr);
    let again = behind
        .test(&one("{ like = \"reader\", certificate_bound = true }", "service = \"storefront\""))
        .await;
    assert_eq!(again.code, Some(0), "{}{}", again.stdout, again.stderr);
}

#[tokio::test]
async fn an_assertion_is_explained_as_far_as_it_gets() {
    let behind = Behind::new().await;
    let claims = |more: &[&'static str]| [&["--issuer", "front", "--claims", ALICE], more, &REQUEST].concat();
    let told = behind.explain(&claims(&["--hop", "front"]), "").await;
    assert_eq!((&told["verdict"], &told["rule"]), (&json!("allow"), &json!("people whom the front knows")));
    assert_eq!(told["peer"]["name"], "spiffe://shop.example/ns/prod/sa/front");
    assert_eq!(told["peer"]["words"], "a good one of this hop, taken for granted");
    assert_eq!((&told["caller"]["subject"], &told["caller"]["actor"]), (&json!("alice"), &json!("human")));
    let whose = r#", "subject_issuer": "https://login.example", "via": ["spiffe://a/b"]}"#;
    let whose = ALICE.replace('}', whose);
    let asked = [&["--issuer", "front", "--claims", &whose, "--hop", "front"], &REQUEST[..]].concat();
    let named = behind.explain(&asked, "").await;
    assert_eq!(named["caller"]["subject_issuer"], "https://login.example");
    assert_eq!(named["caller"]["via"], json!(["spiffe://a/b"]));
    let text = behind.run("explain", &asked, "").await.stdout;
    for line in ["named by     https://login.example", "by way of    spiffe://a/b"] {
        assert!(text.contains(line), "{text}");
    }
    let step = |told: &Value, name: &str| {
        let steps = told["token"]["steps"].as_array().unwrap();
        let step = steps.iter().find(|step| step["step"] == name).unwrap();
        (step["outcome"].as_str().unwrap().to_owned(), step["words"].as_str().unwrap().to_owned())
    };
    assert_eq!(step(&told, "binding"), ("ok".into(), "it is bound to a certificate (cnf)".into()));

    // bound to nothing
    let loose = ALICE.replace('}', ", \"cnf\": null}");
    let asked = [&["--issuer", "front", "--claims", &loose, "--service", "front"], &REQUEST[..]].concat();
    let told = behind.explain(&asked, "").await;
    let (outcome, words) = step(&told, "binding");
    assert_eq!((outcome.as_str(), &told["reason"]), ("refused", &json!("token_not_sender_constrained")));
    assert!(words.contains("not bound to the certificate of the hop"), "{words}");
    assert_eq!(step(&told, "revocation").0, "not_reached");

    // from who is no such hop
    let told = behind.explain(&claims(&["--service", "storefront"]), "").await;
    assert_eq!((&told["token"], &told["unread"]), (&Value::Null, &json!("x-auth-assertion")));
    assert_eq!(told["reason"], "token_missing");
    assert!(told["notes"].to_string().contains("the assertion was not read"), "{}", told["notes"]);
    let text = behind.run("explain", &claims(&["--service", "storefront"]), "").await.stdout;
    assert!(text.contains("TOKEN  none but x-auth-assertion, which was not read"), "{text}");
}

#[tokio::test]
async fn an_assertion_as_it_is_is_explained_and_kept_secret() {
    let behind = Behind::new().await;
    let now = behind.world.clock.now().unix_seconds();
    let mut claims: Value = serde_json::from_str(ALICE).unwrap();
    let front = json!({ "iss": "https://front.shop.example", "aud": "orders", "iat": now, "exp": now + 60,
        "on_behalf_of": "human", "jti": null, "scope": null });
    claims.as_object_mut().unwrap().extend(front.as_object().unwrap().clone());
    let key = crate::world::signing::KEYS.iter().find(|key| key.algorithm == "ES256").unwrap();
    let assertion = behind.world.issuer.token_by(key, json!({ "typ": "countersign+jwt" }), claims);
    let file = behind.world.write("assertion.txt", &format!("x-auth-assertion: {assertion}\n"));
    let file = file.to_str().unwrap();
    let keys = behind.world.write("keys.json", &json!({ "keys": [key.jwk()] }).to_string());
    let keys = format!("front={}", keys.to_str().unwrap());

    // It is not bound, which nobody knows before its signature was good.
    let asked = [&["--assertion", file, "--keys", &keys, "--hop", "front"], &REQUEST[..]].concat();
    let told = behind.explain(&asked, "").await;
    assert_eq!(told["reason"], "token_not_sender_constrained", "{told}");
    assert_eq!(told["token"]["signature_checked"], true);
    // Their keys are elsewhere: as with tokens, it is said that nobody looked.
    let asked = [&["--assertion", "-", "--hop", "front"], &REQUEST[..]].concat();
    let told = behind.explain(&asked, &assertion).await;
    assert_eq!(told["reason"], "token_not_sender_constrained", "{told}");
    assert_eq!(told["token"]["signature_checked"], false);
    assert!(told["notes"].to_string().contains("NOT CHECKED"), "{}", told["notes"]);
    // As a bearer token it is refused for what it is, by the step that says so.
    let asked = [&["--token", file, "--keys", &keys, "--service", "front"], &REQUEST[..]].concat();
    let told = behind.explain(&asked, "").await;
    assert_eq!(told["reason"], "token_type_refused", "{told}");
    let refused = told["token"]["steps"].as_array().unwrap().iter().find(|step| step["outcome"] == "refused");
    assert_eq!(refused.unwrap()["step"], "type");
    assert!(!told.to_string().contains(&assertion));

    for arguments in [
        ["--assertion", assertion.as_str(), "--hop", "front"],
        ["-H", &format!("x-auth-assertion: {assertion}"), "--hop", "front"],
    ] {
        let output = behind.run("explain", &[&arguments, &REQUEST[..]].concat(), "").await;
        assert_eq!(output.code, Some(2), "{}", output.stdout);
        assert!(!format!("{}{}", output.stdout, output.stderr).contains(&assertion), "{}", output.stderr);
    }
}

/// What came by an assertion is judged again by its record alone.
#[tokio::test]
async fn a_record_of_whom_another_countersign_vouched_for_is_explained_and_replayed() {
    let world = World::new().await;
    let Chain { front, next, .. } = world.chain().await;
    let client = front.client(Who::Storefront, Protocol::H1).await;
    let cases = [
        (json!({ "uid": "1" }), "allowed"),
        (json!({ "gty": "client-credentials" }), "actor_not_allowed"),
        (json!({ "scope": "orders:read orders:write" }), "actor_not_allowed"),
    ];
    let mut records = Vec::new();
    for (n, (claims, expected)) in cases.into_iter().enumerate() {
        client.ask(ask(&world, "/next/7", claims)).await.unwrap();
        let record = next.records(n + 1).await.remove(n);
        assert_eq!(record["reason"], expected, "{record}");
        assert_eq!(
            record["caller"]["via"],
            json!(["spiffe://shop.example/ns/prod/sa/storefront"]),
            "{record}"
        );
        records.push(record);
    }
    let config = world.folder.path().join("next.toml");
    let newer = format!(
        "{}\n[[require]]\nname = \"of the first issuer\"\nroute = \"any\"\nissuer = \"front\"\n\
         claim = {{ subject_issuer = \"{}\" }}\n",
        std::fs::read_to_string(&config).unwrap(),
        world.issuer.url
    );
    let newer = world.write("newer.toml", &newer);
    let (config, newer) = (config.to_str().unwrap(), newer.to_str().unwrap());
    for record in &records {
        let arguments = ["explain", "-c", config, "--record", "-", "--format", "json"];
        let output = run(PROGRAM, &arguments, &record.to_string()).await;
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        let told: Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!((&told["now"]["same"], &told["not_judged"]), (&json!(true), &Value::Null), "{told:#}");
        for name in ["subject", "actor", "on_behalf_of"] {
            assert_eq!(told["now"]["caller"][name], record["caller"][name], "{name}");
        }
    }
    // Who named the caller is known to a policy that asks it since; records from before say nothing of it.
    let mut older = records[0].clone();
    older["caller"].as_object_mut().unwrap().remove("subject_issuer");
    for (config, record, is_known) in
        [(newer, &records[0], true), (config, &older, true), (newer, &older, false)]
    {
        let arguments = ["explain", "-c", config, "--record", "-", "--format", "json"];
        let output = run(PROGRAM, &arguments, &record.to_string()).await;
        let told: Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!(told["not_judged"].is_null(), is_known, "{told:#}{}", output.stderr);
        assert_eq!(told["now"]["same"] == true, is_known, "{told:#}");
    }
    let log = world.folder.path().join("next.jsonl");
    let output = run(PROGRAM, &["replay", "-c", config, log.to_str().unwrap(), "--format", "json"], "").await;
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    let replayed: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(replayed["alike"], json!({ "allow": 1, "deny": 2 }), "{replayed:#}");
}
