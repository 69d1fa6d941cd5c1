//! The pages that show commands are played: in one shell, in the order of the page, and what is printed is what
//! stands there. `PAGES=write` puts what came onto the page instead.

mod page;
mod shell;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use page::{Page, Step, is_as_shown};
use shell::Shell;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// How many commands of the page were run.
async fn play(name: &str, shell: &mut Shell) -> usize {
    let page = Page::read(fs::read_to_string(path(name)).unwrap());
    let (mut ran, mut changed) = (0, Vec::new());
    for step in &page.steps {
        match step {
            Step::File { name, text } => shell.write(name, text),
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
        fs::write(path(name), text).unwrap();
        return ran;
    }
    for (command, printed, came) in &changed {
        println!("$ {command}\n-- is shown to print\n{}-- prints\n{came}", &page.text[printed.clone()]);
    }
    assert!(changed.is_empty(), "{name} shows what {} of {ran} commands do not print", changed.len());
    ran
}

#[tokio::test]
#[ignore = "needs curl, jq and python3; tests/run runs it"]
async fn a_pull_request_goes_as_its_page_tells() {
    let mut shell = Shell::open().await;
    assert_eq!(play("docs/pull-request.md", &mut shell).await, 39);
}
