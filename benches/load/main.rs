//! The load behind `benches/measure`: client, upstream and issuer of a proxy that is a process of its own.

#![forbid(unsafe_code)]

mod callgrind;
mod capacity;
mod cpu;
mod growth;
mod instructions;
mod plot;
mod proxy;
mod scenario;
#[path = "../world/mod.rs"]
mod world;

use std::env;
use std::path::Path;
use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let written = root.join("benches/instructions.txt");
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["instructions"] => instructions::write(&written).await,
        ["instructions", "--check"] => {
            if let Err(off) = instructions::check(&written).await {
                eprint!("{off}");
                return ExitCode::FAILURE;
            }
        }
        ["capacity"] => capacity::write(&root.join("docs/capacity.md")).await,
        ["growth"] => {
            growth::write(&root.join("benches/growth.csv"), &root.join("docs/growth.svg")).await;
        }
        _ => {
            eprintln!("benches/README.md says what runs this, and how");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
