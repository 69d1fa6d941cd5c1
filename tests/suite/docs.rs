//! What the docs say of codes, names and rules is what the program has; `configuration_reference.rs` does
//! the same for `docs/configuration.md`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use countersign::audit::{Audit, Output, Reason, Sink, SinkSettings};
use countersign::clock::Clock;
use countersign::config;
use countersign::metrics::Metrics;
use serde_json::Value;
use tempfile::TempDir;

use crate::configuration::{NOW, write_certificates};
use crate::tidy::source::rust_files;
use crate::world::World;
use crate::world::certificates::Who;
use crate::world::client::{Protocol, get};

const SAMPLE: &str = include_str!("../../config/sidecar.toml");
const ALLOW: &str = "[[allow]]\nname = \"read\"\nservice = \"storefront\"\nrole = \"any\"\n";
pub const PAGES: [&str; 22] = [
    "README.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "benches/README.md",
    "certs/README.md",
    "deploy/README.md",
    "docs/alb.md",
    "docs/assertion.md",
    "docs/attacks.md",
    "docs/capacity.md",
    "docs/chain.md",
    "docs/configuration.md",
    "docs/consul.md",
    "docs/fargate.md",
    "docs/operations.md",
    "docs/policy.md",
    "docs/pull-request.md",
    "docs/reasons.md",
    "docs/security.md",
    "docs/sidecar.md",
    "docs/spiffe.md",
    "docs/tools.md",
];

/// A fenced block: the words behind its fence, and its text.
struct Block {
    info: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(info), None) => open = Some(Block { info: info.to_owned(), text: String::new() }),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block does not end");
    blocks
}

/// The first cells of the rows of `page` whose first cell is one code span.
fn rows(page: &str) -> Vec<(&str, Vec<&str>)> {
    let rows = page.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ");
        let code = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
        Some((code, cells.collect()))
    });
    rows.collect()
}

#[test]
fn the_policy_in_the_readme_is_the_samples() {
    let readme = page("README.md");
    let excerpts: Vec<_> = blocks(&readme).into_iter().filter(|block| block.info == "toml").collect();
    assert_eq!(excerpts.len(), 1);
    assert!(SAMPLE.contains(&excerpts[0].text), "{}", excerpts[0].text);
    assert!(SAMPLE.ends_with(&excerpts[0].text), "all rules of the sample are shown");
}

#[test]
fn every_reason_is_told_with_its_cause_and_remedy() {
    let reasons = page("docs/reasons.md");
    let expected: Vec<_> =
        Reason::ALL.iter().map(|reason| (reason.as_str(), vec![reason.cause(), reason.remedy()])).collect();
    for (told, expected) in rows(&reasons).iter().zip(&expected) {
        assert_eq!(told, expected);
    }
    assert_eq!(rows(&reasons).len(), expected.len());
}

#[test]
fn every_command_is_told() {
    let help = Command::new(env!("CARGO_BIN_EXE_countersign")).arg("--help").output().unwrap().stdout;
    let help = String::from_utf8(help).unwrap();
    let listed = help.split_once("\nCommands:\n").unwrap().1.split_once("\n\n").unwrap().0;
    let name = |line: &'_ str| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')).map(first_word);
    let commands: BTreeSet<_> = listed.lines().filter_map(name).filter(|name| name != "help").collect();
    let operations = page("docs/operations.md");
    let table = operations.split_once("\n## Commands\n").unwrap().1.split_once("\nExit codes").unwrap().0;
    let told = table.split("`countersign ").skip(1).map(first_word);
    assert_eq!(told.map(|name| name.trim_end_matches('`').to_owned()).collect::<BTreeSet<_>>(), commands);
    assert!(commands.len() >= 12, "{commands:?}");
}

fn first_word(text: &str) -> String {
    text.split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn every_metric_is_told() {
    let operations = page("docs/operations.md");
    let told: BTreeSet<&str> =
        rows(&operations).into_iter().filter_map(|(code, _)| code.strip_prefix("countersign_")).collect();
    let plain = |name: &str| name.trim_end_matches("_total").trim_end_matches("_info").to_owned();
    let registered: BTreeSet<_> = registered().iter().map(|name| plain(name)).collect();
    assert_eq!(told.iter().map(|name| plain(name)).collect::<BTreeSet<_>>(), registered);

    // those that have a series before anything happened, with the ends that their kinds give them
    let metrics = Arc::new(Metrics::new());
    let settings = SinkSettings {
        output: Output::Stdout,
        required: false,
        queue_records_max: 1,
        wait_max: Duration::ZERO,
    };
    let sink = Sink::start(settings, Arc::clone(&metrics)).unwrap();
    let _audit = Audit::new(&"docs".parse().unwrap(), Clock::system(), sink, Arc::clone(&metrics));
    let mut seen = 0;
    for line in metrics.text().unwrap().lines() {
        let Some((name, kind)) = line.strip_prefix("# TYPE countersign_").and_then(|it| it.split_once(' '))
        else {
            continue;
        };
        let end = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        assert!(told.contains(format!("{name}{end}").as_str()), "{name}{end}");
        seen += 1;
    }
    assert!(seen >= 15, "{seen}");
}

/// The names that the program registers metrics under.
fn registered() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in rust_files(root(), &["src"]) {
        for call in ["&mut to,", "(to,", "                to,", "to.register(", "counter_by("] {
            for (at, _) in file.production.match_indices(call) {
                let argument = file.text[at + call.len()..].trim_start();
                let name = argument.strip_prefix('"').and_then(|it| it.split('"').next());
                let is_name =
                    |name: &&str| name.bytes().all(|b| b.is_ascii_lowercase() || b"_0123456789".contains(&b));
                names.extend(name.filter(is_name).map(str::to_owned));
            }
        }
    }
    names
}

#[tokio::test]
async fn the_record_in_the_readme_has_the_members_of_one() {
    let world = World::new().await;
    let proxy = world.start(ALLOW);
    let client = proxy.client(Who::Storefront, Protocol::H2).await;
    let record = proxy.record_of(&client.ask(get("/orders/7")).await.unwrap()).await;
    let readme = page("README.md");
    let shown = blocks(&readme).into_iter().find(|block| block.info == "json").unwrap();
    let shown: Value = serde_json::from_str(&shown.text).unwrap();
    let members = |record: &Value| record.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(members(&shown), members(&record));
}

/// Every rule that `docs/policy.md` shows, added to the sample's names, loads; or has the error that the
/// words behind its fence say, as `toml error=deny_evadable`.
#[test]
fn every_example_of_the_rule_language_is_one() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("certs")).unwrap();
    write_certificates(&folder.path().join("certs"));
    let names = SAMPLE.split("[[allow]]").next().unwrap();
    fs::write(folder.path().join("10-names.toml"), names).unwrap();
    let mut seen = 0;
    for block in blocks(&page("docs/policy.md")) {
        let Some(words) = block.info.strip_prefix("toml") else { continue };
        let text = format!("version = 1\n{}", block.text);
        fs::write(folder.path().join("20-example.toml"), text).unwrap();
        let loaded = config::load(&[folder.path().to_owned()], &|_| None, NOW);
        let report = loaded.as_ref().map_or_else(|report| report, |config| &config.report);
        let codes: BTreeSet<_> = report.diagnostics().iter().map(|it| it.code).collect();
        match words.trim().strip_prefix("error=") {
            Some(code) => assert!(loaded.is_err() && codes.contains(code), "{codes:?}\n{}", block.text),
            None => assert!(loaded.is_ok(), "{}\n{}", report.to_text(false), block.text),
        }
        seen += 1;
    }
    assert!(seen >= 10, "{seen}");
}

/// What stands in front of the sample's proxy, block by block; files of the page are served by whoever follows it.
#[test]
fn what_is_shown_of_load_balancers_loads_beside_the_sample() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("certs")).unwrap();
    write_certificates(&folder.path().join("certs"));
    let mut sample = SAMPLE.to_owned();
    for client in ["storefront-web", "assistant-*"] {
        // With more issuers than one, it is said whose clients they are.
        let issued = format!("[{{ issuer = \"corp\", client = \"{client}\" }}]");
        sample = sample.replace(&format!("[\"{client}\"]"), &issued);
    }
    fs::write(folder.path().join("10-sample.toml"), sample).unwrap();
    let mut blocks = blocks(&page("docs/alb.md"));
    blocks.retain(|block| block.info == "toml");
    for block in &blocks {
        fs::write(folder.path().join("20-hop.toml"), format!("version = 1\n{}", block.text)).unwrap();
        let loaded = config::load(&[folder.path().to_owned()], &|_| None, NOW);
        let report = loaded.as_ref().map_or_else(|report| report, |config| &config.report);
        let codes: Vec<_> = report.diagnostics().iter().map(|it| it.code).collect();
        assert!(
            loaded.is_ok() && !codes.contains(&"name_unused"),
            "{}\n{}",
            report.to_text(false),
            block.text
        );
    }
    assert_eq!(blocks.len(), 2);
}

#[test]
fn every_error_code_is_told() {
    let policy = page("docs/policy.md");
    let errors = policy.split("\n## Errors\n").nth(1).unwrap();
    let told: BTreeSet<&str> = rows(errors).into_iter().map(|(code, _)| code).collect();
    let sources = rust_files(root(), &["src"]);
    let quoted = |code: &str| {
        let code = format!("\"{code}\"");
        let places = ["src/config/", "src/policy/"];
        sources
            .iter()
            .any(|file| places.iter().any(|it| file.path.starts_with(it)) && file.text.contains(&code))
    };
    for code in &told {
        assert!(quoted(code), "`{code}` is no code of the program");
    }
    let mut seen = BTreeSet::new();
    for line in broken_lines() {
        if let Some(code) = line.strip_prefix("#^ ").and_then(|note| note.split(' ').next()) {
            assert!(told.contains(code), "`{code}` is not in docs/policy.md");
            seen.insert(code.to_owned());
        }
    }
    assert!(seen.len() >= 40, "{}", seen.len());
}

/// All lines of `tests/config/`.
fn broken_lines() -> Vec<String> {
    fn files(path: PathBuf, found: &mut Vec<PathBuf>) {
        if !path.is_dir() {
            return found.push(path);
        }
        path.read_dir().unwrap().for_each(|entry| files(entry.unwrap().path(), found));
    }
    let mut found = Vec::new();
    files(root().join("tests/config"), &mut found);
    let texts = found.iter().map(|path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned());
    texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// `docs/security.md` and `docs/attacks.md` name, in the last cell of each row, the tests that hold it.
#[test]
fn every_test_that_a_promise_rests_on_exists() {
    let sources = rust_files(root(), &["src", "tests"]);
    for (name, start, end, at_least) in [
        ("docs/security.md", "\n## Promises\n", "\n## Not promised\n", 30),
        ("docs/attacks.md", "# Attacks", "\n## Left out\n", 0),
    ] {
        let text = page(name);
        let (_, held) = text.split_once(start).unwrap();
        let held = held.split(end).next().unwrap();
        let mut seen = 0;
        for line in held.lines().filter(|line| line.starts_with("| ")) {
            let last = line.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
            for test in last.split('`').skip(1).step_by(2) {
                let head = format!("fn {test}(");
                assert!(sources.iter().any(|file| file.text.contains(&head)), "no test is called `{test}`");
                seen += 1;
            }
        }
        assert!(seen >= at_least, "{name}: {seen}");
    }
}

#[test]
fn every_link_leads_somewhere() {
    let mut seen = 0;
    for name in PAGES {
        let text = page(name);
        let folder = root().join(name).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            if link.starts_with("https://") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { root().join(name) } else { folder.join(file) };
            assert!(target.exists(), "{name}: {link}");
            if !heading.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                let headings = text.lines().filter(|line| line.starts_with('#')).map(anchor);
                assert!(headings.into_iter().any(|it| it == heading), "{name}: {link}");
            }
            seen += 1;
        }
    }
    assert!(seen >= 20, "{seen}");
}

/// As GitHub makes them of headings.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}
