//! The examples of `docs/assertion.md` in other languages, as they stand there.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::{ASSERTED, KEYS, ask, asserted};
use crate::world::World;
use crate::world::certificates::Who;
use crate::world::client::{Protocol, get};
use crate::world::full;
use crate::world::listen::listen;

const PAGE: &str = include_str!("../../../docs/assertion.md");

/// The page's example in a language.
fn example(language: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0
}

/// What the example makes of each assertion: claims, or nothing.
fn run(program: &str, arguments: &[&str], keys: &str, assertions: &[String]) -> Vec<Value> {
    let mut command = Command::new(program);
    let output = command.args(arguments).args(assertions).env("KEYS", keys).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
#[ignore = "needs node with `npm ci` in tests/idp, and python3-jwt; tests/run runs it"]
async fn the_examples_of_the_docs_verify_what_is_good_and_nothing_else() {
    let world = World::new().await;
    let proxy = world.start(ASSERTED);
    let client = proxy.client(Who::Storefront, Protocol::H1).await;
    let good = asserted(&client, ask(&world, "/orders/7", json!({ "uid": "1" }))).await;
    let elsewhere = asserted(&client, ask(&world, "/other/7", json!({ "uid": "1" }))).await;
    let [head, claims, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("{good}") };
    let bob = claims_of(claims, |claims| claims["sub"] = json!("bob"));
    let assertions = vec![good.clone(), elsewhere, format!("{head}.{bob}.{signature}")];

    let set = client.ask(get(KEYS)).await.unwrap().body;
    let published = set.clone();
    let keys = listen("127.0.0.1:0".parse().unwrap(), None, move |_| {
        let published = published.clone();
        async move { Ok(http::Response::new(full(published))) }
    });
    let keys = keys.await;
    let url = format!("http://{}/", keys.address);

    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("verify.mjs");
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/idp/node_modules");
    std::os::unix::fs::symlink(modules, folder.path().join("node_modules")).unwrap();
    let each = "for (const assertion of process.argv.slice(2)) {\n\
                  console.log(JSON.stringify(await whoAsks(assertion).catch(() => null)))\n}\n";
    std::fs::write(&script, format!("{}{each}", example("js"))).unwrap();
    let javascript = {
        let (script, url, assertions) =
            (script.to_str().unwrap().to_owned(), url.clone(), assertions.clone());
        tokio::task::spawn_blocking(move || run("node", &[&script], &url, &assertions)).await.unwrap()
    };

    let script = folder.path().join("verify.py");
    let each = "\nimport json, sys\n\
                for assertion in sys.argv[1:]:\n    \
                    try:\n        print(json.dumps(who_asks(assertion)))\n    \
                    except jwt.InvalidTokenError:\n        print(\"null\")\n";
    std::fs::write(&script, format!("{}{each}", example("python"))).unwrap();
    let python = {
        let (script, url, assertions) = (script.to_str().unwrap().to_owned(), url, assertions.clone());
        tokio::task::spawn_blocking(move || run("/usr/bin/python3", &[&script], &url, &assertions))
            .await
            .unwrap()
    };

    let set = serde_json::from_slice(&set).unwrap();
    let rust = assertions.iter().map(|assertion| rust::who_asks(assertion, &set).unwrap_or_default());
    let rust: Vec<Value> = rust.collect();
    assert_eq!((rust[0]["sub"].as_str(), &rust[1], &rust[2]), (Some("alice"), &Value::Null, &Value::Null));
    assert_eq!(javascript, rust);
    assert_eq!(python, rust);
}

/// The same claims, changed.
fn claims_of(claims: &str, change: impl Fn(&mut Value)) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let mut claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    change(&mut claims);
    URL_SAFE_NO_PAD.encode(claims.to_string())
}

/// The example in Rust, as it stands on the page.
mod rust {
    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, errors};

    pub fn who_asks(assertion: &str, keys: &JwkSet) -> errors::Result<serde_json::Value> {
        let unknown = || errors::Error::from(errors::ErrorKind::InvalidToken);
        let key = keys.find(&decode_header(assertion)?.kid.ok_or_else(unknown)?).ok_or_else(unknown)?;
        let mut rules = Validation::new(Algorithm::ES256);
        rules.set_issuer(&["https://orders.shop.example"]);
        rules.set_audience(&["orders"]);
        rules.set_required_spec_claims(&["exp", "iss", "aud"]);
        Ok(decode(assertion, &DecodingKey::from_jwk(key)?, &rules)?.claims)
    }
}

#[test]
fn the_example_in_rust_is_the_one_that_is_compiled() {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let source = words(include_str!("languages.rs"));
    assert!(source.contains(&words(example("rust"))));
}
