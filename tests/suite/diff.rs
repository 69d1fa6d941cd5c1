//! `countersign diff`: what each change of the sample comes to, every witness asked again of the real path.

use std::collections::BTreeSet;

use countersign::cli::diff::{Diff, compare};

use crate::world::World;
use crate::world::program::run;
use crate::world::signing::{KEYS, Key};

const SAMPLE: &str = include_str!("../../config/sidecar.toml");
const PROGRAM: &str = env!("CARGO_BIN_EXE_countersign");

const READ: &str = "people read their own orders through the storefront";
const ASSIST: &str = "assistants read orders for their person";
const REFUND: &str = "people refund their own orders";

/// What is put in place of what, and what comes of it: each change with the rules that it is by.
type Edit = (&'static str, &'static str, &'static [(&'static str, &'static str)], bool);

const EDITS: &[Edit] = &[
    ("", "", &[], false),
    // a second deny behind a default deny changes nothing
    ("[[deny]]", "[[deny]]\nname = \"closed\"\npath = \"/nowhere\"\n[[deny]]", &[], false),
    ("\"DELETE\"]", "\"DELETE\"]\nmode = \"shadow\"", &[], false),
    ("method      = \"GET\"", "method      = [\"GET\", \"PUT\"]", &[("newly allowed", READ)], true),
    (
        "actor       = \"human\"\nmethod      = \"GET\"",
        "method      = \"GET\"",
        &[("newly allowed", READ)],
        true,
    ),
    (
        "path        = \"/customers/{customer}/orders/**\"",
        "path        = \"/customers/{customer}/**\"",
        &[("newly allowed", READ)],
        true,
    ),
    (
        "path        = \"/customers/{customer}/orders/**\"",
        "path        = \"/customers/{customer}/orders/*\"",
        &[("newly denied", READ)],
        false,
    ),
    (
        "{ issuer = \"corp\", group = \"support\" },\n",
        "",
        &[("newly denied", READ), ("newly denied", ASSIST), ("newly denied", REFUND)],
        false,
    ),
    (
        "{ issuer = \"corp\", group = \"support\" },\n",
        "{ issuer = \"corp\", group = [\"support\", \"sales\"] },\n",
        &[("newly allowed", READ), ("newly allowed", ASSIST), ("newly allowed", REFUND)],
        true,
    ),
    // the require is of any method: a GET there was asked for a login, too
    (
        "acr     = \"mfa\"\n",
        "",
        &[("newly allowed", READ), ("newly allowed", ASSIST), ("newly allowed", REFUND)],
        true,
    ),
    (
        "max_age = \"15m\"",
        "max_age = \"5m\"",
        &[("newly denied", READ), ("newly denied", ASSIST), ("newly denied", REFUND)],
        false,
    ),
    (
        "client_id = [\"storefront-web\"]",
        "client_id = [\"storefront-web\", \"storefront-app\"]",
        &[("newly allowed", READ), ("newly allowed", REFUND)],
        true,
    ),
    (
        "sa/assistant\"",
        "sa/*\"",
        &[("newly allowed", ASSIST), ("newly denied", READ), ("newly denied", REFUND)],
        true,
    ),
    (
        "upstream = \"orders-next\"",
        "upstream = \"orders\"",
        &[("goes elsewhere", READ), ("goes elsewhere", ASSIST), ("goes elsewhere", REFUND)],
        false,
    ),
    (
        "scopes = \"scp\"",
        "scopes = \"scope\"",
        &[
            ("newly allowed", READ),
            ("newly allowed", ASSIST),
            ("newly allowed", REFUND),
            ("newly denied", READ),
            ("newly denied", ASSIST),
            ("newly denied", REFUND),
        ],
        true,
    ),
    ("requires   = [\"sub\", \"cid\"]", "requires   = [\"sub\", \"cid\"]\nleeway = \"2m\"", &[], true),
    ("requires   = [\"sub\", \"cid\"]", "requires   = [\"sub\", \"cid\"]\nleeway = \"30s\"", &[], false),
];

fn diff(world: &World, old: &str, new: &str) -> Diff {
    let old = world.load_sample(old);
    let new = world.load_sample(new);
    compare(old, new, world.clock.now()).unwrap()
}

#[tokio::test]
async fn every_edit_of_the_sample_is_told_and_its_witnesses_hold() {
    let world = World::new().await;
    let mut seen = 0;
    for (from, to, expected, widens) in EDITS {
        assert!(SAMPLE.contains(from), "{from}");
        let found = diff(&world, SAMPLE, &SAMPLE.replacen(from, to, 1));
        let told: BTreeSet<_> = found.differences.iter().map(|one| (one.change, one.by.as_str())).collect();
        assert_eq!(told, expected.iter().copied().collect(), "{from} → {to}: {:#?}", found.differences);
        assert!(found.differences.iter().all(|one| one.witness.confirmed), "{:#?}", found.differences);
        assert_eq!(found.widens, *widens, "{from} → {to}: {:#?}", found.settings);
        seen += 1;
    }
    assert_eq!(seen, 17);
}

#[tokio::test]
async fn exit_codes_say_whether_access_widens() {
    let world = World::new().await;
    world.load_sample(SAMPLE);
    let old = world.write("old.toml", SAMPLE);
    let wide = world.write("wide.toml", &SAMPLE.replacen("acr     = \"mfa\"\n", "", 1));
    let broken = world.write("broken.toml", "version = 2");
    // no token is made that has such a claim and is taken
    let open = "[[allow]]\nname = \"open\"\nservice = \"any\"\nrole = \"any\"\nissuer = \"corp\"\nclaim = { hasgroups = true }\n";
    let open = world.write("open.toml", &format!("{SAMPLE}{open}"));
    let [old, wide, broken, open] = [&old, &wide, &broken, &open].map(|path| path.to_str().unwrap());
    for (arguments, code) in [
        (vec![old, old, "--fail-on-widen"], 0),
        (vec![old, wide], 0),
        (vec![old, wide, "--fail-on-widen"], 1),
        (vec![wide, old, "--fail-on-widen"], 0),
        (vec![old, open], 0),
        (vec![old, open, "--fail-on-widen"], 1),
        (vec![old, broken], 78),
        (vec![old], 2),
    ] {
        let output = run(PROGRAM, &[&["diff"][..], &arguments].concat(), "").await;
        assert_eq!(output.code, Some(code), "{arguments:?}: {}{}", output.stdout, output.stderr);
    }
    for (format, told) in [
        ("text", "NOT KNOWN\n"),
        ("text", "may widen"),
        ("text", "\nno difference was found ("),
        ("json", "\"why\": \"token\""),
        ("markdown", "#### Not known"),
        ("markdown", "**This change widens access, or may.**"),
    ] {
        let output = run(PROGRAM, &["diff", old, open, "--format", format], "").await;
        assert!(output.stdout.contains(told), "{told}: {}", output.stdout);
    }
    let output = run(PROGRAM, &["diff", old, wide, "--format", "json"], "").await;
    let json: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(json["differences"][0]["change"], "newly allowed");
    assert_eq!(json["widens"], true);
    let output = run(PROGRAM, &["diff", old, wide, "--format", "markdown"], "").await;
    assert!(
        output.stdout.contains("#### Newly allowed") && output.stdout.contains("[[test]]"),
        "{}",
        output.stdout
    );
}

/// Another CA, list of revoked certificates or key under the old name lets others sign.
#[tokio::test]
async fn a_file_of_the_same_name_with_other_contents_may_widen() {
    let world = World::new().await;
    let own_keys = "requires   = [\"sub\", \"cid\"]\njwks = \"jwks.json\"";
    let text = SAMPLE.replacen("requires   = [\"sub\", \"cid\"]", own_keys, 1);
    let jwks = |keys: &[Key]| serde_json::json!({ "keys": keys.iter().map(Key::jwk).collect::<Vec<_>>() });
    world.write("jwks.json", &jwks(&KEYS[..1]).to_string());
    let other = World::new().await;
    other.write("jwks.json", &jwks(&KEYS[..2]).to_string());
    let [one, same, changed] = [world.load_sample(&text), world.load_sample(&text), other.load_sample(&text)];
    assert!(compare(same, world.load_sample(&text), world.clock.now()).unwrap().settings.is_empty());
    let found = compare(one, changed, world.clock.now()).unwrap();
    let told: Vec<_> = found.settings.iter().map(|setting| (&*setting.key, setting.may_widen)).collect();
    assert_eq!(told, [("trust_domain.shop.example", true), ("issuer.corp.jwks", true)]);
    assert!(found.widens);

    // what narrows beside it hides nothing
    let without_crl = text.replacen("crl = \"certs/shop.crl\"", "", 1);
    assert_ne!(without_crl, text);
    let found =
        compare(world.load_sample(&without_crl), other.load_sample(&text), world.clock.now()).unwrap();
    assert!(found.settings.iter().any(|setting| !setting.may_widen && setting.key.ends_with(".crl")));
    assert!(found.widens, "{:#?}", found.settings);
}

/// What a change puts in place of what, in the sample: in the old configuration, and in the new.
type Played =
    (&'static str, &'static [(&'static str, &'static str)], &'static [(&'static str, &'static str)]);

const SUPPORT: &str = "group = \"support\" }";
const SALES: (&str, &str) = (SUPPORT, "group = [\"support\", \"sales\"] }");
const READS: &str = "service     = \"storefront\"\nrole        = \"order-reader\"\nactor       = \"human\"\nmethod      = \"GET\"";
const ANYBODY_READS: (&str, &str) = (
    READS,
    "service     = \"none\"\nrole        = \"order-reader\"\nactor       = \"human\"\nmethod      = \"GET\"",
);
const OPTIONAL: (&str, &str) = ("client_certificate = \"required\"", "client_certificate = \"optional\"");
const BOUND: (&str, &str) = ("[\"sub\", \"cid\"]", "[\"sub\", \"cid\", \"cnf\"]");
const ANY_CLIENT: (&str, &str) = ("[\"assistant-*\"]", "\"any\"");
const BY_DNS_NAME: (&str, &str) = (
    "spiffe_id = \"spiffe://shop.example/ns/prod/sa/assistant\"",
    "dns_name = \"*.assistants.example\"\ntrust_domain = \"shop.example\"",
);
const IN_SHADOW: (&str, &str) = ("path     = \"/**\"", "path     = \"/**\"\nshadow_until = @soon@");
const AUDIENCE: &str = "audience   = [\"https://orders.shop.example\"]";

const PLAYED: &[Played] = &[
    ("a role is wider", &[], &[SALES]),
    ("an actor is gone", &[], &[("actor       = \"human\"\nmethod      = \"GET\"", "method      = \"GET\"")]),
    ("a path is wider", &[], &[("/customers/{customer}/orders/**", "/customers/{customer}/**")]),
    ("a method more", &[], &[("method      = \"POST\"", "method      = [\"POST\", \"DELETE\"]")]),
    ("any client", &[], &[("[\"storefront-web\"]", "\"any\"")]),
    ("a require is gone", &[], &[("[[require]]", "[[require]]\nmode = \"shadow\"")]),
    (
        "a variant more",
        &[],
        &[(
            "upstream = \"orders-next\"",
            "upstream = \"orders-next\"\n[[route.orders.variant]]\nrole = \"order-reader\"\nupstream = \"orders-next\"",
        )],
    ),
    ("a certificate is required", &[ANYBODY_READS, OPTIONAL], &[ANYBODY_READS]),
    ("no certificate is required", &[ANYBODY_READS], &[ANYBODY_READS, OPTIONAL]),
    (
        "no certificate is asked for",
        &[ANYBODY_READS, OPTIONAL],
        &[ANYBODY_READS, (OPTIONAL.0, "client_certificate = \"none\"")],
    ),
    ("nothing is enforced for a while", &[], &[IN_SHADOW]),
    ("a role is wider, of bound tokens", &[BOUND], &[BOUND, SALES]),
    (
        "anybody may come, with bound tokens",
        &[BOUND, OPTIONAL, ANY_CLIENT],
        &[BOUND, OPTIONAL, ANY_CLIENT, ANYBODY_READS],
    ),
    ("a role is wider, by DNS names", &[BY_DNS_NAME], &[BY_DNS_NAME, SALES]),
    (
        "a role is wider, of another audience",
        &[(AUDIENCE, "audience   = [\"us\", \"https://orders.shop.example\"]")],
        &[(AUDIENCE, "audience   = [\"https://orders.shop.example\", \"us\"]"), SALES],
    ),
];

/// As whoever reads the difference does: each command as it is printed, each test as it is written.
#[tokio::test]
async fn what_is_shown_runs_as_it_is_printed_and_says_what_the_difference_says() {
    let world = World::new().await;
    let soon = world.clock.now().plus(std::time::Duration::from_secs(30 * 86_400)).to_string();
    let text = |edits: &[(&str, &str)]| {
        edits.iter().fold(SAMPLE.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replacen(from, to, 1).replace("@soon@", &soon[..10])
        })
    };
    let (mut changes, mut commands) = (0, 0);
    for (name, old, new) in PLAYED {
        let (old, new) = (text(old), text(new));
        let found = diff(&world, &old, &new);
        let files = [world.write("old.toml", &old), world.write("new.toml", &new)];
        let files = files.each_ref().map(|file| file.to_str().unwrap());
        assert!(!found.differences.is_empty(), "{name}");
        for one in &found.differences {
            assert!(one.witness.confirmed, "{name}: {one:#?}");
            for (file, told) in files.iter().zip([&one.before, &one.now]) {
                let command = one.witness.explain(&[file]).replacen("countersign", PROGRAM, 1);
                let output = run("sh", &["-c", &format!("{command} --format json")], "").await;
                let account: serde_json::Value = serde_json::from_str(&output.stdout).unwrap_or_default();
                let (verdict, reason) = (account["verdict"].as_str(), account["reason"].as_str());
                let rule = account["rule"].as_str().unwrap_or_default();
                let upstream = account["upstream"].as_str().unwrap_or("\n");
                let is_so = match verdict {
                    Some("allow") => told.starts_with("allowed") && told.ends_with(&format!(" {upstream}")),
                    Some(_) => !told.starts_with("allowed") && told.contains(reason.unwrap_or("\n")),
                    None => false,
                };
                assert!(is_so && told.contains(rule), "{name}: {told}: {command}\n{account:#}\n{output:?}");
                commands += 1;
            }
        }
        let output = run(PROGRAM, &["diff", files[0], files[1], "--format", "markdown"], "").await;
        let tests = output.stdout.split("  ```toml\n").skip(1).filter_map(|text| text.split("  ```").next());
        let tests: Vec<_> = tests.collect();
        assert_eq!(tests.len(), found.differences.len(), "{name}");
        let tests = world.write("diff.test.toml", &tests.concat());
        let test = async |file| run(PROGRAM, &["test", "-c", file, tests.to_str().unwrap()], "").await;
        let [passes, fails] = [test(files[0]).await, test(files[1]).await];
        assert_eq!(passes.code, Some(0), "{name}: {passes:?}");
        let all_fail = format!("0 passed, {} failed", found.differences.len());
        assert!(fails.stdout.contains(&all_fail), "{name}: {fails:?}");
        changes += 1;
    }
    assert_eq!(changes, 15);
    println!("{commands} commands");
    assert!(commands > 60, "{commands}");
}
