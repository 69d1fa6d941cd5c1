//! `countersign demo`, as a newcomer runs it: the program itself, from its arguments to its exit code.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use countersign::clock::Clock;
use countersign::config;
use countersign::server::Server;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::world::client::{Answer, Client, Protocol, get};
use crate::world::program::{Output, run};
use crate::world::soon;
use crate::world::upstream::Upstream;

const PROGRAM: &str = env!("CARGO_BIN_EXE_countersign");
const LINES: usize = 17;

async fn demo(arguments: &[&str]) -> Output {
    run(PROGRAM, &[&["demo"], arguments].concat(), "").await
}

/// The sample that is shipped: what stands before its rules, and each rule.
fn sample() -> (String, Vec<String>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/sidecar.toml");
    let text = fs::read_to_string(path).unwrap();
    let is_rule = |line: &str| ["[[allow]]", "[[require]]", "[[deny]]"].iter().any(|it| line.starts_with(it));
    let mut parts = vec![String::new()];
    for line in text.lines() {
        if is_rule(line) {
            parts.push(String::new());
        }
        let part = parts.last_mut().unwrap();
        part.push_str(line);
        part.push('\n');
    }
    let head = parts.remove(0);
    (head, parts)
}

#[tokio::test]
async fn every_request_of_the_demo_ends_as_said() {
    let text = demo(&["--once"]).await;
    assert_eq!(text.code, Some(0), "{text:?}");
    assert!(text.stdout.ends_with("all 17 requests ended as said\n"), "{}", text.stdout);
    let json = demo(&["--once", "--format", "json"]).await;
    assert_eq!(json.code, Some(0), "{json:?}");
    let told: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(told["as_said"], true);
    let lines = told["lines"].as_array().unwrap();
    assert_eq!(lines.len(), LINES);
    let mut reasons: Vec<_> = lines.iter().map(|line| line["came"]["reason"].as_str().unwrap()).collect();
    for line in lines {
        assert!(text.stdout.contains(line["title"].as_str().unwrap()));
        // But for the age of a login, which grows from run to run.
        let story = line["came"]["story"].as_str().unwrap();
        assert!(text.stdout.contains(story.split("the login is").next().unwrap()), "{line}");
    }
    // A refused token does not make the service that carries it nameless.
    let nameless = |line: &&Value| line["came"]["story"].as_str().unwrap().contains("without a name");
    let nameless: Vec<_> = lines.iter().filter(nameless).map(|line| &line["came"]["reason"]).collect();
    assert_eq!(nameless, ["peer_unknown"]);
    reasons.sort_unstable();
    reasons.dedup();
    assert_eq!(
        reasons,
        [
            "actor_not_allowed",
            "allowed",
            "claim_mismatch",
            "denied_by_rule",
            "peer_missing",
            "peer_unknown",
            "peer_untrusted",
            "scope_missing",
            "service_not_allowed",
            "step_up_required",
            "token_expired",
            "token_missing",
            "token_not_issued_to_service",
        ]
    );
}

#[tokio::test]
async fn without_any_one_rule_a_line_is_named() {
    let named = [
        (
            "people read their own orders through the storefront",
            " 1. Alice reads her order in the storefront: answer 403 instead of 200",
        ),
        (
            "assistants read orders for their person",
            " 2. an agent reads it for her, through the assistant: answer 403 instead of 200",
        ),
        (
            "people refund their own orders",
            " 3. Alice, freshly logged in, asks for a refund: answer 403 instead of 200",
        ),
        ("refunds need step-up", "16. a refund with yesterday's login: answer 200 instead of 401"),
        ("agents never write", "15. an agent that writes: reason no_rule instead of denied_by_rule"),
    ];
    let (head, rules) = sample();
    assert_eq!(rules.len(), named.len());
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    let whole = head.clone() + &rules.concat();
    fs::write(&policy, whole).unwrap();
    let policy_path = policy.to_str().unwrap();
    assert_eq!(demo(&["--once", "--policy", policy_path]).await.code, Some(0));
    for (left_out, (name, line)) in named.iter().enumerate() {
        assert!(rules[left_out].contains(name));
        let rest: String = rules
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != left_out)
            .map(|(_, rule)| rule.as_str())
            .collect();
        fs::write(&policy, head.clone() + &rest).unwrap();
        let output = demo(&["--once", "--policy", policy_path]).await;
        assert_eq!(output.code, Some(1), "without `{name}`: {output:?}");
        let (_, summary) = output.stdout.rsplit_once("requests did not end as said:").unwrap();
        assert!(summary.contains(line), "without `{name}`: {summary}");
    }
}

#[tokio::test]
async fn a_policy_that_cannot_be_loaded_is_told_by_its_own_name_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("mine.toml");
    let (head, rules) = sample();
    fs::write(&policy, (head + &rules.concat()).replacen("\"order-reader\"", "\"order-raeder\"", 1)).unwrap();
    let written = folder.path().join("written");
    let mut seen = 0;
    for arguments in [vec!["--once"], vec!["--write", written.to_str().unwrap()]] {
        let output = demo(&[&["--policy", policy.to_str().unwrap()], arguments.as_slice()].concat()).await;
        assert_eq!(output.code, Some(78), "{output:?}");
        assert!(output.stderr.contains("mine.toml:"), "{}", output.stderr);
        assert!(output.stderr.contains("did you mean `order-reader`?"), "{}", output.stderr);
        seen += 1;
    }
    assert_eq!(seen, 2);
    assert!(!written.exists());
    let missing = demo(&["--once", "--policy", "no/such/file.toml"]).await;
    assert_eq!(missing.code, Some(78), "{missing:?}");
}

/// What is different in a test from what `--write` leaves: no fixed ports, an upstream that is there.
fn elsewhere(upstream: &Upstream) -> String {
    format!(
        "version = 1\n[admin]\naddress = \"127.0.0.1:0\"\nhealth_address = \"127.0.0.1:0\"\n\
         [listener.mesh]\naddress = \"127.0.0.1:0\"\n[upstream.orders]\nserver = [\"{}\"]\n\
         [audit]\noutput = \"audit.jsonl\"\n",
        upstream.url
    )
}

async fn ask(server: &Server, folder: &Path, workload: &str, login: &str, path: &str) -> Answer {
    let file = |name: &str| fs::read(folder.join(name)).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&file("certs/shop-ca.pem")).unwrap()).unwrap();
    let own = file(&format!("clients/{workload}.pem"));
    let chain = CertificateDer::pem_slice_iter(&own).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(&own).unwrap();
    let config =
        ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap();
    let header = String::from_utf8(file(&format!("clients/{login}.header"))).unwrap();
    let (_, token) = header.trim().split_once(": ").unwrap();
    let address = *server.addresses().listeners.values().next().unwrap();
    let client = Client::tls(address, "orders.shop.example", config, Protocol::H2).await.unwrap();
    let mut request = get(path);
    request.headers_mut().insert("authorization", token.parse().unwrap());
    client.ask(request).await.unwrap()
}

#[tokio::test]
async fn what_is_written_can_be_served() {
    let folder = tempfile::tempdir().unwrap();
    let written = folder.path().join("first");
    let output = demo(&["--write", written.to_str().unwrap()]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    let check = run(PROGRAM, &["check", "-c", written.to_str().unwrap()], "").await;
    assert_eq!(check.code, Some(0), "{check:?}");

    let (head, rules) = sample();
    assert_eq!(fs::read_to_string(written.join("10-policy.toml")).unwrap(), head + &rules.concat());
    let folder = written.to_str().unwrap();
    let test = run(PROGRAM, &["test", "-c", folder, folder, "--require-coverage"], "").await;
    assert_eq!(test.code, Some(0), "{test:?}");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&written.join("certs/orders-key.pem")), 0o600);
    assert_eq!(mode(&written.join("requests.sh")), 0o755);
    let clients: Vec<_> =
        fs::read_dir(written.join("clients")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(clients.len(), 13);
    for client in &clients {
        assert_eq!(mode(client), 0o600, "{client:?}");
    }

    let upstream = Upstream::start().await;
    fs::write(written.join("30-test.toml"), elsewhere(&upstream)).unwrap();
    let clock = Clock::system();
    let config = config::load(std::slice::from_ref(&written), &|_| None, clock.now());
    let server = Server::start(config.map_err(|report| report.to_text(false)).unwrap(), clock).unwrap();
    let order = "/customers/alice/orders/7";
    let mut seen = 0;
    for (workload, login, status) in [
        ("storefront", "alice", 200),
        ("assistant", "assistant", 200),
        ("assistant", "alice", 403),
        ("storefront", "alice-without-scope", 403),
        ("storefront", "alice-expired", 401),
        ("reports", "alice", 403),
    ] {
        let answer = ask(&server, &written, workload, login, order).await;
        assert_eq!(answer.status, status, "{workload} {login}: {answer:?}");
        seen += 1;
    }
    assert_eq!(seen, 6);
    assert_eq!(upstream.counts().requests, 2);
}

#[tokio::test]
async fn a_folder_that_holds_something_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("own.txt");
    fs::write(&own, "mine").unwrap();
    let output = demo(&["--write", folder.path().to_str().unwrap()]).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("is not empty"), "{}", output.stderr);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(own).unwrap(), "mine");
}

#[tokio::test]
#[ignore = "needs curl; tests/run runs it"]
async fn the_printed_lines_work_and_their_stories_follow() {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = Command::new(PROGRAM);
    command.arg("demo").env("TMPDIR", temporary.path()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut printed = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || soon("the demo's next line", printed.next_line()).await.unwrap().unwrap();
    let (mut said, mut commands) = (Vec::new(), Vec::new());
    loop {
        let line = next().await;
        if let Some(title) = line.strip_prefix("# ") {
            said.push(title.rsplit_once(": ").unwrap().1.to_owned());
        } else if line.starts_with("curl ") {
            commands.push(line);
        } else if line.contains("Ctrl-C") {
            break;
        }
    }
    assert_eq!((said.len(), commands.len()), (LINES, LINES));
    next().await;
    for (said, command) in said.iter().zip(&commands) {
        let (answer, reason) = said.split_once(", ").unwrap();
        let output = run("sh", &["-c", command], "").await;
        match answer.strip_prefix("TLS alert ") {
            None => assert!(output.stdout.starts_with(&format!("HTTP/2 {answer}")), "{said}: {output:?}"),
            Some(alert) => {
                assert_ne!(output.code, Some(0), "{said}: {output:?}");
                let words = alert.to_lowercase().replace('_', " ");
                assert!(output.stderr.to_lowercase().contains(&words), "{said}: {output:?}");
            }
        }
        let story = next().await;
        assert!(story.starts_with(&format!("{reason}: ")), "{said}: {story}");
    }
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 1);
    let interrupt = format!("kill -INT {}", child.id().unwrap());
    assert_eq!(run("sh", &["-c", &interrupt], "").await.code, Some(0));
    assert_eq!(soon("the end of the demo", child.wait()).await.unwrap().code(), Some(0));
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
}
