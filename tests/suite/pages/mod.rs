//! The pages that show commands are played: in one shell, in the order of the page, and what is printed is what
//! stands there. `PAGES=write` puts what came onto the page instead.

mod page;
mod shell;

use std::collections::BTreeSet;
use std::env;
use std::fs;

use countersign::cli::mint::LeafSpec;

use crate::docs::PAGES;
use crate::world::World;
use crate::world::certificates::PARTNER_DOMAIN;
use crate::world::consul::{CLUSTER, ConsulAgent};
use crate::world::workload_api::{WorkloadApi, bundle};

use page::{Page, Step, is_as_shown};
use shell::Shell;

/// Follows the page, in an empty folder.
async fn play(name: &str) {
    play_in(Shell::open().await, name).await;
}

async fn play_in(mut shell: Shell, name: &str) {
    let page = Page::of(name);
    let (mut ran, mut changed) = (0, Vec::new());
    for step in &page.steps {
        match step {
            Step::File { name, text } => shell.write(name, text),
            Step::Command { text, .. } if exception(text).is_some() => {}
            Step::Command { text, printed } => {
                let came = shell.run(text).await;
                let shown = &page.text[printed.clone()];
                if !is_as_shown(shown, &came) {
                    let came = if came.is_empty() { came } else { format!("{came}\n") };
                    changed.push((text, printed.clone(), came));
                }
                ran += 1;
            }
        }
    }
    if env::var("PAGES").is_ok_and(|word| word == "write") {
        let mut text = page.text.clone();
        changed.iter().rev().for_each(|(_, printed, came)| text.replace_range(printed.clone(), came));
        return fs::write(Page::path(name), text).unwrap();
    }
    for (command, printed, came) in &changed {
        println!("$ {command}\n-- is shown to print\n{}-- prints\n{came}", &page.text[printed.clone()]);
    }
    assert!(changed.is_empty(), "{name} shows what {} of {ran} commands do not print", changed.len());
    assert!(PLAYED.contains(&(name, ran)), "{name}: {ran} commands");
}

/// Pages that are played, and how many commands there are.
const PLAYED: [(&str, usize); 8] = [
    ("docs/pull-request.md", 39),
    ("docs/sidecar.md", 27),
    ("docs/chain.md", 44),
    ("docs/tools.md", 47),
    ("docs/operations.md", 15),
    ("docs/spiffe.md", 8),
    ("docs/consul.md", 7),
    ("docs/alb.md", 45),
];

/// Commands that are not, or how they begin, with a space behind it, and why.
const NOT_PLAYED: [(&str, &str); 10] = [
    ("cargo ", "builds the program"),
    ("tests/run ", "runs this"),
    ("target/release/countersign ", "of another build; suite/demo.rs does it with this one"),
    ("countersign demo --write first", "suite/demo.rs does it"),
    ("grep 01M80GF7KC7NY00K89HNDE91WT audit.log", "a record that is not there"),
    ("curl -fsS https://login.example.com/oauth2/v1/keys > keys.json", "asks somebody else"),
    (
        "curl -fsSO https://public-keys.auth.elb.eu-central-1.amazonaws.com/c2f80c8b-c05c-4068-af14-17299f7896b1",
        "asks AWS",
    ),
    ("countersign explain -c countersign.toml ", "with what that answered"),
    ("tombi ", "an editor's, which is not installed"),
    ("# install ", "as root"),
];

fn exception(command: &str) -> Option<&'static (&'static str, &'static str)> {
    let names = |told: &str| command == told || (told.ends_with(' ') && command.starts_with(told));
    NOT_PLAYED.iter().find(|(told, _)| names(told))
}

#[tokio::test]
#[ignore = "needs curl, jq and python3; tests/run runs it"]
async fn a_pull_request_goes_as_its_page_tells() {
    play("docs/pull-request.md").await;
}

#[tokio::test]
#[ignore = "needs curl; tests/run runs it"]
async fn the_tools_print_what_is_shown() {
    play("docs/tools.md").await;
}

#[tokio::test]
#[ignore = "needs curl and jq; tests/run runs it"]
async fn a_running_proxy_answers_what_is_shown() {
    play("docs/operations.md").await;
}

#[tokio::test]
#[ignore = "needs curl, jq and python3; tests/run runs it"]
async fn a_sidecar_stands_in_ten_minutes() {
    play("docs/sidecar.md").await;
}

#[tokio::test]
#[ignore = "needs curl, jq, openssl and python3; tests/run runs it"]
async fn a_chain_stands_in_ten_minutes() {
    play("docs/chain.md").await;
}

#[tokio::test]
#[ignore = "needs curl, jq, openssl and python3; tests/run runs it"]
async fn a_load_balancer_is_played_in_ten_minutes() {
    play("docs/alb.md").await;
}

#[tokio::test]
#[ignore = "needs curl, jq and openssl; tests/run runs it"]
async fn an_agent_gives_what_its_page_tells() {
    let (shell, world) = (Shell::open().await, World::new().await);
    let api = WorkloadApi::start(&shell.folder.path().join("agent.sock"));
    let certificates = &world.certificates;
    let mut response = world.svid_response(&certificates.server("orders"), &[&certificates.shop]);
    response.federated_bundles.insert(PARTNER_DOMAIN.to_owned(), bundle(&[&certificates.partner]));
    api.gives(response);
    play_in(shell, "docs/spiffe.md").await;
}

#[tokio::test]
#[ignore = "needs curl, jq and openssl; tests/run runs it"]
async fn a_consul_agent_gives_what_its_page_tells() {
    let (shell, world) = (Shell::open().await, World::new().await);
    let agent = ConsulAgent::start(None).await;
    shell.write("agent", &agent.url);
    let id = format!("spiffe://{CLUSTER}/ns/default/dc/dc1/svc/orders");
    let ca = &world.certificates.shop;
    let own = ca.issue(&LeafSpec::workload(&id, world.certificates.validity)).unwrap();
    agent.gives(&own, CLUSTER, &[ca]);
    play_in(shell, "docs/consul.md").await;
}

#[test]
fn no_command_is_shown_that_was_not_run() {
    let (mut seen, mut used) = (0, BTreeSet::<&(&str, &str)>::new());
    for name in PAGES {
        let is_a_played_page = PLAYED.iter().any(|(played, _)| *played == name);
        for step in Page::of(name).steps {
            let Step::Command { text, .. } = step else { continue };
            let exception = exception(&text);
            used.extend(exception);
            assert!(is_a_played_page || exception.is_some(), "{name}: `{text}`");
            seen += 1;
        }
    }
    let unused: Vec<_> = NOT_PLAYED.iter().filter(|it| !used.contains(it)).collect();
    assert!(unused.is_empty(), "{unused:?}");
    assert!(seen >= 100, "{seen}");
}
