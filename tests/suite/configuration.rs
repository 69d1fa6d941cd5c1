//! The sample reads as it stands, also in pieces; what is decided has one hash however it is written.
//! (Broken files are told in `broken_config.rs`.)

use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use countersign::cli::mint::{Authority, CaSpec, LeafSpec, Validity};
use countersign::clock::Timestamp;
use countersign::config::{self, Config, Report};
use countersign::identity::ActorKind;
use countersign::tls::ClientCertificates;
use countersign::token::Preset;
use tempfile::TempDir;

const SAMPLE: &str = include_str!("../../config/sidecar.toml");

pub const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

/// A folder with the certificates that the sample names, twice.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    for certs in ["certs", "other"] {
        fs::create_dir(folder.path().join(certs)).unwrap();
        write_certificates(&folder.path().join(certs));
    }
    folder
});

/// Writes what every configuration needs beside it, under the names of the sample.
pub fn write_certificates(folder: &Path) {
    write_certificates_of(NOW, folder);
}

/// The same, of another day.
pub fn write_certificates_of(now: Timestamp, folder: &Path) {
    let day = Duration::from_secs(86_400);
    let validity = Validity { from: now.minus(day), to: now.plus(day) };
    let ended = Validity { from: now.minus(day), to: now.minus(Duration::from_secs(1)) };
    let ca = Authority::root(&CaSpec::new("shop CA", validity)).unwrap();
    let spec = LeafSpec::workload("spiffe://shop.example/ns/prod/sa/orders", validity);
    let own = ca.issue(&spec).unwrap();
    let other = ca.issue(&spec).unwrap();
    let expired = ca.issue(&LeafSpec { validity: ended, ..spec }).unwrap();
    for (name, text) in [
        ("orders.pem", own.chain.as_str()),
        ("orders-key.pem", &own.key),
        ("mesh.pem", &other.chain),
        ("mesh-key.pem", &other.key),
        ("expired.pem", &expired.chain),
        ("expired-key.pem", &expired.key),
        ("shop-ca.pem", &ca.pem()),
        ("shop.crl", &ca.crl(&[], validity).unwrap()),
    ] {
        fs::write(folder.join(name), text).unwrap();
    }
}

fn load_with(texts: &[&str], environment: &dyn Fn(&str) -> Option<String>) -> Result<Config, Report> {
    static FILES: AtomicUsize = AtomicUsize::new(0);
    let write = |text: &&str| {
        let path = FOLDER.path().join(format!("{}.toml", FILES.fetch_add(1, Ordering::Relaxed)));
        fs::write(&path, text).unwrap();
        path
    };
    let files: Vec<_> = texts.iter().map(write).collect();
    config::load(&files, environment, NOW)
}

fn load_texts(texts: &[&str]) -> Result<Config, Report> {
    load_with(texts, &|name| (name == "HOST").then(|| "127.0.0.1".to_owned()))
}

/// The sample with all its defaults.
pub fn resolved_sample() -> toml::Table {
    load_texts(&[SAMPLE]).unwrap().resolved
}

fn codes(result: &Result<Config, Report>) -> Vec<&'static str> {
    let report = match result {
        Ok(config) => &config.report,
        Err(report) => report,
    };
    report.diagnostics().iter().map(|diagnostic| diagnostic.code).collect()
}

#[test]
fn the_sample_is_read_whole() {
    let config = load_texts(&[SAMPLE]).unwrap_or_else(|report| panic!("{}", report.to_text(false)));
    let parts = config.policy.parts();
    assert_eq!(parts.rules.len(), 5);
    assert_eq!((parts.services.len(), parts.roles.len(), parts.routes.len()), (2, 2, 1));
    assert_eq!(parts.routes[0].variants.len(), 1);
}

#[test]
fn files_add_up_and_an_environment_changes_only_what_it_may() {
    let site = r#"
        version = 1
        [proxy]
        name = "orders-staging"
        [listener.mesh]
        address = "${HOST}:9443"
        [issuer.corp]
        url = "https://login.staging.example.com"
        audience = ["https://orders.staging.example"]
        [role.auditor]
        any_of = { issuer = "corp", group = "${GROUP}" }
        [[allow]]
        name = "auditors read"
        service = "storefront"
        role = "auditor"
        method = "GET"
    "#;
    let refused = load_texts(&[SAMPLE, site]);
    assert_eq!(codes(&refused), ["variable_refused"]);
    let config = load_texts(&[SAMPLE, &site.replace("${GROUP}", "audit")]).unwrap();
    assert_eq!((config.policy.parts().rules.len(), config.policy.parts().roles.len()), (6, 3));
    let twice = codes(&load_texts(&[SAMPLE, SAMPLE]));
    assert_eq!(twice.iter().filter(|code| **code == "duplicate_rule").count(), 5);
    assert!(twice.iter().filter(|code| **code == "set_twice").count() > 10, "{twice:?}");
}

#[test]
fn a_secret_in_the_file_is_not_repeated_in_the_report() {
    let text = "version = 1\n[issuer.corp]\nurl = \"https://a.example\"\naudience = \"b\"\n\
                jwks_credential = \"s3cr3t\"\nclient_secret = \"s3cr3t\"\n";
    let report = load_texts(&[text]).unwrap_err();
    assert_eq!(report.diagnostics().len(), 2);
    assert!(!report.to_text(false).contains("s3cr3t"), "{}", report.to_text(false));
    assert!(!report.to_json().to_string().contains("s3cr3t"));
    assert!(report.to_text(false).contains("jwks_credential = ********"));
}

#[test]
fn the_content_of_a_variable_is_never_shown() {
    let text = "version = 1\n[admin]\naddress = \"${TOKEN}\"\n[log]\nlevel = \"${TOKEN}\"\n\
                [issuer.corp]\nurl = \"${TOKEN}\"\naudience = \"a\"\n[proxy]\nname = \"${TOKEN}\"\n\
                [upstream.a]\nserver = \"${TOKEN}\"\n[identity]\ncertificate = \"x\"\n\
                private_key = \"${TOKEN}\"\n";
    let report = load_with(&[text], &|_| Some("s3 cr3t".to_owned())).unwrap_err();
    assert_eq!(report.diagnostics().len(), 6, "{}", report.to_text(false));
    assert!(!report.to_text(false).contains("s3 cr3t"), "{}", report.to_text(false));
}

#[test]
fn the_hash_is_of_what_is_decided_not_of_how_it_is_written() {
    let hash = |texts: &[&str]| load_texts(texts).unwrap().policy.hash();
    let sample = hash(&[SAMPLE]);
    let at = SAMPLE.find("[[require]]").unwrap();
    let (start, end) = SAMPLE.split_at(at);
    for alike in [
        &[end, start][..],
        &[&SAMPLE.replace(r#"["POST", "PUT", "PATCH", "DELETE"]"#, r#"["DELETE", "PUT", "PATCH", "POST"]"#)],
        &[&SAMPLE.replace(r#"service     = "storefront""#, r#"service = ["storefront"]"#)],
        &[&SAMPLE.replace("certs/", "other/")],
    ] {
        assert_eq!(hash(alike), sample);
    }
    let mut seen = vec![sample];
    for (from, to) in [
        ("orders:read", "orders:write"),
        ("\"PATCH\", ", ""),
        ("max_age = \"15m\"", "max_age = \"16m\""),
        ("\"agents never write\"", "\"agents never write here\""),
        ("client_id = [\"storefront-web\"]", "client_id = \"any\""),
        ("orders/*/refund", "orders/*/refunds"),
        ("sa/storefront", "sa/store"),
        ("[[deny]]", "[[deny]]\nmode = \"shadow\""),
        ("https://login.example.com", "https://login2.example.com"),
        ("https://orders.shop.example", "https://orders2.shop.example"),
        ("groups = \"groups\"", "groups = [\"realm\", \"groups\"]"),
        ("{ uid = \"*\" }", "{ uid = \"00u*\" }"),
        ("requires   = [\"sub\", \"cid\"]", "requires   = [\"sub\", \"cid\"]\nonly = { org = \"shop\" }"),
        ("[\"RS256\", \"ES256\"]", "[\"ES256\"]"),
    ] {
        assert!(SAMPLE.contains(from), "{from}");
        seen.push(hash(&[&SAMPLE.replace(from, to)]));
    }
    let count = seen.len();
    seen.sort_by_key(|hash| hash.0);
    seen.dedup();
    assert_eq!((seen.len(), count), (15, 15));
}

#[test]
fn all_that_runs_comes_of_what_was_typed_presets_and_defaults() {
    let config = load_texts(&[SAMPLE]).unwrap();
    let [corp] = &config.issuers[..] else { panic!("{:?}", config.issuers) };
    assert_eq!(corp.algorithms.len(), 2);
    // what is typed twice over stands once
    assert_eq!(corp.actors.iter().filter(|entry| entry.kind == ActorKind::Human).count(), 1);
    assert_eq!(corp.actors.iter().filter(|entry| entry.kind == ActorKind::Service).count(), 1);
    assert_eq!(corp.actors.len(), 3);
    let facts = &config.policy.parts().issuers[0];
    assert_eq!(facts.client.as_deref(), Some("cid"));
    assert!(facts.actor_claims.iter().any(|claim| &**claim == "uid"), "{facts:?}");
    assert!(matches!(config.listeners[0].tls.as_ref().unwrap().clients, ClientCertificates::Required(_)));
    assert_eq!(config.upstreams.len(), 2);
    assert_eq!(config.upstreams[0].tls.own, None, "a public server is shown no certificate of ours");
    assert_eq!((config.routes.len(), config.routes[0].body_bytes_max), (1, 10 << 20));
    assert_eq!(config.limits.token.delegation_depth_max, 4);
    for name in ["orders.pem", "orders-key.pem", "shop-ca.pem", "shop.crl"] {
        let path = FOLDER.path().join("certs").join(name);
        assert!(config.report.watched.contains(&path), "{name}: {:?}", config.report.watched);
    }
    assert_eq!(config.resolved["issuer"]["corp"]["actor"].as_array().map(Vec::len), Some(3));
    assert_eq!(config.resolved["limit"]["token_bytes_max"].as_integer(), Some(16384));
}

/// Every preset, and a setting of every kind that is not the default.
const UNLIKE_THE_SAMPLE: &str = r#"
    [proxy]
    workers = 3
    odd_header_names = "drop"
    [issuer.machines]
    url = "https://machines.example"
    audience = "https://orders.shop.example"
    token_type = "at+jwt"
    leeway = "1500ms"
    requires = "client_id"
    actor = [
      { kind = "service", same = ["sub", "client_id"] },
      { kind = "agent", claim = { client_id = ["assistant-*", 7, true] }, same = ["sub", "iss"] },
    ]
    [issuer.machines.claims]
    roles = ["realm", "roles"]
    [listener.plain]
    address = "127.0.0.1:8080"
    client_certificate = "none"
    allow_plaintext = true
    [route.other]
    host = "*.shop.example"
    upstream = "orders"
    total_timeout = "250ms"
    body_bytes_max = "1MiB"
    [audit]
    output = "audit.jsonl"
    required = true
    [limit]
    header_bytes_max = "16KiB"
    idle_timeout = "90s"
    [log]
    level = "warn"
    format = "json"
    [[allow]]
    name = "support for some days"
    service = "storefront"
    role = "order-reader"
    route = "any"
    expires = 2027-01-20
"#;

/// What an issuer needs that is a load balancer, and the one that brings what it says.
const ALB: &str = r#"signer = "arn:aws:elasticloadbalancing:eu-central-1:1:loadbalancer/app/front/1"
    [trusted_hop.front]
    kind = "alb"
    address = "10.0.0.0/24"
    mutual_authentication = "off"
"#;

#[test]
fn what_is_resolved_reads_as_the_configuration_that_it_came_of() {
    let presets: String = Preset::ALL
        .iter()
        .map(|preset| {
            let name = preset.as_str();
            format!(
                "[issuer.{name}]\nurl = \"https://{name}.example\"\npreset = \"{name}\"\n\
                 audience = \"https://orders.shop.example\"\nonly = {{ hd = \"shop.example\" }}\n{}",
                if *preset == Preset::Alb { ALB } else { "" }
            )
        })
        .collect();
    let load =
        |texts: &[&str]| load_texts(texts).unwrap_or_else(|report| panic!("{}", report.to_text(false)));
    // with more issuers and routes than one, clients and rules say of which they speak
    let mut named = SAMPLE.to_owned();
    for (from, to) in [
        (r#"["storefront-web"]"#, r#"{ issuer = "corp", client = "storefront-web" }"#),
        (r#"["assistant-*"]"#, r#"{ issuer = "corp", client = "assistant-*" }"#),
        ("[[allow]]", "[[allow]]\nroute = \"orders\""),
        ("[[deny]]", "[[deny]]\nroute = \"orders\""),
        ("[[require]]", "[[require]]\nroute = \"orders\""),
    ] {
        named = named.replace(from, to);
    }
    let more = format!("version = 1\n{UNLIKE_THE_SAMPLE}\n{presets}");
    for texts in [&[SAMPLE][..], &[&named, &more]] {
        let config = load(texts);
        let printed = config.resolved.to_string();
        let again = load(&[&printed]);
        assert_eq!(again.resolved.to_string(), printed);
        assert_eq!(again.policy.hash(), config.policy.hash());
        assert_eq!(again.issuers, config.issuers);
        assert_eq!(format!("{:?}", runs_on(&again)), format!("{:?}", runs_on(&config)));
    }
}

/// All that a configuration comes to but its policy and its issuers.
fn runs_on(config: &Config) -> impl std::fmt::Debug {
    let Config { name, workers, admin, health, listeners, upstreams, routes, audit, limits, .. } = config;
    let Config { odd_names, decisions, tokens, log, .. } = config;
    let own = &config.own;
    (
        (name, workers, admin, health, listeners, own, upstreams, routes),
        (audit, limits, odd_names, decisions, tokens, log),
    )
}

#[test]
fn every_limit_and_cache_of_the_schema_has_an_effect() {
    let root = config::schema();
    let plain = load_texts(&[SAMPLE]).unwrap();
    let mut seen = 0;
    for table in ["limit", "cache"] {
        let name = root["properties"][table]["$ref"].as_str().unwrap().trim_start_matches('#');
        for (key, schema) in root.pointer(name).unwrap()["properties"].as_object().unwrap() {
            let value = if schema["pattern"].is_string() { "\"77s\"" } else { "77" };
            let config =
                load_texts(&[SAMPLE, &format!("version = 1\n[{table}]\n{key} = {value}\n")]).unwrap();
            let all = |config: &Config| {
                let keys = &config.issuers[0].keys;
                let caches = format!("{:?} {:?}", config.tokens, config.decisions);
                format!("{:?} {caches} {:?} {}", config.limits, config.audit, keys.document_bytes_max)
            };
            assert_ne!(all(&config), all(&plain), "{key}");
            seen += 1;
        }
    }
    assert_eq!(seen, 36);
}

/// What is compared over a reload to find out whether connections and sessions may be kept.
#[test]
fn tls_material_is_the_same_while_no_byte_of_it_changed() {
    let upstream = "[upstream.far]\nserver = \"https://far.example\"\nca = \"certs/shop-ca.pem\"\n\
                    [upstream.mesh]\nserver = \"https://mesh.example\"\n\
                    server_spiffe_id = \"spiffe://shop.example/mesh\"\n";
    // not `required`: by another CA nobody could get in, which is an error
    let text = format!("{SAMPLE}\n{upstream}").replace("\"required\" ", "\"optional\"");
    let tls = |text: &str| {
        let config = load_texts(&[text]).unwrap();
        let listener = config.listeners[0].tls.clone().unwrap();
        let upstreams: Vec<_> = config.upstreams.iter().map(|upstream| upstream.tls.clone()).collect();
        (config.own, listener, upstreams)
    };
    let first = tls(&text);
    assert_eq!(first, tls(&text));
    assert_eq!(first, tls(&text.replace("\"POST\", ", "")), "another policy");
    assert!(first.2[0].own.is_some() && first.2[1].own.is_some(), "{:?}", first.2);
    // certificate and key, CA, list: each by itself; then the mode
    let mut seen = 0;
    for (from, to, same_own, same_far) in [
        ("certs/orders", "other/orders", false, false),
        ("ca  = \"certs", "ca  = \"other", true, true),
        ("crl = \"certs", "crl = \"other", true, true),
        ("ca = \"certs", "ca = \"other", true, false),
        ("\"optional\"", "\"required\"", true, true),
    ] {
        assert!(text.contains(from), "{from}");
        let (own, listener, upstreams) = tls(&text.replace(from, to));
        assert_eq!(own == first.0, same_own, "{from}");
        assert_eq!(upstreams[0] == first.2[0], same_far, "{from}");
        assert_eq!(listener == first.1, from == "ca = \"certs", "{from}");
        seen += 1;
    }
    assert_eq!(seen, 5);
}

#[test]
fn a_file_cut_anywhere_is_reported_and_never_panics() {
    let mut reported = 0;
    let cuts = (1..SAMPLE.len()).step_by(11).filter(|at| SAMPLE.is_char_boundary(*at));
    for cut in cuts {
        if let Err(report) = load_texts(&[&SAMPLE[..cut]]) {
            assert!(report.to_text(false).contains("error["), "{cut}");
            assert!(report.to_json()[0]["line"].as_u64() >= Some(1));
            reported += 1;
        }
    }
    assert!(reported > 200, "{reported}");
}

#[test]
fn later_keys_are_told_apart_from_unknown_ones() {
    let mut seen = 0;
    for text in ["[upstream.a]\nserver = \"http://a:1\"\nhealth_path = \"/x\"", "[audit]\nchain = true"] {
        let result = load_texts(&[&format!("version = 1\n{text}\n")]);
        assert!(codes(&result).contains(&"not_available"), "{text}: {:?}", codes(&result));
        seen += 1;
    }
    assert_eq!(seen, 2);
}

#[test]
fn a_finding_is_allowed_by_its_code_and_place_and_by_nothing_that_is_not_there() {
    let rule = |name: &str| {
        let head = format!("\n[[allow]]\nname = \"{name}\"\nservice = \"storefront\"\n");
        head + &format!("role = \"order-reader\"\npath = \"/{name}\"\nexpires = 2027-01-20\n")
    };
    let lint = |more: &str| format!("\n[[lint.allow]]\ncode = \"rule_expires_soon\"\n{more}");
    let soon = "rule_expires_soon";
    let mut seen = 0;
    for (allowed, expected) in [
        (String::new(), vec![soon, soon]),
        (lint("rule = \"one\"\n"), vec![soon]),
        (lint(""), vec![]),
        (lint("service = \"storefront\"\n"), vec![soon, soon]),
        (lint("rule = \"none such\"\n"), vec!["unknown_rule"]),
        (lint("route = \"other\"\n"), vec!["unknown_route"]),
        ("\n[[lint.allow]]\ncode = \"deny_evadable\"\n".to_owned(), vec!["unknown_word"]),
    ] {
        let text = [SAMPLE, &rule("one"), &rule("two"), &allowed].concat();
        assert_eq!(codes(&load_texts(&[&text])), expected, "{allowed}");
        seen += 1;
    }
    assert_eq!(seen, 7);
}
