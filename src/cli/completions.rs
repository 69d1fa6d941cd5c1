//! `countersign completions` and `countersign man`, from the one definition of the arguments.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, EXIT_FINDINGS, tell};

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell to write them for
    shell: Shell,
}

pub fn run(args: &CompletionsArgs) -> ExitCode {
    let mut completions = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "countersign", &mut completions);
    tell(String::from_utf8_lossy(&completions));
    ExitCode::SUCCESS
}

pub fn man() -> ExitCode {
    let mut page = Vec::new();
    match clap_mangen::Man::new(Cli::command()).render(&mut page) {
        Ok(()) => {
            tell(String::from_utf8_lossy(&page));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: the manual page cannot be written: {error}");
            ExitCode::from(EXIT_FINDINGS)
        }
    }
}
